//! Requested filters that lead outside the policy's `within`: cut and told so, or denied, or, where
//! nothing would be left, refused either way.

use anyhow::{Context, Result};
use capwarden_tests::{
    mcp::{Client, Message},
    stage::{AWSLABS, Stage, granted, matching, number, packets, python, text},
};
use serde_json::json;

fn server(stage: &Stage, within: &str, outside: &str) -> Result<Client> {
    let policy = format!(
        "version: 1
tools:
  start_packet_capture:
    capture:
      from: {{ interface: interface, filter: capture_filter, seconds: duration }}
      interfaces: [ lo ]
      within: \"{within}\"
      {outside}
      packets: 20
      seconds: 60
"
    );
    let mut client = stage.run(&policy, &[&python(AWSLABS)?])?;
    client
        .shake_hands()
        .with_context(|| stage.stderr().unwrap_or_default())?;
    Ok(client)
}

/// A server whose tool opens no capture: it says which filter it was given.
const READER: &str = r#"
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    params = message.get("params") or {}
    if message.get("method") == "initialize":
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                  "serverInfo": {"name": "reader", "version": "1"}}
    else:
        result = {"content": [{"type": "text", "text": "read " + json.dumps(params.get("arguments"))}]}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"#;

#[test]
fn filter_of_a_tool_without_a_session_is_proved() -> Result<()> {
    let stage = Stage::new()?;
    let script = stage.write("reader.py", READER)?;
    let policy = "version: 1\ntools:\n  read_file:\n    args: { bpf: { capture_filter: { within: \"net 10.0.0.0/8\" } } }\n";
    let mut client = stage.run(policy, &[&python("python3")?, &script])?;
    client.shake_hands()?;
    for filter in ["host 10.1.2.3 and tcp", "src net 10.7.0.0/16"] {
        let answer = client.call("read_file", &json!({ "bpf": filter }))?;
        assert!(!answer.failed(), "{}", answer.line);
        assert!(answer.own_text().contains(filter), "{}", answer.line);
    }
    for (filter, words) in [
        (
            "tcp",
            "In the argument `bpf`: the requested filter leads outside",
        ),
        ("", "is empty, and so all packets match"),
        ("ip and ip6", "can match no packet"),
        ("not a filter", "syntax error"),
    ] {
        let answer = client.call("read_file", &json!({ "bpf": filter }))?;
        assert!(answer.failed(), "{filter}: {}", answer.line);
        assert!(answer.text().contains(words), "{filter}: {}", answer.line);
        assert!(
            !answer.text().contains("read {"),
            "{filter}: {}",
            answer.line
        );
    }
    Ok(())
}

fn start(client: &mut Client, filter: &str) -> Result<Message> {
    let arguments = json!({
        "interface": "lo", "duration": 60, "capture_filter": filter, "output_file": "out.pcap",
    });
    client.call("start_packet_capture", &arguments)
}

#[test]
fn outside_is_cut_and_told_with_a_packet() -> Result<()> {
    let stage = Stage::new()?;
    let (inside, beside) = (stage.space.udp()?, stage.space.udp()?);
    let within = format!("udp dst port {}", inside.port());
    let mut client = server(&stage, &within, "")?;
    let answer = start(&mut client, "udp")?;
    assert!(!answer.failed(), "{}", answer.line);
    let told = answer.text();
    let sentence = format!("\"udp\" also matches packets outside \"{within}\", which are left out");
    assert!(told.contains(&sentence), "{told}");
    assert!(told.contains("one such: UDP "), "{told}");

    stage.live(&stage.capture("out.pcap"), 1)?;
    for _ in 0..20 {
        beside.send(1, 32)?;
        inside.send(1, 32)?;
    }
    let end = client.session_end(&granted(&answer)?)?;
    assert_eq!(text(&end, "reason"), "packet-cap", "{end}");
    let file = stage.capture("out.pcap");
    assert_eq!(packets(&file)?, 20);
    assert_eq!(matching(&file, &within)?, 20);

    let opened = stage.audit("session-opened")?;
    let cut = opened.first().map(|record| text(record, "cut"));
    assert!(cut.is_some_and(|cut| cut.contains(&sentence)), "{opened:?}");
    Ok(())
}

#[test]
fn what_stays_within_is_granted_without_a_word() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = server(&stage, "udp or icmp", "outside: deny")?;
    for filter in ["udp port 7", "icmp and ip[8] > 3", "host 127.0.0.1 and udp"] {
        let answer = start(&mut client, filter)?;
        assert!(!answer.failed(), "{filter}: {}", answer.line);
        assert!(!answer.text().contains("outside"), "{}", answer.line);
        assert!(answer.text().contains("granted"), "{}", answer.line);
    }
    Ok(())
}

#[test]
fn outside_is_denied_where_the_policy_says_so() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = server(&stage, "net 10.0.0.0/8", "outside: deny")?;
    let answer = start(&mut client, "udp or host 10.0.0.5")?;
    assert!(answer.failed(), "{}", answer.line);
    let told = answer.text();
    for words in [
        "leads outside \"net 10.0.0.0/8\"",
        "one packet: UDP ",
        "such as \"(net 10.0.0.0/8) and (udp or host 10.0.0.5)\"",
    ] {
        assert!(told.contains(words), "{told}");
    }
    // What it is told to ask for is granted.
    let answer = start(&mut client, "(net 10.0.0.0/8) and (udp or host 10.0.0.5)")?;
    assert!(!answer.failed(), "{}", answer.line);
    assert_eq!(stage.audited("session-opened", 1)?.len(), 1);
    Ok(())
}

#[test]
fn what_would_see_nothing_is_refused() -> Result<()> {
    for outside in ["", "outside: deny"] {
        let stage = Stage::new()?;
        let mut client = server(&stage, "tcp port 80", outside)?;
        for (filter, words) in [
            ("arp", "no packet matches both"),
            ("tcp port 443 and not port 80", "no packet matches both"),
            ("ip and ip6", "can match no packet"),
            (
                "tcp port 80 and host 1.2.3.4 and not tcp",
                "can match no packet",
            ),
        ] {
            let answer = start(&mut client, filter)?;
            assert!(answer.failed(), "{filter}: {}", answer.line);
            assert!(answer.text().contains(words), "{filter}: {}", answer.line);
        }
        let denied = stage.audited("call", 4)?;
        assert!(stage.audit("session-opened")?.is_empty());
        assert!(denied.iter().all(|call| number(call, "session").is_none()));
        assert_eq!(denied.len(), 4);
    }
    Ok(())
}
