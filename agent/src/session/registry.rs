//! The sessions of one governed server, and which process belongs to which.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::{JoinHandle, JoinSet},
};

use super::{
    EndReason, Events, Grant, GrantError, Protocols, SessionEvent, SessionId, SessionKind,
    compare::{self, Comparer},
    lifecycle::{Lifecycle, Signal},
    own_filter::{Attached, Place, Spent},
    program::{LiveProgram, ProgramError},
    proxy::{LiveProxy, Network, ProxyError},
    rings::{LeftRing, Ring},
};
use capwarden_abi::State;

use crate::{
    filter::Compiler,
    kernel::{
        self, Admit as _, Backstop, Cgroup, Deputy, Egress, EgressError, Guard, GuardError,
        Interface, Membership, PacketMembership, Tree,
    },
    policy::{InterfaceTerms, Terms},
};

/// Sessions of one kind that may live at once.
pub(super) const MAX_SESSIONS: usize = 64;
/// How long a capture waits for the one before it to get its process.
const START_LIMIT: Duration = Duration::from_secs(10);

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
    pub(super) server: u32,
    pub(super) attribution: Attribution,
    pub(super) compiler: Compiler,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) events: Events,
    /// What refuses its processes once more, where the kernel has that.
    pub(super) backstop: Option<Arc<Backstop>>,
    /// What keeps capture sockets from sending, where the host has it.
    egress: Option<Arc<Egress>>,
    /// What bounds the server's network, if anything does.
    pub(super) network: OnceLock<Network>,
    /// What takes up forks of programs, where the server may have sessions for these.
    pub(super) forks: OnceLock<JoinSet<()>>,
    /// Held by the session for programs that is being opened.
    pub(super) opening: tokio::sync::Mutex<()>,
    pub(super) table: Mutex<Table>,
    /// Held by the capture that is being started: until it has got its process, no other may.
    pub(super) starting: Arc<Semaphore>,
    pub(super) waiting: AtomicUsize,
    /// Tells the holder of `starting` that somebody waits.
    pub(super) pressed: Notify,
    /// Told whenever a session has ended.
    pub(super) quiet: Notify,
    /// The session whose end the server must not survive. Whoever restarts it listens.
    pub(super) restart: watch::Sender<Option<SessionId>>,
}

pub(super) struct Table {
    pub(super) live: BTreeMap<SessionId, Live>,
    pub(super) proxies: BTreeMap<SessionId, LiveProxy>,
    /// Those that have ended are there until their processes and calls are over.
    pub(super) programs: BTreeMap<SessionId, LiveProgram>,
    /// Of sockets whose sessions have ended.
    pub(super) left_rings: Vec<LeftRing>,
    pub(super) tree: Option<Tree>,
    pub(super) root: Option<u32>,
    /// The processes that the backstop refuses.
    membership: Option<Membership>,
    pub(super) closed: bool,
}

pub(super) struct Live {
    pub(super) grant: Arc<Grant>,
    pub(super) guard: Guard,
    /// It has ended; its processes are being seen off.
    pub(super) revoked: bool,
    pub(super) sockets: Vec<Socket>,
    pub(super) refusals: u32,
    pub(super) spent: Spent,
    pub(super) signals: mpsc::UnboundedSender<Signal>,
    /// To whoever compares own filters; when it goes, the last one has been told of.
    pub(super) attached: mpsc::UnboundedSender<Attached>,
}

/// An armed socket.
pub(super) struct Socket {
    pub(super) inode: u64,
    pub(super) place: Arc<Place>,
    pub(super) ring: Ring,
    /// All that it has ever asked for.
    pub(super) memberships: Vec<PacketMembership>,
}

