//! A span of the log for each call, at the level `debug`, and for each session, at `info`.
//!
//! That a span begins and ends is told by events within it, at `debug`, so that each line of the
//! log has all of its fields.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tracing::{Level, Span};

use super::{metrics::reason_word, verdict_word};
use crate::{
    gate::{AnswerEvent, CallEvent, CallVerdict, GateEvent},
    session::{ServerEvent, SessionEvent, SessionId},
};

/// What events of sessions are told apart by in the log's levels.
pub(crate) const SESSION_TARGET: &str = "capwarden::sessions";

/// Calls that are followed at once. When there are more, those until then are followed no further:
/// a server may leave calls unanswered without end, which must not keep later ones out.
const MOST: usize = 4_096;

/// The calls that are followed: from the decision to the answer.
#[derive(Debug, Default)]
pub struct CallSpans {
    open: Mutex<HashMap<Key, Span>>,
}

/// The connection, and the request's id as JSON.
type Key = (u64, String);

impl CallSpans {
    /// Something happened at the gate.
    pub fn gate(&self, event: &GateEvent) {
        // Where nobody wants to know, this is one comparison.
        if !tracing::span_enabled!(Level::DEBUG) {
            return;
        }
        match event {
            GateEvent::Call(call) => self.call(call),
            GateEvent::Answer(answer) => self.answer(answer),
            GateEvent::Cancelled {
                connection,
                id,
                session: _,
            } => {
                if let Some(span) = self.open().remove(&(*connection, id.clone())) {
                    tracing::debug!(parent: &span, "cancelled");
                }
            }
            GateEvent::Unanswered { connection, id, .. } => {
                if let Some(span) = self.open().remove(&(*connection, id.clone())) {
                    tracing::debug!(parent: &span, "answered by capwarden");
                }
            }
            GateEvent::Late { .. } | GateEvent::Dropped { .. } => {} // the gate has said so
        }
    }

    fn call(&self, call: &CallEvent) {
        let span = tracing::debug_span!(
            "call",
            id = call.id.as_deref(),
            tool = call.tool,
            principal = %call.caller.principal,
            connection = call.caller.connection,
            server = &*call.caller.server,
            verdict = verdict_word(&call.verdict),
            session = tracing::field::Empty,
            rule = tracing::field::Empty,
            failed = tracing::field::Empty,
            traceparent = tracing::field::Empty,
        );
        if let Some(parent) = &call.noted.parent {
            span.record("traceparent", tracing::field::display(parent));
        }
        if let Some(rule) = &call.rule {
            span.record("rule", tracing::field::display(rule));
        }
        match &call.verdict {
            CallVerdict::Captures { session, .. }
            | CallVerdict::Proxies { session, .. }
            | CallVerdict::Programs { session, .. }
            | CallVerdict::Withdrawn { session } => {
                span.record("session", tracing::field::display(session));
            }
            _ => {}
        }
        let why = match &call.verdict {
            CallVerdict::Denied { reason, .. } | CallVerdict::NotOpened { reason } => Some(reason),
            CallVerdict::Refused { why } => Some(why),
            CallVerdict::Pending { id } => Some(id),
            _ => None,
        };
        tracing::debug!(parent: &span, why, "decided");
        let awaited = matches!(
            call.verdict,
            CallVerdict::Forwarded
                | CallVerdict::EndsCapture
                | CallVerdict::Captures { .. }
                | CallVerdict::Proxies { .. }
                | CallVerdict::Programs { .. }
        );
        if let (true, Some(id)) = (awaited, &call.id) {
            let mut open = self.open();
            if open.len() >= MOST {
                open.clear();
            }
            open.insert((call.caller.connection, id.clone()), span);
        }
    }

    fn answer(&self, answer: &AnswerEvent) {
        let key = (answer.connection, answer.id.clone());
        if let Some(span) = self.open().remove(&key) {
            span.record("failed", answer.failed);
            tracing::debug!(parent: &span, "answered");
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Key, Span>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn span(session: SessionId, server: &str) -> Span {
    tracing::info_span!(
        target: SESSION_TARGET,
        "session",
        %session,
        server,
        reason = tracing::field::Empty,
        packets = tracing::field::Empty,
        bytes = tracing::field::Empty,
        milliseconds = tracing::field::Empty,
    )
}

/// The sessions that are followed: from the opening to the end.
#[derive(Debug, Default)]
pub struct SessionSpans {
    open: HashMap<SessionId, Span>,
}

impl SessionSpans {
    #[cfg(test)]
    pub(super) fn begin_for_tests(&mut self, session: SessionId) {
        self.open.insert(session, span(session, "s"));
    }

    /// Something happened to a session.
    pub fn session(&mut self, event: &ServerEvent) {
        let server = &*event.server;
        match &event.event {
            SessionEvent::Opened { session, grant } => {
                let span = span(*session, server);
                tracing::debug!(target: SESSION_TARGET, parent: &span, granted = grant.summary(), "opened");
                self.open.insert(*session, span);
            }
            SessionEvent::Armed {
                session,
                caller,
                kind,
            } => {
                let span = self.open.get(session).cloned().unwrap_or_else(Span::none);
                let (pid, name) = (caller.process, caller.name.as_str());
                let socket = kind.name();
                tracing::debug!(target: SESSION_TARGET, parent: &span, pid, name, socket, "armed a socket");
            }
            SessionEvent::ProxyOpened { session, grant } => {
                let span = span(*session, server);
                tracing::debug!(target: SESSION_TARGET, parent: &span, granted = grant.summary(), "opened");
                self.open.insert(*session, span);
            }
            SessionEvent::ProgramOpened { session, grant } => {
                let span = span(*session, server);
                tracing::debug!(target: SESSION_TARGET, parent: &span, granted = grant.summary(), "opened");
                self.open.insert(*session, span);
            }
            SessionEvent::FilterAttached { .. }
            | SessionEvent::Refused { .. }
            | SessionEvent::Bounded { .. }
            | SessionEvent::Restarted(_)
            | SessionEvent::NetworkRefused(_) => {}
            SessionEvent::Ended(end) => {
                let span = self.open.remove(&end.session).unwrap_or_else(Span::none);
                span.record("reason", reason_word(end.reason));
                span.record("packets", end.packets);
                span.record("bytes", end.bytes);
                span.record("milliseconds", end.milliseconds);
                tracing::debug!(target: SESSION_TARGET, parent: &span, "{}", end.reason);
            }
        }
    }
}
