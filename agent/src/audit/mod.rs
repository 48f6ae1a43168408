//! The audit log: an append-only file of JSON Lines in which every line carries the hash of the
//! line before it.
//!
//! # The format
//!
//! One record is one line, ended by `\n`, at most 1 MiB long:
//!
//! ```json
//! {"seq":7,"time":"2026-11-20T09:30:00.000123Z","agent":"5f1c…","prev":"9b74…","kind":"session-ended","session":"s1","reason":"packet-cap",…}
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | `seq` | the line's number in the file, from 1 |
//! | `time` | when it was written, UTC, microseconds |
//! | `agent` | 16 random hex digits, one value per run of capwarden |
//! | `prev` | SHA-256, in lowercase hex, of the previous line's bytes without its `\n`; 64 zeros on line 1 |
//! | `kind` | which [`Record`]; its fields follow |
//!
//! The hash is over bytes as they are in the file, so that the chain can be followed with nothing
//! but standard tools: `sed -n 6p audit.jsonl | tr -d '\n' | sha256sum` is the `prev` of line 7.
//! The hash of the last line is called the *head*.
//!
//! Several agents may write to one file: each append takes an exclusive `flock` and first reads
//! what others have added. Text from outside is capped ([`Text`]) and every control or
//! direction-changing character is escaped, so that a line is a line, whatever a hostile program
//! called itself.
//!
//! # What is recorded of a call's arguments
//!
//! Their names, and a digest of all of them; values only where the policy lists them (`record:`). The
//! digest is `SHA-256(salt ‖ text)`: `salt` is 16 random bytes, new for each record and written beside it
//! in hex, `text` is the arguments as JSON without white space, the keys of each object sorted by
//! their code points, strings and numbers as serde_json writes them (`1.0` stays `1.0`, text is
//! UTF-8). It is of what the client sent, before the policy changed anything.
//!
//! Where values are recorded, they are held to the digest ([`verify()`]): with `H(x)` for
//! `SHA-256(salt ‖ x as JSON, as above)` in hex, `rest` is `H` of the arguments without those values, and
//! `sha256` is `H({"rest": rest, "values": {NAME: H(value), …}})`. Of a value that is longer than 1 KiB the
//! beginning is recorded, and its `H` stands in `cut`.
//!
//! With it, whoever has the log and suspects certain arguments can find out whether a call had
//! exactly these (`capwarden audit show --arguments FILE`). The salt keeps equal arguments from
//! looking equal, and makes a table of digests useless. It does *not* hide values that can be
//! guessed: with the log in hand, all port numbers are tried in a moment. So the log stays
//! readable for its owner only (mode 0600), and a server whose arguments are short secrets should
//! have a log that is kept as they are.
//!
//! # What the chain proves, and what it does not
//!
//! - With a head kept elsewhere (`capwarden audit verify --head HASH`): every byte of every line up
//!   to and including that head is as it was when the head was noted. Nothing was changed, removed,
//!   inserted or reordered before it.
//! - Without one: an edit anywhere but in the last line breaks a link, unless the editor computed
//!   every later line anew. The chain has no key. Whoever may write to the file can cut lines off
//!   its end, or rewrite it from some line on, and leave a chain that fits. Only a head that was
//!   noted outside (the journal has one for each start and stop) shows that.
//! - A running agent remembers the head. It refuses to write when the file has shrunk, was unlinked,
//!   or has grown by lines that do not link to what it knew; its own next line links to what it
//!   wrote, so that a later [`verify()`] finds an edit of its last line.
//! - The chain says that the records are what capwarden wrote, in that order. It does not say that
//!   the host was honest: root can stop capwarden, or run something else.
//!
//! # Crashes
//!
//! A line that was cut short (power loss, full disk) is found by the next writer. It is not thrown
//! away: a line that lacks only its `\n` is completed; any other fragment is copied to
//! `<file>.torn-<time>`, and a `torn-tail` record says so with its hash. `approval`, `operator`,
//! `session-ended`, `server-restarted`, `server-served`, `server-withdrawn`, `handed-over`, `socket-refused`, `unmanaged-capture`, `network-refused`, `unanswered`, `agent-stopped` and `torn-tail` are on the disk when [`Log::append`] returns.

#![forbid(unsafe_code)]

mod arguments;
mod capture;
mod error;
mod follow;
mod hash;
mod line;
mod log;
mod recent;
mod record;
mod report;
mod show;
#[cfg(test)]
mod tests;
mod text;
mod verify;

pub use arguments::{ArgumentsDigest, Values};
pub use capture::{
    CaptureReport, Ended, FileReport, Granted, NoSession, Rule, Violation, find_session,
    verify_capture,
};
pub use error::AuditError;
pub use follow::{Follow, Followed};
pub use hash::{Hash, HashError};
pub use log::{Head, Log, check_file};
pub use recent::last_sessions;
pub use record::{
    AgentStarted, AgentStopped, ApprovalRecord, CallRecord, Decision, DefinitionRecord,
    FilterAttached, FilterRecord, GrantRecord, HandedOver, InterfaceRecord, KINDS, NetworkBounded,
    NetworkRefused, OperatorRecord, Origin, PolicyFile, PolicyRefused, PolicyReloaded,
    ProgramOpened, ProxyOpened, Record, ServerRecord, ServerRestarted, ServerServed,
    ServerWithdrawn, SessionOpened, SocketArmed, SocketRefused, TornTail, Unanswered,
    UnmanagedCapture,
};
pub use report::{
    CaptureOf, Gauge, Made, Moment, Part, ReportLine, SessionReport, Traffic, html, session_report,
    traffic,
};
pub use show::{Filter, Rendering, Shown, show};
pub use text::{Text, TextList, visible, visible_json};
pub use verify::{Anchor, Defect, OpenSession, Problem, Report, Severity, verify};
