//! `host`: whoever captures on this host without being governed, told of or refused, and recorded.
//!
//! No server is governed here. Those that other capwardens govern get their sockets from these, which execute an
//! allowed file.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::Duration,
};

use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::{EngineError, house::StopSignals};
use crate::{
    audit::{
        AgentStarted, AgentStopped, AuditError, Log, Record, Text, TextList, UnmanagedCapture,
    },
    kernel::{
        Asked, Capturer, HostWatch, Readable, WatchedBy, capturers, is_governed, name_of,
        program_file,
    },
};

/// How long a program may take to bind the socket that it got.
const BIND: Duration = Duration::from_millis(250);
/// Processes that are waited for meanwhile; of more, the interface is not told.
const MAX_WAITING: usize = 256;
/// Programs, users and outcomes that are told apart.
const MAX_KINDS: usize = 128;
/// How many of a kind are told one by one. After that, each time that they have doubled.
const ONE_BY_ONE: u64 = 5;

/// What to do.
#[derive(Debug)]
pub struct HostPlan {
    /// Whoever is not allowed is refused, and not only told of.
    pub lockdown: bool,
    /// The programs that may capture. The agent's own file is one of them.
    pub allowed: Vec<(PathBuf, File)>,
}

/// A process that captures, in the words of the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capturing {
    /// What became of it.
    pub became: Standing,
    /// The process.
    pub pid: u32,
    /// What it calls itself.
    pub comm: String,
    /// Its user.
    pub user: u32,
    /// The file that it executes; only its name where the process has gone, none if that is not known either.
    pub program: Option<String>,
    /// The interfaces that its sockets are bound to, `any` among them; empty if that is not known.
    pub interfaces: Vec<String>,
    /// How many like it this stands for, of which it is the last.
    pub times: u64,
}

/// What became of a process that captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It did when this began, and goes on.
    Found,
    /// It got a packet socket.
    Seen,
    /// It got none.
    Refused,
    /// Of so many it is not known who they were: more came at a time than could be told.
    Lost,
}

impl Standing {
    fn word(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Seen => "seen",
            Self::Refused => "refused",
            Self::Lost => "lost",
        }
    }
}

/// Watches until a signal comes, which is given back by its number. `tell` hears of what is recorded.
///
/// # Errors
/// [`EngineError::Host`] if the kernel does not let this be done; and, once a signal has come, if something could not
/// be recorded. What is locked down meanwhile stays so.
pub async fn watch_host(
    plan: HostPlan,
    log: Log,
    tell: impl FnMut(&Capturing),
) -> Result<i32, EngineError> {
    let mut stop = StopSignals::new()?;
    let allowed = files(&plan.allowed)?;
    let paths = plan
        .allowed
        .iter()
        .map(|(path, _)| path.display().to_string());
    let mut command = vec!["host".to_owned()];
    command.push(if plan.lockdown { "lockdown" } else { "observe" }.to_owned());
    command.extend(paths);
    let files = plan.allowed.into_iter().map(|(_, file)| file).collect();
    let watch = start(plan.lockdown, files)?;
    let by = watch.by();
    let mut watch = Readable::new(watch)?;
    log.append(&Record::AgentStarted(AgentStarted {
        version: Text::new(env!("CARGO_PKG_VERSION")),
        server: None,
        command: command.iter().map(String::as_str).collect(),
        policy: None,
        user: Text::new(rustix::process::geteuid().as_raw().to_string()),
        degraded: TextList::default(),
        reach: None,
    }))?;
    let mut teller = Teller {
        log,
        tell,
        kinds: BTreeMap::new(),
        lost: 0,
        failed: None,
    };
    // It is attached by now: who comes after this line is told of.
    let what = match plan.lockdown {
        true => "packet sockets are refused",
        false => "whoever gets a packet socket is told of",
    };
    tracing::info!("watching: {what} from now on, until a signal comes");
    for capturer in capturers(None) {
        if !is_managed(&capturer, &allowed) {
            teller.tell(found(capturer));
        }
    }
    let mut waiting = VecDeque::new();
    let signal = loop {
        let due = waiting.front().map(|(due, _)| *due);
        let next = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            signal = stop.next() => break signal,
            () = next => {
                if let Some((_, asked)) = waiting.pop_front() {
                    teller.tell(seen(&asked));
                }
            }
            ready = watch.ready() => {
                let watch = ready?;
                while let Some(asked) = watch.next_asked() {
                    // The system call tells of armed sockets, too, as they are handed over.
                    let managed = by == WatchedBy::Call
                        && (is_governed(asked.process) || is_allowed(asked.process, &allowed));
                    if managed {
                        continue;
                    }
                    if asked.refused || waiting.len() >= MAX_WAITING {
                        teller.tell(seen(&asked));
                    } else {
                        waiting.push_back((Instant::now() + BIND, asked));
                    }
                }
                let lost = watch.lost();
                teller.lose(lost);
            }
        }
    };
    for (_, asked) in waiting {
        teller.tell(seen(&asked));
    }
    let lost = watch.get().lost();
    teller.finish(lost, signal)?;
    Ok(signal)
}

