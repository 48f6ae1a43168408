//! The log as entries of the systemd journal, with the fields of events and of the spans around them:
//! `journalctl -u capwarden CAPWARDEN_SESSION=s7`.
//!
//! | field | has |
//! |---|---|
//! | `MESSAGE` | the line, as it would be on standard error |
//! | `PRIORITY` | 3 (error), 4 (warn), 6 (info) or 7 (debug, trace) |
//! | `SYSLOG_IDENTIFIER` | `capwarden` |
//! | `CAPWARDEN_SESSION`, `CAPWARDEN_SERVER`, `CAPWARDEN_TOOL`, … | what the event, or a span around it, says of that name |
//!
//! Each value stands behind its length, so that none can pass for another field, whatever is in it. `tracing-journald`
//! would be the crate for this; it takes no notice of the span that an event names as its parent.
//!
//! Nobody waits for a journal that does not read, as one that was stopped: what it has no room for is sent by a thread once it
//! has, in its order, and what we have no room for either is counted. An entry with `CAPWARDEN_LOST` says so then.

use std::{
    collections::BTreeMap,
    env, fmt,
    io::{self, Write as _},
    os::{fd::AsFd as _, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::Duration,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    layer::Context,
    registry::{LookupSpan, Scope},
};

use crate::{
    backlog::{Backlog, Hearer},
    words::counted,
};

/// Where the journal takes entries.
const SOCKET: &str = "/run/systemd/journal/socket";
/// What standard error is where the service manager connected it to the journal: `DEVICE:INODE`.
const STREAM: &str = "JOURNAL_STREAM";
/// Bytes of one value; with the few fields that there are, an entry fits into a datagram.
const LONGEST: usize = 8 << 10;
/// How long the journal is waited for at once, and at the end.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of entries that may wait until the journal has room.
const BACKLOG: usize = 1 << 20;

/// A layer that sends events to the journal. What it cannot take goes to standard error.
#[derive(Debug)]
pub struct Journal(Arc<Backlog<Socket>>);

/// What is left for the journal to take. When this is dropped, it is waited a second for that.
#[derive(Debug)]
pub struct Rest(Arc<Backlog<Socket>>);

impl Drop for Rest {
    fn drop(&mut self) {
        let left = self.0.settled(PATIENCE);
        if left > 0 {
            // Nobody is left to tell if that fails.
            let _ = writeln!(
                io::stderr(),
                "<{}>{}",
                priority(Level::WARN),
                lost_words(left)
            );
        }
    }
}

impl Journal {
    /// The journal, if standard error is connected to it and it takes entries.
    #[must_use]
    pub fn of_environment() -> Option<Self> {
        let journal = leads_to_journal()
            .then(|| Self::at(Path::new(SOCKET)))?
            .ok()?;
        // An empty entry is none: it tells whether somebody listens.
        journal.0.hearer().patient.send_to(&[], SOCKET).ok()?;
        Some(journal)
    }

    /// Where whoever runs this process reads its log, and what its servers write to standard error.
    #[must_use]
    pub fn place_of_the_log() -> &'static str {
        static JOURNAL: LazyLock<bool> = LazyLock::new(leads_to_journal);
        match *JOURNAL {
            // Servers write in a unit of their own, to the same stream.
            true => "in `sudo journalctl -u 'capwarden*'`",
            false => "beside capwarden's own log",
        }
    }

    /// Who listens at this socket.
    ///
    /// # Errors
    ///
    /// The host has no more sockets.
    pub fn at(path: &Path) -> io::Result<Self> {
        let (patient, quick) = (UnixDatagram::unbound()?, UnixDatagram::unbound()?);
        patient.set_write_timeout(Some(PATIENCE))?;
        quick.set_nonblocking(true)?;
        let socket = Socket {
            patient,
            quick,
            at: path.to_owned(),
        };
        Ok(Self(Backlog::new(socket, BACKLOG)))
    }

    /// What is left when this is.
    #[must_use]
    pub fn rest(&self) -> Rest {
        Rest(Arc::clone(&self.0))
    }
}

/// An entry, as the journal takes it.
#[derive(Debug)]
struct Entry {
    level: Level,
    /// The line of it, for where there is no journal.
    line: String,
    bytes: Vec<u8>,
}

impl Entry {
    fn new(level: Level, fields: &Fields) -> Self {
        let line = fields.line();
        let mut bytes = Vec::with_capacity(512);
        put(&mut bytes, "MESSAGE", &line);
        put(&mut bytes, "PRIORITY", priority(level));
        put(&mut bytes, "SYSLOG_IDENTIFIER", "capwarden");
        for (name, value) in &fields.all {
            put(&mut bytes, &field_name(name), value);
        }
        Self { level, line, bytes }
    }
}

/// Where the journal takes entries.
#[derive(Debug)]
struct Socket {
    /// Waits for room.
    patient: UnixDatagram,
    quick: UnixDatagram,
    at: PathBuf,
}

