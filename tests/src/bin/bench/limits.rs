//! What a limit costs: one use of one counter, reserved and settled, on the calling thread.
//!
//! *Plain* is a counter in memory, which is forgotten with the process; *guarded* is one in the
//! store, which survives `kill -9` and is shared with other processes; and then one in a Redis on a Unix
//! socket of this host, which agents on other hosts could share. Each kind of window has 1,000
//! counters that are used by turns; a sample is the median of 2,000 uses.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use capwarden::{
    limits::{Limits, Server, Settle},
    policy::{LimitUse, Refund, RuleRef, Scope, Unit, Window},
    principal::{Caller, Principal},
    store::StateDirectory,
};
use capwarden_tests::redis::Redis;

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
    let directory = bench.file("redis");
    fs::create_dir(&directory)?;
    let redis = Redis::start(&directory, &[])?;
    let remote = Limits::shared(Server {
        address: redis
            .address()
            .parse()
            .map_err(|why: String| anyhow!(why))?,
        password: None,
    })?;
    let hour = Duration::from_secs(3_600);
    let kinds = [
        ("calendar", Window::Calendar(Unit::Hour), Settle::Used),
        ("sliding", Window::Sliding(hour), Settle::Used),
        ("bucket", Window::Bucket(hour), Settle::Used),
        ("given back", Window::Calendar(Unit::Day), Settle::NotMade),
    ];
    let mut rows = Vec::new();
    for (place, kept, most) in [("", &store, Some(MOST)), (" in Redis", &remote, None)] {
        for (what, window, how) in kinds {
            let uses: Vec<LimitUse> = (0..COUNTERS).map(|n| one(n, window)).collect();
            let (mut plain, mut guarded) = (Vec::new(), Vec::new());
            for turn in 0..=TURNS {
                let samples = (median(&memory, &uses, how)?, median(kept, &uses, how)?);
                // At its first use a counter is looked for, and made.
                if turn > 0 {
                    plain.push(samples.0);
                    guarded.push(samples.1);
                }
            }
            rows.push(Measurement {
                what: format!("limits: use of a counter{place}, {what}"),
                unit: measure::Unit::Time,
                plain,
                guarded,
                target: match (how, most) {
                    (Settle::NotMade, _) | (_, None) => Target::None,
                    (_, Some(most)) => Target::Most(most),
                },
            });
        }
    }
    Ok(rows)
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
