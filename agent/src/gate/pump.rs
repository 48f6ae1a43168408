//! The pump of one client and one server over pipes: lines in, lines out, and the conversation in
//! between.
//!
//! There is no queue: a line goes from the reader's buffer straight to the other side, behind a
//! lock that keeps lines whole. So a slow reader holds the writer up, just as it would without a
//! gate, and memory is bounded by the longest line.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, watch},
};

use super::{
    client::{AfterOpen, Answer, FromClient, Start},
    conversation::{Conversation, Rooms, Ticket},
    events::{Decide as _, Side},
    lines::{Lines, Next},
    question::Asking,
    reply,
    server::Messages,
};
use crate::{principal::Caller, session::SessionEnd};

/// Session ends kept for a client that has not begun to speak.
const WAITING_ENDS: usize = 256;
/// Lines of the server that are handled before the client is heard again.
const BETWEEN_TURNS: u64 = 8;

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
pub async fn pump<CI, CO, SI, SO, G>(
    streams: Streams<CI, CO, SI, SO>,
    gate: Arc<G>,
    caller: Caller,
    ends: mpsc::Receiver<SessionEnd>,
) -> PumpEnd
where
    CI: AsyncRead + Unpin,
    CO: AsyncWrite + Unpin + Send + 'static,
    SI: AsyncWrite + Unpin + Send + 'static,
    SO: AsyncRead + Unpin,
    G: Rooms,
{
    let bounds = *gate.bounds();
    let pump = Arc::new(Pump {
        conversation: Conversation::new(gate, Arc::default(), caller).holding(),
        to_client: Outlet::new(streams.client_out),
        to_server: Outlet::new(streams.server_in),
        closing: watch::Sender::new(None),
        server_gone: watch::Sender::new(false),
        over: AtomicBool::new(false),
    });
    let mut closing = pump.closing.subscribe();
    let all = async {
        tokio::join!(
            pump.client_side(Lines::new(streams.client_in, bounds.client_line)),
            pump.server_side(Lines::new(streams.server_out, bounds.server_line)),
            pump.notices(ends),
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
    pump.over.store(true, Ordering::Relaxed);
    pump.conversation.close();
    // Calls that still wait to be written are let go: the server may never read them.
    pump.server_gone.send_replace(true);
    let end = *pump.closing.borrow();
    end.unwrap_or(PumpEnd::ServerClosed)
}

/// What the tasks of one pump share.
struct Pump<G: Rooms, CO, SI> {
    conversation: Conversation<G>,
    to_client: Outlet<CO>,
    to_server: Outlet<SI>,
    closing: watch::Sender<Option<PumpEnd>>,
    server_gone: watch::Sender<bool>,
    /// The pump has returned; only calls that wait for a session are left.
    over: AtomicBool,
}

impl<G, CO, SI> Pump<G, CO, SI>
where
    G: Rooms,
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
                Ok(Next::TooLong { bytes }) => {
                    self.answer(&self.conversation.too_long(bytes)).await;
                }
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
        self.conversation.questions().clear();
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
                    let why = "the line is too long";
                    self.conversation.dropped(Side::Server, bytes, why, b"");
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

    async fn client_line(self: &Arc<Self>, line: &[u8], waiting: &mpsc::Sender<()>) {
        if line.trim_ascii().is_empty() {
            return;
        }
        match self.conversation.client_message(line).await {
            FromClient::Open(start) => {
                // Meanwhile others pass, and this one can be cancelled.
                let (pump, waiting) = (Arc::clone(self), waiting.clone());
                tokio::spawn(async move {
                    pump.open(*start).await;
                    drop(waiting);
                });
            }
            FromClient::Ask(asking) => {
                let (pump, waiting) = (Arc::clone(self), waiting.clone());
                tokio::spawn(async move {
                    pump.ask(*asking).await;
                    drop(waiting);
                });
            }
            other => self.carry(line, other).await,
        }
    }

    /// Carries a line of the client out that waits for nobody.
    async fn carry(&self, line: &[u8], decided: FromClient<Ticket<G>>) {
        match decided {
            FromClient::Forward(request) => {
                if !self.pass(line).await
                    && let Some(request) = request
                {
                    self.conversation.undelivered(&request);
                }
            }
            FromClient::Edited(request, text) => {
                if !self.pass(text.as_bytes()).await {
                    self.conversation.undelivered(&request);
                }
            }
            FromClient::Answer(answer) => self.answer(&answer).await,
            FromClient::Drop(_) => {}
            FromClient::Open(start) => self.open(*start).await,
            // Once is enough: a call that was asked for is decided without.
            FromClient::Ask(_) => {}
        }
    }

    /// Lets the client ask its user about a call, then does what that comes to.
    async fn ask(&self, asking: Asking) {
        if let Some(line) = &asking.line {
            self.tell(line.as_bytes()).await;
        }
        let heard = self.conversation.hear(asking).await;
        if let Some(notice) = &heard.notice {
            self.tell(notice.as_bytes()).await;
        }
        self.carry(&heard.message, heard.outcome).await;
    }

    /// Opens the session of a call, then forwards the call.
    async fn open(&self, start: Start<Ticket<G>>) {
        let (id, text, beginning) = match self.conversation.open(start).await {
            AfterOpen::Ready {
                id,
                text,
                beginning,
            } => (id, text, beginning),
            AfterOpen::Refused(Some(answer)) => return self.answer(&answer).await,
            AfterOpen::Refused(None) => return,
        };
        let mut waiting = Some(beginning);
        let wanted = || {
            let beginning = waiting.take();
            beginning.is_some_and(|beginning| self.conversation.begin(*beginning))
        };
        let sent = self.pass_if(text.as_bytes(), wanted).await;
        if sent.is_none() {
            match waiting {
                Some(beginning) => self.conversation.give_back(*beginning),
                None => self.conversation.undelivered(&id),
            }
        }
    }

    async fn server_line(&self, line: &[u8]) {
        match Messages::parse(line) {
            Ok(Messages::None) => {}
            Ok(Messages::One(message)) => self.server_message(message).await,
            Ok(Messages::Batch(messages)) => {
                for message in messages {
                    // A batch of junk must not keep the client from being heard.
                    tokio::task::yield_now().await;
                    self.server_message(message).await;
                }
            }
            Err(why) => self.conversation.noise(line, why),
        }
    }

    async fn server_message(&self, message: &str) {
        let outgoing = self.conversation.server_message(message);
        if let Some(message) = outgoing.message {
            self.tell(message.as_bytes()).await;
        }
        if outgoing.handshake {
            self.conversation.shook_hands();
        }
        if let Some(notice) = outgoing.notice {
            self.tell(notice.as_bytes()).await;
        }
    }

    /// Tells the client of the sessions that end, and that other tools are visible, once it can be
    /// told anything.
    async fn notices(&self, mut ends: mpsc::Receiver<SessionEnd>) {
        let mut ready = self.conversation.ready();
        let mut gone = self.server_gone.subscribe();
        let mut changes = self.conversation.gate.policy().changes();
        let (mut changing, mut changed) = (true, false);
        let mut waiting = VecDeque::new();
        let mut open = true;
        let mut last = false;
        while !last && (open || !waiting.is_empty()) {
            let is_ready = *ready.borrow();
            tokio::select! {
                biased;
                end = ends.recv(), if open => match end {
                    Some(end) => {
                        self.conversation.ended(&end);
                        if waiting.len() >= WAITING_ENDS {
                            waiting.pop_front();
                        }
                        waiting.push_back(end);
                    }
                    None => open = false,
                },
                told = changes.changed(), if changing => match told {
                    Ok(()) => changed = true,
                    Err(_) => changing = false,
                },
                () = until(&mut ready, |ready| *ready), if !is_ready => {}
                () = until(&mut gone, |gone| *gone) => last = true,
            }
            if *ready.borrow() {
                if std::mem::take(&mut changed) {
                    self.tell(reply::TOOLS_CHANGED.as_bytes()).await;
                }
                while let Some(end) = waiting.pop_front() {
                    self.tell(reply::end_notice(&end).as_bytes()).await;
                }
            }
        }
    }

    async fn answer(&self, answer: &Answer) {
        self.tell(answer.line.as_bytes()).await;
    }

    /// Sends the client a line.
    async fn tell(&self, line: &[u8]) {
        if self.over.load(Ordering::Relaxed) {
            return;
        }
        if self.to_client.send(line).await.is_err() {
            self.close(PumpEnd::ClientClosed);
        }
    }

    /// Forwards a line to the server; false if the server does not read any more.
    async fn pass(&self, line: &[u8]) -> bool {
        self.pass_if(line, || true).await == Some(true)
    }

    /// Forwards a line if it is still wanted when its turn has come; none if the server does not
    /// read any more.
    async fn pass_if(&self, line: &[u8], wanted: impl FnOnce() -> bool) -> Option<bool> {
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
}

/// Waits until the value is as wanted, or for ever if it cannot come to that.
async fn until<T>(receiver: &mut watch::Receiver<T>, wanted: impl FnMut(&T) -> bool) {
    if receiver.wait_for(wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A writer that is given whole lines, by one task at a time.
struct Outlet<W>(tokio::sync::Mutex<Option<W>>);

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
