//! The sockets that clients come by over HTTP: bound once, and not let go of for as long as a server is served there, so
//! that nobody else can take a port while a server is changed, or while another version takes over.

use std::{
    net::{SocketAddr, TcpListener as Socket},
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::net::TcpListener;

use super::take_over::{Inherited, http_name};
use crate::{
    engine::{EngineError, house},
    gate::http,
};

/// A server, and where it is served.
pub(super) type Place = (String, SocketAddr);

/// The sockets of all servers.
pub(super) struct Listeners {
    bound: Mutex<Vec<Bound>>,
    inherited: Mutex<Inherited>,
}

struct Bound {
    place: Place,
    socket: Socket,
}

impl Listeners {
    /// What a predecessor had comes first.
    pub(super) fn new(inherited: Inherited) -> Self {
        Self {
            bound: Mutex::default(),
            inherited: Mutex::new(inherited),
        }
    }

    /// Has sockets for these places. If one cannot be had, none of those that there were is lost, and what was bound
    /// for the others is let go.
    pub(super) fn prepare(&self, places: &[Place]) -> Result<(), EngineError> {
        let mut bound = self.bound();
        let mut new = Vec::new();
        for place in places {
            if bound.iter().any(|bound| bound.place == *place) {
                continue;
            }
            let (server, at) = place;
            let failed = |error| house::not_listening(at, error);
            // Another server had it, which is not there any more.
            let left = bound
                .iter()
                .find(|bound| {
                    bound.place.1 == *at && at.port() != 0 && !places.contains(&bound.place)
                })
                .map(|bound| bound.socket.try_clone());
            let inherited = || {
                let mut inherited = self
                    .inherited
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                inherited.take_http(server, *at).map(Ok)
            };
            let bind = || http::listen(*at).and_then(TcpListener::into_std);
            let socket = left.or_else(inherited).unwrap_or_else(bind);
            let socket = socket.and_then(|socket| {
                socket.set_nonblocking(true)?;
                Ok(socket)
            });
            new.push(Bound {
                place: place.clone(),
                socket: socket.map_err(failed)?,
            });
        }
        bound.extend(new);
        Ok(())
    }

    /// The socket of a place that was prepared.
    pub(super) fn get(&self, server: &str, at: SocketAddr) -> Result<TcpListener, EngineError> {
        let bound = self.bound();
        let found = bound
            .iter()
            .find(|bound| bound.place.0 == server && bound.place.1 == at);
        let copy = match found {
            Some(found) => found.socket.try_clone(),
            None => Err(std::io::ErrorKind::NotFound.into()),
        };
        let copy = copy.and_then(TcpListener::from_std);
        copy.map_err(|error| house::not_listening(at, error))
    }

    /// Lets go of all others than these, and of what a predecessor had and nobody has taken.
    pub(super) fn keep(&self, places: &[Place]) {
        self.bound().retain(|bound| places.contains(&bound.place));
        *self
            .inherited
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Inherited::default();
    }

    /// Copies of all, with what they are called for a successor.
    pub(super) fn copies(&self) -> std::io::Result<Vec<(String, OwnedFd)>> {
        let bound = self.bound();
        let copies = bound.iter().map(|bound| {
            let copy = bound.socket.try_clone()?;
            Ok((http_name(&bound.place.0), copy.into()))
        });
        copies.collect()
    }

    fn bound(&self) -> MutexGuard<'_, Vec<Bound>> {
        // Whole after every statement.
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(server: &str, at: SocketAddr) -> Place {
        (server.to_owned(), at)
    }

    /// Whether somebody listens there.
    fn is_taken(at: SocketAddr) -> bool {
        Socket::bind(at).is_err()
    }

    #[tokio::test]
    async fn sockets_outlive_changes_of_their_servers_and_new_ones_come_first() {
        let listeners = Listeners::new(Inherited::default());
        let free = || {
            let socket = Socket::bind("127.0.0.1:0").unwrap();
            socket.local_addr().unwrap()
        };
        let (one, two) = (free(), free());
        let before = [place("a", one), place("b", two)];
        listeners.prepare(&before).unwrap();
        let served = listeners.get("a", one).unwrap();
        assert_eq!(served.local_addr().unwrap(), one);
        drop(served);
        assert!(is_taken(one) && is_taken(two), "whoever is served there");

        // Both change places, and one of them its name.
        let after = [place("a", two), place("c", one)];
        listeners.prepare(&after).unwrap();
        listeners.keep(&after);
        assert!(listeners.get("b", two).is_err());
        let served = listeners.get("c", one).unwrap();
        assert_eq!(served.local_addr().unwrap(), one);
        let names = listeners.copies().unwrap();
        let names: Vec<String> = names.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["http a", "http c"]);

        // Somebody else has one of the new ones: nothing is different.
        let third = free();
        let other = Socket::bind("127.0.0.1:0").unwrap();
        let elsewhere = other.local_addr().unwrap();
        let wanted = [place("a", third), place("c", elsewhere)];
        let error = listeners.prepare(&wanted).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot listen on {elsewhere}")),
            "{error}"
        );
        assert!(!is_taken(third));
        assert!(is_taken(one) && is_taken(two));
        // Nor do two servers get one place.
        let shared = [place("a", two), place("c", one), place("d", one)];
        assert!(listeners.prepare(&shared).is_err());
        drop(served);
        listeners.keep(&[]);
        assert!(!is_taken(one) && !is_taken(two));
    }
}
