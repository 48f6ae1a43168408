//! Limits under load and under `kill -9`: never more is admitted than allowed, and nothing that was
//! admitted is forgotten.
//!
//! Started with `child`, this binary is one of the processes that are killed. With
//! `CAPWARDEN_LIMIT_OPERATIONS=1000000` each test makes a million calls instead of 50,000.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test"
)]

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use capwarden::{
    limits::{Limits, Reading, Refused, Settle},
    policy::{Counters as _, LimitUse, Refund, RuleRef, Scope, Unit, Window},
    principal::{Caller, Principal},
    store::StateDirectory,
};

const THREADS_OF_A_CHILD: u64 = 2;
const CHILDREN: u64 = 4;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "child") {
        child(&arguments[1..]);
        return ExitCode::SUCCESS;
    }
    let tests: &[(&str, fn())] = &[
        ("threads", threads),
        ("processes_that_are_killed", processes_that_are_killed),
    ];
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-'));
    let mut passed = 0;
    for &(name, test) in tests {
        if wanted.is_some_and(|wanted| !name.contains(wanted.as_str())) {
            continue;
        }
        let start = Instant::now();
        print!("test {name} ... ");
        test(); // a panic ends the program, and fails it
        println!("ok ({:.1} s)", start.elapsed().as_secs_f64());
        passed += 1;
    }
    println!("test result: ok. {passed} passed; 0 failed");
    ExitCode::SUCCESS
}

/// 2026-11-21 14:00 UTC, for ever: all calls of a test are in one window.
const STANDING: Reading = Reading {
    wall: 1_795_269_600_000_000,
    since_boot: 1,
    boot: 1,
};

fn operations() -> u64 {
    let asked = env::var("CAPWARDEN_LIMIT_OPERATIONS").ok();
    asked.map_or(50_000, |asked| asked.parse().expect("a number"))
}

fn open(home: &Path) -> Limits {
    let directory = StateDirectory::open(&home.join("state"), Some(65_534)).unwrap();
    Limits::open_with(&directory, STANDING).unwrap()
}

fn caller() -> Caller {
    Caller {
        principal: Principal::User(1000),
        grant: None,
        connection: 1,
        server: "shark".into(),
    }
}

/// Each call counts in three counters; the first is full first.
fn uses(max: u64) -> [LimitUse; 3] {
    let one = |counter: &str, window, max| LimitUse {
        counter: counter.to_owned(),
        scope: Scope::Grant,
        window,
        max,
        amount: 1,
        refund: Refund::OnRpcError,
        rule: RuleRef {
            file: "policy.yaml".into(),
            line: 1,
            column: 1,
            path: counter.to_owned(),
        },
        on_deny: None,
    };
    let hour = Duration::from_secs(3_600);
    [
        one("calendar", Window::Calendar(Unit::Day), max),
        one("sliding", Window::Sliding(hour), 2 * max),
        one("bucket", Window::Bucket(hour), 3 * max),
    ]
}

fn counts(limits: &Limits) -> [u64; 3] {
    let caller = caller();
    let counters = limits.counters(&caller, "start");
    uses(1).map(|one| counters.count(&one.counter, one.scope, one.window))
}

/// What is left of the first limit.
fn fill_up(limits: &Limits, uses: &[LimitUse]) -> u64 {
    let mut more = 0;
    loop {
        match limits.reserve(&caller(), "start", uses) {
            Ok(reservation) => limits.settle(reservation, Settle::Used),
            Err(Refused::Reached(reached)) => {
                assert_eq!(reached.limit.counter, "calendar");
                return more;
            }
            Err(Refused::Unavailable(error)) => panic!("{error}"),
        }
        more += 1;
    }
}

/// Numbers that look random, and are the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// One call: a third of those that are admitted fail and are given back. Tells `note` of each step
/// that a process which is killed right after it must have counted: admitted (after it was), given
/// back (before it is), refused.
fn call(limits: &Limits, uses: &[LimitUse], random: &mut Random, mut note: impl FnMut(Noted)) {
    match limits.reserve(&caller(), "start", uses) {
        Ok(reservation) => {
            note(Noted::Admitted);
            match random.below(3) {
                0 => {
                    note(Noted::GivenBack);
                    limits.settle(reservation, Settle::RpcError);
                }
                1 => limits.settle(reservation, Settle::Used),
                _ => drop(reservation),
            }
        }
        Err(Refused::Reached(_)) => note(Noted::Refused),
        Err(Refused::Unavailable(error)) => panic!("{error}"),
    }
}

