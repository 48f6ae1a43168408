//! One server in place of another, under a conversation that goes on.
//!
//! ```text
//! away: requests of the old server are answered; what comes for a server waits, what the old one
//!   │   still says is dropped
//!   ▼
//! here: the new one hears the client's handshake again, and keeps its answer to us; then what
//!       waited goes on to it
//! ```
//! If nobody comes, that is the end of the server as any other is.

use std::{
    io::{self, Read},
    sync::{Arc, Weak, atomic::Ordering},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};

use super::{Lines, Next, Outgoing, Pump, PumpEnd, in_thread};
use crate::gate::{
    conversation::{Rooms, lock},
    farewell,
    handshake::Again,
    outlet::write_line,
    reply,
    server::Messages,
};

/// A change of servers.
#[derive(Debug)]
pub enum Shift<SI, SO> {
    /// The server is going to be ended, and another one comes. If the sender of shifts is dropped
    /// instead, nobody comes.
    Away {
        /// What those are told whose requests it does not answer any more.
        words: String,
        /// Told once nothing is sent to the server any more, nor heard of it.
        done: oneshot::Sender<()>,
    },
    /// It has come.
    Here {
        /// What it reads.
        server_in: SI,
        /// What it writes.
        server_out: SO,
        /// Told once it serves, or why it does not.
        up: oneshot::Sender<Result<(), String>>,
    },
}

impl<G: Rooms, CO: Outgoing, SI: Outgoing> Pump<G, CO, SI> {
    /// Follows the shifts. Returns if nobody comes after one that went away.
    pub(super) async fn relieved<SO: Read + Send + 'static>(
        self: &Arc<Self>,
        mut shifts: mpsc::Receiver<Shift<SI, SO>>,
    ) {
        let mut empty = false;
        while let Some(shift) = shifts.recv().await {
            match shift {
                Shift::Away { words, done } => {
                    empty = true;
                    let pump = Arc::clone(self);
                    // It ends by itself: a client that does not read is not waited for.
                    drop(spawn_blocking(move || pump.goes(&words, done)));
                }
                Shift::Here {
                    server_in,
                    server_out,
                    up,
                } => {
                    empty = false;
                    let weak = Arc::downgrade(self);
                    let lines = Lines::new(server_out, self.conversation.gate.bounds().server_line);
                    let generation = self.generation();
                    let serving = move || Self::comes(&weak, generation, server_in, lines, up);
                    if let Err(error) = in_thread("from server", serving) {
                        // Whoever waits for it sees that the sender has gone.
                        tracing::error!(%error, "no thread can be started");
                    }
                }
            }
        }
        if empty || *self.away.borrow() {
            self.close(PumpEnd::ServerClosed);
            self.server_has_no_more();
        }
    }

    /// Counts the servers. What was decided for one is not for the next.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn goes(&self, words: &str, done: oneshot::Sender<()>) {
        words.clone_into(&mut lock(&self.why_away));
        self.away.send_replace(true);
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.to_server.take_away();
        if self.over.load(Ordering::Relaxed) {
            self.to_server.close();
        }
        let lost = self.conversation.bereft();
        let _ = done.send(());
        for id in lost {
            self.tell(farewell::answer(&id, words).as_bytes());
        }
    }

    /// The new server's thread.
    fn comes(
        this: &Weak<Self>,
        generation: u64,
        mut server_in: SI,
        mut lines: Lines<impl Read>,
        up: oneshot::Sender<Result<(), String>>,
    ) {
        let notices = match Self::greet(this, &mut server_in, &mut lines) {
            Ok(notices) => notices,
            Err(why) => {
                let _ = up.send(Err(why));
                return;
            }
        };
        let Some(pump) = this.upgrade() else { return };
        if !pump.to_server.put(server_in) {
            let _ = up.send(Err("its client has gone".to_owned()));
            return;
        }
        pump.away.send_replace(false);
        let _ = up.send(Ok(()));
        if *pump.conversation.ready().borrow() {
            for notice in notices {
                pump.tell(notice.as_bytes());
            }
        }
        drop(pump);
        Self::server_side(this, lines, generation);
    }

    /// Says the client's handshake to the new server. What the client is to be told of it.
    fn greet(
        this: &Weak<Self>,
        server_in: &mut SI,
        lines: &mut Lines<impl Read>,
    ) -> Result<Vec<String>, String> {
        let gone = || "its client has gone".to_owned();
        let unheard = |error: io::Error| format!("the new server does not read: {error}");
        let again = {
            let pump = this.upgrade().ok_or_else(gone)?;
            pump.conversation.handshake().again()?
        };
        let mut notices = vec![reply::restart_notice(), reply::TOOLS_CHANGED.to_owned()];
        let Some(again) = again else {
            return Ok(notices);
        };
        write_line(server_in, again.initialize.as_bytes()).map_err(unheard)?;
        let result = loop {
            let next = lines.next();
            let pump = this.upgrade().ok_or_else(gone)?;
            match next {
                Ok(Next::Line(line)) => {
                    if let Some(result) = pump.greeted(&again, lines.bytes(line)) {
                        break result?;
                    }
                }
                Ok(Next::TooLong { .. }) => return Err("its first line is too long".to_owned()),
                Ok(Next::End) => return Err("the new server has ended at once".to_owned()),
                Err(error) => return Err(format!("the new server cannot be read: {error}")),
            }
        };
        if let Some(line) = again.initialized {
            write_line(server_in, line.as_bytes()).map_err(unheard)?;
        }
        let different = again.differences(&result);
        if !different.is_empty() {
            tracing::warn!(
                different = different.join(", "),
                "the restarted server has other capabilities than its client was told of"
            );
        }
        for (capability, line) in reply::LISTS_CHANGED {
            if different.iter().any(|name| name == capability) {
                notices.push(line.to_owned());
            }
        }
        Ok(notices)
    }

    /// The result of the handshake, if the line is it; anything else goes on to the client.
    fn greeted(&self, again: &Again, line: &[u8]) -> Option<Result<String, String>> {
        if let Ok(Messages::One(message)) = Messages::parse(line)
            && let Some(answer) = again.answered(message)
        {
            return Some(answer.map(str::to_owned));
        }
        self.server_line(line);
        None
    }
}
