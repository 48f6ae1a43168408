//! The record keeper: the one thread that writes to the audit log, so that nobody else waits for
//! a disk.

use std::{
    ffi::OsString,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::sync::{mpsc, watch};

use crate::{
    audit::{
        AgentStarted, AgentStopped, AuditError, CallRecord, Decision, FilterAttached, Hash, Log,
        PolicyFile, PolicyRefused, PolicyReloaded, Record, SessionOpened, SocketArmed,
        SocketRefused, Text, TextList,
    },
    gate::{CallEvent, CallVerdict, GateEvent, Observer},
    policy::Policy,
    session::{SessionEnd, SessionEvent},
};

use super::Degraded;

/// Entries that may wait for the disk.
const QUEUE: usize = 4_096;
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
    Call(CallEvent),
    Session(SessionEvent),
    Policy(Record),
}

/// Writes what happens into the audit log.
pub(super) struct RecordKeeper {
    log: Arc<Log>,
    entries: Option<mpsc::Sender<Entry>>,
    thread: Option<thread::JoinHandle<()>>,
    breaks: watch::Sender<bool>,
    overflow: watch::Receiver<bool>,
    error: Arc<Mutex<Option<AuditError>>>,
}

/// The gate's line to the record keeper.
pub(super) struct GateObserver {
    entries: mpsc::Sender<Entry>,
    breaks: watch::Sender<bool>,
}

impl Observer for GateObserver {
    fn observe(&self, event: GateEvent) {
        let GateEvent::Call(call) = event else {
            tracing::debug!(?event, "gate");
            return;
        };
        self.write(Entry::Call(call));
    }
}

impl GateObserver {
    /// A policy decides in place of another from now on.
    pub(super) fn policy_reloaded(&self, before: &PolicySource, now: &PolicySource) {
        let before = before.file_record().sha256;
        let policy = now.file_record();
        let reloaded = PolicyReloaded { policy, before };
        self.write(Entry::Policy(Record::PolicyReloaded(reloaded)));
    }

    /// The policy's file cannot be used as it is now.
    pub(super) fn policy_refused(&self, stays: &PolicySource, why: &str) {
        let stays = stays.file_record();
        let why = Text::new(why);
        let refused = PolicyRefused { stays, why };
        self.write(Entry::Policy(Record::PolicyRefused(refused)));
    }

    fn write(&self, entry: Entry) {
        if self.entries.try_send(entry).is_err() {
            tracing::error!("the record cannot keep up");
            self.breaks.send_replace(true);
        }
    }
}

impl RecordKeeper {
    /// Records the start, then takes over `events`. Each session's end goes on to `ends` once it
    /// is on the disk.
    pub(super) fn start(
        log: Log,
        started: &Started<'_>,
        mut events: mpsc::Receiver<SessionEvent>,
        overflow: watch::Receiver<bool>,
        ends: mpsc::Sender<SessionEnd>,
    ) -> Result<Self, AuditError> {
        let log = Arc::new(log);
        let head = log.append(&started.record())?;
        tracing::info!(file = %log.path().display(), %head, agent = log.agent(), "audit log");

        let (entries, mut inbox) = mpsc::channel(QUEUE);
        let breaks = watch::Sender::new(false);
        let broke = breaks.clone();
        let error = Arc::new(Mutex::new(None));
        let sessions = entries.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if sessions.send(Entry::Session(event)).await.is_err() {
                    return;
                }
            }
        });
        let (writer, failed) = (Arc::clone(&log), Arc::clone(&error));
        let thread = thread::spawn(move || {
            while let Some(entry) = inbox.blocking_recv() {
                let end = match &entry {
                    Entry::Session(SessionEvent::Ended(end)) => Some(end.clone()),
                    _ => None,
                };
                if let Err(error) = writer.append(&record(entry)) {
                    tracing::error!(%error, "the audit log cannot be written; everything ends");
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    broke.send_replace(true);
                    return;
                }
                if let Some(end) = end {
                    // A client that does not read is not waited for.
                    let _ = ends.try_send(end);
                }
            }
        });
        Ok(Self {
            log,
            entries: Some(entries),
            thread: Some(thread),
            breaks,
            overflow,
            error,
        })
    }

    pub(super) fn observer(&self) -> Option<GateObserver> {
        let breaks = self.breaks.clone();
        let entries = self.entries.clone()?;
        Some(GateObserver { entries, breaks })
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
        drop(self.entries.take());
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

/// What is recorded before anything is started.
pub(super) struct Started<'a> {
    pub(super) command: &'a [OsString],
    pub(super) policy: Option<&'a PolicySource>,
    pub(super) user: u32,
    pub(super) degraded: &'a [Degraded],
}

