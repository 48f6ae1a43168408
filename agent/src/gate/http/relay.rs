//! The server's answers on their way back: a JSON text, or a stream of events.

use std::{
    borrow::Cow,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::body::{Body, Bytes, Frame, Incoming};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    clients::Client,
    front::SHORT,
    headers::Era,
    reception::Held,
    refusal::{FOLLOWED, INTERNAL},
    serve::Leave,
    sse::{self, Event, Splitter},
};
use crate::gate::{
    call::Awaited,
    conversation::{Conversation, Rooms},
    envelope::Id,
    events::CallEnd,
    reply,
    server::{FromServer, Messages},
};

/// How much is put together before it is handed on.
const PIECE: usize = 64 * 1024;

/// A request that was forwarded and waits for its answer. If it is dropped before, the client has
/// gone.
pub(super) struct Waiting<G: Rooms> {
    pub(super) client: Arc<Client<G>>,
    era: Era,
    /// The request, and its id as JSON; none if nothing waits.
    request: Option<(Id, String)>,
    /// What came so far can be asked to go on from.
    resumable: bool,
    /// The answer may take only so long, from then on.
    awaited: Option<(Awaited, Instant)>,
}

impl<G: Rooms> Waiting<G> {
    pub(super) fn new(client: &Arc<Client<G>>, era: Era, request: Option<(Id, String)>) -> Self {
        Self {
            client: Arc::clone(client),
            era,
            request,
            resumable: false,
            awaited: None,
        }
    }

    /// For an answer that may take only so long, from now on.
    pub(super) fn within(mut self, awaited: Option<Awaited>) -> Self {
        self.awaited = awaited.map(|awaited| {
            let until = Instant::now() + awaited.within;
            (awaited, until)
        });
        self
    }

    /// What is answered in the server's place, once its time is up and nothing came.
    pub(super) fn overdue(&self) -> impl Future<Output = String> + Send + use<G> {
        let (client, awaited) = (Arc::clone(&self.client), self.awaited.clone());
        async move {
            if let Some((awaited, until)) = awaited {
                sleep_until(until).await;
                if let Some(line) = client.conversation.overdue(&awaited) {
                    return line;
                }
            }
            std::future::pending().await
        }
    }

    /// The request's id, as JSON.
    pub(super) fn id(&self) -> Option<&str> {
        self.request.as_ref().map(|(_, text)| text.as_str())
    }

    fn told(&mut self, outgoing: &FromServer<'_>) {
        let answered = |request: &mut (Id, String)| outgoing.answers.as_ref() == Some(&request.0);
        self.request.take_if(answered);
        if outgoing.handshake {
            self.client.conversation.shook_hands();
        }
    }

    /// The server has ended its answer. If there was none in it: that is how the call ended.
    pub(super) fn over(&mut self, end: CallEnd) {
        if let Some((id, _)) = self.request.take() {
            self.client.conversation.forsake(&id, end);
        }
    }
}

impl<G: Rooms> Drop for Waiting<G> {
    fn drop(&mut self) {
        let Some((id, text)) = self.request.take() else {
            return;
        };
        let conversation = &self.client.conversation;
        match self.era {
            Era::Stateless => {
                conversation.cancel(&id, &text);
                conversation.forsake(&id, CallEnd::Lost);
            }
            // The client may come back for it.
            Era::Sessions => conversation.park(&id),
        }
    }
}

/// The server's JSON text, as the client gets it; none if nothing of it is let through.
pub(super) fn json<G: Rooms>(text: &[u8], waiting: &mut Waiting<G>) -> Option<String> {
    let client = Arc::clone(&waiting.client);
    let mut pass = |message| {
        let outgoing = client.conversation.server_message(message);
        waiting.told(&outgoing);
        // There is no place for it in this answer.
        if let Some(notice) = outgoing.notice {
            client.notify(&notice);
        }
        outgoing.message
    };
    match Messages::parse(text) {
        Ok(Messages::None) => None,
        Ok(Messages::One(message)) => pass(message).map(Cow::into_owned),
        Ok(Messages::Batch(messages)) => {
            let passed: Vec<_> = messages.into_iter().filter_map(pass).collect();
            Some(format!("[{}]", passed.join(",")))
        }
        Err(why) => {
            client.conversation.noise(text, why);
            None
        }
    }
}

/// The server's events on their way to the client.
pub(super) struct Relay<G: Rooms> {
    from: Incoming,
    splitter: Splitter,
    waiting: Waiting<G>,
    /// What the gate itself has to say on this stream.
    notices: Option<mpsc::Receiver<String>>,
    ended: bool,
    /// For what waits of a long event.
    held: Option<Held>,
    /// What is answered in the server's place: see [`Waiting::overdue`] and [`Leave::late`].
    overdue: Pin<Box<dyn Future<Output = String> + Send>>,
}

