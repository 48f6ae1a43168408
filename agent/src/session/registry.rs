//! The sessions of one governed server, and which process belongs to which.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, Semaphore, mpsc};

use super::{
    EndReason, Events, Grant, GrantError, SessionEvent, SessionId,
    compare::{self, Comparer},
    lifecycle::{Lifecycle, Signal},
    own_filter::{self, Attached, Place, Spent},
};
use capwarden_abi::State;

use crate::{
    filter::{Compiler, Insn, Program},
    kernel::{
        self, Admit, ArmedSocket, BootTime, Caller, Cgroup, Errno, Guard, GuardError, Interface,
        Refusal, Rejection, SocketCall, Tree, arm, has_ended,
    },
    policy::{InterfaceTerms, Terms},
};

/// Capture sockets that one session may open in all.
const MAX_SOCKETS: usize = 64;
/// Refusals after which a session's processes are taken for hostile.
const MAX_REFUSALS: u32 = 1_000;
/// Sessions that may live at once.
const MAX_SESSIONS: usize = 64;
/// How long a capture waits for the one before it to get its process.
const START_LIMIT: Duration = Duration::from_secs(10);

/// What the lock says that is on the socket of a session that is not known any more.
const SESSION_FORGOTTEN: Rejection = Rejection::Kernel(Errno::PERM);

/// How a process is found to belong to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribution {
    /// By the call that was open when it, or its ancestor, was forked.
    ByCall,
    /// There is one session for everything (a command under `exec`).
    WholeTree,
}

/// The sessions of one governed server. Cheap to clone.
#[derive(Clone)]
pub struct Sessions(pub(super) Arc<Shared>);

pub(super) struct Shared {
    server: u32,
    attribution: Attribution,
    compiler: Compiler,
    cgroup: Option<Cgroup>,
    pub(super) events: Events,
    table: Mutex<Table>,
    /// Held by the capture that is being started: until it has got its process, no other may.
    starting: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Tells the holder of `starting` that somebody waits.
    pub(super) pressed: Notify,
    /// Told whenever a session has ended.
    quiet: Notify,
}

struct Table {
    next: u32,
    live: BTreeMap<SessionId, Live>,
    tree: Option<Tree>,
    root: Option<u32>,
    closed: bool,
}

struct Live {
    grant: Arc<Grant>,
    guard: Guard,
    /// It has ended; its processes are being seen off.
    revoked: bool,
    sockets: Vec<Socket>,
    refusals: u32,
    spent: Spent,
    signals: mpsc::UnboundedSender<Signal>,
    /// To whoever compares own filters; when it goes, the last one has been told of.
    attached: mpsc::UnboundedSender<Attached>,
}

/// An armed socket.
struct Socket {
    inode: u64,
    place: Arc<Place>,
}

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// See [`GrantError`].
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// See [`GuardError`].
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The system would not.
    #[error("the session could not be set up: {0}")]
    System(#[from] io::Error),
    /// The one before it has not got its process yet.
    #[error("another capture is just being started; try again in a few seconds")]
    Busy,
    /// Too many.
    #[error("{MAX_SESSIONS} captures are running already; stop one first")]
    TooMany,
    /// The server has gone.
    #[error("the server is shutting down")]
    Closed,
}

impl Sessions {
    /// No sessions yet. Without a `tree`, processes are attributed to the only live session, or
    /// to none.
    pub fn new(
        attribution: Attribution,
        compiler: Compiler,
        cgroup: Option<Cgroup>,
        tree: Option<Tree>,
        events: Events,
    ) -> Self {
        Self(Arc::new(Shared {
            server: 1, // one server per agent, so far
            attribution,
            compiler,
            cgroup,
            events,
            table: Mutex::new(Table {
                next: 1,
                live: BTreeMap::new(),
                tree,
                root: None,
                closed: false,
            }),
            starting: Arc::new(Semaphore::new(1)),
            waiting: AtomicUsize::new(0),
            pressed: Notify::new(),
            quiet: Notify::new(),
        }))
    }

    /// Governs the server's process, before it executes anything.
    pub fn govern(&self, process: u32) -> io::Result<()> {
        let mut table = self.0.table();
        table.root = Some(process);
        match table.tree.as_mut() {
            Some(tree) => tree.govern(process, self.0.server),
            None => Ok(()),
        }
    }

