//! What is recorded.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    policy::{Baseline, Endpoint, FilterOrigin, InterfaceTerms, Payload},
    session::{Grant, ProgramGrant, ProxyGrant, Relation, SessionEnd, SessionId},
};

use super::{
    arguments::{ArgumentsDigest, Values},
    hash::Hash,
    text::{Text, TextList},
};

/// Filters and interfaces of one session that are recorded.
const MAX_ITEMS: usize = 64;

/// One record; `kind` in the file is the variant's name.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Record {
    /// capwarden started.
    AgentStarted(AgentStarted),
    /// A call was decided.
    Call(Box<CallRecord>),
    /// Something became of a request for an approval.
    Approval(Box<ApprovalRecord>),
    /// A bearer's grant was made or revoked.
    Grant(Box<GrantRecord>),
    /// An operator did something to a session.
    Operator(OperatorRecord),
    /// Something became of the definition of a tool.
    Definition(Box<DefinitionRecord>),
    /// A session was opened.
    SessionOpened(Box<SessionOpened>),
    /// A capture socket was armed and handed over.
    SocketArmed(SocketArmed),
    /// A process attached a filter of its own to its capture socket.
    FilterAttached(FilterAttached),
    /// A capture socket was refused.
    SocketRefused(SocketRefused),
    /// Somebody who is not governed captures on this host, or was refused that.
    UnmanagedCapture(UnmanagedCapture),
    /// The server's network is bounded, before the server is started.
    NetworkBounded(NetworkBounded),
    /// A session for a proxy was opened.
    ProxyOpened(Box<ProxyOpened>),
    /// A session for programs was opened.
    ProgramOpened(Box<ProgramOpened>),
    /// The kernel refused the server something in its network.
    NetworkRefused(NetworkRefused),
    /// The server did not answer a call in time, or answered it after that.
    Unanswered(Unanswered),
    /// A session ended.
    SessionEnded(SessionEnd),
    /// The server was restarted for the end of a session, or could not be.
    ServerRestarted(ServerRestarted),
    /// A policy decides in place of another from now on.
    PolicyReloaded(PolicyReloaded),
    /// The policy file changed, but cannot be used: the policy that was loaded before stays.
    PolicyRefused(PolicyRefused),
    /// An agent of many servers serves this one from now on, or serves it otherwise.
    ServerServed(Box<ServerServed>),
    /// An agent of many servers serves this one no longer.
    ServerWithdrawn(ServerWithdrawn),
    /// An agent takes no more clients: its program's next version does.
    HandedOver(HandedOver),
    /// capwarden stopped.
    AgentStopped(AgentStopped),
    /// A line that was cut short by a crash was put aside. Written by [`super::Log`] itself.
    TornTail(TornTail),
}

/// A record, and the server that it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerRecord {
    /// What the server is called; none where the record says so itself, or is about no server.
    pub(super) server: Option<Text>,
    /// The record.
    pub(super) record: Record,
}

impl ServerRecord {
    /// A record about this server.
    #[must_use]
    pub fn new(server: &str, record: Record) -> Self {
        Self {
            server: (!record.names_server()).then(|| Text::new(server)),
            record,
        }
    }
}

impl From<Record> for ServerRecord {
    fn from(record: Record) -> Self {
        Self {
            server: None,
            record,
        }
    }
}

/// Every value of `kind`.
pub const KINDS: [&str; 25] = [
    "agent-started",
    "call",
    "approval",
    "grant",
    "operator",
    "definition",
    "session-opened",
    "socket-armed",
    "filter-attached",
    "socket-refused",
    "unmanaged-capture",
    "network-bounded",
    "proxy-opened",
    "program-opened",
    "network-refused",
    "unanswered",
    "session-ended",
    "server-restarted",
    "policy-reloaded",
    "policy-refused",
    "server-served",
    "server-withdrawn",
    "handed-over",
    "agent-stopped",
    "torn-tail",
];

