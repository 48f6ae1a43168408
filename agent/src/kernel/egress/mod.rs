//! No frame leaves by a capture socket: a program on the way out of every interface drops what carries
//! [`INJECTION_MARK`].
//!
//! A packet socket sends on any interface of its network namespace, whichever one it listens to. So
//! the program is put on all of them before the first socket of an agent is armed, and on each that
//! comes later as soon as it is heard of. It stays there while the agent lives: a socket may outlive
//! its session in the server's own process.
//!
//! Each agent has a program of its own, so that none takes another's away. The kernel keeps it
//! when the agent dies, since sockets that it armed may live on. Its name says whose it is: the agent
//! has bound an abstract Unix socket of that name, which lasts no longer than itself; of others who bind it, the kernel
//! tells that they are not the user who loaded the program. Whoever starts or ends next removes what dead agents left behind, unless somebody still has a socket with the
//! mark (see `left`).
//!
//! Attached as tcx (Linux 6.6), in front of what is there; before that as a classifier of `clsact`
//! (see `classifier`). Both run for all that goes through the queueing layer, and the ways around it
//! are denied (`seccomp`): <https://github.com/torvalds/linux/blob/v6.6/net/core/dev.c#L4318>

mod classifier;
mod left;

use std::{
    ffi::CString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use aya_obj::Object;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with},
};

use super::{
    bpf::{self, LoadError, ProgramKind},
    interfaces::Interface,
    socket::{INJECTION_MARK, SocketCall, SocketKind},
    sys,
};
use crate::filter::EbpfInsn;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/egress.o"));

const CLASSIFIER: ProgramKind = ProgramKind {
    program: 3,
    attach: 0,
    target: 0,
};

/// Nothing has this index.
const NOWHERE: u32 = i32::MAX.cast_unsigned();
/// Every network namespace's loopback.
const LOOPBACK: u32 = 1;

/// Why frames cannot be kept from leaving.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The embedded object is not what this build of the agent expects.
    #[error("the kernel programs' object file is damaged: {0}")]
    Object(String),
    /// The verifier refused the program.
    #[error("the kernel refused the program on the way out: {0}")]
    Program(#[from] LoadError),
    /// The agent cannot make known that it lives.
    #[error("no name could be had for the program on the way out: {0}")]
    Name(Errno),
    /// The program could not be put on an interface.
    #[error("frames sent by capture sockets cannot be dropped on {interface}: {errno}")]
    Attach {
        /// Which one.
        interface: String,
        /// What the kernel said.
        errno: Errno,
    },
}

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Linux 6.6.
    Tcx,
    Classifier,
}

/// The program of this agent. Dropping the last one takes it away, once no marked socket is left.
#[derive(Debug)]
pub struct Egress {
    way: Way,
    program: OwnedFd,
    owner: Owner,
    /// The indexes of the interfaces that have it.
    covered: Mutex<Vec<u32>>,
}

/// Who has put a program there: for as long as this lives.
#[derive(Debug)]
struct Owner {
    id: u32,
    _alive: OwnedFd,
}

impl Egress {
    /// The one that all servers of this agent share; loads it if there is none.
    ///
    /// # Errors
    /// Where this kernel, or the agent's lack of privilege, allows no such program.
    pub fn shared() -> Result<Arc<Self>, EgressError> {
        static SHARED: Mutex<Weak<Egress>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(egress) = shared.upgrade() {
            return Ok(egress);
        }
        let egress = Arc::new(Self::load(None)?);
        *shared = Arc::downgrade(&egress);
        Ok(egress)
    }

    /// Loads it, to be attached in this way, or in the best one that there is.
    fn load(way: Option<Way>) -> Result<Self, EgressError> {
        let owner = Owner::new().map_err(EgressError::Name)?;
        let (code, licence) = code()?;
        let program = bpf::load_named(CLASSIFIER, &name(owner.id), &code, &licence)?;
        // What knows tcx says that there is no such interface.
        let knows_tcx = || bpf::attach_to_egress(NOWHERE, program.as_fd()) == Err(Errno::NODEV);
        let best = || {
            if knows_tcx() {
                Way::Tcx
            } else {
                Way::Classifier
            }
        };
        let egress = Self {
            way: way.unwrap_or_else(best),
            program,
            owner,
            covered: Mutex::default(),
        };
        if egress.way == Way::Classifier {
            egress.put(LOOPBACK).map_err(|errno| EgressError::Attach {
                interface: "lo".to_owned(),
                errno,
            })?;
            egress.covered().push(LOOPBACK);
        }
        left::sweep(egress.owner.id);
        Ok(egress)
    }

    /// Puts it on all of these that do not have it. Those that are not among them have gone. Takes some
    /// ten milliseconds for each that is new.
    ///
    /// # Errors
    /// One that is there cannot have it: frames could leave by it.
    pub fn cover(&self, present: &[Interface]) -> Result<(), EgressError> {
        let mut covered = self.covered();
        covered.retain(|index| present.iter().any(|interface| interface.index == *index));
        for interface in present {
            let index = interface.index;
            // One that went and came back with the same number has lost it; asking is cheap, but to
            // the classifier every program is a new one.
            if self.way == Way::Classifier && covered.contains(&index) {
                continue;
            }
            match self.put(index) {
                Ok(()) if !covered.contains(&index) => covered.push(index),
                Ok(()) | Err(Errno::NODEV) => {}
                Err(errno) => {
                    return Err(EgressError::Attach {
                        interface: interface.name.clone(),
                        errno,
                    });
                }
            }
        }
        Ok(())
    }