    /// The cgroup that the server is to live in.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.0.cgroup.as_ref()
    }

    /// Opens a session: when this returns, its guard is loaded and its processes may come.
    pub async fn start(&self, terms: Terms) -> Result<(SessionId, Arc<Grant>), SessionError> {
        self.0.waiting.fetch_add(1, Ordering::AcqRel);
        self.0.pressed.notify_waiters();
        let permit =
            tokio::time::timeout(START_LIMIT, Arc::clone(&self.0.starting).acquire_owned());
        let permit = permit.await;
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        let permit = permit
            .map_err(|_| SessionError::Busy)?
            .map_err(|_| SessionError::Closed)?;

        let present = kernel::list().await?;
        let compiler = self.0.compiler.clone();
        // libpcap and the verifier take milliseconds: not on a thread that others wait for.
        let made = tokio::task::spawn_blocking(move || -> Result<_, SessionError> {
            let grant = Grant::make(terms, &present, &compiler)?;
            let guard = Guard::load(&grant.plan)?;
            Ok((Arc::new(grant), guard))
        });
        let (grant, mut guard) = made.await.map_err(io::Error::other)??;
        let ends = guard
            .take_ends()
            .ok_or_else(|| io::Error::other("the guard has no events"))?;
        let (signals, inbox) = mpsc::unbounded_channel();
        let (attached, filters) = mpsc::unbounded_channel();
        let instances = Arc::clone(guard.instances());
        let session = self.0.insert(&grant, guard, signals, attached)?;
        self.0.events.send(SessionEvent::Opened {
            session,
            grant: Arc::clone(&grant),
        });
        let comparer = Comparer::new(Arc::clone(&grant), self.0.compiler.clone());
        let comparing = compare::run(session, filters, comparer, self.0.events.clone());
        let comparing = tokio::spawn(comparing);
        let lifecycle = Lifecycle::new(
            self.clone(),
            session,
            &grant,
            inbox,
            permit,
            instances,
            comparing,
        );
        tokio::spawn(lifecycle.run(ends));
        Ok((session, grant))
    }

    /// The call that opened the session was answered.
    pub fn replied(&self, session: SessionId) {
        self.0.signal(session, Signal::Replied);
    }

    /// The server is being told to stop the session's capture.
    pub fn stopping(&self, session: SessionId) {
        self.0.signal(session, Signal::Stopping);
    }

    /// Ends the session.
    pub fn end(&self, session: SessionId, reason: EndReason) {
        self.0.signal(session, Signal::End(reason));
    }

    /// The sessions that have not ended, oldest first.
    pub fn live(&self) -> Vec<SessionId> {
        self.0.table().live.keys().copied().collect()
    }

    /// Ends every session and opens no more; returns when all have ended.
    pub async fn close(&self, reason: EndReason) {
        self.0.table().closed = true;
        loop {
            let quiet = self.0.quiet.notified();
            let live = self.live();
            if live.is_empty() {
                return;
            }
            for session in live {
                self.end(session, reason);
            }
            quiet.await;
        }
    }

    /// Follows the interfaces: a grant names them, the guard compares indexes. Never returns
    /// while the host can be watched.
    pub async fn follow_interfaces(&self) -> io::Result<()> {
        let mut changes = kernel::changes()?;
        while kernel::changed(&mut changes).await {
            let present = kernel::list().await?;
            self.0.update_interfaces(&present);
        }
        Err(io::Error::other(
            "the kernel tells no more of its interfaces",
        ))
    }

    /// The server's own process: it is never ended for a capture's sake.
    pub(super) fn spared(&self) -> Option<u32> {
        match self.0.attribution {
            Attribution::ByCall => self.0.table().root,
            Attribution::WholeTree => None,
        }
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // A poisoned table is still a table: every change to it is complete at each await and
        // each panic point, and refusing to end sessions would be worse.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(
        &self,
        grant: &Arc<Grant>,
        guard: Guard,
        signals: mpsc::UnboundedSender<Signal>,
        attached: mpsc::UnboundedSender<Attached>,
    ) -> Result<SessionId, SessionError> {
        let mut table = self.table();
        if table.closed {
            return Err(SessionError::Closed);
        }
        if table.live.len() >= MAX_SESSIONS {
            return Err(SessionError::TooMany);
        }
        let session = SessionId(table.next);
        table.next += 1;
        if let Some(tree) = table.tree.as_mut() {
            tree.open_window(self.server, session.0)?;
        }
        let live = Live {
            grant: Arc::clone(grant),
            guard,
            revoked: false,
            sockets: Vec::new(),
            refusals: 0,
            spent: Spent::default(),
            signals,
            attached,
        };
        table.live.insert(session, live);
        Ok(session)
    }

    /// Tells a session; one that has ended needs no telling.
    fn signal(&self, session: SessionId, signal: Signal) {
        if let Some(live) = self.table().live.get(&session) {
            let _ = live.signals.send(signal);
        }
    }

    /// What the server forks from now on belongs to no session.
    pub(super) fn close_window(&self) {
        if let Some(tree) = self.table().tree.as_mut() {
            tree.close_window(self.server);
        }
    }

    pub(super) fn somebody_waits(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Nothing is delivered any more. The count that this returns is final but for packets that
    /// are inside the guard at this very moment.
    pub(super) fn revoke(&self, session: SessionId) {
        if let Some(live) = self.table().live.get_mut(&session) {
            live.revoked = true;
            if let Err(error) = live.guard.revoke() {
                // The deadline and the caps hold without us; the processes are ended next.
                tracing::error!(%session, %error, "the grant could not be revoked");
            }
        }
    }

    pub(super) fn counts(&self, session: SessionId) -> State {
        self.table()
            .live
            .get(&session)
            .and_then(|live| live.guard.state().ok())
            .unwrap_or_default()
    }

    pub(super) fn inodes(&self, session: SessionId) -> Vec<u64> {
        let table = self.table();
        table
            .live
            .get(&session)
            .map(|live| live.sockets.iter().map(|socket| socket.inode).collect())
            .unwrap_or_default()
    }

    /// The slot of an armed socket. Also of a session that has just ended: nothing is delivered any
    /// more, but its tools are given the time to end in good order, and libpcap takes an error here
    /// for a reason to write no file.
    fn place(&self, inode: u64) -> Option<(SessionId, Arc<Place>)> {
        let table = self.table();
        let mut live = table.live.iter();
        live.find_map(|(session, live)| {
            let socket = live.sockets.iter().find(|socket| socket.inode == inode)?;
            Some((*session, Arc::clone(&socket.place)))
        })
    }

    /// Whether a session may attach one more filter of its own; it is counted then.
    fn may_attach(&self, session: SessionId) -> Result<(), Rejection> {
        let mut table = self.table();
        let live = table.live.get_mut(&session);
        if live.is_some_and(|live| live.spent.one_more()) {
            return Ok(());
        }
        Err(Rejection::Refused(Self::refuse(
            own_filter::FILTER_YOURSELF,
            format!(
                "session {session} has attached too many capture filters, or ones that \
                 take the kernel long to check; its sockets keep those they have"
            ),
        )))
    }

    /// Loads an own filter, in the verifier's time, and puts it in its place.
    fn attach(
        &self,
        caller: &Caller,
        session: SessionId,
        place: &Place,
        program: Program,
        waits: &dyn Fn() -> bool,
    ) -> Result<(), Errno> {
        let started = Instant::now();
        let loaded = own_filter::load(place.slot(), &program);
        let took = started.elapsed();
        if let Some(live) = self.table().live.get_mut(&session) {
            live.spent.worked(took);
        }
        place.put(&loaded?, waits)?;
        if !program.accepts_nothing()
            && let Some(live) = self.table().live.get(&session)
        {
            let _ = live.attached.send(Attached {
                caller: caller.clone(),
                kind: place.slot().kind(),
                program,
            });
        }
        Ok(())
    }

    pub(super) fn remove(&self, session: SessionId) {
        self.table().live.remove(&session);
        self.quiet.notify_waiters();
    }

    fn update_interfaces(&self, present: &[Interface]) {
        for (session, live) in &mut self.table().live {
            let indexes = live.grant.indexes(present);
            if let Err(error) = live.guard.set_interfaces(&indexes) {
                tracing::error!(%session, %error, "the interfaces could not be updated");
                let _ = live.signals.send(Signal::End(EndReason::Revoked));
            }
        }
    }

    fn refuse(errno: Errno, reason: impl Into<String>) -> Refusal {
        Refusal {
            errno,
            reason: reason.into(),
        }
    }

    /// The session that a process belongs to.
    fn attribute(&self, table: &Table, caller: &Caller) -> Result<SessionId, Refusal> {
        let only = || {
            let mut sessions = table.live.keys();
            match (sessions.next(), sessions.next()) {
                (Some(session), None) => Ok(*session),
                (None, _) => Err("no capture session is open"),
                (Some(_), Some(_)) => Err("it cannot be told which session it belongs to"),
            }
        };
        let found = match (self.attribution, &table.tree) {
            (Attribution::WholeTree, _) | (Attribution::ByCall, None) => only(),
            (Attribution::ByCall, Some(tree)) => match tree.tag(caller.process) {
                Some(tag) if tag.server == self.server && tag.session != 0 => {
                    Ok(SessionId(tag.session))
                }
                Some(_) => Err("no capture call was open when it was started"),
                None => Err("it does not descend from the server"),
            },
        };
        match found {
            Ok(session) if table.live.contains_key(&session) => Ok(session),
            Ok(_) => Err(Self::refuse(Errno::PERM, "its session has ended")),
            Err(why) => Err(Self::refuse(Errno::PERM, why)),
        }
    }
}

