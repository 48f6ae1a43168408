//! Promiscuous mode, which the agent sets for capture tools: they capture with it and without, as anywhere.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{Exec, wait_for},
    netns::{CW0, Net},
    tools,
    traffic::Flood,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// How many sockets have asked for promiscuous mode of `cw0`.
fn promiscuity(net: &Net) -> Result<u32> {
    let mut ip = net.here.command("ip");
    let said = ip.args(["-details", "link", "show", "cw0"]).output()?;
    let said = String::from_utf8(said.stdout)?;
    let mut words = said.split_whitespace();
    words.find(|word| *word == "promiscuity");
    let count = words.next().with_context(|| said.clone())?;
    Ok(count.parse()?)
}

#[test]
fn tools_capture_in_promiscuous_mode_and_without() -> Result<()> {
    const PACKETS: u32 = 10;
    let net = Net::new()?;
    for (tool, wanted) in [
        ("tcpdump -p -n -U", 0),
        ("tcpdump -n -U", 1),
        ("dumpcap -p -q", 0),
        ("dumpcap -q", 1),
    ] {
        let command = format!("{tool} -i cw0 -c {PACKETS} -w {{}}/out.pcap");
        let options = "--interface cw0 --seconds 60";
        let running = Exec::new(&net.here, options).start(command.split(' '))?;
        running.capturing("cw0", 1)?;
        // libpcap asks for it before the socket is bound, and dumpcap opens one more at first.
        wait_for(tool, PATIENCE, || {
            Ok((promiscuity(&net)? == wanted).then_some(()))
        })?;
        Flood::new(CW0, b"some", PACKETS).send(&net.there)?;
        let done = running.finish()?;
        ensure!(done.status.success(), "{tool}: {}", done.stderr);
        let captured = tools::capinfos_count(&done.file("out.pcap"))?;
        ensure!(captured == u64::from(PACKETS), "{tool}: {captured}");
        let refused = done.record("socket-refused");
        ensure!(refused.is_err(), "{tool}: {refused:?}");
    }
    Ok(())
}
