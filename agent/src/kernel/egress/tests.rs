//! A real program on a real interface, in a network namespace of the test's own.

use std::{os::fd::AsRawFd, thread};

use rustix::{
    net::netdevice,
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{
    super::{INJECTION_MARK, SocketCall, SocketKind, sys},
    *,
};

fn alone<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    thread::scope(|scope| {
        let alone = scope.spawn(|| {
            // SAFETY: of this thread, and nothing else that it shares.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            let asked = socket_with(
                AddressFamily::UNIX,
                SocketType::DGRAM,
                SocketFlags::CLOEXEC,
                None,
            );
            up(&asked.unwrap());
            work()
        });
        Some(alone.join().unwrap())
    })
}

/// Brings loopback up.
fn up(socket: &OwnedFd) {
    // SAFETY: all zeros is a valid value of this plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = libc::c_char::try_from(b'l').unwrap();
    request.ifr_name[1] = libc::c_char::try_from(b'o').unwrap();
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap();
    // SAFETY: the request belongs to this call, and outlives it.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
    assert_eq!(done, 0);
    assert_eq!(netdevice::name_to_index(socket, "lo").unwrap(), LOOPBACK);
}

fn loopback() -> Interface {
    Interface {
        name: "lo".to_owned(),
        index: LOOPBACK,
        hardware: 772,
    }
}

/// A packet socket that sends on loopback; marked as an armed one is.
fn sender(marked: bool) -> OwnedFd {
    let socket = sys::packet_socket(SocketCall::of(SocketKind::Raw)).unwrap();
    if marked {
        sys::set_socket_option(socket.as_fd(), libc::SO_MARK, INJECTION_MARK).unwrap();
    }
    socket
}

fn send_frame(socket: &OwnedFd) -> Result<(), Errno> {
    sys::send_frame(socket.as_fd(), LOOPBACK, &[0; 60])
}

/// The ways that this kernel has: before Linux 6.6 there is one.
fn ways() -> &'static [Way] {
    let best = alone(|| Egress::load(None).unwrap().way);
    match best {
        Some(Way::Classifier) => &[Way::Classifier],
        Some(Way::Tcx) | None => &[Way::Tcx, Way::Classifier],
    }
}

#[test]
fn marked_frames_go_nowhere_whichever_way_it_is_attached() {
    for &way in ways() {
        alone(|| {
            let (marked, plain) = (sender(true), sender(false));
            assert_eq!(
                send_frame(&marked),
                Ok(()),
                "{way:?}: without it, it leaves"
            );
            let egress = Egress::load(Some(way)).unwrap();
            egress.cover(&[loopback()]).unwrap();
            egress.cover(&[loopback()]).unwrap();
            assert_eq!(send_frame(&marked), Err(Errno::NOBUFS), "{way:?}");
            assert_eq!(send_frame(&plain), Ok(()), "{way:?}");

            // Another agent beside it, which ends first.
            drop((marked, plain));
            let other = Egress::load(Some(way)).unwrap();
            other.cover(&[loopback()]).unwrap();
            drop(other);
            let marked = sender(true);
            assert_eq!(send_frame(&marked), Err(Errno::NOBUFS), "{way:?}");
            drop(marked);
            drop(egress);
            assert_eq!(
                send_frame(&sender(true)),
                Ok(()),
                "{way:?}: it was taken away"
            );
        });
    }
}

#[test]
fn what_a_killed_agent_leaves_holds_while_its_sockets_live_and_goes_after() {
    for &way in ways() {
        alone(|| {
            let egress = Egress::load(Some(way)).unwrap();
            egress.cover(&[loopback()]).unwrap();
            let marked = sender(true);
            // The kernel closes what it had, and runs nothing of it.
            let killed = std::mem::ManuallyDrop::new(egress);
            // SAFETY: it is not used again.
            drop(unsafe { std::ptr::read(&raw const killed.program) });
            // SAFETY: nor is this.
            drop(unsafe { std::ptr::read(&raw const killed.owner) });
            let next = Egress::load(Some(way)).unwrap();
            assert_eq!(send_frame(&marked), Err(Errno::NOBUFS), "{way:?}");
            drop(marked);
            drop(next);
            assert_eq!(send_frame(&sender(true)), Ok(()), "{way:?}: swept");
        });
    }
}

/// On this thread, files and sockets are made by another user from now on.
fn become_somebody(user: u32) {
    // SAFETY: takes a number, and counts for this thread alone.
    unsafe { libc::syscall(libc::SYS_setfsuid, user) };
}

#[test]
fn name_of_a_dead_agent_that_somebody_else_takes_keeps_nothing() {
    const SOMEBODY: u32 = 65_534;
    for &way in ways() {
        alone(|| {
            let egress = Egress::load(Some(way)).unwrap();
            egress.cover(&[loopback()]).unwrap();
            let (id, program) = (egress.owner.id, egress.program.try_clone().unwrap());
            assert!(left::lives(id, program.as_fd()), "{way:?}: its own socket");
            let killed = std::mem::ManuallyDrop::new(egress);
            // SAFETY: it is not used again.
            drop(unsafe { std::ptr::read(&raw const killed.program) });
            // SAFETY: nor is this.
            drop(unsafe { std::ptr::read(&raw const killed.owner) });
            become_somebody(SOMEBODY);
            let squatted = claim(id).unwrap();
            become_somebody(0);
            assert_eq!(claim(id).err(), Some(Errno::ADDRINUSE));
            assert!(!left::lives(id, program.as_fd()), "{way:?}");
            drop(Egress::load(Some(way)).unwrap());
            assert_eq!(send_frame(&sender(true)), Ok(()), "{way:?}: swept");
            drop(squatted);
        });
    }
}
