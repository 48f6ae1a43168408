//! Capture sockets send nothing: whatever their holders try, on whichever interface.

use std::{collections::BTreeMap, process::Command, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{Exec, capwarden, workplace},
    netns::{Namespace, Net},
    tools::{self, PYTHON},
};

const SCRIPT: &str = "inject.py";
const ATTEMPTS: usize = 8;
/// All but the one on loopback.
const LEAVING: u64 = 7;

/// What came of each way to send, from within; and how many frames came out of it at the peers.
fn attempts(net: &Net, governed: bool) -> Result<(BTreeMap<String, String>, u64)> {
    let before = received(&net.there)?;
    let place = workplace()?;
    let script = tools::script(SCRIPT, place.path())?;
    let said = if governed {
        // A socket can be bound to no other; it can send on all of them.
        Exec::new(&net.here, "-i cw0 -s 60")
            .start_in(place, [PYTHON, "{}/inject.py"])?
            .finish()?
            .stdout
    } else {
        let done = net.here.command(PYTHON).arg(&script).output()?;
        String::from_utf8(done.stdout)?
    };
    let answers = serde_json::from_str(&said).with_context(|| said.clone())?;
    Ok((answers, received(&net.there)? - before))
}

/// Frames that came to the peers of `cw0` and `cw1`.
fn received(there: &Namespace) -> Result<u64> {
    let table = there.enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?))?;
    let of = |line: &str| -> Option<u64> {
        let (name, counts) = line.split_once(':')?;
        name.trim().starts_with("peer").then_some(())?;
        counts.split_whitespace().nth(1)?.parse().ok()
    };
    Ok(table.lines().filter_map(of).sum())
}

#[test]
fn every_way_to_send_ends_before_the_wire() -> Result<()> {
    let net = Net::new()?;
    let (plain, out) = attempts(&net, false)?;
    assert_eq!(plain.len(), ATTEMPTS, "{plain:?}");
    assert!(plain.values().all(|answer| answer == "ok"), "{plain:?}");
    ensure!(
        out >= LEAVING,
        "only {out} frames left where nothing is guarded"
    );

    let (guarded, out) = attempts(&net, true)?;
    assert_eq!(out, 0, "{guarded:?}");
    assert_eq!(guarded.len(), plain.len());
    for (way, answer) in &guarded {
        let expected = if way.starts_with("around") {
            "EPERM"
        } else {
            "ENOBUFS"
        };
        assert_eq!(answer, expected, "{way}");
    }
    // What keeps them in has gone with the agent, and nobody else's frames were ever kept.
    let (again, out) = attempts(&net, false)?;
    assert_eq!(again, plain);
    ensure!(out >= LEAVING, "{out} frames");
    Ok(())
}

/// Frames sent by `socket` on `cw0` of a probe: the error of one.
fn send_line(interface: &str) -> Vec<String> {
    let script = format!(
        "import errno, os, socket, time\n\
         packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)\n\
         print('open', flush=True)\n\
         while True:\n\
         \x20   try:\n\
         \x20       packet.sendto(bytes(12) + bytes([0x88, 0xb5]) + bytes(50), ({interface:?}, 0))\n\
         \x20       said = 'sent'\n\
         \x20   except OSError as error:\n\
         \x20       said = errno.errorcode.get(error.errno, str(error.errno))\n\
         \x20   with open('said.new', 'w') as file: file.write(said)\n\
         \x20   os.replace('said.new', 'said')\n\
         \x20   time.sleep(0.01)\n"
    );
    vec![PYTHON.to_owned(), "-c".to_owned(), script]
}

#[test]
fn what_a_killed_agent_put_there_holds_until_its_sockets_are_gone() -> Result<()> {
    let net = Net::new()?;
    let mut running = Exec::new(&net.here, "-i lo -s 60").start(send_line("cw0"))?;
    running.wait_for("a frame that is dropped", || {
        let said = std::fs::read_to_string(running.file("said")).unwrap_or_default();
        ensure!(said != "sent", "a frame was sent");
        Ok((said == "ENOBUFS").then_some(()))
    })?;
    let pids: Vec<u32> = net
        .here
        .processes()?
        .into_iter()
        .filter(|pid| *pid != running.child.id())
        .collect();
    running.kill_agent()?;
    let before = received(&net.there)?;
    // It goes on trying for a while.
    thread::sleep(Duration::from_millis(100));
    // Another agent comes and goes meanwhile.
    Exec::new(&net.here, "-i lo -s 60")
        .start(["true"])?
        .finish()?;
    assert_eq!(std::fs::read_to_string(running.file("said"))?, "ENOBUFS");
    assert_eq!(received(&net.there)?, before);
    running.clear_away(&pids)?;

    ensure!(left_on(&net.here)? > 0, "nothing was left to clear away");
    Exec::new(&net.here, "-i lo -s 60")
        .start(["true"])?
        .finish()?;
    assert_eq!(left_on(&net.here)?, 0);
    Ok(())
}

/// Whether a marked frame is dropped here, by a socket of nobody's.
fn left_on(namespace: &Namespace) -> Result<u32> {
    const SEND: &str = "import socket\n\
        packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)\n\
        packet.setsockopt(socket.SOL_SOCKET, 36, 0x63617077)\n\
        try:\n\
        \x20   packet.sendto(bytes(12) + bytes([0x88, 0xb5]) + bytes(50), ('cw1', 0))\n\
        \x20   print(0)\n\
        except OSError as error:\n\
        \x20   print(error.errno)\n";
    let done = namespace.command(PYTHON).args(["-c", SEND]).output()?;
    Ok(String::from_utf8(done.stdout)?.trim().parse()?)
}

#[test]
fn interface_that_comes_later_is_covered_as_well() -> Result<()> {
    let net = Net::new()?;
    let running = Exec::new(&net.here, "-i lo -s 60").start(send_line("cw2"))?;
    running.wait_for("the socket", || {
        let said = std::fs::read_to_string(running.file("said")).unwrap_or_default();
        Ok((said == "ENODEV").then_some(()))
    })?;
    // Not up yet, as interfaces are when they come.
    net.here.ip("link add cw2 type veth peer name cw3")?;
    thread::sleep(Duration::from_millis(500));
    net.here.ip("link set cw3 up")?;
    net.here.ip("link set cw2 up")?;
    running.wait_for("a frame that is dropped", || {
        let said = std::fs::read_to_string(running.file("said")).unwrap_or_default();
        ensure!(said != "sent", "a frame was sent");
        Ok((said == "ENOBUFS").then_some(()))
    })?;
    Ok(())
}

#[test]
fn doctor_tells_how_frames_are_dropped() -> Result<()> {
    let done = Command::new(capwarden()?)
        .args(["doctor", "--json"])
        .output()?;
    let host: serde_json::Value = serde_json::from_slice(&done.stdout)?;
    let layers = host.get("layers").and_then(serde_json::Value::as_array);
    for name in ["injection drop", "private mounts"] {
        let layer = layers
            .into_iter()
            .flatten()
            .find(|layer| layer.get("name").and_then(serde_json::Value::as_str) == Some(name));
        let status = layer.and_then(|layer| layer.get("status"));
        assert_eq!(
            status.and_then(serde_json::Value::as_str),
            Some("present"),
            "{layer:?}"
        );
    }
    Ok(())
}
