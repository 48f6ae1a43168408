//! What the daemon does until it ends: it serves whoever comes, and once another version has taken its place, whoever is
//! there.
//!
//! ```text
//!            SIGHUP, and another program is in place of its own
//!   serves ─────────────────────────────────────────────────▶ serves, and a successor is being started
//!     ▲                                                          │              │ it can serve
//!     └──────────────────── it ends, or is not ready in time ────┘              ▼
//!                                                              the successor serves; the service manager is told
//!                                                                               │
//!   ends ◀── its last client has gone, and its last session has ended ── serves who is there
//! ```

#[cfg(test)]
mod tests;

use std::{borrow::Cow, io, os::fd::OwnedFd, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    House,
    door::Entrance,
    follow::{Follow, News},
    hand_over::{HandOver, Next, SERVING, announce, heard},
    heartbeat,
    take_over::METRICS,
};
use crate::{
    engine::{EngineError, Outcome, house::StopSignals},
    kernel::{Keeper, Manager, Successor},
    telemetry::Serving,
    words::counted,
};

/// How often it is looked whether the service manager is to be told of another status.
const STATUS: Duration = Duration::from_secs(5);
/// How often it is looked whether somebody is left whom this process serves, once it has handed over.
const LEFT: Duration = Duration::from_millis(500);
/// How long it serves those then who have no session open, over HTTP those who wait for an answer, and answers who was
/// governed by an agent before it.
pub(super) const IDLE: Duration = Duration::from_mins(10);

/// The signals that the daemon hears.
pub(super) struct Signals {
    pub(super) stop: StopSignals,
    hang_up: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            stop: StopSignals::but_hang_up()?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// Why the daemon ends.
pub(super) enum End {
    /// It was told to, by this signal.
    Signal(i32),
    /// What happens cannot be recorded.
    Broken,
    /// A server could not be served from the start.
    NotBegun(EngineError),
    /// It was started to take over, and the predecessor did this instead of handing over.
    NotFollowed(&'static str),
    /// This process has taken its place, and nobody is left.
    Replaced(u32),
}

impl End {
    pub(super) fn in_words(&self) -> Cow<'static, str> {
        match self {
            Self::Signal(_) => "a signal".into(),
            Self::Broken => "the audit log is not whole".into(),
            Self::NotBegun(error) => error.to_string().into(),
            Self::NotFollowed(what) => format!("the agent that was to be followed {what}").into(),
            Self::Replaced(by) => format!("replaced by process {by}, and nobody is left").into(),
        }
    }

    /// A service that was told to stop has done so.
    pub(super) fn status(&self) -> Option<i32> {
        matches!(self, Self::Signal(_) | Self::Replaced(_)).then_some(0)
    }

    pub(super) fn outcome(self) -> Result<Outcome, EngineError> {
        match self {
            Self::Signal(signal) => Ok(Outcome::Stopped(signal)),
            Self::Broken => Ok(Outcome::Killed),
            Self::NotBegun(error) => Err(error),
            Self::NotFollowed(what) => Err(EngineError::NotFollowed(what)),
            Self::Replaced(_) => Ok(Outcome::Replaced),
        }
    }
}

/// What the daemon has while it takes clients.
pub(super) struct Life {
    manager: Option<Arc<Manager>>,
    /// Tells when the manager knows this process as the main one; none once it does. Until then it is not told anything.
    known: Option<oneshot::Receiver<()>>,
    entrance: Option<Entrance>,
    serving: Option<Serving>,
    hand_over: HandOver,
    /// Why the last successor did not follow.
    not_replaced: Option<String>,
    beating: JoinSet<()>,
    told: String,
}

impl Life {
    pub(super) fn new(
        manager: Option<Arc<Manager>>,
        entrance: Entrance,
        serving: Option<Serving>,
    ) -> Self {
        Self {
            manager,
            known: None,
            entrance: Some(entrance),
            serving,
            hand_over: HandOver::new(),
            not_replaced: None,
            beating: JoinSet::new(),
            told: String::new(),
        }
    }

