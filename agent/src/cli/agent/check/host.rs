//! The host as it is now: whether the agent is a service here, what it serves already, and what its units say.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::{
    config::{Config, USUAL_FILE, USUAL_SOCKET},
    engine::hello::{self, Hello, Offer},
    kernel::Way,
};

/// Where units' drop-ins are.
const DROP_INS: [&str; 3] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
];

/// What there is on this host.
pub(super) struct Host {
    /// Where the launchers' sockets are, where servers are started by them.
    pub(super) launchers: Option<PathBuf>,
    /// What an agent that runs serves already, at addresses of its own.
    pub(super) served: Option<Vec<Offer>>,
    pub(super) is_root: bool,
}

impl Host {
    pub(super) fn look(file: &Path, config: &Config) -> Self {
        // Another file is for an agent that is started by hand.
        let way = match file == Path::new(USUAL_FILE) {
            true => Way::of_service(),
            false => Way::chosen(),
        };
        let launchers = match way {
            Way::Launchers(directory) => Some(directory),
            Way::Fork => None,
        };
        let socket = config.house.socket.as_deref();
        let hello = Hello {
            connect: None,
            servers: true,
        };
        let asked = hello::ask(socket.unwrap_or(Path::new(USUAL_SOCKET)), &hello);
        Self {
            launchers,
            served: asked.ok().and_then(|(_, answer)| answer.servers),
            is_root: rustix::process::geteuid().is_root(),
        }
    }

    pub(super) fn is_service(&self) -> bool {
        self.launchers.is_some()
    }

    /// Whether an address is taken by an agent that runs, which lets go of it for the next one.
    pub(super) fn is_served(&self, at: SocketAddr) -> bool {
        let its = format!("//{at}/");
        let mut offers = self.served.iter().flatten();
        offers.any(|offer| offer.http.as_ref().is_some_and(|http| http.contains(&its)))
    }
}

/// Whether a unit has a drop-in that says something of this.
pub(super) fn unit_says(units: &[String], what: &str) -> bool {
    let files = units
        .iter()
        .flat_map(|unit| DROP_INS.map(|place| Path::new(place).join(format!("{unit}.d"))));
    files
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .any(|text| text.contains(what))
}
