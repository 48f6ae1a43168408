//! What parsers of other languages read in a line.
//!
//! A reader is a program that reads frames from its standard input: four bytes, big-endian, that
//! say how long the line is, and the line. For each it prints one line: all the ways in which a
//! program in its language might read a message there (by strict parsers and by lenient ones, whole
//! or cut where that language ends lines, taken from a batch), each as `METHOD ID` or, if it is a
//! call, `METHOD ID NAME ARGUMENTS`, with tabs between them, and nothing where nobody reads one.
//!
//! Values have one spelling: `N`, `T`, `F`, `d` and a double's bits (a number is what it is as a
//! double, and zero has no sign), `s` and UTF-16 code units, both in hexadecimal, `[…,…]`,
//! `{key:value,…}` in the order of keys so written, and `-` for an id that is not there.

use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    agent::exited,
    stage::{Stage, node, python},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// The messages that are read in one line; empty if none is.
pub type Readings = BTreeSet<String>;

/// The readers, at work.
#[derive(Debug)]
pub struct Readers {
    running: Vec<(&'static str, Child, PathBuf)>,
}

impl Readers {
    /// Lets them read these lines.
    pub fn start(stage: &Stage, lines: &[&[u8]]) -> Result<Self> {
        let mut frames = Vec::new();
        for line in lines {
            frames.extend_from_slice(&u32::try_from(line.len())?.to_be_bytes());
            frames.extend_from_slice(line);
        }
        let input = stage.path("frames");
        std::fs::write(&input, frames)?;
        let scripts: [(_, _, &[&str], _, _); 3] = [
            (
                "Python",
                python("python3")?,
                &["-I"],
                "read.py",
                include_str!("../scripts/readers/read.py"),
            ),
            (
                "Node",
                node()?,
                &["--stack-size=6000"], // in KiB: what is deep is to be written, too
                "read.mjs",
                include_str!("../scripts/readers/read.mjs"),
            ),
            (
                "Perl",
                PathBuf::from("perl"),
                &[],
                "read.pl",
                include_str!("../scripts/readers/read.pl"),
            ),
        ];
        let mut running = Vec::new();
        for (language, program, options, name, script) in scripts {
            let script = stage.write(name, script)?;
            let output = stage.path(&format!("{name}.out"));
            let child = Command::new(&program)
                .args(options)
                .arg(script)
                .stdin(File::open(&input)?)
                .stdout(File::create(&output)?)
                .spawn()
                .with_context(|| format!("cannot run {}", program.display()))?;
            running.push((language, child, output));
        }
        Ok(Self { running })
    }

    /// Waits for what they read: for each of them its language, and the readings of each line.
    pub fn finish(self, lines: usize) -> Result<Vec<(&'static str, Vec<Readings>)>> {
        let mut all = Vec::new();
        for (language, mut child, output) in self.running {
            let status = exited(&mut child, PATIENCE).context(language)?;
            ensure!(status.success(), "the reader in {language}: {status}");
            let readings = read(&output)?;
            ensure!(
                readings.len() == lines,
                "the reader in {language} read {} lines of {lines}",
                readings.len()
            );
            all.push((language, readings));
        }
        Ok(all)
    }
}

fn read(output: &Path) -> Result<Vec<Readings>> {
    let text = std::fs::read_to_string(output)?;
    let split = |line: &str| {
        let readings = line.split('\t').filter(|reading| !reading.is_empty());
        readings.map(str::to_owned).collect()
    };
    Ok(text.lines().map(split).collect())
}

/// What serde_json reads, like the others.
pub fn serde(line: &[u8]) -> Readings {
    let mut readings = Readings::new();
    let Ok(message @ Value::Object(_)) = serde_json::from_slice(line) else {
        return readings;
    };
    let (method, id) = (message.get("method"), message.get("id"));
    if method.is_none() && id.is_none() {
        return readings;
    }
    let mut reading = format!(
        "{} {}",
        canonical(method),
        id.map_or("-".to_owned(), |id| canonical(Some(id)))
    );
    if method.and_then(Value::as_str) == Some("tools/call") {
        let call = match message.get("params") {
            Some(Value::Object(params)) => {
                let get = |key| canonical(params.get(key));
                format!(" {} {}", get("name"), get("arguments"))
            }
            _ => " - -".to_owned(),
        };
        reading.push_str(&call);
    }
    readings.insert(reading);
    readings
}

fn canonical(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "N".to_owned(),
        Some(Value::Bool(true)) => "T".to_owned(),
        Some(Value::Bool(false)) => "F".to_owned(),
        Some(Value::Number(number)) => {
            // Adding zero takes its sign away.
            let double = number.as_f64().unwrap_or(f64::NAN) + 0.0;
            format!("d{:016x}", double.to_bits())
        }
        Some(Value::String(text)) => units(text),
        Some(Value::Array(values)) => {
            let values: Vec<_> = values.iter().map(|value| canonical(Some(value))).collect();
            format!("[{}]", values.join(","))
        }
        Some(Value::Object(members)) => {
            let members = members.iter();
            let mut members: Vec<_> = members
                .map(|(key, value)| format!("{}:{}", units(key), canonical(Some(value))))
                .collect();
            members.sort();
            format!("{{{}}}", members.join(","))
        }
    }
}

fn units(text: &str) -> String {
    let units = text.encode_utf16().map(|unit| format!("{unit:04x}"));
    format!("s{}", units.collect::<String>())
}
