//! `capwarden agent` when another version is put in its place: who is served stays served, and whoever comes is served
//! by the other.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::{
        fd::AsFd as _,
        unix::{
            fs::{PermissionsExt as _, symlink},
            net::{UnixDatagram, UnixStream},
        },
    },
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use capwarden_tests::{
    agent::{NOBODY, capwarden, signal, wait_for},
    mcp::{Client, PATIENCE},
    stage::{Stage, granted, number, packets, python, text, user},
};
use rustix::{
    process::Signal,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use serde_json::{Value, json};

const HOSTILE: &str = include_str!("../scripts/hostile.py");
const HTTP_SERVER: &str = include_str!("../scripts/http_server.py");

const WEB_POLICY: &str = "version: 1
default: deny
tools:
  echo: allow
  capture:
    capture:
      from: { interface: interface, packets: packets }
      interfaces: [ lo ]
      packets: 20
      seconds: 60
";

const POLICY: &str = "version: 1
default: deny
tools:
  echo: allow
  capture:
    capture:
      from: { interface: interface, filter: filter }
      interfaces: [ lo ]
      packets: 20
      seconds: 60
";

/// A program that says that it can serve, and ends when it is to.
const READY_AND_NO_MORE: &str = r#"
import os, socket
agent = socket.socket(fileno=int(os.environ["CAPWARDEN_PREDECESSOR"]))
agent.send(b"ready 9 x")
while agent.recv(4096) != b"serve":
    pass
"#;

/// A daemon whose program can be replaced, and what its service manager hears.
struct Daemon {
    stage: Stage,
    notify: UnixDatagram,
}

impl Daemon {
    /// With these servers in its configuration, as YAML.
    fn stage(servers: &str) -> Result<Self> {
        let stage = Stage::new()?;
        stage.write("hostile.py", HOSTILE)?;
        stage.write("policy.yaml", POLICY)?;
        let at = |name: &str| stage.path(name).display().to_string();
        let config = format!(
            "version: 1\naudit: {}\nstate: {}\nsocket: {}\nsocket_group: nogroup\nclients: [user:{NOBODY}]\nservers:\n  \
             one:\n    command: [{}, {}]\n    policy: {}\n    user: {}\n    directory: {}\n{servers}",
            at("audit.jsonl"),
            at("state"),
            at("agent.sock"),
            python("python3")?.display(),
            at("hostile.py"),
            at("policy.yaml"),
            user(),
            at("captures"),
        );
        stage.write("agent.yaml", &config)?;
        fs::create_dir(stage.path("bin"))?;
        symlink(capwarden()?, stage.path("bin/capwarden"))?;
        let notify = UnixDatagram::bind(stage.path("notify"))?;
        notify.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stage, notify })
    }

    fn start(&self) -> Result<Client> {
        let mut command = self.stage.space.command(self.program());
        command.arg("agent").arg("--config");
        command.arg(self.stage.path("agent.yaml"));
        command.env("NOTIFY_SOCKET", self.stage.path("notify"));
        // Seldom, since what is not read in time is not told.
        command.env("WATCHDOG_USEC", "20000000");
        command.env_remove("CAPWARDEN_LOG");
        let agent = Client::start(&mut command, &self.stage.path("stderr"))?;
        self.heard("READY=1\n")
            .with_context(|| self.stage.stderr().unwrap_or_default())?;
        Ok(agent)
    }

    fn program(&self) -> PathBuf {
        self.stage.path("bin/capwarden")
    }

    /// Puts another file in the program's place, as a package manager does it.
    fn replace(&self, make: impl FnOnce(&PathBuf) -> io::Result<()>) -> Result<()> {
        let new = self.stage.path("bin/new");
        make(&new)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
        Ok(fs::rename(new, self.program())?)
    }

    /// The same with another copy of the program.
    fn replace_by_another(&self) -> Result<()> {
        let program = capwarden()?;
        self.replace(|new| fs::copy(program, new).map(drop))
    }

    /// A client of the server `one`, which has shaken hands.
    fn client(&self, number: usize) -> Result<Client> {
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={NOBODY}"));
        command.arg(format!("--regid={NOBODY}"));
        command.arg("--clear-groups").arg("--").arg(capwarden()?);
        command.args(["connect", "one", "--socket"]);
        command.arg(self.stage.path("agent.sock"));
        command.env_remove("CAPWARDEN_LOG");
        let stderr = self.stage.path(&format!("client-{number}"));
        let mut client = Client::start(&mut command, &stderr)?;
        client.shake_hands().with_context(|| {
            let told = fs::read_to_string(&stderr).unwrap_or_default();
            format!("{told}{}", self.stage.stderr().unwrap_or_default())
        })?;
        Ok(client)
    }

    /// Waits until the service manager hears something that begins so, after what it heard before.
    fn heard(&self, words: &str) -> Result<String> {
        let begun = Instant::now();
        loop {
            // It tells all the time that it is well.
            ensure!(
                begun.elapsed() < PATIENCE,
                "{words}: {}",
                self.stage.stderr()?
            );
            let mut buffer = [0; 4096];
            let length = self.notify.recv(&mut buffer);
            let length = length
                .with_context(|| format!("{words}: {}", self.stage.stderr().unwrap_or_default()))?;
            let heard = buffer.get(..length).unwrap_or_default();
            let told = String::from_utf8_lossy(heard).into_owned();
            if told.starts_with(words) {
                return Ok(told);
            }
        }
    }

    /// Waits until the log has these words.
    fn said(&self, words: &str) -> Result<()> {
        wait_for(words, PATIENCE, || {
            Ok(self.stage.stderr()?.contains(words).then_some(()))
        })
        .with_context(|| self.stage.stderr().unwrap_or_default())
    }

    /// The process that the service manager is to watch from now on.
    fn main_process(&self) -> Result<Later> {
        let told = self.heard("MAINPID=")?;
        let number = told
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("MAINPID="));
        ensure!(told.contains("\nREADY=1\n"), "{told}");
        Ok(Later(number.context("no number")?.parse()?))
    }
}

