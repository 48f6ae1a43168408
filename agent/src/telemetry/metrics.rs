//! The counters and gauges, and which event moves which.
//!
//! | metric | labels | counts |
//! |---|---|---|
//! | `capwarden_build_info` | `version` | 1 |
//! | `capwarden_calls_total` | `tool`, `verdict` | calls decided; the audit log has the same words |
//! | `capwarden_denials_total` | `cause`, `rule` | calls that were not let through, and what refused them |
//! | `capwarden_limits_reached_total` | | denials because a limit was reached; `capwarden_denials_total` has its rule |
//! | `capwarden_limits_unavailable_total` | | calls refused because the counters of their limits could not be asked |
//! | `capwarden_approvals_total` | `through`, `became` | what became of requests for approvals, in the audit log's words, and whether it was the `client` that answered or an `operator` |
//! | `capwarden_call_ends_total` | `end` | how calls ended that the policy was asked about |
//! | `capwarden_calls_cancelled_total` | | calls that the client gave up |
//! | `capwarden_dropped_lines_total` | `from` | lines that were not let through |
//! | `capwarden_decision_seconds` | `le` | how long a decision took, limits and approvals included |
//! | `capwarden_sessions_opened_total` | | sessions opened |
//! | `capwarden_sessions_ended_total` | `reason` | sessions ended |
//! | `capwarden_server_restarts_total` | | servers restarted at the end of a session |
//! | `capwarden_failed_server_restarts_total` | | servers that were to be restarted and have ended instead |
//! | `capwarden_sessions_live` | | sessions open now |
//! | `capwarden_delivered_packets_total` | | packets that the guard delivered, of ended sessions |
//! | `capwarden_delivered_bytes_total` | | bytes of them, as captured |
//! | `capwarden_sockets_armed_total` | | capture sockets handed over |
//! | `capwarden_sockets_refused_total` | | capture sockets, and filters on them, refused |
//! | `capwarden_proxy_packets_total` | | packets that passed proxies, of ended sessions |
//! | `capwarden_proxy_bytes_total` | `direction` | bytes of them: `in` to the server's sockets, `out` from them |
//! | `capwarden_proxy_connections_total` | `direction` | TCP connections accepted (`in`) and made (`out`) by proxies |
//! | `capwarden_program_packets_total`, `…_bytes_total`, `…_connections_total` | as above | the same of programs |
//! | `capwarden_network_refused_total` | | what governed servers were refused in the network |
//! | `capwarden_filters_attached_total` | `relation` | capture tools' own filters, compared with what was asked |
//! | `capwarden_audit_records_total` | | lines written to the audit log |
//! | `capwarden_audit_queue_records` | | records that wait for the disk |
//! | `capwarden_otlp_spans_dropped_total` | | with `--otlp`: spans that could not be sent to the collector |
//!
//! `cause` is `policy`, with the path of the rule in `rule`, or `hidden`, `refused` (no call that
//! can be decided), `not-opened` (the host refused its session) or `withdrawn`, without.

use std::{
    fmt::{self, Debug, Formatter},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        info::Info,
    },
    registry::{Metric, Registry},
};

