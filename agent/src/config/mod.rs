//! What the daemon is told to serve: `/etc/capwarden/agent.yaml`, and what stands beside it in `agent.d/`.
//!
//! ```yaml
//! version: 1
//! clients: [group:capwarden]        # who may connect where a server says nothing itself
//! servers:
//!   sharkmcp:
//!     command: [node, /opt/sharkmcp/dist/index.js]
//!     policy: /etc/capwarden/policies/sharkmcp.yaml
//!     user: capwarden-server
//! ```
//!
//! Drop-ins are read after the file, by name: `agent.d/50-local.yaml`. A later file's key takes the place of
//! the same key before it; in `servers` that goes for each key of each server, so that a drop-in can add a
//! server, or change one thing of one. What is wrong is told as of policies: with its place, what is expected
//! there, all of it at once. All keys are at [`KEYS`] and [`SERVER_KEYS`].
//!
//! Nothing here looks at what the configuration names: whether a policy can be used is for who uses it.
#![forbid(unsafe_code)]

mod client;
mod files;
mod http;
mod load;
mod places;
mod server;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{limits::Address, policy::PolicyError, store::Exposure, telemetry::Endpoint};

pub use client::Client;
pub use http::HttpConfig;
pub use load::KEYS;
pub use places::Places;
pub use server::{Pin, SERVER_KEYS, ServerConfig};

/// Where the configuration is unless somebody says otherwise.
pub const USUAL_FILE: &str = "/etc/capwarden/agent.yaml";
/// Where clients connect unless the configuration says otherwise.
pub const USUAL_SOCKET: &str = "/run/capwarden/agent.sock";
/// The group that may connect to that socket unless the configuration says otherwise.
pub const USUAL_GROUP: &str = "capwarden";
/// Servers of one configuration at most.
pub const MOST_SERVERS: usize = 256;

/// A configuration: what its file and its drop-ins come to together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The files that it was read from, in that order.
    pub files: Vec<PathBuf>,
    /// What takes a restart to change.
    pub house: HouseConfig,
    /// The servers, by name.
    pub servers: BTreeMap<String, ServerConfig>,
}

/// What all servers share. It is looked at when the daemon starts, and not again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HouseConfig {
    /// The audit log; none for the usual one.
    pub audit: Option<PathBuf>,
    /// The state directory; none for the usual one.
    pub state: Option<PathBuf>,
    /// Where metrics are served.
    pub metrics: Option<Endpoint>,
    /// Where counters are shared with other hosts.
    pub counters: Option<Address>,
    /// The file with their password.
    pub counters_password_file: Option<PathBuf>,
    /// Where clients connect; none for [`USUAL_SOCKET`].
    pub socket: Option<PathBuf>,
    /// The group that may connect there; none for [`USUAL_GROUP`].
    pub socket_group: Option<String>,
    /// Where each of these keys stands.
    pub places: Places,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such file.
    #[error("there is no file {}", .0.display())]
    Missing(PathBuf),
    /// Somebody else could say what runs here, and as whom.
    #[error("{}: {by}, so it is not read", file.display())]
    Exposed {
        /// The file.
        file: PathBuf,
        /// What could be changed, and by whom.
        by: Exposure,
    },
    /// The system would not let it be read.
    #[error("{}: {source}", file.display())]
    System {
        /// The file, or the directory.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something is wrong in it.
    #[error(transparent)]
    Wrong(#[from] PolicyError),
}

impl Config {
    /// Reads a configuration: this file, and the drop-ins in the directory beside it.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`].
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let files = files::of(file)?;
        load::all(&files)
    }
}

/// The directory with a file's drop-ins: `agent.d` of `agent.yaml`.
#[must_use]
pub fn drop_ins(file: &Path) -> PathBuf {
    file.with_extension("d")
}
