//! What all clients share, and how much of it each may have: sessions, connections, servers, memory.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex},
};

use tokio::sync::Notify;

use crate::gate::conversation::lock;

/// Somebody may have up to this many times what would be left. So who is alone gets three quarters,
/// and however many there are, one that has nothing yet finds something.
const TIMES: usize = 3;

/// So much of something, for whoever asks.
#[derive(Debug)]
pub(super) struct Shares<K: Eq + Hash> {
    total: usize,
    given: Mutex<Given<K>>,
    returned: Notify,
}

#[derive(Debug)]
struct Given<K> {
    used: usize,
    by: HashMap<K, usize>,
}

/// A part of it, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share<K: Eq + Hash> {
    of: Arc<Shares<K>>,
    who: K,
    amount: usize,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    pub(super) fn new(total: usize) -> Arc<Self> {
        Arc::new(Self {
            total,
            given: Mutex::new(Given {
                used: 0,
                by: HashMap::new(),
            }),
            returned: Notify::new(),
        })
    }

    /// So much, if there is so much for them.
    pub(super) fn try_take(self: &Arc<Self>, who: &K, amount: usize) -> Option<Share<K>> {
        self.add(who, amount).then(|| Share {
            of: Arc::clone(self),
            who: who.clone(),
            amount,
        })
    }

    /// The same, waiting until there is. Of more than there ever is, all.
    pub(super) async fn take(self: &Arc<Self>, who: &K, amount: usize) -> Share<K> {
        let amount = amount.min(self.total);
        loop {
            let returned = self.returned.notified();
            tokio::pin!(returned);
            // Before looking, so that nothing that is returned meanwhile is missed.
            returned.as_mut().enable();
            if let Some(share) = self.try_take(who, amount) {
                return share;
            }
            returned.await;
        }
    }

    fn add(&self, who: &K, amount: usize) -> bool {
        if amount == 0 {
            return true;
        }
        let given = &mut *lock(&self.given);
        let Some(left) = self.total.checked_sub(given.used.saturating_add(amount)) else {
            return false;
        };
        match given.by.get_mut(who) {
            Some(has) if has.saturating_add(amount) > left.saturating_mul(TIMES) => return false,
            Some(has) => *has += amount,
            // Whoever has nothing gets what there is.
            None => {
                given.by.insert(who.clone(), amount);
            }
        }
        given.used += amount;
        true
    }
}

impl<K: Eq + Hash> Shares<K> {
    fn give_back(&self, who: &K, amount: usize) {
        if amount == 0 {
            return;
        }
        let given = &mut *lock(&self.given);
        given.used = given.used.saturating_sub(amount);
        if let Some(has) = given.by.get_mut(who) {
            *has = has.saturating_sub(amount);
            if *has == 0 {
                given.by.remove(who);
            }
        }
        self.returned.notify_waiters();
    }
}

impl<K: Eq + Hash + Clone> Share<K> {
    /// How much it is.
    pub(super) fn amount(&self) -> usize {
        self.amount
    }

    /// Gives back what is more than this.
    pub(super) fn shrink(&mut self, amount: usize) {
        let rest = self.amount.saturating_sub(amount);
        self.of.give_back(&self.who, rest);
        self.amount -= rest;
    }

    /// Takes more, up to this; false if there is not so much.
    pub(super) fn grow(&mut self, amount: usize) -> bool {
        let more = amount.saturating_sub(self.amount);
        if more > 0 && !self.of.add(&self.who, more) {
            return false;
        }
        self.amount += more;
        true
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        self.of.give_back(&self.who, self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_it_all_and_newcomers_find_some() {
        let shares = Shares::new(1024);
        let all = |who: &'static str| {
            let mut held = Vec::new();
            held.extend(std::iter::from_fn(|| shares.try_take(&who, 1)));
            held
        };
        let first = all("first");
        let second = all("second");
        let third = all("third");
        assert_eq!((first.len(), second.len(), third.len()), (768, 192, 48));
        drop(first);
        // What they had is there for the others.
        let more = all("third");
        assert!(more.len() > 500, "{}", more.len());
        drop((second, third, more));
        assert_eq!(lock(&shares.given).used, 0);
        assert!(lock(&shares.given).by.is_empty());
    }

    #[test]
    fn last_one_is_for_a_newcomer() {
        let shares = Shares::new(2);
        let one = shares.try_take(&1, 1);
        assert!(one.is_some() && shares.try_take(&1, 1).is_none());
        assert!(shares.try_take(&2, 1).is_some());
    }

    #[test]
    fn share_grows_and_shrinks() {
        let shares = Shares::new(100);
        let mut share = shares.try_take(&1, 60).unwrap();
        assert!(share.grow(75) && !share.grow(76));
        share.shrink(10);
        assert_eq!(lock(&shares.given).used, 10);
        assert!(share.grow(5) && lock(&shares.given).used == 10);
    }

    #[tokio::test]
    async fn who_waits_gets_what_is_returned() {
        let shares = Shares::new(100);
        let held = shares.try_take(&1, 100).unwrap();
        assert!(shares.try_take(&2, 1).is_none());
        let waiting = tokio::spawn({
            let shares = Arc::clone(&shares);
            async move { shares.take(&2, 1000).await.amount }
        });
        tokio::task::yield_now().await;
        drop(held);
        assert_eq!(waiting.await.unwrap(), 100);
    }
}
