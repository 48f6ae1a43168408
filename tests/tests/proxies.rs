//! Proxies that live in the server's own process: what they may listen on and connect to, how much passes
//! them, and that they are over when their session is, while the server lives on.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::Output,
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{capwarden, venv_python, wait_for},
    mcp::{Client, Message, PATIENCE},
    stage::{Stage, granted, number, python, text},
};
use rustix::process::Signal;
use serde_json::{Value, json};

const SERVER: &str = include_str!("../scripts/relay.py");
const CARRY: &str = include_str!("../scripts/carry.py");

/// The web server that proxies may reach, and one that they may not.
const GRANTED: u16 = 9_080;
const OTHER: u16 = 9_081;

/// Bytes in each direction.
const CAP: u64 = 300_000;

fn policy(seconds: &str) -> String {
    format!(
        r#"version: 1
baseline: none
tools:
  ping: allow
  reach: allow
  proxy_start:
    proxy:
      from: {{ host: listen_host, port: listen_port }}
      defaults: {{ host: 127.0.0.1, port: 8080 }}
      listen: [ "127.0.0.1:8000-8999" ]
      upstream: [ "127.0.0.1:{GRANTED}" ]
      interfaces: [ lo ]
      bytes: {CAP}
      connections: 20
      seconds: {seconds}
  proxy_stop: {{ ends: proxy }}
"#
    )
}

/// A web server's answer to `/N`: so many bytes.
fn respond(mut stream: TcpStream) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().context("no request")??;
    let path = first.split(' ').nth(1).context("no path")?;
    let length: usize = path.trim_start_matches('/').parse()?;
    for line in lines.map_while(Result::ok) {
        if line.is_empty() {
            break;
        }
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
    )?;
    Ok(stream.write_all(&vec![b'w'; length])?)
}

struct Rig {
    stage: Stage,
    client: Client,
}

impl Rig {
    fn new(policy: &str) -> Result<Self> {
        let stage = Stage::new()?;
        stage.serve(GRANTED, respond)?;
        stage.serve(OTHER, respond)?;
        let server = stage.write("relay.py", SERVER)?;
        let mut client = stage.run(policy, &[&venv_python()?, &server])?;
        let shaken = client.shake_hands();
        shaken.with_context(|| stage.stderr().unwrap_or_default())?;
        Ok(Self { stage, client })
    }

    /// Starts a proxy; the session.
    fn start(&mut self, port: u16) -> Result<String> {
        let answer = self
            .client
            .call("proxy_start", &json!({ "listen_port": port }))?;
        ensure!(
            answer.own_text().contains("\"success\": true"),
            "{}",
            answer.text()
        );
        ensure!(!answer.text().contains("not allowed"), "{}", answer.text());
        granted(&answer)
    }

    /// Asks a web server on this host through a proxy.
    fn curl(&self, proxy: u16, port: u16, bytes: u64, options: &[&str]) -> Result<Output> {
        let mut curl = self.stage.space.command("curl");
        curl.args(["-sS", "--connect-timeout", "1", "-o", "-"]);
        curl.arg("-x").arg(format!("http://127.0.0.1:{proxy}"));
        curl.args(options);
        curl.arg(format!("http://127.0.0.1:{port}/{bytes}"));
        Ok(curl.env("no_proxy", "").output()?)
    }

    fn works(&self, proxy: u16) -> Result<bool> {
        let plain = self.curl(proxy, GRANTED, 1_000, &[])?;
        let tunnel = self.curl(proxy, GRANTED, 1_000, &["--proxytunnel"])?;
        Ok(plain.stdout.len() == 1_000 && tunnel.stdout.len() == 1_000)
    }

    /// Nobody is heard on the port, and yet the server, whose own it is, is alive.
    fn is_over(&mut self, proxy: u16) -> Result<()> {
        let plain = self.curl(proxy, GRANTED, 1, &[])?;
        ensure!(
            !plain.status.success() && plain.stdout.is_empty(),
            "{plain:?}"
        );
        let answer = self.client.call("ping", &json!({}))?;
        ensure!(answer.text().starts_with("alive"), "{}", answer.text());
        Ok(())
    }

    fn refused(&self, what: &str) -> Result<Value> {
        wait_for(what, PATIENCE, || {
            let records = self.stage.audit("network-refused")?;
            let one = |record: &Value| text(record, "what").contains(what);
            Ok(records.into_iter().find(one))
        })
    }

