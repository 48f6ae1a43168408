//! Who comes in, and what each may occupy: the same for every kind of server behind a front.

use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body as _, Bytes, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    capacity::{Capacity, MESSAGES},
    headers::{self, Doors},
    metadata::{self, Issuer, Metadata},
    refusal::{Body, Refusal},
    shares::{Share, Shares},
    tether::{Tether, Tethers, Tied},
};
use crate::principal::{Caller, Grants, HTTP_CONNECTIONS, Principal};

/// How long a client may take to send a message.
const BODY_TIME: Duration = Duration::from_secs(30);

/// The numbers of the connections that all requests are which belong to no MCP session: one for
/// each user, and one for each grant.
const USERS: u64 = HTTP_CONNECTIONS + (1 << 32);
const GRANTS: u64 = HTTP_CONNECTIONS + (1 << 48);

/// What a front asks of whoever comes.
#[derive(Clone, Debug)]
pub struct ReceptionPlan {
    /// What the server is called.
    pub server: Arc<str>,
    /// Hosts that it may be asked for as, besides its own address: `capture.example`, or with a port.
    pub hosts: Vec<String>,
    /// Origins that may speak to it, besides those of this host: `https://inspector.example`.
    pub origins: Vec<String>,
    /// Who may use it: whoever bears one of these grants. Without them, every user of this host may.
    pub grants: Option<Arc<Grants>>,
    /// Who is told of a grant before a request that came with it is looked at.
    pub prepare: Option<Arc<dyn Prepare>>,
    /// Who accounts for its tokens, for clients that ask.
    pub issuer: Option<Issuer>,
}

/// Gets ready for whoever bears a grant: where it names a policy, that is loaded first.
pub trait Prepare: fmt::Debug + Send + Sync {
    /// Ends when requests under the grant of this id can be decided. Called with each; takes no time
    /// but for the first.
    fn prepare(&self, grant: &Arc<str>) -> BoxFuture<'static, ()>;
}

/// Where a front listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    pub(super) tls: bool,
    /// How much there is for all who come.
    pub(super) capacity: Capacity,
}

impl Place {
    /// The names, with ports, under which it may be asked for; that under which it is known first.
    fn hosts(&self, named: &[String]) -> Vec<String> {
        let (port, ip) = (self.address.port(), self.address.ip());
        // The port that nobody writes.
        let bare = port == if self.tls { 443 } else { 80 };
        let own = (!ip.is_unspecified()).then(|| match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        });
        let local = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned);
        let local = local.into_iter().filter(|_| ip.is_loopback());
        let mut hosts: Vec<String> = Vec::new();
        for name in named.iter().cloned().chain(own).chain(local) {
            if name.ends_with(']') || !has_port(&name) {
                hosts.extend(bare.then(|| name.clone()));
                hosts.push(format!("{name}:{port}"));
            } else {
                hosts.push(name);
            }
        }
        let mut known = HashSet::new();
        hosts.retain(|host| known.insert(host.clone()));
        hosts
    }
}

fn has_port(host: &str) -> bool {
    let port = host.rsplit_once(':').map(|(_, port)| port);
    port.is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whose connection a request came over.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// The user, where the other end is on this host.
    pub(super) user: Option<u32>,
}

/// Who sends a request.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    pub(super) principal: Principal,
    /// The grant that it came with; what it begins hangs on that.
    pub(super) tether: Option<Arc<Tether>>,
    /// The number of the connection that all its requests are which belong to no MCP session.
    shared: u64,
}

impl Visitor {
    /// The caller of what it asks over a connection of this number.
    pub(super) fn caller(&self, server: &Arc<str>, connection: u64) -> Caller {
        let grant = self.tether.as_ref().map(|tether| tether.grant());
        Caller {
            principal: self.principal.clone(),
            grant: grant.map(Arc::clone),
            connection,
            server: Arc::clone(server),
        }
    }

    /// The same of requests that belong to no MCP session.
    pub(super) fn shared_caller(&self, server: &Arc<str>) -> Caller {
        self.caller(server, self.shared)
    }
}

/// A message that was read, and what it occupies until it is dropped.
pub(super) type Held = Share<Principal>;

