//! The ways in which a packet hides from a filter: the same packet in pieces, behind another
//! header, or inside another packet.
//!
//! A disguise is data, from which both a condition over all packets and one packet are made.

use std::collections::HashMap;

use super::{
    super::{LinkType, SocketForm, program::Size},
    bits::Word,
    example::Example,
    graph::Lit,
    space::{Byte, Space},
    view::{View, constant},
    well_formed::{
        ARP, ICMP, ICMP6, IPV4, IPV6, RARP, SCTP, TCP, UDP, network_offset, type_offset,
    },
};

const DCCP: u8 = 33;
const UDP_LITE: u8 = 136;
const IP_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const GRE: u8 = 47;
const AUTHENTICATION: u8 = 51;
/// VXLAN as assigned, as Linux had it before, and Geneve.
pub(in super::super) const TUNNEL_PORTS: [u16; 3] = [4789, 8472, 6081];

/// A way of hiding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hiding {
    /// A later fragment of an IPv4 packet.
    LaterFragment,
    /// A fragment of an IPv6 packet, the first or a later one.
    Ipv6Fragment,
    /// IPv6 with hop-by-hop or destination options.
    Ipv6Extension,
    /// Behind an authentication header.
    AuthenticationHeader,
    /// One VLAN tag.
    Vlan,
    /// Two VLAN tags.
    QinQ,
    /// An MPLS label.
    Mpls,
    /// A PPPoE session.
    Pppoe,
    /// IPv4 in IPv4 or IPv6.
    IpInIp,
    /// IPv6 in IPv4 or IPv6.
    SixInFour,
    /// A GRE tunnel.
    Gre,
    /// A VXLAN or Geneve tunnel.
    Vxlan,
    /// An ICMP error that quotes the packet.
    IcmpError,
    /// The same ports under SCTP, DCCP or UDP-Lite.
    OtherTransport,
    /// ARP or RARP that is let in by its addresses, as IP packets are.
    Arp,
}

/// The field by which a disguise can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mark {
    /// The EtherType is none of IPv4, IPv6 and ARP.
    EtherType,
    /// The EtherType is ARP's or RARP's.
    Arp,
    /// The fragment offset of an IPv4 header.
    FragmentOffset,
    /// The protocol of an IPv4 header.
    Protocol,
    /// The next header of an IPv6 header.
    NextHeader,
    /// The port to which UDP goes.
    UdpPort,
    /// The type of an ICMP message.
    IcmpType,
    /// The type of an ICMPv6 message.
    Icmp6Type,
}

/// One way of hiding in all detail: how a packet is made of another.
#[derive(Clone, Debug)]
pub struct Disguise {
    /// The way.
    pub hiding: Hiding,
    /// By which it can be told.
    pub mark: Mark,
    /// Which packets hide so.
    pub(super) whom: Whom,
    added: u32,
    segments: Vec<(u32, Option<u32>)>,
    pieces: Vec<(u32, Piece)>,
    demands: Vec<Demand>,
    protocol: Option<u16>,
}

/// Which packets can be disguised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    Frame,
    Ip,
    Ipv4,
    Ipv4NoOptions,
    Ipv6,
    Ports4,
    Ports6,
    Arp,
    Rarp,
}

/// Bytes that the packet behind the disguise does not have.
#[derive(Clone, Debug)]
enum Piece {
    Is(Vec<u8>),
    /// Anything; these for preference.
    Free(Vec<u8>),
    /// Two bytes of the packet, and so much more.
    Sum {
        base: u32,
        add: u32,
    },
    /// The packet's length, and so much more.
    Length(i32),
    /// What stands for IPv4, or for IPv6.
    Version {
        four: u16,
        six: u16,
    },
    /// The same as bytes elsewhere.
    Copy {
        base: u32,
        count: u32,
    },
}

/// What two free bytes must be.
#[derive(Clone, Copy, Debug)]
struct Demand {
    at: u32,
    mask: u16,
    /// None: anything but zero.
    equals: Option<u16>,
}

