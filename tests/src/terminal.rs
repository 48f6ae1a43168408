//! Verbs that draw on a terminal.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{
    agent::{capwarden, exited, wait_for},
    mcp::PATIENCE,
};

/// A verb, or a shell, on a terminal of its own, with 40 lines of 150 columns, as `script` makes one.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    /// What it has drawn so far.
    drawn: PathBuf,
    _place: TempDir,
}

/// A shell that completes on a terminal.
#[derive(Clone, Copy, Debug)]
pub enum Shell {
    /// GNU bash.
    Bash,
    /// The Z shell.
    Zsh,
}

impl Terminal {
    /// Starts a verb on it.
    pub fn new(words: &str) -> Result<Self> {
        let program = capwarden()?;
        // What the terminal is like before and after is in the same file.
        let line = format!(
            "stty -g; '{}' {words}; echo \"left $?\"; stty -g",
            program.display()
        );
        Self::start(tempfile::tempdir()?, &line)
    }

    /// Starts a shell on it, which completes what `capwarden completions` says, and finds the program in its PATH.
    pub fn shell(shell: Shell) -> Result<Self> {
        let place = tempfile::tempdir()?;
        let program = capwarden()?;
        symlink(&program, place.path().join("capwarden"))?;
        let (name, before, file) = match shell {
            Shell::Bash => ("bash", "", "start"),
            Shell::Zsh => ("zsh", "autoload -Uz compinit; compinit -u -D\n", ".zshrc"),
        };
        let script = Command::new(&program)
            .args(["completions", name])
            .output()?;
        let mut start = before.as_bytes().to_vec();
        start.extend(script.stdout);
        let (place_path, file) = (place.path().display(), place.path().join(file));
        writeln!(start, "PATH='{place_path}':$PATH; PS1='> '")?;
        fs::write(&file, start)?;
        let started = match shell {
            Shell::Bash => format!("bash --noprofile --rcfile '{}' -i", file.display()),
            Shell::Zsh => format!("env ZDOTDIR='{place_path}' zsh -d -i"),
        };
        // On a terminal that can do little, it writes its line anew, which is read as it stands.
        Self::start(place, &format!("export TERM=dumb; exec {started}"))
    }

    fn start(place: TempDir, line: &str) -> Result<Self> {
        let drawn = place.path().join("drawn");
        let line = format!("stty rows 40 cols 150; {line}");
        let mut script = Command::new("script");
        script.args(["-q", "-f", "-c", &line]).arg(&drawn);
        let child = script
            .env("TERM", "xterm-256color")
            .env_remove("SUDO_UID")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self {
            child,
            drawn,
            _place: place,
        })
    }

    /// Types these.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("no input")?;
        input.write_all(keys.as_bytes())?;
        Ok(input.flush()?)
    }

    fn drawn(&self) -> String {
        let bytes = fs::read(&self.drawn).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until these words stand in a line of the screen.
    pub fn shows(&self, words: &str) -> Result<()> {
        wait_for(&format!("{words:?} on the screen"), PATIENCE, || {
            Ok(screen(&self.drawn()).contains(words).then_some(()))
        })
        .with_context(|| screen(&self.drawn()))
    }

    /// The process of `script`, whose child is the shell, whose child is the verb.
    pub fn script(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the verb has left with this status, and the terminal is as it was.
    pub fn left(mut self, status: &str) -> Result<()> {
        let words = format!("left {status}");
        wait_for(&words, PATIENCE, || {
            Ok(self.drawn().contains(&words).then_some(()))
        })
        .with_context(|| self.drawn())?;
        exited(&mut self.child, PATIENCE)?;
        let drawn = self.drawn();
        let modes = drawn.lines().map(str::trim).filter(|line| {
            line.matches(':').count() > 8
                && line
                    .bytes()
                    .all(|byte| byte.is_ascii_hexdigit() || byte == b':')
        });
        let modes: Vec<&str> = modes.collect();
        let same = matches!(modes.as_slice(), [before, after] if before == after);
        ensure!(same, "{modes:?}: {drawn:?}");
        ensure!(drawn.contains("\u{1b}[?1049l"), "the other screen is left");
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What stands on a screen of 40 lines after all this was written to it: only what has changed is.
fn screen(drawn: &str) -> String {
    let mut cells = vec![[' '; 150]; 40];
    let (mut row, mut column) = (0, 0);
    // The first line is `script`'s own, and was on no screen.
    let mut rest = drawn.split_once('\n').map_or("", |(_, rest)| rest).chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => {
                if rest.next() != Some('[') {
                    continue;
                }
                let mut numbers = String::new();
                let last = rest.find(|c| {
                    numbers.push(*c);
                    c.is_ascii_alphabetic()
                });
                let mut numbers = numbers.split(|c: char| !c.is_ascii_digit()).map(str::parse);
                let mut number = || numbers.next().and_then(Result::ok).unwrap_or(1_usize);
                match last {
                    Some('H') => {
                        (row, column) = (number().saturating_sub(1), number().saturating_sub(1));
                    }
                    Some('J') => cells = vec![[' '; 150]; 40],
                    _ => {}
                }
            }
            '\r' => column = 0,
            '\n' => row += 1,
            c if !c.is_control() => {
                if let Some(cell) = cells.get_mut(row).and_then(|row| row.get_mut(column)) {
                    *cell = c;
                }
                column += 1;
            }
            _ => {}
        }
    }
    let rows = cells
        .iter()
        .map(|row| row.iter().collect::<String>() + "\n");
    rows.collect()
}
