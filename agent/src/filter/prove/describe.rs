//! One packet in words, for people who read filters and not hexadecimal.

use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
};

use etherparse::{
    ArpOperation, IpNumber, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, TcpSlice, TransportSlice,
};

use super::{
    super::{LinkType, Packet, SocketForm},
    well_formed::{IPV4, IPV6, network_offset},
};

/// One packet in words: `TCP 10.0.0.5:51000 → 10.0.0.9:22 SYN, VLAN 100`.
pub fn in_words(packet: &Packet<'_>, form: SocketForm) -> String {
    let bytes = packet.bytes;
    let length = bytes.len();
    let mut words = match sliced(packet, form) {
        Some(Ok(sliced)) => content(&sliced, packet),
        Some(Err(())) => format!("{length} bytes, less than a header"),
        None => format!("{length} bytes"),
    };
    if let Some(tag) = packet.meta.vlan {
        let _ = write!(words, ", VLAN {} beside the bytes", tag.control & 0xfff);
        if tag.protocol != 0x8100 {
            let _ = write!(words, " (0x{:04x})", tag.protocol);
        }
    }
    match packet.meta.packet_type {
        0 => {}
        1 => words.push_str(", broadcast"),
        2 => words.push_str(", multicast"),
        3 => words.push_str(", to another host"),
        4 => words.push_str(", outgoing"),
        other => {
            let _ = write!(words, ", packet type {other}");
        }
    }
    if packet.meta.interface_index == 0 {
        words.push_str(", no device");
    } else if packet.meta.interface_index != 1 {
        let _ = write!(words, ", interface {}", packet.meta.interface_index);
    }
    for (name, value) in [
        ("mark", packet.meta.mark),
        ("queue", packet.meta.queue.into()),
        ("hash", packet.meta.hash),
    ] {
        if value != 0 {
            let _ = write!(words, ", {name} {value}");
        }
    }
    words
}

/// None: nothing is known about the link type. `Err`: too short.
fn sliced<'a>(packet: &Packet<'a>, form: SocketForm) -> Option<Result<LaxSlicedPacket<'a>, ()>> {
    let bytes = packet.bytes;
    let at = |at: usize| {
        let protocol = bytes.get(at..)?.first_chunk::<2>()?;
        Some(u16::from_be_bytes(*protocol))
    };
    let protocol = match form {
        SocketForm::Raw(LinkType::EN10MB) => {
            return Some(LaxSlicedPacket::from_ethernet(bytes).map_err(|_| ()));
        }
        SocketForm::Raw(LinkType::LINUX_SLL) => at(14),
        SocketForm::Raw(LinkType::LINUX_SLL2) => at(0),
        SocketForm::Raw(LinkType::RAW | LinkType::IPV4 | LinkType::IPV6) => {
            match bytes.first()? >> 4 {
                4 => Some(IPV4),
                6 => Some(IPV6),
                _ => None,
            }
        }
        SocketForm::Cooked => Some(packet.meta.protocol),
        SocketForm::Raw(_) => return None,
    };
    let network = match form {
        SocketForm::Raw(LinkType::IPV4 | LinkType::IPV6) => 0,
        form => network_offset(form)?,
    };
    let rest = bytes.get(network.into()..);
    Some(match (protocol, rest) {
        (Some(protocol), Some(rest)) => Ok(LaxSlicedPacket::from_ether_type(protocol.into(), rest)),
        _ => Err(()),
    })
}

fn content(packet: &LaxSlicedPacket<'_>, whole: &Packet<'_>) -> String {
    let mut words = match &packet.net {
        Some(net) => network(net, packet.transport.as_ref()),
        None => other(packet, whole),
    };
    for tag in &packet.link_exts {
        match tag {
            LaxLinkExtSlice::Vlan(tag) => {
                let _ = write!(words, ", VLAN {}", tag.vlan_identifier().value());
            }
            LaxLinkExtSlice::Macsec(_) => words.push_str(", MACsec"),
        }
    }
    if let Some((_, layer)) = &packet.stop_err {
        let _ = write!(
            words,
            ", cut short or malformed at the {layer} ({} bytes)",
            whole.bytes.len()
        );
    }
    words
}

fn network(net: &LaxNetSlice<'_>, transport: Option<&TransportSlice<'_>>) -> String {
    let (from, to): (IpAddr, IpAddr) = match net {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        LaxNetSlice::Arp(arp) => {
            let what = match arp.operation() {
                ArpOperation::REQUEST => "request",
                ArpOperation::REPLY => "reply",
                _ => "message",
            };
            let address = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
                Ok(bytes) => IpAddr::from(bytes).to_string(),
                Err(_) => format!("{} bytes", bytes.len()),
            };
            let (from, to) = (arp.sender_protocol_addr(), arp.target_protocol_addr());
            return format!("ARP {what} {} → {}", address(from), address(to));
        }
    };
    let mut words = ends(from, to, transport, net);
    if let LaxNetSlice::Ipv4(ip) = net {
        let header = ip.header();
        let offset = header.fragments_offset().value();
        if offset != 0 {
            let _ = write!(
                words,
                ", later fragment (from byte {})",
                u32::from(offset) * 8
            );
        } else if header.more_fragments() {
            words.push_str(", first fragment");
        }
        if header.ihl() > 5 {
            words.push_str(", with IP options");
        }
    }
    if let LaxNetSlice::Ipv6(ip) = net {
        let first = ip.header().next_header();
        if first.is_ipv6_ext_header_value() {
            let _ = write!(words, ", IPv6 extension header {}", first.0);
        }
    }
    if net
        .ip_payload_ref()
        .is_some_and(|payload| payload.incomplete)
    {
        words.push_str(", truncated");
    }
    words
}