impl Record {
    /// True if `server` is a field of the record's own.
    const fn names_server(&self) -> bool {
        matches!(
            self,
            Self::AgentStarted(_)
                | Self::Call(_)
                | Self::Approval(_)
                | Self::Grant(_)
                | Self::Definition(_)
                | Self::ServerServed(_)
                | Self::ServerWithdrawn(_)
        )
    }

    /// True if the record must be on the disk before anything else happens.
    pub(super) fn must_last(&self) -> bool {
        if let Self::Definition(definition) = self {
            // There are many of these at once, and what they say lasts elsewhere.
            return definition.became.as_str() != "first-seen";
        }
        matches!(
            self,
            Self::Approval(_)
                | Self::Grant(_)
                | Self::Operator(_)
                | Self::SessionEnded(_)
                | Self::ServerRestarted(_)
                | Self::SocketRefused(_)
                | Self::UnmanagedCapture(_)
                | Self::NetworkRefused(_)
                | Self::Unanswered(_)
                | Self::PolicyReloaded(_)
                | Self::PolicyRefused(_)
                | Self::ServerServed(_)
                | Self::ServerWithdrawn(_)
                | Self::HandedOver(_)
                | Self::AgentStopped(_)
                | Self::TornTail(_)
        )
    }
}

/// An operator did something to a session; written before it is done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperatorRecord {
    /// What: `stop`.
    pub did: Text,
    /// To which session.
    pub session: SessionId,
    /// Who: `uid:0`, `uid:1000 by sudo`.
    pub by: Text,
    /// Why, in their words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<Text>,
}

/// capwarden started.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgentStarted {
    /// capwarden's version.
    pub version: Text,
    /// What the server is called, by which grants, approvals and limits go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Text>,
    /// The server, or the command, with its arguments as they were given: secrets belong in the
    /// environment, which is not recorded.
    pub command: TextList,
    /// The policy; none for `exec` without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyFile>,
    /// Whom the governed processes run as.
    pub user: Text,
    /// The daemons that start programs for others, and that the governed processes may reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reach: Option<TextList>,
    /// The layers that this host lacks or has in part.
    pub degraded: TextList,
}

/// A policy file, as it was loaded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyFile {
    /// Its name, as it was given.
    pub file: Text,
    /// The hash of its bytes.
    pub sha256: Hash,
}

/// A server of many is served from now on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerServed {
    /// What it is called, here and in the records of its calls.
    pub server: Text,
    /// Its command, with its arguments; empty where it is not started here.
    pub command: TextList,
    /// The policy that decides its calls.
    pub policy: PolicyFile,
    /// Whom it runs as.
    pub user: Text,
    /// The daemons that start programs for others, and that it may reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reach: Option<TextList>,
}

/// A server of many is served no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerWithdrawn {
    /// What it was called.
    pub server: Text,
    /// Why.
    pub why: Text,
}

/// An agent takes no more clients. Those whom it has stay with it, under guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HandedOver {
    /// What the one is called that takes them, in its own records.
    pub to: Text,
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: Text,
    /// How many clients stay.
    pub clients: u64,
    /// How many sessions are open.
    pub sessions: u64,
}

/// A policy decides in place of another from now on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyReloaded {
    /// The new one.
    #[serde(flatten)]
    pub policy: PolicyFile,
    /// The hash of the one that decided before.
    pub before: Hash,
}

/// A policy file that cannot be used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyRefused {
    /// The policy that stays, and was loaded from the same file.
    #[serde(flatten)]
    pub stays: PolicyFile,
    /// What is wrong with the file as it is now, and where.
    pub why: Text,
}

