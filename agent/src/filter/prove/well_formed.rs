//! Which packets are well-formed: what a network carries, as opposed to what a filter could be fed.
//!
//! A packet is well-formed when every header that it announces is there in full, as far as the
//! first transport header, and no length exceeds what holds it:
//!
//! - **Metadata** is what the kernel gives to packets of this form: a device, a packet type of up
//!   to `PACKET_OUTGOING`, a VLAN tag that says 0x8100 or 0x88a8, the network header behind the
//!   link header, a protocol that is the packet's EtherType. Nothing lies in front of the bytes,
//!   unless the socket is cooked.
//! - **Ethernet**: 14 bytes and four for each of up to two tags (0x8100, 0x88a8, 0x9100). A type
//!   below 0x600 is a length, of 3 to 1,500 bytes, all of them there. What follows three tags is
//!   not looked at. Linux's cooked headers are 16 and 20 bytes.
//! - **IPv4**: version 4, at least 20 bytes of header, a total length that is no less than the
//!   header's, and so many bytes. More may follow: Ethernet pads. **IPv6**: version 6, 40 bytes and
//!   the payload length. **ARP**, RARP: 28 bytes, for addresses of 6 and 4. **MPLS**: one label.
//!   **PPPoE**: 6 bytes and the length they announce.
//! - **TCP**: 20 bytes, a data offset of at least 5 that does not lead out of the IP packet.
//!   **UDP**: 8 bytes, a length of at least 8, and no more than there is unless more fragments
//!   follow. **ICMP**, ICMPv6, IGMP: 8 bytes. **SCTP**: 12. In an IPv4 packet that is a later
//!   fragment there is no such header, but at least one byte. An IPv6 extension header has at least
//!   8 bytes; what follows it is not looked at.
//! - Checksums may be wrong: the sender's hardware often fills them in later.
//!
//! On other link types every packet counts as well-formed.
//!
//! This is written twice: as a condition over all packets and as a test of one. The second checks
//! every packet that the first leads to.

use super::{
    super::{LinkType, Meta, Packet, SocketForm, program::Size},
    bits::Word,
    graph::Lit,
    space::Space,
};

pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;
pub(super) const ARP: u16 = 0x0806;
pub(super) const RARP: u16 = 0x8035;
const MPLS: [u16; 2] = [0x8847, 0x8848];
const PPPOE: [u16; 2] = [0x8863, 0x8864];
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// Types below are lengths.
const LENGTHS: u16 = 0x600;

pub(super) const ICMP: u8 = 1;
const IGMP: u8 = 2;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP6: u8 = 58;
pub(super) const SCTP: u8 = 132;
const EXTENSIONS: [u8; 6] = [0, 43, 44, 51, 60, 135];

/// Where an untagged packet's network header begins.
pub(super) const fn network_offset(form: SocketForm) -> Option<u8> {
    match form {
        SocketForm::Cooked | SocketForm::Raw(LinkType::RAW) => Some(0),
        SocketForm::Raw(LinkType::EN10MB) => Some(14),
        SocketForm::Raw(LinkType::LINUX_SLL) => Some(16),
        SocketForm::Raw(LinkType::LINUX_SLL2) => Some(20),
        SocketForm::Raw(_) => None,
    }
}

/// Where the EtherType lies among the bytes.
pub(super) const fn type_offset(form: SocketForm) -> Option<u8> {
    match form {
        SocketForm::Raw(LinkType::EN10MB) => Some(12),
        SocketForm::Raw(LinkType::LINUX_SLL) => Some(14),
        SocketForm::Raw(LinkType::LINUX_SLL2) => Some(0),
        _ => None,
    }
}

/// What an untagged packet's EtherType is, wherever it is said.
pub(super) fn ether_type(space: &mut Space, form: SocketForm) -> Option<Word> {
    match (form, type_offset(form)) {
        (SocketForm::Cooked, _) => Some(space.meta.protocol),
        (_, Some(at)) => Some(space.word(at.into(), Size::Half)),
        _ => None,
    }
}

