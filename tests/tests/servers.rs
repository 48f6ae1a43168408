//! MCP servers behind `capwarden run`: a real one, which captures with tshark, and a hostile one.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{signal, wait_for},
    mcp::{Client, Message, PATIENCE},
    stage::{AWSLABS, Stage, granted, matching, memory, number, packets, python, text},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const HOSTILE: &str = include_str!("../scripts/hostile.py");

/// The tools that these policies let a client see.
const VISIBLE: [&str; 5] = [
    "start_packet_capture",
    "stop_packet_capture",
    "list_network_interfaces",
    "get_capture_status",
    "analyze_pcap_file",
];

/// A policy for the real server, with these caps of a capture.
fn real_policy(caps: &str) -> String {
    format!(
        "version: 1
default: deny
tools:
  start_packet_capture:
    capture:
      from: {{ interface: interface, filter: capture_filter, seconds: duration }}
      interfaces: [ lo ]
      over: clamp
      {caps}
  stop_packet_capture: {{ ends: capture }}
  list_network_interfaces: allow
  get_capture_status: allow
  analyze_pcap_file: allow
"
    )
}

/// A policy for the hostile one.
const HOSTILE_POLICY: &str = "version: 1
default: deny
tools:
  capture:
    capture:
      from: { interface: interface, filter: filter }
      interfaces: [ lo ]
      packets: 5000
      seconds: 30
      over: clamp
  stop: { ends: capture }
  stray: allow
  flood: allow
  noise: allow
  long: allow
  open: allow
  echo: allow
  exit: allow
";

/// The real server behind capwarden, ready.
fn real(stage: &Stage, caps: &str) -> Result<Client> {
    let mut client = stage.run(&real_policy(caps), &[&python(AWSLABS)?])?;
    client
        .shake_hands()
        .with_context(|| stage.stderr().unwrap_or_default())?;
    Ok(client)
}

/// The hostile server behind capwarden, ready.
fn hostile(stage: &Stage) -> Result<Client> {
    let script = stage.write("hostile.py", HOSTILE)?;
    let mut client = stage.run(HOSTILE_POLICY, &[&python("python3")?, &script])?;
    client
        .shake_hands()
        .with_context(|| stage.stderr().unwrap_or_default())?;
    Ok(client)
}

/// A capture of the real server.
struct Capture {
    session: String,
    id: String,
    file: PathBuf,
}

impl Capture {
    /// Starts one on loopback, and waits until it hears.
    fn start(stage: &Stage, client: &mut Client, name: &str, port: u16) -> Result<Self> {
        let before = stage.space.listening()?;
        let arguments = json!({
            "interface": "lo", "duration": 60,
            "capture_filter": format!("udp port {port}"), "output_file": name,
        });
        let answer = client.call("start_packet_capture", &arguments)?;
        let own: Value = serde_json::from_str(answer.own_text())
            .with_context(|| format!("started: {}", answer.line))?;
        let file = stage.capture(name);
        stage.live(&file, before + 1)?;
        Ok(Self {
            session: granted(&answer)?,
            id: text(&own, "capture_id").to_owned(),
            file,
        })
    }

    fn stop(&self, client: &mut Client) -> Result<Message> {
        client.call("stop_packet_capture", &json!({ "capture_id": self.id }))
    }
}

/// A call of the hostile server to capture loopback with `udp port PORT`, and more arguments.
fn capture(file: &Path, port: u16, more: &Value) -> Value {
    let mut call = json!({ "interface": "lo", "filter": format!("udp port {port}"), "file": file });
    if let (Some(call), Some(more)) = (call.as_object_mut(), more.as_object()) {
        call.extend(more.clone());
    }
    call
}

/// The one child of capwarden: the server.
fn server_of(client: &Client) -> Result<Pid> {
    // A filter may just be compiled, by a child of its own.
    wait_for("an only child", PATIENCE, || Ok(only_child(client).ok()))
}

