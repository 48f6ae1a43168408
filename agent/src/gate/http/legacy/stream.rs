//! 2024-11-05 in front of a server that speaks streamable HTTP: what is posted goes on as a message
//! of that transport, and whatever comes back goes out on the client's one stream.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll},
};

use hyper::{
    HeaderMap, Method, Response, StatusCode,
    body::{Body as HttpBody, Bytes, Frame, Incoming},
    header::{ACCEPT, HeaderValue},
    http::request::Parts,
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{MESSAGES, STREAM, accepted, check, endpoint, new_id, session};
use crate::{
    gate::{
        conversation::{Rooms, lock},
        envelope::Envelope,
        http::{
            asked::pass,
            front::Front,
            headers::{self, Era},
            reception::Visitor,
            refusal::{Body, Refusal},
            shares::Share,
            sse,
            tether::Tether,
        },
    },
    principal::Principal,
};

/// Pieces that may wait for a client to read them.
const QUEUE: usize = 16;
/// Answers on their way to one stream at once.
const AT_ONCE: usize = 64;

/// The streams of clients of 2024-11-05.
#[derive(Default)]
pub(in crate::gate::http) struct Streams(Mutex<HashMap<String, Arc<Stream>>>);

impl Streams {
    /// Ends those that hang on a grant.
    pub(in crate::gate::http) fn ended(&self, grant: &str) {
        let mut gone = Vec::new();
        lock(&self.0).retain(|_, stream| {
            let tether = stream.tether.as_ref();
            let over = tether.is_some_and(|tether| &**tether.grant() == grant);
            if over {
                gone.push(Arc::clone(stream));
            }
            !over
        });
    }
}

/// One client's stream.
struct Stream {
    principal: Principal,
    tether: Option<Arc<Tether>>,
    to: mpsc::Sender<Bytes>,
    /// The MCP session at the server, once there is one.
    session: Mutex<Option<HeaderValue>>,
    /// What is on its way.
    carrying: Mutex<JoinSet<()>>,
    _place: Share<Principal>,
}

impl Stream {
    /// Does something for the stream, until that ends.
    fn carry(&self, work: impl Future<Output = ()> + Send + 'static) -> Result<(), Refusal> {
        let mut carrying = lock(&self.carrying);
        while carrying.try_join_next().is_some() {}
        if carrying.len() >= AT_ONCE {
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests wait for an answer: try again when some have been answered",
            ));
        }
        carrying.spawn(work);
        Ok(())
    }
}

/// The body of a stream; what belongs to it ends with it.
struct Outgoing<G: Rooms> {
    first: Option<Vec<u8>>,
    pieces: mpsc::Receiver<Bytes>,
    front: Weak<Front<G>>,
    id: String,
}

impl<G: Rooms> HttpBody for Outgoing<G> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first.into()))));
        }
        let piece = this.pieces.poll_recv(context);
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

impl<G: Rooms> Drop for Outgoing<G> {
    fn drop(&mut self) {
        let Some(front) = self.front.upgrade() else {
            return;
        };
        let stream = lock(&front.streams.0).remove(&self.id);
        let session = stream.and_then(|stream| lock(&stream.session).take());
        if let Some(session) = session {
            tokio::spawn(async move {
                if let Ok(id) = session.to_str() {
                    front.clients.remove(id);
                    front.leave(id).await;
                }
            });
        }
    }
}

impl<G: Rooms> Front<G> {
    /// The stream of a client, which begins with where to post.
    pub(in crate::gate::http) fn legacy_stream(
        self: Arc<Self>,
        visitor: Visitor,
        head: &Parts,
    ) -> Result<Response<Body>, Refusal> {
        if head.method != Method::GET {
            return Err(Refusal::not_allowed(&format!("{STREAM} is read with GET")));
        }
        headers::media(&head.method, &head.headers)?;
        headers::connection(&head.headers)?;
        let id = new_id()?;
        let (to, pieces) = mpsc::channel(QUEUE);
        let stream = Stream {
            _place: self.clients.room(&visitor.principal)?,
            principal: visitor.principal,
            tether: visitor.tether,
            to,
            session: Mutex::default(),
            carrying: Mutex::default(),
        };
        lock(&self.streams.0).insert(id.clone(), Arc::new(stream));
        Ok(super::stream(Outgoing {
            first: Some(endpoint(&id)),
            pieces,
            front: Arc::downgrade(&self),
            id,
        }))
    }

