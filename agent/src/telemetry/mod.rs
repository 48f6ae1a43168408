//! Telemetry: what operators see of an agent from outside. Nothing here decides, and nothing here
//! is the record: the audit log is.
//!
//! | module | does |
//! |---|---|
//! | [`Metrics`], [`ServerMetrics`] | count what the gate, the sessions and the record keeper tell, each server by itself |
//! | [`Endpoint`] | serves them over HTTP, on loopback or a Unix socket |
//! | [`CallSpans`], [`SessionSpans`] | follow each call and each session with a span of the log |
//! | [`Journal`] | sends the log to the systemd journal, with its fields |
//! | `otlp` | sends these spans to a collector (feature `otlp`) |
//!
//! No label carries an id, an argument's value or a name that a client chose: tools and rules are
//! told apart only as far as the policy names them, servers by the names that their operator gave
//! them, and only so many of each.
#![forbid(unsafe_code)]

mod endpoint;
mod histogram;
mod journal;
mod metrics;
mod named;
#[cfg(feature = "otlp")]
pub mod otlp;
mod spans;
#[cfg(test)]
mod tests;

pub(crate) use endpoint::is_local;
pub use endpoint::{Endpoint, ServeError, Serving};
pub use histogram::Histogram;
pub use journal::{Journal, Rest};
pub use metrics::{Metrics, ServerMetrics};
pub(crate) use spans::SESSION_TARGET;
pub use spans::{CallSpans, SessionSpans};

use crate::gate::CallVerdict;

/// A verdict in one word, as the audit log has it.
pub(crate) const fn verdict_word(verdict: &CallVerdict) -> &'static str {
    match verdict {
        CallVerdict::Forwarded => "allow",
        CallVerdict::EndsCapture => "ends",
        CallVerdict::Captures { .. } => "capture",
        CallVerdict::Proxies { .. } => "proxy",
        CallVerdict::Programs { .. } => "program",
        CallVerdict::Pending { .. } => "pending",
        CallVerdict::Denied { .. }
        | CallVerdict::NotOpened { .. }
        | CallVerdict::Withdrawn { .. }
        | CallVerdict::Hidden
        | CallVerdict::Refused { .. } => "deny",
    }
}