    /// How it is attached.
    pub(super) fn way(&self) -> &'static str {
        match self.way {
            Way::Tcx => "tcx",
            Way::Classifier => "clsact",
        }
    }

    /// Sends a frame by loopback as a capture socket would. None if loopback is down, so that nothing
    /// leaves by it at all.
    ///
    /// # Errors
    /// What kept it from being tried.
    pub(super) fn drops(&self) -> Result<Option<bool>, EgressError> {
        let tried = |errno| EgressError::Attach {
            interface: "lo".to_owned(),
            errno,
        };
        self.cover(&[Interface {
            name: "lo".to_owned(),
            index: LOOPBACK,
            hardware: 0,
        }])?;
        let socket = sys::packet_socket(SocketCall::of(SocketKind::Raw)).map_err(tried)?;
        sys::set_socket_option(socket.as_fd(), libc::SO_MARK, INJECTION_MARK).map_err(tried)?;
        match sys::send_frame(socket.as_fd(), LOOPBACK, &[0; 60]) {
            Ok(()) => Ok(Some(false)),
            Err(Errno::NOBUFS) => Ok(Some(true)),
            Err(Errno::NETDOWN) => Ok(None),
            Err(errno) => Err(tried(errno)),
        }
    }

    /// The same for interfaces that have come since, unless nothing was covered before.
    ///
    /// # Errors
    /// As [`cover`](Self::cover).
    pub fn follow(&self, present: &[Interface]) -> Result<(), EgressError> {
        if self.covered().is_empty() {
            return Ok(());
        }
        self.cover(present)
    }

    fn put(&self, index: u32) -> Result<(), Errno> {
        let put = match self.way {
            Way::Tcx => bpf::attach_to_egress(index, self.program.as_fd()),
            Way::Classifier => classifier::attach(index, self.program.as_fd(), self.owner.id),
        };
        match put {
            Err(Errno::EXIST) => Ok(()),
            put => put,
        }
    }

    fn covered(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        // Whole at each panic point.
        self.covered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Egress {
    fn drop(&mut self) {
        if left::armed_sockets_live() {
            tracing::debug!("capture sockets live on, so what keeps them from sending stays");
            return;
        }
        for index in &*self.covered() {
            take_away(*index, self.program.as_fd(), self.owner.id);
        }
        left::sweep(self.owner.id);
    }
}

/// Takes an agent's program off an interface, whichever way it is attached.
fn take_away(index: u32, program: BorrowedFd<'_>, owner: u32) {
    // Not there, or the interface has gone: then that is all right.
    if bpf::detach_from_egress(index, program).is_err() {
        let _ = classifier::detach(index, owner);
    }
}

impl Owner {
    fn new() -> Result<Self, Errno> {
        const ATTEMPTS: usize = 8;
        let mut last = Errno::ADDRINUSE;
        for _ in 0..ATTEMPTS {
            let mut id = [0_u8; 4];
            rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
            // A classifier has no handle 0.
            let id = u32::from_ne_bytes(id).max(1);
            match claim(id) {
                Ok(_alive) => return Ok(Self { id, _alive }),
                Err(errno) => last = errno,
            }
        }
        Err(last)
    }
}

/// Binds the owner's socket. `EADDRINUSE`: the owner lives.
fn claim(id: u32) -> Result<OwnedFd, Errno> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let address = SocketAddrUnix::new_abstract_name(socket_name(id).as_bytes())?;
    bind(&socket, &address)?;
    Ok(socket)
}

/// The abstract name that an owner's socket is bound to.
fn socket_name(id: u32) -> String {
    format!("capwarden-egress-{id:08x}")
}

const NAME: &str = "capw_e_";

/// Whose program it is: at most 15 characters.
fn name(owner: u32) -> String {
    format!("{NAME}{owner:08x}")
}

fn owner(name: &str) -> Option<u32> {
    let id = name.strip_prefix(NAME).filter(|id| id.len() == 8)?;
    u32::from_str_radix(id, 16).ok()
}

fn code() -> Result<(Vec<[u8; 8]>, CString), EgressError> {
    let damaged = |what: &dyn std::fmt::Display| EgressError::Object(what.to_string());
    let object = Object::parse(OBJECT).map_err(|error| damaged(&error))?;
    let program = object.programs.get("egress");
    let found = program.and_then(|program| object.functions.get(&program.function_key()));
    let found = found.ok_or_else(|| damaged(&"it has no program egress"))?;
    let insns = found.instructions.iter().map(|insn| {
        EbpfInsn {
            code: insn.code,
            dst: insn.dst_reg(),
            src: insn.src_reg(),
            off: insn.off,
            imm: insn.imm,
        }
        .to_bytes()
    });
    Ok((insns.collect(), object.license.clone()))
}

#[cfg(test)]
mod tests;
