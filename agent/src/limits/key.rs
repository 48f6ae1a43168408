//! Which counter a use counts in.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::clock::in_micros;
use crate::{
    policy::{Scope, Unit, Window},
    principal::Caller,
    store::Key,
};

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
/// The window belongs to the key: the same name over a minute and over a day is two counters. `max` does
/// not: when a policy changes it, what was counted stays.
pub(super) fn key_of(
    secret: &[u8; 16],
    caller: &Caller,
    tool: &str,
    counter: &str,
    scope: Scope,
    window: Window,
) -> Key {
    let mut digest = Sha256::new();
    digest.update(secret);
    let mut part = |bytes: &[u8]| {
        digest.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        digest.update(bytes);
    };
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
