//! What a server, or one of its sessions, may do in the network.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use capwarden_abi::{
    MAX_INTERFACES,
    network::{Rule, SlotControl, want},
};

use super::NetworkError;
use crate::kernel::BootTime;

/// What the baseline or a session grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkTerms {
    /// Where its sockets may listen, and whom they may speak to. At most [`MAX_SLOT_RULES`].
    pub rules: Vec<NetworkRule>,
    /// Which interfaces their packets may use.
    pub interfaces: NetworkInterfaces,
    /// How much.
    pub caps: NetworkCaps,
    /// Until when.
    pub deadline: Option<BootTime>,
}

/// Rules that one slot may have.
pub const MAX_SLOT_RULES: usize = 64;

/// One thing that is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRule {
    /// To do what.
    pub kind: NetworkUse,
    /// With which protocol; none: either.
    pub protocol: Option<Transport>,
    /// With which addresses. What a listener is bound to is compared as it was named: `0.0.0.0` is
    /// one address, and only a rule for it, or for every address, allows it.
    pub addresses: AddressRange,
    /// With which ports, first and last. For listeners, 0 names no port: whatever port the
    /// kernel chooses has to be within the range for the listener to be heard.
    pub ports: RangeInclusive<u16>,
}

/// What a rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NetworkUse {
    /// To be bound to the address, and to accept or receive from anybody.
    Listen,
    /// To connect, and to send datagrams.
    Connect,
}

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A range of addresses. IPv4 addresses in IPv6 sockets (`::ffff:1.2.3.4`) are IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressRange {
    /// All of both families.
    Any,
    /// Those that begin with this many bits of it (32 at most for IPv4, 128 for IPv6; more are
    /// taken for that). What comes behind these does not matter.
    Prefix(IpAddr, u8),
}

impl AddressRange {
    /// One address.
    pub fn one(address: IpAddr) -> Self {
        Self::Prefix(address, 128)
    }
}

/// Which interfaces packets may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkInterfaces {
    /// All.
    Any,
    /// Those with these indexes; at most [`MAX_INTERFACES`]. What stays within the host is on
    /// loopback, whatever its addresses.
    Only(Vec<u32>),
}

/// Caps; none: unlimited. A cap of 0 lets nothing through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCaps {
    /// Packets, both directions together.
    pub packets: Option<u64>,
    /// Bytes to the server's sockets, IP headers included.
    pub bytes_in: Option<u64>,
    /// Bytes from them.
    pub bytes_out: Option<u64>,
    /// TCP connections accepted. One that is too many gets no answer.
    pub accepted: Option<u64>,
    /// TCP connections begun, whether they succeed or not. One that is too many fails with EPERM.
    pub made: Option<u64>,
}

impl NetworkCaps {
    /// Whether nothing could pass from the start, which the guard has no number for.
    pub(super) fn allow_no_packet(&self) -> bool {
        [self.packets, self.bytes_in, self.bytes_out].contains(&Some(0))
    }
}

impl NetworkTerms {
    /// The terms as the guard reads them.
    pub(super) fn control(
        &self,
        number: u32,
        generation: u64,
    ) -> Result<SlotControl, NetworkError> {
        let mut control = SlotControl {
            generation,
            deadline: self.deadline.map_or(0, BootTime::nanoseconds),
            packets: self.caps.packets.unwrap_or(0),
            bytes_in: self.caps.bytes_in.unwrap_or(0),
            bytes_out: self.caps.bytes_out.unwrap_or(0),
            accepted: self.caps.accepted.unwrap_or(0),
            made: self.caps.made.unwrap_or(0),
            revoked: u32::from(self.caps.allow_no_packet()),
            any_interface: 0,
            interface_count: 0,
            number,
            resets: 0,
            unused: 0,
            interfaces: [0; MAX_INTERFACES],
        };
        self.interfaces.write(&mut control)?;
        Ok(control)
    }
}

impl NetworkInterfaces {
    pub(super) fn write(&self, control: &mut SlotControl) -> Result<(), NetworkError> {
        let only = match self {
            Self::Any => &[],
            Self::Only(only) => only.as_slice(),
        };
        if only.len() > MAX_INTERFACES {
            return Err(NetworkError::TooManyInterfaces(only.len()));
        }
        control.any_interface = u32::from(*self == Self::Any);
        control.interface_count = u32::try_from(only.len()).unwrap_or(0);
        control.interfaces = [0; MAX_INTERFACES];
        for (entry, interface) in control.interfaces.iter_mut().zip(only) {
            *entry = *interface;
        }
        Ok(())
    }
}

/// The rules as the guard reads them.
pub(super) fn encode(
    rules: &[NetworkRule],
    caps: &NetworkCaps,
    slot: u32,
) -> Result<Vec<Rule>, NetworkError> {
    if rules.len() > MAX_SLOT_RULES {
        return Err(NetworkError::TooManyRules(rules.len()));
    }
    let encoded = rules.iter().map(|rule| {
        let (families, address, mask) = rule.addresses.encode();
        Rule {
            address,
            mask,
            allows: rule.transports(caps) * families,
            slot,
            first_port: *rule.ports.start(),
            last_port: *rule.ports.end(),
            unused: 0,
        }
    });
    // One that allows nothing would be taken for the end of them.
    Ok(encoded.filter(|rule| rule.allows != 0).collect())
}