    /// Serves, hands over if that is due, and serves who is there then.
    pub(super) async fn lead(
        &mut self,
        house: &House,
        follow: &mut Follow,
        signals: &mut Signals,
        known: Option<oneshot::Receiver<()>>,
    ) -> End {
        self.known = known;
        if self.known.is_none() {
            self.settle(house);
        }
        let (successor, to) = match self.serve(house, follow, signals).await {
            Ok(next) => next,
            Err(end) => return end,
        };
        self.leave(house, &to.version, to.process);
        drain(house, follow, signals, successor, IDLE).await
    }

    /// It is known who serves: this process.
    fn settle(&mut self, house: &House) {
        self.known = None;
        // Until now a failure was not to take from a predecessor where its clients come.
        if let Some(entrance) = &self.entrance {
            entrance.own();
        }
        if let Some(serving) = &self.serving {
            serving.own();
        }
        self.beating = heartbeat::start(self.manager.clone());
        self.ready(house);
    }

    /// Serves until another process does, or until the end.
    async fn serve(
        &mut self,
        house: &House,
        follow: &mut Follow,
        signals: &mut Signals,
    ) -> Result<Next, End> {
        loop {
            let (replacing, loading) = (self.hand_over.is_under_way(), follow.is_loading());
            let settled = !replacing && !loading && self.known.is_none();
            tokio::select! {
                signal = signals.stop.next() => return Err(End::Signal(signal)),
                () = house.record.broken() => return Err(End::Broken),
                (stream, peer) = accept(self.entrance.as_ref()) => house.door.meet(stream, peer),
                _ = signals.hang_up.recv(), if settled => {
                    self.not_replaced = None;
                    self.tell(Manager::reloading);
                    if self.hand_over.is_due() {
                        self.status("Handing over to another version");
                        match self.sockets(house) {
                            Ok(sockets) => {
                                self.hand_over.begin(sockets);
                                continue;
                            }
                            Err(error) => self.failed(error.to_string()),
                        }
                    }
                    follow.begin(house, false);
                }
                news = follow.news(), if !replacing => match news {
                    News::Changed => {
                        self.tell(Manager::reloading);
                        follow.begin(house, true);
                    }
                    News::Loaded(loaded) => {
                        follow.apply(loaded, house);
                        self.ready(house);
                    }
                },
                tried = self.hand_over.outcome(), if replacing => {
                    let tried = match tried {
                        Ok(next) => self.commit(house, next).await,
                        Err(why) => Err(why),
                    };
                    match tried {
                        Ok(next) => return Ok(next),
                        Err(why) => self.failed(why),
                    }
                    // That is what a reload is for, too.
                    follow.begin(house, false);
                }
                () = known(self.known.as_mut()) => self.settle(house),
                () = sleep(STATUS), if settled => {}
            }
            // Nobody waits for these.
            house.freed();
            if settled && !self.hand_over.is_under_way() {
                let status = self.in_words(house);
                if status != self.told {
                    self.status(&status);
                }
            }
        }
    }

    /// Has a successor serve that can. Until the service manager is told that it does, it can still be given up.
    async fn commit(&self, house: &House, next: Next) -> Result<Next, String> {
        let (mut successor, to) = next;
        let served = timeout(SERVING, successor.serve()).await;
        let served = served.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        served.map_err(|error| format!("it does not serve when it is to: {error}"))?;
        if let Some(manager) = &self.manager
            && let Err(error) = announce(manager, &to, &house.status()).await
        {
            Keeper::resume();
            return Err(format!("the service manager cannot be told of it: {error}"));
        }
        // A session that begins here would not be known there.
        house.leave().await;
        if let Some(manager) = &self.manager {
            heard(manager).await;
        }
        if successor.known().is_err() {
            tracing::error!("process {} has ended as soon as it served", to.process);
        }
        match house.record.observer(super::CALLED) {
            Ok(observer) => {
                let sessions = house.events.roll().live().len();
                observer.handed_over(&to, house.clients(), sessions);
            }
            Err(error) => tracing::error!(%error, "the hand-over is not recorded"),
        }
        Ok((successor, to))
    }

