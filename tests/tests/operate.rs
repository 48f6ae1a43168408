//! The operators' verbs against agents that run: what they list is what the kernel has counted, what they
//! stop is stopped and in the record, and nobody but root is listened to.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{Exec, NOBODY, Running, capwarden, signal, wait_for},
    mcp::{Client, PATIENCE},
    netns::Namespace,
    stage::{AWSLABS, Stage, node, number, packets, python, suite, text},
    terminal::{Shell, Terminal},
    traffic::Flood,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const PAYLOAD: &[u8] = &[b'x'; 50];
/// How long somebody waits who has pressed a key, on a host that has more to do.
const PRESSED: Duration = Duration::from_secs(2);

/// A verb's exit status and what it printed.
fn verb(words: &[&str]) -> Result<(Option<i32>, String)> {
    let done = Command::new(capwarden()?)
        .args(words)
        .env_remove("SUDO_UID")
        .output()?;
    let mut told = String::from_utf8_lossy(&done.stdout).into_owned();
    told += &String::from_utf8_lossy(&done.stderr);
    Ok((done.status.code(), told))
}

/// The sessions of one agent process, as `sessions --json` lists them.
fn sessions(agent: u32) -> Result<Vec<Value>> {
    let done = Command::new(capwarden()?)
        .args(["sessions", "--json"])
        .output()?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{errors}");
    let listed: Value = serde_json::from_slice(&done.stdout)?;
    let all = listed.get("sessions").and_then(Value::as_array);
    let all = all.context("no list")?.iter();
    let its = |one: &&Value| number(one, "pid") == Some(agent.into());
    Ok(all.filter(its).cloned().collect())
}

/// The one session of an agent process, once it is as wanted.
fn session(agent: u32, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    wait_for("a session that is as wanted", PATIENCE, || {
        let all = sessions(agent)?;
        ensure!(all.len() <= 1, "{all:?}");
        Ok(all.into_iter().find(&wanted))
    })
    .with_context(|| format!("{:?}", sessions(agent)))
}

fn seen(session: &Value, what: &str) -> Option<u64> {
    number(session.get(what)?, "seen")
}

fn cap(session: &Value, what: &str) -> Option<u64> {
    number(session.get(what)?, "cap")
}

/// `tcpdump` on loopback, once it hears.
fn tcpdump(namespace: &Namespace) -> Result<(Running<'_>, u32)> {
    let options = "--interface lo --packets 1000 --bytes 5MiB --seconds 60";
    let exec = Exec::new(namespace, options).option("--filter", "udp");
    let words = "tcpdump -U -B 8192 -w {}/out.pcap -i lo".split(' ');
    let running = exec.start(words)?;
    let pids = running.capturing("lo", 1)?;
    let tool = pids.first().copied().context("nobody captures")?;
    Ok((running, tool))
}

