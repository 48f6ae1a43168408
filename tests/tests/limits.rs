//! What else bounds a session: bytes, headers, filter, interfaces, time.

use std::{
    net::Ipv4Addr,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{Exec, time},
    netns::{CW0, CW1, Namespace, Net},
    tools::{self, Packet, Probe, contains},
    traffic::{Flood, inject},
};
use serde_json::json;

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const RAW: u8 = 3;
const COOKED: u8 = 2;
const ALL: u16 = 3;

/// What no capture of headers may show.
const SECRET: &[u8] = b"THE-PAYLOAD-IS-SECRET";

#[test]
fn byte_cap_of_tools_never_passed() -> Result<()> {
    const CAP: usize = 10_000;
    const FRAME: usize = 14 + 20 + 8 + 50;
    let net = Net::new()?;
    let mut running = Vec::new();
    for tool in [
        "tcpdump -w {}/out.pcap -i lo",
        "tcpdump --immediate-mode -s 128 -B 8192 -w {}/out.pcap -i lo",
        "dumpcap -P -q -w {}/out.pcap -i lo",
        "tshark -F pcap -q -w {}/out.pcap -i lo",
    ] {
        let exec = Exec::new(&net.here, "-i lo -b 10kB -s 60").start(tool.split(' '))?;
        running.push((tool, exec));
    }
    for (_, running) in &running {
        running.capturing("lo", 1)?;
    }
    Flood::new(LOOPBACK, &[b'x'; 50], 500).send(&net.here)?;
    for (tool, running) in running {
        let done = running.finish()?;
        let packets = tools::packets(&done.file("out.pcap"))?;
        let bytes: usize = packets.iter().map(|packet| packet.bytes.len()).sum();
        // tshark's helpers look for an Android on loopback, with smaller packets.
        assert!(bytes <= CAP && bytes > CAP - FRAME, "{tool}: {bytes}");
        assert_eq!(done.ended("bytes")?, u64::try_from(bytes)?, "{tool}");
        assert_eq!(done.ended("packets")?, u64::try_from(packets.len())?);
        assert_eq!(done.reason()?, "byte-cap", "{tool}");
    }
    Ok(())
}

#[test]
fn byte_cap_of_packets_that_differ_never_passed() -> Result<()> {
    // A packet that does not fit ends the session, even if a smaller one still would.
    let net = Net::new()?;
    let command = "tcpdump -w {}/out.pcap -i lo";
    let running = Exec::new(&net.here, "-i lo -b 1000B -s 60").start(command.split(' '))?;
    running.capturing("lo", 1)?;
    Flood::new(LOOPBACK, &[b'a'; 400], 2).send(&net.here)?;
    Flood::new(LOOPBACK, &[b'b'; 300], 1).send(&net.here)?;
    Flood::new(LOOPBACK, &[b'c'; 10], 5).send(&net.here)?;
    let done = running.finish()?;
    let lengths: Vec<usize> = tools::packets(&done.file("out.pcap"))?
        .iter()
        .map(|packet| packet.bytes.len())
        .collect();
    assert_eq!(lengths, [442, 442]);
    assert_eq!(done.ended("bytes")?, 884);
    assert_eq!(done.reason()?, "byte-cap");
    Ok(())
}

/// The length of Ethernet's header, which cooked sockets do not see. Where nothing but it may be
/// shown, they get no packet.
const ETHERNET: usize = 14;

// Frames, from their parts.

fn frame(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
    let mut frame = b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01".to_vec();
    frame.extend(kind.to_be_bytes());
    parts.iter().for_each(|part| frame.extend(*part));
    frame
}

fn ipv4(words: u8, fragment: u16, protocol: u8) -> Vec<u8> {
    let mut header = vec![0_u8; usize::from(words) * 4 - 20];
    header.fill(1); // options: no-operation
    let [f0, f1] = fragment.to_be_bytes();
    let fixed = [
        0x40 | words,
        0,
        0,
        200,
        0,
        1,
        f0,
        f1,
        64,
        protocol,
        0,
        0,
        10,
        99,
        0,
        2,
        10,
        99,
        0,
        1,
    ];
    [&fixed[..], &header].concat()
}