fn only_child(client: &Client) -> Result<Pid> {
    let mut children: Vec<i32> = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", client.pid()))? {
        let line = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        children.extend(
            line.split_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    ensure!(children.len() == 1, "children: {children:?}");
    let first = children.first().copied().and_then(Pid::from_raw);
    first.context("no server")
}

/// Closes the conversation as a client does, and checks what is left: nothing but the record.
fn good_bye(stage: &Stage, mut client: Client) -> Result<()> {
    client.close_input();
    let status = client.exit()?;
    ensure!(status.success(), "{status}: {}", stage.stderr()?);
    ensure!(client.noise().is_empty(), "{:?}", client.noise());
    stage.stderr()?;
    stage.is_empty()?;
    stage.audit_is_closed("the client closed the connection", Some(0))
}

/// A session's end in the record, as the client was told it.
fn same_end(told: &Value, recorded: &Value) -> Result<()> {
    for field in ["session", "reason", "packets", "bytes"] {
        let (a, b) = (told.get(field), recorded.get(field));
        ensure!(a.is_some() && a == b, "{field}: {told} and {recorded}");
    }
    Ok(())
}

#[test]
fn server_list_of_tools_is_the_servers_less_the_hidden() -> Result<()> {
    let stage = Stage::new()?;
    let mut direct = stage.direct(&[&python(AWSLABS)?])?;
    let mut governed = stage.run(&real_policy("packets: 10"), &[&python(AWSLABS)?])?;
    let (a, b) = (direct.shake_hands()?, governed.shake_hands()?);
    assert_eq!(a.line, b.line, "initialize");

    let (a, b) = (
        direct.request("tools/list", &json!({}))?,
        governed.request("tools/list", &json!({}))?,
    );
    // Each element as the server wrote it: cut out of the line, not read and written again.
    let elements = |message: &Message| -> Result<Vec<(String, String)>> {
        let list: Vec<&serde_json::value::RawValue> = {
            let result: Listed<'_> = serde_json::from_str(&message.line)?;
            result.result.tools
        };
        let named = list.into_iter().map(|tool| {
            let value: Value = serde_json::from_str(tool.get())?;
            Ok((text(&value, "name").to_owned(), tool.get().to_owned()))
        });
        named.collect()
    };
    let all = elements(&a)?;
    assert!(all.len() >= 30, "{} tools", all.len());
    let expected: Vec<_> = all
        .into_iter()
        .filter(|(name, _)| VISIBLE.contains(&name.as_str()))
        .collect();
    assert_eq!(expected.len(), VISIBLE.len());
    assert_eq!(elements(&b)?, expected);
    // What stands around the list is the server's own, too.
    let around = |message: &Message| message.line.split("\"tools\":[").next().map(str::to_owned);
    assert_eq!(around(&a), around(&b));

    // A tool that is hidden is not there for a call either.
    let hidden = governed.call("extract_credentials", &json!({ "pcap_file": "x" }))?;
    let error = hidden.value.get("error").context(hidden.line.clone())?;
    assert_eq!(error.get("code"), Some(&json!(-32602)));
    assert_eq!(text(error, "message"), "Unknown tool: extract_credentials");
    drop(direct);
    good_bye(&stage, governed)
}

#[derive(serde::Deserialize)]
struct Listed<'a> {
    #[serde(borrow)]
    result: ListedTools<'a>,
}

#[derive(serde::Deserialize)]
struct ListedTools<'a> {
    #[serde(borrow)]
    tools: Vec<&'a serde_json::value::RawValue>,
}

#[test]
fn server_other_messages_pass_as_they_are() -> Result<()> {
    let stage = Stage::new()?;
    // A file to analyse: 20 packets of loopback, made without anybody's help.
    let file = stage.capture("small.pcap");
    fs::write(&file, small_capture(20))?;
    let mut direct = stage.direct(&[&python(AWSLABS)?])?;
    let mut governed = stage.run(&real_policy("packets: 10"), &[&python(AWSLABS)?])?;
    direct.shake_hands()?;
    governed.shake_hands()?;

    let analyse = json!({ "name": "analyze_pcap_file", "arguments": { "pcap_file": file, "analysis_type": "conversations" } });
    let requests = [
        (
            "tools/call",
            json!({ "name": "list_network_interfaces", "arguments": {} }),
        ),
        ("tools/call", json!({ "name": "get_capture_status" })),
        ("tools/call", analyse),
        ("ping", json!({})),
        (
            "no/such/method",
            json!({ "a": [1, 2.50, "\u{e9}\u{1f600}"] }),
        ),
        ("resources/list", json!({})),
    ];
    for (method, params) in requests {
        // The answer to what nobody knows must not come from the gate, so it is compared, too.
        let answers = [&mut direct, &mut governed].map(|client| {
            client.notify("notifications/unheard-of", &json!({ "b": null }))?;
            client.request(method, &params)
        });
        let [a, b] = answers;
        assert_eq!(a?.line, b?.line, "{method} {params}");
    }
    let listed = governed.call("list_network_interfaces", &json!({}))?;
    assert!(listed.text().contains("lo"), "{}", listed.line);
    drop(direct);
    good_bye(&stage, governed)
}

