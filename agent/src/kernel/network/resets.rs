//! Closes the TCP connections of a slot, so that whoever is at their other ends hears of it: they
//! would wait for packets that do not come any more.
//!
//! The kernel lists its sockets with the guard's tags (`INET_DIAG_REQ_SK_BPF_STORAGES`, Linux 5.7), and
//! destroys those of the slot (`SOCK_DESTROY`, Linux 4.5, `CONFIG_INET_DIAG_DESTROY`): they send a
//! reset, and the server's next use of one fails. Listeners are left alone: servers do not expect to
//! lose one, and nothing of them is heard. Where the kernel cannot do so, connections stay as they
//! are, and carry nothing.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Errno;

use crate::kernel::sock_diag::{SockDiag, attribute, inside, number};

/// `SOCK_DESTROY`
const DESTROY: u16 = 21;
/// `struct inet_diag_msg`
const MESSAGE: usize = 72;
/// Of that, family and state, before `struct inet_diag_sockid`.
const BEFORE_ID: usize = 4;
/// `struct inet_diag_sockid`
const ID: usize = 48;
/// `INET_DIAG_REQ_SK_BPF_STORAGES`, and `SK_DIAG_BPF_STORAGE_REQ_MAP_FD` in it.
const WITH_STORAGE: u16 = 2;
const MAP: u16 = 1;
/// `INET_DIAG_SK_BPF_STORAGES`, `SK_DIAG_BPF_STORAGE` in it, `SK_DIAG_BPF_STORAGE_MAP_VALUE` in that.
const STORAGES: u16 = 20;
const STORAGE: u16 = 1;
const VALUE: u16 = 3;
/// States that a connection can be in, as bits of the kernel's numbers: neither `LISTEN` (10), nor
/// `TIME_WAIT` (6) or `NEW_SYN_RECV` (12), which are no whole sockets.
const CONNECTIONS: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
const TCP: u8 = 6;
/// `AF_INET`, `AF_INET6`
const FAMILIES: [u8; 2] = [2, 10];

/// A connection, as the kernel names it.
type Id = [u8; ID];

/// Closes the connections whose tag begins with these bytes, of this thread's network namespace. How
/// many there were.
pub(super) fn close(tags: BorrowedFd<'_>, tag: &[u8]) -> Result<usize, Errno> {
    let sockets = SockDiag::open()?;
    let mut closed = 0;
    for family in FAMILIES {
        for id in tagged(&sockets, family, tags, tag)? {
            match sockets.order(DESTROY, &request(family, u32::MAX, &id)) {
                Ok(()) => closed += 1,
                // It has gone by itself.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(closed)
}

fn tagged(
    sockets: &SockDiag,
    family: u8,
    tags: BorrowedFd<'_>,
    tag: &[u8],
) -> Result<Vec<Id>, Errno> {
    let mut request = request(family, CONNECTIONS, &[0; ID]);
    let map = attribute(MAP, &tags.as_raw_fd().to_ne_bytes());
    request.extend(attribute(WITH_STORAGE, &map));
    let mut found = Vec::new();
    sockets.list(&request, |message| found.extend(id_of(message, tag)))?;
    Ok(found)
}

/// The connection that a message is about, if it has the tag.
fn id_of(message: &[u8], tag: &[u8]) -> Option<Id> {
    let attributes = message.get(MESSAGE..)?;
    let storage = inside(inside(attributes, STORAGES)?, STORAGE)?;
    let value = inside(storage, VALUE)?;
    value.starts_with(tag).then_some(())?;
    number(message, BEFORE_ID)
}

/// `struct inet_diag_req_v2`
fn request(family: u8, states: u32, id: &Id) -> Vec<u8> {
    let mut request = vec![family, TCP, 0, 0];
    request.extend(states.to_ne_bytes());
    request.extend(id);
    request
}
