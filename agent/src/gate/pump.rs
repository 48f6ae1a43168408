//! The pump of one client and one server: lines in, lines out, and the policy in between.
//!
//! There is no queue: a line goes from the reader's buffer straight to the other side, behind a
//! lock that keeps lines whole. So a slow reader holds the writer up, just as it would without a
//! gate, and memory is bounded by the longest line.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, watch},
};

use super::{
    book::{Book, Flight},
    captures::Captures,
    events::{CallEnd, Decide, GateEvent, Observer, Side},
    lines::{Lines, Next},
    reply,
    stops::Notes,
    tools::Schemas,
};
use crate::{principal::Caller, session::SessionEnd};

/// The longest line of a client, by default.
pub const CLIENT_LINE: usize = 4 << 20;
/// The longest line of a server, by default.
pub const SERVER_LINE: usize = 64 << 20;
/// Requests in flight at most, by default.
pub const IN_FLIGHT: usize = 1024;
/// How long one side may go on once the other has closed, by default.
pub const DRAIN: Duration = Duration::from_secs(10);

/// How much of a start call's answer is kept to match a stop call with.
const NOTED_TEXT: usize = 64 * 1024;
/// Session ends kept for a client that has not begun to speak.
const WAITING_ENDS: usize = 256;
/// How much of a dropped line is logged.
const LOGGED: usize = 200;
/// Dropped lines that are told of one by one; of the rest, one in [`DROPS_THEN`] is. Who writes
/// junk can do so without end.
const DROPS_FIRST: u64 = 50;
const DROPS_THEN: u64 = 10_000;
/// Lines of the server that are handled before the client is heard again.
const BETWEEN_TURNS: u64 = 8;

/// What a pump keeps itself within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The longest line of the client, in bytes.
    pub client_line: usize,
    /// The longest line of the server, in bytes.
    pub server_line: usize,
    /// Requests in flight at most.
    pub in_flight: usize,
    /// How long one side may go on once the other has closed.
    pub drain: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            client_line: CLIENT_LINE,
            server_line: SERVER_LINE,
            in_flight: IN_FLIGHT,
            drain: DRAIN,
        }
    }
}

/// The two ends of the two pipes that a pump stands between.
#[derive(Debug)]
pub struct Streams<CI, CO, SI, SO> {
    /// What the client writes.
    pub client_in: CI,
    /// What the client reads.
    pub client_out: CO,
    /// What the server reads.
    pub server_in: SI,
    /// What the server writes.
    pub server_out: SO,
}

/// Who decides, who opens sessions, who keeps the record.
#[derive(Debug)]
pub struct Gate<P, C, O: ?Sized> {
    /// Decides calls.
    pub policy: Arc<P>,
    /// Opens and ends sessions.
    pub captures: Arc<C>,
    /// Is told of everything.
    pub observer: Arc<O>,
    /// Who calls.
    pub caller: Caller,
    /// What the pump keeps itself within.
    pub bounds: Bounds,
}

/// Which side closed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PumpEnd {
    /// The client closed. The server's input was closed, and its answers were delivered until it
    /// closed too or the time to drain was up.
    ClientClosed,
    /// The server closed, or no longer reads.
    ServerClosed,
}

/// Carries lines between a client and a server until one of them closes.
pub async fn pump<CI, CO, SI, SO, P, C, O>(
    streams: Streams<CI, CO, SI, SO>,
    gate: Gate<P, C, O>,
    ends: mpsc::Receiver<SessionEnd>,
) -> PumpEnd
where
    CI: AsyncRead + Unpin,
    CO: AsyncWrite + Unpin + Send + 'static,
    SI: AsyncWrite + Unpin + Send + 'static,
    SO: AsyncRead + Unpin,
    P: Decide,
    C: Captures,
    O: Observer + ?Sized,
{
    let bounds = gate.bounds;
    let shared = Arc::new(Shared {
        gate,
        book: Mutex::new(Book::new(bounds.in_flight)),
        notes: Mutex::default(),
        schemas: Mutex::default(),
        to_client: Outlet::new(streams.client_out),
        to_server: Outlet::new(streams.server_in),
        closing: watch::Sender::new(None),
        server_gone: watch::Sender::new(false),
        ready: watch::Sender::new(false),
        over: AtomicBool::new(false),
        drops: AtomicU64::new(0),
    });
    let mut closing = shared.closing.subscribe();
    let all = async {
        tokio::join!(
            shared.client_side(Lines::new(streams.client_in, bounds.client_line)),
            shared.server_side(Lines::new(streams.server_out, bounds.server_line)),
            shared.notices(ends),
        );
    };
    let overdue = async {
        until(&mut closing, Option::is_some).await;
        tokio::time::sleep(bounds.drain).await;
    };
    tokio::select! {
        () = all => {}
        () = overdue => tracing::warn!("gave up waiting for the other side to close"),
    }
    shared.over.store(true, Ordering::Relaxed);
    shared.lost();
    // Calls that still wait to be written are let go: the server may never read them.
    shared.server_gone.send_replace(true);
    let end = *shared.closing.borrow();
    end.unwrap_or(PumpEnd::ServerClosed)
}

