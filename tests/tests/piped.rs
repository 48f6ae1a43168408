//! Servers on pipes behind `capwarden run --listen ADDRESS:PORT`: real clients over HTTP, TLS and
//! grants, and captures that end with their grant.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{capwarden, wait_for},
    mcp::{Client, PATIENCE},
    stage::{Stage, granted, packets, python, text},
};
use rustix::process::Signal;
use serde_json::{Value, json};

const SERVER: &str = include_str!("../scripts/http_server.py");
const HOSTILE: &str = include_str!("../scripts/hostile.py");
const CLIENT: &str = include_str!("../scripts/http_client.py");
const CARRY: &str = include_str!("../scripts/carry.py");

const POLICY: &str = "version: 1
default: deny
tools:
  echo: { args: { text: { pattern: '^.{0,100}$' } } }
  slow: allow
  ask: allow
  capture:
    capture:
      from: { interface: interface, packets: packets, filter: filter }
      interfaces: [ lo ]
      packets: 1000
      seconds: 1
      over: clamp
";

const HERE: &str = "127.0.0.1:8808";

/// A certificate, and its key. It vouches for itself.
fn certificate(stage: &Stage, name: &str) -> Result<(PathBuf, PathBuf)> {
    let cert = stage.path(&format!("{name}.pem"));
    let key = stage.path(&format!("{name}.key"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]);
    openssl.args(["-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-subj", &format!("/CN={name}")]);
    let names = "subjectAltName=DNS:capture.example,DNS:localhost,IP:127.0.0.1,IP:10.99.1.1";
    openssl.args([
        "-addext",
        names,
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]);
    openssl.arg("-keyout").arg(&key).arg("-out").arg(&cert);
    let done = openssl.output()?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{errors}");
    Ok((cert, key))
}

fn word(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is text")
}

/// What a client of the official SDK saw at an address, where this certificate is believed.
fn seen(stage: &Stage, words: &[&str], believed: &Path) -> Result<Value> {
    let script = stage.write("http_client.py", CLIENT)?;
    let mut command = stage.space.command(python("python3")?);
    command.env("SSL_CERT_FILE", believed);
    let done = command.arg(script).args(words).output()?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{errors}{}", stage.stderr()?);
    Ok(serde_json::from_slice(&done.stdout)?)
}

