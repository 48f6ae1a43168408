//! What is kept of a server's tools.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{policy::Definition, principal::Operator};

/// What is kept of one server. Times are seconds since 1970, UTC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerPins {
    /// When it was seen first.
    pub since: u64,
    /// Its first list has ended.
    pub settled: bool,
    /// Its tools, by name.
    pub tools: BTreeMap<String, Pin>,
}

/// What is kept of one tool: at least one version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pin {
    /// The definition that is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Version>,
    /// Who accepted it; none: it was in the server's first list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Operator>,
    /// Another definition, which the server listed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<Version>,
}

/// A definition, and since when it has been as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// Its parts: [`Definition::parts`].
    pub parts: Map<String, Value>,
    /// Their SHA-256, in hexadecimal.
    pub digest: String,
    /// When it was accepted, or offered first.
    pub since: u64,
}

/// How a tool stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Defined as accepted.
    Accepted,
    /// Defined otherwise than accepted, and so held back.
    Changed,
    /// Nobody has accepted it yet, and so it is held back.
    New,
}

impl Version {
    /// A definition as it is now.
    #[must_use]
    pub fn of(definition: &Definition, now: u64) -> Self {
        Self {
            parts: definition.parts().clone(),
            digest: definition.digest().to_owned(),
            since: now,
        }
    }

    /// About how many bytes it takes up in the table.
    pub(super) fn bytes(&self) -> usize {
        // Its name is the key, too.
        let name = self.parts.get("name").and_then(Value::as_str);
        let mut count = Count(128 + name.map_or(0, str::len));
        // Counting cannot fail.
        let _ = serde_json::to_writer(&mut count, &self.parts);
        count.0
    }
}

impl Pin {
    /// How the tool stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match (&self.accepted, &self.offered) {
            (Some(_), None) => Standing::Accepted,
            (Some(_), Some(_)) => Standing::Changed,
            (None, _) => Standing::New,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let versions = self.accepted.iter().chain(&self.offered);
        versions.map(Version::bytes).sum()
    }
}

/// Counts what is written.
struct Count(usize);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
