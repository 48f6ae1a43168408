//! Packets to and from members of a list, and near them.

use crate::lists::{List, Random};

/// What a list is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Four,
    Six,
    TcpPort,
}

#[derive(Debug)]
pub enum Carrier {
    Ip {
        tcp: bool,
        options: usize,
        fragment: bool,
    },
    Ip6 {
        tcp: bool,
    },
    Arp,
    Rarp,
}

/// A packet whose fields of one kind are of interest.
#[derive(Debug)]
pub struct Packet {
    carrier: Carrier,
    from: u128,
    to: u128,
    ports: [u16; 2],
}

impl Packet {
    /// What is compared with a list of this kind.
    pub fn values(&self, place: Place) -> Vec<u128> {
        let four = matches!(
            self.carrier,
            Carrier::Ip { .. } | Carrier::Arp | Carrier::Rarp
        );
        let tcp = match self.carrier {
            Carrier::Ip { tcp, fragment, .. } => tcp && !fragment,
            Carrier::Ip6 { tcp } => tcp,
            Carrier::Arp | Carrier::Rarp => false,
        };
        match place {
            Place::Four if four => vec![self.from & 0xffff_ffff, self.to & 0xffff_ffff],
            Place::Six if matches!(self.carrier, Carrier::Ip6 { .. }) => vec![self.from, self.to],
            Place::TcpPort if tcp => self.ports.map(u128::from).to_vec(),
            _ => Vec::new(),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let ether_type: u16 = match self.carrier {
            Carrier::Ip { .. } => 0x800,
            Carrier::Ip6 { .. } => 0x86dd,
            Carrier::Arp => 0x806,
            Carrier::Rarp => 0x8035,
        };
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        bytes.extend(ether_type.to_be_bytes());
        let four = |value: u128| u32::try_from(value & 0xffff_ffff).unwrap().to_be_bytes();
        let protocol = |tcp: bool| if tcp { 6 } else { 17 };
        match self.carrier {
            Carrier::Ip {
                tcp,
                options,
                fragment,
            } => {
                bytes.push(0x45 + u8::try_from(options).unwrap());
                bytes.extend([
                    0,
                    0,
                    60,
                    0,
                    0,
                    0,
                    u8::from(fragment),
                    64,
                    protocol(tcp),
                    0,
                    0,
                ]);
                bytes.extend(four(self.from));
                bytes.extend(four(self.to));
                bytes.extend(vec![1; 4 * options]);
            }
            Carrier::Ip6 { tcp } => {
                bytes.extend([0x60, 0, 0, 0, 0, 20, protocol(tcp), 64]);
                bytes.extend(self.from.to_be_bytes());
                bytes.extend(self.to.to_be_bytes());
            }
            Carrier::Arp | Carrier::Rarp => {
                bytes.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2]);
                bytes.extend(four(self.from));
                bytes.extend([2, 0, 0, 0, 0, 1]);
                bytes.extend(four(self.to));
            }
        }
        for port in self.ports {
            bytes.extend(port.to_be_bytes());
        }
        bytes.extend([0; 20]);
        bytes
    }
}

pub fn packet(random: &mut Random, list: &List) -> Packet {
    let members: Vec<_> = list.members.iter().copied().take(400).collect();
    let mut value = |near: bool| {
        let member = random.pick(&members);
        match random.below(10) {
            0..2 if near => member,
            2 => member.wrapping_add(1),
            3 => member ^ 1 << random.below(60),
            4 => member.wrapping_sub(1),
            _ => u128::from(random.next()) << 64 | u128::from(random.next()),
        }
    };
    let (from, to) = (value(true), value(true));
    let port = |value: u128| u16::try_from(value & 0xffff).unwrap();
    let ports = [port(value(true)), port(value(true))];
    let near = match list.place {
        Place::Four => random.pick(&[0, 0, 0, 1, 2, 3]),
        Place::Six => random.pick(&[3, 3, 3, 3, 0]),
        Place::TcpPort => random.pick(&[0, 0, 3, 3, 1]),
    };
    let tcp = random.below(5) != 0;
    let carrier = match near {
        0 => Carrier::Ip {
            tcp,
            options: random.pick(&[0, 0, 1, 10]),
            fragment: random.below(8) == 0,
        },
        1 => Carrier::Arp,
        2 => Carrier::Rarp,
        _ => Carrier::Ip6 { tcp },
    };
    Packet {
        carrier,
        from,
        to,
        ports,
    }
}