#[test]
fn capture_under_exec_is_listed_exactly_and_stopped_whole() -> Result<()> {
    let namespace = Namespace::new()?;
    let (running, tool) = tcpdump(&namespace)?;
    let agent = running.child.id();
    Flood::new(LOOPBACK, PAYLOAD, 40).send(&namespace)?;
    let one = session(agent, |one| seen(one, "packets") == Some(40))?;
    // 14 + 20 + 8 + 50 bytes each.
    ensure!(seen(&one, "bytes") == Some(40 * 92), "{one}");
    ensure!(cap(&one, "packets") == Some(1_000), "{one}");
    ensure!(cap(&one, "bytes") == Some(5 << 20), "{one}");
    ensure!(one.pointer("/interfaces/0") == Some(&json!("lo")), "{one}");
    ensure!(
        text(&one, "asked") == "udp" && text(&one, "kind") == "capture",
        "{one}"
    );
    ensure!(
        text(&one, "standing") == "live" && text(&one, "server") == "tcpdump",
        "{one}"
    );
    ensure!(
        one.pointer("/processes/0/pid") == Some(&json!(tool)),
        "{one}"
    );
    ensure!(
        one.pointer("/who/principal") == Some(&json!(caller())),
        "{one}"
    );
    let left = number(&one, "left_ms").context("no deadline")?;
    ensure!(left < 60_000 && number(&one, "sockets") == Some(1), "{one}");

    let id = text(&one, "id");
    let (status, told) = verb(&["sessions", "--server", "tcpdump"])?;
    let shown = format!("{}/s1", &id[..8]);
    ensure!(status == Some(0) && told.contains(&shown), "{told}");
    ensure!(told.contains("40 of 1000 packets"), "{told}");

    let (status, told) = verb(&["stop", &shown, "--why", "not during the fair"])?;
    let ended = format!("{shown} ended: an operator stopped it (40 packets, 3680 bytes)");
    ensure!(status == Some(0) && told.contains(&ended), "{told}");
    // The operator hears of the end while it is still being recorded.
    let log = wait_for("the end in the record", PATIENCE, || {
        let log = fs::read_to_string(running.file("audit.jsonl"))?;
        let whole = log.ends_with('\n') && log.contains("session-ended");
        Ok(whole.then_some(log))
    })?;
    let log: Vec<Value> = log
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let at = |kind| log.iter().position(|record| text(record, "kind") == kind);
    let act = at("operator").context("no record of the operator")?;
    ensure!(Some(act) < at("session-ended"), "{log:?}");
    ensure!(text(&log[act], "by") == "uid:0" && text(&log[act], "did") == "stop");
    ensure!(
        text(&log[act], "why") == "not during the fair",
        "{}",
        log[act]
    );
    let done = running.finish()?;
    ensure!(done.reason()? == "stopped" && done.ended("packets")? == 40);
    ensure!(packets(&done.file("out.pcap"))? == 40, "its file is whole");
    ensure!(!socket(agent).exists(), "the socket is taken away");
    let (status, told) = verb(&["stop", id])?;
    ensure!(status == Some(1) && told.contains("is open"), "{told}");
    Ok(())
}

/// Who asks for the session of `exec`: the user who called sudo, if it was called.
fn caller() -> String {
    let sudo = std::env::var("SUDO_UID").unwrap_or_else(|_| "0".to_owned());
    format!("uid:{sudo}")
}

/// The operators' socket of an agent.
fn socket(agent: u32) -> PathBuf {
    format!("/run/capwarden/agents/{agent}.sock").into()
}

const POLICY: &str = "version: 1
default: deny
tools:
  start_packet_capture:
    capture:
      from: { interface: interface, filter: capture_filter, seconds: duration }
      interfaces: [ lo ]
      within: udp
      outside: narrow
      packets: 500
      over: clamp
  stop_packet_capture: { ends: capture }
";

/// A real MCP server behind `run`.
fn server(stage: &Stage) -> Result<Client> {
    let mut client = stage.run_with(POLICY, &["--server", "fair"], &[&python(AWSLABS)?])?;
    client
        .shake_hands()
        .with_context(|| stage.stderr().unwrap_or_default())?;
    Ok(client)
}

#[test]
fn capture_of_a_real_server_is_listed_with_who_asked_and_its_client_is_told_of_the_stop()
-> Result<()> {
    let stage = Stage::new()?;
    let mut client = server(&stage)?;
    let agent = client.pid();
    ensure!(sessions(agent)?.is_empty());
    let udp = stage.space.udp()?;
    let arguments = json!({
        "interface": "lo", "duration": 30, "output_file": "out.pcap",
        "capture_filter": format!("port {}", udp.port()),
    });
    let answer = client.call("start_packet_capture", &arguments)?;
    ensure!(!answer.failed(), "{}", answer.line);
    stage.live(&stage.capture("out.pcap"), 1)?;
    udp.send(25, 10)?;
    let one = session(agent, |one| seen(one, "packets") == Some(25))?;
    ensure!(
        one.pointer("/who/tool") == Some(&json!("start_packet_capture")),
        "{one}"
    );
    ensure!(
        text(&one, "within") == "udp" && text(&one, "server") == "fair",
        "{one}"
    );
    ensure!(
        text(&one, "asked") == format!("port {}", udp.port()),
        "{one}"
    );
    ensure!(
        !text(&one, "cut").is_empty(),
        "what the policy took away: {one}"
    );
    ensure!(cap(&one, "packets") == Some(500), "{one}");

    let (status, told) = verb(&["stop", "--server", "fair"])?;
    ensure!(status == Some(0) && told.contains("(25 packets"), "{told}");
    let notice = client.session_end("s1")?;
    ensure!(notice.to_string().contains("\"stopped\""), "{notice}");
    ensure!(sessions(agent)?.is_empty());
    ensure!(stage.audited("operator", 1)?.len() == 1);
    // The server lives on.
    let answer = client.call("start_packet_capture", &arguments)?;
    ensure!(!answer.failed(), "{}", answer.line);
    stage.ends_with(client, "the client closed the connection")
}

