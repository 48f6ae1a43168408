//! The pump of one client and one server over pipes: lines in, lines out, and the conversation in
//! between.
//!
//! Each direction has a thread, which waits for a line where it comes from, and writes it to where it
//! goes: nothing else is woken for it. There is no queue: a line goes from the reader's buffer straight
//! to the other side, behind a lock that keeps lines whole. So a slow reader holds the writer up, just
//! as it would without a gate, and memory is bounded by the longest line.
//!
//! A thread that waits for a line cannot be called back. It holds nothing of the pump meanwhile, so
//! that this can end; it ends itself with the next line, or the end, of what it reads.

mod relief;

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    pin::pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    call::{AfterOpen, Awaited, Start},
    client::{Answer, FromClient},
    conversation::{Conversation, Rooms, Ticket, lock},
    envelope::Id,
    events::{Decide as _, Side},
    farewell::{self, Fate},
    lines::{Lines, Next},
    outlet::Outlet,
    question::Asking,
    reply,
    server::Messages,
};
use crate::{principal::Caller, session::SessionEnd};

pub use relief::Shift;

/// Session ends kept for a client that has not begun to speak.
const WAITING_ENDS: usize = 256;
/// What a thread may use to take a line apart, which nests only so deep: there are many threads.
const STACK: usize = 512 << 10;
/// How long a server that has exited is still read, if a process that it left behind keeps its
/// output open.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long it may take to be known how a server ended that has closed its output.
const INQUEST: Duration = Duration::from_secs(1);

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

/// What a thread writes to, waiting where it must. Dropping it closes it.
pub trait Outgoing: Write + Send + 'static {
    /// What another thread calls for writes not to wait any more, now and later: they fail instead.
    fn interrupter(&self) -> Interrupter;
}

/// See [`Outgoing::interrupter`].
pub type Interrupter = Box<dyn Fn() + Send + Sync>;

/// Which side closed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PumpEnd {
    /// The client closed. The server's input was closed, and its answers were delivered until it
    /// closed too or the time to drain was up.
    ClientClosed,
    /// The server closed, or no longer reads.
    ServerClosed,
    /// The same, before it had said anything at all, while the client waited: which was told why.
    NeverServed,
}

/// Carries lines between a client and a server until one of them closes. When this returns, or is
/// dropped, nothing more is carried. A client that waits for answers when the server has gone is told
/// so, in the words that `fate` has by then; where that says so, at once. `shifts` brings other servers in place of the first.
pub async fn pump<CI, CO, SI, SO, G>(
    streams: Streams<CI, CO, SI, SO>,
    gate: Arc<G>,
    caller: Caller,
    ends: mpsc::Receiver<SessionEnd>,
    fate: watch::Receiver<Option<Fate>>,
    shifts: mpsc::Receiver<Shift<SI, SO>>,
) -> PumpEnd
where
    CI: Read + Send + 'static,
    CO: Outgoing,
    SI: Outgoing,
    SO: Read + Send + 'static,
    G: Rooms,
{
    let bounds = *gate.bounds();
    let (opening, mut all_opened) = mpsc::channel(1);
    let pump = Arc::new(Pump {
        conversation: Conversation::new(gate, Arc::default(), caller).holding(),
        to_client: Outlet::new(streams.client_out),
        to_server: Outlet::new(streams.server_in),
        closing: watch::Sender::new(None),
        server_gone: watch::Sender::new(false),
        generation: AtomicU64::new(0),
        away: watch::Sender::new(false),
        why_away: Mutex::default(),
        silenced: AtomicBool::new(false),
        over: AtomicBool::new(false),
        spoke: AtomicBool::new(false),
        late: Mutex::default(),
        told: watch::Sender::new(false),
        opening: Mutex::new(Some(opening)),
        runtime: Handle::current(),
    });
    let stopping = Stopping(Arc::clone(&pump));
    let mut closing = pump.closing.subscribe();

    let from_client = Lines::new(streams.client_in, bounds.client_line);
    let from_server = Lines::new(streams.server_out, bounds.server_line);
    let (weak, other) = (Arc::downgrade(&pump), Arc::downgrade(&pump));
    let client_side = move || Pump::client_side(&weak, from_client);
    let server_side = move || Pump::server_side(&other, from_server, 0);
    let started =
        in_thread("from client", client_side).and_then(|()| in_thread("from server", server_side));
    if let Err(error) = started {
        tracing::error!(%error, "no thread can be started");
        return PumpEnd::ServerClosed;
    }
    let all = async {
        tokio::join!(
            pump.close_server(&mut all_opened),
            pump.notices(ends),
            pump.server_has_gone(),
        );
    };
    let overdue = async {
        until(&mut closing, Option::is_some).await;
        tokio::time::sleep(bounds.drain).await;
    };
    let mut dead = fate.clone();
    let left_behind = async {
        until(&mut dead, Option::is_some).await;
        let at_once = async {
            until(&mut dead, |fate| {
                fate.as_ref().is_some_and(|fate| fate.at_once)
            })
            .await;
        };
        let _ = timeout(LAST_WORDS, at_once).await;
    };
    let relieved = async {
        pump.relieved(shifts).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = relieved => {}
        () = all => {}
        () = overdue => tracing::warn!("gave up waiting for the other side to close"),
        () = left_behind => {
            pump.silenced.store(true, Ordering::Relaxed);
            pump.close(PumpEnd::ServerClosed);
        }
    }
    let end = pump.closing.borrow().unwrap_or(PumpEnd::ServerClosed);
    let end = match end {
        PumpEnd::ServerClosed => pump.explain(fate, bounds.drain).await,
        end => end,
    };
    drop(stopping);
    end
}

