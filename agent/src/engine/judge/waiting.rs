//! Calls that the server answered by asking for input, until the client sends them again.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::Ticket;
use crate::{kernel::BootTime, policy::Call, principal::Caller};

/// How long a client may take to find the input.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// How many calls may wait for input at once. The oldest is forgotten first; if it comes again, it
/// is charged again.
const MOST: usize = 1_024;

/// Their tickets, oldest first.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    keys: RandomState,
    calls: Mutex<VecDeque<(BootTime, Ticket)>>,
}

impl Waiting {
    /// What a call has in common with itself when it is sent again: who calls, which tool, and the arguments.
    /// (Its id and its `requestState` are new each time.) The keys of the digest are this
    /// process's secret.
    pub(super) fn mark(&self, caller: &Caller, call: &Call) -> u64 {
        let mut mark = self.keys.build_hasher();
        caller.principal.hash(&mut mark);
        caller.grant.hash(&mut mark);
        caller.connection.hash(&mut mark);
        caller.server.hash(&mut mark);
        call.tool.hash(&mut mark);
        call.arguments.hash(&mut mark);
        mark.finish()
    }

    pub(super) fn keep(&self, ticket: Ticket) {
        let mut calls = self.calls();
        while calls.front().is_some_and(|(until, _)| until.has_passed()) || calls.len() >= MOST {
            calls.pop_front();
        }
        calls.push_back((BootTime::now().after(PATIENCE), ticket));
    }

    pub(super) fn take(&self, mark: u64) -> Option<Ticket> {
        let mut calls = self.calls();
        let at = calls
            .iter()
            .position(|(until, ticket)| ticket.mark == mark && !until.has_passed())?;
        calls.remove(at).map(|(_, ticket)| ticket)
    }

    /// A panic elsewhere leaves the queue whole.
    fn calls(&self) -> MutexGuard<'_, VecDeque<(BootTime, Ticket)>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