#[test]
fn nobody_but_root_is_listened_to() -> Result<()> {
    let namespace = Namespace::new()?;
    let (running, _) = tcpdump(&namespace)?;
    let agent = running.child.id();
    let mode = |path: &std::path::Path| {
        Ok::<_, std::io::Error>(fs::metadata(path)?.permissions().mode() & 0o777)
    };
    let socket = socket(agent);
    ensure!(mode(&socket)? == 0o600);
    ensure!(mode(socket.parent().context("a directory")?)? == 0o700);
    let nobody = |program: &std::path::Path, words: &[&str]| -> Result<(Option<i32>, String)> {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={NOBODY}"), "--clear-groups", "--"]);
        let done = command.arg(program).args(words).output()?;
        let told = [done.stdout, done.stderr].concat();
        Ok((
            done.status.code(),
            String::from_utf8_lossy(&told).into_owned(),
        ))
    };
    // Not everybody may look into the place of the original.
    let copy = running.file("capwarden");
    let original = capwarden()?;
    let linked = fs::hard_link(&original, &copy);
    linked.or_else(|_| fs::copy(&original, &copy).map(drop))?;
    for words in [&["sessions"][..], &["stop", "--all"]] {
        let (status, told) = nobody(&copy, words)?;
        ensure!(
            status == Some(4) && told.contains("only root may"),
            "{told}"
        );
    }
    // Where root is told names, others are told none, at once.
    let named = verb(&["__names", "stop", ""])?;
    ensure!(named.0 == Some(0) && named.1.contains("/s1\n"), "{named:?}");
    let asked = Instant::now();
    let named = nobody(&copy, &["__names", "stop", ""])?;
    ensure!(named == (Some(0), String::new()), "{named:?}");
    ensure!(asked.elapsed() < PRESSED, "{:?}", asked.elapsed());
    let connect = format!(
        "import socket; socket.socket(socket.AF_UNIX).connect('{}')",
        socket.display()
    );
    let (_, told) = nobody("/usr/bin/python3".as_ref(), &["-c", &connect])?;
    ensure!(told.contains("PermissionError"), "{told}");
    ensure!(sessions(agent)?.len() == 1);
    let (status, _) = verb(&["stop", "--server", "no such server"])?;
    ensure!(status == Some(1));
    verb(&["stop", text(&sessions(agent)?[0], "id")])?;
    running.finish()?;
    Ok(())
}

#[test]
fn socket_of_an_agent_that_was_killed_is_swept() -> Result<()> {
    let namespace = Namespace::new()?;
    let (mut running, tool) = tcpdump(&namespace)?;
    let agent = running.child.id();
    ensure!(socket(agent).exists());
    running.kill_agent()?;
    ensure!(socket(agent).exists(), "nobody was left to remove it");
    ensure!(sessions(agent)?.is_empty());
    ensure!(!socket(agent).exists());
    running.clear_away(&[tool])?;
    Ok(())
}

#[test]
fn bash_completes_sessions_and_servers_by_the_tab_key() -> Result<()> {
    let namespace = Namespace::new()?;
    let (running, _) = tcpdump(&namespace)?;
    let one = session(running.child.id(), |_| true)?;
    let agent = &text(&one, "id")[..8];
    let mut bash = Terminal::shell(Shell::Bash)?;
    bash.shows("> ")?;
    bash.press(&format!("capwarden stop {agent}\t"))?;
    bash.shows(&format!("> capwarden stop {agent}/s1 "))?;
    // Ctrl-U empties the line.
    bash.press("\u{15}capwarden stop --server=tcpdum\t")?;
    bash.shows("> capwarden stop --server=tcpdump ")?;
    let log = running.file("audit.jsonl");
    let logs = format!("capwarden logs {} --session", log.display());
    bash.press(&format!("\u{15}{logs} {}\t", &agent[..6]))?;
    bash.shows(&format!("--session {agent}/s1 "))?;
    // What clap has written goes on to work.
    bash.press("\u{15}capwarden sess\t")?;
    bash.shows("> capwarden sessions ")?;
    // No file's name stands where a session's does.
    bash.press("\u{15}capwarden stop /et\tx")?;
    bash.shows("> capwarden stop /etx")?;
    bash.press("\u{15}")?;
    verb(&["stop", text(&one, "id")])?;
    running.finish()?;
    Ok(())
}