#[test]
fn clients_over_tls_have_servers_of_their_own() -> Result<()> {
    let stage = Stage::new()?;
    let script = stage.write("http_server.py", SERVER)?;
    let (cert, key) = certificate(&stage, "first")?;
    let token = stage.grant("laptop", "http_server.py")?;
    let options = [
        "--listen",
        HERE,
        "--tls-cert",
        word(&cert)?,
        "--tls-key",
        word(&key)?,
        "--oauth-issuer",
        "https://login.example",
    ];
    let python3 = python("python3")?;
    let mut agent = stage.run_with(POLICY, &options, &[&python3, &script, Path::new("pipes")])?;
    stage.listening_on(8808)?;
    for path in ["mcp", "sse"] {
        let url = format!("https://{HERE}/{path}");
        let seen = seen(&stage, &[&url, &token], &cert)?;
        let is = |at: &str, wanted: Value| {
            let there = seen.pointer(at);
            ensure!(there == Some(&wanted), "{path} {at}: {seen}");
            Ok(())
        };
        is("/tools", json!(["echo", "slow", "ask", "capture"]))?;
        is("/echo", json!([false, "h\u{e9}llo \u{2028} \u{4e16}"]))?;
        is("/secret", json!([null, "Unknown tool: secret"]))?;
        is("/denied/0", json!(true))?;
        is("/slow", json!([false, "slowly"]))?;
        is("/progress", json!([0.0, 1.0, 2.0]))?;
        is("/ask", json!([false, "0 roots"]))?;
        is("/many", json!(true))?;
        is("/notices/0/reason", json!("deadline"))?;
        let granted = seen.pointer("/capture/1").and_then(Value::as_str);
        ensure!(
            granted.is_some_and(|told| told.contains("lo, 1000 packets, 1 s")),
            "{seen}"
        );
        // Its session has ended, and the server with it.
        wait_for("the end of the server", PATIENCE, || {
            let running = stage.processes(&[agent.pid()])?;
            Ok(running.is_empty().then_some(()))
        })?;
    }
    let calls = stage.audit("call")?;
    ensure!(
        calls
            .iter()
            .all(|call| text(call, "principal") == "grant:laptop"),
        "{calls:?}"
    );

    // Without a token it is told where more is to be read, and not let in.
    let curl = |words: &[&str]| -> Result<String> {
        let mut command = stage.space.command("curl");
        command.args(["-sS", "-m", "10", "-i", "--cacert", word(&cert)?]);
        let done = command.args(words).output()?;
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    };
    let told = curl(&[&format!("https://{HERE}/mcp")])?;
    let metadata = format!("https://{HERE}/.well-known/oauth-protected-resource/mcp");
    ensure!(
        told.starts_with("HTTP/1.1 401")
            && told.contains(&format!("resource_metadata=\"{metadata}\"")),
        "{told}"
    );
    let told = curl(&[&metadata])?;
    ensure!(told.contains("\"https://login.example\""), "{told}");
    let told = curl(&["-H", "Host: capture.example", &metadata])?;
    ensure!(told.starts_with("HTTP/1.1 403"), "{told}");

    // Old versions are not spoken; a new certificate is taken without a new start.
    let shown = |version: &str| -> Result<String> {
        let mut command = stage.space.command("openssl");
        command.args(["s_client", "-connect", HERE, version]);
        command.stdin(std::process::Stdio::null());
        let done = command.output()?;
        let lines = String::from_utf8_lossy(&done.stdout).into_owned();
        let subject = lines.lines().find(|line| line.starts_with("subject="));
        Ok(subject.unwrap_or_default().to_owned())
    };
    for (version, subject) in [
        ("-tls1_1", ""),
        ("-tls1_2", "subject=CN = first"),
        ("-tls1_3", "subject=CN = first"),
    ] {
        ensure!(shown(version)? == subject, "{version}: {}", shown(version)?);
    }
    let (new_cert, new_key) = certificate(&stage, "second")?;
    fs::rename(new_key, &key)?;
    fs::rename(new_cert, &cert)?;
    wait_for("the new certificate", PATIENCE, || {
        Ok((shown("-tls1_3")? == "subject=CN = second").then_some(()))
    })?;
    agent.signal(Signal::TERM)?;
    ensure!(agent.exit()?.code() == Some(143), "{}", stage.stderr()?);
    stage.is_empty()?;
    stage.audit_is_closed("a signal", Some(143))
}

/// A client that carries lines, with a token.
fn carry(stage: &Stage, url: &str, token: &str, name: &str) -> Result<Client> {
    let script = stage.write("carry.py", CARRY)?;
    let mut command = stage.space.command(python("python3")?);
    command.arg(script).arg(url).arg(token);
    Client::start(&mut command, &stage.path(&format!("{name}-stderr")))
}

#[test]
fn captures_end_with_their_grant_and_those_of_others_go_on() -> Result<()> {
    let policy = "version: 1\ndefault: deny\ntools:\n  echo: allow\n  capture:\n    capture:\n      from: { interface: interface, filter: filter }\n      interfaces: [ lo ]\n      packets: 20\n      seconds: 60\n";
    let stage = Stage::new()?;
    let script = stage.write("hostile.py", HOSTILE)?;
    let (laptop, desk) = (
        stage.grant("laptop", "hostile.py")?,
        stage.grant("desk", "hostile.py")?,
    );
    let python3 = python("python3")?;
    let mut agent = stage.run_with(policy, &["--listen", HERE], &[&python3, &script])?;
    stage.listening_on(8808)?;
    let url = format!("http://{HERE}/mcp");
    let mut one = carry(&stage, &url, &laptop, "one")?;
    let mut other = carry(&stage, &url, &desk, "other")?;
    one.shake_hands()?;
    other.shake_hands()?;
    let udp = stage.space.udp()?;
    let (first, second) = (stage.capture("one.pcap"), stage.capture("other.pcap"));
    let arguments = |file: &Path| json!({ "interface": "lo", "file": file, "filter": format!("udp port {}", udp.port()) });
    let session = granted(&one.call("capture", &arguments(&first))?)?;
    let of_other = granted(&other.call("capture", &arguments(&second))?)?;
    stage.live(&first, 2)?;
    stage.live(&second, 2)?;
    stage.verb(&["grant", "revoke", "laptop"])?;
    let end = stage.end_record(&session)?;
    ensure!(text(&end, "reason") == "revoked", "{end}");
    udp.send(50, 10)?;
    let end = other.session_end(&of_other)?;
    ensure!(text(&end, "reason") == "packet-cap", "{end}");
    ensure!(packets(&second)? == 20 && packets(&first)? == 0);
    let echoed = other.call("echo", &json!({ "n": 1 }))?;
    ensure!(echoed.text() == "{\"n\": 1}", "{}", echoed.line);
    one.ask_call("echo", &json!({}))?;
    let refused = one.wait(PATIENCE, |message| message.get("error").is_some())?;
    ensure!(refused.line.contains("not good here"), "{}", refused.line);
    other.close_input();
    ensure!(other.exit()?.success());
    agent.signal(Signal::TERM)?;
    ensure!(agent.exit()?.code() == Some(143), "{}", stage.stderr()?);
    drop(one);
    stage.is_empty()?;
    stage.audit_is_closed("a signal", Some(143))
}