fn ipv6(next: u8) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, 100, next, 64];
    header.extend([0xfd; 32]);
    header
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;
const UDP: [u8; 8] = [0x30, 0x39, 0x27, 0x0f, 0, 100, 0, 0];
const ICMP: [u8; 8] = [8, 0, 0, 0, 0, 1, 0, 1];

/// Each frame with what it is, where its headers end on the wire, and how many VLAN tags it has.
fn frames() -> Vec<(&'static str, Vec<u8>, usize, usize)> {
    let tcp = |words: u8| {
        let mut header = vec![1_u8; usize::from(words) * 4];
        if let Some(offset) = header.get_mut(12) {
            *offset = words << 4;
        }
        header
    };
    let tag = |kind: u16| [&[0, 5][..], &kind.to_be_bytes()].concat();
    let extension = |next: u8, units: u8| {
        let mut header = vec![0_u8; (usize::from(units) + 1) * 8];
        header
            .iter_mut()
            .zip([next, units])
            .for_each(|(byte, to)| *byte = to);
        header
    };
    let fragment = |next: u8, offset: u16| {
        let [o0, o1] = (offset << 3 | 1).to_be_bytes();
        [next, 0, o0, o1, 0, 0, 0, 7]
    };
    vec![
        ("udp", frame(IPV4, &[&ipv4(5, 0, 17), &UDP, SECRET]), 42, 0),
        (
            "ip options",
            frame(IPV4, &[&ipv4(8, 0, 17), &UDP, SECRET]),
            54,
            0,
        ),
        (
            "most ip options",
            frame(IPV4, &[&ipv4(15, 0, 17), &UDP, SECRET]),
            82,
            0,
        ),
        (
            "tcp",
            frame(IPV4, &[&ipv4(5, 0, 6), &tcp(5), SECRET]),
            54,
            0,
        ),
        (
            "tcp options",
            frame(IPV4, &[&ipv4(6, 0, 6), &tcp(13), SECRET]),
            90,
            0,
        ),
        ("icmp", frame(IPV4, &[&ipv4(5, 0, 1), &ICMP, SECRET]), 42, 0),
        (
            "sctp",
            frame(IPV4, &[&ipv4(5, 0, 132), &[0; 12], SECRET]),
            46,
            0,
        ),
        (
            "unknown protocol",
            frame(IPV4, &[&ipv4(5, 0, 253), SECRET]),
            34,
            0,
        ),
        (
            "tunnel",
            frame(IPV4, &[&ipv4(5, 0, 4), &ipv4(5, 0, 17), &UDP, SECRET]),
            34,
            0,
        ),
        (
            "first fragment",
            frame(IPV4, &[&ipv4(5, 0x2000, 17), &UDP, SECRET]),
            42,
            0,
        ),
        (
            "later fragment",
            frame(IPV4, &[&ipv4(5, 0x2001, 17), SECRET]),
            34,
            0,
        ),
        (
            "last fragment",
            frame(IPV4, &[&ipv4(7, 0x0100, 6), SECRET]),
            42,
            0,
        ),
        ("ipv6", frame(IPV6, &[&ipv6(17), &UDP, SECRET]), 62, 0),
        (
            "extension headers",
            frame(
                IPV6,
                &[
                    &ipv6(0),
                    &extension(43, 0),
                    &extension(60, 2),
                    &extension(6, 1),
                    &tcp(8),
                    SECRET,
                ],
            ),
            14 + 40 + 8 + 24 + 16 + 32,
            0,
        ),
        (
            "ipv6 first fragment",
            frame(IPV6, &[&ipv6(44), &fragment(17, 0), &UDP, SECRET]),
            70,
            0,
        ),
        (
            "ipv6 later fragment",
            frame(IPV6, &[&ipv6(44), &fragment(17, 9), SECRET]),
            62,
            0,
        ),
        ("icmpv6", frame(IPV6, &[&ipv6(58), &ICMP, SECRET]), 62, 0),
        (
            "vlan",
            frame(VLAN, &[&tag(IPV4), &ipv4(5, 0, 17), &UDP, SECRET]),
            46,
            1,
        ),
        (
            "vlan, ipv6",
            frame(VLAN, &[&tag(IPV6), &ipv6(6), &tcp(5), SECRET]),
            78,
            1,
        ),
        (
            "two tags",
            frame(
                QINQ,
                &[&tag(VLAN), &tag(IPV4), &ipv4(5, 0, 17), &UDP, SECRET],
            ),
            50,
            2,
        ),
        (
            "arp",
            frame(0x0806, &[&[0, 1, 8, 0, 6, 4, 0, 1], &[1; 20], SECRET]),
            42,
            0,
        ),
        ("unknown ethertype", frame(0x88b5, &[SECRET]), 14, 0),
        (
            "impossible header length",
            frame(IPV4, &[&[0x41; 8], SECRET]),
            14,
            0,
        ),
        (
            "not what it says",
            frame(IPV4, &[&ipv6(17), &UDP, SECRET]),
            14,
            0,
        ),
    ]
}

