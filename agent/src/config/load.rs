//! From files to a [`Config`], or to all that is wrong in them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    policy::{
        PolicyError,
        reading::{Field, Gather, Loaded, Section, Tree, contents, tree},
    },
    principal,
};

use super::{
    Config, ConfigError, HouseConfig, MOST_SERVERS, Places,
    client::{self, Client},
    server::{ServerDraft, absolute, parsed},
};

/// Keys at the top of a configuration.
pub const KEYS: &[&str] = &[
    "version",
    "audit",
    "state",
    "metrics",
    "counters",
    "counters_password_file",
    "socket",
    "socket_group",
    "clients",
    "servers",
];

/// What one file says.
#[derive(Default)]
struct Draft {
    house: HouseConfig,
    clients: Option<Vec<Client>>,
    servers: BTreeMap<String, ServerDraft>,
}

/// Reads all files, the later over the earlier.
pub(super) fn all(files: &[PathBuf]) -> Result<Config, ConfigError> {
    let mut wrong = Vec::new();
    let mut whole = Draft::default();
    for (number, file) in files.iter().enumerate() {
        // Drop-ins are of the version of the file that they are laid over.
        match one(file, number == 0) {
            Ok(draft) => whole = whole.then(draft),
            Err(error) => wrong.push(error),
        }
    }
    if let Some(error) = PolicyError::all(wrong) {
        return Err(error.into());
    }
    let clients = whole.clients.unwrap_or_default();
    let mut gather = Gather::default();
    let mut servers = BTreeMap::new();
    for (name, draft) in whole.servers {
        if let Some(server) = gather.keep(draft.done(&clients)) {
            servers.insert(name, server);
        }
    }
    Ok(gather.done(Some(Config {
        files: files.to_vec(),
        house: whole.house,
        servers,
    }))?)
}

impl Draft {
    fn then(mut self, later: Self) -> Self {
        let (before, after) = (self.house, later.house);
        let house = HouseConfig {
            audit: after.audit.or(before.audit),
            state: after.state.or(before.state),
            metrics: after.metrics.or(before.metrics),
            counters: after.counters.or(before.counters),
            counters_password_file: after
                .counters_password_file
                .or(before.counters_password_file),
            socket: after.socket.or(before.socket),
            socket_group: after.socket_group.or(before.socket_group),
            places: before.places.then(after.places),
        };
        for (name, draft) in later.servers {
            let draft = match self.servers.remove(&name) {
                Some(before) => before.then(draft),
                None => draft,
            };
            self.servers.insert(name, draft);
        }
        Self {
            house,
            clients: later.clients.or(self.clients),
            servers: self.servers,
        }
    }
}

/// Reads one file: the first, or a drop-in.
fn one(file: &Path, is_first: bool) -> Loaded<Draft> {
    let (name, text) = contents(file)?;
    let (source, root, _) = tree(&name, &text)?;
    if !is_first && matches!(root.tree, Tree::Null) {
        return Ok(Draft::default()); // all of it is commented out
    }
    let expected = "the configuration of `capwarden agent`";
    let (section, mut gather) = Section::open(&source, &root, "", expected, KEYS)?;
    gather.keep(version(&section, is_first && gather.is_clean()));
    let house = HouseConfig {
        audit: gather.keep(section.read("audit", absolute)).flatten(),
        state: gather.keep(section.read("state", absolute)).flatten(),
        metrics: gather.keep(section.read("metrics", metrics)).flatten(),
        counters: gather.keep(section.read("counters", counters)).flatten(),
        counters_password_file: gather
            .keep(section.read("counters_password_file", absolute))
            .flatten(),
        socket: gather.keep(section.read("socket", absolute)).flatten(),
        socket_group: gather.keep(section.read("socket_group", group)).flatten(),
        places: Places::of(&section),
    };
    let clients = gather
        .keep(section.read("clients", client::clients))
        .flatten();
    let servers = gather.keep(section.read("servers", servers)).flatten();
    gather.done(Some(Draft {
        house,
        clients,
        servers: servers.unwrap_or_default(),
    }))
}

fn version(section: &Section<'_>, needed: bool) -> Loaded<()> {
    const HELP: &str = "Write `version: 1`, the only version there is.";
    match section.field("version") {
        None if needed => Err(section.source.fault(
            section.place,
            "the configuration has no `version`",
            "in this file",
            Some(HELP.to_owned()),
        )),
        None => Ok(()),
        Some(field) => match field.node.tree {
            Tree::Integer(1) => Ok(()),
            Tree::Integer(_) => Err(field.fault("is not a version of the configuration", HELP)),
            _ => Err(field.wrong("the number 1", HELP)),
        },
    }
}

fn metrics(field: &Field<'_>) -> Loaded<crate::telemetry::Endpoint> {
    const HELP: &str = "Write unix:/run/capwarden/metrics.sock, or 127.0.0.1:9464.";
    parsed(field, "where metrics are served", HELP)
}

fn counters(field: &Field<'_>) -> Loaded<crate::limits::Address> {
    const HELP: &str = "Write redis://127.0.0.1:6379/0; the password stands in the file that `counters_password_file` names.";
    parsed(field, "the address of a Redis server", HELP)
}

fn group(field: &Field<'_>) -> Loaded<String> {
    const HELP: &str = "Write the group whose members may connect: capwarden.";
    match field.text("a group's name", HELP)? {
        "" => Err(field.fault("is no group", HELP)),
        name => Ok(name.to_owned()),
    }
}

fn servers(field: &Field<'_>) -> Loaded<BTreeMap<String, ServerDraft>> {
    const HELP: &str = "Write servers by name: { pcap: { command: […], policy: … } }.";
    // What is left empty in a file that is still to be filled in.
    if matches!(field.node.tree, Tree::Null) {
        return Ok(BTreeMap::new());
    }
    let entries = field.entries("servers by their names", HELP)?;
    if entries.len() > MOST_SERVERS {
        return Err(field.fault("has more servers than one agent serves", HELP));
    }
    let one = |entry: &Field<'_>| {
        if !principal::is_server(entry.key) {
            let message = format!("`{}` is no server's name", entry.key.escape_debug());
            const HELP: &str = "A name has no slash but in @scope/name, no control characters, and 256 bytes at most.";
            return Err(entry.key_fault(message, HELP));
        }
        Ok((entry.key.to_owned(), ServerDraft::read(entry)?))
    };
    Ok(Gather::all(entries.iter().map(one))?.into_iter().collect())
}
