//! The log as a reader sees it.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{BufReader, Write},
    path::Path,
    time::Duration,
};

use serde_json::{Map, Value};

use super::{
    arguments::ArgumentsDigest,
    error::AuditError,
    hash::Hash,
    line::{Entry, RawLine, next_line},
    text::visible,
    verify::snapshot,
};
use crate::{
    principal::connection_words,
    session::Protocols,
    words::{self, counted},
};

/// Which records to show.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Of this session only: `s1`.
    pub session: Option<String>,
    /// Of agents whose name begins so. Sessions are numbered anew in each.
    pub agent: Option<String>,
    /// Of this kind only.
    pub kind: Option<String>,
    /// Calls with exactly these arguments only.
    pub arguments: Option<Map<String, Value>>,
    /// No more than the last so many of those.
    pub last: Option<usize>,
}

/// How to show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rendering {
    /// The lines as they are in the file.
    Json,
    /// For people.
    Plain,
    /// For people at a terminal.
    Colour,
}

/// Protocols that are named.
const PROTOCOLS: usize = 6;
/// Sessions that are named where none was found.
const NAMED: usize = 16;

/// What was shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Records that were shown.
    pub shown: u64,
    /// Lines that are not records. `verify` names them.
    pub unreadable: u64,
    /// Lines that are records, shown or not.
    pub records: u64,
    /// The hash of the last line of the file.
    pub head: Option<Hash>,
    /// Where a session was asked for: that session if it is there, and some that there are. Of the
    /// agent that was asked for, if one was.
    pub sessions: BTreeSet<String>,
}

/// Shows records in the order in which they were written.
pub fn show(
    path: impl AsRef<Path>,
    filter: &Filter,
    rendering: Rendering,
    out: &mut dyn Write,
) -> Result<Shown, AuditError> {
    let path = path.as_ref();
    let mut stream = BufReader::new(snapshot(path)?);
    let mut summary = Shown::default();
    let mut held = VecDeque::new();
    while let Some(line) = next_line(&mut stream).map_err(|source| AuditError::Read {
        path: path.to_owned(),
        source,
    })? {
        if line.ended {
            summary.head = Some(line.hash);
        }
        let entry = match Entry::parse(&line.bytes) {
            Ok(entry) if line.ended => entry,
            _ => {
                summary.unreadable += 1;
                continue;
            }
        };
        summary.records += 1;
        if let (Some(wanted), Some(session)) = (&filter.session, entry.text("session"))
            && filter.is_agent(&entry)
            && (wanted == session || summary.sessions.len() < NAMED)
        {
            summary.sessions.insert(session.to_owned());
        }
        if !filter.admits(&entry) {
            continue;
        }
        let text = line_of(&line, &entry, rendering);
        match filter.last {
            None => {
                writeln!(out, "{text}").map_err(AuditError::Print)?;
                summary.shown += 1;
            }
            Some(last) => {
                held.push_back(text);
                if held.len() > last {
                    held.pop_front();
                }
            }
        }
    }
    for text in held {
        writeln!(out, "{text}").map_err(AuditError::Print)?;
        summary.shown += 1;
    }
    Ok(summary)
}

/// A record as it is shown.
pub(super) fn line_of(line: &RawLine, entry: &Entry, rendering: Rendering) -> String {
    match rendering {
        // A record that is shown as it is was read as JSON just now, hence is UTF-8.
        Rendering::Json => String::from_utf8_lossy(&line.bytes).into_owned(),
        Rendering::Plain => render(entry, false),
        Rendering::Colour => render(entry, true),
    }
}

impl Filter {
    pub(super) fn admits(&self, entry: &Entry) -> bool {
        let is = |wanted: &Option<String>, value: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| value == Some(wanted))
        };
        is(&self.session, entry.text("session"))
            && is(&self.kind, Some(&entry.kind))
            && self.is_agent(entry)
            && self.arguments.as_ref().is_none_or(|arguments| {
                ArgumentsDigest::from_json(entry.fields.get("digest"))
                    .is_some_and(|digest| digest.matches(arguments, entry.value_names()))
            })
    }

    fn is_agent(&self, entry: &Entry) -> bool {
        (self.agent.as_deref()).is_none_or(|agent| entry.agent.starts_with(agent))
    }
}

