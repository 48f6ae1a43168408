//! Instances of a session's guard: one for each capture socket, with a slot for the filter that
//! the process attaches itself.
//!
//! ```text
//!   socket ──locked──▶ instance:  slot? ─empty──▶ filters of the grant ─▶ guard ─▶ verdict
//!                                   │
//!                                   ▼ occupied (tail call: no way back)
//!                                 own filter ─▶ filters of the grant ─▶ guard ─▶ verdict
//! ```
//! A program is not told which socket it runs for, so sockets that are to differ need programs
//! that differ. All instances of a session count in the same maps, so its caps are exact however
//! many there are.
//!
//! Whatever is in a slot can only take packets away: it ends in the same filters and the same
//! guard. The kernel empties the slot when the agent dies; then the grant alone counts.
//!
//! Loading an instance takes longer than a capture tool should wait for its socket, so some are kept
//! in store, and more are made elsewhere than on the thread that arms (see [`Instances::refill`]).

use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;

use super::{
    bpf::{self, LoadError},
    socket::SocketKind,
};
use crate::filter::EbpfInsn;

/// Instances in store for raw sockets. tcpdump opens two sockets, dumpcap up to four.
const RAW_IN_STORE: usize = 2;
/// Cooked sockets are rare, and come one at a time.
const COOKED_IN_STORE: usize = 1;

/// A program that can be put on a socket, and its slot.
#[derive(Debug)]
pub(super) struct Instance {
    /// Stays loaded for as long as a socket has it.
    pub(super) program: OwnedFd,
    pub(super) slot: Slot,
}

/// Makes the instances of one guard.
#[derive(Debug)]
pub struct Instances {
    /// Filters and guard of raw sockets; none: no such socket is admitted.
    raw: Option<Vec<EbpfInsn>>,
    /// The same for cooked sockets.
    cooked: Option<Vec<EbpfInsn>>,
    licence: CString,
    /// The maps that the code names by number.
    _maps: Vec<OwnedFd>,
    store: Mutex<Store>,
}

#[derive(Debug, Default)]
struct Store {
    raw: Vec<Made>,
    cooked: Vec<Made>,
}

/// An instance that nobody has yet.
#[derive(Debug)]
struct Made {
    program: OwnedFd,
    array: OwnedFd,
}

impl Store {
    fn of(&mut self, kind: SocketKind) -> &mut Vec<Made> {
        match kind {
            SocketKind::Raw => &mut self.raw,
            SocketKind::Cooked => &mut self.cooked,
        }
    }
}

impl Instances {
    /// From the filters and the guard of each kind of socket. Loads one instance of each, so that
    /// what the verifier refuses is refused here.
    pub(super) fn new(
        raw: Option<Vec<EbpfInsn>>,
        cooked: Option<Vec<EbpfInsn>>,
        licence: CString,
        maps: Vec<OwnedFd>,
    ) -> Result<Self, LoadError> {
        let instances = Self {
            raw,
            cooked,
            licence,
            _maps: maps,
            store: Mutex::default(),
        };
        for kind in [SocketKind::Raw, SocketKind::Cooked] {
            if instances.code(kind).is_some() {
                instances.stock(kind)?;
            }
        }
        Ok(instances)
    }

    /// Makes as many instances as are missing from the store. Takes milliseconds: not for a thread
    /// that others wait for.
    pub fn refill(&self) {
        for (kind, wanted) in [
            (SocketKind::Raw, RAW_IN_STORE),
            (SocketKind::Cooked, COOKED_IN_STORE),
        ] {
            while self.code(kind).is_some() && self.store().of(kind).len() < wanted {
                if let Err(error) = self.stock(kind) {
                    // Whoever needs one will try again, and be told.
                    tracing::warn!(%error, "no instance of the guard could be made in advance");
                    return;
                }
            }
        }
    }