#[test]
fn grant_is_decided_by_the_policy_that_it_names() -> Result<()> {
    let policy = "version: 1\ndefault: deny\ntools:\n  echo: allow\n";
    let own = "version: 1\ndefault: deny\ntools:\n  echo: { args: { n: { at_most: 5 } }, record: { values: [ n ] } }\n";
    let stage = Stage::new()?;
    let script = stage.write("hostile.py", HOSTILE)?;
    let file = stage.write("own.yaml", own)?;
    let create = [
        "grant",
        "create",
        "desk",
        "--server",
        "hostile.py",
        "--policy",
        word(&file)?,
    ];
    let (laptop, desk) = (stage.grant("laptop", "hostile.py")?, stage.verb(&create)?);
    let list = stage.verb(&["grant", "list"])?;
    ensure!(list.contains(&format!("under {}", word(&file)?)), "{list}");
    let python3 = python("python3")?;
    let mut agent = stage.run_with(policy, &["--listen", HERE], &[&python3, &script])?;
    stage.listening_on(8808)?;
    let url = format!("http://{HERE}/mcp");
    let mut one = carry(&stage, &url, &laptop, "one")?;
    let mut other = carry(&stage, &url, &desk, "other")?;
    one.shake_hands()?;
    other.shake_hands()?;
    let arguments = json!({ "n": 7, "key": "hunter2" });
    ensure!(!one.call("echo", &arguments)?.failed());
    ensure!(
        other.call("echo", &arguments)?.failed(),
        "more than its policy allows"
    );
    ensure!(!other.call("echo", &json!({ "n": 5 }))?.failed());

    let calls = stage.audited("call", 3)?;
    let whose = |name: &'static str| {
        let calls = calls.iter();
        calls.filter(move |call| text(call, "principal") == name)
    };
    ensure!(
        whose("grant:laptop").all(|call| call.get("policy").is_none()),
        "{calls:?}"
    );
    for call in whose("grant:desk") {
        let named = call.pointer("/policy/file").and_then(Value::as_str);
        ensure!(named == Some(word(&file)?), "{call}");
        ensure!(
            call.pointer("/values/n").is_some_and(Value::is_u64),
            "{call}"
        );
    }
    ensure!(!format!("{calls:?}").contains("hunter2"), "{calls:?}");

    // Without its policy, nothing is allowed.
    fs::remove_file(&file)?;
    wait_for("the policy's end", PATIENCE, || {
        let denied = other.call("echo", &json!({ "n": 5 }))?;
        let gone = denied.value.get("error").is_some() || denied.failed();
        Ok(gone.then_some(()))
    })?;
    ensure!(!one.call("echo", &arguments)?.failed());
    agent.signal(Signal::TERM)?;
    ensure!(agent.exit()?.code() == Some(143), "{}", stage.stderr()?);
    drop((one, other));
    stage.audit_is_closed("a signal", Some(143))
}