/// One record in one line. All text goes through [`visible`]: the file may have been forged.
fn render(entry: &Entry, colour: bool) -> String {
    let paint = |style: &str, text: String| {
        if colour && !style.is_empty() {
            format!("\u{1b}[{style}m{text}\u{1b}[0m")
        } else {
            text
        }
    };
    let style = match entry.kind.as_str() {
        "agent-started" | "agent-stopped" | "policy-reloaded" | "server-served"
        | "server-withdrawn" | "handed-over" => "1",
        "session-opened" | "proxy-opened" | "program-opened" | "socket-armed" => "32",
        "session-ended" => "36",
        "approval" if matches!(entry.text("became"), Some("denied" | "expired")) => "31",
        "approval" if matches!(entry.text("became"), Some("approved" | "used")) => "32",
        "approval" => "33",
        "definition" if matches!(entry.text("became"), Some("accepted")) => "32",
        "definition" if matches!(entry.text("became"), Some("first-seen")) => "",
        "definition" => "31",
        "unmanaged-capture" if entry.text("became") != Some("refused") => "33",
        "unmanaged-capture" => "31",
        "socket-refused" | "network-refused" | "unanswered" | "policy-refused" => "31",
        "grant" if entry.text("became") == Some("revoked") => "31",
        "grant" | "operator" => "33",
        "call" if entry.text("verdict") == Some("deny") => "31",
        "filter-attached" if entry.text("relation") == Some("same") => "32",
        "torn-tail" | "filter-attached" => "33",
        _ => "",
    };
    let time = visible(&entry.time).replace('T', " ");
    let agent: String = visible(&entry.agent).chars().take(8).collect();
    let kind = format!("{:<17}", visible(&entry.kind));
    format!(
        "{:>5}  {}  {agent}  {}  {}",
        entry.seq,
        paint("2", time),
        paint(style, kind),
        describe(entry)
    )
}

/// `1.5 s`.
fn seconds(milliseconds: u64) -> String {
    words::time(Duration::from_millis(milliseconds))
}

/// What a record says, in a phrase, and at which server that was.
pub(super) fn describe(entry: &Entry) -> String {
    let phrase = phrase(entry);
    match entry.text("server") {
        Some(server) if !NAME_SERVER.contains(&entry.kind.as_str()) => {
            format!("{phrase}, at {}", visible(server))
        }
        _ => phrase,
    }
}

/// Kinds whose phrase has the server already, or the command that it is.
const NAME_SERVER: [&str; 7] = [
    "agent-started",
    "approval",
    "call",
    "definition",
    "grant",
    "server-served",
    "server-withdrawn",
];