    /// An instance, out of the store if there is one. None: the session has no such sockets.
    pub(super) fn take(self: &Arc<Self>, kind: SocketKind) -> Result<Option<Instance>, LoadError> {
        let stored = self.store().of(kind).pop();
        let made = match (stored, self.code(kind)) {
            (Some(made), _) => made,
            (None, Some(code)) => self.make(code)?,
            (None, None) => return Ok(None),
        };
        Ok(Some(Instance {
            program: made.program,
            slot: Slot {
                instances: Arc::clone(self),
                kind,
                array: made.array,
            },
        }))
    }

    fn stock(&self, kind: SocketKind) -> Result<(), LoadError> {
        if let Some(code) = self.code(kind) {
            let made = self.make(code)?;
            self.store().of(kind).push(made);
        }
        Ok(())
    }

    fn make(&self, code: &[EbpfInsn]) -> Result<Made, LoadError> {
        let array = bpf::program_array().map_err(|errno| LoadError {
            error: errno.into(),
            log: String::new(),
        })?;
        let look = look_into(&array);
        let program = bpf::load_socket_filter(&[&look, code].concat(), &self.licence)?;
        Ok(Made { program, array })
    }

    fn code(&self, kind: SocketKind) -> Option<&[EbpfInsn]> {
        match kind {
            SocketKind::Raw => self.raw.as_deref(),
            SocketKind::Cooked => self.cooked.as_deref(),
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // Whole at each panic point.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where one socket's own filter goes.
#[derive(Debug)]
pub struct Slot {
    instances: Arc<Instances>,
    kind: SocketKind,
    array: OwnedFd,
}

impl Slot {
    /// The kind of the socket.
    pub fn kind(&self) -> SocketKind {
        self.kind
    }

    /// From now on the socket is delivered what passes `filter` and the grant. `filter` is a
    /// part (see [`translate`](crate::filter::translate_own)); it takes the place of the one before. None:
    /// nothing is delivered. Takes as long as the verifier does.
    ///
    /// # Errors
    /// What the verifier or the kernel said; the slot is as it was.
    pub fn install(&mut self, filter: Option<&[EbpfInsn]>) -> Result<(), LoadError> {
        let code = self.instances.code(self.kind).unwrap_or(&DROP);
        let licence = &self.instances.licence;
        let program = match filter {
            Some(filter) => bpf::load_socket_filter(&[filter, code].concat(), licence)?,
            None => bpf::load_socket_filter(&DROP, licence)?,
        };
        bpf::set_program(self.array.as_fd(), program.as_fd()).map_err(|errno| LoadError {
            error: errno.into(),
            log: String::new(),
        })
    }

    /// From now on the grant alone counts.
    ///
    /// # Errors
    /// `ENOENT` if there is no filter.
    pub fn clear(&mut self) -> Result<(), Errno> {
        bpf::clear_program(self.array.as_fd())
    }
}

/// `r0 = 0; exit`
const DROP: [EbpfInsn; 2] = [insn(0xb7, 0, 0, 0), insn(0x95, 0, 0, 0)];

/// Goes on with the program in the slot, if there is one. r1 is the ctx before and after.
fn look_into(array: &OwnedFd) -> [EbpfInsn; 6] {
    use std::os::fd::AsRawFd as _;
    const MAP_BY_DESCRIPTOR: u8 = 1;
    const TAIL_CALL: i32 = 12;
    [
        insn(0xbf, 6, 1, 0),                                 // r6 = r1
        insn(0x18, 2, MAP_BY_DESCRIPTOR, array.as_raw_fd()), // r2 = the array,
        insn(0x00, 0, 0, 0),                                 //   in two instructions' room
        insn(0xb7, 3, 0, 0),                                 // r3 = 0
        insn(0x85, 0, 0, TAIL_CALL),                         // bpf_tail_call(r1, r2, r3)
        insn(0xbf, 1, 6, 0),                                 // r1 = r6
    ]
}

const fn insn(code: u8, dst: u8, src: u8, imm: i32) -> EbpfInsn {
    EbpfInsn {
        code,
        dst,
        src,
        off: 0,
        imm,
    }
}

#[cfg(test)]
mod tests;
