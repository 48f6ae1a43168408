//! The accepted definitions of a host's servers, shared by all agents and the operator's verbs.

use std::{collections::BTreeMap, fmt, sync::Arc, time::SystemTime};

use super::{
    FIRST, MOST_BYTES, MOST_SERVERS, MOST_TOOLS,
    event::What,
    pin::{Pin, ServerPins, Version},
};
use crate::{
    policy::Definition,
    principal::Operator,
    store::{Seen, StateDirectory, StoreError, Table},
};

/// All servers, by name.
pub(super) type Book = BTreeMap<String, ServerPins>;

/// A server lists a tool.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The server.
    pub server: String,
    /// The tool.
    pub definition: Arc<Definition>,
    /// It is not accepted by being seen first.
    pub strict: bool,
}

type Clock = Box<dyn Fn() -> u64 + Send + Sync>;

/// What is known of servers' tools. May be used from any thread and by several processes. Everything
/// here goes to the disk and takes milliseconds: a [`Keeper`](super::Keeper) does that for a gate.
pub struct Pins {
    table: Table<ServerPins>,
    clock: Clock,
}

/// Why definitions were not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// Nothing is known of the server.
    #[error("no tool of a server {0:?} is known")]
    Server(String),
    /// Nothing is known of the tool.
    #[error("the server {server:?} has no tool {tool:?} that is known")]
    Tool {
        /// The server.
        server: String,
        /// The tool.
        tool: String,
    },
    /// It is defined otherwise than the operator has seen it.
    #[error("{tool:?} is defined in yet another way now, with the SHA-256 {found}")]
    Other {
        /// The tool.
        tool: String,
        /// What is offered now.
        found: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Pins {
    /// Opens the definitions of a state directory.
    ///
    /// # Errors
    ///
    /// The store cannot be used.
    pub fn open(directory: &StateDirectory) -> Result<Self, StoreError> {
        Self::open_with(directory, || {
            let now = SystemTime::UNIX_EPOCH.elapsed();
            now.map_or(0, |now| now.as_secs())
        })
    }

    /// The same, told by another clock: seconds since 1970, UTC.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn open_with(
        directory: &StateDirectory,
        clock: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            table: Table::open(directory, "definitions")?,
            clock: Box::new(clock),
        })
    }

    pub(super) fn now(&self) -> u64 {
        (self.clock)()
    }

    /// All that is known, by the servers' names.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn servers(&self) -> Result<BTreeMap<String, ServerPins>, StoreError> {
        self.table.entries()
    }

    /// The same, if it has changed since it was `seen`.
    pub(super) fn news(&self, seen: &mut Seen) -> Result<Option<Book>, StoreError> {
        self.table.news(seen)
    }

    /// Servers list tools. Returns what became of each definition; none of what was known.
    ///
    /// # Errors
    ///
    /// The store failed; then the tools are to be held back.
    pub fn offer(&self, offers: &[Offer]) -> Result<Vec<Option<What>>, StoreError> {
        let now = self.now();
        self.table.change(|book| {
            let pins = book.values().flat_map(|known| known.tools.values());
            let mut bytes: usize = pins.map(Pin::bytes).sum();
            let offers = offers.iter();
            offers
                .map(|one| offer(book, one, &mut bytes, now))
                .collect()
        })
    }

    /// A server's list has ended: what it lists from now on and is not known is held back.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub fn settle(&self, server: &str) -> Result<(), StoreError> {
        let known = self.table.entries()?;
        if known.get(server).is_none_or(|known| known.settled) {
            return Ok(());
        }
        self.table.change(|book| {
            if let Some(known) = book.get_mut(server) {
                known.settled = true;
            }
        })
    }

    /// Accepts what a server offers: these tools, or all that are held back. With a digest, or the
    /// beginning of one, only if that is what is offered. Returns the tools that were held back.
    ///
    /// # Errors
    ///
    /// Nothing is accepted: there is no such server or tool, or the digest is another.
    pub fn accept(
        &self,
        server: &str,
        tools: Option<&[String]>,
        digest: Option<&str>,
        by: Operator,
    ) -> Result<Vec<String>, AcceptError> {
        let now = self.now();
        self.table.change(|book| {
            let nobody = || AcceptError::Server(server.to_owned());
            let known = book.get_mut(server).ok_or_else(nobody)?;
            let held = |pin: &Pin| pin.offered.is_some();
            let wanted: Vec<String> = match tools {
                Some(tools) => tools.to_vec(),
                None => {
                    let held = known.tools.iter().filter(|(_, pin)| held(pin));
                    held.map(|(tool, _)| tool.clone()).collect()
                }
            };
            for tool in &wanted {
                let pin = known.tools.get(tool).ok_or_else(|| AcceptError::Tool {
                    server: server.to_owned(),
                    tool: tool.clone(),
                })?;
                let found = pin.offered.as_ref().or(pin.accepted.as_ref());
                let found = found.map_or("", |version| version.digest.as_str());
                if digest.is_some_and(|digest| !found.starts_with(digest)) {
                    return Err(AcceptError::Other {
                        tool: tool.clone(),
                        found: found.to_owned(),
                    });
                }
            }
            let mut accepted = Vec::new();
            for tool in wanted {
                if let Some(pin) = known.tools.get_mut(&tool)
                    && let Some(mut version) = pin.offered.take()
                {
                    version.since = now;
                    pin.accepted = Some(version);
                    pin.by = Some(by);
                    accepted.push(tool);
                }
            }
            Ok(accepted)
        })?
    }

    /// Forgets tools of a server, or all of it: then what it lists next is seen for the first time, the
    /// tools as new ones, the server as a whole as if it had never been there. Returns how many tools
    /// were forgotten.
    ///
    /// # Errors
    ///
    /// Nothing is forgotten: there is no such server or tool.
    pub fn forget(&self, server: &str, tools: Option<&[String]>) -> Result<usize, AcceptError> {
        self.table.change(|book| {
            let nobody = || AcceptError::Server(server.to_owned());
            let known = book.get_mut(server).ok_or_else(nobody)?;
            let Some(tools) = tools else {
                let count = known.tools.len();
                book.remove(server);
                return Ok(count);
            };
            if let Some(tool) = tools.iter().find(|tool| !known.tools.contains_key(*tool)) {
                return Err(AcceptError::Tool {
                    server: server.to_owned(),
                    tool: tool.clone(),
                });
            }
            known.tools.retain(|tool, _| !tools.contains(tool));
            Ok(tools.len())
        })?
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pins").finish_non_exhaustive()
    }
}

