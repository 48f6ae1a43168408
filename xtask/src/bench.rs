//! `cargo xtask bench`: what capwarden costs, against the same work without it.
//!
//! The measuring is done by the program `bench` of the tests crate, as root, in a network namespace
//! of its own; how is written there, with each measurement. It prints a line of JSON for each. Here
//! the lines become a table and are judged. A target that is missed fails nothing: only a
//! measurement that could not be made does.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::{house, root, setup, term};

/// How long all of it may take.
const MOST_SECONDS: &str = "300";

/// Options of `cargo xtask bench`
#[derive(Args)]
pub(crate) struct Options {
    /// Print JSON, with every sample
    #[arg(long)]
    json: bool,
    /// Only these parts: load, guard, capture, arming, gate, clients, proxies, limits, telemetry, prove
    #[arg(value_name = "PART")]
    parts: Vec<String>,
}

/// The verb.
pub(crate) fn main(options: &Options) -> Result<()> {
    let measured = if options.json {
        run(options, |cargo| {
            let status = cargo.stdout(Stdio::null()).status()?;
            status.success().then_some(()).context("cargo failed")
        })?
    } else {
        setup::ensure()?;
        if options.parts.is_empty() || options.parts.iter().any(|part| part == "gate") {
            setup::peers(&house::peers());
        }
        let measured = run(options, |cargo| term::loud("build (release)", cargo))?;
        println!();
        measured
    };
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for line in measured.lines() {
        let line: Value = serde_json::from_str(line)?;
        match line.get("failed").and_then(Value::as_str) {
            Some(why) => failed.push(why.to_owned()),
            None => rows.push(Measurement::from_json(&line).context("not a measurement")?),
        }
    }
    if options.json {
        let rows: Vec<Value> = rows.iter().map(Measurement::to_json).collect();
        let all = json!({ "measurements": rows, "failed": failed });
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        print!("{}", table(&rows));
        println!("medians (least–most) of one run, both sides by turns");
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("not measured: {}", failed.join("; "))
}

/// Builds what is needed and lets it measure.
fn run(options: &Options, build: impl Fn(&mut Command) -> Result<()>) -> Result<String> {
    let packages = "build --release --package capwarden --package capwarden-tests";
    build(&mut house::cargo(&packages.split(' ').collect::<Vec<_>>()))?;
    let variables = [
        ("CAPWARDEN_BIN", house::capwarden().into()),
        ("CAPWARDEN_VENV", house::venv()?.into()),
        ("CAPWARDEN_PEERS", house::peers().into()),
        // Where it is installed, mitmdump is measured too.
        ("CAPWARDEN_MITM", house::target().join("venv-mitm").into()),
        ("PATH", std::env::var_os("PATH").unwrap_or_default()),
    ];
    // `timeout` runs inside sudo: only root can end what root runs.
    let mut command = root::command(Path::new("timeout"), &variables)?;
    command
        .args(["--kill-after=10", MOST_SECONDS])
        .arg(house::target().join("release/bench"))
        .args(&options.parts)
        .stderr(Stdio::inherit());
    let mut measure = || {
        let done = command.output().context("cannot run timeout")?;
        if !done.status.success() {
            return Err(anyhow!("the measuring program: {}", done.status));
        }
        Ok(String::from_utf8(done.stdout)?)
    };
    if options.json {
        return measure();
    }
    term::step("measure", |_| measure())
}

/// One thing, measured without and with capwarden.
pub(crate) struct Measurement {
    /// What was measured.
    what: String,
    unit: Unit,
    /// Without capwarden; one sample per repetition.
    plain: Vec<f64>,
    /// With capwarden.
    guarded: Vec<f64>,
    /// What is promised of the medians.
    target: Target,
}

/// What samples are counted in.
#[derive(Clone, Copy)]
enum Unit {
    Seconds,
    PerSecond,
    Bytes,
    Count,
}

/// What is promised of a measurement.
enum Target {
    /// At most this many times the plain median.
    Ratio(f64),
    /// At least this many times the plain median.
    AtLeast(f64),
    /// At most this much more than the plain median.
    Extra(f64),
    /// At most this.
    Most(f64),
    /// Nothing: it is shown for comparison.
    None,
}

impl Measurement {
    fn from_json(line: &Value) -> Option<Self> {
        let samples = |name| -> Option<Vec<f64>> {
            let samples = line.get(name)?.as_array()?;
            samples.iter().map(Value::as_f64).collect()
        };
        let value = line.pointer("/target/value")?.as_f64()?;
        Some(Self {
            what: line.get("what")?.as_str()?.to_owned(),
            unit: match line.get("unit")?.as_str()? {
                "s" => Unit::Seconds,
                "/s" => Unit::PerSecond,
                "B" => Unit::Bytes,
                "" => Unit::Count,
                _ => return None,
            },
            plain: samples("plain")?,
            guarded: samples("guarded")?,
            target: match line.pointer("/target/kind")?.as_str()? {
                "ratio" => Target::Ratio(value),
                "at_least" => Target::AtLeast(value),
                "extra" => Target::Extra(value),
                "most" => Target::Most(value),
                "none" => Target::None,
                _ => return None,
            },
        })
    }

    fn to_json(&self) -> Value {
        json!({
            "what": self.what,
            "unit": match self.unit {
                Unit::Seconds => "s",
                Unit::PerSecond => "/s",
                Unit::Bytes => "B",
                Unit::Count => "",
            },
            "plain": { "median": median(&self.plain), "samples": self.plain },
            "guarded": { "median": median(&self.guarded), "samples": self.guarded },
            "ratio": self.ratio(),
            "target": self.promised(),
            "holds": self.holds(),
        })
    }

    /// Guarded against plain, by their medians. None if one of them was not measured.
    fn ratio(&self) -> Option<f64> {
        let plain = median(&self.plain)?;
        let guarded = median(&self.guarded)?;
        (plain > 0.0).then(|| guarded / plain)
    }

    /// Whether the promise is kept; none if nothing is promised, or not both sides were measured.
    fn holds(&self) -> Option<bool> {
        Some(match self.target {
            Target::Ratio(most) => self.ratio()? <= most,
            Target::AtLeast(least) => self.ratio()? >= least,
            Target::Extra(most) => median(&self.guarded)? - median(&self.plain)? <= most,
            Target::Most(most) => median(&self.guarded)? <= most,
            Target::None => return None,
        })
    }

    fn promised(&self) -> String {
        match self.target {
            Target::Ratio(most) => format!("≤ {most:.2}×"),
            Target::AtLeast(least) => format!("≥ {least:.2}×"),
            Target::Extra(most) => format!("≤ +{}", self.unit.show(most)),
            Target::Most(most) => format!("≤ {}", self.unit.show(most)),
            Target::None => "–".to_owned(),
        }
    }

    /// The median, and how far the samples lie apart.
    fn cell(&self, samples: &[f64]) -> String {
        let Some(median) = median(samples) else {
            return "–".to_owned();
        };
        let median = self.unit.show(median);
        if samples.len() < 2 {
            return median;
        }
        let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
        let most = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (least, most) = (self.unit.show(least), self.unit.show(most));
        format!("{median} ({least}–{most})")
    }
}

impl Unit {
    /// A value with three digits that matter: `12.3 µs`, `1.05 s`, `432 k/s`.
    fn show(self, value: f64) -> String {
        let (steps, unit): (&[(f64, &str)], _) = match self {
            Self::Seconds => (&[(1e-9, "n"), (1e-6, "µ"), (1e-3, "m"), (1.0, "")], "s"),
            Self::PerSecond => (&[(1.0, ""), (1e3, "k"), (1e6, "M")], "/s"),
            Self::Bytes => (&[(1.0, ""), (1024.0, "Ki"), (1_048_576.0, "Mi")], "B"),
            Self::Count => return format!("{value:.0}"),
        };
        let step = steps.iter().rev().find(|(size, _)| value.abs() >= *size);
        let (size, prefix) = step.or(steps.first()).copied().unwrap_or((1.0, ""));
        let value = value / size;
        let digits = match value.abs() {
            v if v >= 100.0 => 0,
            v if v >= 10.0 => 1,
            _ => 2,
        };
        format!("{value:.digits$} {prefix}{unit}")
    }
}

/// The median; of an even number of samples the mean of the middle two.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// The measurements as a table: what, plain, guarded, ratio, target, verdict.
pub(crate) fn table(measurements: &[Measurement]) -> String {
    let headline = ["what", "plain", "guarded", "ratio", "target", ""].map(str::to_owned);
    let rows = measurements.iter().map(|m| {
        [
            m.what.clone(),
            m.cell(&m.plain),
            m.cell(&m.guarded),
            m.ratio().map_or("–".to_owned(), |r| format!("{r:.2}×")),
            m.promised(),
            m.holds().map(term::mark).unwrap_or_default(),
        ]
    });
    let rows: Vec<[String; 6]> = std::iter::once(headline).chain(rows).collect();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(column, cell)| {
                let width = width(column);
                // Words to the left, numbers to the right.
                match column {
                    0 | 5 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                }
            })
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(what: &str, plain: &[f64], guarded: &[f64], target: Target) -> Measurement {
        Measurement {
            what: what.to_owned(),
            unit: Unit::Seconds,
            plain: plain.to_vec(),
            guarded: guarded.to_vec(),
            target,
        }
    }

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[1.0, 9.0, 3.0, 5.0]), Some(4.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn values_have_three_digits() {
        assert_eq!(Unit::Seconds.show(1.234e-8), "12.3 ns");
        assert_eq!(Unit::Seconds.show(-4e-10), "-0.40 ns");
        assert_eq!(Unit::PerSecond.show(432_100.0), "432 k/s");
        assert_eq!(Unit::Bytes.show(14_904_000.0), "14.2 MiB");
        assert_eq!(Unit::Count.show(10_000.0), "10000");
    }

    #[test]
    fn table_lines_up_and_judges() {
        let table = table(&[
            measurement("open", &[10e-3], &[11e-3, 10e-3, 14e-3], Target::Ratio(1.2)),
            measurement("call", &[1e-3], &[400e-3], Target::Extra(5e-3)),
            measurement("idle", &[], &[3e-3], Target::Most(4e-3)),
            measurement("load", &[], &[3e-3], Target::None),
        ]);
        let expected = "\
what    plain                    guarded    ratio      target
open  10.0 ms  11.0 ms (10.0 ms–14.0 ms)    1.10×     ≤ 1.20×  ✓
call  1.00 ms                     400 ms  400.00×  ≤ +5.00 ms  ✗
idle        –                    3.00 ms        –   ≤ 4.00 ms  ✓
load        –                    3.00 ms        –           –
";
        assert_eq!(table, expected);
    }

    #[test]
    fn lines_are_read() {
        let line = json!({
            "what": "flood", "unit": "/s", "plain": [1000.0], "guarded": [900.0],
            "target": { "kind": "at_least", "value": 0.95 },
        });
        let measurement = Measurement::from_json(&line).unwrap();
        assert_eq!(measurement.holds(), Some(false));
        assert_eq!(measurement.promised(), "≥ 0.95×");
    }
}
