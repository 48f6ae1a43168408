//! The wire to one stdio server behind its gate: lines in both directions. Which stream of HTTP the
//! server's lines go to is the business of `streams`.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::body::Bytes;
use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
    task::JoinSet,
    time::timeout,
};

use super::{
    renumber::Renumbered,
    streams::{KEPT, Kind, Message, QUEUE, Reader, Streams, Waiting},
};
use crate::{
    gate::{
        conversation::lock,
        envelope::Id,
        http::{params::Marked, refusal::INTERNAL, shares::Shares},
        lines::Lines,
        reply,
    },
    principal::Principal,
};

/// Lines that may wait to be written to the server.
const LINES: usize = 2;
/// Requests of a client with one stream of which it is known that they wait.
const WAITING: usize = 1_024;

/// The wire.
pub(super) struct Wire {
    kind: Kind,
    to_server: mpsc::Sender<Bytes>,
    streams: Arc<Mutex<Streams>>,
    gone: Arc<watch::Sender<bool>>,
    heard: Mutex<Instant>,
    number: AtomicU64,
    /// See [`Reader::handing`].
    handing: Arc<tokio::sync::Mutex<()>>,
    tasks: Mutex<JoinSet<()>>,
}

/// The stream of one request.
pub(super) struct Reply {
    pub(super) messages: mpsc::Receiver<Message>,
    wire: Arc<Wire>,
    id: Id,
    number: u64,
    sent: bool,
}

/// A message that has not been sent so far: should whoever sends it leave, nothing waits for the answer to it.
struct Unsent<'a> {
    wire: &'a Wire,
    request: Option<(Id, u64)>,
}

/// A request with this id waits already.
pub(super) struct Taken;

impl Wire {
    /// Takes the wire to a server over. Its lines have at most `limit` bytes; what long ones
    /// occupy is taken of `answers`, for `whose`.
    pub(super) fn new(
        server: UnixStream,
        kind: Kind,
        limit: usize,
        answers: Arc<Shares<Principal>>,
        whose: Principal,
    ) -> Arc<Self> {
        let (from_server, to_server) = server.into_split();
        let (sender, lines) = mpsc::channel(LINES);
        let streams = Arc::new(Mutex::new(Streams::default()));
        let gone = Arc::new(watch::Sender::new(false));
        let handing = Arc::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(write(to_server, lines));
        let reader = Reader {
            kind,
            streams: Arc::clone(&streams),
            handing: Arc::clone(&handing),
            answers,
            whose,
        };
        let is_gone = Arc::clone(&gone);
        tasks.spawn(async move {
            reader.run(Lines::new(from_server, limit)).await;
            // Whoever waits is told by the end of the stream.
            let left = std::mem::take(&mut *lock(&reader.streams));
            is_gone.send_replace(true);
            drop(left);
        });
        Arc::new(Self {
            kind,
            to_server: sender,
            streams,
            gone,
            heard: Mutex::new(Instant::now()),
            number: AtomicU64::new(0),
            handing,
            tasks: Mutex::new(tasks),
        })
    }

