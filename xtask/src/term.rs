//! What the developer sees: each step by name, with its time; a ticker while it lasts on a
//! terminal, plain lines elsewhere.

use std::{
    io::{BufRead, BufReader, IsTerminal, Read, Write},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How often a line is printed for a long step where there is no terminal.
const PLAIN_TICK: Duration = Duration::from_secs(30);

/// How often the ticker moves on a terminal.
const TERMINAL_TICK: Duration = Duration::from_millis(120);

/// How many of a failed command's last lines are shown.
const TAIL: usize = 30;

/// Whether a person is looking.
pub(crate) fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Paints text for a terminal; leaves it alone elsewhere.
fn paint(code: &str, text: &str) -> String {
    if on_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Emphasis.
pub(crate) fn bold(text: &str) -> String {
    paint("1", text)
}

/// Asides.
pub(crate) fn dim(text: &str) -> String {
    paint("2", text)
}

/// The mark of what held, or of what did not.
pub(crate) fn mark(held: bool) -> String {
    if held {
        paint("32", "✓")
    } else {
        paint("31", "✗")
    }
}

/// A time for people: `0.4 s`, `2 min 05 s`.
pub(crate) fn elapsed(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}

/// The last words of a verb that failed.
pub(crate) fn failure(error: &anyhow::Error) {
    println!("{} {error:#}", mark(false));
}

/// What a step in progress can say and run.
pub(crate) struct Progress {
    last_line: Arc<Mutex<String>>,
}

impl Progress {
    /// For a step that nobody watches.
    pub(crate) fn quiet() -> Self {
        Self {
            last_line: Arc::default(),
        }
    }

    /// What is happening right now, shown behind the ticker.
    pub(crate) fn say(&self, line: &str) {
        if let Ok(mut last) = self.last_line.lock() {
            last.clear();
            last.push_str(line.trim());
        }
    }

    /// Runs a command without its output, of which the end is shown if it fails.
    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        self.lines(command).map(drop)
    }

    /// Runs a command and returns the lines it printed, both streams together.
    pub(crate) fn lines(&self, command: &mut Command) -> Result<Vec<String>> {
        let shown = shown(command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {shown}"))?;
        let lines = Mutex::new(Vec::new());
        thread::scope(|scope| {
            if let Some(stderr) = child.stderr.take() {
                scope.spawn(|| self.collect(stderr, &lines));
            }
            if let Some(stdout) = child.stdout.take() {
                self.collect(stdout, &lines);
            }
        });
        let status = child.wait()?;
        let lines = lines.into_inner().unwrap_or_default();
        if !status.success() {
            let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or(&[]);
            bail!("{shown}: {status}\n    {}", tail.join("\n    "));
        }
        Ok(lines)
    }

    fn collect(&self, stream: impl Read, lines: &Mutex<Vec<String>>) {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            self.say(&text);
            if let Ok(mut lines) = lines.lock() {
                lines.push(text);
            }
        }
    }
}

/// A command as a person would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Does one step: says what, keeps a ticker going, says how it went and how long it took.
pub(crate) fn step<T>(what: &str, work: impl FnOnce(&Progress) -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let progress = Progress::quiet();
    let (stop, ticker) = tick(what.to_owned(), start, Arc::clone(&progress.last_line));
    let done = work(&progress);
    drop(stop);
    let _ = ticker.join();
    println!(
        "{} {what} {}",
        mark(done.is_ok()),
        dim(&format!("({})", elapsed(start.elapsed())))
    );
    done
}

/// Runs a command that shows its own progress, between a headline and its time.
pub(crate) fn loud(what: &str, command: &mut Command) -> Result<()> {
    println!("{} {what}", bold("→"));
    let start = Instant::now();
    let shown = shown(command);
    let status = command
        .status()
        .with_context(|| format!("cannot run {shown}"))?;
    println!(
        "{} {what} {}",
        mark(status.success()),
        dim(&format!("({})", elapsed(start.elapsed())))
    );
    if !status.success() {
        bail!("{what} failed; again, alone: {shown}");
    }
    Ok(())
}

fn tick(
    what: String,
    start: Instant,
    last_line: Arc<Mutex<String>>,
) -> (Sender<()>, thread::JoinHandle<()>) {
    const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
    let (stop, stopped) = channel();
    let ticker = thread::spawn(move || {
        let terminal = on_terminal();
        let every = if terminal { TERMINAL_TICK } else { PLAIN_TICK };
        let mut frames = FRAMES.iter().cycle();
        while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            let time = elapsed(start.elapsed());
            if terminal {
                let frame = frames.next().unwrap_or(&"…");
                let room = 70_usize.saturating_sub(what.chars().count());
                let line: String = last_line
                    .lock()
                    .map(|line| {
                        line.chars()
                            .filter(|c| !c.is_control())
                            .take(room)
                            .collect()
                    })
                    .unwrap_or_default();
                print!("\r\x1b[2K{frame} {what}  {time}  {}", dim(&line));
                let _ = std::io::stdout().flush();
            } else {
                println!("… {what} ({time})");
            }
        }
        if terminal {
            print!("\r\x1b[2K");
            let _ = std::io::stdout().flush();
        }
    });
    (stop, ticker)
}
