//! Counters that agents on several hosts share, in Redis or Valkey.
//!
//! - **In one step.** What a call reserves and gives back is one run of a script
//!   (`script.lua`), by the server's clock: all of it or nothing, whoever else asks.
//! - **The same arithmetic** as in the store, told by two clocks: the server's is the wall clock, so hosts
//!   whose clocks differ agree on when a minute begins; should it be set back, a counter's own time goes on at half the speed
//!   of the asking host's boot clock, as in `clock.rs`.
//! - **Nothing is left behind.** A counter expires when nothing in it counts any more.
//! - **Fails closed.** Whatever is not answered in [`LIMIT`] is refused, and counts as used. While the
//!   server cannot be reached, calls are refused at once, and the thread in `client.rs` tries to reach it.
//!
//! It needs Redis 5 or later, or Valkey. All keys hash to one slot, so a cluster's node for
//! `capwarden:{limits}:` can be named; redirections are not followed.
//!
//! | it forgets | when |
//! |---|---|
//! | what was counted since it last wrote to its disk | it is killed: with `appendonly yes`, a second at most |
//! | what its replica had not been told | another takes its place |
//! | anything | its memory is full, unless its `maxmemory-policy` is `noeviction` |

mod address;
mod ask;
mod client;
mod greet;
mod resp;
mod wire;

use std::{
    fs, io,
    sync::mpsc::{RecvTimeoutError, sync_channel},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

pub use address::{Address, Password};

use self::{
    ask::Question,
    client::{Answer, Client},
};
pub(super) use self::{
    ask::{Reserved, count, reserved},
    resp::Reply,
};
use super::{book::Charge, clock::Reading};
use crate::{policy::LimitUse, store::Key};

/// How long a call waits for its counters at most. Tests share a busy host with each other, and are
/// not about time.
pub const LIMIT: Duration = Duration::from_millis(if cfg!(test) { 2_500 } else { 250 });
/// How many questions may wait at once.
const MOST_WAITING: usize = 256;

/// A server that keeps counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it is.
    pub address: Address,
    /// What it asks for, if anything.
    pub password: Option<Password>,
}

/// The counters cannot be asked. Whether the server did what it was asked is unknown, but for
/// `TooMany`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// There is no server, or it does not answer, or cannot be used.
    #[error("the counters cannot be reached: {0}")]
    Unreachable(String),
    /// The answer did not come in time.
    #[error("the counters cannot be reached: no answer within {} ms", LIMIT.as_millis())]
    Slow,
    /// Too many ask.
    #[error("the counters cannot be reached: {MOST_WAITING} calls wait for them already")]
    TooMany,
    /// The server refused, or said something else than it should.
    #[error("the counters cannot be used: {0}")]
    Answer(String),
    /// The thread that asks is gone.
    #[error("the counters cannot be reached: nobody is there to ask")]
    Closed,
}

/// What is known of a server that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// `Redis 7.0.15`.
    pub version: String,
    /// What could make it forget what was counted, each with what to type.
    pub warnings: Vec<String>,
}

impl Server {
    /// Asks whether counters can be kept there.
    ///
    /// # Errors
    ///
    /// They cannot.
    pub fn look(&self) -> Result<Looked, RemoteError> {
        let until = Instant::now() + LIMIT;
        let greeted = greet::greet(self, until).map_err(RemoteError::Unreachable)?;
        Ok(Looked {
            version: greeted.version,
            warnings: greeted.warnings,
        })
    }
}

/// The counters of a server.
#[derive(Debug)]
pub(super) struct Remote {
    client: Client,
    /// Tests tell the time; else the server does.
    told: bool,
}

/// Where an answer goes.
type Tell = Box<dyn FnOnce(Answer) + Send>;

impl Remote {
    pub(super) fn start(server: Server, told: bool) -> io::Result<Self> {
        Ok(Self {
            client: Client::start(server)?,
            told,
        })
    }

    fn wall(&self, reading: Reading) -> Option<u64> {
        self.told.then_some(reading.wall)
    }

    /// Has all of these uses reserved, or none, and these charges given back with them. What comes
    /// back is read by [`reserved`].
    pub(super) fn reserve(
        &self,
        uses: &[(Key, &LimitUse)],
        instead_of: &[Charge],
        reading: Reading,
        tell: Tell,
    ) {
        let question = Question::reserve(uses, instead_of, self.wall(reading), reading);
        self.client.ask(question, tell);
    }

    /// Has charges given back. What cannot be stays used.
    pub(super) fn give_back(&self, charges: &[Charge], reading: Reading) {
        let question = Question::reserve(&[], charges, self.wall(reading), reading);
        self.client.ask(question, |answer| {
            if let Err(error) = answer.and_then(|reply| reserved(&reply, 0)) {
                tracing::warn!(%error, "a use of a limit could not be given back, and stays counted");
            }
        });
    }

    /// Has a counter read. What comes back is read by [`count`].
    pub(super) fn read(&self, key: &Key, reading: Reading, tell: Tell) {
        let question = Question::read(key, self.wall(reading), reading);
        self.client.ask(question, tell);
    }
}

/// Waits for an answer on this thread.
pub(super) fn now(ask: impl FnOnce(Tell)) -> Answer {
    let (told, answer) = sync_channel(1);
    ask(Box::new(move |reply| {
        let _ = told.send(reply);
    }));
    match answer.recv_timeout(LIMIT) {
        Ok(reply) => reply,
        Err(RecvTimeoutError::Timeout) => Err(RemoteError::Slow),
        Err(RecvTimeoutError::Disconnected) => Err(RemoteError::Closed),
    }
}

/// Waits for an answer, and lets others work meanwhile.
pub(super) async fn soon(ask: impl FnOnce(Tell)) -> Answer {
    let (told, answer) = oneshot::channel();
    ask(Box::new(move |reply| {
        let _ = told.send(reply);
    }));
    match tokio::time::timeout(LIMIT, answer).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(_)) => Err(RemoteError::Closed),
        Err(_) => Err(RemoteError::Slow),
    }
}

/// What names this host to itself: agents with the same file are taken for agents of one host,
/// and count their users together.
const MACHINE: &str = "/etc/machine-id";
/// What to do where nothing names it: images of containers have none.
const NAME_IT: &str = "type: systemd-machine-id-setup, or in a container: tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id";

/// This host, told apart from others that use the same server.
pub(super) fn host() -> io::Result<String> {
    let text = fs::read_to_string(MACHINE).map_err(|error| {
        let why = format!("cannot read {MACHINE}: {error}; {NAME_IT}");
        io::Error::new(error.kind(), why)
    })?;
    match text.trim() {
        "" | "uninitialized" => Err(io::Error::other(format!(
            "{MACHINE} does not name this host; {NAME_IT}"
        ))),
        id => Ok(id.to_owned()),
    }
}
