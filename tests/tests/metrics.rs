//! What operators see of `capwarden run`: metrics, as another program reads them, and the log as
//! JSON; both against what the audit log says.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::{fs::MetadataExt as _, net::UnixDatagram},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{capwarden, wait_for, workplace},
    mcp::{Client, PATIENCE},
    stage::{Stage, number, python, text},
};
use rustix::process::Signal;
use serde_json::{Value, json};

const HOSTILE: &str = include_str!("../scripts/hostile.py");
const SCRAPE: &str = include_str!("../scripts/scrape.py");

const POLICY: &str = "version: 1
default: deny
tools:
  capture:
    capture:
      from: { interface: interface, filter: filter }
      interfaces: [ lo ]
      packets: 20
      seconds: 30
  stop: { ends: capture }
  open: allow
  noise: allow
  echo: allow
  exit: { deny: 'it would be the end' }
";

/// Sends a message over HTTP.
const POST: &str = "
import sys, urllib.request as http
kinds = {'Content-Type': 'application/json', 'Accept': 'application/json, text/event-stream'}
http.urlopen(http.Request(sys.argv[1], sys.argv[2].encode(), kinds), timeout=10).read()
";

const LIMITED: &str = "version: 1
tools:
  echo: { limits: [ { max: 2, window: hour, counter: echoes } ] }
  open: { approve: operator }
";

/// The hostile server behind capwarden with these options, ready.
fn hostile(stage: &Stage, options: &[&str]) -> Result<Client> {
    let script = stage.write("hostile.py", HOSTILE)?;
    let server = [&*python("python3")?, &script];
    let mut client = stage.run_with(POLICY, options, &server)?;
    client
        .shake_hands()
        .with_context(|| stage.stderr().unwrap_or_default())?;
    Ok(client)
}

/// What another program reads.
struct Scraped(Value);

impl Scraped {
    fn of(stage: &Stage, endpoint: &str) -> Result<Self> {
        let script = stage.write("scrape.py", SCRAPE)?;
        let mut command = stage.space.command(python("python3")?);
        let done = command.arg(script).arg(endpoint).output()?;
        let errors = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{errors}");
        Ok(Self(serde_json::from_slice(&done.stdout)?))
    }

    /// The value of a series: `name{label=value,…}` without the prefix, and without the server, which is the
    /// only one here.
    fn value(&self, series: &str) -> Result<u64> {
        let name = format!("capwarden_{series}");
        let name = match name.starts_with("capwarden_audit_") {
            true => name,
            false => of_server(&name, &self.server()?),
        };
        let value = self.0.get("samples").and_then(|all| all.get(&name));
        let value = value.and_then(Value::as_f64);
        let value = value.with_context(|| format!("{name} in {}", self.0))?;
        // Counts are whole, and small here.
        Ok(format!("{value:.0}").parse()?)
    }

    /// The one server that there is.
    fn server(&self) -> Result<String> {
        let all = self.0.get("samples").and_then(Value::as_object);
        let all = all.context("no samples")?;
        let mut servers: Vec<&str> = all
            .keys()
            .filter_map(|name| {
                name.strip_prefix("capwarden_sessions_live{server=")?
                    .strip_suffix('}')
            })
            .collect();
        ensure!(servers.len() == 1, "{servers:?}");
        Ok(servers.remove(0).to_owned())
    }
}

/// `name{a=b,server=S,tool=c}` of `name{a=b,tool=c}`: labels are sorted.
fn of_server(name: &str, server: &str) -> String {
    let (name, labels) = name.split_once('{').unwrap_or((name, "}"));
    let labels = labels.trim_end_matches('}').split(',');
    let mut labels: Vec<String> = labels
        .filter(|label| !label.is_empty())
        .map(str::to_owned)
        .collect();
    labels.push(format!("server={server}"));
    labels.sort();
    format!("{name}{{{}}}", labels.join(","))
}

