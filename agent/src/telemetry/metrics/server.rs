//! What is counted of one server.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize},
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{
    catalogue, labels,
    tally::Tally,
    words::{CALL_ENDS, REASONS, reason_word, relation_word},
};
use crate::{
    approval,
    gate::{CallEnd, CallEvent, CallVerdict, GateEvent, Side},
    session::{ProxyCounts, SessionEvent},
    telemetry::{
        Histogram,
        named::{Named, OTHER},
    },
};

type Of<L> = Family<L, Counter>;

/// The series of all servers.
#[derive(Debug, Default)]
pub(super) struct Families {
    calls: Of<labels::Call>,
    denials: Of<labels::Denial>,
    limits_reached: Of<labels::Server>,
    approvals: Of<labels::Approval>,
    ends: Of<labels::End>,
    cancelled: Of<labels::Server>,
    dropped: Of<labels::From>,
    decisions: Family<labels::Server, Histogram>,
    opened: Of<labels::Server>,
    ended: Of<labels::Reason>,
    live: Family<labels::Server, Gauge>,
    packets: Of<labels::Server>,
    bytes: Of<labels::Server>,
    armed: Of<labels::Server>,
    attached: Of<labels::Relation>,
    proxies: Passed,
    programs: Passed,
    restarts: Of<labels::Server>,
    failed_restarts: Of<labels::Server>,
    /// Tools, and rules, that are told apart, of all servers together.
    tools: Arc<AtomicUsize>,
    rules: Arc<AtomicUsize>,
}

/// What passed proxies, or programs.
#[derive(Debug, Default)]
struct Passed {
    packets: Of<labels::Server>,
    bytes: Of<labels::Direction>,
    connections: Of<labels::Direction>,
}

impl Families {
    pub(super) fn register(&self, to: &mut Registry) {
        catalogue::CALLS.register(to, self.calls.clone());
        catalogue::DENIALS.register(to, self.denials.clone());
        catalogue::LIMITS_REACHED.register(to, self.limits_reached.clone());
        catalogue::APPROVALS.register(to, self.approvals.clone());
        catalogue::CALL_ENDS.register(to, self.ends.clone());
        catalogue::CALLS_CANCELLED.register(to, self.cancelled.clone());
        catalogue::DROPPED_LINES.register(to, self.dropped.clone());
        catalogue::DECISION_SECONDS.register(to, self.decisions.clone());
        catalogue::SESSIONS_OPENED.register(to, self.opened.clone());
        catalogue::SESSIONS_ENDED.register(to, self.ended.clone());
        catalogue::SESSIONS_LIVE.register(to, self.live.clone());
        catalogue::DELIVERED_PACKETS.register(to, self.packets.clone());
        catalogue::DELIVERED_BYTES.register(to, self.bytes.clone());
        catalogue::SOCKETS_ARMED.register(to, self.armed.clone());
        catalogue::FILTERS_ATTACHED.register(to, self.attached.clone());
        catalogue::PROXY_PACKETS.register(to, self.proxies.packets.clone());
        catalogue::PROXY_BYTES.register(to, self.proxies.bytes.clone());
        catalogue::PROXY_CONNECTIONS.register(to, self.proxies.connections.clone());
        catalogue::PROGRAM_PACKETS.register(to, self.programs.packets.clone());
        catalogue::PROGRAM_BYTES.register(to, self.programs.bytes.clone());
        catalogue::PROGRAM_CONNECTIONS.register(to, self.programs.connections.clone());
        catalogue::SERVER_RESTARTS.register(to, self.restarts.clone());
        catalogue::FAILED_SERVER_RESTARTS.register(to, self.failed_restarts.clone());
    }

    /// The series of a server, all of them at zero.
    pub(super) fn of(&self, server: &str) -> ServerMetrics {
        let server: Arc<str> = server.into();
        let alone = labels::Server {
            server: Arc::clone(&server),
        };
        let denied = |cause, rule: &str| self.denied(&server, cause, rule);
        let end = |end| {
            let server = Arc::clone(&server);
            self.ends.get_or_create_owned(&labels::End { server, end })
        };
        let dropped = |from| {
            let server = Arc::clone(&server);
            let labels = labels::From { server, from };
            self.dropped.get_or_create_owned(&labels)
        };
        let ended = |reason| {
            let (server, reason) = (Arc::clone(&server), reason_word(reason));
            let labels = labels::Reason { server, reason };
            (reason, self.ended.get_or_create_owned(&labels))
        };
        ServerMetrics {
            tools: Named::new(ToolCounters::new(&self.calls, &server, OTHER), &self.tools),
            rules: Named::new(denied("policy", OTHER), &self.rules),
            hidden: denied("hidden", ""),
            refused: denied("refused", ""),
            not_opened: denied("not-opened", ""),
            withdrawn: denied("withdrawn", ""),
            limits_reached: self.limits_reached.get_or_create_owned(&alone),
            ends: CALL_ENDS.map(|(_, word)| end(word)),
            cancelled: self.cancelled.get_or_create_owned(&alone),
            dropped_client: dropped("client"),
            dropped_server: dropped("server"),
            decisions: self.decisions.get_or_create_owned(&alone),
            opened: self.opened.get_or_create_owned(&alone),
            ended: REASONS.map(ended),
            live: self.live.get_or_create_owned(&alone),
            packets: self.packets.get_or_create_owned(&alone),
            bytes: self.bytes.get_or_create_owned(&alone),
            armed: self.armed.get_or_create_owned(&alone),
            proxies: self.proxies.of(&server),
            programs: self.programs.of(&server),
            restarts: self.restarts.get_or_create_owned(&alone),
            failed_restarts: self.failed_restarts.get_or_create_owned(&alone),
            calls: self.calls.clone(),
            denials: self.denials.clone(),
            approvals: self.approvals.clone(),
            attached: self.attached.clone(),
            sockets_refused: Tally::default(),
            network_refused: Tally::default(),
            unavailable: Tally::default(),
            server,
        }
    }

