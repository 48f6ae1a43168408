//! Clients on the daemon's socket: who they are, what they want, and that they get no more than their share.

use std::{
    collections::HashMap,
    future::pending,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::{oneshot, watch},
    task::JoinSet,
    time::timeout,
};

use super::{
    hello::{self, Answer},
    seats::{Full, Seats},
    served::Served,
    table::Table,
    take_over::{Inherited, OWN_CLIENTS, PASSED_CLIENTS},
};
use crate::{
    audit::visible,
    engine::{EngineError, house},
    kernel::{self, LocalSocket, Peer},
    principal::{Caller, Principal},
};

/// Clients at once, each with a server of its own.
const CLIENTS: usize = 256;
/// Clients of one user.
const OF_A_USER: usize = 64;
/// Connections that have not said what they want yet.
const STRANGERS: usize = 128;
/// Such connections of one user: editors start all of their servers at once.
const STRANGERS_OF_A_USER: usize = 32;
/// How long it takes to read what was said already.
const SAID: Duration = Duration::from_millis(100);
/// How long nobody is let in when the host has no more descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Where clients come.
pub(super) enum Entrance {
    /// At a path of our own.
    Own(LocalSocket),
    /// Where the service manager listens for us.
    Passed(UnixListener),
}

impl Entrance {
    /// The service manager's socket, or else one at this path for a group.
    /// What a predecessor had comes first.
    pub(super) fn open(
        path: &Path,
        group: &str,
        inherited: &mut Inherited,
    ) -> Result<Self, EngineError> {
        let failed = |error| house::not_listening(path.display(), error);
        let passed = inherited.take(PASSED_CLIENTS).map(Into::into);
        if let Some(listener) = passed.or_else(|| kernel::passed_listener("clients")) {
            let listener: std::os::unix::net::UnixListener = listener;
            listener.set_nonblocking(true).map_err(failed)?;
            let listener = UnixListener::from_std(listener).map_err(failed)?;
            tracing::info!("clients come by the service manager's socket");
            return Ok(Self::Passed(listener));
        }
        if let Some(listener) = inherited.take(OWN_CLIENTS)
            && let Some(socket) = LocalSocket::adopt(listener, path).map_err(failed)?
        {
            tracing::info!(
                "listening on {}, as the earlier version did",
                path.display()
            );
            return Ok(Self::Own(socket));
        }
        let socket = match kernel::group_id(group) {
            Some(group) => LocalSocket::bind_for_group(path, group).map_err(failed)?,
            None => {
                tracing::warn!(
                    "there is no group {}, so that only root can connect to {}: make it, or name another as `socket_group`",
                    visible(group),
                    path.display()
                );
                LocalSocket::bind(path, 0).map_err(failed)?
            }
        };
        tracing::info!("listening on {}", path.display());
        Ok(Self::Own(socket))
    }

    /// A copy, for a successor, and what that is called.
    pub(super) fn copy(&self) -> io::Result<(String, OwnedFd)> {
        let (name, copy) = match self {
            Self::Own(socket) => (OWN_CLIENTS, socket.copy()?),
            Self::Passed(listener) => (PASSED_CLIENTS, listener.as_fd().try_clone_to_owned()?),
        };
        Ok((name.to_owned(), copy))
    }

    /// Has the place where clients come, which was a predecessor's until now.
    pub(super) fn own(&self) {
        if let Self::Own(socket) = self {
            socket.own();
        }
    }

    /// Takes nobody any more, and leaves that to who has a copy.
    pub(super) fn leave(self) {
        match self {
            Self::Own(socket) => socket.leave(),
            Self::Passed(listener) => drop(listener),
        }
    }

