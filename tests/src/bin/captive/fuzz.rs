//! Calls that the agent answers, with arguments that nobody means: from many threads, on memory and descriptors that
//! change meanwhile, by processes that are killed, execute something else or are interrupted while they wait.

use std::{
    collections::BTreeMap,
    env, io,
    os::{
        fd::AsFd as _,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};
use capwarden_tests::dice::Dice;
use rustix::io::fcntl_dupfd_cloexec;
use serde_json::json;

use crate::{
    hold,
    memory::Memory,
    sys::{self, AF_PACKET, ALL},
};

/// Threads that make calls.
const THREADS: u64 = 4;
/// So many are made in all, if the agent does not lose patience before: after 1,000 refusals it ends the session.
const CALLS: u64 = 8_000;
const REFUSALS: u64 = 700;
/// Descriptors that are closed, copied and replaced while calls on them wait.
const CHURNED: std::ops::Range<u64> = 20..60;
/// A descriptor that is not.
const FAR: i32 = 200;
/// Processes that are started only to be killed, or to become another, in the middle of a call.
const SHORT_LIVES: usize = 12;

/// What came of the calls.
#[derive(Default)]
struct Tally {
    calls: AtomicU64,
    refused: AtomicU64,
    over: AtomicBool,
    outcomes: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    fn note(&self, what: &str, outcome: &io::Result<i64>) {
        let name = match outcome {
            Ok(_) => "ok".to_owned(),
            Err(error) => sys::name(error),
        };
        if what != "other" && ["EPERM", "EMFILE"].contains(&name.as_str()) {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        let calls = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if calls >= CALLS || self.refused.load(Ordering::Relaxed) >= REFUSALS {
            self.over.store(true, Ordering::Relaxed);
        }
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        *outcomes.entry(format!("{what}: {name}")).or_default() += 1;
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// Makes calls until there were enough, says what came of them, and whether any socket could be loosened; then does
/// as it is told.
pub(crate) fn fuzz(control: &Path, seed: u64) -> Result<()> {
    // Out of reach: an option that is set on it could keep it from hearing.
    let stream = UnixStream::from(fcntl_dupfd_cloexec(UnixStream::connect(control)?, FAR)?);
    sys::interrupt_often()?;
    let memory = Arc::new(Memory::new()?);
    let tally = Arc::new(Tally::default());
    let mut threads = Vec::new();
    for number in 1..=THREADS {
        let (memory, tally) = (Arc::clone(&memory), Arc::clone(&tally));
        let mut dice = Dice::new(seed * THREADS + number);
        threads.push(thread::spawn(move || {
            while !tally.is_over() {
                let (what, outcome) = any_call(&mut dice, &memory);
                tally.note(what, &outcome);
            }
        }));
    }
    let shared = Arc::clone(&tally);
    threads.push(thread::spawn(move || {
        while !shared.is_over() {
            memory.change(&mut Dice::new(seed + shared.calls.load(Ordering::Relaxed)));
        }
    }));
    let mut dice = Dice::new(seed);
    let mut lives = Vec::new();
    while !tally.is_over() {
        churn(&mut dice);
        if lives.len() < SHORT_LIVES {
            lives.push(short_life(&mut dice)?);
        }
        if let Some(mut life) = lives.pop_if(|_| dice.roll(3) == 0) {
            life.kill()?;
            life.wait()?;
        }
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a thread panicked"))?;
    }
    for mut life in lives {
        life.kill()?;
        life.wait()?;
    }
    sys::interrupt_no_more()?;
    let full = full_table();
    let (sockets, loose) = sys::packet_sockets();
    let outcomes = tally
        .outcomes
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let report = json!({ "calls": tally.calls.load(Ordering::Relaxed), "sockets": sockets,
        "loose": loose, "full": full, "outcomes": *outcomes });
    hold::say_and_obey(stream, &report)
}

/// One call, and what it is for people.
fn any_call(dice: &mut Dice, memory: &Memory) -> (&'static str, io::Result<i64>) {
    let number = |dice: &mut Dice, good: &[u64]| match dice.roll(4) {
        0 => junk(dice),
        _ => dice.pick(good).copied().unwrap_or(0) | above(dice),
    };
    let descriptor = match dice.roll(8) {
        0 => junk(dice),
        _ => CHURNED.start + u64::try_from(dice.roll(40)).unwrap_or(0),
    } | above(dice);
    match dice.roll(16) {
        0 => {
            let flags = [0, 0o4_000, 0o2_000_000, 0o2_004_000];
            let kind = number(dice, &[2, 3, 10, 1]) | dice.pick(&flags).copied().unwrap_or(0);
            let arguments = [
                AF_PACKET | above(dice),
                kind,
                number(dice, &[0, ALL, 0x0008]),
                0,
                0,
            ];
            ("socket", sys::call(libc::SYS_socket, arguments))
        }
        1..=5 => {
            let length = number(dice, &[20, 20, 20, 8, 128]);
            let arguments = [descriptor, memory.address(dice), length, 0, 0];
            ("bind", sys::call(libc::SYS_bind, arguments))
        }
        6..=14 => {
            let option = number(dice, &[26, 27]);
            let length = number(dice, &[16, 16, 4, 0, 8]);
            let arguments = [
                descriptor,
                1 | above(dice),
                option,
                memory.address(dice),
                length,
            ];
            ("setsockopt", sys::call(libc::SYS_setsockopt, arguments))
        }
        _ => {
            let level = number(dice, &[1, 263]);
            let option = number(dice, &[44, 50, 1, 2, 5, 10, 18]);
            let length = number(dice, &[4, 16, 28]);
            let arguments = [descriptor, level, option, memory.address(dice), length];
            ("other", sys::call(libc::SYS_setsockopt, arguments))
        }
    }
}

fn junk(dice: &mut Dice) -> u64 {
    let bytes: [u8; 8] = std::array::from_fn(|_| dice.byte());
    u64::from_ne_bytes(bytes)
}

/// What the kernel does not look at in a number of 32 bits.
fn above(dice: &mut Dice) -> u64 {
    match dice.roll(4) {
        0 => junk(dice) << 32,
        _ => 0,
    }
}

/// Lets a number mean something else.
fn churn(dice: &mut Dice) {
    let any = |dice: &mut Dice| CHURNED.start + u64::try_from(dice.roll(40)).unwrap_or(0);
    // Whatever there is, capture sockets among it: the first of them were opened below.
    let from = 3 + u64::try_from(dice.roll(60)).unwrap_or(0);
    let to = any(dice);
    let _ = sys::call(libc::SYS_dup3, [from, to, 0, 0, 0]);
    if dice.roll(4) == 0 {
        let _ = sys::call(libc::SYS_close, [any(dice), 0, 0, 0, 0]);
    }
}

/// A process that makes calls until it becomes another, or is killed.
fn short_life(dice: &mut Dice) -> Result<Child> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("burst").arg(dice.roll(1 << 20).to_string());
    Ok(command.stdin(Stdio::null()).spawn()?)
}

/// Makes calls from three threads, and executes something else while they wait.
pub(crate) fn burst(seed: u64) -> Result<()> {
    let memory = Arc::new(Memory::new()?);
    for number in 1..=3 {
        let (memory, mut dice) = (Arc::clone(&memory), Dice::new(seed * 3 + number));
        thread::spawn(move || {
            loop {
                let _ = any_call(&mut dice, &memory);
            }
        });
    }
    thread::sleep(Duration::from_micros(seed % 3_000));
    // All its threads end in the middle of their calls.
    Err(Command::new(env::current_exe()?)
        .arg("linger")
        .exec()
        .into())
}

/// What a process hears that has no room for one more descriptor.
fn full_table() -> String {
    let stdin = io::stdin();
    let mut copies = Vec::new();
    while let Ok(copy) = stdin.as_fd().try_clone_to_owned() {
        copies.push(copy);
    }
    sys::packet_socket(sys::SOCK_RAW, 0).map_or_else(|error| sys::name(&error), |_| "ok".to_owned())
}
