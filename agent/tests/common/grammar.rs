//! Random expressions: libpcap's grammar, a few levels deep.

use super::random::Random;

const HOSTS: [&str; 6] = [
    "10.0.0.5",
    "192.168.1.7",
    "8.8.8.8",
    "2001:db8::1",
    "2001:db8::9",
    "224.0.0.1",
];
const NETS: [&str; 7] = [
    "10.0.0.0/8",
    "10.0.0.0/24",
    "192.168.0.0/16",
    "8.8.8.8/31",
    "0.0.0.0/1",
    "2001:db8::/32",
    "2001:db8::8/125",
];
const PORTS: [u16; 6] = [22, 53, 80, 443, 1025, 40000];
const WORDS: [&str; 24] = [
    "ip", "ip6", "arp", "rarp", "tcp", "udp", "icmp", "icmp6", "sctp", "igmp", "pim", "esp", "ah",
    "vrrp", "stp", "llc", "isis", "ipx", "mpls", "pppoes", "geneve", "vlan", "inbound", "outbound",
];
const LINK_WORDS: [&str; 5] = [
    "ether broadcast",
    "ether multicast",
    "ether host 02:00:00:00:00:01",
    "ether dst 02:00:00:00:00:02",
    "ether proto 0x806",
];

/// An expression of up to so many levels.
pub fn expression(random: &mut Random, levels: usize) -> String {
    if levels == 0 || random.below(5) == 0 {
        return primitive(random);
    }
    let mut part = || expression(random, levels - 1);
    let (a, b) = (part(), part());
    match random.below(8) {
        0 => format!("not ({a})"),
        1 => format!("({a}) and not ({b})"),
        2..5 => format!("({a}) and ({b})"),
        _ => format!("({a}) or ({b})"),
    }
}

fn primitive(random: &mut Random) -> String {
    let direction = random.pick(&["", "", "src ", "dst ", "src and dst ", "src or dst "]);
    let port = random.pick(&PORTS);
    match random.below(11) {
        0 | 1 => random.pick(&WORDS).to_owned(),
        2 => random.pick(&LINK_WORDS).to_owned(),
        3 => format!("{direction}host {}", random.pick(&HOSTS)),
        4 => format!("{direction}net {}", random.pick(&NETS)),
        5 => {
            let protocol = random.pick(&["", "tcp ", "udp ", "sctp "]);
            format!("{protocol}{direction}port {port}")
        }
        6 => {
            let protocol = random.pick(&["", "tcp ", "udp "]);
            let last = port.saturating_add(random.pick(&[1, 58, 1000]));
            format!("{protocol}{direction}portrange {port}-{last}")
        }
        7 => {
            let number = random.pick(&[1, 2, 6, 17, 41, 47, 58, 132]);
            let what = random.pick(&["ip proto", "ip6 proto", "proto"]);
            format!("{what} {number}")
        }
        8 => {
            let limit = random.pick(&[14, 34, 54, 60, 64, 100]);
            format!("{} {limit}", random.pick(&["less", "greater"]))
        }
        _ => {
            let test = random.pick(&["=", "!=", "<", ">", "<=", ">="]);
            let (left, right) = (number(random, 2), number(random, 1));
            format!("{left} {test} {right}")
        }
    }
}

fn number(random: &mut Random, levels: usize) -> String {
    if levels == 0 || random.below(3) == 0 {
        return match random.below(6) {
            0 => "len".to_owned(),
            1 => random.pick(&[0_u32, 1, 2, 6, 20, 64, 80, 255]).to_string(),
            2 => random.pick(&[0x800_u32, 0x86dd, 0x0a00_0005]).to_string(),
            _ => {
                let layer = random.pick(&["ether", "ip", "ip", "ip6", "tcp", "tcp", "udp", "icmp"]);
                let at = random.below(24);
                let size = random.pick(&["", ":1", ":2", ":4"]);
                format!("{layer}[{at}{size}]")
            }
        };
    }
    let (a, b) = (number(random, levels - 1), number(random, levels - 1));
    match random.below(12) {
        0 => format!("({a} << {})", random.below(32)),
        1 => format!("({a} >> {})", random.below(32)),
        2 => format!("({a} << {b})"),
        3 => format!("-{a}"),
        4 => format!("ip[{a} & 63]"),
        _ => {
            let op = random.pick(&["+", "-", "*", "/", "%", "&", "|", "^"]);
            format!("({a} {op} {b})")
        }
    }
}
