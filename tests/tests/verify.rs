//! `audit verify --pcap`: what a governed capture wrote is within its terms, and a file that was
//! tampered with is not.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{Exec, Finished, capwarden},
    netns::{CW0, Namespace, Net},
    traffic::Flood,
};
use serde_json::Value;

const LOOPBACK: std::net::Ipv4Addr = std::net::Ipv4Addr::LOCALHOST;
const PAYLOAD: &[u8] = b"a secret that no header holds";

/// What `audit verify` says about these files of the session.
fn verify(done: &Finished, files: &[PathBuf]) -> Result<(bool, Value)> {
    let mut command = Command::new(capwarden()?);
    command.args(["audit", "verify", "--json", "--session", "s1"]);
    for file in files {
        command.arg("--pcap").arg(file);
    }
    let output = command.arg(done.file("audit.jsonl")).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let capture = report.get("capture").context("no capture")?.clone();
    Ok((output.status.code() == Some(0), capture))
}

fn capture(namespace: &Namespace, interface: &str, command: &str) -> Result<Finished> {
    let options = format!("--interface {interface} --packets 6 --seconds 60 --payload headers");
    let exec = Exec::new(namespace, &options).option("--filter", "udp dst port 9999");
    let running = exec.start(command.split(' '))?;
    running.capturing(interface, 1)?;
    let (to, from) = match interface {
        "lo" => (LOOPBACK, namespace),
        _ => (CW0, namespace),
    };
    Flood::new(to, PAYLOAD, 50).send(from)?;
    running.finish()
}

fn check(done: &Finished, files: &[PathBuf]) -> Result<()> {
    let (holds, report) = verify(done, files)?;
    ensure!(holds, "{report:#}");
    ensure!(
        report.get("packets").and_then(Value::as_u64) == Some(6),
        "{report:#}"
    );
    ensure!(
        report.get("undecidable").and_then(Value::as_u64) == Some(0),
        "{report:#}"
    );
    Ok(())
}

#[test]
fn capture_of_each_tool_is_within_its_grant() -> Result<()> {
    let net = Net::new()?;
    for (interface, command) in [
        ("lo", "tcpdump -w out.pcap -i lo"),
        ("any", "tcpdump -w out.pcap -i any"),
        ("lo", "dumpcap -q -w out.pcap -i lo"),
        ("any", "tshark -q -w out.pcap -i any"),
    ] {
        let done = capture(&net.here, interface, command)?;
        check(&done, &[done.file("out.pcap")]).context(command)?;
    }
    Ok(())
}

#[test]
fn files_of_a_ring_are_checked_together() -> Result<()> {
    let net = Net::new()?;
    let done = capture(&net.here, "lo", "dumpcap -q -b packets:2 -w out.pcap -i lo")?;
    let place = done.file("x").parent().context("no place")?.to_owned();
    let mut files = Vec::new();
    for entry in fs::read_dir(place)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "pcap")
        {
            files.push(path);
        }
    }
    ensure!(files.len() >= 3, "{files:?}");
    check(&done, &files)
}

#[test]
fn tampered_capture_is_beyond_its_grant() -> Result<()> {
    let net = Net::new()?;
    let done = capture(&net.here, "lo", "tcpdump -w out.pcap -i lo")?;
    let file = done.file("out.pcap");
    let whole = fs::read(&file)?;
    // The file's header, the first packet's, and its bytes: Ethernet, IPv4, the UDP ports.
    let (header, first) = (24, 16 + 42);
    let port = header + 16 + 14 + 20 + 3;
    let tampered = done.file("tampered.pcap");
    let again = whole.get(header..header + first).context("no packet")?;
    let mut changes: Vec<(&str, Vec<u8>)> = Vec::new();
    let mut other = whole.clone();
    *other.get_mut(port).context("no port")? ^= 1;
    changes.push(("filter", other));
    changes.push(("packets", [&whole, again].concat()));
    let mut early = whole.clone();
    *early.get_mut(header + 3).context("no time")? = 0;
    changes.push(("time", early));
    changes.push((
        "file",
        whole.get(..whole.len() - 1).unwrap_or_default().to_vec(),
    ));
    for (rule, bytes) in changes {
        fs::write(&tampered, bytes)?;
        let (holds, report) = verify(&done, std::slice::from_ref(&tampered))?;
        ensure!(!holds, "{rule}: {report:#}");
        let violations = report.get("violations").and_then(Value::as_array);
        let named = violations.is_some_and(|violations| {
            let is = |one: &Value| one.get("rule").and_then(Value::as_str) == Some(rule);
            violations.iter().any(is)
        });
        ensure!(named, "{rule}: {report:#}");
    }
    // Another session's payload, with the same number of packets.
    let done = {
        let exec = Exec::new(&net.here, "--interface lo --packets 6 --seconds 60");
        let running = exec.start("tcpdump -w full.pcap -i lo".split(' '))?;
        running.capturing("lo", 1)?;
        Flood::new(LOOPBACK, PAYLOAD, 50).send(&net.here)?;
        let full = running.finish()?;
        fs::copy(full.file("full.pcap"), done.file("full.pcap"))?;
        done
    };
    let (holds, report) = verify(&done, &[done.file("full.pcap")])?;
    ensure!(!holds, "{report:#}");
    ensure!(
        report.to_string().contains("bytes after its headers"),
        "{report:#}"
    );
    Ok(())
}
