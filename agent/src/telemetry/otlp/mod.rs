//! Spans of calls and sessions, sent to a collector: OTLP over HTTP, in JSON.
//!
//! | module | does |
//! |---|---|
//! | [`Collector`] | where it is |
//! | `layer` | takes the spans as they end, and hands them on without ever waiting |
//! | `export` | a thread of its own: batches, sends, tries again |
//! | `encode` | spans as opentelemetry-proto's JSON mapping has them |
//!
//! What cannot be sent is dropped and counted ([`dropped_spans`]); no call is late for it, and capwarden
//! does not end for it. A span has what the log has of it, and no more: no value of an argument, no
//! token, no text that could quote one.

mod collector;
mod encode;
mod export;
mod layer;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use tokio::sync::mpsc;

pub use collector::{Collector, CollectorError};
pub use export::{Exporter, Pace};
pub use layer::SpanLayer;

/// Spans that wait to be sent.
const QUEUE: usize = 4_096;

/// Spans that were dropped, of the exporter that runs.
static DROPPED: OnceLock<Arc<AtomicU64>> = OnceLock::new();

/// How many spans could not be sent and were dropped; none if nothing is sent anywhere.
#[must_use]
pub fn dropped_spans() -> Option<Arc<AtomicU64>> {
    DROPPED.get().map(Arc::clone)
}

/// Begins to send what the layer takes. Dropping the exporter sends what is left, in a bounded time.
///
/// # Errors
///
/// The host has no thread for it, or no certificate authorities for a collector at `https://`.
pub fn start(collector: &Collector) -> io::Result<(SpanLayer, Exporter)> {
    let (queue, inbox, dropped) = queue(QUEUE);
    let exporter = Exporter::start(collector, inbox, Arc::clone(&dropped), Pace::default())?;
    let _ = DROPPED.set(Arc::clone(&dropped));
    Ok((SpanLayer::new(queue), exporter))
}

/// The line from the layer to the exporter.
fn queue(length: usize) -> (Queue, mpsc::Receiver<Ended>, Arc<AtomicU64>) {
    let (sender, inbox) = mpsc::channel(length);
    let dropped = Arc::<AtomicU64>::default();
    let queue = Queue {
        sender,
        dropped: Arc::clone(&dropped),
    };
    (queue, inbox, dropped)
}

/// Where ended spans go.
#[derive(Clone, Debug)]
struct Queue {
    sender: mpsc::Sender<Ended>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    /// Never waits.
    fn put(&self, span: Ended) {
        if self.sender.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Which span: its trace, and itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Context {
    trace: [u8; 16],
    span: [u8; 8],
}

/// A span that has ended.
#[derive(Clone, Debug)]
struct Ended {
    name: &'static str,
    context: Context,
    /// The span that it is a part of, and whether that is another program's.
    parent: Option<([u8; 8], bool)>,
    start: SystemTime,
    end: SystemTime,
    fields: Vec<(&'static str, Field)>,
}

/// What a span has under a name.
#[derive(Clone, Debug, PartialEq)]
enum Field {
    Text(String),
    Whole(i64),
    Truth(bool),
}