#[test]
fn zsh_and_fish_complete_them_too() -> Result<()> {
    let namespace = Namespace::new()?;
    let (running, _) = tcpdump(&namespace)?;
    let one = session(running.child.id(), |_| true)?;
    let agent = &text(&one, "id")[..8];

    let mut zsh = Terminal::shell(Shell::Zsh)?;
    zsh.shows("> ")?;
    zsh.press(&format!("capwarden stop {agent}\t"))?;
    zsh.shows(&format!("capwarden stop {agent}/s1 "))?;
    zsh.press("\u{15}capwarden stop --server=tcpdum\t")?;
    zsh.shows("capwarden stop --server=tcpdump ")?;
    zsh.press("\u{15}capwarden sess\t")?;
    zsh.shows("capwarden sessions ")?;
    zsh.press("\u{15}capwarden stop /et\tx")?;
    zsh.shows("capwarden stop /etx")?;

    let place = tempfile::tempdir()?;
    symlink(capwarden()?, place.path().join("capwarden"))?;
    let script = Command::new(capwarden()?)
        .args(["completions", "fish"])
        .output()?;
    fs::write(place.path().join("completions"), script.stdout)?;
    // What it would offer behind a line, as it says itself.
    let offered = |line: &str| -> Result<String> {
        let place = place.path().display();
        let asks = format!(
            "set -x PATH '{place}' $PATH; source '{place}/completions'; complete -C '{line}'"
        );
        let told = Command::new("fish")
            .args(["--no-config", "-c", &asks])
            .env("HOME", place.to_string())
            .output()?;
        Ok(String::from_utf8(told.stdout)?)
    };
    let of_stop = offered("capwarden stop ")?;
    ensure!(of_stop.contains(&format!("{agent}/s1")), "{of_stop}");
    let servers = offered("capwarden stop --server=")?;
    ensure!(servers.trim() == "--server=tcpdump", "{servers}");
    let verbs = offered("capwarden sess")?;
    ensure!(verbs.starts_with("sessions"), "{verbs}");
    ensure!(offered("capwarden stop /et")?.is_empty());

    verb(&["stop", text(&one, "id")])?;
    running.finish()?;
    Ok(())
}

/// An empty state directory.
fn state() -> Result<TempDir> {
    let private = fs::Permissions::from_mode(0o700);
    Ok(tempfile::Builder::new().permissions(private).tempdir()?)
}

#[test]
fn top_stops_a_session_by_its_key_and_gives_the_terminal_back() -> Result<()> {
    let namespace = Namespace::new()?;
    let (running, _) = tcpdump(&namespace)?;
    Flood::new(LOOPBACK, PAYLOAD, 30).send(&namespace)?;
    let place = state()?;
    let mut top = Terminal::new(&format!("top --state '{}'", place.path().display()))?;
    let id = text(&sessions(running.child.id())?[0], "id")[..8].to_owned();
    top.shows("Sessions")?;
    // Other tests have sessions of their own.
    top.press(&format!("/{id}\r"))?;
    top.shows(&format!("{id}/s1"))?;
    top.shows("30/1k")?;
    top.press("s")?;
    top.shows(&format!("Stop {id}/s1?"))?;
    top.press("y")?;
    top.shows("an operator stopped it")?;
    let done = running.finish()?;
    ensure!(done.reason()? == "stopped" && done.ended("packets")? == 30);
    top.press("q")?;
    top.left("0")?;
    Ok(())
}

#[test]
fn top_gives_the_terminal_back_when_it_is_told_to_end_and_wants_one() -> Result<()> {
    let place = state()?;
    let mut top = Terminal::new(&format!("top --state '{}'", place.path().display()))?;
    top.shows("Sessions")?;
    top.press("?")?;
    top.shows("nothing ends by that")?;
    let shell = children(top.script().into())?
        .into_iter()
        .next()
        .context("no shell")?;
    let program = children(shell)?.into_iter().next().context("no verb")?;
    signal(u32::try_from(program)?, Signal::TERM)?;
    top.left("143")?;
    let (status, told) = verb(&["top"])?;
    ensure!(
        status == Some(2) && told.contains("sessions --json"),
        "{told}"
    );
    Ok(())
}