/// A pcap file of so many UDP packets.
fn small_capture(packets: u8) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 1] {
        file.extend(word.to_le_bytes());
    }
    for number in 0..packets {
        let mut packet = vec![0; 12];
        packet.extend([0x08, 0x00]);
        packet.extend([0x45, 0, 0, 32, 0, number, 0, 0, 64, 17, 0, 0]);
        packet.extend([127, 0, 0, 1, 127, 0, 0, 1]);
        packet.extend([0x30, 0x39, 0x27, 0x0f, 0, 12, 0, 0]);
        packet.extend([b'd', b'a', b't', number]);
        let length = u32::try_from(packet.len()).unwrap_or_default();
        for word in [1_700_000_000 + u32::from(number), 0, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(packet);
    }
    file
}

#[test]
fn server_packet_cap_ends_capture_exactly() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = real(&stage, "packets: 100")?;
    let udp = stage.space.udp()?;
    let capture = Capture::start(&stage, &mut client, "cap.pcap", udp.port())?;
    udp.send(500, 64)?;
    let end = client.session_end(&capture.session)?;
    assert_eq!(text(&end, "reason"), "packet-cap");
    assert_eq!(number(&end, "packets"), Some(100));
    // Ethernet's, IP's and UDP's headers before the payload.
    assert_eq!(number(&end, "bytes"), Some(100 * (14 + 20 + 8 + 64)));
    same_end(&end, &stage.end_record(&capture.session)?)?;
    assert_eq!(packets(&capture.file)?, 100);
    assert_eq!(
        matching(&capture.file, &format!("udp port {}", udp.port()))?,
        100
    );

    // A stop call is still the server's to answer: its tshark has ended already.
    let stopped = capture.stop(&mut client)?;
    assert!(stopped.own_text().contains("stop"), "{}", stopped.line);
    assert_eq!(packets(&capture.file)?, 100);
    assert_eq!(stage.audit("session-ended")?.len(), 1);
    good_bye(&stage, client)
}

#[test]
fn server_byte_cap_ends_capture() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = real(&stage, "bytes: 20kB")?;
    let udp = stage.space.udp()?;
    let capture = Capture::start(&stage, &mut client, "bytes.pcap", udp.port())?;
    udp.send(500, 158)?; // 200 bytes each
    let end = client.session_end(&capture.session)?;
    assert_eq!(text(&end, "reason"), "byte-cap");
    assert_eq!(number(&end, "bytes"), Some(20_000));
    assert_eq!(number(&end, "packets"), Some(100));
    assert_eq!(packets(&capture.file)?, 100);
    same_end(&end, &stage.end_record(&capture.session)?)?;
    good_bye(&stage, client)
}

#[test]
fn server_deadline_ends_capture() -> Result<()> {
    let stage = Stage::new()?;
    // The server knows nothing of the deadline: nobody but capwarden ends the capture.
    let policy = real_policy("seconds: 4").replace(", seconds: duration", "");
    let mut client = stage.run(&policy, &[&python(AWSLABS)?])?;
    client.shake_hands()?;
    let udp = stage.space.udp()?;
    let capture = Capture::start(&stage, &mut client, "time.pcap", udp.port())?;
    udp.send(50, 10)?;
    let end = loop {
        udp.send(20, 10)?;
        let ended = |message: &Value| message.pointer("/params/data/reason").is_some();
        match client.wait(Duration::from_millis(1), ended) {
            Ok(end) => break end.value.pointer("/params/data").cloned(),
            Err(_) if stage.audit("agent-stopped")?.is_empty() => {}
            Err(error) => return Err(error),
        }
    };
    let end = end.context("an end without data")?;
    assert_eq!(text(&end, "reason"), "deadline", "{end}");
    let record = stage.end_record(&capture.session)?;
    same_end(&end, &record)?;
    // Four seconds, and what the winding down takes.
    let lasted = number(&record, "milliseconds").context("no time")?;
    assert!((4_000..12_000).contains(&lasted), "{record}");
    let captured = number(&end, "packets").context("no packets")?;
    assert!(captured >= 50, "{end}");
    assert_eq!(packets(&capture.file)?, captured);
    good_bye(&stage, client)
}

