//! The demo: a real MCP server behind `capwarden run`, real packets, each promise checked against
//! what is in the capture file, whatever the server or the gate said.

pub(crate) mod client;
mod screen;
mod traffic;

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::{house, root, term};
use client::{Answer, Client};
use screen::Screen;

const SERVER: &str = "awslabs.pcap-analyzer-mcp-server";

/// Policies, as they would stand in an operator's `/etc`.
const CAPS: (&str, &str) = ("caps.yaml", include_str!("caps.yaml"));
const DEADLINE: (&str, &str) = ("deadline.yaml", include_str!("deadline.yaml"));

/// What `caps.yaml` grants.
const GRANTED_PACKETS: usize = 1000;
/// What `deadline.yaml` grants.
const GRANTED_TIME: Duration = Duration::from_secs(3);
/// How much later than the deadline a packet may be stamped: clocks are read at different places.
const CLOCK_SLACK: Duration = Duration::from_millis(50);

/// A capture tool needs about half a second to come up, more on a busy host.
const START_UP: Duration = Duration::from_secs(8);
/// A file is complete if it has not grown for this long.
const QUIET: Duration = Duration::from_millis(800);

/// Plays it. `Err` if anything did not hold.
pub(crate) fn play() -> Result<()> {
    let start = Instant::now();
    let stage = Stage::set()?;
    println!();
    println!(
        "{}",
        term::bold("A language model may start packet captures here. This is what it gets.")
    );
    println!(
        "  server   {SERVER}, as uid {}, without any capability",
        stage.uid
    );
    println!("  traffic  made by this demo, on loopback");
    println!("  files    {}", stage.dir.display());

    let mut screen = Screen::default();
    let done = scenes(&stage, &mut screen);
    stage.strike();
    if let Err(error) = done {
        println!();
        stage.print_log();
        return Err(error.context("the demo could not go on"));
    }
    println!();
    println!(
        "{} {} of {} held, in {}",
        term::mark(screen.all_held()),
        screen.held,
        screen.shown,
        term::elapsed(start.elapsed())
    );
    if !screen.all_held() {
        stage.print_log();
        bail!(
            "a promise did not hold on this host; its limits: {} doctor",
            house::capwarden().display()
        );
    }
    println!("  policy and logs to read: {}", stage.dir.display());
    Ok(())
}

fn scenes(stage: &Stage, screen: &mut Screen) -> Result<()> {
    let mut server = stage.serve(CAPS)?;
    packet_cap(stage, &mut server, screen)?;
    payload(stage, &mut server, screen)?;
    interface(stage, &mut server, screen)?;
    filter(&mut server, screen)?;
    server.close()?;
    let mut server = stage.serve(DEADLINE)?;
    deadline_scene(stage, &mut server, screen)?;
    server.close()?;
    audit(stage, screen)
}

fn packet_cap(stage: &Stage, server: &mut Client, screen: &mut Screen) -> Result<()> {
    screen.scene("A packet cap is exact");
    let udp = traffic::Udp::new()?;
    let capture = Capture::start(
        stage,
        server,
        screen,
        &json!({ "interface": "lo", "duration": 30, "capture_filter": format!("udp port {}", udp.port()?) }),
    )?;
    let sent = udp.flood(5000);
    screen.say("traffic", &format!("{sent} UDP packets to 127.0.0.1"));
    let packets = capture.finish(server, screen)?;
    screen.say(
        "tshark -r",
        &format!("{} packets in the file", packets.len()),
    );
    screen.verdict(
        sent > 4000 && packets.len() == GRANTED_PACKETS,
        &format!(
            "{GRANTED_PACKETS} packets were granted, {sent} were sent, {} are in the file.",
            packets.len()
        ),
    );
    Ok(())
}

