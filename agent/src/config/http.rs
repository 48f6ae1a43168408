//! The keys of a server that is served over HTTP as well.

use std::{net::SocketAddr, path::PathBuf};

use crate::{
    gate::http::{Issuer, UpstreamAddress},
    policy::reading::{Field, Gather, Loaded},
};

use super::server::{absolute, flag, parsed};

/// How a server is served over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpConfig {
    /// Where clients come.
    pub listen: SocketAddr,
    /// Where the server is, if it speaks HTTP itself.
    pub upstream: Option<UpstreamAddress>,
    /// Who is believed of a server elsewhere.
    pub upstream_ca: Option<PathBuf>,
    /// The certificate and its key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// What clients call this server.
    pub hosts: Vec<String>,
    /// Whose web pages may speak to it.
    pub origins: Vec<String>,
    /// Whether every user of this host is let in, without a grant.
    pub anonymous: bool,
    /// Who accounts for tokens.
    pub issuer: Option<Issuer>,
}

/// The same, of one file.
#[derive(Clone, Debug, Default)]
pub(super) struct HttpDraft {
    listen: Option<SocketAddr>,
    upstream: Option<UpstreamAddress>,
    upstream_ca: Option<PathBuf>,
    tls: Option<(PathBuf, PathBuf)>,
    hosts: Option<Vec<String>>,
    origins: Option<Vec<String>>,
    anonymous: Option<bool>,
    issuer: Option<Issuer>,
}

impl HttpDraft {
    /// Reads one of its keys; whether it is one.
    pub(super) fn read(&mut self, field: &Field<'_>, gather: &mut Gather) -> bool {
        const LISTEN: &str = "Write an address and a port: 127.0.0.1:8808.";
        const UPSTREAM: &str = "Write where the server is: http://127.0.0.1:8000/mcp.";
        const ISSUER: &str = "Write the address of the authorization server: https://id.example.";
        match field.key {
            "listen" => self.listen = gather.keep(parsed(field, "an address and a port", LISTEN)),
            "upstream" => self.upstream = gather.keep(parsed(field, "an address", UPSTREAM)),
            "upstream_ca" => self.upstream_ca = gather.keep(absolute(field)),
            "tls" => self.tls = gather.keep(tls(field)),
            "hosts" => self.hosts = gather.keep(names(field, host)),
            "origins" => self.origins = gather.keep(names(field, origin)),
            "anonymous" => self.anonymous = gather.keep(flag(field)),
            "oauth_issuer" => self.issuer = gather.keep(parsed(field, "an address", ISSUER)),
            _ => return false,
        }
        true
    }

    /// What a later file says takes the place of what this one says.
    pub(super) fn then(self, later: Self) -> Self {
        Self {
            listen: later.listen.or(self.listen),
            upstream: later.upstream.or(self.upstream),
            upstream_ca: later.upstream_ca.or(self.upstream_ca),
            tls: later.tls.or(self.tls),
            hosts: later.hosts.or(self.hosts),
            origins: later.origins.or(self.origins),
            anonymous: later.anonymous.or(self.anonymous),
            issuer: later.issuer.or(self.issuer),
        }
    }

    /// Whether the server speaks HTTP itself.
    pub(super) fn has_upstream(&self) -> bool {
        self.upstream.is_some()
    }

    /// What it comes to; none where the server is not served over HTTP. An error is a key that makes no
    /// sense without `listen`.
    pub(super) fn done(self) -> Result<Option<HttpConfig>, &'static str> {
        let Some(listen) = self.listen else {
            let said = [
                (self.upstream.is_some(), "upstream"),
                (self.upstream_ca.is_some(), "upstream_ca"),
                (self.tls.is_some(), "tls"),
                (self.hosts.is_some(), "hosts"),
                (self.origins.is_some(), "origins"),
                (self.anonymous.is_some(), "anonymous"),
                (self.issuer.is_some(), "oauth_issuer"),
            ];
            return match said.into_iter().find(|(said, _)| *said) {
                Some((_, key)) => Err(key),
                None => Ok(None),
            };
        };
        Ok(Some(HttpConfig {
            listen,
            upstream: self.upstream,
            upstream_ca: self.upstream_ca,
            tls: self.tls,
            hosts: self.hosts.unwrap_or_default(),
            origins: self.origins.unwrap_or_default(),
            anonymous: self.anonymous.unwrap_or_default(),
            issuer: self.issuer,
        }))
    }
}

fn tls(field: &Field<'_>) -> Loaded<(PathBuf, PathBuf)> {
    const HELP: &str =
        "Write both files: { cert: /etc/capwarden/tls.pem, key: /etc/capwarden/tls.key }.";
    let (section, mut gather) = field.open("a certificate and its key", &["cert", "key"])?;
    let certificate = gather.keep(section.read("cert", absolute));
    let key = gather.keep(section.read("key", absolute));
    for (name, there) in [("cert", &certificate), ("key", &key)] {
        if matches!(there, Some(None)) && gather.is_clean() {
            gather.add(section.missing(name, HELP));
        }
    }
    gather.done(certificate.flatten().zip(key.flatten()))
}

fn names(field: &Field<'_>, one: fn(&Field<'_>) -> Loaded<String>) -> Loaded<Vec<String>> {
    let items = field.items("a list", "Write a list: [capture.example].")?;
    Gather::all(items.iter().map(one))
}

fn host(item: &Field<'_>) -> Loaded<String> {
    const HELP: &str =
        "Write what clients call this server: capture.example or capture.example:8443.";
    let text = item.text("a host", HELP)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    match !text.is_empty() && text.chars().all(fits) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(item.fault("is no host", HELP)),
    }
}

fn origin(item: &Field<'_>) -> Loaded<String> {
    const HELP: &str =
        "Write an origin as browsers do: https://ui.example or http://localhost:6274.";
    let text = item.text("an origin", HELP)?;
    let schemes = ["https://", "http://"];
    let host = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    match host.is_some_and(|host| !host.is_empty() && host.chars().all(fits)) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(item.fault("is no origin", HELP)),
    }
}
