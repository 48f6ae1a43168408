//! The record keeper: the one thread that writes to the audit log, so that nobody else waits for
//! a disk.
//!
//! A call that goes on as it came is in the log milliseconds after it was decided; anything else at
//! once (`writing.rs`). What cannot be written, or no longer waits for that within bounds, is told by
//! [`RecordKeeper::broken`], and then everything ends.

mod opening;
mod writing;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};

use crate::{
    approval::{self, By, What},
    audit::{
        AgentStopped, ApprovalRecord, AuditError, CallRecord, Decision, DefinitionRecord,
        FilterAttached, HandedOver, Hash, Log, NetworkBounded, NetworkRefused, PolicyFile,
        PolicyRefused, PolicyReloaded, ProgramOpened, ProxyOpened, Record, ServerRecord,
        ServerRestarted, ServerServed, ServerWithdrawn, SessionOpened, SocketArmed, SocketRefused,
        Text, TextList, Unanswered, Values,
    },
    definitions,
    gate::{CallEvent, CallVerdict, GateEvent, Observer},
    kernel::Ready,
    operate::Desk,
    policy::Policy,
    session::{Happened, ServerEvent, SessionEnd, SessionEvent, SessionId},
    telemetry::{CallSpans, Metrics, ServerMetrics, SessionSpans},
};

pub(super) use self::opening::{Opening, Started};
use self::writing::{Alarm, write_all};
use super::approve;

/// Entries that may wait for the disk.
const QUEUE: usize = 4_096;
/// Bytes of one call, about, that wait for the disk as they are. The record of a longer one, which
/// is bounded, is made at once.
const CALL: usize = 64 << 10;
/// Bytes of calls, about, that may wait for the disk.
const WAITING: usize = 64 << 20;
/// How long the last entries may take to be written.
const FINISH: Duration = Duration::from_secs(10);

/// The policy, as the record names it.
#[derive(Clone, Debug)]
pub struct PolicySource {
    /// Its file.
    pub file: String,
    /// SHA-256 of its bytes, in hex.
    pub digest: String,
}

impl PolicySource {
    /// Names a policy.
    pub fn of(policy: &Policy) -> Self {
        Self {
            file: policy.file().to_string(),
            digest: policy.digest().to_owned(),
        }
    }

    fn file_record(&self) -> PolicyFile {
        PolicyFile {
            file: Text::new(self.file.as_str()),
            sha256: self.digest.parse().unwrap_or(Hash::ZERO),
        }
    }
}

enum Entry {
    /// A call, and about how many bytes it has.
    Call(Box<CallEvent>, usize),
    /// A long one, with the bytes that it counts for.
    LongCall(Box<CallRecord>, usize),
    Approval(approval::Event),
    Definition(definitions::Event),
    Session(ServerEvent),
    Policy(Box<ServerRecord>),
}

/// Writes what happens into the audit log.
pub(super) struct RecordKeeper {
    log: Arc<Log>,
    entries: Option<mpsc::Sender<Entry>>,
    thread: Option<thread::JoinHandle<()>>,
    breaks: watch::Sender<bool>,
    overflow: watch::Receiver<bool>,
    error: Arc<Mutex<Option<AuditError>>>,
    waiting: Arc<AtomicUsize>,
    alarm: Alarm,
    metrics: Option<Arc<Metrics>>,
    /// What operators are told, and where what they do is recorded.
    desk: Desk,
}

/// The gate's line to the record keeper, and to whoever counts and follows calls.
pub(super) struct GateObserver {
    server: Arc<str>,
    entries: mpsc::Sender<Entry>,
    breaks: watch::Sender<bool>,
    /// Bytes of calls that wait for the disk.
    waiting: Arc<AtomicUsize>,
    alarm: Alarm,
    metrics: Option<Arc<ServerMetrics>>,
    spans: CallSpans,
    desk: Desk,
}

impl Observer for GateObserver {
    fn observe(&self, event: GateEvent) {
        if let Some(metrics) = &self.metrics {
            metrics.gate(&event);
        }
        self.spans.gate(&event);
        self.desk.gate(&event);
        let call = match event {
            GateEvent::Call(call) => call,
            GateEvent::Unanswered {
                connection,
                id,
                session,
                ended,
                ..
            } => {
                let what = match ended {
                    true => "the session ended",
                    false => "the session goes on",
                };
                return self.unanswered(connection, &id, Some(session), what);
            }
            GateEvent::Late { connection, id } => {
                return self.unanswered(connection, &id, None, "a late answer was dropped");
            }
            GateEvent::Answer(_) | GateEvent::Cancelled { .. } | GateEvent::Dropped { .. } => {
                return;
            }
        };
        if let Err(why) = self.note(call) {
            tracing::error!(why, "the record cannot keep up");
            self.breaks.send_replace(true);
        }
    }
}

