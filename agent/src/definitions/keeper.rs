//! Keeps the definitions of one gate's servers on a thread of its own, and watches what operators say.
//!
//! What is shown in a list is answered from memory; the disk is left to the thread. A call waits until
//! what was listed before it has been kept, so that nothing is called that was accepted in memory alone.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use tokio::sync::watch;

use super::{
    Event, Pins,
    event::What,
    pins::{Book, Offer, is_settled},
};
use crate::{
    policy::Definition,
    principal::Operator,
    store::{Seen, StateDirectory, StoreError},
};

/// How often it is looked whether an operator has said something.
const LOOK: Duration = Duration::from_secs(1);
/// Definitions that may wait for the disk; more are held back without being kept.
const MOST_WAITING: u64 = 4_096;
/// Jobs that are done by one change of the table.
const AT_ONCE: usize = 512;
/// Tools that are remembered as those that cannot be accepted.
const MOST_UNFIT: usize = 4_096;

/// Whether definitions are accepted, for one gate. Dropping it waits until all is kept.
pub struct Keeper {
    shared: Arc<Shared>,
    jobs: Option<Sender<Job>>,
    /// How many jobs were sent; the lock is held while one is.
    sent: Mutex<u64>,
    /// The thread has been told to watch for what operators say.
    watched: AtomicBool,
    thread: Option<thread::JoinHandle<()>>,
}

/// Why calls of a tool are held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// It is defined otherwise than accepted.
    Changed,
    /// Nobody has accepted it yet.
    New,
    /// It cannot be accepted, for this reason.
    Unfit(String),
    /// It cannot be found out, for this reason.
    Unknown(String),
}

enum Job {
    Offer(Offer),
    Settle(String),
    /// Nothing to keep: from now on there is something that operators may accept.
    Watch,
}