#[test]
fn server_behind_tls_is_believed_only_with_its_authority() -> Result<()> {
    let stage = Stage::new()?;
    let script = stage.write("hostile.py", HOSTILE)?;
    let (cert, key) = certificate(&stage, "inner")?;
    let python3 = python("python3")?;
    let policy = "version: 1\ndefault: deny\ntools: { echo: allow }\n";
    let options = [
        "--listen",
        "127.0.0.1:8000",
        "--tls-cert",
        word(&cert)?,
        "--tls-key",
        word(&key)?,
        "--anonymous",
    ];
    let inner = stage.run_with(policy, &options, &[&python3, &script])?;
    stage.listening_on(8000)?;
    let policy = stage.write("outer.yaml", policy)?;
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"0"}}}"#;
    for (believed, status) in [(Some(&cert), "200"), (None, "502")] {
        let mut command = stage.space.command(capwarden()?);
        command.arg("run").arg("-p").arg(&policy).arg("--anonymous");
        command.arg("--audit").arg(stage.path("outer.jsonl"));
        command.arg("--state").arg(stage.path("outer-state"));
        command.args(["--listen", HERE, "--upstream", "https://localhost:8000/mcp"]);
        if let Some(believed) = believed {
            command.arg("--upstream-ca").arg(believed);
        }
        let mut outer = Client::start(&mut command, &stage.path("outer-stderr"))?;
        stage.listening_on(8808)?;
        let mut command = stage.space.command("curl");
        command.args([
            "-sS",
            "-m",
            "20",
            "-w",
            "%{http_code}",
            "-o",
            "/dev/null",
            "-d",
            call,
        ]);
        command.args(["-H", "Accept: application/json, text/event-stream"]);
        command.args(["-H", "Content-Type: application/json"]);
        let done = command.arg(format!("http://{HERE}/mcp")).output()?;
        let told = String::from_utf8_lossy(&done.stdout);
        let errors = fs::read_to_string(stage.path("outer-stderr"))?;
        ensure!(told == status, "{told} {errors}");
        outer.signal(Signal::TERM)?;
        ensure!(outer.exit()?.code() == Some(143));
    }
    drop(inner);
    Ok(())
}

#[test]
fn what_would_let_others_in_is_refused_with_the_next_step() -> Result<()> {
    let stage = Stage::new()?;
    stage.space.elsewhere()?;
    let (cert, key) = certificate(&stage, "mine")?;
    let policy = stage.write("policy.yaml", POLICY)?;
    let tls = ["--tls-cert", word(&cert)?, "--tls-key", word(&key)?];
    let refused = |options: &[&str], words: &[&str]| -> Result<()> {
        let mut command = stage.space.command(capwarden()?);
        command.arg("run").arg("-p").arg(&policy);
        command.arg("--audit").arg(stage.path("audit.jsonl"));
        command.arg("--state").arg(stage.path("state"));
        let done = command.args(options).args(["--", "true"]).output()?;
        let told = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.code() == Some(2), "{options:?}: {told}");
        for word in words {
            ensure!(told.contains(word), "{options:?}: {word} is not in {told}");
        }
        Ok(())
    };
    let far = ["--listen", "10.99.1.1:8443"];
    refused(&far, &["not a loopback address", "--tls-cert"])?;
    refused(
        &[&far[..], &tls, &["--anonymous"]].concat(),
        &["--anonymous would let everybody in", "grant create"],
    )?;
    refused(
        &[&["--listen", "0.0.0.0:8443"][..], &tls].concat(),
        &["no address that clients ask for", "--host"],
    )?;
    refused(
        &[&["--listen", "unix:/run/x.sock"][..], &tls].concat(),
        &["for clients over HTTP"],
    )?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    let options = [&far[..], &tls].concat();
    refused(&options, &["can be used by others", "chmod 600"])?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let swapped = ["--tls-cert", word(&key)?, "--tls-key", word(&cert)?];
    refused(&[&far[..], &swapped].concat(), &["no certificate in PEM"])?;

    // What is left is served, by its name.
    let token = stage.grant("far", "true")?;
    let mut command = stage.space.command(capwarden()?);
    command.arg("run").arg("-p").arg(&policy);
    command.arg("--audit").arg(stage.path("audit.jsonl"));
    command.arg("--state").arg(stage.path("state"));
    command
        .args(&options)
        .args(["--host", "capture.example", "--", "true"]);
    let mut agent = Client::start(&mut command, &stage.path("stderr"))?;
    stage.listening_on(8443)?;
    let mut command = stage.space.command("curl");
    command.args([
        "-sS",
        "-m",
        "20",
        "-i",
        "-X",
        "DELETE",
        "--cacert",
        word(&cert)?,
    ]);
    command.args(["--resolve", "capture.example:8443:10.99.1.1"]);
    command.args([
        "-H",
        "Mcp-Session-Id: x",
        "-H",
        &format!("Authorization: Bearer {token}"),
    ]);
    let done = command.arg("https://capture.example:8443/mcp").output()?;
    let told = String::from_utf8_lossy(&done.stdout);
    ensure!(
        told.contains("there is no such session"),
        "{told}{}",
        stage.stderr()?
    );
    agent.signal(Signal::TERM)?;
    ensure!(agent.exit()?.code() == Some(143));
    Ok(())
}
