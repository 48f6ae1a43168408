//! The counters and gauges, and which event moves which.
//!
//! | module | has |
//! |---|---|
//! | `catalogue` | every metric: name, type, labels, unit, meaning; `capwarden-metrics(7)` is the same |
//! | `server` | what is counted of one server |
//! | `labels`, `words` | what series are told apart by, and what they say |
//! | `tally` | counts that others keep |

mod catalogue;
mod labels;
mod server;
mod tally;
mod words;

use std::{
    collections::BTreeMap,
    fmt::{self, Debug, Formatter},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        gauge::ConstGauge,
        info::Info,
    },
    registry::Registry,
};

use self::{catalogue::Described, server::Families};
use super::named::OTHER;
use crate::session::ServerEvent;

#[cfg(test)]
pub(super) use catalogue::{ALL, Kind, table};
pub use server::ServerMetrics;
pub(super) use words::reason_word;

/// Servers that are told apart; what comes later counts under [`OTHER`].
pub(super) const SERVERS: usize = 256;

/// What an agent counts.
pub struct Metrics {
    registry: Registry,
    families: Families,
    servers: Servers,
    recorded: Counter,
    elsewhere: Arc<Elsewhere>,
}

/// Those that something was told of. Names are the configuration's.
type Servers = Arc<Mutex<BTreeMap<Arc<str>, Arc<ServerMetrics>>>>;

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
        let servers = Servers::default();
        let elsewhere = Arc::new(Elsewhere {
            servers: Arc::clone(&servers),
            ..Elsewhere::default()
        });
        let (families, recorded) = (Families::default(), Counter::default());
        let mut registry = Registry::with_prefix(catalogue::PREFIX);
        let to = &mut registry;
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        catalogue::BUILD.register(to, build);
        families.register(to);
        catalogue::AUDIT_RECORDS.register(to, recorded.clone());
        to.register_collector(Box::new(Arc::clone(&elsewhere)));
        Self {
            registry,
            families,
            servers,
            recorded,
            elsewhere,
        }
    }

    /// What is counted of the server of this name. It must not be one that a client chooses.
    #[must_use]
    pub fn server(&self, name: &str) -> Arc<ServerMetrics> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = servers.get(name) {
            return Arc::clone(known);
        }
        let name = match servers.len() {
            SERVERS.. => OTHER,
            _ => name,
        };
        let made = || Arc::new(self.families.of(name));
        Arc::clone(servers.entry(name.into()).or_insert_with(made))
    }

    /// Something happened to a session.
    pub fn session(&self, event: &ServerEvent) {
        self.server(&event.server).session(&event.event);
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
    servers: Servers,
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
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = servers.values();
        let counts: Vec<_> = counts
            .map(|one| {
                (
                    labels::Server {
                        server: Arc::clone(one.server()),
                    },
                    one.elsewhere(),
                )
            })
            .collect();
        drop(servers);
        let mut counters = |of: &Described, pick: fn(&[u64; 3]) -> u64| {
            let help = of.sentence();
            let mut metric =
                encoder.encode_descriptor(of.name, &help, None, MetricType::Counter)?;
            counts.iter().try_for_each(|(labels, counts)| {
                let count = ConstCounter::new(pick(counts));
                count.encode(metric.encode_family(labels)?)
            })
        };
        counters(&catalogue::SOCKETS_REFUSED, |[sockets, ..]| *sockets)?;
        counters(&catalogue::NETWORK_REFUSED, |[_, network, _]| *network)?;
        counters(&catalogue::LIMITS_UNAVAILABLE, |[.., limits]| *limits)?;
        if let Some(spans) = self.spans.get() {
            let spans = ConstCounter::new(spans.load(Ordering::Relaxed));
            let of = &catalogue::OTLP_SPANS_DROPPED;
            let help = of.sentence();
            spans.encode(encoder.encode_descriptor(
                of.name,
                &help,
                None,
                MetricType::Counter,
            )?)?;
        }
        let queue = self.queue.get().map_or(0, |length| length());
        let queue = ConstGauge::new(i64::try_from(queue).unwrap_or(i64::MAX));
        let of = &catalogue::AUDIT_QUEUE_RECORDS;
        let help = of.sentence();
        queue.encode(encoder.encode_descriptor(of.name, &help, None, MetricType::Gauge)?)
    }
}
