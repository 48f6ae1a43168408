//! Every packet of a session's files against its terms.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::{
    capture_file::{
        CaptureFile, CaptureFileError, Captured, HeadersEnd, Names, headers_end, interface_names,
    },
    filter::{
        CompileError, Compiler, Judgement, LinkType, Origin, Program, SocketForm, in_words, judge,
    },
};

use super::{
    super::text::MAX_TEXT,
    granted::{Granted, Window},
};

/// Violations that are listed; all are counted.
const MAX_LISTED: usize = 1000;
/// How far a packet's time may lie outside of the session: the clock of the packets is the wall's,
/// which is set now and then, and the record is written a moment after the session has opened.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(1);

/// What was found out about a capture.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CaptureReport {
    /// The session.
    pub session: String,
    /// The agent.
    pub agent: String,
    /// The files, in the order in which they were given.
    pub files: Vec<FileReport>,
    /// Packets in all files.
    pub packets: u64,
    /// Bytes in all files, as the guard counted them: without what libpcap has put in front, and
    /// without tags, which may have been beside the bytes.
    pub bytes: u64,
    /// Packets that the guard delivered; none if the session has not ended.
    pub delivered: Option<u64>,
    /// Packets of which too little was captured to tell whether the filters accept them.
    pub undecidable: u64,
    /// What goes beyond the grant. The first thousand.
    pub violations: Vec<Violation>,
    /// Violations in all.
    pub violated: u64,
    /// What could not be checked, and why.
    pub unchecked: Vec<String>,
}

impl CaptureReport {
    /// True if nothing goes beyond the grant, and every packet could be told.
    pub const fn holds(&self) -> bool {
        self.violated == 0 && self.undecidable == 0
    }
}

/// One file of a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Its name, as it was given.
    pub file: PathBuf,
    /// What its packets begin with.
    pub link: String,
    /// Its packets.
    pub packets: u64,
}

/// What goes beyond a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The file; none if it is about all of them.
    pub file: Option<PathBuf>,
    /// The packet's number in the file, from 1; none if it is about the file.
    pub packet: Option<u64>,
    /// Which part of the grant.
    pub rule: Rule,
    /// What it is, in a sentence.
    pub message: String,
}

/// A part of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// A capture filter.
    Filter,
    /// Bytes of one packet.
    Snap,
    /// Bytes after the transport header.
    Payload,
    /// Packets in all.
    Packets,
    /// Bytes in all.
    Bytes,
    /// From the opening to the deadline or the end.
    Time,
    /// The interfaces.
    Interface,
    /// The link type of these interfaces.
    LinkType,
    /// What the guard counted.
    Delivered,
    /// The file is to be whole.
    File,
}

/// Checks every packet of a session's files against its terms. Blocks while libpcap compiles.
///
/// # Errors
///
/// A file is no capture file. One that is broken further on is a violation.
pub fn verify_capture(
    granted: &Granted,
    files: &[PathBuf],
    compiler: &Compiler,
) -> Result<CaptureReport, CaptureFileError> {
    let mut check = Check {
        granted,
        window: granted.window(),
        compiler,
        report: CaptureReport {
            session: granted.session.clone(),
            agent: granted.agent.clone(),
            delivered: granted.ended.map(|ended| ended.packets),
            ..CaptureReport::default()
        },
    };
    check.note_gaps();
    for file in files {
        check.file(file)?;
    }
    check.totals();
    Ok(check.report)
}

struct Check<'a> {
    granted: &'a Granted,
    window: Window,
    compiler: &'a Compiler,
    report: CaptureReport,
}

/// How the packets of one file relate to what the guard delivered.
#[derive(Clone, Copy)]
struct Shape {
    link: LinkType,
    /// Bytes that libpcap has put in front.
    cooked: usize,
}

impl Shape {
    fn new(link: LinkType) -> Self {
        let cooked = match link {
            LinkType::LINUX_SLL => 16,
            LinkType::LINUX_SLL2 => 20,
            _ => 0,
        };
        Self { link, cooked }
    }

    /// The bytes of a tag that libpcap may have put back.
    fn tag(self, bytes: &[u8]) -> usize {
        let kind = bytes.get(12..).and_then(<[u8]>::first_chunk::<2>);
        let tagged = matches!(kind, Some([0x81, 0] | [0x88, 0xa8] | [0x91, 0]));
        if tagged && self.link == LinkType::EN10MB {
            4
        } else {
            0
        }
    }

