//! What holds when things go wrong: the agent is killed, interfaces change, processes are left
//! behind, tools bring capabilities along.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{Exec, Running, signal, skip, time, wait_for, workplace},
    netns::{CW0, Net},
    tools::{self, Probe, contains},
    traffic::{Flood, inject},
};
use rustix::process::Signal;
use serde_json::json;

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const RAW: u8 = 3;
const ALL: u16 = 3;

/// Writes each packet at once, so that the file shows what it was given.
const TCPDUMP: &str = "tcpdump --immediate-mode -U -s 96 -B 16384 -w out.pcap -i lo";

/// Waits for so many packets in the file of [`TCPDUMP`], and returns how many there are.
fn written(running: &Running<'_>, wanted: usize) -> Result<usize> {
    let file = running.file("out.pcap");
    running.wait_for("packets in the file", || {
        let count = tools::packets(&file).map_or(0, |packets| packets.len());
        Ok((count >= wanted).then_some(count))
    })
}

#[test]
fn agent_killed_packet_cap_holds() -> Result<()> {
    const CAP: usize = 1_000;
    let net = Net::new()?;
    let exec = Exec::new(&net.here, "-i lo -c 1000 -s 60");
    let mut running = exec.start(TCPDUMP.split(' '))?;
    let pids = running.capturing("lo", 1)?;
    Flood::new(LOOPBACK, b"x", 400).send(&net.here)?;
    ensure!(written(&running, 400)? == 400);
    running.kill_agent()?;
    Flood::new(LOOPBACK, b"x", 300).send(&net.here)?;
    ensure!(written(&running, 700)? == 700, "the capture did not go on");
    Flood::new(LOOPBACK, b"x", 3_000).send(&net.here)?;
    ensure!(written(&running, CAP)? == CAP);
    let stderr = running.file("stderr");
    let said = fs::read_to_string(&stderr)?;
    let place = running.clear_away(&pids)?;
    let end = fs::read_to_string(&stderr)?;
    assert!(end.contains("\n0 packets dropped by kernel"), "{said}{end}");
    let count = tools::tcpdump_count(&place.path().join("out.pcap"))?;
    assert_eq!(usize::try_from(count)?, CAP);
    Ok(())
}

#[test]
fn agent_killed_deadline_holds() -> Result<()> {
    let net = Net::new()?;
    let exec = Exec::new(&net.here, "-i lo -s 2");
    let mut running = exec.start(TCPDUMP.split(' '))?;
    let opened = time(&running.record("session-opened")?)?;
    let pids = running.capturing("lo", 1)?;
    // Without an agent, libpcap could not attach its filter, and would give up.
    running.record("filter-attached")?;
    running.kill_agent()?;
    let last_sent = Flood::new(LOOPBACK, b"x", 6_000).send(&net.here)?;
    let deadline = opened + Duration::from_secs(2);
    ensure!(last_sent > deadline + Duration::from_millis(100));
    let place = running.clear_away(&pids)?;
    let packets = tools::packets(&place.path().join("out.pcap"))?;
    ensure!(packets.len() > 1_000, "the capture did not go on");
    let last = packets.last().context("no packets")?.time;
    assert!(last <= deadline + Duration::from_millis(5), "{last:?}");
    Ok(())
}

#[test]
fn agent_killed_no_new_socket() -> Result<()> {
    let net = Net::new()?;
    let index = net.here.index("cw0")?;
    let line = format!("{TCPDUMP} & exec \"$0\" \"$1\"");
    let exec = Exec::new(&net.here, "-i lo -i cw0 -s 60");
    let mut probe = Probe::start_with(exec, &line)?;
    probe.ask(&json!(["open", RAW, 0]))?;
    let pids = probe.running.capturing("lo", 1)?;
    probe.running.kill_agent()?;
    for kind in [2, RAW, 10] {
        for protocol in [0, ALL] {
            let socket = probe.attempt(&json!(["open", kind, protocol]))?;
            let expected = if kind == 10 { "EPERM" } else { "ENOSYS" };
            assert_eq!(socket, Err(expected.to_owned()), "{kind}, {protocol}");
        }
    }
    let bind = probe.attempt(&json!(["bind", 0, index, 20]))?;
    assert_eq!(bind, Err("ENOSYS".to_owned()));
    probe.end(0)?.clear_away(&pids)?;
    Ok(())
}

#[test]
fn agent_told_to_stop_leaves_whole_files() -> Result<()> {
    let net = Net::new()?;
    // The command gets the signal at once, as it would without us: what it has not read by then
    // would be lost.
    let running = Exec::new(&net.here, "-i lo -s 60").start(TCPDUMP.split(' '))?;
    running.capturing("lo", 1)?;
    Flood::new(LOOPBACK, b"x", 100).send(&net.here)?;
    ensure!(written(&running, 100)? == 100);
    signal(running.child.id(), Signal::TERM)?;
    let done = running.finish()?;
    assert_eq!(tools::tcpdump_count(&done.file("out.pcap"))?, 100);
    assert_eq!(done.ended("packets")?, 100);
    assert!(done.status.success(), "{}", done.status);
    Ok(())
}

