//! A message of a client: decided, and carried to the server if it is let through.

use std::sync::Arc;

use hyper::{
    HeaderMap, Method, Response, StatusCode,
    body::{Bytes, Incoming},
    http::request::Parts,
};
use tokio::sync::oneshot;

use super::Front;
use crate::gate::{
    call::AfterOpen,
    client::FromClient,
    conversation::{Rooms, Ticket},
    envelope::{Envelope, Id},
    events::CallEnd,
    http::{
        asked::{self, Pieces},
        clients::Client,
        headers::{self, Era},
        legacy, params,
        reception::{Held, Visitor},
        refusal::{Body, FOLLOWED, NOT_SENT, Refusal, json_response},
        relay::Waiting,
        turns::Turn,
        upstream::{Kind, Who, goes_on, hold},
    },
    question::Asking,
};
use crate::principal::Principal;

const CANCELLED: &str = "the call was cancelled";

/// A message of a client, read.
struct Post<G: Rooms> {
    client: Arc<Client<G>>,
    era: Era,
    kind: Kind,
    headers: HeaderMap,
    message: Bytes,
    /// Its id, and how that is written; none if it is no request.
    request: Option<(Id, String)>,
    /// What it occupies of the room for messages, until it has gone on.
    _room: Held,
}

impl<G: Rooms> Post<G> {
    fn principal(&self) -> Principal {
        self.client.conversation.caller.principal.clone()
    }

    /// The request's id, as JSON.
    fn id(&self) -> Option<&str> {
        self.request.as_ref().map(|(_, text)| text.as_str())
    }

    /// What waits for the answer to it, once it was forwarded under this id.
    fn waiting(&self, id: Id) -> Waiting<G> {
        let text = self.request.as_ref().map_or("null", |(_, text)| text);
        Waiting::new(&self.client, self.era, Some((id, text.to_owned())))
    }

    /// Nobody waits for the answer to it.
    fn give_up(&self) {
        if let Some((id, text)) = &self.request {
            self.client.conversation.cancel(id, text);
        }
    }
}

/// What becomes of a message.
enum Next<G: Rooms> {
    /// This is sent to the server.
    Forward(Waiting<G>, Bytes),
    /// The client has this.
    Answer(Result<Response<Body>, Refusal>),
    /// Its user is asked first.
    Ask(Box<Asking>),
}

impl<G: Rooms> Front<G> {
    /// A message of a client.
    pub(super) async fn post(
        self: Arc<Self>,
        visitor: Visitor,
        era: Result<Era, String>,
        head: Parts,
        body: Incoming,
    ) -> Result<Response<Body>, Refusal> {
        let dropped = |bytes| {
            let answer = self.stateless(&visitor).conversation.too_long(bytes);
            tracing::debug!(answer.line, "too long");
        };
        let (message, room) = self.reception.read(&visitor, body, dropped).await?;
        self.message(visitor, era, head.headers, message, room)
            .await
    }

    /// A message that was read.
    pub(in crate::gate::http) async fn message(
        self: Arc<Self>,
        visitor: Visitor,
        era: Result<Era, String>,
        headers: HeaderMap,
        message: Bytes,
        room: Held,
    ) -> Result<Response<Body>, Refusal> {
        let (era, kind, client, request) = {
            let envelope = match Envelope::parse(&message) {
                Ok(envelope) => envelope,
                Err(refused) => {
                    let answer = self
                        .stateless(&visitor)
                        .conversation
                        .unreadable(&message, &refused);
                    return Ok(json_response(StatusCode::BAD_REQUEST, answer.line));
                }
            };
            let era = era.map_err(|version| headers::unknown(&version, Some(&envelope)))?;
            headers::agree(era, &headers, &envelope)?;
            let client = self.client(&visitor, era, &headers, &envelope)?;
            let request = envelope.id.as_ref();
            let request = request.map(|(id, text)| (id.clone(), (*text).to_owned()));
            (era, Kind::of(&envelope), client, request)
        };
        let post = Post {
            client,
            era,
            kind,
            headers,
            message,
            request,
            _room: room,
        };
        // A task of its own: what is decided is carried through, whether the client waits or not.
        let (sender, receiver) = oneshot::channel();
        let id = post.id().map(str::to_owned);
        tokio::spawn(Arc::clone(&self).carry(post, sender));
        tokio::select! {
            response = receiver => response
                .unwrap_or_else(|_| Err(Refusal::upstream("the request could not be carried out"))),
            // What is carried hears that nobody waits for it.
            () = self.leave.late() => Err(Refusal::upstream(FOLLOWED).of(id.as_deref())),
        }
    }

