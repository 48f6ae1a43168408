//! A place for one test: a directory, a network namespace, `capwarden run` with a server in them,
//! and what they leave behind.

use std::{
    collections::BTreeSet,
    env, fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    agent::{NOBODY, capwarden, from_environment, venv_python, wait_for},
    mcp::{Client, Message, PATIENCE},
    space::Space,
    tools::capinfos_count,
};

/// A policy for the server that does what it is told: captures of so many.
pub const TWENTY_PACKETS: &str = "version: 1
default: deny
tools:
  echo: allow
  capture:
    capture:
      from: { interface: interface, filter: filter }
      interfaces: [ lo ]
      packets: 20
      seconds: 60
  stop: { ends: capture }
";

/// A real server, which captures with tshark.
pub const AWSLABS: &str = "awslabs.pcap-analyzer-mcp-server";

/// Whom governed servers run as: the user who called sudo, or nobody.
pub fn user() -> u32 {
    let caller = env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok());
    caller.filter(|uid| *uid != 0).unwrap_or(NOBODY)
}

/// A user's home, or what a user without an account has in its place.
fn home(user: u32) -> Result<String> {
    let passwd = fs::read_to_string("/etc/passwd")?;
    let fields = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>());
    let mut homes = fields.filter(|fields| fields.get(2) == Some(&user.to_string().as_str()));
    let home = homes.next().and_then(|fields| fields.get(5).copied());
    Ok(home.unwrap_or("/nonexistent").to_owned())
}

/// A program of the Python environment.
pub fn python(program: &str) -> Result<PathBuf> {
    Ok(venv_python()?.with_file_name(program))
}

/// Node.
pub fn node() -> Result<PathBuf> {
    suite("bin/node")
}

/// A part of what `cargo xtask setup` installs for the conformance suite.
pub fn suite(part: &str) -> Result<PathBuf> {
    Ok(from_environment("CAPWARDEN_SUITE")?.join(part))
}

/// A program beside the intercepting proxy.
pub fn proxies(program: &str) -> Result<PathBuf> {
    Ok(from_environment("CAPWARDEN_PROXIES")?
        .join("bin")
        .join(program))
}

/// A directory that everybody may look into.
pub fn directory() -> Result<TempDir> {
    let open = fs::Permissions::from_mode(0o755);
    let mut builder = tempfile::Builder::new();
    Ok(builder.prefix("cwsrv-").permissions(open).tempdir()?)
}

/// The stage of one test.
#[derive(Debug)]
pub struct Stage {
    dir: TempDir,
    /// The network.
    pub space: Space,
}

impl Stage {
    /// Sets one.
    pub fn new() -> Result<Self> {
        let dir = directory()?;
        let captures = dir.path().join("captures");
        fs::create_dir(&captures)?;
        chown(&captures, Some(user()), None)?;
        let space = Space::new()?;
        Ok(Self { dir, space })
    }

    /// A file on it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file in the directory that the server may write to.
    pub fn capture(&self, name: &str) -> PathBuf {
        self.path("captures").join(name)
    }

    /// Writes a file that everybody may read.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// What carries a client's pipes to a Unix socket.
    pub fn bridge(&self, socket: &Path) -> Result<Command> {
        const BRIDGE: &str = include_str!("../scripts/bridge.py");
        let mut command = Command::new(python("python3")?);
        command.arg(self.write("bridge.py", BRIDGE)?).arg(socket);
        Ok(command)
    }

    /// `capwarden run` with this policy in front of a server, before the first word.
    pub fn run(&self, policy: &str, server: &[&Path]) -> Result<Client> {
        self.run_with(policy, &[], server)
    }