impl<G: Rooms> Relay<G> {
    pub(super) fn new(
        from: Incoming,
        waiting: Waiting<G>,
        notices: Option<mpsc::Receiver<String>>,
        held: Option<Held>,
        leave: Leave,
    ) -> Self {
        let limit = waiting.client.conversation.gate.bounds().server_line;
        let (overdue, id) = (waiting.overdue(), waiting.id().map(str::to_owned));
        let overdue = Box::pin(async move {
            tokio::select! {
                answer = overdue => answer,
                () = leave.late() => reply::error(id.as_deref(), INTERNAL, FOLLOWED),
            }
        });
        Self {
            overdue,
            from,
            splitter: Splitter::new(limit),
            waiting,
            notices,
            ended: false,
            held,
        }
    }
}

/// Puts what an event becomes at the end of `into`.
fn pass<G: Rooms>(raw: &[u8], waiting: &mut Waiting<G>, into: &mut Vec<u8>) {
    let event = Event::parse(raw);
    waiting.resumable |= event.has_id();
    let Some(data) = event.data() else {
        return event.unchanged(into);
    };
    let client = Arc::clone(&waiting.client);
    let conversation: &Conversation<G> = &client.conversation;
    match Messages::parse(data) {
        Ok(Messages::None) => event.unchanged(into),
        Ok(Messages::One(message)) => {
            let outgoing = conversation.server_message(message);
            waiting.told(&outgoing);
            // Before the answer: who has that may stop reading.
            if let Some(notice) = &outgoing.notice {
                sse::event(notice.trim_end(), into);
            }
            match outgoing.message {
                Some(Cow::Borrowed(_)) => event.unchanged(into),
                Some(Cow::Owned(edited)) => event.with_data(&edited, into),
                None => {}
            }
        }
        Ok(Messages::Batch(messages)) => {
            let mut passed = Vec::with_capacity(messages.len());
            for message in messages {
                let outgoing = conversation.server_message(message);
                waiting.told(&outgoing);
                passed.extend(outgoing.message.map(Cow::into_owned));
            }
            // One by one; the last has the event's id, so that what is asked for again after it
            // is what comes after all of them.
            let last = passed.pop();
            for message in passed {
                sse::event(&message, into);
            }
            if let Some(message) = last {
                event.with_data(&message, into);
            }
        }
        Err(why) => conversation.noise(data, why),
    }
}

impl<G: Rooms> Body for Relay<G> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Self {
            from,
            splitter,
            waiting,
            notices,
            ended,
            held,
            overdue,
        } = self.get_mut();
        loop {
            let mut piece = Vec::new();
            while piece.len() < PIECE
                && let Some(event) = splitter.next()
            {
                pass(event, waiting, &mut piece);
            }
            if !piece.is_empty() {
                if let Some(held) = held.as_mut().filter(|held| held.amount() > 0) {
                    held.shrink(splitter.waiting());
                }
                return Poll::Ready(Some(Ok(Frame::data(piece.into()))));
            }
            if *ended {
                return Poll::Ready(None);
            }
            if waiting.request.is_some()
                && let Poll::Ready(answer) = overdue.as_mut().poll(context)
            {
                *ended = true;
                waiting.over(CallEnd::Lost);
                sse::event(answer.trim_end(), &mut piece);
                return Poll::Ready(Some(Ok(Frame::data(piece.into()))));
            }
            if let Some(inbox) = notices {
                match inbox.poll_recv(context) {
                    Poll::Ready(Some(notice)) => {
                        sse::event(&notice, &mut piece);
                        return Poll::Ready(Some(Ok(Frame::data(piece.into()))));
                    }
                    // Another stream gets them now.
                    Poll::Ready(None) => *notices = None,
                    Poll::Pending => {}
                }
            }
            match ready!(Pin::new(&mut *from).poll_frame(context)) {
                Some(Ok(frame)) => {
                    let fed = frame.into_data().map(|data| splitter.feed(&data));
                    let length = splitter.waiting();
                    let room =
                        length <= SHORT || held.as_mut().is_some_and(|held| held.grow(length));
                    let wrong = match fed {
                        Ok(Err(sse::TooLong)) => Some("the event is too long"),
                        _ if !room => Some("too many long events wait to be complete"),
                        _ => None,
                    };
                    if let Some(wrong) = wrong {
                        *ended = true;
                        waiting.client.conversation.noise(b"", wrong);
                        waiting.over(CallEnd::Lost);
                        return Poll::Ready(Some(Err(io::ErrorKind::InvalidData.into())));
                    }
                }
                Some(Err(error)) => {
                    *ended = true;
                    tracing::warn!(%error, "the server's stream broke off");
                    return Poll::Ready(Some(Err(io::Error::other(error))));
                }
                None => {
                    *ended = true;
                    if waiting.era == Era::Stateless || !waiting.resumable {
                        waiting.over(CallEnd::Lost);
                    }
                }
            }
        }
    }
}
