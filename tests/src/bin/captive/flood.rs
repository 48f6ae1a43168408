//! Asks for capture sockets, and for nothing else, from many threads at once.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Result, anyhow};
use serde_json::json;

use crate::{hold, sys};

const THREADS: usize = 8;
/// Sockets that each thread asks for at least.
const EACH: usize = 1_250;

pub(crate) fn flood(control: &Path) -> Result<()> {
    let stream = UnixStream::connect(control)?;
    let stop = Arc::new(AtomicBool::new(false));
    let ask = |stop: Arc<AtomicBool>| {
        move || {
            let (mut kept, mut outcomes) = (Vec::new(), BTreeMap::<String, usize>::new());
            let mut asked = 0;
            while asked < EACH || !stop.load(Ordering::Relaxed) {
                asked += 1;
                let name = match sys::packet_socket(sys::SOCK_RAW, sys::ALL) {
                    Ok(socket) => {
                        kept.push(socket);
                        "ok".to_owned()
                    }
                    Err(error) => sys::name(&error),
                };
                *outcomes.entry(name).or_default() += 1;
            }
            (kept, outcomes)
        }
    };
    let threads: Vec<_> = (0..THREADS)
        .map(|_| thread::spawn(ask(Arc::clone(&stop))))
        .collect();
    let mut word = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut word)?;
    stop.store(true, Ordering::Relaxed);
    let (mut sockets, mut all) = (Vec::new(), BTreeMap::<String, usize>::new());
    for thread in threads {
        let (kept, outcomes) = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
        sockets.extend(kept);
        for (name, count) in outcomes {
            *all.entry(name).or_default() += count;
        }
    }
    hold::say_and_obey(stream, &json!(all))
}
