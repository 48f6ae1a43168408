//! The wire to one stdio server behind its gate: lines in both directions, and the streams of HTTP
//! that the server's lines go to.
//!
//! A line that answers a request goes to the stream of that request. What the server says besides
//! goes to the request whose progress it tells of, else to the latest request that waits, else to
//! the stream that the client listens to; a little is kept until there is one.

use std::{
    collections::{HashMap, VecDeque},
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
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use super::renumber::Renumbered;
use crate::{
    gate::{
        conversation::lock,
        envelope::Id,
        http::{front::SHORT, reception::Held, shares::Shares},
        json::{self, Members},
        lines::{Lines, Next},
        server::Messages,
    },
    principal::Principal,
};

/// Messages that may wait to be written to the server, and to be read by one stream.
const QUEUE: usize = 2;
/// How long a stream that is not read holds the others up.
const STALLED: Duration = Duration::from_secs(30);
/// What is kept while there is no stream for it.
const KEPT: usize = 64;
const KEPT_BYTES: usize = 256 << 10;

/// A message of the server, for one stream.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) text: String,
    /// It answers the request that the stream belongs to.
    pub(super) answers: bool,
    /// What a long one occupies.
    pub(super) held: Option<Held>,
}

/// What is to be done with messages that no request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An MCP session: see above.
    Session,
    /// 2024-11-05: one stream has everything, answers too.
    OneStream,
    /// The server of requests that stand for themselves: nobody listens.
    Stateless,
}

