//! What governed processes try, on kernels that run the programs; elsewhere, that their absence is noticed.
//!
//! Every attack is first made by a process that is not governed: it must work there.

use std::{
    io::{IoSlice, IoSliceMut, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd},
        unix::net::{UnixListener, UnixStream},
    },
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::*;
use crate::kernel::{
    guard::{Guard, GuardPlan},
    socket::{SocketCall, SocketKind, arm},
    sys,
};

/// The backstop, or none where the kernel does not run it, for a reason that is asserted.
fn backstop(test: &str) -> Option<Arc<Backstop>> {
    let error = match Backstop::shared() {
        Ok(backstop) => return Some(backstop),
        Err(error) => error,
    };
    match &error {
        BackstopError::Inactive(modules) => assert!(!modules.split(',').any(|one| one == "bpf")),
        BackstopError::Program(_, why) => assert!(why.contains("not permitted"), "{why}"),
        other => panic!("{other}"),
    }
    if let Some(skips) = std::env::var_os("CAPWARDEN_SKIPS") {
        let mut file = fs::File::options()
            .append(true)
            .create(true)
            .open(skips)
            .unwrap();
        writeln!(file, "kernel::lsm::{test}\t{error}").unwrap();
    }
    None
}

/// Has a child do something, once it is told to, and gives what it came to. The child only makes system calls.
fn child(
    prepare: impl FnOnce(u32),
    attempt: impl FnOnce() -> Result<(), Errno>,
) -> Result<(), Errno> {
    let (wait, go) = rustix::pipe::pipe().unwrap();
    // SAFETY: the child makes system calls only.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let mut byte = [0];
        let _ = rustix::io::read(&wait, &mut byte);
        // Nothing of the parent's must be dropped here, whatever happens.
        let tried = catch_unwind(AssertUnwindSafe(attempt)).unwrap_or(Err(Errno::NOTRECOVERABLE));
        let code = tried.map_or_else(Errno::raw_os_error, |()| 0);
        // SAFETY: no requirements.
        unsafe { libc::_exit(code) };
    }
    prepare(pid.cast_unsigned());
    rustix::io::write(&go, b"!").unwrap();
    let mut status = 0;
    // SAFETY: the pointer is to an integer that outlives the call.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status), "{status:#x}");
    match libc::WEXITSTATUS(status) {
        0 => Ok(()),
        code => Err(Errno::from_raw_os_error(code)),
    }
}

/// Works for who is not governed, fails for who is; gives what was told of that.
fn refused(
    backstop: &Arc<Backstop>,
    mut attempt: impl FnMut() -> Result<(), Errno>,
) -> Option<(Caller, Refusal)> {
    assert_eq!(child(|_| {}, &mut attempt), Ok(()), "without the backstop");
    let (tell, told) = mpsc::channel();
    let mut membership = None;
    let tried = child(
        |pid| {
            let tell = move |caller, refusal| {
                let _ = tell.send((pid, caller, refusal));
            };
            membership = Some(backstop.govern(pid, None, &[], tell).unwrap());
        },
        &mut attempt,
    );
    assert_eq!(tried, Err(Errno::PERM), "with the backstop");
    let (pid, caller, refusal) = told.recv_timeout(Duration::from_secs(20)).ok()?;
    assert_eq!(caller.process, pid);
    Some((caller, refusal))
}

fn is_told(told: Option<(Caller, Refusal)>, word: &str) {
    let (_, refusal) = told.unwrap();
    assert!(refusal.reason.contains(word), "{}", refusal.reason);
}

fn packet_socket() -> OwnedFd {
    sys::packet_socket(SocketCall::of(SocketKind::Raw)).unwrap()
}

fn armed_socket() -> ArmedSocket {
    let plan = GuardPlan {
        terms: capwarden_abi::Terms {
            packets: 1,
            bytes: 0,
            deadline: 0,
            snap: 64,
            payload: 0,
            link: capwarden_abi::LINK_ETHERNET,
            any_interface: 0,
        },
        raw: Some(Vec::new()),
        cooked: None,
        interfaces: vec![1],
    };
    let guard = Guard::load(&plan).unwrap();
    arm(&guard, SocketCall::of(SocketKind::Raw)).unwrap().0
}

fn raw_socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(family, kind, protocol) };
    if fd < 0 {
        return Err(sys::last_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn send_frame(socket: &impl AsFd) -> Result<(), Errno> {
    // SAFETY: all zeros is a valid address of this plain C structure.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = 17;
    to.sll_ifindex = 1;
    to.sll_halen = 6;
    let frame = [0_u8; 60];
    let size = u32::try_from(size_of_val(&to)).unwrap();
    // SAFETY: pointers and lengths describe `frame` and `to`.
    let sent = unsafe {
        libc::sendto(
            socket.as_fd().as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size,
        )
    };
    if sent < 0 {
        Err(sys::last_error())
    } else {
        Ok(())
    }
}

fn set_option(socket: &impl AsFd, level: i32, option: i32, value: u32) -> Result<(), Errno> {
    // SAFETY: pointer and length describe `value`.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            4,
        )
    };
    if done < 0 {
        Err(sys::last_error())
    } else {
        Ok(())
    }
}