impl NetworkRule {
    /// What it allows of IPv4, as [`want`] has it.
    fn transports(&self, caps: &NetworkCaps) -> u32 {
        let (shift, connections) = match self.kind {
            NetworkUse::Listen => (0, caps.accepted),
            NetworkUse::Connect => (want::CONNECT_SHIFT, caps.made),
        };
        let tcp = match connections {
            Some(0) => 0, // to the guard, a cap of 0 is none
            _ => want::LISTEN,
        };
        let udp = want::LISTEN << want::UDP_SHIFT;
        let transports = match self.protocol {
            None => tcp | udp,
            Some(Transport::Tcp) => tcp,
            Some(Transport::Udp) => udp,
        };
        transports << shift
    }
}

const V4: u32 = 1;
const V6: u32 = 1 << want::V6_SHIFT;

impl AddressRange {
    /// What to multiply bits of IPv4 with, address and mask.
    fn encode(self) -> (u32, [u32; 4], [u32; 4]) {
        let (family, address, bits) = match self {
            Self::Any => return (V4 | V6, [0; 4], [0; 4]),
            Self::Prefix(IpAddr::V4(address), bits) => {
                let bits = u32::from(bits.min(32)) + 96;
                (V4, address.to_ipv6_mapped(), bits)
            }
            Self::Prefix(IpAddr::V6(address), bits) => match address.to_ipv4_mapped() {
                // The same as if it had been written as IPv4.
                Some(v4) if bits >= 96 => {
                    return Self::Prefix(v4.into(), bits.min(128) - 96).encode();
                }
                _ => (V6, address, bits.min(128).into()),
            },
        };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        (family, words(address.to_bits() & mask), words(mask))
    }
}

/// Four words as they lie in memory.
fn words(bits: u128) -> [u32; 4] {
    let bytes = bits.to_be_bytes();
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = bytes.try_into().map_or(0, u32::from_ne_bytes);
    }
    words
}

/// An address as the guard tells it; IPv4 is itself again.
pub(super) fn endpoint(words: [u32; 4], port: u32) -> SocketAddr {
    let mut bytes = [0; 16];
    for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    let address = IpAddr::from(bytes).to_canonical();
    SocketAddr::new(address, u16::try_from(port).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a range has an address, by the arithmetic of the guard.
    fn has(range: AddressRange, address: &str) -> bool {
        let address: IpAddr = address.parse().unwrap();
        let family = match address.to_canonical() {
            IpAddr::V4(_) => V4,
            IpAddr::V6(_) => V6,
        };
        let bits = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let (families, start, mask) = range.encode();
        let address = words(bits);
        let differs = (0..4).any(|word| (address[word] ^ start[word]) & mask[word] != 0);
        families & family != 0 && !differs
    }

    #[test]
    fn ranges_of_addresses_are_what_they_say() {
        let range = |text: &str| {
            let (address, bits) = text.split_once('/').unwrap();
            AddressRange::Prefix(address.parse().unwrap(), bits.parse().unwrap())
        };
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.3/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.3/32", "::ffff:10.1.2.3", "10.1.2.2"),
            ("10.1.2.3/99", "10.1.2.3", "10.1.2.2"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
            ("::ffff:10.0.0.0/104", "10.3.0.1", "11.0.0.0"),
            ("::ffff:0.0.0.0/96", "10.3.0.1", "::1"),
            // What is written as IPv6 is about IPv6.
            ("::/0", "2001:db8::1", "1.2.3.4"),
            ("::/0", "::", "0.0.0.0"),
            ("fd00::/8", "fdff::1", "fe80::1"),
            ("::1/128", "::1", "::2"),
            ("::1/255", "::1", "127.0.0.1"),
        ] {
            assert!(has(range(text), inside), "{inside} in {text}");
            assert!(!has(range(text), outside), "{outside} not in {text}");
        }
        for address in ["::", "0.0.0.0", "1.2.3.4", "fe80::1"] {
            assert!(has(AddressRange::Any, address), "{address}");
        }
        let one = AddressRange::one("127.0.0.1".parse().unwrap());
        assert!(has(one, "127.0.0.1") && !has(one, "127.0.0.2"));
    }

    #[test]
    fn addresses_come_back_as_they_were() {
        for text in ["127.0.0.1:80", "[::1]:65535", "[::]:0", "0.0.0.0:53"] {
            let address: SocketAddr = text.parse().unwrap();
            let (_, words, _) = AddressRange::one(address.ip()).encode();
            assert_eq!(endpoint(words, address.port().into()), address);
        }
    }

    #[test]
    fn no_connection_at_all_leaves_datagrams() {
        let rule = |protocol| NetworkRule {
            kind: NetworkUse::Connect,
            protocol,
            addresses: AddressRange::Any,
            ports: 1..=9,
        };
        let caps = NetworkCaps {
            made: Some(0),
            ..NetworkCaps::default()
        };
        let encoded = |protocol| encode(&[rule(protocol)], &caps, 3).unwrap();
        assert!(encoded(Some(Transport::Tcp)).is_empty());
        assert_eq!(encoded(None), encoded(Some(Transport::Udp)));
        let rules = vec![rule(None); MAX_SLOT_RULES + 1];
        let refused = encode(&rules, &caps, 3);
        assert!(matches!(refused, Err(NetworkError::TooManyRules(65))));
    }
}