fn start(lockdown: bool, files: Vec<File>) -> Result<HostWatch, EngineError> {
    let failed = |what| move |why| EngineError::Host { what, why };
    if lockdown {
        let watch = HostWatch::lockdown(files);
        return watch.map_err(failed(
            "captures on this host cannot be refused, as that takes programs on security hooks",
        ));
    }
    let watched = HostWatch::observe(files);
    let (watch, why) = watched.map_err(failed("captures on this host cannot be watched"))?;
    if let Some(why) = why {
        tracing::info!(
            "watching the system calls of every process, which costs each a little: {why}"
        );
    }
    Ok(watch)
}

/// The allowed files, as `/proc` shows them too.
fn files(allowed: &[(PathBuf, File)]) -> io::Result<HashSet<(u64, u64)>> {
    let files = allowed.iter().map(|(_, file)| file.metadata());
    files
        .map(|meta| meta.map(|meta| (meta.dev(), meta.ino())))
        .collect()
}

fn is_allowed(process: u32, allowed: &HashSet<(u64, u64)>) -> bool {
    let program = fs::metadata(format!("/proc/{process}/exe"));
    program.is_ok_and(|meta| allowed.contains(&(meta.dev(), meta.ino())))
}

fn is_managed(capturer: &Capturer, allowed: &HashSet<(u64, u64)>) -> bool {
    capturer.governed || is_allowed(capturer.process, allowed)
}

fn found(capturer: Capturer) -> Capturing {
    Capturing {
        became: Standing::Found,
        pid: capturer.process,
        user: capturer.user,
        program: program_file(capturer.process),
        interfaces: names(&capturer),
        comm: capturer.name,
        times: 1,
    }
}

fn seen(asked: &Asked) -> Capturing {
    let interfaces = match asked.refused {
        true => Vec::new(),
        false => capturers(Some(asked.process))
            .into_iter()
            .flat_map(|capturer| names(&capturer))
            .collect(),
    };
    Capturing {
        became: match asked.refused {
            true => Standing::Refused,
            false => Standing::Seen,
        },
        pid: asked.process,
        comm: asked.name.clone(),
        user: asked.user,
        program: program_file(asked.process).or_else(|| asked.program.clone()),
        interfaces,
        times: 1,
    }
}

fn names(capturer: &Capturer) -> Vec<String> {
    let name = |index: &u32| match index {
        0 => "any".to_owned(),
        index if capturer.elsewhere => format!("number {index} of another network namespace"),
        index => name_of(*index),
    };
    capturer.interfaces.iter().map(name).collect()
}

/// Tells, records, and keeps floods short.
struct Teller<T> {
    log: Log,
    tell: T,
    /// By what became of them, their user and their program. Not by what they call themselves, which is anybody's choice.
    kinds: BTreeMap<(Standing, u32, Option<String>), Kind>,
    /// How many are told of as lost.
    lost: u64,
    failed: Option<AuditError>,
}

#[derive(Default)]
struct Kind {
    times: u64,
    told: u64,
    last: Option<Capturing>,
}

impl Kind {
    /// One more; what is to be told of it now, if anything.
    fn count(&mut self, capturing: Capturing) -> Option<Capturing> {
        self.times = self.times.saturating_add(1);
        self.last = Some(capturing);
        match self.times <= ONE_BY_ONE || self.times.is_power_of_two() {
            true => self.rest(),
            false => None,
        }
    }

    /// What was not told of yet.
    fn rest(&mut self) -> Option<Capturing> {
        let times = self.times.saturating_sub(self.told);
        self.told = self.times;
        let last = self.last.take()?;
        Some(Capturing { times, ..last })
    }
}