impl GateObserver {
    /// A policy decides in place of another from now on.
    pub(super) fn policy_reloaded(&self, before: &PolicySource, policy: &Policy) {
        if let Some(metrics) = &self.metrics {
            metrics.name_tools(policy.tool_names());
        }
        let before = before.file_record().sha256;
        let policy = PolicySource::of(policy).file_record();
        let reloaded = PolicyReloaded { policy, before };
        self.write(Record::PolicyReloaded(reloaded));
    }

    /// The policy's file cannot be used as it is now.
    pub(super) fn policy_refused(&self, stays: &PolicySource, why: &str) {
        let stays = stays.file_record();
        let why = Text::new(why);
        let refused = PolicyRefused { stays, why };
        self.write(Record::PolicyRefused(refused));
    }

    /// A server of many is served so from now on.
    pub(super) fn server_served(&self, server: &str, started: &Started<'_>, policy: &PolicySource) {
        let served = ServerServed {
            server: Text::new(server),
            command: started.command_record(),
            policy: policy.file_record(),
            user: Text::new(started.user.to_string()),
            reach: started.reach_record(),
        };
        self.desk.serves(server, true);
        self.write(Record::ServerServed(Box::new(served)));
    }

    /// A server of many is served no longer.
    pub(super) fn server_withdrawn(&self, server: &str, why: &str) {
        self.desk.serves(server, false);
        self.write(Record::ServerWithdrawn(ServerWithdrawn {
            server: Text::new(server),
            why: Text::new(why),
        }));
    }

    /// Another agent takes clients from now on; those whom this one has stay.
    pub(super) fn handed_over(&self, to: &Ready, clients: usize, sessions: usize) {
        self.desk.replaced_by(to.process);
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        self.write(Record::HandedOver(HandedOver {
            to: Text::new(to.agent.as_str()),
            pid: to.process,
            version: Text::new(to.version.as_str()),
            clients: count(clients),
            sessions: count(sessions),
        }));
    }

    fn unanswered(&self, connection: u64, id: &str, session: Option<SessionId>, what: &str) {
        self.write(Record::Unanswered(Unanswered {
            connection,
            call: Text::new(id),
            session,
            what: Text::new(what),
        }));
    }

    fn write(&self, record: Record) {
        let entry = Entry::Policy(Box::new(ServerRecord::new(&self.server, record)));
        if self.entries.try_send(entry).is_err() {
            tracing::error!("the record cannot keep up");
            self.breaks.send_replace(true);
        }
        self.alarm.ring();
    }

    /// Takes a call down for the disk, or says why that cannot be done.
    fn note(&self, call: Box<CallEvent>) -> Result<(), String> {
        let bytes = size(&call);
        let can_wait = matches!(call.verdict, CallVerdict::Forwarded);
        let entry = if bytes <= CALL {
            Entry::Call(call, bytes)
        } else {
            let record = call_record(&call).map_err(|error| error.to_string())?;
            Entry::LongCall(Box::new(record), CALL)
        };
        let bytes = bytes.min(CALL);
        if self.waiting.fetch_add(bytes, Ordering::Relaxed) > WAITING {
            return Err("too much waits for the disk".to_owned());
        }
        self.entries
            .try_send(entry)
            .map_err(|_| "too many records wait for the disk".to_owned())?;
        if !can_wait || self.entries.capacity() < QUEUE / 2 {
            self.alarm.ring();
        }
        Ok(())
    }
}

/// About how many bytes a call occupies.
fn size(call: &CallEvent) -> usize {
    call.tool.len() + object_size(&call.arguments)
}

fn object_size(object: &Map<String, Value>) -> usize {
    let members = object.iter();
    members
        .map(|(name, value)| 64 + name.len() + value_size(value))
        .sum()
}

fn value_size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(|item| 32 + value_size(item)).sum(),
        Value::Object(object) => object_size(object),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