/// What the tasks of one pump share.
pub(super) struct Shared<P: Decide, C, O: ?Sized, CO, SI> {
    pub(super) gate: Gate<P, C, O>,
    book: Mutex<Book<P::Ticket>>,
    notes: Mutex<Notes>,
    schemas: Mutex<Schemas>,
    to_client: Outlet<CO>,
    pub(super) to_server: Outlet<SI>,
    closing: watch::Sender<Option<PumpEnd>>,
    server_gone: watch::Sender<bool>,
    /// The client may be sent notifications.
    pub(super) ready: watch::Sender<bool>,
    /// The pump has returned; only calls that wait for a session are left.
    over: AtomicBool,
    /// Lines that were dropped.
    drops: AtomicU64,
}

impl<P, C, O, CO, SI> Shared<P, C, O, CO, SI>
where
    P: Decide,
    C: Captures,
    O: Observer + ?Sized,
    CO: AsyncWrite + Unpin + Send + 'static,
    SI: AsyncWrite + Unpin + Send + 'static,
{
    async fn client_side(self: &Arc<Self>, mut lines: Lines<impl AsyncRead + Unpin>) {
        let mut closing = self.closing.subscribe();
        // Each call that waits for its session holds one end of this.
        let (waiting, mut all_started) = mpsc::channel::<()>(1);
        loop {
            let next = tokio::select! {
                biased;
                () = until(&mut closing, Option::is_some) => break,
                next = lines.next() => next,
            };
            match next {
                Ok(Next::Line(line)) => self.client_line(lines.bytes(line), &waiting).await,
                Ok(Next::TooLong { bytes }) => self.client_line_too_long(bytes).await,
                Ok(Next::End) => {
                    self.close(PumpEnd::ClientClosed);
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, "the client cannot be read");
                    self.close(PumpEnd::ClientClosed);
                    break;
                }
            }
        }
        drop(waiting);
        let mut gone = self.server_gone.subscribe();
        tokio::select! {
            () = until(&mut gone, |gone| *gone) => {}
            _ = all_started.recv() => {}
        }
        self.to_server.close().await;
    }

    async fn server_side(&self, mut lines: Lines<impl AsyncRead + Unpin>) {
        for number in 1_u64.. {
            if number.is_multiple_of(BETWEEN_TURNS) {
                tokio::task::yield_now().await;
            }
            match lines.next().await {
                Ok(Next::Line(line)) => self.server_line(lines.bytes(line)).await,
                Ok(Next::TooLong { bytes }) => {
                    self.dropped(Side::Server, bytes, "the line is too long", b"");
                }
                Ok(Next::End) => break,
                Err(error) => {
                    tracing::warn!(%error, "the server cannot be read");
                    break;
                }
            }
        }
        self.close(PumpEnd::ServerClosed);
        self.server_gone.send_replace(true);
    }

    async fn client_line_too_long(&self, bytes: u64) {
        let limit = self.gate.bounds.client_line;
        let why = format!("the line is too long: {bytes} bytes, at most {limit} are read");
        self.dropped(Side::Client, bytes, &why, b"");
        self.tell(reply::error(None, -32600, &why).as_bytes()).await;
    }

    /// Tells the client of the sessions that end, once it can be told anything.
    async fn notices(&self, mut ends: mpsc::Receiver<SessionEnd>) {
        let mut ready = self.ready.subscribe();
        let mut gone = self.server_gone.subscribe();
        let mut waiting = VecDeque::new();
        let mut open = true;
        let mut last = false;
        while !last && (open || !waiting.is_empty()) {
            let is_ready = *self.ready.borrow();
            tokio::select! {
                biased;
                end = ends.recv(), if open => match end {
                    Some(end) => {
                        self.notes().forget(end.session);
                        if waiting.len() >= WAITING_ENDS {
                            waiting.pop_front();
                        }
                        waiting.push_back(end);
                    }
                    None => open = false,
                },
                () = until(&mut ready, |ready| *ready), if !is_ready => {}
                () = until(&mut gone, |gone| *gone) => last = true,
            }
            if *self.ready.borrow() {
                while let Some(end) = waiting.pop_front() {
                    self.tell(reply::end_notice(&end).as_bytes()).await;
                }
            }
        }
    }

    /// Sends the client a line.
    pub(super) async fn tell(&self, line: &[u8]) {
        if self.over.load(Ordering::Relaxed) {
            return;
        }
        if self.to_client.send(line).await.is_err() {
            self.close(PumpEnd::ClientClosed);
        }
    }

    /// Forwards a line to the server; false if the server does not read any more.
    pub(super) async fn pass(&self, line: &[u8]) -> bool {
        self.pass_if(line, || true).await == Some(true)
    }

    /// Forwards a line if it is still wanted when its turn has come; none if the server does not
    /// read any more.
    pub(super) async fn pass_if(&self, line: &[u8], wanted: impl FnOnce() -> bool) -> Option<bool> {
        let mut gone = self.server_gone.subscribe();
        let sent = tokio::select! {
            biased;
            () = until(&mut gone, |gone| *gone) => return None,
            sent = self.to_server.send_if(line, wanted) => sent,
        };
        if sent.is_err() {
            self.close(PumpEnd::ServerClosed);
        }
        sent.ok()
    }

    /// Notes which side closed first.
    fn close(&self, end: PumpEnd) {
        self.closing.send_if_modified(|closing| {
            let first = closing.is_none();
            closing.get_or_insert(end);
            first
        });
    }

    /// Records a line that is not let through.
    pub(super) fn dropped(&self, from: Side, bytes: u64, why: &str, line: &[u8]) {
        let number = self.drops.fetch_add(1, Ordering::Relaxed) + 1;
        if number > DROPS_FIRST && !number.is_multiple_of(DROPS_THEN) {
            return;
        }
        let start = String::from_utf8_lossy(line.get(..LOGGED).unwrap_or(line));
        tracing::warn!(?from, bytes, why, number, line = %start.escape_debug(), "dropped a line");
        self.observe(GateEvent::Dropped {
            from,
            bytes,
            why: why.to_owned(),
            lines: match number {
                ..=DROPS_FIRST => 1,
                _ => DROPS_THEN.min(number - DROPS_FIRST),
            },
        });
    }

    /// Nobody will answer what is still in flight.
    fn lost(&self) {
        let left: Vec<_> = self.book().clear().collect();
        for request in left {
            self.settle(request.flight, CallEnd::Lost);
        }
    }

    /// Tells the policy how a call ended that was forwarded.
    pub(super) fn settle(&self, flight: Flight<P::Ticket>, end: CallEnd) {
        if let Some(ticket) = flight.ticket() {
            self.gate.policy.settle(ticket, end);
        }
    }

    pub(super) fn observe(&self, event: GateEvent) {
        self.gate.observer.observe(event);
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book<P::Ticket>> {
        lock(&self.book)
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        lock(&self.notes)
    }

    pub(super) fn schemas(&self) -> MutexGuard<'_, Schemas> {
        lock(&self.schemas)
    }
}

