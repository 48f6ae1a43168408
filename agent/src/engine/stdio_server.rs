//! One stdio server and its one client, from the server's start to its end.

use std::{
    io::{self, Read},
    os::{fd::AsFd as _, unix::process::ExitStatusExt as _},
    process::ExitStatus,
    sync::Arc,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{EngineError, Outcome, house};
use crate::{
    audit::visible,
    gate::{Interrupter, Outgoing, PumpEnd, Rooms, Streams, pump},
    kernel::{Broker, Governed, Input, Output},
    principal::Caller,
    session::{EndReason, SessionEnd, Sessions},
};

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
    /// of the server is left. A client that is not `let_in` any more when its connection closes has
    /// not closed it.
    pub(super) async fn run(
        self,
        stop: impl Future<Output = Stop>,
        let_in: impl Fn() -> bool,
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
        let (tell, fate) = watch::channel(None);
        let name = Arc::clone(&caller.server);
        // A task of its own: however much there is to carry, `stop` is heard.
        let mut carrying = JoinSet::new();
        carrying.spawn(pump(streams, gate, caller, ended, fate));
        let gone = async {
            let end = tokio::select! {
                end = carrying.join_next() => end,
                ended = governed.child.wait() => {
                    tell.send_replace(Some(fate_of(&name, ended.ok())));
                    carrying.join_next().await
                }
            };
            end.and_then(Result::ok).unwrap_or(PumpEnd::ServerClosed)
        };
        let mut served = true;
        let (why, reason) = tokio::select! {
            end = gone => match end {
                PumpEnd::ClientClosed if !let_in() => (("the grant has ended", None), EndReason::Revoked),
                PumpEnd::ClientClosed => (("the client closed the connection", None), EndReason::ClientClosed),
                PumpEnd::ServerClosed => (("the server exited", None), EndReason::ServerExit),
                PumpEnd::NeverServed => {
                    served = false;
                    (("the server ended before it had answered anything", None), EndReason::ServerExit)
                }
            },
            why = stop => (why, EndReason::Revoked),
            _ = follower.join_next() => (("interfaces can no longer be followed", None), EndReason::Revoked),
        };
        tracing::debug!(why = why.0, "ending");
        drop(carrying);
        let outcome = match house::clean_up(&sessions, &mut governed.child, reason).await {
            Outcome::Exited(status) if !served => {
                tracing::error!("{}", fate_of(&name, Some(status)));
                Outcome::NeverServed(status)
            }
            outcome => outcome,
        };
        tokio::task::spawn_blocking(move || drop(broker))
            .await
            .map_err(io::Error::other)?;
        Ok((why, outcome))
    }
}

/// What a client is told that waits for an answer of a server which has ended.
fn fate_of(name: &str, status: Option<ExitStatus>) -> String {
    let how = match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => format!(" with exit status {code}"),
        Some((None, Some(signal))) => format!(" by signal {signal}"),
        _ => String::new(),
    };
    format!(
        "The server {} has ended{how}, so this is not answered. What it wrote to standard error says \
         why: that is beside capwarden's own log. If it wrote nothing, start its command by itself.",
        visible(name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_end_is_told_with_its_status() {
        let told = |raw| fate_of("net\u{1b}mcp", Some(ExitStatus::from_raw(raw)));
        assert!(
            told(3 << 8).starts_with("The server net\\u{1b}mcp has ended with exit status 3, so")
        );
        assert!(told(9).contains("has ended by signal 9, so"));
        assert!(fate_of("n", None).contains("The server n has ended, so"));
    }
}