impl RecordKeeper {
    /// See [`Opening::begin`].
    fn start(
        opening: Opening<impl Told + Send + 'static>,
        started: &Started<'_>,
        ends: mpsc::Sender<SessionEnd>,
    ) -> Result<Self, AuditError> {
        let Opening {
            log,
            happened: mut events,
            overflow,
            desk,
            metrics,
        } = opening;
        let log = Arc::new(log);
        let head = log.append(&started.record(desk.server()))?;
        desk.record_in(Arc::clone(&log));
        if let Some(metrics) = &metrics {
            metrics.recorded();
        }
        tracing::info!(file = %log.path().display(), %head, agent = log.agent(), "audit log");

        let (entries, inbox) = mpsc::channel(QUEUE);
        let breaks = watch::Sender::new(false);
        let broke = breaks.clone();
        let error = Arc::new(Mutex::new(None));
        let sessions = entries.clone();
        if let Some(metrics) = &metrics {
            let queue = entries.downgrade(); // who scrapes must not keep the record open
            metrics.queue_is(move || {
                let queue = queue.upgrade();
                queue.map_or(0, |queue| queue.max_capacity() - queue.capacity())
            });
        }
        let (counts, told) = (metrics.clone(), desk.clone());
        let alarm = Alarm::default();
        let (bell, ring) = (alarm.clone(), alarm.clone());
        tokio::spawn(async move {
            let mut spans = SessionSpans::default();
            while let Some(event) = events.next().await {
                if let Some(counts) = &counts {
                    counts.session(&event);
                }
                spans.session(&event);
                told.session(&event);
                if sessions.send(Entry::Session(event)).await.is_err() {
                    return;
                }
                ring.ring();
            }
        });
        let (writer, failed) = (Arc::clone(&log), Arc::clone(&error));
        let waiting = Arc::new(AtomicUsize::new(0));
        let (waits, counts) = (Arc::clone(&waiting), metrics.clone());
        let thread = thread::spawn(move || {
            write_all(inbox, &bell, |batch: &mut Vec<Entry>| {
                let (mut finished, mut bytes) = (Vec::new(), 0);
                let mut records = Vec::with_capacity(batch.len());
                let made = batch.drain(..).try_for_each(|entry| {
                    if let Entry::Session(event) = &entry
                        && let SessionEvent::Ended(end) = &event.event
                    {
                        finished.push(end.clone());
                    }
                    if let Entry::Call(_, size) | Entry::LongCall(_, size) = &entry {
                        bytes += size;
                    }
                    records.push(record(entry)?);
                    Ok(())
                });
                // What could be made is written, whatever came after it.
                let written = writer.append_all(&records).and(made);
                waits.fetch_sub(bytes, Ordering::Relaxed);
                if let Err(error) = written {
                    tracing::error!(%error, "the audit log cannot be written; everything ends");
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    broke.send_replace(true);
                    return false;
                }
                if let Some(counts) = &counts {
                    records.iter().for_each(|_| counts.recorded());
                }
                for end in finished {
                    // A client that does not read is not waited for.
                    let _ = ends.try_send(end);
                }
                true
            });
        });
        Ok(Self {
            log,
            entries: Some(entries),
            thread: Some(thread),
            breaks,
            overflow,
            error,
            waiting,
            alarm,
            metrics,
            desk,
        })
    }

    /// What this agent is called in the log.
    pub(super) fn agent(&self) -> &str {
        self.log.agent()
    }

    /// The line of the gate of the server of this name.
    pub(super) fn observer(&self, server: &str) -> io::Result<GateObserver> {
        let breaks = self.breaks.clone();
        let closed = || io::Error::other("the record is closed");
        let entries = self.entries.clone().ok_or_else(closed)?;
        let metrics = self.metrics.as_ref();
        Ok(GateObserver {
            server: server.into(),
            entries,
            breaks,
            waiting: Arc::clone(&self.waiting),
            alarm: self.alarm.clone(),
            metrics: metrics.map(|metrics| metrics.server(server)),
            spans: CallSpans::default(),
            desk: self.desk.clone(),
        })
    }

    /// The line of whoever asks for approvals.
    pub(super) fn approvals(&self) -> impl FnMut(approval::Event) + Send + use<> {
        let breaks = self.breaks.clone();
        let entries = self.entries.clone();
        let (metrics, alarm) = (self.metrics.clone(), self.alarm.clone());
        let desk = self.desk.clone();
        move |event| {
            if let Some(metrics) = &metrics {
                metrics.server(&event.server).approval(&event);
            }
            desk.approval(&event);
            let entries = entries.as_ref();
            if entries.is_none_or(|entries| entries.try_send(Entry::Approval(event)).is_err()) {
                tracing::error!("the record cannot keep up");
                breaks.send_replace(true);
            }
            alarm.ring();
        }
    }

