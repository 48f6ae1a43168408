//! Reserving, giving back, sharing, lasting.

use std::slice::from_ref;

use super::*;
use crate::{limits::LimitsError, policy::Counters as _, principal::HTTP_CONNECTIONS};

fn unit(unit: Unit) -> Window {
    Window::Calendar(unit)
}

#[test]
pub(super) fn eleventh_call_of_a_minute_is_refused_until_the_next() {
    let house = House::new();
    let limits = house.limits();
    house.clock.pass(23 * SECOND);
    let ten = limit(10, PER_MINUTE);
    assert_eq!(burst(&limits, &ten), 10);
    assert_eq!(again(&limits, &ten), 37 * SECOND);
    house.clock.pass(37 * SECOND - 1);
    assert!(!admitted(&limits, &ten));
    house.clock.pass(1);
    assert_eq!(burst(&limits, &ten), 10);
}

#[test]
pub(super) fn hours_and_days_are_utc() {
    for (window, length) in [(unit(Unit::Hour), 3_600), (unit(Unit::Day), 86_400)] {
        let house = House::new();
        let limits = house.limits();
        house.clock.pass(61 * SECOND);
        let two = limit(2, window);
        assert_eq!(burst(&limits, &two), 2);
        let wait = again(&limits, &two);
        assert_eq!((house.clock.wall() + wait) % (length * SECOND), 0);
        assert!(wait < length * SECOND);
        house.clock.pass(wait);
        assert_eq!(burst(&limits, &two), 2);
    }
}

#[test]
pub(super) fn sliding_window_frees_one_use_at_a_time() {
    let house = House::new();
    let limits = house.limits();
    let three = limit(3, Window::Sliding(minutes(1)));
    for _ in 0..3 {
        assert!(admitted(&limits, &three));
        house.clock.pass(10 * SECOND);
    }
    assert_eq!(again(&limits, &three), 30 * SECOND);
    house.clock.pass(30 * SECOND);
    assert_eq!(burst(&limits, &three), 1);
    assert_eq!(again(&limits, &three), 10 * SECOND);
}

#[test]
pub(super) fn bucket_fills_up_steadily() {
    let house = House::new();
    let limits = house.limits();
    let six = limit(6, Window::Bucket(minutes(1)));
    assert_eq!(burst(&limits, &six), 6);
    assert_eq!(again(&limits, &six), 10 * SECOND);
    house.clock.pass(25 * SECOND);
    assert_eq!(burst(&limits, &six), 2);
    assert_eq!(again(&limits, &six), 5 * SECOND);
    house.clock.pass(10 * MINUTE);
    assert_eq!(burst(&limits, &six), 6, "it holds no more than it holds");
}

#[test]
pub(super) fn all_uses_are_reserved_or_none() {
    let house = House::new();
    let limits = house.limits();
    let many = limit(100, PER_MINUTE);
    let few = LimitUse {
        counter: "few".to_owned(),
        ..limit(1, PER_MINUTE)
    };
    let here = LimitUse {
        scope: Scope::Connection,
        ..limit(2, PER_MINUTE)
    };
    assert!(reserve(&limits, &[many.clone(), here.clone(), few.clone()]).is_ok());
    for _ in 0..5 {
        assert!(reserve(&limits, &[many.clone(), here.clone(), few.clone()]).is_err());
        assert!(reserve(&limits, &[here.clone(), few.clone(), many.clone()]).is_err());
    }
    let caller = caller();
    let counters = limits.counters(&caller, "start");
    assert_eq!(counters.count("starts", Scope::Grant, PER_MINUTE), 1);
    assert_eq!(counters.count("starts", Scope::Connection, PER_MINUTE), 1);
    assert_eq!(counters.count("few", Scope::Grant, PER_MINUTE), 1);
    assert!(admitted(&limits, &here));
    assert!(!admitted(&limits, &here));
}

#[test]
pub(super) fn of_several_limits_the_one_that_takes_longest_is_told() {
    let house = House::new();
    let limits = house.limits();
    let (minute, hour) = (limit(1, PER_MINUTE), limit(1, unit(Unit::Hour)));
    let both = [hour.clone(), minute.clone()];
    assert!(reserve(&limits, &both).is_ok());
    let Err(Refused::Reached(reached)) = reserve(&limits, &both) else {
        panic!("it is full");
    };
    assert_eq!(reached.limit.window, unit(Unit::Hour));
    assert_eq!(reached.again.unwrap().after, minutes(60));
    // One that can never be met outlasts them all.
    let huge = LimitUse {
        amount: 9,
        ..minute
    };
    let Err(Refused::Reached(reached)) = reserve(&limits, &[hour, huge]) else {
        panic!("it is full");
    };
    assert_eq!((reached.limit.amount, reached.again), (9, None));
}

#[test]
pub(super) fn two_uses_of_one_counter_see_each_other() {
    let limits = House::new().limits();
    let one = limit(3, PER_MINUTE);
    assert!(reserve(&limits, &[one.clone(), one.clone()]).is_ok());
    assert!(reserve(&limits, &[one.clone(), one.clone()]).is_err());
    assert_eq!(burst(&limits, &one), 1);
}

