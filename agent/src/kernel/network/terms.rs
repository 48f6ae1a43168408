//! What a server, or one of its sessions, may do in the network.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use capwarden_abi::{
    MAX_INTERFACES,
    network::{self as abi, Rule, SlotControl},
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
    pub(super) fn control(&self, generation: u64) -> Result<SlotControl, NetworkError> {
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
    generation: u64,
) -> Result<Vec<Rule>, NetworkError> {
    if rules.len() > MAX_SLOT_RULES {
        return Err(NetworkError::TooManyRules(rules.len()));
    }
    let of_use = |kind| match kind {
        NetworkUse::Listen => (abi::kind::LISTEN, caps.accepted),
        NetworkUse::Connect => (abi::kind::CONNECT, caps.made),
    };
    let udp_only = |rule: &NetworkRule| match (of_use(rule.kind).1, rule.protocol) {
        // No TCP connection at all: the guard takes a cap of 0 for none.
        (Some(0), Some(Transport::Tcp)) => None,
        (Some(0), _) => Some(Some(Transport::Udp)),
        (_, protocol) => Some(protocol),
    };
    let encoded = rules.iter().filter_map(|rule| {
        let protocol = udp_only(rule)?;
        let (family, address, mask) = rule.addresses.encode();
        Some(Rule {
            generation,
            address,
            mask,
            slot,
            first_port: *rule.ports.start(),
            last_port: *rule.ports.end(),
            kind: of_use(rule.kind).0,
            protocol: match protocol {
                None => abi::protocol::ANY,
                Some(Transport::Tcp) => abi::protocol::TCP,
                Some(Transport::Udp) => abi::protocol::UDP,
            },
            family,
            unused: [0; 5],
        })
    });
    Ok(encoded.collect())
}

impl AddressRange {
    /// Family, address and mask.
    fn encode(self) -> (u8, [u32; 4], [u32; 4]) {
        let (family, address, bits) = match self {
            Self::Any => return (abi::family::ANY, [0; 4], [0; 4]),
            Self::Prefix(IpAddr::V4(address), bits) => {
                let bits = u32::from(bits.min(32)) + 96;
                (abi::family::V4, address.to_ipv6_mapped(), bits)
            }
            Self::Prefix(IpAddr::V6(address), bits) => match address.to_ipv4_mapped() {
                // The same as if it had been written as IPv4.
                Some(v4) if bits >= 96 => {
                    return Self::Prefix(v4.into(), bits.min(128) - 96).encode();
                }
                _ => (abi::family::V6, address, bits.min(128).into()),
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
