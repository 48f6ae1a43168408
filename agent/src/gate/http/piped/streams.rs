//! The streams of HTTP that a server's lines go to.
//!
//! A line that answers a request goes to the stream of that request. In an MCP session, what the server
//! says besides goes to the request whose progress it tells of, else to the latest request that waits,
//! else to the stream that the client listens to; a little is kept until there is one. A client that does
//! not read holds its own server up.
//!
//! Requests of the stateless revision share a server, and may be different clients'. What it says
//! besides goes to the request that it names, or nowhere, and nobody waits for a stream that is not read.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{net::unix::OwnedReadHalf, sync::mpsc, time::timeout};

use super::renumber::{PROGRESS, Renumbered, Subject};
use crate::{
    gate::{
        conversation::lock,
        envelope::Id,
        http::{
            front::SHORT,
            params::{self, Declared},
            reception::Held,
            refusal::INTERNAL,
            shares::Shares,
        },
        json::{self, Members},
        lines::{Lines, Next},
        reply,
        server::Messages,
    },
    principal::Principal,
};

/// Messages that may wait to be read by one stream of a session.
pub(super) const QUEUE: usize = 2;
/// The same of a request that shares its server; one of them is for the answer.
const SHARED_QUEUE: usize = 32;
/// How long a stream of a session that is not read holds its server up.
const STALLED: Duration = Duration::from_secs(30);
/// What is kept while there is no stream for it.
pub(super) const KEPT: usize = 64;
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
    /// The server of requests that stand for themselves: each hears what is its own.
    Stateless,
}

impl Kind {
    /// Messages that may wait to be read by the stream of one request.
    pub(super) fn queue(self) -> usize {
        match self {
            Self::Session | Self::OneStream => QUEUE,
            Self::Stateless => SHARED_QUEUE,
        }
    }
}

#[derive(Default)]
pub(super) struct Streams {
    pub(super) waiting: HashMap<Id, Waiting>,
    pub(super) listening: Option<mpsc::Sender<Message>>,
    pub(super) kept: VecDeque<String>,
    pub(super) kept_bytes: usize,
    /// What the tools that were listed want repeated in headers.
    pub(super) declared: Declared,
}

/// A request that waits for its answer.
pub(super) struct Waiting {
    /// The later, the higher.
    pub(super) number: u64,
    pub(super) to: mpsc::Sender<Message>,
    pub(super) progress: Option<Id>,
    /// How its ids are given back to the client.
    pub(super) renumbered: Option<Renumbered>,
}

/// Reads the server's lines, and gives each to its stream.
pub(super) struct Reader {
    pub(super) kind: Kind,
    pub(super) streams: Arc<Mutex<Streams>>,
    /// Held while an answer is handed to its stream, which may wait until that is read.
    pub(super) handing: Arc<tokio::sync::Mutex<()>>,
    pub(super) answers: Arc<Shares<Principal>>,
    pub(super) whose: Principal,
}

impl Reader {
    pub(super) async fn run(&self, mut lines: Lines<OwnedReadHalf>) {
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
        match self.kind {
            Kind::Stateless => self.at_once(text, &members),
            Kind::Session | Kind::OneStream => self.in_turn(text, &members).await,
        }
    }

    /// For one client, whose server waits until it has read.
    async fn in_turn(&self, text: &str, members: &Members<'_>) {
        let answers = answers(members);
        let id = members.get("id").and_then(Id::parse);
        // See `Wire::waits`.
        let _handing = match answers {
            true => Some(self.handing.lock().await),
            false => None,
        };
        let to = {
            let mut streams = lock(&self.streams);
            let found = match answers {
                true => id.and_then(|id| streams.waiting.remove(&id)),
                false => None,
            };
            match found {
                Some(waiting) => Some(waiting.to),
                // Nobody asked, or nobody waits any more.
                None if answers && self.kind != Kind::OneStream => return,
                None => streams.besides(text, members),
            }
        };
        let Some(to) = to else { return };
        let sending = async {
            let held = match text.len() > SHORT {
                true => Some(self.answers.take(&self.whose, text.len()).await),
                false => None,
            };
            let text = text.to_owned();
            to.send(Message {
                text,
                answers,
                held,
            })
            .await
        };
        if timeout(STALLED, sending).await.is_err() {
            tracing::warn!("dropped a message: its stream is not read");
        }
    }