#[derive(Clone, Copy)]
enum Noted {
    Admitted = b'a' as isize,
    GivenBack = b'r' as isize,
    Refused = b'd' as isize,
}

fn threads() {
    const THREADS: u64 = 8;
    let home = tempfile::tempdir().unwrap();
    let limits = open(home.path());
    let max = operations() / 2;
    let uses = uses(max);
    let kept = AtomicU64::new(0);
    thread::scope(|scope| {
        for seed in 0..THREADS {
            let (limits, uses, kept) = (&limits, &uses, &kept);
            scope.spawn(move || {
                let mut random = Random(seed);
                for _ in 0..operations() / THREADS {
                    call(limits, uses, &mut random, |noted| {
                        match noted {
                            Noted::Admitted => kept.fetch_add(1, Ordering::Relaxed),
                            Noted::GivenBack => kept.fetch_sub(1, Ordering::Relaxed),
                            Noted::Refused => 0,
                        };
                    });
                }
            });
        }
    });
    let kept = kept.into_inner();
    assert_eq!(counts(&limits), [kept; 3]);
    assert_eq!(kept + fill_up(&limits, &uses), max);
}

/// Calls until it is killed; at most so long that nothing is left behind if it never is.
fn child(arguments: &[String]) {
    let [home, notes, seed, max] = arguments else {
        panic!("child HOME NOTES SEED MAX");
    };
    let limits = open(Path::new(home));
    let uses = uses(max.parse().unwrap());
    let seed: u64 = seed.parse().unwrap();
    thread::scope(|scope| {
        for thread in 0..THREADS_OF_A_CHILD {
            let (limits, uses) = (&limits, &uses);
            let mut notes = OpenOptions::new().append(true).open(notes).unwrap();
            scope.spawn(move || {
                let mut random = Random(seed * THREADS_OF_A_CHILD + thread);
                for _ in 0..100_000 {
                    call(limits, uses, &mut random, |noted| {
                        notes
                            .write_all(&[u8::try_from(noted as isize).unwrap()])
                            .unwrap();
                    });
                }
            });
        }
    });
}

/// A child that is killed, by its id, when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn processes_that_are_killed() {
    let home = tempfile::tempdir().unwrap();
    let notes = home.path().join("notes");
    File::create(&notes).unwrap();
    let max = operations() / 2;
    let start = |seed: u64| {
        let child = Command::new(env::current_exe().unwrap())
            .arg("child")
            .args([home.path(), &notes].map(PathBuf::from))
            .args([seed.to_string(), max.to_string()])
            .spawn();
        Killed(child.unwrap())
    };
    let mut random = Random(1);
    let mut started = CHILDREN;
    let mut children: Vec<Killed> = (0..CHILDREN).map(start).collect();
    while fs::metadata(&notes).unwrap().len() < operations() {
        thread::sleep(Duration::from_millis(5 + random.below(40)));
        let one = usize::try_from(random.below(CHILDREN)).unwrap();
        let status = children[one].0.try_wait().unwrap();
        assert!(
            status.is_none_or(|status| status.success()),
            "a child failed: {status:?}"
        );
        children[one] = start(started);
        started += 1;
    }
    drop(children);

    let notes = fs::read(&notes).unwrap();
    let noted = |what: Noted| {
        let byte = u8::try_from(what as isize).unwrap();
        u64::try_from(notes.iter().filter(|&&other| other == byte).count()).unwrap()
    };
    let kept = noted(Noted::Admitted) - noted(Noted::GivenBack);
    assert!(noted(Noted::Refused) > 0, "the limit was reached");
    assert!(kept <= max, "{kept} of {max} were admitted");
    // A kill between two steps leaves what was counted and not noted, and no less.
    let unsure = started * THREADS_OF_A_CHILD;
    let limits = open(home.path());
    for count in counts(&limits) {
        assert!(
            count >= kept,
            "{kept} were admitted, {count} are remembered"
        );
        assert!(
            count <= kept + unsure,
            "{kept} were admitted, {count} are counted"
        );
    }
    let uses = uses(max);
    let [calendar, ..] = counts(&limits);
    assert!(calendar <= max);
    assert_eq!(calendar + fill_up(&limits, &uses), max);
    print!("{started} processes, {} calls, ", notes.len());
}
