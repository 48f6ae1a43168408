//! What a capture was given, by protocol: the guard's own counts, by headers alone.

use std::collections::BTreeMap;

use capwarden_abi::protocol::{self, SLOTS, TAGGED};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Packets by protocol: `ipv4/tcp`, `ipv6/dns`, `arp`. They come to the packets that were delivered.
///
/// What TCP and UDP carry is told by their lower port alone, since the guard looks at no payload: `ipv4/dns` is
/// what is on port 53 or 5353.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Protocols {
    /// How many of each; those of which there were none are left out.
    pub packets: BTreeMap<String, u64>,
    /// How many of all had a VLAN tag.
    #[serde(skip_serializing_if = "is_zero")]
    pub tagged: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Protocols {
    /// Whether nothing was counted, or nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// As JSON has them; what is not so in it is left out.
    #[must_use]
    pub fn from_json(value: &Value) -> Self {
        let packets = value.get("packets").and_then(Value::as_object);
        let packets = packets.into_iter().flatten();
        Self {
            packets: packets
                .filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)))
                .collect(),
            tagged: value.get("tagged").and_then(Value::as_u64).unwrap_or(0),
        }
    }

    /// Those with the most packets first.
    #[must_use]
    pub fn ranked(&self) -> Vec<(&str, u64)> {
        let all = self.packets.iter();
        let mut all: Vec<_> = all.map(|(name, count)| (name.as_str(), *count)).collect();
        all.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
        all
    }

    /// `12 ipv4/tcp, 3 arp; 2 of them with a VLAN tag`: the `most` first ones, and how many there were of others.
    #[must_use]
    pub fn words(&self, most: usize) -> String {
        let ranked = self.ranked();
        let named = ranked.iter().take(most);
        let mut words: Vec<String> = named
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        let others = ranked.iter().skip(most);
        let others = others.fold(0_u64, |all, (_, count)| all.saturating_add(*count));
        if others > 0 {
            words.push(format!("{others} of others"));
        }
        let words = words.join(", ");
        match self.tagged {
            0 => words,
            tagged => format!("{words}; {tagged} of them with a VLAN tag"),
        }
    }
}

impl From<&protocol::Protocols> for Protocols {
    fn from(counted: &protocol::Protocols) -> Self {
        let mut own = Self::default();
        let slots = (0_u32..).zip(counted.slots).take(SLOTS);
        for (slot, packets) in slots.filter(|(_, packets)| *packets > 0) {
            match slot {
                TAGGED => own.tagged = packets,
                slot => *own.packets.entry(name(slot)).or_default() += packets,
            }
        }
        own
    }
}

/// What a slot is called.
fn name(slot: u32) -> String {
    use protocol as p;
    let network = match slot {
        p::ARP => return "arp".to_owned(),
        p::LLDP => return "lldp".to_owned(),
        p::LLC => return "802.2".to_owned(),
        p::PPPOE => return "pppoe".to_owned(),
        p::MPLS => return "mpls".to_owned(),
        p::EAPOL => return "802.1x".to_owned(),
        p::IPV4..p::IPV6 => "ipv4",
        p::IPV6..TAGGED => "ipv6",
        _ => return "other".to_owned(),
    };
    let kind = match slot % p::IPV4 {
        p::REST_TCP => "tcp",
        p::REST_UDP => "udp",
        p::CONTROL => "icmp",
        p::REST_SCTP => "sctp",
        p::GROUPS => "igmp",
        p::TUNNEL => "tunnel",
        p::IPSEC => "ipsec",
        p::FRAGMENT => "fragment",
        p::DNS => "dns",
        p::HTTP => "http",
        p::TLS => "tls",
        p::QUIC => "quic",
        p::SSH => "ssh",
        p::DHCP => "dhcp",
        p::NTP => "ntp",
        _ => "other",
    };
    format!("{network}/{kind}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_slot_has_a_name_and_the_counts_stay_whole() {
        let mut counted = protocol::Protocols::default();
        for (slot, count) in counted.slots.iter_mut().enumerate() {
            *count = 1 << (slot % 60);
        }
        let own = Protocols::from(&counted);
        let tagged = counted.slots[48];
        let all: u64 = counted.slots.iter().sum();
        assert_eq!(own.tagged, tagged);
        assert_eq!(own.packets.values().sum::<u64>(), all - tagged);
        // Those that are used have a name each.
        let used = (0..7).chain(16..48);
        let names: BTreeSet<String> = used.map(name).collect();
        assert_eq!(names.len(), 7 + 32);
    }

    #[test]
    fn the_most_come_first_and_the_rest_is_counted() {
        let packets = [("arp", 1), ("ipv4/tcp", 7), ("ipv6/udp", 7), ("other", 2)];
        let packets = packets.map(|(name, count)| (name.to_owned(), count)).into();
        let own = Protocols { packets, tagged: 3 };
        assert_eq!(
            own.words(2),
            "7 ipv4/tcp, 7 ipv6/udp, 3 of others; 3 of them with a VLAN tag"
        );
        assert!(Protocols::default().words(2).is_empty());
        let json = serde_json::to_value(&own).unwrap();
        assert_eq!(Protocols::from_json(&json), own);
        assert_eq!(serde_json::from_value::<Protocols>(json).unwrap(), own);
    }
}
