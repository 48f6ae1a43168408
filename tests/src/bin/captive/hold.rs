//! Holds capture sockets, and says what came of trying to loosen them.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{self, Command},
    thread,
};

use anyhow::{Result, anyhow};
use serde_json::json;

use crate::sys;

/// Threads that open sockets at the same time, and sockets of each.
const THREADS: usize = 2;
const EACH: usize = 2;

pub(crate) fn hold(control: &Path) -> Result<()> {
    let mut control = UnixStream::connect(control)?;
    let threads: Vec<_> = (0..THREADS).map(|_| thread::spawn(open)).collect();
    let (mut sockets, mut refused) = (Vec::new(), Vec::new());
    for thread in threads {
        let outcomes = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
        for outcome in outcomes {
            match outcome {
                Ok(socket) => sockets.push(socket),
                Err(error) => refused.push(sys::name(&error)),
            }
        }
    }
    let ready = json!({ "sockets": sockets.len(), "refused": refused });
    writeln!(control, "{ready}")?;
    obey(control, sockets)
}

/// Starts the others, and does as it is told.
pub(crate) fn wait(control: &Path, count: u32) -> Result<()> {
    if let Some(others) = count.checked_sub(1).filter(|others| *others > 0) {
        let mut command = Command::new(env::current_exe()?);
        command
            .arg("wait")
            .arg(control)
            .arg(others.to_string())
            .spawn()?;
    }
    let stream = UnixStream::connect(control)?;
    say_and_obey(stream, &json!({ "process": process::id() }))
}

/// Says something, and does as it is told, with no socket yet.
pub(crate) fn say_and_obey(mut control: UnixStream, what: &serde_json::Value) -> Result<()> {
    writeln!(control, "{what}")?;
    obey(control, Vec::new())
}

fn obey(mut control: UnixStream, mut sockets: Vec<OwnedFd>) -> Result<()> {
    for line in BufReader::new(control.try_clone()?).lines() {
        let answer = match line?.split_once(' ') {
            Some(("count", mark)) => count(&sockets, mark.as_bytes()),
            Some(("loosen", _)) => loosen(&sockets),
            Some(("flood", _)) => loop {
                if let Ok(socket) = sys::packet_socket(sys::SOCK_RAW, sys::ALL) {
                    sockets.push(socket);
                }
            },
            Some(("open", _)) => match sys::packet_socket(sys::SOCK_RAW, sys::ALL) {
                Ok(socket) => {
                    sockets.push(socket);
                    json!("ok")
                }
                Err(error) => json!(sys::name(&error)),
            },
            _ => break,
        };
        writeln!(control, "{answer}")?;
    }
    Ok(())
}

/// Raw and cooked in turn, on all interfaces, each with a filter of its own that takes everything.
fn open() -> Vec<io::Result<OwnedFd>> {
    let kinds = [sys::SOCK_RAW, sys::SOCK_DGRAM].into_iter().cycle();
    let open = |kind| {
        let socket = sys::packet_socket(kind, sys::ALL)?;
        let _ = sys::attach(&socket);
        Ok(socket)
    };
    kinds.take(EACH).map(open).collect()
}

/// What each attempt to get rid of the guard said, of every socket.
fn loosen(sockets: &[OwnedFd]) -> serde_json::Value {
    let said = |done: io::Result<()>| done.map_or_else(|error| sys::name(&error), |()| "ok".into());
    sockets
        .iter()
        .map(|socket| {
            json!({
                "lock": said(sys::set(socket, sys::SO_LOCK_FILTER, 0)),
                "attach": said(sys::attach(socket)),
                "attach_bpf": said(sys::set(socket, sys::SO_ATTACH_BPF, -1)),
                "detach": said(sys::set(socket, sys::SO_DETACH_FILTER, 0)),
            })
        })
        .collect()
}

/// Takes what the sockets have heard: how many packets have the mark, and how many do not.
fn count(sockets: &[OwnedFd], mark: &[u8]) -> serde_json::Value {
    let (mut marked, mut others) = (0, 0);
    let mut packet = vec![0; 65_536];
    for socket in sockets {
        while let Ok(length) = rustix::io::read(socket, &mut packet[..]) {
            let heard = packet.get(..length).unwrap_or_default();
            if heard.windows(mark.len()).any(|part| part == mark) {
                marked += 1;
            } else {
                others += 1;
            }
        }
    }
    json!({ "marked": marked, "others": others })
}
