//! The transport of 2024-11-05: a stream that says where to post, and then has every message of
//! the server.

pub(super) mod stream;

use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, Response, StatusCode, Uri,
    body::{Body as HttpBody, Bytes},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};

use super::{
    headers::{self, Era},
    refusal::{Body, Refusal, full},
};
use crate::principal::code;

/// Where the stream is.
pub(super) const STREAM: &str = "/sse";
/// Where messages are posted.
pub(super) const MESSAGES: &str = "/messages";

/// Bytes of a session's id.
const ID: usize = 16;

/// A new session's id: 128 random bits.
pub(super) fn new_id() -> Result<String, Refusal> {
    let random = code::random::<ID>().map_err(|error| {
        tracing::error!(%error, "no randomness");
        Refusal::upstream("a session cannot be begun: the host has no randomness")
    })?;
    Ok(code::encode(&random))
}

/// The first event of a session's stream.
pub(super) fn endpoint(id: &str) -> Vec<u8> {
    format!("event: endpoint\ndata: {MESSAGES}?sessionId={id}\n\n").into_bytes()
}

/// The session that a message is posted to.
pub(super) fn session(uri: &Uri) -> Result<&str, Refusal> {
    let mut named = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.strip_prefix("sessionId="));
    match (named.next(), named.next()) {
        (Some(id), None) => Ok(id),
        _ => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("post to the address that the stream of {STREAM} begins with"),
        )),
    }
}

/// Checks the headers of a message: it may be of no other era.
pub(super) fn check(headers: &HeaderMap) -> Result<(), Refusal> {
    headers::content(headers)?;
    headers::connection(headers)?;
    match headers::era(headers)? {
        Ok(Era::Sessions) => Ok(()),
        _ => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "this is the transport of 2024-11-05: messages of other revisions are posted to /mcp",
        )),
    }
}

/// A response that is a stream of events.
pub(super) fn stream(
    events: impl HttpBody<Data = Bytes, Error = std::io::Error> + Send + 'static,
) -> Response<Body> {
    let mut response = Response::new(events.boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// A message was taken; its answer, if any, comes otherwise.
pub(super) fn accepted() -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}
