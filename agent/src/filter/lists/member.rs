//! One member of a list: which values it stands for, if that is beyond doubt.
//!
//! What is written in any other way than the plain one is no member, so that libpcap reads it, and
//! says what is wrong with it.

use std::net::{Ipv4Addr, Ipv6Addr};

/// What the members of a list are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    /// IPv4 addresses, in IPv4, ARP and RARP packets.
    V4,
    V6,
    Port,
    /// Ethernet addresses.
    Ether,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::V4, Self::V6, Self::Port, Self::Ether];

    /// The bits of each word of a value, in the order in which libpcap loads them.
    pub(super) const fn words(self) -> &'static [u32] {
        match self {
            Self::V4 => &[32],
            Self::V6 => &[32; 4],
            Self::Port => &[16],
            // Of an Ethernet address the last four bytes come first.
            Self::Ether => &[32, 16],
        }
    }

    /// All words of a value, one behind the other.
    pub(super) fn value(self, words: &[u32]) -> u128 {
        let parts = words.iter().zip(self.words());
        parts.fold(0, |value, (word, bits)| value << bits | u128::from(*word))
    }

    /// How libpcap reads a value.
    pub(super) fn text(self, words: &[u32]) -> String {
        let value = self.value(words);
        let low = u32::try_from(value & u128::from(u32::MAX)).unwrap_or(0);
        match self {
            Self::V4 => Ipv4Addr::from(low).to_string(),
            // Never the notation with an IPv4 address in it.
            Self::V6 => (0..8)
                .map(|group| format!("{:x}", value >> (112 - 16 * group) & 0xffff))
                .collect::<Vec<_>>()
                .join(":"),
            Self::Port => low.to_string(),
            Self::Ether => {
                let [_, _, _, _, _, _, _, _, _, _, c, d, e, f, a, b] = value.to_be_bytes();
                format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
            }
        }
    }
}

/// Values from one to another, both included, as [`Kind::value`] has them.
pub(super) type Range = (u128, u128);

/// Which way packets go, in a primitive's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Qualifiers {
    /// The protocol and the direction, which decide where a value is looked for.
    pub(super) place: String,
    /// `host`, `net`, `port`, `portrange` or nothing, which decides how it is written.
    pub(super) class: Class,
    ether: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Class {
    #[default]
    Host,
    Net,
    Port,
    PortRange,
}

impl Qualifiers {
    /// Reads the words in front of an identifier. None: no list has them.
    pub(super) fn parse(words: &[&str]) -> Option<Self> {
        let (class, place) = match words.split_last()? {
            (&"host", place) => (Class::Host, place),
            (&"net", place) => (Class::Net, place),
            (&"port", place) => (Class::Port, place),
            (&"portrange", place) => (Class::PortRange, place),
            // A direction alone is one of a host.
            (&("src" | "dst"), _) => (Class::Host, words),
            _ => return None,
        };
        let (protocol, direction) = match place {
            [first @ ("src" | "dst"), rest @ ..] => ("", [&[*first], rest].concat()),
            [protocol, rest @ ..] => (*protocol, rest.to_vec()),
            [] => ("", Vec::new()),
        };
        let ports = matches!(class, Class::Port | Class::PortRange);
        let known = match protocol {
            "" => true,
            "tcp" | "udp" | "sctp" => ports,
            "ip" | "ip6" | "arp" | "rarp" => !ports,
            "ether" => class == Class::Host,
            _ => false,
        };
        let either = matches!(
            direction[..],
            [] | ["src"] | ["dst"] | ["src", "or", "dst"] | ["dst", "or", "src"]
        );
        (known && either).then(|| Self {
            place: place.join(" "),
            class,
            ether: protocol == "ether",
        })
    }

    /// How they are written.
    pub(super) fn words(&self) -> String {
        let class = match self.class {
            Class::Host => "host",
            Class::Net => "net",
            Class::Port => "port",
            Class::PortRange => "portrange",
        };
        format!("{} {class}", self.place).trim_start().to_owned()
    }

    /// Whether members with either are looked for in the same places.
    pub(super) fn same_place(&self, other: &Self) -> bool {
        let ports = |class| matches!(class, Class::Port | Class::PortRange);
        self.place == other.place && ports(self.class) == ports(other.class)
    }

    /// The values that an identifier stands for behind these words.
    pub(super) fn member(&self, word: &str) -> Option<(Kind, Range)> {
        if self.ether {
            return mac(word).map(|value| (Kind::Ether, (value, value)));
        }
        match self.class {
            Class::Port => {
                let port = u128::from(number::<u16>(word)?);
                Some((Kind::Port, (port, port)))
            }
            Class::PortRange => {
                let (low, high) = word.split_once('-')?;
                let (low, high) = (number::<u16>(low)?, number::<u16>(high)?);
                (low <= high).then(|| (Kind::Port, (low.into(), high.into())))
            }
            Class::Host | Class::Net => {
                let (address, prefix) = match word.split_once('/') {
                    Some(_) if self.class == Class::Host => return None,
                    Some((address, prefix)) => (address, Some(number::<u8>(prefix)?)),
                    None => (word, None),
                };
                let (kind, value) = address_of(address)?;
                let range = within(kind, value, prefix)?;
                Some((kind, range))
            }
        }
    }
}