/// The wire.
pub(super) struct Wire {
    kind: Kind,
    to_server: mpsc::Sender<Bytes>,
    streams: Arc<Mutex<Streams>>,
    gone: Arc<watch::Sender<bool>>,
    heard: Mutex<Instant>,
    number: AtomicU64,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct Streams {
    waiting: HashMap<Id, Waiting>,
    listening: Option<mpsc::Sender<Message>>,
    kept: VecDeque<String>,
    kept_bytes: usize,
}

/// A request that waits for its answer.
struct Waiting {
    /// The later, the higher.
    number: u64,
    to: mpsc::Sender<Message>,
    progress: Option<Id>,
    /// How its ids are given back to the client.
    renumbered: Option<Renumbered>,
}

/// The stream of one request.
pub(super) struct Reply {
    pub(super) messages: mpsc::Receiver<Message>,
    wire: Arc<Wire>,
    id: Id,
    number: u64,
    sent: bool,
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
        let (sender, lines) = mpsc::channel(QUEUE);
        let streams = Arc::new(Mutex::new(Streams::default()));
        let gone = Arc::new(watch::Sender::new(false));
        let mut tasks = JoinSet::new();
        tasks.spawn(write(to_server, lines));
        let reader = Reader {
            kind,
            streams: Arc::clone(&streams),
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
            tasks: Mutex::new(tasks),
        })
    }

    /// Whether the server has gone.
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

    /// The client was heard of.
    pub(super) fn heard(&self) {
        *lock(&self.heard) = Instant::now();
    }

    /// How long nothing was heard of the client, and nothing went on.
    pub(super) fn idle(&self) -> Duration {
        let streams = lock(&self.streams);
        let listens = streams.listening.as_ref().is_some_and(|to| !to.is_closed());
        let waits = streams
            .waiting
            .values()
            .any(|waiting| !waiting.to.is_closed());
        match listens || waits {
            true => Duration::ZERO,
            false => lock(&self.heard).elapsed(),
        }
    }

    /// A number that no other request of this wire has.
    pub(super) fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sends a message: nothing is cut off when whoever waits for this leaves.
    pub(super) async fn send(&self, message: &[u8]) -> io::Result<()> {
        let sent = self.to_server.send(one_line(message)).await;
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Sends a request whose answer goes to the reply.
    pub(super) async fn ask(
        self: &Arc<Self>,
        id: Id,
        message: &[u8],
        progress: Option<Id>,
        renumbered: Option<Renumbered>,
    ) -> Result<io::Result<Reply>, Taken> {
        let (to, messages) = mpsc::channel(QUEUE);
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
        let mut streams = lock(&self.wire.streams);
        let waiting = streams.waiting.get(&self.id);
        let gone = match waiting.is_some_and(|waiting| waiting.number == self.number) {
            true => streams.waiting.remove(&self.id),
            false => None,
        };
        drop(streams);
        // In the stateless protocol, who leaves takes the request back.
        if let Some(renumbered) = gone.filter(|_| self.sent).and_then(|gone| gone.renumbered) {
            let wire = Arc::clone(&self.wire);
            tokio::spawn(async move { wire.send(renumbered.cancellation().as_bytes()).await });
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

struct Reader {
    kind: Kind,
    streams: Arc<Mutex<Streams>>,
    answers: Arc<Shares<Principal>>,
    whose: Principal,
}

impl Reader {
    async fn run(&self, mut lines: Lines<OwnedReadHalf>) {
        loop {
            match lines.arrives().await {
                Ok(Next::Line(line)) => {
                    let messages = match Messages::parse(lines.bytes(line)) {
                        Ok(Messages::None) | Err(_) => Vec::new(),
                        Ok(Messages::One(message)) => vec![message],
                        Ok(Messages::Batch(messages)) => messages,
                    };
                    for message in messages {
                        self.message(message.trim()).await;
                    }
                }
                Ok(Next::TooLong { bytes }) => tracing::warn!(bytes, "dropped a long message"),
                Ok(Next::End) | Err(_) => return,
            }
        }
    }

    async fn message(&self, text: &str) {
        let Ok(members) = Members::parse(text) else {
            return;
        };
        let answers = members.get("result").or(members.get("error")).is_some();
        let id = members.get("id").and_then(Id::parse);
        let (to, text) = {
            let mut streams = lock(&self.streams);
            let found = match answers {
                true => id.and_then(|id| streams.waiting.remove(&id)),
                false => None,
            };
            match found {
                Some(waiting) => {
                    let text = match &waiting.renumbered {
                        Some(renumbered) => renumbered.answer(text, &members),
                        None => Some(text.to_owned()),
                    };
                    (Some(waiting.to), text)
                }
                // Nobody asked, or nobody waits any more.
                None if answers && self.kind != Kind::OneStream => return,
                None => streams.besides(self.kind, text, &members),
            }
        };
        let (Some(to), Some(text)) = (to, text) else {
            return;
        };
        let sending = async {
            let held = match text.len() > SHORT {
                true => Some(self.answers.take(&self.whose, text.len()).await),
                false => None,
            };
            let message = Message {
                text,
                answers,
                held,
            };
            to.send(message).await
        };
        if timeout(STALLED, sending).await.is_err() {
            tracing::warn!("dropped a message: its stream is not read");
        }
    }
}

impl Streams {
    /// Where a message goes that answers nothing, and how.
    fn besides(
        &mut self,
        kind: Kind,
        text: &str,
        members: &Members<'_>,
    ) -> (Option<mpsc::Sender<Message>>, Option<String>) {
        if kind == Kind::Stateless {
            let told = self.waiting.values().find_map(|waiting| {
                let renumbered = waiting.renumbered.as_ref()?;
                Some((waiting.to.clone(), renumbered.notification(text, members)?))
            });
            return match told {
                Some((to, text)) => (Some(to), Some(text)),
                None => (None, None),
            };
        }
        let progress = progress_of(members);
        let open = || {
            self.waiting
                .values()
                .filter(|waiting| !waiting.to.is_closed())
        };
        let to = progress
            .and_then(|token| open().find(|waiting| waiting.progress.as_ref() == Some(&token)))
            .or_else(|| open().max_by_key(|waiting| waiting.number))
            .map(|waiting| &waiting.to)
            .or(self.listening.as_ref().filter(|to| !to.is_closed()))
            .cloned();
        if to.is_none() && text.len() <= KEPT_BYTES {
            self.kept_bytes += text.len();
            self.kept.push_back(text.to_owned());
            while self.kept_bytes > KEPT_BYTES || self.kept.len() > KEPT {
                let oldest = self.kept.pop_front();
                self.kept_bytes -= oldest.map_or(0, |oldest| oldest.len());
            }
        }
        (to, Some(text.to_owned()))
    }
}

/// The token of the request whose progress a notification tells of.
fn progress_of(members: &Members<'_>) -> Option<Id> {
    let method = members.get("method").and_then(json::string)?;
    if method != "notifications/progress" {
        return None;
    }
    let params = Members::parse(members.get("params")?).ok()?;
    params.get("progressToken").and_then(Id::parse)
}