    /// The same with more options. Without a server, none is started.
    pub fn run_with(&self, policy: &str, options: &[&str], server: &[&Path]) -> Result<Client> {
        let policy = self.write("policy.yaml", policy)?;
        let mut command = self.space.command(capwarden()?);
        command.arg("run").arg("-p").arg(policy);
        command.arg("--audit").arg(self.path("audit.jsonl"));
        command.arg("--state").arg(self.path("state"));
        command.args(options);
        if !server.is_empty() {
            command.arg("--user").arg(user().to_string());
            command.arg("--").args(server);
        }
        self.dress(&mut command);
        Client::start(&mut command, &self.path("stderr"))
    }

    /// Makes a grant for servers that are started as this program, and returns its token.
    pub fn grant(&self, name: &str, server: &str) -> Result<String> {
        self.verb(&["grant", "create", name, "--server", server])
    }

    /// What a verb prints that works on the state.
    pub fn verb(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(capwarden()?);
        command.args(words).arg("--state").arg(self.path("state"));
        let done = command.output()?;
        let errors = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{errors}");
        Ok(String::from_utf8(done.stdout)?.trim().to_owned())
    }

    /// Waits until somebody listens on a port of the space.
    pub fn listening_on(&self, port: u16) -> Result<()> {
        wait_for("a listener", PATIENCE, || {
            let mut command = self.space.command("ss");
            let port = port.to_string();
            let done = command.args(["-Hltn", "sport", "=", &port]).output()?;
            Ok((!done.stdout.is_empty()).then_some(()))
        })
        .with_context(|| self.stderr().unwrap_or_default())
    }

    /// The server alone, as the same user.
    pub fn direct(&self, server: &[&Path]) -> Result<Client> {
        let mut command = self.space.command("setpriv");
        command.arg(format!("--reuid={}", user()));
        command.args(["--clear-groups", "--inh-caps=-all"]);
        command.arg("--").args(server);
        self.dress(&mut command);
        command.env("HOME", home(user())?);
        Client::start(&mut command, &self.path("direct-stderr"))
    }

