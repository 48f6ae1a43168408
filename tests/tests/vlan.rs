//! VLAN tags: a filter means what it means on the capture file, for frames that come in (the kernel
//! keeps their outer tag beside the bytes) and for frames that go out (it may be in either place).

use std::{path::Path, process::Command, thread, time::Duration};

use anyhow::{Result, ensure};
use capwarden_tests::{
    agent::{Exec, skip, workplace},
    netns::{Namespace, Net},
    tools::{self, Probe},
    traffic::inject,
};
use serde_json::json;

const RAW: u8 = 3;
const ALL: u16 = 3;

/// Filters that tagged, twice tagged and untagged frames part at.
const FILTERS: &[&str] = &[
    "vlan",
    "vlan 5",
    "vlan 6",
    "not vlan",
    "udp dst port 7",
    "not udp dst port 7",
    "vlan and udp dst port 7",
    "vlan 5 and not udp dst port 7",
    "vlan and vlan",
    "vlan 9 and vlan 5 and udp",
    "ether[12:2] = 0x8100",
    "ether[12:4] & 0xffff0fff = 0x88a80009",
    "ether[14:2] & 0xe000 = 0x6000",
    "ether[11:2] = 0x0281 or ether[13:4] = 0",
    "ether[ether[0]:2] = 0x0200 or ether[ether[0] + 12:2] = 0x8100",
    "greater 60",
    "len = 46",
    "ip",
    "ip6 or arp",
    "ether src 02:00:00:00:00:02",
];

/// Frames that differ in their last byte, by which they are known.
fn frames() -> Vec<Vec<u8>> {
    let tags: [&[[u16; 2]]; 6] = [
        &[],
        &[[0x8100, 5]],
        &[[0x8100, 0x6006]],
        &[[0x88a8, 9], [0x8100, 5]],
        &[[0x8100, 5], [0x8100, 6]],
        &[[0x8100, 0]],
    ];
    let mut frames = Vec::new();
    for tags in tags {
        for port in [7_u16, 8] {
            let mut frame = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2].to_vec();
            for half in tags.iter().flatten() {
                frame.extend(half.to_be_bytes());
            }
            frame.extend([8, 0]);
            let ip = [
                0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 99, 0, 2, 10, 99, 0, 1,
            ];
            frame.extend(ip);
            frame.extend([0x9c, 0x40]);
            frame.extend(port.to_be_bytes());
            frame.extend([0, 12, 0, 0, 0, 0, 0]);
            frame.push(u8::try_from(frames.len()).unwrap_or(u8::MAX));
            frames.push(frame);
        }
    }
    frames
}

fn marks<T: AsRef<[u8]>>(frames: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut marks: Vec<u8> = frames
        .into_iter()
        .filter_map(|frame| frame.as_ref().last().copied())
        .collect();
    marks.sort_unstable();
    marks
}

/// What a filter selects of a capture file: `tcpdump -r`.
fn selected(file: &Path, filter: &str) -> Result<Vec<u8>> {
    let part = file.with_extension("part");
    let done = Command::new("tcpdump")
        .arg("-r")
        .arg(file)
        .arg("-w")
        .arg(&part)
        // Its optimizer changes what some programs mean.
        .args(["-O", filter])
        .output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{filter}: {said}");
    let packets = tools::packets(&part)?;
    Ok(marks(packets.iter().map(|packet| &packet.bytes)))
}

/// What a governed process hears of what `send` sends, for each filter, held against what
/// `tcpdump -r` finds in a governed capture of the same.
fn assert_as_in_the_file(
    namespace: &Namespace,
    interface: &str,
    count: usize,
    send: impl Fn() -> Result<()>,
) -> Result<()> {
    let place = workplace()?;
    let running = Exec::new(namespace, &format!("-i {interface} -s 60 -c {count}")).start_in(
        place,
        format!("tcpdump -w {{}}/all.pcap -i {interface}").split(' '),
    )?;
    running.capturing(interface, 1)?;
    send()?;
    let done = running.finish()?;
    let file = done.file("all.pcap");
    ensure!(
        tools::packets(&file)?.len() == count,
        "not all frames came: {}",
        done.stderr
    );

    let (mut some, mut none) = (0, 0);
    for filter in FILTERS {
        let options = format!("-i {interface} -s 60");
        let mut probe = Probe::start_filtered(namespace, &options, filter)?;
        probe.ask(&json!(["open", RAW, ALL]))?;
        let expected = selected(&file, filter)?;
        send()?;
        let mut heard = probe.drain(0, expected.len())?;
        // What is one too many would come now.
        thread::sleep(Duration::from_millis(30));
        heard.extend(probe.drain(0, 0)?);
        let heard = marks(heard.iter().map(|(_, bytes)| bytes));
        assert_eq!(heard, expected, "{filter} on {interface}");
        some += usize::from(!expected.is_empty());
        none += usize::from(expected.len() < count);
        probe.end(0)?.finish()?;
    }
    ensure!(some > FILTERS.len() / 2 && none > FILTERS.len() / 2);
    Ok(())
}

#[test]
fn vlan_filters_of_received_frames() -> Result<()> {
    let net = Net::new()?;
    let frames = frames();
    assert_as_in_the_file(&net.here, "cw0", frames.len(), || {
        inject(&net.there, "peer0", &frames)
    })
}

#[test]
fn vlan_filters_of_sent_frames() -> Result<()> {
    let net = Net::new()?;
    let frames = frames();
    assert_as_in_the_file(&net.there, "peer0", frames.len(), || {
        inject(&net.there, "peer0", &frames)
    })
}

#[test]
fn vlan_filters_of_frames_that_the_kernel_tags() -> Result<()> {
    let net = Net::new()?;
    let made = net
        .there
        .ip("link add link peer0 name tagged type vlan id 5");
    if let Err(error) = made {
        let error = error.to_string();
        ensure!(error.contains("Unknown device type"), "{error}");
        let test = "vlan_filters_of_frames_that_the_kernel_tags";
        return skip(test, "this kernel has no VLAN devices");
    }
    net.there.ip("link set tagged up")?;
    let frames = frames();
    assert_as_in_the_file(&net.there, "peer0", frames.len(), || {
        inject(&net.there, "tagged", &frames)
    })
}