impl Piece {
    fn length(&self) -> u32 {
        match self {
            Self::Is(bytes) | Self::Free(bytes) => u32::try_from(bytes.len()).unwrap_or(0),
            Self::Sum { .. } | Self::Length(_) | Self::Version { .. } => 2,
            Self::Copy { count, .. } => *count,
        }
    }
}

/// Every disguise that there is for packets of this form.
pub fn disguises(form: impl Into<SocketForm>) -> Vec<Disguise> {
    let form = form.into();
    let Some(network) = network_offset(form) else {
        return Vec::new();
    };
    let make = Maker {
        network: network.into(),
        ether_type: type_offset(form).map(u32::from),
    };
    let mut all = make.fragments();
    all.extend(make.extensions());
    if form == SocketForm::Raw(LinkType::EN10MB) {
        all.extend(ethernet());
    }
    all.extend(make.tunnels());
    all.extend(make.icmp_errors());
    all.extend(make.transports());
    if make.ether_type.is_some() || form == SocketForm::Cooked {
        all.extend(make.arp());
    }
    all.sort_by_key(|disguise| disguise.hiding);
    all
}

/// The same length, and the same bytes but for those that are listed.
fn changed(hiding: Hiding, mark: Mark, whom: Whom) -> Disguise {
    Disguise {
        hiding,
        mark,
        whom,
        added: 0,
        segments: vec![(0, Some(0))],
        pieces: Vec::new(),
        demands: Vec::new(),
        protocol: None,
    }
}

impl Disguise {
    /// The packet goes on `bytes` later from `at` on.
    fn inserted(mut self, at: u32, bytes: u32) -> Self {
        self.added += bytes;
        self.segments
            .extend([(at, None), (at + bytes, Some(bytes))]);
        self
    }

    fn piece(mut self, at: u32, piece: Piece) -> Self {
        self.pieces.push((at, piece));
        self
    }

    fn is(self, at: u32, bytes: &[u8]) -> Self {
        self.piece(at, Piece::Is(bytes.to_vec()))
    }

    fn free(self, at: u32, bytes: &[u8]) -> Self {
        self.piece(at, Piece::Free(bytes.to_vec()))
    }

    fn demand(mut self, at: u32, mask: u16, equals: Option<u16>) -> Self {
        self.demands.push(Demand { at, mask, equals });
        self
    }
}

fn ethernet() -> Vec<Disguise> {
    let tag = |hiding, kind: [u8; 2]| {
        changed(hiding, Mark::EtherType, Whom::Frame)
            .inserted(12, 4)
            .is(12, &kind)
            .free(14, &[0, 100])
    };
    let two = |outer: [u8; 2]| {
        changed(Hiding::QinQ, Mark::EtherType, Whom::Frame)
            .inserted(12, 8)
            .is(12, &outer)
            .free(14, &[0, 100])
            .is(16, &[0x81, 0])
            .free(18, &[0, 7])
    };
    let mpls = changed(Hiding::Mpls, Mark::EtherType, Whom::Ip)
        .inserted(14, 4)
        .is(12, &[0x88, 0x47])
        .free(14, &[0, 1])
        .is(16, &[0x11])
        .free(17, &[64]);
    let pppoe = changed(Hiding::Pppoe, Mark::EtherType, Whom::Ip)
        .inserted(14, 8)
        .is(12, &[0x88, 0x64, 0x11, 0])
        .free(16, &[0, 1])
        .piece(18, Piece::Length(2 - 14))
        .piece(
            20,
            Piece::Version {
                four: 0x21,
                six: 0x57,
            },
        );
    vec![
        tag(Hiding::Vlan, [0x81, 0]),
        tag(Hiding::QinQ, [0x88, 0xa8]),
        two([0x88, 0xa8]),
        two([0x81, 0]),
        mpls,
        pppoe,
    ]
}

/// Where headers are, for one form.
struct Maker {
    network: u32,
    ether_type: Option<u32>,
}

/// An IP header in front of the packet's own.
#[derive(Clone, Copy)]
enum Outer {
    Four(u8),
    Six(u8),
}

impl Outer {
    const fn mark(self) -> Mark {
        match self {
            Self::Four(_) => Mark::Protocol,
            Self::Six(_) => Mark::NextHeader,
        }
    }