#[test]
fn server_longer_capture_is_clamped_and_told() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = real(&stage, "seconds: 2")?;
    let arguments = json!({ "interface": "lo", "duration": 60, "output_file": "short.pcap" });
    let answer = client.call("start_packet_capture", &arguments)?;
    let own: Value = serde_json::from_str(answer.own_text())?;
    assert_eq!(number(&own, "duration"), Some(2), "{}", answer.line);
    assert!(
        answer.text().contains("duration: 60 → 2"),
        "{}",
        answer.line
    );
    // The server's own timer and the deadline meet: either may be seen first.
    let end = client.session_end(&granted(&answer)?)?;
    let reason = text(&end, "reason");
    assert!(["deadline", "closed"].contains(&reason), "{end}");
    good_bye(&stage, client)
}

#[test]
fn server_stop_call_of_an_ended_capture_ends_no_other() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = real(&stage, "packets: 20")?;
    let (one, two) = (stage.space.udp()?, stage.space.udp()?);
    let first = Capture::start(&stage, &mut client, "ended.pcap", one.port())?;
    thread::sleep(Duration::from_millis(1_100)); // the server names captures by the second
    let second = Capture::start(&stage, &mut client, "other.pcap", two.port())?;
    one.send(50, 10)?;
    let end = client.session_end(&first.session)?;
    assert_eq!(text(&end, "reason"), "packet-cap");
    // The server does not say with `isError` that there was nothing to stop.
    assert!(!first.stop(&mut client)?.failed());
    two.send(50, 10)?;
    let end = client.session_end(&second.session)?;
    assert_eq!(text(&end, "reason"), "packet-cap", "{end}");
    assert_eq!(number(&end, "packets"), Some(20), "{end}");
    assert_eq!(packets(&second.file)?, 20);
    good_bye(&stage, client)
}

#[test]
fn server_stop_call_ends_its_capture() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = real(&stage, "packets: 10000")?;
    let udp = stage.space.udp()?;
    let capture = Capture::start(&stage, &mut client, "stop.pcap", udp.port())?;
    udp.send(40, 10)?;
    thread::sleep(Duration::from_millis(1_200)); // the ring hands its block over within a second
    let stopped = capture.stop(&mut client)?;
    assert!(!stopped.failed(), "{}", stopped.line);
    let end = client.session_end(&capture.session)?;
    assert_eq!(text(&end, "reason"), "stop-call", "{end}");
    assert_eq!(number(&end, "packets"), Some(40));
    same_end(&end, &stage.end_record(&capture.session)?)?;
    assert_eq!(packets(&capture.file)?, 40);
    // A stop call that means nothing is the server's to answer.
    let nothing = client.call("stop_packet_capture", &json!({ "capture_id": "none" }))?;
    assert!(nothing.own_text().contains("not found"), "{}", nothing.line);
    good_bye(&stage, client)
}

#[test]
fn server_exit_ends_captures_and_leaves_no_orphan() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = real(&stage, "packets: 10000")?;
    let udp = stage.space.udp()?;
    let capture = Capture::start(&stage, &mut client, "exit.pcap", udp.port())?;
    udp.send(30, 10)?;
    let server = server_of(&client)?;
    kill_process(server, Signal::KILL)?;
    let status = client.exit()?;
    assert_eq!(status.code(), Some(128 + 9), "{}", stage.stderr()?);
    let record = stage.end_record(&capture.session)?;
    assert_eq!(text(&record, "reason"), "server-exit");
    assert_eq!(number(&record, "packets"), Some(30));
    stage.is_empty()?;
    assert_eq!(packets(&capture.file)?, 30);
    stage.audit_is_closed("the server exited", Some(128 + 9))
}

#[test]
fn agent_sigterm_ends_captures_with_whole_files() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = real(&stage, "packets: 10000")?;
    let udp = stage.space.udp()?;
    let capture = Capture::start(&stage, &mut client, "term.pcap", udp.port())?;
    udp.send(30, 10)?;
    client.signal(Signal::TERM)?;
    let status = client.exit()?;
    assert_eq!(status.code(), Some(143), "{}", stage.stderr()?);
    let record = stage.end_record(&capture.session)?;
    assert_eq!(text(&record, "reason"), "revoked");
    assert_eq!(number(&record, "packets"), Some(30));
    assert_eq!(packets(&capture.file)?, 30);
    stage.is_empty()?;
    assert_eq!(stage.space.listening()?, 0);
    stage.audit_is_closed("a signal", Some(143))
}

