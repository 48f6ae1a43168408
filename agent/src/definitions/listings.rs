//! What was listed last, to whom.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::policy::{Definition, LONGEST_DEFINITION};

/// Tools that one connection is remembered to have been told of.
const MOST_TOOLS: usize = 4_096;
/// Connections whose lists are remembered apart.
const MOST_CONNECTIONS: usize = 1_024;
/// Bytes of all different definitions; fewer in tests, which are slow with many.
const MOST_BYTES: usize = if cfg!(test) { 2 << 20 } else { 32 << 20 };

type Tools = HashMap<String, Arc<Definition>>;

/// What each connection was told of the tools of one server, and what anybody was told last. Of
/// bounded size: what has no room is as if it had not been listed.
#[derive(Debug, Default)]
pub struct Listings(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    connections: HashMap<u64, Tools>,
    /// In the order in which they came.
    order: VecDeque<u64>,
    anybody: Tools,
    /// One of each with its size, by its digest: most connections are told the same.
    all: HashMap<String, (Weak<Definition>, usize)>,
    bytes: usize,
}

impl Listings {
    /// The server has listed a tool.
    pub fn listed(&self, connection: u64, tool: &str, text: &str) -> Arc<Definition> {
        let mut inner = self.inner();
        let definition = inner.one(Definition::read(tool, text));
        let definition = match definition {
            Some(definition) => definition,
            None => {
                let why = "there is no room to remember its definition".to_owned();
                Arc::new(Definition::unfit(tool, why))
            }
        };
        if !inner.connections.contains_key(&connection) {
            if inner.order.len() >= MOST_CONNECTIONS
                && let Some(oldest) = inner.order.pop_front()
            {
                inner.connections.remove(&oldest);
            }
            inner.order.push_back(connection);
        }
        let own = inner.connections.entry(connection).or_default();
        remember(own, &definition);
        remember(&mut inner.anybody, &definition);
        definition
    }

    /// What this connection was told of the tool, or else anybody.
    #[must_use]
    pub fn find(&self, connection: u64, tool: &str) -> Option<Arc<Definition>> {
        let inner = self.inner();
        let own = inner.connections.get(&connection);
        let own = own.and_then(|tools| tools.get(tool));
        own.or_else(|| inner.anybody.get(tool)).cloned()
    }

    /// These tables are whole after every statement.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The one that says the same, if there is one; none if there is no room for another.
    fn one(&mut self, definition: Definition) -> Option<Arc<Definition>> {
        if definition.fault().is_some() {
            // Nothing but a name and a reason.
            return Some(Arc::new(definition));
        }
        let same = self.all.get(definition.digest());
        if let Some(same) = same.and_then(|(same, _)| same.upgrade()) {
            return Some(same);
        }
        let bytes = bytes_of(&definition);
        if self.bytes + bytes > MOST_BYTES {
            self.all.retain(|_, (one, _)| one.strong_count() > 0);
            self.bytes = self.all.values().map(|(_, bytes)| bytes).sum();
            if self.bytes + bytes > MOST_BYTES {
                return None;
            }
        }
        self.bytes += bytes;
        let one = Arc::new(definition);
        let digest = one.digest().to_owned();
        self.all.insert(digest, (Arc::downgrade(&one), bytes));
        Some(one)
    }
}

/// About, and never less than a little.
fn bytes_of(definition: &Definition) -> usize {
    let text = serde_json::to_string(definition.parts());
    1_024 + text.map_or(LONGEST_DEFINITION, |text| text.len())
}

fn remember(tools: &mut Tools, definition: &Arc<Definition>) {
    let name = definition.name();
    if tools.len() < MOST_TOOLS || tools.contains_key(name) {
        tools.insert(name.to_owned(), Arc::clone(definition));
    }
}
