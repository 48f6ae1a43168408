//! On `any`: no link header, and the protocol, the interface and the direction beside the bytes.

use super::{
    Known::{Contained as C, Not as N, WellFormed as W},
    Pair,
};

pub const PAIRS: &[Pair] = &[
    ("tcp port 80", "tcp", C, N),
    ("ifindex 700 and tcp", "ifindex 700", C, N),
    ("tcp", "ifindex 700", N, N),
    ("host 10.0.0.5", "net 10.0.0.0/8", C, N),
    ("net 10.0.0.0/8", "not port 22", N, N),
    ("ip", "greater 20", W, N),
    ("outbound and tcp", "outbound", C, N),
    ("arp", "not ip", C, N),
    ("ip proto 6", "tcp", C, N),
    ("host 10.0.0.5", "ip", N, N),
    ("net 10.0.0.0/24", "net 10.0.0.0/8", C, N),
    ("net 10.0.0.0/8", "ip or arp or rarp", C, N),
    ("ip", "ip[0] >> 4 = 4", W, C),
    ("ip6", "greater 40", W, N),
    ("arp", "greater 28", W, N),
    ("inbound", "not outbound", C, C),
    ("outbound and tcp port 80", "tcp port 80", C, N),
    ("ifindex 1 or ifindex 700", "ifindex 700 or ifindex 1", C, C),
    ("ifindex 1 and ifindex 700", "arp", C, N),
    ("not ifindex 1", "ifindex 700", N, C),
    // A packet without a device is dropped where its interface is asked for.
    ("ifindex 0", "arp", C, N),
    ("tcp or udp", "ip or ip6", C, N),
    ("tcp", "ip proto 6", N, C),
    ("port 22", "tcp or udp", N, N),
    ("icmp6", "ip6", C, N),
    ("ip6 proto 58", "icmp6", C, C),
    ("less 64", "less 65", C, N),
    ("tcp[13] & 2 != 0", "tcp", C, N),
    ("udp[4:2] < 8", "arp", W, N),
    ("ether proto 0x800", "ip", C, C),
    ("not tcp port 22 and ip", "ip", C, N),
    ("host 2001:db8::1", "net 2001:db8::/32", C, N),
];