/// How much of an answer is kept to match a stop call with.
pub(super) const fn noted_text() -> usize {
    NOTED_TEXT
}

/// These tables are whole after every statement, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the value is as wanted, or for ever if it cannot come to that.
async fn until<T>(receiver: &mut watch::Receiver<T>, wanted: impl FnMut(&T) -> bool) {
    if receiver.wait_for(wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A writer that is given whole lines, by one task at a time.
pub(super) struct Outlet<W>(tokio::sync::Mutex<Option<W>>);

impl<W: AsyncWrite + Unpin> Outlet<W> {
    fn new(writer: W) -> Self {
        Self(tokio::sync::Mutex::new(Some(writer)))
    }

    async fn send(&self, line: &[u8]) -> io::Result<()> {
        self.send_if(line, || true).await.map(|_| ())
    }

    async fn send_if(&self, line: &[u8], wanted: impl FnOnce() -> bool) -> io::Result<bool> {
        let mut place = self.0.lock().await;
        let writer = place.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        if !wanted() {
            return Ok(false);
        }
        writer.write_all(line).await?;
        // The last line of a stream, and an element of a batch, have no end of their own.
        if !line.ends_with(b"\n") {
            writer.write_all(b"\n").await?;
        }
        writer.flush().await?;
        Ok(true)
    }

    async fn close(&self) {
        if let Some(mut writer) = self.0.lock().await.take() {
            // Dropping closes it, whatever this says.
            let _ = writer.shutdown().await;
        }
    }
}