    /// Waits for a client, and asks the kernel who it is.
    pub(super) async fn accept(&self) -> (UnixStream, Peer) {
        loop {
            let accepted = match self {
                Self::Own(socket) => socket.accept().await,
                Self::Passed(listener) => listener.accept().await.map(|(stream, _)| stream),
            };
            let known = accepted.and_then(|stream| {
                let peer = Peer::of(stream.as_fd())?;
                Ok((stream, peer))
            });
            match known {
                Ok(known) => return known,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// A client that is connected to a server.
struct Connection {
    peer: Peer,
    served: Arc<Served>,
    end: oneshot::Sender<&'static str>,
}

/// Lets clients in, and knows those who are.
pub(super) struct Door {
    table: Arc<Table>,
    strangers: Arc<Seats>,
    clients: Arc<Seats>,
    connections: Mutex<HashMap<u64, Connection>>,
    running: Mutex<JoinSet<()>>,
    next: AtomicU64,
    /// Whether a client has left since that was asked.
    left: AtomicBool,
    /// Whether nobody new is let in.
    shut: watch::Sender<bool>,
}

impl Door {
    pub(super) fn new(table: Arc<Table>) -> Arc<Self> {
        Arc::new(Self {
            table,
            strangers: Seats::new(STRANGERS, STRANGERS_OF_A_USER),
            clients: Seats::new(CLIENTS, OF_A_USER),
            connections: Mutex::default(),
            running: Mutex::default(),
            next: AtomicU64::new(1),
            left: AtomicBool::default(),
            shut: watch::Sender::new(false),
        })
    }

    /// Hears what somebody wants, on a task of its own.
    pub(super) fn meet(self: &Arc<Self>, mut stream: UnixStream, peer: Peer) {
        if peer.may_be_governed() {
            // It would have sessions, and use up limits, as its user.
            tracing::warn!(
                user = peer.user,
                process = peer.process,
                "refused a governed process, or one that has gone, that asked for a server"
            );
            return;
        }
        let door = Arc::clone(self);
        let stranger = self.strangers.take(peer.user);
        let mut running = self.running();
        while running.try_join_next().is_some() {}
        let mut shut = self.shut.subscribe();
        running.spawn(async move {
            let Ok(stranger) = stranger else {
                return busy(&stream); // without waiting, as too many wait already
            };
            let said = {
                let mut hello = pin!(hello::read(&mut stream));
                let shut = async {
                    let _ = shut.wait_for(|shut| *shut).await;
                };
                let said = tokio::select! {
                    said = &mut hello => Some(said),
                    () = shut => None,
                };
                match said {
                    Some(said) => Some(said),
                    // Whoever had said it by then has come in time, also if it is yet to be read.
                    None => timeout(SAID, hello).await.ok(),
                }
            };
            let answer = match said {
                None => Answer::refused(
                    "Another version of the agent has taken over.",
                    "Connect again.",
                ),
                Some(Ok(hello)) => match hello.connect {
                    Some(name) => match door.admit(&name, &peer) {
                        Ok(admitted) => {
                            drop(stranger);
                            return admitted.serve(stream).await;
                        }
                        Err(answer) => answer,
                    },
                    None => Answer::servers(door.table.offers(&peer)),
                },
                Some(Err(why)) => Answer::refused(why, "Use `capwarden connect NAME`."),
            };
            // Who does not listen is told nothing.
            let _ = answer.send(&mut stream).await;
        });
    }

    /// Whether somebody gets a server, or what they are told in place of one.
    fn admit(self: &Arc<Self>, name: &str, peer: &Peer) -> Result<Admitted, Answer> {
        let user = peer.user;
        // Who may not use a server is not told whether there is one.
        let Some(served) = self.table.get(name).filter(|served| served.lets_in(peer)) else {
            tracing::warn!(user, "refused a client that asked for {}", visible(name));
            let offers = self.table.offers(peer);
            let names: Vec<String> = offers.into_iter().map(|offer| offer.name).collect();
            let instead = match names.as_slice() {
                [] => "There is none for you: `clients` in the agent's configuration says who may connect.".to_owned(),
                names => format!("There is for you: {}.", names.join(", ")),
            };
            let error = format!("There is no server {} for you here.", visible(name));
            return Err(Answer::refused(error, instead));
        };
        let seat = self.clients.take(user).map_err(|full| match full {
            Full::All(most) => Answer::refused(
                format!("{most} clients are connected already, which is all that may be."),
                "Try again when one of them has gone.",
            ),
            Full::User(most) => Answer::refused(
                format!(
                    "You have {most} connections already, which is as many as one user may have."
                ),
                "Close one of them.",
            ),
        })?;
        let place = served.place(user)?;
        Ok(Admitted {
            door: Arc::clone(self),
            served,
            peer: peer.clone(),
            _seats: (seat, place),
        })
    }

    /// Ends those connections that may not be any more.
    pub(super) fn review(&self) {
        self.end(|_, connection| self.table.over(&connection.served, &connection.peer));
    }

    /// Lets nobody in any more who has not said yet what they want: another process does.
    pub(super) fn shut(&self) {
        self.shut.send_replace(true);
    }

    /// Ends those connections that have no session open.
    pub(super) fn end_idle(&self, why: &'static str) {
        self.end(|number, connection| (!connection.served.is_busy(number)).then_some(why));
    }

    /// Ends all connections.
    pub(super) fn end_all(&self, why: &'static str) {
        self.end(|_, _| Some(why));
    }

    fn end(&self, over: impl Fn(u64, &Connection) -> Option<&'static str>) {
        let mut connections = self.connections();
        let over: Vec<(u64, &'static str)> = connections
            .iter()
            .filter_map(|(number, connection)| Some((*number, over(*number, connection)?)))
            .collect();
        for (number, why) in over {
            if let Some(connection) = connections.remove(&number) {
                // It may have ended by itself.
                let _ = connection.end.send(why);
            }
        }
    }

    /// Somebody of this host is connected to a server, until they are told why they are so no longer.
    #[cfg(test)]
    pub(super) fn connect_for_tests(&self, served: Arc<Served>) -> oneshot::Receiver<&'static str> {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Peer::of(ours.as_fd()).unwrap();
        let (end, told) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Connection { peer, served, end };
        self.connections().insert(number, connection);
        let (tell, why) = oneshot::channel();
        self.running().spawn(async move {
            if let Ok(why) = told.await {
                let _ = tell.send(why);
            }
        });
        why
    }

    /// Whether a client has left since this was asked.
    pub(super) fn somebody_left(&self) -> bool {
        self.left.swap(false, Ordering::Relaxed)
    }

    /// Whether nobody is connected, or about to be.
    pub(super) fn is_empty(&self) -> bool {
        let mut running = self.running();
        while running.try_join_next().is_some() {}
        running.is_empty()
    }

    /// How many clients are connected.
    pub(super) fn count(&self) -> usize {
        self.clients.count()
    }

    /// Waits until all have gone, who have been told to.
    pub(super) async fn emptied(&self) {
        let mut running = std::mem::take(&mut *self.running());
        while running.join_next().await.is_some() {}
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Connection>> {
        // Whole after every statement.
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that gets a server.
struct Admitted {
    door: Arc<Door>,
    served: Arc<Served>,
    peer: Peer,
    _seats: (super::seats::Seat, super::seats::Seat),
}

impl Admitted {
    async fn serve(self, mut stream: UnixStream) {
        let name = Arc::clone(&self.served.name);
        let user = self.peer.user;
        if Answer::connected(&name).send(&mut stream).await.is_err() {
            return;
        }
        let number = self.door.next.fetch_add(1, Ordering::Relaxed);
        tracing::info!(user, number, "a client connected to {name}");
        let (end, told) = oneshot::channel();
        let connection = Connection {
            peer: self.peer.clone(),
            served: Arc::clone(&self.served),
            end,
        };
        self.door.connections().insert(number, connection);
        // What has changed since it was let in was asked of those who were here already.
        if let Some(why) = self.door.table.over(&self.served, &self.peer) {
            self.door.connections().remove(&number);
            tracing::info!(number, why, "a client of {name} is let go");
            return;
        }
        let caller = Caller {
            principal: Principal::User(user),
            grant: None,
            connection: number,
            server: Arc::clone(&name),
        };
        let told = async {
            match told.await {
                Ok(why) => why,
                Err(_) => pending().await,
            }
        };
        let end = self.served.converse(stream, caller, told).await;
        self.door.connections().remove(&number);
        self.door.left.store(true, Ordering::Relaxed);
        match end {
            Ok(why) => tracing::info!(number, why, "a client of {name} has gone"),
            Err(error) => tracing::error!(number, %error, "a client of {name} got no server"),
        }
    }
}

/// Says that there is no time, to somebody who is not waited for.
fn busy(stream: &UnixStream) {
    let answer = Answer::refused(
        "Too many connections have not said what they want yet.",
        "Try again in a few seconds.",
    );
    if let Ok(mut line) = serde_json::to_vec(&answer) {
        line.push(b'\n');
        let _: io::Result<usize> = stream.try_write(&line);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn strangers_who_have_said_nothing_are_sent_on_when_the_door_is_shut() {
        let door = Door::new(Arc::default());
        let meet = || {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let peer = Peer::of(theirs.as_fd()).unwrap();
            (ours, theirs, peer)
        };
        let (mut in_time, theirs, peer) = meet();
        in_time.write_all(b"{\"connect\":\"a\"}\n").await.unwrap();
        door.meet(theirs, peer);
        let (mut silent, theirs, peer) = meet();
        door.meet(theirs, peer);
        let (mut half, theirs, peer) = meet();
        half.write_all(b"{\"connect\"").await.unwrap();
        door.meet(theirs, peer);
        assert!(!door.is_empty());
        door.shut();
        for (stream, words) in [
            (&mut in_time, "There is no server a for you here."),
            (&mut silent, "Connect again."),
            (&mut half, "Connect again."),
        ] {
            let mut told = String::new();
            stream.read_to_string(&mut told).await.unwrap();
            assert!(told.contains(words), "{told}");
        }
        door.emptied().await;
    }
}