fn payload(stage: &Stage, server: &mut Client, screen: &mut Screen) -> Result<()> {
    screen.scene("Headers only: a password that crosses the wire does not reach the file");
    let web = traffic::Web::new()?;
    let capture = Capture::start(
        stage,
        server,
        screen,
        &json!({ "interface": "lo", "duration": 30, "capture_filter": format!("tcp port {}", web.port()?) }),
    )?;
    let crossed = web.log_in()?;
    screen.say(
        "traffic",
        &format!(
            "GET /account with Authorization: Basic {}",
            traffic::CREDENTIAL
        ),
    );
    let file = capture.file.clone();
    let packets = capture.finish(server, screen)?;
    let trimmed = packets.iter().filter(|p| p.captured < p.length).count();
    let leaked = traffic::contains(&fs::read(&file)?, traffic::CREDENTIAL.as_bytes());
    screen.say(
        "tshark -r",
        &format!(
            "{} packets, {trimmed} of them with their payload cut off",
            packets.len()
        ),
    );
    // A connection: three packets to open it, two with data, and those that close it.
    screen.verdict(
        crossed && !leaked && trimmed >= 2 && packets.len() >= 6,
        &format!(
            "The web server {} the credential; the capture file, with all {} packets, {} it.",
            if crossed { "read" } else { "did not read" },
            packets.len(),
            if leaked {
                "CONTAINS"
            } else {
                "does not contain"
            }
        ),
    );
    Ok(())
}

fn interface(stage: &Stage, server: &mut Client, screen: &mut Screen) -> Result<()> {
    screen.scene("Another interface is refused, and the model is told what it may use");
    // The host's own network if it has one: a name that exists is the better attempt.
    let other = fs::read_dir("/sys/class/net")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name != "lo")
        .unwrap_or_else(|| "eth0".to_owned());
    let files = stage.captures()?;
    let answer = ask(
        server,
        screen,
        &json!({ "interface": other, "duration": 5 }),
    )?;
    let refused = answer.failed && answer.field("capture_id").is_none();
    let unchanged = stage.captures()? == files;
    screen.verdict(
        refused && unchanged && answer.text().contains("lo"),
        &format!(
            "{other} was {}, and {}.",
            if refused { "refused" } else { "NOT refused" },
            if unchanged {
                "no capture was started"
            } else {
                "a capture file appeared"
            }
        ),
    );
    Ok(())
}

fn filter(server: &mut Client, screen: &mut Screen) -> Result<()> {
    screen.scene("A mistake in a capture filter comes back at once, in libpcap's words");
    let answer = ask(
        server,
        screen,
        &json!({ "interface": "lo", "duration": 5, "capture_filter": "tcp prot 80" }),
    )?;
    let told = answer.failed && answer.text().contains("syntax error");
    screen.verdict(
        told,
        if told {
            "The model can correct itself; the server alone would have answered “started”."
        } else {
            "libpcap's “syntax error” did not reach the model."
        },
    );
    Ok(())
}

fn deadline_scene(stage: &Stage, server: &mut Client, screen: &mut Screen) -> Result<()> {
    screen.scene("A deadline holds, though the server was asked for ten minutes");
    let udp = traffic::Udp::new()?;
    let capture = Capture::start(
        stage,
        server,
        screen,
        &json!({ "interface": "lo", "duration": 600, "capture_filter": format!("udp port {}", udp.port()?) }),
    )?;
    let deadline = capture.answered + GRANTED_TIME + CLOCK_SLACK;
    let time = GRANTED_TIME + Duration::from_secs(2);
    let sent = udp.tick(time);
    let traffic_end = SystemTime::now();
    screen.say(
        "traffic",
        &format!("{sent} UDP packets in {} s", time.as_secs()),
    );
    let answered = capture.answered;
    let packets = capture.finish(server, screen)?;
    let last = packets.last().map(|packet| packet.time);
    let seconds_to = |time: SystemTime| {
        time.duration_since(answered)
            .unwrap_or_default()
            .as_secs_f64()
    };
    let shown = last.map_or("none".to_owned(), |time| {
        format!("{:.2} s", seconds_to(time))
    });
    screen.say(
        "tshark -r",
        &format!(
            "{} packets; the last one {shown} after the reply",
            packets.len()
        ),
    );
    screen.verdict(
        traffic_end > deadline && last.is_some_and(|last| last <= deadline),
        &format!(
            "{} s were granted; packets went on for {:.1} s, and the last one in the file came after {shown}.",
            GRANTED_TIME.as_secs(),
            seconds_to(traffic_end)
        ),
    );
    Ok(())
}

