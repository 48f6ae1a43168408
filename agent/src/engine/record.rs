//! The record keeper: the one thread that writes to the audit log, so that nobody else waits for
//! a disk.

use std::{
    ffi::OsString,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use tokio::sync::{mpsc, watch};

use crate::{
    audit::{
        AgentStarted, AgentStopped, AuditError, CallRecord, Decision, Hash, InterfaceRecord, Log,
        PolicyFile, Record, SessionOpened, SocketArmed, SocketRefused, Text, TextList,
    },
    gate::{CallEvent, CallVerdict, GateEvent, Observer},
    policy::Policy,
    session::{Grant, SessionEnd, SessionEvent, SessionId},
};

use super::Degraded;

/// Entries that may wait for the disk.
const QUEUE: usize = 4_096;
/// Refusals recorded one by one; of the rest, one in [`REFUSALS_THEN`] is. Whoever is refused can
/// try again without end, and must not fill the disk.
const REFUSALS_FIRST: u64 = 100;
const REFUSALS_THEN: u64 = 1_000;

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
}

enum Entry {
    Gate(GateEvent),
    Session(SessionEvent),
}

/// Writes what happens into the audit log.
pub(super) struct RecordKeeper {
    log: Arc<Log>,
    entries: Option<mpsc::Sender<Entry>>,
    thread: Option<thread::JoinHandle<()>>,
    broken: watch::Receiver<bool>,
    error: Arc<Mutex<Option<AuditError>>>,
}

/// The gate's line to the record keeper.
pub(super) struct GateObserver(mpsc::Sender<Entry>);

impl Observer for GateObserver {
    fn observe(&self, event: GateEvent) {
        if self.0.try_send(Entry::Gate(event)).is_err() {
            tracing::error!("the record cannot keep up; a call is not recorded");
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
        ends: mpsc::Sender<SessionEnd>,
    ) -> Result<Self, AuditError> {
        let log = Arc::new(log);
        let head = log.append(&started.record())?;
        tracing::info!(file = %log.path().display(), %head, agent = log.agent(), "audit log");

        let (entries, mut inbox) = mpsc::channel(QUEUE);
        let (breaks, broken) = watch::channel(false);
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
            let mut refusals = 0;
            while let Some(entry) = inbox.blocking_recv() {
                let end = match &entry {
                    Entry::Session(SessionEvent::Ended(end)) => Some(end.clone()),
                    _ => None,
                };
                if let Some(record) = record(entry, &mut refusals)
                    && let Err(error) = writer.append(&record)
                {
                    tracing::error!(%error, "the audit log cannot be written; everything ends");
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    let _ = breaks.send(true);
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
            broken,
            error,
        })
    }

    pub(super) fn observer(&self) -> Option<GateObserver> {
        self.entries.clone().map(GateObserver)
    }

    /// Returns when the log can no longer be written.
    pub(super) async fn broken(&self) {
        let mut broken = self.broken.clone();
        if broken.wait_for(|broken| *broken).await.is_err() {
            // The writer finished in order.
            std::future::pending::<()>().await;
        }
    }

    /// Writes what is still waiting, then the end. All senders of events must be gone.
    pub(super) async fn finish(mut self, why: &str, status: Option<i32>) -> Result<(), AuditError> {
        drop(self.entries.take());
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
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
            policy: self.policy.map(|policy| PolicyFile {
                file: Text::new(policy.file.as_str()),
                sha256: policy.digest.parse().unwrap_or(Hash::ZERO),
            }),
            user: Text::new(self.user.to_string()),
            degraded: self.degraded.iter().map(|lost| lost.describe()).collect(),
        })
    }
}

fn record(entry: Entry, refusals: &mut u64) -> Option<Record> {
    Some(match entry {
        Entry::Gate(GateEvent::Call(call)) => Record::Call(Box::new(call_record(&call))),
        Entry::Gate(event) => {
            tracing::debug!(?event, "gate");
            return None;
        }
        Entry::Session(SessionEvent::Opened { session, grant }) => {
            Record::SessionOpened(Box::new(opened_record(session, &grant)))
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
        Entry::Session(SessionEvent::Refused { caller, refusal }) => {
            *refusals += 1;
            let number = *refusals;
            if number > REFUSALS_FIRST && !number.is_multiple_of(REFUSALS_THEN) {
                return None;
            }
            let why = if number > REFUSALS_FIRST {
                format!("{} (refusal number {number})", refusal.reason)
            } else {
                refusal.reason
            };
            let (pid, comm) =
                caller.map_or((0, String::new()), |caller| (caller.process, caller.name));
            Record::SocketRefused(SocketRefused {
                pid,
                comm: Text::new(comm),
                why: Text::new(why),
            })
        }
        Entry::Session(SessionEvent::Ended(end)) => Record::SessionEnded(end),
    })
}

fn opened_record(session: SessionId, grant: &Grant) -> SessionOpened {
    let interfaces = grant.interfaces.iter().map(|interface| InterfaceRecord {
        name: Text::new(interface.name.as_str()),
        index: interface.index,
    });
    SessionOpened::new(session, None, interfaces, &grant.terms, &grant.summary())
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
    use crate::{
        kernel::{Errno, Refusal},
        policy::RuleRef,
    };

    use super::*;

    #[test]
    fn call_is_recorded_with_its_rule_and_the_names_of_its_arguments() {
        let event = GateEvent::Call(CallEvent {
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
        });
        let record = record(Entry::Gate(event), &mut 0).unwrap();
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

    #[test]
    fn refusals_without_end_do_not_fill_the_disk() {
        let mut refusals = 0;
        let recorded = (0..10_000)
            .filter_map(|_| {
                let refusal = Refusal {
                    errno: Errno::PERM,
                    reason: "no capture session is open".into(),
                };
                let caller = None;
                record(
                    Entry::Session(SessionEvent::Refused { caller, refusal }),
                    &mut refusals,
                )
            })
            .count();
        assert_eq!(recorded, 100 + 10);
    }
}
