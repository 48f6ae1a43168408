//! Where the members of kernel structures are, by the running kernel's own type information.
//!
//! The format: <https://www.kernel.org/doc/html/v5.14/bpf/btf.html>. Reads only what fork tagging and the
//! programs on security hooks need: the byte offsets of struct members, sizes, and the numbers of functions.

use std::{fs, ops::Range};

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
const FUNCTION: u32 = 12;

/// Where the kernel tells it.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The types of a BTF blob. A kernel has more than a hundred thousand of them, of which a dozen are asked for: so none
/// is remembered but by its place.
#[derive(Debug)]
pub(super) struct Types {
    blob: Vec<u8>,
    types: Range<usize>,
    strings: Range<usize>,
    /// By type id, which counts from 1.
    places: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Composite<'a> {
    size: u32,
    bitfields: bool,
    members: &'a [u8],
}

/// The information is missing or not understood; nothing rests on a guess.
#[derive(Debug, thiserror::Error)]
#[error("the kernel's type information {0}")]
pub(super) struct BtfError(String);

impl Types {
    /// What the running kernel says of its types.
    pub(super) fn of_this_kernel() -> Result<Self, BtfError> {
        let blob = fs::read(VMLINUX);
        Self::parse(
            blob.map_err(|error| BtfError(format!("cannot be read from {VMLINUX}: {error}")))?,
        )
    }

    fn parse(blob: Vec<u8>) -> Result<Self, BtfError> {
        Self::read(blob).ok_or_else(|| BtfError("is malformed".into()))
    }

    fn read(blob: Vec<u8>) -> Option<Self> {
        let half = |at: usize| Some(u16::from_le_bytes(blob.get(at..at + 2)?.try_into().ok()?));
        if half(0)? != MAGIC {
            return None;
        }
        let header = word(&blob, 4)?;
        let part = |offset: u32, length: u32| {
            let start = usize::try_from(header.checked_add(offset)?).ok()?;
            let end = start.checked_add(usize::try_from(length).ok()?)?;
            (end <= blob.len()).then_some(start..end)
        };
        let types = part(word(&blob, 8)?, word(&blob, 12)?)?;
        let strings = part(word(&blob, 16)?, word(&blob, 20)?)?;
        let places = places(blob.get(types.clone())?)?;
        Some(Self {
            blob,
            types,
            strings,
            places,
        })
    }

    fn types(&self) -> &[u8] {
        self.blob.get(self.types.clone()).unwrap_or_default()
    }

    fn strings(&self) -> &[u8] {
        self.blob.get(self.strings.clone()).unwrap_or_default()
    }

    /// The offset, in bytes, of `path` (member names, outermost first) within `structure`.
    pub(super) fn offset(&self, structure: &str, path: &[&str]) -> Result<u32, BtfError> {
        let missing = || BtfError(format!("has no {structure}.{}", path.join(".")));
        let mut id = self.named(structure, &[STRUCT]).ok_or_else(missing)?;
        let mut total = 0;
        for name in path {
            let (offset, member) = self.member(id, name, 0).ok_or_else(missing)?;
            total += offset;
            id = member;
        }
        Ok(total)
    }

    /// The number of a function of the kernel, or of a tracepoint by its type; none if it has none of this name.
    pub(super) fn function(&self, name: &str) -> Option<u32> {
        self.named(name, &[FUNCTION, TYPEDEF])
    }

    /// The size of a structure in bytes.
    pub(super) fn size(&self, structure: &str) -> Result<u32, BtfError> {
        self.named(structure, &[STRUCT])
            .and_then(|id| self.composite(id))
            .map(|composite| composite.size)
            .ok_or_else(|| BtfError(format!("has no struct {structure}")))
    }

    /// The first type of this name that is of one of these kinds.
    fn named(&self, name: &str, kinds: &[u32]) -> Option<u32> {
        let types = self.types();
        let found = self.places.iter().position(|at| {
            let at = *at as usize;
            kind(types, at).is_some_and(|kind| kinds.contains(&kind))
                && word(types, at).is_some_and(|label| self.is_called(label, name))
        })?;
        u32::try_from(found + 1).ok()
    }

    /// Whether the string at this place is this one.
    fn is_called(&self, label: u32, name: &str) -> bool {
        let rest = self.strings().get(label as usize..).unwrap_or_default();
        let rest = rest.strip_prefix(name.as_bytes());
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }

    fn composite(&self, id: u32) -> Option<Composite<'_>> {
        let at = *self.places.get(id.checked_sub(1)? as usize)? as usize;
        let types = self.types();
        let (STRUCT | UNION) = kind(types, at)? else {
            return None;
        };
        let members = at.checked_add(HEAD)?;
        Some(Composite {
            size: word(types, at + 8)?,
            bitfields: word(types, at + 4)? >> 31 != 0,
            members: types.get(members..members.checked_add(behind(types, at)?)?)?,
        })
    }

    /// A member's byte offset and type; looks into anonymous members too.
    fn member(&self, id: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        if depth > 8 {
            return None;
        }
        let composite = self.composite(id)?;
        composite.members.chunks_exact(12).find_map(|member| {
            let (label, kind, position) = (word(member, 0)?, word(member, 4)?, word(member, 8)?);
            let bits = if composite.bitfields {
                position & 0x00ff_ffff
            } else {
                position
            };
            if label == 0 {
                let (inner, kind) = self.member(kind, name, depth + 1)?;
                return Some((bits / 8 + inner, kind));
            }
            self.is_called(label, name).then_some((bits / 8, kind))
        })
    }
}

/// Bytes that every type has: its name, its kind, and its size or what it refers to.
const HEAD: usize = 12;

fn kind(types: &[u8], at: usize) -> Option<u32> {
    Some((word(types, at.checked_add(4)?)? >> 24) & 0x1f)
}

/// Where each type begins.
fn places(types: &[u8]) -> Option<Vec<u32>> {
    let mut places = Vec::new();
    let mut at = 0;
    while at < types.len() {
        places.push(u32::try_from(at).ok()?);
        at = at.checked_add(HEAD)?.checked_add(behind(types, at)?)?;
    }
    (at == types.len()).then_some(places)
}

/// How many bytes a type has behind its head.
fn behind(types: &[u8], at: usize) -> Option<usize> {
    let count = usize::try_from(word(types, at.checked_add(4)?)? & 0xffff).ok()?;
    Some(match kind(types, at)? {
        1 | 14 | 17 => 4,                       // INT, VAR, DECL_TAG
        3 => 12,                                // ARRAY
        STRUCT | UNION | 15 | 19 => 12 * count, // DATASEC, ENUM64
        6 | 13 => 8 * count,                    // ENUM, FUNC_PROTO
        2 | 7..=12 | 16 | 18 => 0,              // pointers, modifiers, FUNC, FLOAT, TYPE_TAG
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn btf_of_this_kernel_has_task_struct() {
        let types = Types::of_this_kernel().unwrap();
        let pid = types.offset("task_struct", &["pid"]).unwrap();
        assert_eq!(types.offset("task_struct", &["tgid"]).unwrap(), pid + 4);
        assert_eq!(types.offset("upid", &["ns"]).unwrap(), 8);
        assert_eq!(types.size("upid").unwrap(), 16);
        assert!(types.offset("task_struct", &["no_such_member"]).is_err());
    }

    #[test]
    fn btf_malformed_is_an_error_at_every_length() {
        let blob = Types::of_this_kernel().unwrap().blob;
        for length in (0..400).chain([blob.len() / 2, blob.len() - 1]) {
            assert!(Types::parse(blob[..length].to_vec()).is_err(), "{length}");
        }
    }
}
