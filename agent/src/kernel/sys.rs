//! System calls that rustix does not wrap, each with the name of what it does.

use std::{
    mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use rustix::io::Errno;

use super::socket::{SocketCall, SocketKind};

pub(super) fn last_error() -> Errno {
    Errno::from_raw_os_error(
        std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}

/// `socket(AF_PACKET, kind | flags, 0)`: protocol 0 hears nothing. The agent's own copy is always
/// close-on-exec.
pub(super) fn packet_socket(call: SocketCall) -> Result<OwnedFd, Errno> {
    let mut kind = libc::SOCK_CLOEXEC
        | match call.kind {
            SocketKind::Raw => libc::SOCK_RAW,
            SocketKind::Cooked => libc::SOCK_DGRAM,
        };
    if call.non_blocking {
        kind |= libc::SOCK_NONBLOCK;
    }
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(last_error());
    }
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `setsockopt(SOL_SOCKET, option, value)`.
pub(super) fn set_socket_option<T: Copy>(
    socket: BorrowedFd<'_>,
    option: libc::c_int,
    value: T,
) -> Result<(), Errno> {
    let size = libc::socklen_t::try_from(size_of::<T>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size,
        )
    };
    if result < 0 {
        Err(last_error())
    } else {
        Ok(())
    }
}

/// `getsockopt(SOL_SOCKET, SO_PEERPIDFD)` (Linux 6.5): the process of a Unix socket's peer, pinned.
pub(super) fn peer_process(socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mut descriptor: libc::c_int = -1;
    let mut size = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the pointers are to a number and to its size; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut descriptor).cast(),
            &raw mut size,
        )
    };
    match result {
        // SAFETY: the kernel has just made it for this process, which nobody else knows of.
        0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(last_error()),
    }
}

/// `getsockopt(SOL_SOCKET, SO_PEERGROUPS)`: the supplementary groups of a Unix socket's peer.
pub(super) fn peer_groups(socket: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    /// As many as a process may have (`NGROUPS_MAX`).
    const MOST: usize = 65_536;
    let mut groups = vec![0_u32; 64];
    loop {
        let bytes = groups.len().saturating_mul(size_of::<u32>());
        let mut size = libc::socklen_t::try_from(bytes).map_err(|_| Errno::INVAL)?;
        // SAFETY: the pointers are to the groups, whose size in bytes is told, and to that size; both
        // outlive the call.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        let count = usize::try_from(size).unwrap_or(0) / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        match last_error() {
            Errno::RANGE if count > groups.len() && count <= MOST => groups.resize(count, 0),
            error => return Err(error),
        }
    }
}

/// `getsockopt(SOL_SOCKET, SO_MARK)`.
pub(super) fn socket_mark(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut mark = 0_u32;
    let mut size = libc::socklen_t::try_from(size_of::<u32>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the pointers are to `mark` and to its size, which outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MARK,
            (&raw mut mark).cast(),
            &raw mut size,
        )
    };
    if result < 0 {
        Err(last_error())
    } else {
        Ok(mark)
    }
}

/// Sends a frame by a packet socket on an interface.
pub(super) fn send_frame(socket: BorrowedFd<'_>, index: u32, frame: &[u8]) -> Result<(), Errno> {
    // SAFETY: all zeros is a valid address of this plain C structure.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = AF_PACKET;
    address.sll_ifindex = index.cast_signed();
    let size =
        libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: pointers and lengths describe `frame` and `address`, which outlive the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            size,
        )
    };
    if sent < 0 { Err(last_error()) } else { Ok(()) }
}

/// As long as `struct tpacket_req3`, the longest that `PACKET_RX_RING` takes.
pub(super) type RingRequest = [u8; 28];

/// `setsockopt(SOL_PACKET, option, request)`.
pub(super) fn set_packet_option(
    socket: BorrowedFd<'_>,
    option: libc::c_int,
    request: &[u8],
) -> Result<(), Errno> {
    let size = libc::socklen_t::try_from(request.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the pointer and the length describe `request`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            request.as_ptr().cast(),
            size,
        )
    };
    if result < 0 {
        Err(last_error())
    } else {
        Ok(())
    }
}

/// `libc::AF_PACKET`, in the width of an address family.
const AF_PACKET: libc::sa_family_t = 17;

/// `bind` to a protocol on every interface, as `socket(AF_PACKET, _, protocol)` would have.
pub(super) fn bind_packet_protocol(socket: BorrowedFd<'_>, protocol: u16) -> Result<(), Errno> {
    // SAFETY: all zeros is a valid address of this plain C structure.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = AF_PACKET;
    address.sll_protocol = protocol;
    let size =
        libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the pointer and the length describe `address`, which outlives the call.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    if result < 0 {
        Err(last_error())
    } else {
        Ok(())
    }
}

/// The capabilities that stay in the bounding set. They cannot be gained (no_new_privs), but a
/// file that carries them, as Debian's dumpcap may, cannot be executed at all without them: exec
/// fails with EPERM (<https://github.com/torvalds/linux/blob/v5.14/security/commoncap.c#L682>).
const KEPT_IN_BOUNDING_SET: [libc::c_ulong; 2] = [12, 13]; // NET_ADMIN, NET_RAW

/// The same, as a set.
pub(super) fn kept_in_bounding_set() -> u64 {
    KEPT_IN_BOUNDING_SET
        .iter()
        .fold(0, |set, one| set | 1 << one)
}

