//! Every metric: what it is called, what tells its series apart, and what it counts. What is
//! registered is registered from here, and a test holds `capwarden-metrics(7)` against it.

use prometheus_client::registry::{self, Registry};

/// What every name begins with.
pub(super) const PREFIX: &str = "capwarden";

/// How the value of a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::telemetry) enum Kind {
    /// Up, from 0 at the agent's start.
    Counter,
    /// Up and down.
    Gauge,
    /// Counts of what was at most so much, their number and their sum.
    Histogram,
    /// 1; its labels are what it tells.
    Info,
}

impl Kind {
    /// What OpenMetrics calls it.
    #[cfg(test)]
    pub(in crate::telemetry) const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// One metric.
#[derive(Debug)]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "what is not registered is in the manual")
)]
pub(in crate::telemetry) struct Described {
    /// Its name, without [`PREFIX`] and without what its kind adds to it.
    pub(in crate::telemetry) name: &'static str,
    /// How it moves.
    pub(in crate::telemetry) kind: Kind,
    /// What its series are told apart by.
    pub(in crate::telemetry) labels: &'static [&'static str],
    /// What one of it is.
    pub(in crate::telemetry) unit: &'static str,
    /// What it counts: a sentence without its full stop.
    pub(in crate::telemetry) help: &'static str,
}

impl Described {
    /// The metric as it is queried: `capwarden_calls_total`.
    #[cfg(test)]
    pub(in crate::telemetry) fn series(&self) -> String {
        let end = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("{PREFIX}_{}{end}", self.name)
    }

    /// The help as it is served by a registry.
    pub(super) fn sentence(&self) -> String {
        format!("{}.", self.help)
    }

    /// Has it served.
    pub(super) fn register(&self, to: &mut Registry, metric: impl registry::Metric) {
        to.register(self.name, self.help, metric);
    }
}

macro_rules! catalogue {
    ($($(#[$what:meta])* $id:ident: $kind:ident $name:literal [$($label:literal),*] $unit:literal $help:literal;)+) => {
        $(pub(super) const $id: Described = Described {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            unit: $unit,
            help: $help,
        };)+
        /// All of them, in the order of the page.
        #[cfg(test)]
        pub(in crate::telemetry) const ALL: &[&Described] = &[$(&$id),+];
    };
}

catalogue! {
    BUILD: Info "build" ["version"] "" "The capwarden that runs";
    CALLS: Counter "calls" ["server", "tool", "verdict"] "calls"
        "Tool calls, by what was decided; the audit log has the same words";
    DENIALS: Counter "denials" ["server", "cause", "rule"] "calls"
        "Tool calls not let through, by cause: policy, with the path of its rule, or hidden, refused (no call that can be decided), not-opened (the host refused its session) or withdrawn, without";
    LIMITS_REACHED: Counter "limits_reached" ["server"] "calls"
        "Tool calls denied because a limit was reached; capwarden_denials_total has its rule";
    LIMITS_UNAVAILABLE: Counter "limits_unavailable" ["server"] "calls"
        "Calls refused because the counters of their limits could not be asked";
    APPROVALS: Counter "approvals" ["server", "through", "became"] "requests"
        "What became of requests for approvals, in the audit log's words, and whether it was the client that answered or an operator";
    CALL_ENDS: Counter "call_ends" ["server", "end"] "calls"
        "How tool calls ended that the policy was asked about";
    CALLS_CANCELLED: Counter "calls_cancelled" ["server"] "calls"
        "Tool calls that the client gave up";
    DROPPED_LINES: Counter "dropped_lines" ["server", "from"] "lines"
        "Lines that were not let through, by sender: client or server";
    DECISION_SECONDS: Histogram "decision_seconds" ["server", "le"] "seconds"
        "How long the decision on a tool call took, limits and approvals included";
    SESSIONS_OPENED: Counter "sessions_opened" ["server"] "sessions" "Sessions opened";
    SESSIONS_ENDED: Counter "sessions_ended" ["server", "reason"] "sessions"
        "Sessions ended, by reason, in the audit log's words";
    SESSIONS_LIVE: Gauge "sessions_live" ["server"] "sessions" "Sessions open now";
    DELIVERED_PACKETS: Counter "delivered_packets" ["server"] "packets"
        "Packets that the guard delivered, in capture sessions that ended";
    DELIVERED_BYTES: Counter "delivered_bytes" ["server"] "bytes"
        "Bytes that the guard delivered, as captured, in sessions that ended";
    SOCKETS_ARMED: Counter "sockets_armed" ["server"] "sockets" "Capture sockets handed over";
    SOCKETS_REFUSED: Counter "sockets_refused" ["server"] "sockets"
        "Capture sockets, and filters on them, refused";
    FILTERS_ATTACHED: Counter "filters_attached" ["server", "relation"] "filters"
        "Capture tools' own filters, by how they compare with what was asked for";
    PROXY_PACKETS: Counter "proxy_packets" ["server"] "packets"
        "Packets that passed proxies, in sessions that ended";
    PROXY_BYTES: Counter "proxy_bytes" ["server", "direction"] "bytes"
        "Bytes that passed proxies, in sessions that ended: in to the server's sockets, out from them";
    PROXY_CONNECTIONS: Counter "proxy_connections" ["server", "direction"] "connections"
        "TCP connections of proxies, in sessions that ended: accepted (in) and made (out)";
    PROGRAM_PACKETS: Counter "program_packets" ["server"] "packets"
        "Packets that passed programs, in sessions that ended";
    PROGRAM_BYTES: Counter "program_bytes" ["server", "direction"] "bytes"
        "Bytes that passed programs, in sessions that ended, by direction";
    PROGRAM_CONNECTIONS: Counter "program_connections" ["server", "direction"] "connections"
        "TCP connections of programs, in sessions that ended, by direction";
    NETWORK_REFUSED: Counter "network_refused" ["server"] "refusals"
        "What governed servers were refused in the network";
    SERVER_RESTARTS: Counter "server_restarts" ["server"] "restarts"
        "Servers restarted at the end of a session";
    FAILED_SERVER_RESTARTS: Counter "failed_server_restarts" ["server"] "restarts"
        "Servers that were to be restarted and have ended instead";
    AUDIT_RECORDS: Counter "audit_records" [] "records" "Records written to the audit log";
    AUDIT_QUEUE_RECORDS: Gauge "audit_queue_records" [] "records"
        "Records that wait to be written to the audit log";
    OTLP_SPANS_DROPPED: Counter "otlp_spans_dropped" [] "spans"
        "With --otlp: spans that could not be sent to the collector";
}

/// All metrics as a table in Markdown, for the manual.
#[cfg(test)]
pub(in crate::telemetry) fn table() -> String {
    let rows = ALL.iter().map(|metric| {
        let labels = metric.labels.iter().filter(|label| **label != "le");
        let labels: Vec<String> = labels.map(|label| format!("`{label}`")).collect();
        let by = match labels.is_empty() {
            true => String::new(),
            false => format!(", by {}", labels.join(", ")),
        };
        let of = match metric.unit {
            "" => String::new(),
            unit => format!(" of {unit}"),
        };
        let (series, kind, help) = (metric.series(), metric.kind.word(), metric.help);
        format!("| `{series}` | {kind}{of}{by}. {help}. |\n")
    });
    format!("| metric | is |\n|---|---|\n{}", rows.collect::<String>())
}
