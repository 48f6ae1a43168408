//! Which counter a use counts in.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::clock::in_micros;
use crate::{
    policy::{Scope, Unit, Window},
    principal::Caller,
    store::Key,
};

/// Among whose counters a counter is.
#[derive(Clone)]
pub(super) struct Realm {
    /// The store's, so that nobody can find names whose counters take each other's place. Keys that agents
    /// share have none: nobody can be kept from reckoning them.
    pub(super) secret: [u8; 16],
    /// This host, where there are others.
    pub(super) host: Option<String>,
}

/// The key of a counter: a digest over the store's secret, and everything that keeps this counter apart
/// from others, so that it is short however long the names are.
///
/// | scope | is kept apart by |
/// |---|---|
/// | grant | the grant; without one, the principal and the server (a grant is for one server, too) |
/// | principal | the principal |
/// | connection | the connection; over HTTP, where anybody opens another, the grant, or without one the principal |
/// | server | the server |
/// | tool | the server and the tool |
/// | global | – |
///
/// Where agents of several hosts share counters (`redis/`), users and the names of grants are a
/// host's own, and so are servers that are called by an address (`http://127.0.0.1:8000/mcp`): there the
/// host's id is added. Shared are what one grant's token uses, servers and tools by name, and what is global.
/// Connections are never there.
///
/// The window belongs to the key: the same name over a minute and over a day is two counters. `max` does
/// not: when a policy changes it, what was counted stays.
pub(super) fn key_of(
    realm: &Realm,
    caller: &Caller,
    tool: &str,
    counter: &str,
    scope: Scope,
    window: Window,
) -> Key {
    let mut digest = Sha256::new();
    digest.update(realm.secret);
    let mut part = |bytes: &[u8]| {
        digest.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        digest.update(bytes);
    };
    let by_address = caller.server.contains("://");
    let of_the_host = match scope {
        Scope::Grant => caller.grant.is_none(),
        Scope::Principal | Scope::Connection => true,
        Scope::Server | Scope::Tool => by_address,
        Scope::Global => false,
    };
    if let Some(host) = realm.host.as_ref().filter(|_| of_the_host) {
        part(b"host");
        part(host.as_bytes());
    }
    match scope {
        Scope::Grant => match &caller.grant {
            Some(grant) => {
                part(b"grant");
                part(grant.as_bytes());
            }
            None => {
                part(b"principal and server");
                part(caller.principal.to_string().as_bytes());
                part(caller.server.as_bytes());
            }
        },
        Scope::Principal => {
            part(b"principal");
            part(caller.principal.to_string().as_bytes());
        }
        Scope::Connection => {
            part(b"connection");
            match (caller.lasting_connection(), &caller.grant) {
                (Some(connection), _) => part(&connection.to_le_bytes()),
                (None, Some(grant)) => part(grant.as_bytes()),
                (None, None) => part(caller.principal.to_string().as_bytes()),
            }
        }
        Scope::Server => {
            part(b"server");
            part(caller.server.as_bytes());
        }
        Scope::Tool => {
            part(b"tool");
            part(caller.server.as_bytes());
            part(tool.as_bytes());
        }
        Scope::Global => part(b"global"),
    }
    let (kind, length): (&[u8], Duration) = match window {
        Window::Calendar(Unit::Minute) => (b"minute", Duration::ZERO),
        Window::Calendar(Unit::Hour) => (b"hour", Duration::ZERO),
        Window::Calendar(Unit::Day) => (b"day", Duration::ZERO),
        Window::Sliding(length) => (b"sliding", length),
        Window::Bucket(length) => (b"bucket", length),
    };
    part(kind);
    part(&in_micros(length).to_le_bytes());
    part(counter.as_bytes());
    let digest: [u8; 32] = digest.finalize().into();
    digest.first_chunk().copied().unwrap_or_default()
}