impl Live {
    /// Whether an interface was granted, by its index.
    pub(super) fn covers(&self, index: u32) -> bool {
        self.guard.covers(index) || self.grant.terms.interfaces == InterfaceTerms::Any
    }
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
    /// See [`EgressError`].
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// The system would not.
    #[error("the session could not be set up: {0}")]
    System(#[from] io::Error),
    /// See [`ProxyError`].
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// See [`ProgramError`].
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Programs run: what the server starts belongs to one session only.
    #[error(
        "the server's programs run in {0}, and what it starts belongs to one session; end that first"
    )]
    Programs(SessionId),
    /// The one before it has not got its process yet.
    #[error("another capture is just being started; try again in a few seconds")]
    Busy,
    /// Too many.
    #[error("{MAX_SESSIONS} of these are running already; stop one first")]
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
        backstop: Option<Arc<Backstop>>,
        egress: Option<Arc<Egress>>,
        events: Events,
    ) -> Self {
        let roll = events.roll();
        let shared = Arc::new(Shared {
            server: 1, // one server per agent, so far
            attribution,
            compiler,
            cgroup,
            events,
            backstop,
            egress,
            network: OnceLock::new(),
            forks: OnceLock::new(),
            opening: tokio::sync::Mutex::new(()),
            table: Mutex::new(Table {
                live: BTreeMap::new(),
                proxies: BTreeMap::new(),
                programs: BTreeMap::new(),
                left_rings: Vec::new(),
                tree,
                root: None,
                membership: None,
                closed: false,
            }),
            starting: Arc::new(Semaphore::new(1)),
            waiting: AtomicUsize::new(0),
            pressed: Notify::new(),
            quiet: Notify::new(),
            restart: watch::Sender::new(None),
        });
        roll.enrol(&shared);
        Self(shared)
    }

    /// Governs the server's process, before it executes anything.
    ///
    /// It may reach these of the daemons that start programs for others.
    pub fn govern(&self, process: u32, reached: &[Deputy]) -> io::Result<()> {
        let mut table = self.0.table();
        table.root = Some(process);
        table.membership = None; // of the process before, which had the same cgroup
        if let Some(backstop) = &self.0.backstop {
            let sessions = Arc::downgrade(&self.0);
            let tell = move |caller, refusal| {
                if let Some(sessions) = sessions.upgrade() {
                    Self(sessions).refused(Some(caller), refusal);
                }
            };
            table.membership =
                Some(backstop.govern(process, self.0.cgroup.as_ref(), reached, tell)?);
        }
        match table.tree.as_mut() {
            Some(tree) => tree.govern(process, self.0.server),
            None => Ok(()),
        }
    }

    /// Becomes the session at whose end the server is to be restarted. Where nobody listens, no
    /// session is opened that may demand that.
    pub fn restarts(&self) -> watch::Receiver<Option<SessionId>> {
        self.0.restart.subscribe()
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
        let covered = self.0.keep_in(present.clone(), Egress::cover);
        let compiler = self.0.compiler.clone();
        // libpcap and the verifier take milliseconds: not on a thread that others wait for.
        let made = tokio::task::spawn_blocking(move || -> Result<_, SessionError> {
            let grant = Grant::make(terms, &present, &compiler)?;
            let guard = Guard::load(&grant.plan)?;
            Ok((Arc::new(grant), guard))
        });
        let (grant, mut guard) = made.await.map_err(io::Error::other)??;
        covered.await.map_err(io::Error::other)??;
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
        if let Some(program) = self.0.table().programs.get(&session) {
            program.replied();
            return;
        }
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
        let table = self.0.table();
        let live = table.live.keys().chain(table.proxies.keys());
        let mut live: Vec<SessionId> = live.copied().chain(table.open_programs()).collect();
        live.sort_unstable();
        live
    }

    /// Those of one kind.
    pub fn live_of(&self, kind: SessionKind) -> Vec<SessionId> {
        let table = self.0.table();
        match kind {
            SessionKind::Capture => table.live.keys().copied().collect(),
            SessionKind::Proxy => table.proxies.keys().copied().collect(),
            SessionKind::Program => table.open_programs().collect(),
        }
    }

    /// Ends every session and opens no more; returns when all have ended.
    pub async fn close(&self, reason: EndReason) {
        self.0.table().closed = true;
        loop {
            let quiet = self.0.quiet.notified();
            let mut live = self.live();
            // Also those that still wait for calls.
            live.extend(self.0.table().programs.keys());
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
            let covered = self.0.keep_in(present.clone(), Egress::follow);
            let covered = covered.await.map_err(io::Error::other)?;
            if let Err(error) = covered {
                self.0.end_captures(&error);
            }
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
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
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
        if let Some((programs, _)) = table.programs.first_key_value() {
            return Err(SessionError::Programs(*programs));
        }
        let session = self.events.next_session();
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

    /// Sees to it that no interface lets out what a capture socket sends. Takes a while for those that are
    /// new.
    fn keep_in(
        &self,
        present: Vec<Interface>,
        how: fn(&Egress, &[Interface]) -> Result<(), EgressError>,
    ) -> JoinHandle<Result<(), EgressError>> {
        let egress = self.egress.clone();
        let covered = move || egress.map_or(Ok(()), |egress| how(&egress, &present));
        tokio::task::spawn_blocking(covered)
    }

    /// Their sockets could send.
    fn end_captures(&self, why: &EgressError) {
        for (session, live) in &self.table().live {
            tracing::error!(%session, error = %why, "the session is ended");
            let _ = live.signals.send(Signal::End(EndReason::Revoked));
        }
    }

    /// Tells a session; one that has ended needs no telling.
    fn signal(&self, session: SessionId, signal: Signal) {
        let table = self.table();
        if let Some(live) = table.live.get(&session) {
            let _ = live.signals.send(signal);
        } else if let (Some(proxy), Signal::End(reason)) = (table.proxies.get(&session), signal) {
            proxy.end(reason);
        } else if let (Some(program), Signal::End(reason)) = (table.programs.get(&session), signal)
        {
            program.end(reason);
        }
    }

    /// What the server forks from now on belongs to no capture.
    pub(super) fn close_window(&self) {
        let mut table = self.table();
        let programs = table.programs_window();
        let Some(tree) = table.tree.as_mut() else {
            return;
        };
        match programs {
            None => tree.close_window(self.server),
            Some(session) => {
                if let Err(error) = tree.open_window(self.server, session.0) {
                    tracing::error!(%session, %error, "its programs are not known any more");
                    if let Some(program) = table.programs.get(&session) {
                        program.end(EndReason::Revoked);
                    }
                }
            }
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

    /// What a session's guard has counted, and the same by protocol.
    pub(super) fn counts(&self, session: SessionId) -> (State, Protocols) {
        let table = self.table();
        let guard = table.live.get(&session).map(|live| &live.guard);
        let state = guard.and_then(|guard| guard.state().ok());
        let protocols = guard.and_then(|guard| guard.protocols().ok());
        let protocols = protocols.as_ref().map(Protocols::from);
        (state.unwrap_or_default(), protocols.unwrap_or_default())
    }

    pub(super) fn inodes(&self, session: SessionId) -> Vec<u64> {
        let table = self.table();
        table
            .live
            .get(&session)
            .map(|live| live.sockets.iter().map(|socket| socket.inode).collect())
            .unwrap_or_default()
    }

    pub(super) fn remove(&self, session: SessionId) {
        let mut table = self.table();
        if let Some(ended) = table.live.remove(&session) {
            table.leave_rings(&ended.sockets);
        }
        drop(table);
        self.quiet.notify_waiters();
    }

    pub(super) fn remove_proxy(&self, session: SessionId) {
        self.table().proxies.remove(&session);
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
        for (session, proxy) in &self.table().proxies {
            if let Err(error) = proxy.update_interfaces(present) {
                tracing::error!(%session, %error, "the interfaces could not be updated");
                proxy.end(EndReason::Revoked);
            }
        }
    }
}
