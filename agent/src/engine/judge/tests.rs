//! Calls that end, fail, and come again. What a policy decides is given here; how limits count is
//! tested where they are.

use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::{Map, Value, json};

use super::*;
use crate::{
    limits::Reading,
    policy::{LimitUse, Refund, RuleRef, Unit},
    principal::Principal,
};

const HOUR: Window = Window::Sliding(Duration::from_secs(3_600));

fn judge() -> Judge {
    let policy = Policy::parse("policy.yaml", "version: 1\ntools: { start: allow }\n").unwrap();
    judge_of(policy)
}

/// 2026-11-21 14:02:23 UTC, for ever.
const STANDING: Reading = Reading {
    wall: 1_795_269_743_000_000,
    since_boot: 1,
    boot: 1,
};

fn judge_of(policy: Policy) -> Judge {
    let limits = Limits::in_memory_with(STANDING).unwrap();
    Judge::new(policy, Arc::new(limits))
}

fn caller() -> Caller {
    Caller {
        principal: Principal::User(1000),
        grant: None,
        connection: 1,
        server: "shark".into(),
    }
}

fn call(arguments: Value) -> Call {
    let Value::Object(arguments) = arguments else {
        panic!("no object");
    };
    Call {
        tool: "start".to_owned(),
        arguments,
    }
}

fn rule(path: &str) -> RuleRef {
    RuleRef {
        file: "policy.yaml".into(),
        line: 4,
        column: 2,
        path: path.to_owned(),
    }
}

fn limited(max: u64, refund: Refund) -> Decision {
    let one = LimitUse {
        counter: "starts".to_owned(),
        scope: Scope::Grant,
        window: HOUR,
        max,
        amount: 1,
        refund,
        rule: rule("tools.start.limits[0]"),
        on_deny: None,
    };
    Decision {
        uses: vec![one],
        ..Verdict::Forward.into()
    }
}

/// Each test makes its calls with these arguments, unless it says otherwise.
fn plain() -> Call {
    call(json!({"interface": "lo", "packets": 10}))
}

fn used(judge: &Judge) -> u64 {
    judge
        .limits
        .counters(&caller(), "start")
        .count("starts", Scope::Grant, HOUR)
}

fn send(judge: &Judge, call: &Call, decision: &Decision) -> Result<Ticket, Box<Denial>> {
    let policy = judge.policy();
    let caller = caller();
    let reserved = judge.reserve(&caller, call, &policy, decision);
    // Counters in memory are there at once.
    reserved.now_or_never().unwrap()
}

#[test]
fn ends_of_a_call_give_back_what_the_rule_says() {
    use CallEnd::{Answered, Cancelled, Lost, NotForwarded, RpcError, ToolFailed};
    let table = [
        (Answered, [1, 1, 1]),
        (ToolFailed, [0, 1, 1]),
        (RpcError, [0, 0, 1]),
        (NotForwarded, [0, 0, 0]),
        (Cancelled, [0, 0, 0]),
        (Lost, [1, 1, 1]),
    ];
    for (end, expected) in table {
        let refunds = [Refund::OnFailure, Refund::OnRpcError, Refund::Never];
        for (refund, expected) in refunds.into_iter().zip(expected) {
            let judge = judge();
            let ticket = send(&judge, &plain(), &limited(5, refund)).unwrap();
            assert_eq!(used(&judge), 1);
            judge.settle(ticket, end);
            assert_eq!(used(&judge), expected, "{end:?}, {refund:?}");
        }
    }
}

#[test]
fn limit_that_is_reached_denies_and_says_when() {
    let judge = judge();
    let decision = limited(1, Refund::Never);
    send(&judge, &plain(), &decision).unwrap();
    let denial = send(&judge, &plain(), &decision).unwrap_err();
    assert_eq!(
        denial.reason,
        "The limit of 1 in any 1 h for this caller is reached: 1 of 1 are used."
    );
    let instead = denial.instead.unwrap();
    assert_eq!(instead, "Try again at 15:02:23 UTC, in 1 h.");
    assert_eq!(denial.rule.path, "tools.start.limits[0]");
    assert_eq!(
        *denial.allowed.unwrap(),
        json!({"max": 1, "used": 1, "after_seconds": 3600})
    );
}

