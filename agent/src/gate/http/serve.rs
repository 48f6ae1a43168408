//! Connections of clients: taken, timed, counted.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    capacity::{BACKLOG, Capacity, FAREWELLS},
    front::{Front, FrontPlan},
    reception::{Peer, Place, Service, receive},
    shares::Shares,
    tls::Tls,
};
use crate::{gate::conversation::Rooms, session::SessionEnd};

/// How long a client may take for a request's head, and stay without one.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long a client may take to agree on keys.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long and how many a request's headers may be.
const HEAD_BYTES: usize = 64 * 1024;
const HEADERS: usize = 100;
/// How long one who is turned away is listened to.
const FAREWELL: Duration = Duration::from_millis(200);
/// How long nobody is let in when the host has no more descriptors.
const PAUSE: Duration = Duration::from_millis(100);

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\nretry-after: 1\r\n\r\n";

/// Listens at an address.
///
/// # Errors
///
/// Somebody else listens there, or it is not this host's.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // What is left of earlier connections does not keep the port taken.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Says when nobody is let in any more: who is here is answered, for a time, and others come elsewhere.
#[derive(Debug)]
pub struct Leave {
    told: Option<watch::Receiver<Option<Instant>>>,
    patience: Duration,
    /// How long the last answer may take, to come and to be read.
    pub(super) last: Duration,
    /// Kept while connections are taken.
    _taking: Option<Arc<()>>,
}

impl Leave {
    /// Never.
    #[must_use]
    pub fn never() -> Self {
        Self {
            told: None,
            patience: Duration::MAX,
            last: Duration::MAX,
            _taking: None,
        }
    }

    /// From when this says. For so long after that, `patience`, it is waited for a server's answers where nothing goes on that
    /// it has started, and at least so long, `last`, once that has ended; and so long, `last`, for a client to read so much that
    /// there is room for what it is told in the end, and again to read that. What comes back besides is gone once nobody is let in.
    #[must_use]
    pub fn when(
        told: watch::Receiver<Option<Instant>>,
        patience: Duration,
        last: Duration,
    ) -> (Self, Weak<()>) {
        let taking = Arc::new(());
        let taken = Arc::downgrade(&taking);
        let leave = Self {
            told: Some(told),
            patience,
            last,
            _taking: Some(taking),
        };
        (leave, taken)
    }

    /// For who is here already.
    pub(super) fn of_others(&self) -> Self {
        Self {
            told: self.told.clone(),
            patience: self.patience,
            last: self.last,
            _taking: None,
        }
    }

    /// Waits until it is said. Since when it is so.
    pub(super) async fn told(&self) -> Instant {
        if let Some(mut told) = self.told.clone()
            && let Ok(told) = told.wait_for(Option::is_some).await
            && let Some(since) = *told
        {
            return since;
        }
        std::future::pending().await
    }

    /// Waits until nobody waits for a server's answer any more.
    pub(super) async fn late(&self) {
        let since = self.told().await;
        sleep(self.patience.saturating_sub(since.elapsed())).await;
    }
}

/// Where clients come.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub tcp: TcpListener,
    /// With this certificate; without TLS, the address is a loopback address.
    pub tls: Option<Tls>,
    /// How many may come at once; of others, those who wait are told to come again.
    pub capacity: Capacity,
    /// Until when.
    pub leave: Leave,
}

/// Whose connections are told apart: the users of this host, and the addresses of others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Origin {
    User(u32),
    Address(IpAddr),
}

impl Listener {
    pub(super) fn place(&self) -> io::Result<Place> {
        Ok(Place {
            address: self.tcp.local_addr()?,
            tls: self.tls.is_some(),
            capacity: self.capacity,
        })
    }

    /// Takes connections for a service until it is told to leave, and returns when the last of them has been answered
    /// then, or until it is dropped. `owner` says which user's the socket at
    /// the other end is, given its address and ours; on a loopback address, connections of nobody
    /// are closed.
    pub(super) async fn take<S: Service>(
        self,
        service: Arc<S>,
        owner: impl Fn(SocketAddr, SocketAddr) -> Option<u32>,
    ) -> io::Result<()> {
        let here = self.tcp.local_addr()?;
        let tls = self.tls.map(Arc::new);
        let places = Shares::new(self.capacity.connections);
        let leaving = Arc::new(Semaphore::new(FAREWELLS));
        let (mut connections, mut watching) = (JoinSet::new(), JoinSet::new());
        watching.spawn({
            let service = Arc::clone(&service);
            async move {
                let ended = |grant: &str| service.ended(grant);
                service.reception().watch(ended).await;
            }
        });
        loop {
            let accepted = tokio::select! {
                accepted = self.tcp.accept() => accepted,
                _ = self.leave.told() => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            while connections.try_join_next().is_some() {}
            let local = peer.ip().to_canonical().is_loopback();
            let user = if local { owner(peer, here) } else { None };
            if local && user.is_none() {
                tracing::warn!(%peer, "closed a connection: the kernel does not say whose it is");
                continue;
            }
            let origin =
                user.map_or_else(|| Origin::Address(peer.ip().to_canonical()), Origin::User);
            let descriptor = service.reception().descriptor();
            let Some((descriptor, place)) = descriptor.zip(places.try_take(&origin, 1)) else {
                // With TLS it would be told only after keys were agreed on; of very many, not all are.
                if tls.is_none()
                    && let Ok(leave) = Arc::clone(&leaving).try_acquire_owned()
                {
                    connections.spawn(async move {
                        turn_away(stream).await;
                        drop(leave);
                    });
                }
                continue;
            };
            let (service, tls) = (Arc::clone(&service), tls.clone());
            let leave = self.leave.of_others();
            connections.spawn(async move {
                let _ = stream.set_nodelay(true);
                let peer = Peer { user };
                match tls {
                    None => converse(service, peer, stream, leave).await,
                    Some(tls) => {
                        let accepting = TlsAcceptor::from(tls.config()).accept(stream);
                        match timeout(HANDSHAKE, accepting).await {
                            Ok(Ok(stream)) => converse(service, peer, stream, leave).await,
                            Ok(Err(error)) => tracing::debug!(%error, "no keys were agreed on"),
                            Err(_) => tracing::debug!("no keys were agreed on in time"),
                        }
                    }
                }
                drop((place, descriptor));
            });
        }
        drop((self.tcp, self.leave));
        while connections.join_next().await.is_some() {}
        Ok(())
    }
}

/// Serves clients in front of an HTTP server, until it is dropped. `owner` says which user's the
/// socket at the other end of a connection on this host is, given its address and ours.
pub async fn serve<G: Rooms>(
    plan: &FrontPlan,
    listener: Listener,
    gate: Arc<G>,
    ends: mpsc::Receiver<SessionEnd>,
    owner: impl Fn(SocketAddr, SocketAddr) -> Option<u32>,
) -> io::Result<()> {
    let front = Front::new(plan, &listener.place()?, listener.leave.of_others(), gate);
    let notices = async {
        front.notices(ends).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = listener.take(Arc::clone(&front), owner) => served,
        () = notices => Ok(()),
    }
}

async fn converse<S: Service>(
    service: Arc<S>,
    peer: Peer,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    leave: Leave,
) {
    let served = service_fn(|request| {
        let answer = receive(Arc::clone(&service), peer.clone(), request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), served);
    let mut serving = pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        _ = leave.told() => {
            // What it has asked is answered.
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
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
        Ok::<_, io::Error>(())
    };
    let _ = timeout(FAREWELL, farewell).await;
}
