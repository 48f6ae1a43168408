//! mitmproxy: with TLS, in processes that a server starts, and in its own MCP server. It listens where it may and
//! nowhere else, reaches whom it may, and is over when its session is.

use std::{
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{skip, venv_python, wait_for},
    mcp::{Client, PATIENCE},
    stage::{Stage, granted, number, proxies, text},
};
use serde_json::{Value, json};

const SERVER: &str = include_str!("../scripts/mitmdump.py");
const WEB: &str = include_str!("../scripts/tls_server.py");

/// The web server that proxies may reach, and one that they may not.
const GRANTED: u16 = 9_443;
const OTHER: u16 = 9_444;
/// One without TLS.
const PLAIN: u16 = 9_080;

/// Bytes in each direction.
const CAP: u64 = 300_000;

fn policy() -> String {
    format!(
        r#"version: 1
tools:
  ping: allow
  proxy_start:
    proxy:
      from: {{ host: listen_host, port: listen_port, seconds: seconds }}
      defaults: {{ host: 127.0.0.1, port: 8080 }}
      listen: [ "127.0.0.1:8000-8999" ]
      upstream: [ "127.0.0.1:{GRANTED}" ]
      bytes: {CAP}
      connections: 50
      seconds: 60
  proxy_stop: {{ ends: proxy }}
"#
    )
}

/// The web servers, for as long as it lives.
struct Web {
    child: Child,
    _stdin: Option<ChildStdin>,
    authority: PathBuf,
}

