//! How often calls are admitted: counters, reserved before a call is forwarded and given back where
//! the policy says so.
//!
//! - **All or none.** A call's uses are reserved together, or nothing is; across threads, and across
//!   all processes that share the store.
//! - **What is not settled is used.** [`Limits::reserve`] counts at once. [`Limits::settle`] can only
//!   give back, and only to the window that was charged. A process that dies in between leaves the
//!   use counted.
//! - **Time never goes back** for a counter, however the host's clock is set (`clock.rs` says how).
//! - **Bounded.** [`MOST_COUNTERS`] at most. When all of them count something, a new one is refused, as is
//!   everything when the store fails.
//!
//! A connection ends with its process, and so do its counters: they are kept in memory. All others
//! are in the store; or, where agents on several hosts share them, in Redis or Valkey (`redis/`).
#![forbid(unsafe_code)]

mod book;
mod clock;
mod key;
mod record;
mod redis;
mod refused;
#[cfg(test)]
mod tests;
mod view;

use std::{
    fmt,
    fs::File,
    io::Read as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

pub use clock::{Clock, Reading, SystemClock};
pub use redis::{Address, LIMIT, Looked, Password, RemoteError, Server};
pub use refused::{Again, LimitReached, LimitsError, Refused};
pub use view::View;

use self::{
    book::{Charge, Denied, Memory, charge_all, fit, give_back, write_down},
    key::{Realm, key_of},
    redis::{Remote, Reserved},
};
use crate::{
    policy::{LimitUse, Refund, Scope, Window},
    principal::Caller,
    store::{Key, Slots, StateDirectory, StoreError},
};

/// How many counters are remembered at once.
pub const MOST_COUNTERS: u64 = 16_384;

/// All counters. Shared by reference: all methods take `&self` and may be called from any thread.
pub struct Limits {
    clock: Box<dyn Clock>,
    realm: Realm,
    /// Of connections; and all, if they are kept nowhere else.
    memory: Mutex<Memory>,
    keeper: Keeper,
    /// How often they could not be asked.
    unavailable: Arc<AtomicU64>,
}

/// Where counters are that do not end with the process.
enum Keeper {
    Nobody,
    Store(Slots),
    Remote(Remote),
}

/// What was reserved for one call. Dropped, it counts as used.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "what is not settled counts as used"]
pub struct Reservation {
    in_memory: Vec<Charge>,
    in_store: Vec<Charge>,
}

impl Reservation {
    /// Whether nothing was reserved, because nothing limits the call.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.in_memory.is_empty() && self.in_store.is_empty()
    }
}

/// What became of a call, as far as its limits care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// It did what it should, or nobody knows.
    Used,
    /// The tool says that it failed.
    ToolFailed,
    /// The server answered with a JSON-RPC error.
    RpcError,
    /// The server never saw it, or it is to be counted when it comes again.
    NotMade,
}

impl Settle {
    fn gives_back(self, refund: Refund) -> bool {
        match self {
            Self::Used => false,
            Self::ToolFailed => refund == Refund::OnFailure,
            Self::RpcError => matches!(refund, Refund::OnFailure | Refund::OnRpcError),
            Self::NotMade => true,
        }
    }
}

impl Limits {
    /// Counters in the state directory, shared with all other processes that use it, told by the
    /// host's clocks.
    ///
    /// # Errors
    ///
    /// The store cannot be used; see [`StoreError`].
    pub fn open(directory: &StateDirectory) -> Result<Self, LimitsError> {
        Self::open_with(directory, SystemClock::new().map_err(LimitsError::Clock)?)
    }