/// Captures all [`frames`] with a tool, one packet each, on the interface that it names last.
fn capture_frames(net: &Net, command: &str, payload: &str) -> Result<Vec<Packet>> {
    let cooked = command.ends_with("any");
    let frames = frames();
    let visible = frames.iter().filter(|frame| !cooked || frame.2 > ETHERNET);
    let visible = visible.count();
    let frames: Vec<Vec<u8>> = frames.into_iter().map(|(_, frame, ..)| frame).collect();
    let interface = command.rsplit(' ').next().unwrap_or_default();
    let running = Exec::new(&net.here, "-i cw0 -s 60")
        .option("--packets", &visible.to_string())
        .option("--payload", payload)
        .start(command.split(' '))?;
    running.capturing(interface, 1)?;
    inject(&net.there, "peer0", &frames)?;
    let done = running.finish()?;
    ensure!(done.reason()? == "packet-cap", "{:#?}", done.records);
    let file = done.file("out.pcap");
    if payload == "headers" {
        ensure!(
            !contains(&std::fs::read(&file)?, SECRET),
            "{command}: the payload is in the file"
        );
    }
    let packets = tools::packets(&file)?;
    ensure!(packets.len() == visible, "{command}: {packets:?}");
    Ok(packets)
}

#[test]
fn headers_of_frames_end_where_they_should() -> Result<()> {
    let net = Net::new()?;
    for command in [
        "tcpdump -w {}/out.pcap -i cw0",
        "tcpdump --immediate-mode -B 8192 -w {}/out.pcap -i cw0",
        "dumpcap -P -q -w {}/out.pcap -i cw0",
    ] {
        let packets = capture_frames(&net, command, "headers")?;
        for (packet, (what, frame, end, _)) in packets.iter().zip(frames()) {
            assert_eq!(packet.bytes.len(), end, "{command}: {what}");
            assert_eq!(Some(&*packet.bytes), frame.get(..end), "{command}: {what}");
            assert_eq!(usize::try_from(packet.original)?, frame.len(), "{what}");
        }
    }
    Ok(())
}

#[test]
fn headers_of_cooked_packets_end_where_they_should() -> Result<()> {
    const COOKED_HEADER: usize = 20; // LINUX_SLL2, in place of Ethernet's
    let net = Net::new()?;
    let packets = capture_frames(&net, "tcpdump -w {}/out.pcap -i any", "headers")?;
    let visible = frames().into_iter().filter(|frame| frame.2 > ETHERNET);
    for (packet, (what, _, end, tags)) in packets.iter().zip(visible) {
        // The kernel takes the outermost tag off, and libpcap does not put it back here.
        let expected = COOKED_HEADER + end - ETHERNET - 4 * tags.min(1);
        assert_eq!(packet.bytes.len(), expected, "{what}");
    }
    Ok(())
}

