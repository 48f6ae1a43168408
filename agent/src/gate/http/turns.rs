//! Whose turn it is with a server that takes only so many requests at once.
//!
//! Who comes first is served first, among the requests of one client's user or grant; among those, one has
//! its turn after the other. Nobody has all turns, however long theirs take: [`Shares`] has the
//! rule. Waiting costs a place in a queue of bounded length, and ends after a bounded time.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

use super::shares::{Share, Shares};
use crate::gate::conversation::lock;

/// All turns there are at once, and who waits for one.
#[derive(Debug)]
pub(super) struct Turns<K: Eq + Hash + Clone> {
    free: Arc<Shares<K>>,
    waiting: Mutex<Waiting<K>>,
    /// How many may wait.
    most: usize,
    patience: Duration,
}

#[derive(Debug)]
struct Waiting<K: Eq + Hash + Clone> {
    /// Who has somebody waiting; the first is the next.
    order: VecDeque<K>,
    by: HashMap<K, VecDeque<oneshot::Sender<Turn<K>>>>,
    /// How many there are, with those that have given up and were not looked at since.
    count: usize,
}

/// A turn: it is the next one's when it is dropped.
#[derive(Debug)]
pub(super) struct Turn<K: Eq + Hash + Clone> {
    of: Arc<Turns<K>>,
    share: Option<Share<K>>,
}

/// Why there is no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoTurn {
    /// Too many wait already.
    Full,
    /// It took too long.
    Late,
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// So many at once; as many as `most` may wait, for so long each.
    pub(super) fn new(at_once: usize, most: usize, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            free: Shares::new(at_once),
            waiting: Mutex::new(Waiting {
                order: VecDeque::new(),
                by: HashMap::new(),
                count: 0,
            }),
            most,
            patience,
        })
    }

    /// Waits for a turn.
    pub(super) async fn take(self: &Arc<Self>, who: &K) -> Result<Turn<K>, NoTurn> {
        let receiver = {
            let waiting = &mut *lock(&self.waiting);
            // Who comes now does not overtake who waits.
            if !waiting.by.contains_key(who)
                && let Some(share) = self.free.try_take(who, 1)
            {
                return Ok(self.turn(share));
            }
            if waiting.count >= self.most {
                waiting.forget();
            }
            if waiting.count >= self.most {
                return Err(NoTurn::Full);
            }
            waiting.add(who)
        };
        match timeout(self.patience, receiver).await {
            Ok(Ok(turn)) => Ok(turn),
            // Nobody can give it any more: there is nothing left to wait for.
            Ok(Err(_)) => Err(NoTurn::Full),
            Err(_) => Err(NoTurn::Late),
        }
    }

    fn turn(self: &Arc<Self>, share: Share<K>) -> Turn<K> {
        Turn {
            of: Arc::clone(self),
            share: Some(share),
        }
    }

    /// Hands on what is free.
    fn hand_on(self: &Arc<Self>) {
        let waiting = &mut *lock(&self.waiting);
        // Each has one look, until nobody may have more.
        let mut refused = 0;
        while refused < waiting.order.len() {
            let Some(who) = waiting.order.pop_front() else {
                return;
            };
            let share = self.free.try_take(&who, 1);
            let queue = waiting.by.get_mut(&who);
            match (share, queue) {
                (Some(share), Some(queue)) => {
                    refused = 0;
                    let mut share = Some(share);
                    while let Some(given) = share.take() {
                        let Some(next) = queue.pop_front() else { break };
                        waiting.count -= 1;
                        // Who has given up leaves it to the next; who gives up only after this,
                        // too, since it is a turn that is dropped then.
                        let refused = next.send(self.turn(given)).err();
                        share = refused.and_then(|mut turn| turn.share.take());
                    }
                }
                (None, Some(_)) => refused += 1,
                (_, None) => continue,
            }
            if waiting.by.get(&who).is_some_and(VecDeque::is_empty) {
                waiting.by.remove(&who);
            } else {
                waiting.order.push_back(who);
            }
        }
    }
}

impl<K: Eq + Hash + Clone> Waiting<K> {
    fn add(&mut self, who: &K) -> oneshot::Receiver<Turn<K>> {
        let (sender, receiver) = oneshot::channel();
        if !self.by.contains_key(who) {
            self.order.push_back(who.clone());
        }
        self.by.entry(who.clone()).or_default().push_back(sender);
        self.count += 1;
        receiver
    }

    /// Forgets those who have given up.
    fn forget(&mut self) {
        self.by.retain(|_, queue| {
            queue.retain(|one| !one.is_closed());
            !queue.is_empty()
        });
        self.order.retain(|who| self.by.contains_key(who));
        self.count = self.by.values().map(VecDeque::len).sum();
    }
}

