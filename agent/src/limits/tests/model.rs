//! Random calls, refunds and pauses against counters that remember everything.

use super::*;

/// One use that was admitted.
struct Use {
    at: u64,
    amount: u64,
    given_back: bool,
}

/// What counts now, told from the whole history.
fn counted(history: &[Use], counts: impl Fn(&Use) -> bool) -> u64 {
    let counted = history.iter().filter(|one| !one.given_back && counts(one));
    counted.map(|one| one.amount).sum()
}

/// Makes random calls to one counter. `exact` says whether a use fits, and `surely` whether it must
/// be admitted, given the history, the time and the use.
fn play(
    seed: u64,
    window: Window,
    max: u64,
    steps: usize,
    fits: impl Fn(&[Use], u64, u64) -> bool,
    surely: impl Fn(&[Use], u64, u64) -> bool,
) -> Vec<Use> {
    let house = House::new();
    let mut random = Random(seed);
    let limits = if seed.is_multiple_of(2) || in_redis() {
        house.limits()
    } else {
        Limits::in_memory_with(house.clock.clone()).unwrap()
    };
    let mut history: Vec<Use> = Vec::new();
    let mut open: Vec<(usize, Reservation)> = Vec::new();
    let steps = if in_redis() { steps / 3 } else { steps };
    let mut refused = 0;
    for step in 0..steps {
        // Bursts at one moment, steady calls, long pauses.
        house.clock.pass(match random.below(10) {
            0..4 => 0,
            4..8 => random.below(4 * SECOND),
            8 => random.below(20 * SECOND),
            _ => SECOND * random.below(3),
        });
        if random.below(400) == 0 {
            house.clock.pass(random.below(5 * MINUTE));
        }
        let now = house.clock.wall();
        if !open.is_empty() && random.below(3) == 0 {
            let at = usize::try_from(random.below(open.len() as u64)).unwrap();
            let (index, reservation) = open.swap_remove(at);
            if random.below(2) == 0 {
                limits.settle(reservation, Settle::RpcError);
                history[index].given_back = true;
            } else {
                limits.settle(reservation, Settle::Used);
            }
            continue;
        }
        let amount = if random.below(4) == 0 {
            random.below(max / 4 + 2)
        } else {
            1
        };
        let one = LimitUse {
            amount,
            ..limit(max, window)
        };
        match reserve(&limits, std::slice::from_ref(&one)) {
            Ok(reservation) => {
                assert!(
                    fits(&history, now, amount),
                    "seed {seed}, step {step}: too many"
                );
                open.push((history.len(), reservation));
                history.push(Use {
                    at: now,
                    amount,
                    given_back: false,
                });
            }
            Err(Refused::Reached(reached)) => {
                refused += 1;
                assert!(
                    !surely(&history, now, amount),
                    "seed {seed}, step {step}: too few"
                );
                let Some(again) = reached.again else {
                    assert!(amount > max);
                    continue;
                };
                // The time that is told is the first that works.
                if random.below(8) == 0 {
                    let wait = u64::try_from(again.after.as_micros()).unwrap();
                    house.clock.pass(wait - 1);
                    assert!(
                        !admitted(&limits, &one),
                        "seed {seed}, step {step}: too early"
                    );
                    house.clock.pass(1);
                    assert!(
                        admitted(&limits, &one),
                        "seed {seed}, step {step}: too late"
                    );
                    history.push(Use {
                        at: house.clock.wall(),
                        amount,
                        given_back: false,
                    });
                }
            }
            Err(Refused::Unavailable(error)) => panic!("{error}"),
        }
    }
    assert!(
        refused > steps / 50,
        "seed {seed}: only {refused} of {steps} were refused"
    );
    history
}

#[test]
pub(super) fn calendar_windows() {
    for seed in 0..some(8) {
        let max = 1 + seed * 3;
        let fits = |history: &[Use], now: u64, amount: u64| {
            counted(history, |one| one.at / MINUTE == now / MINUTE) + amount <= max
        };
        play(seed, PER_MINUTE, max, 3_000, fits, fits);
    }
}