/// Where the log says that metrics are served.
fn endpoint(stage: &Stage) -> Result<String> {
    wait_for("the address of the metrics", PATIENCE, || {
        let log = stage.stderr()?;
        let at = log.split("metrics at=").nth(1);
        Ok(at
            .and_then(|rest| rest.split_whitespace().next())
            .map(str::to_owned))
    })
}

/// Records by a field's value.
fn by(records: &[Value], field: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(text(record, field).to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn metrics_are_what_the_audit_log_says() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = hostile(&stage, &["--metrics", "127.0.0.1:0"])?;
    let endpoint = endpoint(&stage)?;
    let udp = stage.space.udp()?;
    for n in 0..5 {
        client.call("echo", &json!({ "n": n }))?;
    }
    client.call("open", &json!({}))?;
    client.call("noise", &json!({}))?;
    client.call("secret", &json!({ "password": "hunter2" }))?;
    client.call("exit", &json!({ "status": 1 }))?;
    let file = stage.capture("a.pcap");
    let wide = json!({ "interface": "eth0", "filter": "udp", "file": file });
    ensure!(client.call("capture", &wide)?.failed());
    let good = json!({
        "interface": "lo", "filter": format!("udp port {}", udp.port()), "file": file,
    });
    client.call("capture", &good)?;
    stage.live(&file, 1)?;
    let during = Scraped::of(&stage, &endpoint)?;
    assert_eq!(during.value("sessions_live")?, 1);
    udp.send(30, 100)?;
    let end = client.session_end("s1")?;
    assert_eq!(text(&end, "reason"), "packet-cap");

    let calls = stage.audited("call", 11)?;
    assert_eq!(calls.len(), 11);
    let ended = stage.end_record("s1")?;
    let refused = stage.audited("socket-refused", 1)?;
    let metrics = Scraped::of(&stage, &endpoint)?;

    for (tool, verdict, count) in [
        ("echo", "allow", 5),
        ("open", "allow", 1),
        ("noise", "allow", 1),
        ("exit", "deny", 1),
        ("capture", "deny", 1),
        ("capture", "capture", 1),
        ("(other)", "deny", 1),
        ("stop", "ends", 0),
    ] {
        let series = format!("calls_total{{tool={tool},verdict={verdict}}}");
        assert_eq!(metrics.value(&series)?, count, "{series}");
    }
    // The whole of it, by verdict: what is counted is what is recorded.
    for (verdict, recorded) in by(&calls, "verdict") {
        let tools = [
            "capture", "stop", "open", "noise", "echo", "exit", "(other)",
        ];
        let series = |tool| format!("calls_total{{tool={tool},verdict={verdict}}}");
        let counted = tools.map(|tool| metrics.value(&series(tool)));
        let counted: u64 = counted.into_iter().sum::<Result<u64>>()?;
        assert_eq!(counted, recorded, "{verdict}");
    }
    let mut denials = BTreeMap::<String, u64>::new();
    for call in calls.iter().filter(|call| text(call, "verdict") == "deny") {
        let (cause, rule) = match text(call, "reason") {
            "the tool is hidden" => ("hidden", ""),
            _ => (
                "policy",
                text(call, "rule").split_whitespace().nth(1).unwrap_or(""),
            ),
        };
        let series = format!("denials_total{{cause={cause},rule={rule}}}");
        *denials.entry(series).or_default() += 1;
    }
    assert_eq!(denials.len(), 2, "{denials:?}");
    for (series, count) in denials {
        assert_eq!(metrics.value(&series)?, count, "{series}");
    }
    assert_eq!(metrics.value("call_ends_total{end=answered}")?, 8);
    assert_eq!(metrics.value("call_ends_total{end=not-forwarded}")?, 1);
    assert_eq!(metrics.value("decision_seconds_count")?, 9);
    assert_eq!(metrics.value("decision_seconds_bucket{le=+Inf}")?, 9);
    assert_eq!(metrics.value("sessions_opened_total")?, 1);
    assert_eq!(metrics.value("sessions_live")?, 0);
    assert_eq!(metrics.value("sessions_ended_total{reason=packet-cap}")?, 1);
    for (series, field) in [("packets", "packets"), ("bytes", "bytes")] {
        let counted = metrics.value(&format!("delivered_{series}_total"))?;
        assert_eq!(Some(counted), number(&ended, field), "{series}");
        assert!(counted >= 20, "{counted}");
    }
    let armed = metrics.value("sockets_armed_total")?;
    assert_eq!(Some(armed), number(&ended, "sockets"));
    let refusals = u64::try_from(refused.len())?;
    assert_eq!(metrics.value("sockets_refused_total")?, refusals);
    assert!(metrics.value("dropped_lines_total{from=server}")? >= 5);
    assert_eq!(metrics.value("dropped_lines_total{from=client}")?, 0);
    assert_eq!(metrics.value("audit_queue_records")?, 0);
    let log = fs::read_to_string(stage.path("audit.jsonl"))?;
    let lines = u64::try_from(log.lines().count())?;
    assert_eq!(metrics.value("audit_records_total")?, lines);
    let types = metrics.0.get("types").context("no types")?;
    assert_eq!(text(types, "capwarden_decision_seconds"), "histogram");
    assert_eq!(text(types, "capwarden_calls"), "counter");
    assert_eq!(text(types, "capwarden_build"), "info");

    // No value of an argument is anywhere, and who suspects one can check it.
    assert!(!format!("{log}{}{}", metrics.0, stage.stderr()?).contains("hunter2"));
    for (guess, found) in [("hunter2", 1), ("hunter3", 0)] {
        let guess = stage.write("guess", &format!("{{\"password\": \"{guess}\"}}"))?;
        let mut show = Command::new(capwarden()?);
        show.args(["audit", "show", "--json", "--arguments"])
            .arg(guess);
        let shown = show.arg(stage.path("audit.jsonl")).output()?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert_eq!(shown.lines().count(), found, "{shown}");
    }
    client.close_input();
    ensure!(client.exit()?.success());
    stage.audit_is_closed("the client closed the connection", Some(0))
}

#[test]
fn metrics_on_a_unix_socket_are_one_agents_own() -> Result<()> {
    let stage = Stage::new()?;
    let path = stage.path("metrics.sock");
    let endpoint = format!("unix:{}", path.display());
    let mut client = hostile(&stage, &["--metrics", &endpoint])?;
    let metrics = Scraped::of(&stage, &endpoint)?;
    assert_eq!(metrics.value("audit_records_total")?, 1);

    let policy = stage.path("policy.yaml");
    let mut second = stage.space.command(capwarden()?);
    second.args(["run", "--metrics", &endpoint, "--audit"]);
    second.arg(stage.path("second.jsonl")).arg("-p").arg(policy);
    second.arg("--state").arg(stage.path("state"));
    let second = second.args(["--", "/bin/true"]).output()?;
    let words = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(2), "{words}");
    ensure!(
        words.contains(&endpoint) && words.contains("another process listens there"),
        "{words}"
    );

    client.close_input();
    ensure!(client.exit()?.success());
    ensure!(!path.exists(), "the socket is left behind");
    Ok(())
}

