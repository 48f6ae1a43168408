//! What the guard costs per packet, against the kernel's own classic filter of the same expression.
//!
//! Classic programs cannot be run by themselves, so both run where they live: on packet sockets.
//! A frame that is sent on a device is shown to every packet socket bound to that device, by the
//! sending thread itself; with [`SOCKETS`] of them the filters outweigh the sending. There are
//! three kinds of such sockets, each kind on a device of its own, so that nothing has to be opened
//! or closed between samples:
//! - bare: one instruction, `ret #0` or `ret #-1`: what everything but a filter costs;
//! - plain: the expression as tcpdump would attach it (libpcap, optimised);
//! - guarded: a session's guard with the expression, through the arming sequence.
//!
//! A filter alone costs what its kind takes longer than bare, per packet and socket. So that an accepted
//! packet costs no more than its filter, the receive buffers are full: packets are dropped right
//! behind the filter. *Delivered* is the whole way instead: accepted, copied, queued for the
//! reader, less only the sending (to a device without sockets).
//!
//! Samples are taken by turns, on one processor.

use std::{
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, ensure};
use capwarden::{
    filter::{Compiler, EbpfInsn, Insn, LinkType, Origin, see_vlan_tags, translate},
    kernel::{ArmedSocket, BootTime, Guard, GuardPlan, SocketCall, arm},
};
use capwarden_abi::{LINK_ETHERNET, PAYLOAD_FULL, Terms};
use rustix::{
    net::{RecvFlags, recv, sockopt},
    thread::{CpuSet, sched_setaffinity},
};

use crate::{
    Bench,
    measure::{Measurement, Target, Unit},
    net, sys,
};

/// Each has a program of its own, plain or guarded, so that more of them would measure how often a
/// processor's caches are emptied: a host has a few capture sockets, not dozens.
const SOCKETS: usize = 8;
/// Packets that are sent before the next kind has its turn.
const PACKETS: usize = 256;
/// Turns of each kind in one sample, which is their median: interruptions are shorter than that.
const TURNS: usize = 15;
const SAMPLES: usize = 15;

/// An expression, with a packet that it accepts and one that it looks at for as long but rejects.
struct Case {
    name: &'static str,
    expression: String,
    /// Whether the session ends by the clock, which is then read for every accepted packet.
    has_deadline: bool,
    /// Whether the kernel takes a classic filter of it at all: libpcap makes some 30,000
    /// instructions of a thousand hosts, and the kernel takes 4,096.
    has_plain: bool,
    accepted: Vec<u8>,
    rejected: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let hosts: Vec<String> = (1..=20).map(|n| format!("host 10.0.1.{n}")).collect();
    vec![
        Case {
            name: "tcp port and host",
            expression: "tcp port 80 and host 10.0.0.1".into(),
            has_deadline: true,
            has_plain: true,
            accepted: tcp(a, b, 80),
            rejected: tcp([10, 0, 0, 3], b, 80),
        },
        Case {
            name: "net and not port",
            expression: "net 10.0.0.0/8 and not port 22".into(),
            has_deadline: true,
            has_plain: true,
            accepted: tcp(a, b, 80),
            rejected: tcp(a, b, 22),
        },
        Case {
            name: "net and not port, no deadline",
            expression: "net 10.0.0.0/8 and not port 22".into(),
            has_deadline: false,
            has_plain: true,
            accepted: tcp(a, b, 80),
            rejected: tcp(a, b, 22),
        },
        Case {
            name: "20 hosts",
            expression: hosts.join(" or "),
            has_deadline: true,
            has_plain: true,
            accepted: tcp(a, [10, 0, 1, 20], 80),
            rejected: tcp(a, b, 80),
        },
        Case {
            name: "100 hosts",
            expression: scattered_hosts(100),
            has_deadline: true,
            has_plain: true,
            accepted: tcp(a, scattered(99), 80),
            rejected: tcp(a, b, 80),
        },
        Case {
            name: "1,000 hosts",
            expression: scattered_hosts(1000),
            has_deadline: true,
            has_plain: false,
            accepted: tcp(a, scattered(999), 80),
            rejected: tcp(a, b, 80),
        },
    ]
}

/// One of many addresses, none next to another.
fn scattered(number: u32) -> [u8; 4] {
    (0x0a01_0000 + 977 * number).to_be_bytes()
}

pub(crate) fn scattered_hosts(count: u32) -> String {
    let hosts = (0..count).map(|number| format!("host {}", Ipv4Addr::from(scattered(number))));
    hosts.collect::<Vec<_>>().join(" or ")
}