#[test]
fn payload_of_some_bytes_is_what_is_kept() -> Result<()> {
    const KEPT: usize = 3;
    let net = Net::new()?;
    let packets = capture_frames(&net, "tcpdump -w {}/out.pcap -i cw0", "3")?;
    for (packet, (what, frame, end, _)) in packets.iter().zip(frames()) {
        assert_eq!(packet.bytes.len(), frame.len().min(end + KEPT), "{what}");
        assert!(!contains(&packet.bytes, SECRET), "{what}");
    }
    let whole = capture_frames(&net, "tcpdump -w {}/out.pcap -i cw0", "full")?;
    for (packet, (what, frame, ..)) in whole.iter().zip(frames()) {
        assert_eq!(packet.bytes, frame, "{what}");
    }
    Ok(())
}

#[test]
fn headers_for_plain_recv_end_where_they_should() -> Result<()> {
    // Everything is granted here, so that sockets of both kinds hear `cw0` without a bind.
    let net = Net::new()?;
    let sent: Vec<Vec<u8>> = frames().into_iter().map(|(_, frame, ..)| frame).collect();
    for (kind, without) in [(RAW, 0), (COOKED, ETHERNET)] {
        let mut probe = Probe::start(&net.here, "-i any -s 60 --payload headers")?;
        probe.ask(&json!(["open", kind, ALL]))?;
        inject(&net.there, "peer0", &sent)?;
        let expected: Vec<_> = frames()
            .into_iter()
            .filter(|frame| frame.2 > without)
            .collect();
        let heard = probe.drain(0, expected.len())?;
        assert_eq!(heard.len(), expected.len());
        for ((interface, bytes), (what, _, end, tags)) in heard.iter().zip(expected) {
            assert_eq!(interface, "cw0");
            assert_eq!(bytes.len(), end - without - 4 * tags.min(1), "{what}");
        }
        probe.end(0)?.finish()?;
    }
    Ok(())
}

#[test]
fn filter_of_the_grant_holds_without_one_of_the_process() -> Result<()> {
    const CAP: usize = 20;
    let net = Net::new()?;
    let to_port = |port| Flood {
        port,
        ..Flood::new(LOOPBACK, b"marked", 150)
    };
    for kind in [RAW, COOKED] {
        let mut probe = Probe::start_filtered(&net.here, "-i lo -c 20 -s 60", "udp dst port 7777")?;
        probe.ask(&json!(["open", kind, ALL]))?;
        // Others' packets neither arrive nor are they counted …
        to_port(8_888).send(&net.here)?;
        assert_eq!(probe.drain(0, 0)?, []);
        // … so the whole budget is left for these.
        probe.tell(&json!(["drain", 0, CAP, 5.0]))?;
        to_port(7_777).send(&net.here)?;
        let heard: Vec<(String, String)> =
            serde_json::from_value(probe.answer()?.map_err(anyhow::Error::msg)?)?;
        let late = probe.drain(0, 0)?;
        assert_eq!((heard.len(), late.len()), (CAP, 0));
        for (_, packet) in &heard {
            assert!(packet.contains("1e61"), "not to port 7777: {packet}");
        }
        let done = probe.end(0)?.finish()?;
        assert_eq!(done.ended("packets")?, u64::try_from(CAP)?);
        assert_eq!(done.reason()?, "packet-cap");
    }
    Ok(())
}

