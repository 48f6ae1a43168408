//! `capwarden connect NAME`: from an MCP client to a server of the daemon's.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    thread,
};

use clap::Args;

use crate::{
    config::{USUAL_GROUP, USUAL_SOCKET},
    engine::hello::{self, Hello},
    gate::{self, Bounds},
    kernel::{Input, Output},
};

use super::{
    exit::Exit,
    failure::{Account, Failure},
};

/// Bytes that are carried at once.
const CHUNK: usize = 64 << 10;

/// Connect an MCP client to a server that `capwarden agent` serves
///
/// Put this in an MCP client's configuration as the command of an MCP server; `capwarden client-config NAME`
/// prints it for the usual clients. It carries standard input and output to the agent and back, as it is.
/// Needs no privilege: the agent asks the kernel who connects, and its configuration says who may.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  capwarden connect sharkmcp")]
pub(super) struct Connect {
    /// The server, as the agent's configuration calls it
    #[arg(value_name = "NAME")]
    server: String,
    #[command(flatten)]
    socket: AgentSocket,
}

/// Where the daemon listens.
#[derive(Debug, Args)]
pub(super) struct AgentSocket {
    /// The agent's socket
    #[arg(long = "socket", value_name = "PATH", default_value = USUAL_SOCKET)]
    pub(super) path: PathBuf,
}

impl Connect {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        match connect(&self.socket.path, &self.server) {
            Ok(stream) => carry(&stream).map(|()| Exit::Ok).map_err(|error| {
                Failure::Internal(Account::new("the connection broke").because(error))
            }),
            Err(told) => {
                let (failure, words) = *told;
                apologise(&words);
                Err(failure)
            }
        }
    }
}

/// The server's pipe; or a failure for who runs this, and what the client's user is told.
fn connect(socket: &Path, server: &str) -> Result<UnixStream, Box<(Failure, String)>> {
    let hello = Hello {
        connect: Some(server.to_owned()),
        servers: false,
    };
    let (stream, answer) = hello::ask(socket, &hello).map_err(|error| {
        let failure = unreachable(socket, &error);
        let words = format!(
            "capwarden's agent at {} cannot be asked for the server {server}: {error}.",
            socket.display()
        );
        Box::new((failure, words))
    })?;
    if answer.connected {
        return Ok(stream);
    }
    let why = answer
        .error
        .unwrap_or_else(|| "The agent did not connect, and did not say why.".to_owned());
    let mut account = Account::new(why.trim_end_matches('.'));
    let mut words = why.clone();
    if let Some(instead) = answer.instead {
        account = account.hint(&instead);
        words = format!("{why} {instead}");
    }
    Err(Box::new((Failure::NotThere(account), words)))
}

/// What is told of an agent that cannot be asked.
pub(super) fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    let account = Account::new("cannot ask the agent at").on(socket.display());
    let account = account.because(error);
    let hint = match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            "it does not run, or listens elsewhere (--socket): systemctl status capwarden"
                .to_owned()
        }
        ErrorKind::PermissionDenied => format!(
            "only the members of a group may, usually {USUAL_GROUP}: `ls -l {}` says which; sudo usermod -aG GROUP USER, and log in again",
            socket.display()
        ),
        _ => "see its log: journalctl -u capwarden".to_owned(),
    };
    Failure::NotThere(account.hint(hint))
}

/// Tells an MCP client why it gets no server, in answer to what it asks first: it may show nobody what is
/// on standard error.
fn apologise(words: &str) {
    // At a terminal nobody speaks JSON-RPC.
    if io::IsTerminal::is_terminal(&io::stdin()) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let (Ok(runtime), Ok(from), Ok(to)) = (runtime, Input::standard(), Output::standard()) else {
        return;
    };
    let limit = Bounds::default().client_line;
    runtime.block_on(gate::apologise(from, to, limit, words));
    // A thread may wait for standard input still.
    runtime.shutdown_background();
}

/// Carries bytes both ways until the server's side has closed.
fn carry(stream: &UnixStream) -> io::Result<()> {
    let mut to_server = stream.try_clone()?;
    let mut from_client = Input::standard()?;
    // It ends with this process: a client that has closed nothing is not waited for.
    thread::Builder::new()
        .name("to the server".to_owned())
        .spawn(move || {
            // A server that does not read any more has closed its other side too, or will.
            let _ = copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Write);
        })?;
    let mut from_server = stream.try_clone()?;
    let mut to_client = Output::to(io::stdout().as_fd())?;
    match copy(&mut from_server, &mut to_client) {
        // The client reads no more: that is its way to go.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Each piece at once, as it comes.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => return to.flush(),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(chunk.get(..read).unwrap_or_default())?;
        to.flush()?;
    }
}
