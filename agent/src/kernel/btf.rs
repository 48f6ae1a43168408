//! Where the members of kernel structures are, by the running kernel's own type information.
//!
//! The format: <https://www.kernel.org/doc/html/v5.14/bpf/btf.html>. Reads only what fork tagging and the
//! programs on security hooks need: the byte offsets of struct members, sizes, and the numbers of functions.

use std::collections::HashMap;

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
const FUNCTION: u32 = 12;

/// Struct and union types of a BTF blob.
#[derive(Debug)]
pub(super) struct Types<'a> {
    strings: &'a [u8],
    /// By type id.
    composites: HashMap<u32, Composite<'a>>,
    names: HashMap<&'a [u8], u32>,
    /// Name and type id of functions and of other names for types.
    declared: Vec<(u32, u32)>,
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
pub(super) struct BtfError(pub(super) String);

impl<'a> Types<'a> {
    pub(super) fn parse(blob: &'a [u8]) -> Result<Self, BtfError> {
        Self::read(blob).ok_or_else(|| BtfError("is malformed".into()))
    }

    fn read(blob: &'a [u8]) -> Option<Self> {
        let half = |at: usize| Some(u16::from_le_bytes(blob.get(at..at + 2)?.try_into().ok()?));
        if half(0)? != MAGIC {
            return None;
        }
        let header = word(blob, 4)?;
        let part = |offset: u32, length: u32| {
            let start = usize::try_from(header.checked_add(offset)?).ok()?;
            blob.get(start..start.checked_add(usize::try_from(length).ok()?)?)
        };
        let types = part(word(blob, 8)?, word(blob, 12)?)?;
        let strings = part(word(blob, 16)?, word(blob, 20)?)?;
        let mut read = Self {
            strings,
            composites: HashMap::new(),
            names: HashMap::new(),
            declared: Vec::new(),
        };
        let (mut at, mut id) = (0, 1);
        while at < types.len() {
            let (name, info, size) = (word(types, at)?, word(types, at + 4)?, word(types, at + 8)?);
            let (kind, count) = ((info >> 24) & 0x1f, usize::try_from(info & 0xffff).ok()?);
            at += 12;
            let extra = match kind {
                1 | 14 | 17 => 4,                       // INT, VAR, DECL_TAG
                3 => 12,                                // ARRAY
                STRUCT | UNION | 15 | 19 => 12 * count, // DATASEC, ENUM64
                6 | 13 => 8 * count,                    // ENUM, FUNC_PROTO
                2 | 7..=12 | 16 | 18 => 0, // pointers, modifiers, FUNC, FLOAT, TYPE_TAG
                _ => return None,
            };
            if kind == STRUCT || kind == UNION {
                let composite = Composite {
                    size,
                    bitfields: info >> 31 != 0,
                    members: types.get(at..at.checked_add(extra)?)?,
                };
                read.composites.insert(id, composite);
                if kind == STRUCT && name != 0 {
                    read.names.entry(string(strings, name)?).or_insert(id);
                }
            }
            if matches!(kind, FUNCTION | TYPEDEF) {
                read.declared.push((name, id));
            }
            at = at.checked_add(extra)?;
            id += 1;
        }
        Some(read)
    }

    /// The offset, in bytes, of `path` (member names, outermost first) within `structure`.
    pub(super) fn offset(&self, structure: &str, path: &[&str]) -> Result<u32, BtfError> {
        let missing = || BtfError(format!("has no {structure}.{}", path.join(".")));
        let mut id = *self.names.get(structure.as_bytes()).ok_or_else(missing)?;
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
        let mut declared = self.declared.iter();
        let found = declared.find(|(at, _)| string(self.strings, *at) == Some(name.as_bytes()));
        found.map(|(_, id)| *id)
    }

    /// The size of a structure in bytes.
    pub(super) fn size(&self, structure: &str) -> Result<u32, BtfError> {
        self.names
            .get(structure.as_bytes())
            .and_then(|id| self.composites.get(id))
            .map(|composite| composite.size)
            .ok_or_else(|| BtfError(format!("has no struct {structure}")))
    }

    /// A member's byte offset and type; looks into anonymous members too.
    fn member(&self, id: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        if depth > 8 {
            return None;
        }
        let composite = self.composites.get(&id)?;
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
            (string(self.strings, label)? == name.as_bytes()).then_some((bits / 8, kind))
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn string(strings: &[u8], at: u32) -> Option<&[u8]> {
    let rest = strings.get(usize::try_from(at).ok()?..)?;
    rest.split(|byte| *byte == 0).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn btf_of_this_kernel_has_task_struct() {
        let blob = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
        let types = Types::parse(&blob).unwrap();
        let pid = types.offset("task_struct", &["pid"]).unwrap();
        assert_eq!(types.offset("task_struct", &["tgid"]).unwrap(), pid + 4);
        assert_eq!(types.offset("upid", &["ns"]).unwrap(), 8);
        assert_eq!(types.size("upid").unwrap(), 16);
        assert!(types.offset("task_struct", &["no_such_member"]).is_err());
    }

    #[test]
    fn btf_malformed_is_an_error_at_every_length() {
        let blob = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
        for length in (0..400).chain([blob.len() / 2, blob.len() - 1]) {
            assert!(Types::parse(&blob[..length]).is_err(), "{length}");
        }
    }
}