fn in_thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK);
    thread.spawn(work).map(drop)
}

/// What the threads and tasks of one pump share.
struct Pump<G: Rooms, CO, SI> {
    conversation: Conversation<G>,
    to_client: Outlet<CO>,
    to_server: Outlet<SI>,
    closing: watch::Sender<Option<PumpEnd>>,
    /// The server writes nothing more.
    server_gone: watch::Sender<bool>,
    /// See [`Pump::generation`].
    generation: AtomicU64,
    /// The server has gone away, and another one comes.
    away: watch::Sender<bool>,
    /// What those are told who wait for one that went away.
    why_away: Mutex<String>,
    /// Whatever the server has to say still is for nobody.
    silenced: AtomicBool,
    /// The pump has returned; only calls that wait for a session are left.
    over: AtomicBool,
    /// The server has sent a message.
    spoke: AtomicBool,
    late: Mutex<Late>,
    /// The client was told of the server's end in answer to a request, or has gone itself.
    told: watch::Sender<bool>,
    /// Each call that waits for its session holds one of these, until there can be no more.
    opening: Mutex<Option<mpsc::Sender<()>>>,
    runtime: Handle,
}

/// The requests that the server has gone without, and what they are told.
#[derive(Default)]
struct Late {
    waiting: Vec<Id>,
    words: Option<String>,
    /// One of them was told.
    told: bool,
}

/// Why a line did not get to the server.
#[derive(Clone, Copy, Debug)]
enum Lost {
    /// There is none any more.
    Ended,
    /// There is another one.
    Replaced,
}

/// Ends a pump when it is dropped.
struct Stopping<G: Rooms, CO: Outgoing, SI: Outgoing>(Arc<Pump<G, CO, SI>>);

impl<G: Rooms, CO: Outgoing, SI: Outgoing> Drop for Stopping<G, CO, SI> {
    fn drop(&mut self) {
        let pump = &self.0;
        pump.over.store(true, Ordering::Relaxed);
        pump.conversation.close();
        // Calls that still wait to be written are let go: the server may never read them.
        pump.server_has_no_more();
        pump.to_client.interrupt();
    }
}

