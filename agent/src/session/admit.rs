//! What the broker asks: which session a process belongs to, whether it may have a capture socket,
//! and what becomes of its own filter.

use std::{sync::Arc, time::Instant};

use super::{
    EndReason, SessionEvent, SessionId, Sessions,
    lifecycle::Signal,
    own_filter::{self, Attached, Place},
    registry::{Attribution, Shared, Socket, Table},
    rings::Ring,
};
use crate::{
    filter::{Insn, Program},
    kernel::{
        self, Admit, ArmedSocket, BootTime, Caller, Errno, PacketMembership, Refusal, Rejection,
        SocketCall, arm, has_ended,
    },
};

/// Capture sockets that one session may open in all.
const MAX_SOCKETS: usize = 64;
/// Refusals after which a session's processes are taken for hostile.
const MAX_REFUSALS: u32 = 1_000;

/// What the lock says that is on the socket of a session that is not known any more.
const SESSION_FORGOTTEN: Rejection = Rejection::Kernel(Errno::PERM);

impl Shared {
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
            Ok(session) if table.programs.contains_key(&session) => Err(Self::refuse(
                Errno::PERM,
                format!("{session} is a session for programs, which capture nothing"),
            )),
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
        if let Some(backstop) = &self.0.backstop {
            backstop
                .admit(&socket)
                .map_err(|errno| Shared::refuse(errno, format!("the backstop: {errno}")))?;
        }
        live.sockets.push(Socket {
            inode: socket.inode(),
            place: Arc::new(Place::new(slot)),
            ring: Ring::default(),
            memberships: Vec::new(),
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

    fn ring(
        &self,
        inode: u64,
        bytes: u64,
        set: &dyn Fn() -> Result<(), Errno>,
    ) -> Result<(), Rejection> {
        self.0.set_ring(inode, bytes, set)
    }

    fn add_membership(
        &self,
        inode: u64,
        wanted: &PacketMembership,
        add: &dyn Fn() -> Result<(), Errno>,
    ) -> Result<(), Rejection> {
        self.0.add_membership(inode, wanted, add)
    }

    fn may_bind(&self, caller: &Caller, index: u32) -> Result<(), Refusal> {
        let table = self.0.table();
        let Ok(session) = self.0.attribute(&table, caller) else {
            return Ok(()); // it has no capture socket that it could bind
        };
        let granted = index == 0
            || table
                .live
                .get(&session)
                .is_none_or(|live| live.covers(index));
        if granted {
            return Ok(());
        }
        Err(Shared::refuse(
            Errno::PERM,
            format!(
                "session {session} was not granted the interface {}",
                kernel::name_of(index)
            ),
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

    fn withdrawn(&self, inode: u64) {
        for live in self.0.table().live.values_mut() {
            live.sockets.retain(|socket| socket.inode != inode);
        }
    }

    fn refused(&self, caller: Option<Caller>, refusal: Refusal) {
        let mut its = None;
        if let Some(caller) = &caller {
            let mut table = self.0.table();
            if let Ok(session) = self.0.attribute(&table, caller)
                && let Some(live) = table.live.get_mut(&session)
            {
                its = Some(session);
                live.refusals += 1;
                if live.refusals == MAX_REFUSALS {
                    let _ = live.signals.send(Signal::End(EndReason::Violation));
                }
            }
        }
        self.0.events.refused(its, caller, refusal);
    }
}
