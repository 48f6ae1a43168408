//! Calls that need an approval, or come with a grant: in which order what is asked, and what is given
//! back.

use std::time::Duration;

use serde_json::{Map, json};
use tempfile::TempDir;

use super::*;
use crate::{
    approval::Approvals,
    policy::{Pending, Question, Unit},
    principal::{Ceiling, NewGrant, Operator, Principal},
    store::StateDirectory,
};

const BY: Operator = Operator {
    uid: 0,
    sudo_uid: None,
};

const POLICY: &str = r#"
version: 1
tools:
  start: { approve: operator, limits: [ { max: 2, window: hour, counter: starts } ] }
  capture: { capture: { interfaces: [lo], packets: 1000, bytes: 1MiB } }
  sniff: { approve: { by: user, why: it captures }, limits: [ { max: 2, window: hour, counter: sniffs } ], capture: { from: { packets: n }, interfaces: [lo], packets: 1000 } }
"#;

struct Court {
    judge: Judge,
    operator: Approvals,
    directory: StateDirectory,
    _home: TempDir,
}

impl Court {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(&home.path().join("state"), Some(65_534)).unwrap();
        Self {
            judge: judge().with_state(directory.clone()).telling(|_| {}),
            operator: Approvals::open(&directory).unwrap(),
            directory,
            _home: home,
        }
    }

    async fn start(&self, n: u64) -> (Verdict, Ticket) {
        let call = call("start", n);
        Decide::decide(&self.judge, &caller(), &call).await
    }

    async fn pending(&self, n: u64) -> Pending {
        match self.start(n).await {
            (Verdict::Pending(pending), ticket) => {
                self.judge.settle(ticket, CallEnd::NotForwarded);
                *pending
            }
            (other, _) => panic!("{other:?}"),
        }
    }

    async fn goes(&self, n: u64) -> Ticket {
        match self.start(n).await {
            (Verdict::Forward, ticket) => ticket,
            (other, _) => panic!("{other:?}"),
        }
    }
}

fn judge() -> Judge {
    let policy = Policy::parse("policy.yaml", POLICY).unwrap();
    Judge::new(policy, Arc::new(Limits::in_memory().unwrap()))
}

fn caller() -> Caller {
    Caller {
        principal: Principal::User(1000),
        grant: None,
        connection: 1,
        server: "shark".into(),
    }
}

fn call(tool: &str, n: u64) -> Call {
    let mut arguments = Map::new();
    arguments.insert("n".to_owned(), json!(n));
    Call {
        tool: tool.to_owned(),
        arguments,
    }
}

fn used(judge: &Judge) -> u64 {
    let window = Window::Calendar(Unit::Hour);
    judge
        .limits
        .counters(&caller(), "start")
        .count("starts", Scope::Grant, window)
}

#[tokio::test]
async fn where_nobody_can_be_asked_the_call_is_denied_and_not_counted() {
    let judge = judge();
    let (verdict, ticket) = Decide::decide(&judge, &caller(), &call("start", 1)).await;
    let Verdict::Deny(denial) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(denial.rule.path, "tools.start.approve");
    judge.settle(ticket, CallEnd::NotForwarded);
    assert_eq!(used(&judge), 0);
}

#[tokio::test]
async fn approved_call_goes_once_and_is_counted_once() {
    let court = Court::new();
    let pending = court.pending(1).await;
    assert_eq!(pending.rule.path, "tools.start.approve");
    let told = pending.to_string();
    let verb = format!("capwarden approve {}", pending.id);
    assert!(
        told.contains(&verb) && told.contains(&pending.expires),
        "{told}"
    );
    assert_eq!(court.pending(1).await.id, pending.id);
    assert_eq!(used(&court.judge), 0, "what waits is not counted");
    court.operator.approve(&pending.id, BY).unwrap();
    let ticket = court.goes(1).await;
    assert_eq!(used(&court.judge), 1);
    court.judge.settle(ticket, CallEnd::Answered);
    assert_ne!(court.pending(1).await.id, pending.id);
    assert_eq!(used(&court.judge), 1);
}

#[tokio::test]
async fn limit_that_is_reached_leaves_the_approval() {
    let court = Court::new();
    let pending = court.pending(1).await;
    court.operator.approve(&pending.id, BY).unwrap();
    for n in [2, 3] {
        let other = court.pending(n).await;
        court.operator.approve(&other.id, BY).unwrap();
        court.judge.settle(court.goes(n).await, CallEnd::Answered);
    }
    let (verdict, _) = court.start(1).await;
    let Verdict::Deny(denial) = verdict else {
        panic!("{verdict:?}");
    };
    assert!(denial.reason.contains("limit"), "{}", denial.reason);
    let listed = court.operator.list(false).unwrap();
    assert_eq!(listed.len(), 1, "it can still be used");
}