impl<G: Rooms, CO: Outgoing, SI: Outgoing> Pump<G, CO, SI> {
    /// The client's thread.
    fn client_side(this: &Weak<Self>, mut lines: Lines<impl Read>) {
        loop {
            let next = lines.next();
            let Some(pump) = this.upgrade() else { return };
            let closing = *pump.closing.borrow();
            if closing.is_some() {
                // A request that came a moment too late is not left without an answer.
                if let (Some(PumpEnd::ServerClosed), Ok(Next::Line(line))) = (closing, &next) {
                    pump.comes_late(lines.bytes(line.clone()));
                }
                pump.told.send_replace(true);
                return;
            }
            match next {
                Ok(Next::Line(line)) => pump.client_line(lines.bytes(line)),
                Ok(Next::TooLong { bytes }) => {
                    pump.answer(&pump.conversation.too_long(bytes));
                }
                Ok(Next::End) => return pump.close(PumpEnd::ClientClosed),
                Err(error) => {
                    tracing::warn!(%error, "the client cannot be read");
                    return pump.close(PumpEnd::ClientClosed);
                }
            }
        }
    }

    /// The server's thread.
    fn server_side(this: &Weak<Self>, mut lines: Lines<impl Read>, generation: u64) {
        let pump = loop {
            let next = lines.next();
            let Some(pump) = this.upgrade() else { return };
            if pump.over.load(Ordering::Relaxed) || pump.silenced.load(Ordering::Relaxed) {
                return;
            }
            if pump.generation() != generation {
                match next {
                    // Nobody waits for what it still has to say.
                    Ok(Next::Line(_) | Next::TooLong { .. }) => continue,
                    Ok(Next::End) | Err(_) => return,
                }
            }
            match next {
                Ok(Next::Line(line)) => pump.server_line(lines.bytes(line)),
                Ok(Next::TooLong { bytes }) => {
                    let why = "the line is too long";
                    pump.conversation.dropped(Side::Server, bytes, why, b"");
                }
                Ok(Next::End) => break pump,
                Err(error) => {
                    tracing::warn!(%error, "the server cannot be read");
                    break pump;
                }
            }
        };
        pump.close(PumpEnd::ServerClosed);
        pump.server_has_no_more();
    }

    fn server_has_no_more(&self) {
        self.server_gone.send_replace(true);
        self.to_server.interrupt();
    }

    async fn server_has_gone(&self) {
        until(&mut self.server_gone.subscribe(), |gone| *gone).await;
    }

    /// Closes the server's input once one side has closed and the calls until then are through.
    async fn close_server(&self, all_opened: &mut mpsc::Receiver<()>) {
        until(&mut self.closing.subscribe(), Option::is_some).await;
        drop(lock(&self.opening).take());
        self.conversation.questions().clear();
        tokio::select! {
            () = self.server_has_gone() => {}
            _ = all_opened.recv() => {}
        }
        if self.to_server.close() {
            // Nobody comes for a client that has gone.
            self.server_has_no_more();
        }
    }

    fn client_line(self: &Arc<Self>, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        let generation = self.generation();
        match self.finish(self.conversation.client_message(line)) {
            FromClient::Open(start) => {
                // Meanwhile others pass, and this one can be cancelled.
                let (pump, opening) = (Arc::clone(self), lock(&self.opening).clone());
                self.runtime.spawn(async move {
                    pump.open(*start).await;
                    drop(opening);
                });
            }
            FromClient::Ask(asking) => {
                let (pump, opening) = (Arc::clone(self), lock(&self.opening).clone());
                self.runtime.spawn(async move {
                    pump.ask(*asking).await;
                    drop(opening);
                });
            }
            other => self.carry(line, other, generation),
        }
    }

