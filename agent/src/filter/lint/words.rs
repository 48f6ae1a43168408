//! What is found, in words.

use super::super::Hiding;

/// Why [`Matches::NonePlain`](super::Matches::NonePlain) leaves open what hides.
pub const NOT_LOOKED_THROUGH: &str = "not looked through: it accepts no plain packets, only such as are tagged, tunnelled or of another kind, and lint starts from plain ones";

/// The name of a finding: `later-fragment`.
pub const fn hiding_name(hiding: Hiding) -> &'static str {
    match hiding {
        Hiding::LaterFragment => "later-fragment",
        Hiding::Ipv6Fragment => "ipv6-fragment",
        Hiding::Ipv6Extension => "ipv6-extension-header",
        Hiding::AuthenticationHeader => "authentication-header",
        Hiding::Vlan => "vlan",
        Hiding::QinQ => "qinq",
        Hiding::Mpls => "mpls",
        Hiding::Pppoe => "pppoe",
        Hiding::IpInIp => "ip-in-ip",
        Hiding::SixInFour => "6in4",
        Hiding::Gre => "gre",
        Hiding::Vxlan => "vxlan",
        Hiding::IcmpError => "icmp-error",
        Hiding::OtherTransport => "other-transport",
        Hiding::Arp => "arp",
    }
}

/// Why it matters, in a sentence.
pub const fn hiding_why(hiding: Hiding) -> &'static str {
    match hiding {
        Hiding::LaterFragment => {
            "Only the first fragment of an IPv4 packet has a transport header; the later ones, with the rest of the data, get through."
        }
        Hiding::Ipv6Fragment => {
            "A fragment header stands between the IPv6 header and the transport header, and the filter does not look behind it."
        }
        Hiding::Ipv6Extension => {
            "Options stand between the IPv6 header and the transport header, and the filter does not look behind them."
        }
        Hiding::AuthenticationHeader => {
            "An authentication header stands in front of the transport header, and the filter does not look behind it."
        }
        Hiding::Vlan => {
            "A VLAN tag moves the whole packet by four bytes, and the filter looks where it would be without."
        }
        Hiding::QinQ => "Two VLAN tags, or one of a provider, move the whole packet.",
        Hiding::Mpls => "An MPLS label stands in front of the packet.",
        Hiding::Pppoe => "A PPPoE session carries the packet, as on many access lines.",
        Hiding::IpInIp => "A tunnel carries the whole IPv4 packet, under other addresses.",
        Hiding::SixInFour => "A tunnel carries the whole IPv6 packet, under other addresses.",
        Hiding::Gre => "A GRE tunnel carries the whole packet, under other addresses.",
        Hiding::Vxlan => "A VXLAN or Geneve tunnel carries the whole frame in UDP.",
        Hiding::IcmpError => "An ICMP error quotes the packet that it is about.",
        Hiding::OtherTransport => "The same ports under SCTP, DCCP or UDP-Lite are not looked at.",
        Hiding::Arp => {
            "Addresses are matched in ARP and RARP, too, so more than IP packets of these hosts is seen."
        }
    }
}