/// A later version, which is no child of this process. It goes with the test.
struct Later(u32);

impl Later {
    /// Waits for the end of one that was told to stop.
    fn gone(&self) -> Result<()> {
        let stat = format!("/proc/{}/stat", self.0);
        wait_for("the end of the later version", PATIENCE, || {
            let stat = fs::read_to_string(&stat).unwrap_or_default();
            Ok((stat.is_empty() || stat.contains(") Z ")).then_some(()))
        })
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        // It may have ended.
        let _ = signal(self.0, Signal::KILL);
    }
}

/// Connects again and again, and counts how often nobody listened.
struct Knocking {
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
    thread: JoinHandle<usize>,
}

impl Knocking {
    fn at(mut knock: impl FnMut() -> io::Result<()> + Send + 'static) -> Self {
        let (stop, refused) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&refused));
        let thread = thread::spawn(move || {
            let mut times = 0;
            while !stopped.load(Ordering::Acquire) {
                if knock().is_err() {
                    counted.fetch_add(1, Ordering::AcqRel);
                }
                times += 1;
                thread::sleep(Duration::from_millis(2));
            }
            times
        });
        Self {
            stop,
            refused,
            thread,
        }
    }

    /// Nobody was turned away.
    fn was_answered(self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        let times = self.thread.join().map_err(|_| anyhow!("it panicked"))?;
        let refused = self.refused.load(Ordering::Acquire);
        ensure!(refused == 0, "{refused} of {times} were refused");
        ensure!(times > 10);
        Ok(())
    }
}

fn call(file: &std::path::Path, port: u16) -> Value {
    json!({ "interface": "lo", "file": file, "filter": format!("udp port {port}") })
}

