//! What an OAuth client is told of where tokens for this server come from (RFC 9728).
//!
//! The tokens are capwarden's own grants all the same: an access token of the issuer's is not taken.

use hyper::{
    Response,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use serde_json::json;

use super::{
    front::ENDPOINT,
    refusal::{Body, full},
};

/// Where it is read.
const PATH: &str = "/.well-known/oauth-protected-resource";

/// Whether that is asked for: for the host, or for the endpoint.
pub(super) fn is_path(path: &str) -> bool {
    path.strip_prefix(PATH)
        .is_some_and(|rest| rest.is_empty() || rest == ENDPOINT)
}

/// Whoever accounts for tokens: the address of an authorization server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer(String);

/// Why something is no [`Issuer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an issuer is an address such as https://login.example, without query and fragment")]
pub struct NoIssuer;

impl std::str::FromStr for Issuer {
    type Err = NoIssuer;

    fn from_str(text: &str) -> Result<Self, NoIssuer> {
        let uri: hyper::Uri = text.parse().map_err(|_| NoIssuer)?;
        let secure = match (uri.scheme_str(), uri.host()) {
            (Some("https"), Some(_)) => true,
            (Some("http"), Some(host)) => matches!(host, "localhost" | "127.0.0.1" | "[::1]"),
            _ => false,
        };
        if !secure || uri.query().is_some() || text.contains(['#', '@']) {
            return Err(NoIssuer);
        }
        Ok(Self(text.to_owned()))
    }
}

/// The metadata of a protected resource.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    /// `https://capture.example:8808`, without a path.
    base: String,
    text: String,
}

impl Metadata {
    /// The metadata of a server that clients reach at `base`.
    pub(super) fn new(base: String, Issuer(issuer): &Issuer) -> Self {
        let text = json!({
            "resource": format!("{base}{ENDPOINT}"),
            "authorization_servers": [issuer],
            "bearer_methods_supported": ["header"],
        });
        Self {
            text: text.to_string(),
            base,
        }
    }

    /// Its address.
    pub(super) fn url(&self) -> String {
        format!("{}{PATH}{ENDPOINT}", self.base)
    }

    pub(super) fn response(&self) -> Response<Body> {
        let mut response = Response::new(full(self.text.clone()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers() {
        for good in ["https://login.example/tenant", "http://127.0.0.1:9000"] {
            assert!(good.parse::<Issuer>().is_ok(), "{good}");
        }
        for bad in [
            "login.example",
            "http://login.example",
            "https://login.example?x",
            "https://a@b",
            "https://",
            "",
        ] {
            assert_eq!(bad.parse::<Issuer>(), Err(NoIssuer), "{bad}");
        }
    }

    #[test]
    fn metadata_is_for_the_host_and_for_the_endpoint() {
        for path in [
            "/.well-known/oauth-protected-resource",
            "/.well-known/oauth-protected-resource/mcp",
        ] {
            assert!(is_path(path));
        }
        assert!(!is_path("/.well-known/oauth-protected-resource/x"));
        assert!(!is_path("/mcp"));
    }
}
