//! Which packets the guard counts together: a slot for each protocol of each network.
//!
//! A slot is a network's base and, of IP, one of its kinds. Every packet that is delivered counts in
//! exactly one slot, so that they come to the session's packets; [`TAGGED`] counts some of them again.

/// Slots, some of them unused: a power of two, so that a slot is known to be one by its bits.
pub const SLOTS: usize = 64;

/// Neither IP nor any of the following.
pub const OTHER: u32 = 0;
/// ARP and RARP.
pub const ARP: u32 = 1;
/// LLDP.
pub const LLDP: u32 = 2;
/// 802.2, behind a length: spanning tree, say.
pub const LLC: u32 = 3;
/// PPP over Ethernet.
pub const PPPOE: u32 = 4;
/// MPLS.
pub const MPLS: u32 = 5;
/// 802.1X.
pub const EAPOL: u32 = 6;

/// The base of IPv4.
pub const IPV4: u32 = 16;
/// The base of IPv6.
pub const IPV6: u32 = 32;
/// Frames with a VLAN tag, which are in another slot, too.
pub const TAGGED: u32 = 48;

/// Of IP: none of the following.
pub const REST: u32 = 0;
/// TCP of no known port.
pub const REST_TCP: u32 = 1;
/// UDP of no known port.
pub const REST_UDP: u32 = 2;
/// ICMP, or ICMPv6.
pub const CONTROL: u32 = 3;
/// SCTP.
pub const REST_SCTP: u32 = 4;
/// IGMP.
pub const GROUPS: u32 = 5;
/// IP in IP, and GRE.
pub const TUNNEL: u32 = 6;
/// ESP and AH.
pub const IPSEC: u32 = 7;
/// Later fragments, which have no transport header.
pub const FRAGMENT: u32 = 8;
/// Port 53 or 5353.
pub const DNS: u32 = 9;
/// TCP port 80 or 8080.
pub const HTTP: u32 = 10;
/// TCP port 443.
pub const TLS: u32 = 11;
/// UDP port 443.
pub const QUIC: u32 = 12;
/// TCP port 22.
pub const SSH: u32 = 13;
/// UDP ports 67, 68, 546 and 547.
pub const DHCP: u32 = 14;
/// UDP port 123.
pub const NTP: u32 = 15;

/// What the guard counts by protocol: the one element of its map `PROTOCOLS`, which the agent only reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// Packets delivered, by their slot.
    pub slots: [u64; SLOTS],
}

impl Default for Protocols {
    fn default() -> Self {
        Self { slots: [0; SLOTS] }
    }
}
