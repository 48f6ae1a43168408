//! `capwarden agent` with real servers, and clients that come by `capwarden connect`.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{NOBODY, capwarden, cgroups_of, signal, wait_for},
    daemon::Daemon,
    mcp::PATIENCE,
    stage::{AWSLABS, TWENTY_PACKETS, granted, packets, python, text, user},
};
use rustix::process::Signal;
use serde_json::{Value, json};

const HTTP_SERVER: &str = include_str!("../scripts/http_server.py");
const HTTP_CLIENT: &str = include_str!("../scripts/daemon_client.py");

const AWSLABS_POLICY: &str = "version: 1
default: deny
tools:
  start_packet_capture:
    capture:
      from: { interface: interface, filter: capture_filter, seconds: duration }
      interfaces: [ lo ]
      over: clamp
      packets: 10
";

/// A user who is nobody that any configuration here names.
const STRANGER: u32 = 4_242;

/// Has the daemon's socket passed by the service manager, as systemd does it.
const PASSING: &str = "import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
listener.listen()
os.dup2(listener.fileno(), 9)
os.dup2(9, 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='clients')
os.execv(sys.argv[2], sys.argv[2:])
";

/// With the files of servers: `one`, which does what it is told, and real ones.
fn staged() -> Result<Daemon> {
    let daemon = Daemon::new(TWENTY_PACKETS)?;
    daemon.stage.write("awslabs.yaml", AWSLABS_POLICY)?;
    daemon.stage.write("http_server.py", HTTP_SERVER)?;
    let web = "version: 1\ntools: { echo: allow }\n";
    daemon.stage.write("web.yaml", web)?;
    Ok(daemon)
}

/// Configures these servers, of those that there may be.
fn configure(daemon: &Daemon, servers: &[&str]) -> Result<()> {
    let at = |name: &str| daemon.at(name);
    let mut text = String::new();
    for name in servers {
        text += &match *name {
            "real" => format!(
                "  real:\n    command: [{}]\n    policy: {}\n    environment: {{ PCAP_STORAGE_DIR: {} }}\n    user: {}\n",
                python(AWSLABS)?.display(),
                at("awslabs.yaml"),
                at("captures"),
                user(),
            ),
            "web" => format!(
                "  web:\n    command: [{}, {}, '8000']\n    policy: {}\n    user: {}\n    listen: 127.0.0.1:8808\n    upstream: http://127.0.0.1:8000/mcp\n    anonymous: true\n",
                python("python3")?.display(),
                at("http_server.py"),
                at("web.yaml"),
                user(),
            ),
            "pipes" => format!(
                "  pipes:\n    command: [{}, {}, pipes]\n    policy: {}\n    user: {}\n    listen: 127.0.0.1:8809\n    anonymous: true\n",
                python("python3")?.display(),
                at("http_server.py"),
                at("web.yaml"),
                user(),
            ),
            name => daemon.hostile(name)?,
        };
    }
    daemon.configure(&text)
}

/// What `connect` does for a client that only asks to be initialized.
fn tried(daemon: &Daemon, user: u32, server: &str) -> Result<(Output, Value)> {
    let mut command = daemon.verb(user, &["connect", server])?;
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"initialize\",\"params\":{}}\n")?;
    let done = child.wait_with_output()?;
    drop(stdin);
    let told = serde_json::from_slice(&done.stdout).with_context(|| format!("{done:?}"))?;
    Ok((done, told))
}

/// What a client of the official SDK gets from the tool `echo` at an address.
fn echoed(daemon: &Daemon, address: &str) -> Result<String> {
    let script = daemon.stage.write("daemon_client.py", HTTP_CLIENT)?;
    let mut command = daemon.stage.space.command(python("python3")?);
    let done = command.arg(script).arg(address).output()?;
    Ok(String::from_utf8(done.stdout)?.trim().to_owned())
}

