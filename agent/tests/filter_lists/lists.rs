//! Expressions with lists.

use std::collections::HashSet;

use crate::traffic::{Packet, Place};

/// A small generator of its own: what is tested must not change with a library.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    pub fn pick<T: Copy>(&mut self, those: &[T]) -> T {
        those[self.below(those.len())]
    }
}

/// So many addresses within 10.0.0.0/8 that are not next to each other.
pub fn hosts(count: usize, before: &str) -> Vec<String> {
    (0..count)
        .map(|n| {
            let [_, b, c, d] = u32::try_from(n * 977).unwrap().to_be_bytes();
            format!("{before}10.{b}.{c}.{d}")
        })
        .collect()
}

pub fn sixes(count: usize) -> Vec<String> {
    (0..count)
        .map(|n| {
            format!(
                "host 2001:db8:{:x}:{:x}::{:x}",
                n % 7,
                n / 7 * 3,
                n * 31 % 65_536
            )
        })
        .collect()
}

/// Hosts and networks, IPv4 and IPv6, one after the other.
pub fn mixed(random: &mut Random, count: usize) -> Vec<String> {
    let (fours, sixes) = (hosts(count, "host "), sixes(count));
    (0..count)
        .map(|n| match random.below(4) {
            0 => format!("net 172.{}.{}.0/24", 16 + n / 256 % 16, n % 256),
            1 => sixes[n].clone(),
            2 => format!("net 2001:db8:f:{n:x}::/64"),
            _ => fours[n].clone(),
        })
        .collect()
}

pub struct Case {
    pub expression: String,
    /// Whether IPv6 addresses are in it.
    pub six: bool,
}

/// Lists of each kind, by themselves and in larger expressions.
pub fn cases(random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    for count in [9, 12, 17, 40] {
        let mut add = |members: Vec<String>, qualifiers: &str, six: bool| {
            let each = |before: &str, between: &str| {
                let members = members.iter().map(|one| format!("{before}{one}"));
                members.collect::<Vec<_>>().join(between)
            };
            let (full, bare) = (each(qualifiers, " or "), each("", " or "));
            let not = each(&format!("not {qualifiers}"), " and ");
            let word = qualifiers.trim();
            let forms = [
                full.clone(),
                format!("{word} {bare}"),
                format!("{word} ({bare})"),
                format!("not ({full})"),
                not.clone(),
                format!("tcp port 443 and ({full})"),
                format!("({full}) and not port 22"),
                format!("udp or {full}"),
                format!("udp and {full}"),
                format!("icmp or {not} and less 900"),
                format!("tcp[13] & 2 != 0 && !({full}) || arp"),
                format!("vlan 7 and ({full})"),
                format!("({full}) and ({full})"),
            ];
            // All of the shortest; of the longer ones, one.
            let picked = random.below(forms.len());
            for (number, expression) in forms.into_iter().enumerate() {
                // A bare number in parentheses behind `portrange` is not a range.
                if count == 9 || number == picked {
                    cases.push(Case { expression, six });
                }
            }
        };
        let fours = hosts(count, "");
        let sixes: Vec<_> = sixes(count).iter().map(|one| one[5..].to_owned()).collect();
        let nets: Vec<_> = (0..count)
            .map(|n| format!("10.{}.{}.0/24", n % 3, 2 * n))
            .collect();
        let six_nets: Vec<_> = (0..count)
            .map(|n| format!("2001:db8:{n:x}::/{}", [48, 56, 64, 127][n % 4]))
            .collect();
        let ports: Vec<_> = (0..count).map(|n| (n * n * 7 + 1).to_string()).collect();
        let ranges: Vec<_> = (0..count)
            .map(|n| format!("{}-{}", n * 100, n * 100 + n * n))
            .collect();
        let macs: Vec<_> = (0..count)
            .map(|n| format!("02:00:00:00:{:02x}:{n:02x}", n % 3))
            .collect();
        let adjacent: Vec<_> = (0..count).map(|n| format!("10.0.0.{}", n % 12)).collect();
        add(fours.clone(), "host ", false);
        add(fours.clone(), "src host ", false);
        add(fours.clone(), "dst ", false);
        add(fours.clone(), "src or dst host ", false);
        add(fours, "arp host ", false);
        add(adjacent, "ip host ", false);
        add(nets.clone(), "net ", false);
        add(nets, "dst net ", false);
        add(sixes.clone(), "host ", true);
        add(sixes, "ip6 src host ", true);
        add(six_nets, "net ", true);
        add(ports.clone(), "port ", false);
        add(ports.clone(), "tcp port ", false);
        add(ports, "udp dst port ", false);
        add(ranges.clone(), "portrange ", false);
        add(ranges, "tcp src portrange ", false);
        add(macs.clone(), "ether host ", false);
        add(macs, "ether src ", false);
        let both = mixed(random, count);
        cases.push(Case {
            expression: both.join(" or "),
            six: true,
        });
        cases.push(Case {
            expression: format!("tcp and not ({})", both.join(" || ")),
            six: true,
        });
    }
    cases
}

/// A long list, and what it accepts.
pub struct List {
    pub expression: String,
    pub members: HashSet<u128>,
    pub place: Place,
}

impl List {
    pub fn accepts(&self, packet: &Packet) -> bool {
        let values = packet.values(self.place);
        values.iter().any(|value| self.members.contains(value))
    }
}

pub fn long(random: &mut Random, count: usize) -> Vec<List> {
    let mut lists = Vec::new();
    let mut add = |place: Place, word: &str, write: &dyn Fn(u128) -> String, bits: u32| {
        let members: Vec<u128> = (0..count)
            .map(|_| {
                let value = u128::from(random.next()) << 64 | u128::from(random.next());
                let spread = random.pick(&[4, 12, 16, 30]).min(bits);
                // Many near each other, some far.
                let base =
                    0x0a0a_0a0a_0a0a_0a0a_0a0a_0a0a_0a0a_0a0a_u128 & (u128::MAX >> (128 - bits));
                base ^ (value & ((1 << spread) - 1))
            })
            .collect();
        let words: Vec<_> = members.iter().map(|one| write(*one)).collect();
        lists.push(List {
            expression: format!("{word} {}", words.join(" or ")),
            members: members.into_iter().collect(),
            place,
        });
    };
    let four = |value: u128| std::net::Ipv4Addr::from(u32::try_from(value).unwrap()).to_string();
    let six = |value: u128| {
        let address = std::net::Ipv6Addr::from(value);
        let groups = address.segments().map(|group| format!("{group:x}"));
        groups.join(":")
    };
    add(Place::Four, "host", &four, 32);
    add(Place::Six, "host", &six, 128);
    add(Place::TcpPort, "tcp port", &|value| value.to_string(), 16);
    lists
}