#[test]
fn running_captures_keep_their_guard_and_whoever_comes_is_served_by_the_later_version() -> Result<()>
{
    let daemon = Daemon::stage("")?;
    let stage = &daemon.stage;
    let mut earlier = daemon.start()?;
    let mut first = daemon.client(1)?;
    let udp = stage.space.udp()?;
    let file = stage.capture("kept.pcap");
    let session = granted(&first.call("capture", &call(&file, udp.port()))?)?;
    stage.live(&file, 1)?;
    udp.send(5, 10)?;

    let socket = stage.path("agent.sock");
    let knocking = Knocking::at(move || UnixStream::connect(&socket).map(drop));
    daemon.replace_by_another()?;
    earlier.signal(Signal::HUP)?;
    ensure!(daemon.heard("RELOADING=1\n")?.contains("MONOTONIC_USEC="));
    let later = daemon.main_process()?;
    daemon.heard("READY=1\n")?;
    daemon.heard("WATCHDOG=1\n")?;
    daemon.said("captures of 1 client stay with the earlier version")?;
    let runs = fs::read_link(format!("/proc/{}/exe", later.0))?;
    ensure!(runs == daemon.program(), "{}", runs.display());
    let status = fs::read_to_string(format!("/proc/{}/status", later.0))?;
    ensure!(
        !status.contains(&format!("PPid:\t{}\n", earlier.pid())),
        "the service manager does not hear of a grandchild's end: {status}"
    );

    // The client and its capture are where they were, and an operator sees that.
    let mut sessions = Command::new(capwarden()?);
    let sessions = String::from_utf8(sessions.arg("sessions").output()?.stdout)?;
    let replaced = format!("agent process {} (version ", earlier.pid());
    ensure!(sessions.contains(&replaced), "{sessions}");
    ensure!(
        sessions.contains(&format!("replaced by process {})", later.0)),
        "{sessions}"
    );
    ensure!(first.call("echo", &json!({ "n": 1 }))?.text() == "{\"n\": 1}");
    udp.send(50, 10)?;
    let end = first.session_end(&session)?;
    ensure!(text(&end, "reason") == "packet-cap", "{end}");
    ensure!(packets(&file)? == 20);
    // It may ask for another one.
    let again = stage.capture("again.pcap");
    let session = granted(&first.call("capture", &call(&again, udp.port()))?)?;
    stage.live(&again, 1)?;

    // Who comes now is served by the other, which the record names.
    let mut second = daemon.client(2)?;
    ensure!(second.call("echo", &json!({ "n": 2 }))?.text() == "{\"n\": 2}");
    let handed = stage.audited("handed-over", 1)?;
    let handed = handed.first().context("no record")?;
    ensure!(number(handed, "pid") == Some(later.0.into()), "{handed}");
    ensure!(number(handed, "clients") == Some(1), "{handed}");
    ensure!(number(handed, "sessions") == Some(1), "{handed}");
    let calls = stage.audited("call", 4)?;
    let agents: Vec<&str> = calls.iter().map(|call| text(call, "agent")).collect();
    let (before, after) = (text(handed, "agent"), text(handed, "to"));
    ensure!(agents == [before, before, before, after], "{agents:?}");

    // When its last client has left, the earlier one ends by itself.
    udp.send(50, 10)?;
    first.session_end(&session)?;
    first.close_input();
    first.exit()?;
    ensure!(earlier.exit()?.success(), "{}", stage.stderr()?);
    ensure!(packets(&again)? == 20);
    stage.audit_is_closed(
        &format!("replaced by process {}, and nobody is left", later.0),
        Some(0),
    )?;
    ensure!(second.call("echo", &json!({ "n": 3 }))?.text() == "{\"n\": 3}");
    knocking.was_answered()?;

    signal(later.0, Signal::TERM)?;
    daemon.heard("STOPPING=1\n")?;
    ensure!(second.exit()?.success());
    later.gone()?;
    ensure!(!stage.path("agent.sock").exists());
    stage.audit_is_closed("a signal", Some(0))?;
    stage.is_empty()
}

