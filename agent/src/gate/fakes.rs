//! A policy and captures that do as they are told, for tests.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::sync::{Notify, Semaphore};

use super::{CallEnd, Captures, Decide, OpenError, Opened, ProgramOpened};
use crate::{
    policy::{
        Call, CaptureVerdict, Change, Denial, InterfaceTerms, Outside, Payload, Pending,
        ProgramTerms, ProgramVerdict, ProxyEnd, ProxyTerms, ProxyVerdict, Question, RuleRef, Said,
        Terms, Verdict,
    },
    principal::{Caller, Principal},
    session::{EndReason, SessionId, SessionKind},
};

pub(super) const SOON: Duration = Duration::from_secs(10);
/// How long the answer to a call of `quick_proxy` may take.
pub(super) const QUICK: Duration = Duration::from_millis(500);

pub(super) fn rule() -> RuleRef {
    RuleRef {
        file: "p.yaml".into(),
        line: 3,
        column: 7,
        path: "tools.x".into(),
    }
}

#[derive(Default)]
pub(super) struct FakePolicy {
    pub(super) settled: Mutex<Vec<(String, CallEnd)>>,
    /// What was listed; an empty definition stands for the end of a list.
    pub(super) listed: Mutex<Vec<(String, String)>>,
    /// What was said to questions, and not used yet.
    pub(super) said: Mutex<Vec<Said>>,
    /// Somebody is thinking about a call of the tool `think`, until it is noted that it was thought about.
    pub(super) thinking: AtomicBool,
    pub(super) thought: Notify,
}

impl FakePolicy {
    /// How the calls ended that were settled since this was asked last.
    pub(super) fn settled(&self) -> Vec<CallEnd> {
        let settled = std::mem::take(&mut *self.settled.lock().unwrap());
        settled.into_iter().map(|(_, end)| end).collect()
    }
}

impl FakePolicy {
    fn ask(&self) -> Verdict {
        match self.said.lock().unwrap().pop() {
            Some(Said::Yes) => Verdict::Forward,
            Some(_) => Verdict::Deny(Denial::new("The user said no.", rule())),
            None => Verdict::Pending(Box::new(Pending {
                id: "K7QM-2F9X".into(),
                expires: "2026-01-01T00:00:00Z".into(),
                reason: "It waits.".into(),
                instead: "Call again.".into(),
                rule: rule(),
                question: Some(Question {
                    message: "May it?".into(),
                    state: "ours:1".into(),
                }),
            })),
        }
    }
}

impl Decide for FakePolicy {
    type Ticket = String;

    fn visible(&self, _: &Caller, tool: &str) -> bool {
        !tool.starts_with("hidden")
    }

    async fn decide(&self, caller: &Caller, call: &Call) -> (Verdict, String) {
        match &caller.principal {
            Principal::User(user) => assert_eq!((*user, &caller.grant), (1000, &None)),
            Principal::Bearer(_) => assert!(caller.grant.is_some()),
        }
        let verdict = match call.tool.as_str() {
            "deny" => Verdict::Deny(Denial {
                instead: Some("Ask for less.".into()),
                ..Denial::new("Too \"wide\".", rule())
            }),
            "stop" => Verdict::EndCapture,
            "ask" => self.ask(),
            "think" => {
                self.thinking.store(true, Ordering::Release);
                self.thought.notified().await;
                Verdict::Forward
            }
            "stop_proxy" => Verdict::EndProxy,
            "close" => Verdict::EndProgram,
            "browse" => Verdict::Program(Box::new(ProgramVerdict {
                terms: ProgramTerms {
                    connect: Vec::new(),
                    processes: None,
                    memory: None,
                    packets: None,
                    bytes: None,
                    connections: None,
                    duration: Duration::from_secs(60),
                },
                rule: rule(),
            })),
            "start_proxy" | "quick_proxy" => Verdict::Proxy(Box::new(ProxyVerdict {
                terms: ProxyTerms {
                    listen: Vec::new(),
                    upstream: Vec::new(),
                    interfaces: InterfaceTerms::Any,
                    packets: Some(1000),
                    bytes: None,
                    connections: None,
                    duration: None,
                    end: ProxyEnd::Drop,
                },
                changes: Vec::new(),
                answer_within: match call.tool.as_str() {
                    "quick_proxy" => QUICK,
                    _ => Duration::from_secs(3600),
                },
                rule: rule(),
            })),
            "start" => Verdict::Capture(Box::new(CaptureVerdict {
                terms: Terms {
                    interfaces: InterfaceTerms::Any,
                    filters: Vec::new(),
                    outside: Outside::Narrow,
                    packets: Some(1000),
                    bytes: None,
                    duration: None,
                    snap_length: 96,
                    payload: Payload::Full,
                },
                changes: call
                    .arguments
                    .get("n")
                    .filter(|n| n.as_u64() > Some(1000))
                    .map(|n| Change {
                        argument: "n".into(),
                        asked: Some(n.clone()),
                        forwarded: json!(1000),
                        why: "the policy allows at most 1000 packets".into(),
                    })
                    .into_iter()
                    .collect(),
                rule: rule(),
            })),
            _ => Verdict::Forward,
        };
        (verdict, call.tool.clone())
    }

