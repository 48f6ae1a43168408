//! Lines in which parsers differ: what capwarden forwards is read as one and the same call by
//! everybody who can read it, and is one that the policy allows.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    mcp::Client,
    readers::{self, Readers, Readings},
    spellings::{self, CLASSES, Fate, Line},
    stage::{Stage, python},
};
use serde_json::{Value, json};

const RECORD: &str = include_str!("../scripts/record.py");

/// [`allowed`] says the same.
const POLICY: &str = "version: 1
default: deny
tools:
  echo: { args: { n: { at_most: 1000000 }, mode: { one_of: [ fast, slow ] } } }
  free: allow
";

const SEED: u64 = 0x5eed_0000_0000_0004;
/// Lines of each class.
const ROUNDS: usize = 250;
/// Lines that are sent before it is waited for an answer.
const BATCH: usize = 300;

/// What became of the lines of a class.
#[derive(Clone, Copy, Default)]
struct Tally {
    forwarded: usize,
    refused: usize,
    /// Lines that not everybody who reads a message there reads in the same way.
    differ: usize,
    /// Lines that somebody reads as a call that is not allowed, or not as the one that is.
    dangerous: usize,
}

#[test]
fn differential_forwarded_lines_are_one_call_to_all_parsers() -> Result<()> {
    let stage = Stage::new()?;
    let lines = spellings::lines(SEED, ROUNDS);
    let bytes: Vec<&[u8]> = lines.iter().map(|line| line.bytes.as_slice()).collect();
    let readers = Readers::start(&stage, &bytes)?;
    let forwarded = send(&stage, &lines)?;
    let read = readers.finish(lines.len())?;

    let mut wrong = 0;
    let mut tallies = [Tally::default(); CLASSES.len()];
    for (number, line) in lines.iter().enumerate() {
        let own = readers::serde(&line.bytes);
        let mut all = own.clone();
        for (_, readings) in &read {
            all.extend(readings.get(number).into_iter().flatten().cloned());
        }
        let single = all.len() <= 1;
        let harmless = all
            .iter()
            .all(|reading| !is_call(reading) || allowed(line, &own));
        let tally = tallies.get_mut(line.class).context("an unknown class")?;
        tally.differ += usize::from(!single);
        tally.dangerous += usize::from(!single || !harmless);
        if !forwarded.contains(&number) {
            tally.refused += 1;
            continue;
        }
        tally.forwarded += 1;
        if !single || !harmless {
            wrong += 1;
            let shown = String::from_utf8_lossy(&line.bytes);
            eprintln!(
                "forwarded: {shown:.500}\nserde_json: {own:.500?}\n{}",
                others(&read, number)
            );
        }
    }
    show(&tallies);
    ensure!(
        wrong == 0,
        "{wrong} lines that not all read alike were forwarded"
    );
    for (class, tally) in CLASSES.iter().zip(tallies) {
        let (name, fate) = (class.name, class.fate);
        ensure!(
            fate == Fate::Refused || tally.forwarded > 0,
            "{name}: none was forwarded"
        );
        ensure!(
            fate == Fate::Forwarded || tally.refused > 0,
            "{name}: none was refused"
        );
        ensure!(
            fate != Fate::Refused || tally.forwarded == 0,
            "{name}: some were forwarded"
        );
        ensure!(
            fate != Fate::Forwarded || tally.refused == 0,
            "{name}: some were refused"
        );
        ensure!(!class.differs || tally.differ > 0, "{name}: nobody differs");
    }
    for (language, readings) in &read {
        let messages = readings.iter().filter(|readings| !readings.is_empty());
        ensure!(
            messages.count() > lines.len() / 3,
            "{language} reads next to nothing"
        );
    }
    Ok(())
}

/// Sends the lines through `capwarden run`; the numbers of those that reached the server, which
/// got nothing but them, byte for byte and in their order.
fn send(stage: &Stage, lines: &[Line]) -> Result<BTreeSet<usize>> {
    let record = stage.capture("record");
    let script = stage.write("record.py", RECORD)?;
    let mut client = stage.run(POLICY, &[&python("python3")?, &script, &record])?;
    for (number, batch) in lines.chunks(BATCH).enumerate() {
        for line in batch {
            client.send(&[&line.bytes, b"\n".as_slice()].concat())?;
        }
        calm(&mut client, number)?;
    }
    client.close_input();
    ensure!(client.exit()?.success(), "{}", stage.stderr()?);

    let record = fs::read(record)?;
    let recorded = record.split_inclusive(|byte| *byte == b'\n');
    let mut forwarded = BTreeSet::new();
    let mut sent = lines.iter().enumerate();
    for line in recorded.filter(|line| !line.starts_with(br#"{"calm""#)) {
        let line = line.strip_suffix(b"\n").context("a line was cut short")?;
        let (number, _) = sent.find(|(_, sent)| sent.bytes == line).with_context(|| {
            let line = String::from_utf8_lossy(line);
            format!("the server got a line that was not sent, or out of order: {line:.500}")
        })?;
        forwarded.insert(number);
    }
    Ok(forwarded)
}

/// A call that is all right is answered, and so everything before it was dealt with.
fn calm(client: &mut Client, number: usize) -> Result<()> {
    let id = json!(format!("calm{number}"));
    let line = json!({ "calm": true, "jsonrpc": "2.0", "id": id, "method": "tools/call",
        "params": { "name": "free" } });
    client.send(format!("{line}\n").as_bytes())?;
    client.answer(&id)?;
    client.rest().clear();
    Ok(())
}

/// Whether a reading is a call: those have four parts.
fn is_call(reading: &str) -> bool {
    reading.split(' ').count() == 4
}

/// Whether [`POLICY`] allows the call of a line, as serde_json reads it.
fn allowed(line: &Line, own: &Readings) -> bool {
    let Ok(message) = serde_json::from_slice::<Value>(&line.bytes) else {
        return false;
    };
    let argument = |name: &str| {
        let value = message.pointer("/params/arguments")?.get(name)?;
        (!value.is_null()).then_some(value)
    };
    let n =
        argument("n").is_none_or(|n| n.as_f64().is_some_and(|n| (0.0..=1_000_000.0).contains(&n)));
    let mode = argument("mode").is_none_or(|mode| ["fast", "slow"].iter().any(|m| mode == m));
    !own.is_empty()
        && match message.pointer("/params/name").and_then(Value::as_str) {
            Some("echo") => n && mode,
            Some("free") => true,
            _ => false,
        }
}

fn others(read: &[(&str, Vec<Readings>)], number: usize) -> String {
    let lines = read
        .iter()
        .map(|(language, readings)| format!("{language}: {:.500?}", readings.get(number)));
    lines.collect::<Vec<_>>().join("\n")
}

fn show(tallies: &[Tally]) {
    eprintln!("{:28} forwarded refused differ dangerous", "class");
    let mut all = Tally::default();
    for (class, tally) in CLASSES.iter().zip(tallies) {
        row(class.name, *tally);
        all.forwarded += tally.forwarded;
        all.refused += tally.refused;
        all.differ += tally.differ;
        all.dangerous += tally.dangerous;
    }
    row("all", all);
}

fn row(name: &str, tally: Tally) {
    let Tally {
        forwarded,
        refused,
        differ,
        dangerous,
    } = tally;
    eprintln!("{name:28} {forwarded:9} {refused:7} {differ:6} {dangerous:9}");
}
