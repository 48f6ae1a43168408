//! A capture tool at saturation, governed and not: packets that it gets per second while a sender
//! floods the other end of a pair of devices. Both have the same filter, limits that never bind,
//! and write to `/dev/null`.

use std::{
    io::{BufRead, BufReader, Read},
    process::{ChildStderr, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Bench, Running, guard,
    measure::{Measurement, Target, Unit},
    net, sys,
};

const PACKETS: usize = 400_000;
const TURNS: usize = 7;
const FILTER: &str = "udp port 9";
/// A tool that has said it listens is a moment from doing so.
const SETTLE: Duration = Duration::from_millis(200);

struct Tool {
    name: &'static str,
    arguments: &'static [&'static str],
    /// What it says once it listens.
    ready: &'static str,
    /// What stands before and after the number of packets that it got.
    count: (&'static str, &'static str),
}

const TOOLS: [Tool; 2] = [
    Tool {
        name: "tcpdump",
        arguments: &[
            "-i",
            "floodp",
            "-n",
            "-s",
            "256",
            "-B",
            "8192",
            "-Z",
            "root",
            "-w",
            "/dev/null",
            FILTER,
        ],
        ready: "listening on",
        count: ("", " packets captured"),
    },
    Tool {
        name: "dumpcap",
        arguments: &[
            "-i",
            "floodp",
            "-q",
            "-s",
            "256",
            "-B",
            "8",
            "-w",
            "/dev/null",
            "-f",
            FILTER,
        ],
        ready: "File:",
        count: ("Packets received/dropped on interface 'floodp': ", "/"),
    },
];

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    let interface = net::veth("flood")?;
    let sender = sys::packet_socket()?;
    sys::bind(&sender, interface, true)?;
    let frame = guard::udp(9);
    let flood = || sys::flood(&sender, &frame, PACKETS);
    flood()?; // warm-up
    let mut measurements = Vec::new();
    for tool in &TOOLS {
        let mut rates = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            let mut alone = Command::new(tool.name);
            rates.0.push(rate(tool, &mut alone, flood)?);
            let mut governed = bench.capwarden("exec");
            let limits = "-c 1000000000 -b 1000GiB -s 60 --payload full -i floodp --filter";
            governed
                .args(limits.split(' '))
                .args([FILTER, "--", tool.name]);
            rates.1.push(rate(tool, &mut governed, flood)?);
        }
        measurements.push(Measurement {
            what: format!("captured by {} at saturation", tool.name),
            unit: Unit::Rate,
            plain: rates.0,
            guarded: rates.1,
            target: Target::AtLeast(0.95),
        });
    }
    Ok(measurements)
}

fn rate(
    tool: &Tool,
    command: &mut Command,
    flood: impl Fn() -> std::io::Result<()>,
) -> Result<f64> {
    command.args(tool.arguments).stderr(Stdio::piped());
    let mut running = Running::start(command)?;
    let mut words = BufReader::new(running.0.stderr.take().context("no stderr")?);
    await_ready(tool, &mut words)?;
    thread::sleep(SETTLE);
    let start = Instant::now();
    flood()?;
    let took = start.elapsed().as_secs_f64();
    let process = i32::try_from(running.0.id()).ok().and_then(Pid::from_raw);
    kill_process(process.context("no process")?, Signal::INT)?;
    let mut summary = String::new();
    words.read_to_string(&mut summary)?;
    running.0.wait()?;
    let captured = summary.lines().find_map(|line| {
        let (before, after) = tool.count;
        let number = line.strip_prefix(before)?.split_once(after)?.0;
        number.trim().parse::<f64>().ok()
    });
    let captured = captured.ok_or_else(|| anyhow!("{} counted nothing: {summary}", tool.name))?;
    Ok(captured / took)
}

fn await_ready(tool: &Tool, words: &mut BufReader<ChildStderr>) -> Result<()> {
    let mut said = String::new();
    loop {
        let length = said.len();
        if words.read_line(&mut said)? == 0 {
            return Err(anyhow!("{} did not start: {said}", tool.name));
        }
        if said
            .get(length..)
            .is_some_and(|line| line.contains(tool.ready))
        {
            return Ok(());
        }
    }
}