    /// Whether the server has gone, or is heard no more.
    pub(super) fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }

    /// Lets go of the server, which ends then, and of all streams.
    pub(super) fn close(&self) {
        self.gone.send_replace(true);
        lock(&self.tasks).abort_all();
        let left = std::mem::take(&mut *lock(&self.streams));
        drop(left);
    }

    /// Answers all requests that wait, in the server's place, which is heard no more, and waits until that has been handed over, and
    /// an answer that was on its way. Who does not make room for it in so long does not get it.
    pub(super) async fn forsake(&self, why: &str, patience: Duration) {
        // Before what waits is taken: whoever sends a request from now on is told.
        self.gone.send_replace(true);
        let left = std::mem::take(&mut *lock(&self.streams));
        let mut handing = JoinSet::new();
        for (id, waiting) in left.waiting {
            let id = match &waiting.renumbered {
                Some(renumbered) => renumbered.id().to_owned(),
                None => id.as_json(),
            };
            let answer = Message {
                text: reply::error(Some(&id), INTERNAL, why),
                answers: true,
                held: None,
            };
            if let Err(TrySendError::Full(answer)) = waiting.to.try_send(answer) {
                handing.spawn(async move { waiting.to.send(answer).await });
            }
        }
        let handed = async {
            while handing.join_next().await.is_some() {}
            drop(self.handing.lock().await);
        };
        let _ = timeout(patience, handed).await;
    }

    /// The arguments of a tool that are repeated in headers, as far as it was listed.
    pub(super) fn marked(&self, tool: &str) -> Arc<[Marked]> {
        lock(&self.streams).declared.of(tool)
    }

    /// A request was taken back: its stream ends, and a late answer goes nowhere.
    pub(super) fn forget(&self, id: &Id) {
        let forgotten = lock(&self.streams).waiting.remove(id);
        drop(forgotten);
    }

    /// Whether something waits for a stream.
    #[cfg(test)]
    pub(super) fn keeps(&self) -> bool {
        !lock(&self.streams).kept.is_empty()
    }

    /// How many requests wait for their answers.
    #[cfg(test)]
    pub(super) fn asked(&self) -> usize {
        lock(&self.streams).waiting.len()
    }

    /// Whether a request's stream has no room.
    #[cfg(test)]
    pub(super) fn is_full(&self) -> bool {
        let streams = lock(&self.streams);
        let mut waiting = streams.waiting.values();
        waiting.any(|waiting| waiting.to.capacity() == 0)
    }

    /// The client was heard of.
    pub(super) fn heard(&self) {
        *lock(&self.heard) = Instant::now();
    }

    /// How long nothing was heard of the client, and nothing went on.
    pub(super) fn idle(&self) -> Duration {
        let listening = lock(&self.streams).listening.clone();
        match listening.is_some_and(|to| !to.is_closed()) || self.waits() {
            true => Duration::ZERO,
            false => lock(&self.heard).elapsed(),
        }
    }

    /// Whether the answer to a request is waited for, or on its way to whoever waits.
    pub(super) fn waits(&self) -> bool {
        let open = |waiting: &Waiting| !waiting.to.is_closed();
        let waits = lock(&self.streams).waiting.values().any(open);
        // In this order: it is on its way before nobody waits for it.
        waits || self.handing.try_lock().is_err()
    }

    /// A number that no other request of this wire has.
    pub(super) fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sends a message: nothing is cut off when whoever waits for this leaves.
    pub(super) async fn send(&self, message: &[u8]) -> io::Result<()> {
        if self.is_gone() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let sent = self.to_server.send(one_line(message)).await;
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Sends a message of a client with one stream, where the answer goes if it is a request, of this id.
    pub(super) async fn post(&self, request: Option<Id>, message: &[u8]) -> io::Result<()> {
        let mut unsent = Unsent {
            wire: self,
            request: None,
        };
        if let Some(id) = request {
            let number = self.next_number();
            let mut streams = lock(&self.streams);
            // The gate refuses more than it has room for.
            if let Some(to) = streams.listening.clone()
                && streams.waiting.len() < WAITING
            {
                // And one of an id that another has which waits.
                streams.waiting.entry(id.clone()).or_insert(Waiting {
                    number,
                    to,
                    progress: None,
                    renumbered: None,
                });
                unsent.request = Some((id, number));
            }
        }
        self.send(message).await?;
        unsent.request = None;
        Ok(())
    }

    /// Takes a request out that waits, unless another one has its id.
    fn take_out(&self, id: &Id, number: u64) -> Option<Waiting> {
        let mut streams = lock(&self.streams);
        let waiting = streams.waiting.get(id);
        match waiting.is_some_and(|waiting| waiting.number == number) {
            true => streams.waiting.remove(id),
            false => None,
        }
    }

    /// Sends a request whose answer goes to the reply.
    pub(super) async fn ask(
        self: &Arc<Self>,
        id: Id,
        message: &[u8],
        progress: Option<Id>,
        renumbered: Option<Renumbered>,
    ) -> Result<io::Result<Reply>, Taken> {
        let (to, messages) = mpsc::channel(self.kind.queue());
        let number = self.next_number();
        {
            let mut streams = lock(&self.streams);
            if streams.waiting.contains_key(&id) {
                return Err(Taken);
            }
            // Until there is one, what the server said went nowhere.
            let mut early = Vec::new();
            if self.kind == Kind::Session {
                let some = QUEUE.min(streams.kept.len());
                early.extend(streams.kept.drain(..some));
                let bytes: usize = early.iter().map(String::len).sum();
                streams.kept_bytes -= bytes;
            }
            for text in early {
                let _ = to.try_send(Message {
                    text,
                    answers: false,
                    held: None,
                });
            }
            streams.waiting.insert(
                id.clone(),
                Waiting {
                    number,
                    to,
                    progress,
                    renumbered,
                },
            );
        }
        // Should whoever asks leave before it is sent, nothing waits for its answer.
        let mut reply = Reply {
            messages,
            wire: Arc::clone(self),
            id,
            number,
            sent: false,
        };
        let sent = self.send(message).await;
        reply.sent = sent.is_ok();
        Ok(sent.map(|()| reply))
    }

    /// The stream that hears what no request waits for, from now on; the one before ends.
    pub(super) fn listen(&self) -> mpsc::Receiver<Message> {
        let (to, messages) = mpsc::channel(KEPT);
        let mut streams = lock(&self.streams);
        streams.kept_bytes = 0;
        for text in std::mem::take(&mut streams.kept) {
            let _ = to.try_send(Message {
                text,
                answers: false,
                held: None,
            });
        }
        streams.listening = Some(to);
        messages
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // The client of a session may still hear of its request; see `Wire::forget`.
        if self.sent && self.wire.kind != Kind::Stateless {
            return;
        }
        let gone = self.wire.take_out(&self.id, self.number);
        // In the stateless protocol, who leaves takes the request back.
        if let Some(renumbered) = gone.filter(|_| self.sent).and_then(|gone| gone.renumbered) {
            let wire = Arc::clone(&self.wire);
            tokio::spawn(async move { wire.send(renumbered.cancellation().as_bytes()).await });
        }
    }
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if let Some((id, number)) = self.request.take() {
            drop(self.wire.take_out(&id, number));
        }
    }
}

/// A message on a line of its own: a line end in JSON is white space, unless it is refused.
fn one_line(message: &[u8]) -> Bytes {
    let mut line: Vec<u8> = message.trim_ascii().to_vec();
    for byte in line.iter_mut().filter(|byte| **byte == b'\n') {
        *byte = b' ';
    }
    line.push(b'\n');
    line.into()
}

async fn write(mut to: OwnedWriteHalf, mut lines: mpsc::Receiver<Bytes>) {
    while let Some(line) = lines.recv().await {
        if to.write_all(&line).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
