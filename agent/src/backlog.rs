//! What is told somebody who may have no time to take it: kept in its order, and told by a thread once they have, so that
//! nobody else waits for them.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// Who is told. Nothing here may tell the same one anything.
pub(crate) trait Hearer: Send + Sync + 'static {
    /// What they are told.
    type Message: Send;

    /// What a message occupies, in bytes.
    fn size(message: &Self::Message) -> usize;

    /// Tells it if that takes no time. Whether it was told, or cannot be told.
    fn at_once(&self, message: &Self::Message) -> bool;

    /// The same, and waits up to about a second. Blocks.
    fn in_time(&self, message: &Self::Message) -> bool;

    /// For so many messages there was no room; what is told of that, if anything.
    fn lost(&self, messages: u64) -> Option<Self::Message>;
}

/// What somebody is to be told, and has not been yet.
pub(crate) struct Backlog<H: Hearer> {
    hearer: H,
    /// Bytes of all that waits.
    most: usize,
    waiting: Mutex<Waiting<H::Message>>,
    emptied: Condvar,
}

struct Waiting<M> {
    /// In their order. The first is empty while it is being told.
    messages: VecDeque<Option<M>>,
    bytes: usize,
    /// Since the last that was kept.
    lost: u64,
    /// A thread tells them.
    telling: bool,
}

impl<H: Hearer> Backlog<H> {
    pub(crate) fn new(hearer: H, most: usize) -> Arc<Self> {
        let waiting = Waiting {
            messages: VecDeque::new(),
            bytes: 0,
            lost: 0,
            telling: false,
        };
        Arc::new(Self {
            hearer,
            most,
            waiting: Mutex::new(waiting),
            emptied: Condvar::new(),
        })
    }

    pub(crate) fn hearer(&self) -> &H {
        &self.hearer
    }

    /// Whether something waits.
    pub(crate) fn is_behind(&self) -> bool {
        self.waiting().telling
    }

    /// Tells it at once, or else after all that was to be told before. What there is no room for is lost, and counted.
    pub(crate) fn tell(self: &Arc<Self>, message: H::Message) {
        let mut waiting = self.waiting();
        if !waiting.telling && self.owns_up_at_once(&mut waiting) && self.hearer.at_once(&message) {
            return;
        }
        let size = H::size(&message);
        if waiting.bytes.saturating_add(size) > self.most {
            waiting.lost = waiting.lost.saturating_add(1);
            return;
        }
        let lost = waiting.lost;
        self.own_up(&mut waiting);
        waiting.keep(message, size);
        if !waiting.telling {
            let this = Arc::clone(self);
            let teller = thread::Builder::new().name("backlog".to_owned());
            waiting.telling = teller.spawn(move || this.tell_all()).is_ok();
            if !waiting.telling {
                // The host has no more threads, and nothing else waited.
                (waiting.messages, waiting.bytes) = (VecDeque::new(), 0);
                waiting.lost = lost.saturating_add(1);
            }
        }
    }

    /// Waits until all was told, at most so long. How many messages were not; what tells of lost ones is one.
    pub(crate) fn settled(&self, at_most: Duration) -> u64 {
        let waited = self
            .emptied
            .wait_timeout_while(self.waiting(), at_most, |waiting| waiting.telling);
        let (waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let left = u64::try_from(waiting.messages.len()).unwrap_or(u64::MAX);
        waiting.lost.saturating_add(left)
    }

    fn tell_all(&self) {
        loop {
            let next = {
                let mut waiting = self.waiting();
                if waiting.messages.is_empty() {
                    self.own_up(&mut waiting);
                }
                match waiting.messages.front_mut().and_then(Option::take) {
                    Some(next) => next,
                    None => {
                        waiting.telling = false;
                        self.emptied.notify_all();
                        return;
                    }
                }
            };
            while !self.hearer.in_time(&next) {}
            let mut waiting = self.waiting();
            waiting.messages.pop_front();
            waiting.bytes = waiting.bytes.saturating_sub(H::size(&next));
        }
    }

    /// Tells at once how many there was no room for. Whether that takes no time, or there were none.
    fn owns_up_at_once(&self, waiting: &mut Waiting<H::Message>) -> bool {
        let lost = waiting.lost;
        let words = (lost > 0).then(|| self.hearer.lost(lost)).flatten();
        let told = words.is_none_or(|words| self.hearer.at_once(&words));
        if told {
            waiting.lost = 0;
        }
        told
    }

    /// Has it told how many there was no room for.
    fn own_up(&self, waiting: &mut Waiting<H::Message>) {
        let lost = std::mem::take(&mut waiting.lost);
        if lost > 0
            && let Some(message) = self.hearer.lost(lost)
        {
            let size = H::size(&message);
            waiting.keep(message, size);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<H::Message>> {
        // Whole after every statement.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> Waiting<M> {
    fn keep(&mut self, message: M, size: usize) {
        self.bytes = self.bytes.saturating_add(size);
        self.messages.push_back(Some(message));
    }
}

impl<H: Hearer> fmt::Debug for Backlog<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backlog").finish_non_exhaustive()
    }
}