impl<T: FnMut(&Capturing)> Teller<T> {
    fn tell(&mut self, capturing: Capturing) {
        let program = capturing.program.clone();
        let mut key = (capturing.became, capturing.user, program);
        if self.kinds.len() >= MAX_KINDS && !self.kinds.contains_key(&key) {
            key = (capturing.became, u32::MAX, None); // all others
        }
        let told = self.kinds.entry(key).or_default().count(capturing);
        if let Some(capturing) = told {
            self.put(&capturing);
        }
    }

    /// So many have been lost in all: told when they have doubled.
    fn lose(&mut self, all: u64) {
        if all >= self.lost.saturating_mul(2).max(1) {
            self.put_lost(all);
        }
    }

    fn put_lost(&mut self, all: u64) {
        let times = all.saturating_sub(self.lost);
        self.lost = all;
        if times > 0 {
            self.put(&Capturing {
                became: Standing::Lost,
                pid: 0,
                comm: String::new(),
                user: 0,
                program: None,
                interfaces: Vec::new(),
                times,
            });
        }
    }

    fn put(&mut self, capturing: &Capturing) {
        (self.tell)(capturing);
        let Capturing {
            became,
            pid,
            comm,
            user,
            program,
            interfaces,
            times,
        } = capturing;
        let record = Record::UnmanagedCapture(UnmanagedCapture {
            pid: *pid,
            comm: Text::new(comm.as_str()),
            user: *user,
            program: program.as_deref().map(Text::new),
            interfaces: interfaces.iter().map(String::as_str).collect(),
            became: Text::new(became.word()),
            times: *times,
        });
        if let Err(error) = self.log.append(&record) {
            tracing::error!(%error, "what captures on this host is not recorded any more");
            self.failed.get_or_insert(error);
        }
    }

    fn finish(mut self, lost: u64, signal: i32) -> Result<(), AuditError> {
        self.put_lost(lost);
        let rests: Vec<_> = self.kinds.values_mut().filter_map(Kind::rest).collect();
        for rest in &rests {
            self.put(rest);
        }
        if let Some(error) = self.failed {
            return Err(error);
        }
        let why = Text::new(format!("signal {signal}"));
        let status = None;
        let stopped = Record::AgentStopped(AgentStopped { why, status });
        self.log.append(&stopped).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capturing(pid: u32, program: &str) -> Capturing {
        Capturing {
            became: Standing::Refused,
            pid,
            comm: format!("invented{pid}"),
            user: 0,
            program: Some(program.to_owned()),
            interfaces: Vec::new(),
            times: 1,
        }
    }

    #[test]
    fn flood_is_counted_whole_and_told_in_few_lines() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit.jsonl");
        let mut told = Vec::new();
        let mut teller = Teller {
            log: Log::open(&file).unwrap(),
            tell: |one: &Capturing| told.push((one.pid, one.times)),
            kinds: BTreeMap::new(),
            lost: 0,
            failed: None,
        };
        for pid in 1..=1_000 {
            teller.tell(capturing(pid, "tcpdump"));
        }
        // Programs without end are one kind beyond the bound.
        for pid in 1..=1_000 {
            teller.tell(capturing(pid, &format!("name{pid}")));
        }
        assert!(teller.kinds.len() <= MAX_KINDS + 1);
        for lost in [0, 3, 4, 5, 6, 6, 90, 100] {
            teller.lose(lost);
        }
        teller.finish(101, 15).unwrap();
        let (lost, told): (Vec<_>, Vec<_>) = told.into_iter().partition(|(pid, _)| *pid == 0);
        assert_eq!(lost, [(0, 3), (0, 3), (0, 84), (0, 11)]);
        assert_eq!(told.iter().map(|(_, times)| times).sum::<u64>(), 2_000);
        assert!(told.len() < 200, "{}", told.len());
        assert_eq!(told[..6], [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (8, 3)]);
        let text = fs::read_to_string(file).unwrap();
        assert_eq!(text.lines().count(), told.len() + lost.len() + 1);
    }

    #[test]
    fn lockdown_is_refused_with_the_reason_or_begins_and_ends_with_a_signal() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path().join("audit.jsonl")).unwrap();
        let own = PathBuf::from("/proc/self/exe");
        let plan = HostPlan {
            lockdown: true,
            allowed: vec![(own.clone(), File::open(own).unwrap())],
        };
        let done = runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(5), watch_host(plan, log, |_| {})).await
        });
        match done {
            Ok(Err(EngineError::Host { what, .. })) => assert!(what.contains("refused")),
            Ok(other) => panic!("{other:?}"),
            Err(_) => {} // it goes on, which only a signal ends
        }
    }
}