use super::{
    Histogram,
    named::{Named, OTHER},
};
use crate::{
    approval,
    gate::{CallEnd, CallEvent, CallVerdict, GateEvent, Side},
    session::{EndReason, ProxyCounts, Relation, SessionEvent},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    tool: String,
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DenialLabels {
    cause: &'static str,
    rule: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApprovalLabels {
    through: &'static str,
    became: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    end: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SideLabels {
    from: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RelationLabels {
    relation: &'static str,
}

/// The counters of one tool.
#[derive(Clone, Debug)]
struct ToolCounters {
    allow: Counter,
    ends: Counter,
    capture: Counter,
    proxy: Counter,
    program: Counter,
    pending: Counter,
    deny: Counter,
}

impl ToolCounters {
    fn new(calls: &Family<CallLabels, Counter>, tool: &str) -> Self {
        let of = |verdict| {
            calls.get_or_create_owned(&CallLabels {
                tool: tool.to_owned(),
                verdict,
            })
        };
        Self {
            allow: of("allow"),
            ends: of("ends"),
            capture: of("capture"),
            proxy: of("proxy"),
            program: of("program"),
            pending: of("pending"),
            deny: of("deny"),
        }
    }

    const fn of(&self, verdict: &CallVerdict) -> &Counter {
        match verdict {
            CallVerdict::Forwarded => &self.allow,
            CallVerdict::EndsCapture => &self.ends,
            CallVerdict::Captures { .. } => &self.capture,
            CallVerdict::Proxies { .. } => &self.proxy,
            CallVerdict::Programs { .. } => &self.program,
            CallVerdict::Pending { .. } => &self.pending,
            CallVerdict::Denied { .. }
            | CallVerdict::NotOpened { .. }
            | CallVerdict::Withdrawn { .. }
            | CallVerdict::Hidden
            | CallVerdict::Refused { .. } => &self.deny,
        }
    }
}

/// What an agent counts. All methods may be called from any thread; none waits, and what is told
/// of a call costs tens of nanoseconds.
pub struct Metrics {
    registry: Registry,
    calls: Family<CallLabels, Counter>,
    tools: Named<ToolCounters>,
    denials: Family<DenialLabels, Counter>,
    rules: Named<Counter>,
    hidden: Counter,
    refused: Counter,
    not_opened: Counter,
    withdrawn: Counter,
    limits_reached: Counter,
    approvals: Family<ApprovalLabels, Counter>,
    ends: [Counter; CALL_ENDS.len()],
    cancelled: Counter,
    dropped_client: Counter,
    dropped_server: Counter,
    decisions: Histogram,
    opened: Counter,
    ended: Family<ReasonLabels, Counter>,
    restarts: Counter,
    failed_restarts: Counter,
    live: Gauge,
    packets: Counter,
    bytes: Counter,
    proxies: Passed,
    programs: Passed,
    armed: Counter,
    attached: Family<RelationLabels, Counter>,
    recorded: Counter,
    elsewhere: Arc<Elsewhere>,
}

/// What passed proxies, or programs.
#[derive(Clone, Debug, Default)]
struct Passed {
    packets: Counter,
    bytes: Family<DirectionLabels, Counter>,
    connections: Family<DirectionLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    direction: &'static str,
}

impl Passed {
    fn register(&self, one: &str, many: &str, registry: &mut Registry) {
        registry.register(
            format!("{one}_packets"),
            format!("Packets that passed {many}, in sessions that ended"),
            self.packets.clone(),
        );
        registry.register(
            format!("{one}_bytes"),
            format!("Bytes that passed {many}, in sessions that ended, by direction"),
            self.bytes.clone(),
        );
        registry.register(
            format!("{one}_connections"),
            format!("TCP connections of {many}, in sessions that ended, by direction"),
            self.connections.clone(),
        );
    }

    fn add(&self, packets: u64, counts: &ProxyCounts) {
        self.packets.inc_by(packets);
        let add = |family: &Family<DirectionLabels, Counter>, directions| {
            for (direction, count) in directions {
                let labels = DirectionLabels { direction };
                family.get_or_create_owned(&labels).inc_by(count);
            }
        };
        let bytes = [("in", counts.bytes_in), ("out", counts.bytes_out)];
        add(&self.bytes, bytes);
        add(
            &self.connections,
            [("in", counts.accepted), ("out", counts.made)],
        );
    }
}

/// Every end of a call, with its word.
const CALL_ENDS: [(CallEnd, &str); 7] = [
    (CallEnd::Answered, "answered"),
    (CallEnd::ToolFailed, "tool-failed"),
    (CallEnd::RpcError, "rpc-error"),
    (CallEnd::InputRequired, "input-required"),
    (CallEnd::NotForwarded, "not-forwarded"),
    (CallEnd::Cancelled, "cancelled"),
    (CallEnd::Lost, "lost"),
];

/// Every end of a session, so that each is there from the start.
const REASONS: [EndReason; 13] = [
    EndReason::PacketCap,
    EndReason::ByteCap,
    EndReason::Deadline,
    EndReason::StopCall,
    EndReason::Stopped,
    EndReason::Closed,
    EndReason::Unused,
    EndReason::CallFailed,
    EndReason::ClientClosed,
    EndReason::ServerExit,
    EndReason::ServerRestart,
    EndReason::Revoked,
    EndReason::Violation,
];

impl Debug for Metrics {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero.
    #[must_use]
    pub fn new() -> Self {
        let calls = Family::<CallLabels, Counter>::default();
        let denials = Family::<DenialLabels, Counter>::default();
        let denied = |cause, rule: &str| {
            denials.get_or_create_owned(&DenialLabels {
                cause,
                rule: rule.to_owned(),
            })
        };
        let ends = Family::<EndLabels, Counter>::default();
        let dropped = Family::<SideLabels, Counter>::default();
        let dropped_from = |from| dropped.get_or_create_owned(&SideLabels { from });
        let metrics = Self {
            registry: Registry::with_prefix("capwarden"),
            tools: Named::new(ToolCounters::new(&calls, OTHER)),
            rules: Named::new(denied("policy", OTHER)),
            hidden: denied("hidden", ""),
            refused: denied("refused", ""),
            not_opened: denied("not-opened", ""),
            withdrawn: denied("withdrawn", ""),
            ends: CALL_ENDS.map(|(_, end)| ends.get_or_create_owned(&EndLabels { end })),
            dropped_client: dropped_from("client"),
            dropped_server: dropped_from("server"),
            calls,
            denials,
            limits_reached: Counter::default(),
            approvals: Family::default(),
            cancelled: Counter::default(),
            decisions: Histogram::default(),
            opened: Counter::default(),
            ended: Family::default(),
            restarts: Counter::default(),
            failed_restarts: Counter::default(),
            live: Gauge::default(),
            packets: Counter::default(),
            bytes: Counter::default(),
            proxies: Passed::default(),
            programs: Passed::default(),
            armed: Counter::default(),
            attached: Family::default(),
            recorded: Counter::default(),
            elsewhere: Arc::default(),
        };
        for reason in REASONS {
            let reason = reason_word(reason);
            metrics.ended.get_or_create_owned(&ReasonLabels { reason });
        }
        metrics.registered(&ends, &dropped)
    }

    fn registered(
        mut self,
        ends: &Family<EndLabels, Counter>,
        dropped: &Family<SideLabels, Counter>,
    ) -> Self {
        fn add<M: Metric + Clone>(to: &mut Registry, name: &str, help: &str, metric: &M) {
            to.register(name, help, metric.clone());
        }
        let to = &mut self.registry;
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        to.register("build", "The capwarden that runs", build);
        add(to, "calls", "Tool calls, by what was decided", &self.calls);
        add(
            to,
            "denials",
            "Tool calls not let through, by cause",
            &self.denials,
        );
        add(
            to,
            "limits_reached",
            "Tool calls denied because a limit was reached",
            &self.limits_reached,
        );
        add(
            to,
            "approvals",
            "What became of requests for approvals",
            &self.approvals,
        );
        add(to, "call_ends", "How decided tool calls ended", ends);
        add(
            to,
            "calls_cancelled",
            "Tool calls that the client gave up",
            &self.cancelled,
        );
        add(
            to,
            "dropped_lines",
            "Lines not let through, by sender",
            dropped,
        );
        add(
            to,
            "decision_seconds",
            "How long the decision on a tool call took",
            &self.decisions,
        );
        add(
            to,
            "sessions_opened",
            "Capture sessions opened",
            &self.opened,
        );
        add(
            to,
            "sessions_ended",
            "Capture sessions ended, by reason",
            &self.ended,
        );
        add(to, "sessions_live", "Capture sessions open now", &self.live);
        add(
            to,
            "delivered_packets",
            "Packets that the guard delivered, in sessions that ended",
            &self.packets,
        );
        add(
            to,
            "delivered_bytes",
            "Bytes that the guard delivered, in sessions that ended",
            &self.bytes,
        );
        add(
            to,
            "server_restarts",
            "Servers restarted at the end of a session",
            &self.restarts,
        );
        add(
            to,
            "failed_server_restarts",
            "Servers that were to be restarted and have ended instead",
            &self.failed_restarts,
        );
        self.proxies.register("proxy", "proxies", to);
        self.programs.register("program", "programs", to);
        add(
            to,
            "sockets_armed",
            "Capture sockets handed over",
            &self.armed,
        );
        add(
            to,
            "filters_attached",
            "Capture tools' own filters, by how they compare with what was asked for",
            &self.attached,
        );
        add(
            to,
            "audit_records",
            "Records written to the audit log",
            &self.recorded,
        );
        to.register_collector(Box::new(Arc::clone(&self.elsewhere)));
        self
    }

    /// The policy names these tools: from now on each has a label of its own, as long as there is
    /// room. To be called again when another policy takes over; nothing is forgotten.
    pub fn name_tools(&self, tools: impl IntoIterator<Item = impl AsRef<str>>) {
        for tool in tools {
            let tool = tool.as_ref();
            self.tools
                .with_or(tool, || ToolCounters::new(&self.calls, tool), |_| ());
        }
    }

    /// Something happened at the gate.
    pub fn gate(&self, event: &GateEvent) {
        match event {
            GateEvent::Call(call) => self.call(call),
            GateEvent::Answer(_) => {} // `ended` knows more
            GateEvent::Cancelled { .. } => {
                self.cancelled.inc();
            }
            // Told by how the call ended, and by what was dropped.
            GateEvent::Unanswered { .. } | GateEvent::Late { .. } => {}
            GateEvent::Dropped { from, lines, .. } => {
                let counter = match from {
                    Side::Client => &self.dropped_client,
                    Side::Server => &self.dropped_server,
                };
                counter.inc_by(*lines);
            }
        }
    }

    fn call(&self, call: &CallEvent) {
        self.tools.with(&call.tool, |tool| {
            tool.of(&call.verdict).inc();
        });
        let counter = match &call.verdict {
            CallVerdict::Forwarded
            | CallVerdict::EndsCapture
            | CallVerdict::Captures { .. }
            | CallVerdict::Proxies { .. }
            | CallVerdict::Programs { .. }
            | CallVerdict::Pending { .. } => return,
            CallVerdict::Denied { .. } => {
                let rule = call.rule.as_ref().map_or("", |rule| rule.path.as_str());
                let make = || {
                    self.denials.get_or_create_owned(&DenialLabels {
                        cause: "policy",
                        rule: rule.to_owned(),
                    })
                };
                self.rules.with_or(rule, make, |rule| {
                    rule.inc();
                });
                return;
            }
            CallVerdict::Hidden => &self.hidden,
            CallVerdict::Refused { .. } => &self.refused,
            CallVerdict::NotOpened { .. } => &self.not_opened,
            CallVerdict::Withdrawn { .. } => &self.withdrawn,
        };
        counter.inc();
    }

    /// A call was denied because a limit was reached.
    pub fn limit_reached(&self) {
        self.limits_reached.inc();
    }

    /// Something became of a request for an approval.
    pub fn approval(&self, event: &approval::Event) {
        let became = event.what.word();
        let through = event.what.through();
        let labels = ApprovalLabels { through, became };
        self.approvals.get_or_create_owned(&labels).inc();
    }

    /// How long decisions take.
    #[must_use]
    pub const fn decisions(&self) -> &Histogram {
        &self.decisions
    }

    /// A call ended that the policy was asked about.
    pub fn ended(&self, end: CallEnd) {
        let of = CALL_ENDS.iter().position(|(one, _)| *one == end);
        if let Some(counter) = of.and_then(|at| self.ends.get(at)) {
            counter.inc();
        }
    }

    /// Something happened to a session.
    pub fn session(&self, event: &SessionEvent) {
        match event {
            SessionEvent::Opened { .. }
            | SessionEvent::ProxyOpened { .. }
            | SessionEvent::ProgramOpened { .. } => {
                self.opened.inc();
                self.live.inc();
            }
            SessionEvent::Armed { .. } => {
                self.armed.inc();
            }
            SessionEvent::FilterAttached { relation, .. } => {
                let relation = relation_word(relation);
                let labels = RelationLabels { relation };
                self.attached.get_or_create_owned(&labels).inc();
            }
            SessionEvent::Bounded { .. } => {}
            SessionEvent::Restarted(restart) => {
                let came = match restart.failed {
                    None => &self.restarts,
                    Some(_) => &self.failed_restarts,
                };
                came.inc();
            }
            // Thinned out: see `refusals_are`.
            SessionEvent::Refused { .. } | SessionEvent::NetworkRefused(_) => {}
            SessionEvent::Ended(end) => {
                let reason = reason_word(end.reason);
                let labels = ReasonLabels { reason };
                self.ended.get_or_create_owned(&labels).inc();
                self.live.dec();
                match (&end.proxy, &end.program) {
                    (None, None) => {
                        self.packets.inc_by(end.packets);
                        self.bytes.inc_by(end.bytes);
                    }
                    (Some(counts), _) => self.proxies.add(end.packets, counts),
                    (None, Some(program)) => self.programs.add(end.packets, &program.passed),
                }
            }
        }
    }

    /// Where sockets refused are counted, and what was refused in the network: not all of it is
    /// told of.
    pub fn refusals_are(&self, sockets: Arc<AtomicU64>, network: Arc<AtomicU64>) {
        let _ = self.elsewhere.refusals.set(sockets);
        let _ = self.elsewhere.network.set(network);
    }

    /// Where calls are counted whose limits nobody could tell.
    pub fn unavailable_limits_are(&self, count: Arc<AtomicU64>) {
        let _ = self.elsewhere.unavailable.set(count);
    }

    /// Where spans are counted that could not be sent to a collector.
    pub fn dropped_spans_are(&self, count: Arc<AtomicU64>) {
        let _ = self.elsewhere.spans.set(count);
    }

    /// How to find out how many records wait for the disk.
    pub fn queue_is(&self, length: impl Fn() -> usize + Send + Sync + 'static) {
        let _ = self.elsewhere.queue.set(Box::new(length));
    }

    /// A record was written to the audit log.
    pub fn recorded(&self) {
        self.recorded.inc();
    }

    /// All of it in the OpenMetrics text format, 1.0.
    ///
    /// # Errors
    ///
    /// Never, as long as text can be made longer.
    pub fn exposition(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// What others count, read when it is asked for.
#[derive(Default)]
struct Elsewhere {
    refusals: OnceLock<Arc<AtomicU64>>,
    unavailable: OnceLock<Arc<AtomicU64>>,
    network: OnceLock<Arc<AtomicU64>>,
    spans: OnceLock<Arc<AtomicU64>>,
    queue: OnceLock<Box<dyn Fn() -> usize + Send + Sync>>,
}

impl Debug for Elsewhere {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elsewhere").finish_non_exhaustive()
    }
}

impl Collector for Elsewhere {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let refusals = self.refusals.get();
        let refusals = refusals.map_or(0, |count| count.load(Ordering::Relaxed));
        let refusals = ConstCounter::new(refusals);
        refusals.encode(encoder.encode_descriptor(
            "sockets_refused",
            "Capture sockets, and filters on them, refused",
            None,
            refusals.metric_type(),
        )?)?;
        let unavailable = self.unavailable.get();
        let unavailable = unavailable.map_or(0, |count| count.load(Ordering::Relaxed));
        let unavailable = ConstCounter::new(unavailable);
        unavailable.encode(encoder.encode_descriptor(
            "limits_unavailable",
            "Calls refused because the counters of their limits could not be asked",
            None,
            unavailable.metric_type(),
        )?)?;
        let network = self.network.get();
        let network = network.map_or(0, |count| count.load(Ordering::Relaxed));
        let network = ConstCounter::new(network);
        network.encode(encoder.encode_descriptor(
            "network_refused",
            "What governed servers were refused in the network",
            None,
            network.metric_type(),
        )?)?;
        if let Some(spans) = self.spans.get() {
            let spans = ConstCounter::new(spans.load(Ordering::Relaxed));
            spans.encode(encoder.encode_descriptor(
                "otlp_spans_dropped",
                "Spans that could not be sent to the collector",
                None,
                spans.metric_type(),
            )?)?;
        }
        let queue = self.queue.get().map_or(0, |length| length());
        let queue = ConstGauge::new(i64::try_from(queue).unwrap_or(i64::MAX));
        queue.encode(encoder.encode_descriptor(
            "audit_queue_records",
            "Records that wait to be written to the audit log",
            None,
            queue.metric_type(),
        )?)
    }
}

/// The reason in one word, as the audit log has it.
pub(super) const fn reason_word(reason: EndReason) -> &'static str {
    match reason {
        EndReason::PacketCap => "packet-cap",
        EndReason::ByteCap => "byte-cap",
        EndReason::ProcessCap => "process-cap",
        EndReason::MemoryCap => "memory-cap",
        EndReason::Deadline => "deadline",
        EndReason::StopCall => "stop-call",
        EndReason::Stopped => "stopped",
        EndReason::Closed => "closed",
        EndReason::Unused => "unused",
        EndReason::CallFailed => "call-failed",
        EndReason::ClientClosed => "client-closed",
        EndReason::ServerExit => "server-exit",
        EndReason::ServerRestart => "server-restart",
        EndReason::Revoked => "revoked",
        EndReason::Violation => "violation",
    }
}

/// How a filter compares, in one word, as the audit log has it.
const fn relation_word(relation: &Relation) -> &'static str {
    match relation {
        Relation::Same => "same",
        Relation::Narrower { .. } => "narrower",
        Relation::Wider { .. } => "wider",
        Relation::Different { .. } => "different",
        Relation::Unknown { .. } => "unknown",
    }
}
