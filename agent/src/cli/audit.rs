//! `capwarden audit`: read the audit log, and find out whether to believe it.

mod capture;

use std::{
    fs::File,
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
};

use clap::{
    Args, Subcommand,
    builder::{NonEmptyStringValueParser, PossibleValuesParser},
};
use serde_json::{Map, Value, json};

use crate::audit::{
    self, AuditError, CaptureReport, Filter, Hash, KINDS, Rendering, Report, Severity, visible,
};

use super::{
    exit::Exit,
    failure::{Account, Failure},
    paths,
    session::{self, SessionName},
    term::{self, Paint},
};

/// More than the arguments of any call: the gate's longest line.
const MOST_ARGUMENTS: u64 = 4 << 20;

/// Read and verify the audit log
#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Show(Show),
    Verify(Verify),
}

/// Print records of the audit log
///
/// One record a line, oldest first: number, time (UTC), the agent's name, kind, and what happened.
/// Ends with the log's head, the hash of its last line: note it elsewhere, and `audit verify
/// --head` can later prove that nothing before it was touched.
#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    log: LogFile,
    /// Only records of this session: s1, or 5f1c2a9b/s1 of the agent whose name begins so
    ///
    /// The exit status is 1 if the log has none such.
    #[arg(long, value_name = "SESSION", value_parser = session::name)]
    session: Option<SessionName>,
    /// Only records of this agent
    ///
    /// Each run of capwarden has a name of its own, and numbers its sessions anew. The name's
    /// beginning is enough.
    #[arg(long, value_name = "AGENT", value_parser = NonEmptyStringValueParser::new())]
    agent: Option<String>,
    /// Only records of this kind
    #[arg(long, value_name = "KIND", value_parser = PossibleValuesParser::new(KINDS))]
    kind: Option<String>,
    /// Only calls with exactly these arguments
    ///
    /// A file with a JSON object, or - for standard input. The log has a salted digest of each
    /// call's arguments, not the arguments: this finds out whether they were what you suspect.
    #[arg(long, value_name = "FILE")]
    arguments: Option<PathBuf>,
    /// Only the last N of those
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<usize>,
    /// Print the lines as they are in the file
    #[arg(long)]
    json: bool,
}

/// Verify the audit log's chain
///
/// Every line carries the hash of the line before it. Lines that were changed, removed, inserted
/// or moved break a link, and are named. Lines cut off at the end break none: give the head that
/// was noted earlier to find those. The exit status is 1 if anything is wrong.
///
/// With `--pcap` and `--session`, every packet of a finished capture is then checked against what
/// the log says the session was granted: filters, interfaces, bytes of each packet, packets and
/// bytes in all, time (to a second), and what the guard counted.
#[derive(Debug, Args)]
struct Verify {
    #[command(flatten)]
    log: LogFile,
    /// A head that was noted earlier: the hash of the line that was last then
    ///
    /// The log must contain that line. Everything up to it is then proved to be what it was when
    /// the head was noted. `audit show` prints the head, and capwarden logs it at start and stop.
    #[arg(long, value_name = "HASH")]
    head: Option<Hash>,
    #[command(flatten)]
    capture: capture::Capture,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct LogFile {
    /// The audit log
    ///
    /// Without it: /var/log/capwarden/audit.jsonl for root, otherwise
    /// $XDG_STATE_HOME/capwarden/audit.jsonl.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Audit {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        match self.verb {
            Verb::Show(show) => show.run(),
            Verb::Verify(verify) => verify.run(),
        }
    }
}

impl Show {
    fn run(self) -> Result<Exit, Failure> {
        let path = paths::audit_to_read(self.log.file.as_deref())?;
        let (agent, session) = match self.session {
            Some(named) => {
                let named = named.of_agent(self.agent.as_deref())?;
                (named.agent, Some(named.session))
            }
            None => (self.agent, None),
        };
        let filter = Filter {
            session,
            agent,
            kind: self.kind,
            arguments: self.arguments.as_deref().map(read_object).transpose()?,
            last: self.last,
        };
        let rendering = match (self.json, Paint::for_stdout().is_on()) {
            (true, _) => Rendering::Json,
            (false, false) => Rendering::Plain,
            (false, true) => Rendering::Colour,
        };
        let mut shown = Ok(audit::Shown::default());
        term::print(|out| {
            shown = audit::show(&path, &filter, rendering, out);
            match &shown {
                Ok(shown) if is_no_log(shown) => Ok(()),
                Ok(shown) => end(shown, rendering, out),
                Err(_) => Ok(()),
            }
        })?;
        if shown.as_ref().is_ok_and(is_no_log) {
            let account = Account::new("this is no audit log:").on(path.display());
            return Err(Failure::Usage(
                account
                    .because("no line of it is a record")
                    .hint("name the file that `capwarden run` was given with --audit"),
            ));
        }
        if let (Some(session), Ok(shown)) = (&filter.session, &shown)
            && !shown.sessions.contains(session)
        {
            let sessions: Vec<_> = shown.sessions.iter().map(String::as_str).collect();
            let there_are = match sessions.as_slice() {
                [] => "it has none".to_owned(),
                sessions => format!("it has {}", sessions.join(", ")),
            };
            let said = format!("the log has no session {session}; {there_are}");
            return Err(SessionName::not_there(said));
        }
        match shown {
            Ok(shown) if shown.unreadable > 0 => {
                tracing::warn!(
                    "{} lines are not records: see `capwarden audit verify`",
                    shown.unreadable
                );
                Ok(Exit::Ok)
            }
            Err(AuditError::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                Ok(Exit::Ok)
            }
            shown => Ok(shown.map(|_| Exit::Ok)?),
        }
    }
}