impl Hearer for Socket {
    type Message = Entry;

    fn size(entry: &Entry) -> usize {
        entry.bytes.len().saturating_add(entry.line.len())
    }

    fn at_once(&self, entry: &Entry) -> bool {
        // Whatever went wrong takes time to tell.
        self.quick.send_to(&entry.bytes, &self.at).is_ok()
    }

    fn in_time(&self, entry: &Entry) -> bool {
        match self.patient.send_to(&entry.bytes, &self.at) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => {
                // The stream takes lines, with their priority in front. Nobody is left to tell if that fails.
                let line = entry.line.replace(['\n', '\r'], " ");
                let _ = writeln!(io::stderr(), "<{}>{line}", priority(entry.level));
            }
        }
        true
    }

    fn lost(&self, entries: u64) -> Option<Entry> {
        let fields = Fields {
            message: lost_words(entries),
            all: BTreeMap::from([("lost", entries.to_string())]),
            own: Vec::new(),
        };
        Some(Entry::new(Level::WARN, &fields))
    }
}

fn lost_words(entries: u64) -> String {
    format!(
        "the journal had no room for {} of this log, and nobody waits for it",
        counted(entries, "line")
    )
}

/// Whether standard error is connected to the journal.
fn leads_to_journal() -> bool {
    let stream = env::var(STREAM).ok();
    let stat = rustix::fs::fstat(io::stderr().as_fd()).ok();
    stream
        .zip(stat)
        .is_some_and(|(stream, stat)| is_stream(&stream, stat.st_dev, stat.st_ino))
}

/// Whether the file of these numbers is the stream that the variable names.
fn is_stream(variable: &str, device: u64, inode: u64) -> bool {
    let numbers = variable.split_once(':');
    let numbers =
        numbers.and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    numbers == Some((device, inode))
}

const fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// `CAPWARDEN_TOOK_MS` of `took_ms`.
fn field_name(name: &str) -> String {
    let kept = name.bytes().map(|byte| match byte {
        byte if byte.is_ascii_alphanumeric() => char::from(byte.to_ascii_uppercase()),
        _ => '_',
    });
    "CAPWARDEN_".chars().chain(kept.take(48)).collect()
}

/// A field, its value behind its length.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
    entry.extend_from_slice(&length.to_le_bytes());
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// What an event or a span says.
#[derive(Clone, Debug, Default)]
struct Fields {
    message: String,
    all: BTreeMap<&'static str, String>,
    /// Those of the event itself, in their order.
    own: Vec<&'static str>,
}

impl Fields {
    fn put(&mut self, name: &'static str, mut value: String) {
        value.truncate(value.floor_char_boundary(LONGEST));
        if name == "message" {
            self.message = value;
            return;
        }
        self.own.push(name);
        self.all.insert(name, value);
    }

    /// The message with the event's own fields, as a line of the log has them.
    fn line(&self) -> String {
        let mut line = self.message.clone();
        for name in &self.own {
            if let Some(value) = self.all.get(name) {
                let before = if line.is_empty() { "" } else { " " };
                line.push_str(&format!("{before}{name}={value}"));
            }
        }
        line.truncate(line.floor_char_boundary(LONGEST));
        line
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format!("{value:?}"));
    }
}

