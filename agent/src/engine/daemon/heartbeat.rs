//! The service manager's watchdog: fed for as long as clients and governed processes are answered.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::kernel::{self, Manager};

/// Tells the manager twice in each of its intervals that all is well: from the loop that serves clients, and
/// only while no loop that answers governed processes has been at one call for half an interval. So
/// whichever is stuck, the manager hears nothing, and starts the daemon anew.
pub(super) fn start(manager: Option<Arc<Manager>>) -> JoinSet<()> {
    let mut beating = JoinSet::new();
    if let Some((manager, limit)) = manager.zip(kernel::watchdog()) {
        tracing::debug!(?limit, "the service manager's watchdog is fed");
        beating.spawn(beat(limit / 2, kernel::stuck, move || manager.alive()));
    }
    beating
}

async fn beat(every: Duration, stuck: impl Fn(Duration) -> usize, alive: impl Fn()) {
    let mut ticks = interval(every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match stuck(every) {
            0 => alive(),
            loops => tracing::error!(
                loops,
                "governed processes get no answer: the service manager's watchdog is not fed"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stuck_loop_is_not_told_to_be_alive() {
        let (told, loops) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let alive = || {
            told.fetch_add(1, Ordering::Relaxed);
        };
        let second = Duration::from_secs(1);
        let beating = beat(second, |_| loops.load(Ordering::Relaxed), alive);
        tokio::pin!(beating);
        for (stuck, heard) in [(0, 6), (1, 6), (0, 12)] {
            loops.store(stuck, Ordering::Relaxed);
            let some_time = second * 6 - Duration::from_millis(500);
            let _ = tokio::time::timeout(some_time, &mut beating).await;
            tokio::time::advance(Duration::from_millis(500)).await;
            assert!(
                told.load(Ordering::Relaxed).abs_diff(heard) <= 1,
                "{told:?}"
            );
        }
    }
}