impl<K: Eq + Hash + Clone> Drop for Turn<K> {
    fn drop(&mut self) {
        if let Some(share) = self.share.take() {
            drop(share);
            self.of.hand_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{JoinHandle, yield_now};

    use super::*;

    type Log = Arc<Mutex<Vec<u32>>>;

    const LONG: Duration = Duration::from_secs(60);

    /// Waits in a task until `log` has its name, and holds its turn for ever.
    fn wait(
        turns: &Arc<Turns<&'static str>>,
        who: &'static str,
        name: u32,
        log: &Log,
    ) -> JoinHandle<Option<Turn<&'static str>>> {
        let (turns, log) = (Arc::clone(turns), Arc::clone(log));
        tokio::spawn(async move {
            let turn = turns.take(&who).await.ok()?;
            lock(&log).push(name);
            Some(turn)
        })
    }

    async fn settle() {
        for _ in 0..100 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn first_come_first_served_and_one_user_after_the_other() {
        let turns = Turns::new(2, 100, LONG);
        let log = Log::default();
        let held = (turns.take(&"x").await, turns.take(&"y").await);
        let mut tasks = VecDeque::new();
        for (who, name) in [("a", 1), ("a", 2), ("a", 3), ("b", 11), ("b", 12)] {
            tasks.push_back(wait(&turns, who, name, &log));
            settle().await;
        }
        assert!(lock(&log).is_empty());
        drop(held);
        settle().await;
        assert_eq!(*lock(&log), [1, 11]);
        drop(tasks.pop_front().unwrap().await);
        settle().await;
        assert_eq!(*lock(&log), [1, 11, 2]);
        drop(tasks.pop_front().unwrap().await);
        settle().await;
        assert_eq!(*lock(&log), [1, 11, 2, 3]);
    }

    #[tokio::test]
    async fn nobody_has_all_turns() {
        let turns = Turns::new(8, 100, LONG);
        let log = Log::default();
        let mut held = Vec::new();
        for _ in 0..6 {
            held.push(turns.take(&"many").await.unwrap());
        }
        let mut tasks = Vec::new();
        for (who, name) in [("many", 1), ("few", 11), ("few", 12), ("few", 13)] {
            tasks.push(wait(&turns, who, name, &log));
            settle().await;
        }
        assert_eq!(*lock(&log), [11], "there is one for a newcomer");
        drop(held.pop());
        settle().await;
        drop(held.pop());
        settle().await;
        // Who came first has more than its part still.
        assert_eq!(*lock(&log), [11, 12, 13]);
        held.clear();
        settle().await;
        assert_eq!(*lock(&log), [11, 12, 13, 1]);
    }

    #[tokio::test]
    async fn who_gives_up_is_passed_over() {
        let turns = Turns::new(1, 100, LONG);
        let log = Log::default();
        let first = turns.take(&"a").await.unwrap();
        let gives_up = wait(&turns, "a", 1, &log);
        settle().await;
        let waits = wait(&turns, "a", 2, &log);
        settle().await;
        gives_up.abort();
        settle().await;
        drop(first);
        drop(waits.await.unwrap());
        assert_eq!(*lock(&log), [2]);
        assert_eq!(lock(&turns.waiting).count, 0);
        assert!(lock(&turns.waiting).order.is_empty() && lock(&turns.waiting).by.is_empty());
        assert!(turns.take(&"b").await.is_ok(), "nothing is lost");
    }

    #[tokio::test]
    async fn waiting_is_bounded_in_number() {
        let turns = Turns::new(1, 2, LONG);
        let log = Log::default();
        let held = turns.take(&"a").await.unwrap();
        let tasks = [1, 2].map(|name| wait(&turns, "a", name, &log));
        settle().await;
        assert_eq!(turns.take(&"a").await.unwrap_err(), NoTurn::Full);
        assert_eq!(turns.take(&"b").await.unwrap_err(), NoTurn::Full);
        // Who has given up makes room.
        let [gone, stays] = tasks;
        gone.abort();
        settle().await;
        let newcomer = wait(&turns, "b", 3, &log);
        settle().await;
        drop(held);
        drop(stays.await.unwrap());
        drop(newcomer.await.unwrap());
        assert_eq!(*lock(&log), [2, 3]);
    }

    #[tokio::test]
    async fn waiting_is_bounded_in_time() {
        let turns = Turns::new(1, 2, Duration::from_millis(5));
        let held = turns.take(&"a").await.unwrap();
        assert_eq!(turns.take(&"a").await.unwrap_err(), NoTurn::Late);
        drop(held);
        assert!(turns.take(&"a").await.is_ok());
    }
}
