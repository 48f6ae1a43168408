//! Whoever decides, with a stopwatch: how long decisions take and how the calls end is counted.

use std::{sync::Arc, time::Instant};

use tokio::sync::watch;

use super::Judge;
use crate::{
    gate::{CallEnd, Decide, DecidedBy},
    policy::{Baseline, Call, Denial, ProgramNeeds, RuleRef, Said, Verdict},
    principal::Caller,
    telemetry::ServerMetrics,
};

/// Decides as another does. Without metrics, nothing is added to that.
#[derive(Debug)]
pub(super) struct Timed<D> {
    inner: D,
    metrics: Option<Arc<ServerMetrics>>,
}

impl Timed<Arc<Judge>> {
    /// The tools of the judge's policy are told apart in the metrics.
    pub(super) fn new(inner: Arc<Judge>, metrics: Option<Arc<ServerMetrics>>) -> Self {
        if let Some(metrics) = &metrics {
            metrics.name_tools(inner.policy().tool_names());
        }
        Self { inner, metrics }
    }

    /// Who decides.
    pub(super) fn judge(&self) -> Arc<Judge> {
        Arc::clone(&self.inner)
    }

    /// See [`Judge::bounds`].
    pub(super) fn bounds(&self, caller: &Caller) -> (Option<Baseline>, Option<ProgramNeeds>) {
        self.inner.bounds(caller)
    }

    /// See [`Judge::lets_in`].
    pub(super) fn lets_in(&self, caller: &Caller) -> bool {
        self.inner.lets_in(caller)
    }
}

impl<D: Decide> Decide for Timed<D> {
    type Ticket = D::Ticket;

    fn visible(&self, caller: &Caller, tool: &str) -> bool {
        self.inner.visible(caller, tool)
    }

    fn hidden_by(&self, caller: &Caller, tool: &str) -> Option<RuleRef> {
        self.inner.hidden_by(caller, tool)
    }

    fn decided_by(&self, caller: &Caller, ticket: Option<&D::Ticket>) -> Option<DecidedBy> {
        self.inner.decided_by(caller, ticket)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes()
    }

    fn listed(&self, caller: &Caller, tool: &str, definition: &str) -> bool {
        self.inner.listed(caller, tool, definition)
    }

    fn list_ended(&self, caller: &Caller) {
        self.inner.list_ended(caller);
    }

    async fn decide(&self, caller: &Caller, call: &Call) -> (Verdict, D::Ticket) {
        let Some(metrics) = &self.metrics else {
            return self.inner.decide(caller, call).await;
        };
        let begun = Instant::now();
        let decided = self.inner.decide(caller, call).await;
        metrics.decisions().observe(begun.elapsed());
        if let Verdict::Deny(Denial { limit: true, .. }) = &decided.0 {
            metrics.limit_reached();
        }
        decided
    }

    fn asked(&self, state: &str) -> bool {
        self.inner.asked(state)
    }

    async fn answer(
        &self,
        caller: &Caller,
        call: &Call,
        state: &str,
        said: Said,
    ) -> Result<(), Box<Denial>> {
        self.inner.answer(caller, call, state, said).await
    }

    fn settle(&self, ticket: D::Ticket, end: CallEnd) {
        if let Some(metrics) = &self.metrics {
            metrics.ended(end);
        }
        self.inner.settle(ticket, end);
    }
}
