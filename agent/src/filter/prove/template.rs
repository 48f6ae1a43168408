//! Everyday packets, as the bytes behind a link header and as whole packets.

use super::{
    super::{LinkType, SocketForm},
    well_formed::{self, ARP, ICMP, ICMP6, IPV4, IPV6, SCTP, TCP, UDP},
};

/// What kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) ether_type: u16,
    /// The protocol behind the IP header; None: any, and any part of a fragmented packet.
    pub(super) protocol: Option<u8>,
    /// Whether there is a VLAN tag among the bytes.
    pub(super) tagged: bool,
}

/// A part of a packet that is recognised, or not, as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) at: u8,
    pub(super) length: u8,
    /// What it may be as well.
    pub(super) alternatives: Values,
}

type Values = &'static [&'static [u8]];

/// Other hosts of the same network, of another private one, and of none.
const SOURCES: Values = &[
    &[10, 0, 0, 8],
    &[10, 1, 2, 3],
    &[192, 168, 1, 7],
    &[203, 0, 113, 7],
];
const TARGETS: Values = &[
    &[10, 0, 0, 7],
    &[10, 1, 2, 4],
    &[192, 168, 1, 9],
    &[203, 0, 113, 9],
];
const SOURCES6: Values = &[&v6(8), &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]];
const TARGETS6: Values = &[&v6(7), &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]];
/// A first fragment, and what follows 1,480 bytes.
const FRAGMENTS: Values = &[&[0x20, 0], &[0, 185]];
const MACS: Values = &[&[2, 0, 0, 0, 0, 8], &[0xff; 6]];
/// 40000, 8080.
const PORT_NUMBERS: Values = &[&[0x9c, 0x40], &[0x1f, 0x90]];

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
                template.push_or(&THEM, MACS);
                template.push_or(&US, MACS);
                if kind.tagged {
                    template.push(&[0x81, 0]);
                    template.push_or(&[0, 100], &[&[0, 7]]);
                }
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
            _ if well_formed::network_offset(form).is_none() => return template,
            _ => {}
        }
        // The link header is the least that one looks at.
        let link = std::mem::take(&mut template.fields);
        match kind.ether_type {
            IPV4 => template.ipv4(kind.protocol),
            IPV6 => template.ipv6(kind.protocol),
            ARP => {
                template.push(&[0, 1, 8, 0, 6, 4]);
                template.push(&[0, 1]);
                template.push_or(&US, MACS);
                template.push_or(&FROM, SOURCES);
                template.push(&[0; 6]);
                template.push_or(&TO, TARGETS);
            }
            _ => template.push(&[0; 46]),
        }
        template.fields.extend(link);
        template
    }

    fn push(&mut self, bytes: &[u8]) {
        self.push_or(bytes, &[]);
    }

    fn push_or(&mut self, bytes: &[u8], alternatives: Values) {
        let (at, length) = (u8::try_from(self.bytes.len()), u8::try_from(bytes.len()));
        if let (Ok(at), Ok(length)) = (at, length) {
            self.fields.push(Field {
                at,
                length,
                alternatives,
            });
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn ipv4(&mut self, protocol: Option<u8>) {
        let transport = transport(protocol, ICMP);
        let length = 20 + length(&transport);
        self.push(&[0x45]);
        self.push(&[0]);
        self.push(&[0, length]);
        self.push(&[0, 1]);
        self.push_or(&[0x40, 0], FRAGMENTS);
        self.push(&[64]);
        self.push(&[protocol.unwrap_or(TCP)]);
        self.push(&[0, 0]);
        self.push_or(&FROM, SOURCES);
        self.push_or(&TO, TARGETS);
        self.extend(transport);
    }

    fn ipv6(&mut self, protocol: Option<u8>) {
        let transport = transport(protocol, ICMP6);
        self.push(&[0x60]);
        self.push(&[0, 0, 0]);
        self.push(&[0, length(&transport)]);
        self.push(&[protocol.unwrap_or(TCP)]);
        self.push(&[64]);
        self.push_or(&v6(5), SOURCES6);
        self.push_or(&v6(9), TARGETS6);
        self.extend(transport);
    }

    fn extend(&mut self, parts: Vec<Part>) {
        for (bytes, alternatives) in parts {
            self.push_or(&bytes, alternatives);
        }
    }
}

type Part = (Vec<u8>, Values);

fn length(parts: &[Part]) -> u8 {
    let length: usize = parts.iter().map(|(bytes, _)| bytes.len()).sum();
    u8::try_from(length).unwrap_or(u8::MAX)
}

fn transport(protocol: Option<u8>, icmp: u8) -> Vec<Part> {
    let plain = |bytes: &[u8]| -> Part { (bytes.to_vec(), &[]) };
    let mut parts: Vec<Part> = Vec::new();
    if matches!(protocol, Some(TCP | UDP | SCTP) | None) {
        parts.extend(PORTS.map(|port| (port.to_be_bytes().to_vec(), PORT_NUMBERS)));
    }
    parts.extend(match protocol {
        Some(TCP) | None => vec![
            plain(&[0, 0, 0, 1]),
            plain(&[0; 4]),
            plain(&[0x50]),
            plain(&[0x02]),
            plain(&[0xfa, 0xf0]),
            plain(&[0, 0]),
            plain(&[0, 0]),
        ],
        Some(UDP) => vec![plain(&[0, 8]), plain(&[0, 0])],
        Some(SCTP) => vec![plain(&[0; 4]), plain(&[0; 4])],
        Some(protocol) if protocol == icmp => {
            let request = if icmp == ICMP { 8 } else { 128 };
            vec![
                plain(&[request]),
                plain(&[0]),
                plain(&[0, 0]),
                plain(&[0, 1]),
                plain(&[0, 1]),
            ]
        }
        Some(_) => vec![plain(&[0; 8])],
    });
    parts
}
