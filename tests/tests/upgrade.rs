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
            net::UnixStream,
        },
    },
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use capwarden_tests::{
    agent::{capwarden, signal, wait_for},
    daemon::Daemon,
    mcp::PATIENCE,
    stage::{Stage, TWENTY_PACKETS, granted, number, packets, python, text, user},
};
use rustix::{
    process::Signal,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use serde_json::{Value, json};

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

/// A program that says that it can serve, and ends when it is to.
const READY_AND_NO_MORE: &str = r#"
import os, socket
agent = socket.socket(fileno=int(os.environ["CAPWARDEN_PREDECESSOR"]))
agent.send(b"ready 9 x")
while agent.recv(4096) != b"serve":
    pass
"#;

/// A daemon whose program can be replaced, and that serves `one`, which has this besides in its configuration, and
/// these others.
fn staged(besides: &str) -> Result<Daemon> {
    let mut daemon = Daemon::new(TWENTY_PACKETS)?;
    let one = daemon.hostile("one")?;
    daemon.configure(&format!("{one}{besides}"))?;
    daemon.program = daemon.stage.path("bin/capwarden");
    fs::create_dir(daemon.stage.path("bin"))?;
    symlink(capwarden()?, &daemon.program)?;
    Ok(daemon)
}

/// Puts another file in the program's place, as a package manager does it.
fn replace(daemon: &Daemon, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    let new = daemon.stage.path("bin/new");
    make(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    Ok(fs::rename(new, &daemon.program)?)
}

/// The same with another copy of the program.
fn replace_by_another(daemon: &Daemon) -> Result<()> {
    let program = capwarden()?;
    replace(daemon, |new| fs::copy(program, new).map(drop))
}

/// The process that the service manager is to watch from now on.
fn main_process(daemon: &Daemon) -> Result<Later> {
    let told = daemon.heard("MAINPID=")?;
    let number = told
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("MAINPID="));
    ensure!(told.contains("\nREADY=1\n"), "{told}");
    Ok(Later(number.context("no number")?.parse()?))
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

fn call(file: &Path, port: u16) -> Value {
    json!({ "interface": "lo", "file": file, "filter": format!("udp port {port}") })
}

#[test]
fn running_captures_keep_their_guard_and_whoever_comes_is_served_by_the_later_version() -> Result<()>
{
    let daemon = staged("")?;
    let stage = &daemon.stage;
    let mut earlier = daemon.start()?;
    let mut first = daemon.client("one", 1)?;
    let stored = daemon.heard("FDSTORE=1\n")?;
    let name = stored.lines().nth(1).context("no name")?;
    let udp = stage.space.udp()?;
    let file = stage.capture("kept.pcap");
    let session = granted(&first.call("capture", &call(&file, udp.port()))?)?;
    stage.live(&file, 1)?;
    udp.send(5, 10)?;

    let socket = stage.path("agent.sock");
    let knocking = Knocking::at(move || UnixStream::connect(&socket).map(drop));
    replace_by_another(&daemon)?;
    earlier.signal(Signal::HUP)?;
    ensure!(daemon.heard("RELOADING=1\n")?.contains("MONOTONIC_USEC="));
    // What the manager keeps it could be told to throw away by its main process only.
    let thrown_away = daemon.heard("FDSTOREREMOVE=1\n")?;
    ensure!(
        thrown_away == format!("FDSTOREREMOVE=1\n{name}\n"),
        "{thrown_away}"
    );
    let later = main_process(&daemon)?;
    daemon.heard("READY=1\n")?;
    daemon.heard("WATCHDOG=1\n")?;
    daemon.said("captures of 1 client stay with the earlier version", 1)?;
    let runs = fs::read_link(format!("/proc/{}/exe", later.0))?;
    ensure!(runs == daemon.program, "{}", runs.display());
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
    let mut second = daemon.client("one", 2)?;
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
    let daemon = staged("")?;
    let stage = &daemon.stage;
    let mut agent = daemon.start()?;
    let mut first = daemon.client("one", 1)?;
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
        replace(&daemon, |new| fs::write(new, program))?;
        agent.signal(Signal::HUP)?;
        daemon.heard("RELOADING=1\n")?;
        daemon.heard("STATUS=Handing over to another version\n")?;
        let ready = daemon.heard("READY=1\n")?;
        ensure!(ready.contains(&format!("not replaced: {why}")), "{ready}");
        daemon.said(&format!("this one goes on as before: {why}"), 1)?;
    }
    let config = fs::read_to_string(stage.path("agent.yaml"))?;
    // What is new is a port that somebody else has: it fails when it has the listeners already.
    let taken = stage
        .space
        .enter(|| Ok(TcpListener::bind("127.0.0.1:8811")?))?;
    let metrics = "metrics: 127.0.0.1:8811\nsocket_group";
    stage.write("agent.yaml", &config.replace("socket_group", metrics))?;
    daemon.said("takes a restart", 1)?;
    replace_by_another(&daemon)?;
    agent.signal(Signal::HUP)?;
    daemon.heard("STATUS=Handing over to another version\n")?;
    let ready = daemon.heard("READY=1\n")?;
    ensure!(ready.contains("not replaced: it ended before"), "{ready}");
    daemon.said("cannot serve metrics at http://127.0.0.1:8811", 1)?;
    UnixStream::connect(stage.path("agent.sock")).context("the clients' socket has gone")?;
    drop(taken);
    // Or a configuration that cannot be served.
    stage.write("agent.yaml", &format!("{config}  two: {{ pollicy: /x }}\n"))?;
    daemon.said("so what was served before is served still: ", 1)?;
    replace_by_another(&daemon)?;
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
    let mut second = daemon.client("one", 2)?;
    ensure!(second.call("echo", &json!({ "n": 2 }))?.text() == "{\"n\": 2}");
    ensure!(stage.audit("handed-over")?.is_empty());

    // One that is sound takes over after all.
    stage.write("agent.yaml", &config)?;
    agent.signal(Signal::HUP)?;
    let later = main_process(&daemon)?;
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
    let daemon = staged("")?;
    let stage = &daemon.stage;
    stage.write("http_server.py", HTTP_SERVER)?;
    stage.write("web.yaml", WEB_POLICY)?;
    let config = fs::read_to_string(stage.path("agent.yaml"))?;
    let config = format!(
        "{config}    listen: 127.0.0.1:8809\n    anonymous: true\n  web:\n    command: [{}, {}, '8000']\n    policy: {}\n    \
         user: {}\n    listen: 127.0.0.1:8808\n    upstream: http://127.0.0.1:8000/mcp\n    anonymous: true\n",
        python("python3")?.display(),
        daemon.at("http_server.py"),
        daemon.at("web.yaml"),
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
        replace_by_another(&daemon)?;
        earlier.signal(Signal::HUP)?;
        let later = main_process(&daemon)?;
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
        daemon.said("the earlier agent has ended what it had of web", 1)?;
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
