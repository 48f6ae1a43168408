//! Restarts of a stdio server: how it is started again, and how often that may be.

use std::{collections::VecDeque, ffi::OsString, io, os::fd::AsFd as _, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use super::{EngineError, current::Current, house};
use crate::{
    gate::Shift,
    kernel::{Broker, Credentials, Governed, Input, Output},
    policy::{Baseline, ProgramNeeds},
    session::{Attribution, EndReason, Events, Restart, SessionId, Sessions},
};

/// Restarts in [`WINDOW`]; the server is ended for good rather than restarted once more.
const RESTARTS: usize = 10;
const WINDOW: Duration = Duration::from_secs(600);
/// Before the second restart in [`WINDOW`]; each time after that, twice as long.
const PAUSE: Duration = Duration::from_millis(100);
/// At most so long.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a new server may take to answer the handshake.
const COMES_UP: Duration = Duration::from_secs(30);

/// Where the shifts of a stdio server go.
pub(super) type Shifts = mpsc::Sender<Shift<Output, Input>>;

/// How a server is started again.
pub(super) struct Again {
    pub(super) command: Vec<OsString>,
    pub(super) credentials: Credentials,
    /// Where its sessions' events go.
    pub(super) events: Events,
    /// What the policy holds it to by then.
    pub(super) needs: Box<dyn Fn() -> (Option<Baseline>, Option<ProgramNeeds>) + Send + Sync>,
}

/// A server that runs, and what bounds it.
pub(super) struct Life {
    pub(super) sessions: Sessions,
    pub(super) governed: Governed,
    /// None once it has been given up.
    pub(super) broker: Option<Broker>,
}

impl Life {
    /// The pipes of a server that has just been started.
    pub(super) fn pipes(&mut self) -> io::Result<(Output, Input)> {
        let pipes = self.governed.take_pipes();
        let pipes = pipes.ok_or_else(|| io::Error::other("the server has no pipes"))?;
        Ok((Output::to(pipes.input.as_fd())?, Input::from(pipes.output)))
    }

    /// Ends all of it. Whoever waits for the processes' sockets does so no longer.
    pub(super) async fn end(&mut self, reason: EndReason) -> Result<super::Outcome, EngineError> {
        let outcome = house::clean_up(&self.sessions, &mut self.governed, reason).await;
        let broker = self.broker.take();
        let dropped = tokio::task::spawn_blocking(move || drop(broker));
        dropped.await.map_err(io::Error::other)?;
        Ok(outcome)
    }

    /// Ends the server and puts another one in its place, with sessions of its own. If this is
    /// dropped, or fails, what is there is in `self`, and is to be ended. The error is a sentence's
    /// second half.
    pub(super) async fn replace(
        &mut self,
        again: &Again,
        current: &Current,
        shifts: &Shifts,
        pause: Duration,
        words: String,
    ) -> Result<(), String> {
        let gone = |_| "its client has gone".to_owned();
        let (done, away) = oneshot::channel();
        let shift = Shift::Away { words, done };
        shifts.send(shift).await.map_err(|_| gone(()))?;
        away.await.map_err(|_| gone(()))?;
        let ended = self.end(EndReason::ServerRestart).await;
        ended.map_err(|error| format!("the old server could not be ended: {error}"))?;
        sleep(pause).await;
        *self = again.start().await.map_err(|error| error.to_string())?;
        let (server_in, server_out) = self.pipes().map_err(|error| error.to_string())?;
        current.replace(self.sessions.clone());
        let (up, came) = oneshot::channel();
        let shift = Shift::Here {
            server_in,
            server_out,
            up,
        };
        shifts.send(shift).await.map_err(|_| gone(()))?;
        match timeout(COMES_UP, came).await {
            Ok(Ok(came)) => came,
            Ok(Err(_)) => Err("its client has gone".to_owned()),
            Err(_) => Err(format!(
                "the new server has not answered the client's handshake within {} s",
                COMES_UP.as_secs()
            )),
        }
    }
}

impl Again {
    async fn start(&self) -> Result<Life, EngineError> {
        let (events, user) = (self.events.clone(), self.credentials.clone());
        // It takes the verifier's time.
        let made = tokio::task::spawn_blocking(move || {
            house::sessions(Attribution::ByCall, &user, events)
        });
        let (sessions, _) = made.await.map_err(io::Error::other)??;
        let (baseline, programs) = (self.needs)();
        let (command, user) = (&self.command, &self.credentials);
        let started = house::start_server(&sessions, command, user, true, baseline, programs);
        let (governed, broker) = started.await?;
        Ok(Life {
            sessions,
            governed,
            broker: Some(broker),
        })
    }

    /// Tells what came of it.
    pub(super) fn tell(&self, session: SessionId, took: Duration, came: &Result<(), String>) {
        let took_ms = took.as_millis();
        match came {
            Ok(()) => tracing::info!(%session, took_ms, "the server was restarted"),
            Err(why) => tracing::error!(%session, why, "the server was not restarted, and ends"),
        }
        self.events.restarted(Restart {
            session,
            took,
            failed: came.clone().err(),
        });
    }
}

/// How often a server may be restarted.
#[derive(Debug, Default)]
pub(super) struct Pace(VecDeque<Instant>);

impl Pace {
    /// How long to wait before the restart that is due now; none if it is one too many.
    pub(super) fn next(&mut self, now: Instant) -> Option<Duration> {
        self.0.retain(|then| now.duration_since(*then) < WINDOW);
        let before = u32::try_from(self.0.len()).ok()?;
        if self.0.len() >= RESTARTS {
            return None;
        }
        self.0.push_back(now);
        let doublings = before.checked_sub(1);
        Some(doublings.map_or(Duration::ZERO, |doublings| {
            let pause = PAUSE.saturating_mul(2_u32.saturating_pow(doublings));
            pause.min(LONGEST_PAUSE)
        }))
    }

    /// Why there is no restart, after [`Self::next`] has said so.
    pub(super) fn exhausted() -> String {
        format!(
            "it has been restarted {RESTARTS} times in {} minutes already",
            WINDOW.as_secs() / 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_spaced_and_bounded() {
        let mut pace = Pace::default();
        let start = Instant::now();
        let pauses: Vec<_> = (0..RESTARTS).map(|_| pace.next(start)).collect();
        assert_eq!(pauses[0], Some(Duration::ZERO));
        assert_eq!(pauses[1], Some(PAUSE));
        assert_eq!(pauses[3], Some(PAUSE * 4));
        assert_eq!(pauses[RESTARTS - 1], Some(LONGEST_PAUSE));
        assert_eq!(pace.next(start), None);
        assert_eq!(pace.next(start + WINDOW / 2), None);
        assert_eq!(pace.next(start + WINDOW), Some(Duration::ZERO));
    }
}
