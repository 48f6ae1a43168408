//! What the guard counts by protocol: of a known mix, exactly so many of each, and together the packets
//! that were delivered.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{Exec, workplace},
    netns::Net,
    tools,
    traffic::inject,
};
use serde_json::json;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A frame with these VLAN tags.
fn frame(tags: &[u16], kind: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in tags {
        frame.extend([0x81, 0]);
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(kind.to_be_bytes());
    frame.extend(packet);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// An IPv4 packet; `fragment` is its word of flags and offset, `words` the length of its header.
fn ipv4(protocol: u8, fragment: u16, words: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::from(words) * 4 + u16::try_from(payload.len()).unwrap_or(0);
    let mut packet = vec![0x40 | words, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 10, 99, 0, 2, 10, 99, 0, 1]);
    packet.resize(usize::from(words) * 4, 1);
    packet.extend(payload);
    packet
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap_or(0).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend([0xfe; 32]);
    packet.extend(payload);
    packet
}

/// The beginning of a TCP or UDP packet between these ports.
fn ports(from: u16, to: u16) -> Vec<u8> {
    let mut start = from.to_be_bytes().to_vec();
    start.extend(to.to_be_bytes());
    start.extend([0, 12, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    start
}

/// Frames, and what each counts as.
fn mix() -> Vec<(&'static str, Vec<u8>)> {
    let udp = |from, to| ipv4(UDP, 0, 5, &ports(from, to));
    let tcp = |from, to| ipv4(TCP, 0, 5, &ports(from, to));
    // Hop-by-hop options, then the beginning of a fragment, then what follows.
    let behind = |first: u16, next: u8, payload: &[u8]| {
        let mut all = vec![44, 0, 0, 0, 0, 0, 0, 0, next, 0];
        all.extend(first.to_be_bytes());
        all.extend([0, 0, 0, 7]);
        all.extend(payload);
        ipv6(0, &all)
    };
    vec![
        ("arp", frame(&[], 0x0806, &[0; 28])),
        ("arp", frame(&[7], 0x0806, &[0; 28])),
        ("ipv4/icmp", frame(&[], IPV4, &ipv4(1, 0, 5, &[8, 0, 0, 0]))),
        ("ipv4/udp", frame(&[], IPV4, &udp(40_000, 40_001))),
        ("ipv4/udp", frame(&[5], IPV4, &udp(40_000, 40_001))),
        ("ipv4/udp", frame(&[5, 6], IPV4, &udp(443 * 2, 40_001))),
        ("ipv4/dns", frame(&[], IPV4, &udp(40_000, 53))),
        ("ipv4/dns", frame(&[], IPV4, &udp(53, 40_000))),
        ("ipv4/dns", frame(&[], IPV4, &tcp(53, 40_000))),
        ("ipv4/quic", frame(&[], IPV4, &udp(40_000, 443))),
        ("ipv4/dhcp", frame(&[], IPV4, &udp(68, 67))),
        ("ipv4/ntp", frame(&[], IPV4, &udp(123, 123))),
        ("ipv4/tcp", frame(&[], IPV4, &tcp(40_000, 5_000))),
        ("ipv4/tls", frame(&[], IPV4, &tcp(443, 40_000))),
        ("ipv4/http", frame(&[], IPV4, &tcp(40_000, 80))),
        // Options stand between the header and the ports.
        (
            "ipv4/ssh",
            frame(&[], IPV4, &ipv4(TCP, 0, 8, &ports(22, 40_000))),
        ),
        (
            "ipv4/fragment",
            frame(&[], IPV4, &ipv4(TCP, 0x0005, 5, &ports(22, 1))),
        ),
        (
            "ipv4/ssh",
            frame(&[], IPV4, &ipv4(TCP, 0x2000, 5, &ports(22, 1_000))),
        ),
        ("ipv4/igmp", frame(&[], IPV4, &ipv4(2, 0, 5, &[0; 8]))),
        ("ipv4/sctp", frame(&[], IPV4, &ipv4(132, 0, 5, &[0; 12]))),
        ("ipv4/tunnel", frame(&[], IPV4, &ipv4(47, 0, 5, &[0; 8]))),
        ("ipv4/ipsec", frame(&[], IPV4, &ipv4(50, 0, 5, &[0; 8]))),
        ("ipv4/other", frame(&[], IPV4, &ipv4(253, 0, 5, &[0; 8]))),
        // No header of IPv4 is as short as it says.
        (
            "ipv4/other",
            frame(&[], IPV4, &ipv4(TCP, 0, 4, &ports(22, 1))),
        ),
        ("ipv6/icmp", frame(&[], IPV6, &ipv6(58, &[128, 0, 0, 0]))),
        (
            "ipv6/udp",
            frame(&[], IPV6, &ipv6(UDP, &ports(40_000, 40_001))),
        ),
        (
            "ipv6/dns",
            frame(&[9], IPV6, &ipv6(UDP, &ports(40_000, 53))),
        ),
        (
            "ipv6/tcp",
            frame(&[], IPV6, &ipv6(TCP, &ports(40_000, 40_001))),
        ),
        (
            "ipv6/ssh",
            frame(&[], IPV6, &behind(0x0001, TCP, &ports(40_000, 22))),
        ),
        (
            "ipv6/fragment",
            frame(&[], IPV6, &behind(0x0008, TCP, &ports(40_000, 22))),
        ),
        ("ipv6/other", frame(&[], IPV6, &ipv6(253, &[0; 8]))),
        ("lldp", frame(&[], 0x88cc, &[0; 8])),
        ("802.1x", frame(&[], 0x888e, &[0; 8])),
        ("mpls", frame(&[], 0x8847, &[0; 8])),
        ("pppoe", frame(&[], 0x8864, &[0; 8])),
        ("802.2", frame(&[], 38, &[0x42, 0x42, 3, 0])),
        ("other", frame(&[], 0x9999, &[0; 8])),
    ]
}

/// What is told of the frames: how many of each, and how many with a tag.
fn expected(mix: &[(&str, Vec<u8>)]) -> serde_json::Value {
    let mut packets = BTreeMap::<&str, u64>::new();
    for (name, _) in mix {
        *packets.entry(name).or_default() += 1;
    }
    let tagged = mix
        .iter()
        .filter(|(_, frame)| frame.get(12..14) == Some(&[0x81, 0]));
    json!({ "packets": packets, "tagged": tagged.count() })
}

#[test]
fn counts_of_a_known_mix_are_exact_whichever_way_it_goes() -> Result<()> {
    let net = Net::new()?;
    let mix = mix();
    let count = mix.len();
    for (receives, sends, interface, from) in [
        (&net.here, &net.there, "cw0", "peer0"),
        // What goes out by the same interface.
        (&net.here, &net.here, "cw0", "cw0"),
    ] {
        for payload in ["full", "headers"] {
            let place = workplace()?;
            let options = format!("-i {interface} --payload {payload} -c {count}");
            let running = Exec::new(receives, &options).start_in(
                place,
                format!("tcpdump -w {{}}/all.pcap -i {interface}").split(' '),
            )?;
            running.capturing(interface, 1)?;
            let frames: Vec<Vec<u8>> = mix.iter().map(|(_, frame)| frame.clone()).collect();
            inject(sends, from, &frames)?;
            let done = running.finish()?;
            let captured = tools::packets(&done.file("all.pcap"))?.len();
            ensure!(captured == count, "{captured} of {count}: {}", done.stderr);
            let end = done.record("session-ended")?;
            let counted = end.get("protocols").context("nothing by protocol")?;
            assert_eq!(counted, &expected(&mix), "{from} to {interface}, {payload}");
        }
    }
    Ok(())
}