    fn close(self, why: &str) -> Result<()> {
        self.stage.ends_with(self.client, why)
    }
}

fn is_told(answer: &Message, what: &str) -> bool {
    let content = answer.value.pointer("/result/content");
    let items = content.and_then(Value::as_array).map_or(0, Vec::len);
    items == 2 && answer.text().contains(what)
}

#[test]
fn allowed_proxy_works_and_reaches_only_its_upstream() -> Result<()> {
    let mut rig = Rig::new(&policy("60"))?;
    ensure!(!rig.works(8_081)?, "nothing listens yet");
    let session = rig.start(8_081)?;
    ensure!(rig.works(8_081)?, "{}", rig.stage.stderr()?);
    let other = rig.curl(8_081, OTHER, 10, &["-w", "%{http_code}"])?;
    ensure!(other.stdout == b"502", "{other:?}");
    rig.refused(&format!("connect to 127.0.0.1:{OTHER} (tcp)"))?;

    let connect = || Ok(TcpStream::connect(("127.0.0.1", 8_081))?);
    let mut held: TcpStream = rig.stage.space.enter(connect)?;
    held.set_read_timeout(Some(PATIENCE))?;

    // The server has no stop: the session has one.
    let stopped = rig.client.call("proxy_stop", &json!({}))?;
    ensure!(!stopped.failed(), "{}", stopped.text());
    let end = rig.stage.end_record(&session)?;
    ensure!(text(&end, "reason") == "stop-call", "{end}");
    ensure!(
        number(&end, "accepted") >= Some(3) && number(&end, "made") == Some(2),
        "{end}"
    );
    ensure!(number(&end, "bytes_in") > Some(2_000), "{end}");
    let lost = held.read(&mut [0]).map_err(|error| error.kind());
    ensure!(lost == Err(io::ErrorKind::ConnectionReset), "{lost:?}");
    rig.is_over(8_081)?;
    let opened = rig.stage.audited("proxy-opened", 1)?;
    ensure!(
        opened[0]["listen"] == json!(["127.0.0.1:8081"]),
        "{}",
        opened[0]
    );
    ensure!(rig.stage.audit("network-bounded")?.len() == 1);
    rig.close("the client closed the connection")
}

#[test]
fn server_that_listens_elsewhere_is_refused_and_the_client_is_told() -> Result<()> {
    let mut rig = Rig::new(&policy("60"))?;
    let wide = rig
        .client
        .call("proxy_start", &json!({ "listen_host": "0.0.0.0" }))?;
    ensure!(
        wide.failed() && wide.text().contains("127.0.0.1:8000-8999"),
        "{}",
        wide.text()
    );
    // It does what it was not asked to, and says that all went well.
    for (port, really) in [(8_082, "0.0.0.0"), (8_083, "::"), (8_084, "127.0.0.2")] {
        let arguments = json!({ "listen_port": port, "really": really });
        let answer = rig.client.call("proxy_start", &arguments)?;
        let shown = if really == "::" { "[::]" } else { really };
        let what = format!("not allowed to listen on {shown}:{port} (tcp)");
        ensure!(is_told(&answer, &what), "{really}: {}", answer.text());
        ensure!(
            answer.own_text().contains("proxy started"),
            "its own words stay"
        );
        rig.refused(&format!("listen on {shown}:{port} (tcp)"))?;
        ensure!(!rig.works(port)?, "{really}");
    }
    rig.close("the client closed the connection")
}

#[test]
fn server_that_does_not_answer_is_answered_for() -> Result<()> {
    let quick = policy("60").replace("      bytes:", "      answer_within: 1\n      bytes:");
    let mut rig = Rig::new(&quick)?;
    let start = |rig: &mut Rig, port: u16, really: &str, answers: &str| {
        let arguments = json!({ "listen_port": port, "really": really, "answers": answers });
        rig.client.call("proxy_start", &arguments)
    };
    let refused = start(&mut rig, 8_093, "0.0.0.0", "never")?;
    let told = refused.text();
    ensure!(
        refused.failed() && told.contains("did not answer this call within 1 s"),
        "{told}"
    );
    ensure!(
        told.contains("not allowed to listen on 0.0.0.0:8093 (tcp)"),
        "{told}"
    );
    ensure!(told.contains("s1 has ended"), "{told}");
    let end = rig.stage.end_record("s1")?;
    ensure!(text(&end, "reason") == "call-failed", "{end}");

    let mute = start(&mut rig, 8_094, "127.0.0.1", "never")?;
    ensure!(
        mute.failed() && mute.text().contains("s2 goes on"),
        "{}",
        mute.text()
    );
    ensure!(rig.works(8_094)?, "{}", rig.stage.stderr()?);

    let late = start(&mut rig, 8_095, "127.0.0.1", "late")?;
    ensure!(
        late.failed() && late.text().contains("s3 goes on"),
        "{}",
        late.text()
    );
    let alive = rig.client.call("ping", &json!({}))?;
    ensure!(alive.text().starts_with("alive"), "{}", alive.text());
    let records = rig.stage.audited("unanswered", 4)?;
    let what: Vec<&str> = records.iter().map(|record| text(record, "what")).collect();
    let goes_on = "the session goes on";
    let dropped = "a late answer was dropped";
    ensure!(
        what == ["the session ended", goes_on, goes_on, dropped],
        "{what:?}"
    );
    rig.close("the client closed the connection")
}

