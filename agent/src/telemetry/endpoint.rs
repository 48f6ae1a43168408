//! Where the metrics can be read: `/metrics` over HTTP/1, on loopback or a Unix socket. Nobody is
//! asked who they are, so it is offered to nobody outside the host.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use hyper::{
    Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::Metrics;
use crate::kernel::LocalSocket;

/// Connections at once; more wait.
const CONNECTIONS: usize = 16;
/// How long a request may take to arrive.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a connection may last, its answer included.
const CONNECTION: Duration = Duration::from_secs(30);
/// Bytes that are read ahead of a connection, which bounds the length of a request.
const BUFFER: usize = 16 << 10;
const HEADERS: usize = 64;
/// After a connection could not be accepted: the host has no more descriptors, say.
const BREATH: Duration = Duration::from_millis(200);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const PATH: &str = "/metrics";

/// An address to serve at: `127.0.0.1:9464`, `[::1]:9464`, or `unix:/run/capwarden/metrics.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A port of a loopback address; with port 0, the kernel chooses one.
    Loopback(SocketAddr),
    /// A Unix socket that only its owner may connect to.
    Unix(PathBuf),
}

/// Metrics cannot be served there.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics at {endpoint}: {source}")]
pub struct ServeError {
    endpoint: Endpoint,
    source: io::Error,
}

impl ServeError {
    /// Where it was to be.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What the system said.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return match path.is_absolute() {
                true => Ok(Self::Unix(path)),
                false => Err("a socket's path begins with `/`".to_owned()),
            };
        }
        let wanted = "it is an address and a port, 127.0.0.1:9464, or unix:/PATH";
        let address: SocketAddr = text.parse().map_err(|_| wanted.to_owned())?;
        match address.ip().is_loopback() {
            true => Ok(Self::Loopback(address)),
            false => Err(format!(
                "{} is no loopback address, and whoever reaches the metrics may read them; use 127.0.0.1 or unix:/PATH",
                address.ip()
            )),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(address) => write!(f, "http://{address}{PATH}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Metrics that are being served, until this is dropped.
#[derive(Debug)]
pub struct Serving {
    endpoint: Endpoint,
    listener: Arc<Listener>,
    _accepting: JoinSet<()>,
}

impl Serving {
    /// Where, with the port that the kernel chose.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A copy of the listener, for another process.
    ///
    /// # Errors
    ///
    /// There are no descriptors left.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        match &*self.listener {
            Listener::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Listener::Unix(listener) => listener.copy(),
        }
    }

    /// Has what is at the path, if the listener was another process's until now: it goes when this is dropped.
    pub fn own(&self) {
        if let Listener::Unix(listener) = &*self.listener {
            listener.own();
        }
    }

    /// Serves nobody any more, and leaves that to who has a copy.
    pub fn leave(self) {
        if let Listener::Unix(listener) = &*self.listener {
            listener.leave();
        }
    }
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(LocalSocket),
}

impl Endpoint {
    /// Serves metrics here, on the runtime that this is called on.
    ///
    /// # Errors
    ///
    /// Somebody else serves there, or the system refuses.
    pub async fn serve(self, metrics: Arc<Metrics>) -> Result<Serving, ServeError> {
        self.serve_later(metrics, None, std::future::ready(()))
            .await
    }

    /// The same once `when` is over, by the listener of another process, if it is at this place.
    ///
    /// # Errors
    ///
    /// As of [`serve`](Self::serve).
    pub async fn serve_later(
        self,
        metrics: Arc<Metrics>,
        passed: Option<OwnedFd>,
        when: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Serving, ServeError> {
        let passed = passed.and_then(|passed| self.adopt(passed).transpose());
        let listening = match passed {
            Some(Ok(Listener::Tcp(listener))) => listener.local_addr().map(|here| {
                let endpoint = Self::Loopback(here);
                (Listener::Tcp(listener), endpoint)
            }),
            Some(adopted) => adopted.map(|listener| (listener, self.clone())),
            None => self.listen().await,
        };
        match listening {
            Ok((listener, endpoint)) => {
                let listener = Arc::new(listener);
                let mut accepting = JoinSet::new();
                let accepted = Arc::clone(&listener);
                accepting.spawn(async move {
                    when.await;
                    accept(&accepted, metrics).await;
                });
                Ok(Serving {
                    endpoint,
                    listener,
                    _accepting: accepting,
                })
            }
            Err(source) => Err(ServeError {
                endpoint: self,
                source,
            }),
        }
    }

    /// A listener of another process, if it is here.
    fn adopt(&self, passed: OwnedFd) -> io::Result<Option<Listener>> {
        match self {
            Self::Loopback(address) => {
                let listener = std::net::TcpListener::from(passed);
                let here = listener.local_addr()?;
                let any = address.port() == 0;
                if here.ip() != address.ip() || (here.port() != address.port() && !any) {
                    return Ok(None);
                }
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(|listener| Some(Listener::Tcp(listener)))
            }
            Self::Unix(path) => Ok(LocalSocket::adopt(passed, path)?.map(Listener::Unix)),
        }
    }

    async fn listen(&self) -> io::Result<(Listener, Self)> {
        match self {
            Self::Loopback(address) => {
                let listener = TcpListener::bind(address).await?;
                let bound = listener.local_addr()?;
                Ok((Listener::Tcp(listener), Self::Loopback(bound)))
            }
            Self::Unix(path) => {
                let own = rustix::process::geteuid().as_raw();
                Ok((Listener::Unix(LocalSocket::bind(path, own)?), self.clone()))
            }
        }
    }
}

async fn accept(listener: &Listener, metrics: Arc<Metrics>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(seat) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let metrics = Arc::clone(&metrics);
        let accepted = match listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                connections.spawn(converse(stream, metrics, true, seat));
            }),
            Listener::Unix(listener) => listener.accept().await.map(|stream| {
                connections.spawn(converse(stream, metrics, false, seat));
            }),
        };
        if let Err(error) = accepted {
            tracing::debug!(%error, "a reader of the metrics was not accepted");
            sleep(BREATH).await;
        }
    }
}