/// Who answers requests that were let in.
pub(super) trait Service: Send + Sync + 'static {
    /// The reception in front of it.
    fn reception(&self) -> &Reception;

    /// Answers a request.
    fn answer(
        self: Arc<Self>,
        visitor: Visitor,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Refusal>> + Send;

    /// A grant has ended: so does what it began.
    fn ended(self: &Arc<Self>, grant: &str);
}

/// The reception of a front.
pub(super) struct Reception {
    pub(super) server: Arc<str>,
    doors: Doors,
    grants: Option<(Arc<Grants>, Tethers)>,
    prepare: Option<Arc<dyn Prepare>>,
    metadata: Option<Metadata>,
    room: Arc<Shares<Principal>>,
    requests: Arc<Shares<Principal>>,
    /// What may be open at once: connections, and streams of a server.
    open: Arc<Semaphore>,
    /// The longest message.
    limit: usize,
}

impl Reception {
    /// The reception at a listener; `limit` is how long a message may be.
    pub(super) fn new(plan: &ReceptionPlan, at: &Place, limit: usize) -> Self {
        let hosts = at.hosts(&plan.hosts);
        let base = |host: &String| format!("{}://{host}", if at.tls { "https" } else { "http" });
        let metadata = plan.issuer.as_ref().zip(hosts.first());
        let metadata = metadata.map(|(issuer, host)| Metadata::new(base(host), issuer));
        let grants = plan.grants.as_ref().map(|grants| {
            let tethers = Tethers::new(Arc::clone(grants), Arc::clone(&plan.server));
            (Arc::clone(grants), tethers)
        });
        Self {
            server: Arc::clone(&plan.server),
            doors: Doors {
                hosts: Some(hosts),
                origins: plan.origins.clone(),
            },
            grants,
            prepare: plan.prepare.clone(),
            metadata,
            room: Shares::new(MESSAGES),
            // One for each connection.
            requests: Shares::new(at.capacity.connections),
            open: Arc::new(Semaphore::new(at.capacity.open)),
            limit,
        }
    }

    /// One more connection or stream may be open until this is dropped; none if there is no room.
    pub(super) fn descriptor(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.open).try_acquire_owned().ok()
    }

    /// Tells of grants that end, for ever.
    pub(super) async fn watch(&self, ended: impl Fn(&str)) {
        match &self.grants {
            Some((_, tethers)) => tethers.watch(ended).await,
            None => std::future::pending().await,
        }
    }

    /// Who sends a request with these headers.
    fn visitor(&self, peer: &Peer, headers: &HeaderMap) -> Result<Visitor, Refusal> {
        let Some((grants, tethers)) = &self.grants else {
            // Without grants, the listener is a loopback address, and the kernel knows them all.
            let user = peer.user.ok_or_else(|| Refusal::unauthorized(None))?;
            return Ok(Visitor {
                principal: Principal::User(user),
                tether: None,
                shared: USERS + u64::from(user),
            });
        };
        let Some(token) = headers::bearer(headers)? else {
            return Err(Refusal::unauthorized(None));
        };
        let bearer = grants.verify(token, &self.server).map_err(|rejected| {
            let user = peer
                .user
                .map_or_else(|| "not known".to_owned(), |user| user.to_string());
            tracing::warn!(user, why = %rejected, "refused a token");
            Refusal::unauthorized(Some("the token is not good here"))
        })?;
        Ok(Visitor {
            principal: Principal::Bearer(Arc::clone(&bearer.name)),
            tether: Some(tethers.of(&bearer.grant)),
            shared: GRANTS + bearer.number(),
        })
    }

    /// The headers that go on to a server: a token that is for this front is not for it.
    pub(super) fn forwarded(&self, headers: &HeaderMap) -> HeaderMap {
        let mut forwarded = headers::end_to_end(headers);
        if self.grants.is_some() {
            forwarded.remove(AUTHORIZATION);
        }
        forwarded
    }

    /// Reads a message whole; `dropped` is told the length of one that is too long.
    pub(super) async fn read(
        &self,
        visitor: &Visitor,
        body: Incoming,
        dropped: impl Fn(u64),
    ) -> Result<(Bytes, Held), Refusal> {
        let limit = self.limit;
        let too_long = |bytes| {
            dropped(bytes);
            Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the message is too long: at most {limit} bytes are read"),
            )
        };
        let announced = body.size_hint();
        let most = u64::try_from(limit).unwrap_or(u64::MAX);
        if announced.lower() > most {
            return Err(too_long(announced.lower()));
        }
        let reading = async {
            let upper = announced
                .upper()
                .and_then(|length| usize::try_from(length).ok());
            let mut held = self
                .room
                .take(&visitor.principal, upper.unwrap_or(limit).min(limit))
                .await;
            let whole = Limited::new(body, limit).collect().await?.to_bytes();
            held.shrink(whole.len());
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((whole, held))
        };
        match timeout(BODY_TIME, reading).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                Err(too_long(most.saturating_add(1)))
            }
            Ok(Err(_)) => Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "the message broke off",
            )),
            Err(_) => Err(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                "the message did not come in time",
            )),
        }
    }
}

