//! What the log says about one session.

use std::{
    collections::BTreeSet,
    io::BufReader,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::super::{
    error::AuditError,
    line::{Entry, next_line},
    verify::snapshot,
};

/// What lies between a moment and its record at most, on a host that is not quite stuck. More is a clock that was set.
const UNSET: SignedDuration = SignedDuration::from_secs(5);

/// A session's grant, as it was recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Granted {
    /// The agent.
    pub agent: String,
    /// The session: `s1`.
    pub session: String,
    /// When the record was written.
    pub opened: Timestamp,
    /// The interfaces that were there, by name and index.
    pub interfaces: Vec<(String, u32)>,
    /// Whether all interfaces were granted; none in logs of older versions.
    pub any_interface: Option<bool>,
    /// The link type of raw sockets; none in logs of older versions.
    pub link: Option<String>,
    /// The filters, as far as they were recorded.
    pub filters: Vec<String>,
    /// Packets in all.
    pub packets: Option<u64>,
    /// Bytes in all, as captured.
    pub bytes: Option<u64>,
    /// When it had to end.
    pub deadline: Option<Timestamp>,
    /// Bytes of one packet.
    pub snap: u64,
    /// Bytes after the transport header; none if there is no such limit.
    pub payload: Option<u64>,
    /// How it ended; none if the log does not say so (yet).
    pub ended: Option<Ended>,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When the record was written.
    pub time: Timestamp,
    /// Packets that the guard delivered.
    pub packets: u64,
    /// Bytes that the guard delivered.
    pub bytes: u64,
    /// How long it lasted, by a clock that nobody sets; none in logs of older versions.
    pub lasted: Option<SignedDuration>,
}

/// When a session's packets may have come, by the host's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// When the session opened; earlier by as much as the clock was set back meanwhile.
    pub(super) first: Timestamp,
    /// When it was over, if that is known; later by as much as the clock was set on meanwhile.
    pub(super) last: Option<Timestamp>,
    /// How far the clock was set while the session was open, if it was.
    pub(super) set: Option<SignedDuration>,
}

impl Granted {
    /// The window. That the clock was set is seen by the times of the records, which do not fit how long the
    /// session lasted. The guard's own deadline knows of no such clock.
    pub(super) fn window(&self) -> Window {
        let set = self.clock_set();
        let by = set.unwrap_or_default();
        let moved = |time: Timestamp, by: SignedDuration| time.saturating_add(by).unwrap_or(time);
        let ended = self.ended.map(|ended| moved(ended.time, -by));
        let last = match (self.deadline, ended) {
            (Some(deadline), Some(ended)) => Some(deadline.min(ended)),
            (deadline, ended) => deadline.or(ended),
        };
        Window {
            first: moved(self.opened, by.min(SignedDuration::ZERO)),
            last: last.map(|last| moved(last, by.max(SignedDuration::ZERO))),
            set,
        }
    }

    fn clock_set(&self) -> Option<SignedDuration> {
        let ended = self.ended?;
        let by = ended
            .time
            .duration_since(self.opened)
            .saturating_sub(ended.lasted?);
        (by > UNSET || by < -UNSET).then_some(by)
    }
}

/// Why there is no grant to check against.
#[derive(Debug, thiserror::Error)]
pub enum NoSession {
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] AuditError),
    /// None of its lines is a record.
    #[error("{} is no audit log: none of its lines is a record", .0.display())]
    NotALog(PathBuf),
    /// No such session was opened.
    #[error("the log has no session {session}{}", there_are(.known))]
    NotFound {
        /// What was asked for.
        session: String,
        /// Some that there are.
        known: Vec<String>,
    },
    /// More than one agent had a session with this number.
    #[error("session {session} was opened by more than one agent: {}", .agents.join(", "))]
    Ambiguous {
        /// What was asked for.
        session: String,
        /// The agents.
        agents: Vec<String>,
    },
    /// The record lacks what every version wrote.
    #[error("the record of session {session} has no usable `{field}`")]
    Damaged {
        /// What was asked for.
        session: String,
        /// The field.
        field: &'static str,
    },
}

fn there_are(known: &[String]) -> String {
    if known.is_empty() {
        String::new()
    } else {
        format!("; it has {}", known.join(", "))
    }
}

/// Sessions and agents that a message names.
const SHOWN: usize = 16;

/// Looks a session up: `s1`, of the agent whose name begins so.
///
/// # Errors
///
/// There is no such session, or more than one.
pub fn find_session(path: &Path, session: &str, agent: Option<&str>) -> Result<Granted, NoSession> {
    let mut stream = BufReader::new(snapshot(path)?);
    let mut opened: Option<Entry> = None;
    let mut ended: Option<Entry> = None;
    let (mut agents, mut known) = (BTreeSet::new(), BTreeSet::new());
    let (mut lines, mut records) = (false, false);
    while let Some(line) = next_line(&mut stream).map_err(|source| AuditError::Read {
        path: path.to_owned(),
        source,
    })? {
        lines = true;
        let Ok(entry) = Entry::parse(&line.bytes) else {
            continue; // the chain's verification has named it
        };
        records = true;
        let name = entry.text("session").unwrap_or_default();
        if !agent.is_none_or(|agent| entry.agent.starts_with(agent)) {
            continue;
        }
        match entry.kind.as_str() {
            "session-opened" if name == session => {
                if agents.len() < SHOWN {
                    agents.insert(entry.agent.clone());
                }
                opened.get_or_insert(entry);
            }
            "session-opened" if known.len() < SHOWN => {
                known.insert(name.to_owned());
            }
            "session-ended" if name == session => {
                let same = opened.as_ref().is_some_and(|one| one.agent == entry.agent);
                if same {
                    ended.get_or_insert(entry);
                }
            }
            _ => {}
        }
    }
    if lines && !records {
        return Err(NoSession::NotALog(path.to_owned()));
    }
    let session = session.to_owned();
    let Some(opened) = opened else {
        let known = known.into_iter().collect();
        return Err(NoSession::NotFound { session, known });
    };
    if agents.len() > 1 {
        let agents = agents.into_iter().collect();
        return Err(NoSession::Ambiguous { session, agents });
    }
    granted(&opened, ended.as_ref()).map_err(|field| NoSession::Damaged { session, field })
}

