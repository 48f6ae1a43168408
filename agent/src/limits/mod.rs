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
//! are in the store.
#![forbid(unsafe_code)]

mod book;
mod clock;
mod key;
mod record;
mod refused;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    fs::File,
    io::Read as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

pub use clock::{Clock, Reading, SystemClock};
pub use refused::{Again, LimitReached, LimitsError, Refused};

use self::{
    book::{Book as _, Charge, Denied, Memory, fit, give_back, write_down},
    key::key_of,
};
use crate::{
    policy::{Counters, LimitUse, Refund, Scope, Window},
    principal::Caller,
    store::{Key, Slots, StateDirectory, StoreError},
};

/// How many counters are remembered at once.
pub const MOST_COUNTERS: u64 = 16_384;

/// All counters. Shared by reference: all methods take `&self` and may be called from any thread.
pub struct Limits {
    clock: Box<dyn Clock>,
    secret: [u8; 16],
    /// Of connections; and all, if there is no store.
    memory: Mutex<Memory>,
    store: Option<Slots>,
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
        Ok(Self {
            clock: Box::new(clock),
            secret: *store.secret(),
            memory: Mutex::default(),
            store: Some(store),
        })
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
        Ok(Self {
            clock: Box::new(clock),
            secret,
            memory: Mutex::default(),
            store: None,
        })
    }

    /// Reserves all uses of one call, or none.
    ///
    /// Without uses it does nothing. In the store it takes a few microseconds; if a process that holds the
    /// store's lock was stopped, it blocks the thread for a quarter of a second, and refuses.
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
        let (mut in_memory, mut in_store) = (Vec::new(), Vec::with_capacity(uses.len()));
        for one in uses {
            let key = self.key(caller, tool, &one.counter, one.scope, one.window);
            if self.store.is_none() || one.scope == Scope::Connection {
                in_memory.push((key, one));
            } else {
                in_store.push((key, one));
            }
        }
        // Locks are always taken in this order. Time is read under them, so that it passes for a
        // counter in the order in which it is used.
        let needs = |new: &[_], old: &[_]| !new.is_empty() || !old.is_empty();
        let mut memory = needs(&in_memory, &earlier.in_memory).then(|| self.memory());
        let mut store = match &self.store {
            Some(store) if needs(&in_store, &earlier.in_store) => {
                Some(store.lock().map_err(unavailable)?)
            }
            _ => None,
        };
        let reading = self.clock.read();
        let refused = |denied: Denied<'_>| match denied {
            Denied::Full(one, full) => {
                Refused::Reached(Box::new(LimitReached::new(one, full, reading)))
            }
            Denied::Store(error) => unavailable(error),
        };
        let mut reservation = Reservation::default();
        let fits_memory = match &mut memory {
            Some(memory) => {
                Some(fit(&mut **memory, &in_memory, &earlier.in_memory, reading).map_err(refused)?)
            }
            None => None,
        };
        if let Some(store) = &mut store {
            let fitting = fit(store, &in_store, &earlier.in_store, reading).map_err(refused)?;
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
        let (Some(store), Some(_)) = (&self.store, in_store.peek()) else {
            return;
        };
        match store.lock() {
            Ok(mut store) => {
                for charge in in_store {
                    report(give_back(&mut store, &charge, self.clock.read()));
                }
            }
            Err(error) => report(Err(error)),
        }
    }

    /// The counters as one call of a caller sees them, for conditions.
    pub fn counters<'a>(&'a self, caller: &'a Caller, tool: &'a str) -> impl Counters + 'a {
        View {
            limits: self,
            caller,
            tool,
        }
    }

    fn key(&self, caller: &Caller, tool: &str, counter: &str, scope: Scope, window: Window) -> Key {
        key_of(&self.secret, caller, tool, counter, scope, window)
    }

    /// A panic elsewhere cannot leave a counter too low: it is replaced in one assignment.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, key: &Key, scope: Scope) -> Result<u64, StoreError> {
        let record = match &self.store {
            Some(store) if scope != Scope::Connection => store.lock()?.read(key)?.1,
            _ => self.memory().get(key).cloned(),
        };
        Ok(record.map_or(0, |mut record| {
            record.advance(self.clock.read());
            record.used()
        }))
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

struct View<'a> {
    limits: &'a Limits,
    caller: &'a Caller,
    tool: &'a str,
}

impl Counters for View<'_> {
    /// The highest number there is, if the counters cannot be asked.
    fn count(&self, counter: &str, scope: Scope, window: Window) -> u64 {
        let key = self
            .limits
            .key(self.caller, self.tool, counter, scope, window);
        self.limits.count(&key, scope).unwrap_or_else(|error| {
            tracing::warn!(%error, counter, "a counter cannot be read, and is taken for the highest number");
            u64::MAX
        })
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret is nobody's business.
        f.debug_struct("Limits")
            .field("store", &self.store.is_some())
            .finish_non_exhaustive()
    }
}
