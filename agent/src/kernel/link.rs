//! Ties the guard's code to maps of a session's own, so that it can be loaded, in one piece with
//! filters, any number of times.
//!
//! ```text
//!   guard.o ──parse, once──▶ object ──terms, maps──▶ instructions of guard_raw, guard_cooked
//!                                                          │
//!                          | filters of the grant | guard | ◀── filters, in front
//! ```
//! A filter that rejects a packet exits with 0; one that accepts it falls through to what follows.
//! So the conjunction of any number of filters and the guard is their concatenation: all jumps
//! are relative, and there is no BPF-to-BPF call (older verifiers refuse it beside `LD_ABS`).
//!
//! # Tail calls
//! A socket's program is locked for good, so the one thing about it that can change is what a tail
//! call finds. The kernel empties a program array when the last descriptor of it is closed, that
//! is when the agent dies; the call then does nothing. So nothing that bounds a packet may
//! stand behind a tail call alone: the program that is locked on the socket contains the whole
//! grant and the guard, and the tail call in it leads to the rest of the same, or to less (see
//! `instance`). Each socket has an array of its own, which takes the place of the object's in the
//! code.

use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::LazyLock,
};

use aya::maps::{Map, MapData, MapError};
use aya_obj::{EbpfSectionKind, Object, ParseError, relocation::EbpfRelocationError};

use super::{bpf, object};
use crate::filter::EbpfInsn;

/// The map in whose place each socket's own comes.
const OWN: &str = "OWN";

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/guard.o"));

/// Why the guard's code could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The embedded object is not what this build of the agent expects.
    #[error("the kernel programs' object file is damaged: {0}")]
    Object(String),
    /// The function is not there.
    #[error("the kernel programs' object file has no function {0}")]
    NoFunction(&'static str),
    /// The map is not there.
    #[error("the kernel programs' object file has no map {0}")]
    NoMap(&'static str),
    /// The code does not fit the maps.
    #[error("the kernel programs' object file cannot be tied to its maps: {0}")]
    Relocation(#[from] EbpfRelocationError),
    /// A map could not be made.
    #[error("the kernel refused the guard's maps: {0}")]
    Map(#[from] MapError),
}

/// The guard's code, tied to maps of its own.
pub(super) struct Linked {
    object: Object,
    maps: HashMap<String, MapData>,
    /// The code names them by number.
    named: Vec<OwnedFd>,
    /// The number of the array in whose place each socket's own comes.
    own: RawFd,
}

impl Linked {
    /// Makes the maps. The constant `TERMS` becomes `terms`.
    pub(super) fn new<T: aya::Pod>(terms: &T) -> Result<Self, LinkError> {
        static PARSED: LazyLock<Result<Object, ParseError>> =
            LazyLock::new(|| Object::parse(OBJECT));
        let damaged = |error: &dyn std::fmt::Display| LinkError::Object(error.to_string());
        let parsed = PARSED.as_ref();
        let mut object = parsed.map_err(|error| damaged(error))?.clone();
        let terms = HashMap::from([("TERMS", (bytes_of(terms), true))]);
        let patched = object.patch_map_data(terms);
        patched.map_err(|error| damaged(&error))?;

        let mut maps = HashMap::new();
        let mut named = Vec::new();
        let mut fds = Vec::new();
        let mut own = None;
        for (name, map) in std::mem::take(&mut object.maps) {
            let made = MapData::create(map.clone(), &name, None)?;
            if map.section_kind() == EbpfSectionKind::Rodata {
                bpf::write_constants(made.fd().as_fd(), map.data(), map.value_size())
                    .map_err(|errno| MapError::IoError(errno.into()))?;
            }
            let descriptor = made.fd().as_fd().try_clone_to_owned();
            let descriptor = descriptor.map_err(MapError::IoError)?;
            if name == OWN {
                own = Some(descriptor.as_raw_fd());
            }
            fds.push((name.clone(), descriptor.as_raw_fd(), map));
            named.push(descriptor);
            maps.insert(name, made);
        }
        let text: HashSet<usize> = object
            .functions
            .keys()
            .map(|(section, _)| *section)
            .collect();
        let fds = fds.iter().map(|(name, fd, map)| (name.as_str(), *fd, map));
        object.relocate_maps(fds, &text)?;
        object.relocate_calls(&text)?;
        Ok(Self {
            object,
            maps,
            named,
            own: own.ok_or(LinkError::NoMap(OWN))?,
        })
    }

    /// A function's instructions.
    pub(super) fn code(&self, function: &'static str) -> Result<Vec<EbpfInsn>, LinkError> {
        let program = self.object.programs.get(function);
        let found = program.and_then(|program| self.object.functions.get(&program.function_key()));
        let found = found.ok_or(LinkError::NoFunction(function))?;
        let insns = found.instructions.iter().map(|insn| EbpfInsn {
            code: insn.code,
            dst: insn.dst_reg(),
            src: insn.src_reg(),
            off: insn.off,
            imm: insn.imm,
        });
        Ok(insns.collect())
    }

    /// The number that stands for a socket's own array in the code.
    pub(super) fn own_array(&self) -> RawFd {
        self.own
    }

    /// The licence that all its programs are under.
    pub(super) fn licence(&self) -> CString {
        self.object.license.clone()
    }

    /// A map, to be used as an array. Can be taken once.
    pub(super) fn take_array(&mut self, name: &'static str) -> Result<Map, LinkError> {
        self.take(name).map(Map::Array)
    }

    /// A map, to be used as a ring. Can be taken once.
    pub(super) fn take_ring(&mut self, name: &'static str) -> Result<Map, LinkError> {
        self.take(name).map(Map::RingBuf)
    }

    /// What must stay open for as long as the code is to be loaded.
    pub(super) fn into_descriptors(self) -> Vec<OwnedFd> {
        self.named
    }

    fn take(&mut self, name: &'static str) -> Result<MapData, LinkError> {
        self.maps.remove(name).ok_or(LinkError::NoMap(name))
    }
}

fn bytes_of<T: aya::Pod>(value: &T) -> &[u8] {
    // SAFETY: `Pod` promises plain data without padding.
    unsafe { object::bytes(value) }
}
