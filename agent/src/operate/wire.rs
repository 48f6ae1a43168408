//! What agents and the operators' verbs say to each other.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::session::{EndReason, SessionId, Snapshot};

/// The longest line, in bytes, without its end.
pub const LONGEST_LINE: usize = 64 << 10;
/// Bytes of one text.
const LONGEST_TEXT: usize = 1 << 10;

/// What an operator asks of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What is going on?
    Sessions {
        /// At this server alone; an agent that does not serve it says nothing of itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<String>,
    },
    /// The same again and again, and what happens in between.
    Watch {
        /// How often, in milliseconds: from 100 to 10,000.
        every_ms: u64,
    },
    /// End these sessions, or all.
    Stop {
        /// Which: `AGENT/s3`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        sessions: Vec<String>,
        /// All of them.
        #[serde(default)]
        all: bool,
        /// Why, for the record.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
        /// The user who called sudo, if it was called.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sudo_uid: Option<u32>,
    },
}

/// What an agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// One of the servers, or the command, of the process.
    Agent(Agent),
    /// A session that is open.
    Session(Box<Live>),
    /// These were all, at this moment (RFC 3339).
    Moment(String),
    /// Something happened.
    Event(Event),
    /// So many events could not be told in time.
    Missed(u64),
    /// These are being ended.
    Stopping(Vec<String>),
    /// One of them has ended.
    Ended(Ended),
    /// What was asked for is done.
    Done {},
    /// It is not done, for this reason.
    Refused(String),
}

/// One governed server, or a command, and the process that watches over it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// What it is called in the audit log: 16 hexadecimal digits.
    pub agent: String,
    /// Its process.
    pub pid: u32,
    /// What the server is called; the command's file name under `exec`.
    pub server: String,
    /// How many servers it serves, where that may be any number; none where it is this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serves: Option<usize>,
    /// Where its audit log is.
    pub audit: String,
    /// When it was started (RFC 3339).
    pub started: String,
    /// capwarden's version; none if it is one that does not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The process that takes clients in its place, if one does: it serves those whom it has until they leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<u32>,
}

/// A session that is open, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// What tells it from every other on the host: `AGENT/s3`.
    pub id: String,
    /// The agent's name in the audit log.
    pub agent: String,
    /// The agent's process.
    pub pid: u32,
    /// What the server is called.
    pub server: String,
    /// Who asked for it, as soon as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<Who>,
    /// When it was opened (RFC 3339).
    pub started: String,
    /// The agent's version; none if it is one that does not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The process that takes clients in its agent's place, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<u32>,
    /// What it has come to.
    #[serde(flatten)]
    pub now: Snapshot,
}

/// Who asked for a session, and by what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// `uid:1000`, `grant:laptop`.
    pub principal: String,
    /// The id of the bearer's grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// The tool; under `exec`, the command.
    pub tool: String,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When (RFC 3339).
    pub at: String,
    /// The agent's name in the audit log.
    pub agent: String,
    /// What its server is called.
    pub server: String,
    /// The session, if it belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// What.
    pub kind: EventKind,
    /// The same for people.
    pub text: String,
    /// Why the session ended, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<EndReason>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A session was opened.
    Opened,
    /// One has ended.
    Ended,
    /// A call was denied.
    Denied,
    /// The kernel refused a governed process something.
    Refused,
    /// Something became of a request for an approval.
    Approval,
    /// The server was restarted, or could not be.
    Restarted,
}

/// How a session ended that was to be stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Which: `AGENT/s3`.
    pub session: String,
    /// Why; none if it is not known, as nothing was heard of it in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<EndReason>,
    /// The same for people, with what it came to.
    pub text: String,
}

/// A text from outside, bounded.
pub(super) fn short(text: &str) -> String {
    if text.len() <= LONGEST_TEXT {
        return text.to_owned();
    }
    let kept = text.get(..text.floor_char_boundary(LONGEST_TEXT));
    format!("{}…", kept.unwrap_or_default())
}

/// This moment, as it is written.
pub(super) fn now() -> String {
    format!("{:.3}", Timestamp::now())
}

impl Live {
    /// The same with its texts bounded, so that it fits on a line.
    pub(super) fn bounded(mut self) -> Self {
        let its = &mut self.now;
        its.granted = short(&its.granted);
        for text in [&mut its.asked, &mut its.within, &mut its.cut] {
            *text = text.as_deref().map(short);
        }
        self
    }

    /// The id as people see it: with the beginning of the agent's name.
    #[must_use]
    pub fn short_id(&self) -> String {
        short_id(&self.id)
    }

    /// `agent process 812`, and what there is to say of it after an upgrade.
    #[must_use]
    pub fn agent_words(&self) -> String {
        let agent = format!("agent process {}", self.pid);
        match (&self.version, self.replaced_by) {
            (Some(version), Some(by)) => {
                format!(
                    "{agent} (version {}, replaced by process {by})",
                    short(version)
                )
            }
            _ => agent,
        }
    }
}

impl Ended {
    /// The same.
    #[must_use]
    pub fn short_id(&self) -> String {
        short_id(&self.session)
    }
}

/// `5f1c2a9b/s3` of `5f1c2a9b7d0e1f23/s3`.
#[must_use]
pub fn short_id(id: &str) -> String {
    match id.split_once('/') {
        Some((agent, session)) => {
            let agent: String = agent.chars().take(8).collect();
            format!("{agent}/{session}")
        }
        None => id.to_owned(),
    }
}