impl Admit for Sessions {
    fn admit(&self, caller: &Caller, call: SocketCall) -> Result<ArmedSocket, Refusal> {
        let mut table = self.0.table();
        let session = self.0.attribute(&table, caller)?;
        let live = table
            .live
            .get_mut(&session)
            .ok_or_else(|| Shared::refuse(Errno::PERM, "its session has ended"))?;
        if live.sockets.len() >= MAX_SOCKETS {
            return Err(Shared::refuse(
                Errno::MFILE,
                format!("session {session} has opened {MAX_SOCKETS} sockets already"),
            ));
        }
        let late = live.grant.deadline.is_some_and(BootTime::has_passed);
        let ended = live.guard.state().map_or(true, |state| has_ended(&state));
        if live.revoked || late || ended {
            return Err(Shared::refuse(Errno::PERM, "its session has ended"));
        }
        let (socket, slot) = arm(&live.guard, call)
            .map_err(|error| Shared::refuse(error.errno, error.to_string()))?;
        live.sockets.push(Socket {
            inode: socket.inode(),
            place: Arc::new(Place::new(slot)),
        });
        Ok(socket)
    }

    fn armed_for(&self, inode: u64) -> Option<u32> {
        self.0.place(inode).map(|(session, _)| session.0)
    }

    // Never refused: there is no more to take off than was put on.
    fn detach(&self, inode: u64) -> Result<(), Rejection> {
        let (_, place) = self.0.place(inode).ok_or(SESSION_FORGOTTEN)?;
        place.clear().map_err(Rejection::Kernel)
    }

