//! `capwarden filter pcap`: which packets of a capture file a filter would not have let through.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::{
    capture_file::{CaptureFile, CaptureFileError, Captured, Survey, survey},
    filter::{Judgement, SocketForm, in_words},
    words::counted,
};

use super::{
    super::{
        exit::Exit,
        failure::{Account, Failure},
        paths, term,
    },
    compile_for,
};

/// Packets that are listed as JSON; all are counted.
const MAX_LISTED: usize = 10_000;

/// Find the packets of a capture file that fall outside a filter
///
/// Reads pcap and pcapng. The filter is compiled for the file's link type and means what it means
/// on the bytes in the file. Packets that were captured in part are outside only if the bytes that
/// are there show it; where the filter asks for one that was not captured, they are undecidable.
///
/// The exit status is 0 if every packet is inside, 1 if some are outside or undecidable, 2 if the
/// filter is wrong or there is no such file, 7 if it cannot be read.
#[derive(Debug, Args)]
pub(super) struct Pcap {
    /// The capture file; `-` is standard input
    file: PathBuf,
    /// What its packets are to stay within, in libpcap's language
    #[arg(long, value_name = "EXPRESSION")]
    within: String,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Pcap {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        if self.file.as_os_str() != "-" {
            paths::is_there(&self.file)?;
        }
        let mut file = CaptureFile::open(&self.file).map_err(|error| unreadable(&error))?;
        let link = file.link();
        let form = SocketForm::Raw(link);
        let program = compile_for(&self.within, form)?;
        let (mut listed, mut unlisted) = (Vec::new(), 0_u64);
        let mut found = (Survey::default(), Ok(()));
        term::print(|out| {
            let mut printed = Ok(());
            found = survey(&mut file, &program, |captured, judgement| {
                if !self.json {
                    if printed.is_ok() {
                        printed = writeln!(out, "{}", line(captured, judgement, form));
                    }
                } else if listed.len() < MAX_LISTED {
                    listed.push(row(captured, judgement, form));
                } else {
                    unlisted += 1;
                }
            });
            printed
        })?;
        let (survey, read) = found;
        let all = survey.packets();
        if self.json {
            term::print_json(&json!({
                "link_type": link.to_string(),
                "packets": all,
                "inside": survey.inside,
                "outside": survey.outside,
                "undecidable": survey.undecidable,
                "found": listed,
                "unlisted": unlisted,
                "error": read.as_ref().err().map(ToString::to_string),
            }))?;
        } else {
            term::print(|out| {
                writeln!(
                    out,
                    "{} ({link}): {} inside, {} outside, {} undecidable",
                    counted(all, "packet"),
                    survey.inside,
                    survey.outside,
                    survey.undecidable
                )
            })?;
        }
        read.map_err(|error| unreadable(&error))?;
        Ok(if survey.all_inside() {
            Exit::Ok
        } else {
            Exit::Unsound
        })
    }
}

const fn word(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::Inside => "inside",
        Judgement::Outside => "outside",
        Judgement::Undecidable => "undecidable",
    }
}

fn line(captured: &Captured<'_>, judgement: Judgement, form: SocketForm) -> String {
    let time = captured
        .time
        .map_or_else(|| "no time".to_owned(), |time| time.to_string());
    let words = in_words(&captured.packet(), form);
    format!("{} {time} {}: {words}", captured.number, word(judgement))
}

fn row(captured: &Captured<'_>, judgement: Judgement, form: SocketForm) -> Value {
    json!({
        "number": captured.number,
        "time": captured.time.map(|time| time.to_string()),
        "verdict": word(judgement),
        "packet": in_words(&captured.packet(), form),
        "captured": captured.bytes.len(),
        "length": captured.wire_len,
    })
}

fn unreadable(error: &CaptureFileError) -> Failure {
    let (CaptureFileError::Open { path, .. } | CaptureFileError::Broken { path, .. }) = error;
    let account = Account::new(error.to_string());
    Failure::Internal(if path.exists() {
        account.hint("tcpdump -r FILE shows what can be read")
    } else {
        account
    })
}
