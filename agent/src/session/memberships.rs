//! Memberships of capture sockets: promiscuous mode, and multicast addresses. They are kernel memory that is charged to
//! nobody, so a socket has few; and they change what an interface receives, so it is one that was granted.

use super::registry::Shared;
use crate::kernel::{self, Errno, PacketMembership, Refusal, Rejection};

/// For each socket, different ones. Capture tools ask for one; leaving does not make room for more.
const OF_SOCKET: usize = 16;

impl Shared {
    /// Adds a membership of an armed socket by `add`, if it may have it.
    pub(super) fn add_membership(
        &self,
        inode: u64,
        wanted: &PacketMembership,
        add: &dyn Fn() -> Result<(), Errno>,
    ) -> Result<(), Rejection> {
        let refuse = |errno, reason| Err(Rejection::Refused(Refusal { errno, reason }));
        {
            let mut table = self.table();
            let mut sessions = table.live.iter_mut();
            let found = sessions.find_map(|(session, live)| {
                let granted = live.covers(wanted.interface());
                let mut sockets = live.sockets.iter_mut();
                let socket = sockets.find(|socket| socket.inode == inode)?;
                Some((*session, granted, socket))
            });
            let Some((session, granted, socket)) = found else {
                return Err(Rejection::Kernel(Errno::PERM));
            };
            if !granted {
                let name = kernel::name_of(wanted.interface());
                let reason = format!(
                    "session {session} was not granted the interface {name}, whose promiscuous mode or multicast \
                     addresses it asks for"
                );
                return refuse(Errno::PERM, reason);
            }
            if !socket.memberships.contains(wanted) {
                if socket.memberships.len() >= OF_SOCKET {
                    let reason = format!(
                        "a socket asks for promiscuous mode, or a multicast address, at most {OF_SOCKET} times; \
                         open another one"
                    );
                    return refuse(Errno::NOBUFS, reason);
                }
                // What the kernel then refuses counts as well: that bounds the tries.
                socket.memberships.push(wanted.clone());
            }
        }
        add().map_err(Rejection::Kernel)
    }
}
