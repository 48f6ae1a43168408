//! The packet cap is exact: with unmodified tools, for each way in which Linux delivers packets to
//! a capture socket, on loopback, on veth, on all interfaces at once.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{Exec, Finished, Running, venv_python, workplace},
    netns::{CW0, Namespace, Net},
    tools::{self, Probe},
    traffic::Flood,
};
use serde_json::json;

const LOOPBACK: std::net::Ipv4Addr = std::net::Ipv4Addr::LOCALHOST;
const PAYLOAD: &[u8] = &[b'x'; 50];

/// A tool, and how it reads packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    /// `TPACKET_V3`
    Tcpdump,
    /// `TPACKET_V2`. Its frames have one size, so a short snapshot makes room for more of them.
    TcpdumpImmediate,
    /// `TPACKET_V3`
    Dumpcap,
    /// `dumpcap`, as its child
    Tshark,
    /// `recvmsg`
    Scapy,
}

impl Tool {
    fn command(self, interface: &str) -> Result<Vec<String>> {
        let words = match self {
            Self::Tcpdump => "tcpdump -B 8192 -w {}/out.pcap -i",
            Self::TcpdumpImmediate => "tcpdump --immediate-mode -s 96 -B 32768 -w {}/out.pcap -i",
            Self::Dumpcap => "dumpcap -q -B 16 -w {}/out.pcap -i",
            Self::Tshark => "tshark -q -B 16 -w {}/out.pcap -i",
            Self::Scapy => {
                let python = venv_python()?.display().to_string();
                let words = [&python, "{}/sniff.py", interface, "{}/out.pcap"];
                return Ok(words.map(str::to_owned).to_vec());
            }
        };
        let words = words.split(' ').chain([interface]);
        Ok(words.map(str::to_owned).collect())
    }

    /// How many packets it wrote, by its own account and by the file's.
    fn count(self, done: &Finished) -> Result<u64> {
        let file = done.file("out.pcap");
        let said = &done.stderr;
        let (count, nothing_lost) = match self {
            Self::Tcpdump | Self::TcpdumpImmediate => (
                tools::tcpdump_count(&file)?,
                said.contains("\n0 packets dropped by kernel"),
            ),
            Self::Dumpcap => (
                tools::capinfos_count(&file)?,
                said.contains("/0 (pcap:0/dumpcap:0/flushed:0/ps_ifdrop:0)"),
            ),
            Self::Tshark => (tools::tshark_count(&file)?, !said.contains("dropped")),
            Self::Scapy => (tools::capinfos_count(&file)?, true),
        };
        ensure!(nothing_lost, "{self:?} lost packets: {said}");
        Ok(count)
    }
}

/// One capture of many that are watched at once, each with a session of its own.
struct Capture<'a> {
    tool: Tool,
    cap: u64,
    running: Running<'a>,
}

impl<'a> Capture<'a> {
    fn start(namespace: &'a Namespace, interface: &str, tool: Tool, cap: u64) -> Result<Self> {
        let place = workplace()?;
        if tool == Tool::Scapy {
            tools::script("sniff.py", place.path())?;
        }
        let options = format!("--interface {interface} --packets {cap} --seconds 60");
        let running = Exec::new(namespace, &options).start_in(place, tool.command(interface)?)?;
        Ok(Self { tool, cap, running })
    }

    fn check(self) -> Result<()> {
        let Self { tool, cap, running } = self;
        let done = running.finish()?;
        let context = || format!("{tool:?}, {cap} packets: {}", done.stderr);
        let written = tool.count(&done).with_context(context)?;
        ensure!(written == cap, "{written} written; {}", context());
        ensure!(done.ended("packets")? == cap, context());
        ensure!(done.reason()? == "packet-cap", context());
        ensure!(done.status.success(), "{}; {}", done.status, context());
        Ok(())
    }
}

