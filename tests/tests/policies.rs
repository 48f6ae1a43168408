//! The policies in `policies/`, in front of the servers that they are for: the tools are those that the policy
//! was written for, a capture that it grants is made, and one that it does not grant is not.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::wait_for,
    mcp::{Client, Message, PATIENCE},
    stage::{AWSLABS, Stage, granted, number, packets, python, suite, user},
};
use serde_json::{Value, json};

const SHAPE: &str = include_str!("../scripts/shape.py");

/// Where the policies have captures, in place of which the tests have a directory of their own.
const CAPTURES: &str = "/var/lib/capwarden/captures";

/// A server, and what it is held against.
struct Ready {
    server: PathBuf,
    policy: String,
    shape: &'static str,
}

macro_rules! ready {
    ($server:expr, $name:literal) => {
        Ready {
            server: $server,
            policy: include_str!(concat!("../../policies/", $name, ".yaml")).to_owned(),
            shape: include_str!(concat!("../shapes/", $name, ".json")),
        }
    };
}

impl Ready {
    /// The server behind capwarden. Its tools are compared with those that were recorded.
    fn start(self, stage: &Stage) -> Result<Client> {
        let captures = stage.path("captures");
        let here = captures.to_str().context("no path")?;
        // Both at once, as they take seconds to start.
        let script = stage.write("shape.py", SHAPE)?;
        let asked = Command::new(python("python3")?)
            .arg(script)
            .arg(&self.server)
            .env("HOME", here)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(here)
            .uid(user())
            .stdout(Stdio::piped())
            .stderr(File::create(stage.path("asked"))?)
            .spawn()?;
        let mut governed = stage.run(&self.policy.replace(CAPTURES, here), &[&self.server])?;
        governed
            .shake_hands()
            .with_context(|| stage.stderr().unwrap_or_default())?;

        let asked = asked.wait_with_output()?;
        let errors = fs::read_to_string(stage.path("asked"))?;
        ensure!(asked.status.success(), "{errors}");
        let found = String::from_utf8(asked.stdout)?;
        for (found, recorded) in found.lines().zip(self.shape.lines()) {
            ensure!(found == recorded, "now: {found}\nthen: {recorded}");
        }
        ensure!(found == self.shape, "other tools than were recorded");
        Ok(governed)
    }
}

/// What the model is told it may not; nothing hears on any interface.
fn refused(stage: &Stage, client: &mut Client, tool: &str, call: &Value, why: &str) -> Result<()> {
    let answer = client.call(tool, call)?;
    ensure!(answer.failed(), "{call}: {}", answer.line);
    ensure!(answer.text().contains(why), "{call}: {}", answer.text());
    ensure!(stage.space.listening()? == 0, "{call}");
    Ok(())
}

/// Calls a tool that answers when its capture is over, while packets pass; the answer, and the end of its session.
fn blocking(
    stage: &Stage,
    client: &mut Client,
    tool: &str,
    call: impl FnOnce(u16) -> Value,
) -> Result<(Message, Value)> {
    let udp = stage.space.udp()?;
    let id = client.ask_call(tool, &call(udp.port()))?;
    let heard = wait_for("a live capture", PATIENCE, || {
        Ok((stage.space.listening()? == 1).then_some(()))
    });
    heard.with_context(|| format!("{:?} {:?}", stage.stderr(), client.rest()))?;
    let answers =
        |message: &Value| message.get("id") == Some(&id) && message.get("method").is_none();
    // What comes before the tool has set its filter is not captured, and how long that takes is its own.
    let answer = wait_for("the answer", 3 * PATIENCE, || {
        udp.send(5, 100)?;
        Ok(client.wait(Duration::from_millis(50), answers).ok())
    })?;
    ensure!(!answer.failed(), "{}", answer.line);
    let end = stage.end_record(&granted(&answer)?)?;
    Ok((answer, end))
}

/// Closes the conversation as a client does; nothing is left but the record.
fn good_bye(stage: &Stage, mut client: Client) -> Result<()> {
    client.close_input();
    client.exit()?;
    stage.stderr()?;
    stage.is_empty()?;
    ensure!(stage.space.listening()? == 0);
    let stopped = stage.audited("agent-stopped", 1)?;
    let stopped = stopped.first().context("the agent goes on")?;
    let status = number(stopped, "status").and_then(|status| i64::try_from(status).ok());
    stage.audit_is_closed("the client closed the connection", status)
}