/// A call was decided. Arguments are recorded by name and by digest: their values may be secrets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CallRecord {
    /// Whom the call is attributed to: `uid:1000`, `grant:laptop`.
    pub principal: Text,
    /// The client's connection, by a number that is unique for this agent.
    pub connection: u64,
    /// The governed server, by name.
    pub server: Text,
    /// The JSON-RPC request's id, as JSON.
    pub request: Text,
    /// The tool.
    pub tool: Text,
    /// The names of the arguments.
    pub arguments: TextList,
    /// What a suspected value of the arguments can be checked against.
    pub digest: ArgumentsDigest,
    /// The arguments that the policy wants to be recorded, with their values.
    #[serde(skip_serializing_if = "Values::is_empty")]
    pub values: Values,
    /// What the policy said.
    pub verdict: Decision,
    /// Why it was refused, as the model was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text>,
    /// The rule that decided: `policy.yaml:12:7 tools.start.capture.packets`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Text>,
    /// The policy that decided, where that is the one of the caller's grant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyFile>,
    /// Arguments that were changed, and why.
    #[serde(skip_serializing_if = "TextList::is_empty")]
    pub changes: TextList,
    /// The session that the call opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
}

/// What became of a call, in one word: that of policies, and of `policy explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// Forwarded.
    Allow,
    /// Forwarded; the tool ends captures, proxies or programs.
    Ends,
    /// A session was opened, then forwarded.
    Capture,
    /// The same, for a proxy.
    Proxy,
    /// The same, for programs; the session may have been open already.
    Program,
    /// Not forwarded.
    Deny,
    /// Not forwarded before it is approved.
    Pending,
}

/// Something became of a request for an approval. Written by the agent that made the request, or
/// that forwards the call; and by the verb with which an operator approved or denied, at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApprovalRecord {
    /// The request's id: `K7QM-2F9X`.
    pub id: Text,
    /// What became of it: `requested`, `approved`, `denied`, `used`, `given-back`, `expired`.
    pub became: Text,
    /// Who calls.
    pub principal: Text,
    /// The governed server, by name.
    pub server: Text,
    /// The tool.
    pub tool: Text,
    /// The rule that asks for the approval.
    pub rule: Text,
    /// Who approved or denied: `uid:0`, `uid:0 by sudo`, or `the client's user` where that is what the
    /// principal's client said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Text>,
    /// When that was, UTC, to the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Text>,
    /// Why it was denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<Text>,
    /// An operator's verb did it, and has a record of its own: this is the agent's, which has seen it
    /// from then on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub seen: bool,
}

/// A bearer's grant was made or revoked. Written by the verb that did it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GrantRecord {
    /// What the operator calls it: calls under it are `grant:NAME`.
    pub name: Text,
    /// Which of that name.
    pub id: Text,
    /// What became of it: `made` or `revoked`.
    pub became: Text,
    /// The server that it is for.
    pub server: Text,
    /// The policy that decides its calls, if it has one of its own, as it was when the grant was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyFile>,
    /// Who did that.
    pub by: Text,
    /// When it ends, UTC; none if it never does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Text>,
    /// Packets that no capture under it exceeds; `null` is no cap, here and below.
    pub packets: Option<u64>,
    /// Bytes in all.
    pub bytes: Option<u64>,
    /// How long.
    pub seconds: Option<f64>,
}

/// Something became of the definition of a tool. Written by the agent whose server lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DefinitionRecord {
    /// The governed server, by name.
    pub server: Text,
    /// The tool.
    pub tool: Text,
    /// What became of it: `first-seen`, which accepts it, `new`, `changed`, `unfit`,
    /// `accepted`, `forgotten` (of tool `*`, all of the server).
    pub became: Text,
    /// The hash of the definition, as `capwarden tools` shows it; none of what cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Hash>,
    /// Who accepted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Text>,
    /// When that was, UTC, to the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Text>,
    /// Why it cannot be accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<Text>,
}

