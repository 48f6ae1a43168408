//! The filter that a governed process attaches itself: it runs in the kernel, in front of the grant,
//! and can only take packets away.

use std::{collections::BTreeMap, net::Ipv4Addr, process::Command};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{Exec, Finished, capwarden, number, text, venv_python, workplace},
    netns::{Namespace, Net},
    tools::{self, PYTHON, Probe},
    traffic::Flood,
};
use serde_json::{Value, json};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const RAW: u8 = 3;
const COOKED: u8 = 2;
const ALL: u16 = 3;
const PAYLOAD: &[u8] = &[b'x'; 50];
/// Ethernet, IPv4, UDP and [`PAYLOAD`].
const FRAME: usize = 14 + 20 + 8 + 50;

const A: u16 = 7_001;
const B: u16 = 7_002;
const C: u16 = 7_003;

fn send(namespace: &Namespace, ports: &[u16], each: u32) -> Result<()> {
    for port in ports {
        let port = *port;
        let flood = Flood::new(LOOPBACK, PAYLOAD, each);
        Flood { port, ..flood }.send(namespace)?;
    }
    Ok(())
}

/// Unfragmented UDP over IPv4 to a port, this many bytes of each packet. For a socket of this kind.
fn to_port(kind: u8, port: u16, length: u32) -> Value {
    const PROTOCOL: u32 = 0xffff_f000; // as the kernel knows it, beside the bytes
    let (protocol, at) = if kind == RAW { (12, 14) } else { (PROTOCOL, 0) };
    json!([
        [0x28, 0, 0, protocol],
        [0x15, 0, 8, 0x800],
        [0x30, 0, 0, at + 9],
        [0x15, 0, 6, 17],
        [0x28, 0, 0, at + 6],
        [0x45, 4, 0, 0x1fff],
        [0xb1, 0, 0, at],
        [0x48, 0, 0, at + 2],
        [0x15, 0, 1, port],
        [0x06, 0, 0, length],
        [0x06, 0, 0, 0],
    ])
}

const WHOLE: u32 = u32::MAX;

/// The ports that the packets of a socket were sent to, after one to each of A, B and C.
fn heard(
    probe: &mut Probe<'_>,
    namespace: &Namespace,
    socket: usize,
    count: usize,
) -> Result<Vec<u16>> {
    send(namespace, &[A, B, C], 1)?;
    let packets = probe.drain(socket, count)?;
    let port = |bytes: &[u8]| {
        let port = bytes.get(36..38).and_then(|port| port.try_into().ok());
        Ok(u16::from_be_bytes(port.context("too short")?))
    };
    packets.iter().map(|(_, bytes)| port(bytes)).collect()
}

/// Every own filter in the record, by how it relates to what was asked.
fn attached(done: &Finished) -> Result<Vec<(&str, &Value)>> {
    let own = done
        .records
        .iter()
        .filter(|record| record.get("kind").and_then(Value::as_str) == Some("filter-attached"));
    own.map(|record| Ok((text(record, "relation")?, record)))
        .collect()
}

fn shown(done: &Finished) -> Result<String> {
    let shown = Command::new(capwarden()?)
        .args(["audit", "show", "--kind", "filter-attached"])
        .arg(done.file("audit.jsonl"))
        .output()?;
    Ok(String::from_utf8(shown.stdout)?)
}

fn granted_two() -> String {
    format!("udp port {A} or udp port {B}")
}

fn two_ports(net: &Net) -> Result<Probe<'_>> {
    Probe::start_filtered(&net.here, "-i lo -s 60", &granted_two())
}

