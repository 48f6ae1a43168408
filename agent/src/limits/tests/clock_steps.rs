//! Clocks that are set, and hosts that are started anew.

use super::*;

const HOUR: u64 = 60 * MINUTE;
const YEAR: u64 = 365 * 24 * HOUR;

fn windows() -> [Window; 3] {
    [
        PER_MINUTE,
        Window::Sliding(minutes(1)),
        Window::Bucket(minutes(1)),
    ]
}

#[test]
pub(super) fn step_back_opens_no_closed_window() {
    for back in [1, SECOND, 7 * MINUTE, YEAR] {
        for window in windows() {
            let house = House::new();
            let limits = house.limits();
            let five = limit(5, window);
            assert_eq!(burst(&limits, &five), 5);
            house.clock.set(TWO - back);
            assert_eq!(burst(&limits, &five), 0, "{window:?}, {back} µs back");
            house.clock.set(TWO);
            assert_eq!(burst(&limits, &five), 0, "{window:?}, and forth");
        }
    }
}

#[test]
pub(super) fn windows_that_were_used_before_a_step_back_stay_used() {
    let house = House::new();
    let limits = house.limits();
    let five = limit(5, PER_MINUTE);
    for _ in 0..3 {
        assert_eq!(burst(&limits, &five), 5);
        house.clock.pass(MINUTE);
    }
    // It is 14:03:00; the clock shows the first of those minutes again. The counter's own time goes
    // on from half past 14:02, and for each of its minutes it takes two.
    house.clock.set(TWO + 1);
    let mut admitted = Vec::new();
    for second in 0..200 {
        admitted.extend(vec![second; burst(&limits, &five)]);
        house.clock.pass(SECOND);
    }
    assert_eq!(admitted, [[60; 5], [180; 5]].concat());
}

#[test]
pub(super) fn after_a_step_back_windows_pass_but_never_too_fast() {
    for window in windows() {
        let house = House::new();
        let limits = house.limits();
        let five = limit(5, window);
        assert_eq!(burst(&limits, &five), 5);
        house.clock.set(TWO - YEAR);
        let wait = again(&limits, &five);
        assert!(
            (MINUTE / 5..=2 * MINUTE).contains(&wait),
            "{window:?}: {wait}"
        );
        house.clock.pass(wait - 1);
        assert!(!admitted(&limits, &five), "{window:?}: too early");
        house.clock.pass(1);
        assert!(admitted(&limits, &five), "{window:?}: too late");
    }
}

#[test]
pub(super) fn step_forward_is_believed() {
    for window in windows() {
        let house = House::new();
        let limits = house.limits();
        let five = limit(5, window);
        assert_eq!(burst(&limits, &five), 5);
        house.clock.set(TWO + 2 * MINUTE);
        assert_eq!(burst(&limits, &five), 5);
    }
}

#[test]
pub(super) fn clock_that_starts_wrong_after_a_reboot_neither_frees_nor_blocks() {
    for window in windows() {
        let house = House::new();
        let five = limit(5, window);
        assert_eq!(burst(&house.limits(), &five), 5);
        house.clock.reboot(1_000);
        let limits = house.limits();
        assert_eq!(burst(&limits, &five), 0, "{window:?}: its clock shows 1970");
        let wait = again(&limits, &five);
        assert!(wait <= 2 * MINUTE, "{window:?}: {wait}");
        house.clock.pass(wait);
        assert!(admitted(&limits, &five), "{window:?}");
        // Then somebody sets it.
        house.clock.set(TWO + 5 * MINUTE);
        assert_eq!(burst(&limits, &five), 5, "{window:?}");
    }
}

/// However the clock is set back, by little and by much, again and again: in any stretch of real
/// time no more is admitted than a clock that nobody touches would admit.
#[test]
pub(super) fn stepping_back_never_gains_anything() {
    for seed in 0..some(some(40)) {
        let mut random = Random(seed);
        let max = 1 + random.below(6);
        for (window, most) in [
            (PER_MINUTE, 2 * max), // the end of one and the start of the next
            (Window::Sliding(minutes(1)), max),
            (Window::Bucket(minutes(1)), 2 * max),
        ] {
            let house = House::new();
            let limits = house.limits();
            let one = limit(max, window);
            let start = house.clock.read().since_boot;
            let mut admissions: Vec<u64> = Vec::new();
            for _ in 0..400 {
                house.clock.pass(random.below(20 * SECOND));
                if random.below(6) == 0 {
                    let back = random.below(3) * random.below(10 * MINUTE) + random.below(SECOND);
                    house.clock.set(house.clock.wall() - back);
                }
                let real = house.clock.read().since_boot;
                while admitted(&limits, &one) {
                    admissions.push(real);
                }
            }
            assert!(admissions.len() > 20, "it goes on admitting");
            let passed = house.clock.read().since_boot - start;
            let windows = passed / MINUTE + 2;
            assert!(
                admissions.len() as u64 <= windows * max,
                "seed {seed}, {window:?}"
            );
            for (n, first) in admissions.iter().enumerate() {
                let within = admissions[n..]
                    .iter()
                    .take_while(|at| **at < first + MINUTE);
                assert!(within.count() as u64 <= most, "seed {seed}, {window:?}");
            }
        }
    }
}
