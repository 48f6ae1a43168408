//! Whoever decides, with a stopwatch: how long decisions take and how the calls end is counted.

use std::{sync::Arc, time::Instant};

use crate::{
    gate::{CallEnd, Decide},
    policy::{Call, Verdict},
    principal::Caller,
    telemetry::Metrics,
};

/// Decides as another does. Without metrics, nothing is added to that.
#[derive(Debug)]
pub(super) struct Timed<D> {
    pub(super) inner: D,
    pub(super) metrics: Option<Arc<Metrics>>,
}

impl<D: Decide> Decide for Timed<D> {
    type Ticket = D::Ticket;

    fn visible(&self, tool: &str) -> bool {
        self.inner.visible(tool)
    }

    fn advertised(&self, tool: &str, required: &[String]) {
        self.inner.advertised(tool, required);
    }

    async fn decide(&self, caller: &Caller, call: &Call) -> (Verdict, D::Ticket) {
        let Some(metrics) = &self.metrics else {
            return self.inner.decide(caller, call).await;
        };
        let begun = Instant::now();
        let decided = self.inner.decide(caller, call).await;
        metrics.decisions().observe(begun.elapsed());
        decided
    }

    fn settle(&self, ticket: D::Ticket, end: CallEnd) {
        if let Some(metrics) = &self.metrics {
            metrics.ended(end);
        }
        self.inner.settle(ticket, end);
    }
}
