//! The same for a browser on this host: the sessions of every agent, with packets over time against their
//! cap, and the calls that wait; one click stops, approves or denies.
//!
//! It listens on a loopback address only. Whoever asks for news, or for something to be done, shows a token
//! that is made at the start and is in no file: it is printed once, in the fragment of an address, which
//! browsers send nowhere. Requests to other names than this host's are refused, since a web page can have its
//! own name lead here. The page fetches nothing from anywhere else, and puts in what it is told as text.
//!
//! | file | what |
//! |---|---|
//! | `answer` | what becomes of a request |
//! | `news` | what goes on, as the page is told of it |
//! | `seats` | how many are connected at once, and for how long who has shown no token |
//! | `page.html`, `.css`, `.js` | the page |

mod answer;
mod news;
mod seats;
#[cfg(test)]
mod tests;

use std::{fmt, future::pending, io, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use sha2::{Digest as _, Sha256};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
    task::{JoinSet, spawn_blocking},
    time::sleep,
};

use super::{AskError, top::Desk};
use crate::{kernel::tcp_owner, principal::code};
use answer::Door;
use news::Board;
use seats::Seats;

/// How long the head of a request may take.
const REQUEST: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const BUFFER: usize = 16 << 10;
const HEADERS: usize = 64;
/// How long nobody is let in after the system has refused.
const BREATH: Duration = Duration::from_millis(100);
/// Random bytes of a token.
const SECRET: usize = 32;

/// Where the page is to be: a loopback address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(SocketAddr);

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address: SocketAddr = text
            .parse()
            .map_err(|_| "it is an address and a port, such as 127.0.0.1:9465".to_owned())?;
        match address.ip().is_loopback() {
            true => Ok(Self(address)),
            false => Err(format!(
                "{} is no loopback address, and the page is for this host",
                address.ip()
            )),
        }
    }
}

/// Why the page cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// See [`AskError`].
    #[error(transparent)]
    Agents(#[from] AskError),
    /// Somebody else listens there, or the system refuses.
    #[error("cannot serve a page at {at}: {source}")]
    Listen {
        /// Where.
        at: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The host has no randomness.
    #[error("cannot read /dev/urandom: {0}")]
    Random(io::Error),
}

/// The page, which is being served once [`Web::serve`] is awaited.
pub struct Web {
    listener: TcpListener,
    at: SocketAddr,
    /// The secret itself is not kept.
    address: String,
    door: Arc<Door>,
    seats: Arc<Seats>,
}

impl Web {
    /// Listens, and begins to hear the agents of the host. What is stopped is stopped by root, or by whoever
    /// called sudo. Must be called within a runtime.
    ///
    /// # Errors
    ///
    /// The place is taken, or the agents cannot be found.
    pub async fn open(
        place: Place,
        desk: impl Desk + 'static,
        sudo_uid: Option<u32>,
    ) -> Result<Self, WebError> {
        let failed = |source| WebError::Listen {
            at: place.0,
            source,
        };
        let listener = TcpListener::bind(place.0).await.map_err(failed)?;
        let at = listener.local_addr().map_err(failed)?;
        let secret = code::random::<SECRET>().map_err(WebError::Random)?;
        let token = code::encode(&secret);
        let board = Arc::new(Board::default());
        board.follow()?;
        Ok(Self {
            listener,
            at,
            address: format!("http://{at}/#{token}"),
            door: Arc::new(Door::new(digest(&token), board, desk, sudo_uid)),
            seats: Seats::new(),
        })
    }

    /// The page's address with its token, to be shown once to whom it is for.
    #[must_use]
    pub fn reveal(&mut self) -> String {
        std::mem::take(&mut self.address)
    }

    /// Serves until it is dropped. Who finds no seat is turned away, so that nobody waits behind others.
    pub async fn serve(self) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let (stream, theirs) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "a browser was not let in");
                    sleep(BREATH).await;
                    continue;
                }
            };
            if let Some(room) = self.seats.room() {
                let (door, seats) = (Arc::clone(&self.door), Arc::clone(&self.seats));
                connections.spawn(converse(stream, theirs, door, seats, room));
            }
        }
    }
}

/// One connection.
async fn converse(
    stream: TcpStream,
    theirs: SocketAddr,
    door: Arc<Door>,
    seats: Arc<Seats>,
    room: OwnedSemaphorePermit,
) {
    let Ok(ours) = stream.local_addr() else {
        return;
    };
    // It asks the kernel, and may have to read a table.
    let Ok(user) = spawn_blocking(move || tcp_owner(theirs, ours)).await else {
        return;
    };
    let Some(seat) = seats.sit(room, user).map(Arc::new) else {
        tracing::debug!(user, "has too many connections without a token");
        return;
    };
    let its = Arc::clone(&seat);
    let service = service_fn(move |request| {
        let (door, seat) = (Arc::clone(&door), Arc::clone(&its));
        async move {
            if door.lets_in(&request) && !seat.is_members() {
                return Ok::<_, std::convert::Infallible>(Door::full());
            }
            Ok(door.answer(request).await)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(BUFFER)
        .max_headers(HEADERS);
    let moment = async {
        sleep(seats.moment()).await;
        if !seat.is_guests() {
            pending::<()>().await;
        }
    };
    tokio::select! {
        served = http.serve_connection(TokioIo::new(stream), service) => {
            if let Err(error) = served {
                tracing::debug!(%error, "a browser went away");
            }
        }
        () = moment => {}
    }
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// What a token is known by.
fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}