#[test]
fn call_that_comes_again_with_input_is_charged_once() {
    let judge = judge();
    let decision = limited(1, Refund::OnFailure);
    let mut ticket = send(&judge, &plain(), &decision).unwrap();
    for _ in 0..3 {
        judge.settle(ticket, CallEnd::InputRequired);
        assert_eq!(used(&judge), 1, "it is charged while it waits");
        let other = call(json!({"interface": "lo", "packets": 11}));
        assert!(
            send(&judge, &other, &decision).is_err(),
            "others have to do without"
        );
        ticket = send(&judge, &plain(), &decision).unwrap();
        assert_eq!(used(&judge), 1);
    }
    judge.settle(ticket, CallEnd::Answered);
    assert_eq!(used(&judge), 1);
    assert!(
        send(&judge, &plain(), &decision).is_err(),
        "a new call is a new call"
    );
}

#[test]
fn order_of_arguments_does_not_make_another_call() {
    let judge = judge();
    let decision = limited(1, Refund::OnFailure);
    let ticket = send(&judge, &plain(), &decision).unwrap();
    judge.settle(ticket, CallEnd::InputRequired);
    let again = call(json!({"packets": 10, "interface": "lo"}));
    assert!(send(&judge, &again, &decision).is_ok());
}

#[test]
fn only_the_caller_itself_comes_again() {
    for other in [
        Caller {
            principal: Principal::User(1),
            ..caller()
        },
        Caller {
            grant: Some("laptop".into()),
            ..caller()
        },
        Caller {
            connection: 2,
            ..caller()
        },
        Caller {
            server: "kali".into(),
            ..caller()
        },
    ] {
        let judge = judge();
        let mut decision = limited(1, Refund::OnFailure);
        decision.uses[0].scope = Scope::Global;
        let ticket = send(&judge, &plain(), &decision).unwrap();
        judge.settle(ticket, CallEnd::InputRequired);
        assert!(
            judge
                .reserve(&other, &plain(), &judge.policy(), &decision)
                .now_or_never()
                .unwrap()
                .is_err(),
            "{other:?}"
        );
        assert!(send(&judge, &plain(), &decision).is_ok());
    }
}

#[test]
fn input_is_not_asked_for_over_and_over_on_one_charge() {
    let judge = judge();
    let decision = limited(1_000, Refund::OnFailure);
    let sent = 200_u64;
    for _ in 0..sent {
        let ticket = send(&judge, &plain(), &decision).unwrap();
        judge.settle(ticket, CallEnd::InputRequired);
    }
    // Once for each time it was new.
    assert_eq!(used(&judge), sent.div_ceil(u64::from(MOST_ROUNDS) + 1));
}

#[test]
fn nothing_is_given_back_once_input_was_asked_for() {
    use CallEnd::{Answered, Cancelled, InputRequired, Lost, NotForwarded, RpcError, ToolFailed};
    for end in [
        Answered,
        Cancelled,
        Lost,
        NotForwarded,
        RpcError,
        ToolFailed,
    ] {
        let judge = judge();
        let decision = limited(5, Refund::OnFailure);
        judge.settle(send(&judge, &plain(), &decision).unwrap(), InputRequired);
        judge.settle(send(&judge, &plain(), &decision).unwrap(), end);
        assert_eq!(used(&judge), 1, "{end:?}");
        // One that was not sent on may still come; one that was answered is over.
        send(&judge, &plain(), &decision).unwrap();
        let open = matches!(end, NotForwarded | Cancelled);
        assert_eq!(used(&judge), if open { 1 } else { 2 }, "{end:?}");
    }
}

#[test]
fn call_that_comes_again_too_late_for_its_limit_keeps_its_charge() {
    let judge = judge();
    let ticket = send(&judge, &plain(), &limited(1, Refund::OnFailure)).unwrap();
    judge.settle(ticket, CallEnd::InputRequired);
    // The policy was changed meanwhile.
    assert!(send(&judge, &plain(), &limited(0, Refund::OnFailure)).is_err());
    assert_eq!(used(&judge), 1);
    send(&judge, &plain(), &limited(1, Refund::OnFailure)).unwrap();
    assert_eq!(used(&judge), 1);
}

#[test]
fn calls_that_wait_for_input_are_bounded_and_forgotten_ones_stay_charged() {
    let judge = judge();
    let decision = limited(u64::MAX, Refund::OnFailure);
    let calls: Vec<Call> = (0..1_100).map(|n| call(json!({"packets": n}))).collect();
    for one in &calls {
        judge.settle(
            send(&judge, one, &decision).unwrap(),
            CallEnd::InputRequired,
        );
    }
    for one in &calls {
        send(&judge, one, &decision).unwrap();
    }
    assert_eq!(used(&judge), 1_100 + (1_100 - 1_024));
}

