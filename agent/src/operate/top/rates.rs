//! How fast a session goes: from two moments of it.

use std::collections::VecDeque;

use crate::operate::Live;

/// Moments that are kept for the picture.
const KEPT: usize = 120;
/// Moments that a rate is taken over, so that it is steady.
const OVER: usize = 8;

/// The last moments of one session, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates(VecDeque<Moment>);

#[derive(Clone, Copy, Debug)]
struct Moment {
    age_ms: u64,
    packets: u64,
    bytes: u64,
}

impl Rates {
    /// One more moment. One that is no later than the last is none.
    pub(super) fn note(&mut self, live: &Live) {
        let moment = Moment {
            age_ms: live.now.age_ms,
            packets: live.now.packets.seen,
            bytes: live.now.bytes.seen,
        };
        if self
            .0
            .back()
            .is_some_and(|last| last.age_ms >= moment.age_ms)
        {
            return;
        }
        self.0.push_back(moment);
        if self.0.len() > KEPT {
            self.0.pop_front();
        }
    }

    /// Packets a second.
    pub(super) fn packets(&self) -> f64 {
        self.over(|moment| moment.packets)
    }

    /// Bytes a second.
    pub(super) fn bytes(&self) -> f64 {
        self.over(|moment| moment.bytes)
    }

    /// Packets from each moment to the next, oldest first.
    pub(super) fn picture(&self) -> Vec<u64> {
        let later = self.0.iter().skip(1);
        let pairs = self.0.iter().zip(later);
        pairs
            .map(|(one, next)| next.packets.saturating_sub(one.packets))
            .collect()
    }

    #[expect(clippy::cast_precision_loss, reason = "it is shown with two digits")]
    fn over(&self, of: fn(&Moment) -> u64) -> f64 {
        let first = self.0.len().saturating_sub(OVER);
        let (Some(first), Some(last)) = (self.0.get(first), self.0.back()) else {
            return 0.0;
        };
        let time = last.age_ms.saturating_sub(first.age_ms);
        if time == 0 {
            return 0.0;
        }
        of(last).saturating_sub(of(first)) as f64 * 1_000.0 / time as f64
    }
}