#[test]
pub(super) fn sliding_windows_are_exact_where_few_uses_are_alive() {
    for seed in 0..some(8) {
        let max = 1 + seed * 4; // at most 29 uses of at least 1, and those of 0 are not kept
        let length = MINUTE / 2;
        let fits = |history: &[Use], now: u64, amount: u64| {
            counted(history, |one| one.at + length > now) + amount <= max
        };
        play(
            seed,
            Window::Sliding(Duration::from_micros(length)),
            max,
            3_000,
            fits,
            fits,
        );
    }
}

#[test]
pub(super) fn sliding_windows_of_many_uses_never_admit_too_many_and_few_too_late() {
    for seed in 0..some(4) {
        let max = 60 + seed * 100;
        let length = 4 * MINUTE;
        let fits = |history: &[Use], now: u64, amount: u64| {
            counted(history, |one| one.at + length > now) + amount <= max
        };
        // Uses count for a twentieth longer at most; and what was given back may count until then.
        let surely = |history: &[Use], now: u64, amount: u64| {
            let alive = history
                .iter()
                .filter(|one| one.at + length + length / 20 > now);
            alive.map(|one| one.amount).sum::<u64>() + amount <= max
        };
        play(
            seed,
            Window::Sliding(Duration::from_micros(length)),
            max,
            3_000,
            fits,
            surely,
        );
    }
}

#[test]
pub(super) fn buckets_admit_in_any_time_what_they_hold_and_what_flows_back() {
    for seed in 0..some(8) {
        let max = 2 + seed * 5;
        let length = 3 * MINUTE;
        let anything = |_: &[Use], _: u64, _: u64| true;
        // Certain if even all that was ever charged, refunds included, would have left room.
        let surely = |history: &[Use], now: u64, amount: u64| {
            let (mut out, mut last) = (0_u64, 0);
            for one in history {
                out = out.saturating_sub((one.at - last).saturating_mul(max));
                out += one.amount * length;
                last = one.at;
            }
            out = out.saturating_sub((now - last).saturating_mul(max));
            out + amount * length <= max * length
        };
        let history = play(
            seed,
            Window::Bucket(Duration::from_micros(length)),
            max,
            2_000,
            anything,
            surely,
        );
        let kept: Vec<&Use> = history.iter().filter(|one| !one.given_back).collect();
        for (from, first) in kept.iter().enumerate() {
            let mut sum = 0;
            for last in &kept[from..] {
                sum += last.amount;
                let flowed = (last.at - first.at) * max;
                assert!(
                    sum * length <= max * length + flowed,
                    "seed {seed}: too many"
                );
            }
        }
    }
}

#[test]
pub(super) fn records_are_read_as_they_were_written() {
    use crate::limits::record::Record;
    let mut random = Random(7);
    for window in [
        PER_MINUTE,
        Window::Calendar(Unit::Hour),
        Window::Calendar(Unit::Day),
        Window::Sliding(minutes(3)),
        Window::Bucket(minutes(3)),
    ] {
        let clock = Told::new(TWO);
        let mut record = Record::new(window, clock.read());
        for _ in 0..200 {
            clock.pass(random.below(SECOND));
            record.advance(clock.read());
            record.charge(random.below(1 << 40), u64::MAX >> 4);
            let bytes = record.encode();
            assert!(
                bytes.len() <= crate::store::SLOT_CAPACITY,
                "{} bytes",
                bytes.len()
            );
            assert_eq!(Record::decode(&bytes).as_ref(), Some(&record));
            assert_eq!(Record::decode(&bytes[..bytes.len() - 1]), None);
            assert_eq!(Record::decode(&[&bytes[..], &[0]].concat()), None);
        }
    }
    // Nothing that can be in a file makes it panic.
    for _ in 0..20_000 {
        let mut bytes = vec![0_u8; usize::try_from(random.below(200)).unwrap()];
        bytes.fill_with(|| u8::try_from(random.next() >> 56).unwrap());
        if let Some(kind) = bytes.get_mut(24..32) {
            kind.copy_from_slice(&(1 + random.below(3)).to_le_bytes());
        }
        let reading = Told::new(random.next() >> random.below(64)).read();
        if let Some(mut record) = Record::decode(&bytes) {
            record.advance(reading);
            let (amount, max) = (random.next(), random.next());
            let _ = record.check(amount, max, reading);
            let stamp = record.charge(amount, max);
            record.refund(stamp, amount);
            let _ = (record.used(), record.is_spent(reading));
        }
    }
}