    fn attach(
        &self,
        caller: &Caller,
        inode: u64,
        filter: Vec<Insn>,
        waits: &dyn Fn() -> bool,
    ) -> Result<(), Rejection> {
        if !waits() {
            return Err(Rejection::Kernel(Errno::INTR));
        }
        let (session, place) = self.0.place(inode).ok_or(SESSION_FORGOTTEN)?;
        self.0.may_attach(session)?;
        let program = own_filter::check(filter).map_err(Rejection::Kernel)?;
        let attached = self.0.attach(caller, session, &place, program, waits);
        attached.map_err(Rejection::Kernel)
    }

    fn may_bind(&self, caller: &Caller, index: u32) -> Result<(), Refusal> {
        let table = self.0.table();
        let Ok(session) = self.0.attribute(&table, caller) else {
            return Ok(()); // it has no capture socket that it could bind
        };
        let granted = index == 0
            || table.live.get(&session).is_none_or(|live| {
                live.guard.covers(index) || live.grant.terms.interfaces == InterfaceTerms::Any
            });
        if granted {
            return Ok(());
        }
        Err(Shared::refuse(
            Errno::PERM,
            format!("session {session} was not granted the interface with index {index}"),
        ))
    }

    fn armed(&self, caller: Caller, call: SocketCall, _inode: u64) {
        let table = self.0.table();
        let Ok(session) = self.0.attribute(&table, &caller) else {
            return; // ended between two lines: the guard is revoked already
        };
        if let Some(live) = table.live.get(&session) {
            let _ = live.signals.send(Signal::Armed(caller.process));
        }
        drop(table);
        self.0.events.send(SessionEvent::Armed {
            session,
            caller,
            kind: call.kind,
        });
    }

    fn refused(&self, caller: Option<Caller>, refusal: Refusal) {
        if let Some(caller) = &caller {
            let mut table = self.0.table();
            if let Ok(session) = self.0.attribute(&table, caller)
                && let Some(live) = table.live.get_mut(&session)
            {
                live.refusals += 1;
                if live.refusals == MAX_REFUSALS {
                    let _ = live.signals.send(Signal::End(EndReason::Violation));
                }
            }
        }
        self.0.events.refused(caller, refusal);
    }
}
