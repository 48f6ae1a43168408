//! The streams of HTTP that a stdio server's messages go out on.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::body::{Body as HttpBody, Bytes, Frame};
use tokio::{sync::mpsc, time::Interval};

use super::{
    streams::Message,
    wire::{Reply, Wire},
};
use crate::gate::http::sse;

/// Where the messages come from.
pub(super) enum Source {
    /// The request that they belong to.
    Reply(Reply),
    /// What no request waits for; the wire stays as long as somebody listens.
    Listening(mpsc::Receiver<Message>, Arc<Wire>),
}

/// Messages as events.
pub(super) struct Events {
    from: Source,
    /// What comes before them all.
    first: Option<Vec<u8>>,
    alive: Interval,
}

impl Events {
    pub(super) fn new(from: Source, first: Option<Vec<u8>>) -> Self {
        let alive = sse::sign_of_life();
        Self { from, first, alive }
    }
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        let data = |bytes: Vec<u8>| Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
        if let Some(first) = this.first.take() {
            return data(first);
        }
        let messages = match &mut this.from {
            Source::Reply(reply) => &mut reply.messages,
            Source::Listening(messages, wire) => {
                wire.heard();
                messages
            }
        };
        match messages.poll_recv(context) {
            Poll::Ready(Some(message)) => {
                let mut event = Vec::with_capacity(message.text.len() + 8);
                sse::event(&message.text, &mut event);
                return data(event);
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        match this.alive.poll_tick(context) {
            Poll::Ready(_) => data(sse::ALIVE.to_vec()),
            Poll::Pending => Poll::Pending,
        }
    }
}
