//! What an object file of `ebpf/` has, as the kernel wants it: maps and code.
//!
//! aya's loader is not used where programs are attached so that they outlive the agent, or where maps are storage
//! of sockets or tasks: those need type information that the objects do not have.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya_obj::EbpfSectionKind;
use rustix::io::Errno;

use super::bpf::{self, CreateAttributes};

const SK_STORAGE: u32 = 24;
const TASK_STORAGE: u32 = 29;

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
    if matches!(map.map_type(), SK_STORAGE | TASK_STORAGE) {
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