#[test]
fn raw_socket_gets_the_intersection_whatever_it_attaches() -> Result<()> {
    let net = Net::new()?;
    let mut probe = two_ports(&net)?;
    probe.ask(&json!(["open", RAW, ALL]))?;
    assert_eq!(heard(&mut probe, &net.here, 0, 2)?, [A, B]);
    for (what, program, expected) in [
        ("narrower", to_port(RAW, A, WHOLE), vec![A]),
        ("replaced", to_port(RAW, B, WHOLE), vec![B]),
        ("wider", json!([[6, 0, 0, WHOLE]]), vec![A, B]),
        ("nothing", json!([[6, 0, 0, 0]]), vec![]),
        ("disjoint", to_port(RAW, C, WHOLE), vec![]),
    ] {
        probe.ask(&json!(["attach", 0, program]))?;
        let count = expected.len();
        assert_eq!(heard(&mut probe, &net.here, 0, count)?, expected, "{what}");
    }
    probe.ask(&json!(["detach", 0]))?;
    assert_eq!(heard(&mut probe, &net.here, 0, 2)?, [A, B]);
    let again = probe.attempt(&json!(["detach", 0]))?;
    assert_eq!(again, Err("ENOENT".to_owned()));

    // The length that it returns is its snap length.
    probe.ask(&json!(["attach", 0, to_port(RAW, A, 60)]))?;
    send(&net.here, &[A, B], 1)?;
    let packets = probe.drain(0, 1)?;
    assert_eq!(
        packets
            .iter()
            .map(|(_, bytes)| bytes.len())
            .collect::<Vec<_>>(),
        [60]
    );

    let done = probe.end(0)?.finish()?;
    let relations: Vec<&str> = attached(&done)?
        .iter()
        .map(|(relation, _)| *relation)
        .collect();
    // `ret #0` makes deaf for a moment, and is not recorded.
    assert_eq!(
        relations,
        ["narrower", "narrower", "wider", "different", "narrower"]
    );
    Ok(())
}

#[test]
fn sockets_of_one_session_have_filters_of_their_own() -> Result<()> {
    let net = Net::new()?;
    let mut probe = two_ports(&net)?;
    for (socket, kind) in [RAW, RAW, COOKED, RAW].into_iter().enumerate() {
        assert_eq!(probe.ask(&json!(["open", kind, ALL]))?, json!(socket));
    }
    probe.ask(&json!(["attach", 0, to_port(RAW, A, WHOLE)]))?;
    probe.ask(&json!(["attach", 1, to_port(RAW, B, WHOLE)]))?;
    probe.ask(&json!(["attach", 2, to_port(COOKED, B, WHOLE)]))?;
    assert_eq!(heard(&mut probe, &net.here, 0, 1)?, [A]);
    assert_eq!(probe.drain(1, 1)?.len(), 1);
    let cooked = probe.drain(2, 1)?;
    assert_eq!(cooked.len(), 1);
    assert_eq!(
        cooked.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(),
        FRAME - 14
    );
    assert_eq!(probe.drain(3, 2)?.len(), 2, "it attached nothing");
    let done = probe.end(0)?.finish()?;
    assert_eq!(done.ended("packets")?, 5);
    assert_eq!(attached(&done)?.len(), 3);
    Ok(())
}

#[test]
fn cap_is_exact_with_an_own_filter() -> Result<()> {
    const CAP: usize = 50;
    let net = Net::new()?;
    // Plain reads, and a TPACKET_V1 ring.
    for ring in [false, true] {
        let mut probe = Probe::start(&net.here, &format!("-i lo -c {CAP} -s 60"))?;
        probe.ask(&json!(["open", RAW, ALL]))?;
        if ring {
            probe.ask(&json!(["ring", 0]))?;
        }
        probe.ask(&json!(["attach", 0, to_port(RAW, A, 70)]))?;
        send(&net.here, &[B, A, C, A], 40)?;
        let lengths: Vec<usize> = if ring {
            let filled = probe.ask(&json!(["filled", 0, CAP, 5.0]))?;
            serde_json::from_value(filled)?
        } else {
            let packets = probe.drain(0, CAP)?;
            packets.iter().map(|(_, bytes)| bytes.len()).collect()
        };
        assert_eq!(lengths, [70; CAP], "ring: {ring}");
        let done = probe.end(0)?.finish()?;
        let cap = u64::try_from(CAP)?;
        assert_eq!(done.ended("packets")?, cap);
        assert_eq!(done.ended("bytes")?, cap * 70);
        assert_eq!(done.reason()?, "packet-cap");
    }
    Ok(())
}