    const fn length(self) -> u32 {
        match self {
            Self::Four(_) => 20,
            Self::Six(_) => 40,
        }
    }
}

impl Maker {
    fn fragments(&self) -> Vec<Disguise> {
        let network = self.network;
        let mut later = changed(
            Hiding::LaterFragment,
            Mark::FragmentOffset,
            Whom::Ipv4NoOptions,
        )
        .free(network + 6, &[0, 185])
        .demand(network + 6, 0x1fff, None);
        // What follows the header is from further back in the packet.
        later.segments.push((network + 20, None));
        let six = |flags: [u8; 2]| {
            changed(Hiding::Ipv6Fragment, Mark::NextHeader, Whom::Ipv6)
                .inserted(network + 40, 8)
                .piece(
                    network + 4,
                    Piece::Sum {
                        base: network + 4,
                        add: 8,
                    },
                )
                .is(network + 6, &[44])
                .piece(
                    network + 40,
                    Piece::Copy {
                        base: network + 6,
                        count: 1,
                    },
                )
                .is(network + 41, &[0])
                .free(network + 42, &flags)
                .free(network + 44, &[0, 0, 0, 1])
        };
        let first = six([0, 1]).demand(network + 42, 0xfff8, Some(0));
        let mut more = six([5, 200]).demand(network + 42, 0xfff8, None);
        more.segments.push((network + 48, None));
        vec![later, first, more]
    }

