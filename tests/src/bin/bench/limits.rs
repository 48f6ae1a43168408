//! What a limit costs: one use of one counter, reserved and settled, on the calling thread.
//!
//! *Plain* is a counter in memory, which is forgotten with the process; *guarded* is one in the
//! store, which survives `kill -9` and is shared with other processes. Each kind of window has 1,000
//! counters that are used by turns; a sample is the median of 2,000 uses.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use capwarden::{
    limits::{Limits, Settle},
    policy::{LimitUse, Refund, RuleRef, Scope, Unit, Window},
    principal::{Caller, Principal},
    store::StateDirectory,
};

use crate::{
    Bench,
    measure::{self, Measurement, Target},
};

const COUNTERS: usize = 1_000;
const USES: usize = 2_000;
const TURNS: usize = 11;

/// What a durable counter may add to a call.
const MOST: f64 = 5e-6;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    let memory = Limits::in_memory()?;
    let store = Limits::open(&StateDirectory::open(&bench.file("state"), Some(65_534))?)?;
    let hour = Duration::from_secs(3_600);
    let kinds = [
        ("calendar", Window::Calendar(Unit::Hour), Settle::Used),
        ("sliding", Window::Sliding(hour), Settle::Used),
        ("bucket", Window::Bucket(hour), Settle::Used),
        ("given back", Window::Calendar(Unit::Day), Settle::NotMade),
    ];
    kinds
        .into_iter()
        .map(|(what, window, how)| {
            let uses: Vec<LimitUse> = (0..COUNTERS).map(|n| one(n, window)).collect();
            let (mut plain, mut guarded) = (Vec::new(), Vec::new());
            for turn in 0..=TURNS {
                let samples = (median(&memory, &uses, how)?, median(&store, &uses, how)?);
                // At its first use a counter is looked for, and made.
                if turn > 0 {
                    plain.push(samples.0);
                    guarded.push(samples.1);
                }
            }
            Ok(Measurement {
                what: format!("limits: use of a counter, {what}"),
                unit: measure::Unit::Time,
                plain,
                guarded,
                target: match how {
                    Settle::NotMade => Target::None,
                    _ => Target::Most(MOST),
                },
            })
        })
        .collect()
}

/// The median of some uses, in seconds.
fn median(limits: &Limits, uses: &[LimitUse], how: Settle) -> Result<f64> {
    let caller = Caller {
        principal: Principal::User(1000),
        grant: None,
        connection: 1,
        server: "bench".into(),
    };
    let mut samples = Vec::with_capacity(USES);
    for one in uses.iter().cycle().take(USES) {
        let start = Instant::now();
        let reserved = limits.reserve(&caller, "start", std::slice::from_ref(one));
        let reserved = reserved.map_err(|refused| anyhow!("{refused:?}"))?;
        limits.settle(reserved, how);
        samples.push(start.elapsed().as_secs_f64());
    }
    samples.sort_by(f64::total_cmp);
    samples
        .get(USES / 2)
        .copied()
        .ok_or_else(|| anyhow!("no samples"))
}

fn one(n: usize, window: Window) -> LimitUse {
    LimitUse {
        counter: format!("counter {n}"),
        scope: Scope::Grant,
        window,
        max: 1 << 40,
        amount: 1,
        refund: Refund::OnFailure,
        rule: RuleRef {
            file: "policy.yaml".into(),
            line: 1,
            column: 1,
            path: "tools.start.limits[0]".to_owned(),
        },
        on_deny: None,
    }
}
