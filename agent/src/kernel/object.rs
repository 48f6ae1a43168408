//! What an object file of `ebpf/` has, as the kernel wants it: maps and code.
//!
//! aya's loader is not used where programs are attached so that they outlive the agent, or where maps are storage
//! of sockets or tasks: those need type information that the objects do not have.

use std::{
    collections::{HashMap, HashSet},
    ffi::CStr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use aya_obj::{EbpfSectionKind, Object};
use rustix::io::Errno;

use super::bpf::{self, CreateAttributes};

const SK_STORAGE: u32 = 24;
const INODE_STORAGE: u32 = 28;
const TASK_STORAGE: u32 = 29;

/// An object file whose maps have been made, and whose programs know them.
pub(super) struct Linked {
    object: Object,
    maps: HashMap<String, OwnedFd>,
}

/// Why an object file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ObjectError {
    /// It is not what this build of the agent expects.
    #[error("the kernel programs' object file is damaged: {0}")]
    Damaged(String),
    /// The kernel does not make a map.
    #[error("{0}: {1}")]
    Map(String, Errno),
}

impl Linked {
    /// Writes a constant, which the programs have as the static variable of this name, and makes the maps.
    pub(super) fn new(file: &[u8], constant: (&str, &[u8])) -> Result<Self, ObjectError> {
        Self::with(file, constant, create)
    }

    /// The same, with maps that `create` makes.
    pub(super) fn with(
        file: &[u8],
        constant: (&str, &[u8]),
        create: impl Fn(&aya_obj::Map) -> Result<OwnedFd, Errno>,
    ) -> Result<Self, ObjectError> {
        let parsed = Object::parse(file);
        let mut object = parsed.map_err(|error| ObjectError::Damaged(error.to_string()))?;
        let (name, bytes) = constant;
        let patched = object.patch_map_data(HashMap::from([(name, (bytes, true))]));
        patched.map_err(|error| ObjectError::Damaged(error.to_string()))?;
        Self::of(object, create)
    }

    /// Makes the maps of a parsed file by `create`.
    pub(super) fn of(
        mut object: Object,
        create: impl Fn(&aya_obj::Map) -> Result<OwnedFd, Errno>,
    ) -> Result<Self, ObjectError> {
        let damaged = |error: &dyn std::fmt::Display| ObjectError::Damaged(error.to_string());
        let (mut maps, mut places) = (HashMap::new(), Vec::new());
        for (name, map) in std::mem::take(&mut object.maps) {
            let made = create(&map).map_err(|errno| ObjectError::Map(name.clone(), errno))?;
            places.push((name.clone(), made.as_raw_fd(), map));
            maps.insert(name, made);
        }
        let functions = object.functions.keys();
        let text: HashSet<usize> = functions.map(|(section, _)| *section).collect();
        let places = places
            .iter()
            .map(|(name, fd, map)| (name.as_str(), *fd, map));
        let relocated = object.relocate_maps(places, &text);
        relocated.map_err(|error| damaged(&error))?;
        let relocated = object.relocate_calls(&text);
        relocated.map_err(|error| damaged(&error))?;
        Ok(Self { object, maps })
    }

    /// A map. Can be taken once.
    pub(super) fn take(&mut self, name: &str) -> Result<OwnedFd, ObjectError> {
        let map = self.maps.remove(name);
        map.ok_or_else(|| ObjectError::Damaged(format!("it has no map {name}")))
    }

    /// A program, as the kernel reads it.
    pub(super) fn program(&self, name: &str) -> Result<Vec<[u8; 8]>, ObjectError> {
        let found = self.object.programs.get(name);
        let code = found.and_then(|found| self.object.functions.get(&found.function_key()));
        let code = code.ok_or_else(|| ObjectError::Damaged(format!("it has no program {name}")))?;
        Ok(code.instructions.iter().map(encode).collect())
    }

    /// What its programs say of their licence.
    pub(super) fn licence(&self) -> &CStr {
        &self.object.license
    }
}

/// A constant, as programs read it.
///
/// # Safety
/// Every byte of the value is initialised.
pub(super) unsafe fn bytes<T>(value: &T) -> &[u8] {
    // SAFETY: the caller's promise; the slice lives no longer than the value.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// As the kernel reads it.
pub(super) fn encode(insn: &aya_obj::generated::bpf_insn) -> [u8; 8] {
    let [off_low, off_high] = insn.off.to_ne_bytes();
    let [a, b, c, d] = insn.imm.to_ne_bytes();
    let registers = if cfg!(target_endian = "little") {
        insn.dst_reg() | (insn.src_reg() << 4)
    } else {
        insn.src_reg() | (insn.dst_reg() << 4)
    };
    [insn.code, registers, off_low, off_high, a, b, c, d]
}

/// What is asked of the kernel for a map.
pub(super) fn attributes(map: &aya_obj::Map) -> CreateAttributes {
    CreateAttributes {
        map_type: map.map_type(),
        key_size: map.key_size(),
        value_size: map.value_size(),
        max_entries: map.max_entries(),
        map_flags: map.map_flags(),
        ..CreateAttributes::default()
    }
}

/// Makes a map. Constants are written, and frozen; a storage's values are a multiple of eight bytes.
pub(super) fn create(map: &aya_obj::Map) -> Result<OwnedFd, Errno> {
    let mut attributes = attributes(map);
    if matches!(map.map_type(), SK_STORAGE | INODE_STORAGE | TASK_STORAGE) {
        if !map.value_size().is_multiple_of(8) {
            return Err(Errno::INVAL);
        }
        let types = bpf::load_types(&types(map.value_size()))?;
        attributes.btf_fd = u32::try_from(types.as_raw_fd()).map_err(|_| Errno::BADF)?;
        attributes.btf_key_type_id = KEY_TYPE;
        attributes.btf_value_type_id = VALUE_TYPE;
        return bpf::create_map(&attributes);
    }
    let made = bpf::create_map(&attributes)?;
    if map.section_kind() == EbpfSectionKind::Rodata {
        bpf::write_constants(made.as_fd(), map.data(), map.value_size())?;
    }
    Ok(made)
}

const KEY_TYPE: u32 = 1;
const VALUE_TYPE: u32 = 3;

/// Type information: a word, a double word, and as many of those as the storage has.
fn types(value_size: u32) -> Vec<u8> {
    const MAGIC_AND_VERSION: u32 = 0x0001_eb9f;
    const HEADER: u32 = 24;
    const INT: u32 = 1 << 24;
    const ARRAY: u32 = 3 << 24;
    const NAMES: &[u8; 16] = b"\0word\0double\0\0\0\0";
    let word = [1, INT, 4, 32];
    let double = [6, INT, 8, 64];
    let array = [0, ARRAY, 0, 2, KEY_TYPE, value_size / 8];
    let types = [word.as_slice(), &double, &array].concat();
    let length = u32::try_from(types.len() * 4).unwrap_or(0);
    let header = [MAGIC_AND_VERSION, HEADER, 0, length, length, 16];
    let words = header.iter().chain(&types);
    let mut blob: Vec<u8> = words.flat_map(|word| word.to_ne_bytes()).collect();
    blob.extend(NAMES);
    blob
}
