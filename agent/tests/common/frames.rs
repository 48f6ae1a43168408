//! Ethernet frames: well-formed, then cut short and damaged.

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, VlanId};

use super::random::Random;

const US: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THEM: [u8; 6] = [2, 0, 0, 0, 0, 2];
const BROADCAST: [u8; 6] = [0xff; 6];
const MULTICAST: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];
const A4: [u8; 4] = [10, 0, 0, 5];
const B4: [u8; 4] = [192, 168, 1, 7];
const C4: [u8; 4] = [8, 8, 8, 8];

fn v6(last: u8) -> [u8; 16] {
    [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

fn frame(destination: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [destination, US].concat();
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The payload of an IPv4 packet of any protocol, options and all.
fn ipv4(protocol: u8, more: impl Fn(&mut Ipv4Header), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut header = Ipv4Header::new(length, 64, IpNumber(protocol), A4, B4).unwrap();
    more(&mut header);
    let mut packet = Vec::new();
    header.write(&mut packet).unwrap();
    packet.extend(payload);
    packet
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        payload_length: u16::try_from(payload.len()).unwrap(),
        next_header: IpNumber(next),
        hop_limit: 3,
        source: v6(1),
        destination: v6(2),
        ..Ipv6Header::default()
    };
    let mut packet = Vec::new();
    header.write(&mut packet).unwrap();
    packet.extend(payload);
    packet
}

fn well_formed() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let payload = b"GET / HTTP/1.1\r\n";
    for (from, to, source, destination) in [
        (A4, B4, 40000, 80),
        (A4, C4, 22, 51000),
        (C4, A4, 53, 53),
        (B4, A4, 443, 1025),
    ] {
        let ip = || PacketBuilder::ethernet2(US, THEM).ipv4(from, to, 64);
        let mut write = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut frame = Vec::new();
            write(&mut frame);
            frames.push(frame);
        };
        write(&|f| {
            ip().tcp(source, destination, 1, 100)
                .syn()
                .write(f, &[])
                .unwrap();
        });
        write(&|f| {
            ip().tcp(source, destination, 1, 9)
                .ack(2)
                .psh()
                .write(f, payload)
                .unwrap();
        });
        write(&|f| {
            ip().tcp(source, destination, 1, 9)
                .rst()
                .write(f, &[])
                .unwrap();
        });
        write(&|f| ip().udp(source, destination).write(f, payload).unwrap());
        let ip = || PacketBuilder::ethernet2(US, THEM).ipv6(v6(1), v6(9), 64);
        write(&|f| {
            ip().tcp(source, destination, 1, 9)
                .fin()
                .write(f, payload)
                .unwrap();
        });
        write(&|f| ip().udp(source, destination).write(f, payload).unwrap());
        let tagged = || {
            let vlan = VlanId::try_new(100).unwrap();
            PacketBuilder::ethernet2(US, THEM)
                .single_vlan(vlan)
                .ipv4(from, to, 64)
        };
        write(&|f| {
            tagged()
                .tcp(source, destination, 1, 9)
                .write(f, payload)
                .unwrap();
        });
    }
    for destination in [THEM, BROADCAST, MULTICAST] {
        let mut frame = Vec::new();
        let ping = PacketBuilder::ethernet2(US, destination).ipv4(A4, B4, 1);
        ping.icmpv4_echo_request(7, 1)
            .write(&mut frame, payload)
            .unwrap();
        frames.push(frame);
    }
    let mut icmp6 = Vec::new();
    let ping = PacketBuilder::ethernet2(US, THEM).ipv6(v6(1), v6(2), 64);
    ping.icmpv6_echo_request(7, 1)
        .write(&mut icmp6, payload)
        .unwrap();
    frames.push(icmp6);
    let mut double = Vec::new();
    let (outer, inner) = (VlanId::try_new(7).unwrap(), VlanId::try_new(100).unwrap());
    let double_tag = PacketBuilder::ethernet2(US, THEM).double_vlan(outer, inner);
    double_tag
        .ipv4(A4, B4, 9)
        .udp(53, 53)
        .write(&mut double, payload)
        .unwrap();
    frames.push(double);

    let ports = [
        0, 22, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0,
    ];
    let first = |h: &mut Ipv4Header| h.more_fragments = true;
    let later = |h: &mut Ipv4Header| h.fragment_offset = 185.try_into().unwrap();
    let options = |h: &mut Ipv4Header| h.options = [1; 24].into();
    frames.push(frame(THEM, 0x800, &ipv4(6, first, &ports)));
    frames.push(frame(THEM, 0x800, &ipv4(6, later, &ports)));
    frames.push(frame(THEM, 0x800, &ipv4(17, options, &ports)));
    frames.push(frame(THEM, 0x800, &ipv4(6, options, &ports)));
    for protocol in [1, 2, 4, 41, 47, 50, 51, 88, 89, 103, 112, 132, 255] {
        frames.push(frame(THEM, 0x800, &ipv4(protocol, |_| {}, &ports)));
    }
    // Extension headers: hop-by-hop, fragment, routing, then TCP.
    for next in [0, 43, 44, 50, 58, 6, 17, 132] {
        let chain = [&[6, 0, 0, 0, 0, 0, 0, 0], &ports[..]].concat();
        frames.push(frame(THEM, 0x86dd, &ipv6(next, &chain)));
    }
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &US, &A4, &[0; 6], &B4].concat();
    frames.push(frame(BROADCAST, 0x806, &arp));
    frames.push(frame(BROADCAST, 0x8035, &arp));
    let ip = ipv4(6, |_| {}, &ports);
    let mpls = [&[0, 6, 0x41, 64][..], &ip].concat();
    frames.push(frame(THEM, 0x8847, &mpls));
    frames.push(frame(
        THEM,
        0x8847,
        &[&[0, 1, 0x40, 64][..], &mpls].concat(),
    ));
    let session = [&[0x11, 0, 0, 5, 0, 42, 0, 0x21][..], &ip].concat();
    frames.push(frame(THEM, 0x8864, &session));
    frames.push(frame(THEM, 0x8863, &[0x11, 9, 0, 0, 0, 4, 1, 1, 0, 0]));
    frames.push(frame(THEM, 0x88a8, &[&[0, 7, 8, 0][..], &ip].concat()));
    frames.push(frame(
        THEM,
        0x9100,
        &[&[0, 7, 0x81, 0, 0, 100, 8, 0][..], &ip].concat(),
    ));
    // 802.3: spanning tree, SNAP, NetBEUI, IPX, IS-IS.
    frames.push(frame(
        [1, 0x80, 0xc2, 0, 0, 0],
        38,
        &[0x42, 0x42, 3, 0, 0, 0, 0, 0],
    ));
    frames.push(frame(
        THEM,
        46,
        &[&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &ip].concat(),
    ));
    frames.push(frame(THEM, 40, &[0xaa, 0xaa, 3, 8, 0, 7, 0x80, 0x9b, 0, 0]));
    frames.push(frame(THEM, 30, &[0xf0, 0xf0, 3, 0, 0]));
    frames.push(frame(THEM, 30, &[0xe0, 0xe0, 3, 0xff, 0xff]));
    frames.push(frame(
        THEM,
        30,
        &[0xfe, 0xfe, 3, 0x83, 27, 1, 0, 0x0f, 0, 0],
    ));
    // VXLAN and Geneve, with a frame inside.
    for port in [4789_u16, 6081] {
        let inner = frame(THEM, 0x800, &ip);
        let length = u16::try_from(16 + inner.len()).unwrap();
        let mut udp = [1000_u16, port, length, 0].map(u16::to_be_bytes).concat();
        udp.extend([8, 0, 0x65, 0x58, 0, 0, 42, 0]);
        udp.extend(inner);
        frames.push(frame(THEM, 0x800, &ipv4(17, |_| {}, &udp)));
    }
    frames
}

/// At least a hundred frames: all that are well-formed, and as many again that are not.
pub fn frames(random: &mut Random) -> Vec<Vec<u8>> {
    let mut frames = well_formed();
    for index in 0..frames.len() {
        let mut frame = frames[index].clone();
        if random.below(2) == 0 {
            frame.truncate(random.below(frame.len()));
        }
        for _ in 0..random.below(4) {
            if !frame.is_empty() {
                let at = random.below(frame.len().min(60));
                frame[at] = random.next().to_le_bytes()[0];
            }
        }
        frames.push(frame);
    }
    frames.extend([vec![], vec![0], vec![0xff; 64], vec![0; 1400]]);
    assert!(frames.len() >= 100);
    frames
}
