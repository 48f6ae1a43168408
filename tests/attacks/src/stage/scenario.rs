//! A process that tries rows, ungoverned or under capwarden.

use std::{
    fmt,
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    Key,
    actors::{self, Actor, PLACE, PROGRAM},
    bystander,
    place::Place,
    space::Space,
};
use crate::{
    act::{Line, Try},
    row::{BASELINE, GRANT, Seen, Setting},
    world::World,
};

/// All tries of one scenario together take less.
const PATIENCE: Duration = Duration::from_secs(150);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Who tries what, where.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// None without capwarden.
    setting: Option<Setting>,
    user: u32,
    tries: Vec<Try>,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.setting {
            None => write!(f, "user {} without capwarden", self.user),
            Some(setting) => write!(f, "user {} under capwarden, {setting:?}", self.user),
        }
    }
}

impl Scenario {
    pub(crate) fn free(user: u32, tries: Vec<Try>) -> Self {
        Self {
            setting: None,
            user,
            tries,
        }
    }

    pub(crate) fn governed(setting: Setting, user: u32, tries: Vec<Try>) -> Self {
        Self {
            setting: Some(setting),
            user,
            tries,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tries.is_empty()
    }

    /// Plays it, and tells what each attacker saw.
    pub(crate) fn play(&self, place: &Place) -> Result<Vec<(Key, Seen)>> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let space = Space::new().context("a network namespace")?;
        let here = Path::new(PLACE).join(format!("scenario-{number}"));
        fs::create_dir(&here)?;
        fs::set_permissions(&here, Permissions::from_mode(0o755))?;
        let name = format!("bystander-{number}");
        let bystander = bystander::Running::start(&space, self.user, &here, &name)?;
        let files = Files::in_directory(&here)?;
        let world = World {
            user: self.user,
            governed: self.setting.is_some(),
            bystander: bystander.known.clone(),
            helpers: place.helpers.clone(),
            log: files.log.clone(),
            map: place.map,
            pinned: place.pinned.clone(),
        };
        fs::write(&files.world, serde_json::to_vec(&world)?)?;
        let mut child = self
            .command(place, &space, &files)?
            .current_dir(&here)
            .stderr(File::create(&files.errors)?)
            .spawn()
            .context("cannot be started")?;
        let lines = self.follow(&mut child, &files);
        drop(child.stdin.take());
        let ended = ended(&mut child);
        let lines = lines.with_context(|| files.said())?;
        ended.with_context(|| files.said())?;
        Ok(self.saw(lines))
    }

    /// What is started.
    fn command(&self, place: &Place, space: &Space, files: &Files) -> Result<Command> {
        let orphan = self
            .tries
            .iter()
            .any(|a_try| a_try.row.setting == Setting::Orphaned);
        let acting = [
            files.world.as_os_str(),
            files.report.as_os_str(),
            if orphan { "orphan" } else { "-" }.as_ref(),
        ];
        let words = self.tries.iter().map(Try::word);
        let mut command = match self.setting {
            None => Actor::new("act", space, self.user).command(),
            Some(setting) => {
                let mut command = Actor::of(&place.capwarden, space).command();
                match setting {
                    Setting::Granted(options) => {
                        command
                            .arg("exec")
                            .args(GRANT)
                            .args(options.split_whitespace());
                    }
                    Setting::Orphaned => {
                        command.arg("exec").args(GRANT);
                    }
                    Setting::Bare | Setting::Bounded => {
                        let mut policy =
                            "version: 1\ntools: { nothing: { deny: \"nothing is asked for\" } }\n"
                                .to_owned();
                        if setting == Setting::Bounded {
                            policy += &format!("baseline: {{ connect: [ \"{BASELINE}\" ] }}\n");
                        }
                        fs::write(&files.policy, policy)?;
                        command
                            .args(["run", "--server", "attacks", "-p"])
                            .arg(&files.policy);
                        command.arg("--state").arg(&files.state);
                    }
                }
                command
                    .args(["--user", &self.user.to_string(), "--audit"])
                    .arg(&files.log);
                command.args(["--", PROGRAM, "act"]);
                command
            }
        };
        command.args(acting).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        Ok(command)
    }

    /// Reads the report as it is written.
    fn follow(&self, child: &mut Child, files: &Files) -> Result<Vec<Line>> {
        let start = Instant::now();
        let mut killed = false;
        loop {
            let gone = child.try_wait()?.is_some();
            let text = fs::read_to_string(&files.report)?;
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let lines = whole.lines().map(serde_json::from_str);
            let lines: Vec<Line> = lines.collect::<Result<_, _>>()?;
            if matches!(lines.last(), Some(Line::End)) {
                return Ok(lines);
            }
            if self.setting == Some(Setting::Orphaned)
                && !killed
                && matches!(lines.first(), Some(Line::Ready))
            {
                actors::end(child.id());
                killed = true;
            }
            if (gone && !killed) || start.elapsed() > PATIENCE {
                bail!(
                    "it ended before all was tried, after {} of them",
                    lines.len()
                );
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    fn saw(&self, lines: Vec<Line>) -> Vec<(Key, Seen)> {
        let governed = self.setting.is_some();
        let mut saw = Vec::new();
        for line in lines {
            if let Line::Saw { id, way, seen } = line
                && let Some(a_try) = self.tries.iter().find(|a_try| a_try.row.id == id)
            {
                saw.push(((a_try.row.id, way, self.user, governed), seen));
            }
        }
        saw
    }
}

/// Waits for an end; kills what does not come to one.
fn ended(child: &mut Child) -> Result<()> {
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!("it did not end when all was tried");
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// A scenario's files.
#[derive(Debug)]
struct Files {
    world: PathBuf,
    report: PathBuf,
    errors: PathBuf,
    policy: PathBuf,
    state: PathBuf,
    log: PathBuf,
}

impl Files {
    fn in_directory(here: &Path) -> Result<Self> {
        let files = Self {
            world: here.join("world.json"),
            report: here.join("report"),
            errors: here.join("errors"),
            policy: here.join("policy.yaml"),
            state: here.join("state"),
            log: here.join("audit.jsonl"),
        };
        // Attackers write there, whoever they are.
        File::create(&files.report)?;
        fs::set_permissions(&files.report, Permissions::from_mode(0o666))?;
        // Capwarden's, where it runs.
        File::create(&files.log)?;
        fs::set_permissions(&files.log, Permissions::from_mode(0o600))?;
        Ok(files)
    }

    fn said(&self) -> String {
        let said = fs::read_to_string(&self.errors).unwrap_or_default();
        let tail: Vec<&str> = said.lines().rev().take(12).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}