#[test]
fn agent_killed_the_grant_alone_counts() -> Result<()> {
    let net = Net::new()?;
    let mut probe = two_ports(&net)?;
    probe.ask(&json!(["open", RAW, ALL]))?;
    let pids = probe.running.capturing("any", 1)?;
    probe.ask(&json!(["attach", 0, to_port(RAW, A, WHOLE)]))?;
    assert_eq!(heard(&mut probe, &net.here, 0, 1)?, [A]);
    probe.running.kill_agent()?;
    // The kernel empties the slot a moment later. In between, packets may be lost; none is added.
    let mut last = Vec::new();
    for _ in 0..100 {
        last = heard(&mut probe, &net.here, 0, 0)?;
        let allowed: [&[u16]; 3] = [&[], &[A], &[A, B]];
        ensure!(allowed.contains(&&*last), "{last:?}");
        if last.len() == 2 {
            break;
        }
    }
    assert_eq!(last, [A, B]);
    let again = probe.attempt(&json!(["attach", 0, to_port(RAW, C, WHOLE)]))?;
    assert_eq!(again, Err("ENOSYS".to_owned()));
    assert_eq!(heard(&mut probe, &net.here, 0, 2)?, [A, B]);
    probe.end(0)?.clear_away(&pids)?;
    Ok(())
}

fn words(command: &str) -> Vec<String> {
    command.split(' ').map(str::to_owned).collect()
}

#[test]
fn tools_filter_in_the_kernel() -> Result<()> {
    const COUNT: u32 = 100;
    let net = Net::new()?;
    let filter = format!("udp port {A}");
    let with = |command: &str, filter: &str| {
        let mut command = words(command);
        command.push(filter.to_owned());
        command
    };
    let python = venv_python()?.display().to_string();
    // Nobody ends these tools but the cap: what they filter by themselves would reach it first.
    let options = format!("-c {COUNT}");
    let mut captures = Vec::new();
    for command in [
        // TPACKET_V3, TPACKET_V2, TPACKET_V3, recv
        with("tcpdump -w {}/out.pcap -i lo", &filter),
        with(
            "tcpdump --immediate-mode -s 96 -w {}/out.pcap -i lo",
            &filter,
        ),
        with("dumpcap -q -w {}/out.pcap -i lo -f", &filter),
        with(&format!("{python} {{}}/sniff.py lo {{}}/out.pcap"), &filter),
    ] {
        let place = workplace()?;
        tools::script("sniff.py", place.path())?;
        let exec = Exec::new(&net.here, &format!("-i lo -s 60 {options}"));
        captures.push((exec.start_in(place, &command)?, command));
    }
    for (running, _) in &captures {
        running.capturing("lo", 1)?;
        running.record("filter-attached")?;
    }
    send(&net.here, &[B, C, A], COUNT)?;
    for (running, command) in captures {
        let done = running.finish().with_context(|| command.join(" "))?;
        assert_eq!(done.ended("packets")?, u64::from(COUNT), "{command:?}");
        assert_eq!(done.reason()?, "packet-cap", "{command:?}");
        let written = tools::capinfos_count(&done.file("out.pcap"))?;
        assert_eq!(written, u64::from(COUNT), "{command:?}");
        assert!(!done.stderr.contains("Warning"), "{}", done.stderr);
        if command.first().is_some_and(|tool| tool == "tcpdump") {
            let said = format!("\n{COUNT} packets received by filter");
            assert!(done.stderr.contains(&said), "{}", done.stderr);
        }
        for (relation, record) in attached(&done)? {
            assert_eq!(relation, "narrower", "{record}");
        }
    }
    Ok(())
}