#[test]
fn version_that_cannot_serve_leaves_the_earlier_one_in_charge() -> Result<()> {
    let daemon = Daemon::stage("")?;
    let stage = &daemon.stage;
    let mut agent = daemon.start()?;
    let mut first = daemon.client(1)?;
    let udp = stage.space.udp()?;
    let file = stage.capture("kept.pcap");
    let session = granted(&first.call("capture", &call(&file, udp.port()))?)?;
    stage.live(&file, 1)?;

    let python = python("python3")?;
    let not_serving = format!("#!{}\n{READY_AND_NO_MORE}", python.display());
    for (program, why) in [
        ("#!/bin/sh\nexit 1\n", "it ended before it was ready"),
        (
            "#!/nonexistent/program\n",
            "it cannot be started: No such file",
        ),
        (&not_serving, "it does not serve when it is to"),
    ] {
        daemon.replace(|new| fs::write(new, program))?;
        agent.signal(Signal::HUP)?;
        daemon.heard("RELOADING=1\n")?;
        daemon.heard("STATUS=Handing over to another version\n")?;
        let ready = daemon.heard("READY=1\n")?;
        ensure!(ready.contains(&format!("not replaced: {why}")), "{ready}");
        daemon.said(&format!("this one goes on as before: {why}"))?;
    }
    let config = fs::read_to_string(stage.path("agent.yaml"))?;
    // What is new is a port that somebody else has: it fails when it has the listeners already.
    let taken = stage
        .space
        .enter(|| Ok(TcpListener::bind("127.0.0.1:8811")?))?;
    let metrics = "metrics: 127.0.0.1:8811\nsocket_group";
    stage.write("agent.yaml", &config.replace("socket_group", metrics))?;
    daemon.said("takes a restart")?;
    daemon.replace_by_another()?;
    agent.signal(Signal::HUP)?;
    daemon.heard("STATUS=Handing over to another version\n")?;
    let ready = daemon.heard("READY=1\n")?;
    ensure!(ready.contains("not replaced: it ended before"), "{ready}");
    daemon.said("cannot serve metrics at http://127.0.0.1:8811")?;
    UnixStream::connect(stage.path("agent.sock")).context("the clients' socket has gone")?;
    drop(taken);
    // Or a configuration that cannot be served.
    stage.write("agent.yaml", &format!("{config}  two: {{ pollicy: /x }}\n"))?;
    daemon.said("so what was served before is served still: ")?;
    daemon.replace_by_another()?;
    agent.signal(Signal::HUP)?;
    daemon.heard("STATUS=Handing over to another version\n")?;
    let ready = daemon.heard("READY=1\n")?;
    ensure!(
        ready.contains("not replaced: it ended before it was ready"),
        "{ready}"
    );

    ensure!(first.call("echo", &json!({ "n": 1 }))?.text() == "{\"n\": 1}");
    udp.send(50, 10)?;
    let end = first.session_end(&session)?;
    ensure!(text(&end, "reason") == "packet-cap", "{end}");
    ensure!(packets(&file)? == 20);
    let mut second = daemon.client(2)?;
    ensure!(second.call("echo", &json!({ "n": 2 }))?.text() == "{\"n\": 2}");
    ensure!(stage.audit("handed-over")?.is_empty());

    // One that is sound takes over after all.
    stage.write("agent.yaml", &config)?;
    agent.signal(Signal::HUP)?;
    let later = daemon.main_process()?;
    for client in [&mut first, &mut second] {
        client.close_input();
        client.exit()?;
    }
    ensure!(agent.exit()?.success(), "{}", stage.stderr()?);
    signal(later.0, Signal::TERM)?;
    later.gone()?;
    stage.audit_is_closed("a signal", Some(0))?;
    stage.is_empty()
}

/// What an agent answers to a request at a port, over a connection of its own.
fn posted(stage: &Stage, port: u16, session: Option<&str>, body: &Value) -> Result<String> {
    let body = body.to_string();
    let session = session.map_or_else(String::new, |id| format!("Mcp-Session-Id: {id}\r\n"));
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nAccept: application/json, \
         text/event-stream\r\n{session}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stage.space.enter(|| {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

/// An MCP session over HTTP.
fn began(stage: &Stage, port: u16) -> Result<String> {
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" },
    } });
    let answer = posted(stage, port, None, &initialize)?;
    let id = answer.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("mcp-session-id").then_some(value)
    });
    let id = id
        .with_context(|| format!("no session: {answer}"))?
        .to_owned();
    let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    posted(stage, port, Some(&id), &initialized)?;
    Ok(id)
}

fn calls(id: u64, tool: &str, arguments: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": tool, "arguments": arguments } })
}