/// Lets a request in, and has it answered; a stream of the answer ends with its grant.
pub(super) async fn receive<S: Service>(
    service: Arc<S>,
    peer: Peer,
    request: Request<Incoming>,
) -> Response<Body> {
    let method = request.method().clone();
    match admit(service, &peer, request).await {
        Ok(response) => response,
        Err((refusal, metadata)) => {
            tracing::warn!(%method, status = %refusal.status, why = refusal.why, "refused a request");
            refusal.response(metadata.as_deref())
        }
    }
}

/// A refusal, and where more is to be read about tokens.
type Refused = (Refusal, Option<String>);

async fn admit<S: Service>(
    service: Arc<S>,
    peer: &Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refused> {
    let reception = service.reception();
    let plain = |refusal| (refusal, None);
    reception
        .doors
        .admit(request.uri(), request.headers())
        .map_err(plain)?;
    if let Some(metadata) = &reception.metadata
        && metadata::is_path(request.uri().path())
    {
        return match *request.method() {
            Method::GET => Ok(metadata.response()),
            _ => Err(plain(Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "it is read with GET",
            ))),
        };
    }
    let place = reception.metadata.as_ref().map(Metadata::url);
    let visitor = reception.visitor(peer, request.headers());
    let visitor = visitor.map_err(|refusal| (refusal, place.clone()))?;
    let Some(held) = reception.requests.try_take(&visitor.principal, 1) else {
        return Err(plain(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many of your requests are under way: try again when some have been answered",
        )));
    };
    let tether = visitor.tether.clone();
    if let (Some(prepare), Some(tether)) = (&reception.prepare, &tether) {
        prepare.prepare(tether.grant()).await;
    }
    let answer = Arc::clone(&service).answer(visitor, request);
    let response = match &tether {
        None => answer.await.map_err(plain)?,
        Some(tether) => tokio::select! {
            response = answer => response.map_err(plain)?,
            () = tether.cut() => {
                let over = Refusal::unauthorized(Some("the grant has ended"));
                return Err((over, place));
            }
        },
    };
    let streams = response.headers().get(CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.as_bytes();
        kind.get(..17)
            .is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"))
    });
    Ok(match streams {
        true => response.map(|body| Tied::new(body, tether, held).boxed_unsync()),
        false => response,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_is_known_by_its_names_and_by_nothing_else() {
        let hosts = |address: &str, tls, named: &[&str]| {
            let address = address.parse().unwrap();
            let named: Vec<String> = named.iter().map(|name| (*name).to_owned()).collect();
            Place {
                address,
                tls,
                capacity: Capacity::of(0),
            }
            .hosts(&named)
        };
        assert_eq!(
            hosts("127.0.0.1:8808", false, &[]),
            ["127.0.0.1:8808", "localhost:8808", "[::1]:8808"]
        );
        assert_eq!(
            hosts("[::1]:80", false, &[]),
            [
                "[::1]",
                "[::1]:80",
                "localhost",
                "localhost:80",
                "127.0.0.1",
                "127.0.0.1:80"
            ]
        );
        assert_eq!(
            hosts("10.0.0.1:443", true, &["c.example", "p.example:8443"]),
            [
                "c.example",
                "c.example:443",
                "p.example:8443",
                "10.0.0.1",
                "10.0.0.1:443"
            ]
        );
        assert_eq!(
            hosts("0.0.0.0:8443", true, &["c.example"]),
            ["c.example:8443"]
        );
        assert_eq!(
            hosts("[::]:1", true, &["[2001:db8::1]"]),
            ["[2001:db8::1]:1"]
        );
    }
}