/// Kinds of later versions show their fields.
fn phrase(entry: &Entry) -> String {
    let text = |field: &str| visible(entry.text(field).unwrap_or("?"));
    let number = |field: &str| entry.fields.get(field).and_then(Value::as_u64).unwrap_or(0);
    let optional = |before: &str, field: &str| {
        let value = entry.text(field).map(visible);
        value.map_or_else(String::new, |value| format!("{before}{value}"))
    };
    let list = |field: &str, between: &str| {
        let items = entry.fields.get(field).and_then(Value::as_array);
        let items = items.into_iter().flatten().filter_map(Value::as_str);
        visible(&items.collect::<Vec<_>>().join(between))
    };
    match entry.kind.as_str() {
        "agent-started" => {
            let policy = entry.fields.get("policy").and_then(policy_file);
            let degraded = list("degraded", "; ");
            let mut text = format!(
                "capwarden {} runs {}",
                text("version"),
                list("command", " ")
            );
            text += &format!(" as {}", visible(entry.text("user").unwrap_or("?")));
            text += &policy.map_or_else(String::new, |policy| format!(" under {policy}"));
            let reach = list("reach", ", ");
            if !reach.is_empty() {
                text += &format!(", may reach {reach}");
            }
            if !degraded.is_empty() {
                text += &format!(", degraded: {degraded}");
            }
            text
        }
        "call" => {
            let mut text = format!("{}({}): ", text("tool"), list("arguments", ", "));
            text += &visible(entry.text("verdict").unwrap_or("?"));
            text += &optional(" ", "session");
            text += &optional(", ", "reason");
            let changes = list("changes", "; ");
            if !changes.is_empty() {
                text += &format!(", changed {changes}");
            }
            text += &optional(", rule ", "rule");
            if let Some(policy) = entry.fields.get("policy").and_then(policy_file) {
                text += &format!(", policy {policy}");
            }
            if let Some(values) = entry.fields.get("values") {
                text += &format!(", with {}", visible(&values.to_string()));
            }
            // Older logs do not say who called.
            text += &optional(", by ", "principal");
            if entry.fields.contains_key("connection") {
                text += &format!(
                    " ({} to {})",
                    connection_words(number("connection")),
                    visible(entry.text("server").unwrap_or("?"))
                );
            }
            if let Some(digest) = entry.fields.get("digest").and_then(short_digest) {
                text += &format!(", digest {digest}");
            }
            text
        }
        "approval" => {
            let mut text = format!(
                "{} {}: {} of {} at {}",
                text("id"),
                text("became"),
                text("tool"),
                text("principal"),
                text("server")
            );
            text += &optional(", by ", "by");
            text += &optional(" at ", "at");
            text += &optional(", because ", "why");
            if entry.fields.get("seen") == Some(&Value::Bool(true)) {
                text += ", as the agent has seen";
            }
            text + &optional(", rule ", "rule")
        }
        "grant" => {
            let mut text = format!(
                "{} ({}) {} for {} by {}",
                text("name"),
                text("id"),
                text("became"),
                text("server"),
                text("by")
            );
            if let Some(policy) = entry.fields.get("policy").and_then(policy_file) {
                text += &format!(", under {policy}");
            }
            text += &optional(", ends at ", "expires");
            let caps = ["packets", "bytes", "seconds"].into_iter();
            let caps: Vec<String> = caps
                .filter_map(|cap| {
                    let value = entry.fields.get(cap)?;
                    let time = || Duration::try_from_secs_f64(value.as_f64()?).ok();
                    Some(match cap {
                        "seconds" => words::time(time()?),
                        cap => counted(value.as_u64()?, cap.trim_end_matches('s')),
                    })
                })
                .collect();
            if !caps.is_empty() {
                text += &format!("; at most {}", caps.join(", "));
            }
            text
        }
        "operator" => {
            let did = match entry.text("did") {
                Some("stop") => "is stopped".to_owned(),
                _ => text("did"),
            };
            let text = format!("{}: {did} by {}", text("session"), text("by"));
            text + &optional(", because ", "why")
        }
        "definition" => {
            let became = match entry.text("became") {
                Some("first-seen") => "seen first, and accepted by that".to_owned(),
                Some("new") => "new, and held back".to_owned(),
                Some("changed") => "changed, and held back".to_owned(),
                Some("unfit") => "held back".to_owned(),
                _ => text("became"),
            };
            let hash: String = text("sha256").chars().take(12).collect();
            let mut text = format!("{} of {}: {became}", text("tool"), text("server"));
            text += &optional(", by ", "by");
            text += &optional(" at ", "at");
            text += &optional(", because ", "why");
            if !hash.is_empty() {
                text += &format!(" (sha256 {hash})");
            }
            text
        }
        "session-opened" | "proxy-opened" | "program-opened" => {
            format!("{}: {}", text("session"), text("summary"))
        }
        "socket-armed" => format!(
            "{}: {} socket for {} (pid {}, thread {})",
            text("session"),
            text("socket"),
            text("comm"),
            number("pid"),
            number("thread")
        ),
        "filter-attached" => {
            let hash: String = text("sha256").chars().take(12).collect();
            let compared = match entry.text("relation") {
                Some("same") => "the same packets as asked".to_owned(),
                Some("narrower") => format!("fewer packets than asked, not {}", text("leaves_out")),
                Some("wider") => format!(
                    "more packets than asked, as {}, which the guard drops",
                    text("adds")
                ),
                Some("different") => format!(
                    "other packets than asked: not {}, but {}, which the guard drops",
                    text("leaves_out"),
                    text("adds")
                ),
                _ => format!("not compared with what was asked: {}", text("why")),
            };
            format!(
                "{}: {} (pid {}) filters its {} socket itself, with {} instructions \
                 (sha256 {hash}): {compared}",
                text("session"),
                text("comm"),
                number("pid"),
                text("socket"),
                number("instructions")
            )
        }
        "socket-refused" => {
            let times = times(entry);
            format!(
                "{times}{} (pid {}): {}",
                text("comm"),
                number("pid"),
                text("why")
            )
        }
        "unmanaged-capture" if entry.text("became") == Some("lost") => {
            let times = entry.fields.get("times").and_then(Value::as_u64);
            let lost = counted(times.unwrap_or(1), "packet socket");
            format!("{lost} came too fast to be told of")
        }
        "unmanaged-capture" => {
            let what = match entry.text("became") {
                Some("refused") => "was refused a packet socket",
                Some("found") => "captured already",
                _ => "captures",
            };
            let mut text = format!(
                "{}{} (pid {}, uid {}) {what}",
                times(entry),
                text("comm"),
                number("pid"),
                number("user")
            );
            let interfaces = list("interfaces", ", ");
            if !interfaces.is_empty() {
                text += &format!(" on {interfaces}");
            }
            text + &optional(", with ", "program")
        }
        "server-restarted" => {
            let session = text("session");
            match entry.text("failed") {
                Some(_) => format!(
                    "{session}: the server was not restarted: {}",
                    text("failed")
                ),
                None => format!(
                    "{session}: the server was restarted, in {} ms",
                    number("milliseconds")
                ),
            }
        }
        "network-bounded" => {
            let endpoints = |field: &str| match list(field, ", ") {
                list if list.is_empty() => "nothing".to_owned(),
                list => list,
            };
            format!(
                "without a session, the server listens on {}, connects to {}",
                endpoints("listen"),
                endpoints("connect")
            )
        }
        "unanswered" => {
            format!(
                "call {} was not answered in time: {}",
                text("call"),
                text("what")
            )
        }
        "network-refused" => {
            let session = entry.text("session").map(|session| visible(session) + ": ");
            session.unwrap_or_default() + &times(entry) + "not allowed to " + &text("what")
        }
        "session-ended" if entry.fields.contains_key("bytes_in") => {
            format!(
                "{}: {}, {}, {} in, {} out, {} accepted, {} made, {}{}",
                text("session"),
                text("reason"),
                counted(number("packets"), "packet"),
                counted(number("bytes_in"), "byte"),
                counted(number("bytes_out"), "byte"),
                counted(number("accepted"), "connection"),
                number("made"),
                seconds(number("milliseconds")),
                match number("lost") {
                    0 => String::new(),
                    lost => format!(", {} could not be told", counted(lost, "refusal")),
                }
            )
        }
        "session-ended" => {
            format!(
                "{}: {}, {}, {}, {}, {}",
                text("session"),
                text("reason"),
                counted(number("packets"), "packet"),
                counted(number("bytes"), "byte"),
                counted(number("sockets"), "socket"),
                seconds(number("milliseconds"))
            ) + &protocols(entry)
        }
        "policy-reloaded" => {
            let before: String = text("before").chars().take(12).collect();
            format!("{} in place of {before}", fields_policy(entry))
        }
        "policy-refused" => {
            format!("{} stays: {}", fields_policy(entry), text("why"))
        }
        "server-served" => {
            let policy = entry.fields.get("policy").and_then(policy_file);
            let mut text = format!("{}: {}", text("server"), list("command", " "));
            text += &format!(" as {}", visible(entry.text("user").unwrap_or("?")));
            text += &policy.map_or_else(String::new, |policy| format!(" under {policy}"));
            let reach = list("reach", ", ");
            if !reach.is_empty() {
                text += &format!(", may reach {reach}");
            }
            text
        }
        "server-withdrawn" => format!("{}: {}", text("server"), text("why")),
        "handed-over" => format!(
            "to {} (pid {}, version {}): {} and {} stay",
            text("to"),
            number("pid"),
            text("version"),
            counted(number("clients"), "client"),
            counted(number("sessions"), "session")
        ),
        "agent-stopped" => {
            let status = entry.fields.get("status").and_then(Value::as_i64);
            let status = status.map_or_else(String::new, |status| format!(", status {status}"));
            text("why") + &status
        }
        "torn-tail" => format!("{} bytes kept in {}", number("bytes"), text("kept")),
        _ => {
            let fields = entry.fields.iter().filter(|(name, _)| *name != "server");
            let fields = fields.map(|(name, value)| visible(&format!("{name}={value}")));
            fields.collect::<Vec<_>>().join(" ")
        }
    }
}

