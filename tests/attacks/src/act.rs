//! The attackers' side: tries rows, each in a process of its own, and reports what was seen.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{
    attacker::{Attacker, decode, encode},
    row::{Row, Seen},
    sys::{Way, process},
    table,
    world::World,
};

/// An agent that is killed is gone by then.
const PATIENCE: Duration = Duration::from_secs(30);

/// One line of a report.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Line {
    /// The agent may be killed.
    Ready,
    /// What an attacker saw.
    Saw { id: String, way: Way, seen: Seen },
    /// That was all.
    End,
}

/// A row, by one door.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Try {
    pub(crate) row: &'static Row,
    pub(crate) way: Way,
}

impl Try {
    pub(crate) fn word(&self) -> String {
        format!("{}/{}", self.row.id, self.way.name())
    }

    fn parse(word: &str) -> Result<Self> {
        let (id, way) = word.split_once('/').context("ID/WAY")?;
        let row = table::find(id).with_context(|| format!("no row {id}"))?;
        let way = Way::ALL.into_iter().find(|known| known.name() == way);
        let way = way.with_context(|| format!("no way {word}"))?;
        Ok(Self { row, way })
    }
}

/// `act WORLD REPORT orphan|- TRY…`
pub(crate) fn act(mut words: impl Iterator<Item = String>) -> Result<()> {
    let mut next = || words.next().context("act WORLD REPORT orphan|- TRY…");
    let (world, report, orphan) = (PathBuf::from(next()?), PathBuf::from(next()?), next()?);
    let tries: Vec<Try> = words.map(|word| Try::parse(&word)).collect::<Result<_>>()?;
    let world: World = serde_json::from_reader(File::open(world)?)?;
    let mut report = OpenOptions::new().append(true).open(report)?;
    let mut attacker = Attacker::new(Way::Native, world);
    if orphan == "orphan" {
        attacker.held = attacker.filtered().ok();
        if attacker.world.governed {
            say(&mut report, &Line::Ready)?;
            wait_for_orphanhood(attacker.agent)?;
        }
    }
    for Try { row, way } in tries {
        attacker.way = way;
        let seen = decode(process::in_child(|| {
            encode(&(row.run)(&mut attacker).unwrap_or_else(Seen::Errno))
        }));
        let id = row.id.to_owned();
        say(&mut report, &Line::Saw { id, way, seen })?;
    }
    say(&mut report, &Line::End)
}

fn say(report: &mut File, line: &Line) -> Result<()> {
    let mut line = serde_json::to_string(line)?;
    line.push('\n');
    Ok(report.write_all(line.as_bytes())?)
}

fn wait_for_orphanhood(agent: u32) -> Result<()> {
    let start = Instant::now();
    while std::os::unix::process::parent_id() == agent {
        if start.elapsed() > PATIENCE {
            bail!("the agent lives on");
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