#[test]
pub(super) fn amounts_are_counted_and_zero_uses_nothing() {
    let limits = House::new().limits();
    let of = |amount| LimitUse {
        amount,
        ..limit(10, PER_MINUTE)
    };
    assert!(admitted(&limits, &of(7)));
    assert!(!admitted(&limits, &of(4)));
    assert!(admitted(&limits, &of(3)));
    assert!(admitted(&limits, &of(0)));
    assert!(!admitted(&limits, &of(1)));
    // The policy was changed, and allows less than was used.
    assert!(!admitted(
        &limits,
        &LimitUse {
            amount: 0,
            max: 9,
            ..of(0)
        }
    ));
    // What a policy can say is less than either.
    let largest = if in_redis() { 1 << 51 } else { u64::MAX };
    for window in [
        PER_MINUTE,
        Window::Sliding(minutes(1)),
        Window::Bucket(minutes(1)),
    ] {
        let limits = House::new().limits();
        let most = |amount| LimitUse {
            amount,
            ..limit(u64::MAX, window)
        };
        assert!(admitted(&limits, &most(largest)));
        assert!(!admitted(&limits, &most(1)));
        assert!(!admitted(&limits, &most(largest)));
        assert!(!admitted(&limits, &most(u64::MAX)));
        assert!(!admitted(&limits, &limit(0, window)));
    }
}

#[test]
pub(super) fn scopes_keep_callers_apart() {
    let limits = House::new().limits();
    let one = |scope| LimitUse {
        scope,
        ..limit(1, PER_MINUTE)
    };
    let other_server = Caller {
        server: "kali".into(),
        ..caller()
    };
    let other_user = Caller {
        principal: Principal::User(0),
        ..caller()
    };
    let other_pipe = Caller {
        connection: 2,
        ..caller()
    };
    let grant = Caller {
        grant: Some("laptop".into()),
        ..caller()
    };
    let table: [(Scope, &Caller, &str, bool); 21] = [
        (Scope::Grant, &other_pipe, "start", false),
        (Scope::Grant, &other_user, "start", true),
        (Scope::Grant, &other_server, "start", true),
        (Scope::Grant, &grant, "start", true),
        (Scope::Principal, &other_pipe, "start", false),
        (Scope::Principal, &grant, "start", false),
        (Scope::Principal, &other_server, "stop", false),
        (Scope::Principal, &other_user, "start", true),
        (Scope::Connection, &other_user, "stop", false),
        (Scope::Connection, &other_pipe, "start", true),
        (Scope::Server, &other_user, "stop", false),
        (Scope::Server, &other_pipe, "start", false),
        (Scope::Server, &other_server, "start", true),
        (Scope::Tool, &other_user, "start", false),
        (Scope::Tool, &other_user, "stop", true),
        (Scope::Tool, &other_server, "start", true),
        (Scope::Tool, &other_server, "stop", true),
        (Scope::Global, &other_user, "stop", false),
        (Scope::Global, &other_server, "start", false),
        (Scope::Global, &other_pipe, "start", false),
        (Scope::Global, &grant, "start", false),
    ];
    for scope in [
        Scope::Grant,
        Scope::Principal,
        Scope::Connection,
        Scope::Server,
        Scope::Tool,
        Scope::Global,
    ] {
        assert!(limits.reserve(&caller(), "start", &[one(scope)]).is_ok());
    }
    for (scope, caller, tool, expected) in table {
        let got = limits.reserve(caller, tool, &[one(scope)]).is_ok();
        assert_eq!(got, expected, "{scope:?} {caller:?} {tool}");
    }
}

/// Whoever begins one MCP session after the other over HTTP uses one counter, and keeps nobody out.
#[test]
fn connections_over_http_are_counted_as_whose_they_are() {
    let house = House::new();
    let limits = house.limits();
    let ten = LimitUse {
        scope: Scope::Connection,
        ..limit(10, PER_MINUTE)
    };
    let over_http = |grant: Option<&str>, number| Caller {
        grant: grant.map(Into::into),
        connection: HTTP_CONNECTIONS + number,
        ..caller()
    };
    let mut admitted = 0;
    for number in 0..40_000 {
        let caller = over_http(Some("laptop"), number);
        admitted += usize::from(limits.reserve(&caller, "start", from_ref(&ten)).is_ok());
    }
    assert_eq!(admitted, 10);
    for grant in [Some("desk"), None] {
        let caller = over_http(grant, 50_000);
        assert!(limits.reserve(&caller, "start", from_ref(&ten)).is_ok());
    }
    assert!(limits.reserve(&caller(), "start", &[ten]).is_ok());
}

#[test]
pub(super) fn names_cannot_be_made_to_run_together() {
    let limits = House::new().limits();
    let of = |server: &str| Caller {
        server: server.into(),
        ..caller()
    };
    let one = LimitUse {
        scope: Scope::Tool,
        counter: "c".to_owned(),
        ..limit(1, PER_MINUTE)
    };
    for (server, tool) in [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc")] {
        assert!(
            limits.reserve(&of(server), tool, from_ref(&one)).is_ok(),
            "{server} {tool}"
        );
    }
    let long = "x".repeat(1 << 20);
    let long = LimitUse {
        counter: long,
        ..one
    };
    assert!(limits.reserve(&caller(), "start", from_ref(&long)).is_ok());
    assert!(limits.reserve(&caller(), "start", &[long]).is_err());
}