    fn extensions(&self) -> Vec<Disguise> {
        let network = self.network;
        let extension = |hiding, kind: u8, length: u32| {
            changed(hiding, Mark::NextHeader, Whom::Ipv6)
                .inserted(network + 40, length)
                .piece(
                    network + 4,
                    Piece::Sum {
                        base: network + 4,
                        add: length,
                    },
                )
                .is(network + 6, &[kind])
                .piece(
                    network + 40,
                    Piece::Copy {
                        base: network + 6,
                        count: 1,
                    },
                )
        };
        let options = |kind| {
            extension(Hiding::Ipv6Extension, kind, 8).is(network + 41, &[0, 1, 4, 0, 0, 0, 0])
        };
        // 24 bytes: number, length, two reserved ones, an index, a sequence number, a check value.
        let rest = |disguise: Disguise, at: u32| {
            disguise.is(at, &[4, 0, 0]).free(
                at + 3,
                &[0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            )
        };
        let six = extension(Hiding::AuthenticationHeader, AUTHENTICATION, 24);
        let four = changed(
            Hiding::AuthenticationHeader,
            Mark::Protocol,
            Whom::Ipv4NoOptions,
        )
        .inserted(network + 20, 24)
        .piece(
            network + 2,
            Piece::Sum {
                base: network + 2,
                add: 24,
            },
        )
        .is(network + 9, &[AUTHENTICATION, 0, 0])
        .piece(
            network + 20,
            Piece::Copy {
                base: network + 9,
                count: 1,
            },
        );
        vec![
            options(60),
            options(0),
            rest(six, network + 41),
            rest(four, network + 21),
        ]
    }

    /// The packet behind an IP header and so many bytes more.
    fn behind(&self, hiding: Hiding, mark: Mark, whom: Whom, outer: Outer, more: u32) -> Disguise {
        let network = self.network;
        let length = outer.length() + more;
        let mut disguise = changed(hiding, mark, whom).inserted(network, length);
        let ether_type = match outer {
            Outer::Four(_) => IPV4,
            Outer::Six(_) => IPV6,
        };
        disguise.protocol = Some(ether_type);
        if let Some(at) = self.ether_type {
            disguise = disguise.is(at, &ether_type.to_be_bytes());
        }
        let link = network.cast_signed();
        match outer {
            Outer::Four(protocol) => disguise
                .is(network, &[0x45, 0])
                .piece(network + 2, Piece::Length(length.cast_signed() - link))
                .is(network + 4, &[0, 1, 0x40, 0, 64, protocol, 0, 0])
                .free(network + 12, &[192, 0, 2, 1, 192, 0, 2, 2]),
            Outer::Six(next) => disguise
                .is(network, &[0x60, 0, 0, 0])
                .piece(network + 4, Piece::Length(more.cast_signed() - link))
                .is(network + 6, &[next, 64])
                .free(
                    network + 8,
                    &[
                        0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x20, 1, 0x0d,
                        0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
                    ],
                ),
        }
    }

    fn tunnels(&self) -> Vec<Disguise> {
        let mut all = Vec::new();
        for (hiding, whom, protocol) in [
            (Hiding::IpInIp, Whom::Ipv4, IP_IN_IP),
            (Hiding::SixInFour, Whom::Ipv6, IPV6_IN_IP),
        ] {
            for outer in [Outer::Four(protocol), Outer::Six(protocol)] {
                all.push(self.behind(hiding, outer.mark(), whom, outer, 0));
            }
        }
        let version = Piece::Version {
            four: IPV4,
            six: IPV6,
        };
        for outer in [Outer::Four(GRE), Outer::Six(GRE)] {
            let at = self.network + outer.length();
            let gre = self.behind(Hiding::Gre, outer.mark(), Whom::Ip, outer, 4);
            all.push(gre.is(at, &[0, 0]).piece(at + 2, version.clone()));
        }
        for port in TUNNEL_PORTS {
            for outer in [Outer::Four(UDP), Outer::Six(UDP)] {
                let at = self.network + outer.length();
                // UDP, the tunnel's header, an Ethernet header.
                let more: u32 = 8 + 8 + 14;
                let head: [u8; 4] = match port {
                    6081 => [0, 0, 0x65, 0x58],
                    _ => [8, 0, 0, 0],
                };
                let length = more.cast_signed() - self.network.cast_signed();
                let tunnel = self
                    .behind(Hiding::Vxlan, Mark::UdpPort, Whom::Ip, outer, more)
                    // Senders take the source port from the upper quarter.
                    .free(at, &[0xc3, 0x50])
                    .demand(at, 0xc000, Some(0xc000))
                    .is(at + 2, &port.to_be_bytes())
                    .piece(at + 4, Piece::Length(length))
                    .is(at + 6, &[0, 0])
                    .is(at + 8, &head)
                    .free(at + 12, &[0, 0, 100])
                    .is(at + 15, &[0])
                    .is(at + 16, &[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 5])
                    .piece(at + 28, version.clone());
                all.push(tunnel);
            }
        }
        all
    }

    fn icmp_errors(&self) -> Vec<Disguise> {
        let error = |outer: Outer, kind: u8| {
            let network = self.network;
            let (mark, whom, to, from, size) = match outer {
                Outer::Four(_) => (Mark::IcmpType, Whom::Ipv4, 16, 12, 4),
                Outer::Six(_) => (Mark::Icmp6Type, Whom::Ipv6, 24, 8, 16),
            };
            let at = network + outer.length();
            let mut error = self
                .behind(Hiding::IcmpError, mark, whom, outer, 8)
                .is(at, &[kind])
                .free(at + 1, &[1])
                .is(at + 2, &[0; 6]);
            // It goes to whoever sent the packet.
            let back = Piece::Copy {
                base: network + from,
                count: size,
            };
            error.pieces.insert(0, (network + to, back));
            error
        };
        vec![
            error(Outer::Four(ICMP), 3),
            error(Outer::Four(ICMP), 11),
            error(Outer::Six(ICMP6), 1),
            error(Outer::Six(ICMP6), 3),
        ]
    }

    fn transports(&self) -> Vec<Disguise> {
        let mut all = Vec::new();
        for protocol in [SCTP, DCCP, UDP_LITE] {
            for (mark, whom, at) in [
                (Mark::Protocol, Whom::Ports4, 9),
                (Mark::NextHeader, Whom::Ports6, 6),
            ] {
                let other = changed(Hiding::OtherTransport, mark, whom);
                all.push(other.is(self.network + at, &[protocol]));
            }
        }
        all
    }

    fn arp(&self) -> Vec<Disguise> {
        let network = self.network;
        let addressed = |whom| {
            changed(Hiding::Arp, Mark::Arp, whom)
                .free(network + 14, &[10, 0, 0, 5])
                .free(network + 24, &[10, 0, 0, 9])
        };
        vec![addressed(Whom::Arp), addressed(Whom::Rarp)]
    }
}

/// IPv4 packets that differ in nothing but their addresses: what makes a filter one of addresses.
pub(super) fn other_addresses(form: SocketForm) -> Option<Disguise> {
    let network = u32::from(network_offset(form)?);
    let other = changed(Hiding::Arp, Mark::Arp, Whom::Ipv4);
    Some(other.free(network + 12, &[10, 0, 0, 5, 10, 0, 0, 9]))
}

impl Disguise {
    /// The disguised packet, as conditions over the one behind the disguise.
    pub(super) fn view(&self, space: &mut Space, form: SocketForm) -> View {
        let added = Word::constant(self.added);
        let length = space.length.add(&mut space.graph, &added);
        let protocol = match self.protocol {
            Some(protocol) => Word::constant(protocol.into()),
            None => space.meta.protocol,
        };
        let mut view = View::new(length, protocol, self.segments.clone());
        let network = u32::from(network_offset(form).unwrap_or(0));
        for (at, piece) in self.pieces.iter().rev() {
            let places = *at..*at + piece.length();
            let half = |word: &Word| {
                let byte = |from: usize| std::array::from_fn(|bit| word.bit(from + bit));
                vec![byte(8), byte(0)]
            };
            let bytes: Vec<Byte> = match piece {
                Piece::Is(bytes) => bytes.iter().copied().map(constant).collect(),
                Piece::Free(_) => {
                    for at in places {
                        let byte = [(); 8].map(|()| space.graph.free());
                        view.own(at, byte);
                    }
                    continue;
                }
                Piece::Sum { base, add } => {
                    let word = space.word(*base, Size::Half);
                    half(&word.add(&mut space.graph, &Word::constant(*add)))
                }
                Piece::Length(add) => {
                    let add = Word::constant(add.cast_unsigned());
                    half(&space.length.add(&mut space.graph, &add))
                }
                Piece::Version { four, six } => {
                    // 4 and 6 differ in this bit and the one below.
                    let [.., is_six, _, _] = space.byte(network);
                    let [four, six] = [four, six].map(|kind| Word::constant((*kind).into()));
                    half(&Word::mux(&mut space.graph, is_six, &six, &four))
                }
                Piece::Copy { base, count } => {
                    (*base..*base + count).map(|at| space.byte(at)).collect()
                }
            };
            for (at, byte) in places.zip(bytes) {
                view.define(at, byte);
            }
        }
        view
    }

