//! One stdio server and its one client, from the server's start to its end.

use std::{
    io::{self, Read},
    os::fd::AsFd as _,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::{EngineError, Outcome, house};
use crate::{
    gate::{Interrupter, Outgoing, PumpEnd, Rooms, Streams, pump},
    kernel::{Broker, Governed, Input, Output},
    principal::Caller,
    session::{EndReason, SessionEnd, Sessions},
};

/// How long a server that has exited is still read, if a process that it left behind keeps its
/// output open.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A stdio server that was started, and who calls it.
pub(super) struct Pipe<G, CI, CO> {
    pub(super) sessions: Sessions,
    pub(super) governed: Governed,
    pub(super) broker: Broker,
    pub(super) gate: Arc<G>,
    pub(super) caller: Caller,
    /// What the client writes.
    pub(super) client_in: CI,
    /// What the client reads.
    pub(super) client_out: CO,
    /// The sessions that end, for the client to know.
    pub(super) ended: mpsc::Receiver<SessionEnd>,
}

impl Outgoing for Output {
    fn interrupter(&self) -> Interrupter {
        Box::new(Self::interrupter(self))
    }
}

/// Why everything ends, in words for the record; and the signal that told so.
pub(super) type Stop = (&'static str, Option<i32>);

impl<G, CI, CO> Pipe<G, CI, CO>
where
    G: Rooms,
    CI: Read + Send + 'static,
    CO: Outgoing,
{
    /// Carries messages until the server or its client has gone, or `stop` says so. Then nothing
    /// of the server is left.
    pub(super) async fn run(
        self,
        stop: impl Future<Output = Stop>,
    ) -> Result<(Stop, Outcome), EngineError> {
        let Self {
            sessions,
            mut governed,
            broker,
            gate,
            caller,
            client_in,
            client_out,
            ended,
        } = self;
        let mut follower = house::follow_interfaces(&sessions);
        let piped = governed
            .child
            .stdin
            .take()
            .zip(governed.child.stdout.take());
        let (server_in, server_out) =
            piped.ok_or_else(|| io::Error::other("the server has no pipes"))?;
        let server_in = Output::to(server_in.into_owned_fd()?.as_fd())?;
        let server_out = Input::from(server_out.into_owned_fd()?);
        let streams = Streams {
            client_in,
            client_out,
            server_in,
            server_out,
        };
        // A task of its own: however much there is to carry, `stop` is heard.
        let mut carrying = JoinSet::new();
        carrying.spawn(pump(streams, gate, caller, ended));
        let gone = async {
            let end = tokio::select! {
                end = carrying.join_next() => end,
                _ = governed.child.wait() => {
                    timeout(LAST_WORDS, carrying.join_next()).await.ok().flatten()
                }
            };
            end.and_then(Result::ok).unwrap_or(PumpEnd::ServerClosed)
        };
        let (why, reason) = tokio::select! {
            end = gone => match end {
                PumpEnd::ClientClosed => (("the client closed the connection", None), EndReason::ClientClosed),
                PumpEnd::ServerClosed => (("the server exited", None), EndReason::ServerExit),
            },
            why = stop => (why, EndReason::Revoked),
            _ = follower.join_next() => (("interfaces can no longer be followed", None), EndReason::Revoked),
        };
        tracing::debug!(why = why.0, "ending");
        drop(carrying);
        let outcome = house::clean_up(&sessions, &mut governed.child, reason).await;
        tokio::task::spawn_blocking(move || drop(broker))
            .await
            .map_err(io::Error::other)?;
        Ok((why, outcome))
    }
}