    /// A message, whose answer goes out on the stream.
    pub(in crate::gate::http) async fn legacy_message(
        self: Arc<Self>,
        visitor: Visitor,
        head: Parts,
        body: Incoming,
    ) -> Result<Response<Body>, Refusal> {
        if head.method != Method::POST {
            let why = format!("{MESSAGES} is posted to");
            return Err(Refusal::not_allowed(&why));
        }
        check(&head.headers)?;
        let id = session(&head.uri)?;
        let found = lock(&self.streams.0).get(id).map(Arc::clone);
        let stream = found
            .filter(|stream| stream.principal == visitor.principal)
            .ok_or_else(Refusal::no_session)?;
        let dropped = |bytes| tracing::warn!(bytes, "dropped a message that is too long");
        let (message, room) = self.reception.read(&visitor, body, dropped).await?;
        let parsed = Envelope::parse(&message).ok();
        let method = parsed
            .as_ref()
            .and_then(|envelope| envelope.method.as_deref());
        let begins = method == Some("initialize");
        let ready = method == Some("notifications/initialized");
        let waits = parsed
            .as_ref()
            .is_none_or(|envelope| envelope.id.is_some() && envelope.method.is_some() && !begins);
        drop(parsed);
        let mut headers = self.reception.forwarded(&head.headers);
        headers.insert(ACCEPT, HeaderValue::from_static(TAKES));
        headers.remove(headers::SESSION);
        let known = lock(&stream.session).clone();
        if let Some(known) = known.as_ref().filter(|_| !begins) {
            headers.insert(headers::SESSION, known.clone());
        }
        let era = Ok(Era::Sessions);
        let carried = Arc::clone(&self).message(visitor, era, headers, message, room);
        if waits {
            // Meanwhile others pass.
            let to = stream.to.clone();
            stream.carry(async move {
                let response = carried.await;
                let response = response.unwrap_or_else(|refusal| refusal.response(None));
                pass(&to, response).await;
            })?;
            return Ok(accepted());
        }
        // Those after it may count on it.
        let response = carried.await?;
        if begins && let Some(given) = response.headers().get(headers::SESSION) {
            *lock(&stream.session) = Some(given.clone());
        }
        let to = stream.to.clone();
        stream.carry(async move { pass(&to, response).await })?;
        if let Some(known) = known.filter(|_| ready) {
            let front = Arc::clone(&self);
            let (to, whose) = (stream.to.clone(), stream.principal.clone());
            stream.carry(async move { front.listen(to, &whose, known).await })?;
        }
        Ok(accepted())
    }

    /// Passes on what the server says besides.
    async fn listen(&self, to: mpsc::Sender<Bytes>, whose: &Principal, session: HeaderValue) {
        let Ok(id) = session.to_str().map(str::to_owned) else {
            return;
        };
        let Ok(client) = self.clients.get(&id, whose) else {
            return;
        };
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(TAKES));
        headers.insert(headers::SESSION, session);
        let listened = self.of_session(&Method::GET, &headers, Some(&id), &client);
        match listened.await {
            Ok(response) if response.status().is_success() => pass(&to, response).await,
            // A server need not have such a stream; capwarden's own notices go out all the same.
            _ => {
                let mut notices = client.listen();
                while let Some(notice) = notices.recv().await {
                    let mut event = Vec::new();
                    sse::event(&notice, &mut event);
                    if to.send(event.into()).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// What a client of the transport behind takes.
const TAKES: &str = "application/json, text/event-stream";