/// The condition under which metadata is what the kernel gives to packets of this form.
pub(super) fn metadata(space: &mut Space, form: SocketForm) -> Lit {
    let graph = &mut space.graph;
    let meta = &space.meta;
    let mut conditions = vec![
        meta.interface_index.not_zero(graph),
        !meta.interface_index.sign(),
        !meta.packet_type.at_least(graph, &Word::constant(5)),
    ];
    let tags = [0x8100, 0x88a8].map(|tag| meta.vlan_protocol.equals(graph, &Word::constant(tag)));
    let tag = graph.any(tags);
    conditions.push(graph.implies(meta.vlan_present, tag));
    if let Some(offset) = network_offset(form) {
        let network = match form {
            SocketForm::Raw(LinkType::LINUX_SLL | LinkType::LINUX_SLL2) => 0,
            _ => offset.into(),
        };
        conditions.push(meta.network_header.equals(graph, &Word::constant(network)));
    }
    if form != SocketForm::Cooked {
        conditions.push(!space.headroom.not_zero(graph));
    }
    if form == SocketForm::Raw(LinkType::EN10MB) {
        conditions.push(meta.link_header_known);
        conditions.push(!meta.link_header.not_zero(graph));
        let ether_type = space.word(12, Size::Half);
        let graph = &mut space.graph;
        let is_type = ether_type.at_least(graph, &Word::constant(LENGTHS.into()));
        let same = ether_type.equals(graph, &space.meta.protocol);
        conditions.push(graph.implies(is_type, same));
    }
    space.graph.all(conditions)
}

/// The condition under which a packet has no tag among its bytes and its headers are well-formed.
pub(super) fn untagged(space: &mut Space, form: SocketForm) -> Lit {
    let Some(network) = network_offset(form) else {
        return Lit::TRUE;
    };
    let network = u32::from(network);
    let complete = space.has(network);
    let protocol = match ether_type(space, form) {
        Some(ether_type) => {
            let tag = is_one_of(space, &ether_type, &TAGS);
            let payload = payload(space, &ether_type, network);
            return space.graph.all([complete, !tag, payload]);
        }
        None => space.meta.protocol,
    };
    // Raw IP.
    let four = ipv4(space, 0);
    let six = ipv6(space, 0);
    let is = |space: &mut Space, version: u16| {
        protocol.equals(&mut space.graph, &Word::constant(version.into()))
    };
    let (is_four, is_six) = (is(space, IPV4), is(space, IPV6));
    let graph = &mut space.graph;
    let (four, six) = (graph.and(is_four, four), graph.and(is_six, six));
    let ip = graph.or(four, six);
    graph.and(complete, ip)
}

/// The same for packets with tags; never, where there are none.
pub(super) fn tagged(space: &mut Space, form: SocketForm) -> Lit {
    if form != SocketForm::Raw(LinkType::EN10MB) {
        return Lit::FALSE;
    }
    let types = [12, 16, 20].map(|at| space.word(at, Size::Half));
    let [one, two, three] = types.map(|ether_type| is_one_of(space, &ether_type, &TAGS));
    let [_, behind_one, behind_two] = types;
    let inner = payload(space, &behind_two, 22);
    let has_two = space.has(22);
    let graph = &mut space.graph;
    let inner = graph.or(three, inner);
    let double = graph.and(has_two, inner);
    let outer = payload(space, &behind_one, 18);
    let has_one = space.has(18);
    let graph = &mut space.graph;
    let rest = graph.mux(two, double, outer);
    graph.all([one, has_one, rest])
}

fn is_one_of(space: &mut Space, value: &Word, those: &[u16]) -> Lit {
    let graph = &mut space.graph;
    let each: Vec<_> = those
        .iter()
        .map(|one| value.equals(graph, &Word::constant((*one).into())))
        .collect();
    graph.any(each)
}

