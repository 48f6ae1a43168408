//! `capwarden audit verify --pcap FILE --session ID`: a finished capture against the log.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, builder::NonEmptyStringValueParser};

use crate::{
    audit::{CaptureReport, find_session, verify_capture, visible},
    words::counted,
};

use super::super::{
    enforce,
    failure::{Account, Failure},
    paths, report,
    session::{self, SessionName},
    term::Paint,
};

#[derive(Debug, Args)]
pub(super) struct Capture {
    /// A file of the session's capture; give it once for each file
    #[arg(long, value_name = "FILE", requires = "session")]
    pcap: Vec<PathBuf>,
    /// The session that the files belong to: s1, or 5f1c2a9b/s1 of the agent whose name begins so
    #[arg(long, value_name = "SESSION", requires = "pcap", value_parser = session::name)]
    session: Option<SessionName>,
    /// The agent that opened the session, where several had one of this number
    ///
    /// The beginning of its name is enough.
    #[arg(long, value_name = "AGENT", requires = "session", value_parser = NonEmptyStringValueParser::new())]
    agent: Option<String>,
}

impl Capture {
    pub(super) const fn is_wanted(&self) -> bool {
        self.session.is_some()
    }

    /// Checks the files, if there are any.
    pub(super) fn check(&self, log: &Path) -> Result<Option<CaptureReport>, Failure> {
        let Some(session) = &self.session else {
            return Ok(None);
        };
        self.pcap
            .iter()
            .try_for_each(|file| paths::is_there(file))?;
        let SessionName { agent, session } = session.clone().of_agent(self.agent.as_deref())?;
        let granted = find_session(log, &session, agent.as_deref()).map_err(report::not_found)?;
        let report = verify_capture(&granted, &self.pcap, &enforce::compiler()?);
        report
            .map(Some)
            .map_err(|error| Failure::Usage(Account::new(error.to_string())))
    }
}

pub(super) fn write_report(
    report: &CaptureReport,
    paint: Paint,
    out: &mut dyn Write,
) -> io::Result<()> {
    for violation in &report.violations {
        let file = violation
            .file
            .as_ref()
            .map(|file| file.display().to_string());
        let packet = violation.packet.map(|packet| format!("packet {packet}"));
        let place: Vec<String> = file.into_iter().chain(packet).collect();
        let place = match place.is_empty() {
            true => String::new(),
            false => format!("{}: ", place.join(" ")),
        };
        let text = visible(&format!("{place}{}", violation.message));
        writeln!(out, "{} {text}", paint.error("error:"))?;
    }
    let listed = u64::try_from(report.violations.len()).unwrap_or(u64::MAX);
    let unlisted = report.violated.saturating_sub(listed);
    if unlisted > 0 {
        writeln!(out, "… and {unlisted} more")?;
    }
    for what in &report.unchecked {
        writeln!(
            out,
            "{} not checked: {}",
            paint.note("note:"),
            visible(what)
        )?;
    }
    if report.undecidable > 0 {
        writeln!(
            out,
            "{} too short to tell whether the filters accept them: {}",
            paint.warning("warning:"),
            counted(report.undecidable, "packet")
        )?;
    }
    let verdict = match (report.violated, report.undecidable) {
        (0, 0) => paint.good("within its terms"),
        (0, _) => paint.warning("not told for every packet"),
        _ => paint.error("beyond its terms"),
    };
    let session = visible(&report.session);
    let files = u64::try_from(report.files.len()).unwrap_or(u64::MAX);
    let packets = report.packets;
    write!(
        out,
        "session {session}: {verdict}; {} in {}",
        counted(packets, "packet"),
        counted(files, "file")
    )?;
    match report.delivered {
        Some(delivered) if delivered > packets => writeln!(
            out,
            ", {} fewer than the guard delivered",
            delivered - packets
        ),
        Some(delivered) if delivered == packets => {
            writeln!(out, ", as many as the guard delivered")
        }
        _ => writeln!(out),
    }
}
