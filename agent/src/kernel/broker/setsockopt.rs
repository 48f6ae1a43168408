//! Options of capture sockets that the agent sets for governed processes: their own filters, receive rings, memberships.
//!
//! Whatever stands behind a pointer is read once, and what was read is what is done. All of it may take long, so it
//! is done aside.

use std::{
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use capwarden_abi::packet_option::{ADD_MEMBERSHIP, RX_RING};

use super::{
    super::{
        aside::{Aside, Full},
        notify::{Listener, Notification},
        own_filter::{self, FilterCall},
        packet_membership::PacketMembership,
        packet_sockets,
        rings::{self, RingCall},
        seccomp::SOL_PACKET,
    },
    Admit, Caller, Errno, Refusal, Rejection,
};

pub(super) fn answer<A: Admit>(
    listener: &Arc<Listener>,
    admit: &Arc<A>,
    call: Notification,
    caller: Option<Caller>,
    aside: &Aside,
) {
    let option = (call.number_argument(1), call.number_argument(2));
    let waiting = caller.map(|caller| Waiting {
        listener: Arc::clone(listener),
        admit: Arc::clone(admit),
        call,
        caller,
    });
    match (option, waiting) {
        ((SOL_PACKET, _), None) => {
            let _ = listener.fail(&call, Errno::PERM);
        }
        ((SOL_PACKET, RX_RING), Some(waiting)) => waiting.ring(aside),
        ((SOL_PACKET, ADD_MEMBERSHIP), Some(waiting)) => waiting.membership(aside),
        ((SOL_PACKET, _), Some(_)) => {
            let _ = listener.fail(&call, Errno::PERM);
        }
        (_, None) => {
            let _ = listener.go_on(&call); // see `filter`
        }
        (_, Some(waiting)) => waiting.filter(aside),
    }
}

/// A caller that waits for its option to be set.
struct Waiting<A> {
    listener: Arc<Listener>,
    admit: Arc<A>,
    call: Notification,
    caller: Caller,
}

impl<A: Admit> Waiting<A> {
    /// Puts a filter into the slot of the capture socket that the caller means.
    ///
    /// Every other socket is the kernel's business, so the call goes on; and that is sound, whatever the
    /// number means by then: the filter of a capture socket is locked, and the kernel says EPERM.
    /// What is put into a slot was read once, and can only take packets from the socket that the
    /// number meant when we looked.
    ///
    /// Putting one on may be over when the caller is gone, or was interrupted by a signal;
    /// then nothing is put anywhere, for the number may mean another socket by then, or the
    /// caller may have put on another filter.
    fn filter(self, aside: &Aside) {
        let armed = packet_sockets::inode_of_call(&self.call)
            .and_then(|inode| Some((inode, self.admit.armed_for(inode)?)));
        let Some((inode, session)) = armed else {
            let _ = self.listener.go_on(&self.call);
            return;
        };
        if !self.waits() {
            return; // it was another process that we looked at
        }
        match FilterCall::of(&self.call) {
            Ok(FilterCall::Attach) => {}
            Ok(FilterCall::Detach) => {
                self.done(self.admit.detach(inode));
                return;
            }
            Err(errno) => {
                self.done(Err(Rejection::Kernel(errno)));
                return;
            }
        }
        // As where the kernel has no room for one more filter.
        let full = Rejection::Refused(Refusal {
            errno: Errno::NOMEM,
            reason: format!(
                "too many capture filters wait for the kernel to check them; session {session} \
                 may attach this one when they are done"
            ),
        });
        let attach = move |it: &Self| {
            let filter = it.read(own_filter::read)?;
            it.admit.attach(&it.caller, inode, filter, &|| it.waits())
        };
        self.set_aside(aside, session, full, attach, |_| {});
    }

    /// Sets the receive ring of the capture socket that the caller means, if its size is within
    /// bounds. The call never goes on: its size could be another one by then. Sockets that are not armed
    /// are answered as the kernel does sockets that capture nothing.
    fn ring(self, aside: &Aside) {
        let Some((socket, inode, session)) = self.armed_socket() else {
            return;
        };
        let cleared = Arc::clone(&socket);
        let ring = move |it: &Self| {
            let wanted = it.read(RingCall::read)?;
            let set = || match it.waits() {
                true => wanted.set(&socket),
                false => Err(Errno::INTR),
            };
            it.admit.ring(inode, wanted.memory(), &set)
        };
        // A caller that a signal has interrupted asks again, and knows of no ring.
        let undo = move |it: &Self| {
            let _ = it.admit.ring(inode, 0, &|| rings::clear(&cleared));
        };
        // libpcap takes this for a reason to ask for less, a few times.
        let full = Rejection::Kernel(Errno::NOMEM);
        self.set_aside(aside, session, full, ring, undo);
    }

    /// Has an interface receive what the caller wants, if that was granted. The call never goes on: it could mean
    /// another interface by then.
    fn membership(self, aside: &Aside) {
        let Some((socket, inode, session)) = self.armed_socket() else {
            return;
        };
        let add = move |it: &Self| {
            let wanted = it.read(PacketMembership::read)?;
            it.admit
                .add_membership(inode, &wanted, &|| wanted.add(&socket))
        };
        let full = Rejection::Kernel(Errno::NOBUFS);
        // Who asks once more asks for the same.
        self.set_aside(aside, session, full, add, |_| {});
    }

    /// The armed socket that the caller means, its inode and session. None if it means no such socket, which it is told.
    fn armed_socket(&self) -> Option<(Arc<OwnedFd>, u64, u32)> {
        let armed = packet_sockets::of_call(&self.call, self.caller.process);
        let armed = armed.and_then(|(socket, inode)| {
            let session = self.admit.armed_for(inode).ok_or(Errno::NOPROTOOPT)?;
            Ok((Arc::new(socket), inode, session))
        });
        if !self.waits() {
            return None; // it was another process that we looked at
        }
        armed
            .map_err(|errno| self.done(Err(Rejection::Kernel(errno))))
            .ok()
    }

    /// What stands behind the caller's pointers, if it was read of who waits. Only aside: it takes as long as that memory
    /// does.
    fn read<T>(
        &self,
        read: impl FnOnce(&Notification) -> Result<T, Errno>,
    ) -> Result<T, Rejection> {
        let read = read(&self.call);
        match self.waits() {
            true => read.map_err(Rejection::Kernel),
            // It was another process that we read from; nobody hears this.
            false => Err(Rejection::Kernel(Errno::INTR)),
        }
    }

    fn waits(&self) -> bool {
        self.listener.is_waiting(&self.call)
    }

    /// Has something done when it is the session's turn, and answers with what comes of it; with `full` if too much
    /// waits already. What was done for nobody any more is undone.
    fn set_aside(
        self,
        aside: &Aside,
        session: u32,
        full: Rejection,
        set: impl FnOnce(&Self) -> Result<(), Rejection> + Send + 'static,
        undo: impl FnOnce(&Self) + Send + 'static,
    ) {
        let waiting = Arc::new(self);
        let job = {
            let waiting = Arc::clone(&waiting);
            move || {
                // Whatever happens, the caller must not be left waiting.
                let done = catch_unwind(AssertUnwindSafe(|| set(&waiting)));
                let done = done.unwrap_or(Err(Rejection::Kernel(Errno::PERM)));
                let is_set = done.is_ok();
                if !waiting.done(done) && is_set {
                    undo(&waiting);
                }
            }
        };
        if let Err(Full) = aside.push(session, job) {
            waiting.done(Err(full));
        }
    }

    /// Answers. False if nobody waited for it any more.
    fn done(&self, done: Result<(), Rejection>) -> bool {
        let Self { listener, call, .. } = self;
        match done {
            Ok(()) => listener.succeed(call).is_ok(),
            Err(Rejection::Kernel(errno)) => listener.fail(call, errno).is_ok(),
            Err(Rejection::Refused(refusal)) => {
                let told = listener.fail(call, refusal.errno).is_ok();
                if told {
                    self.admit.refused(Some(self.caller.clone()), refusal);
                }
                told
            }
        }
    }
}