    /// Decides a message, and carries it to the server if it is let through.
    async fn carry(
        self: Arc<Self>,
        mut post: Post<G>,
        mut sender: oneshot::Sender<Result<Response<Body>, Refusal>>,
    ) {
        // Before it is decided, so that what is decided and counted is carried out then.
        let turn = tokio::select! {
            turn = self.upstream.turn(post.kind, Some(post.principal())) => turn,
            () = sender.closed() => return,
        };
        let turn = match turn {
            Ok(turn) => turn,
            Err(refusal) => {
                let _ = sender.send(Err(refusal.of(post.id())));
                return;
            }
        };
        let response = match self.decide(&mut post, sender.closed()).await {
            Next::Answer(response) => response,
            Next::Forward(waiting, message) => {
                let left = sender.closed();
                match self.deliver(&post, waiting, &message, turn, left).await {
                    Some(response) => response,
                    None => return,
                }
            }
            Next::Ask(asking) => {
                // A user may take minutes.
                drop(turn);
                let (to, stream) = asked::stream();
                if sender.send(Ok(legacy::stream(stream))).is_err() {
                    post.give_up();
                }
                return self.ask(post, *asking, to).await;
            }
        };
        // A client that has gone does not get it.
        let _ = sender.send(response);
    }

    /// Lets the client ask its user, on the stream that the answer comes on afterwards.
    async fn ask(&self, mut post: Post<G>, mut asking: Asking, to: Pieces) {
        if let Some(question) = asking.line.take() {
            to.say(&question).await;
        }
        let client = Arc::clone(&post.client);
        let mut hearing = Box::pin(client.conversation.hear(asking));
        let (heard, given_up) = tokio::select! {
            heard = &mut hearing => (heard, false),
            // It is heard to its end, which tells the record of it.
            () = self.left(&to) => {
                post.give_up();
                (hearing.await, true)
            }
        };
        if let Some(notice) = heard.notice {
            to.say(&notice).await;
        }
        let next = match heard.outcome {
            FromClient::Drop(_) if given_up => Next::Answer(Err(Refusal::upstream(NOT_SENT))),
            // A call that was taken back is not answered.
            FromClient::Drop(_) => return,
            outcome => self.next(&mut post, outcome, self.left(&to)).await,
        };
        let response = match next {
            Next::Answer(response) => response,
            Next::Forward(mut waiting, message) => {
                // The answer has decided it, so that its turn comes afterwards; where none comes, what
                // was counted is given back.
                let turn = tokio::select! {
                    // Whoever leaves makes room for this one, which is late, too.
                    biased;
                    () = self.left(&to) => Err(Refusal::upstream(NOT_SENT)),
                    turn = self.upstream.turn(post.kind, Some(post.principal())) => turn,
                };
                match turn {
                    Err(refusal) => {
                        waiting.over(CallEnd::NotForwarded);
                        Err(refusal)
                    }
                    Ok(turn) => {
                        let left = self.left(&to);
                        let answer = self.deliver(&post, waiting, &message, turn, left).await;
                        answer.unwrap_or_else(|| Err(Refusal::upstream(FOLLOWED)))
                    }
                }
            }
            // It was asked about, and is decided without.
            Next::Ask(_) => Err(Refusal::upstream("the call cannot be held")),
        };
        // A client that has gone does not get it.
        let response = response.unwrap_or_else(|refusal| refusal.of(post.id()).response(None));
        to.pass(response).await;
    }

    /// When nothing is to come on a stream any more: nobody is left to read, or what has not come until then is not waited
    /// for.
    async fn left(&self, to: &Pieces) {
        tokio::select! {
            () = to.closed() => {}
            () = self.leave.late() => {}
        }
    }

    /// What is forwarded of a message, or what is answered in its place; `left` is when its client has.
    async fn decide(&self, post: &mut Post<G>, left: impl Future<Output = ()>) -> Next<G> {
        let message = post.message.clone();
        let client = Arc::clone(&post.client);
        let mut envelope = match Envelope::parse(&message) {
            Ok(envelope) => envelope,
            Err(refused) => {
                let line = client.conversation.unreadable(&message, &refused).line;
                return Next::Answer(Ok(json_response(StatusCode::BAD_REQUEST, line)));
            }
        };
        envelope.parent = headers::trace_parent(&post.headers);
        match client.conversation.decide(&message, &envelope).await {
            // The answer to a question of the gate.
            FromClient::Drop(_) if envelope.method.is_none() => {
                Next::Answer(Ok(legacy::accepted()))
            }
            decided => self.next(post, decided, left).await,
        }
    }

