//! Work that takes long, beside the broker's thread: the verifier looks at a process's own filter for
//! a millisecond, and for seconds at one that is made to take long.
//!
//! Of one session only one thing is under way at a time, in the order in which they came: what it
//! has spent is known before the next one begins, and it cannot take all threads.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use super::broker::{LEAVE, join_within};

/// So much is under way at once, of all sessions of a server.
const THREADS: usize = 2;
/// So much of one session waits for its turn.
const WAITING_OF_ONE: usize = 16;
/// So much of all sessions does.
const WAITING: usize = 128;

type Job = Box<dyn FnOnce() + Send>;

/// The threads. When it is dropped, what has not begun is dropped, and what is under way is
/// waited for, within bounds.
pub(super) struct Aside {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(u32, Job)>,
    /// The sessions of which something is under way.
    busy: Vec<u32>,
    closed: bool,
}

/// There is no room for more: what was to be done was not, and never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Aside {
    pub(super) fn start() -> io::Result<Self> {
        let mut aside = Self {
            shared: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..THREADS {
            let shared = Arc::clone(&aside.shared);
            let thread = thread::Builder::new().name("aside".into());
            aside.threads.push(thread.spawn(move || shared.work())?);
        }
        Ok(aside)
    }

    /// Does something for a session, as soon as it is its turn.
    pub(super) fn push(
        &self,
        session: u32,
        job: impl FnOnce() + Send + 'static,
    ) -> Result<(), Full> {
        let mut queue = self.shared.queue();
        let same = queue.waiting.iter().filter(|(of, _)| *of == session);
        if same.count() >= WAITING_OF_ONE || queue.waiting.len() >= WAITING {
            return Err(Full);
        }
        queue.waiting.push_back((session, Box::new(job)));
        drop(queue);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.closed = true;
        let left = std::mem::take(&mut queue.waiting);
        drop(queue);
        drop(left);
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            join_within(thread, LEAVE);
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Whole at each panic point.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some((session, job)) = self.next() {
            let _done = Done {
                shared: self,
                session,
            };
            job();
        }
    }

    /// The first thing whose session has nothing under way; none when all is over.
    fn next(&self) -> Option<(u32, Job)> {
        let mut queue = self.queue();
        loop {
            if queue.closed {
                return None;
            }
            let free = |(session, _): &(u32, Job)| !queue.busy.contains(session);
            if let Some(at) = queue.waiting.iter().position(free)
                && let Some(next) = queue.waiting.remove(at)
            {
                queue.busy.push(next.0);
                return Some(next);
            }
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Makes a session free again, whatever became of the work.
struct Done<'a> {
    shared: &'a Shared,
    session: u32,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.shared
            .queue()
            .busy
            .retain(|session| *session != self.session);
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn sessions_take_turns_and_do_not_hold_each_other_up() {
        let aside = Aside::start().unwrap();
        let (release, released) = mpsc::channel::<()>();
        let (done, order) = mpsc::channel();
        let tell = |what| {
            let done = done.clone();
            move || done.send(what).unwrap()
        };
        let (begun, begins) = mpsc::channel();
        let slow = tell("slow");
        let job = move || {
            begun.send(()).unwrap();
            released.recv().unwrap();
            slow();
        };
        aside.push(1, job).unwrap();
        begins.recv().unwrap();
        aside.push(1, tell("next of the same")).unwrap();
        aside.push(2, tell("another's")).unwrap();
        assert_eq!(order.recv().unwrap(), "another's");
        for _ in 1..WAITING_OF_ONE {
            aside.push(1, || ()).unwrap();
        }
        assert_eq!(aside.push(1, || ()), Err(Full));
        aside.push(2, tell("another's")).unwrap();
        assert_eq!(order.recv().unwrap(), "another's");
        release.send(()).unwrap();
        assert_eq!(order.recv().unwrap(), "slow");
        assert_eq!(order.recv().unwrap(), "next of the same");
    }

    #[test]
    fn what_has_not_begun_when_all_ends_is_dropped() {
        let aside = Aside::start().unwrap();
        let (release, released) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        let job = move || {
            begun.send(()).unwrap();
            released.recv().unwrap();
        };
        aside.push(1, job).unwrap();
        begins.recv().unwrap();
        let (kept, told) = mpsc::channel::<()>();
        aside.push(1, move || kept.send(()).unwrap()).unwrap();
        let ending = thread::spawn(move || drop(aside));
        // Its sender goes with it, unused.
        assert!(told.recv().is_err());
        release.send(()).unwrap();
        ending.join().unwrap();
    }
}