    /// What is decided at once, as nearly everything is, is not handed to the runtime.
    fn finish<F: Future>(&self, deciding: F) -> F::Output {
        let mut deciding = pin!(deciding);
        let _runtime = self.runtime.enter();
        match deciding
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(decided) => decided,
            Poll::Pending => self.runtime.block_on(deciding),
        }
    }

    /// Carries a line of the client out that waits for nobody, as was decided for this server.
    fn carry(&self, line: &[u8], decided: FromClient<Ticket<G>>, generation: u64) {
        match decided {
            FromClient::Forward(None) => {
                let _ = self.pass_if(line, || true);
            }
            FromClient::Forward(Some(request)) => self.pass(line, &request, generation),
            FromClient::Edited(request, text) => self.pass(text.as_bytes(), &request, generation),
            FromClient::Answer(answer) => self.answer(&answer),
            // Calls that wait are carried by whoever can wait; and once asked about, they are
            // decided without.
            FromClient::Drop(_) | FromClient::Open(_) | FromClient::Ask(_) => {}
        }
    }

    /// Lets the client ask its user about a call, then does what that comes to.
    async fn ask(self: &Arc<Self>, mut asking: Asking) {
        let generation = self.generation();
        if let Some(line) = asking.line.take() {
            self.notify(line).await;
        }
        let heard = self.conversation.hear(asking).await;
        if let Some(notice) = heard.notice {
            self.notify(notice).await;
        }
        match heard.outcome {
            FromClient::Open(start) => self.open(*start).await,
            decided => {
                let pump = Arc::clone(self);
                // If there are no threads any more, the agent ends.
                let _ =
                    spawn_blocking(move || pump.carry(&heard.message, decided, generation)).await;
            }
        }
    }

    /// Opens the session of a call, then forwards the call.
    async fn open(self: &Arc<Self>, start: Start<Ticket<G>>) {
        let (mut away, mut gone) = (self.away.subscribe(), self.server_gone.subscribe());
        tokio::select! {
            () = until(&mut away, |away| !*away) => {}
            () = until(&mut gone, |gone| *gone) => {}
        }
        let generation = self.generation();
        let after = self.conversation.open(start).await;
        let pump = Arc::clone(self);
        // If there are no threads any more, the agent ends.
        let _ = spawn_blocking(move || pump.opened(after, generation)).await;
    }

    fn opened(self: &Arc<Self>, after: AfterOpen<Ticket<G>>, generation: u64) {
        let (id, text, beginning) = match after {
            AfterOpen::Ready {
                id,
                text,
                beginning,
            } => (id, text, beginning),
            AfterOpen::Refused(Some(answer)) => return self.answer(&answer),
            AfterOpen::Refused(None) => return,
        };
        let mut waiting = Some(beginning);
        let wanted = || {
            // Its session was the old server's.
            if self.generation() != generation {
                return false;
            }
            let Some(beginning) = waiting.take() else {
                return false;
            };
            let awaited = beginning.awaited();
            let begun = self.conversation.begin(*beginning);
            if let Some(awaited) = awaited.filter(|_| begun) {
                self.runtime
                    .spawn(Self::be_patient(Arc::downgrade(self), awaited));
            }
            begun
        };
        let sent = self.pass_if(text.as_bytes(), wanted);
        match (waiting, sent) {
            (Some(beginning), sent) => {
                self.conversation.give_back(*beginning);
                match sent {
                    Err(Lost::Ended) => self.too_late(id),
                    Ok(_) | Err(Lost::Replaced) => self.tell_replaced(&id),
                }
            }
            (None, Err(lost)) => self.undelivered(&id, lost),
            (None, Ok(_)) => {}
        }
    }

    /// Answers a call for the server if that takes too long.
    async fn be_patient(this: Weak<Self>, awaited: Awaited) {
        tokio::time::sleep(awaited.within).await;
        let Some(pump) = this.upgrade() else { return };
        if let Some(line) = pump.conversation.overdue(&awaited) {
            pump.notify(line).await;
        }
    }

    fn server_line(&self, line: &[u8]) {
        match Messages::parse(line) {
            Ok(Messages::None) => {}
            Ok(Messages::One(message)) => self.server_message(message),
            Ok(Messages::Batch(messages)) => {
                for message in messages {
                    self.server_message(message);
                }
            }
            Err(why) => self.conversation.noise(line, why),
        }
    }

    fn server_message(&self, message: &str) {
        self.spoke.store(true, Ordering::Relaxed);
        let outgoing = self.conversation.server_message(message);
        if let Some(message) = outgoing.message {
            self.tell(message.as_bytes());
        }
        if outgoing.handshake {
            self.conversation.shook_hands();
        }
        if let Some(notice) = outgoing.notice {
            self.tell(notice.as_bytes());
        }
    }

    /// A request that the server did not take, since it has gone.
    fn undelivered(&self, id: &Id, lost: Lost) {
        let waited = self.conversation.undelivered(id);
        match lost {
            Lost::Ended => self.too_late(id.clone()),
            Lost::Replaced if waited => self.tell_replaced(id),
            Lost::Replaced => {}
        }
    }

    fn tell_replaced(&self, id: &Id) {
        let words = lock(&self.why_away).clone();
        self.tell(farewell::answer(id, &words).as_bytes());
    }

    /// The client's line after the server has gone.
    fn comes_late(&self, line: &[u8]) {
        if let Some(id) = farewell::request(line) {
            self.too_late(id);
        }
    }

    /// A request is told that the server has gone, once it is known how.
    fn too_late(&self, id: Id) {
        let mut late = lock(&self.late);
        match &late.words {
            None => late.waiting.push(id),
            Some(words) => {
                let answer = farewell::answer(&id, words);
                late.told = true;
                drop(late);
                self.tell(answer.as_bytes());
                self.told.send_replace(true);
            }
        }
    }

    /// Tells the client how the server ended, in answer to each request that it waits for. A client
    /// that has asked for nothing yet is waited for a little: a server may end before it is asked.
    async fn explain(
        self: &Arc<Self>,
        mut fate: watch::Receiver<Option<Fate>>,
        patience: Duration,
    ) -> PumpEnd {
        let known = timeout(INQUEST, until(&mut fate, Option::is_some)).await;
        let fate = fate.borrow().clone().filter(|_| known.is_ok());
        let at_once = fate.as_ref().is_some_and(|fate| fate.at_once);
        let words = fate.map_or_else(|| farewell::CLOSED.to_owned(), |fate| fate.words);
        let mut waiting = self.conversation.abandoned();
        {
            let mut late = lock(&self.late);
            waiting.append(&mut late.waiting);
            late.words = Some(words.clone());
        }
        let spoke = self.spoke.load(Ordering::Relaxed);
        let mut told = !waiting.is_empty();
        let telling = async {
            for id in waiting {
                self.notify(farewell::answer(&id, &words)).await;
            }
        };
        // A client that does not read is not waited for.
        let _ = timeout(patience, telling).await;
        if !spoke && !told && !at_once {
            let mut heard = self.told.subscribe();
            let _ = timeout(farewell::PATIENCE, until(&mut heard, |told| *told)).await;
            told = lock(&self.late).told;
        }
        match told && !spoke {
            true => PumpEnd::NeverServed,
            false => PumpEnd::ServerClosed,
        }
    }

    /// Tells the client of the sessions that end, and that other tools are visible, once it can be
    /// told anything.
    async fn notices(self: &Arc<Self>, mut ends: mpsc::Receiver<SessionEnd>) {
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
                    self.notify(reply::TOOLS_CHANGED.to_owned()).await;
                }
                while let Some(end) = waiting.pop_front() {
                    self.notify(reply::end_notice(&end)).await;
                }
            }
        }
    }

    /// Sends the client a line of our own, from a thread that may wait.
    async fn notify(self: &Arc<Self>, line: String) {
        let pump = Arc::clone(self);
        // If there are no threads any more, the agent ends.
        let _ = spawn_blocking(move || pump.tell(line.as_bytes())).await;
    }

    fn answer(&self, answer: &Answer) {
        self.tell(answer.line.as_bytes());
    }

    /// Sends the client a line.
    fn tell(&self, line: &[u8]) {
        if self.over.load(Ordering::Relaxed) {
            return;
        }
        if self.to_client.send(line).is_err() {
            self.close(PumpEnd::ClientClosed);
        }
    }

    /// Forwards a request to the server.
    fn pass(&self, line: &[u8], id: &Id, generation: u64) {
        // One that was answered as its server went is not for the next.
        let wanted = || self.generation() == generation || self.conversation.awaits(id);
        if let Err(lost) = self.pass_if(line, wanted) {
            self.undelivered(id, lost);
        }
    }

    /// Forwards a line if it is still wanted when its turn has come.
    fn pass_if(&self, line: &[u8], wanted: impl FnOnce() -> bool) -> Result<bool, Lost> {
        if *self.server_gone.borrow() {
            return Err(Lost::Ended);
        }
        let generation = self.generation();
        self.to_server.send_if(line, wanted).map_err(|_| {
            if self.generation() != generation && !*self.server_gone.borrow() {
                return Lost::Replaced;
            }
            self.close(PumpEnd::ServerClosed);
            Lost::Ended
        })
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