#[test]
fn filter_of_the_tool_narrows_the_grant_only() -> Result<()> {
    let net = Net::new()?;
    let command = [
        "tcpdump",
        "-i",
        "lo",
        "-w",
        "{}/out.pcap",
        "udp port 7777 or udp port 8888",
    ];
    let running = Exec::new(&net.here, "-i lo -c 30 -s 60")
        .option("--filter", "udp port 7777 or udp port 9999")
        .start(command)?;
    running.capturing("lo", 1)?;
    running.record("filter-attached")?;
    for (port, count) in [(8_888, 40), (9_999, 100), (7_777, 50)] {
        let flood = Flood::new(LOOPBACK, b"x", count);
        Flood { port, ..flood }.send(&net.here)?;
    }
    let done = running.finish()?;
    // What the tool does not want is dropped in the kernel, and does not count.
    assert_eq!(done.ended("packets")?, 30);
    assert_eq!(tools::tcpdump_count(&done.file("out.pcap"))?, 30);
    Ok(())
}

#[test]
fn interface_not_granted_fails_at_once() -> Result<()> {
    let net = Net::new()?;
    for (command, limit) in [
        ("tcpdump -w {}/out.pcap -i cw1", 2),
        ("tcpdump --immediate-mode -w {}/out.pcap -i cw1", 2),
        ("dumpcap -q -w {}/out.pcap -i cw1", 2),
        ("tshark -q -w {}/out.pcap -i cw1", 4), // half a second for its helpers alone
    ] {
        let exec = Exec::new(&net.here, "-i cw0 -c 10 -s 60");
        let done = exec
            .start(command.split(' '))?
            .finish_within(Duration::from_secs(limit))
            .with_context(|| command)?;
        let code = done.status.code();
        assert!(code.is_some_and(|code| code > 0), "{command}: {code:?}");
        let said = done.stderr.to_lowercase();
        let says_why = said.contains("permission") || said.contains("not permitted");
        assert!(says_why, "{command}: {said}");
        assert_eq!(done.ended("packets")?, 0);
        let refused = done.record("socket-refused")?.to_string();
        assert!(refused.contains("was not granted"), "{refused}");
    }
    Ok(())
}

/// Packets that an interface has received.
fn received(namespace: &Namespace, interface: &str) -> Result<u64> {
    namespace.enter(|| {
        let counters = std::fs::read_to_string("/proc/thread-self/net/dev")?;
        let line = counters
            .lines()
            .find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))
            .with_context(|| format!("no {interface} in {counters}"))?;
        let packets = line.split_whitespace().nth(1).context("no packets")?;
        Ok(packets.parse()?)
    })
}

#[test]
fn interface_after_a_rebind_hears_nothing_denied() -> Result<()> {
    const COUNT: u32 = 300;
    let net = Net::new()?;
    let (granted, denied) = (net.here.index("cw0")?, net.here.index("cw1")?);
    for kind in [RAW, COOKED] {
        for length in [20, 24, 28, 128] {
            let mut probe = Probe::start(&net.here, "-i cw0 -s 60")?;
            probe.ask(&json!(["open", kind, ALL]))?;
            probe.ask(&json!(["bind", 0, granted, 20]))?;
            Flood::new(CW0, b"granted", 5).send(&net.there)?;
            assert!(!probe.drain(0, 5)?.is_empty());

            // The kernel takes any length from 20 to 128; the agent sees those of 20.
            let rebind = probe.attempt(&json!(["bind", 0, denied, length]))?;
            if length == 20 {
                assert_eq!(rebind, Err("EPERM".to_owned()));
            } else {
                rebind.map_err(anyhow::Error::msg)?;
                probe.running.capturing("cw1", 1)?;
            }
            let before = received(&net.here, "cw1")?;
            Flood::new(CW1, b"denied", COUNT).send(&net.there)?;
            // The first ones wait for an answer of ARP; not all of them fit.
            probe.running.wait_for("packets", || {
                let arrived = received(&net.here, "cw1")? - before;
                Ok((arrived + 50 >= u64::from(COUNT)).then_some(()))
            })?;
            let heard = probe.drain(0, 0)?;
            let denied_heard = heard.iter().any(|(interface, _)| interface == "cw1");
            assert!(!denied_heard, "length {length}: {heard:?}");

            // It is not deaf: bound back, it hears again.
            probe.ask(&json!(["bind", 0, granted, 20]))?;
            Flood::new(CW0, b"granted", 5).send(&net.there)?;
            let heard = probe.drain(0, 5)?;
            assert!(heard.iter().any(|(interface, _)| interface == "cw0"));
            probe.end(0)?.finish()?;
        }
    }
    Ok(())
}

