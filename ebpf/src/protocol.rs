//! Which protocol a packet is of, told by its headers alone: what is counted of it is a slot of
//! [`capwarden_abi::protocol`].
//!
//! What cannot be read or is not known counts with the rest of what it is certainly of: an IPv4
//! packet whose transport header is missing is an IPv4 packet, and no more.

use aya_ebpf::programs::SkBuffContext;
use capwarden_abi::{LINK_ETHERNET, protocol::*};

use crate::headers::{
    ETH_P_8021AD, ETH_P_8021Q, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, ETH_P_RARP, ETHERNET_HEADER, ICMP,
    ICMPV6, IPV6_HEADER, MAX_VLAN_TAGS, SCTP, TCP, UDP, VLAN_TAG, byte, half,
};

const ETH_P_LLDP: u16 = 0x88cc;
const ETH_P_EAPOL: u16 = 0x888e;
const ETH_P_MPLS: u16 = 0x8847;
const ETH_P_PPPOE_DISCOVERY: u16 = 0x8863;
const ETH_P_PPPOE_SESSION: u16 = 0x8864;
/// What is no more than this is a length, and 802.2 follows.
const LONGEST_802_3: u16 = 1500;

const IGMP: u8 = 2;
const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const GRE: u8 = 47;
const ESP: u8 = 50;
const AH: u8 = 51;

/// Extension headers of IPv6 that are looked behind.
const MAX_EXTENSION_HEADERS: u32 = 4;

/// A packet's slot, and whether it has a VLAN tag.
#[inline(always)]
pub fn slot(ctx: &SkBuffContext, link: u32) -> (u32, bool) {
    // SAFETY: the context pointer is valid; the protocol is in network byte order.
    let (protocol, beside) = unsafe {
        let skb = ctx.skb.skb;
        ((*skb).protocol, (*skb).vlan_present)
    };
    if link == LINK_ETHERNET
        && let Some(slot) = common(ctx)
    {
        return (slot, beside != 0);
    }
    let (mut kind, mut offset) = if link == LINK_ETHERNET {
        match half(ctx, ETHERNET_HEADER - 2) {
            Some(kind) => (kind, ETHERNET_HEADER),
            None => return (OTHER, beside != 0),
        }
    } else {
        (u16::from_be(protocol as u16), 0)
    };
    let mut tags = 0;
    while tags < MAX_VLAN_TAGS && (kind == ETH_P_8021Q || kind == ETH_P_8021AD) {
        kind = half(ctx, offset + 2).unwrap_or(0xffff);
        offset += VLAN_TAG;
        tags += 1;
    }
    let slot = match kind {
        ETH_P_IP => IPV4 + ipv4(ctx, offset),
        ETH_P_IPV6 => IPV6 + ipv6(ctx, offset),
        ETH_P_ARP | ETH_P_RARP => ARP,
        ETH_P_LLDP => LLDP,
        ETH_P_EAPOL => EAPOL,
        ETH_P_MPLS => MPLS,
        ETH_P_PPPOE_DISCOVERY | ETH_P_PPPOE_SESSION => PPPOE,
        ..=LONGEST_802_3 if link == LINK_ETHERNET => LLC,
        _ => OTHER,
    };
    (slot, tags != 0 || beside != 0)
}

/// The slot of a frame that holds IPv4 without options, as most do: in one look, since it is the looks
/// that take time.
#[inline(always)]
fn common(ctx: &SkBuffContext) -> Option<u32> {
    let frame = ctx.load::<[u8; 38]>(0).ok()?;
    let is_it = frame[12] == 0x08 && frame[13] == 0 && frame[14] == 0x45;
    if !is_it || frame[20] & 0x1f != 0 || frame[21] != 0 {
        return None;
    }
    let kind = match frame[23] {
        protocol @ (TCP | UDP) => service(
            protocol == TCP,
            u16::from_be_bytes([frame[34], frame[35]]),
            u16::from_be_bytes([frame[36], frame[37]]),
        ),
        protocol => portless(protocol),
    };
    Some(IPV4 + kind)
}

#[inline(always)]
fn ipv4(ctx: &SkBuffContext, offset: u32) -> u32 {
    let Ok(header) = ctx.load::<[u8; 20]>(offset as usize) else {
        return REST;
    };
    let length = u32::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || length < 20 {
        return REST;
    }
    if header[6] & 0x1f != 0 || header[7] != 0 {
        return FRAGMENT;
    }
    transport(ctx, header[9], offset + length)
}

#[inline(always)]
fn ipv6(ctx: &SkBuffContext, offset: u32) -> u32 {
    let Some(mut next) = byte(ctx, offset + 6) else {
        return REST;
    };
    let mut at = offset + IPV6_HEADER;
    let mut seen = 0;
    while seen < MAX_EXTENSION_HEADERS {
        // Hop-by-hop, routing, fragment, destination options.
        if !matches!(next, 0 | 43 | 44 | 60) {
            break;
        }
        let Ok(header) = ctx.load::<[u8; 4]>(at as usize) else {
            return REST;
        };
        let mut length = (u32::from(header[1]) + 1) * 8;
        if next == 44 {
            if header[2] != 0 || header[3] & 0xf8 != 0 {
                return FRAGMENT;
            }
            length = 8;
        }
        next = header[0];
        at += length;
        seen += 1;
    }
    transport(ctx, next, at)
}

#[inline(always)]
fn transport(ctx: &SkBuffContext, protocol: u8, at: u32) -> u32 {
    if protocol != TCP && protocol != UDP {
        return portless(protocol);
    }
    let Ok(ports) = ctx.load::<[u8; 4]>(at as usize) else {
        return if protocol == TCP { REST_TCP } else { REST_UDP };
    };
    service(
        protocol == TCP,
        u16::from_be_bytes([ports[0], ports[1]]),
        u16::from_be_bytes([ports[2], ports[3]]),
    )
}

/// Of a protocol that has no ports.
#[inline(always)]
fn portless(protocol: u8) -> u32 {
    match protocol {
        ICMP | ICMPV6 => CONTROL,
        SCTP => REST_SCTP,
        IGMP => GROUPS,
        IPV4_IN_IP | IPV6_IN_IP | GRE => TUNNEL,
        ESP | AH => IPSEC,
        _ => REST,
    }
}

/// What the lower port of a TCP or UDP packet is known for: the side that has it is the service.
#[inline(always)]
fn service(tcp: bool, from: u16, to: u16) -> u32 {
    let port = if from < to { from } else { to };
    match (port, tcp) {
        (53 | 5353, _) => DNS,
        (22, true) => SSH,
        (80 | 8080, true) => HTTP,
        (443, true) => TLS,
        (443, false) => QUIC,
        (67 | 68 | 546 | 547, false) => DHCP,
        (123, false) => NTP,
        (_, true) => REST_TCP,
        (_, false) => REST_UDP,
    }
}
