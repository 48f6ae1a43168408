//! How long a governed process waits for the agent, against a plain one of root's: for a capture
//! socket, and for a filter of its own on it.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

use crate::{
    Bench,
    measure::{Measurement, Target, Unit},
};

/// A session hands out 64 sockets at most. The first few warm up. A capture tool opens two or three,
/// not one after the other without a pause: that would measure how the record is kept as well, and how
/// fast programs are loaded.
const OPEN: &str = "
import socket, time
kept = []
for turn in range(60):
    time.sleep(0.01)
    start = time.perf_counter_ns()
    kept.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300))
    took = time.perf_counter_ns() - start
    if turn >= 10: print(took)
";
/// `ip proto 17` and `ip proto 6`, in turn, as libpcap would attach them.
const ATTACH: &str = "
import ctypes, socket, struct, time
kept = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
def program(protocol):
    insns = [(40, 0, 0, 12), (21, 0, 3, 2048), (48, 0, 0, 23), (21, 0, 1, protocol), (6, 0, 0, 262144), (6, 0, 0, 0)]
    code = ctypes.create_string_buffer(b''.join(struct.pack('=HBBI', *insn) for insn in insns))
    return code, struct.pack('=HxxxxxxQ', len(insns), ctypes.addressof(code))
programs = [program(17), program(6)]
for turn in range(60):
    time.sleep(0.01)
    start = time.perf_counter_ns()
    kept.setsockopt(socket.SOL_SOCKET, 26, programs[turn % 2][1])
    took = time.perf_counter_ns() - start
    if turn >= 10: print(took)
";
const TURNS: usize = 6;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    let both = [
        ("socket(AF_PACKET)", OPEN, 100e-6),
        ("setsockopt(SO_ATTACH_FILTER)", ATTACH, 1e-3),
    ];
    both.into_iter()
        .map(|(what, script, most)| {
            let (mut plain, mut guarded) = (Vec::new(), Vec::new());
            for _ in 0..TURNS {
                let mut alone = Command::new("python3");
                plain.extend(times(&alone.args(["-c", script]).output()?)?);
                let mut governed = bench.capwarden("exec");
                governed.args(["-i", "lo", "-s", "60", "--", "python3", "-c", script]);
                guarded.extend(times(&governed.output()?)?);
            }
            Ok(Measurement {
                what: what.to_owned(),
                unit: Unit::Time,
                plain,
                guarded,
                target: Target::Most(most),
            })
        })
        .collect()
}

fn times(output: &Output) -> Result<Vec<f64>> {
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| Ok(line.parse::<f64>().context("not a time")? * 1e-9))
        .collect()
}
