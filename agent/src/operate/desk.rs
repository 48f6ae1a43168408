//! What is known of one server's sessions: who asked for them, what happens, and how they are stopped.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::{sync::watch, time::timeout};

use super::{
    Agent, Event, EventKind, Live, Who,
    office::Office,
    wire::{now, short},
};
use crate::{
    approval,
    audit::{AuditError, Log, OperatorRecord, Record, Text},
    gate::{CallEvent, CallVerdict, GateEvent},
    principal::Operator,
    session::{EndReason, Roll, ServerEvent, SessionEvent, SessionId},
    words::counted,
};

/// Sessions whose callers are remembered before it is looked which of them are over.
const REMEMBERED: usize = 256;
/// How long the agent's end waits for operators to be told of the sessions that they stopped.
const FAREWELL: Duration = Duration::from_secs(1);

/// What this program calls itself.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What operators are told of one server, or of a command. Cheap to clone; when the last one has gone, nobody
/// is told of it any more.
#[derive(Clone)]
pub struct Desk(Arc<Inner>);

pub(super) struct Inner {
    agent: String,
    server: String,
    audit: PathBuf,
    started: String,
    roll: Roll,
    who: Mutex<BTreeMap<SessionId, Who>>,
    /// Who asked for every session, where no call does.
    always: OnceLock<Who>,
    /// The process that takes clients in place of this one.
    replaced_by: OnceLock<u32>,
    /// The servers of an agent that serves any number of them; none where it is the one.
    servers: Mutex<Option<BTreeSet<String>>>,
    /// Where acts are recorded; none once the record is being closed.
    log: Mutex<Option<Arc<Log>>>,
    /// Operators who wait for the end of what they stopped.
    waiting: watch::Sender<usize>,
    /// None if there is no socket.
    office: Option<Arc<Office>>,
}

/// Why a session was not stopped.
pub(super) enum NotStopped {
    /// It has ended, or never was.
    Over,
    /// The agent itself is ending.
    Closed,
}

impl Desk {
    /// A desk for the server of this name, whose sessions are on this roll. Operators can ask from now on, if
    /// the agent is root's and its socket can be made; otherwise the log says why not. Must be called within a
    /// runtime.
    #[must_use]
    pub fn open(server: &str, log: &Log, roll: Roll) -> Self {
        let office = rustix::process::geteuid().is_root().then(Office::shared);
        let office = office.and_then(|made| {
            made.inspect_err(|error| {
                tracing::warn!(%error, "operators cannot ask this agent: `capwarden sessions` and `stop` do not see it");
            })
            .ok()
        });
        Self::open_in(office, server, log, roll)
    }

    /// One that nobody can ask.
    #[cfg(test)]
    pub(crate) fn unattended(log: &Log) -> Self {
        Self::open_in(None, "server", log, Roll::default())
    }

    pub(super) fn open_in(
        office: Option<Arc<Office>>,
        server: &str,
        log: &Log,
        roll: Roll,
    ) -> Self {
        let desk = Arc::new(Inner {
            agent: log.agent().to_owned(),
            server: short(server),
            audit: log.path().to_owned(),
            started: now(),
            roll,
            who: Mutex::default(),
            always: OnceLock::new(),
            replaced_by: OnceLock::new(),
            servers: Mutex::default(),
            log: Mutex::default(),
            waiting: watch::Sender::new(0),
            office,
        });
        if let Some(office) = &desk.office {
            office.enter(&desk);
        }
        Self(desk)
    }

    /// No call asks for the sessions: this principal did, by this command.
    #[must_use]
    pub fn asked_by(self, principal: &str, command: &str) -> Self {
        // The first time is the only one.
        let _ = self.0.always.set(Who {
            principal: short(principal),
            grant: None,
            tool: short(command),
        });
        self
    }

    /// Another process takes clients from now on.
    pub fn replaced_by(&self, process: u32) {
        // There is one at most.
        let _ = self.0.replaced_by.set(process);
    }

    /// It is an agent of any number of servers; of none so far.
    pub fn serves_many(&self) {
        self.0.servers().get_or_insert_default();
    }

    /// This server is served from now on, or no longer.
    pub fn serves(&self, server: &str, is_served: bool) {
        let mut servers = self.0.servers();
        let servers = servers.get_or_insert_default();
        match is_served {
            true => servers.insert(server.to_owned()),
            false => servers.remove(server),
        };
    }

    /// What operators do is recorded here from now on.
    pub fn record_in(&self, log: Arc<Log>) {
        *self.0.log() = Some(log);
    }

