//! Connections of clients: taken, timed, counted.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::front::{Front, FrontPlan};
use crate::{gate::conversation::Rooms, principal::Principal, session::SessionEnd};

/// Connections at once, where there are descriptors for them.
const CONNECTIONS: u64 = 16_384;
/// Descriptors that are kept for all else: captures, logs, stores.
const OTHERS: u64 = 4_608;
/// Descriptors of a connection: its own, and that of one to the server.
const EACH: u64 = 2;
/// How many descriptors are wanted.
pub const DESCRIPTORS: u64 = EACH * CONNECTIONS + OTHERS;
/// Connections that may wait to be taken. The host may allow fewer.
const BACKLOG: u32 = 4_096;
/// How long a client may take for a request's head, and stay without one.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long and how many a request's headers may be.
const HEAD_BYTES: usize = 64 * 1024;
const HEADERS: usize = 100;
/// How long one who is turned away is listened to, and how many are at once.
const FAREWELL: Duration = Duration::from_millis(200);
const FAREWELLS: usize = 64;
/// How long nobody is let in when the host has no more descriptors.
const PAUSE: Duration = Duration::from_millis(100);

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\nretry-after: 1\r\n\r\n";

/// Listens at an address.
///
/// # Errors
///
/// Somebody else listens there, or it is not this host's.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // What is left of earlier connections does not keep the port taken.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// How many connections there may be at once for so many descriptors.
fn connections(descriptors: u64) -> usize {
    let spared = OTHERS.min(descriptors / 4);
    let most = (descriptors.saturating_sub(spared) / EACH).clamp(1, CONNECTIONS);
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// Serves a front on a loopback address until it is dropped, with no more connections than so many
/// `descriptors` allow; others are turned away. `owner` says which user's the socket
/// at the other end is, given its address and ours; connections of nobody are closed.
pub async fn serve<G: Rooms>(
    plan: &FrontPlan,
    listener: TcpListener,
    gate: Arc<G>,
    ends: mpsc::Receiver<SessionEnd>,
    descriptors: u64,
    owner: impl Fn(SocketAddr, SocketAddr) -> Option<u32>,
) -> std::io::Result<()> {
    let here = listener.local_addr()?;
    let front = Front::new(plan, hosts(here), gate);
    let most = connections(descriptors);
    tracing::info!(
        at = %here,
        connections = most,
        descriptors,
        "serving; more connections than this are turned away"
    );
    let room = Arc::new(Semaphore::new(most));
    let leaving = Arc::new(Semaphore::new(FAREWELLS));
    let mut connections = JoinSet::new();
    connections.spawn({
        let front = Arc::clone(&front);
        async move { front.notices(ends).await }
    });
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                sleep(PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            // Of very many, not all.
            if let Ok(place) = Arc::clone(&leaving).try_acquire_owned() {
                connections.spawn(async move {
                    turn_away(stream).await;
                    drop(place);
                });
            }
            continue;
        };
        let Some(user) = owner(peer, here) else {
            tracing::warn!(%peer, "closed a connection: the kernel does not say whose it is");
            continue;
        };
        let front = Arc::clone(&front);
        connections.spawn(async move {
            converse(front, Principal::User(user), stream).await;
            drop(place);
        });
    }
}

/// The names under which a listener may be asked for.
fn hosts(here: SocketAddr) -> Vec<String> {
    let port = here.port();
    let mut hosts = vec![here.to_string()];
    for name in ["localhost", "127.0.0.1", "[::1]"] {
        let host = format!("{name}:{port}");
        if !hosts.contains(&host) {
            hosts.push(host);
        }
        // The port that nobody writes.
        if port == 80 {
            hosts.push(name.to_owned());
        }
    }
    hosts
}

async fn converse<G: Rooms>(front: Arc<Front<G>>, principal: Principal, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let answer = Arc::clone(&front).serve(principal.clone(), request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}

/// There is no room: the client is told, and not kept. What it sends is taken meanwhile, since a
/// connection that is closed with something unread takes back what was said.
async fn turn_away(mut stream: TcpStream) {
    let farewell = async {
        stream.write_all(FULL).await?;
        stream.shutdown().await?;
        let mut unheard = [0; 1024];
        while stream.read(&mut unheard).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    let _ = timeout(FAREWELL, farewell).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_the_descriptors() {
        for (descriptors, expected) in [
            (0, 1),
            (256, 96),
            (1_024, 384),
            (20_000, 7_696),
            (DESCRIPTORS, 16_384),
            (u64::MAX, 16_384),
        ] {
            assert_eq!(connections(descriptors), expected, "{descriptors}");
        }
    }
}