#[test]
fn awslabs_pcap_analyzer() -> Result<()> {
    let stage = Stage::new()?;
    let ready = ready!(python(AWSLABS)?, "awslabs-pcap-analyzer");
    let mut client = ready.start(&stage)?;
    let tool = "start_packet_capture";
    refused(
        &stage,
        &mut client,
        tool,
        &json!({ "interface": "eth0" }),
        "lo or veth*",
    )?;

    let udp = stage.space.udp()?;
    let filter = format!("udp port {}", udp.port());
    let call = json!({ "interface": "lo", "capture_filter": filter, "output_file": "a.pcap" });
    let answer = client.call(tool, &call)?;
    let own: Value = serde_json::from_str(answer.own_text())?;
    let file = stage.capture("a.pcap");
    stage.live(&file, 1)?;
    udp.send(20, 600)?;
    thread::sleep(Duration::from_millis(1_200)); // the ring hands its block over within a second
    let stop = json!({ "capture_id": own["capture_id"] });
    let stopped = client.call("stop_packet_capture", &stop)?;
    ensure!(!stopped.failed(), "{}", stopped.line);
    let end = stage.end_record(&granted(&answer)?)?;
    ensure!(number(&end, "packets") == Some(20), "{end}");
    ensure!(packets(&file)? == 20);

    let read = client.call("analyze_pcap_file", &json!({ "pcap_file": file }))?;
    ensure!(!read.failed(), "{}", read.line);
    let elsewhere = json!({ "pcap_file": "/etc/hostname" });
    refused(
        &stage,
        &mut client,
        "analyze_pcap_file",
        &elsewhere,
        "captures",
    )?;
    good_bye(&stage, client)
}

#[test]
fn wireshark_mcp() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = ready!(suite("bin/wireshark-mcp")?, "wireshark-mcp").start(&stage)?;
    let tool = "wireshark_capture";
    let file = stage.capture("a.pcap");
    let other = json!({ "interface": "eth0", "output_file": file });
    refused(&stage, &mut client, tool, &other, "lo or veth*")?;
    let elsewhere = json!({ "interface": "lo", "output_file": stage.path("a.pcap") });
    refused(&stage, &mut client, tool, &elsewhere, "captures")?;

    let (answer, end) = blocking(&stage, &mut client, tool, |port| {
        json!({
            "interface": "lo", "output_file": file, "packet_count": 5,
            "capture_filter": format!("udp port {port}"),
        })
    })?;
    // The tool ends by itself, or the session's own count is first.
    ensure!(
        number(&end, "packets") == Some(5),
        "{end}: {}",
        answer.text()
    );
    ensure!(packets(&file)? == 5);
    let read = client.call("wireshark_get_packet_list", &json!({ "pcap_file": file }))?;
    ensure!(
        !read.failed() && read.text().contains("UDP"),
        "{}",
        read.line
    );
    good_bye(&stage, client)
}

#[test]
fn mcp_wireshark() -> Result<()> {
    let stage = Stage::new()?;
    let mut client = ready!(python("mcp-wireshark")?, "mcp-wireshark").start(&stage)?;
    let tool = "live_capture";
    let more = json!({ "interface": "lo", "packet_count": 100_000, "duration": 5 });
    refused(&stage, &mut client, tool, &more, "100000 packets")?;
    let other = json!({ "interface": "eth0", "packet_count": 5, "duration": 5 });
    refused(&stage, &mut client, tool, &other, "lo or veth*")?;

    let (answer, end) = blocking(
        &stage,
        &mut client,
        tool,
        |_| json!({ "interface": "lo", "packet_count": 5, "duration": 30 }),
    )?;
    ensure!(
        number(&end, "packets") == Some(5),
        "{end}: {}",
        answer.text()
    );
    ensure!(answer.own_text().contains("UDP"), "{}", answer.line);
    good_bye(&stage, client)
}

#[test]
fn netmcp() -> Result<()> {
    let stage = Stage::new()?;
    let mut ready = ready!(python("netmcp")?, "netmcp");
    // As the policy proposes: what bounds the network leaves captures alone.
    ready.policy.push_str("baseline: none\n");
    let mut client = ready.start(&stage)?;
    ensure!(stage.audit("network-bounded")?.len() == 1);
    let tool = "capture_live_packets";
    refused(
        &stage,
        &mut client,
        tool,
        &json!({ "interface": "eth0" }),
        "lo or veth*",
    )?;
    // Captures as well, but opens no session.
    let other = json!({ "interface": "lo", "duration": 1 });
    refused(
        &stage,
        &mut client,
        "detect_network_protocols",
        &other,
        "interface",
    )?;

    let (answer, end) = blocking(
        &stage,
        &mut client,
        tool,
        |port| json!({ "interface": "lo", "packet_count": 5, "bpf_filter": format!("udp port {port}") }),
    )?;
    ensure!(
        number(&end, "packets") == Some(5),
        "{end}: {}",
        answer.text()
    );
    good_bye(&stage, client)
}
