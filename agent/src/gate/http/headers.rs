//! What a request's headers must say before its body is believed.

use hyper::{
    HeaderMap, Method, StatusCode, Uri,
    header::{
        ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName, HeaderValue,
        ORIGIN,
    },
};

use super::{
    base64,
    refusal::{INVALID_PARAMS, Refusal},
};
use crate::gate::{
    envelope::{Envelope, Id},
    json::{self, Members},
    trace::TraceParent,
};

/// The session that a request belongs to.
pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// The revision of the protocol.
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// The method of the body.
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// The tool, prompt or resource that the body names.
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// Where a message of the stateless protocol says its version.
const BODY_VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// And what its client can do.
const BODY_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// The revisions of the protocol that the front carries. 2024-11-05 had a transport of its own,
/// but there are servers of today that agree on it over this one.
const SESSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
const STATELESS: [&str; 1] = [STATELESS_VERSION];

/// How the protocol treats connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Era {
    /// 2025-03-26 to 2025-11-25: a handshake, and a session that may have an id.
    Sessions,
    /// 2026-07-28: each request stands for itself.
    Stateless,
}

/// Whom a front listens to, by what they say of where they come from. A browser says so truly,
/// whatever page it shows: that is what keeps other sites' pages out.
#[derive(Clone, Debug, Default)]
pub(super) struct Doors {
    /// The names and addresses under which the front may be asked for, with the port, in lower
    /// case; none: whatever the client likes (a Unix socket has no name).
    pub(super) hosts: Option<Vec<String>>,
    /// Origins besides those of this host.
    pub(super) origins: Vec<String>,
}

impl Doors {
    /// Checks `Host` and `Origin`.
    pub(super) fn admit(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let forbidden = |why: String| Refusal::new(StatusCode::FORBIDDEN, why);
        if let Some(hosts) = &self.hosts {
            let host = single(headers, &HOST)?.unwrap_or_default();
            // A request line may name the host too, and then must name the same.
            let named = uri.authority().map_or(host, |authority| authority.as_str());
            let known = |host: &str| hosts.iter().any(|known| known.eq_ignore_ascii_case(host));
            if !known(host) || !known(named) {
                return Err(forbidden(format!(
                    "the host {host:?} is not this one: ask for {}",
                    hosts.join(" or ")
                )));
            }
        }
        match single(headers, &ORIGIN)? {
            // Browsers leave it out where a page only wants to be shown something; they say so.
            None => match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
                None | Some(b"same-origin" | b"none") => Ok(()),
                Some(_) => Err(forbidden(
                    "pages of others may not ask this server".to_owned(),
                )),
            },
            Some(origin) if self.origins.iter().any(|known| known == origin) => Ok(()),
            Some(origin) if of_this_host(origin) => Ok(()),
            Some(origin) => Err(forbidden(format!(
                "pages of {origin:?} may not speak to this server"
            ))),
        }
    }
}

/// An origin of the host's own: a page that something on this host served.
fn of_this_host(origin: &str) -> bool {
    let Some((_, host)) = origin
        .split_once("://")
        .filter(|(scheme, _)| matches!(*scheme, "http" | "https"))
    else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

/// A header that may stand once, as text; an error if it stands twice or is not text.
pub(super) fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Refusal::mismatch(format!(
            "the header {name} stands twice: servers differ in which one they read"
        )));
    }
    match value.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(Refusal::mismatch(format!(
            "the header {name} has characters that a header may not have"
        ))),
    }
}

/// The session id, if there is one.
pub(super) fn session(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    single(headers, &SESSION)
}

/// Checks what a request says of the body it sends, and of those it takes.
pub(super) fn media(method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
    let events = accepts(headers, "text", "event-stream");
    if method == Method::GET {
        return if events {
            Ok(())
        } else {
            Err(Refusal::new(
                StatusCode::NOT_ACCEPTABLE,
                "a GET is answered with text/event-stream: say in Accept that you take it",
            ))
        };
    }
    if method != Method::POST {
        return Ok(());
    }
    content(headers)?;
    if !events || !accepts(headers, "application", "json") {
        return Err(Refusal::new(
            StatusCode::NOT_ACCEPTABLE,
            "an answer is application/json or text/event-stream: say in Accept that you take both",
        ));
    }
    Ok(())
}