/// One connection.
async fn converse<S>(stream: S, metrics: Arc<Metrics>, named: bool, seat: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let response = answer(&request, named, &metrics);
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(BUFFER)
        .max_headers(HEADERS);
    let done = timeout(
        CONNECTION,
        http.serve_connection(TokioIo::new(stream), service),
    );
    if let Ok(Err(error)) = done.await {
        tracing::debug!(%error, "a reader of the metrics went away");
    }
    drop(seat);
}

/// The answer to a request; `named` if it must be to this host by name or address.
fn answer<B>(request: &Request<B>, named: bool, metrics: &Metrics) -> Response<String> {
    let path = request.uri().path();
    if named && !request.headers().get(HOST).is_none_or(is_local) {
        // A web page can have its own name lead here. It is told nothing.
        return told(StatusCode::FORBIDDEN, "not a name of this host\n");
    }
    if path != PATH {
        return told(StatusCode::NOT_FOUND, "there is /metrics\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = told(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
        let allow = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allow);
        return response;
    }
    match metrics.exposition() {
        Ok(text) => response(StatusCode::OK, OPEN_METRICS, text),
        Err(_) => told(StatusCode::INTERNAL_SERVER_ERROR, "cannot be written\n"),
    }
}

fn told(status: StatusCode, text: &str) -> Response<String> {
    response(status, PLAIN, text.to_owned())
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether a `Host` names this host: `localhost`, or a loopback address, with or without a port.
pub(crate) fn is_local(host: &HeaderValue) -> bool {
    let Ok(host) = host.to_str() else {
        return false;
    };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_stays_on_the_host() {
        for good in ["127.0.0.1:9464", "127.7.0.1:0", "[::1]:9464", "unix:/run/m"] {
            assert!(good.parse::<Endpoint>().is_ok(), "{good}");
        }
        for bad in [
            "0.0.0.0:9464",
            "[::]:9464",
            "192.0.2.1:9464",
            "localhost:9464",
            "127.0.0.1",
            "9464",
            "unix:run/m",
            "unix:",
            "",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn endpoint_answers_to_names_of_this_host_only() {
        let asked = |path: &str, host: &str, method: Method| {
            let request = Request::builder().method(method).uri(path);
            let request = request.header(HOST, host).body(()).unwrap();
            answer(&request, true, &Metrics::new()).status().as_u16()
        };
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:9464", "[::1]:9464"] {
            assert_eq!(asked(PATH, host, Method::GET), 200, "{host}");
        }
        for host in [
            "example.org",
            "example.org:9464",
            "127.0.0.1.example.org",
            "",
        ] {
            assert_eq!(asked(PATH, host, Method::GET), 403, "{host}");
        }
        assert_eq!(asked("/", "localhost", Method::GET), 404);
        assert_eq!(asked(PATH, "localhost", Method::POST), 405);
        assert_eq!(asked(PATH, "localhost", Method::HEAD), 200);
    }

    #[tokio::test]
    async fn endpoint_on_a_unix_socket_is_taken_once_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.sock");
        let endpoint = Endpoint::Unix(path.clone());
        let metrics = Arc::new(Metrics::new());
        let serving = endpoint.clone().serve(Arc::clone(&metrics)).await.unwrap();
        let taken = endpoint.serve(metrics).await;
        assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(serving);
        tokio::task::yield_now().await; // its task is ended by whoever runs next
        assert!(!path.exists());
    }
}
