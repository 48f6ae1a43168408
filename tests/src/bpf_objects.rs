//! What the kernel holds of eBPF, by number: what is loaded can be compared with what was.
#![allow(unsafe_code, reason = "`bpf` has no safe wrapper here")]

use std::{collections::BTreeSet, io};

use anyhow::{Context as _, Result};

/// The kinds, each with the command that lists it.
const KINDS: [(&str, libc::c_long); 3] = [("program", 11), ("map", 12), ("link", 31)];

/// Every program, map and link on this host.
pub fn all() -> Result<BTreeSet<(&'static str, u32)>> {
    let mut found = BTreeSet::new();
    for (kind, command) in KINDS {
        let mut id = 0;
        while let Some(next) = after(command, id).with_context(|| format!("{kind}s"))? {
            found.insert((kind, next));
            id = next;
        }
    }
    Ok(found)
}

/// `BPF_*_GET_NEXT_ID`
fn after(command: libc::c_long, id: u32) -> Result<Option<u32>> {
    // start_id, next_id, open_flags
    let mut attributes: [u32; 4] = [id, 0, 0, 0];
    let size = size_of_val(&attributes);
    let attributes_at = attributes.as_mut_ptr();
    // SAFETY: the pointer and the size describe `attributes`, which outlives the call.
    if unsafe { libc::syscall(libc::SYS_bpf, command, attributes_at, size) } < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENOENT) => Ok(None),
            _ => Err(error.into()),
        };
    }
    let [_, next, ..] = attributes;
    Ok(Some(next))
}
