//! Without a link header: what begins with the digit 4 is IPv4, with 6 IPv6, and there is no ARP.

use super::{
    Known::{Contained as C, Not as N, WellFormed as W},
    Pair,
};

pub const PAIRS: &[Pair] = &[
    ("tcp port 80", "tcp", C, N),
    ("host 10.0.0.5", "ip", C, N),
    ("net 10.0.0.0/8", "ip", C, N),
    ("net 10.0.0.0/24", "net 10.0.0.0/8", C, N),
    ("ip", "ip[0] >> 4 = 4", C, C),
    ("link[0] & 0xf0 = 0x40", "ip", C, C),
    ("tcp", "ip proto 6", N, C),
    ("ip proto 6 or ip6 proto 6", "tcp", C, C),
    ("port 22", "tcp", N, N),
    ("port 22", "tcp or udp", N, N),
    ("tcp port 22", "greater 24", W, N),
    ("ip", "greater 20", W, N),
    ("ip6", "greater 40", W, N),
    // Nothing but the two is well-formed.
    ("ip or ip6", "greater 1", C, W),
    ("not ip", "ip6", W, C),
    ("not ip and not ip6", "tcp", W, N),
    ("udp port 53", "port 53", C, N),
    ("host 2001:db8::1", "ip6", C, N),
    ("host 2001:db8::1", "net 2001:db8::/32", C, N),
    ("icmp", "ip proto 1", C, C),
    ("ip[6:2] & 0x1fff != 0", "ip", C, N),
    ("ip[2:2] < 20", "tcp", W, N),
    ("len < 20", "ip6", W, N),
    ("less 64", "less 128", C, N),
    ("ip[9] = 6", "tcp", C, N),
    ("tcp[13] & 2 != 0", "tcp", C, N),
    ("tcp[0:2] = 22", "ip and tcp src port 22", C, C),
    ("portrange 80-90", "portrange 1-1024", C, N),
    ("ip multicast", "ip[16] >= 224", C, C),
    ("inbound and tcp", "inbound", C, N),
];
