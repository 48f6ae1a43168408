//! What a host does to an agent that nobody meant: a full disk, interfaces that flap. Each has a
//! stated outcome, and none is a capture without its guard or its record. (That the agent itself is
//! killed: `crash.rs` and `rounds`; that its policy goes: `reload.rs`.)

use std::{
    fs::{self, File, Permissions},
    io::Write as _,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use capwarden_tests::{
    agent::{Exec, capwarden, exited, offspring, records, wait_for, workplace},
    netns::Net,
    tools::{self, PYTHON, Probe},
    traffic::{Flood, inject},
};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use serde_json::json;

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const LONG: Duration = Duration::from_secs(20);
const RAW: u8 = 3;

/// A disk that is full soon, mounted for as long as this is kept; and a file of it in another place.
struct SmallDisk {
    disk: PathBuf,
    file: PathBuf,
}

impl SmallDisk {
    fn with(disk: PathBuf, file: PathBuf) -> Result<Self> {
        fs::create_dir(&disk)?;
        mount("small", &disk, "tmpfs", MountFlags::empty(), c"size=64k")
            .context("cannot mount a tmpfs")?;
        let small = Self { disk, file };
        mount_change(&small.disk, MountPropagationFlags::PRIVATE)?;
        let of_it = small.disk.join("log");
        for made in [&of_it, &small.file] {
            File::create(made)?;
            fs::set_permissions(made, Permissions::from_mode(0o600))?;
        }
        mount_bind(&of_it, &small.file)?;
        Ok(small)
    }

    /// Fills it to its last byte but what files that are there have left of their pages.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.disk.join("filler");
        let mut filler = File::create(&path)?;
        loop {
            match filler.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(path),
                Err(error) => bail!("{error}"),
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.file, UnmountFlags::DETACH);
        let _ = unmount(&self.disk, UnmountFlags::DETACH);
    }
}

fn verify(log: &Path) -> Result<(bool, String)> {
    let done = Command::new(capwarden()?)
        .args(["audit", "verify"])
        .arg(log)
        .output()?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    Ok((done.status.success(), said))
}

#[test]
fn full_disk_ends_what_can_no_longer_be_recorded() -> Result<()> {
    let net = Net::new()?;
    let place = workplace()?;
    let here = place.path().to_owned();
    let log = here.join("audit.jsonl");
    let outside = workplace()?;
    let small = SmallDisk::with(outside.path().join("small"), log.clone())?;
    // A capture; and, when a line comes, as many sockets as a session may have, each of them a record.
    let sockets =
        "import socket, time; a = [socket.socket(17, 3, 0) for _ in range(60)]; time.sleep(60)";
    let line = "tcpdump --immediate-mode -U -w out.pcap -i lo & read x; exec \"$0\" -c \"$1\"";
    let mut running = Exec::new(&net.here, "-i lo -s 60")
        .interactive()
        .start_in(place, ["sh", "-c", line, PYTHON, sockets])?;
    running.capturing("lo", 1)?;
    Flood::new(LOOPBACK, b"before", 50).send(&net.here)?;
    let file = running.file("out.pcap");
    let count = || tools::packets(&file).map_or(0, |packets| packets.len());
    running.wait_for("packets", || Ok((count() >= 50).then_some(())))?;

    let filler = small.fill()?;
    let mut input = running.child.stdin.take().context("no pipe")?;
    input.write_all(b"now\n")?;
    let status = exited(&mut running.child, LONG).with_context(|| running.stderr())?;
    let said = running.stderr();
    assert_eq!(status.code(), Some(7), "{said}");
    assert!(said.contains("No space left on device"), "{said}");

    // Nothing was captured after that, the file is whole, and no process is left.
    Flood::new(LOOPBACK, b"after", 50).send(&net.here)?;
    assert_eq!(tools::tcpdump_count(&file)?, 50);
    wait_for("an end of all processes", LONG, || {
        let left = offspring(&here)?;
        Ok(left.is_empty().then_some(()))
    })?;

    // What was recorded is: each line that is whole, and the next agent goes on behind it.
    let whole = |log: &Path| -> Result<usize> {
        let text = fs::read_to_string(log)?;
        Ok(text.matches('\n').count())
    };
    let before = whole(&log)?;
    ensure!(before > 4, "{before} lines");
    fs::remove_file(filler)?;
    let again = net
        .here
        .command(capwarden()?)
        .args(["exec", "--user", "65534", "--audit"])
        .arg(&log)
        .args(["-i", "lo", "--", "true"])
        .output()?;
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.success(), "{said}");
    let (sound, words) = verify(&log)?;
    assert!(sound, "{words}");
    let kinds: Vec<String> = records(&log)?
        .iter()
        .filter_map(|record| Some(record.get("kind")?.as_str()?.to_owned()))
        .collect();
    assert!(kinds.len() >= before + 2, "{before} lines, then {kinds:?}");
    drop(small);
    Ok(())
}

#[test]
fn flapping_interface_neither_loses_the_guard_nor_the_count() -> Result<()> {
    const CAP: usize = 200;
    const FLAPS: usize = 20;
    let net = Net::new()?;
    let mut probe = Probe::start(&net.here, &format!("-i cw0 -c {CAP} -s 60"))?;
    let index = net.here.index("cw0")?;
    probe.ask(&json!(["open", RAW, 0]))?;
    probe.ask(&json!(["bind", 0, index, 20]))?;
    let mut frame = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x88\xb5".to_vec();
    frame.resize(60, 0);
    let send = |count: usize| inject(&net.there, "peer0", &vec![frame.clone(); count]);
    let mut heard = 0;
    for flap in 0..FLAPS {
        net.here.ip("link set cw0 down")?;
        net.here.ip("link set cw0 up")?;
        if flap % 4 == 3 {
            net.there.ip("link set peer0 down")?;
            net.there.ip("link set peer0 up")?;
        }
        send(5)?;
        heard += probe.drain(0, 1)?.len();
        // Not heard, whatever flaps: it was not granted.
        inject(&net.there, "peer1", &vec![frame.clone(); 5])?;
    }
    // What the host itself sent when the interface came up (neighbour discovery) counts as well.
    send(CAP)?;
    heard += probe.drain(0, CAP.saturating_sub(heard))?.len();
    assert_eq!(heard, CAP);
    // What comes after the cap is not counted; the session's end ends the probe.
    send(50)?;
    let finished = probe.release().finish()?;
    assert_eq!(finished.reason()?, "packet-cap");
    assert_eq!(finished.ended("packets")?, u64::try_from(CAP)?);
    Ok(())
}
