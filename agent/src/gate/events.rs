//! What the gate asks of the policy, and what it tells whoever keeps the record.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};

use super::TraceParent;
use crate::{
    policy::{Call, Change, Denial, Policy, RuleRef, Said, Verdict},
    principal::Caller,
    session::SessionId,
};

/// Decides calls. All methods may be called from any task, and must not block.
pub trait Decide: Send + Sync + 'static {
    /// What was reserved for a call, until it is known how it ended. One that is dropped without
    /// [`Self::settle`] counts as used.
    type Ticket: Send + 'static;

    /// Whether this caller may know of the tool.
    fn visible(&self, caller: &Caller, tool: &str) -> bool;

    /// The rule for which a tool is not visible, for the record.
    fn hidden_by(&self, _caller: &Caller, _tool: &str) -> Option<RuleRef> {
        None
    }

    /// The policy that decided a call, for the record; without a ticket, the one that would decide the
    /// caller's now.
    fn decided_by(&self, _caller: &Caller, _ticket: Option<&Self::Ticket>) -> Option<DecidedBy> {
        None
    }

    /// Changes whenever other tools are visible than before, so that clients can be told. Without
    /// a sender, that never happens.
    fn changes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    /// The server listed a tool that is visible, to this caller and in these words. Returns whether it
    /// is shown.
    fn listed(&self, _caller: &Caller, _tool: &str, _definition: &str) -> bool {
        true
    }

    /// The server's list, or the last page of it, is at its end.
    fn list_ended(&self, _caller: &Caller) {}

    /// What is to be done with a call, and what was reserved for it. Messages of the same
    /// connection wait meanwhile.
    fn decide(
        &self,
        caller: &Caller,
        call: &Call,
    ) -> impl Future<Output = (Verdict, Self::Ticket)> + Send;

    /// Whether the `requestState` of a call is of a question of this policy's, and not of the server.
    fn asked(&self, _state: &str) -> bool {
        false
    }

    /// Takes what a client's user said about a call, to the question that had this state. The call
    /// is decided anew then. The error is what is to be answered in place of that.
    fn answer(
        &self,
        _caller: &Caller,
        _call: &Call,
        _state: &str,
        _said: Said,
    ) -> impl Future<Output = Result<(), Box<Denial>>> + Send {
        std::future::ready(Ok(()))
    }

    /// How a call ended that was decided: told once for each decision, those to deny included.
    fn settle(&self, ticket: Self::Ticket, end: CallEnd);
}

/// Shared by several.
impl<T: Decide> Decide for Arc<T> {
    type Ticket = T::Ticket;

    fn visible(&self, caller: &Caller, tool: &str) -> bool {
        T::visible(self, caller, tool)
    }

    fn hidden_by(&self, caller: &Caller, tool: &str) -> Option<RuleRef> {
        T::hidden_by(self, caller, tool)
    }

    fn decided_by(&self, caller: &Caller, ticket: Option<&T::Ticket>) -> Option<DecidedBy> {
        T::decided_by(self, caller, ticket)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        T::changes(self)
    }

    fn listed(&self, caller: &Caller, tool: &str, definition: &str) -> bool {
        T::listed(self, caller, tool, definition)
    }

    fn list_ended(&self, caller: &Caller) {
        T::list_ended(self, caller);
    }

    fn decide(
        &self,
        caller: &Caller,
        call: &Call,
    ) -> impl Future<Output = (Verdict, T::Ticket)> + Send {
        T::decide(self, caller, call)
    }

    fn asked(&self, state: &str) -> bool {
        T::asked(self, state)
    }

    fn answer(
        &self,
        caller: &Caller,
        call: &Call,
        state: &str,
        said: Said,
    ) -> impl Future<Output = Result<(), Box<Denial>>> + Send {
        T::answer(self, caller, call, state, said)
    }

    fn settle(&self, ticket: T::Ticket, end: CallEnd) {
        T::settle(self, ticket, end);
    }
}

/// The policy that decided a call.
#[derive(Clone, Debug, PartialEq)]
pub struct DecidedBy {
    /// The policy.
    pub policy: Arc<Policy>,
    /// It is that of the caller's grant, not the one that decides where a grant names none.
    pub own: bool,
}

/// What is known of a call besides what it asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Noted {
    /// The policy that decided it: it says too what is recorded of it.
    pub decided_by: Option<DecidedBy>,
    /// The span of its caller's that it is a part of.
    pub parent: Option<TraceParent>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallEnd {
    /// The server answered it.
    Answered,
    /// The server answered it with a result that says `isError`.
    ToolFailed,
    /// The server answered it with a JSON-RPC error.
    RpcError,
    /// The server asks for input first: the call will come again, as a new one.
    InputRequired,
    /// It was denied, or could not be forwarded.
    NotForwarded,
    /// The client took it back before it was forwarded.
    Cancelled,
    /// It was forwarded and nobody knows what became of it: the server or the client has gone, or
    /// the client gave it up and its answer did not come.
    Lost,
}