impl Started<'_> {
    fn record(&self) -> Record {
        Record::AgentStarted(AgentStarted {
            version: Text::new(env!("CARGO_PKG_VERSION")),
            command: self
                .command
                .iter()
                .map(|word| word.to_string_lossy())
                .collect(),
            policy: self.policy.map(PolicySource::file_record),
            user: Text::new(self.user.to_string()),
            degraded: self.degraded.iter().map(|lost| lost.describe()).collect(),
        })
    }
}

fn record(entry: Entry) -> Record {
    match entry {
        Entry::Policy(record) => record,
        Entry::Call(call) => Record::Call(Box::new(call_record(&call))),
        Entry::Session(SessionEvent::Opened { session, grant }) => {
            Record::SessionOpened(Box::new(SessionOpened::new(session, &grant)))
        }
        Entry::Session(SessionEvent::Armed {
            session,
            caller,
            kind,
        }) => Record::SocketArmed(SocketArmed {
            session,
            pid: caller.process,
            thread: caller.thread,
            comm: Text::new(caller.name),
            socket: Text::new(kind.name()),
        }),
        Entry::Session(SessionEvent::FilterAttached {
            session,
            caller,
            kind,
            length,
            digest,
            relation,
        }) => Record::FilterAttached(FilterAttached::new(
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
        Entry::Session(SessionEvent::Refused { caller, refusal }) => {
            let (pid, comm) =
                caller.map_or((0, String::new()), |caller| (caller.process, caller.name));
            Record::SocketRefused(SocketRefused {
                pid,
                comm: Text::new(comm),
                why: Text::new(refusal.reason),
            })
        }
        Entry::Session(SessionEvent::Ended(end)) => Record::SessionEnded(end),
    }
}

fn call_record(call: &CallEvent) -> CallRecord {
    let (verdict, reason, session) = match &call.verdict {
        CallVerdict::Forwarded => (Decision::Forward, None, None),
        CallVerdict::EndsCapture => (Decision::EndCapture, None, None),
        CallVerdict::Captures { session, .. } => (Decision::Capture, None, Some(*session)),
        CallVerdict::Withdrawn { session } => (
            Decision::Deny,
            Some("cancelled while its session was being opened"),
            Some(*session),
        ),
        CallVerdict::Denied { reason, .. } | CallVerdict::NotOpened { reason } => {
            (Decision::Deny, Some(reason.as_str()), None)
        }
        CallVerdict::Hidden => (Decision::Deny, Some("the tool is hidden"), None),
        CallVerdict::Refused { why } => (Decision::Deny, Some(why.as_str()), None),
    };
    let changes = match &call.verdict {
        CallVerdict::Captures { changes, .. } => changes
            .iter()
            .map(|change| format!("{}: {}", change.argument, change.why))
            .collect(),
        _ => TextList::default(),
    };
    CallRecord {
        request: Text::new(call.id.as_deref().unwrap_or("null")),
        tool: Text::new(call.tool.as_str()),
        arguments: call.argument_names.iter().map(String::as_str).collect(),
        verdict,
        reason: reason.map(Text::new),
        rule: call.rule.as_ref().map(|rule| Text::new(rule.to_string())),
        changes,
        session,
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::RuleRef;

    use super::*;

    #[test]
    fn call_is_recorded_with_its_rule_and_the_names_of_its_arguments() {
        let event = CallEvent {
            id: Some("7".into()),
            tool: "start_capture".into(),
            argument_names: vec!["key".into()],
            verdict: CallVerdict::Denied {
                reason: "Port 22 is not allowed.".into(),
                instead: None,
            },
            rule: Some(RuleRef {
                file: "p.yaml".into(),
                line: 3,
                column: 5,
                path: "tools.start_capture".into(),
            }),
        };
        let record = record(Entry::Call(event));
        let value = serde_json::to_value(record).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "kind": "call",
                "request": "7",
                "tool": "start_capture",
                "arguments": ["key"],
                "verdict": "deny",
                "reason": "Port 22 is not allowed.",
                "rule": "p.yaml:3:5 tools.start_capture",
            })
        );
    }
}