/// A session was opened: what it may see.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SessionOpened {
    /// Which session.
    pub session: SessionId,
    /// The interfaces that were there when it opened.
    pub interfaces: Vec<InterfaceRecord>,
    /// Whether all interfaces were granted, later ones too.
    pub any_interface: bool,
    /// The link type of raw sockets: `EN10MB`.
    pub link: Text,
    /// A packet is seen only if all of these match it.
    pub filters: Vec<FilterRecord>,
    /// What the policy's filter leaves out of the requested one, with an example packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<Text>,
    /// Packets in all; `null` is no cap, here and below.
    pub packets: Option<u64>,
    /// Bytes in all.
    pub bytes: Option<u64>,
    /// How long.
    pub seconds: Option<f64>,
    /// When it has to end, by the wall's clock at the opening.
    pub deadline: Option<Text>,
    /// Bytes of one packet.
    pub snap: u32,
    /// `full`, `headers`, or a number of bytes after the transport header.
    pub payload: Text,
    /// The terms in one line for people.
    pub summary: Text,
}

impl SessionOpened {
    /// The record of a session that opens now.
    pub fn new(session: SessionId, grant: &Grant) -> Self {
        let terms = &grant.terms;
        let interfaces = grant.interfaces.iter().take(MAX_ITEMS);
        let interfaces = interfaces.map(|one| InterfaceRecord::new(&one.name, one.index));
        let deadline = grant.deadline;
        let filters = terms.filters.iter().map(|term| FilterRecord {
            expression: Text::new(term.expression.as_str()),
            origin: match term.origin {
                FilterOrigin::Requested => Origin::Requested,
                FilterOrigin::Policy => Origin::Policy,
            },
        });
        Self {
            session,
            interfaces: interfaces.collect(),
            any_interface: terms.interfaces == InterfaceTerms::Any,
            link: Text::new(grant.link.to_string()),
            filters: filters.take(MAX_ITEMS).collect(),
            cut: grant.cut.as_ref().map(|cut| Text::new(cut.to_string())),
            packets: terms.packets,
            bytes: terms.bytes,
            seconds: terms.duration.map(|duration| duration.as_secs_f64()),
            deadline: deadline.and_then(|deadline| wall_time_after(deadline.remaining())),
            snap: terms.snap_length,
            payload: Text::new(match terms.payload {
                Payload::Full => "full".to_owned(),
                Payload::Bytes(0) => "headers".to_owned(),
                Payload::Bytes(bytes) => bytes.to_string(),
            }),
            summary: Text::new(grant.summary()),
        }
    }
}

/// What the wall's clock will show then; none if it cannot show it.
fn wall_time_after(time: Duration) -> Option<Text> {
    let then = Timestamp::now().checked_add(time).ok()?;
    Some(Text::new(format!("{then:.6}")))
}

/// A server was ended because a session did, and started again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerRestarted {
    /// The session at whose end it was.
    pub session: SessionId,
    /// How long clients could not be served.
    pub milliseconds: u64,
    /// Why there is no server any more; not there if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<Text>,
}

/// What a server may do with the network without a session.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NetworkBounded {
    /// Where it may listen, as a policy writes it.
    pub listen: TextList,
    /// Whom it may connect and send to.
    pub connect: TextList,
}

impl NetworkBounded {
    /// The record of a baseline.
    pub fn new(baseline: &Baseline) -> Self {
        Self {
            listen: texts(&baseline.listen),
            connect: texts(&baseline.connect),
        }
    }
}

fn texts(endpoints: &[Endpoint]) -> TextList {
    let texts = endpoints.iter().map(ToString::to_string);
    texts.collect()
}

/// `api.example is 10.0.0.1, 10.0.0.2`.
fn names(known: &[(String, BTreeSet<IpAddr>)]) -> TextList {
    let names = known.iter().map(|(name, addresses)| {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        format!("{name} is {}", addresses.join(", "))
    });
    names.collect()
}