/// Whether there is something in the file, and none of it is a record.
fn is_no_log(shown: &audit::Shown) -> bool {
    shown.records == 0 && shown.unreadable > 0
}

/// Reads a JSON object from a file, or standard input.
fn read_object(path: &Path) -> Result<Map<String, Value>, Failure> {
    let bad = |account: Account| Failure::Usage(account.on(path.display()));
    let mut text = String::new();
    let read = match path.as_os_str().as_encoded_bytes() {
        b"-" => io::stdin().take(MOST_ARGUMENTS).read_to_string(&mut text),
        _ => {
            paths::is_there(path)?;
            File::open(path).and_then(|file| file.take(MOST_ARGUMENTS).read_to_string(&mut text))
        }
    };
    read.map_err(|error| bad(Account::new("cannot read").because(error)))?;
    serde_json::from_str(&text).map_err(|error| bad(Account::new("no JSON object:").because(error)))
}

fn end(shown: &audit::Shown, rendering: Rendering, out: &mut dyn Write) -> io::Result<()> {
    match shown.head {
        Some(head) if rendering != Rendering::Json => writeln!(out, "head {head}"),
        _ => Ok(()),
    }
}

impl Verify {
    fn run(self) -> Result<Exit, Failure> {
        let path = paths::audit_to_read(self.log.file.as_deref())?;
        let report = audit::verify(&path, self.head)?;
        // What a log says that is not sound is not worth checking against.
        let capture = match report.is_sound() {
            true => self.capture.check(&path)?,
            false => None,
        };
        let holds = capture.as_ref().is_none_or(CaptureReport::holds);
        if self.json {
            match self.capture.is_wanted() {
                true => term::print_json(&json!({ "log": report, "capture": capture }))?,
                false => term::print_json(&report)?,
            }
        } else {
            let paint = Paint::for_stdout();
            term::print(|out| {
                write_report(&report, &path, self.head.is_some(), paint, out)?;
                match &capture {
                    Some(capture) => capture::write_report(capture, paint, out),
                    None if self.capture.is_wanted() => {
                        writeln!(out, "the capture was not checked: the log is not sound")
                    }
                    None => Ok(()),
                }
            })?;
        }
        Ok(if report.is_sound() && holds {
            Exit::Ok
        } else {
            Exit::Unsound
        })
    }
}

fn write_report(
    report: &Report,
    path: &Path,
    expected: bool,
    paint: Paint,
    out: &mut dyn Write,
) -> io::Result<()> {
    for problem in &report.problems {
        let severity = match problem.severity {
            Severity::Error => paint.error("error:"),
            Severity::Warning => paint.warning("warning:"),
        };
        writeln!(out, "{severity} {}", visible(&problem.to_string()))?;
    }
    let listed = u64::try_from(report.problems.len()).unwrap_or(u64::MAX);
    let unlisted = (report.errors + report.warnings).saturating_sub(listed);
    if unlisted > 0 {
        writeln!(out, "… and {unlisted} more")?;
    }
    for open in &report.open {
        writeln!(
            out,
            "{} line {}: session {} of agent {} is open: the agent still runs, or died",
            paint.note("note:"),
            open.line,
            visible(&open.session),
            visible(&open.agent)
        )?;
    }
    let verdict = match report.errors {
        0 => paint.good("sound"),
        1 => paint.error("1 error"),
        errors => paint.error(&format!("{errors} errors")),
    };
    let path = visible(&path.to_string_lossy());
    writeln!(out, "{path}: {verdict}, {} records", report.records)?;
    if let (Some(first), Some(last)) = (&report.first, &report.last) {
        writeln!(out, "from {} to {}", visible(first), visible(last))?;
    }
    if let Some(head) = report.head {
        writeln!(out, "head {head}")?;
    }
    match report.anchor {
        Some(anchor) if anchor.after == 0 => {
            writeln!(
                out,
                "the expected head is the last line: nothing was cut off"
            )
        }
        Some(anchor) => writeln!(
            out,
            "the expected head is line {}; it does not speak for the {} after it",
            anchor.line, anchor.after
        ),
        None if expected => Ok(()),
        None => writeln!(
            out,
            "no head was given: lines cut off at the end would not show"
        ),
    }
}
