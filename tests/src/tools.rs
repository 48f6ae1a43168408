//! Capture tools, what they wrote, and a probe that makes the system calls that no tool makes.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::{
    agent::{Exec, Running, workplace},
    netns::Namespace,
};

/// How long the probe may take to answer.
const ANSWER: Timespec = Timespec {
    tv_sec: 15,
    tv_nsec: 0,
};

/// A packet in a capture file.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The kernel's time stamp.
    pub time: SystemTime,
    /// What was captured.
    pub bytes: Vec<u8>,
    /// How long it was.
    pub original: u32,
}

/// Reads a pcap file (not pcapng) as it stands, which may be in the middle of a packet.
pub fn packets(file: &Path) -> Result<Vec<Packet>> {
    let bytes = fs::read(file).with_context(|| file.display().to_string())?;
    let (header, mut rest) = bytes
        .split_at_checked(24)
        .with_context(|| format!("{}: no header", file.display()))?;
    let nanoseconds_in_unit = match header {
        [0xd4, 0xc3, 0xb2, 0xa1, ..] => 1_000,
        [0x4d, 0x3c, 0xb2, 0xa1, ..] => 1,
        _ => bail!("{} is no little-endian pcap file", file.display()),
    };
    let mut packets = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk::<16>() {
        let mut words = head
            .chunks_exact(4)
            .filter_map(|word| Some(u32::from_le_bytes(word.try_into().ok()?)));
        let mut word = || words.next().context("a word is missing");
        let (seconds, fraction, captured, original) = (word()?, word()?, word()?, word()?);
        let Some((bytes, next)) = tail.split_at_checked(usize::try_from(captured)?) else {
            break;
        };
        packets.push(Packet {
            time: SystemTime::UNIX_EPOCH
                + Duration::from_secs(seconds.into())
                + Duration::from_nanos(u64::from(fraction) * nanoseconds_in_unit),
            bytes: bytes.to_vec(),
            original,
        });
        rest = next;
    }
    Ok(packets)
}

/// How many packets are in a capture file, as `capinfos` says.
pub fn capinfos_count(file: &Path) -> Result<u64> {
    let said = run("capinfos", &["-c", "-M", "-T", "-r"], file)?;
    // `path<TAB>count`
    let count = said.trim().rsplit('\t').next().unwrap_or_default();
    count.parse().with_context(|| said.clone())
}

/// How many lines `tcpdump -r` prints.
pub fn tcpdump_count(file: &Path) -> Result<u64> {
    lines(&run("tcpdump", &["-n", "-t", "-q", "-r"], file)?)
}

/// How many lines `tshark -r` prints.
pub fn tshark_count(file: &Path) -> Result<u64> {
    lines(&run("tshark", &["-n", "-r"], file)?)
}

fn lines(text: &str) -> Result<u64> {
    Ok(u64::try_from(text.lines().count())?)
}

fn run(program: &str, arguments: &[&str], file: &Path) -> Result<String> {
    let done = Command::new(program).args(arguments).arg(file).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{program}: {said}");
    Ok(String::from_utf8(done.stdout)?)
}

/// A file of `tests/scripts`, where nobody may read it.
pub fn script(name: &str, place: &Path) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("scripts")
        .join(name);
    let copy = place.join(name);
    fs::copy(&source, &copy).with_context(|| source.display().to_string())?;
    Ok(copy)
}

/// Debian's Python, which every governed user may execute.
pub const PYTHON: &str = "/usr/bin/python3";

const JUST_THIS: &str = "exec \"$0\" \"$1\"";

/// A governed Python that makes capture sockets as it is told.
#[derive(Debug)]
pub struct Probe<'a> {
    /// The agent around it.
    pub running: Running<'a>,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl<'a> Probe<'a> {
    /// Starts one under `capwarden exec <options>`.
    pub fn start(namespace: &'a Namespace, options: &str) -> Result<Self> {
        Self::start_with(Exec::new(namespace, options), JUST_THIS)
    }

    /// The same, with a filter in the grant.
    pub fn start_filtered(namespace: &'a Namespace, options: &str, filter: &str) -> Result<Self> {
        let exec = Exec::new(namespace, options).option("--filter", filter);
        Self::start_with(exec, JUST_THIS)
    }

    /// Starts one from a shell that is given `line`, in which `"$0" "$1"` is the probe.
    pub fn start_with(exec: Exec<'a>, line: &str) -> Result<Self> {
        let place = workplace()?;
        let script = script("probe.py", place.path())?;
        let command = [
            OsStr::new("sh"),
            "-c".as_ref(),
            line.as_ref(),
            PYTHON.as_ref(),
            script.as_os_str(),
        ];
        let mut running = exec.interactive().start_in(place, command)?;
        let pipes = running.child.stdin.take().zip(running.child.stdout.take());
        let (input, output) = pipes.context("no pipes")?;
        Ok(Self {
            running,
            input,
            output: BufReader::new(output),
        })
    }

    /// Has it do something: what came of it, or the error's name.
    pub fn attempt(&mut self, request: &Value) -> Result<Result<Value, String>> {
        self.tell(request)?;
        self.answer()
    }

    /// Has it begin something.
    pub fn tell(&mut self, request: &Value) -> Result<()> {
        Ok(writeln!(self.input, "{request}")?)
    }

    /// What came of what it was told to begin.
    pub fn answer(&mut self) -> Result<Result<Value, String>> {
        let mut line = String::new();
        if self.output.buffer().is_empty() {
            let mut ready = [PollFd::new(self.output.get_ref(), PollFlags::IN)];
            ensure!(
                poll(&mut ready, Some(&ANSWER))? > 0,
                "no answer: {}",
                self.running.stderr()
            );
        }
        self.output.read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line)
            .with_context(|| format!("{line:?}; {}", self.running.stderr()))?;
        if let Some(error) = answer.get("error").and_then(Value::as_str) {
            return Ok(Err(error.to_owned()));
        }
        Ok(Ok(answer.get("ok").cloned().unwrap_or_default()))
    }

    /// Has it do something that must succeed.
    pub fn ask(&mut self, request: &Value) -> Result<Value> {
        match self.attempt(request)? {
            Ok(answer) => Ok(answer),
            Err(error) => bail!("{request}: {error}"),
        }
    }

    /// Packets of socket number `socket`, as interface and bytes: waits for `count`, then takes
    /// what else there is.
    pub fn drain(&mut self, socket: usize, count: usize) -> Result<Vec<(String, Vec<u8>)>> {
        let answer = self.ask(&json!(["drain", socket, count, 5.0]))?;
        let packets: Vec<(String, String)> = serde_json::from_value(answer)?;
        packets
            .into_iter()
            .map(|(interface, hex)| Ok((interface, unhex(&hex)?)))
            .collect()
    }

    /// Ends it with a status.
    pub fn end(mut self, status: u8) -> Result<Running<'a>> {
        writeln!(self.input, "{}", json!(["exit", status]))?;
        Ok(self.running)
    }

    /// Gives it up: the shell and what else it started go on.
    pub fn release(self) -> Running<'a> {
        self.running
    }
}

fn unhex(hex: &str) -> Result<Vec<u8>> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
        .collect()
}

/// Whether `needle` is anywhere in `bytes`.
pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|part| part == needle)
}