/// ` (12 ipv4/tcp, 3 arp)`, where a capture's end says it.
fn protocols(entry: &Entry) -> String {
    let counted = entry.fields.get("protocols").map(Protocols::from_json);
    match counted.filter(|counted| !counted.is_empty()) {
        Some(counted) => format!(" ({})", visible(&counted.words(PROTOCOLS))),
        None => String::new(),
    }
}

/// `4711 times more, `, where a record stands for several refusals.
fn times(entry: &Entry) -> String {
    let times = entry.fields.get("times").and_then(Value::as_u64);
    times.map_or_else(String::new, |times| {
        format!("{} more, the last: ", counted(times, "time"))
    })
}

fn short_digest(digest: &Value) -> Option<String> {
    let hash: String = digest.get("sha256")?.as_str()?.chars().take(12).collect();
    Some(visible(&hash))
}

/// The policy that a record names among its own fields.
fn fields_policy(entry: &Entry) -> String {
    policy_file(&Value::Object(entry.fields.clone())).unwrap_or_default()
}

fn policy_file(policy: &Value) -> Option<String> {
    let file = policy.get("file")?.as_str()?;
    let hash: String = policy.get("sha256")?.as_str()?.chars().take(12).collect();
    Some(visible(&format!("{file} (sha256 {hash})")))
}