/// Each tool with each cap on one interface, and `flood` for all of them.
fn assert_exact(
    namespace: &Namespace,
    interface: &str,
    tools: &[Tool],
    caps: &[u64],
    flood: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    let mut captures = Vec::new();
    for tool in tools {
        for cap in caps {
            captures.push(Capture::start(namespace, interface, *tool, *cap)?);
        }
    }
    for capture in &captures {
        capture
            .running
            .capturing(interface, 1)
            .with_context(|| format!("{:?}", capture.tool))?;
    }
    let armed = start.elapsed();
    flood()?;
    let flooded = start.elapsed();
    for capture in captures {
        capture.check()?;
    }
    eprintln!(
        "{interface}: {tools:?} × {caps:?}: all live after {armed:.1?}, flooded after {flooded:.1?}, checked after {:.1?}",
        start.elapsed()
    );
    Ok(())
}

const UNMODIFIED: [Tool; 4] = [
    Tool::Tcpdump,
    Tool::TcpdumpImmediate,
    Tool::Dumpcap,
    Tool::Tshark,
];
const CAPS: [u64; 3] = [1, 7, 1_000];

#[test]
fn packet_cap_on_loopback_exact() -> Result<()> {
    let net = Net::new()?;
    assert_exact(&net.here, "lo", &UNMODIFIED, &CAPS, || {
        Flood::new(LOOPBACK, PAYLOAD, 3_000).send(&net.here)?;
        Ok(())
    })
}

#[test]
fn packet_cap_on_veth_exact() -> Result<()> {
    let net = Net::new()?;
    assert_exact(&net.here, "cw0", &UNMODIFIED, &CAPS, || {
        Flood::new(CW0, PAYLOAD, 3_000).send(&net.there)?;
        Ok(())
    })
}

#[test]
fn packet_cap_on_any_exact() -> Result<()> {
    let net = Net::new()?;
    assert_exact(&net.here, "any", &UNMODIFIED, &CAPS, || {
        Flood::new(CW0, PAYLOAD, 600).send(&net.there)?;
        Flood::new(LOOPBACK, PAYLOAD, 2_000).send(&net.here)?;
        Ok(())
    })
}

