//! Which slot lets a socket use an address.

use capwarden_abi::network::{MAPPED, MAX_RULES, Rule, SocketTag, family, kind, protocol};

use crate::{maps::RULES, slot::Slot};

#[derive(Clone, Copy)]
pub struct Endpoint {
    pub address: [u32; 4],
    pub port: u16,
    pub protocol: u8,
}

impl Endpoint {
    #[inline(always)]
    pub fn v4(address: u32, port: u16, protocol: u8) -> Self {
        Self {
            address: [0, 0, MAPPED, address],
            port,
            protocol,
        }
    }

    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        let [a, b, c, _] = self.address;
        a == 0 && b == 0 && c == MAPPED
    }

    /// `0.0.0.0` or `::`.
    #[inline(always)]
    pub fn is_unspecified(&self) -> bool {
        let [a, b, c, d] = self.address;
        a == 0 && b == 0 && d == 0 && (c == 0 || c == MAPPED)
    }
}

/// The slot that the socket belongs to, if that allows it; for a socket that belongs to none, the
/// first that does. The agent puts those of older slots first. The use of the slot goes on.
#[inline(always)]
pub fn find(kind: u8, wanted: &Endpoint, own: Option<(u32, u64)>) -> Option<(u32, u64)> {
    let rules = RULES.current()?;
    let is_v4 = wanted.is_v4();
    let mut index = 0;
    while index < MAX_RULES as u32 {
        let rule = rules.get(index)?;
        if rule.kind == kind::NONE {
            return None;
        }
        if rule.kind == kind
            && own.is_none_or(|own| own == (rule.slot, rule.generation))
            && allows(rule, wanted, is_v4)
            && Slot::of(rule.slot, rule.generation).is_some_and(Slot::goes_on)
        {
            return Some((rule.slot, rule.generation));
        }
        index += 1;
    }
    None
}

#[inline(always)]
fn allows(rule: &Rule, wanted: &Endpoint, is_v4: bool) -> bool {
    let [a, b, c, d] = wanted.address;
    let [ra, rb, rc, rd] = rule.address;
    let [ma, mb, mc, md] = rule.mask;
    let other = ((a ^ ra) & ma) | ((b ^ rb) & mb) | ((c ^ rc) & mc) | ((d ^ rd) & md);
    other == 0
        && (rule.family == family::ANY || (rule.family == family::V4) == is_v4)
        && (rule.protocol == protocol::ANY || rule.protocol == wanted.protocol)
        && wanted.port >= rule.first_port
        && wanted.port <= rule.last_port
}

/// What a tag says of the slot.
#[inline(always)]
pub fn owner(tag: *const SocketTag) -> (u32, u64) {
    // SAFETY: a live map value; these two are never written after the tag was made.
    unsafe { ((*tag).slot, (*tag).generation) }
}
