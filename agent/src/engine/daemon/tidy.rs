//! What clients took of the system's memory is given back when they have left.

use std::{sync::Arc, time::Duration};

use tokio::task::spawn_blocking;

use super::door::Door;
use crate::kernel;

/// How often it is asked whether somebody left. Giving back looks at all that the allocator has, tens of
/// milliseconds after hundreds of sessions, so it is not done for each of them.
const EVERY: Duration = Duration::from_secs(5);

/// Gives back what those took who have left, for ever.
pub(super) async fn give_back(door: Arc<Door>) {
    let mut lately = false;
    loop {
        tokio::time::sleep(EVERY).await;
        let left = door.somebody_left();
        // What somebody had who was just leaving is free the next time.
        if left || lately {
            // It fails only when the agent ends.
            let _ = spawn_blocking(kernel::give_back).await;
        }
        lately = left;
    }
}
