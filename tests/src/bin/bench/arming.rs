//! How long `socket(AF_PACKET)` takes for a governed process, against a plain one of root's.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

use crate::{
    Bench,
    measure::{Measurement, Target, Unit},
};

/// A session hands out 64 sockets at most. The first few warm up. A capture tool opens two or three,
/// not one after the other without a pause: that would measure how the record is kept as well.
const SCRIPT: &str = "
import socket, time
kept = []
for turn in range(60):
    time.sleep(0.002)
    start = time.perf_counter_ns()
    kept.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300))
    took = time.perf_counter_ns() - start
    if turn >= 10: print(took)
";
const TURNS: usize = 6;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    let python = ["python3", "-c", SCRIPT];
    let mut plain = Vec::new();
    let mut guarded = Vec::new();
    for _ in 0..TURNS {
        let mut alone = Command::new("python3");
        plain.extend(times(&alone.args(&python[1..]).output()?)?);
        let mut governed = bench.capwarden("exec");
        governed.args(["-i", "lo", "-s", "60", "--"]).args(python);
        guarded.extend(times(&governed.output()?)?);
    }
    Ok(vec![Measurement {
        what: "socket(AF_PACKET)".to_owned(),
        unit: Unit::Time,
        plain,
        guarded,
        target: Target::Most(100e-6),
    }])
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