    /// Does what was decided of a message, as far as that can be done without the server.
    async fn next(
        &self,
        post: &mut Post<G>,
        decided: FromClient<Ticket<G>>,
        left: impl Future<Output = ()>,
    ) -> Next<G> {
        let answered = |status, line| Next::Answer(Ok(json_response(status, line)));
        let refused = |why| Next::Answer(Err(Refusal::new(StatusCode::BAD_REQUEST, why)));
        let conversation = &post.client.conversation;
        match decided {
            FromClient::Forward(Some(id)) => Next::Forward(post.waiting(id), post.message.clone()),
            FromClient::Forward(None) => {
                let waiting = Waiting::new(&post.client, post.era, None);
                Next::Forward(waiting, post.message.clone())
            }
            FromClient::Edited(id, text) => Next::Forward(post.waiting(id), text.into()),
            FromClient::Answer(answer) if answer.malformed => {
                answered(StatusCode::BAD_REQUEST, answer.line)
            }
            FromClient::Answer(answer) => answered(StatusCode::OK, answer.line),
            FromClient::Drop(why) => refused(why),
            FromClient::Ask(asking) => Next::Ask(asking),
            FromClient::Open(start) => {
                match Self::opened(post, conversation.open(*start), left).await {
                    AfterOpen::Ready {
                        id,
                        text,
                        beginning,
                    } => {
                        // Who joins a session has no part in its end: it goes with whoever opened it.
                        if !beginning.joined()
                            && !self.clients.opened(beginning.session(), &post.client)
                        {
                            conversation.cancel(&id, "null");
                        }
                        params::repeat(&mut post.headers, beginning.changes());
                        let awaited = beginning.awaited();
                        if conversation.begin(*beginning) {
                            Next::Forward(post.waiting(id).within(awaited), text.into())
                        } else {
                            refused(CANCELLED.to_owned())
                        }
                    }
                    AfterOpen::Refused(Some(answer)) => answered(StatusCode::OK, answer.line),
                    AfterOpen::Refused(None) => refused(CANCELLED.to_owned()),
                }
            }
        }
    }

    /// Waits for a capture session; where a client that leaves takes its call back, it does.
    async fn opened(
        post: &Post<G>,
        opening: impl Future<Output = AfterOpen<Ticket<G>>>,
        left: impl Future<Output = ()>,
    ) -> AfterOpen<Ticket<G>> {
        let mut opening = Box::pin(opening);
        tokio::select! {
            after = &mut opening => return after,
            () = left => {}
        }
        if post.era == Era::Stateless {
            post.give_up();
        }
        opening.await
    }

    /// What the client gets for a message that is sent to the server; none if it has left before.
    async fn deliver(
        &self,
        post: &Post<G>,
        waiting: Waiting<G>,
        message: &Bytes,
        turn: Turn<Who>,
        left: impl Future<Output = ()>,
    ) -> Option<Result<Response<Body>, Refusal>> {
        let overdue = waiting.overdue();
        tokio::select! {
            response = self.forward(post, waiting, message, turn) => Some(response),
            // The request at the server goes with the rest: a late answer is not heard.
            answer = overdue => Some(Ok(json_response(StatusCode::OK, answer))),
            // `waiting` went with the rest, and has told the conversation.
            () = left => None,
        }
    }

    /// Sends a message to the server, and makes the client's response of the server's.
    async fn forward(
        &self,
        post: &Post<G>,
        mut waiting: Waiting<G>,
        message: &Bytes,
        turn: Turn<Who>,
    ) -> Result<Response<Body>, Refusal> {
        let forwarded = self.reception.forwarded(&post.headers);
        let id = waiting.id().map(str::to_owned);
        let sent = self.upstream.send(&Method::POST, &forwarded, message).await;
        let response = match sent {
            Ok(response) => response,
            Err((refusal, end)) => {
                waiting.over(end);
                return Err(refusal.of(id.as_deref()));
            }
        };
        let given = headers::session(response.headers()).ok().flatten();
        match (headers::session(&post.headers)?, given) {
            (None, Some(given)) if post.era == Era::Sessions && response.status().is_success() => {
                let begun = self.clients.insert(given, &post.client);
                begun.map_err(|refusal| refusal.of(id.as_deref()))?;
                tracing::debug!(principal = %post.client.conversation.caller.principal, "an MCP session begins");
            }
            (Some(session), _) if response.status() == StatusCode::NOT_FOUND => {
                self.clients.remove(session);
            }
            _ => {}
        }
        let answer = self.answer(response, waiting, None).await?;
        if !goes_on(&answer) {
            return Ok(answer);
        }
        // It has a place among streams, and its turn is the next one's; where there is none, it keeps
        // its turn until it has ended.
        Ok(match self.stream(&post.principal()) {
            Some(stream) => hold(answer, stream),
            None => hold(answer, turn),
        })
    }
}