    /// The condition under which the free bytes are what they have to be.
    pub(super) fn demanded(&self, space: &mut Space, view: &mut View) -> Lit {
        let demands = self.demands.iter().map(|demand| {
            let word = space.through(view, |space| space.word(demand.at, Size::Half));
            let graph = &mut space.graph;
            let masked = word.and(graph, &Word::constant(demand.mask.into()));
            match demand.equals {
                Some(value) => masked.equals(graph, &Word::constant(value.into())),
                None => masked.not_zero(graph),
            }
        });
        let demands: Vec<_> = demands.collect();
        space.graph.all(demands)
    }

    /// The free byte that is preferred at a place.
    pub(super) fn preferred(&self, at: u32) -> u8 {
        let piece = |(from, piece): &(u32, Piece)| match piece {
            Piece::Free(bytes) => bytes
                .get(usize::try_from(at.checked_sub(*from)?).ok()?)
                .copied(),
            _ => None,
        };
        self.pieces.iter().find_map(piece).unwrap_or(0)
    }

    /// The disguised packet of one packet, with these free bytes.
    pub(super) fn apply(
        &self,
        base: &Example,
        free: &HashMap<u32, u8>,
        form: SocketForm,
    ) -> Example {
        let length = base.bytes.len() + self.added as usize;
        let mut bytes: Vec<u8> = (0..length)
            .map(|at| {
                let at = u32::try_from(at).unwrap_or(u32::MAX);
                let segment = self.segments.iter().rev().find(|(from, _)| *from <= at);
                let shared = segment
                    .and_then(|(_, behind)| at.checked_sub((*behind)?))
                    .and_then(|at| base.bytes.get(usize::try_from(at).ok()?));
                match shared {
                    Some(byte) => *byte,
                    None => free.get(&at).copied().unwrap_or(0),
                }
            })
            .collect();
        let byte = |at: u32| base.bytes.get(at as usize).copied().unwrap_or(0);
        let network = u32::from(network_offset(form).unwrap_or(0));
        for (at, piece) in self.pieces.iter().rev() {
            let new: Vec<u8> = match piece {
                Piece::Is(bytes) => bytes.clone(),
                Piece::Free(_) => (*at..*at + piece.length())
                    .map(|at| match free.get(&at) {
                        Some(byte) => *byte,
                        None => self.preferred(at),
                    })
                    .collect(),
                Piece::Sum { base, add } => {
                    let word = u32::from(byte(*base)) << 8 | u32::from(byte(base + 1));
                    low_half(word.wrapping_add(*add))
                }
                Piece::Length(add) => {
                    let length = u32::try_from(base.bytes.len()).unwrap_or(u32::MAX);
                    low_half(length.wrapping_add(add.cast_unsigned()))
                }
                Piece::Version { four, six } => {
                    let is_six = byte(network) & 0x20 != 0;
                    if is_six { *six } else { *four }.to_be_bytes().to_vec()
                }
                Piece::Copy { base, count } => (*base..*base + count).map(byte).collect(),
            };
            for (at, new) in (*at..).zip(new) {
                if let Some(byte) = bytes.get_mut(at as usize) {
                    *byte = new;
                }
            }
        }
        let mut meta = base.meta;
        if let Some(protocol) = self.protocol {
            meta.protocol = protocol;
        }
        if form == SocketForm::Raw(LinkType::EN10MB)
            && let Some(kind) = bytes.get(12..).and_then(<[u8]>::first_chunk::<2>)
        {
            meta.protocol = u16::from_be_bytes(*kind);
        }
        Example {
            bytes,
            headroom: base.headroom.clone(),
            meta,
        }
    }
}

fn low_half(word: u32) -> Vec<u8> {
    let [_, _, high, low] = word.to_be_bytes();
    vec![high, low]
}

/// The condition under which a well-formed packet is one that hides in this way.
pub(super) fn whom(space: &mut Space, form: SocketForm, whom: Whom) -> Lit {
    let network = u32::from(network_offset(form).unwrap_or(0));
    let ether_type = super::well_formed::ether_type(space, form).unwrap_or(space.meta.protocol);
    let first = Word::from_bits(&space.byte(network));
    let fragment = space.word(network + 6, Size::Half);
    let protocol = Word::from_bits(&space.byte(network + 9));
    let next = Word::from_bits(&space.byte(network + 6));
    let graph = &mut space.graph;
    let is = |graph: &mut _, word: &Word, value: u32| word.equals(graph, &Word::constant(value));
    let four = is(graph, &ether_type, IPV4.into());
    let six = is(graph, &ether_type, IPV6.into());
    let later = fragment.and(graph, &Word::constant(0x1fff)).not_zero(graph);
    let four = graph.and(four, !later);
    let extensions = [0, 43, 44, 51, 60, 135].map(|kind| is(graph, &next, kind));
    let extension = graph.any(extensions);
    let six = graph.and(six, !extension);
    let no_options = is(graph, &first, 0x45);
    match whom {
        Whom::Frame => ether_type.at_least(graph, &Word::constant(0x600)),
        Whom::Ip => graph.or(four, six),
        Whom::Ipv4 => four,
        Whom::Ipv4NoOptions => graph.and(four, no_options),
        Whom::Ipv6 => six,
        Whom::Ports4 | Whom::Ports6 => {
            let (version, number) = match whom {
                Whom::Ports4 => (four, protocol),
                _ => (six, next),
            };
            let ports = [TCP, UDP].map(|number_of| is(graph, &number, number_of.into()));
            let ports = graph.any(ports);
            graph.and(version, ports)
        }
        Whom::Arp => is(graph, &ether_type, ARP.into()),
        Whom::Rarp => is(graph, &ether_type, RARP.into()),
    }
}