fn payload(space: &mut Space, ether_type: &Word, at: u32) -> Lit {
    let graph = &mut space.graph;
    let is_type = ether_type.at_least(graph, &Word::constant(LENGTHS.into()));
    let long_enough = ether_type.at_least(graph, &Word::constant(3));
    let too_long = ether_type.at_least(graph, &Word::constant(1501));
    let there = reaches(space, at, ether_type);
    let llc = space.graph.all([long_enough, !too_long, there]);
    let mut conditions = vec![space.graph.or(is_type, llc)];
    let session = space.word(at + 4, Size::Half);
    let parts: [(&[u16], Lit); 5] = [
        (&[IPV4], ipv4(space, at)),
        (&[IPV6], ipv6(space, at)),
        (&[ARP, RARP], arp(space, at)),
        (&MPLS, space.has(at + 4)),
        (&PPPOE, reaches(space, at + 6, &session)),
    ];
    for (types, condition) in parts {
        let applies = is_one_of(space, ether_type, types);
        conditions.push(space.graph.implies(applies, condition));
    }
    space.graph.all(conditions)
}

/// Whether the packet has `at + length` bytes.
fn reaches(space: &mut Space, at: u32, length: &Word) -> Lit {
    let end = length.add(&mut space.graph, &Word::constant(at));
    space.length.at_least(&mut space.graph, &end)
}

fn arp(space: &mut Space, at: u32) -> Lit {
    let complete = space.has(at + 28);
    let sizes = space.word(at + 4, Size::Half);
    let usual = sizes.equals(&mut space.graph, &Word::constant(0x0604));
    space.graph.and(complete, usual)
}

fn ipv4(space: &mut Space, at: u32) -> Lit {
    let complete = space.has(at + 20);
    let first = space.byte(at);
    let (words, version) = first.split_at(4);
    let header = Word::from_bits(words).shifted_left(2);
    let version = Word::from_bits(version);
    let total = space.word(at + 2, Size::Half);
    let there = reaches(space, at, &total);
    let flags = space.word(at + 6, Size::Half);
    let more = flags.bit(13);
    let protocol = Word::from_bits(&space.byte(at + 9));
    let graph = &mut space.graph;
    let version = version.equals(graph, &Word::constant(4));
    let header_fits = header.at_least(graph, &Word::constant(20));
    let total_fits = total.at_least(graph, &header);
    let length = total.sub(graph, &header);
    let later = flags.and(graph, &Word::constant(0x1fff)).not_zero(graph);
    let some = length.not_zero(graph);
    let transport = transport(space, &protocol, &header, at, &length, more, ICMP);
    let graph = &mut space.graph;
    let content = graph.mux(later, some, transport);
    graph.all([complete, version, header_fits, total_fits, there, content])
}

fn ipv6(space: &mut Space, at: u32) -> Lit {
    let complete = space.has(at + 40);
    let version = space.byte(at);
    let (_, version) = version.split_at(4);
    let version = Word::from_bits(version);
    let length = space.word(at + 4, Size::Half);
    let there = reaches(space, at + 40, &length);
    let next = Word::from_bits(&space.byte(at + 6));
    let graph = &mut space.graph;
    let version = version.equals(graph, &Word::constant(6));
    let eight = length.at_least(graph, &Word::constant(8));
    let extension = EXTENSIONS.map(|one| next.equals(graph, &Word::constant(one.into())));
    let extension = graph.any(extension);
    let extension = graph.implies(extension, eight);
    let header = Word::constant(40);
    let transport = transport(space, &next, &header, at, &length, Lit::FALSE, ICMP6);
    space
        .graph
        .all([complete, version, there, extension, transport])
}

/// The transport header behind an IP header at `at`, in `length` bytes.
fn transport(
    space: &mut Space,
    protocol: &Word,
    header: &Word,
    at: u32,
    length: &Word,
    more: Lit,
    icmp: u8,
) -> Lit {
    let at = at.cast_signed();
    let (tcp_words, _) = space.load_indexed(Size::Byte, header, at + 12);
    let (udp_length, _) = space.load_indexed(Size::Half, header, at + 4);
    let graph = &mut space.graph;
    let tcp_header = tcp_words.shifted_right(4).shifted_left(2);
    let least = |graph: &mut _, word: &Word, least| word.at_least(graph, &Word::constant(least));
    let tcp = [
        least(graph, length, 20),
        least(graph, &tcp_header, 20),
        length.at_least(graph, &tcp_header),
    ];
    let tcp = graph.all(tcp);
    let udp_fits = length.at_least(graph, &udp_length);
    let udp = [
        least(graph, length, 8),
        least(graph, &udp_length, 8),
        graph.or(more, udp_fits),
    ];
    let udp = graph.all(udp);
    let eight = least(graph, length, 8);
    let sctp = least(graph, length, 12);
    let mut conditions = Vec::new();
    for (number, condition) in [
        (TCP, tcp),
        (UDP, udp),
        (icmp, eight),
        (IGMP, eight),
        (SCTP, sctp),
    ] {
        let applies = protocol.equals(graph, &Word::constant(number.into()));
        conditions.push(graph.implies(applies, condition));
    }
    graph.all(conditions)
}