/// Takes one descriptor out of a message; EPERM if the kernel has left it out.
fn take(from: &UnixStream) -> Result<OwnedFd, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        from,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::empty(),
    )?;
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.ok_or(Errno::PERM)
}

fn pass(to: &UnixStream, fd: BorrowedFd<'_>) {
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(
        to,
        &[IoSlice::new(b"!")],
        &mut ancillary,
        SendFlags::empty(),
    )
    .unwrap();
}

/// Where `bpf` is not among the security modules, nothing but the attempt tells that nothing is refused.
#[test]
fn programs_that_are_attached_and_never_run_are_noticed() {
    match backstop("programs_that_are_attached_and_never_run_are_noticed") {
        Some(_) => {
            assert_eq!(attach::is_active(), Ok(()));
            proof::refuses(unread_tasks().as_fd(), proof::What::Sockets).unwrap_err();
        }
        None if attach::is_active().is_ok() => {} // refused, as the kernel said
        None => {
            let error = Backstop::attach().map(drop).unwrap_err();
            assert!(matches!(error, BackstopError::Silent(_)), "{error}");
        }
    }
}

/// Storage that no program looks into: whoever is governed by it is refused nothing.
fn unread_tasks() -> OwnedFd {
    let object = aya_obj::Object::parse(attach::OBJECT).unwrap();
    crate::kernel::object::create(&object.maps["TASKS"]).unwrap()
}

#[test]
fn sockets_that_see_other_traffic_are_not_made() {
    let Some(backstop) = backstop("sockets_that_see_other_traffic_are_not_made") else {
        return;
    };
    let kinds = [
        (libc::AF_PACKET, libc::SOCK_RAW, 0),
        (libc::AF_PACKET, libc::SOCK_DGRAM, 0),
        (libc::AF_INET, 10, 0), // SOCK_PACKET
        (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        (libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6),
        (
            libc::AF_NETLINK,
            libc::SOCK_RAW,
            libc::NETLINK_KOBJECT_UEVENT,
        ),
    ];
    for (family, kind, protocol) in kinds {
        let told = refused(&backstop, || raw_socket(family, kind, protocol).map(drop));
        is_told(told, "other traffic");
    }
    let harmless = [
        (libc::AF_UNIX, libc::SOCK_STREAM, 0),
        (libc::AF_INET, libc::SOCK_DGRAM, 0),
        (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE),
    ];
    for (family, kind, protocol) in harmless {
        let mut membership = None;
        let made = child(
            |pid| membership = Some(backstop.govern(pid, None, &[], |_, _| {}).unwrap()),
            || raw_socket(family, kind, protocol).map(drop),
        );
        assert_eq!(made, Ok(()));
    }
}

#[test]
fn capture_sockets_neither_send_nor_loosen_nor_hear_unarmed() {
    let Some(backstop) = backstop("capture_sockets_neither_send_nor_loosen_nor_hear_unarmed")
    else {
        return;
    };
    let unarmed = packet_socket();
    let armed = armed_socket();
    backstop.admit(&armed).unwrap();
    is_told(refused(&backstop, || send_frame(&armed)), "frame");
    is_told(
        refused(&backstop, || {
            sys::bind_packet_protocol(unarmed.as_fd(), 0x0300)
        }),
        "bound",
    );
    const COPY_THRESH: i32 = 7;
    is_told(
        refused(&backstop, || set_option(&armed, 263, COPY_THRESH, 1)),
        "option 7",
    );
    is_told(
        refused(&backstop, || {
            set_option(&unarmed, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 0)
        }),
        "option 44",
    );
    // What tools need goes on.
    const AUXDATA: i32 = 8;
    let mut membership = None;
    let used = child(
        |pid| membership = Some(backstop.govern(pid, None, &[], |_, _| {}).unwrap()),
        || {
            sys::bind_packet_protocol(armed.as_fd(), 0x0300)?;
            set_option(&armed, 263, AUXDATA, 1)
        },
    );
    assert_eq!(used, Ok(()));
}

#[test]
fn sockets_and_objects_from_outside_are_not_received_but_armed_ones_are() {
    let Some(backstop) = backstop("sockets_and_objects_from_outside_are_not_received") else {
        return;
    };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let unarmed = packet_socket();
    let raw = raw_socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP).unwrap();
    let map = bpf::program_array().unwrap();
    let outside = [
        (unarmed.as_fd(), "family 17"),
        (raw.as_fd(), "family 2"),
        (map.as_fd(), "program, map"),
    ];
    for (fd, word) in outside {
        pass(&ours, fd);
        pass(&ours, fd);
        is_told(refused(&backstop, || take(&theirs).map(drop)), word);
    }
    let armed = armed_socket();
    backstop.admit(&armed).unwrap();
    let file = fs::File::open("/proc/self/status").unwrap();
    let stream = UnixStream::pair().unwrap().0;
    for fd in [armed.as_fd(), file.as_fd(), stream.as_fd()] {
        pass(&ours, fd);
        let mut membership = None;
        let taken = child(
            |pid| membership = Some(backstop.govern(pid, None, &[], |_, _| {}).unwrap()),
            || take(&theirs).map(drop),
        );
        assert_eq!(taken, Ok(()));
    }
}