#[test]
fn calls_without_limits_reserve_nothing() {
    let judge = judge();
    let ticket = send(&judge, &plain(), &Verdict::Forward.into()).unwrap();
    assert!(ticket.reservation.is_empty());
    judge.settle(ticket, CallEnd::InputRequired);
}

#[tokio::test]
async fn policy_comes_first_and_can_be_replaced() {
    let judge = judge();
    let decide = |tool: &str| Call {
        tool: tool.to_owned(),
        arguments: Map::new(),
    };
    let (verdict, _) = Decide::decide(&judge, &caller(), &decide("start")).await;
    assert_eq!(verdict, Verdict::Forward);
    let (verdict, _) = Decide::decide(&judge, &caller(), &decide("stop")).await;
    assert!(matches!(verdict, Verdict::Deny(_)));
    let other = Policy::parse("policy.yaml", "version: 1\ntools: { stop: allow }\n").unwrap();
    judge.replace_policy(other);
    assert!(judge.visible(&caller(), "stop") && !judge.visible(&caller(), "start"));
    let (verdict, _) = Decide::decide(&judge, &caller(), &decide("stop")).await;
    assert_eq!(verdict, Verdict::Forward);
}

#[test]
fn tools_that_were_listed_are_known() {
    let judge = judge();
    let definition =
        |required: &str| format!(r#"{{"name":"start","inputSchema":{{"required":[{required}]}}}}"#);
    judge.listed(&caller(), "start", &definition(r#""interface""#));
    judge.listed(&caller(), "start", &definition(r#""interface","packets""#));
    let known = Known {
        counters: (),
        listings: &judge.listings,
        connection: caller().connection,
        ceiling: Ceiling::default(),
    };
    let start = known.definition("start").unwrap();
    let required = start.parts().get("inputSchema").unwrap().get("required");
    assert_eq!(required, Some(&serde_json::json!(["interface", "packets"])));
    assert!(known.definition("stop").is_none());
    assert_eq!(
        known.count("starts", Scope::Grant, Window::Calendar(Unit::Day)),
        0
    );
}

/// The policies that are published for these servers, as they are.
#[tokio::test]
async fn eleventh_call_in_a_minute_is_refused_by_the_published_policies() {
    let policies = [
        (
            "shark.json",
            r#"{"version":"1","default":"deny","tools":{"start_capture_session":{"limits":[{"counter":"start_capture_session_rate","window":"minute","max":10,"scope":"grant"}]}}}"#,
            "start_capture_session",
            "Try again at 14:03:00 UTC, in 37 s.",
        ),
        (
            "kali.json",
            r#"{"version":"1","default":"deny","tools":{"proxy_start":{"limits":[{"counter":"proxy_start_rate","window":"minute","max":10,"scope":"grant"}]}}}"#,
            "proxy_start",
            "Try again at 14:03:00 UTC, in 37 s.",
        ),
        (
            "looking-glass.yaml",
            "tools: {session_start: {rules: [{action: allow, rate_limit: {max: 10, window: 60}, validate: {required_args: true}}]}}",
            "session_start",
            "Try again at 14:03:23 UTC, in 1 min.",
        ),
    ];
    for (file, text, tool, instead) in policies {
        let judge = judge_of(Policy::parse(file, text).unwrap());
        let one = Call {
            tool: tool.to_owned(),
            ..plain()
        };
        let definition =
            format!(r#"{{"name":"{tool}","inputSchema":{{"required":["interface"]}}}}"#);
        judge.listed(&caller(), tool, &definition);
        for n in 1..=10 {
            let (verdict, ticket) = Decide::decide(&judge, &caller(), &one).await;
            assert_eq!(verdict, Verdict::Forward, "{file}, call {n}");
            judge.settle(ticket, CallEnd::Answered);
        }
        let (verdict, _) = Decide::decide(&judge, &caller(), &one).await;
        let Verdict::Deny(denial) = verdict else {
            panic!("{file}: the eleventh call is let through");
        };
        assert_eq!(denial.instead.as_deref(), Some(instead), "{file}");
        let other = Call {
            tool: "stop".to_owned(),
            ..plain()
        };
        let (verdict, _) = Decide::decide(&judge, &caller(), &other).await;
        let closed = !judge.visible(&caller(), "stop") && matches!(verdict, Verdict::Deny(_));
        assert!(closed, "{file}: a tool that is not named");
    }
}
