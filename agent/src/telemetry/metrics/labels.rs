//! What series are told apart by.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;

/// A server alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Server {
    pub(super) server: Arc<str>,
}

macro_rules! labels {
    ($($(#[$what:meta])* $name:ident { $($label:ident: $kind:ty),+ })+) => {$(
        $(#[$what])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub(super) struct $name {
            pub(super) server: Arc<str>,
            $(pub(super) $label: $kind),+
        }
    )+};
}

labels! {
    /// A call that was decided.
    Call { tool: String, verdict: &'static str }
    /// One that was not let through.
    Denial { cause: &'static str, rule: String }
    /// What became of a request for an approval.
    Approval { through: &'static str, became: &'static str }
    /// How a call ended.
    End { end: &'static str }
    /// Who sent lines that were dropped.
    From { from: &'static str }
    /// Why a session ended.
    Reason { reason: &'static str }
    /// How a filter compares.
    Relation { relation: &'static str }
    /// Which way something passed.
    Direction { direction: &'static str }
}
