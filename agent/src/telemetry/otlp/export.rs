//! Sends spans to a collector, on a thread and a runtime of its own: nobody else waits for it.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use http_body_util::{BodyExt as _, Collected, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderValue, USER_AGENT},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use super::{Collector, Ended, encode};
use crate::gate::http::Authorities;

/// Spans that are sent at once.
const BATCH: usize = 512;
/// Bytes of a collector's answer that are read.
const ANSWER: usize = 64 << 10;
/// How often a batch is sent before it is given up.
const TRIES: u32 = 8;
/// How long what is left may take when all ends.
const FINISH: Duration = Duration::from_secs(3);

/// How fast it goes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long a span waits for others.
    pub gather: Duration,
    /// How long a collector may take to answer.
    pub deadline: Duration,
    /// How long it waits after the first failure, twice as long after the next, and so on.
    pub pause: Duration,
    /// The longest of these.
    pub longest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            gather: Duration::from_secs(1),
            deadline: Duration::from_secs(10),
            pause: Duration::from_secs(1),
            longest: Duration::from_secs(60),
        }
    }
}

/// The thread that sends.
pub struct Exporter {
    thread: Option<thread::JoinHandle<()>>,
    /// Becomes true when all is to end.
    over: watch::Sender<bool>,
}

impl Exporter {
    pub(super) fn start(
        collector: &Collector,
        inbox: mpsc::Receiver<Ended>,
        dropped: Arc<AtomicU64>,
        pace: Pace,
    ) -> io::Result<Self> {
        let authorities = match collector.tls {
            true => Authorities::open(None),
            false => Authorities::nobody(),
        };
        let authorities = authorities.map_err(io::Error::other)?;
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(pace.deadline));
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(authorities.config())
            // An address without TLS is one of this host.
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (over, ends) = watch::channel(false);
        let mut sending = Sending {
            collector: collector.clone(),
            client,
            inbox,
            dropped,
            pace,
            ends,
            failing: false,
        };
        let thread = thread::Builder::new()
            .name("otlp".to_owned())
            .spawn(move || {
                runtime.block_on(sending.run());
                runtime.shutdown_background();
            })?;
        Ok(Self {
            thread: Some(thread),
            over,
        })
    }
}

/// Sends what is left, in a bounded time.
impl Drop for Exporter {
    fn drop(&mut self) {
        self.over.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // It has told of its panic itself.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

struct Sending {
    collector: Collector,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    inbox: mpsc::Receiver<Ended>,
    dropped: Arc<AtomicU64>,
    pace: Pace,
    ends: watch::Receiver<bool>,
    /// The last batch could not be sent, which was told.
    failing: bool,
}

/// What became of a batch.
enum Sent {
    Taken,
    /// It may be taken later.
    Later(String),
    /// It never will be.
    Refused(String),
}

impl Sending {
    async fn run(&mut self) {
        let mut ends = self.ends.clone();
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                _ = ends.wait_for(|over| *over) => break,
                got = self.inbox.recv_many(&mut batch, BATCH) => if got == 0 { break },
            }
            // Others may come with it.
            if batch.len() < BATCH {
                tokio::select! {
                    biased;
                    _ = ends.wait_for(|over| *over) => break,
                    () = sleep(self.pace.gather) => {}
                }
                while batch.len() < BATCH
                    && let Ok(span) = self.inbox.try_recv()
                {
                    batch.push(span);
                }
            }
            if !self.deliver(&batch).await {
                break;
            }
            batch.clear();
        }
        self.finish(batch).await;
    }

    /// Sends a batch until it is taken or given up. False if all is to end and it still waits.
    async fn deliver(&mut self, batch: &[Ended]) -> bool {
        let mut ends = self.ends.clone();
        let mut pause = self.pace.pause;
        for left in (0..TRIES).rev() {
            // One that is on its way when all ends is waited for, a little: it is not to be sent twice.
            let over = async {
                let _ = ends.wait_for(|over| *over).await;
                sleep(FINISH).await;
            };
            let sent = tokio::select! {
                biased;
                sent = self.send(batch) => sent,
                () = over => return false,
            };
            match sent {
                Sent::Taken => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!(collector = %self.collector, "spans are sent again");
                    }
                    return true;
                }
                Sent::Later(why) if left > 0 => {
                    self.failed(&why);
                    tokio::select! {
                        () = sleep(pause) => {}
                        _ = ends.wait_for(|over| *over) => return false,
                    }
                    pause = self.pace.longest.min(pause * 2);
                }
                Sent::Later(why) | Sent::Refused(why) => {
                    self.failed(&why);
                    self.count(batch.len());
                    return true;
                }
            }
        }
        true
    }

    /// Sends what is left, once.
    async fn finish(&mut self, mut batch: Vec<Ended>) {
        self.inbox.close();
        while let Ok(span) = self.inbox.try_recv() {
            batch.push(span);
        }
        let mut sent = 0;
        let all = async {
            for part in batch.chunks(BATCH) {
                if let Sent::Later(why) | Sent::Refused(why) = self.send(part).await {
                    self.failed(&why);
                    break;
                }
                sent += part.len();
            }
        };
        if timeout(FINISH, all).await.is_err() {
            self.failed("it does not answer in time");
        }
        self.count(batch.len() - sent);
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(dropped, collector = %self.collector, "spans were not sent");
        }
    }

    async fn send(&self, batch: &[Ended]) -> Sent {
        let body = encode::request(batch).to_string();
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.collector.uri.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let agent = concat!("capwarden/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        let answer = async {
            let response = self.client.request(request).await.map_err(|error| {
                let cause: &dyn std::error::Error = &error;
                let cause = cause.source().map(ToString::to_string);
                cause.unwrap_or_else(|| error.to_string())
            })?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER).collect().await;
            Ok::<_, String>((status, body.map(Collected::to_bytes).unwrap_or_default()))
        };
        match timeout(self.pace.deadline, answer).await {
            Err(_) => Sent::Later("it does not answer in time".to_owned()),
            Ok(Err(why)) => Sent::Later(why),
            Ok(Ok((status, body))) if status.is_success() => {
                self.rejected(&body);
                Sent::Taken
            }
            Ok(Ok((status, _))) => {
                let why = format!("it answers {status}");
                match status {
                    StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT => Sent::Later(why),
                    _ => Sent::Refused(why),
                }
            }
        }
    }

    /// A collector can take a part of a batch, and says how much it did not.
    fn rejected(&self, body: &[u8]) {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let rejected = body.pointer("/partialSuccess/rejectedSpans");
        // A 64-bit number is text there, but not everybody's.
        let rejected = rejected.and_then(|value| match value {
            Value::String(text) => text.parse().ok(),
            value => value.as_u64(),
        });
        if let Some(rejected @ 1..) = rejected {
            self.dropped.fetch_add(rejected, Ordering::Relaxed);
            tracing::warn!(rejected, collector = %self.collector, "the collector rejects spans");
        }
    }

    /// Tells of a failure, the first of several.
    fn failed(&mut self, why: &str) {
        if std::mem::replace(&mut self.failing, true) {
            tracing::debug!(collector = %self.collector, why, "spans cannot be sent");
        } else {
            tracing::warn!(collector = %self.collector, why, "spans cannot be sent");
        }
    }

    fn count(&self, spans: usize) {
        let spans = u64::try_from(spans).unwrap_or(u64::MAX);
        self.dropped.fetch_add(spans, Ordering::Relaxed);
    }
}
