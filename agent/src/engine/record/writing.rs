//! The thread that writes: late, and as much at once as has come.
//!
//! Whoever sends an entry wakes a thread with it, and where there are few cores that thread runs in
//! place of the server that is just about to work on the call. So this one is woken once, for the
//! first entry after a silence, and from then on looks by itself every [`GATHER`] until nothing comes
//! any more. An entry is in the file that much later than it was sent, at most; one that must not
//! wait, or a queue that fills, wakes it before ([`Alarm`]).

use std::{
    sync::{Arc, OnceLock},
    thread::{self, Thread},
    time::Duration,
};

use tokio::sync::mpsc;

/// How long an entry waits for others.
pub(super) const GATHER: Duration = Duration::from_millis(5);
/// Entries that are written at once.
const BATCH: usize = 128;

/// Wakes the writing thread before its time.
#[derive(Clone, Debug, Default)]
pub(super) struct Alarm(Arc<OnceLock<Thread>>);

impl Alarm {
    /// Wakes it, if it waits for more to come.
    pub(super) fn ring(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

/// Hands what comes to `write`, in batches, until all senders have gone or `write` says false.
pub(super) fn write_all<T>(
    mut inbox: mpsc::Receiver<T>,
    alarm: &Alarm,
    mut write: impl FnMut(&mut Vec<T>) -> bool,
) {
    // The first and only time: one thread has one alarm.
    let _ = alarm.0.set(thread::current());
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(first) = inbox.blocking_recv() {
        batch.push(first);
        loop {
            while batch.len() < BATCH
                && let Ok(next) = inbox.try_recv()
            {
                batch.push(next);
            }
            if batch.is_empty() {
                break; // silence: the next one wakes us
            }
            let full = batch.len() == BATCH;
            if !write(&mut batch) {
                return;
            }
            batch.clear();
            if !full && !inbox.is_closed() {
                thread::park_timeout(GATHER);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_comes_is_written_in_its_order_and_many_at_a_time() {
        let (sender, inbox) = mpsc::channel(10_000);
        let alarm = Alarm::default();
        let writer = thread::spawn(move || {
            let (mut seen, mut times) = (Vec::new(), 0_usize);
            write_all(inbox, &alarm, |batch| {
                assert!(batch.len() <= BATCH);
                seen.append(batch);
                times += 1;
                true
            });
            (seen, times)
        });
        for number in 0..5_000 {
            sender.blocking_send(number).unwrap();
        }
        drop(sender);
        let (seen, times) = writer.join().unwrap();
        assert!(seen.into_iter().eq(0..5_000));
        assert!(times < 2_500, "{times}");
    }

    #[test]
    fn nothing_is_taken_after_a_failure() {
        let (sender, inbox) = mpsc::channel(10);
        let writer = thread::spawn(move || write_all(inbox, &Alarm::default(), |_| false));
        sender.blocking_send(1).unwrap();
        writer.join().unwrap();
        assert!(sender.blocking_send(2).is_err());
    }
}