struct Shared {
    directory: StateDirectory,
    /// Opened when a definition is first asked for: most policies pin none.
    pins: OnceLock<Result<Pins, String>>,
    state: Mutex<State>,
    /// How many jobs were done.
    done: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    servers: HashMap<String, Known>,
    /// The table cannot be used, and so nothing is accepted.
    broken: Option<String>,
    /// What cannot be accepted, by server and tool, and why.
    unfit: HashMap<(String, String), String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    settled: bool,
    tools: HashMap<String, Digests>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Digests {
    accepted: Option<String>,
    by: Option<(Operator, u64)>,
    offered: Option<String>,
}

impl Keeper {
    /// Starts the thread. `tell` is told what becomes of definitions; `changed` is called when other
    /// tools are accepted than before.
    pub fn start(
        directory: StateDirectory,
        tell: impl FnMut(Event) + Send + 'static,
        changed: impl FnMut() + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            directory,
            pins: OnceLock::new(),
            state: Mutex::default(),
            done: watch::Sender::new(0),
        });
        let (jobs, inbox) = channel();
        let mut work = Work {
            shared: Arc::clone(&shared),
            tell: Box::new(tell),
            changed: Box::new(changed),
            seen: Seen::default(),
            told: HashSet::new(),
        };
        Self {
            shared,
            jobs: Some(jobs),
            sent: Mutex::new(0),
            watched: AtomicBool::new(false),
            thread: Some(thread::spawn(move || work.run(&inbox))),
        }
    }

    /// A server lists a tool whose definition is to be pinned. Returns whether it is shown.
    pub fn listed(&self, server: &str, definition: &Arc<Definition>, strict: bool) -> bool {
        self.shared.open();
        self.watch();
        let tool = definition.name();
        let (shown, known) = {
            let mut state = self.shared.state();
            if state.broken.is_some() {
                return false;
            }
            let fits = definition.fault().is_none();
            if fits {
                state.unfit.remove(&(server.to_owned(), tool.to_owned()));
            }
            let server = state.servers.entry(server.to_owned()).or_default();
            let settled = server.settled;
            match server.tools.get(tool) {
                _ if !fits => (false, false),
                Some(digests) if digests.is_accepted(definition) => {
                    (true, digests.offered.is_none() && digests.by.is_none())
                }
                Some(digests) => {
                    let offered = digests.offered.as_deref() == Some(definition.digest());
                    (false, offered)
                }
                // As it will be once it is kept; a call waits for that.
                None => (!settled && !strict, false),
            }
        };
        // Who accepted it is told once, by the thread.
        if !known {
            let offer = Offer {
                server: server.to_owned(),
                definition: Arc::clone(definition),
                strict,
            };
            return self.send(Job::Offer(offer)) && shown;
        }
        shown
    }

    /// A server's list has ended.
    pub fn list_ended(&self, server: &str) {
        let settled = {
            let state = self.shared.state();
            let known = state.servers.get(server);
            known.is_none_or(|known| known.settled)
        };
        if !settled {
            self.send(Job::Settle(server.to_owned()));
        }
    }

    /// Whether a tool that is so defined may be called, once all is kept that was listed before.
    ///
    /// # Errors
    ///
    /// It may not.
    pub async fn check(&self, server: &str, definition: &Definition) -> Result<(), Held> {
        self.shared.open();
        let wanted = *self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = self.shared.done.subscribe();
        if done.wait_for(|done| *done >= wanted).await.is_err() {
            return Err(Held::Unknown("nobody keeps the definitions".to_owned()));
        }
        if let Some(fault) = definition.fault() {
            return Err(Held::Unfit(fault.to_owned()));
        }
        let state = self.shared.state();
        if let Some(why) = &state.broken {
            return Err(Held::Unknown(why.clone()));
        }
        let known = state.servers.get(server);
        match known.and_then(|known| known.tools.get(definition.name())) {
            Some(digests) if digests.is_accepted(definition) => Ok(()),
            Some(Digests {
                accepted: Some(_), ..
            }) => Err(Held::Changed),
            Some(_) => Err(Held::New),
            None => {
                let key = (server.to_owned(), definition.name().to_owned());
                Err(match state.unfit.get(&key) {
                    Some(why) => Held::Unfit(why.clone()),
                    None => Held::New,
                })
            }
        }
    }

    /// Has the thread look at what operators say, from the first definition that is listed: one that
    /// was held back in an earlier run brings nothing to keep, and may be accepted all the same.
    fn watch(&self) {
        if !self.watched.load(Ordering::Relaxed) && self.send(Job::Watch) {
            self.watched.store(true, Ordering::Relaxed);
        }
    }

    /// False if it cannot be kept.
    fn send(&self, job: Job) -> bool {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if *sent - (*self.shared.done.borrow()).min(*sent) > MOST_WAITING {
            tracing::error!("too many definitions of tools wait for the disk");
            return false;
        }
        let Some(jobs) = &self.jobs else { return false };
        if jobs.send(job).is_err() {
            return false;
        }
        *sent += 1;
        true
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // It has told of its panic itself.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

impl Digests {
    fn is_accepted(&self, definition: &Definition) -> bool {
        self.accepted.as_deref() == Some(definition.digest()) && definition.fault().is_none()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the table when it is first needed.
    fn open(&self) -> Option<&Pins> {
        let opened = self.pins.get_or_init(|| {
            let opened = Pins::open(&self.directory).and_then(|pins| {
                let book = pins.servers()?;
                self.state().servers = digests(&book, pins.now());
                Ok(pins)
            });
            opened.map_err(|error| {
                tracing::error!(%error, "the accepted definitions cannot be read, so all tools are held back");
                self.state().broken = Some(error.to_string());
                error.to_string()
            })
        });
        opened.as_ref().ok()
    }
}

struct Work {
    shared: Arc<Shared>,
    tell: Box<dyn FnMut(Event) + Send>,
    changed: Box<dyn FnMut() + Send>,
    seen: Seen,
    /// Acceptances that were told of, by server, tool and second.
    told: HashSet<(String, String, u64)>,
}

impl Work {
    fn run(&mut self, inbox: &Receiver<Job>) {
        let mut used = false;
        loop {
            let job = if used {
                inbox.recv_timeout(LOOK)
            } else {
                inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            let first = match job {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            used |= first.is_some();
            let jobs: Vec<Job> = first
                .into_iter()
                .chain(inbox.try_iter().take(AT_ONCE))
                .collect();
            let done = u64::try_from(jobs.len()).unwrap_or(u64::MAX);
            let (mut offers, mut settled) = (Vec::new(), Vec::new());
            for job in jobs {
                match job {
                    Job::Offer(offer) => offers.push(offer),
                    Job::Settle(server) => settled.push(server),
                    Job::Watch => {}
                }
            }
            if let Err(error) = self.keep(&offers, &settled) {
                tracing::error!(%error, "definitions cannot be kept, so tools are held back");
            }
            self.look();
            for offer in &offers {
                self.tell_acceptance(&offer.server, &offer.definition);
            }
            self.shared.done.send_modify(|all| *all += done);
        }
    }

    /// Keeps what was listed; then the lists are at their ends.
    fn keep(&mut self, offers: &[Offer], settled: &[String]) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let Some(pins) = shared.open() else {
            return Ok(());
        };
        // What is accepted already needs no change.
        let new: Vec<Offer> = {
            let state = shared.state();
            let is_new = |offer: &&Offer| {
                let server = state.servers.get(&offer.server);
                let tool = offer.definition.name();
                let digests = server.and_then(|known| known.tools.get(tool));
                digests.is_none_or(|digests| {
                    !digests.is_accepted(&offer.definition) || digests.offered.is_some()
                })
            };
            offers.iter().filter(is_new).cloned().collect()
        };
        if !new.is_empty() {
            let became = pins.offer(&new)?;
            for (offer, what) in new.iter().zip(became) {
                if let Some(what) = what {
                    self.became(&offer.server, &offer.definition, what);
                }
            }
        }
        settled.iter().try_for_each(|server| pins.settle(server))
    }

    fn became(&mut self, server: &str, definition: &Definition, what: What) {
        let tool = definition.name();
        if let What::Unfit(why) = &what {
            let key = (server.to_owned(), tool.to_owned());
            let mut state = self.shared.state();
            if state.unfit.len() >= MOST_UNFIT {
                state.unfit.clear();
            }
            let other = state.unfit.insert(key, why.clone());
            drop(state);
            if other.as_ref() == Some(why) {
                return;
            }
        }
        match &what {
            What::FirstSeen => tracing::info!(
                server,
                tool,
                "a tool was seen first, and its definition is accepted"
            ),
            What::New => tracing::warn!(
                server,
                tool,
                "a tool is new, and held back: capwarden tools diff {server:?}"
            ),
            What::Changed => tracing::warn!(
                server,
                tool,
                "a tool's definition has changed, so it is held back: capwarden tools diff {server:?}"
            ),
            What::Unfit(why) => tracing::warn!(server, tool, why, "a tool is held back"),
            What::Accepted(..) => {}
        }
        (self.tell)(Event {
            server: server.to_owned(),
            tool: tool.to_owned(),
            digest: definition.digest().to_owned(),
            what,
        });
    }

    /// Reads the table again if somebody has changed it.
    fn look(&mut self) {
        let shared = Arc::clone(&self.shared);
        let Some(pins) = shared.open() else {
            return;
        };
        let before = match pins.news(&mut self.seen) {
            Ok(None) => return,
            Ok(Some(book)) => {
                let mut state = shared.state();
                state.broken = None;
                let now = digests(&book, pins.now());
                std::mem::replace(&mut state.servers, now)
            }
            Err(error) => {
                let mut state = shared.state();
                if state.broken.is_none() {
                    tracing::error!(%error, "the accepted definitions cannot be read, so tools are held back");
                }
                state.broken = Some(error.to_string());
                return;
            }
        };
        let (mut other, mut accepted) = (false, Vec::new());
        {
            let state = shared.state();
            for (server, was) in &before {
                let is = state.servers.get(server);
                for (tool, was) in &was.tools {
                    let is = is.and_then(|known| known.tools.get(tool));
                    if is.is_none_or(|is| is.accepted != was.accepted) {
                        other = true;
                        if is.is_some_and(|is| is.by != was.by) {
                            accepted.push((server.clone(), tool.clone()));
                        }
                    }
                }
            }
        }
        for (server, tool) in accepted {
            self.tell_accepted(&server, &tool);
        }
        if other {
            (self.changed)();
        }
    }

    fn tell_acceptance(&mut self, server: &str, definition: &Definition) {
        let accepted = {
            let state = self.shared.state();
            let known = state.servers.get(server);
            let digests = known.and_then(|known| known.tools.get(definition.name()));
            digests.is_some_and(|digests| digests.is_accepted(definition))
        };
        if accepted {
            self.tell_accepted(server, definition.name());
        }
    }

    /// Tells who accepted a definition, once.
    fn tell_accepted(&mut self, server: &str, tool: &str) {
        let digests = {
            let state = self.shared.state();
            let known = state.servers.get(server);
            known.and_then(|known| known.tools.get(tool)).cloned()
        };
        let Some(Digests {
            accepted: Some(digest),
            by: Some((by, at)),
            ..
        }) = digests
        else {
            return;
        };
        if self.told.insert((server.to_owned(), tool.to_owned(), at)) {
            tracing::info!(server, tool, %by, "a tool's definition was accepted");
            (self.tell)(Event {
                server: server.to_owned(),
                tool: tool.to_owned(),
                digest,
                what: What::Accepted(by, at),
            });
        }
    }
}

fn digests(book: &Book, now: u64) -> HashMap<String, Known> {
    let server = |(name, known): (&String, &super::ServerPins)| {
        let tools = known.tools.iter().map(|(tool, pin)| {
            let digests = Digests {
                accepted: pin.accepted.as_ref().map(|it| it.digest.clone()),
                by: pin.by.zip(pin.accepted.as_ref().map(|it| it.since)),
                offered: pin.offered.as_ref().map(|it| it.digest.clone()),
            };
            (tool.clone(), digests)
        });
        let known = Known {
            settled: is_settled(known, now),
            tools: tools.collect(),
        };
        (name.clone(), known)
    };
    book.iter().map(server).collect()
}
