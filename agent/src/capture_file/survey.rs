//! Which packets of a capture file a filter would have let through.

use crate::filter::{Judgement, Program, judge};

use super::read::{CaptureFile, CaptureFileError, Captured};

/// How many packets of a file were judged how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Accepted.
    pub inside: u64,
    /// Not accepted.
    pub outside: u64,
    /// Too little of them was captured to tell.
    pub undecidable: u64,
}

impl Survey {
    /// Packets in all.
    pub const fn packets(&self) -> u64 {
        self.inside + self.outside + self.undecidable
    }

    /// True if every packet is inside.
    pub const fn all_inside(&self) -> bool {
        self.outside == 0 && self.undecidable == 0
    }
}

/// Judges every packet of a file, and tells of each that is not inside. Stops where the file is
/// broken; what was judged before counts.
pub fn survey(
    file: &mut CaptureFile,
    within: &Program,
    mut tell: impl FnMut(&Captured<'_>, Judgement),
) -> (Survey, Result<(), CaptureFileError>) {
    let mut survey = Survey::default();
    loop {
        let captured = match file.next_packet() {
            Ok(Some(captured)) => captured,
            Ok(None) => return (survey, Ok(())),
            Err(error) => return (survey, Err(error)),
        };
        let judgement = judge(within, &captured.packet());
        match judgement {
            Judgement::Inside => {
                survey.inside += 1;
                continue;
            }
            Judgement::Outside => survey.outside += 1,
            Judgement::Undecidable => survey.undecidable += 1,
        }
        tell(&captured, judgement);
    }
}
