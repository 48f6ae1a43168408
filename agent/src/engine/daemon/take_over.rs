//! The successor's side of a hand-over: what it is given, and when it may serve.

use std::{net::SocketAddr, os::fd::OwnedFd, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    engine::turn::{Given, Turn},
    kernel::{Predecessor, Word, Words},
};

/// How long a predecessor may take to say that it is followed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the listener is called to which clients of the host come, where it is at a path of the daemon's own.
pub(super) const OWN_CLIENTS: &str = "clients-own";
/// The same where the service manager has passed it.
pub(super) const PASSED_CLIENTS: &str = "clients-passed";
/// What the listener is called at which metrics are asked for.
pub(super) const METRICS: &str = "metrics";

/// What a listener for a server's clients over HTTP is called.
pub(super) fn http_name(server: &str) -> String {
    format!("http {server}")
}

/// The listeners of a predecessor that nobody has taken yet. What is left is closed.
#[derive(Default)]
pub(super) struct Inherited(Vec<(String, OwnedFd)>);

impl Inherited {
    pub(super) fn of(predecessor: Option<&mut Predecessor>) -> Self {
        let mut sockets = predecessor.map_or_else(Vec::new, Predecessor::take_sockets);
        sockets.dedup_by(|one, other| one.0 == other.0);
        Self(sockets)
    }

    /// The one of this name.
    pub(super) fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let at = self.0.iter().position(|(its, _)| its == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// One for a server's clients at this address, whatever the server was called; with port 0, the one of this
    /// server, wherever it is.
    pub(super) fn take_http(
        &mut self,
        server: &str,
        at: SocketAddr,
    ) -> Option<std::net::TcpListener> {
        let is_there = |socket: &OwnedFd| {
            let copy = socket.try_clone().ok()?;
            std::net::TcpListener::from(copy).local_addr().ok()
        };
        let own = http_name(server);
        let fits = |(name, socket): &(String, OwnedFd)| {
            let Some(here) = is_there(socket).filter(|_| name.starts_with("http ")) else {
                return false;
            };
            match at.port() {
                0 => *name == own && here.ip() == at.ip(),
                _ => here == at,
            }
        };
        let found = self.0.iter().position(fits)?;
        Some(self.0.swap_remove(found).1.into())
    }
}

/// Who lets the servers of this daemon be served: a predecessor, or nobody has to.
pub(super) enum TakeOver {
    Alone,
    After(Predecessor, watch::Sender<Given>),
}

impl TakeOver {
    pub(super) fn new(predecessor: Option<Predecessor>) -> (Self, Turn) {
        match predecessor {
            None => (Self::Alone, Turn::now()),
            Some(predecessor) => {
                let (give, turn) = Turn::after();
                (Self::After(predecessor, give), turn)
            }
        }
    }

    /// Says that this daemon can serve, and returns once it is to. What else the predecessor gives later comes for as
    /// long as what comes back is kept. An error says what the predecessor did instead.
    pub(super) async fn served(self, agent: &str) -> Result<Kept, &'static str> {
        let mut tasks = JoinSet::new();
        let Self::After(predecessor, give) = self else {
            return Ok(Kept {
                known: None,
                _tasks: tasks,
            });
        };
        let ready = predecessor.ready(env!("CARGO_PKG_VERSION"), agent);
        let mut words = ready.map_err(|_| GONE)?;
        let told = timeout(PATIENCE, told_to_serve(&mut words)).await;
        told.map_err(|_| "does not hand over")??;
        words.serving().map_err(|_| GONE)?;
        give.send_modify(|given| given.serving = true);
        let (tell, known) = oneshot::channel();
        tasks.spawn(async move {
            let mut tell = Some(tell);
            while let Some(word) = words.next().await {
                match word {
                    Word::Known => {
                        // Whoever does not wait for it ends.
                        let _ = tell.take().map(|tell| tell.send(()));
                    }
                    Word::Freed(server) => {
                        tracing::info!("the earlier agent has ended what it had of {server}");
                        give.send_modify(|given| {
                            given.freed.insert(server);
                        });
                    }
                    _ => {}
                }
            }
            drop(tell); // there is nobody else to be known
            tracing::info!("the earlier agent has ended");
            give.send_modify(|given| given.gone = true);
            // For who looks later.
            std::future::pending::<()>().await;
            drop(give);
        });
        Ok(Kept {
            known: Some(known),
            _tasks: tasks,
        })
    }
}

/// What is kept by who serves.
pub(super) struct Kept {
    /// Tells when the service manager knows this process as the main one, or the predecessor has gone; none if it has
    /// known from the start.
    pub(super) known: Option<oneshot::Receiver<()>>,
    _tasks: JoinSet<()>,
}

const GONE: &str = "has gone";

async fn told_to_serve(words: &mut Words) -> Result<(), &'static str> {
    loop {
        match words.next().await {
            Some(Word::Serve) => return Ok(()),
            Some(_) => {}
            None => return Err(GONE),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn listeners_are_found_by_their_address_or_with_port_0_by_their_server() {
        let listeners: Vec<TcpListener> = (0..3)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let at: Vec<SocketAddr> = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap())
            .collect();
        let named = listeners.into_iter().zip(["http a", "http b", "metrics"]);
        let mut inherited = Inherited(
            named
                .map(|(listener, name)| (name.to_owned(), listener.into()))
                .collect(),
        );
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let elsewhere: SocketAddr = "[::1]:0".parse().unwrap();
        assert!(inherited.take_http("c", any).is_none());
        assert!(inherited.take_http("a", elsewhere).is_none());
        assert!(
            inherited.take_http("a", at[2]).is_none(),
            "that is for metrics"
        );
        let renamed = inherited.take_http("c", at[0]).unwrap();
        assert_eq!(renamed.local_addr().unwrap(), at[0]);
        assert!(inherited.take_http("a", at[0]).is_none(), "it was taken");
        let its = inherited.take_http("b", any).unwrap();
        assert_eq!(its.local_addr().unwrap(), at[1]);
        assert!(inherited.take(METRICS).is_some());
        assert!(inherited.0.is_empty());
    }
}