/// Checks what a request says of the body it sends.
pub(super) fn content(headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = single(headers, &CONTENT_TYPE)?.unwrap_or_default();
    let (kind, parameters) = kind.split_once(';').unwrap_or((kind, ""));
    let charset = parameters.trim();
    let utf8 = charset.is_empty()
        || charset.split_once('=').is_some_and(|(name, value)| {
            name.trim().eq_ignore_ascii_case("charset")
                && value.trim_matches([' ', '"']).eq_ignore_ascii_case("utf-8")
        });
    if !kind.trim().eq_ignore_ascii_case("application/json") || !utf8 {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "a message is application/json, in UTF-8",
        ));
    }
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "compressed messages are refused",
        ));
    }
    Ok(())
}

/// Whether the client takes a media type. A range without quality 0 that covers it is enough.
fn accepts(headers: &HeaderMap, kind: &str, subtype: &str) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let refused = |parameter: &str| {
                parameter
                    .strip_prefix("q=")
                    .and_then(|quality| quality.parse::<f32>().ok())
                    == Some(0.0)
            };
            let covered = parts.next().and_then(|range| range.split_once('/'));
            covered.is_some_and(|(k, s)| {
                (k == "*" && s == "*")
                    || (k.eq_ignore_ascii_case(kind)
                        && (s == "*" || s.eq_ignore_ascii_case(subtype)))
            }) && !parts.any(refused)
        })
}

/// The era that a request's headers say it is of; the version, if it is not known.
pub(super) fn era(headers: &HeaderMap) -> Result<Result<Era, String>, Refusal> {
    Ok(match single(headers, &VERSION)? {
        // The first revision with this transport did not have the header yet.
        None => Ok(Era::Sessions),
        Some(version) if SESSIONS.contains(&version) => Ok(Era::Sessions),
        Some(version) if STATELESS.contains(&version) => Ok(Era::Stateless),
        Some(version) => Err(version.to_owned()),
    })
}

/// What a message is answered whose version is not known. One that names its version itself is of
/// a stateless revision, and is told of those only, as `server/discover` would.
pub(super) fn unknown(version: &str, envelope: Option<&Envelope<'_>>) -> Refusal {
    let params = envelope.and_then(|envelope| Members::parse(envelope.params?).ok());
    let stateless = params.is_some_and(|params| version_in_meta(&params).is_some());
    let sessions = SESSIONS.iter().rev().filter(|_| !stateless);
    let known: Vec<&str> = STATELESS.iter().rev().chain(sessions).copied().collect();
    Refusal::unsupported(version, &known).of(envelope.and_then(id_of))
}

/// What a message of the stateless protocol is answered where the server does not speak it.
pub(super) fn only_sessions(envelope: &Envelope<'_>) -> Refusal {
    let known: Vec<&str> = SESSIONS.iter().rev().copied().collect();
    Refusal::unsupported(STATELESS_VERSION, &known).of(id_of(envelope))
}

/// The revision of the stateless protocol that a server is asked for.
pub(super) const STATELESS_VERSION: &str = "2026-07-28";

/// The id by which a message can be answered.
pub(super) fn id_of<'a>(envelope: &Envelope<'a>) -> Option<&'a str> {
    match &envelope.id {
        Some((Id::Text(_) | Id::Number(_), text)) => Some(*text),
        _ => None,
    }
}

/// The version that a message of the stateless protocol says, as JSON, and whether it says it once.
fn version_in_meta<'a>(params: &Members<'a>) -> Option<(&'a str, bool)> {
    let meta = Members::parse(params.get("_meta")?).ok()?;
    let mut said = meta.iter().filter(|(key, _)| *key == BODY_VERSION);
    Some((said.next()?.1, said.next().is_none()))
}

/// Checks that a request of the stateless protocol says what its client can do, which a server that
/// hears of it on pipes could refuse in no way that HTTP has.
pub(super) fn capabilities(envelope: &Envelope<'_>) -> Result<(), Refusal> {
    let params = envelope
        .params
        .and_then(|params| Members::parse(params).ok());
    let meta = params.and_then(|params| Members::parse(params.get("_meta")?).ok());
    let said = meta.and_then(|meta| meta.get(BODY_CAPABILITIES));
    if said.is_some_and(|said| said.starts_with('{')) {
        return Ok(());
    }
    let why = format!(
        "a request of this revision says what its client can do in _meta, as {BODY_CAPABILITIES}"
    );
    Err(Refusal {
        code: INVALID_PARAMS,
        ..Refusal::new(StatusCode::BAD_REQUEST, why)
    }
    .of(id_of(envelope)))
}

/// Checks that the headers say what the body says: who routes by the one, and who acts by the
/// other, must mean the same. In the eras before the headers, they may be missing, but not lie.
pub(super) fn agree(era: Era, headers: &HeaderMap, envelope: &Envelope<'_>) -> Result<(), Refusal> {
    agreement(era, headers, envelope).map_err(|refusal| refusal.of(id_of(envelope)))
}