#[test]
fn packet_cap_with_scapy_exact() -> Result<()> {
    let net = Net::new()?;
    for interface in ["lo", "cw0"] {
        assert_exact(&net.here, interface, &[Tool::Scapy], &CAPS, || {
            let (to, from) = match interface {
                "lo" => (LOOPBACK, &net.here),
                _ => (CW0, &net.there),
            };
            let mut flood = Flood::new(to, PAYLOAD, 2_100);
            flood.rate = 1_000; // scapy takes its time for each packet
            flood.send(from)?;
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn packet_cap_of_a_hundred_thousand_exact() -> Result<()> {
    let net = Net::new()?;
    let many = |to| Flood {
        rate: 30_000,
        ..Flood::new(to, PAYLOAD, 210_000)
    };
    let tools = [Tool::Tcpdump, Tool::TcpdumpImmediate, Tool::Dumpcap];
    assert_exact(&net.here, "lo", &tools, &[100_000], || {
        many(LOOPBACK).send(&net.here)?;
        Ok(())
    })?;
    assert_exact(&net.here, "any", &tools, &[100_000], || {
        many(CW0).send(&net.there)?;
        Ok(())
    })
}

#[test]
fn packet_cap_shared_by_two_sockets_exact_in_sum() -> Result<()> {
    const TWO: &str = "tcpdump -i IF -w one.pcap 2>one.err & \
                       tcpdump -i IF --immediate-mode -s 96 -B 8192 -w two.pcap 2>two.err & wait";
    let net = Net::new()?;
    for (interface, to, from) in [("lo", LOOPBACK, &net.here), ("any", CW0, &net.there)] {
        for cap in CAPS {
            let options = format!("-i {interface} -c {cap} -s 60");
            let running = Exec::new(&net.here, &options).start([
                "sh",
                "-c",
                &TWO.replace("IF", interface),
            ])?;
            running.capturing(interface, 2)?;
            Flood::new(to, PAYLOAD, 2_500).send(from)?;
            let done = running.finish()?;
            let count = |name| tools::tcpdump_count(&done.file(name));
            let (one, two) = (count("one.pcap")?, count("two.pcap")?);
            assert_eq!(one + two, cap, "{one} + {two} on {interface}");
            assert_eq!(done.ended("packets")?, cap);
            assert_eq!(done.ended("sockets")?, 2);
            assert_eq!(done.reason()?, "packet-cap");
            if cap > 1 {
                assert!(one > 0 && two > 0, "{one} + {two}: only one of them heard");
            }
        }
    }
    Ok(())
}

/// More than twice as many, sent within a second of the cap: then the agent ends who captured.
fn twice(cap: u64) -> Result<u32> {
    Ok(u32::try_from(cap)? * 2 + 100)
}

#[test]
fn packet_cap_in_a_version_1_ring_exact() -> Result<()> {
    let net = Net::new()?;
    for (interface, to, from) in [("lo", LOOPBACK, &net.here), ("cw0", CW0, &net.there)] {
        let index = net.here.index(interface)?;
        for cap in CAPS {
            let options = format!("-i {interface} -c {cap} -s 60");
            let mut probe = Probe::start(&net.here, &options)?;
            probe.ask(&json!(["open", 3, 0]))?;
            probe.ask(&json!(["ring", 0]))?;
            probe.ask(&json!(["bind", 0, index, 20]))?;
            probe.running.capturing(interface, 1)?;
            Flood::new(to, PAYLOAD, twice(cap)?).send(from)?;
            let frames = probe.ask(&json!(["filled", 0, cap, 5.0]))?;
            let frames = frames.as_array().context("no list")?.len();
            assert_eq!(u64::try_from(frames)?, cap, "on {interface}");
            let done = probe.end(0)?.finish()?;
            assert_eq!(done.ended("packets")?, cap);
            assert_eq!(done.reason()?, "packet-cap");
        }
    }
    Ok(())
}

#[test]
fn packet_cap_with_plain_recv_exact() -> Result<()> {
    const RAW: u8 = 3;
    const COOKED: u8 = 2;
    const ALL: u16 = 3;
    let net = Net::new()?;
    for kind in [RAW, COOKED] {
        for cap in CAPS {
            let mut probe = Probe::start(&net.here, &format!("-i lo -c {cap} -s 60"))?;
            // Live from birth, on all interfaces.
            probe.ask(&json!(["open", kind, ALL]))?;
            probe.running.capturing("any", 1)?;
            probe.tell(&json!(["drain", 0, cap, 5.0]))?;
            Flood::new(LOOPBACK, PAYLOAD, twice(cap)?).send(&net.here)?;
            let heard = probe.answer()?.map_err(anyhow::Error::msg)?;
            let heard = heard.as_array().context("no list")?.len();
            let late = probe.drain(0, 0)?;
            assert_eq!(probe.ask(&json!(["lost", 0]))?, json!(0));
            assert_eq!((u64::try_from(heard)?, late.len()), (cap, 0));
            let done = probe.end(0)?.finish()?;
            assert_eq!(done.ended("packets")?, cap);
            assert_eq!(done.reason()?, "packet-cap");
        }
    }
    Ok(())
}

#[test]
fn packet_cap_is_spent_by_one_tree_only() -> Result<()> {
    // Two sessions side by side: each has its own budget.
    let net = Net::new()?;
    let capture = |cap| Capture::start(&net.here, "lo", Tool::Tcpdump, cap);
    let (first, second) = (capture(5)?, capture(500)?);
    for capture in [&first, &second] {
        capture.running.capturing("lo", 1)?;
    }
    Flood::new(LOOPBACK, PAYLOAD, 1_100).send(&net.here)?;
    first.check()?;
    second.check()
}

#[test]
fn socket_of_a_tool_without_session_refused() -> Result<()> {
    // When the session has ended, its tree gets no other capture socket.
    let net = Net::new()?;
    let mut probe = Probe::start(&net.here, "-i lo -c 1 -s 60")?;
    probe.ask(&json!(["open", 3, 3]))?;
    Flood::new(LOOPBACK, PAYLOAD, 10).send(&net.here)?;
    assert_eq!(probe.drain(0, 1)?.len(), 1);
    let again = probe.attempt(&json!(["open", 3, 3]))?;
    assert_eq!(again, Err("EPERM".to_owned()));
    let done = probe.end(0)?.finish()?;
    assert_eq!(done.ended("packets")?, 1);
    done.record("socket-refused")?;
    Ok(())
}