#[tokio::test]
async fn approval_is_given_back_only_where_the_server_did_nothing() {
    use CallEnd::{Answered, Cancelled, InputRequired, Lost, NotForwarded, RpcError, ToolFailed};
    for (end, comes_again) in [
        (Answered, false),
        (ToolFailed, false),
        (RpcError, false),
        (NotForwarded, false),
        (Lost, false),
        (Cancelled, true),
        (InputRequired, true),
    ] {
        let court = Court::new();
        let id = court.pending(1).await.id;
        court.operator.approve(&id, BY).unwrap();
        court.judge.settle(court.goes(1).await, end);
        match (court.start(1).await.0, comes_again) {
            (Verdict::Forward, true) => {}
            (Verdict::Pending(_), false) => {}
            (other, _) => panic!("{end:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn denial_tells_the_operators_reason() {
    let court = Court::new();
    let id = court.pending(1).await.id;
    let why = Some("not during the fair.".to_owned());
    court.operator.deny(&id, BY, why).unwrap();
    let (verdict, ticket) = court.start(1).await;
    let Verdict::Deny(denial) = verdict else {
        panic!("{verdict:?}");
    };
    let reason = format!("An operator has denied this call ({id}), because: not during the fair.");
    assert_eq!(denial.reason, reason);
    court.judge.settle(ticket, CallEnd::NotForwarded);
    assert_eq!(used(&court.judge), 0);
}

#[tokio::test]
async fn call_with_a_grant_is_held_to_it_until_it_is_revoked() {
    let court = Court::new();
    let grants = Arc::new(Grants::open(&court.directory).unwrap());
    let new = NewGrant {
        name: "laptop".to_owned(),
        server: "shark".to_owned(),
        ceiling: Ceiling {
            packets: Some(10),
            bytes: Some(1 << 30),
            duration: Some(Duration::from_secs(3)),
        },
        lasts: None,
    };
    let (token, _) = grants.create(new, BY).unwrap();
    let judge = judge().with_grants(Arc::clone(&grants));
    let bearer = grants.verify(&token.reveal(), "shark").unwrap();
    let caller = bearer.caller(1);
    let (verdict, _) = Decide::decide(&judge, &caller, &call("capture", 1)).await;
    let Verdict::Capture(capture) = verdict else {
        panic!("{verdict:?}");
    };
    let terms = capture.terms;
    assert_eq!(
        (terms.packets, terms.bytes, terms.duration),
        (Some(10), Some(1 << 20), Some(Duration::from_secs(3)))
    );
    // What is written into the call is the grant's, and is said to be.
    let text = "version: 1\ntools: { sniff: { capture: { from: { packets: n }, interfaces: [lo], packets: 1000 } } }\n";
    judge.replace_policy(Policy::parse("p", text).unwrap());
    let (verdict, _) = Decide::decide(&judge, &caller, &call("sniff", 500)).await;
    let Verdict::Capture(capture) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(capture.changes[0].forwarded, 10);
    assert_eq!(
        capture.changes[0].why,
        "the grant allows at most 10 packets"
    );
    assert!(judge.lets_in(&caller));
    Grants::open(&court.directory)
        .unwrap()
        .revoke("laptop", BY)
        .unwrap();
    let (verdict, _) = Decide::decide(&judge, &caller, &call("capture", 1)).await;
    assert!(matches!(verdict, Verdict::Deny(_)), "{verdict:?}");
}

/// What the user of a client is asked about a call to capture `n` packets.
async fn question(judge: &Judge, n: u64) -> Question {
    let (verdict, ticket) = Decide::decide(judge, &caller(), &call("sniff", n)).await;
    judge.settle(ticket, CallEnd::NotForwarded);
    match verdict {
        Verdict::Pending(pending) => pending.question.unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn sniffs(judge: &Judge, n: u64) -> Ticket {
    match Decide::decide(judge, &caller(), &call("sniff", n)).await {
        (Verdict::Capture(_), ticket) => ticket,
        (other, _) => panic!("{other:?}"),
    }
}

fn sniffed(judge: &Judge) -> u64 {
    let window = Window::Calendar(Unit::Hour);
    let caller = caller();
    let counters = judge.limits.counters(&caller, "sniff");
    counters.count("sniffs", Scope::Grant, window)
}

#[tokio::test]
async fn user_is_shown_what_the_call_comes_to_and_says_yes_to_that() {
    let court = Court::new();
    let judge = &court.judge;
    let asked = question(judge, 10).await;
    for part in [
        "sniff (at the server shark)",
        r#"{"n":10}"#,
        "a capture of lo, 10 packets",
        "it captures",
    ] {
        assert!(asked.message.contains(part), "{}", asked.message);
    }
    assert!(judge.asked(&asked.state) && !judge.asked("theirs"));
    let state = asked.state.as_str();
    let answer = async |n, said| {
        let call = call("sniff", n);
        judge.answer(&caller(), &call, state, said).await
    };
    let denial = answer(11, Said::Yes).await.unwrap_err();
    assert!(denial.reason.contains("another call"), "{denial}");
    answer(10, Said::Yes).await.unwrap();
    assert_eq!(sniffed(judge), 0, "what waits is not counted");

    // It comes to something else now: nobody has said yes to that.
    let more = POLICY.replace("n }, interfaces: [lo]", "n }, interfaces: [eth0]");
    judge.replace_policy(Policy::parse("policy.yaml", &more).unwrap());
    assert!(question(judge, 10).await.message.contains("eth0"));
    judge.replace_policy(Policy::parse("policy.yaml", POLICY).unwrap());

    // The server asks for input of its own, twice, while it works on the call.
    for _ in 0..2 {
        let ticket = sniffs(judge, 10).await;
        judge.settle(ticket, CallEnd::InputRequired);
    }
    let ticket = sniffs(judge, 10).await;
    judge.settle(ticket, CallEnd::Answered);
    assert_eq!(sniffed(judge), 1, "one call, one charge");
    let denial = answer(10, Said::Yes).await.unwrap_err();
    assert!(denial.to_string().contains("answered already"), "{denial}");
    assert_ne!(question(judge, 10).await.state, asked.state);
}

#[tokio::test]
async fn user_who_says_no_is_not_asked_again() {
    let court = Court::new();
    let judge = &court.judge;
    let asked = question(judge, 10).await;
    let call = call("sniff", 10);
    judge
        .answer(&caller(), &call, &asked.state, Said::No)
        .await
        .unwrap();
    for _ in 0..2 {
        let (verdict, ticket) = Decide::decide(judge, &caller(), &call).await;
        judge.settle(ticket, CallEnd::NotForwarded);
        match verdict {
            Verdict::Deny(denial) => {
                assert!(denial.reason.starts_with("The user has denied"), "{denial}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sniffed(judge), 0);
}

#[tokio::test]
async fn what_does_not_fit_a_form_is_for_an_operator() {
    let court = Court::new();
    let mut call = call("sniff", 10);
    call.arguments
        .insert("note".to_owned(), json!("x".repeat(5_000)));
    let (verdict, _) = Decide::decide(&court.judge, &caller(), &call).await;
    match verdict {
        Verdict::Pending(pending) => assert_eq!(pending.question, None),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn text_of_a_call_cannot_write_the_question() {
    let court = Court::new();
    let mut call = call("sniff", 10);
    let text = "x\n\nArguments: {}\u{202e}\u{1b}[2J";
    call.arguments.insert("note".to_owned(), json!(text));
    let (verdict, _) = Decide::decide(&court.judge, &caller(), &call).await;
    let Verdict::Pending(pending) = verdict else {
        panic!("{verdict:?}");
    };
    let message = pending.question.unwrap().message;
    assert_eq!(message.matches("\nArguments: ").count(), 1, "{message}");
    let hidden = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!message.contains(hidden), "{message:?}");
}

#[tokio::test]
async fn operator_outranks_the_user() {
    let policy = "version: 1\nall_tools: { approve: user }\ntools: { a: { approve: { by: operator, timeout: 1 h } } }";
    let policy = Policy::parse("policy.yaml", policy).unwrap();
    let court = Court::new();
    court.judge.replace_policy(policy);
    match Decide::decide(&court.judge, &caller(), &call("a", 1))
        .await
        .0
    {
        Verdict::Pending(pending) => {
            assert_eq!(pending.rule.path, "tools.a.approve");
            assert_eq!(pending.question, None);
        }
        other => panic!("{other:?}"),
    }
}
