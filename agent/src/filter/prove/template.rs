//! Everyday packets, as the bytes behind a link header and as whole packets.

use super::{
    super::{LinkType, SocketForm},
    well_formed::{self, ARP, ICMP, ICMP6, IPV4, IPV6, TCP, UDP},
};

/// What kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) ether_type: u16,
    /// The protocol behind the IP header.
    pub(super) protocol: u8,
}

/// A part of a packet that is recognised, or not, as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) at: u8,
    pub(super) length: u8,
}

/// A whole packet, and its fields with the important ones first.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pub(super) bytes: Vec<u8>,
    pub(super) fields: Vec<Field>,
}

const US: [u8; 6] = [2, 0, 0, 0, 0, 5];
const THEM: [u8; 6] = [2, 0, 0, 0, 0, 9];
const FROM: [u8; 4] = [10, 0, 0, 5];
const TO: [u8; 4] = [10, 0, 0, 9];
const PORTS: [u16; 2] = [51000, 443];

const fn v6(last: u8) -> [u8; 16] {
    [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

impl Template {
    pub(super) fn new(kind: Kind, form: SocketForm) -> Self {
        let mut template = Self {
            bytes: Vec::new(),
            fields: Vec::new(),
        };
        match form {
            SocketForm::Raw(LinkType::EN10MB) => {
                template.push(&THEM);
                template.push(&US);
                template.push(&kind.ether_type.to_be_bytes());
            }
            SocketForm::Raw(LinkType::LINUX_SLL) => {
                template.push(&[0, 0, 0, 1, 0, 6]);
                template.push(&US);
                template.push(&[0, 0]);
                template.push(&kind.ether_type.to_be_bytes());
            }
            SocketForm::Raw(LinkType::LINUX_SLL2) => {
                template.push(&kind.ether_type.to_be_bytes());
                template.push(&[0, 0, 0, 0, 0, 1, 0, 1, 0, 6]);
                template.push(&US);
                template.push(&[0, 0]);
            }
            SocketForm::Raw(link) if well_formed::network_offset(form).is_none() => {
                let _ = link;
                return template;
            }
            _ => {}
        }
        // The link header is the least that one looks at.
        let link = std::mem::take(&mut template.fields);
        match kind.ether_type {
            IPV4 => template.ipv4(kind.protocol),
            IPV6 => template.ipv6(kind.protocol),
            ARP => {
                for part in [&[0, 1, 8, 0, 6, 4][..], &[0, 1], &US, &FROM, &[0; 6], &TO] {
                    template.push(part);
                }
            }
            _ => template.push(&[0; 46]),
        }
        template.fields.extend(link);
        template
    }

    fn push(&mut self, bytes: &[u8]) {
        if let (Ok(at), Ok(length)) = (u8::try_from(self.bytes.len()), u8::try_from(bytes.len())) {
            self.fields.push(Field { at, length });
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn ipv4(&mut self, protocol: u8) {
        let transport = transport(protocol, ICMP);
        let length = 20
            + transport
                .concat()
                .len()
                .to_be_bytes()
                .last()
                .copied()
                .unwrap_or(0);
        for part in [
            &[0x45][..],
            &[0],
            &[0, length],
            &[0, 1],
            &[0x40, 0],
            &[64],
            &[protocol],
            &[0, 0],
            &FROM,
            &TO,
        ] {
            self.push(part);
        }
        for part in transport {
            self.push(&part);
        }
    }

    fn ipv6(&mut self, protocol: u8) {
        let transport = transport(protocol, ICMP6);
        let length = transport
            .concat()
            .len()
            .to_be_bytes()
            .last()
            .copied()
            .unwrap_or(0);
        for part in [
            &[0x60][..],
            &[0, 0, 0],
            &[0, length],
            &[protocol],
            &[64],
            &v6(5),
            &v6(9),
        ] {
            self.push(part);
        }
        for part in transport {
            self.push(&part);
        }
    }
}

fn transport(protocol: u8, icmp: u8) -> Vec<Vec<u8>> {
    let [from, to] = PORTS.map(|port| port.to_be_bytes().to_vec());
    match protocol {
        TCP => vec![
            from,
            to,
            vec![0, 0, 0, 1],
            vec![0; 4],
            vec![0x50],
            vec![0x02],
            vec![0xfa, 0xf0],
            vec![0, 0],
            vec![0, 0],
        ],
        UDP => vec![from, to, vec![0, 8], vec![0, 0]],
        _ if protocol == icmp => {
            let request = if icmp == ICMP { 8 } else { 128 };
            vec![vec![request], vec![0], vec![0, 0], vec![0, 1], vec![0, 1]]
        }
        _ => vec![vec![0; 8]],
    }
}
