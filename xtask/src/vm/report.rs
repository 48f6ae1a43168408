//! What came of all machines: what failed, in full, and one table.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::{Booted, Programs, reading::Run};
use crate::{tally::Tally, term};

/// Shows it, and counts it.
pub(super) fn show(booted: &[Booted], programs: &Programs, tally: &mut Tally) {
    for machine in booted {
        for run in &machine.reading.runs {
            if !run.clean() {
                println!("\n{} {} on {}", term::mark(false), run.name, name(machine));
                print!("{}", said(run));
            }
        }
    }
    println!();
    print!("{}", table(booted));
    for machine in booted {
        count(machine, programs, tally);
    }
    tally.skips.extend(programs.skips.iter().cloned());
}

/// What a program printed, each line with its seconds.
fn said(run: &Run) -> String {
    let lines = run.said.iter();
    lines
        .map(|(after, line)| format!("{:8.1}  {line}\n", after.as_secs_f64()))
        .collect()
}

/// Writes down what all programs printed, a file for each machine.
pub(super) fn keep(booted: &[Booted], home: &Path) -> Result<()> {
    for machine in booted {
        let mut all = String::new();
        for run in &machine.reading.runs {
            all += &format!("{}\n{}", run.name, said(run));
        }
        let how = if machine.lsm { "bpf" } else { "no-bpf" };
        let path = home.join(format!("{}-{how}.output", machine.kernel));
        fs::write(&path, all).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A machine, as it is called.
fn name(machine: &Booted) -> String {
    let with = if machine.lsm { "with" } else { "without" };
    format!("{} {with} bpf", machine.kernel)
}

/// Adds what a machine came to.
fn count(machine: &Booted, programs: &Programs, tally: &mut Tally) {
    let on = name(machine);
    if let Some(why) = &machine.retried {
        println!("{on}: booted a second time, because of the first: {why}");
    }
    let reading = &machine.reading;
    for run in &reading.runs {
        tally.passed += run.tally.passed;
        tally.failed += run.tally.failed;
        tally.skips.extend(run.tally.skips.iter().cloned());
        let failures = run.tally.failures.iter();
        tally
            .failures
            .extend(failures.map(|name| format!("{on}: {name}")));
        if run.empty {
            tally
                .broken
                .push(format!("{on}: {}: ran no tests", run.name));
        }
        let broken = run.tally.broken.iter();
        tally
            .broken
            .extend(broken.map(|broken| format!("{on}: {broken}")));
    }
    if let Some(why) = &machine.lost {
        tally.broken.push(format!("{on}: {why}"));
    }
    let wanted = programs.count_on(machine.lsm);
    let missing = wanted.saturating_sub(reading.runs.len());
    if missing > 0 {
        tally
            .broken
            .push(format!("{on}: {missing} programs did not run"));
    }
    // The kernel may have been told so, and not listen.
    if let Some((_, modules)) = &reading.up
        && modules.split(',').any(|module| module == "bpf") != machine.lsm
    {
        tally
            .broken
            .push(format!("{on}: its security modules are {modules}"));
    }
}

/// The table: a line for each program on each machine.
fn table(booted: &[Booted]) -> String {
    let mut lines = vec![
        [
            "kernel", "bpf", "program", "passed", "failed", "skipped", "seconds",
        ]
        .map(str::to_owned),
    ];
    for machine in booted {
        let kernel = machine.kernel.trim_end_matches("-cloud-amd64");
        let lsm = if machine.lsm { "on" } else { "off" };
        for run in &machine.reading.runs {
            let tally = &run.tally;
            let broken = if tally.broken.is_empty() { "" } else { "+" };
            lines.push([
                kernel.to_owned(),
                lsm.to_owned(),
                run.name.clone(),
                tally.passed.to_string(),
                format!("{}{broken}", tally.failed),
                tally.skips.len().to_string(),
                format!("{:.1}", run.time.as_secs_f64()),
            ]);
        }
        let all = format!("{:.1}", machine.time.as_secs_f64());
        let blank = String::new;
        let whole = if machine.lost.is_some() {
            "lost"
        } else {
            "in all"
        };
        lines.push([
            kernel.to_owned(),
            lsm.to_owned(),
            whole.to_owned(),
            blank(),
            blank(),
            blank(),
            all,
        ]);
    }
    aligned(&lines)
}

/// Columns as wide as what is in them, numbers to the right.
fn aligned(lines: &[[String; 7]]) -> String {
    let mut widths = [0; 7];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.len().max(*width);
        }
    }
    let mut out = String::new();
    for line in lines {
        let cells = line.iter().zip(widths).enumerate();
        let cells: Vec<String> = cells
            .map(|(at, (cell, width))| match at < 3 {
                true => format!("{cell:width$}"),
                false => format!("{cell:>width$}"),
            })
            .collect();
        out += cells.join("  ").trim_end();
        out.push('\n');
    }
    out
}