fn call(file: &Path, port: u16) -> Value {
    json!({ "interface": "lo", "file": file, "filter": format!("udp port {port}") })
}

#[test]
fn users_get_servers_and_captures_of_their_own_and_others_get_none() -> Result<()> {
    let daemon = staged()?;
    let stage = &daemon.stage;
    configure(&daemon, &["one", "real"])?;
    let mut agent = daemon.start()?;
    ensure!(fs::metadata(stage.path("agent.sock"))?.mode() & 0o777 == 0o660);

    // Whoever is not named is told so, both as an MCP client and at a terminal.
    let (done, told) = tried(&daemon, STRANGER, "one")?;
    let errors = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.code() == Some(1), "{done:?}");
    ensure!(
        errors.contains("There is no server one for you here"),
        "{errors}"
    );
    let message = told.pointer("/error/message").and_then(Value::as_str);
    ensure!(told.get("id") == Some(&json!(7)), "{told}");
    ensure!(
        message.is_some_and(|why| why.contains("no server one for you")),
        "{told}"
    );
    let (_, told) = tried(&daemon, NOBODY, "nine")?;
    ensure!(
        told.to_string().contains("There is for you: one, real."),
        "{told}"
    );

    let listed = daemon.verb(NOBODY, &["client-config"])?.output()?;
    let listed = String::from_utf8(listed.stdout)?;
    ensure!(
        listed.starts_with("one   ready    0 clients\nreal  ready"),
        "{listed}"
    );
    let listed = daemon
        .verb(NOBODY, &["client-config", "one", "--for", "zed"])?
        .output()?;
    let config: Value = serde_json::from_slice(&listed.stdout)?;
    let arguments = config.pointer("/context_servers/one/args");
    ensure!(
        arguments
            == Some(&json!([
                "connect",
                "one",
                "--socket",
                stage.path("agent.sock")
            ])),
        "{config}"
    );

    // Shells complete the servers that there are for a user, and none for who has none.
    for (user, start, names) in [
        (NOBODY, "", "one\nreal\n"),
        (NOBODY, "r", "real\n"),
        (STRANGER, "", ""),
    ] {
        for verb in ["connect", "client-config"] {
            let told = daemon.verb(user, &["__names", verb])?.arg(start).output()?;
            ensure!(told.status.success() && told.stderr.is_empty(), "{told:?}");
            ensure!(told.stdout == names.as_bytes(), "{user} {verb}: {told:?}");
        }
    }

    // Two clients of two servers capture at once, each within its own policy.
    let mut one = daemon.client("one", 1)?;
    let mut real = daemon.client("real", 2)?;
    let udp = stage.space.udp()?;
    let (first, second) = (stage.capture("one.pcap"), stage.capture("real.pcap"));
    let session = granted(&one.call("capture", &call(&first, udp.port()))?)?;
    stage.live(&first, 1)?;
    let arguments = json!({
        "interface": "lo", "duration": 60, "output_file": "real.pcap",
        "capture_filter": format!("udp port {}", udp.port()),
    });
    let of_real = granted(&real.call("start_packet_capture", &arguments)?)?;
    stage.live(&second, 2)?;
    udp.send(50, 10)?;
    for (client, session, file, cap) in [
        (&mut one, &session, &first, 20),
        (&mut real, &of_real, &second, 10),
    ] {
        let end = client.session_end(session)?;
        ensure!(text(&end, "reason") == "packet-cap", "{end}");
        ensure!(packets(file)? == cap);
    }
    // What is recorded of sessions says whose they are, too.
    for kind in ["session-opened", "socket-armed", "session-ended"] {
        let records = stage.audited(kind, 2)?;
        for (server, session) in [("one", &session), ("real", &of_real)] {
            let its = |record: &&Value| text(record, "session") == session;
            let of = records
                .iter()
                .filter(its)
                .map(|record| text(record, "server"));
            let of: Vec<&str> = of.collect();
            ensure!(
                !of.is_empty() && of.iter().all(|of| *of == server),
                "{kind}: {records:?}"
            );
        }
    }
    let calls = stage.audited("call", 2)?;
    for (call, server, session) in [(0, "one", &session), (1, "real", &of_real)] {
        let record = calls.get(call).context("no record")?;
        ensure!(text(record, "server") == server, "{record}");
        ensure!(text(record, "session") == session, "{record}");
        ensure!(
            text(record, "principal") == format!("uid:{NOBODY}"),
            "{record}"
        );
    }
    // The server's environment is its own.
    let servers = stage.processes(&[agent.pid(), one.pid(), real.pid()])?;
    let mut looked_at = 0;
    for pid in servers {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        if environment.contains("PCAP_STORAGE_DIR") {
            ensure!(!environment.contains("CWTEST_DAEMONS_OWN"), "{environment}");
            ensure!(environment.contains("LANG=C.UTF-8"), "{environment}");
            looked_at += 1;
        }
    }
    ensure!(looked_at > 0, "the real server was not found");

    // The end of the daemon is the end of all servers, and an orderly one.
    agent.signal(Signal::TERM)?;
    ensure!(agent.exit()?.success(), "{}", stage.stderr()?);
    for client in [&mut one, &mut real] {
        ensure!(client.exit()?.success());
    }
    let served = stage.audit("server-served")?;
    let names: Vec<&str> = served.iter().map(|record| text(record, "server")).collect();
    ensure!(names == ["one", "real"], "{served:?}");
    stage.audit_is_closed("a signal", Some(0))?;
    ensure!(cgroups_of(agent.pid())?.is_empty());
    stage.is_empty()
}

