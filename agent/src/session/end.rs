//! How a session ended.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de};

use super::Protocols;
use crate::words::counted;

/// A session's number within one agent, written `s1`, `s2`, … for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u32);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

impl Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for SessionId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.strip_prefix('s');
        let plain = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        let number = plain.and_then(|number| number.parse().ok());
        number.map(Self).ok_or("a session is called s1, s2, …")
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionKind {
    /// A capture.
    Capture,
    /// A proxy.
    Proxy,
    /// Programs that the server starts.
    Program,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// The packet cap was reached.
    PacketCap,
    /// The byte cap was reached.
    ByteCap,
    /// The cap on processes was reached.
    ProcessCap,
    /// The cap on memory was reached.
    MemoryCap,
    /// The time was up.
    Deadline,
    /// A tool that ends captures, proxies or programs was called.
    StopCall,
    /// An operator stopped it.
    Stopped,
    /// The capturing process, the command of `exec` or the programs ended by themselves.
    Closed,
    /// No process came to use the grant.
    Unused,
    /// The call that opened the session failed.
    CallFailed,
    /// The MCP client closed the connection.
    ClientClosed,
    /// The MCP server exited.
    ServerExit,
    /// The MCP server is restarted, as the end of another session demands.
    ServerRestart,
    /// The agent is shutting down, or can no longer vouch for the grant.
    Revoked,
    /// The governed processes did what no grant allows.
    Violation,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PacketCap => "the packet cap was reached",
            Self::ByteCap => "the byte cap was reached",
            Self::ProcessCap => "the process cap was reached",
            Self::MemoryCap => "the memory cap was reached",
            Self::Deadline => "the deadline passed",
            Self::StopCall => "it was stopped by a call",
            Self::Stopped => "an operator stopped it",
            Self::Closed => "the capturing process ended",
            Self::Unused => "no process opened a capture socket",
            Self::CallFailed => "the call failed",
            Self::ClientClosed => "the client closed the connection",
            Self::ServerExit => "the server exited",
            Self::ServerRestart => "the server is restarted",
            Self::Revoked => "capwarden ended it",
            Self::Violation => "the governed processes broke their confinement",
        })
    }
}

/// What a session came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionEnd {
    /// Which session.
    pub session: SessionId,
    /// Why it ended.
    pub reason: EndReason,
    /// Packets delivered by the guard.
    pub packets: u64,
    /// Bytes delivered by the guard, as captured.
    pub bytes: u64,
    /// Capture sockets that were armed.
    pub sockets: u32,
    /// How long it lasted, in milliseconds.
    pub milliseconds: u64,
    /// What a capture's guard delivered, by protocol.
    #[serde(skip_serializing_if = "Protocols::is_empty")]
    pub protocols: Protocols,
    /// What passed a proxy. Its packets and bytes above are those of both directions.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyCounts>,
    /// What programs came to. Their packets and bytes above are those of both directions.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramEnd>,
}

/// What the programs of a session came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProgramEnd {
    /// The most processes that ran at a time.
    pub peak_processes: u64,
    /// The most memory that they had together, in bytes; none where no cap made the kernel count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<u64>,
    /// What passed their sockets.
    #[serde(flatten)]
    pub passed: ProxyCounts,
}

/// What passed the sockets of a proxy, and what did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProxyCounts {
    /// Bytes to the server's sockets, IP headers included.
    pub bytes_in: u64,
    /// Bytes from them.
    pub bytes_out: u64,
    /// TCP connections accepted.
    pub accepted: u64,
    /// TCP connections begun.
    pub made: u64,
    /// Packets that did not pass.
    pub dropped: u64,
    /// Connections that were too many.
    pub refused: u64,
    /// What the kernel refused meanwhile, to this session or another, and could not tell of: it was
    /// more than its queue holds.
    #[serde(skip_serializing_if = "is_zero")]
    pub lost: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl SessionEnd {
    /// What the session was for.
    #[must_use]
    pub fn kind(&self) -> SessionKind {
        match (self.proxy, self.program) {
            (None, None) => SessionKind::Capture,
            (Some(_), None) => SessionKind::Proxy,
            (_, Some(_)) => SessionKind::Program,
        }
    }

    /// Why it ended, in the words of its kind.
    #[must_use]
    pub fn why(&self) -> String {
        match (self.kind(), self.reason) {
            (SessionKind::Program, EndReason::Closed) => "its programs ended".to_owned(),
            (SessionKind::Program, EndReason::Unused) => "no program was started".to_owned(),
            (_, reason) => reason.to_string(),
        }
    }
}

/// `session s1 ended: the packet cap was reached (1000 packets, 64000 bytes)`.
impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            session,
            packets,
            bytes,
            ..
        } = self;
        let reason = self.why();
        write!(
            f,
            "session {session} ended: {reason} ({}, {})",
            counted(*packets, "packet"),
            counted(*bytes, "byte")
        )
    }
}