#[test]
fn namespaces_programs_and_other_processes_are_out_of_reach() {
    let Some(backstop) = backstop("namespaces_programs_and_other_processes_are_out_of_reach")
    else {
        return;
    };
    if !backstop.absent().contains(&"userns_create") {
        is_told(refused(&backstop, sys::new_user_namespace), "namespace");
    }
    is_told(
        refused(&backstop, || bpf::program_array().map(drop)),
        "bpf, command 0",
    );
    let parent = std::process::id().cast_signed();
    let attach = move || {
        // SAFETY: no pointers are looked at by these requests.
        let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, parent, 0, 0) };
        if seized < 0 {
            Err(sys::last_error())
        } else {
            Ok(())
        }
    };
    is_told(refused(&backstop, attach), "traced");
    // Its own children it may look into.
    let mut membership = None;
    let traced = child(
        |pid| membership = Some(backstop.govern(pid, None, &[], |_, _| {}).unwrap()),
        || {
            // SAFETY: the child makes system calls only.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                loop {
                    // SAFETY: no requirements.
                    unsafe { libc::pause() };
                }
            }
            // SAFETY: as above.
            let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) };
            let seized = if seized < 0 {
                Err(sys::last_error())
            } else {
                Ok(())
            };
            // SAFETY: it is this process's child.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            seized
        },
    );
    assert_eq!(traced, Ok(()));
}

#[test]
fn services_that_act_for_others_are_not_connected_to() {
    let Some(backstop) = backstop("services_that_act_for_others_are_not_connected_to") else {
        return;
    };
    let connect = |path: &str| {
        let address = rustix::net::SocketAddrUnix::new(path).unwrap();
        move || {
            let socket = raw_socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
            rustix::net::connect(&socket, &address)
        }
    };
    // Like a session bus: in the directory that everybody may write to.
    let bus = format!("/tmp/dbus-{}", std::process::id());
    let other = format!("/tmp/no-dbus-{}", std::process::id());
    let (_bus, _other) = (UnixListener::bind(&bus), UnixListener::bind(&other));
    is_told(refused(&backstop, connect(&bus)), "D-Bus");
    let mut membership = None;
    let connected = child(
        |pid| membership = Some(backstop.govern(pid, None, &[], |_, _| {}).unwrap()),
        connect(&other),
    );
    assert_eq!(connected, Ok(()));
    let reached = [Deputy::Dbus];
    let connected = child(
        |pid| membership = Some(backstop.govern(pid, None, &reached, |_, _| {}).unwrap()),
        connect(&bus),
    );
    assert_eq!(connected, Ok(()), "the operator has said that it may");
    for path in [bus, other] {
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn descendants_belong_to_the_tree_and_so_does_who_is_in_its_cgroup() {
    let Some(backstop) = backstop("descendants_belong_to_the_tree") else {
        return;
    };
    let grandchild = || {
        // SAFETY: the child makes system calls only.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let made = raw_socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
            // SAFETY: no requirements.
            unsafe { libc::_exit(made.map_or_else(Errno::raw_os_error, |_| 0)) };
        }
        let mut status = 0;
        // SAFETY: the pointer is to an integer that outlives the call.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        match libc::WEXITSTATUS(status) {
            0 => Ok(()),
            code => Err(Errno::from_raw_os_error(code)),
        }
    };
    // Told with the grandchild's number.
    assert_eq!(child(|_| {}, grandchild), Ok(()));
    let mut membership = None;
    let tried = child(
        |pid| membership = Some(backstop.govern(pid, None, &[], |_, _| {}).unwrap()),
        grandchild,
    );
    assert_eq!(tried, Err(Errno::PERM));
    // By the cgroup alone: this one was never tagged.
    let Ok(cgroup) = Cgroup::create() else {
        return;
    };
    let mut membership = None;
    let first = child(
        |pid| membership = Some(backstop.govern(pid, Some(&cgroup), &[], |_, _| {}).unwrap()),
        || Ok(()),
    );
    assert_eq!(first, Ok(()));
    let procs = cgroup.procs().unwrap();
    let moved = || {
        rustix::io::write(&procs, b"0")?;
        raw_socket(libc::AF_PACKET, libc::SOCK_RAW, 0).map(drop)
    };
    assert_eq!(child(|_| {}, moved), Err(Errno::PERM));
    drop(membership);
    assert_eq!(child(|_| {}, moved), Ok(()), "it is governed no more");
}