fn within(kind: Kind, value: u128, prefix: Option<u8>) -> Option<Range> {
    let bits = kind.words().iter().sum::<u32>();
    let prefix = prefix.map_or(bits, u32::from);
    if prefix == 0 || prefix > bits {
        return None;
    }
    let rest = u128::MAX.checked_shr(128 - (bits - prefix)).unwrap_or(0);
    (value & rest == 0).then_some((value, value | rest))
}

fn address_of(word: &str) -> Option<(Kind, u128)> {
    if word.contains(':') {
        let plain = |c: char| c == ':' || c.is_ascii_hexdigit();
        let address: Ipv6Addr = word.chars().all(plain).then(|| word.parse().ok())??;
        return Some((Kind::V6, address.to_bits()));
    }
    let address: Ipv4Addr = word.parse().ok()?;
    Some((Kind::V4, address.to_bits().into()))
}

/// Decimal, without zeroes in front: libpcap takes those for octal.
fn number<T: std::str::FromStr>(word: &str) -> Option<T> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (word == "0" || !word.starts_with('0'));
    plain.then(|| word.parse().ok())?
}

/// Six pairs of hexadecimal digits.
fn mac(word: &str) -> Option<u128> {
    let mut value = 0_u64;
    let mut pairs = 0;
    for pair in word.split(':') {
        if pair.len() != 2 || !pair.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        value = value << 8 | u64::from_str_radix(pair, 16).ok()?;
        pairs += 1;
        if pairs > 6 {
            return None;
        }
    }
    let words = [
        u32::try_from(value & 0xffff_ffff).ok()?,
        u32::try_from(value >> 32).ok()?,
    ];
    (pairs == 6).then(|| Kind::Ether.value(&words))
}

/// Ranges in ascending order, joined where one begins before or right behind the end of another.
pub(super) fn joined(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut joined: Vec<Range> = Vec::with_capacity(ranges.len());
    for (low, high) in ranges {
        match joined.last_mut() {
            Some((_, end)) if low <= end.saturating_add(1) => *end = (*end).max(high),
            _ => joined.push((low, high)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(Kind, Range)> {
        let words: Vec<_> = text.split(' ').collect();
        let (word, qualifiers) = words.split_last().unwrap();
        Qualifiers::parse(qualifiers)?.member(word)
    }

    #[test]
    fn plain_members_are_read() {
        let ten = 0x0a00_0000;
        for (text, expected) in [
            ("host 10.0.0.0", (Kind::V4, (ten, ten))),
            ("src 10.0.0.0", (Kind::V4, (ten, ten))),
            ("ip src or dst host 10.0.0.0", (Kind::V4, (ten, ten))),
            ("net 10.0.0.0/8", (Kind::V4, (ten, ten + 0xff_ffff))),
            ("dst net 10.0.0.0/32", (Kind::V4, (ten, ten))),
            ("host ::7", (Kind::V6, (7, 7))),
            ("ip6 net ::8/125", (Kind::V6, (8, 15))),
            ("tcp dst port 0", (Kind::Port, (0, 0))),
            ("portrange 20-65535", (Kind::Port, (20, 65535))),
            (
                "ether src 01:02:03:04:05:06",
                (Kind::Ether, (0x0304_0506_0102, 0x0304_0506_0102)),
            ),
        ] {
            assert_eq!(read(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_written_otherwise_is_left_to_libpcap() {
        for text in [
            "host 10.0.0.256",
            "host 10.0.0.01",
            "host 10.0.0",
            "host 10.0.0.0/8",
            "net 10",
            "net 10.0.0.1/8",
            "net 0.0.0.0/0",
            "net 10.0.0.0/33",
            "net 10.0.0.0/+8",
            "host ::ffff:1.2.3.4",
            "host 1:2:3",
            "src and dst host 10.0.0.0",
            "tcp host 10.0.0.0",
            "ip port 80",
            "port 65536",
            "port 080",
            "port http",
            "port +80",
            "portrange 90-80",
            "portrange 80",
            "ether host 1:2:3:4:5:6",
            "ether host 01:02:03:04:05",
            "ether net 10.0.0.0",
            "gateway 10.0.0.0",
            "wlan host 10.0.0.0",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn values_are_written_as_they_are_read() {
        for (kind, qualifiers, words) in [
            (Kind::V4, "host", &[0x0a00_0001][..]),
            (Kind::V6, "host", &[0x2001_0db8, 0, 0xffff, 0x0102_0304]),
            (Kind::Port, "port", &[65535]),
            (Kind::Ether, "ether host", &[0x0304_0506, 0x0102]),
        ] {
            let value = kind.value(words);
            let text = format!("{qualifiers} {}", kind.text(words));
            assert_eq!(read(&text), Some((kind, (value, value))), "{text}");
        }
    }

    #[test]
    fn neighbours_are_joined() {
        let ranges = vec![(7, 9), (1, 2), (3, 3), (8, 8), (u128::MAX, u128::MAX)];
        assert_eq!(joined(ranges), [(1, 3), (7, 9), (u128::MAX, u128::MAX)]);
        assert_eq!(joined(vec![(0, u128::MAX), (5, 6)]), [(0, u128::MAX)]);
    }
}
