//! Instances of a session's guard: one for each capture socket, with a slot for the filter that
//! the process attaches itself.
//!
//! ```text
//!   socket ──locked──▶ instance:  filters of the grant ─▶ may it see this? ─▶ slot? ─▶ budgets ─▶ verdict
//!                                                                               │
//!                                                                               ▼
//!                                                   own filter ─▶ the guard again, with no slot
//! ```
//! The own filter runs only on packets that the grant gives: its author can measure how long it
//! runs, and so learn what is in the packets that it looks at.
//!
//! A program is not told which socket it runs for, so sockets that are to differ need programs
//! that differ. All instances of a session count in the same maps, so its caps are exact however
//! many there are.
//!
//! `slot?` is a tail call: a jump if there is a program, with no way back, and nothing otherwise.
//! Each socket has a slot of its own, which the kernel empties when the agent dies. What remains is the
//! rest of the instance: the whole grant. What is in a slot ends in the same guard. So an own filter
//! can only take packets away, and nobody's death gives any.
//!
//! Loading an instance takes longer than a capture tool should wait for its socket, so some are kept
//! in store, and more are made elsewhere than on the thread that arms (see [`Instances::refill`]).

use std::{
    ffi::CString,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;

use super::{
    bpf::{self, LoadError},
    guard::GuardError,
    link::Linked,
    socket::{SocketCall, SocketKind},
    sys,
};
use crate::filter::EbpfInsn;

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
    /// None: no such socket is admitted.
    raw: Option<Chain>,
    cooked: Option<Chain>,
    licence: CString,
    /// The number that stands for a socket's own array in the code.
    own_array: RawFd,
    /// The maps that the code names by number.
    _maps: Vec<OwnedFd>,
    store: Mutex<Store>,
    /// Held by whoever fills the store.
    filling: Mutex<()>,
}

/// What runs for each socket of one kind.
#[derive(Debug)]
pub(super) struct Chain {
    /// The filters of the grant, and the guard, with a look into the slot.
    pub(super) code: Vec<EbpfInsn>,
    /// The guard as it stands behind an own filter.
    pub(super) behind_own: Vec<EbpfInsn>,
    /// How many instances are kept in store. Without any, a socket waits for its own.
    pub(super) in_store: usize,
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
    /// From the filters and the guard of each kind of socket.
    pub(super) fn new(
        raw: Option<Chain>,
        cooked: Option<Chain>,
        linked: Linked,
    ) -> Result<Self, LoadError> {
        let instances = Self {
            raw,
            cooked,
            licence: linked.licence(),
            own_array: linked.own_array(),
            _maps: linked.into_descriptors(),
            store: Mutex::default(),
            filling: Mutex::default(),
        };
        for kind in [SocketKind::Raw, SocketKind::Cooked] {
            if let Some(chain) = instances.chain(kind).filter(|chain| chain.in_store > 0) {
                // What the verifier refuses is refused now, not when a socket is asked for.
                let made = instances.make(chain)?;
                instances.store().of(kind).push(made);
            }
        }
        Ok(instances)
    }

    /// Makes as many instances as are missing from the store, unless that is being done. Takes
    /// milliseconds: not for a thread that others wait for.
    pub fn refill(&self) {
        let Ok(_filling) = self.filling.try_lock() else {
            return;
        };
        for kind in [SocketKind::Raw, SocketKind::Cooked] {
            let Some(chain) = self.chain(kind) else {
                continue;
            };
            while self.store().of(kind).len() < chain.in_store {
                match self.make(chain) {
                    Ok(made) => self.store().of(kind).push(made),
                    Err(error) => {
                        // Whoever needs one will try again, and be told.
                        tracing::warn!(%error, "no instance of the guard could be made in advance");
                        return;
                    }
                }
            }
        }
    }

    /// An instance, out of the store if there is one. None: the session has no such sockets.
    pub(super) fn take(self: &Arc<Self>, kind: SocketKind) -> Result<Option<Instance>, LoadError> {
        let stored = self.store().of(kind).pop();
        let made = match (stored, self.chain(kind)) {
            (Some(made), _) => made,
            (None, Some(chain)) => self.make(chain)?,
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

    /// Puts a program of each kind in store on a socket, once.
    pub(super) fn fit(&self) -> Result<(), GuardError> {
        for kind in [SocketKind::Raw, SocketKind::Cooked] {
            let Some(chain) = self.chain(kind) else {
                continue;
            };
            let call = SocketCall::of(kind);
            let socket = sys::packet_socket(call).map_err(GuardError::Trial)?;
            let mut store = self.store();
            let program = store.of(kind).last().map(|made| made.program.as_raw_fd());
            let tried = program.map(|program| {
                sys::set_socket_option(socket.as_fd(), libc::SO_ATTACH_BPF, program)
            });
            match tried {
                Some(Err(Errno::NOMEM)) => {
                    let instructions = chain.code.len();
                    return Err(GuardError::DoesNotFit {
                        instructions,
                        // Eight bytes each, and as much again for what else a socket has.
                        wanted: 16 * instructions,
                    });
                }
                Some(Err(errno)) => return Err(GuardError::Trial(errno)),
                Some(Ok(())) | None => {}
            }
        }
        Ok(())
    }

    fn make(&self, chain: &Chain) -> Result<Made, LoadError> {
        const LOAD_MAP: (u8, u8) = (0x18, 1);
        let array = bpf::program_array()?;
        let mut code = chain.code.clone();
        for insn in &mut code {
            if (insn.code, insn.src) == LOAD_MAP && insn.imm == self.own_array {
                insn.imm = array.as_raw_fd();
            }
        }
        let program = bpf::load_or_explain(&code, &self.licence)?;
        Ok(Made { program, array })
    }

    fn chain(&self, kind: SocketKind) -> Option<&Chain> {
        match kind {
            SocketKind::Raw => self.raw.as_ref(),
            SocketKind::Cooked => self.cooked.as_ref(),
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // Whole at each panic point.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A filter that the verifier has passed, for one slot.
#[derive(Debug)]
pub struct LoadedFilter(OwnedFd);

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

    /// Loads a filter for this slot, and leaves the slot as it is. `filter` is a part (see
    /// [`translate_own`](crate::filter::translate_own)); none: nothing is to be delivered. Takes as
    /// long as the verifier does.
    ///
    /// # Errors
    /// What the verifier or the kernel said.
    pub fn load(&self, filter: Option<&[EbpfInsn]>) -> Result<LoadedFilter, LoadError> {
        let code = match (filter, self.instances.chain(self.kind)) {
            (Some(filter), Some(chain)) => [filter, &*chain.behind_own].concat(),
            _ => DROP.to_vec(),
        };
        bpf::load_socket_filter(&code, &self.instances.licence).map(LoadedFilter)
    }

    /// From now on the socket is delivered what passes the filter, which was loaded for this slot,
    /// and the grant. It takes the place of the one before.
    ///
    /// # Errors
    /// What the kernel said; the slot is as it was.
    pub fn put(&self, filter: &LoadedFilter) -> Result<(), Errno> {
        bpf::set_program(self.array.as_fd(), filter.0.as_fd())
    }

    /// From now on the grant alone counts.
    ///
    /// # Errors
    /// `ENOENT` if there is no filter.
    pub fn clear(&self) -> Result<(), Errno> {
        bpf::clear_program(self.array.as_fd())
    }
}

/// `r0 = 0; exit`
const DROP: [EbpfInsn; 2] = [insn(0xb7, 0, 0, 0), insn(0x95, 0, 0, 0)];

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
pub(super) mod tests;