/// A session for a proxy was opened: what its sockets may do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProxyOpened {
    /// Which session.
    pub session: SessionId,
    /// Where they may listen, as a policy writes it.
    pub listen: TextList,
    /// Whom they may connect and send to.
    pub upstream: TextList,
    /// What the names among these stood for: `api.example is 10.0.0.1, 10.0.0.2`.
    pub names: TextList,
    /// The interfaces that were there when it opened; none where all are granted.
    pub interfaces: Vec<InterfaceRecord>,
    /// Packets in both directions; `null` is no cap, here and below.
    pub packets: Option<u64>,
    /// Bytes in each direction.
    pub bytes: Option<u64>,
    /// TCP connections accepted, and as many begun.
    pub connections: Option<u64>,
    /// How long.
    pub seconds: Option<f64>,
    /// When it has to end, by the wall's clock at the opening.
    pub deadline: Option<Text>,
    /// The terms in one line for people.
    pub summary: Text,
}

impl ProxyOpened {
    /// The record of a session that opens now.
    pub fn new(session: SessionId, grant: &ProxyGrant) -> Self {
        let terms = &grant.terms;
        let interfaces = grant.interfaces.iter().take(MAX_ITEMS);
        let interfaces = interfaces.map(|one| InterfaceRecord::new(&one.name, one.index));
        let deadline = grant.deadline;
        Self {
            session,
            listen: texts(&terms.listen),
            upstream: texts(&terms.upstream),
            names: names(&grant.names),
            interfaces: interfaces.collect(),
            packets: terms.packets,
            bytes: terms.bytes,
            connections: terms.connections,
            seconds: terms.duration.map(|duration| duration.as_secs_f64()),
            deadline: deadline.and_then(|deadline| wall_time_after(deadline.remaining())),
            summary: Text::new(grant.summary()),
        }
    }
}

/// A session for programs was opened: what they may do together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProgramOpened {
    /// Which session.
    pub session: SessionId,
    /// Whom they may connect and send to, as a policy writes it.
    pub connect: TextList,
    /// What the names among these stood for: `api.example is 10.0.0.1, 10.0.0.2`.
    pub names: TextList,
    /// Processes at a time; `null` is no cap, here and below.
    pub processes: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Packets in both directions.
    pub packets: Option<u64>,
    /// Bytes in each direction.
    pub bytes: Option<u64>,
    /// TCP connections begun.
    pub connections: Option<u64>,
    /// How long.
    pub seconds: f64,
    /// When it has to end, by the wall's clock at the opening.
    pub deadline: Option<Text>,
    /// The terms in one line for people.
    pub summary: Text,
}

impl ProgramOpened {
    /// The record of a session that opens now.
    pub fn new(session: SessionId, grant: &ProgramGrant) -> Self {
        let terms = &grant.terms;
        Self {
            session,
            connect: texts(&terms.connect),
            names: names(&grant.names),
            processes: terms.processes,
            memory: terms.memory,
            packets: terms.packets,
            bytes: terms.bytes,
            connections: terms.connections,
            seconds: terms.duration.as_secs_f64(),
            deadline: wall_time_after(grant.deadline.remaining()),
            summary: Text::new(grant.summary()),
        }
    }
}

/// The kernel refused the server something in its network. The process got EPERM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkRefused {
    /// The session by whose caps it was refused; none where nothing allows it at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// What: `connect to 10.0.0.1:80 (tcp)`.
    pub what: Text,
    /// How many of its kind this stands for, of which it is the last: a flood is counted.
    #[serde(skip_serializing_if = "is_one")]
    pub times: u64,
}

/// The server did not answer a call in time, and capwarden did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unanswered {
    /// The client's connection.
    pub connection: u64,
    /// The request's id, as JSON.
    pub call: Text,
    /// The session that the call had opened; none where this tells of the late answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// What became of it: `the session ended`, `the session goes on`, `a late answer was dropped`.
    pub what: Text,
}

/// An interface, by the name it had and the index that the kernel checks. Index 0, name `any`: all
/// interfaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterfaceRecord {
    /// The name when the session opened.
    pub name: Text,
    /// The interface index.
    pub index: u32,
}