    /// For requests that share the server: none waits for another to read.
    fn at_once(&self, text: &str, members: &Members<'_>) {
        if !answers(members) {
            return self.notify(text, members);
        }
        let id = members.get("id").and_then(Id::parse);
        // Nobody asked, or nobody waits any more.
        let Some(waiting) = id.and_then(|id| lock(&self.streams).waiting.remove(&id)) else {
            return;
        };
        if let Some(result) = members.get("result")
            && waiting
                .renumbered
                .as_ref()
                .is_some_and(Renumbered::lists_tools)
        {
            let marked = params::marked(result);
            lock(&self.streams).declared.learn(marked);
        }
        let known = match &waiting.renumbered {
            Some(renumbered) => renumbered.answer(text, members),
            None => Some(text.to_owned()),
        };
        let Some(mut text) = known else { return };
        let mut held = None;
        if text.len() > SHORT {
            held = self.answers.try_take(&self.whose, text.len());
            if held.is_none() {
                let id = waiting.renumbered.as_ref().map(Renumbered::id);
                let why = "too many long answers wait to be taken: try again later";
                text = reply::error(id, INTERNAL, why);
            }
        }
        // One place is kept for it; only who has gone does not get it.
        let _ = waiting.to.try_send(Message {
            text,
            answers: true,
            held,
        });
    }

    /// Tells a request of what it asked to be told of, and nobody else. Who does not read misses what can
    /// be missed, and is not told of anything any more where something else does not fit.
    fn notify(&self, text: &str, members: &Members<'_>) {
        let mut streams = lock(&self.streams);
        let Some((waiting, text, missable)) = streams.meant(text, members) else {
            tracing::debug!("dropped a notification: it is for none of the requests, or for any");
            return;
        };
        let short = text.len() <= SHORT;
        let held = match short {
            true => None,
            false => self.answers.try_take(&self.whose, text.len()),
        };
        let fits = (short || held.is_some()) && waiting.to.capacity() > 1;
        if fits {
            let _ = waiting.to.try_send(Message {
                text,
                answers: false,
                held,
            });
        } else if !missable && !waiting.to.is_closed() {
            tracing::warn!("ended a stream that is not read");
            waiting.to = mpsc::channel(1).0;
        }
    }
}

fn answers(members: &Members<'_>) -> bool {
    members.get("result").or(members.get("error")).is_some()
}

impl Streams {
    /// The request that a notification is for, as it knows it, and whether it can be missed. What the
    /// server logs is for the one request that asked for it; where there are several, it does not say for
    /// which.
    fn meant(&mut self, text: &str, members: &Members<'_>) -> Option<(&mut Waiting, String, bool)> {
        let params = Members::parse(members.get("params")?).ok()?;
        let method = members.get("method").and_then(json::string)?;
        if let Some(subject) = Subject::of(&method, &params) {
            let waiting = self.waiting.get_mut(&subject.request()?)?;
            let text = waiting.renumbered.as_ref()?.notification(text, &subject)?;
            return Some((waiting, text, method == PROGRESS));
        }
        if method != "notifications/message" {
            return None;
        }
        let mut asked = self.waiting.values_mut().filter(|waiting| {
            let renumbered = waiting.renumbered.as_ref();
            renumbered.is_some_and(Renumbered::wants_logs) && !waiting.to.is_closed()
        });
        match (asked.next(), asked.next()) {
            (Some(only), None) => Some((only, text.to_owned(), true)),
            _ => None,
        }
    }

    /// Where a message of a session goes that answers nothing; without a stream for it, it is kept.
    fn besides(&mut self, text: &str, members: &Members<'_>) -> Option<mpsc::Sender<Message>> {
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
        to
    }
}

/// The token of the request whose progress a notification tells of.
fn progress_of(members: &Members<'_>) -> Option<Id> {
    let method = members.get("method").and_then(json::string)?;
    if method != PROGRESS {
        return None;
    }
    let params = Members::parse(members.get("params")?).ok()?;
    params.get("progressToken").and_then(Id::parse)
}