/// Whether one packet is well-formed.
pub fn well_formed(packet: &Packet<'_>, form: SocketForm) -> bool {
    metadata_of(packet, form) && headers_of(packet.bytes, &packet.meta, form).unwrap_or(false)
}

fn metadata_of(packet: &Packet<'_>, form: SocketForm) -> bool {
    let meta = &packet.meta;
    let network = match form {
        SocketForm::Raw(LinkType::LINUX_SLL | LinkType::LINUX_SLL2) => Some(0),
        _ => network_offset(form),
    };
    let ethernet = form == SocketForm::Raw(LinkType::EN10MB);
    (1..1 << 31).contains(&meta.interface_index)
        && meta.packet_type < 5
        && meta
            .vlan
            .is_none_or(|tag| matches!(tag.protocol, 0x8100 | 0x88a8))
        && network.is_none_or(|offset| meta.network_header == i32::from(offset))
        && (form == SocketForm::Cooked || packet.headroom.is_empty())
        && (!ethernet
            || meta.link_header == Some(0)
                && half(packet.bytes, 12)
                    .is_none_or(|ether_type| ether_type < LENGTHS || ether_type == meta.protocol))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*bytes))
}

/// None: a header is not there.
fn headers_of(bytes: &[u8], meta: &Meta, form: SocketForm) -> Option<bool> {
    let Some(offset) = network_offset(form) else {
        return Some(true);
    };
    let mut rest = bytes.get(offset.into()..)?;
    let mut ether_type = match (form, type_offset(form)) {
        (_, Some(at)) => half(bytes, at.into())?,
        (SocketForm::Cooked, None) => meta.protocol,
        _ if matches!(meta.protocol, IPV4 | IPV6) => meta.protocol,
        _ => return Some(false),
    };
    if form == SocketForm::Raw(LinkType::EN10MB) {
        for _ in 0..2 {
            if TAGS.contains(&ether_type) {
                ether_type = half(rest, 2)?;
                rest = rest.get(4..)?;
            }
        }
        if TAGS.contains(&ether_type) {
            return Some(true);
        }
    } else if TAGS.contains(&ether_type) {
        return Some(false);
    }
    Some(match ether_type {
        ..LENGTHS => (3..=1500).contains(&ether_type) && rest.len() >= ether_type.into(),
        IPV4 => {
            let first = *rest.first()?;
            let header = usize::from(first & 15) * 4;
            let total = usize::from(half(rest, 2)?);
            let flags = half(rest, 6)?;
            let protocol = *rest.get(9)?;
            rest.get(19)?;
            let content = rest.get(..total)?.get(header..)?;
            first >> 4 == 4
                && header >= 20
                && if flags & 0x1fff != 0 {
                    !content.is_empty()
                } else {
                    transport_of(protocol, content, flags & 0x2000 != 0, ICMP)?
                }
        }
        IPV6 => {
            let next = *rest.get(6)?;
            let content = rest.get(40..)?.get(..half(rest, 4)?.into())?;
            rest.first()? >> 4 == 6
                && (!EXTENSIONS.contains(&next) || content.len() >= 8)
                && transport_of(next, content, false, ICMP6)?
        }
        ARP | RARP => rest.len() >= 28 && half(rest, 4)? == 0x0604,
        _ if MPLS.contains(&ether_type) => rest.len() >= 4,
        _ if PPPOE.contains(&ether_type) => rest.len() >= 6 + usize::from(half(rest, 4)?),
        _ => true,
    })
}