fn audit(stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.scene("The audit log is a chain: complete, and it shows if a byte is changed");
    let (verified, words) = stage.verify(&stage.audit())?;
    screen.say("verify", &words);

    let mut bytes = fs::read(stage.audit())?;
    let middle = bytes.len() / 2;
    let digit = bytes
        .iter_mut()
        .skip(middle)
        .find(|byte| byte.is_ascii_digit())
        .ok_or_else(|| anyhow!("no digit in the second half of the audit log"))?;
    *digit = if *digit == b'9' { b'8' } else { *digit + 1 };
    let changed = stage.dir.join("audit-changed.jsonl");
    fs::write(&changed, bytes)?;
    let (accepted, words) = stage.verify(&changed)?;
    screen.say("one digit", &words);
    screen.verdict(
        verified && !accepted,
        match (verified, accepted) {
            (true, false) => {
                "The log of both runs verifies; a copy with one digit changed does not."
            }
            (true, true) => "A copy with one digit changed still verifies.",
            (false, _) => "The log does not verify.",
        },
    );
    Ok(())
}

/// A capture that the server was asked for and that has come up.
struct Capture {
    id: Option<String>,
    file: PathBuf,
    /// When the client had the answer.
    answered: SystemTime,
}

impl Capture {
    fn start(
        stage: &Stage,
        server: &mut Client,
        screen: &mut Screen,
        arguments: &Value,
    ) -> Result<Self> {
        // The server names captures by the second.
        thread::sleep(Duration::from_secs(1));
        let answer = ask(server, screen, arguments)?;
        let answered = SystemTime::now();
        let Some(file) = answer.field("output_file") else {
            bail!("the server started no capture: {}", answer.text());
        };
        let file = stage.storage.join(
            Path::new(&file)
                .file_name()
                .ok_or_else(|| anyhow!("{file} names no file"))?,
        );
        // The file's header is written when the capture is live.
        let start = Instant::now();
        while fs::metadata(&file).map_or(0, |found| found.len()) == 0 {
            if start.elapsed() > START_UP {
                bail!("no packet capture came up within {START_UP:?} of the reply");
            }
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(Duration::from_millis(300));
        Ok(Self {
            id: answer.field("capture_id"),
            file,
            answered,
        })
    }

    /// Waits until the file is complete, says the goodbye that the server expects, and reads it.
    fn finish(self, server: &mut Client, screen: &mut Screen) -> Result<Vec<Packet>> {
        self.settle();
        for told in server.told() {
            screen.say("told", &told);
        }
        server.call("stop_packet_capture", &json!({ "capture_id": self.id }))?;
        self.settle();
        read(&self.file)
    }

    fn settle(&self) {
        let size = || fs::metadata(&self.file).map_or(0, |found| found.len());
        let start = Instant::now();
        let (mut last, mut since) = (size(), Instant::now());
        while since.elapsed() < QUIET && start.elapsed() < START_UP {
            thread::sleep(Duration::from_millis(50));
            let now = size();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }
}

fn ask(server: &mut Client, screen: &mut Screen, arguments: &Value) -> Result<Answer> {
    let words: Vec<String> = arguments
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    screen.say("asked", &words.join("  "));
    let answer = server.call("start_packet_capture", arguments)?;
    screen.say("answered", &answer.text());
    Ok(answer)
}

/// One packet of a capture file, as tshark reads it.
struct Packet {
    time: SystemTime,
    length: u64,
    captured: u64,
}

fn read(file: &Path) -> Result<Vec<Packet>> {
    let done = Command::new("tshark")
        .args(["-n", "-r"])
        .arg(file)
        .args(["-T", "fields"])
        .args([
            "-e",
            "frame.time_epoch",
            "-e",
            "frame.len",
            "-e",
            "frame.cap_len",
        ])
        .stdin(Stdio::null())
        .output()
        .context("cannot run tshark")?;
    if !done.status.success() {
        bail!(
            "tshark cannot read {}: {}",
            file.display(),
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    let text = String::from_utf8(done.stdout)?;
    text.lines()
        .map(|line| {
            let mut fields = line.split('\t');
            let packet = (|| {
                let seconds: f64 = fields.next()?.parse().ok()?;
                Some(Packet {
                    time: SystemTime::UNIX_EPOCH + Duration::try_from_secs_f64(seconds).ok()?,
                    length: fields.next()?.parse().ok()?,
                    captured: fields.next()?.parse().ok()?,
                })
            })();
            packet.ok_or_else(|| anyhow!("tshark printed {line:?}"))
        })
        .collect()
}

/// Where the demo plays: a throw-away directory, a part of it for the governed server.
struct Stage {
    dir: PathBuf,
    storage: PathBuf,
    uid: u32,
}

impl Stage {
    fn set() -> Result<Self> {
        let dir = house::public()?.join("demo");
        let storage = dir.join("captures");
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        fs::create_dir_all(&storage)
            .with_context(|| format!("cannot make {}", storage.display()))?;
        let uid = root::unprivileged();
        chown(&storage, Some(uid), Some(uid))?;
        Ok(Self { dir, storage, uid })
    }

    /// Starts `capwarden run` in front of the server, as an MCP client's configuration would.
    fn serve(&self, (name, policy): (&str, &str)) -> Result<Client> {
        let policy_file = self.dir.join(name);
        fs::write(&policy_file, policy)?;
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut capwarden = Command::new(house::capwarden());
        capwarden
            .arg("run")
            .arg("-p")
            .arg(&policy_file)
            .arg("--audit")
            .arg(self.audit())
            .arg("--state")
            .arg(self.dir.join("state"))
            .arg("--user")
            .arg(self.uid.to_string())
            .arg("--")
            .arg(house::venv()?.join("bin").join(SERVER))
            .env("PCAP_STORAGE_DIR", &self.storage)
            .env("HOME", &self.storage)
            .current_dir(&self.dir)
            .stderr(log);
        Client::start(&mut capwarden).context("capwarden run")
    }

    /// Whether an audit log verifies, and what capwarden says about it.
    fn verify(&self, log: &Path) -> Result<(bool, String)> {
        let done = Command::new(house::capwarden())
            .args([OsStr::new("audit"), OsStr::new("verify"), log.as_os_str()])
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .output()
            .context("cannot run capwarden audit verify")?;
        let words = [done.stdout, done.stderr].concat();
        let words = String::from_utf8_lossy(&words);
        Ok((
            done.status.success(),
            words.split_whitespace().collect::<Vec<_>>().join(" "),
        ))
    }

    fn captures(&self) -> Result<Vec<PathBuf>> {
        let mut files = fs::read_dir(&self.storage)?
            .map(|entry| Ok(entry?.path()))
            .filter(|path| !matches!(path, Ok(path) if path.extension() != Some("pcap".as_ref())))
            .collect::<Result<Vec<_>>>()?;
        files.sort();
        Ok(files)
    }

    fn audit(&self) -> PathBuf {
        self.dir.join("audit.jsonl")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("capwarden.log")
    }

    fn print_log(&self) {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(15)..).unwrap_or(&[]);
        println!("  the end of {}:", self.log().display());
        for line in tail {
            println!("    {line}");
        }
    }

    /// Gives everything to the user who called sudo.
    fn strike(&self) {
        let owner = root::invoker();
        let mut left = vec![self.dir.clone()];
        while let Some(path) = left.pop() {
            if let Ok(entries) = fs::read_dir(&path) {
                left.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
            }
            let _ = std::os::unix::fs::lchown(&path, Some(owner), None);
        }
    }
}