#[test]
fn metrics_of_local_clients_are_counted_together_with_limits_and_approvals() -> Result<()> {
    let stage = Stage::new()?;
    let script = stage.write("hostile.py", HOSTILE)?;
    let socket = stage.path("socket");
    let listen = format!("unix:{}", socket.display());
    let mut agent = stage.run_with(
        LIMITED,
        &["--listen", &listen, "--metrics", "127.0.0.1:0"],
        &[&*python("python3")?, &script],
    )?;
    wait_for("the socket", PATIENCE, || Ok(socket.exists().then_some(())))?;
    let endpoint = endpoint(&stage)?;
    let connect = |name: &str| -> Result<Client> {
        let mut client = Client::start(&mut stage.bridge(&socket)?, &stage.path(name))?;
        client.shake_hands()?;
        Ok(client)
    };
    let (mut one, mut other) = (connect("one")?, connect("other")?);
    one.call("echo", &json!({ "n": 1 }))?;
    ensure!(!other.call("echo", &json!({ "n": 2 }))?.failed());
    ensure!(other.call("echo", &json!({ "n": 3 }))?.failed());
    one.call("open", &json!({}))?;

    let calls = stage.audited("call", 4)?;
    assert_eq!(stage.audited("approval", 1)?.len(), 1);
    let connections: Vec<_> = calls
        .iter()
        .map(|call| number(call, "connection"))
        .collect();
    assert_eq!(connections, [Some(1), Some(2), Some(2), Some(1)]);
    let metrics = Scraped::of(&stage, &endpoint)?;
    for (series, count) in [
        ("calls_total{tool=echo,verdict=allow}", 2),
        ("calls_total{tool=echo,verdict=deny}", 1),
        ("calls_total{tool=open,verdict=pending}", 1),
        ("limits_reached_total", 1),
        ("approvals_total{became=requested,through=none}", 1),
        ("call_ends_total{end=answered}", 2),
        ("call_ends_total{end=not-forwarded}", 2),
        ("decision_seconds_count", 4),
        ("audit_records_total", 6),
    ] {
        assert_eq!(metrics.value(series)?, count, "{series}");
    }
    let limited = calls.iter().find(|call| text(call, "verdict") == "deny");
    let rule = text(limited.context("no denial")?, "rule");
    let rule = rule.split_whitespace().nth(1).unwrap_or("");
    let series = format!("denials_total{{cause=policy,rule={rule}}}");
    assert_eq!(metrics.value(&series)?, 1, "{series}");

    agent.signal(Signal::TERM)?;
    ensure!(agent.exit()?.code() == Some(143), "{}", stage.stderr()?);
    Ok(())
}