    /// The same, told by another clock.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn open_with(directory: &StateDirectory, clock: impl Clock) -> Result<Self, LimitsError> {
        let store = Slots::open(directory, "counters", MOST_COUNTERS)?;
        let realm = Realm {
            secret: *store.secret(),
            host: None,
        };
        Ok(Self::new(realm, Keeper::Store(store), clock))
    }

    fn new(realm: Realm, keeper: Keeper, clock: impl Clock) -> Self {
        Self {
            clock: Box::new(clock),
            realm,
            memory: Mutex::default(),
            keeper,
            unavailable: Arc::default(),
        }
    }

    /// Counters of a Redis or Valkey server, shared with all agents that use it, and told by its
    /// clock. Returns before that is reached: until it is, and whenever it is not, what is
    /// to be reserved there is refused.
    ///
    /// # Errors
    ///
    /// The host has no clock, no name of its own, or no thread to spare.
    pub fn shared(server: Server) -> Result<Self, LimitsError> {
        let clock = SystemClock::new().map_err(LimitsError::Clock)?;
        Self::shared_with(server, clock, false)
    }

    /// The same; and if it is `told` so, by another clock.
    fn shared_with(server: Server, clock: impl Clock, told: bool) -> Result<Self, LimitsError> {
        let realm = Realm {
            secret: [0; 16],
            host: Some(redis::host().map_err(LimitsError::Share)?),
        };
        let remote = Remote::start(server, told).map_err(LimitsError::Share)?;
        Ok(Self::new(realm, Keeper::Remote(remote), clock))
    }

    /// How often counters could not be asked, and calls were refused for it.
    #[must_use]
    pub fn unavailable(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.unavailable)
    }

    /// Counters that are forgotten with the process.
    ///
    /// # Errors
    ///
    /// The host has no clock or no randomness.
    pub fn in_memory() -> Result<Self, LimitsError> {
        Self::in_memory_with(SystemClock::new().map_err(LimitsError::Clock)?)
    }

    /// The same, told by another clock.
    ///
    /// # Errors
    ///
    /// The host has no randomness.
    pub fn in_memory_with(clock: impl Clock) -> Result<Self, LimitsError> {
        let mut secret = [0; 16];
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut secret))
            .map_err(LimitsError::Random)?;
        let realm = Realm { secret, host: None };
        Ok(Self::new(realm, Keeper::Nobody, clock))
    }

    /// Reserves all uses of one call, or none.
    ///
    /// Without uses it does nothing. In the store it takes a few microseconds; if a process that holds the
    /// store's lock was stopped, it blocks the thread for a quarter of a second, and refuses. Shared
    /// counters block it for as long at most: see [`replace_async`](Self::replace_async).
    ///
    /// # Errors
    ///
    /// A limit is reached, or the counters cannot be asked. Either way the call must not be made.
    pub fn reserve(
        &self,
        caller: &Caller,
        tool: &str,
        uses: &[LimitUse],
    ) -> Result<Reservation, Refused> {
        if uses.is_empty() {
            return Ok(Reservation::default());
        }
        self.replace(&Reservation::default(), caller, tool, uses)
    }

    /// Reserves for a call that was charged before and comes again: what was charged is given back
    /// to where it was charged, and the call is charged now, in one step.
    ///
    /// # Errors
    ///
    /// As for [`reserve`](Self::reserve). Then the earlier charge stays.
    pub fn replace(
        &self,
        earlier: &Reservation,
        caller: &Caller,
        tool: &str,
        uses: &[LimitUse],
    ) -> Result<Reservation, Refused> {
        let uses = self.sort(caller, tool, uses);
        let replaced = match &self.keeper {
            Keeper::Remote(remote) if uses.ask(earlier) => {
                let begun = self.begin(&uses, earlier);
                begun.and_then(|begun| {
                    let answer = redis::now(|tell| {
                        remote.reserve(&uses.kept, &earlier.in_store, self.clock.read(), tell);
                    });
                    self.finish(begun, &uses, earlier, answer)
                })
            }
            Keeper::Remote(_) | Keeper::Store(_) | Keeper::Nobody => {
                self.replace_here(earlier, &uses)
            }
        };
        self.counted(replaced)
    }

    /// As [`replace`](Self::replace), but others can work while counters elsewhere are waited for, for
    /// [`LIMIT`] at most. Once begun, what is not awaited counts as used.
    ///
    /// # Errors
    ///
    /// As for [`replace`](Self::replace).
    pub async fn replace_async(
        &self,
        earlier: &Reservation,
        caller: &Caller,
        tool: &str,
        uses: &[LimitUse],
    ) -> Result<Reservation, Refused> {
        let Keeper::Remote(remote) = &self.keeper else {
            return self.replace(earlier, caller, tool, uses);
        };
        let uses = self.sort(caller, tool, uses);
        if !uses.ask(earlier) {
            return self.counted(self.replace_here(earlier, &uses));
        }
        let begun = match self.begin(&uses, earlier) {
            Ok(begun) => begun,
            Err(refused) => return self.counted(Err(refused)),
        };
        let answer = redis::soon(|tell| {
            remote.reserve(&uses.kept, &earlier.in_store, self.clock.read(), tell);
        });
        let answer = answer.await;
        self.counted(self.finish(begun, &uses, earlier, answer))
    }

    fn sort<'a>(&self, caller: &Caller, tool: &str, uses: &'a [LimitUse]) -> Uses<'a> {
        let mut sorted = Uses::default();
        for one in uses {
            let key = self.key(caller, tool, &one.counter, one.scope, one.window);
            if self.is_in_memory(one.scope) {
                sorted.in_memory.push((key, one));
            } else {
                sorted.kept.push((key, one));
            }
        }
        sorted
    }

    fn is_in_memory(&self, scope: Scope) -> bool {
        scope == Scope::Connection || matches!(self.keeper, Keeper::Nobody)
    }

    fn counted<T>(&self, result: Result<T, Refused>) -> Result<T, Refused> {
        if let Err(Refused::Unavailable(_)) = &result {
            self.unavailable.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Reserves what is counted in memory, before the rest is asked for elsewhere. What was
    /// charged earlier counts, too, until there is an answer.
    fn begin(&self, uses: &Uses<'_>, earlier: &Reservation) -> Result<Vec<Charge>, Refused> {
        if uses.in_memory.is_empty() {
            return Ok(Vec::new());
        }
        let mut memory = self.memory();
        let reading = self.clock.read();
        fit(&mut *memory, &uses.in_memory, &earlier.in_memory, reading)
            .map_err(|denied| refused(denied, reading))?;
        charge_all(&mut *memory, &uses.in_memory, reading).map_err(unavailable)
    }

    /// What becomes of it, with the answer.
    fn finish(
        &self,
        begun: Vec<Charge>,
        uses: &Uses<'_>,
        earlier: &Reservation,
        answer: Result<redis::Reply, RemoteError>,
    ) -> Result<Reservation, Refused> {
        let answer = answer.and_then(|reply| redis::reserved(&reply, uses.kept.len()));
        let (back, result) = match answer {
            Ok(Reserved::All(stamps)) => {
                let charges = uses.kept.iter().zip(stamps);
                let in_store = charges.map(|((key, one), stamp)| Charge {
                    key: *key,
                    stamp,
                    amount: one.amount,
                    refund: one.refund,
                });
                let reservation = Reservation {
                    in_store: in_store.collect(),
                    in_memory: begun,
                };
                (earlier.in_memory.as_slice(), Ok(reservation))
            }
            Ok(Reserved::Full { which, full, wall }) => {
                let reading = Reading {
                    wall,
                    ..self.clock.read()
                };
                let refused = match uses.kept.get(which) {
                    Some((_, one)) => {
                        Refused::Reached(Box::new(LimitReached::new(one, full, reading)))
                    }
                    None => Refused::Unavailable(RemoteError::Closed.into()),
                };
                (begun.as_slice(), Err(refused))
            }
            Err(error) => (begun.as_slice(), Err(Refused::Unavailable(error.into()))),
        };
        if !back.is_empty() {
            let mut memory = self.memory();
            for charge in back {
                report(give_back(&mut *memory, charge, self.clock.read()));
            }
        }
        result
    }

    /// Where all counters are on this host.
    fn replace_here(&self, earlier: &Reservation, uses: &Uses<'_>) -> Result<Reservation, Refused> {
        let (in_memory, in_store) = (&uses.in_memory, &uses.kept);
        // Locks are always taken in this order. Time is read under them, so that it passes for a
        // counter in the order in which it is used.
        let needs = |new: &[_], old: &[_]| !new.is_empty() || !old.is_empty();
        let mut memory = needs(in_memory, &earlier.in_memory).then(|| self.memory());
        let mut store = match &self.keeper {
            Keeper::Store(store) if needs(in_store, &earlier.in_store) => {
                Some(store.lock().map_err(unavailable)?)
            }
            _ => None,
        };
        let reading = self.clock.read();
        let refused = |denied: Denied<'_>| refused(denied, reading);
        let mut reservation = Reservation::default();
        let fits_memory = match &mut memory {
            Some(memory) => {
                Some(fit(&mut **memory, in_memory, &earlier.in_memory, reading).map_err(refused)?)
            }
            None => None,
        };
        if let Some(store) = &mut store {
            let fitting = fit(store, in_store, &earlier.in_store, reading).map_err(refused)?;
            write_down(store, &fitting, reading).map_err(unavailable)?;
            reservation.in_store = fitting.charges;
        }
        if let (Some(memory), Some(fitting)) = (&mut memory, fits_memory) {
            write_down(&mut **memory, &fitting, reading).map_err(unavailable)?;
            reservation.in_memory = fitting.charges;
        }
        Ok(reservation)
    }

    /// Gives back what the policy says is given back. What cannot be (the store fails) stays used.
    pub fn settle(&self, reservation: Reservation, how: Settle) {
        let back = |charges: Vec<Charge>| {
            charges
                .into_iter()
                .filter(|charge| charge.amount > 0 && how.gives_back(charge.refund))
        };
        let mut in_memory = back(reservation.in_memory).peekable();
        if in_memory.peek().is_some() {
            let mut memory = self.memory();
            for charge in in_memory {
                report(give_back(&mut *memory, &charge, self.clock.read()));
            }
        }
        let mut in_store = back(reservation.in_store).peekable();
        if in_store.peek().is_none() {
            return;
        }
        match &self.keeper {
            Keeper::Nobody => {}
            Keeper::Remote(remote) => {
                let charges: Vec<Charge> = in_store.collect();
                remote.give_back(&charges, self.clock.read());
            }
            Keeper::Store(store) => match store.lock() {
                Ok(mut store) => {
                    for charge in in_store {
                        report(give_back(&mut store, &charge, self.clock.read()));
                    }
                }
                Err(error) => report(Err(error)),
            },
        }
    }

    fn key(&self, caller: &Caller, tool: &str, counter: &str, scope: Scope, window: Window) -> Key {
        key_of(&self.realm, caller, tool, counter, scope, window)
    }

    /// A panic elsewhere cannot leave a counter too low: it is replaced in one assignment.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The uses of one call, by where they are counted.
#[derive(Default)]
struct Uses<'a> {
    in_memory: Vec<(Key, &'a LimitUse)>,
    kept: Vec<(Key, &'a LimitUse)>,
}

impl Uses<'_> {
    /// Whether who keeps the counters has to be asked.
    const fn ask(&self, earlier: &Reservation) -> bool {
        !self.kept.is_empty() || !earlier.in_store.is_empty()
    }
}

fn refused(denied: Denied<'_>, reading: Reading) -> Refused {
    match denied {
        Denied::Full(one, full) => {
            Refused::Reached(Box::new(LimitReached::new(one, full, reading)))
        }
        Denied::Store(error) => unavailable(error),
    }
}

fn unavailable(error: StoreError) -> Refused {
    Refused::Unavailable(error.into())
}

fn report(result: Result<(), StoreError>) {
    if let Err(error) = result {
        tracing::warn!(%error, "a use of a limit could not be given back, and stays counted");
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret is nobody's business.
        f.debug_struct("Limits")
            .field("in_memory", &matches!(self.keeper, Keeper::Nobody))
            .finish_non_exhaustive()
    }
}