#[test]
fn client_end_ends_captures_with_whole_files() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = real(&stage, "packets: 10000")?;
    let udp = stage.space.udp()?;
    let capture = Capture::start(&stage, &mut client, "eof.pcap", udp.port())?;
    udp.send(30, 10)?;
    good_bye(&stage, client)?;
    let record = stage.end_record(&capture.session)?;
    // The server may take its tshark along when it goes.
    let reason = text(&record, "reason");
    assert!(["client-closed", "closed"].contains(&reason), "{record}");
    assert_eq!(
        packets(&capture.file)?,
        number(&record, "packets").unwrap_or(0)
    );
    assert_eq!(stage.space.listening()?, 0);
    Ok(())
}

#[test]
fn server_two_captures_have_a_session_each() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = real(&stage, "packets: 10000")?;
    let (one, two) = (stage.space.udp()?, stage.space.udp()?);
    let first = Capture::start(&stage, &mut client, "one.pcap", one.port())?;
    thread::sleep(Duration::from_millis(1_100)); // the server names captures by the second
    let second = Capture::start(&stage, &mut client, "two.pcap", two.port())?;
    assert_ne!(first.session, second.session);
    assert_ne!(first.id, second.id);
    for _ in 0..10 {
        one.send(3, 10)?;
        two.send(5, 10)?;
    }
    thread::sleep(Duration::from_millis(1_200));
    // The second first: a stop call means the capture that it names.
    second.stop(&mut client)?;
    let end = client.session_end(&second.session)?;
    assert_eq!(number(&end, "packets"), Some(50), "{end}");
    assert!(stage.audit("session-ended")?.len() == 1);
    assert_eq!(stage.space.listening()?, 1);
    one.send(10, 10)?;
    thread::sleep(Duration::from_millis(1_200));
    first.stop(&mut client)?;
    let end = client.session_end(&first.session)?;
    assert_eq!(number(&end, "packets"), Some(40), "{end}");

    for (capture, udp, count) in [(&first, &one, 40), (&second, &two, 50)] {
        assert_eq!(packets(&capture.file)?, count);
        let own = format!("udp port {}", udp.port());
        assert_eq!(matching(&capture.file, &own)?, count);
        let armed = stage.audit("socket-armed")?;
        let mine = |record: &&Value| text(record, "session") == capture.session;
        assert_eq!(armed.iter().filter(mine).count(), 1, "{armed:?}");
    }
    good_bye(&stage, client)
}

#[test]
fn server_bad_calls_are_told_what_is_wrong() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = real(&stage, "packets: 10")?;
    for (arguments, words) in [
        (json!({ "interface": "eth0" }), "lo"),
        (
            json!({ "interface": "lo", "capture_filter": "tcp prot 80" }),
            "syntax error",
        ),
        (
            json!({ "interface": "lo", "capture_filter": "port http" }),
            "",
        ),
        (json!({ "interface": "lo", "duration": -1 }), ""),
    ] {
        let answer = client.call("start_packet_capture", &arguments)?;
        assert!(answer.failed(), "{arguments}: {}", answer.line);
        assert!(
            answer.text().contains(words),
            "{arguments}: {}",
            answer.line
        );
    }
    assert!(stage.audit("session-opened")?.is_empty());
    assert!(fs::read_dir(stage.path("captures"))?.next().is_none());
    good_bye(&stage, client)
}

#[test]
fn hostile_socket_without_session_is_denied() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = hostile(&stage)?;
    let answer = client.call("open", &json!({}))?;
    assert_eq!(answer.text(), "PermissionError EPERM");

    // The server itself stays without: a session is for what the call starts.
    let udp = stage.space.udp()?;
    let file = stage.capture("inside.pcap");
    let inside = client.call(
        "capture",
        &capture(&file, udp.port(), &json!({ "how": "inside" })),
    )?;
    assert_eq!(
        inside.own_text(),
        "PermissionError EPERM",
        "{}",
        inside.line
    );
    let session = granted(&inside)?;
    let refused = wait_for("the refusals on record", PATIENCE, || {
        let refused = stage.audit("socket-refused")?;
        Ok((refused.len() == 2).then_some(refused))
    })?;
    for record in refused {
        assert_eq!(
            text(&record, "why"),
            "no capture call was open when it was started"
        );
    }
    // A grant that nobody uses does not stay.
    let end = client.session_end(&session)?;
    assert_eq!(text(&end, "reason"), "unused");
    assert_eq!(
        client.call("open", &json!({}))?.text(),
        "PermissionError EPERM"
    );
    good_bye(&stage, client)
}