#[test]
fn metrics_count_the_calls_of_an_http_front() -> Result<()> {
    let stage = Stage::new()?;
    let options = [
        "--listen",
        "127.0.0.1:8808",
        "--upstream",
        "http://127.0.0.1:8000/mcp",
        "--anonymous",
        "--metrics",
        "127.0.0.1:0",
    ];
    let mut agent = stage.run_with(POLICY, &options, &[])?;
    wait_for("the front", PATIENCE, || {
        Ok(stage.stderr()?.contains("listening on http").then_some(()))
    })?;
    // None of these gets as far as the server, which is not there.
    for (tool, arguments) in [
        ("capture", json!({ "interface": "eth0" })),
        ("secret", json!({ "password": "hunter2" })),
    ] {
        let params = json!({ "name": tool, "arguments": arguments });
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
        let mut post = stage.space.command(python("python3")?);
        post.args(["-c", POST, "http://127.0.0.1:8808/mcp"]);
        let done = post.arg(call.to_string()).output()?;
        let words = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{words}{}", stage.stderr()?);
    }
    assert_eq!(stage.audited("call", 2)?.len(), 2);
    let metrics = Scraped::of(&stage, &endpoint(&stage)?)?;
    for (series, count) in [
        ("calls_total{tool=capture,verdict=deny}", 1),
        ("calls_total{tool=(other),verdict=deny}", 1),
        ("calls_total{tool=echo,verdict=allow}", 0),
        ("denials_total{cause=hidden,rule=}", 1),
        ("call_ends_total{end=not-forwarded}", 1),
        ("decision_seconds_count", 1),
        ("audit_records_total", 3),
    ] {
        assert_eq!(metrics.value(series)?, count, "{series}");
    }
    agent.signal(Signal::TERM)?;
    ensure!(agent.exit()?.code() == Some(143), "{}", stage.stderr()?);
    Ok(())
}

