//! What the log says about one session.

use std::{
    collections::BTreeSet,
    io::BufReader,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde_json::Value;

use super::super::{
    error::AuditError,
    line::{Entry, next_line},
    verify::snapshot,
};

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