    /// Takes nobody any more; what others have a copy of stays where it is.
    fn leave(&mut self, house: &House, version: &str, process: u32) {
        house.door.shut();
        self.manager = None;
        self.beating.abort_all();
        if let Some(entrance) = self.entrance.take() {
            entrance.leave();
        }
        if let Some(serving) = self.serving.take() {
            serving.leave();
        }
        house.retire();
        let clients = counted(u64::try_from(house.clients()).unwrap_or(u64::MAX), "client");
        tracing::info!(
            "version {version} in process {process} takes clients from now on; captures of {clients} stay with the \
             earlier version in process {} until they leave",
            std::process::id()
        );
    }

    /// Copies of all listeners, for a successor.
    fn sockets(&self, house: &House) -> io::Result<Vec<(String, OwnedFd)>> {
        let mut sockets = Vec::new();
        if let Some(entrance) = &self.entrance {
            sockets.push(entrance.copy()?);
        }
        if let Some(serving) = &self.serving {
            sockets.push((METRICS.to_owned(), serving.copy()?));
        }
        sockets.extend(house.listeners.copies()?);
        Ok(sockets)
    }

    fn failed(&mut self, why: String) {
        tracing::error!(
            "the other version does not take over, and this one goes on as before: {why}"
        );
        self.not_replaced = Some(why);
    }

    /// The daemon is about to end.
    pub(super) fn stop(&mut self) {
        self.tell(Manager::stopping);
        self.entrance = None;
        self.beating.abort_all();
    }

    fn ready(&mut self, house: &House) {
        let status = self.in_words(house);
        self.tell(|manager| manager.ready(&status));
        self.told = status;
    }

    fn status(&mut self, status: &str) {
        let manager = self.manager.as_ref().filter(|_| self.known.is_none());
        if manager.is_none_or(|manager| manager.status(status)) {
            status.clone_into(&mut self.told);
        }
    }

    fn in_words(&self, house: &House) -> String {
        let mut words = house.status();
        if let Some(why) = &self.not_replaced {
            words += &format!("; not replaced: {why}");
        }
        words
    }

    fn tell(&self, words: impl FnOnce(&Manager)) {
        if let Some(manager) = &self.manager
            && self.known.is_none()
        {
            words(manager);
        }
    }
}

/// Waits until that is told, or nobody is left to tell.
async fn known(told: Option<&mut oneshot::Receiver<()>>) {
    match told {
        // Whoever has gone was the main process until now.
        Some(told) => drop(told.await),
        None => std::future::pending().await,
    }
}

async fn accept(entrance: Option<&Entrance>) -> (tokio::net::UnixStream, crate::kernel::Peer) {
    match entrance {
        Some(entrance) => entrance.accept().await,
        None => std::future::pending().await,
    }
}

/// Serves who is there, until nobody is left; those who have no session open, for so long, `idle`.
async fn drain(
    house: &House,
    follow: &mut Follow,
    signals: &mut Signals,
    mut successor: Successor,
    idle: Duration,
) -> End {
    let begun = Instant::now();
    let mut followed = true;
    loop {
        let late = begun.elapsed() >= idle;
        if late {
            house.door.end_idle(
                "another version of the agent serves, and no session was open: connect again",
            );
        }
        for server in house.freed() {
            // One that has gone needs nothing any more.
            let _ = successor.free(&server);
        }
        if house.is_empty() && (late || house.answers_nobody()) {
            return End::Replaced(successor.process());
        }
        tokio::select! {
            signal = signals.stop.next() => return End::Signal(signal),
            () = house.record.broken() => return End::Broken,
            () = successor.ended(), if followed => {
                followed = false;
                tracing::error!(
                    "process {}, which had taken over, has ended: unless another has followed it, nobody takes clients; \
                     see `systemctl status capwarden`, and `systemctl restart capwarden`",
                    successor.process()
                );
            }
            _ = signals.hang_up.recv() => follow.narrow(house).await,
            _ = follow.news() => follow.narrow(house).await,
            () = sleep(LEFT) => {}
        }
    }
}