    /// The interface's index, where each packet has one.
    fn interface(self, bytes: &[u8]) -> Option<u32> {
        let index = bytes.get(4..)?.first_chunk::<4>()?;
        (self.link == LinkType::LINUX_SLL2).then(|| u32::from_be_bytes(*index))
    }
}

impl Check<'_> {
    fn unchecked(&mut self, what: String) {
        if !self.report.unchecked.contains(&what) && self.report.unchecked.len() < MAX_LISTED {
            self.report.unchecked.push(what);
        }
    }

    fn violation(&mut self, file: Option<&Path>, packet: Option<u64>, rule: Rule, message: String) {
        self.report.violated += 1;
        if self.report.violations.len() < MAX_LISTED {
            self.report.violations.push(Violation {
                file: file.map(Path::to_owned),
                packet,
                rule,
                message,
            });
        }
    }

    /// What the log does not say.
    fn note_gaps(&mut self) {
        if let Some(by) = self.window.set {
            let direction = if by.is_negative() { "back" } else { "on" };
            let by = by.unsigned_abs().as_secs();
            self.unchecked(format!(
                "to the second when packets came: the host's clock was set {direction} by {by} s while the session was open"
            ));
        }
        if self.granted.link.is_none() {
            self.unchecked("the link type: the log's version did not record it".to_owned());
        }
        if self.granted.any_interface.is_none() {
            self.unchecked(
                "the interfaces of packets on `any`: the log's version did not record whether all were granted".to_owned(),
            );
        }
        if self.granted.ended.is_none() {
            self.unchecked(
                "what the guard counted, and when it ended: the log has no end of this session"
                    .to_owned(),
            );
        }
    }

    fn file(&mut self, path: &Path) -> Result<(), CaptureFileError> {
        let mut file = CaptureFile::open(path)?;
        let shape = Shape::new(file.link());
        self.link_type(path, shape);
        self.interfaces(path);
        let filters = self.filters(shape.link);
        let broken = loop {
            match file.next_packet() {
                Ok(Some(captured)) => self.packet(path, &captured, shape, &filters),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        if let Some(error) = broken {
            self.violation(Some(path), None, Rule::File, error.to_string());
        }
        self.report.packets += file.packets_read();
        self.report.files.push(FileReport {
            file: path.to_owned(),
            link: shape.link.to_string(),
            packets: file.packets_read(),
        });
        Ok(())
    }

    fn link_type(&mut self, path: &Path, shape: Shape) {
        let Some(granted) = &self.granted.link else {
            return;
        };
        let link = shape.link.to_string();
        if shape.cooked == 0 && link != *granted {
            let message = format!("its packets are {link}, and the session's were {granted}");
            self.violation(Some(path), None, Rule::LinkType, message);
        }
    }

    fn interfaces(&mut self, path: &Path) {
        let names = match interface_names(path) {
            Ok(Names::Listed(names)) => names,
            Ok(Names::None) => {
                return self.unchecked(format!(
                    "the names of interfaces in {}: only pcapng files have them",
                    path.display()
                ));
            }
            Ok(Names::Unreadable(why)) => {
                return self.violation(Some(path), None, Rule::File, why);
            }
            Err(error) => return self.violation(Some(path), None, Rule::File, error.to_string()),
        };
        for interface in names {
            let Some(name) = interface.name else { continue };
            let granted = self.granted.any_interface == Some(true)
                || name == "any"
                || self
                    .granted
                    .interfaces
                    .iter()
                    .any(|(known, _)| *known == name);
            if !granted {
                let message = format!(
                    "it says that {} of its packets came from {name}, which was not granted",
                    interface.packets
                );
                self.violation(Some(path), None, Rule::Interface, message);
            }
        }
    }

    /// The session's filters for one link type.
    fn filters(&mut self, link: LinkType) -> Vec<(String, Program)> {
        let mut programs = Vec::new();
        for expression in &self.granted.filters {
            if expression.len() > MAX_TEXT {
                self.unchecked(format!(
                    "the filter {:?}: the log has only its beginning",
                    expression.chars().take(40).collect::<String>()
                ));
                continue;
            }
            match self.compiler.compile(expression, link, Origin::Policy) {
                Ok(Some(program)) => programs.push((expression.clone(), program)),
                Ok(None) => {}
                Err(error) => self.unchecked(not_compiled(expression, link, &error)),
            }
        }
        programs
    }

    fn packet(
        &mut self,
        path: &Path,
        captured: &Captured<'_>,
        shape: Shape,
        filters: &[(String, Program)],
    ) {
        let packet = captured.packet();
        let mut broken = Vec::new();
        let mut undecidable = false;
        for (expression, program) in filters {
            match judge(program, &packet) {
                Judgement::Inside => {}
                Judgement::Undecidable => undecidable = true,
                Judgement::Outside => {
                    let words = in_words(&packet, SocketForm::Raw(shape.link));
                    broken.push((Rule::Filter, format!("{words} is outside {expression:?}")));
                }
            }
        }
        let length = captured.bytes.len();
        let tag = shape.tag(captured.bytes);
        let delivered = as_count(length.saturating_sub(shape.cooked + tag));
        self.report.bytes = self.report.bytes.saturating_add(delivered);
        if delivered > self.granted.snap {
            let snap = self.granted.snap;
            broken.push((
                Rule::Snap,
                format!("{delivered} bytes were captured, and {snap} granted"),
            ));
        }
        if let Some(message) = self.beyond_headers(captured, shape) {
            broken.push((Rule::Payload, message));
        }
        if let Some(message) = self.untimely(captured.time) {
            broken.push((Rule::Time, message));
        }
        if let Some(index) = shape.interface(captured.bytes)
            && self.granted.any_interface == Some(false)
            && !self
                .granted
                .interfaces
                .iter()
                .any(|(_, known)| *known == index)
        {
            let message = format!("it came from interface number {index}, which was not granted");
            broken.push((Rule::Interface, message));
        }
        self.report.undecidable += u64::from(undecidable && broken.is_empty());
        for (rule, message) in broken {
            self.violation(Some(path), Some(captured.number), rule, message);
        }
    }

    fn beyond_headers(&mut self, captured: &Captured<'_>, shape: Shape) -> Option<String> {
        let payload = self.granted.payload?;
        match headers_end(captured.bytes, captured.wire_len, shape.link) {
            HeadersEnd::At(end) => {
                let most = as_count(end).saturating_add(payload);
                let length = as_count(captured.bytes.len());
                (length > most).then(|| {
                    format!(
                        "{} bytes after its headers were captured, and {payload} granted",
                        length.saturating_sub(as_count(end))
                    )
                })
            }
            HeadersEnd::NotCaptured => None,
            HeadersEnd::UnknownLink => {
                self.unchecked(format!(
                    "the payload rule: nothing is known of the headers of {} packets",
                    shape.link
                ));
                None
            }
        }
    }

    fn untimely(&self, time: Option<Timestamp>) -> Option<String> {
        let Some(time) = time else {
            return Some("the file gives it no time that there is".to_owned());
        };
        let Window { first, last, .. } = self.window;
        if time < first.saturating_sub(TOLERANCE).unwrap_or(Timestamp::MIN) {
            return Some(format!(
                "captured at {time}, and the session opened at {first}"
            ));
        }
        let last = last?;
        let late = time > last.saturating_add(TOLERANCE).unwrap_or(Timestamp::MAX);
        late.then(|| format!("captured at {time}, and the session was over at {last}"))
    }

    /// What holds for all files together.
    fn totals(&mut self) {
        let (packets, bytes) = (self.report.packets, self.report.bytes);
        let ended = self.granted.ended;
        for (count, most, rule, what) in [
            (
                packets,
                self.granted.packets,
                Rule::Packets,
                "packets, and the terms were for",
            ),
            (
                bytes,
                self.granted.bytes,
                Rule::Bytes,
                "bytes, and the terms were for",
            ),
            (
                packets,
                ended.map(|ended| ended.packets),
                Rule::Delivered,
                "packets, and the guard delivered",
            ),
            (
                bytes,
                ended.map(|ended| ended.bytes),
                Rule::Delivered,
                "bytes, and the guard delivered",
            ),
        ] {
            if let Some(most) = most
                && count > most
            {
                self.violation(
                    None,
                    None,
                    rule,
                    format!("the files hold {count} {what} {most}"),
                );
            }
        }
    }
}

fn as_count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn not_compiled(expression: &str, link: LinkType, error: &CompileError) -> String {
    format!("the filter {expression:?} on {link} packets: {error}")
}