#[test]
fn ports_are_never_free_and_what_goes_on_over_http_is_ended_by_its_caps() -> Result<()> {
    let at = |name: &str, stage: &Stage| stage.path(name).display().to_string();
    let daemon = Daemon::stage("")?;
    let stage = &daemon.stage;
    stage.write("http_server.py", HTTP_SERVER)?;
    stage.write("web.yaml", WEB_POLICY)?;
    let config = fs::read_to_string(stage.path("agent.yaml"))?;
    let config = format!(
        "{config}    listen: 127.0.0.1:8809\n    anonymous: true\n  web:\n    command: [{}, {}, '8000']\n    policy: {}\n    \
         user: {}\n    listen: 127.0.0.1:8808\n    upstream: http://127.0.0.1:8000/mcp\n    anonymous: true\n",
        python("python3")?.display(),
        at("http_server.py", stage),
        at("web.yaml", stage),
        user(),
    )
    .replace("socket_group", "metrics: 127.0.0.1:8810\nsocket_group");
    stage.write("agent.yaml", &config)?;
    let mut earlier = daemon.start()?;
    stage.listening_on(8000)?;

    // One capture of each kind of server: a call that waits for its end, and one that goes on by itself.
    let udp = stage.space.udp()?;
    let web = began(stage, 8808)?;
    let own = began(stage, 8809)?;
    let file = stage.capture("own.pcap");
    let started = posted(
        stage,
        8809,
        Some(&own),
        &calls(2, "capture", &call(&file, udp.port())),
    )?;
    ensure!(started.contains("capwarden granted"), "{started}");
    let capture = calls(2, "capture", &json!({ "interface": "lo", "packets": 20 }));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| posted(stage, 8808, Some(&web), &capture));
        stage.live(&file, 2)?;

        let socket = stage
            .space
            .enter(|| Ok(fs::File::open("/proc/thread-self/ns/net")?))?;
        let mut entered = false;
        let knocking = Knocking::at(move || {
            if !entered {
                move_into_link_name_space(socket.as_fd(), Some(LinkNameSpaceType::Network))?;
                entered = true;
            }
            let ports = [8808, 8809, 8810].into_iter();
            ports
                .map(|port| TcpStream::connect(("127.0.0.1", port)))
                .try_for_each(|connected| connected.map(drop))
        });
        daemon.replace_by_another()?;
        earlier.signal(Signal::HUP)?;
        let later = daemon.main_process()?;
        daemon.heard("READY=1\n")?;

        // A session of the earlier one is not the later one's; its client begins anew.
        let echo = calls(3, "echo", &json!({ "n": 1 }));
        let gone = posted(stage, 8809, Some(&own), &echo)?;
        ensure!(gone.starts_with("HTTP/1.1 404 "), "{gone}");
        let anew = began(stage, 8809)?;
        let said = posted(stage, 8809, Some(&anew), &echo)?;
        ensure!(said.contains(r#"{\"n\": 1}"#), "begun anew: {said}");
        // What was captured before is held to its caps, and the call that waits for that is answered.
        udp.send(50, 10)?;
        let done = waiting.join().map_err(|_| anyhow!("it panicked"))??;
        ensure!(
            done.contains("20 packets captured"),
            "the call that waited: {done}"
        );
        let ends = stage.audited("session-ended", 2)?;
        for end in &ends {
            ensure!(
                text(end, "reason") == "packet-cap" || text(end, "session") == "s2",
                "{end}"
            );
        }
        ensure!(packets(&file)? == 20);
        // The shared server is the later one's now, and who came meanwhile has waited.
        daemon.said("the earlier agent has ended what it had of web")?;
        let web = began(stage, 8808)?;
        let said = posted(
            stage,
            8808,
            Some(&web),
            &calls(4, "echo", &json!({ "text": "x" })),
        )?;
        ensure!(
            said.contains("\"text\":\"x\""),
            "shared, anew: {said} {}",
            stage.stderr()?
        );
        ensure!(earlier.exit()?.success(), "{}", stage.stderr()?);
        knocking.was_answered()?;
        let handed = stage.audited("handed-over", 1)?;
        let to = text(handed.first().context("no record")?, "to").to_owned();
        let calls = stage.audited("call", 4)?;
        let agents = calls.iter().map(|call| text(call, "agent") == to);
        ensure!(agents.eq([false, false, true, true]), "{calls:?}");

        signal(later.0, Signal::TERM)?;
        later.gone()
    })?;
    stage.audit_is_closed("a signal", Some(0))?;
    stage.is_empty()
}
