//! Receive rings of capture sockets: kernel memory that is charged to nobody else, so it is counted here.
//!
//! What is set counts until it is set to nothing, or until its socket has gone, which is looked at when
//! there is no room otherwise. It goes on counting for the server when the session has ended: the
//! server's own process is not ended with it, and may keep the socket.

use std::collections::HashSet;

use super::{
    SessionId,
    registry::{Live, Shared, Socket, Table},
};
use crate::kernel::{Errno, Refusal, Rejection, packet_sockets};

/// For each socket. libpcap asks for 2 MiB if it is not told otherwise.
const OF_SOCKET: u64 = 64 << 20;
/// For all sockets of a session.
const OF_SESSION: u64 = 256 << 20;
/// For all sockets of a server, those of sessions that have ended included.
const OF_SERVER: u64 = 1 << 30;

/// The receive ring of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ring {
    bytes: u64,
    /// A larger one was refused. libpcap asks some forty times for a little less; the record has
    /// the first.
    refused: bool,
}

/// A ring whose session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeftRing {
    inode: u64,
    bytes: u64,
}

/// What there is no room in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Socket,
    Session,
    Server,
}

impl Bound {
    fn refuse(self, session: SessionId) -> Refusal {
        let bound = match self {
            Self::Socket => format!("{} MiB for each socket", OF_SOCKET >> 20),
            Self::Session => format!("{} MiB for all sockets of {session}", OF_SESSION >> 20),
            Self::Server => format!("{} MiB for all sockets of the server", OF_SERVER >> 20),
        };
        Refusal {
            // libpcap asks for less then.
            errno: Errno::NOMEM,
            reason: format!("a receive ring has at most {bound}; ask for a smaller buffer"),
        }
    }
}

impl Shared {
    /// Sets the ring of an armed socket by `set`, if there is room for it. Of one session only one
    /// is set at a time.
    pub(super) fn set_ring(
        &self,
        inode: u64,
        bytes: u64,
        set: &dyn Fn() -> Result<(), Errno>,
    ) -> Result<(), Rejection> {
        let before = self.table().reserve_ring(inode, bytes)?;
        match set() {
            Ok(()) => self.table().settle_ring(inode, bytes),
            Err(errno) => {
                // What was there is there still.
                self.table().settle_ring(inode, before);
                return Err(Rejection::Kernel(errno));
            }
        }
        Ok(())
    }
}

impl Table {
    /// The ring of a socket has this size now; its session may have ended meanwhile.
    fn settle_ring(&mut self, inode: u64, bytes: u64) {
        if let Some((_, socket)) = self.socket(inode) {
            socket.ring.bytes = bytes;
        } else if let Some(left) = self.left_rings.iter_mut().find(|ring| ring.inode == inode) {
            left.bytes = bytes;
        }
    }

    /// Takes a ring of so many bytes into account beside the socket's, whose size it returns: until it is settled
    /// which of them there is, the larger counts.
    fn reserve_ring(&mut self, inode: u64, bytes: u64) -> Result<u64, Rejection> {
        let mut lacking = self.lacking(inode, bytes);
        if matches!(lacking, Some(Bound::Session | Bound::Server)) {
            self.forget_rings();
            lacking = self.lacking(inode, bytes);
        }
        let Some((session, socket)) = self.socket(inode) else {
            return Err(Rejection::Kernel(Errno::PERM));
        };
        if let Some(bound) = lacking {
            if std::mem::replace(&mut socket.ring.refused, true) {
                return Err(Rejection::Kernel(Errno::NOMEM));
            }
            return Err(Rejection::Refused(bound.refuse(session)));
        }
        let before = socket.ring.bytes;
        socket.ring.bytes = before.max(bytes);
        Ok(before)
    }

    fn lacking(&self, inode: u64, bytes: u64) -> Option<Bound> {
        if bytes > OF_SOCKET {
            return Some(Bound::Socket);
        }
        let of = |live: &Live| -> u64 {
            let others = live.sockets.iter().filter(|socket| socket.inode != inode);
            others.map(|socket| socket.ring.bytes).sum()
        };
        let its = |live: &&Live| live.sockets.iter().any(|socket| socket.inode == inode);
        let of_session: u64 = self.live.values().find(its).map_or(0, of);
        if bytes > 0 && of_session.saturating_add(bytes) > OF_SESSION {
            return Some(Bound::Session);
        }
        let left = self.left_rings.iter().map(|ring| ring.bytes);
        let of_server: u64 = self.live.values().map(of).chain(left).sum();
        (bytes > 0 && of_server.saturating_add(bytes) > OF_SERVER).then_some(Bound::Server)
    }

    /// Forgets the rings of sockets that are not there any more.
    fn forget_rings(&mut self) {
        match packet_sockets() {
            Ok(alive) => self.keep_rings(&alive),
            Err(error) => tracing::warn!(%error, "it cannot be told which receive rings are left"),
        }
    }

    fn keep_rings(&mut self, alive: &HashSet<u64>) {
        self.left_rings.retain(|ring| alive.contains(&ring.inode));
        let sockets = self.live.values_mut().flat_map(|live| &mut live.sockets);
        for socket in sockets.filter(|socket| !alive.contains(&socket.inode)) {
            socket.ring.bytes = 0;
        }
    }

    /// What a session that has ended leaves behind.
    pub(super) fn leave_rings(&mut self, sockets: &[Socket]) {
        let rings = sockets.iter().filter(|socket| socket.ring.bytes > 0);
        let before = self.left_rings.len();
        self.left_rings.extend(rings.map(|socket| LeftRing {
            inode: socket.inode,
            bytes: socket.ring.bytes,
        }));
        if self.left_rings.len() > before {
            self.forget_rings();
        }
    }

    fn socket(&mut self, inode: u64) -> Option<(SessionId, &mut Socket)> {
        self.live.iter_mut().find_map(|(session, live)| {
            let mut sockets = live.sockets.iter_mut();
            let socket = sockets.find(|socket| socket.inode == inode)?;
            Some((*session, socket))
        })
    }
}