#[test]
fn interface_unbound_hears_granted_only() -> Result<()> {
    let net = Net::new()?;
    for kind in [RAW, COOKED] {
        let mut probe = Probe::start(&net.here, "-i cw0 -s 60")?;
        probe.ask(&json!(["open", kind, ALL]))?;
        Flood::new(CW1, b"denied", 50).send(&net.there)?;
        Flood::new(LOOPBACK, b"denied", 50).send(&net.here)?;
        Flood::new(CW0, b"granted", 50).send(&net.there)?;
        let heard = probe.drain(0, 50)?;
        assert!(heard.len() >= 50);
        for (interface, bytes) in heard {
            assert_eq!(interface, "cw0");
            assert!(!contains(&bytes, b"denied"));
        }
        probe.end(0)?.finish()?;
    }
    Ok(())
}

#[test]
fn deadline_is_not_passed_by_any_packet() -> Result<()> {
    const SECONDS: u64 = 2;
    const SLACK: Duration = Duration::from_millis(5);
    /// How long the sender may have had to wait for a processor.
    const STALL: Duration = Duration::from_millis(200);
    let net = Net::new()?;
    let mut running = Vec::new();
    for tool in [
        "tcpdump -w {}/out.pcap -i lo",
        "tcpdump --immediate-mode -s 96 -B 16384 -w {}/out.pcap -i lo",
        "dumpcap -P -q -w {}/out.pcap -i lo",
        "tcpdump -w {}/out.pcap -i any",
    ] {
        let options = if tool.ends_with("any") {
            "-i any"
        } else {
            "-i lo"
        };
        let started = SystemTime::now();
        let exec = Exec::new(&net.here, options)
            .option("--seconds", &SECONDS.to_string())
            .start(tool.split(' '))?;
        running.push((tool, started, exec));
    }
    for (tool, _, running) in &running {
        running.capturing(tool.rsplit(' ').next().unwrap_or_default(), 1)?;
    }
    let last_sent = Flood::new(LOOPBACK, b"tick", 6_000).send(&net.here)?;
    for (tool, started, running) in running {
        let done = running.finish()?;
        // The deadline counts from the grant, which is made just before this record.
        let opened = time(done.record("session-opened")?)?;
        let deadline = opened + Duration::from_secs(SECONDS);
        assert!(last_sent > deadline + Duration::from_millis(100));
        let packets = tools::packets(&done.file("out.pcap"))?;
        let last = packets.last().context("no packets")?.time;
        assert!(last <= deadline + SLACK, "{tool}: {last:?} > {deadline:?}");
        // It is the deadline that stopped them, not something before it.
        let soonest = started + Duration::from_secs(SECONDS);
        assert!(last + STALL >= soonest, "{tool}: {last:?} < {soonest:?}");
        assert_eq!(
            done.ended("packets")?,
            u64::try_from(packets.len())?,
            "{tool}"
        );
        assert_eq!(done.reason()?, "deadline", "{tool}");
        let early = deadline.duration_since(last).unwrap_or_default();
        eprintln!(
            "{tool}: the last packet came {early:?} before the time of the record and {SECONDS} s"
        );
    }
    Ok(())
}

#[test]
fn deadline_without_packets_ends_the_session() -> Result<()> {
    let net = Net::new()?;
    let command = "tcpdump -w {}/out.pcap -i lo";
    let running = Exec::new(&net.here, "-i lo -s 1").start(command.split(' '))?;
    running.capturing("lo", 1)?;
    let done = running.finish_within(Duration::from_secs(6))?;
    assert_eq!(done.reason()?, "deadline");
    assert_eq!(done.ended("packets")?, 0);
    assert_eq!(tools::tcpdump_count(&done.file("out.pcap"))?, 0);
    Ok(())
}