#[test]
fn caps_and_the_deadline_end_a_proxy_and_not_the_server() -> Result<()> {
    let mut rig = Rig::new(&policy("60"))?;
    let session = rig.start(8_085)?;
    let part = rig.curl(8_085, GRANTED, 2 * CAP, &["--max-time", "2"])?;
    let got = u64::try_from(part.stdout.len())?;
    ensure!(!part.status.success() && got < CAP, "{got}");
    let end = rig.stage.end_record(&session)?;
    ensure!(text(&end, "reason") == "byte-cap", "{end}");
    let bytes = |field| number(&end, field).unwrap_or(u64::MAX);
    ensure!(
        bytes("bytes_in") <= CAP && bytes("bytes_out") <= CAP,
        "{end}"
    );
    rig.is_over(8_085)?;
    let told = rig.client.session_end(&session)?;
    ensure!(
        text(&told, "message").starts_with("proxy s1 ended"),
        "{told}"
    );
    rig.close("the client closed the connection")?;

    let mut rig = Rig::new(&policy("1.5"))?;
    let session = rig.start(8_086)?;
    let end = rig.stage.end_record(&session)?;
    ensure!(text(&end, "reason") == "deadline", "{end}");
    rig.is_over(8_086)?;
    // And another one may be had, of the same port.
    let again = rig
        .client
        .call("proxy_start", &json!({ "listen_port": 8_087 }))?;
    ensure!(granted(&again)? == "s2", "{}", again.text());
    rig.close("the client closed the connection")
}

#[test]
fn two_proxies_are_told_apart_and_end_one_by_one() -> Result<()> {
    let mut rig = Rig::new(&policy("60"))?;
    let first = rig.start(8_091)?;
    let second = rig.start(8_092)?;
    ensure!(rig.works(8_091)? && rig.works(8_092)?);
    rig.client.call("proxy_stop", &json!({ "port": 8_091 }))?;
    let end = rig.stage.end_record(&first)?;
    ensure!(text(&end, "reason") == "stop-call", "{end}");
    rig.is_over(8_091)?;
    ensure!(rig.works(8_092)?, "the other goes on");
    ensure!(rig.stage.audit("session-ended")?.len() == 1);
    rig.client.call("proxy_stop", &json!({ "port": "8092" }))?;
    rig.stage.end_record(&second)?;
    rig.is_over(8_092)?;
    rig.close("the client closed the connection")
}

#[test]
fn server_without_a_session_has_its_baseline_and_no_more() -> Result<()> {
    let baseline = format!("baseline: {{ connect: [ \"127.0.0.1:{GRANTED}\" ] }}");
    let text = policy("60").replace("baseline: none", &baseline);
    let mut rig = Rig::new(&text)?;
    let reach = |port: u16| json!({ "host": "127.0.0.1", "port": port });
    let answer = rig.client.call("reach", &reach(GRANTED))?;
    ensure!(answer.text() == "reached", "{}", answer.text());
    let answer = rig.client.call("reach", &reach(OTHER))?;
    let what = format!("not allowed to connect to 127.0.0.1:{OTHER} (tcp)");
    ensure!(is_told(&answer, &what), "{}", answer.text());
    let record = rig.refused(&format!("connect to 127.0.0.1:{OTHER}"))?;
    ensure!(record.get("session").is_none(), "{record}");
    let answer = rig.client.call("ping", &json!({}))?;
    ensure!(answer.text().lines().count() == 1, "{}", answer.text());

    // Where the policy says nothing of it, the network is the server's.
    drop(rig);
    let mut rig = Rig::new("version: 1\ntools: { reach: allow }\n")?;
    let answer = rig.client.call("reach", &reach(OTHER))?;
    ensure!(answer.text() == "reached", "{}", answer.text());
    let log = rig.stage.stderr()?;
    ensure!(log.contains("network is not bounded"), "{log}");

    // A policy that grants proxies comes too late for a server that runs.
    rig.stage.write("policy.yaml", &policy("60"))?;
    rig.client.signal(Signal::HUP)?;
    rig.stage.audited("policy-reloaded", 1)?;
    let answer = rig.client.call("proxy_start", &json!({}))?;
    let told = answer.text();
    ensure!(
        answer.failed() && told.contains("must be started again"),
        "{told}"
    );
    rig.close("the client closed the connection")
}

