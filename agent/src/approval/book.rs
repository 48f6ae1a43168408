//! What is asked and answered, on the entries of the table.

use std::collections::BTreeMap;

use super::{
    By, LONGEST_ARGUMENTS, MOST_BYTES, MOST_LIVE, MOST_PENDING, Request,
    entry::{Entry, State},
};
use crate::store::StoreError;

/// How often an approval is given back: nobody has a server ask for input without end on one.
const MOST_GIVEN_BACK: u8 = 8;

/// All requests, by id.
pub(super) type Book = BTreeMap<String, Entry>;

/// What is over is kept for so many seconds, and so many of them.
const KEPT: u64 = 86_400;
const MOST_OVER: usize = 256;

/// What becomes of a call that needs an approval.
#[derive(Debug)]
pub enum Asked {
    /// It is approved, and this has used the approval up: the call may go.
    Approved(Used),
    /// It waits for somebody's answer.
    Pending {
        /// Under this id.
        id: String,
        /// Until then: seconds since 1970, UTC.
        until: u64,
    },
    /// Somebody has refused it.
    Denied {
        /// The id it was refused under.
        id: String,
        /// Who refused it.
        by: By,
        /// Why, in the operator's words.
        why: Option<String>,
        /// Until when that holds.
        until: u64,
    },
    /// It cannot be asked for.
    Refused(Refused),
}

/// An approval that was used up for a call.
#[derive(Debug, PartialEq, Eq)]
pub struct Used {
    pub(super) id: String,
    pub(super) by: By,
    pub(super) approved: u64,
    /// Without its arguments.
    pub(super) request: Box<Request>,
}

/// Why nobody can be asked for an approval. The call must not be made.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is too much to look at.
    #[error(
        "its tool and arguments have {bytes} bytes, and at most {LONGEST_ARGUMENTS} can be approved"
    )]
    TooLarge {
        /// How much there is.
        bytes: usize,
    },
    /// A number was not kept as it was sent.
    #[error("a number in its arguments is too large to be kept exactly")]
    Inexact,
    /// The principal has asked for too many.
    #[error("{MOST_PENDING} other calls of the same caller wait for an approval already")]
    TooManyPending,
    /// There are too many in all.
    #[error("too many calls wait for an approval already")]
    Full,
    /// The table cannot be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host has no randomness for an id.
    #[error("cannot read /dev/urandom: {0}")]
    Random(std::io::Error),
    /// Nobody keeps the table any more.
    #[error("the approvals are closed")]
    Closed,
}

/// What there is for a call.
pub(super) enum Found {
    /// This is its answer, and nothing is changed.
    Answer(Asked),
    /// An approval under this id, to be used up.
    Approval(String),
    /// Nothing yet, and there is room to ask.
    Nothing,
}

/// Looks for what was said about a call.
pub(super) fn look(book: &Book, request: &Request, now: u64) -> Found {
    let (mut pending, mut approval) = (None, None);
    let (mut live, mut bytes, mut waiting) = (0, request.bytes(), 0);
    for (id, entry) in book.iter().filter(|(_, entry)| entry.is_live(now)) {
        live += 1;
        bytes += entry.request.bytes();
        let is_pending = entry.state == State::Pending;
        if is_pending && entry.request.principal == request.principal {
            waiting += 1;
        }
        if entry.request.digest != request.digest {
            continue;
        }
        let (id, until) = (id.clone(), entry.until);
        match &entry.state {
            // Whatever else was said of the same call, a refusal stands.
            State::Denied { by, why, .. } => {
                let (by, why) = (*by, why.clone());
                return Found::Answer(Asked::Denied { id, by, why, until });
            }
            State::Pending => pending = Some(Asked::Pending { id, until }),
            State::Approved { .. } => approval = Some(id),
            State::Used { .. } => {}
        }
    }
    match (approval, pending) {
        (Some(id), _) => Found::Approval(id),
        (None, Some(pending)) => Found::Answer(pending),
        (None, None) if waiting >= MOST_PENDING => {
            Found::Answer(Asked::Refused(Refused::TooManyPending))
        }
        (None, None) if live >= MOST_LIVE || bytes > MOST_BYTES => {
            Found::Answer(Asked::Refused(Refused::Full))
        }
        (None, None) => Found::Nothing,
    }
}

/// Uses an approval up, or asks for one under a new id.
pub(super) fn ask(book: &mut Book, mut request: Request, new: String, now: u64) -> Asked {
    sweep(book, now);
    match look(book, &request, now) {
        Found::Answer(answer) => return answer,
        Found::Nothing => {}
        Found::Approval(id) => {
            if let Some(entry) = book.get_mut(&id)
                && let State::Approved { by, at } = entry.state
            {
                // `until` stays: given back, it can be used no longer than before.
                entry.state = State::Used { by, at, used: now };
                request.arguments = String::new();
                return Asked::Approved(Used {
                    id,
                    by,
                    approved: at,
                    request: Box::new(request),
                });
            }
        }
    }
    let entry = Entry::pending(request, now);
    let until = entry.until;
    book.insert(new.clone(), entry);
    Asked::Pending { id: new, until }
}

/// Makes an approval usable again that was used up for a call with which the server did nothing.
/// Returns whether that was done.
pub(super) fn give_back(book: &mut Book, used: &Used) -> bool {
    if let Some(entry) = book.get_mut(&used.id)
        && let State::Used { by, at, .. } = entry.state
        && entry.given_back < MOST_GIVEN_BACK
    {
        entry.state = State::Approved { by, at };
        entry.given_back += 1;
        return true;
    }
    false
}

/// Forgets what has been over for long, and the arguments of all that is over.
pub(super) fn sweep(book: &mut Book, now: u64) {
    book.retain(|_, entry| entry.is_live(now) || now < entry.until.saturating_add(KEPT));
    let mut over: Vec<(u64, String)> = Vec::new();
    for (id, entry) in book.iter_mut() {
        if !entry.is_live(now) {
            entry.request.arguments = String::new();
            over.push((entry.until, id.clone()));
        }
    }
    over.sort_unstable();
    let surplus = over.len().saturating_sub(MOST_OVER);
    for (_, id) in over.into_iter().take(surplus) {
        book.remove(&id);
    }
}