    fn dress(&self, command: &mut Command) {
        command
            .env("PCAP_STORAGE_DIR", self.path("captures"))
            .env("WIRESHARK_MCP_ALLOWED_DIRS", self.path("captures"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env_remove("CAPWARDEN_LOG")
            .current_dir(self.path("captures"));
    }

    /// What the agent wrote to standard error; it must not have panicked.
    pub fn stderr(&self) -> Result<String> {
        let text = fs::read(self.path("stderr"))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        ensure!(!text.contains("panicked"), "it panicked: {text}");
        Ok(text)
    }

    /// The records of one kind in the audit log, as it is now.
    pub fn audit(&self, kind: &str) -> Result<Vec<Value>> {
        let Ok(text) = fs::read_to_string(self.path("audit.jsonl")) else {
            return Ok(Vec::new());
        };
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let records = whole.lines().map(serde_json::from_str::<Value>);
        let records: Vec<Value> = records.collect::<Result<_, _>>()?;
        let wanted = |record: &Value| record.get("kind").and_then(Value::as_str) == Some(kind);
        Ok(records.into_iter().filter(wanted).collect())
    }

    /// The records of one kind, once there are so many: an answer may be quicker than the disk.
    pub fn audited(&self, kind: &str, count: usize) -> Result<Vec<Value>> {
        wait_for(&format!("{count} records of {kind}"), PATIENCE, || {
            let records = self.audit(kind)?;
            Ok((records.len() >= count).then_some(records))
        })
    }

    /// The record of a session's end.
    pub fn end_record(&self, session: &str) -> Result<Value> {
        wait_for(&format!("the record of {session}'s end"), PATIENCE, || {
            let ends = self.audit("session-ended")?;
            let mine = |end: &Value| text(end, "session") == session;
            Ok(ends.into_iter().find(mine))
        })
    }

    /// The audit log verifies, nothing in it is left open, and its last word is the agent's own.
    pub fn audit_is_closed(&self, why: &str, status: Option<i64>) -> Result<()> {
        let stopped = self.audit("agent-stopped")?;
        let last = stopped
            .last()
            .context("the agent did not say why it stopped")?;
        ensure!(text(last, "why") == why, "{last}");
        ensure!(
            last.get("status").and_then(Value::as_i64) == status,
            "{last}"
        );
        let mut verify = Command::new(capwarden()?);
        verify.args(["audit", "verify", "--json"]);
        let done = verify.arg(self.path("audit.jsonl")).output()?;
        let words = String::from_utf8_lossy(&done.stdout);
        ensure!(done.status.success(), "{words}");
        let report: Value = serde_json::from_str(&words)?;
        ensure!(
            report.get("warnings").and_then(Value::as_u64) == Some(0),
            "{words}"
        );
        let open = report.get("open").and_then(Value::as_array);
        ensure!(open.is_some_and(Vec::is_empty), "{words}");
        Ok(())
    }

    /// Processes that were started for this stage, but for these.
    pub fn processes(&self, but: &[u32]) -> Result<BTreeSet<u32>> {
        let here = self.dir.path().to_string_lossy().into_owned();
        let mut found = BTreeSet::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let mentions = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(&here);
            if !but.contains(&pid) && (mentions(&line) || mentions(&environment)) {
                found.insert(pid);
            }
        }
        Ok(found)
    }

    /// Answers each connection to this port, for as long as the test runs.
    pub fn serve(&self, port: u16, answer: fn(TcpStream) -> Result<()>) -> Result<()> {
        let listener = self
            .space
            .enter(|| Ok(TcpListener::bind(("127.0.0.1", port))?))?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || answer(stream));
            }
        });
        Ok(())
    }

    /// The client leaves: the record is closed for this reason, and nothing is left.
    pub fn ends_with(&self, mut client: Client, why: &str) -> Result<()> {
        client.close_input();
        client.exit()?;
        self.audit_is_closed(why, Some(0))?;
        self.is_empty()
    }

    /// Everything that was started for this stage has gone.
    pub fn is_empty(&self) -> Result<()> {
        wait_for("the end of all processes", Duration::from_secs(5), || {
            Ok(self.processes(&[])?.is_empty().then_some(()))
        })
        .with_context(|| format!("left: {:?}", self.processes(&[])))
    }

    /// Waits until a capture's file is there and this many sockets hear.
    pub fn live(&self, file: &Path, sockets: usize) -> Result<()> {
        wait_for("a live capture", PATIENCE, || {
            let begun = fs::metadata(file).is_ok_and(|meta| meta.len() > 0);
            Ok((begun && self.space.listening()? == sockets).then_some(()))
        })
        .with_context(|| self.stderr().unwrap_or_default())
    }
}

/// A field that is text.
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A field that is a number.
pub fn number(value: &Value, field: &str) -> Option<u64> {
    value.get(field)?.as_u64()
}

/// The session that an answer says was granted.
pub fn granted(answer: &Message) -> Result<String> {
    let text = answer.text();
    let rest = text.split("capwarden granted ").nth(1);
    let session = rest.and_then(|rest| rest.split(':').next());
    Ok(session
        .ok_or_else(|| anyhow!("nothing granted: {}", answer.line))?
        .to_owned())
}

/// How many packets a capture file has, which must be complete.
pub fn packets(file: &Path) -> Result<u64> {
    let mut command = Command::new("capinfos");
    let done = command.arg("-c").arg(file).output()?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(
        done.status.success() && !errors.contains("cut short"),
        "{}: {errors}",
        file.display()
    );
    capinfos_count(file)
}

/// Packets of a capture file that match a filter.
pub fn matching(file: &Path, filter: &str) -> Result<u64> {
    let mut command = Command::new("tcpdump");
    command
        .args(["-nn", "-q", "-t", "-r"])
        .arg(file)
        .arg(filter);
    let done = command.output()?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{errors}");
    Ok(u64::try_from(
        String::from_utf8_lossy(&done.stdout).lines().count(),
    )?)
}

/// A line of `/proc/PID/status`, in KiB.
pub fn memory(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(field));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    kib.with_context(|| format!("no {field}"))
}
