//! The test's side of `captive`, the governed program that means no good: it connects to a Unix socket, and does as it
//! is told there.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, ErrorKind, Write as _},
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{
            fs::PermissionsExt as _,
            net::{UnixDatagram, UnixListener, UnixStream},
        },
    },
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::Value;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Puts the program into a directory as `captive`, where everybody may start it, and listens beside it at `control`,
/// without waiting.
pub fn place(directory: &Path, program: &str) -> Result<UnixListener> {
    let everybody = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o777));
    let captive = directory.join("captive");
    fs::copy(program, &captive).with_context(|| program.to_owned())?;
    everybody(&captive)?;
    let control = directory.join("control");
    let listener = UnixListener::bind(&control)?;
    everybody(&control)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A message to a keeper of descriptors, and what came with it.
pub fn kept(keeper: &UnixDatagram) -> Result<(String, OwnedFd)> {
    let mut bytes = [0; 4_096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [io::IoSliceMut::new(&mut bytes)];
    let length = recvmsg(keeper, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let words = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default());
    Ok((words.into_owned(), descriptor.context("no descriptor")?))
}

/// One that has connected.
#[derive(Debug)]
pub struct Captive {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Captive {
    /// The next one, if it is there.
    pub fn accept(control: &UnixListener) -> Result<Option<Self>> {
        let stream = match control.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            accepted => accepted?.0,
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let lines = BufReader::new(stream.try_clone()?);
        Ok(Some(Self { stream, lines }))
    }

    /// Has it begin something.
    pub fn tell(&mut self, what: &str) -> Result<()> {
        Ok(writeln!(self.stream, "{what}")?)
    }

    /// What it says next.
    pub fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the captive said {line:?}"))
    }

    /// Has it do something.
    pub fn ask(&mut self, what: &str) -> Result<Value> {
        self.tell(what)?;
        self.answer()
    }

    /// Has it end, if the agent has not seen to that.
    pub fn leave(mut self) {
        let _ = self.tell("exit");
    }
}