/// Whether a server's first list is over.
pub(super) fn is_settled(known: &ServerPins, now: u64) -> bool {
    // A clock that was set back must not open it again.
    known.settled || now.abs_diff(known.since) > FIRST
}

fn offer(book: &mut Book, offer: &Offer, bytes: &mut usize, now: u64) -> Option<What> {
    let Offer {
        server,
        definition,
        strict,
    } = offer;
    if let Some(fault) = definition.fault() {
        return Some(What::Unfit(fault.to_owned()));
    }
    let no_room = |what: &str| Some(What::Unfit(format!("there is no room for {what}")));
    if !book.contains_key(server) {
        if book.len() >= MOST_SERVERS {
            return no_room("another server");
        }
        let known = ServerPins {
            since: now,
            ..ServerPins::default()
        };
        book.insert(server.to_owned(), known);
    }
    let known = book.get_mut(server)?;
    let version = Version::of(definition, now);
    let more = version.bytes();
    let full = *bytes + more > MOST_BYTES;
    let settled = is_settled(known, now);
    let Some(pin) = known.tools.get_mut(definition.name()) else {
        if full || known.tools.len() >= MOST_TOOLS {
            return no_room("the definition of another tool");
        }
        *bytes += more;
        let (pin, what) = if settled || *strict {
            let offered = Some(version);
            (
                Pin {
                    offered,
                    ..Pin::default()
                },
                What::New,
            )
        } else {
            let accepted = Some(version);
            (
                Pin {
                    accepted,
                    ..Pin::default()
                },
                What::FirstSeen,
            )
        };
        known.tools.insert(definition.name().to_owned(), pin);
        return Some(what);
    };
    let is = |version: &Option<Version>| {
        let digest = version.as_ref().map(|version| version.digest.as_str());
        digest == Some(definition.digest())
    };
    if is(&pin.accepted) {
        // What was offered meanwhile is not offered any more.
        pin.offered = None;
        return None;
    }
    if is(&pin.offered) {
        return None;
    }
    if full {
        return no_room("its definition beside the others");
    }
    *bytes += more;
    pin.offered = Some(version);
    Some(match pin.accepted {
        Some(_) => What::Changed,
        None => What::New,
    })
}