fn ends(
    from: IpAddr,
    to: IpAddr,
    transport: Option<&TransportSlice<'_>>,
    net: &LaxNetSlice<'_>,
) -> String {
    match transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let mut words = with_ports(
                "TCP",
                (from, tcp.source_port()),
                (to, tcp.destination_port()),
            );
            words.push_str(&flags(tcp));
            words
        }
        Some(TransportSlice::Udp(udp)) => with_ports(
            "UDP",
            (from, udp.source_port()),
            (to, udp.destination_port()),
        ),
        Some(TransportSlice::Icmpv4(icmp)) => match (icmp.type_u8(), icmp.code_u8()) {
            (8, 0) => format!("ICMP echo request {from} → {to}"),
            (0, 0) => format!("ICMP echo reply {from} → {to}"),
            (kind, code) => format!("ICMP type {kind} code {code} {from} → {to}"),
        },
        Some(TransportSlice::Icmpv6(icmp)) => match (icmp.type_u8(), icmp.code_u8()) {
            (128, 0) => format!("ICMPv6 echo request {from} → {to}"),
            (129, 0) => format!("ICMPv6 echo reply {from} → {to}"),
            (kind, code) => format!("ICMPv6 type {kind} code {code} {from} → {to}"),
        },
        Some(TransportSlice::Igmp(_)) => format!("IGMP {from} → {to}"),
        None => without_transport(from, to, net),
    }
}

/// What has no transport header, or none that is known.
fn without_transport(from: IpAddr, to: IpAddr, net: &LaxNetSlice<'_>) -> String {
    let version = if from.is_ipv4() { "IPv4" } else { "IPv6" };
    let Some(payload) = net.ip_payload_ref() else {
        return format!("{version} {from} → {to}");
    };
    let Some(name) = protocol_name(payload.ip_number) else {
        return format!("{version} protocol {} {from} → {to}", payload.ip_number.0);
    };
    match payload.payload.first_chunk::<4>() {
        Some([a, b, c, d]) if payload.ip_number == IpNumber::SCTP && !payload.fragmented => {
            let [source, destination] = [[*a, *b], [*c, *d]].map(u16::from_be_bytes);
            with_ports(name, (from, source), (to, destination))
        }
        _ => format!("{name} {from} → {to}"),
    }
}

fn with_ports(name: &str, from: (IpAddr, u16), to: (IpAddr, u16)) -> String {
    let (from, to) = (SocketAddr::from(from), SocketAddr::from(to));
    format!("{name} {from} → {to}")
}

fn protocol_name(number: IpNumber) -> Option<&'static str> {
    Some(match number.0 {
        1 => "ICMP",
        2 => "IGMP",
        4 => "IPv4-in-IP",
        6 => "TCP",
        17 => "UDP",
        41 => "IPv6-in-IP",
        47 => "GRE",
        50 => "ESP",
        51 => "AH",
        58 => "ICMPv6",
        89 => "OSPF",
        103 => "PIM",
        112 => "VRRP",
        132 => "SCTP",
        _ => return None,
    })
}

fn flags(tcp: &TcpSlice<'_>) -> String {
    let flags = [
        (tcp.syn(), " SYN"),
        (tcp.fin(), " FIN"),
        (tcp.rst(), " RST"),
        (tcp.psh(), " PSH"),
        (tcp.ack(), " ACK"),
        (tcp.urg(), " URG"),
        (tcp.ece(), " ECE"),
        (tcp.cwr(), " CWR"),
    ];
    let set: String = flags
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect();
    if set.is_empty() {
        " no flags".into()
    } else {
        set
    }
}

/// What is neither IP nor ARP.
fn other(packet: &LaxSlicedPacket<'_>, whole: &Packet<'_>) -> String {
    let length = whole.bytes.len();
    let payload = packet.ether_payload();
    let ether_type = payload.map_or(whole.meta.protocol, |payload| payload.ether_type.0);
    let what = match ether_type {
        0..0x600 => "802.3 frame".into(),
        0x0800 => "IPv4".into(),
        0x86dd => "IPv6".into(),
        0x0806 => "ARP".into(),
        0x8035 => "RARP".into(),
        0x8847 | 0x8848 => "MPLS".into(),
        0x8863 => "PPPoE discovery".into(),
        0x8864 => "PPPoE session".into(),
        0x8100 | 0x88a8 | 0x9100 => "VLAN".into(),
        other => format!("EtherType 0x{other:04x}"),
    };
    format!("{what}, {length} bytes")
}
