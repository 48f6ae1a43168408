//! The server behind the front: where it is, and one request to it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method, Request, Response, Uri,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep},
};

use super::{
    capacity::Capacity,
    refusal::{Body, Refusal},
    shares::{Share, Shares},
    tether::Tied,
    tls::Authorities,
    turns::{NoTurn, Turn, Turns},
};
use crate::{
    gate::{CallEnd, envelope::Envelope},
    principal::Principal,
};

/// How long a connection that is not used is kept. Servers close theirs after five seconds.
const IDLE: Duration = Duration::from_secs(4);
/// How long a server may take to be reached.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server that was just started may take to listen.
const START: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_millis(50);
/// How long a request may wait for its turn. Many clients give up after a minute.
const TURN: Duration = Duration::from_secs(30);

/// What an answer that may go on for long calls itself.
const STREAM: &[u8] = b"text/event-stream";

/// What a message is to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A request, which it works on.
    Call,
    /// An answer, a notification, the end of a session. Calls may wait for it, so that it does not
    /// wait for them.
    Word,
}

impl Kind {
    pub(super) fn of(envelope: &Envelope<'_>) -> Self {
        match (&envelope.method, &envelope.id) {
            (Some(_), Some(_)) => Self::Call,
            _ => Self::Word,
        }
    }
}

/// Whether an answer may go on for long. Any other has come whole, however long the client takes for
/// it.
pub(super) fn goes_on(response: &Response<Body>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.as_bytes().get(..STREAM.len()));
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case(STREAM))
}

/// The same response, which holds something until it has ended.
pub(super) fn hold<T: Send + Unpin + 'static>(response: Response<Body>, held: T) -> Response<Body> {
    response.map(|body| Tied::new(body, None, held).boxed_unsync())
}

/// Who something is asked for; the gate itself is nobody.
pub(super) type Who = Option<Principal>;

/// A stream's place among all that may be open.
pub(super) type Open = (Share<Principal>, OwnedSemaphorePermit);

/// The address of a server that speaks streamable HTTP: on this host, or behind TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamAddress(Uri);

/// Why an address is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is no address.
    #[error("an address is written http://127.0.0.1:8000/mcp, or https://server.example/mcp")]
    Malformed,
    /// It is not HTTP.
    #[error("{0} is neither written http:// nor https://")]
    Scheme(String),
    /// It is not on this host, and there is no TLS.
    #[error(
        "{0} is not on this host, and what is said to it would be readable on the way: write https://, or http:// with 127.0.0.1, [::1] or localhost"
    )]
    Elsewhere(String),
}

impl UpstreamAddress {
    /// Where the server listens.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let host = self.0.host()?;
        let address = host.trim_start_matches('[').trim_end_matches(']');
        Some(SocketAddr::new(address.parse().ok()?, self.0.port_u16()?))
    }
}

impl std::str::FromStr for UpstreamAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let uri: Uri = text.parse().map_err(|_| AddressError::Malformed)?;
        let host = uri.host().ok_or(AddressError::Malformed)?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let elsewhere = || AddressError::Elsewhere(text.to_owned());
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") if authority.contains('@') => return Err(AddressError::Malformed),
            Some("https") => return Ok(Self(uri)),
            _ => return Err(AddressError::Scheme(text.to_owned())),
        }
        let loopback = |host: &str| host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if host != "localhost" && !loopback(host.trim_start_matches('[').trim_end_matches(']')) {
            return Err(elsewhere());
        }
        if authority.contains('@') || uri.port_u16().is_none() {
            return Err(AddressError::Malformed);
        }
        if host != "localhost" {
            return Ok(Self(uri));
        }
        // Not looked up: it is what it says.
        text.replacen("localhost", "127.0.0.1", 1)
            .parse()
            .map(Self)
            .map_err(|_| AddressError::Malformed)
    }
}

impl UpstreamAddress {
    /// Whether it is reached over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }
}

impl std::fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A server, and the connections to it.
pub(super) struct Upstream {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    address: Uri,
    calls: Arc<Turns<Who>>,
    words: Arc<Turns<Who>>,
    streams: Arc<Shares<Principal>>,
    /// Until when it may not listen yet.
    starting: Instant,
}