    fn listed(&self, _: &Caller, tool: &str, definition: &str) -> bool {
        let listed = (tool.to_owned(), definition.to_owned());
        self.listed.lock().unwrap().push(listed);
        !definition.contains("poison")
    }

    fn list_ended(&self, _: &Caller) {
        let end = (String::new(), String::new());
        self.listed.lock().unwrap().push(end);
    }

    fn asked(&self, state: &str) -> bool {
        state.starts_with("ours:")
    }

    async fn answer(
        &self,
        _: &Caller,
        call: &Call,
        state: &str,
        said: Said,
    ) -> Result<(), Box<Denial>> {
        if (state, call.tool.as_str()) != ("ours:1", "ask") {
            return Err(Denial::new("That is not it.", rule()).into());
        }
        self.said.lock().unwrap().push(said);
        Ok(())
    }

    fn settle(&self, ticket: String, end: CallEnd) {
        self.settled.lock().unwrap().push((ticket, end));
    }
}

pub(super) struct FakeCaptures {
    /// A permit is needed, and used up, to open a session.
    pub(super) permits: Semaphore,
    pub(super) refuse: Mutex<bool>,
    pub(super) live: Mutex<Vec<SessionId>>,
    pub(super) proxies: Mutex<Vec<SessionId>>,
    pub(super) programs: Mutex<Vec<SessionId>>,
    /// Of these, who has begun to listen.
    pub(super) listening: Mutex<Vec<SessionId>>,
    /// What the kernel has refused.
    pub(super) refused: Mutex<Vec<String>>,
    pub(super) log: Mutex<Vec<String>>,
}

impl Default for FakeCaptures {
    fn default() -> Self {
        Self {
            permits: Semaphore::new(100_000),
            refuse: Mutex::new(false),
            live: Mutex::default(),
            proxies: Mutex::default(),
            programs: Mutex::default(),
            listening: Mutex::default(),
            refused: Mutex::default(),
            log: Mutex::default(),
        }
    }
}

impl FakeCaptures {
    fn opened(&self, how: &str) -> SessionId {
        let mut log = self.log.lock().unwrap();
        let opened = log.iter().filter(|line| line.starts_with("open")).count();
        let session = SessionId(u32::try_from(opened).unwrap() + 1);
        log.push(format!("{how} {session}"));
        self.live.lock().unwrap().push(session);
        session
    }

    pub(super) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

impl Captures for FakeCaptures {
    async fn open(&self, terms: Terms) -> Result<Opened, OpenError> {
        self.permits.acquire().await.unwrap().forget();
        if *self.refuse.lock().unwrap() {
            return Err(OpenError::new("No such interface: eth9."));
        }
        let session = self.opened("open");
        Ok(Opened {
            session,
            summary: format!("any, {} packets", terms.packets.unwrap()),
            cut: None,
        })
    }

    async fn open_proxy(&self, _: ProxyTerms) -> Result<Opened, OpenError> {
        let session = self.opened("open proxy");
        self.proxies.lock().unwrap().push(session);
        Ok(Opened {
            session,
            summary: format!("listening on 127.0.0.1:{}", 9000 + session.0),
            cut: None,
        })
    }

    async fn open_program(&self, _: ProgramTerms) -> Result<ProgramOpened, OpenError> {
        let live = self.programs.lock().unwrap().iter().copied().max();
        let live = live.filter(|session| self.live().contains(session));
        let joined = live.is_some();
        let session = match live {
            Some(session) => {
                self.log.lock().unwrap().push(format!("join {session}"));
                session
            }
            None => self.opened("open programs"),
        };
        self.programs.lock().unwrap().push(session);
        let summary = "programs connecting to nothing".to_owned();
        Ok(ProgramOpened {
            opened: Opened {
                session,
                summary,
                cut: None,
            },
            joined,
        })
    }

    fn refusals(&self) -> u64 {
        u64::try_from(self.refused.lock().unwrap().len()).unwrap()
    }

    fn refused_since(
        &self,
        refusals: u64,
        hears: &dyn Fn(Option<SessionId>) -> bool,
    ) -> Vec<String> {
        let refused = self.refused.lock().unwrap();
        let refused = refused[usize::try_from(refusals).unwrap()..].to_vec();
        refused.into_iter().filter(|_| hears(None)).collect()
    }

    fn listens(&self, session: SessionId) -> bool {
        self.listening.lock().unwrap().contains(&session)
    }

    fn replied(&self, session: SessionId) {
        self.log.lock().unwrap().push(format!("replied {session}"));
    }

    fn stopping(&self, _: SessionId) {}

    fn end(&self, session: SessionId, reason: EndReason) {
        self.log
            .lock()
            .unwrap()
            .push(format!("end {session} {reason:?}"));
        self.live.lock().unwrap().retain(|live| *live != session);
    }

    fn live(&self) -> Vec<SessionId> {
        self.live.lock().unwrap().clone()
    }

    fn live_of(&self, kind: SessionKind) -> Vec<SessionId> {
        let proxies = self.proxies.lock().unwrap();
        let programs = self.programs.lock().unwrap();
        let of_kind = |id: &SessionId| {
            let its = match (proxies.contains(id), programs.contains(id)) {
                (true, _) => SessionKind::Proxy,
                (_, true) => SessionKind::Program,
                _ => SessionKind::Capture,
            };
            its == kind
        };
        self.live().into_iter().filter(of_kind).collect()
    }
}
