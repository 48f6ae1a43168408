//! What a model is told.

use super::*;

fn told(after: u64, used: u64, one: &LimitUse) -> (String, String) {
    let house = House::new();
    let limits = house.limits();
    house.clock.pass(after);
    if used > 0 {
        assert!(admitted(
            &limits,
            &LimitUse {
                amount: used,
                ..one.clone()
            }
        ));
    }
    match reserve(&limits, std::slice::from_ref(one)) {
        Err(Refused::Reached(reached)) => (reached.reason(), reached.instead()),
        other => panic!("{other:?}"),
    }
}

#[test]
pub(super) fn limits_are_told_with_the_next_time_that_works() {
    let ten = limit(10, PER_MINUTE);
    let (reason, instead) = told(2 * MINUTE + 23 * SECOND, 10, &ten);
    assert_eq!(
        reason,
        "The limit of 10 per minute for this caller is reached: 10 of 10 are used."
    );
    assert_eq!(instead, "Try again at 14:03:00 UTC, in 37 s.");

    let tool = LimitUse {
        scope: Scope::Tool,
        amount: 4,
        ..limit(10, Window::Calendar(Unit::Day))
    };
    let (reason, instead) = told(MINUTE, 7, &tool);
    let used = "7 of 10 are used, and this call would use 4";
    assert_eq!(
        reason,
        format!("The limit of 10 per day for this tool is reached: {used}.")
    );
    assert_eq!(instead, "Try again at 00:00:00 UTC, in 9 h 59 min.");

    let sliding = limit(2, Window::Sliding(Duration::from_secs(90)));
    let (reason, instead) = told(1, 2, &sliding);
    assert_eq!(
        reason,
        "The limit of 2 in any 1 min 30 s for this caller is reached: 2 of 2 are used."
    );
    assert_eq!(
        instead, "Try again at 14:01:31 UTC, in 1 min 30 s.",
        "rounded up"
    );

    let bucket = LimitUse {
        scope: Scope::Global,
        ..limit(3, Window::Bucket(minutes(60 * 60)))
    };
    let (reason, instead) = told(0, 3, &bucket);
    assert_eq!(
        reason,
        "The limit of 3 at once, refilled in 2 d 12 h, for all calls is reached: 3 of 3 are used."
    );
    assert_eq!(instead, "Try again at 10:00:00 UTC on 2026-11-22, in 20 h.");

    let huge = LimitUse {
        amount: 11,
        ..ten.clone()
    };
    let (reason, instead) = told(0, 0, &huge);
    assert_eq!(
        reason,
        "This call would use 11, and at most 10 per minute is allowed for this caller."
    );
    assert_eq!(instead, "Ask for at most 10.");

    let own = LimitUse {
        on_deny: Some("Enough for now.".to_owned()),
        ..ten
    };
    assert_eq!(told(0, 10, &own).0, "Enough for now.");
}