/// Is told of everything that the gate decides. Must not block.
pub trait Observer: Send + Sync + 'static {
    /// Takes note of an event.
    fn observe(&self, event: GateEvent);
}

/// Shared by several.
impl<T: Observer> Observer for Arc<T> {
    fn observe(&self, event: GateEvent) {
        T::observe(self, event);
    }
}

/// Takes no note.
impl Observer for () {
    fn observe(&self, _: GateEvent) {}
}

impl Observer for mpsc::UnboundedSender<GateEvent> {
    fn observe(&self, event: GateEvent) {
        // Nobody listens any more: nobody wants to know.
        let _ = self.send(event);
    }
}

/// Something that the gate decided or saw.
#[derive(Clone, Debug, PartialEq)]
pub enum GateEvent {
    /// A `tools/call` was decided.
    Call(Box<CallEvent>),
    /// The server answered a `tools/call` that was let through.
    Answer(AnswerEvent),
    /// The client cancelled a `tools/call`.
    Cancelled {
        /// The client's connection.
        connection: u64,
        /// The request's id, as JSON.
        id: String,
        /// The session that ended with it.
        session: Option<SessionId>,
    },
    /// The server did not answer a `tools/call` in time, and the gate did.
    Unanswered {
        /// The client's connection.
        connection: u64,
        /// The request's id, as JSON.
        id: String,
        /// The session that it opened.
        session: SessionId,
        /// How long the server had.
        within: Duration,
        /// The session was ended, as nobody had listened.
        ended: bool,
    },
    /// The server answered that call after all, which is not let through.
    Late {
        /// The client's connection.
        connection: u64,
        /// The request's id, as JSON.
        id: String,
    },
    /// A line was not let through. Where many are, not each is told of.
    Dropped {
        /// Who sent it.
        from: Side,
        /// How long it was.
        bytes: u64,
        /// Why.
        why: String,
        /// How many lines were dropped since the last that was told of, this one included.
        lines: u64,
    },
}

/// Who sent a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The MCP client.
    Client,
    /// The MCP server.
    Server,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "the client",
            Self::Server => "the server",
        })
    }
}

/// A call and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct CallEvent {
    /// Who calls.
    pub caller: Caller,
    /// The request's id, as JSON; none for a notification.
    pub id: Option<String>,
    /// The tool.
    pub tool: String,
    /// Its arguments, as the client sent them. Their values may be secret: nobody may show them.
    pub arguments: Map<String, Value>,
    /// What else is known of it.
    pub noted: Noted,
    /// What was decided.
    pub verdict: CallVerdict,
    /// The rule that decided.
    pub rule: Option<RuleRef>,
}

/// What was decided on a call.
#[derive(Clone, Debug, PartialEq)]
pub enum CallVerdict {
    /// Forwarded as it was.
    Forwarded,
    /// Forwarded as it was; its answer ends a session.
    EndsCapture,
    /// Forwarded with a session opened for it.
    Captures {
        /// The session.
        session: SessionId,
        /// What was granted, in one line.
        granted: String,
        /// What was changed in the call.
        changes: Vec<Change>,
    },
    /// The same, for a proxy.
    Proxies {
        /// The session.
        session: SessionId,
        /// What was granted, in one line.
        granted: String,
        /// What was changed in the call.
        changes: Vec<Change>,
    },
    /// The same, for programs.
    Programs {
        /// The session.
        session: SessionId,
        /// What was granted, in one line.
        granted: String,
    },
    /// Denied by the policy.
    Denied {
        /// Why.
        reason: String,
        /// What would be allowed.
        instead: Option<String>,
    },
    /// To be sent again once it is approved.
    Pending {
        /// By which it is approved.
        id: String,
    },
    /// Allowed by the policy, but its session could not be opened.
    NotOpened {
        /// Why.
        reason: String,
    },
    /// Cancelled while its session was being opened.
    Withdrawn {
        /// The session, which was ended.
        session: SessionId,
    },
    /// The tool is not visible.
    Hidden,
    /// Not a call that can be decided: a notification, a reused id, no room.
    Refused {
        /// Why.
        why: String,
    },
}

#[cfg(test)]
impl CallVerdict {
    /// One of each kind.
    pub(crate) fn one_of_each() -> Vec<Self> {
        let session = SessionId(1);
        let words = String::new;
        vec![
            Self::Forwarded,
            Self::EndsCapture,
            Self::Captures {
                session,
                granted: words(),
                changes: Vec::new(),
            },
            Self::Programs {
                session,
                granted: words(),
            },
            Self::Denied {
                reason: words(),
                instead: None,
            },
            Self::Pending { id: words() },
            Self::NotOpened { reason: words() },
            Self::Withdrawn { session },
            Self::Hidden,
            Self::Refused { why: words() },
        ]
    }
}

/// An answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerEvent {
    /// The client's connection.
    pub connection: u64,
    /// The request's id, as JSON.
    pub id: String,
    /// It was a JSON-RPC error.
    pub failed: bool,
    /// The session that the call opened.
    pub opened: Option<SessionId>,
    /// The sessions that the call ended.
    pub ended: Vec<SessionId>,
}