/// The processes that a process has started.
fn children(parent: u64) -> Result<Vec<u64>> {
    let found = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    let found = found.split_whitespace().map(str::parse);
    Ok(found.collect::<Result<_, _>>()?)
}

#[test]
fn log_is_followed_as_it_is_written() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = server(&stage)?;
    let out = stage.path("followed");
    let mut logs = Command::new(capwarden()?);
    logs.args(["logs", "-f", "-n", "1", "--server", "fair"]);
    let mut logs = logs
        .arg(stage.path("audit.jsonl"))
        .stdout(File::create(&out)?)
        .spawn()?;
    // From here on, what comes is what has come since.
    wait_for("the record of before", PATIENCE, || {
        Ok((fs::metadata(&out)?.len() > 0).then_some(()))
    })?;
    let answer = client.call("start_packet_capture", &json!({ "interface": "other0" }))?;
    ensure!(answer.failed(), "{}", answer.line);
    let followed = wait_for("the denial", PATIENCE, || {
        let text = fs::read_to_string(&out)?;
        Ok(text.contains("start_packet_capture(").then_some(text))
    });
    logs.kill()?;
    logs.wait()?;
    let followed = followed?;
    ensure!(
        followed.contains("deny") && followed.lines().count() == 2,
        "{followed}"
    );
    let log = stage.path("audit.jsonl");
    let (status, told) = verb(&["logs", "-n", "1", &log.display().to_string()])?;
    ensure!(status == Some(0) && followed.ends_with(&told), "{told}");
    // A copy that was changed is not shown as whole.
    let changed = fs::read_to_string(&log)?.replacen("\"user\":\"", "\"user\":\"1", 1);
    let copy = stage.write("changed.jsonl", &changed)?;
    let (status, told) = verb(&["logs", &copy.display().to_string()])?;
    ensure!(
        status == Some(1) && told.contains("the log is not whole: line 2"),
        "{told}"
    );
    stage.ends_with(client, "the client closed the connection")
}

/// A client over HTTP that carries lines, with a token.
fn carry(stage: &Stage, token: &str, name: &str) -> Result<Client> {
    let script = stage.write("carry.py", include_str!("../scripts/carry.py"))?;
    let mut command = stage.space.command(python("python3")?);
    command
        .arg(script)
        .args(["http://127.0.0.1:8808/mcp", token]);
    let mut client = Client::start(&mut command, &stage.path(&format!("{name}-stderr")))?;
    client.shake_hands()?;
    Ok(client)
}

#[test]
fn grant_is_revoked_with_its_sessions_and_no_others() -> Result<()> {
    let policy = "version: 1\ntools:\n  capture:\n    capture:\n      from: { interface: interface, filter: filter }\n      interfaces: [ lo ]\n      packets: 20\n      seconds: 60\n";
    let stage = Stage::new()?;
    let script = stage.write("hostile.py", include_str!("../scripts/hostile.py"))?;
    let laptop = stage.grant("laptop", "hostile.py")?;
    let desk = stage.grant("desk", "hostile.py")?;
    let listen = ["--listen", "127.0.0.1:8808"];
    let mut agent = stage.run_with(policy, &listen, &[&python("python3")?, &script])?;
    stage.listening_on(8808)?;
    let mut one = carry(&stage, &laptop, "one")?;
    let mut other = carry(&stage, &desk, "other")?;
    for (client, name) in [(&mut one, "one.pcap"), (&mut other, "other.pcap")] {
        let file = stage.capture(name);
        let arguments = json!({ "interface": "lo", "file": file, "filter": "udp" });
        let answer = client.call("capture", &arguments)?;
        ensure!(!answer.failed(), "{}", answer.line);
    }
    let of = |one: &Value| one.pointer("/who/principal").cloned().unwrap_or_default();
    wait_for("two sessions, and whose they are", PATIENCE, || {
        let all = sessions(agent.pid())?;
        let whose: Vec<Value> = all.iter().map(of).collect();
        Ok((whose == [json!("grant:laptop"), json!("grant:desk")]).then_some(()))
    })?;
    let audit = stage.path("audit.jsonl").display().to_string();
    let told = stage.verb(&["revoke", "laptop", "--audit", &audit])?;
    ensure!(told.starts_with("revoked laptop"), "{told}");
    ensure!(told.contains("/s1 ended: "), "{told}");
    let left = sessions(agent.pid())?;
    ensure!(
        left.len() == 1 && of(&left[0]) == json!("grant:desk"),
        "{left:?}"
    );
    ensure!(!stage.audit("grant")?.is_empty());
    agent.signal(Signal::TERM)?;
    ensure!(agent.exit()?.code() == Some(143), "{}", stage.stderr()?);
    drop((one, other));
    stage.is_empty()?;
    stage.audit_is_closed("a signal", Some(143))
}