const HTTP_SERVER: &str = r#"
import http.server, json, sys

class Server(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        result = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "h", "version": "1"}}
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Server).serve_forever()
"#;

#[test]
fn http_server_may_listen_where_it_is_asked_and_nowhere_else() -> Result<()> {
    let stage = Stage::new()?;
    let server = stage.write("server.py", HTTP_SERVER)?;
    let upstream = "http://127.0.0.1:8765/mcp";
    let options = [
        "--listen",
        "127.0.0.1:8808",
        "--anonymous",
        "--upstream",
        upstream,
    ];
    let python = venv_python()?;
    let start = |port: &str| {
        let command = [python.as_path(), &server, port.as_ref()];
        stage.run_with(&policy("60"), &options, &command)
    };
    let mut running = start("8765")?;
    let message = json!({
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": { "name": "c", "version": "1" },
        },
    });
    wait_for("the server's answer", PATIENCE, || {
        let mut curl = stage.space.command("curl");
        curl.args(["-s", "-H", "Content-Type: application/json"]);
        curl.args(["-H", "Accept: application/json, text/event-stream"]);
        curl.arg("-d").arg(message.to_string());
        let answer = curl.arg("http://127.0.0.1:8808/mcp").output()?;
        let answer = String::from_utf8_lossy(&answer.stdout);
        Ok(answer.contains("serverInfo").then_some(()))
    })
    .with_context(|| stage.stderr().unwrap_or_default())?;
    ensure!(
        stage
            .stderr()?
            .contains("the server may listen on 127.0.0.1:8765")
    );
    ensure!(stage.audit("network-refused")?.is_empty());
    running.signal(Signal::TERM)?;
    running.exit()?;

    let _elsewhere = start("8766")?;
    let refused = stage.audited("network-refused", 1)?;
    let what = "listen on 127.0.0.1:8766 (tcp)";
    ensure!(text(&refused[0], "what") == what, "{refused:?}");
    Ok(())
}

#[test]
fn server_that_could_leave_its_cgroup_is_not_started() -> Result<()> {
    let stage = Stage::new()?;
    let policy = stage.write("policy.yaml", &policy("60"))?;
    let marker = stage.capture("started");
    let mut run = stage.space.command(capwarden()?);
    run.args(["run", "--user", "0", "-p"]).arg(policy);
    run.arg("--audit").arg(stage.path("audit.jsonl"));
    run.arg("--state").arg(stage.path("state"));
    let done = run.arg("--").arg("touch").arg(&marker).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(!done.status.success() && !marker.exists(), "{said}");
    ensure!(
        said.contains("not started") && said.contains("leave its cgroup"),
        "{said}"
    );
    ensure!(stage.audit("network-bounded")?.is_empty());
    Ok(())
}

/// How a client gets to a server on pipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Pipe,
    UnixSocket,
    Http,
}