#[test]
fn hostile_process_from_before_the_call_is_denied() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = hostile(&stage)?;
    let (go, file) = (stage.path("go"), stage.capture("stray"));
    client.call("stray", &json!({ "go": go, "file": file }))?;
    let udp = stage.space.udp()?;
    let captured = stage.capture("own.pcap");
    let answer = client.call("capture", &capture(&captured, udp.port(), &json!({})))?;
    let session = granted(&answer)?;
    stage.live(&captured, 1)?;
    fs::write(&go, "")?;
    let outcome = wait_for("the stray's outcome", PATIENCE, || {
        Ok(fs::read_to_string(&file).ok())
    })?;
    assert_eq!(outcome, "PermissionError EPERM");
    let armed = stage.audited("socket-armed", 1)?;
    assert_eq!(armed.len(), 1, "{armed:?}");
    client.call("stop", &json!({ "file": captured }))?;
    client.session_end(&session)?;
    good_bye(&stage, client)
}

#[test]
fn hostile_detached_capture_belongs_to_its_call() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = hostile(&stage)?;
    let (udp, other) = (stage.space.udp()?, stage.space.udp()?);
    let file = stage.capture("late.pcap");
    let more = json!({ "how": "detached", "delay": 1.0 });
    let answer = client.call("capture", &capture(&file, udp.port(), &more))?;
    let session = granted(&answer)?;
    assert_eq!(stage.space.listening()?, 0, "it has not begun");
    stage.live(&file, 1)?;
    for _ in 0..10 {
        udp.send(2, 10)?;
        other.send(2, 10)?;
    }
    // Nobody knows its process but capwarden, which ends it with the conversation.
    thread::sleep(Duration::from_millis(1_200));
    good_bye(&stage, client)?;
    let record = stage.end_record(&session)?;
    assert_eq!(text(&record, "reason"), "client-closed");
    assert_eq!(number(&record, "packets"), Some(20));
    assert_eq!(packets(&file)?, 20);
    assert_eq!(matching(&file, &format!("udp port {}", udp.port()))?, 20);
    Ok(())
}

#[test]
fn hostile_other_arguments_get_what_was_granted() -> Result<()> {
    let stage = Stage::new()?;
    let elsewhere = stage.space.elsewhere()?;
    let mut client = hostile(&stage)?;
    let (udp, other) = (stage.space.udp()?, stage.space.udp()?);

    // No filter, and every interface: the file has what the checked call named.
    let file = stage.capture("any.pcap");
    let more = json!({ "how": "override", "really": "any" });
    let answer = client.call("capture", &capture(&file, udp.port(), &more))?;
    let session = granted(&answer)?;
    stage.live(&file, 1)?;
    for _ in 0..15 {
        udp.send(2, 10)?;
        other.send(2, 10)?;
        elsewhere.send(b"elsewhere")?;
    }
    thread::sleep(Duration::from_millis(1_200));
    client.call("stop", &json!({ "file": file }))?;
    let end = client.session_end(&session)?;
    assert_eq!(number(&end, "packets"), Some(30), "{end}");
    assert_eq!(packets(&file)?, 30);
    assert_eq!(matching(&file, &format!("udp port {}", udp.port()))?, 30);

    // An interface that was not granted: it may not even listen there.
    let file = stage.capture("other.pcap");
    let more = json!({ "how": "override", "really": "other0" });
    let answer = client.call("capture", &capture(&file, udp.port(), &more))?;
    let session = granted(&answer)?;
    elsewhere.send(b"elsewhere")?;
    let end = client.session_end(&session)?;
    assert_eq!(number(&end, "packets"), Some(0), "{end}");
    let refused = stage.audit("socket-refused")?;
    let word = format!("session {session} was not granted the interface");
    assert!(
        refused
            .iter()
            .any(|record| text(record, "why").starts_with(&word)),
        "{refused:?}"
    );
    let size = fs::metadata(&file).map_or(0, |meta| meta.len());
    assert!(size == 0 || packets(&file)? == 0);
    good_bye(&stage, client)
}