    fn denied(&self, server: &Arc<str>, cause: &'static str, rule: &str) -> Counter {
        self.denials.get_or_create_owned(&labels::Denial {
            server: Arc::clone(server),
            cause,
            rule: rule.to_owned(),
        })
    }
}

/// What is counted of one server. All methods may be called from any thread; none waits, and what
/// is told of a call costs tens of nanoseconds.
#[derive(Debug)]
pub struct ServerMetrics {
    server: Arc<str>,
    calls: Of<labels::Call>,
    tools: Named<ToolCounters>,
    denials: Of<labels::Denial>,
    rules: Named<Counter>,
    hidden: Counter,
    refused: Counter,
    not_opened: Counter,
    withdrawn: Counter,
    limits_reached: Counter,
    approvals: Of<labels::Approval>,
    ends: [Counter; CALL_ENDS.len()],
    cancelled: Counter,
    dropped_client: Counter,
    dropped_server: Counter,
    decisions: Histogram,
    opened: Counter,
    ended: [(&'static str, Counter); REASONS.len()],
    live: Gauge,
    packets: Counter,
    bytes: Counter,
    armed: Counter,
    attached: Of<labels::Relation>,
    proxies: PassedCounters,
    programs: PassedCounters,
    restarts: Counter,
    failed_restarts: Counter,
    sockets_refused: Tally,
    network_refused: Tally,
    unavailable: Tally,
}

impl ServerMetrics {
    /// What the server is called in its series.
    pub(super) fn server(&self) -> &Arc<str> {
        &self.server
    }

    /// The policy names these tools: from now on each has a label of its own, as long as there is
    /// room. To be called again when another policy takes over; nothing is forgotten.
    pub fn name_tools(&self, tools: impl IntoIterator<Item = impl AsRef<str>>) {
        for tool in tools {
            let tool = tool.as_ref();
            let make = || ToolCounters::new(&self.calls, &self.server, tool);
            self.tools.with_or(tool, make, |_| ());
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
                    self.denials.get_or_create_owned(&labels::Denial {
                        server: Arc::clone(&self.server),
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
        let labels = labels::Approval {
            server: Arc::clone(&self.server),
            through: event.what.through(),
            became: event.what.word(),
        };
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
                let labels = labels::Relation {
                    server: Arc::clone(&self.server),
                    relation: relation_word(relation),
                };
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
                let word = reason_word(end.reason);
                let ended = self.ended.iter().find(|(reason, _)| *reason == word);
                if let Some((_, counter)) = ended {
                    counter.inc();
                }
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
    /// told of. To be called again for each one who counts.
    pub fn refusals_are(&self, sockets: Arc<AtomicU64>, network: Arc<AtomicU64>) {
        self.sockets_refused.add(sockets);
        self.network_refused.add(network);
    }

    /// Where calls are counted whose limits nobody could tell; the same goes for it.
    pub fn unavailable_limits_are(&self, count: Arc<AtomicU64>) {
        self.unavailable.add(count);
    }

    /// Sockets refused, refusals in the network, and calls whose limits nobody could tell.
    pub(super) fn elsewhere(&self) -> [u64; 3] {
        [
            self.sockets_refused.sum(),
            self.network_refused.sum(),
            self.unavailable.sum(),
        ]
    }
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
    fn new(calls: &Of<labels::Call>, server: &Arc<str>, tool: &str) -> Self {
        let of = |verdict| {
            calls.get_or_create_owned(&labels::Call {
                server: Arc::clone(server),
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

/// What passed a server's proxies, or its programs.
#[derive(Debug)]
struct PassedCounters {
    packets: Counter,
    bytes_in: Counter,
    bytes_out: Counter,
    accepted: Counter,
    made: Counter,
}

impl Passed {
    fn of(&self, server: &Arc<str>) -> PassedCounters {
        let of = |family: &Of<labels::Direction>, direction| {
            family.get_or_create_owned(&labels::Direction {
                server: Arc::clone(server),
                direction,
            })
        };
        let server = Arc::clone(server);
        PassedCounters {
            bytes_in: of(&self.bytes, "in"),
            bytes_out: of(&self.bytes, "out"),
            accepted: of(&self.connections, "in"),
            made: of(&self.connections, "out"),
            packets: self.packets.get_or_create_owned(&labels::Server { server }),
        }
    }
}

impl PassedCounters {
    fn add(&self, packets: u64, counts: &ProxyCounts) {
        self.packets.inc_by(packets);
        self.bytes_in.inc_by(counts.bytes_in);
        self.bytes_out.inc_by(counts.bytes_out);
        self.accepted.inc_by(counts.accepted);
        self.made.inc_by(counts.made);
    }
}
