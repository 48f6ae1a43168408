//! An agent before its record is begun: from here on what happens is kept, counted, and shown to operators.

use std::{ffi::OsString, sync::Arc};

use tokio::sync::{mpsc, watch};

use super::{PolicySource, RecordKeeper, Told};
use crate::{
    audit::{AgentStarted, AuditError, Log, Record, Text, TextList},
    engine::{Degraded, EngineError, house},
    kernel::Deputy,
    operate::Desk,
    session::{Events, Happened, SessionEnd},
    telemetry::{Endpoint, Metrics, Serving},
};

/// What a record is begun with.
pub(in crate::engine) struct Opening<T = Happened> {
    pub(super) log: Log,
    pub(super) happened: T,
    pub(super) overflow: watch::Receiver<bool>,
    pub(super) desk: Desk,
    /// What is counted, where somebody wants that.
    pub(in crate::engine) metrics: Option<Arc<Metrics>>,
}

impl Opening {
    /// Opens one for a server, with metrics where they are to be served. The record waits for all who have the events.
    pub(in crate::engine) async fn of(
        server: &str,
        log: Log,
        endpoint: Option<Endpoint>,
    ) -> Result<(Self, Events, Option<Serving>), EngineError> {
        let (mut opening, events) = Self::uncounted(server, log);
        let (metrics, serving) = house::metrics(endpoint, &events).await?;
        opening.metrics = metrics;
        Ok((opening, events, serving))
    }

    /// The same, for who says later where what is counted goes.
    fn uncounted(server: &str, log: Log) -> (Self, Events) {
        let (events, happened) = Events::channel(server);
        let opening = Self {
            overflow: events.overflow(),
            desk: Desk::open(server, &log, events.roll()),
            log,
            happened,
            metrics: None,
        };
        (opening, events)
    }

    /// The same for an agent of any number of servers.
    pub(in crate::engine) fn of_many(called: &str, log: Log) -> (Self, Events) {
        let (opening, events) = Self::uncounted(called, log);
        opening.desk.serves_many();
        (opening, events)
    }

    /// The record of a server that is nobody's: nobody asks for its sessions, counts them, or hears of their ends.
    #[cfg(test)]
    pub(in crate::engine) fn unattended(log: Log) -> (RecordKeeper, Events) {
        let (events, happened) = Events::channel("server");
        let opening = Self {
            overflow: events.overflow(),
            desk: Desk::unattended(&log),
            log,
            happened,
            metrics: None,
        };
        let started = Started {
            command: &[],
            policy: None,
            user: 0,
            reach: &[],
            degraded: &[],
        };
        let (ends, _) = mpsc::channel(1);
        (opening.begin(&started, ends).unwrap(), events)
    }

    /// No call asks for its sessions: this principal did, by this command.
    pub(in crate::engine) fn asked_by(self, principal: &str, command: &str) -> Self {
        Self {
            desk: self.desk.asked_by(principal, command),
            ..self
        }
    }

    /// What happens is heard by somebody else first, who passes it on; with what else comes of that.
    pub(in crate::engine) fn heard_by<T, U>(
        self,
        listen: impl FnOnce(Happened) -> (T, U),
    ) -> (Opening<T>, U) {
        let (happened, heard) = listen(self.happened);
        let opening = Opening {
            log: self.log,
            happened,
            overflow: self.overflow,
            desk: self.desk,
            metrics: self.metrics,
        };
        (opening, heard)
    }
}

impl<T: Told + Send + 'static> Opening<T> {
    /// Records the start. Each session's end goes on to `ends` once it is on the disk.
    pub(in crate::engine) fn begin(
        self,
        started: &Started<'_>,
        ends: mpsc::Sender<SessionEnd>,
    ) -> Result<RecordKeeper, AuditError> {
        RecordKeeper::start(self, started, ends)
    }
}

/// What is recorded before anything is started.
pub(in crate::engine) struct Started<'a> {
    pub(in crate::engine) command: &'a [OsString],
    pub(in crate::engine) policy: Option<&'a PolicySource>,
    pub(in crate::engine) user: u32,
    /// The daemons that start programs for others, and that the governed processes may reach.
    pub(in crate::engine) reach: &'a [Deputy],
    pub(in crate::engine) degraded: &'a [Degraded],
}

impl Started<'_> {
    pub(super) fn command_record(&self) -> TextList {
        let words = self.command.iter();
        words.map(|word| word.to_string_lossy()).collect()
    }

    pub(super) fn reach_record(&self) -> Option<TextList> {
        let names = || self.reach.iter().map(|deputy| deputy.name()).collect();
        (!self.reach.is_empty()).then(names)
    }

    pub(super) fn record(&self, server: &str) -> Record {
        Record::AgentStarted(AgentStarted {
            version: Text::new(env!("CARGO_PKG_VERSION")),
            server: Some(Text::new(server)),
            command: self.command_record(),
            policy: self.policy.map(PolicySource::file_record),
            user: Text::new(self.user.to_string()),
            reach: self.reach_record(),
            degraded: self.degraded.iter().map(|lost| lost.describe()).collect(),
        })
    }
}
