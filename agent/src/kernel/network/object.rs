//! The network guard's programs and maps, loaded and attached for one server.
//!
//! aya could load the programs, but not make the sockets' storage, which needs type information that
//! the object does not have; and it attaches by links, which go when the agent dies.

use std::{
    ffi::CStr,
    iter,
    num::NonZero,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use aya::maps::{Map, MapData};
use aya_obj::{Object, ParseError};
use capwarden_abi::network::{MAX_RULES, Rule};
use rustix::io::Errno;

use super::NetworkError;
use crate::kernel::{
    bpf::{self, CreateAttributes, ProgramKind},
    object::{self, Linked, ObjectError},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/network.o"));

const ARRAY: u32 = 2;
const ARRAY_OF_MAPS: u32 = 12;
const WORD: u32 = 4;

/// Program, `BPF_PROG_TYPE_*` and `BPF_CGROUP_*`.
const PROGRAMS: [(&str, u32, u32); 13] = [
    ("ingress", 8, 0),
    ("egress", 8, 1),
    ("create", 9, 2),
    ("established", 13, 3),
    ("bind4", 18, 8),
    ("bind6", 18, 9),
    ("connect4", 18, 10),
    ("connect6", 18, 11),
    ("post_bind4", 9, 12),
    ("post_bind6", 9, 13),
    ("sendmsg4", 18, 14),
    ("sendmsg6", 18, 15),
    ("set_option", 25, 22),
];

/// The maps of an attached guard. The programs keep them, whatever happens to these.
pub(super) struct Attached(Linked);

impl From<ObjectError> for NetworkError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::Damaged(why) => Self::Object(why),
            ObjectError::Map(name, errno) => Self::Map(name, errno),
        }
    }
}

impl Attached {
    /// Loads everything and attaches it to a cgroup, by its directory.
    pub(super) fn new(cgroup: BorrowedFd<'_>) -> Result<Self, NetworkError> {
        static PARSED: LazyLock<Result<Object, ParseError>> =
            LazyLock::new(|| Object::parse(OBJECT));
        let parsed = PARSED.as_ref();
        let object = parsed.map_err(|error| NetworkError::Object(error.to_string()))?;
        let linked = Linked::of(object.clone(), create)?;
        let mut codes = Vec::new();
        for (name, program, attach) in PROGRAMS {
            let kind = ProgramKind {
                program,
                attach,
                target: 0,
            };
            codes.push((name, kind, linked.program(name)?));
        }
        let programs = load(&codes, linked.licence())?;
        for (name, kind, program) in programs {
            bpf::attach_to_cgroup(cgroup, program.as_fd(), kind)
                .map_err(|errno| NetworkError::Attach(name, errno))?;
        }
        Ok(Self(linked))
    }

    /// A map. Can be taken once.
    pub(super) fn take(&mut self, name: &'static str) -> Result<OwnedFd, NetworkError> {
        Ok(self.0.take(name)?)
    }

    /// A map, to be used as an array.
    pub(super) fn take_array(&mut self, name: &'static str) -> Result<Map, NetworkError> {
        Ok(Map::Array(MapData::from_fd(self.take(name)?)?))
    }

    /// A map, to be used as a ring.
    pub(super) fn take_ring(&mut self, name: &'static str) -> Result<Map, NetworkError> {
        Ok(Map::RingBuf(MapData::from_fd(self.take(name)?)?))
    }
}

type Code = (&'static str, ProgramKind, Vec<[u8; 8]>);

/// Loads programs on all CPUs: it is what the start of a server waits for.
fn load(
    codes: &[Code],
    licence: &CStr,
) -> Result<Vec<(&'static str, ProgramKind, OwnedFd)>, NetworkError> {
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let cpus = cpus.min(codes.len());
    let next = AtomicUsize::new(0);
    let one = |(name, kind, insns): &Code| {
        let loaded = bpf::load_kind_or_explain(*kind, insns, licence);
        let program = loaded.map_err(|error| NetworkError::Program(name, error))?;
        Ok::<_, NetworkError>((*name, *kind, program))
    };
    // Each takes the next one, as some take much longer than others.
    let some = || {
        let taken = iter::from_fn(|| codes.get(next.fetch_add(1, Ordering::Relaxed)));
        taken.map(one).collect::<Vec<_>>()
    };
    let loaded: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (1..cpus).map(|_| scope.spawn(some)).collect();
        let mut loaded = some();
        loaded.extend(threads.into_iter().flat_map(|thread| {
            thread.join().unwrap_or_default() // then one is missing, which is noticed
        }));
        loaded
    });
    let loaded = loaded.into_iter().collect::<Result<Vec<_>, _>>()?;
    if loaded.len() == codes.len() {
        Ok(loaded)
    } else {
        Err(NetworkError::Object("a program was not loaded".to_owned()))
    }
}

fn create(map: &aya_obj::Map) -> Result<OwnedFd, Errno> {
    if map.map_type() != ARRAY_OF_MAPS {
        return object::create(map);
    }
    let inner = rules()?;
    let outer = bpf::create_map(&CreateAttributes {
        value_size: WORD,
        inner_map_fd: u32::try_from(inner.as_raw_fd()).map_err(|_| Errno::BADF)?,
        ..object::attributes(map)
    })?;
    bpf::set_inner_map(outer.as_fd(), inner.as_fd())?;
    Ok(outer)
}

/// An array of rules, without any.
pub(super) fn rules() -> Result<OwnedFd, Errno> {
    bpf::create_map(&CreateAttributes {
        map_type: ARRAY,
        key_size: WORD,
        value_size: u32::try_from(size_of::<Rule>()).map_err(|_| Errno::INVAL)?,
        max_entries: u32::try_from(MAX_RULES).map_err(|_| Errno::INVAL)?,
        ..CreateAttributes::default()
    })
}