/// A frame that nobody answers.
fn frame(mark: &str) -> Vec<u8> {
    let mut frame = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x88\xb5".to_vec();
    frame.extend(mark.as_bytes());
    frame.resize(60, 0);
    frame
}

/// What the probe heard until a last packet on loopback, which is granted and comes after all else.
fn heard_until_now(net: &Net, probe: &mut Probe<'_>) -> Result<Vec<Vec<u8>>> {
    const LAST: &[u8] = b"nothing comes after this";
    Flood::new(LOOPBACK, LAST, 1).send(&net.here)?;
    let mut all = Vec::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        for (_, bytes) in probe.drain(0, 1)? {
            if contains(&bytes, LAST) {
                return Ok(all);
            }
            all.push(bytes);
        }
    }
    anyhow::bail!("loopback is not heard");
}

fn marked(heard: &[Vec<u8>], mark: &str) -> usize {
    heard
        .iter()
        .filter(|bytes| contains(bytes, mark.as_bytes()))
        .count()
}

/// Sends frames until they are heard, or no longer, and returns after how long that was so.
fn settled(net: &Net, probe: &mut Probe<'_>, interface: &str, heard: bool) -> Result<Duration> {
    const MARK: &str = "is this heard?";
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        inject(&net.there, interface, &[frame(MARK)])?;
        let now = heard_until_now(net, probe)?;
        if (marked(&now, MARK) > 0) == heard {
            return Ok(start.elapsed());
        }
    }
    anyhow::bail!("frames on {interface}, heard: {heard} never came true");
}

#[test]
fn interface_renamed_and_made_again_grant_follows_the_name() -> Result<()> {
    let net = Net::new()?;
    let mut probe = Probe::start(&net.here, "-i cw0 -i lo -s 60")?;
    probe.ask(&json!(["open", RAW, ALL]))?; // hears every interface that the guard lets through
    let send = |interface: &str, mark: &str, count: usize| {
        inject(&net.there, interface, &vec![frame(mark); count])
    };
    send("peer0", "before", 100)?;
    assert_eq!(marked(&heard_until_now(&net, &mut probe)?, "before"), 100);

    let old = net.here.index("cw0")?;
    net.here.ip("link set cw0 down")?;
    net.here.ip("link set cw0 name renamed")?;
    net.here.ip("link set renamed up")?;
    let after = settled(&net, &mut probe, "peer0", false)?;
    send("peer0", "renamed", 200)?;
    let heard = heard_until_now(&net, &mut probe)?;
    assert_eq!(marked(&heard, "renamed"), 0, "the grant names cw0");
    let bind = probe.attempt(&json!(["bind", 0, old, 20]))?;
    assert_eq!(bind, Err("EPERM".to_owned()));
    eprintln!("renamed: not heard any more after {after:.0?}");

    // Another interface of that name.
    net.there.ip("link set peer0 down")?;
    net.there.ip("link set peer0 name other0")?;
    net.there.ip("link set other0 up")?;
    net.pair(0)?;
    let after = settled(&net, &mut probe, "peer0", true)?;
    send("peer0", "again", 100)?;
    send("other0", "renamed", 100)?;
    let heard = heard_until_now(&net, &mut probe)?;
    assert_eq!(
        (marked(&heard, "again"), marked(&heard, "renamed")),
        (100, 0)
    );
    eprintln!("made again: heard after {after:.0?}");

    // Deleted, and made a third time.
    net.here.ip("link del cw0")?;
    net.pair(0)?;
    settled(&net, &mut probe, "peer0", true)?;
    let new = net.here.index("cw0")?;
    assert_ne!(new, old);
    probe.ask(&json!(["bind", 0, new, 20]))?;
    send("peer0", "third", 100)?;
    let heard: Vec<Vec<u8>> = probe
        .drain(0, 100)?
        .into_iter()
        .map(|(_, bytes)| bytes)
        .collect();
    assert_eq!(marked(&heard, "third"), 100);
    probe.end(0)?.finish()?;
    Ok(())
}