fn transport_of(protocol: u8, content: &[u8], more: bool, icmp: u8) -> Option<bool> {
    Some(match protocol {
        TCP => {
            let header = usize::from(content.get(12)? >> 4) * 4;
            content.len() >= 20 && header >= 20 && content.len() >= header
        }
        UDP => {
            let length = usize::from(half(content, 4)?);
            content.len() >= 8 && length >= 8 && (more || length <= content.len())
        }
        IGMP => content.len() >= 8,
        SCTP => content.len() >= 12,
        _ if protocol == icmp => content.len() >= 8,
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            example::Example,
            space::tests::{Random, values},
            template::{Kind, Template},
        },
        *,
    };

    const FORMS: [SocketForm; 5] = [
        SocketForm::Raw(LinkType::EN10MB),
        SocketForm::Raw(LinkType::RAW),
        SocketForm::Raw(LinkType::LINUX_SLL),
        SocketForm::Raw(LinkType::LINUX_SLL2),
        SocketForm::Cooked,
    ];

    fn kinds() -> Vec<Kind> {
        let mut kinds = Vec::new();
        for ether_type in [IPV4, IPV6, ARP, 0x88b5, 40, MPLS[0], PPPOE[0]] {
            for protocol in [TCP, UDP, ICMP, ICMP6, SCTP, IGMP, 0, 47] {
                for tagged in [false, true] {
                    kinds.push(Kind {
                        ether_type,
                        protocol: Some(protocol),
                        tagged,
                    });
                }
            }
        }
        kinds
    }

    fn example(kind: Kind, form: SocketForm) -> Example {
        let ethernet = form == SocketForm::Raw(LinkType::EN10MB);
        let tagged = kind.tagged && ethernet;
        let network = match form {
            SocketForm::Raw(LinkType::LINUX_SLL | LinkType::LINUX_SLL2) => 0,
            _ => network_offset(form).unwrap().into(),
        };
        Example {
            bytes: Template::new(kind, form).bytes,
            headroom: Vec::new(),
            meta: Meta {
                protocol: if tagged { 0x8100 } else { kind.ether_type },
                interface_index: 1,
                network_header: network,
                link_header: Some(0),
                ..Meta::default()
            },
        }
    }

    #[test]
    fn templates_are_well_formed() {
        for form in FORMS {
            for kind in kinds() {
                if matches!(kind.ether_type, IPV4 | IPV6) {
                    let example = example(kind, form);
                    assert!(
                        well_formed(&example.packet(), form),
                        "{form:?} {kind:?} {example:02x?}"
                    );
                }
            }
        }
    }

    /// The condition over all packets and the test of one say the same.
    #[test]
    fn both_definitions_agree() {
        let mut random = Random(5);
        for form in FORMS {
            let mut space = Space::new(1 << 20);
            let parts = [
                metadata(&mut space, form),
                untagged(&mut space, form),
                tagged(&mut space, form),
            ];
            let mut well = 0;
            for kind in kinds() {
                for round in 0..40 {
                    let mut example = example(kind, form);
                    if round % 3 != 0 {
                        let length = u32::try_from(example.bytes.len()).unwrap();
                        match random.below(3) {
                            0 => example.bytes.truncate(random.below(length) as usize),
                            1 => example.bytes.extend([0; 9]),
                            _ => {}
                        }
                    }
                    for _ in 0..random.below(3) {
                        let at = random.below(60) as usize;
                        if let Some(byte) = example.bytes.get_mut(at) {
                            *byte =
                                random.pick(&[0, 1, 4, 8, 0x45, 0x46, 0x20, 0x81, 6, 17, 0xff, 44]);
                        }
                    }
                    if random.below(6) == 0 {
                        example.meta = random.meta();
                    }
                    let packet = example.packet();
                    let bit = values(&space, &packet);
                    let [metadata, untagged, tagged] = parts.map(&bit);
                    let expected = well_formed(&packet, form);
                    assert_eq!(
                        metadata && (untagged || tagged),
                        expected,
                        "{form:?} {example:02x?}"
                    );
                    well += u32::from(expected);
                }
            }
            assert!(well > 200, "{form:?}: {well}");
        }
    }
}
