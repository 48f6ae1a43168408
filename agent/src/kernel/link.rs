//! Puts a session's capture filters in front of the guard, in the object file.
//!
//! ```text
//! section "socket":  | guard_cooked …            | guard_raw …            |
//! becomes:           | filters | guard_cooked …  | filters | guard_raw …  |
//! ```
//! A filter that rejects a packet exits with 0; one that accepts it falls through to what follows.
//! So the conjunction of any number of filters and the guard is their concatenation: one program,
//! no tail call (a program array is emptied when the agent dies) and no BPF-to-BPF call (older
//! verifiers refuse it beside `LD_ABS`). All jumps are relative, so only symbols and relocations
//! behind the insertion move.
//!
//! Constants go into the object file as well, so that one [`load`]er serves all: making one takes
//! aya 35 ms, as it reads the types of the whole kernel before it can be told that none are needed.

use std::{
    slice,
    sync::{LazyLock, Mutex, PoisonError},
};

use aya::{Ebpf, EbpfError, EbpfLoader};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

use crate::filter::EbpfInsn;

/// Why the guard's object could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The embedded object is not what this build of the agent expects.
    #[error("the kernel programs' object file is damaged: {0}")]
    Object(#[from] object::build::Error),
    /// The function is not there.
    #[error("the kernel programs' object file has no function {0}")]
    NoFunction(&'static str),
    /// The constant is not there, or of another size.
    #[error("the kernel programs' object file has no constant {0} of this size")]
    NoConstant(&'static str),
}

/// Reads the object.
pub(super) fn read(object: &[u8]) -> Result<Builder<'_>, LinkError> {
    let mut builder = Builder::read(object)?;
    // bpf-linker keeps all names in one table; the writer wants the sections' names in their own.
    let has_names = builder
        .sections
        .iter()
        .any(|section| matches!(section.data, SectionData::SectionString));
    if !has_names {
        let names = builder.sections.add();
        names.name = ".shstrtab".into();
        names.sh_type = SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    Ok(builder)
}

/// Inserts `filter` before the first instruction of `function`.
pub(super) fn prepend(
    builder: &mut Builder<'_>,
    function: &'static str,
    filter: &[EbpfInsn],
) -> Result<(), LinkError> {
    let (section, start) = builder
        .symbols
        .iter()
        .find(|symbol| symbol.name.as_slice() == function.as_bytes())
        .and_then(|symbol| Some((symbol.section?, symbol.st_value)))
        .ok_or(LinkError::NoFunction(function))?;
    let code: Vec<u8> = filter.iter().flat_map(|insn| insn.to_bytes()).collect();
    let length = code.len() as u64;

    let SectionData::Data(data) = &mut builder.sections.get_mut(section).data else {
        return Err(LinkError::NoFunction(function));
    };
    let at = usize::try_from(start)
        .ok()
        .filter(|at| *at <= data.len())
        .ok_or(LinkError::NoFunction(function))?;
    data.to_mut().splice(at..at, code);

    for symbol in &mut builder.symbols {
        if symbol.section != Some(section) {
            continue;
        }
        if symbol.name.as_slice() == function.as_bytes() {
            symbol.st_size += length;
        } else if symbol.st_value >= start {
            symbol.st_value += length;
        }
    }
    for other in &mut builder.sections {
        if other.sh_info_section != Some(section) {
            continue;
        }
        if let SectionData::Relocation(relocations) = &mut other.data {
            for relocation in relocations {
                if relocation.r_offset >= start {
                    relocation.r_offset += length;
                }
            }
        }
    }
    Ok(())
}

/// Sets a constant, in place of its placeholder.
pub(super) fn set<T: aya::Pod>(
    builder: &mut Builder<'_>,
    constant: &'static str,
    value: &T,
) -> Result<(), LinkError> {
    // SAFETY: `Pod` promises plain data without padding; the slice lives no longer than `value`.
    let value = unsafe { slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) };
    let none = LinkError::NoConstant(constant);
    let place = builder
        .symbols
        .iter()
        .find(|symbol| symbol.name.as_slice() == constant.as_bytes())
        .filter(|symbol| symbol.st_size == value.len() as u64)
        .and_then(|symbol| Some((symbol.section?, usize::try_from(symbol.st_value).ok()?)));
    let Some((section, start)) = place else {
        return Err(none);
    };
    let SectionData::Data(data) = &mut builder.sections.get_mut(section).data else {
        return Err(none);
    };
    let end = start.saturating_add(value.len());
    let bytes = data.to_mut().get_mut(start..end).ok_or(none)?;
    bytes.copy_from_slice(value);
    Ok(())
}

/// Writes the object out again.
pub(super) fn finish(builder: Builder<'_>) -> Result<Vec<u8>, LinkError> {
    let mut object = Vec::new();
    builder.write(&mut object)?;
    Ok(object)
}

/// Makes the object's maps and reads its programs, which need no kernel types for that.
pub(super) fn load(object: &[u8]) -> Result<Ebpf, EbpfError> {
    static LOADER: LazyLock<Mutex<EbpfLoader<'static>>> = LazyLock::new(|| {
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        Mutex::new(loader)
    });
    // Loading does not change the loader, so a panic while it did leaves it whole.
    LOADER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .load(object)
}