#[test]
fn log_as_json_follows_each_call_and_session() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = hostile(&stage, &["--log", "debug", "--log-format", "json"])?;
    client.call("echo", &json!({ "password": "hunter2" }))?;
    client.call("exit", &json!({}))?;
    let file = stage.capture("a.pcap");
    let capture = json!({ "interface": "lo", "filter": "udp port 9", "file": file });
    client.call("capture", &capture)?;
    stage.live(&file, 1)?;
    client.call("stop", &json!({ "file": file }))?;
    client.session_end("s1")?;
    client.close_input();
    ensure!(client.exit()?.success());

    let log = stage.stderr()?;
    ensure!(!log.contains("hunter2"), "{log}");
    // The server's own standard error goes there too.
    let own = log.lines().filter(|line| line.starts_with('{'));
    let lines = own.map(serde_json::from_str::<Value>);
    let lines: Vec<Value> = lines
        .collect::<Result<_, _>>()
        .with_context(|| log.clone())?;
    // Words said within a span, with fields of the span.
    let said = |span: &str, word: &str, fields: &[(&str, &str)]| {
        let within = |line: &&Value| {
            let Some(of) = line.get("span") else {
                return false;
            };
            text(of, "name") == span
                && text(line, "message") == word
                && fields.iter().all(|(name, value)| text(of, name) == *value)
        };
        lines.iter().filter(within).count()
    };
    let echo = [("tool", "echo"), ("verdict", "allow")];
    assert_eq!(said("call", "decided", &echo), 1, "{log}");
    assert_eq!(said("call", "answered", &echo), 1, "{log}");
    let exit = [("tool", "exit"), ("verdict", "deny")];
    assert_eq!(said("call", "decided", &exit), 1, "{log}");
    assert_eq!(said("call", "answered", &exit), 0, "{log}");
    let capture = [
        ("tool", "capture"),
        ("session", "s1"),
        ("server", "hostile.py"),
    ];
    assert_eq!(said("call", "answered", &capture), 1, "{log}");
    let session = [("session", "s1")];
    assert_eq!(said("session", "opened", &session), 1, "{log}");
    let end = "it was stopped by a call";
    assert_eq!(said("session", end, &session), 1, "{log}");
    Ok(())
}

/// Has a directory in the journal's place, then executes a command.
const JOURNAL: &str = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
    mount --bind \"$1\" /run/systemd/journal && shift && exec \"$@\"";

#[test]
fn log_goes_to_the_journal_that_standard_error_leads_to() -> Result<()> {
    let place = workplace()?;
    let at = |name: &str| place.path().join(name);
    let journal = UnixDatagram::bind(at("socket"))?;
    journal.set_read_timeout(Some(PATIENCE))?;
    let stderr = File::create(at("stderr"))?;
    let stream = stderr.metadata()?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", JOURNAL, "sh"]);
    command.arg(place.path()).arg(capwarden()?);
    command
        .args(["exec", "-i", "lo", "--audit"])
        .arg(at("log.jsonl"));
    command.args(["--", "true"]).stderr(stderr);
    command.env(
        "JOURNAL_STREAM",
        format!("{}:{}", stream.dev(), stream.ino()),
    );
    let status = command.env_remove("CAPWARDEN_LOG").status()?;
    ensure!(status.success(), "{}", fs::read_to_string(at("stderr"))?);
    let (mut entry, mut found) = (vec![0; 64 << 10], Vec::new());
    for field in [
        "MESSAGE",
        "PRIORITY",
        "CAPWARDEN_SESSION",
        "CAPWARDEN_SERVER",
        "CAPWARDEN_REASON",
    ] {
        // The session's end comes late, and has all of them.
        while found.len() < 4 << 20 && !holds(&found, field) {
            let length = journal.recv(&mut entry)?;
            found.extend(entry.get(..length).unwrap_or_default());
        }
        ensure!(holds(&found, field), "{field}");
    }
    ensure!(String::from_utf8_lossy(&found).contains("s1\n"));
    ensure!(!fs::read_to_string(at("stderr"))?.contains("granted"));
    Ok(())
}

/// Whether a field of this name is in these entries.
fn holds(entries: &[u8], field: &str) -> bool {
    let name = format!("{field}\n");
    entries
        .windows(name.len())
        .any(|part| part == name.as_bytes())
}