impl<S> Layer<S> for Journal
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        // The nearest span has the last word, and the event itself over all of them.
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(Scope::from_root)
        {
            if let Some(its) = span.extensions().get::<Fields>() {
                let its = its.all.iter();
                fields
                    .all
                    .extend(its.map(|(name, value)| (*name, value.clone())));
            }
        }
        event.record(&mut fields);
        self.0.tell(Entry::new(*event.metadata().level(), &fields));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tracing::subscriber::with_default;
    use tracing_subscriber::{layer::SubscriberExt as _, registry};

    use super::*;
    use crate::{
        session::{EndReason, Protocols, ServerEvent, SessionEnd, SessionEvent, SessionId},
        telemetry::SessionSpans,
    };

    /// What the journal would make of an entry.
    fn read(entry: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let mut rest = entry;
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
            let (name, after) = rest.split_at(end);
            let length = u64::from_le_bytes(after[1..9].try_into().unwrap());
            let (value, after) = after[9..].split_at(usize::try_from(length).unwrap());
            assert_eq!(after[0], b'\n');
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            fields.push((text(name), text(value)));
            rest = &after[1..];
        }
        fields
    }

    /// The entries that come of this.
    fn entries(log: impl FnOnce()) -> Vec<Vec<(String, String)>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_nonblocking(true).unwrap();
        with_default(registry().with(Journal::at(&path).unwrap()), log);
        let mut entries = Vec::new();
        let mut entry = vec![0; 64 << 10];
        while let Ok(length) = journal.recv(&mut entry) {
            entries.push(read(&entry[..length]));
        }
        entries
    }

    fn value<'a>(entry: &'a [(String, String)], field: &str) -> Option<&'a str> {
        let mut all = entry.iter().filter(|(name, _)| name == field);
        let found = all.next().map(|(_, value)| value.as_str());
        assert!(all.next().is_none(), "{field} is there twice: {entry:?}");
        found
    }

    #[test]
    fn entries_have_the_fields_of_the_event_and_of_the_span_that_it_names() {
        let all = entries(|| {
            tracing::warn!(session = %SessionId(7), took_ms = 12_u64, "it was late");
            let mut sessions = SessionSpans::default();
            sessions.begin_for_tests(SessionId(8));
            sessions.session(&ServerEvent {
                server: Arc::from("s"),
                event: SessionEvent::Ended(SessionEnd {
                    session: SessionId(8),
                    reason: EndReason::PacketCap,
                    packets: 20,
                    bytes: 100,
                    sockets: 1,
                    milliseconds: 5,
                    protocols: Protocols::default(),
                    proxy: None,
                    program: None,
                }),
            });
        });
        assert_eq!(all.len(), 2, "{all:?}");
        for (entry, field, expected) in [
            (0, "MESSAGE", "it was late session=s7 took_ms=12"),
            (0, "PRIORITY", "4"),
            (0, "SYSLOG_IDENTIFIER", "capwarden"),
            (0, "CAPWARDEN_SESSION", "s7"),
            (0, "CAPWARDEN_TOOK_MS", "12"),
            (1, "MESSAGE", "the packet cap was reached"),
            (1, "CAPWARDEN_SESSION", "s8"),
            (1, "CAPWARDEN_SERVER", "s"),
            (1, "CAPWARDEN_REASON", "packet-cap"),
            (1, "CAPWARDEN_PACKETS", "20"),
        ] {
            assert_eq!(
                value(&all[entry], field),
                Some(expected),
                "{field}: {all:?}"
            );
        }
    }

    #[test]
    fn no_value_passes_for_another_field() {
        let forged = "x\nPRIORITY=0\nCAPWARDEN_SESSION=s1\n\u{1b}[2J";
        let all = entries(|| tracing::error!(tool = forged, "{forged}"));
        let [entry] = all.as_slice() else {
            panic!("{all:?}");
        };
        assert_eq!(value(entry, "CAPWARDEN_TOOL"), Some(forged));
        assert_eq!(value(entry, "PRIORITY"), Some("3"));
        assert_eq!(value(entry, "CAPWARDEN_SESSION"), None);
        assert_eq!(entry.len(), 4, "{entry:?}");
    }

    #[test]
    fn long_values_are_cut_and_still_come() {
        let long = "é".repeat(1 << 20);
        let all = entries(|| tracing::info!(a = long, b = long, "{long}"));
        let cut = "é".repeat(LONGEST / 2);
        assert_eq!(value(&all[0], "CAPWARDEN_A"), Some(cut.as_str()));
        assert_eq!(value(&all[0], "CAPWARDEN_B"), Some(cut.as_str()));
        assert_eq!(value(&all[0], "MESSAGE").map(str::len), Some(LONGEST));
    }

    #[test]
    fn journal_that_does_not_read_holds_nobody_up_and_hears_in_order_how_much_it_has_missed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let server = UnixDatagram::bind(&path).unwrap();
        server.set_read_timeout(Some(10 * PATIENCE)).unwrap();
        let journal = Journal::at(&path).unwrap();
        let (backlog, rest) = (Arc::clone(&journal.0), journal.rest());
        let begun = Instant::now();
        let (most, long) = (20_000, "x".repeat(500));
        with_default(registry().with(journal), || {
            for number in 0..most {
                tracing::info!(number, "{long}");
            }
        });
        assert!(begun.elapsed() < 10 * PATIENCE, "{:?}", begun.elapsed());
        assert!(backlog.is_behind(), "it was never full");
        let next = || {
            let mut entry = vec![0; 4 << 10];
            let length = server.recv(&mut entry).unwrap();
            read(&entry[..length])
        };
        let (mut read, mut last) = (0, next());
        while value(&last, "CAPWARDEN_LOST").is_none() {
            let number = read.to_string();
            assert_eq!(value(&last, "CAPWARDEN_NUMBER"), Some(number.as_str()));
            (read, last) = (read + 1, next());
        }
        assert!(read > BACKLOG / 2_000, "{read}");
        let lost = (most - read).to_string();
        assert_eq!(value(&last, "CAPWARDEN_LOST"), Some(lost.as_str()));
        let words = format!(
            "the journal had no room for {lost} lines of this log, and nobody waits for it"
        );
        assert_eq!(value(&last, "MESSAGE"), Some(words.as_str()));
        drop(rest);
        assert_eq!(backlog.settled(Duration::ZERO), 0);
    }

    #[test]
    fn stream_is_known_by_its_device_and_inode() {
        assert!(is_stream("8:4711", 8, 4711));
        for other in ["8:4712", "9:4711", "8", "", ":", "8:4711:1", "x:y"] {
            assert!(!is_stream(other, 8, 4711), "{other}");
        }
    }
}