fn granted(opened: &Entry, ended: Option<&Entry>) -> Result<Granted, &'static str> {
    let field = |name: &str| opened.fields.get(name).filter(|value| !value.is_null());
    let number = |name: &'static str| match field(name) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or(name),
    };
    let list = |name: &'static str| field(name).and_then(Value::as_array).ok_or(name);
    let time: Timestamp = opened.time.parse().map_err(|_| "time")?;
    let interfaces = list("interfaces")?.iter().map(|interface| {
        let name = interface.get("name").and_then(Value::as_str)?;
        let index = interface.get("index").and_then(Value::as_u64)?;
        Some((name.to_owned(), u32::try_from(index).ok()?))
    });
    let filters = list("filters")?.iter().map(|filter| {
        let expression = filter.get("expression").and_then(Value::as_str)?;
        Some(expression.to_owned())
    });
    let payload = match opened.text("payload").ok_or("payload")? {
        "full" => None,
        "headers" => Some(0),
        bytes => Some(bytes.parse().map_err(|_| "payload")?),
    };
    let deadline = match opened.text("deadline") {
        Some(deadline) => Some(deadline.parse().map_err(|_| "deadline")?),
        // Logs of older versions say how long only.
        None => match field("seconds") {
            None => None,
            Some(seconds) => {
                let seconds = seconds.as_f64().ok_or("seconds")?;
                let duration = std::time::Duration::try_from_secs_f64(seconds);
                let duration = duration.map_err(|_| "seconds")?;
                Some(time.checked_add(duration).map_err(|_| "seconds")?)
            }
        },
    };
    let ended = ended.map(|entry| {
        let count = |name: &'static str| entry.fields.get(name).and_then(Value::as_u64).ok_or(name);
        Ok::<_, &'static str>(Ended {
            time: entry.time.parse().map_err(|_| "time")?,
            packets: count("packets")?,
            bytes: count("bytes")?,
            lasted: count("milliseconds")
                .ok()
                .and_then(|lasted| i64::try_from(lasted).ok())
                .map(SignedDuration::from_millis),
        })
    });
    Ok(Granted {
        agent: opened.agent.clone(),
        session: opened.text("session").ok_or("session")?.to_owned(),
        opened: time,
        interfaces: interfaces.collect::<Option<_>>().ok_or("interfaces")?,
        any_interface: field("any_interface").and_then(Value::as_bool),
        link: opened.text("link").map(str::to_owned),
        filters: filters.collect::<Option<_>>().ok_or("filters")?,
        packets: number("packets")?,
        bytes: number("bytes")?,
        deadline,
        snap: number("snap")?.ok_or("snap")?,
        payload,
        ended: ended.transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A session of 15 seconds that was open for 16, by records of these times.
    fn session(opened: &str, deadline: &str, ended: &str) -> Granted {
        let entry = |kind: &str, time: &str, fields: Value| {
            let mut entry = json!({
                "seq": 1, "time": time, "agent": "a", "prev": "0".repeat(64), "kind": kind, "session": "s1",
                "interfaces": [], "filters": [], "payload": "full", "snap": 65535
            });
            let fields = fields.as_object().unwrap().clone();
            entry.as_object_mut().unwrap().extend(fields);
            Entry::parse(entry.to_string().as_bytes()).unwrap()
        };
        let opened = entry("session-opened", opened, json!({ "deadline": deadline }));
        let counts = json!({ "packets": 1, "bytes": 1, "milliseconds": 16_000 });
        let ended = entry("session-ended", ended, counts);
        granted(&opened, Some(&ended)).unwrap()
    }

    #[test]
    fn window_is_from_the_opening_to_the_deadline() {
        let granted = session(
            "2026-11-20T09:00:00Z",
            "2026-11-20T09:00:15Z",
            "2026-11-20T09:00:17Z",
        );
        let window = granted.window();
        assert_eq!(window.first, granted.opened);
        assert_eq!(window.last, granted.deadline);
        assert_eq!(window.set, None);
    }

    #[test]
    fn window_is_wider_by_as_much_as_the_clock_was_set() {
        let at = |time: &str| time.parse::<Timestamp>().unwrap();
        let day = SignedDuration::from_hours(24);
        let (opened, deadline) = ("2026-11-20T09:00:00Z", "2026-11-20T09:00:15Z");
        let on = session(opened, deadline, "2026-11-21T09:00:16Z").window();
        assert_eq!(on.set, Some(day));
        assert_eq!(on.first, at(opened));
        assert_eq!(on.last, Some(at("2026-11-21T09:00:15Z")));
        let back = session(opened, deadline, "2026-11-19T09:00:16Z").window();
        assert_eq!(back.set, Some(-day));
        assert_eq!(back.first, at("2026-11-19T09:00:00Z"));
        assert_eq!(back.last, Some(at(deadline)));
    }

    #[test]
    fn session_that_goes_on_says_nothing_of_clocks() {
        let mut granted = session(
            "2026-11-20T09:00:00Z",
            "2026-11-20T09:00:15Z",
            "2026-11-21T09:00:00Z",
        );
        granted.ended = None;
        assert_eq!(granted.window().set, None);
        granted.deadline = None;
        assert_eq!(granted.window().last, None);
    }
}