#[test]
pub(super) fn refunds_follow_the_rule() {
    let ends = [
        Settle::Used,
        Settle::ToolFailed,
        Settle::RpcError,
        Settle::NotMade,
    ];
    let table = [
        (Refund::OnFailure, [false, true, true, true]),
        (Refund::OnRpcError, [false, false, true, true]),
        (Refund::Never, [false, false, false, true]),
    ];
    for window in [
        PER_MINUTE,
        Window::Sliding(minutes(1)),
        Window::Bucket(minutes(1)),
    ] {
        for scope in [Scope::Grant, Scope::Connection] {
            for (refund, expected) in table {
                for (end, back) in ends.into_iter().zip(expected) {
                    let limits = House::new().limits();
                    let one = LimitUse {
                        refund,
                        scope,
                        ..limit(1, window)
                    };
                    let reservation = reserve(&limits, from_ref(&one)).unwrap();
                    assert!(!admitted(&limits, &one), "it counts from the start");
                    limits.settle(reservation, end);
                    assert_eq!(
                        admitted(&limits, &one),
                        back,
                        "{window:?} {refund:?} {end:?}"
                    );
                }
            }
        }
    }
}

#[test]
pub(super) fn what_is_not_settled_is_used() {
    let house = House::new();
    let one = limit(1, PER_MINUTE);
    drop(reserve(&house.limits(), from_ref(&one)).unwrap());
    assert!(!admitted(&house.limits(), &one));
}

#[test]
pub(super) fn refund_goes_to_the_window_that_was_charged() {
    let house = House::new();
    let limits = house.limits();
    let two = limit(2, PER_MINUTE);
    let late = reserve(&limits, from_ref(&two)).unwrap();
    house.clock.pass(MINUTE);
    assert_eq!(burst(&limits, &two), 2);
    limits.settle(late, Settle::RpcError);
    assert!(
        !admitted(&limits, &two),
        "the new window has its own uses only"
    );
}

#[test]
pub(super) fn refund_of_a_bucket_does_not_give_what_has_flowed_back() {
    let house = House::new();
    let limits = house.limits();
    let ten = |amount| LimitUse {
        amount,
        ..limit(10, Window::Bucket(minutes(1)))
    };
    let late = reserve(&limits, &[ten(5)]).unwrap();
    house.clock.pass(30 * SECOND);
    assert!(admitted(&limits, &ten(5)), "the bucket was full again");
    limits.settle(late, Settle::RpcError);
    assert!(admitted(&limits, &ten(5)));
    assert!(!admitted(&limits, &ten(1)));
}

#[test]
pub(super) fn counts_are_shared_and_last() {
    let house = House::new();
    let (first, second) = (house.limits(), house.limits());
    let ten = limit(10, unit(Unit::Day));
    for _ in 0..3 {
        assert!(admitted(&first, &ten));
        assert!(admitted(&second, &ten));
    }
    drop((first, second));
    let third = house.limits();
    let caller = caller();
    assert_eq!(
        third
            .counters(&caller, "start")
            .count("starts", Scope::Grant, ten.window),
        6
    );
    assert_eq!(burst(&third, &ten), 4);
}

#[test]
pub(super) fn full_of_live_counters_refuses_and_spent_ones_make_room() {
    let house = House::new();
    let limits = Limits::in_memory_with(house.clock.clone()).unwrap();
    let counter = |n: usize| LimitUse {
        counter: n.to_string(),
        ..limit(1, PER_MINUTE)
    };
    for n in 0..super::super::book::MOST_IN_MEMORY {
        assert!(admitted(&limits, &counter(n)));
    }
    let refused = reserve(&limits, &[counter(99_999)]);
    assert!(
        matches!(refused, Err(Refused::Unavailable(LimitsError::Store(_)))),
        "{refused:?}"
    );
    assert!(
        !admitted(&limits, &counter(0)),
        "those that are there still count"
    );
    house.clock.pass(MINUTE);
    assert!(admitted(&limits, &counter(99_999)));
}

#[test]
pub(super) fn damaged_store_admits_nothing() {
    let house = House::new();
    let limits = house.limits();
    let one = limit(5, PER_MINUTE);
    assert!(admitted(&limits, &one));
    let path = house.home.path().join("state/counters");
    let mut bytes = std::fs::read(&path).unwrap();
    let slot = bytes.iter().skip(4096).position(|&byte| byte != 0).unwrap() + 4096;
    bytes[slot + 60] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let refused = reserve(&limits, &[one]);
    let Err(Refused::Unavailable(error)) = refused else {
        panic!("{refused:?}");
    };
    assert!(error.to_string().contains("is damaged"), "{error}");
    let caller = caller();
    let counters = limits.counters(&caller, "start");
    assert_eq!(counters.count("starts", Scope::Grant, PER_MINUTE), u64::MAX);
}