impl InterfaceRecord {
    fn new(name: &str, index: u32) -> Self {
        Self {
            name: Text::new(name),
            index,
        }
    }
}

/// A capture filter and who wanted it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FilterRecord {
    /// In libpcap's language.
    pub expression: Text,
    /// Who wanted it.
    pub origin: Origin,
}

/// Who wanted a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The call, or the command line.
    Requested,
    /// The policy.
    Policy,
}

/// A capture socket was armed and handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SocketArmed {
    /// The session it counts for.
    pub session: SessionId,
    /// The process.
    pub pid: u32,
    /// The thread that asked.
    pub thread: u32,
    /// What the process calls itself. It chose that name.
    pub comm: Text,
    /// The kind of socket: `raw`, `datagram`, …
    pub socket: Text,
}

/// A process attached a filter of its own to its capture socket. What is delivered to that socket
/// passes the filters of its terms and this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FilterAttached {
    /// Whose socket.
    #[serde(flatten)]
    pub socket: SocketArmed,
    /// How many instructions it has.
    pub instructions: usize,
    /// The hash of its instructions, as the kernel takes them.
    pub sha256: Hash,
    /// `same`, `narrower`, `wider` or `different` from what was asked for, among the packets that
    /// the policy allows; or `unknown`.
    pub relation: Text,
    /// A packet that it accepts though it was not asked for. The grant drops it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adds: Option<Text>,
    /// A packet that was asked for and that it does not accept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaves_out: Option<Text>,
    /// Why the relation is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<Text>,
}

impl FilterAttached {
    /// The record of a filter.
    pub fn new(socket: SocketArmed, instructions: usize, sha256: Hash, relation: Relation) -> Self {
        let (relation, adds, leaves_out, why) = match relation {
            Relation::Same => ("same", None, None, None),
            Relation::Narrower { leaves_out } => ("narrower", None, Some(leaves_out), None),
            Relation::Wider { adds } => ("wider", Some(adds), None, None),
            Relation::Different { adds, leaves_out } => {
                ("different", Some(adds), Some(leaves_out), None)
            }
            Relation::Unknown { why } => ("unknown", None, None, Some(why)),
        };
        Self {
            socket,
            instructions,
            sha256,
            relation: relation.into(),
            adds: adds.map(Text::new),
            leaves_out: leaves_out.map(Text::new),
            why: why.map(Text::new),
        }
    }
}

/// A capture socket, or a filter on one, was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SocketRefused {
    /// The process.
    pub pid: u32,
    /// What the process calls itself. It chose that name.
    pub comm: Text,
    /// Why.
    pub why: Text,
    /// How many of its kind this stands for, of which it is the last: a flood is counted.
    #[serde(skip_serializing_if = "is_one")]
    pub times: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_one(number: &u64) -> bool {
    *number == 1
}

/// Somebody who is not governed captures on this host, or was refused that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnmanagedCapture {
    /// The process.
    pub pid: u32,
    /// What the process calls itself. It chose that name.
    pub comm: Text,
    /// Its user.
    pub user: u32,
    /// The file that it executes; only its name, where the process has gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<Text>,
    /// The interfaces that its sockets are bound to, where they are known.
    #[serde(skip_serializing_if = "TextList::is_empty")]
    pub interfaces: TextList,
    /// `refused`, `seen`, `found` where it was there already, or `lost` where there were more at a time than could be told
    /// of: who they were is not known.
    pub became: Text,
    /// How many of its kind this stands for, of which it is the last.
    #[serde(skip_serializing_if = "is_one")]
    pub times: u64,
}

/// capwarden stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AgentStopped {
    /// Why: `the client closed the connection`, `the server exited`, `SIGTERM`, …
    pub why: Text,
    /// The exit status that capwarden passes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
}

/// A fragment was found where the last line should end, and put aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TornTail {
    /// Its length.
    pub bytes: u64,
    /// The hash of its bytes.
    pub sha256: Hash,
    /// The file that keeps it.
    pub kept: Text,
}