#[test]
fn configuration_is_followed_while_the_daemon_runs() -> Result<()> {
    let daemon = staged()?;
    let stage = &daemon.stage;
    configure(&daemon, &["one", "two"])?;
    let mut agent = daemon.start()?;
    let ready = daemon.heard("READY=1\n")?;
    ensure!(ready.contains("STATUS=2 servers, 0 clients"), "{ready}");
    daemon.heard("WATCHDOG=1\n")?;
    let mut one = daemon.client("one", 1)?;
    let mut two = daemon.client("two", 2)?;
    let file = stage.capture("two.pcap");
    let session = granted(&two.call("capture", &call(&file, 9))?)?;
    stage.live(&file, 1)?;

    // What cannot be used changes nothing.
    stage.write(
        "agent.d/50-wrong.yaml",
        "version: 1\nservers:\n  one: { pollicy: /x }\n",
    )?;
    daemon.said("so what was served before is served still: ", 1)?;
    ensure!(
        stage
            .stderr()?
            .contains("50-wrong.yaml:3:10: unknown key `pollicy`")
    );
    ensure!(one.call("echo", &json!({ "n": 1 }))?.text() == "{\"n\": 1}");
    fs::remove_file(stage.path("agent.d/50-wrong.yaml"))?;

    // A server comes, another goes, and with it its clients and their captures.
    configure(&daemon, &["one", "three"])?;
    daemon.said("the server two is withdrawn", 1)?;
    daemon.said("the server three is new", 1)?;
    let end = stage.end_record(&session)?;
    ensure!(text(&end, "reason") == "revoked", "{end}");
    ensure!(packets(&file)? == 0);
    ensure!(two.exit()?.success());
    let (_, told) = tried(&daemon, NOBODY, "two")?;
    ensure!(told.to_string().contains("no server two for you"), "{told}");
    let mut three = daemon.client("three", 3)?;
    ensure!(three.call("echo", &json!({}))?.text() == "{}");
    ensure!(one.call("echo", &json!({ "n": 2 }))?.text() == "{\"n\": 2}");

    // Whoever is connected stays with what they have when the server changes for who comes later.
    stage.write(
        "agent.d/55-later.yaml",
        "servers:\n  one: { environment: { LATER: \"1\" } }\n",
    )?;
    daemon.said("the server one is changed", 1)?;
    ensure!(one.call("echo", &json!({ "n": 3 }))?.text() == "{\"n\": 3}");

    // Who may not connect any more is connected no more, whichever file says so, and whenever they came; and
    // hears why in answer to what was asked.
    let waits = one.ask_call("echo", &json!({ "never": true }))?;
    stage.write(
        "agent.d/60-mine.yaml",
        &format!("version: 1\nservers:\n  one: {{ clients: [user:{STRANGER}] }}\n"),
    )?;
    agent.signal(Signal::HUP)?;
    ensure!(daemon.heard("RELOADING=1\n")?.contains("MONOTONIC_USEC="));
    daemon.heard("READY=1\n")?;
    let told = one.answer(&waits)?;
    let why = told.value.pointer("/error/message").and_then(Value::as_str);
    ensure!(
        why.is_some_and(|why| why.ends_with("not answered: its user may no longer connect.")),
        "{told:?}"
    );
    ensure!(one.exit()?.success());
    daemon.said("its user may no longer connect", 1)?;
    ensure!(three.call("echo", &json!({}))?.text() == "{}");
    let withdrawn = stage.audited("server-withdrawn", 1)?;
    ensure!(
        withdrawn
            .iter()
            .all(|record| text(record, "server") == "two"),
        "{withdrawn:?}"
    );

    agent.signal(Signal::TERM)?;
    daemon.heard("STOPPING=1\n")?;
    ensure!(agent.exit()?.success(), "{}", stage.stderr()?);
    ensure!(three.exit()?.success());
    stage.audit_is_closed("a signal", Some(0))?;
    stage.is_empty()
}