    /// The line of whoever keeps definitions.
    pub(super) fn definitions(&self) -> impl FnMut(definitions::Event) + Send + use<> {
        let breaks = self.breaks.clone();
        let (entries, alarm) = (self.entries.clone(), self.alarm.clone());
        move |event| {
            let entries = entries.as_ref();
            // Its thread can wait, as nobody else does.
            let event = Entry::Definition(event);
            if entries.is_none_or(|entries| entries.blocking_send(event).is_err()) {
                tracing::error!("the record cannot keep up");
                breaks.send_replace(true);
            }
            alarm.ring();
        }
    }

    /// Returns when something that happened is not, or cannot be, written down.
    pub(super) async fn broken(&self) {
        let mut breaks = self.breaks.subscribe();
        let mut overflow = self.overflow.clone();
        let broken = tokio::select! {
            broken = breaks.wait_for(|broken| *broken) => broken.is_ok(),
            broken = overflow.wait_for(|broken| *broken) => broken.is_ok(),
        };
        if !broken {
            std::future::pending::<()>().await; // all senders are gone: nothing more happens
        }
    }

    /// Writes what is still waiting, then the end. All senders of events must be gone.
    pub(super) async fn finish(mut self, why: &str, status: Option<i32>) -> Result<(), AuditError> {
        self.desk.close().await;
        drop(self.entries.take());
        self.alarm.ring();
        if let Some(thread) = self.thread.take() {
            // Somebody who still holds a line to us must not keep the agent from ending.
            let joined = tokio::task::spawn_blocking(move || thread.join());
            if tokio::time::timeout(FINISH, joined).await.is_err() {
                tracing::error!("the record could not be completed in time");
            }
        }
        let error = self
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(error) = error {
            return Err(error);
        }
        let why = Text::new(why);
        let head = self
            .log
            .append(&Record::AgentStopped(AgentStopped { why, status }))?;
        tracing::info!(%head, "audit log closed");
        Ok(())
    }
}

/// Where events of sessions come from.
pub(super) trait Told {
    /// The next one; none once there will be no more.
    fn next(&mut self) -> impl Future<Output = Option<ServerEvent>> + Send;
}

impl Told for Happened {
    async fn next(&mut self) -> Option<ServerEvent> {
        self.recv().await
    }
}

impl Told for mpsc::Receiver<ServerEvent> {
    async fn next(&mut self) -> Option<ServerEvent> {
        self.recv().await
    }
}

fn record(entry: Entry) -> Result<ServerRecord, AuditError> {
    let record = match entry {
        Entry::Policy(record) => return Ok(*record),
        Entry::Call(call, _) => Record::Call(Box::new(call_record(&call)?)),
        Entry::LongCall(record, _) => Record::Call(record),
        Entry::Approval(event) => Record::Approval(Box::new(approval_record(event))),
        Entry::Definition(event) => Record::Definition(Box::new(definition_record(event))),
        Entry::Session(ServerEvent { server, event }) => {
            return Ok(ServerRecord::new(&server, session_record(event)));
        }
    };
    Ok(record.into())
}

fn session_record(event: SessionEvent) -> Record {
    match event {
        SessionEvent::Opened { session, grant } => {
            Record::SessionOpened(Box::new(SessionOpened::new(session, &grant)))
        }
        SessionEvent::Armed {
            session,
            caller,
            kind,
        } => Record::SocketArmed(SocketArmed {
            session,
            pid: caller.process,
            thread: caller.thread,
            comm: Text::new(caller.name),
            socket: Text::new(kind.name()),
        }),
        SessionEvent::FilterAttached {
            session,
            caller,
            kind,
            length,
            digest,
            relation,
        } => Record::FilterAttached(FilterAttached::new(
            SocketArmed {
                session,
                pid: caller.process,
                thread: caller.thread,
                comm: Text::new(caller.name),
                socket: Text::new(kind.name()),
            },
            length,
            digest.into(),
            relation,
        )),
        SessionEvent::Refused {
            caller,
            refusal,
            times,
        } => {
            let (pid, comm) =
                caller.map_or((0, String::new()), |caller| (caller.process, caller.name));
            Record::SocketRefused(SocketRefused {
                pid,
                comm: Text::new(comm),
                why: Text::new(refusal.reason),
                times,
            })
        }
        SessionEvent::Bounded { baseline } => {
            Record::NetworkBounded(NetworkBounded::new(&baseline))
        }
        SessionEvent::ProxyOpened { session, grant } => {
            Record::ProxyOpened(Box::new(ProxyOpened::new(session, &grant)))
        }
        SessionEvent::ProgramOpened { session, grant } => {
            Record::ProgramOpened(Box::new(ProgramOpened::new(session, &grant)))
        }
        SessionEvent::NetworkRefused(refusal) => Record::NetworkRefused(NetworkRefused {
            session: refusal.session,
            what: Text::new(refusal.what),
            times: refusal.times,
        }),
        SessionEvent::Restarted(restart) => Record::ServerRestarted(ServerRestarted {
            session: restart.session,
            milliseconds: u64::try_from(restart.took.as_millis()).unwrap_or(u64::MAX),
            failed: restart.failed.map(Text::new),
        }),
        SessionEvent::Ended(end) => Record::SessionEnded(end),
    }
}

