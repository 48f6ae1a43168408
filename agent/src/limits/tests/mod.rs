//! Limits against naive reckoning, with a clock that the tests set.

mod clock_steps;
mod model;
mod redis;
mod reserve;
#[path = "../../../../tests/src/redis.rs"]
#[allow(unreachable_pub, reason = "it is a room of another crate, too")]
mod server;
mod words;

use std::{
    cell::RefCell,
    sync::{Arc, Mutex},
    time::Duration,
};

use tempfile::TempDir;

use super::{Clock, Limits, Reading, Refused, Reservation, Server, Settle};
use crate::{
    policy::{LimitUse, Refund, RuleRef, Scope, Unit, Window},
    principal::{Caller, Principal},
    store::StateDirectory,
};

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;
/// 2026-11-21 14:00:00 UTC.
const TWO: u64 = 1_795_269_600 * SECOND;

const PER_MINUTE: Window = Window::Calendar(Unit::Minute);

/// A clock that shows what it was told to.
#[derive(Clone)]
struct Told(Arc<Mutex<Reading>>);

impl Told {
    fn new(wall: u64) -> Self {
        Self(Arc::new(Mutex::new(Reading {
            wall,
            since_boot: 5 * MINUTE,
            boot: 1,
        })))
    }

    /// Time passes.
    fn pass(&self, micros: u64) {
        let mut now = self.0.lock().unwrap();
        now.wall += micros;
        now.since_boot += micros;
    }

    /// The clock is set.
    fn set(&self, wall: u64) {
        self.0.lock().unwrap().wall = wall;
    }

    /// The host is started anew, with the clock at this.
    fn reboot(&self, wall: u64) {
        let mut now = self.0.lock().unwrap();
        *now = Reading {
            wall,
            since_boot: 3 * SECOND,
            boot: now.boot + 1,
        };
    }

    fn wall(&self) -> u64 {
        self.read().wall
    }
}

impl Clock for Told {
    fn read(&self) -> Reading {
        *self.0.lock().unwrap()
    }
}

fn caller() -> Caller {
    Caller {
        principal: Principal::User(1000),
        grant: None,
        connection: 1,
        server: "shark".into(),
    }
}

fn limit(max: u64, window: Window) -> LimitUse {
    LimitUse {
        counter: "starts".to_owned(),
        scope: Scope::Grant,
        window,
        max,
        amount: 1,
        refund: Refund::OnFailure,
        rule: RuleRef {
            file: "policy.yaml".into(),
            line: 7,
            column: 5,
            path: "tools.start.limits[0]".to_owned(),
        },
        on_deny: None,
    }
}

thread_local! {
    /// What keeps the counters of this test in place of a store.
    static REDIS: RefCell<Option<server::Redis>> = const { RefCell::new(None) };
}

fn in_redis() -> bool {
    REDIS.with_borrow(Option::is_some)
}

/// Of so many, those that are tried: a server takes longer than a store.
fn some(of: u64) -> u64 {
    if in_redis() { of.div_ceil(4) } else { of }
}

/// Counters in a directory of the test's own; or in its Redis, emptied.
struct House {
    home: TempDir,
    clock: Told,
}

impl House {
    fn new() -> Self {
        REDIS.with_borrow(|redis| {
            if let Some(redis) = redis {
                assert_eq!(redis.ask(&["FLUSHALL"]).unwrap(), "+OK\r\n");
            }
        });
        Self {
            home: tempfile::tempdir().unwrap(),
            clock: Told::new(TWO),
        }
    }

    /// As another process would open them.
    fn limits(&self) -> Limits {
        if let Some(at) = REDIS.with_borrow(|redis| redis.as_ref().map(server::Redis::address)) {
            let address = at.parse().unwrap();
            let server = Server {
                address,
                password: None,
            };
            return Limits::shared_with(server, self.clock.clone(), true).unwrap();
        }
        let directory =
            StateDirectory::open(&self.home.path().join("state"), Some(65_534)).unwrap();
        Limits::open_with(&directory, self.clock.clone()).unwrap()
    }
}

fn reserve(limits: &Limits, uses: &[LimitUse]) -> Result<Reservation, Refused> {
    limits.reserve(&caller(), "start", uses)
}

/// Reserves and does not give back.
fn admitted(limits: &Limits, one: &LimitUse) -> bool {
    match reserve(limits, std::slice::from_ref(one)) {
        Ok(reservation) => {
            limits.settle(reservation, Settle::Used);
            true
        }
        Err(Refused::Reached(_)) => false,
        Err(Refused::Unavailable(error)) => panic!("{error}"),
    }
}

/// How many of 1,000 calls are admitted.
fn burst(limits: &Limits, one: &LimitUse) -> usize {
    (0..1_000).take_while(|_| admitted(limits, one)).count()
}

/// When it will be admitted, in microseconds from now.
fn again(limits: &Limits, one: &LimitUse) -> u64 {
    match reserve(limits, std::slice::from_ref(one)) {
        Err(Refused::Reached(reached)) => {
            u64::try_from(reached.again.unwrap().after.as_micros()).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// Numbers that look random, and are the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