#[test]
fn interface_renamed_under_tcpdump_capture_stops() -> Result<()> {
    let net = Net::new()?;
    let command = "tcpdump --immediate-mode -U -s 96 -B 16384 -w {}/out.pcap -i any";
    let running = Exec::new(&net.here, "-i cw0 -s 60").start(command.split(' '))?;
    let pids = running.capturing("any", 1)?;
    let file = running.file("out.pcap");
    let seen = |mark: &str| -> Result<usize> {
        let packets = tools::packets(&file)?;
        let bytes: Vec<Vec<u8>> = packets.into_iter().map(|packet| packet.bytes).collect();
        Ok(marked(&bytes, mark))
    };
    Flood::new(CW0, b"before", 50).send(&net.there)?;
    running.wait_for("packets", || Ok((seen("before")? > 0).then_some(())))?;
    net.here.ip("link set cw0 down")?;
    net.here.ip("link set cw0 name renamed")?;
    net.here.ip("link set renamed up")?;
    // Until a whole batch is unseen for as long as immediate mode could take.
    let mut batch = 0;
    running.wait_for("silence", || {
        batch += 1;
        let mark = format!("batch {batch}.");
        inject(&net.there, "peer0", &vec![frame(&mark); 20])?;
        let limit = Duration::from_millis(100);
        let heard = wait_for("packets", limit, || Ok((seen(&mark)? > 0).then_some(())));
        Ok(heard.is_err().then_some(()))
    })?;
    inject(&net.there, "peer0", &vec![frame("after"); 200])?;
    for pid in pids {
        signal(pid, Signal::TERM)?;
    }
    let done = running.finish()?;
    let packets = tools::packets(&done.file("out.pcap"))?;
    let after = |bytes: &[u8]| contains(bytes, b"after");
    assert!(!packets.iter().any(|packet| after(&packet.bytes)));
    assert_eq!(done.ended("packets")?, u64::try_from(packets.len())?);
    assert_eq!(done.reason()?, "closed");
    Ok(())
}

#[test]
fn exec_status_of_the_command_passed_on() -> Result<()> {
    let net = Net::new()?;
    for (line, code) in [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 37", 37),
        ("exit 255", 255),
        ("kill -KILL $$", 128 + 9),
        ("kill -TERM $$", 128 + 15),
    ] {
        let running = Exec::new(&net.here, "-i lo -s 60").start(["sh", "-c", line])?;
        let done = running.finish()?;
        assert_eq!(done.status.code(), Some(code), "{line}");
        assert_eq!(done.ended("sockets")?, 0);
    }
    Ok(())
}

#[test]
fn exec_leaves_no_process_behind() -> Result<()> {
    // `finish` looks for processes and cgroups that are left.
    let net = Net::new()?;
    let line = "setsid sleep 1000 & setsid tcpdump -U -w two.pcap -i lo 2>/dev/null & \
                while [ ! -s two.pcap ]; do sleep 0.01; done; exit 3";
    let running = Exec::new(&net.here, "-i lo -s 60").start(["sh", "-c", line])?;
    let done = running.finish()?;
    assert_eq!(done.status.code(), Some(3));
    assert_eq!(done.ended("sockets")?, 1);
    assert_eq!(tools::tcpdump_count(&done.file("two.pcap"))?, 0);
    Ok(())
}

#[test]
fn exec_without_cgroup_still_ends_the_capture() -> Result<()> {
    // `ip netns exec` mounts another /sys, in which the agent finds no cgroup.
    let net = Net::new()?;
    let command = "tcpdump -w {}/out.pcap -i lo";
    let exec = Exec::new(&net.here, "-i lo -c 5 -s 60").by_ip_netns_exec();
    let running = exec.start(command.split(' '))?;
    running.capturing("lo", 1)?;
    Flood::new(LOOPBACK, b"x", 50).send(&net.here)?;
    let done = running.finish_within(Duration::from_secs(10))?;
    let started = done.record("agent-started")?.to_string();
    assert!(started.contains("no cgroup"), "{started}");
    assert_eq!(tools::tcpdump_count(&done.file("out.pcap"))?, 5);
    assert_eq!(done.reason()?, "packet-cap");
    Ok(())
}

#[test]
fn file_capabilities_of_dumpcap_give_nothing() -> Result<()> {
    const NAME: &str = "file_capabilities_of_dumpcap_give_nothing";
    let net = Net::new()?;
    let place = workplace()?;
    let copy = place.path().join("dumpcap");
    fs::copy("/usr/bin/dumpcap", &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    let set = |path: &Path| {
        Command::new("setcap")
            .arg("cap_net_raw,cap_net_admin=eip")
            .arg(path)
            .output()
    };
    match set(&copy) {
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
            return skip(NAME, "there is no setcap (package libcap2-bin)");
        }
        Ok(done) if !done.status.success() => {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(said.contains("not supported"), "{said}");
            return skip(NAME, "the file system of /tmp keeps no file capabilities");
        }
        Ok(_) => {}
    }
    let command = "{}/dumpcap -q -w {}/out.pcap -i lo";
    let exec = Exec::new(&net.here, "-i lo -c 7 -s 60");
    let running = exec.start_in(place, command.split(' '))?;
    running.capturing("lo", 1)?; // asserts that it has none
    Flood::new(LOOPBACK, b"x", 100).send(&net.here)?;
    let done = running.finish()?;
    assert_eq!(tools::capinfos_count(&done.file("out.pcap"))?, 7);
    assert!(done.status.success(), "{}", done.status);
    Ok(())
}
