//! The stream of a call whose user is asked: first the question, and then whatever the call comes to.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use http_body_util::BodyExt as _;
use hyper::{
    Response,
    body::{Body as HttpBody, Bytes, Frame},
    header::CONTENT_TYPE,
};
use tokio::{sync::mpsc, time::Interval};

use super::{
    refusal::Body,
    sse::{self, sign_of_life},
};

/// Pieces that may wait for a client to read them.
const QUEUE: usize = 16;

/// Where pieces of a stream are put.
#[derive(Clone)]
pub(super) struct Pieces(mpsc::Sender<Bytes>);

/// The body that they come out of. When it is dropped, there is nobody left to read them.
pub(super) struct Stream {
    pieces: mpsc::Receiver<Bytes>,
    alive: Interval,
}

/// A stream of events, and where they are put.
pub(super) fn stream() -> (Pieces, Stream) {
    let (to, pieces) = mpsc::channel(QUEUE);
    let alive = sign_of_life();
    (Pieces(to), Stream { pieces, alive })
}

impl Pieces {
    /// When there is nobody left to read.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }

    /// Sends a message.
    pub(super) async fn say(&self, message: &str) {
        let mut event = Vec::with_capacity(message.len() + 8);
        sse::event(message.trim_end(), &mut event);
        let _ = self.0.send(event.into()).await;
    }

    /// Sends what is in a response: events as they are, and anything else as the data of one.
    pub(super) async fn pass(&self, response: Response<Body>) {
        pass(&self.0, response).await;
    }
}

/// Sends a client what comes.
pub(super) async fn pass(to: &mpsc::Sender<Bytes>, response: Response<Body>) {
    let kind = response.headers().get(CONTENT_TYPE);
    let events = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    // It holds what it occupies until it is dropped.
    let mut body = response.into_body();
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if !events {
            whole.extend_from_slice(&data);
        // A frame has whole events.
        } else if to.send(data).await.is_err() {
            return;
        }
    }
    if let Ok(text) = str::from_utf8(&whole)
        && !text.trim().is_empty()
    {
        let mut event = Vec::with_capacity(text.len() + 8);
        sse::event(text, &mut event);
        let _ = to.send(event.into()).await;
    }
}

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        let piece = match this.pieces.poll_recv(context) {
            Poll::Ready(piece) => piece,
            Poll::Pending => match this.alive.poll_tick(context) {
                Poll::Ready(_) => Some(Bytes::from_static(sse::ALIVE)),
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }
}
