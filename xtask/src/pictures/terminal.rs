//! A terminal with a shell on it, and somebody who types; what it shows is recorded.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::Path,
    process::{Child, Command},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use super::cast::{Came, Cast};

/// Between two keys, and before the one that ends a line.
const KEY: Duration = Duration::from_millis(45);
const BEFORE_RETURN: Duration = Duration::from_millis(350);

/// What is waited for comes within this time: the demo of `cargo xtask run` takes half a minute.
const PATIENCE: Duration = Duration::from_secs(90);

/// What the shell is told first: a prompt without names, and nothing that is not of the recorded story.
const SHELL: &str = "PS1='\\[\\e[1;34m\\]#\\[\\e[0m\\] '; unset HISTFILE\n\
                     bind 'set enable-bracketed-paste off' 2>/dev/null\n";

/// How a terminal is to look.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) columns: u16,
    pub(super) rows: u16,
}

/// The terminal.
pub(super) struct Terminal {
    size: Size,
    keys: File,
    shell: Child,
    shown: Arc<Mutex<Shown>>,
}

struct Shown {
    began: Instant,
    came: Vec<(u64, Came)>,
    screen: vt100::Parser,
}

impl Shown {
    fn came(&mut self, came: Came) {
        let at = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Came::Bytes(bytes) = &came {
            self.screen.process(bytes);
        }
        self.came.push((at, came));
    }
}

impl Terminal {
    /// Opens one, with a shell that has told its prompt, in this directory and with this search path.
    /// `also` is for the shell, before anybody looks.
    pub(super) fn open(size: Size, directory: &Path, path: &str, also: &str) -> Result<Self> {
        let own = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("no terminal")?;
        grantpt(&own)?;
        unlockpt(&own)?;
        let theirs = File::from(ioctl_tiocgptpeer(
            &own,
            OpenptFlags::RDWR | OpenptFlags::NOCTTY,
        )?);
        tcsetwinsize(
            &own,
            Winsize {
                ws_row: size.rows,
                ws_col: size.columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )?;
        let startup = directory.join(".pictures-shell");
        std::fs::write(&startup, format!("{SHELL}{also}"))?;
        // The terminal is to be the shell's own, so that keys that interrupt reach what it runs.
        let mut shell = Command::new("setsid");
        shell
            .args(["--ctty", "--wait", "bash", "--noprofile", "--rcfile"])
            .arg(&startup)
            .arg("-i")
            .env_clear()
            .env("PATH", path)
            .env("HOME", directory)
            .env("TERM", "xterm-256color")
            .env("LANG", "C.UTF-8")
            .current_dir(directory)
            .stdin(theirs.try_clone()?)
            .stdout(theirs.try_clone()?)
            .stderr(theirs);
        let child = shell.spawn().context("cannot run setsid")?;
        // Holds the other ends of the terminal, which is to end with its shell.
        drop(shell);
        let mut out = File::from(own);
        let keys = out.try_clone()?;
        let shown = Arc::new(Mutex::new(Shown {
            began: Instant::now(),
            came: Vec::new(),
            screen: vt100::Parser::new(size.rows, size.columns, 0),
        }));
        let into = Arc::clone(&shown);
        thread::spawn(move || {
            let mut part = [0; 8_192];
            while let Ok(read @ 1..) = out.read(&mut part) {
                let bytes = part.get(..read).unwrap_or_default().to_vec();
                let mut shown = into.lock().unwrap_or_else(PoisonError::into_inner);
                shown.came(Came::Bytes(bytes));
            }
        });
        let terminal = Self {
            size,
            keys,
            shell: child,
            shown,
        };
        terminal.shows("#")?;
        terminal.pause(600);
        Ok(terminal)
    }

    /// Types a command as a person does, and has it run.
    pub(super) fn types(&mut self, line: &str) -> Result<()> {
        for key in line.chars() {
            self.press(&key.to_string())?;
            thread::sleep(KEY);
        }
        thread::sleep(BEFORE_RETURN);
        self.press("\r")
    }

    /// Presses these keys at once.
    pub(super) fn press(&mut self, keys: &str) -> Result<()> {
        self.keys.write_all(keys.as_bytes())?;
        Ok(self.keys.flush()?)
    }

    /// Lets this many milliseconds pass.
    pub(super) fn pause(&self, milliseconds: u64) {
        thread::sleep(Duration::from_millis(milliseconds));
    }

    /// Waits until these words are on the screen.
    pub(super) fn shows(&self, words: &str) -> Result<()> {
        self.shows_one(&[words])
    }

    /// The same of one of several.
    pub(super) fn shows_one(&self, words: &[&str]) -> Result<()> {
        self.shows_as(&words.join(" or "), |screen| {
            words.iter().any(|words| screen.contains(words))
        })
    }

    /// Waits until the last line with anything in it is an empty prompt: what was typed has ended.
    pub(super) fn prompts(&self) -> Result<()> {
        self.shows_as("the prompt", |screen| {
            screen.trim_end().lines().next_back() == Some("#")
        })
    }

    /// Everything that was written to it so far, as it came.
    pub(super) fn said(&self) -> String {
        let shown = self.lock();
        let bytes = shown.came.iter().filter_map(|(_, came)| match came {
            Came::Bytes(bytes) => Some(bytes.as_slice()),
            Came::Marker => None,
        });
        String::from_utf8_lossy(&bytes.collect::<Vec<_>>().concat()).into_owned()
    }

    fn shows_as(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let start = Instant::now();
        loop {
            let screen = self.lock().screen.screen().contents();
            if wanted(&screen) {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                bail!("waited for {what:?} on this screen:\n{screen}");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What is on the screen shows what the recording is for.
    pub(super) fn marks(&self) {
        self.lock().came(Came::Marker);
    }

    /// Ends it; the recording, without what the shell says of its end.
    pub(super) fn recorded(mut self, title: &str) -> Result<Cast> {
        let cast = {
            let shown = self.lock();
            Cast::recorded(title, self.size.columns, self.size.rows, &shown.came)
        };
        self.press("\x04")?;
        self.shell.wait()?;
        Ok(cast)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
