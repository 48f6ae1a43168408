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
        feed(stuck(every), &alive);
    }
}

/// Says that all is well, if no loop is stuck.
fn feed(stuck: usize, alive: impl Fn()) {
    match stuck {
        0 => alive(),
        loops => tracing::error!(
            loops,
            "governed processes get no answer: the service manager's watchdog is not fed"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn the_manager_is_told_again_and_again() {
        let (told, heard) = tokio::sync::mpsc::unbounded_channel();
        let mut heard = heard;
        let alive = move || told.send(()).unwrap();
        let beating = tokio::spawn(beat(Duration::from_millis(1), |_| 0, alive));
        for _ in 0..3 {
            heard.recv().await.unwrap();
        }
        beating.abort();
    }

    #[test]
    fn a_stuck_loop_is_not_told_to_be_alive() {
        let told = Cell::new(0);
        let alive = || told.set(told.get() + 1);
        for (stuck, heard) in [(0, 1), (1, 1), (7, 1), (0, 2)] {
            feed(stuck, alive);
            assert_eq!(told.get(), heard);
        }
    }
}