#[test]
fn captures_keep_their_caps_when_the_daemon_is_killed_and_the_next_one_cleans_up() -> Result<()> {
    let daemon = staged()?;
    let stage = &daemon.stage;
    configure(&daemon, &["one", "broken"])?;
    let configured = fs::read_to_string(stage.path("agent.yaml"))?;
    let (sound, broken) = configured
        .split_once("  broken:")
        .context("no such server")?;
    let broken = broken.replace(
        &*python("python3")?.to_string_lossy(),
        "/nonexistent/server",
    );
    stage.write("agent.yaml", &format!("{sound}  broken:{broken}"))?;
    let mut agent = daemon.start()?;

    // One that cannot be started says why, and is not tried again at once for ever.
    for attempt in 0..4 {
        let (done, told) = tried(&daemon, NOBODY, "broken")?;
        let told = told.to_string();
        let refused = attempt == 3;
        ensure!(told.contains("could not be started"), "{told}");
        ensure!(told.contains("/nonexistent/server"), "{told}");
        ensure!(
            told.contains("several times in a row") == refused,
            "{attempt}: {told}"
        );
        ensure!(done.status.success() != refused, "{attempt}: {done:?}");
    }

    let mut one = daemon.client("one", 1)?;
    let udp = stage.space.udp()?;
    let file = stage.capture("kept.pcap");
    granted(&one.call("capture", &call(&file, udp.port()))?)?;
    stage.live(&file, 1)?;
    let killed = agent.pid();
    agent.signal(Signal::KILL)?;
    agent.exit()?;
    ensure!(one.exit()?.success());
    udp.send(50, 10)?;
    wait_for("all that the cap lets through", PATIENCE, || {
        let there = fs::metadata(&file)?.len() > 24 + 20 * (16 + 28 + 10);
        Ok(there.then_some(()))
    })?;

    // The next one serves, and takes away what the killed one left once the capture has ended, which goes on
    // within its caps until somebody ends it.
    // This one's socket is the service manager's.
    fs::remove_file(stage.path("agent.sock"))?;
    let mut command = stage.space.command(python("python3")?);
    command
        .args(["-c", PASSING])
        .arg(stage.path("agent.sock"))
        .arg(capwarden()?);
    let mut agent = daemon.start_by(command)?;
    daemon.said("by the service manager's socket", 1)?;
    let mut one = daemon.client("one", 2)?;
    ensure!(one.call("echo", &json!({ "n": 3 }))?.text() == "{\"n\": 3}");
    ensure!(packets(&file)? == 20, "no more than was granted");
    let left = cgroups_of(killed)?;
    ensure!(!left.is_empty());
    for group in left {
        for pid in fs::read_to_string(group.join("cgroup.procs"))?.lines() {
            signal(pid.parse()?, Signal::TERM)?;
        }
    }
    let mut others = 2;
    wait_for("the end of what was left", PATIENCE, || {
        others += 1;
        drop(daemon.client("one", others)?);
        Ok(cgroups_of(killed)?.is_empty().then_some(()))
    })?;
    agent.signal(Signal::TERM)?;
    ensure!(agent.exit()?.success(), "{}", stage.stderr()?);
    ensure!(one.exit()?.success());
    stage.is_empty()
}