/// Asks every agent that it can reach, and says what it was told.
const ASK: &str = "
import glob, socket
told = 0
for path in glob.glob('/run/capwarden/agents/*.sock'):
    try:
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(5)
        one.connect(path)
        one.sendall(b'{\"do\":\"sessions\"}\\n')
        told += len(one.recv(1))
    except OSError:
        pass
print('told', told)
";

#[test]
fn governed_root_is_not_listened_to() -> Result<()> {
    let namespace = Namespace::new()?;
    let (running, _) = tcpdump(&namespace)?;
    let ask = running.file("ask.py");
    fs::write(&ask, ASK)?;
    let outside = Command::new("python3").arg(&ask).output()?;
    let outside = String::from_utf8_lossy(&outside.stdout).into_owned();
    ensure!(
        !outside.contains("told 0"),
        "whoever is root and not governed is told: {outside}"
    );
    let mut governed = namespace.command(capwarden()?);
    governed.args(["exec", "--user", "0", "-i", "lo", "--audit"]);
    governed.arg(running.file("other.jsonl"));
    let done = governed.args(["--", "python3"]).arg(&ask).output()?;
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(told.trim() == "told 0", "{told} {errors}");
    verb(&["stop", text(&sessions(running.child.id())?[0], "id")])?;
    running.finish()?;
    Ok(())
}

/// Debian's headless Chromium.
const BROWSER: &str = "/usr/bin/chromium-headless-shell";

#[test]
fn page_in_a_browser_shows_a_session_and_stops_it() -> Result<()> {
    let namespace = Namespace::new()?;
    let (running, _) = tcpdump(&namespace)?;
    Flood::new(LOOPBACK, PAYLOAD, 20).send(&namespace)?;
    let one = session(running.child.id(), |one| seen(one, "packets") == Some(20))?;
    let shown = format!("{}/s1", &text(&one, "id")[..8]);
    let place = state()?;
    let stderr = running.file("web-stderr");
    let mut web = Command::new(capwarden()?);
    web.args(["web", "--listen", "127.0.0.1:0", "--state"]);
    let mut web = web
        .arg(place.path())
        .env_remove("SUDO_UID")
        .stderr(File::create(&stderr)?)
        .spawn()?;
    let looked = look(&stderr, &shown);
    web.kill()?;
    web.wait()?;
    let looked = looked?;
    let shows = |field: &str, words: &str| {
        ensure!(text(&looked, field).contains(words), "{field}: {looked}");
        Ok(())
    };
    shows("counts", "20 of 1000 packets, 1840 of 5242880 bytes")?;
    shows("by", &format!(" by agent process {}", running.child.id()))?;
    shows("cap", "cap 1000")?;
    shows("protocols", "ipv4/udp 20")?;
    shows("told", &format!("{shown} ended: an operator stopped it"))?;
    ensure!(
        !text(&looked, "address").contains('#'),
        "the token is hidden: {looked}"
    );
    ensure!(looked.get("problems") == Some(&json!([])), "{looked}");
    let done = running.finish()?;
    ensure!(done.reason()? == "stopped" && done.ended("packets")? == 20);
    Ok(())
}

/// What a browser says of the page, whose address is in this file.
fn look(stderr: &std::path::Path, session: &str) -> Result<Value> {
    let address = wait_for("the page's address", PATIENCE, || {
        let told = fs::read_to_string(stderr)?;
        let address = told.trim().rsplit(' ').next();
        let whole = told.ends_with('\n');
        Ok(address.filter(|_| whole).map(str::to_owned))
    })?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/page.mjs");
    let mut browser = Command::new(node()?);
    browser.arg(script).arg(suite("node_modules")?);
    let done = browser.args([BROWSER, &address, session]).output()?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{errors}");
    Ok(serde_json::from_slice(&done.stdout)?)
}
