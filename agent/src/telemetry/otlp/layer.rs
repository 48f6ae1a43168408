//! Takes the spans of calls and sessions as they end.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use rustix::rand::{GetRandomFlags, getrandom};
use tracing::{
    Level, Metadata, Subscriber,
    field::{Field as Name, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    filter::{FilterFn, LevelFilter, filter_fn},
    layer::{Context as Around, Layer},
    registry::LookupSpan,
};

use super::{Context, Ended, Field, Queue};
use crate::{gate::TraceParent, telemetry::SESSION_TARGET};

/// Where the spans are made: see `telemetry/spans.rs`.
const SPANS: &str = "capwarden::telemetry::spans";
/// Sessions whose calls are known, until they end.
const SESSIONS: usize = 4_096;
/// Bytes of a text that are sent.
const LONGEST: usize = 256;
/// Fields of one span.
const FIELDS: usize = 24;

/// Hands ended spans on to an exporter.
#[derive(Debug)]
pub struct SpanLayer {
    queue: Queue,
    /// The calls that opened the sessions that live, by the sessions' names.
    openers: Mutex<HashMap<String, Context>>,
}

/// A span that has not ended.
struct Open {
    context: Context,
    parent: Option<([u8; 8], bool)>,
    start: SystemTime,
    began: Instant,
    fields: Vec<(&'static str, Field)>,
}

impl SpanLayer {
    pub(super) fn new(queue: Queue) -> Self {
        Self {
            queue,
            openers: Mutex::default(),
        }
    }

    /// Which spans it wants: no event, and nothing of other parts or libraries.
    #[must_use]
    pub fn wants() -> FilterFn {
        let wants: fn(&Metadata<'_>) -> bool = |metadata| {
            metadata.is_span()
                && [SPANS, SESSION_TARGET].contains(&metadata.target())
                && *metadata.level() <= Level::DEBUG
        };
        filter_fn(wants).with_max_level_hint(LevelFilter::DEBUG)
    }

    /// Takes up what a span says of itself.
    fn take(&self, name: &str, open: &mut Open, fields: Fields) {
        for (field, value) in fields.0 {
            if let ("traceparent", Field::Text(text)) = (field, &value) {
                if let Some(parent) = TraceParent::parse(text) {
                    open.context.trace = parent.trace;
                    open.parent = Some((parent.span, true));
                }
                continue;
            }
            if let ("call", "session", Field::Text(session)) = (name, field, &value) {
                let mut openers = self.openers.lock().unwrap_or_else(PoisonError::into_inner);
                if openers.len() >= SESSIONS {
                    openers.clear(); // their ends were lost
                }
                openers.insert(session.clone(), open.context);
            }
            if open.fields.len() < FIELDS {
                open.fields.push((field, value));
            }
        }
    }

    /// The call that opened a session, for the session's end.
    fn opener(&self, open: &Open) -> Option<Context> {
        let session = open.fields.iter().find_map(|(name, field)| match field {
            Field::Text(session) if *name == "session" => Some(session),
            _ => None,
        })?;
        let mut openers = self.openers.lock().unwrap_or_else(PoisonError::into_inner);
        openers.remove(session)
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for SpanLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, around: Around<'_, S>) {
        let (Some(span), Some(context)) = (around.span(id), new_context()) else {
            return;
        };
        let mut open = Open {
            context,
            parent: None,
            start: SystemTime::now(),
            began: Instant::now(),
            fields: Vec::new(),
        };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        self.take(span.name(), &mut open, fields);
        span.extensions_mut().insert(open);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, around: Around<'_, S>) {
        let Some(span) = around.span(id) else { return };
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            self.take(span.name(), open, fields);
        }
    }

    fn on_close(&self, id: Id, around: Around<'_, S>) {
        let Some(span) = around.span(&id) else { return };
        let Some(mut open) = span.extensions_mut().remove::<Open>() else {
            return;
        };
        if span.name() == "session"
            && let Some(opener) = self.opener(&open)
        {
            open.context.trace = opener.trace;
            open.parent = Some((opener.span, false));
        }
        self.queue.put(Ended {
            name: span.name(),
            context: open.context,
            parent: open.parent,
            start: open.start,
            // The clock may be set meanwhile.
            end: open.start + open.began.elapsed(),
            fields: open.fields,
        });
    }
}

/// Ids that nobody else has; none where the host has no randomness.
fn new_context() -> Option<Context> {
    let mut context = Context {
        trace: [0; 16],
        span: [0; 8],
    };
    getrandom(&mut context.trace, GetRandomFlags::empty()).ok()?;
    getrandom(&mut context.span, GetRandomFlags::empty()).ok()?;
    Some(context)
}

/// The fields of a span, bounded.
#[derive(Default)]
struct Fields(Vec<(&'static str, Field)>);

impl Fields {
    fn text(&mut self, name: &Name, mut text: String) {
        if text.len() > LONGEST {
            text.truncate(text.floor_char_boundary(LONGEST));
            text.push('…');
        }
        self.0.push((name.name(), Field::Text(text)));
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, name: &Name, value: i64) {
        self.0.push((name.name(), Field::Whole(value)));
    }

    fn record_u64(&mut self, name: &Name, value: u64) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.0.push((name.name(), Field::Whole(value)));
    }

    fn record_bool(&mut self, name: &Name, value: bool) {
        self.0.push((name.name(), Field::Truth(value)));
    }

    fn record_str(&mut self, name: &Name, value: &str) {
        let cut = value.floor_char_boundary(LONGEST + 1);
        self.text(name, value.get(..cut).unwrap_or_default().to_owned());
    }

    fn record_debug(&mut self, name: &Name, value: &dyn fmt::Debug) {
        self.text(name, format!("{value:?}"));
    }
}
