//! Networks that an address may be in.

use std::{fmt, net::IpAddr};

/// An address and the bits of it that are the network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    /// Those that begin with so many bits of the address.
    pub(super) fn new(address: IpAddr, length: u8) -> Self {
        let address = masked(address, length);
        Self { address, length }
    }

    /// Its first address.
    pub(super) fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits its addresses have in common.
    pub(super) fn length(self) -> u8 {
        self.length
    }

    /// Reads `10.0.0.0/8` or `::1`, an address alone being a network of one. Bits beyond the
    /// length are dropped; [`Network::is_plain`] tells whether there were any.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            None => (text, None),
            Some((address, length)) => (address, Some(length)),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => most,
            // `parse` would take `+8` and `008`, which others read otherwise.
            Some("0") => 0,
            Some(length) if length.starts_with(|c: char| ('1'..='9').contains(&c)) => {
                length.parse().ok().filter(|length| *length <= most)?
            }
            Some(_) => return None,
        };
        Some(Self {
            address: masked(address, length),
            length,
        })
    }

    /// Whether the text has no bits beyond the network's.
    pub(super) fn is_plain(text: &str) -> bool {
        let address = text.split_once('/').map_or(text, |(address, _)| address);
        Self::parse(text).is_some_and(|network| address.parse() == Ok(network.address))
    }

    /// Whether all of the other is in this.
    pub(super) fn contains(self, other: Self) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.length <= other.length
            && masked(other.address, self.length) == self.address
    }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

/// `10.0.0.0/8`.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_is_in_them() {
        for (outer, inner, contained) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.0.0.0/8", "10.1.2.3/8", true),
            ("10.0.0.0/8", "10.0.0.0/7", false),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "1.2.3.4", false),
            ("::/0", "::ffff:10.0.0.1", true),
            ("10.0.0.0/8", "::ffff:10.0.0.1", false),
            ("fe80::/10", "febf::1", true),
            ("fe80::/10", "fec0::1", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.0/31", false),
        ] {
            let read = |text| Network::parse(text).unwrap();
            assert_eq!(
                read(outer).contains(read(inner)),
                contained,
                "{outer} {inner}"
            );
        }
    }

    #[test]
    fn what_is_no_network_is_not_read() {
        for text in [
            "",
            "10",
            "10.0.0",
            "010.0.0.1",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            " 10.0.0.1",
            "fe80::1%lo",
            "host",
            "10.0.0.0/255.0.0.0",
            "0x0a.0.0.1",
        ] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
        assert!(Network::is_plain("10.0.0.0/8") && Network::is_plain("::1"));
        assert!(!Network::is_plain("10.0.0.1/8"));
    }
}