#[test]
fn filter_that_was_asked_for_is_no_news() -> Result<()> {
    let net = Net::new()?;
    let filter = granted_two();
    let mut captures = Vec::new();
    for (own, relation, phrase) in [
        (filter.as_str(), "same", "the same packets as asked"),
        ("udp", "wider", "more packets than asked, as UDP "),
        (
            "udp port 7002",
            "narrower",
            "fewer packets than asked, not UDP ",
        ),
        (
            "udp port 7002 or tcp",
            "different",
            "other packets than asked: not UDP ",
        ),
    ] {
        for tool in [
            "tcpdump -w {}/out.pcap -i lo",
            "dumpcap -q -w {}/out.pcap -i lo -f",
        ] {
            let mut command = words(tool);
            command.push(own.to_owned());
            let exec = Exec::new(&net.here, "-i lo -s 60 -c 1").option("--filter", &filter);
            captures.push((exec.start(command)?, relation, phrase));
        }
    }
    for (running, ..) in &captures {
        running.capturing("lo", 1)?;
        running.record("filter-attached")?;
    }
    send(&net.here, &[C, B], 1)?;
    for (running, relation, phrase) in captures {
        let done = running.finish()?;
        for (found, record) in attached(&done)? {
            assert_eq!(found, relation, "{record}");
            assert!(number(record, "instructions")? > 5);
        }
        let shown = shown(&done)?;
        assert!(shown.contains(phrase), "{shown}");
    }
    Ok(())
}

#[test]
fn garbage_gets_the_kernels_errors() -> Result<()> {
    let net = Net::new()?;
    let place = workplace()?;
    let script = tools::script("attach.py", place.path())?;
    for kind in ["packet", "udp"] {
        let kernels = net.here.command(PYTHON).arg(&script).arg(kind).output()?;
        let kernels: BTreeMap<String, String> = serde_json::from_slice(&kernels.stdout)?;
        ensure!(kernels.len() > 200);

        let place = workplace()?;
        tools::script("attach.py", place.path())?;
        let command = [PYTHON, "{}/attach.py", kind];
        let done = Exec::new(&net.here, "-i lo -s 60")
            .start_in(place, command)?
            .finish()?;
        let ours: BTreeMap<String, String> = serde_json::from_str(&done.stdout)?;
        for (what, error) in &kernels {
            // A number that means nothing is read by the kernel before a filter is taken off; capwarden waits for no
            // caller's memory there.
            if kind == "packet" && what.starts_with("detach, ") && error == "EFAULT" {
                assert!(ours.contains_key(what), "{what}");
                continue;
            }
            assert_eq!(ours.get(what), Some(error), "{kind}: {what}");
        }
        assert_eq!(ours.len(), kernels.len());
        let sockets = u64::from(kind == "packet");
        assert_eq!(done.ended("sockets")?, sockets);
    }
    Ok(())
}

#[test]
fn filter_without_a_verdict_of_its_own_is_left_to_the_tool() -> Result<()> {
    let net = Net::new()?;
    let mut probe = two_ports(&net)?;
    probe.ask(&json!(["open", RAW, ALL]))?;
    probe.ask(&json!(["attach", 0, to_port(RAW, A, WHOLE)]))?;
    // random, cpu, nlattr, pay_offset
    for ancillary in [56_u32, 36, 12, 52] {
        let program = json!([[0x20, 0, 0, 0xffff_f000 + ancillary], [0x16, 0, 0, 0]]);
        let answer = probe.attempt(&json!(["attach", 0, program]))?;
        assert_eq!(answer, Err("ENOPROTOOPT".to_owned()), "{ancillary}");
    }
    assert_eq!(
        heard(&mut probe, &net.here, 0, 1)?,
        [A],
        "the one before is still there"
    );
    probe.end(0)?.finish()?;
    Ok(())
}