#[test]
fn servers_are_served_over_http_too_and_the_shared_one_is_started_again() -> Result<()> {
    let daemon = staged()?;
    let stage = &daemon.stage;
    configure(&daemon, &["web", "pipes"])?;
    let mut agent = daemon.start()?;
    stage.listening_on(8000)?;
    for port in [8808, 8809] {
        let echoed = echoed(&daemon, &format!("http://127.0.0.1:{port}/mcp"))?;
        ensure!(
            echoed == "echo: once more",
            "{port}: {echoed} {}",
            stage.stderr()?
        );
    }
    let (_, told) = tried(&daemon, NOBODY, "web")?;
    ensure!(
        told.to_string()
            .contains("it is at http://127.0.0.1:8808/mcp"),
        "{told}"
    );
    let mut pipes = daemon.client("pipes", 1)?;
    ensure!(pipes.call("echo", &json!({ "text": "x" }))?.text() == "x");
    let config = daemon.verb(
        NOBODY,
        &["client-config", "web", "--for", "codex", "--http"],
    )?;
    let config = String::from_utf8({ config }.output()?.stdout)?;
    ensure!(
        config.contains("url = \"http://127.0.0.1:8808/mcp\""),
        "{config}"
    );

    // It dies; who asks it later finds another.
    let servers = stage.space.processes()?;
    let line = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let shared = servers
        .into_iter()
        .find(|pid| line(pid).ends_with(b"\x008000\0"));
    signal(shared.context("no server")?, Signal::KILL)?;
    daemon.said(
        "the server web does not run: it ended (signal: 9 (SIGKILL)); it is started again in 1 s",
        1,
    )?;
    stage.listening_on(8000)?;
    let echoed = echoed(&daemon, "http://127.0.0.1:8808/mcp")?;
    ensure!(echoed == "echo: once more", "{echoed} {}", stage.stderr()?);

    // Another policy: whoever is served under the old one is so no longer, and the address is free for the new.
    stage.write("other.yaml", "version: 1\ntools: { slow: allow }\n")?;
    let other = stage.path("other.yaml");
    let beside = format!(
        "version: 1\nservers:\n  pipes: {{ policy: {} }}\n",
        other.display()
    );
    stage.write("agent.d/50-policy.yaml", &beside)?;
    daemon.said("the server pipes is changed", 1)?;
    ensure!(pipes.exit()?.success());
    let denied = self::echoed(&daemon, "http://127.0.0.1:8809/mcp")?;
    ensure!(
        denied.contains("slow") && !denied.contains("once more"),
        "{denied}"
    );

    agent.signal(Signal::TERM)?;
    ensure!(agent.exit()?.success(), "{}", stage.stderr()?);
    stage.audit_is_closed("a signal", Some(0))?;
    stage.is_empty()
}
