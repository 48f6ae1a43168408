//! Where the headers of a packet end, for `payload: headers`.
//!
//! ```text
//! LINK_ETHERNET  | dst 6 | src 6 | type 2 | (tag 2, type 2)* | network header | transport | payload
//! LINK_NETWORK                             (tag 2, type 2)*  | network header | transport | payload
//!                                                                                         ^ end()
//! ```
//! What cannot be read or is not known ends where the last understood header ended: the doubt is
//! always decided for showing less.

use aya_ebpf::programs::SkBuffContext;
use capwarden_abi::LINK_ETHERNET;

pub const ETHERNET_HEADER: u32 = 14;
pub const VLAN_TAG: u32 = 4;
/// Two tags is 802.1ad; a fourth is not parsed.
pub const MAX_VLAN_TAGS: u32 = 3;
const MAX_EXTENSION_HEADERS: u32 = 8;

pub const ETH_P_IP: u16 = 0x0800;
pub const ETH_P_ARP: u16 = 0x0806;
pub const ETH_P_RARP: u16 = 0x8035;
pub const ETH_P_8021Q: u16 = 0x8100;
pub const ETH_P_IPV6: u16 = 0x86dd;
pub const ETH_P_8021AD: u16 = 0x88a8;

/// ARP for Ethernet and IPv4; it carries no payload.
const ARP_LENGTH: u32 = 28;
const IPV4_MINIMUM: u32 = 20;
pub const IPV6_HEADER: u32 = 40;
const IPV6_FRAGMENT_HEADER: u32 = 8;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;
const UDPLITE: u8 = 136;

/// The offset, from the packet's first byte, at which its transport payload begins.
#[inline(always)]
pub fn end(ctx: &SkBuffContext, link: u32) -> u32 {
    let (mut kind, mut offset) = if link == LINK_ETHERNET {
        match half(ctx, ETHERNET_HEADER - 2) {
            Some(kind) => (kind, ETHERNET_HEADER),
            None => return ETHERNET_HEADER,
        }
    } else {
        // SAFETY: the context pointer is valid; the field is in network byte order.
        let protocol = unsafe { (*ctx.skb.skb).protocol };
        (u16::from_be(protocol as u16), 0)
    };
    let mut tags = 0;
    while tags < MAX_VLAN_TAGS && (kind == ETH_P_8021Q || kind == ETH_P_8021AD) {
        kind = match half(ctx, offset + 2) {
            Some(kind) => kind,
            None => return offset,
        };
        offset += VLAN_TAG;
        tags += 1;
    }
    match kind {
        ETH_P_IP => ipv4(ctx, offset),
        ETH_P_IPV6 => ipv6(ctx, offset),
        ETH_P_ARP | ETH_P_RARP => offset + ARP_LENGTH,
        _ => offset,
    }
}

#[inline(always)]
fn ipv4(ctx: &SkBuffContext, offset: u32) -> u32 {
    let Some(first) = byte(ctx, offset) else {
        return offset;
    };
    let header = u32::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header < IPV4_MINIMUM {
        return offset;
    }
    let after = offset + header;
    match half(ctx, offset + 6) {
        // Later fragments have no transport header.
        Some(fragment) if fragment & 0x1fff == 0 => {}
        _ => return after,
    }
    match byte(ctx, offset + 9) {
        Some(protocol) => transport(ctx, protocol, after),
        None => after,
    }
}

#[inline(always)]
fn ipv6(ctx: &SkBuffContext, offset: u32) -> u32 {
    let Some(mut next) = byte(ctx, offset + 6) else {
        return offset;
    };
    let mut at = offset + IPV6_HEADER;
    let mut seen = 0;
    while seen < MAX_EXTENSION_HEADERS {
        let length = match next {
            // Hop-by-hop, routing, destination options, mobility, HIP, shim6.
            0 | 43 | 60 | 135 | 139 | 140 => match byte(ctx, at + 1) {
                Some(units) => (u32::from(units) + 1) * 8,
                None => return at,
            },
            // Fragment.
            44 => match half(ctx, at + 2) {
                Some(fragment) if fragment & 0xfff8 == 0 => IPV6_FRAGMENT_HEADER,
                Some(_) => return at + IPV6_FRAGMENT_HEADER,
                None => return at,
            },
            // Authentication header.
            51 => match byte(ctx, at + 1) {
                Some(units) => (u32::from(units) + 2) * 4,
                None => return at,
            },
            protocol => return transport(ctx, protocol, at),
        };
        next = match byte(ctx, at) {
            Some(next) => next,
            None => return at,
        };
        at += length;
        seen += 1;
    }
    at
}

#[inline(always)]
fn transport(ctx: &SkBuffContext, protocol: u8, at: u32) -> u32 {
    match protocol {
        TCP => match byte(ctx, at + 12) {
            Some(offset) if offset >> 4 >= 5 => at + u32::from(offset >> 4) * 4,
            _ => at,
        },
        UDP | UDPLITE | ICMP | ICMPV6 => at + 8,
        SCTP => at + 12,
        _ => at,
    }
}

#[inline(always)]
pub fn byte(ctx: &SkBuffContext, offset: u32) -> Option<u8> {
    ctx.load::<u8>(offset as usize).ok()
}

#[inline(always)]
pub fn half(ctx: &SkBuffContext, offset: u32) -> Option<u16> {
    ctx.load::<u16>(offset as usize).ok().map(u16::from_be)
}
