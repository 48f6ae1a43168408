//! `capwarden report`: one session, told from the audit log.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, builder::NonEmptyStringValueParser};

use crate::{
    audit::{self, CaptureOf, NoSession, Part, SessionReport, visible},
    words::counted,
};

use super::{
    exit::Exit,
    failure::{Account, Failure},
    paths,
    session::{self, SessionName},
    term::{self, Fit, Paint},
};

/// How wide the bar of a cap is.
const BAR: u8 = 24;

/// Tell what became of a session, for a change ticket
///
/// What was asked, what was allowed, what ran, what was seen and what was refused meanwhile: each with the line of the
/// audit log that says so and, in JSON and in the page, its hash, so that the report can be held against the
/// log. Calls that were denied opened no session: `audit show` has them. The exit status is 1 if the log is not
/// what capwarden wrote, or has no such session.
#[derive(Debug, Args)]
pub(super) struct Report {
    /// The session: s1, or 5f1c2a9b/s1 of the agent whose name begins so, as `capwarden sessions` prints it
    #[arg(value_name = "SESSION", value_parser = session::name)]
    session: SessionName,
    /// The audit log
    ///
    /// Without it: /var/log/capwarden/audit.jsonl for root, otherwise
    /// $XDG_STATE_HOME/capwarden/audit.jsonl.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The agent that opened the session, where several had one of this number
    ///
    /// The beginning of its name is enough.
    #[arg(long, value_name = "AGENT", value_parser = NonEmptyStringValueParser::new())]
    agent: Option<String>,
    /// A file of the session's capture, for a plot of packets over time; give it once for each file
    ///
    /// Whether the capture is within the session's terms is for `audit verify --pcap` to say.
    #[arg(long, value_name = "FILE")]
    pcap: Vec<PathBuf>,
    /// Print it as JSON
    #[arg(long, conflicts_with = "html")]
    json: bool,
    /// Print it as a page: one file, without scripts
    #[arg(long)]
    html: bool,
    /// Write it to this file, which must not be there yet; only its owner may read it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Report {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let log = paths::audit_to_read(self.file.as_deref())?;
        let SessionName { agent, session } = self.session.of_agent(self.agent.as_deref())?;
        let report = audit::session_report(&log, &session, agent.as_deref());
        let mut report = report.map_err(not_found)?;
        if !self.pcap.is_empty() {
            self.pcap
                .iter()
                .try_for_each(|file| paths::is_there(file))?;
            let traffic = audit::traffic(&self.pcap);
            report.traffic =
                Some(traffic.map_err(|error| Failure::Usage(Account::new(error.to_string())))?);
        }
        let (paint, fit) = match self.out {
            Some(_) => (Paint::off(), Fit::off()),
            None => (Paint::for_stdout(), Fit::for_stdout()),
        };
        let text = if self.json {
            term::visible_json_text(&report)?
        } else if self.html {
            audit::html(&report)
        } else {
            let mut text = Vec::new();
            // Writing to memory does not fail.
            let _ = write_text(&report, paint, fit, &mut text);
            String::from_utf8_lossy(&text).into_owned()
        };
        match &self.out {
            Some(path) => write_new(path, &text)?,
            None => term::print(|out| out.write_all(text.as_bytes()))?,
        }
        Ok(if report.log.is_sound() {
            Exit::Ok
        } else {
            Exit::Unsound
        })
    }
}

/// The account of a session that cannot be told of.
pub(super) fn not_found(error: NoSession) -> Failure {
    match error {
        NoSession::Log(error) => error.into(),
        error @ NoSession::Damaged { .. } => Failure::Internal(Account::new(error.to_string())),
        error @ NoSession::Ambiguous { .. } => {
            let hint = "say which: AGENT/SESSION, or --agent AGENT";
            Failure::Usage(Account::new(error.to_string()).hint(hint))
        }
        error @ NoSession::NotALog(_) => Failure::Usage(
            Account::new(error.to_string())
                .hint("name the file that --audit named, or none for the one of this host"),
        ),
        error @ NoSession::NotFound { .. } => SessionName::not_there(error.to_string()),
    }
}

fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    // As closed as the log is that it was made of.
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let written = options.open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
    });
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::Usage(
            Account::new("there is such a file already:")
                .on(path.display())
                .hint("name another one, or remove it"),
        ),
        _ => Failure::Internal(
            Account::new("cannot write the report")
                .on(path.display())
                .because(error),
        ),
    })
}

fn write_text(
    report: &SessionReport,
    paint: Paint,
    fit: Fit,
    out: &mut dyn Write,
) -> io::Result<()> {
    let title = format!("{} {}", paint.strong(&report.title()), report.outcome());
    writeln!(out, "{}", fit.line(&title, 2))?;
    for gauge in report.gauges() {
        let bar = gauge.cap.map(|cap| bar(gauge.used / cap));
        writeln!(out, "  {} {}", bar.unwrap_or_default(), gauge.words())?;
    }
    let protocols = report.protocols();
    let most = protocols.ranked().first().map_or(0, |(_, count)| *count);
    for (name, count) in protocols.ranked() {
        let words = format!("{} of {}", counted(count, "packet"), visible(name));
        writeln!(out, "  {} {words}", bar(share(count, most)))?;
    }
    if protocols.tagged > 0 {
        let tagged = counted(protocols.tagged, "packet");
        writeln!(out, "  {tagged} of these with a VLAN tag")?;
    }
    if let Some(traffic) = &report.traffic {
        let length = traffic.moments.last().map_or(0.0, |last| last.seconds);
        let (packets, bytes) = (traffic.packets, traffic.bytes);
        writeln!(
            out,
            "  in the capture: {}, {}, {length:.1} s",
            counted(packets, "packet"),
            counted(bytes, "byte")
        )?;
        for CaptureOf { file, sha256 } in &traffic.files {
            let file = visible(&file.display().to_string());
            writeln!(out, "  {file} sha256 {sha256}")?;
        }
    }
    for part in Part::ALL {
        let mut lines = report.part(part).peekable();
        if lines.peek().is_some() {
            writeln!(out, "\n{}", paint.strong(part.heading()))?;
        }
        for line in lines {
            let time = line.time.replace('T', " ");
            let head = format!("{:>6}  {time}  {:<17} ", line.line, line.kind);
            let indent = head.chars().count();
            writeln!(out, "{}", fit.line(&(head + &line.words), indent))?;
        }
    }
    writeln!(out)?;
    if report.omitted > 0 {
        writeln!(out, "… and {} more lines of this session", report.omitted)?;
    }
    let words = report.log_words();
    let words = match report.log.is_sound() {
        true => paint.good(&words),
        false => paint.error(&words),
    };
    writeln!(out, "{}", fit.line(&words, 2))?;
    if let Some(head) = report.log.head {
        writeln!(out, "head {head}")?;
    }
    writeln!(out, "{}", fit.line(&report.made.words(), 2))
}

#[expect(clippy::cast_precision_loss, reason = "it is drawn in a few steps")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// How much of a cap was used.
fn bar(share: f64) -> String {
    let filled = (0..BAR).filter(|tick| f64::from(*tick) < share * f64::from(BAR));
    let filled = filled.count();
    "█".repeat(filled) + &"░".repeat(usize::from(BAR) - filled)
}