impl Case {
    fn row(&self, what: &str, plain: Vec<f64>, guarded: Vec<f64>) -> Measurement {
        let (plain, target) = if self.has_plain {
            (plain, Target::Ratio(1.5))
        } else {
            (Vec::new(), Target::None)
        };
        Measurement {
            what: format!("{what}: {}", self.name),
            unit: Unit::Time,
            plain,
            guarded,
            target,
        }
    }
}

/// A TCP segment of 100 bytes in an Ethernet frame.
fn tcp(from: [u8; 4], to: [u8; 4], port: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend([0x45, 0, 0, 100, 0, 0, 0, 0, 64, 6, 0, 0]);
    frame.extend(from);
    frame.extend(to);
    frame.extend(40_000_u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    frame.resize(114, 0x61);
    frame
}

/// A datagram of 100 bytes in an Ethernet frame.
pub(crate) fn udp(port: u16) -> Vec<u8> {
    let mut frame = tcp([10, 0, 0, 1], [10, 0, 0, 2], port);
    if let Some(protocol) = frame.get_mut(23) {
        *protocol = 17;
    }
    frame
}

/// The filter as a capture tool would attach it.
fn classic(expression: &str) -> Result<Vec<Insn>> {
    let listing = Command::new("tcpdump")
        .args(["-y", "EN10MB", "-ddd", expression])
        .output()
        .context("cannot run tcpdump")?;
    let listing = String::from_utf8(listing.stdout)?;
    let insn = |line: &str| {
        let mut numbers = line.split(' ');
        Some(Insn::new(
            numbers.next()?.parse().ok()?,
            numbers.next()?.parse().ok()?,
            numbers.next()?.parse().ok()?,
            numbers.next()?.parse().ok()?,
        ))
    };
    let insns: Option<Vec<_>> = listing.lines().skip(1).map(insn).collect();
    insns
        .filter(|insns| !insns.is_empty())
        .ok_or_else(|| anyhow!("tcpdump compiles no filter: {listing}"))
}

/// The filter as a session's guard begins with it.
fn translated(compiler: &Compiler, expression: &str) -> Result<Vec<EbpfInsn>> {
    let program = compiler.compile(expression, LinkType::EN10MB, Origin::Request)?;
    let program = see_vlan_tags(&program.context("an empty filter")?)?;
    Ok(translate(&program)?)
}

/// A guard with every limit that a policy usually sets, and none of them near.
pub(crate) fn plan(filter: Vec<EbpfInsn>, interface: u32) -> GuardPlan {
    let hour = std::time::Duration::from_secs(3600);
    GuardPlan {
        terms: Terms {
            packets: 1 << 50,
            bytes: 1 << 60,
            deadline: BootTime::now().after(hour).nanoseconds(),
            snap: 262_144,
            payload: PAYLOAD_FULL,
            link: LINK_ETHERNET,
            any_interface: 0,
        },
        raw: Some(filter),
        cooked: None,
        interfaces: vec![interface],
    }
}

/// A device with sockets on it, all of one kind.
struct Kind<S> {
    sender: OwnedFd,
    sockets: Vec<S>,
}

impl<S: AsFd> Kind<S> {
    fn new(name: &str, socket: impl FnOnce(u32) -> Result<Vec<S>>) -> Result<Self> {
        let interface = net::veth(name)?;
        let sender = sys::packet_socket()?;
        sys::bind(&sender, interface, true)?;
        let sockets = socket(interface)?;
        for socket in &sockets {
            sys::bind(socket, interface, false)?;
        }
        Ok(Self { sender, sockets })
    }

    fn attach(&self, filter: &[Insn]) -> Result<()> {
        for socket in &self.sockets {
            sys::attach_classic(socket, filter)?;
        }
        Ok(())
    }

    fn buffers(&self, bytes: usize) -> Result<()> {
        for socket in &self.sockets {
            sockopt::set_socket_recv_buffer_size_force(socket, bytes)?;
        }
        Ok(())
    }

    /// How many packets wait in the sockets; they are gone afterwards.
    fn drain(&self) -> usize {
        let mut byte = [0_u8; 1];
        let mut taken = 0;
        for socket in &self.sockets {
            while recv(socket, &mut byte, RecvFlags::DONTWAIT).is_ok() {
                taken += 1;
            }
        }
        taken
    }

    /// Seconds for one packet, the sockets left as they are.
    fn send(&self, frame: &[u8]) -> Result<f64> {
        let start = Instant::now();
        sys::flood(&self.sender, frame, PACKETS)?;
        Ok(start.elapsed().as_secs_f64() / PACKETS as f64)
    }

    /// Seconds for one packet that every socket keeps for its reader.
    fn deliver(&self, frame: &[u8]) -> Result<f64> {
        let took = self.send(frame)?;
        let taken = self.drain();
        ensure!(
            taken == PACKETS * self.sockets.len(),
            "{taken} packets were delivered"
        );
        Ok(took)
    }
}

/// What a packet costs in each of two kinds more than it costs anyway, per socket.
fn samples(
    mut base: impl FnMut() -> Result<f64>,
    mut plain: impl FnMut() -> Result<f64>,
    mut guarded: impl FnMut() -> Result<f64>,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let mut samples = (Vec::new(), Vec::new());
    for sample in 0..=SAMPLES {
        let mut turns = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            let base = base()?;
            turns.0.push((plain()? - base) / SOCKETS as f64);
            turns.1.push((guarded()? - base) / SOCKETS as f64);
        }
        if sample > 0 {
            samples.0.push(median(turns.0));
            samples.1.push(median(turns.1));
        }
    }
    Ok(samples)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Everything that is measured here, on one processor.
pub(crate) fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    let measuring = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut last = CpuSet::new();
            last.set(std::thread::available_parallelism()?.get() - 1);
            sched_setaffinity(None, &last)?;
            measure_here(bench)
        });
        thread.join()
    });
    measuring.map_err(|_| anyhow!("the measuring thread died"))?
}

