//! The requests of a host, shared by all agents and the operator's verbs.

use std::fmt;

use super::{
    Asked, Bound, By, Entry, NotTaken, Request, Seal, Standing, Used, answer,
    book::{self, Book, Found, Refused},
    entry::State,
    request::{new_id, shown_id},
};
use crate::{
    policy::Said,
    principal::code,
    store::{Clock, Seen, StateDirectory, StoreError, Table},
};

/// Bytes of an operator's reason.
const LONGEST_WHY: usize = 1 << 10;

/// All requests for approvals. May be used from any thread and by several processes. Everything
/// here goes to the disk and takes milliseconds: a [`Clerk`](super::Clerk) does that for a gate.
pub struct Approvals {
    table: Table<Entry>,
    clock: Clock,
}

/// A request, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id, as it is kept; [`shown_id`] is how people read it.
    pub id: String,
    /// The request.
    pub entry: Entry,
    /// Where it stands.
    pub standing: Standing,
    /// How many seconds that holds.
    pub left: u64,
}

/// What became of a request that was to be approved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approved {
    /// It is approved now.
    Now(Listed),
    /// It was approved already, and holds as long as it did.
    Before(Listed),
}

/// Why a request was not approved or denied.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// There is none of this id.
    #[error("there is no request {0}")]
    Unknown(String),
    /// Its time is over.
    #[error("the request {0} has expired")]
    Expired(String),
    /// It was used up.
    #[error("the approval {0} has been used")]
    Used(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Approvals {
    /// Opens the requests of a state directory.
    ///
    /// # Errors
    ///
    /// The store cannot be used.
    pub fn open(directory: &StateDirectory) -> Result<Self, StoreError> {
        Self::open_with(directory, Clock::system())
    }

    /// The same, told by another clock.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn open_with(directory: &StateDirectory, clock: Clock) -> Result<Self, StoreError> {
        Ok(Self {
            table: Table::open(directory, "approvals")?,
            clock,
        })
    }

    /// Uses an approval of this call up, if there is one; else the call is pending, under the id it
    /// has already or a new one.
    pub fn ask(&self, request: Request) -> Asked {
        self.try_to_ask(request).unwrap_or_else(Asked::Refused)
    }

    fn try_to_ask(&self, request: Request) -> Result<Asked, Refused> {
        let now = self.now();
        // Who asks again and again must not make the disk work.
        if let Found::Answer(answer) = book::look(&self.table.entries()?, &request, now) {
            return Ok(answer);
        }
        let mut id = new_id().map_err(Refused::Random)?;
        Ok(self.table.change(|book| {
            while book.contains_key(&id) {
                id.push('0');
            }
            book::ask(book, request, id, now)
        })?)
    }

    /// Makes an approval usable again with whose call the server did nothing, eight times at most.
    /// Returns whether that was done.
    ///
    /// # Errors
    ///
    /// The store fails: then it stays used.
    pub fn give_back(&self, used: &Used) -> Result<bool, StoreError> {
        self.table.change(|book| book::give_back(book, used))
    }

    /// All requests, oldest first; those that are over only if `all` is asked for.
    ///
    /// # Errors
    ///
    /// The store fails.
    pub fn list(&self, all: bool) -> Result<Vec<Listed>, StoreError> {
        let now = self.now();
        let entries = self.table.entries()?.into_iter();
        let listed = entries.map(|(id, entry)| listed(id, entry, now));
        let mut listed: Vec<Listed> = listed
            .filter(|one| {
                let open = matches!(one.standing, Standing::Pending | Standing::Approved { .. });
                all || open
            })
            .collect();
        listed.sort_by(|one, other| {
            (one.entry.requested, &one.id).cmp(&(other.entry.requested, &other.id))
        });
        Ok(listed)
    }

    /// Approves a request, however its id was written: the call can then be made once. A request that
    /// was denied can still be approved. Nothing changes where it was approved already and not used.
    ///
    /// # Errors
    ///
    /// There is none of this id, it is over or used, or the store fails.
    pub fn approve(&self, id: &str, by: impl Into<By>) -> Result<Approved, OperatorError> {
        let by = by.into();
        self.say(id, |entry, now| {
            if let State::Approved { .. } = entry.state {
                return false;
            }
            entry.say(State::Approved { by, at: now }, now);
            true
        })
        .map(|(listed, now)| match now {
            true => Approved::Now(listed),
            false => Approved::Before(listed),
        })
    }

    /// Denies a request, and tells the model why with its next call. One that was approved and is not
    /// used can still be denied.
    ///
    /// # Errors
    ///
    /// As for [`approve`](Self::approve).
    pub fn deny(
        &self,
        id: &str,
        by: impl Into<By>,
        why: Option<String>,
    ) -> Result<Listed, OperatorError> {
        let by = by.into();
        let why = why.map(|mut why| {
            why.truncate(why.floor_char_boundary(LONGEST_WHY));
            why
        });
        self.say(id, |entry, now| {
            entry.say(State::Denied { by, at: now, why }, now);
        })
        .map(|(listed, ())| listed)
    }

    /// Says something of a request whose time is not over. Returns it as it is then, and what `say` returned.
    fn say<T>(
        &self,
        id: &str,
        say: impl FnOnce(&mut Entry, u64) -> T,
    ) -> Result<(Listed, T), OperatorError> {
        let id = code::tidy(id);
        let now = self.now();
        self.table.change(|book| {
            let shown = || shown_id(&id);
            let Some(entry) = book.get_mut(&id) else {
                return Err(OperatorError::Unknown(shown()));
            };
            if let State::Used { .. } = entry.state {
                return Err(OperatorError::Used(shown()));
            }
            if !entry.is_live(now) {
                return Err(OperatorError::Expired(shown()));
            }
            let said = say(entry, now);
            Ok((listed(id.clone(), entry.clone(), now), said))
        })?
    }

    /// Takes what a client's user said about a call whose question had this state: the first answer to
    /// it, from the same caller with the same call. An approval is then there to be used.
    ///
    /// # Errors
    ///
    /// It is not taken, and nothing has changed.
    pub fn answer(
        &self,
        seal: &Seal,
        state: &str,
        bound: &Bound,
        said: Said,
    ) -> Result<(), NotTaken> {
        let id = seal.id(state).ok_or(NotTaken::Forged)?;
        let now = self.now();
        self.table.change(|book| {
            let entry = book.get_mut(id).ok_or(NotTaken::Forged)?;
            if !seal.is_for(state, &entry.request) {
                return Err(NotTaken::Forged);
            }
            let live = entry.is_live(now);
            answer::check(id, &entry.request, &entry.state, live, bound)?;
            entry.say(answer::state(said, now), now);
            Ok(())
        })?
    }

    /// All entries, if they have changed.
    pub(super) fn news(&self, seen: &mut Seen) -> Result<Option<Book>, StoreError> {
        self.table.news(seen)
    }

    pub(super) fn now(&self) -> u64 {
        self.clock.now()
    }

    #[cfg(test)]
    pub(super) fn table_for_tests(&self) -> &Table<Entry> {
        &self.table
    }
}

fn listed(id: String, entry: Entry, now: u64) -> Listed {
    let live = entry.is_live(now);
    Listed {
        id,
        standing: entry.standing(now),
        left: if live {
            entry.until.saturating_sub(now)
        } else {
            0
        },
        entry,
    }
}

impl fmt::Debug for Approvals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Approvals").finish_non_exhaustive()
    }
}
