//! What the front answers by itself, over HTTP.

use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde_json::{Value, json};

/// The body of a response.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// JSON-RPC: the request is none.
pub(super) const INVALID: i32 = -32600;
/// JSON-RPC: what is asked lacks something.
pub(super) const INVALID_PARAMS: i32 = -32602;
/// JSON-RPC: something went wrong that is not the client's doing.
pub(super) const INTERNAL: i32 = -32603;
/// MCP 2026-07-28: headers and body disagree, or a header is missing.
pub(super) const HEADER_MISMATCH: i32 = -32020;
/// MCP 2026-07-28: the revision of the protocol is not known.
pub(super) const UNSUPPORTED_VERSION: i32 = -32022;

/// What is told whoever has waited for a server's answer until the agent, which another has followed, waits no longer.
pub(super) const FOLLOWED: &str = "another version of capwarden serves, and this one waits no longer for the server, which has not answered: start \
     again with initialize, and send this again if it is still wanted";
/// The same of a call that had not come to the server then: its user was asked, or its turn had not come.
pub(super) const NOT_SENT: &str = "another version of capwarden serves, and this one has not sent this call to the server: start again with \
     initialize, and send this again if it is still wanted";

/// Why a request is not carried out, in words for whoever sent it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: i32,
    pub(super) why: String,
    /// The request's id as JSON, where it is known.
    pub(super) id: Option<String>,
    pub(super) data: Option<Box<Value>>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self {
            status,
            code: INVALID,
            why: why.into(),
            id: None,
            data: None,
        }
    }

    /// What is asked for is asked for in another way.
    pub(super) fn not_allowed(why: &str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, why)
    }

    /// There is no session of this id; another user's is not there, as far as this one is told.
    pub(super) fn no_session() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "there is no such session (any more): start again with initialize",
        )
    }

    /// It shows no token, or, in these words, one that is not good.
    pub(super) fn unauthorized(why: Option<&str>) -> Self {
        let missing = "a bearer token is needed: `capwarden grant create` makes one";
        Self::new(StatusCode::UNAUTHORIZED, why.unwrap_or(missing))
    }

    /// A header that is missing, malformed, or says something else than the body.
    pub(super) fn mismatch(why: impl Into<String>) -> Self {
        Self {
            code: HEADER_MISMATCH,
            ..Self::new(StatusCode::BAD_REQUEST, why)
        }
    }

    /// A revision of the protocol that is not known.
    pub(super) fn unsupported(asked: &str, known: &[&str]) -> Self {
        Self {
            code: UNSUPPORTED_VERSION,
            data: Some(Box::new(json!({ "supported": known, "requested": asked }))),
            ..Self::new(
                StatusCode::BAD_REQUEST,
                format!("the protocol version {asked:?} is not supported"),
            )
        }
    }

    /// The server behind the gate did not do its part.
    pub(super) fn upstream(why: impl Into<String>) -> Self {
        Self {
            code: INTERNAL,
            ..Self::new(StatusCode::BAD_GATEWAY, why)
        }
    }

    /// There is too much to do: it was not carried out, and can be sent again.
    pub(super) fn busy(why: &str) -> Self {
        Self {
            code: INTERNAL,
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, why)
        }
    }

    #[must_use]
    pub(super) fn of(self, id: Option<&str>) -> Self {
        Self {
            id: id.map(str::to_owned),
            ..self
        }
    }

    /// The response; one that asks for a token tells with `metadata` where more is to be read.
    pub(super) fn response(&self, metadata: Option<&str>) -> Response<Body> {
        let mut error = json!({ "code": self.code, "message": self.why });
        if let (Some(data), Some(error)) = (&self.data, error.as_object_mut()) {
            error.insert("data".to_owned(), Value::clone(data));
        }
        let id = self.id.as_deref().unwrap_or("null");
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{error}}}");
        let mut response = json_response(self.status, line);
        if self.status == StatusCode::UNAUTHORIZED {
            let more = metadata.map(|url| format!(", resource_metadata=\"{url}\""));
            let scheme = format!("Bearer realm=\"capwarden\"{}", more.unwrap_or_default());
            if let Ok(scheme) = HeaderValue::try_from(scheme) {
                response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            }
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            let soon = HeaderValue::from_static("1");
            response.headers_mut().insert(RETRY_AFTER, soon);
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            let allowed = HeaderValue::from_static("POST, GET, DELETE");
            response.headers_mut().insert(ALLOW, allowed);
        }
        response
    }
}

/// A response of one JSON text.
pub(super) fn json_response(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// A body that is there already.
pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}