fn agreement(era: Era, headers: &HeaderMap, envelope: &Envelope<'_>) -> Result<(), Refusal> {
    let Some(method) = envelope.method.as_deref() else {
        return match era {
            Era::Sessions => Ok(()),
            Era::Stateless => Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "a client of this revision sends requests and notifications only",
            )),
        };
    };
    let params = envelope
        .params
        .and_then(|params| Members::parse(params).ok());
    let member = |key: &str| params.as_ref().and_then(|params| params.get(key));

    let said = params.as_ref().and_then(version_in_meta);
    let version = single(headers, &VERSION)?;
    match said {
        Some((said, true)) if json::string(said).as_deref() == version => {}
        Some(_) => {
            return Err(Refusal::mismatch(
                "the header MCP-Protocol-Version and the body's _meta name different versions",
            ));
        }
        None if era == Era::Stateless && envelope.id.is_some() => {
            return Err(Refusal {
                code: INVALID_PARAMS,
                ..Refusal::new(
                    StatusCode::BAD_REQUEST,
                    format!(
                        "a request of this revision says its version in _meta, as {BODY_VERSION}"
                    ),
                )
            });
        }
        None => {}
    }

    let missing = |name: &str| {
        Refusal::mismatch(format!(
            "the header {name} is missing: in this revision every message has it"
        ))
    };
    match single(headers, &METHOD)? {
        Some(header) if header == method => {}
        Some(header) => {
            return Err(Refusal::mismatch(format!(
                "the header Mcp-Method says {header:?}, the body {method:?}"
            )));
        }
        None if era == Era::Stateless => return Err(missing("Mcp-Method")),
        None => {}
    }

    let named = match method {
        "tools/call" | "prompts/get" => member("name"),
        "resources/read" => member("uri"),
        _ => None,
    };
    let named = named.and_then(json::string);
    match (single(headers, &NAME)?, named) {
        (Some(header), named) => {
            let says = base64::header_value(header);
            if says.is_none() || says.as_deref() != named.as_deref() {
                return Err(Refusal::mismatch(format!(
                    "the header Mcp-Name says {header:?}, the body {}",
                    named.map_or("nothing".to_owned(), |named| format!("{named:?}")),
                )));
            }
        }
        (None, Some(_)) if era == Era::Stateless => return Err(missing("Mcp-Name")),
        (None, _) => {}
    }
    Ok(())
}

/// The headers that concern one connection only, or that the next one gets of its own.
const HOP: [&str; 14] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "origin",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The token of the one `Authorization: Bearer` header; none if there is no such header.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = all.next() else {
        return Ok(None);
    };
    let unreadable = || Refusal::unauthorized(Some("the header Authorization is no bearer token"));
    if all.next().is_some() {
        return Err(unreadable());
    }
    let value = value.to_str().map_err(|_| unreadable())?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("Bearer") => Ok(Some(token.trim())),
        _ => Err(unreadable()),
    }
}

/// The span of the client's that a request is a part of, if one header says so.
pub(super) fn trace_parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut all = headers.get_all("traceparent").iter();
    match (all.next(), all.next()) {
        (Some(one), None) => TraceParent::parse(one.to_str().ok()?),
        _ => None,
    }
}

/// Whether the client may have headers dropped that the request is understood by: who names them
/// in `Connection` would have the server read another request than was checked.
pub(super) fn connection(headers: &HeaderMap) -> Result<(), Refusal> {
    const CHECKED: [&str; 6] = [
        "accept",
        "authorization",
        "content-type",
        "host",
        "last-event-id",
        "origin",
    ];
    match named_in_connection(headers)
        .find(|name| name.starts_with("mcp-") || CHECKED.contains(&name.as_str()))
    {
        None => Ok(()),
        Some(name) => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            format!(
                "the header {name} concerns more than this connection: leave it out of Connection"
            ),
        )),
    }
}

fn named_in_connection(headers: &HeaderMap) -> impl Iterator<Item = String> {
    let values = headers.get_all("connection").iter();
    values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|name| String::from_utf8_lossy(name).trim().to_ascii_lowercase())
}

/// The headers that go on: all but those of the connection, and those that open a server to other
/// sites' pages.
pub(super) fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = named_in_connection(headers).collect();
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let text = name.as_str();
        if !HOP.contains(&text)
            && !text.starts_with("access-control-")
            && !named.iter().any(|named| named == text)
        {
            kept.append(name, HeaderValue::clone(value));
        }
    }
    kept
}