/// Empties the capability bounding set, but for what a file on disk may name.
pub(super) fn drop_bounding_set() -> Result<(), Errno> {
    for capability in 0..64 {
        if KEPT_IN_BOUNDING_SET.contains(&capability) {
            continue;
        }
        // SAFETY: no pointers.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if result < 0 {
            match last_error() {
                Errno::INVAL => return Ok(()), // past the last capability that this kernel has
                errno => return Err(errno),
            }
        }
    }
    Ok(())
}

/// The raw calls, as the C library's wrappers would involve every thread of the agent.
fn raw(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 {
        Err(last_error())
    } else {
        Ok(result)
    }
}

pub(super) fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the pointer and the length describe `groups`.
    raw(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

pub(super) fn set_group_id(group: u32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    raw(unsafe { libc::syscall(libc::SYS_setresgid, group, group, group) }).map(drop)
}

pub(super) fn set_user_id(user: u32) -> Result<(), Errno> {
    // SAFETY: no pointers.
    raw(unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) }).map(drop)
}

/// Empties the ambient, effective, permitted and inheritable sets.
pub(super) fn clear_capabilities() -> Result<(), Errno> {
    const VERSION_3: u32 = 0x2008_0522;
    // SAFETY: no pointers.
    let ambient = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
    raw(ambient.into())?;
    let header: [u32; 2] = [VERSION_3, 0];
    let data = [0_u32; 6];
    // SAFETY: the layouts of version 3: a header of two words, and two times three words.
    raw(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

pub(super) fn landlock_restrict_self(domain: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: no pointers.
    raw(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, domain.as_raw_fd(), 0) }).map(drop)
}

/// Marks every descriptor from `first` on close-on-exec (Linux 5.11).
pub(super) fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    const CLOEXEC: libc::c_uint = 4;
    // SAFETY: no pointers.
    raw(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOEXEC) }).map(drop)
}

/// Forks, and ends the one that has called: whoever is left is no child of its parent. For a child between fork and
/// exec, which has one thread.
pub(super) fn fork_and_leave() -> Result<(), Errno> {
    // SAFETY: no pointers. There is one thread, so that nobody else has a lock.
    match unsafe { libc::fork() } {
        0 => Ok(()),
        // SAFETY: it ends at once, and runs nothing that was registered for an end.
        child if child > 0 => unsafe { libc::_exit(0) },
        _ => Err(last_error()),
    }
}

/// Installs a seccomp filter on this thread and returns its listener.
pub(super) fn install_filter(filter: &[libc::sock_filter]) -> Result<OwnedFd, Errno> {
    const SET_MODE_FILTER: libc::c_uint = 1;
    const WAIT_KILLABLE: u32 = 1 << 5;
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // WAIT_KILLABLE (Linux 5.19): only death interrupts a waiting call, so that a signal cannot
    // make a socket twice. Older kernels say EINVAL.
    let install = |flags: u32| {
        // SAFETY: `program` describes `filter`; both outlive the call.
        raw(unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                SET_MODE_FILTER,
                flags,
                &raw const program,
            )
        })
    };
    let listener = super::seccomp::NEW_LISTENER;
    let fd = match install(listener | WAIT_KILLABLE) {
        Err(Errno::INVAL) => install(listener),
        result => result,
    }?;
    let fd = i32::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a governed process could have the kernel send to the agent, to kill or to stop it: the
/// file size limit's signal, and a terminal's.
const SHIELDED: [libc::c_int; 3] = [libc::SIGXFSZ, libc::SIGTTIN, libc::SIGTTOU];

/// The agent ignores those; what they tell comes back as an error as well.
pub(super) fn ignore_signals() {
    for signal in SHIELDED {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Keeps signals from interrupting this thread. Others of the agent hear them.
pub(super) fn block_signals() {
    // SAFETY: all zeros is a valid value of this plain C structure.
    let mut all: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: it fills `all`.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: it reads `all`, and the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) };
}

/// In the child: what is ignored would stay so after exec.
pub(super) fn restore_signals() {
    for signal in SHIELDED {
        // SAFETY: the default runs no code of ours; the call is safe between fork and exec.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Leaves the agent's session keyring behind, with what root may keep in it. Kernels without
/// keyrings have nothing to leave.
pub(super) fn new_session_keyring() {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: the kernel takes a null name for an anonymous keyring.
    let _ = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, anonymous) };
}

/// Whether the kernel knows `SECCOMP_RET_USER_NOTIF`.
pub(super) fn seccomp_notification_available() -> Result<(), Errno> {
    const GET_ACTION_AVAIL: libc::c_uint = 2;
    const USER_NOTIF: u32 = 0x7fc0_0000;
    let action = USER_NOTIF;
    // SAFETY: the pointer is to `action`, which outlives the call.
    raw(unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) })
        .map(drop)
}

/// The version of Landlock that is active; an error if none is.
pub(super) fn landlock_version() -> Result<u32, Errno> {
    const VERSION: libc::c_uint = 1;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the kernel wants no attributes.
    let version =
        raw(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, VERSION) })?;
    u32::try_from(version).map_err(|_| Errno::INVAL)
}

/// `unshare(CLONE_NEWUSER)`, of the calling process, which must have one thread.
pub(super) fn new_user_namespace() -> Result<(), Errno> {
    // SAFETY: no pointers.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER) } < 0 {
        return Err(last_error());
    }
    Ok(())
}
