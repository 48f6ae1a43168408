//! Which slot lets a socket use an address.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use capwarden_abi::network::{MAPPED, MAX_RULES, Rule, SLOTS, SocketTag, protocol, want};

use crate::{maps::RULES, slot::Slot};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Listen,
    Connect,
}

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
    fn is_v4(&self) -> bool {
        let [a, b, c, _] = self.address;
        a == 0 && b == 0 && c == MAPPED
    }

    /// `0.0.0.0` or `::`.
    #[inline(always)]
    pub fn is_unspecified(&self) -> bool {
        let [a, b, c, d] = self.address;
        a == 0 && b == 0 && d == 0 && (c == 0 || c == MAPPED)
    }

    /// See [`want`]. None for a protocol that no rule is about.
    #[inline(always)]
    fn want(&self, what: Use) -> Option<u32> {
        let mut bit = want::LISTEN;
        if what == Use::Connect {
            bit <<= want::CONNECT_SHIFT;
        }
        match self.protocol {
            protocol::TCP => {}
            protocol::UDP => bit <<= want::UDP_SHIFT,
            _ => return None,
        }
        if !self.is_v4() {
            bit <<= want::V6_SHIFT;
        }
        Some(bit)
    }
}

/// One use of a slot, or none.
///
/// Not an `Option`: what the compiler leaves undefined in a `None`, the verifier does not let it
/// move around.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub slot: u32,
    /// 0 for none.
    pub generation: u64,
}

impl Owner {
    const NOBODY: Self = Self {
        slot: 0,
        generation: 0,
    };

    #[inline(always)]
    pub fn is_nobody(self) -> bool {
        self.generation == 0
    }

    /// What a tag says.
    #[inline(always)]
    pub fn of(tag: *const SocketTag) -> Self {
        if tag.is_null() {
            return Self::NOBODY;
        }
        // SAFETY: a live map value; these two are never written after the tag was made.
        unsafe {
            Self {
                slot: (*tag).slot,
                generation: (*tag).generation,
            }
        }
    }

    /// The slot, if this is the use that it is in now.
    #[inline(always)]
    pub fn slot(self) -> Option<Slot> {
        Slot::of(self.slot, self.generation)
    }

    #[inline(always)]
    pub fn goes_on(self) -> bool {
        self.slot().is_some_and(Slot::goes_on)
    }
}

/// The slot that the socket belongs to, if that allows it; for a socket that belongs to none, the
/// one in longest use of those that do. Its use goes on.
#[inline(always)]
pub fn find(what: Use, wanted: &Endpoint, own: Owner) -> Owner {
    let slots = allowed_by(what, wanted);
    if own.is_nobody() {
        return oldest(slots);
    }
    let allowed = own.slot < SLOTS as u32 && slots >> own.slot & 1 != 0;
    if allowed && own.goes_on() {
        own
    } else {
        Owner::NOBODY
    }
}

/// The slots that have a rule for it, as bits.
///
/// The verifier follows every way through the loop, so there are none but on and out.
#[inline(always)]
fn allowed_by(what: Use, wanted: &Endpoint) -> u64 {
    let (Some(rules), Some(want)) = (RULES.current(), wanted.want(what)) else {
        return 0;
    };
    let mut slots = 0;
    let mut index = 0;
    while index < MAX_RULES as u32 {
        let Some(rule) = rules.get(index) else {
            break;
        };
        if rule.allows == 0 {
            break;
        }
        let miss = misses(rule, wanted, want);
        // 1 for no miss.
        let hit = ((miss | miss.wrapping_neg()) >> 63) ^ 1;
        slots |= hit << (rule.slot & 63);
        index += 1;
    }
    forget(slots)
}

/// The same value, of which the verifier knows nothing any more, so that it need not follow each
/// way to it on its own.
#[inline(always)]
fn forget(value: u64) -> u64 {
    // SAFETY: the helper has no requirements.
    let noise = unsafe { bpf_ktime_get_boot_ns() };
    let noise = &raw const noise;
    // SAFETY: a valid local; volatile, so that the compiler does not see that they are the same.
    let (once, twice) = unsafe { (noise.read_volatile(), noise.read_volatile()) };
    value ^ once ^ twice
}

/// 0 if the rule allows it.
#[inline(always)]
fn misses(rule: &Rule, wanted: &Endpoint, want: u32) -> u64 {
    let [a, b, c, d] = wanted.address;
    let [ra, rb, rc, rd] = rule.address;
    let [ma, mb, mc, md] = rule.mask;
    let address = ((a ^ ra) & ma) | ((b ^ rb) & mb) | ((c ^ rc) & mc) | ((d ^ rd) & md);
    let other = (rule.allows & want) ^ want;
    // Above 16 bits if the port is outside.
    let port = u32::from(wanted.port);
    let below = port.wrapping_sub(rule.first_port.into()) >> 16;
    let above = u32::from(rule.last_port).wrapping_sub(port) >> 16;
    u64::from(address | other | below | above)
}

#[inline(always)]
fn oldest(slots: u64) -> Owner {
    let mut found = Owner::NOBODY;
    if slots == 0 {
        return found;
    }
    // SAFETY: the helper has no requirements.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let mut number = 0;
    while number < SLOTS as u32 {
        if slots >> number & 1 != 0
            && let Some(slot) = Slot::current(number)
            && (found.is_nobody() || slot.generation() < found.generation)
            && slot.goes_on_at(now)
        {
            found = Owner {
                slot: slot.number(),
                generation: slot.generation(),
            };
        }
        number += 1;
    }
    found
}