impl Upstream {
    /// A server, vouched for by these authorities; `starting` if it was only just started.
    pub(super) fn new(
        address: &UpstreamAddress,
        authorities: &Authorities,
        starting: bool,
        capacity: &Capacity,
    ) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        connector.enforce_http(false);
        let builder = HttpsConnectorBuilder::new().with_tls_config(authorities.config());
        // An address without TLS is one of this host.
        let connector = builder
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(capacity.calls)
            .pool_timer(TokioTimer::new())
            .build(connector);
        let now = Instant::now();
        Self {
            client,
            address: address.0.clone(),
            calls: Turns::new(capacity.calls, capacity.connections, TURN),
            words: Turns::new(capacity.words, capacity.connections, TURN),
            streams: Shares::new(capacity.streams),
            starting: if starting { now + START } else { now },
        }
    }

    /// Waits for a turn with the server, which ends when it is dropped.
    pub(super) async fn turn(&self, kind: Kind, who: Who) -> Result<Turn<Who>, Refusal> {
        let turns = match kind {
            Kind::Call => &self.calls,
            Kind::Word => &self.words,
        };
        turns.take(&who).await.map_err(|why| match why {
            NoTurn::Full => Refusal::busy(
                "too many requests wait for the server behind capwarden: try again later",
            ),
            NoTurn::Late => Refusal::busy(
                "the server behind capwarden was busy with other requests for too long: try again later",
            ),
        })
    }

    /// A place for a stream that stays open, if there is one, and a descriptor for it.
    pub(super) fn stream(
        &self,
        who: &Principal,
        descriptor: Option<OwnedSemaphorePermit>,
    ) -> Option<Open> {
        self.streams.try_take(who, 1).zip(descriptor)
    }

    /// Sends a request; returns when the response's head is there. An error says too what is known
    /// of a call in it: nothing was sent if nobody listened, else it may have been carried out.
    pub(super) async fn send(
        &self,
        method: &Method,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response<Incoming>, (Refusal, CallEnd)> {
        loop {
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = self.address.clone();
            *request.headers_mut() = headers.clone();
            match self.client.request(request).await {
                Ok(response) => return Ok(response),
                // Nobody listened, so nothing was sent.
                Err(error) if error.is_connect() && Instant::now() < self.starting => {
                    sleep(RETRY).await;
                }
                Err(error) => {
                    let nobody = error.is_connect();
                    let error: &dyn std::error::Error = &error;
                    let cause = error
                        .source()
                        .map_or_else(|| error.to_string(), ToString::to_string);
                    tracing::warn!(address = %self.address, cause, "the server cannot be reached");
                    let end = if nobody {
                        CallEnd::RpcError
                    } else {
                        CallEnd::Lost
                    };
                    let why = format!("the server behind capwarden cannot be reached: {cause}");
                    return Err((Refusal::upstream(why), end));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_on_this_host_or_behind_tls() {
        let address = |text: &str| text.parse::<UpstreamAddress>().map(|a| a.to_string());
        for good in [
            "http://127.0.0.1:8000/mcp",
            "http://[::1]:1/",
            "http://127.8.9.1:80/a/b",
            "https://server.example/mcp",
            "https://10.0.0.1:8443/mcp",
        ] {
            assert_eq!(address(good).as_deref(), Ok(good));
        }
        assert_eq!(
            address("http://localhost:8000/mcp").as_deref(),
            Ok("http://127.0.0.1:8000/mcp")
        );
        assert!(matches!(
            address("ftp://127.0.0.1:8000/mcp"),
            Err(AddressError::Scheme(_))
        ));
        for elsewhere in [
            "http://example.com/mcp",
            "http://10.0.0.1:8000/mcp",
            "http://localhost.example:80/",
            "http://0.0.0.0:80/",
        ] {
            assert!(
                matches!(address(elsewhere), Err(AddressError::Elsewhere(_))),
                "{elsewhere}"
            );
        }
        for wrong in [
            "",
            "/mcp",
            "127.0.0.1:80",
            "http://127.0.0.1/mcp",
            "http://a@127.0.0.1:1/",
            "https://a@server.example/",
            "https://",
        ] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