/// A client whose server is restarted at the end of a proxy. The agent too, where the client is not its
/// parent's.
fn restarting(way: Way, policy: &str) -> Result<(Rig, Option<Client>)> {
    if way == Way::Pipe {
        return Ok((Rig::new(policy)?, None));
    }
    let stage = Stage::new()?;
    stage.serve(GRANTED, respond)?;
    let server = stage.write("relay.py", SERVER)?;
    let command = [venv_python()?, server];
    let command: Vec<_> = command.iter().map(PathBuf::as_path).collect();
    let python3 = python("python3")?;
    let socket = stage.path("socket");
    let (agent, mut carrier) = match way {
        Way::Http => {
            let options = ["--listen", "127.0.0.1:8808", "--anonymous"];
            let agent = stage.run_with(policy, &options, &command)?;
            stage.listening_on(8808)?;
            let mut carrier = stage.space.command(&python3);
            carrier.arg(stage.write("carry.py", CARRY)?);
            carrier.arg("http://127.0.0.1:8808/mcp");
            (agent, carrier)
        }
        _ => {
            let listen = format!("unix:{}", socket.display());
            let agent = stage.run_with(policy, &["--listen", &listen], &command)?;
            wait_for("the socket", PATIENCE, || Ok(socket.exists().then_some(())))?;
            (agent, stage.bridge(&socket)?)
        }
    };
    let mut client = Client::start(&mut carrier, &stage.path("client-stderr"))?;
    let shaken = client.shake_hands();
    shaken.with_context(|| stage.stderr().unwrap_or_default())?;
    Ok((Rig { stage, client }, Some(agent)))
}

impl Rig {
    fn alive(&mut self) -> Result<String> {
        let answer = self.client.call("ping", &json!({}))?;
        ensure!(answer.text().starts_with("alive in "), "{}", answer.text());
        Ok(answer.own_text().to_owned())
    }
}

fn is_restarted(way: Way) -> Result<()> {
    let policy = policy("2").replace("seconds: 2", "seconds: 2\n      end: restart");
    let (mut rig, agent) = restarting(way, &policy)?;
    let before = rig.alive()?;
    let session = rig.start(8_081)?;
    ensure!(rig.works(8_081)?, "{way:?}: {}", rig.stage.stderr()?);
    // One that the server never answers: it is told that nobody will.
    let never = json!({ "listen_port": 8_082, "answers": "never" });
    let unanswered = rig.client.ask_call("proxy_start", &never)?;
    let told = rig.client.answer(&unanswered)?.value;
    let words = told.pointer("/error/message").and_then(Value::as_str);
    let words = words.unwrap_or_default();
    ensure!(words.contains("is restarted, since the proxy of"), "{told}");
    // No handshake, and yet another process.
    let after = rig.alive()?;
    ensure!(before != after, "{way:?}: {after}");
    ensure!(!rig.works(8_081)?, "{way:?}");
    let end = rig.stage.end_record(&session)?;
    ensure!(text(&end, "reason") == "deadline", "{end}");
    let other = rig.stage.end_record("s2")?;
    ensure!(text(&other, "reason") == "server-restart", "{other}");
    let restarts = rig.stage.audited("server-restarted", 1)?;
    let restart = restarts.first().context("no restart")?;
    ensure!(
        text(restart, "session") == session && restart.get("failed").is_none(),
        "{restarts:?}"
    );
    // The next one is bounded as the first was, and its end is heard of as well.
    rig.start(8_081)?;
    ensure!(rig.works(8_081)?, "{way:?}: {}", rig.stage.stderr()?);
    let stopped = rig.client.call("proxy_stop", &json!({}))?;
    ensure!(!stopped.failed(), "{}", stopped.text());
    rig.stage.audited("server-restarted", 2)?;
    ensure!(rig.alive()? != after, "{way:?}");
    ensure!(!rig.works(8_081)?, "{way:?}");
    let Some(mut agent) = agent else {
        return rig.close("the client closed the connection");
    };
    rig.client.close_input();
    rig.client.exit()?;
    agent.signal(Signal::TERM)?;
    agent.exit()?;
    rig.stage.is_empty()
}

#[test]
fn server_is_restarted_under_its_client_on_pipes() -> Result<()> {
    is_restarted(Way::Pipe)
}

#[test]
fn server_is_restarted_under_its_client_on_a_unix_socket() -> Result<()> {
    is_restarted(Way::UnixSocket)
}

#[test]
fn server_is_restarted_under_its_client_over_http() -> Result<()> {
    is_restarted(Way::Http)
}

#[test]
fn server_over_http_cannot_be_restarted_and_its_policy_is_refused() -> Result<()> {
    let stage = Stage::new()?;
    let policy = policy("2").replace("seconds: 2", "seconds: 2\n      end: restart");
    let options = [
        "--listen",
        "127.0.0.1:8808",
        "--anonymous",
        "--upstream",
        "http://127.0.0.1:8000/mcp",
    ];
    let mut agent = stage.run_with(&policy, &options, &[])?;
    ensure!(!agent.exit()?.success());
    let told = stage.stderr()?;
    ensure!(
        told.contains("policy.yaml:16:7") && told.contains("cannot be restarted"),
        "{told}"
    );
    Ok(())
}
