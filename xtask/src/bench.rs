//! `cargo xtask bench`: what the guard costs, against the same work without it.

use std::time::Duration;

use anyhow::Result;

/// The verb.
pub(crate) fn main() -> Result<()> {
    let measurements: Vec<Measurement> = Vec::new();
    if measurements.is_empty() {
        println!("no measurements yet");
        return Ok(());
    }
    print!("{}", table(&measurements));
    Ok(())
}

/// One thing, measured without and with capwarden.
pub(crate) struct Measurement {
    /// What was measured.
    pub(crate) what: &'static str,
    /// Without capwarden; one sample per repetition.
    pub(crate) plain: Vec<Duration>,
    /// With capwarden.
    pub(crate) guarded: Vec<Duration>,
    /// What the guarded median may be at most.
    pub(crate) target: Target,
}

/// What is promised of a measurement.
#[cfg_attr(not(test), expect(dead_code, reason = "no measurement is made yet"))]
pub(crate) enum Target {
    /// At most this many times the plain median.
    Ratio(f64),
    /// At most this much more than the plain median.
    Extra(Duration),
}

impl Measurement {
    /// Guarded against plain, by their medians. None if one of them was not measured.
    fn ratio(&self) -> Option<f64> {
        let plain = median(&self.plain)?.as_secs_f64();
        let guarded = median(&self.guarded)?.as_secs_f64();
        (plain > 0.0).then(|| guarded / plain)
    }

    fn holds(&self) -> Option<bool> {
        Some(match self.target {
            Target::Ratio(most) => self.ratio()? <= most,
            Target::Extra(most) => {
                median(&self.guarded)?.saturating_sub(median(&self.plain)?) <= most
            }
        })
    }
}

/// The median; of an even number of samples the mean of the middle two.
pub(crate) fn median(samples: &[Duration]) -> Option<Duration> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some((lower + upper) / 2)
}

/// The measurements as a table: what, plain, guarded, ratio, target, verdict.
pub(crate) fn table(measurements: &[Measurement]) -> String {
    let headline = ["what", "plain", "guarded", "ratio", "target", "verdict"].map(str::to_owned);
    let rows = measurements.iter().map(|m| {
        [
            m.what.to_owned(),
            cell(median(&m.plain)),
            cell(median(&m.guarded)),
            m.ratio().map_or("–".to_owned(), |r| format!("{r:.2}×")),
            match m.target {
                Target::Ratio(most) => format!("≤ {most:.2}×"),
                Target::Extra(most) => format!("≤ +{}", time(most)),
            },
            match m.holds() {
                Some(true) => "holds",
                Some(false) => "MISSED",
                None => "not measured",
            }
            .to_owned(),
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

fn cell(median: Option<Duration>) -> String {
    median.map_or("–".to_owned(), time)
}

/// A duration with three digits that matter: `12.3 µs`, `1.05 s`.
fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s if s >= 1e-6 => (s * 1e6, "µs"),
        s => (s * 1e9, "ns"),
    };
    let digits = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(values: &[u64]) -> Vec<Duration> {
        values.iter().copied().map(Duration::from_millis).collect()
    }

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(&ms(&[9, 1, 5])), Some(Duration::from_millis(5)));
        assert_eq!(median(&ms(&[1, 9, 3, 5])), Some(Duration::from_millis(4)));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn table_lines_up_and_judges() {
        let table = table(&[
            Measurement {
                what: "open a socket",
                plain: ms(&[10]),
                guarded: ms(&[11]),
                target: Target::Ratio(1.2),
            },
            Measurement {
                what: "call",
                plain: ms(&[1]),
                guarded: ms(&[400]),
                target: Target::Extra(Duration::from_millis(5)),
            },
            Measurement {
                what: "flood",
                plain: vec![],
                guarded: vec![],
                target: Target::Ratio(1.0),
            },
        ]);
        let expected = "\
what             plain  guarded    ratio      target  verdict
open a socket  10.0 ms  11.0 ms    1.10×     ≤ 1.20×  holds
call           1.00 ms   400 ms  400.00×  ≤ +5.00 ms  MISSED
flood                –        –        –     ≤ 1.00×  not measured
";
        assert_eq!(table, expected);
    }
}