impl Web {
    fn start(stage: &Stage) -> Result<Self> {
        let script = stage.write("web.py", WEB)?;
        let mut command = stage.space.command(proxies("python3")?);
        command.arg(script).arg(stage.path(""));
        let ports = [PLAIN, GRANTED, OTHER];
        command.args(ports.map(|port| port.to_string()));
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        let web = Self {
            _stdin: child.stdin.take(),
            child,
            authority: stage.path("authority.pem"),
        };
        for port in ports {
            stage.listening_on(port)?;
        }
        Ok(web)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks a web server for so many bytes through a proxy, whose authority alone is trusted.
fn curl(stage: &Stage, authority: &Path, proxy: u16, port: u16, bytes: u64) -> Result<Output> {
    curl_for(PATIENCE.as_secs(), stage, authority, proxy, port, bytes)
}

/// The same, and gives up after so many seconds.
fn curl_for(
    seconds: u64,
    stage: &Stage,
    authority: &Path,
    proxy: u16,
    port: u16,
    bytes: u64,
) -> Result<Output> {
    let mut curl = stage.space.command("curl");
    curl.args(["-sS", "--connect-timeout", "2", "-o", "-"]);
    curl.arg("--max-time").arg(seconds.to_string());
    curl.arg("--cacert").arg(authority);
    curl.arg("-x").arg(format!("http://127.0.0.1:{proxy}"));
    let scheme = if port == PLAIN { "http" } else { "https" };
    curl.arg(format!("{scheme}://127.0.0.1:{port}/{bytes}"));
    Ok(curl.env("no_proxy", "").output()?)
}

struct Rig {
    stage: Stage,
    client: Client,
    _web: Web,
}

impl Rig {
    fn new() -> Result<Self> {
        let stage = Stage::new()?;
        let web = Web::start(&stage)?;
        let server = stage.write("mitmdump.py", SERVER)?;
        let (mitmdump, own) = (proxies("mitmdump")?, stage.path("captures"));
        let command = [&venv_python()?, &server, &mitmdump, &own, &web.authority];
        let mut client = stage.run(&policy(), &command.map(PathBuf::as_path))?;
        let shaken = client.shake_hands();
        shaken.with_context(|| stage.stderr().unwrap_or_default())?;
        Ok(Self {
            stage,
            client,
            _web: web,
        })
    }

    /// Starts a proxy, and waits until it listens; the session.
    fn start(&mut self, port: u16) -> Result<String> {
        let call = json!({ "listen_port": port });
        let answer = self.client.call("proxy_start", &call)?;
        let session = granted(&answer)?;
        let listens = self.stage.listening_on(port);
        listens.with_context(|| self.said(port, &answer.text()))?;
        Ok(session)
    }

    fn said(&self, port: u16, of: &str) -> String {
        let log = self.stage.capture(&format!("mitmdump-{port}.log"));
        format!("{of}\n{}", std::fs::read_to_string(log).unwrap_or_default())
    }

    fn curl(&self, proxy: u16, port: u16, bytes: u64) -> Result<Output> {
        let authority = self.stage.capture("mitmproxy-ca-cert.pem");
        curl(&self.stage, &authority, proxy, port, bytes)
    }

    /// Nobody is heard on the port, though mitmdump may be alive, and the server is.
    fn is_over(&mut self, proxy: u16) -> Result<()> {
        let done = self.curl(proxy, GRANTED, 1)?;
        ensure!(!done.status.success() && done.stdout.is_empty(), "{done:?}");
        let answer = self.client.call("ping", &json!({}))?;
        ensure!(answer.text().starts_with("alive"), "{}", answer.text());
        Ok(())
    }

    fn refused(&self, what: &str) -> Result<Value> {
        wait_for(what, PATIENCE, || {
            let records = self.stage.audit("network-refused")?;
            Ok(records
                .into_iter()
                .find(|record| text(record, "what").contains(what)))
        })
    }

    fn close(mut self) -> Result<()> {
        self.client.close_input();
        self.client.exit()?;
        self.stage
            .audit_is_closed("the client closed the connection", Some(0))?;
        drop(self._web);
        self.stage.is_empty()
    }
}

#[test]
fn mitmdump_intercepts_what_it_may_reach_and_is_over_at_the_stop() -> Result<()> {
    let mut rig = Rig::new()?;
    let session = rig.start(8_081)?;
    let done = rig.curl(8_081, GRANTED, 1_000)?;
    ensure!(
        done.stdout.len() == 1_000,
        "{}",
        rig.said(8_081, &format!("{done:?}"))
    );
    // The server's own authority is none to whoever trusts mitmproxy's alone: it was intercepted.
    let authority = rig.stage.path("authority.pem");
    let straight = curl(&rig.stage, &authority, 8_081, GRANTED, 1_000)?;
    ensure!(straight.status.code() == Some(60), "{straight:?}");

    let other = rig.curl(8_081, OTHER, 10)?;
    ensure!(!other.stdout.starts_with(b"www"), "{other:?}");
    rig.refused(&format!("connect to 127.0.0.1:{OTHER} (tcp)"))?;

    let stopped = rig.client.call("proxy_stop", &json!({}))?;
    ensure!(!stopped.failed(), "{}", stopped.text());
    let end = rig.stage.end_record(&session)?;
    ensure!(text(&end, "reason") == "stop-call", "{end}");
    ensure!(number(&end, "accepted") == Some(3), "{end}");
    ensure!(number(&end, "made") >= Some(1), "{end}");
    rig.is_over(8_081)?;
    rig.close()
}

#[test]
fn mitmdump_listens_nowhere_but_where_it_may() -> Result<()> {
    let mut rig = Rig::new()?;
    let wide = json!({ "listen_host": "0.0.0.0" });
    let wide = rig.client.call("proxy_start", &wide)?;
    ensure!(wide.failed(), "{}", wide.text());
    // By itself it listens on all addresses of both families, and gives up at the first that it does not get.
    for (port, really, refused) in [
        (8_082, "0.0.0.0", "listen on 0.0.0.0:8082 (tcp)"),
        (8_083, "::", "listen on [::]:8083 (tcp)"),
        (8_084, "", ":8084 (tcp)"),
    ] {
        let call = json!({ "listen_port": port, "really": really });
        let answer = rig.client.call("proxy_start", &call)?;
        ensure!(answer.own_text() == "started", "{}", answer.text());
        let refused = rig.refused(refused);
        refused.with_context(|| rig.said(port, really))?;
        rig.is_over(port)?;
    }
    rig.close()
}

#[test]
fn caps_and_the_deadline_end_mitmdump_and_not_the_server() -> Result<()> {
    let mut rig = Rig::new()?;
    let session = rig.start(8_085)?;
    let small = rig.curl(8_085, GRANTED, 1_000)?;
    ensure!(
        small.stdout.len() == 1_000,
        "{}",
        rig.said(8_085, &format!("{small:?}"))
    );
    // What is cut is not reset: the client waits for more, and may not have had enough when it gives up.
    let authority = rig.stage.capture("mitmproxy-ca-cert.pem");
    let end = wait_for("the cap", PATIENCE, || {
        let part = curl_for(2, &rig.stage, &authority, 8_085, GRANTED, 2 * CAP)?;
        let got = u64::try_from(part.stdout.len())?;
        ensure!(!part.status.success() && got < CAP, "{got}");
        Ok(rig.stage.audit("session-ended")?.pop())
    })?;
    ensure!(text(&end, "session") == session, "{end}");
    ensure!(text(&end, "reason") == "byte-cap", "{end}");
    let bytes = |field| number(&end, field).unwrap_or(u64::MAX);
    ensure!(
        bytes("bytes_in") <= CAP && bytes("bytes_out") <= CAP,
        "{end}"
    );
    rig.is_over(8_085)?;

    let brief = json!({ "listen_port": 8_086, "seconds": 1 });
    let session = granted(&rig.client.call("proxy_start", &brief)?)?;
    let end = rig.stage.end_record(&session)?;
    ensure!(text(&end, "reason") == "deadline", "{end}");
    rig.is_over(8_086)?;
    rig.close()
}

/// Under its ready policy, whose upstream is a web server here. Its own process is the proxy.
#[test]
fn mitmproxy_mcp() -> Result<()> {
    let server = proxies("mitmproxy-mcp")?;
    if !server.exists() {
        return skip("mitmproxy_mcp", "mitmproxy-mcp is for Python 3.12 and 3.13");
    }
    let stage = Stage::new()?;
    let web = Web::start(&stage)?;
    let upstream = "\"127.0.0.1:80,443,3000\"";
    let ready = include_str!("../../policies/mitmproxy-mcp.yaml");
    ensure!(ready.contains(upstream));
    let policy = ready.replace(upstream, &format!("\"127.0.0.1:{PLAIN}\""));
    // It keeps its authority in its home.
    let home = format!("HOME={}", stage.path("captures").display());
    let mut client = stage.run(&policy, &["env".as_ref(), home.as_ref(), &server])?;
    client
        .shake_hands()
        .with_context(|| stage.stderr().unwrap_or_default())?;

    let listed = client.request("tools/list", &json!({}))?;
    let tools = listed
        .value
        .pointer("/result/tools")
        .and_then(Value::as_array);
    let shown: Vec<&str> = tools
        .into_iter()
        .flatten()
        .map(|tool| text(tool, "name"))
        .collect();
    ensure!(
        shown.contains(&"start_proxy") && !shown.contains(&"replay_flow"),
        "{shown:?}"
    );

    let elsewhere = client.call("start_proxy", &json!({ "port": 3_128 }))?;
    ensure!(
        elsewhere.failed() && elsewhere.text().contains("8000-8999"),
        "{}",
        elsewhere.text()
    );
    let started = client.call("start_proxy", &json!({ "port": 8_123 }))?;
    let session = granted(&started)?;
    stage.listening_on(8_123)?;
    let authority = stage.capture(".mitmproxy/mitmproxy-ca-cert.pem");
    let done = curl(&stage, &authority, 8_123, PLAIN, 1_000)?;
    ensure!(done.stdout.len() == 1_000, "{done:?}");
    let refused = curl(&stage, &authority, 8_123, GRANTED, 10)?;
    ensure!(!refused.stdout.starts_with(b"www"), "{refused:?}");
    let what = format!("connect to 127.0.0.1:{GRANTED} (tcp)");
    let records = stage.audited("network-refused", 1)?;
    ensure!(
        records.iter().any(|record| text(record, "what") == what),
        "{records:?}"
    );
    let seen = client.call("get_traffic_summary", &json!({}))?;
    ensure!(
        seen.text().contains(&format!(":{PLAIN}/1000")),
        "{}",
        seen.text()
    );

    let stopped = client.call("stop_proxy", &json!({}))?;
    ensure!(!stopped.failed(), "{}", stopped.text());
    let end = stage.end_record(&session)?;
    ensure!(text(&end, "reason") == "stop-call", "{end}");
    let done = curl(&stage, &authority, 8_123, PLAIN, 1)?;
    ensure!(done.stdout.is_empty(), "{done:?}");
    let alive = client.call("get_traffic_summary", &json!({}))?;
    ensure!(!alive.failed(), "{}", alive.text());
    client.close_input();
    client.exit()?;
    drop(web);
    stage.is_empty()
}