#[test]
fn hostile_process_that_ignores_sigterm_is_killed() -> Result<()> {
    let stage = Stage::new()?;
    let policy = HOSTILE_POLICY.replace("packets: 5000", "packets: 20");
    let script = stage.write("hostile.py", HOSTILE)?;
    let mut client = stage.run(&policy, &[&python("python3")?, &script])?;
    client.shake_hands()?;
    let udp = stage.space.udp()?;
    let file = stage.capture("stubborn");
    let more = json!({ "how": "stubborn" });
    let answer = client.call("capture", &capture(&file, udp.port(), &more))?;
    let session = granted(&answer)?;
    stage.live(&file, 1)?;
    let before = stage.audited("socket-armed", 1)?;
    let pid = before.first().and_then(|record| number(record, "pid"));
    let pid = pid.context("no socket")?;
    let start = Instant::now();
    udp.send(100, 10)?;
    let end = client.session_end(&session)?;
    assert_eq!(text(&end, "reason"), "packet-cap");
    assert_eq!(number(&end, "packets"), Some(20));
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
    // A zombie until its parent reads its status; but no socket.
    wait_for("its end", Duration::from_secs(2), || {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        Ok((state.is_empty() || state.contains(") Z ")).then_some(()))
    })?;
    assert_eq!(stage.space.listening()?, 0);
    assert_eq!(fs::read_to_string(&file)?, "20");
    assert!(stage.stderr()?.contains("did not end when asked"));
    // The server itself was spared.
    assert_eq!(
        client.call("echo", &json!({ "a": 1 }))?.text(),
        "{\"a\": 1}"
    );
    good_bye(&stage, client)
}

#[test]
fn hostile_flood_of_refusals_leaves_server_and_log_alone() -> Result<()> {
    const TIMES: usize = 20_000;
    let stage = Stage::new()?;
    let mut client = hostile(&stage)?;
    let done = stage.capture("flooded");
    client.call("flood", &json!({ "times": TIMES, "file": done }))?;
    let mut answers = 0;
    while !done.exists() {
        let start = Instant::now();
        assert_eq!(
            client.call("echo", &json!({ "n": answers }))?.text(),
            format!("{{\"n\": {answers}}}")
        );
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
        answers += 1;
        thread::sleep(Duration::from_millis(20));
    }
    // A capture is possible right after it.
    let udp = stage.space.udp()?;
    let file = stage.capture("after.pcap");
    let answer = client.call("capture", &capture(&file, udp.port(), &json!({})))?;
    let session = granted(&answer)?;
    stage.live(&file, 1)?;
    udp.send(10, 10)?;
    thread::sleep(Duration::from_millis(1_200));
    client.call("stop", &json!({ "file": file }))?;
    let end = client.session_end(&session)?;
    assert_eq!(number(&end, "packets"), Some(10));
    let size = fs::metadata(stage.path("audit.jsonl"))?.len();
    let refused = stage.audit("socket-refused")?.len();
    // The first five one by one. What is counted of the others comes when the flood has ended.
    assert!((5..=10).contains(&refused), "{refused} refusals on record");
    assert!(size < 256 * 1024, "the log has {size} bytes");
    let said = stage.stderr()?.len();
    assert!(said < 256 * 1024, "standard error has {said} bytes");
    good_bye(&stage, client)
}

#[test]
fn hostile_session_with_a_thousand_refusals_ends() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = hostile(&stage)?;
    let udp = stage.space.udp()?;
    let file = stage.capture("greedy");
    let more = json!({ "how": "greedy" });
    let answer = client.call("capture", &capture(&file, udp.port(), &more))?;
    let session = granted(&answer)?;
    let end = client.session_end(&session)?;
    assert_eq!(text(&end, "reason"), "violation");
    let counts = fs::read_to_string(&file)?;
    assert!(counts == "begun" || counts == "64 3936", "{counts}");
    assert_eq!(stage.audit("socket-armed")?.len(), 64);
    good_bye(&stage, client)
}

