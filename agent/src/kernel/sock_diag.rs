//! Asking the kernel about sockets (`NETLINK_SOCK_DIAG`): requests, what answers them, and the attributes in that.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with,
    },
};

/// `SOCK_DIAG_BY_FAMILY`: tell of sockets.
pub(super) const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR`, which also acknowledges.
const ERROR: u16 = 2;
/// `NLMSG_DONE`
const DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`
const LIST: u16 = 0x301;
/// `NLM_F_REQUEST | NLM_F_ACK`
const CONFIRM: u16 = 5;
/// `struct nlmsghdr`
const HEADER: usize = 16;
/// How long the listing of all sockets may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who is asked: of the network namespace that the thread was in which opened it.
pub(super) struct SockDiag(OwnedFd);

impl SockDiag {
    /// # Errors
    /// The kernel does not tell of sockets.
    pub(super) fn open() -> Result<Self, Errno> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        Ok(Self(socket))
    }

    /// Asks for all sockets that a request is about, and hands over what is told of each.
    ///
    /// # Errors
    /// What the kernel answers; `ETIMEDOUT` if it goes on for too long.
    pub(super) fn list(&self, request: &[u8], mut each: impl FnMut(&[u8])) -> Result<(), Errno> {
        send(
            &self.0,
            &message(BY_FAMILY, LIST, request),
            SendFlags::empty(),
        )?;
        let mut bytes = vec![0; 64 << 10];
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let (length, _) = recv(&self.0, bytes.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = bytes.get(..length).unwrap_or_default();
            while let Some((message, behind)) = cut::<u32>(rest, HEADER) {
                rest = behind;
                match number(message, 4).map(u16::from_ne_bytes) {
                    Some(BY_FAMILY) => each(message.get(HEADER..).unwrap_or_default()),
                    Some(DONE) => return Ok(()),
                    Some(ERROR) => return Err(code(message)),
                    _ => {}
                }
            }
        }
        Err(Errno::TIMEDOUT)
    }

    /// Has something done, and waits until it is.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(super) fn order(&self, kind: u16, request: &[u8]) -> Result<(), Errno> {
        send(
            &self.0,
            &message(kind, CONFIRM, request),
            SendFlags::empty(),
        )?;
        let mut answer = [0; 1024];
        let (length, _) = recv(&self.0, &mut answer, RecvFlags::empty())?;
        let answer = answer.get(..length).unwrap_or_default();
        match number(answer, HEADER).map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            _ => Err(code(answer)),
        }
    }
}

/// The user who has made the datagram socket that is bound to an abstract name, in the thread's network namespace. None
/// if there is none, or the kernel does not say (before Linux 5.3).
///
/// # Errors
/// The kernel does not tell of Unix sockets.
pub(super) fn maker_of_name(name: &[u8]) -> Result<Option<u32>, Errno> {
    const UNIX: u8 = 1;
    const DATAGRAM: u8 = 2;
    /// `UDIAG_SHOW_NAME | UDIAG_SHOW_UID`
    const SHOW: u32 = 0x41;
    /// `struct unix_diag_msg`
    const MESSAGE: usize = 16;
    /// `UNIX_DIAG_NAME`, `UNIX_DIAG_UID`
    const NAME: u16 = 0;
    const USER: u16 = 7;
    // struct unix_diag_req: family, protocol, padding, states, inode, what is shown, cookie.
    let words = [u32::MAX, 0, SHOW, 0, 0].map(u32::to_ne_bytes);
    let request = [&[UNIX, 0, 0, 0], words.as_flattened()].concat();
    let mut maker = None;
    SockDiag::open()?.list(&request, |told| {
        let attributes = told.get(MESSAGE..).unwrap_or_default();
        let bound = inside(attributes, NAME).and_then(|name| name.strip_prefix(b"\0"));
        if bound == Some(name) && told.get(1) == Some(&DATAGRAM) {
            let user = inside(attributes, USER).and_then(|user| number(user, 0));
            maker = user.map(u32::from_ne_bytes);
        }
    })?;
    Ok(maker)
}

/// A request, behind a `struct nlmsghdr`.
fn message(kind: u16, flags: u16, request: &[u8]) -> Vec<u8> {
    let length = u32::try_from(request.len() + HEADER).unwrap_or(0);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]); // sequence and port: there is one answer
    message.extend(request);
    message
}

/// `struct nlattr`
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(0);
    let head = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    [&head, value].concat()
}

/// What the first attribute of this kind has.
pub(super) fn inside(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    const NESTED: u16 = 1 << 15;
    while let Some((attribute, rest)) = cut::<u16>(attributes, 4) {
        if number(attribute, 2).map(u16::from_ne_bytes)? & !NESTED == kind {
            return attribute.get(4..);
        }
        attributes = rest;
    }
    None
}

/// The first of several that begin with their length, and the rest.
fn cut<L: Length>(bytes: &[u8], least: usize) -> Option<(&[u8], &[u8])> {
    let length = L::read(bytes)?;
    let first = bytes.get(..length).filter(|_| length >= least)?;
    let behind = length.next_multiple_of(4).min(bytes.len());
    Some((first, bytes.get(behind..)?))
}

trait Length {
    fn read(bytes: &[u8]) -> Option<usize>;
}

impl Length for u16 {
    fn read(bytes: &[u8]) -> Option<usize> {
        number(bytes, 0).map(Self::from_ne_bytes).map(usize::from)
    }
}

impl Length for u32 {
    fn read(bytes: &[u8]) -> Option<usize> {
        let length = number(bytes, 0).map(Self::from_ne_bytes)?;
        usize::try_from(length).ok()
    }
}

fn code(answer: &[u8]) -> Errno {
    let code = number(answer, HEADER).map_or(-libc::EINVAL, i32::from_ne_bytes);
    Errno::from_raw_os_error(code.saturating_neg())
}

pub(super) fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
