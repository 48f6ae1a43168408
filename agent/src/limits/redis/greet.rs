//! A new connection: who we are, what the server is, and whether it keeps what it is told.

use std::{fs, io, os::unix::fs::MetadataExt as _, time::Instant};

use super::{Server, address::Place, resp::Reply, wire::Wire};

/// The arithmetic of the counters, which runs there.
pub(super) const SCRIPT: &str = include_str!("script.lua");

/// The oldest server that runs it: writes after a look at the clock are replicated as what they
/// did.
const OLDEST: u32 = 5;

/// A server that can be asked.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) wire: Wire,
    /// By what the server knows the script.
    pub(super) script: String,
    /// Its version.
    pub(super) version: String,
    /// What could make it forget what was counted.
    pub(super) warnings: Vec<String>,
}

/// Connects, and makes sure that counters can be kept there.
///
/// # Errors
///
/// They cannot: why, in words.
pub(super) fn greet(server: &Server, until: Instant) -> Result<Greeted, String> {
    let failed = |error: io::Error| why(&error);
    let mut wire = Wire::connect(&server.address.place, until).map_err(failed)?;
    if let Some(password) = &server.password {
        let reply = match &server.address.user {
            Some(user) => wire.ask(&["AUTH", user, &password.0]),
            None => wire.ask(&["AUTH", &password.0]),
        };
        // Not in its words: they may have what was sent in them.
        if let Reply::Error(_) = reply.map_err(failed)? {
            return Err("it does not accept the password".to_owned());
        }
    }
    if server.address.database != 0 {
        let database = server.address.database.to_string();
        fine(wire.ask(&["SELECT", &database]).map_err(failed)?)?;
    }
    let info = wire.ask(&["INFO"]).map_err(failed)?;
    let mut warnings = Vec::new();
    let mut version = "of an unknown version".to_owned();
    match info {
        Reply::Error(error) if error.starts_with("NOPERM") => warnings.push(
            "the user may not ask it for INFO, so nobody knows whether it keeps what is counted; type: ACL SETUSER … +info"
                .to_owned(),
        ),
        info => {
            let info = fine(info)?;
            let info = info.text().unwrap_or_default();
            let of = |name: &str| {
                let values = info.lines().filter_map(|line| line.split_once(':'));
                values.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.trim())
            };
            if let Some(found) = of("valkey_version") {
                version = format!("Valkey {found}");
            } else if let Some(found) = of("redis_version") {
                version = format!("Redis {found}");
                let major = found.split('.').next().and_then(|major| major.parse().ok());
                if major.is_some_and(|major: u32| major < OLDEST) {
                    return Err(format!("it is {version}, and {OLDEST} or later is needed"));
                }
            }
            if of("role") == Some("slave") {
                return Err("it is a replica, which cannot be written to".to_owned());
            }
            if let Some(policy) = of("maxmemory_policy").filter(|policy| *policy != "noeviction") {
                warnings.push(format!(
                    "with the maxmemory-policy {policy} it forgets what was counted when its memory is full; type: CONFIG SET maxmemory-policy noeviction"
                ));
            }
            if of("aof_enabled") == Some("0") {
                warnings.push(
                    "without an append-only file it forgets what was counted since its last snapshot when it is restarted; type: CONFIG SET appendonly yes"
                        .to_owned(),
                );
            }
        }
    }
    if server.password.is_none() && is_open(&server.address.place) {
        warnings.push(
            "it asks for no password: whoever can connect to it can change what is counted, a governed server on this host among them; set one, and name its file with --counters-password-file"
                .to_owned(),
        );
    }
    let loaded = fine(wire.ask(&["SCRIPT", "LOAD", SCRIPT]).map_err(failed)?)?;
    let script = loaded
        .text()
        .ok_or("it does not say what a script is called")?;
    Ok(Greeted {
        script: script.to_owned(),
        wire,
        version,
        warnings,
    })
}

/// Whether others than root and one user can connect.
fn is_open(place: &Place) -> bool {
    match place {
        Place::Tcp(..) => true,
        Place::Unix(path) => fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o022 != 0),
    }
}

fn fine(reply: Reply) -> Result<Reply, String> {
    match reply {
        Reply::Error(error) => Err(format!("it answered: {error}")),
        reply => Ok(reply),
    }
}

/// What went wrong with a connection.
pub(super) fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => {
            format!("no answer within {} ms", super::LIMIT.as_millis())
        }
        io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
        _ => error.to_string(),
    }
}