#[test]
fn other_ways_to_a_filter_are_closed() -> Result<()> {
    const SOL_SOCKET: u8 = 1;
    let net = Net::new()?;
    let mut probe = two_ports(&net)?;
    probe.ask(&json!(["open", RAW, ALL]))?;
    // SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF, SO_DETACH_REUSEPORT_BPF
    for option in [50, 51, 52, 68] {
        let answer = probe.attempt(&json!(["setsockopt", 0, SOL_SOCKET, option, 0]))?;
        assert!(answer.is_err(), "{option}: {answer:?}");
    }
    // SO_LOCK_FILTER: once set, it stays.
    let unlock = probe.attempt(&json!(["setsockopt", 0, SOL_SOCKET, 44, 0]))?;
    assert_eq!(unlock, Err("EPERM".to_owned()));
    assert_eq!(heard(&mut probe, &net.here, 0, 2)?, [A, B]);
    probe.end(0)?.finish()?;
    Ok(())
}

#[test]
fn filters_without_end_are_refused() -> Result<()> {
    let net = Net::new()?;
    let mut probe = two_ports(&net)?;
    probe.ask(&json!(["open", RAW, ALL]))?;
    let program = to_port(RAW, A, WHOLE);
    let answer = probe.ask(&json!(["attach_many", 0, program, 400]))?;
    let answers = answer.get(0).context("no answers")?;
    assert_eq!(answers, &json!({ "ok": 256, "ENOPROTOOPT": 144 }));
    assert_eq!(
        heard(&mut probe, &net.here, 0, 1)?,
        [A],
        "the last one stays"
    );
    probe.ask(&json!(["detach", 0]))?;
    assert_eq!(heard(&mut probe, &net.here, 0, 2)?, [A, B]);
    let done = probe.end(0)?.finish()?;
    assert_eq!(attached(&done)?.len(), 256);
    let refused = |record: &&Value| text(record, "kind").is_ok_and(|kind| kind == "socket-refused");
    // The first five one by one, the others counted.
    let refused: Vec<&Value> = done.records.iter().filter(refused).collect();
    let times = |record: &&Value| record.get("times").map_or(Some(1), Value::as_u64);
    assert_eq!(refused.len(), 6, "{refused:?}");
    assert_eq!(refused.iter().filter_map(times).sum::<u64>(), 144);
    Ok(())
}

#[test]
fn filter_that_takes_the_verifier_long_is_bounded() -> Result<()> {
    let net = Net::new()?;
    let mut probe = two_ports(&net)?;
    probe.ask(&json!(["open", RAW, ALL]))?;
    // Loads, branches that come together again, and sums that differ by the way taken.
    let mut program = Vec::new();
    for _ in 0..800 {
        program.extend([
            json!([0x30, 0, 0, 20]),
            json!([0x15, 0, 1, 7]),
            json!([0x87, 0, 0, 0]),
            json!([0x0c, 0, 0, 0]),
            json!([0x07, 0, 0, 0]),
        ]);
    }
    program.push(json!([0x16, 0, 0, 0]));
    let answer = probe.ask(&json!(["attach_many", 0, program, 200]))?;
    let milliseconds = answer.get(1).and_then(Value::as_f64).context("no time")?;
    // Five seconds of work, the last filter's excess, and all the refusals.
    assert!(milliseconds < 9_000.0, "{answer}");
    assert!(answer.pointer("/0/ok").is_some(), "{answer}");
    // The agent still answers others, and the grant still holds.
    assert_eq!(probe.ask(&json!(["open", RAW, ALL]))?, json!(1));
    assert_eq!(heard(&mut probe, &net.here, 1, 2)?, [A, B]);
    probe.end(0)?.finish()?;
    Ok(())
}