#[test]
fn hostile_noise_does_not_reach_the_client() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = hostile(&stage)?;
    for _ in 0..3 {
        let answer = client.call("noise", &json!({}))?;
        assert_eq!(answer.text(), "that was noise");
        assert!(client.noise().is_empty(), "{:?}", client.noise());
        // What is JSON goes on as it is, and no more than that.
        let fine = client.wait(PATIENCE, |m| {
            m.pointer("/params/data") == Some(&json!("fine"))
        })?;
        assert_eq!(text(&fine.value, "method"), "notifications/message");
        for message in client.rest().drain(..) {
            let wrong = message.value.pointer("/result/wrong").is_some()
                || message.value.pointer("/error/message") == Some(&json!("wrong"));
            assert!(wrong, "{}", message.line);
        }
    }
    assert!(
        !stage.stderr()?.contains('\u{1b}'),
        "escapes are not for the log"
    );
    assert_eq!(
        client.call("echo", &json!({ "a": 1 }))?.text(),
        "{\"a\": 1}"
    );
    good_bye(&stage, client)
}

#[test]
fn hostile_wrong_ids_do_not_end_a_session() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = hostile(&stage)?;
    let udp = stage.space.udp()?;
    let file = stage.capture("astray.pcap");
    let more = json!({ "how": "astray" });
    let answer = client.call("capture", &capture(&file, udp.port(), &more))?;
    assert_eq!(answer.own_text(), "capture astray.pcap runs");
    let session = granted(&answer)?;
    for message in client.rest() {
        assert!(
            !message.line.contains("capwarden granted"),
            "{}",
            message.line
        );
    }
    stage.live(&file, 1)?;
    udp.send(10, 10)?;
    thread::sleep(Duration::from_millis(1_200));
    assert!(stage.audit("session-ended")?.is_empty());
    client.call("stop", &json!({ "file": file }))?;
    let end = client.session_end(&session)?;
    assert_eq!(number(&end, "packets"), Some(10));
    assert_eq!(packets(&file)?, 10);
    good_bye(&stage, client)
}

#[test]
fn hostile_orphan_with_the_servers_output_does_not_hold_the_end_up() -> Result<()> {
    let stage = Stage::new()?;
    // A server that leaves a child behind, which keeps its standard output.
    let sleeper = format!(
        "sleep 300 & : {}; exec sleep 0.2",
        stage.path("captures").display()
    );
    let mut client = stage.run(
        HOSTILE_POLICY,
        &[Path::new("/bin/sh"), Path::new("-c"), Path::new(&sleeper)],
    )?;
    let status = client.exit()?;
    assert_eq!(status.code(), Some(0), "{}", stage.stderr()?);
    stage.is_empty()?;
    stage.audit_is_closed("the server exited", Some(0))
}

#[test]
fn server_exit_status_is_passed_on() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = hostile(&stage)?;
    client.ask_call("exit", &json!({ "status": 42 }))?;
    assert_eq!(client.exit()?.code(), Some(42));
    stage.is_empty()?;
    stage.audit_is_closed("the server exited", Some(42))
}

#[test]
fn agent_idle_memory_is_small() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = hostile(&stage)?;
    client.request("tools/list", &json!({}))?;
    thread::sleep(Duration::from_millis(300));
    let of = |field| memory(client.pid(), field);
    let (now, own, most) = (of("VmRSS")?, of("RssAnon")?, of("VmHWM")?);
    let threads = fs::read_dir(format!("/proc/{}/task", client.pid()))?.count();
    eprintln!(
        "capwarden run, idle: {now} KiB resident, {own} of them its own, {most} at most, {threads} threads"
    );
    // The rest is the program's file, which all agents share, and which the kernel takes back when it wants.
    assert!(own < 6 * 1024, "{own} KiB");
    assert!(now < 24 * 1024, "{now} KiB");
    good_bye(&stage, client)
}

#[test]
fn agent_killed_leaves_no_capture_without_its_guard() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = hostile(&stage)?;
    let (udp, other) = (stage.space.udp()?, stage.space.udp()?);
    let file = stage.capture("killed.pcap");
    client.call("capture", &capture(&file, udp.port(), &json!({})))?;
    stage.live(&file, 1)?;
    client.signal(Signal::KILL)?;
    client.exit()?;
    udp.send(10, 10)?;
    other.send(10, 10)?;
    thread::sleep(Duration::from_millis(1_200));
    // Whoever is left holds a bounded socket still.
    for pid in stage.processes(&[])? {
        // It may have ended by itself.
        let _ = signal(pid, Signal::TERM);
    }
    stage.is_empty()?;
    assert_eq!(matching(&file, &format!("not udp port {}", udp.port()))?, 0);
    assert!(packets(&file)? <= 10);
    Ok(())
}