fn approval_record(event: approval::Event) -> ApprovalRecord {
    let became = event.what.word();
    let seen = matches!(
        event.what,
        What::Approved(By::Operator(_), _) | What::Denied(By::Operator(_), ..)
    );
    let (by, why) = match event.what {
        What::Approved(by, at) | What::Used(by, at) => (Some((by, at)), None),
        What::Denied(by, at, why) => (Some((by, at)), why),
        What::Requested | What::GivenBack | What::Expired => (None, None),
    };
    ApprovalRecord {
        id: Text::new(approval::shown_id(&event.id)),
        became: became.into(),
        principal: Text::new(event.principal),
        server: Text::new(event.server),
        tool: Text::new(event.tool),
        rule: Text::new(event.rule),
        by: by.map(|(by, _)| Text::new(by.to_string())),
        at: by.map(|(_, at)| Text::new(approve::time(at))),
        why: why.map(Text::new),
        seen,
    }
}

fn definition_record(event: definitions::Event) -> DefinitionRecord {
    let became = event.what.word();
    let (by, why) = match event.what {
        definitions::What::Accepted(by, at) => (Some((by, at)), None),
        definitions::What::Unfit(why) => (None, Some(why)),
        _ => (None, None),
    };
    DefinitionRecord {
        server: Text::new(event.server),
        tool: Text::new(event.tool),
        became: became.into(),
        sha256: event.digest.parse().ok(),
        by: by.map(|(by, _)| Text::new(by.to_string())),
        at: by.map(|(_, at)| Text::new(approve::time(at))),
        why: why.map(Text::new),
    }
}

fn call_record(call: &CallEvent) -> Result<CallRecord, AuditError> {
    let waiting;
    let (verdict, reason, session) = match &call.verdict {
        CallVerdict::Forwarded => (Decision::Allow, None, None),
        CallVerdict::EndsCapture => (Decision::Ends, None, None),
        CallVerdict::Captures { session, .. } => (Decision::Capture, None, Some(*session)),
        CallVerdict::Proxies { session, .. } => (Decision::Proxy, None, Some(*session)),
        CallVerdict::Programs { session, .. } => (Decision::Program, None, Some(*session)),
        CallVerdict::Withdrawn { session } => (
            Decision::Deny,
            Some("cancelled while its session was being opened"),
            Some(*session),
        ),
        CallVerdict::Denied { reason, .. } | CallVerdict::NotOpened { reason } => {
            (Decision::Deny, Some(reason.as_str()), None)
        }
        CallVerdict::Pending { id } => {
            waiting = format!("waits for the approval {id}");
            (Decision::Pending, Some(waiting.as_str()), None)
        }
        CallVerdict::Hidden => (Decision::Deny, Some("the tool is hidden"), None),
        CallVerdict::Refused { why } => (Decision::Deny, Some(why.as_str()), None),
    };
    let changes = match &call.verdict {
        CallVerdict::Captures { changes, .. } | CallVerdict::Proxies { changes, .. } => changes
            .iter()
            .map(|change| format!("{}: {}", change.argument, change.why))
            .collect(),
        _ => TextList::default(),
    };
    let by = call.noted.decided_by.as_ref();
    let names = by.into_iter().flat_map(|by| by.policy.recorded(&call.tool));
    let (values, digest) = Values::taken(&call.arguments, names)?;
    Ok(CallRecord {
        principal: Text::new(call.caller.principal.to_string()),
        connection: call.caller.connection,
        server: Text::new(&*call.caller.server),
        request: Text::new(call.id.as_deref().unwrap_or("null")),
        tool: Text::new(call.tool.as_str()),
        arguments: call.arguments.keys().map(String::as_str).collect(),
        digest,
        values,
        verdict,
        reason: reason.map(Text::new),
        rule: call.rule.as_ref().map(|rule| Text::new(rule.to_string())),
        policy: by
            .filter(|by| by.own)
            .map(|by| PolicySource::of(&by.policy).file_record()),
        changes,
        session,
    })
}

#[cfg(test)]
mod tests;