fn measure_here(bench: &Bench) -> Result<Vec<Measurement>> {
    let classic_sockets = |_| {
        let sockets = (0..SOCKETS).map(|_| sys::packet_socket());
        Ok(sockets.collect::<std::io::Result<Vec<_>>>()?)
    };
    let none: Kind<OwnedFd> = Kind::new("none", |_| Ok(Vec::new()))?;
    let bare = Kind::new("bare", classic_sockets)?;
    let plain = Kind::new("plain", classic_sockets)?;
    let mut measurements = Vec::new();
    for (number, case) in cases().iter().enumerate() {
        let filter = translated(&bench.compiler(), &case.expression)?;
        // As they are while the agent lives.
        let mut alive = Vec::new();
        let guarded: Kind<ArmedSocket> = Kind::new(&format!("guard{number}"), |interface| {
            let mut plan = plan(filter.clone(), interface);
            if !case.has_deadline {
                plan.terms.deadline = 0;
            }
            let guard = Guard::load(&plan)?;
            let call = SocketCall::parse(3, 0).context("SOCK_RAW")?;
            let armed = (0..SOCKETS).map(|_| arm(&guard, call));
            let (sockets, slots): (_, Vec<_>) =
                armed.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
            alive.push((guard, slots));
            Ok(sockets)
        })?;
        let chain = if case.has_plain {
            Some(classic(&case.expression)?)
        } else {
            None
        };

        let mut only = |what: &str, frame: &[u8], verdict: u32| -> Result<()> {
            let same = [Insn::new(0x06, 0, 0, verdict)];
            bare.attach(&same)?;
            plain.attach(chain.as_deref().unwrap_or(&same))?;
            for kind in [&bare, &plain] {
                kind.buffers(0)?;
            }
            guarded.buffers(0)?;
            let (plain_cost, guarded_cost) = samples(
                || bare.send(frame),
                || plain.send(frame),
                || guarded.send(frame),
            )?;
            let expects_some = verdict != 0;
            for taken in [plain.drain(), guarded.drain()] {
                ensure!(
                    (taken > 0) == expects_some,
                    "{}: the {what} packet was not",
                    case.name
                );
            }
            bare.drain();
            measurements.push(case.row(&format!("filter, {what}"), plain_cost, guarded_cost));
            Ok(())
        };
        only("rejected", &case.rejected, 0)?;
        only("accepted", &case.accepted, u32::MAX)?;

        plain.buffers(1 << 20)?;
        guarded.buffers(1 << 20)?;
        let frame = &case.accepted;
        let (plain_cost, guarded_cost) = samples(
            || none.send(frame),
            || plain.deliver(frame),
            || guarded.deliver(frame),
        )?;
        let what = "delivered to its reader";
        measurements.push(case.row(what, plain_cost, guarded_cost));
    }
    Ok(measurements)
}