    /// Operators can do nothing more. Returns once those have been told who wait for an end, or have had the
    /// time for it.
    pub async fn close(&self) {
        // Whoever is just recording an act has done it by then.
        self.0.log().take();
        let mut waiting = self.0.waiting.subscribe();
        let _ = timeout(FAREWELL, waiting.wait_for(|waiting| *waiting == 0)).await;
    }

    /// What the server is called.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.0.server
    }

    /// The gate decided, or saw, something.
    pub fn gate(&self, event: &GateEvent) {
        if let GateEvent::Call(call) = event {
            self.0.call(call);
        }
    }

    /// Something happened to a session.
    pub fn session(&self, event: &ServerEvent) {
        self.0.session(event);
    }

    /// Something became of a request for an approval.
    pub fn approval(&self, event: &approval::Event) {
        let text = format!(
            "{} {}: {} of {}",
            approval::shown_id(&event.id),
            event.what.word(),
            event.tool,
            event.principal
        );
        let server = &event.server;
        self.0.tell(server, None, EventKind::Approval, &text, None);
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Inner {
    fn log(&self) -> MutexGuard<'_, Option<Arc<Log>>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn servers(&self) -> MutexGuard<'_, Option<BTreeSet<String>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn who(&self) -> MutexGuard<'_, BTreeMap<SessionId, Who>> {
        self.who.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a session is called on the host.
    pub(super) fn id(&self, session: SessionId) -> String {
        format!("{}/{session}", self.agent)
    }

    /// The session that is called so, if it could be one of this desk's.
    pub(super) fn session_of(&self, id: &str) -> Option<SessionId> {
        let (agent, session) = id.split_once('/')?;
        (agent == self.agent).then(|| session.parse().ok())?
    }

    pub(super) fn live(&self) -> Vec<SessionId> {
        self.roll.live()
    }

    pub(super) fn agent(&self) -> Agent {
        Agent {
            agent: self.agent.clone(),
            pid: std::process::id(),
            server: self.server.clone(),
            serves: self.servers().as_ref().map(BTreeSet::len),
            audit: short(&self.audit.to_string_lossy()),
            started: self.started.clone(),
            version: Some(VERSION.to_owned()),
            replaced_by: self.replaced_by.get().copied(),
        }
    }

    /// Whether this server is the one, or one of them.
    pub(super) fn is_of(&self, server: &str) -> bool {
        match &*self.servers() {
            Some(servers) => servers.contains(server),
            None => self.server == server,
        }
    }

    /// The sessions of one server, or all. Looks into `/proc`.
    pub(super) fn sessions(&self, server: Option<&str>) -> Vec<Live> {
        let snapshots = self.roll.snapshots().into_iter();
        let moment = Timestamp::now();
        let who = self.who();
        let its = snapshots.filter(|(of, _)| server.is_none_or(|server| **of == *server));
        let live = its.map(|(server, now)| {
            let age = i64::try_from(now.age_ms).unwrap_or(i64::MAX);
            let started = moment.checked_sub(SignedDuration::from_millis(age));
            Live {
                id: self.id(now.session),
                agent: self.agent.clone(),
                pid: std::process::id(),
                server: short(&server),
                who: who.get(&now.session).or(self.always.get()).cloned(),
                started: format!("{:.3}", started.unwrap_or(moment)),
                version: Some(VERSION.to_owned()),
                replaced_by: self.replaced_by.get().copied(),
                now,
            }
            .bounded()
        });
        live.collect()
    }

    /// Records that an operator stops a session, then ends it. If it cannot be recorded it is ended all the
    /// same, since less happens by that, and the error is told.
    pub(super) fn stop(
        &self,
        session: SessionId,
        by: Operator,
        why: Option<&str>,
    ) -> Result<Option<AuditError>, NotStopped> {
        let log = self.log();
        let log = log.as_ref().ok_or(NotStopped::Closed)?;
        let server = self.roll.server_of(session).ok_or(NotStopped::Over)?;
        let record = Record::Operator(OperatorRecord {
            did: Text::new("stop"),
            session,
            by: Text::new(by.to_string()),
            why: why.map(Text::new),
        });
        let recorded = log.append_about(&server, record);
        tracing::info!(%session, %by, why, "an operator stops it");
        if !self.roll.end(session, EndReason::Stopped) {
            return Err(NotStopped::Over);
        }
        Ok(recorded.err())
    }

    /// Somebody waits for the end of what they stopped, until this is dropped.
    pub(super) fn waits(self: &Arc<Self>) -> Waits {
        self.waiting.send_modify(|waiting| *waiting += 1);
        Waits(Arc::clone(self))
    }

    fn call(&self, call: &CallEvent) {
        let (by, server) = (&call.caller.principal, &*call.caller.server);
        match &call.verdict {
            CallVerdict::Captures { session, .. }
            | CallVerdict::Proxies { session, .. }
            | CallVerdict::Programs { session, .. } => self.remember(*session, call),
            CallVerdict::Denied { reason, .. } | CallVerdict::NotOpened { reason } => {
                let text = format!("{} of {by}: {reason}", call.tool);
                self.tell(server, None, EventKind::Denied, &text, None);
            }
            CallVerdict::Refused { why } => {
                let text = format!("{} of {by}: {why}", call.tool);
                self.tell(server, None, EventKind::Denied, &text, None);
            }
            CallVerdict::Hidden => {
                let text = format!("{} of {by}: the tool is hidden", call.tool);
                self.tell(server, None, EventKind::Denied, &text, None);
            }
            CallVerdict::Forwarded
            | CallVerdict::EndsCapture
            | CallVerdict::Pending { .. }
            | CallVerdict::Withdrawn { .. } => {}
        }
    }

    fn remember(&self, session: SessionId, call: &CallEvent) {
        let mut who = self.who();
        if who.len() >= REMEMBERED {
            let live = self.roll.live();
            who.retain(|session, _| live.contains(session));
        }
        // Later calls join the session of the first.
        who.entry(session).or_insert_with(|| Who {
            principal: short(&call.caller.principal.to_string()),
            grant: call.caller.grant.as_deref().map(short),
            tool: short(&call.tool),
        });
    }

    fn session(&self, event: &ServerEvent) {
        let server = &*event.server;
        let opened = |session, granted: &str| {
            self.tell(server, Some(session), EventKind::Opened, granted, None);
        };
        match &event.event {
            SessionEvent::Opened { session, grant } => opened(*session, &grant.summary()),
            SessionEvent::ProxyOpened { session, grant } => opened(*session, &grant.summary()),
            SessionEvent::ProgramOpened { session, grant } => opened(*session, &grant.summary()),
            SessionEvent::Refused {
                caller,
                refusal,
                times,
            } => {
                let whose = caller.as_ref().map_or_else(
                    || "a process that has gone".to_owned(),
                    |caller| format!("{} (pid {})", caller.name, caller.process),
                );
                let text = format!("{whose}: {}{}", refusal.reason, more(*times));
                self.tell(server, None, EventKind::Refused, &text, None);
            }
            SessionEvent::NetworkRefused(refusal) => {
                let text = format!("not allowed to {}{}", refusal.what, more(refusal.times));
                self.tell(server, refusal.session, EventKind::Refused, &text, None);
            }
            SessionEvent::Restarted(restart) => {
                let text = match &restart.failed {
                    Some(why) => format!("the server was not restarted: {why}"),
                    None => "the server was restarted".to_owned(),
                };
                self.tell(
                    server,
                    Some(restart.session),
                    EventKind::Restarted,
                    &text,
                    None,
                );
            }
            SessionEvent::Ended(end) => {
                self.who().remove(&end.session);
                let text = format!(
                    "{} ({}, {})",
                    end.why(),
                    counted(end.packets, "packet"),
                    counted(end.bytes, "byte")
                );
                let session = Some(end.session);
                self.tell(server, session, EventKind::Ended, &text, Some(end.reason));
            }
            SessionEvent::Armed { .. }
            | SessionEvent::FilterAttached { .. }
            | SessionEvent::Bounded { .. } => {}
        }
    }

    fn tell(
        &self,
        server: &str,
        session: Option<SessionId>,
        kind: EventKind,
        text: &str,
        reason: Option<EndReason>,
    ) {
        let Some(office) = &self.office else {
            return;
        };
        office.tell(|| Event {
            at: now(),
            agent: self.agent.clone(),
            server: short(server),
            session,
            kind,
            text: short(text),
            reason,
        });
    }
}

/// ` (4711 times)`, where one refusal stands for several.
fn more(times: u64) -> String {
    match times {
        0 | 1 => String::new(),
        times => format!(" ({times} times)"),
    }
}

/// An operator waits.
pub(super) struct Waits(Arc<Inner>);

impl Drop for Waits {
    fn drop(&mut self) {
        let less = |waiting: &mut usize| *waiting = waiting.saturating_sub(1);
        self.0.waiting.send_modify(less);
    }
}
