//! Receive rings of capture sockets: within bounds they are the kernel's, and tools never notice.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{Exec, text, workplace},
    netns::Net,
    tools::{self, PYTHON},
    traffic::Flood,
};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn refused(record: &Value) -> bool {
    record.get("kind").and_then(Value::as_str) == Some("socket-refused")
}

#[test]
fn within_bounds_the_answers_are_the_kernels_and_beyond_there_is_no_memory() -> Result<()> {
    let net = Net::new()?;
    let place = workplace()?;
    let script = tools::script("rings.py", place.path())?;
    let kernels = net.here.command(PYTHON).arg(&script).output()?;
    let said = String::from_utf8_lossy(&kernels.stderr);
    let kernels: BTreeMap<String, String> =
        serde_json::from_slice(&kernels.stdout).with_context(|| said.into_owned())?;

    let place = workplace()?;
    tools::script("rings.py", place.path())?;
    let done = Exec::new(&net.here, "-i lo -s 60")
        .start_in(place, [PYTHON, "{}/rings.py"])?
        .finish()?;
    let ours: BTreeMap<String, String> =
        serde_json::from_str(&done.stdout).with_context(|| done.stderr.clone())?;
    assert_eq!(ours.len(), kernels.len());
    for (what, kernels) in &kernels {
        let ours = ours.get(what).map(String::as_str);
        if what.contains("over: ") {
            // It is granted by a kernel that nobody guards.
            assert_eq!((kernels.as_str(), ours), ("ok", Some("ENOMEM")), "{what}");
        } else {
            assert_eq!(ours, Some(kernels.as_str()), "{what}");
        }
    }
    // Of each socket the first is in the record.
    let told: Vec<&str> = done
        .records
        .iter()
        .filter(|record| refused(record))
        .map(|record| text(record, "why"))
        .collect::<Result<_>>()?;
    assert_eq!(told.len(), 5, "{told:?}");
    assert!(
        told.iter()
            .all(|why| why.starts_with("a receive ring has at most ")),
        "{told:?}"
    );
    Ok(())
}

#[test]
fn tcpdump_that_wants_half_a_gibibyte_makes_do_with_less() -> Result<()> {
    let net = Net::new()?;
    let command = "tcpdump -B 524288 -i lo -n -U -c 20 -w {}/out.pcap udp port 9999";
    let running = Exec::new(&net.here, "-i lo -s 60").start(command.split(' '))?;
    let pids = running.capturing("lo", 1)?;
    let pid = pids.first().context("nobody captures")?;
    let rings: Vec<u64> = fs::read_to_string(format!("/proc/{pid}/maps"))?
        .lines()
        .filter(|line| line.contains("socket:["))
        .map(|line| {
            let (from, to) = line
                .split_once(' ')
                .and_then(|(range, _)| range.split_once('-'))
                .with_context(|| line.to_owned())?;
            Ok(u64::from_str_radix(to, 16)? - u64::from_str_radix(from, 16)?)
        })
        .collect::<Result<_>>()?;
    ensure!(
        matches!(rings.as_slice(), [ring] if (32 * MIB..=64 * MIB).contains(ring)),
        "rings of {rings:?} bytes"
    );
    Flood::new(std::net::Ipv4Addr::LOCALHOST, b"xxxx", 20).send(&net.here)?;
    let done = running.finish()?;
    assert_eq!(tools::tcpdump_count(&done.file("out.pcap"))?, 20);
    // It has asked some forty times.
    assert_eq!(
        done.records.iter().filter(|record| refused(record)).count(),
        1
    );
    Ok(())
}
