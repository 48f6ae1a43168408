//! One stdio server and its one client, from the server's start to its end.

use std::{
    io::Read, os::unix::process::ExitStatusExt as _, pin::pin, process::ExitStatus, sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    EngineError, Outcome,
    current::Current,
    house,
    restart::{Again, Life, Pace},
};
use crate::{
    audit::visible,
    gate::{Fate, Interrupter, Outgoing, PumpEnd, Rooms, Streams, pump},
    kernel::Output,
    principal::Caller,
    session::{EndReason, SessionEnd, SessionId},
    telemetry::Journal,
};

/// A stdio server that was started, and who calls it.
pub(super) struct Pipe<G, CI, CO> {
    /// The server.
    pub(super) life: Life,
    /// How another one is put in its place.
    pub(super) again: Again,
    /// Its sessions, as the gate knows them.
    pub(super) current: Current,
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

/// How long a client whose connection is ended is given to read why.
const GOODBYE: Duration = Duration::from_secs(1);

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
            mut life,
            again,
            current,
            gate,
            caller,
            client_in,
            client_out,
            ended,
        } = self;
        let mut restarts = life.sessions.restarts();
        let (server_in, server_out) = life.pipes()?;
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
        let (shift, shifts) = mpsc::channel(1);
        let mut shift = Some(shift);
        carrying.spawn(pump(streams, gate, caller, ended, fate, shifts));
        let mut pace = Pace::default();
        let mut stop = pin!(stop);
        let mut exited = false;
        let mut served = true;
        let (why, reason) = loop {
            let mut follower = house::follow_interfaces(&life.sessions);
            let session = tokio::select! {
                end = carrying.join_next() => {
                    let end = end.and_then(Result::ok).unwrap_or(PumpEnd::ServerClosed);
                    served = end != PumpEnd::NeverServed;
                    break why_ended(end, let_in());
                }
                ended = life.governed.wait(), if !exited => {
                    exited = true;
                    tell.send_replace(Some(has_ended(fate_of(&name, ended.ok()))));
                    continue;
                }
                why = &mut stop => break (why, EndReason::Revoked),
                _ = follower.join_next() => {
                    break (("interfaces can no longer be followed", None), EndReason::Revoked);
                }
                session = wanted(&mut restarts), if !exited && shift.is_some() => session,
            };
            let Some(shifts) = &shift else { continue };
            let begun = Instant::now();
            let came = match pace.next(begun) {
                None => Err(Pace::exhausted()),
                Some(pause) => {
                    let words = replaced(&name, session);
                    let replaced = life.replace(&again, &current, shifts, pause, words);
                    tokio::select! {
                        came = replaced => came,
                        end = carrying.join_next() => {
                            let end = end.and_then(Result::ok).unwrap_or(PumpEnd::ServerClosed);
                            break why_ended(end, let_in());
                        }
                        why = &mut stop => break (why, EndReason::Revoked),
                    }
                }
            };
            again.tell(session, begun.elapsed(), &came);
            restarts = life.sessions.restarts();
            if let Err(why) = came {
                // Fail closed: what the session leaves behind in the server is not left there.
                tell.send_replace(Some(has_ended(not_replaced(&name, session, &why))));
                exited = true;
                shift = None;
                life.end(EndReason::ServerExit).await?;
            }
        };
        tracing::debug!(why = why.0, "ending");
        let words = cut_off(&name, why.0);
        tell.send_replace(Some(Fate {
            words,
            at_once: true,
        }));
        // The server's end waits for no client.
        let (ended, _) = tokio::join!(life.end(reason), timeout(GOODBYE, carrying.join_next()),);
        drop(carrying);
        let outcome = match ended? {
            Outcome::Exited(status) if !served => {
                tracing::error!("{}", fate_of(&name, Some(status)));
                Outcome::NeverServed(status)
            }
            outcome => outcome,
        };
        Ok((why, outcome))
    }
}

/// The session at whose end the server is to be restarted, once there is one.
async fn wanted(restarts: &mut watch::Receiver<Option<SessionId>>) -> SessionId {
    let session = match restarts.wait_for(Option::is_some).await {
        Ok(session) => *session,
        Err(_) => None,
    };
    match session {
        Some(session) => session,
        None => std::future::pending().await,
    }
}

/// What it is that has ended everything, in words for the record.
fn why_ended(end: PumpEnd, let_in: bool) -> (Stop, EndReason) {
    let (why, reason) = match end {
        PumpEnd::ClientClosed if !let_in => ("the grant has ended", EndReason::Revoked),
        PumpEnd::ClientClosed => ("the client closed the connection", EndReason::ClientClosed),
        PumpEnd::ServerClosed => ("the server exited", EndReason::ServerExit),
        PumpEnd::NeverServed => (
            "the server ended before it had answered anything",
            EndReason::ServerExit,
        ),
    };
    ((why, None), reason)
}

/// What a client is told that waits for an answer of a server which is restarted.
fn replaced(name: &str, session: SessionId) -> String {
    format!(
        "The server {} is restarted, since the proxy of {session} has ended and the policy says so \
         (`end: restart`); this is not answered. Send it again if it is still wanted.",
        visible(name)
    )
}

/// What a client is told that waits for a server which did not come back.
fn not_replaced(name: &str, session: SessionId, why: &str) -> String {
    format!(
        "The server {} was to be restarted at the end of {session}, but {}, so it has ended and this \
         is not answered. Why is {}.",
        visible(name),
        visible(why),
        Journal::place_of_the_log()
    )
}

/// The server has ended by itself: what it said before is carried still.
const fn has_ended(words: String) -> Fate {
    Fate {
        words,
        at_once: false,
    }
}

/// What a client is told that waits for an answer when its connection is ended.
fn cut_off(name: &str, why: &str) -> String {
    format!(
        "capwarden has ended this connection to the server {}, so this is not answered: {why}.",
        visible(name)
    )
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
         why: that is {}. If it wrote nothing, start its command by itself.",
        visible(name),
        Journal::place_of_the_log()
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
