//! The options of `run` that say who may come in over HTTP.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use clap::Args;

use crate::{
    config::HttpConfig,
    gate::http::{Authorities, Issuer, Prepare, ReceptionPlan, Tls, TlsError},
    principal::Grants,
};

use super::{
    failure::{Account, Failure},
    paths,
};

/// Who may come in over HTTP, and how.
#[derive(Debug, Default, Args)]
pub(in crate::cli) struct ReceptionOptions {
    /// Let every user of this host in, without a grant
    ///
    /// For development. Without it, clients over HTTP show the token of a grant: see `capwarden
    /// grant create`.
    #[arg(long, requires = "listen")]
    pub(in crate::cli) anonymous: bool,
    /// Let web pages of this origin speak to it
    ///
    /// Pages that this host serves may anyway; pages of others are refused.
    #[arg(long, value_name = "ORIGIN", requires = "listen", value_parser = origin)]
    allow_origin: Vec<String>,
    /// Let clients ask for it by this name
    ///
    /// As in capture.example, or capture.example:8443 where a proxy has another port. Requests for
    /// other hosts are refused.
    #[arg(long, value_name = "NAME", requires = "listen", value_parser = host)]
    host: Vec<String>,
    /// Serve over TLS, with this certificate
    ///
    /// PEM, with those between it and its authority. Both files are read again when they change.
    /// An address that is not a loopback address is served in no other way.
    #[arg(long, value_name = "FILE", requires = "tls_key", requires = "listen")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key
    ///
    /// PEM, which nobody else may be able to read: mode 0600.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Believe these authorities of a server at https://
    ///
    /// PEM. Without it: those that this host trusts.
    #[arg(long, value_name = "FILE", requires = "upstream")]
    upstream_ca: Option<PathBuf>,
    /// Tell clients who accounts for tokens
    ///
    /// The address of an authorization server, for OAuth clients: it stands in
    /// /.well-known/oauth-protected-resource (RFC 9728), which refusals point to. Tokens are those
    /// of grants all the same; what an authorization server issues by itself is not taken.
    #[arg(long, value_name = "URL", requires = "listen")]
    oauth_issuer: Option<Issuer>,
    /// It stands in a configuration, whose keys are then named in place of options.
    #[arg(skip)]
    configured: bool,
}

/// As browsers write it.
fn origin(text: &str) -> Result<String, String> {
    let host = ["https://", "http://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let fits = |host: &&str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        !host.is_empty() && host.chars().all(known)
    };
    match host.filter(fits) {
        Some(_) => Ok(text.to_ascii_lowercase()),
        None => {
            Err("it is an origin, as in https://ui.example or http://localhost:6274".to_owned())
        }
    }
}

fn host(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    match !text.is_empty() && text.chars().all(fits) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("it is a host, as in capture.example or capture.example:8443".to_owned()),
    }
}

impl ReceptionOptions {
    /// As a configuration has them.
    pub(in crate::cli) fn of(http: &HttpConfig) -> Self {
        let (tls_cert, tls_key) = http.tls.clone().unzip();
        Self {
            anonymous: http.anonymous,
            allow_origin: http.origins.clone(),
            host: http.hosts.clone(),
            tls_cert,
            tls_key,
            upstream_ca: http.upstream_ca.clone(),
            oauth_issuer: http.issuer.clone(),
            configured: true,
        }
    }

    /// As whoever wrote it is to write it: an option, or a key.
    fn named(&self, option: &'static str, key: &'static str) -> &'static str {
        if self.configured { key } else { option }
    }

    /// Whether an address may be listened at in this way.
    pub(in crate::cli) fn check(&self, listen: SocketAddr) -> Result<(), Failure> {
        let usage = |what: String, hint: String| Err(Failure::Usage(Account::new(what).hint(hint)));
        let ip = listen.ip();
        if ip.is_loopback() {
            return Ok(());
        }
        if self.tls_cert.is_none() {
            return usage(
                format!(
                    "{ip} is not a loopback address: who is on the way could read and change what is said"
                ),
                format!(
                    "give a certificate with {}, or listen on 127.0.0.1",
                    self.named("--tls-cert and --tls-key", "tls: { cert: FILE, key: FILE }")
                ),
            );
        }
        if self.anonymous {
            let anonymous = self.named("--anonymous", "`anonymous`");
            return usage(
                format!(
                    "{ip} is not a loopback address: {anonymous} would let everybody in who reaches it"
                ),
                format!("leave {anonymous} out, and make a grant with `capwarden grant create`"),
            );
        }
        if ip.is_unspecified() && self.host.is_empty() {
            return usage(
                format!("{ip} is no address that clients ask for"),
                format!(
                    "say with {} what they call this server",
                    self.named("--host", "hosts: [NAME:PORT]")
                ),
            );
        }
        Ok(())
    }

    /// Whether anything is said that is about HTTP.
    pub(in crate::cli) fn is_for_http(&self) -> bool {
        self.anonymous
            || !self.allow_origin.is_empty()
            || !self.host.is_empty()
            || self.tls_cert.is_some()
            || self.oauth_issuer.is_some()
    }

    /// The certificate, if there is to be TLS.
    pub(in crate::cli) fn tls(&self) -> Result<Option<Tls>, Failure> {
        let files = self.tls_cert.as_ref().zip(self.tls_key.as_ref());
        if let Some((certificate, key)) = files {
            paths::is_there(certificate)?;
            paths::is_there(key)?;
        }
        files
            .map(|(certificate, key)| Tls::open(certificate, key).map_err(|error| failed(&error)))
            .transpose()
    }

    /// Who is believed of a server elsewhere.
    pub(in crate::cli) fn authorities(&self, tls: bool) -> Result<Authorities, Failure> {
        if let Some(file) = &self.upstream_ca {
            paths::is_there(file)?;
        }
        match (&self.upstream_ca, tls) {
            (Some(_), false) => Err(Failure::Usage(
                Account::new(format!(
                    "{} is for a server that is reached over TLS",
                    self.named("--upstream-ca", "`upstream_ca`")
                ))
                .hint(format!(
                    "write https:// in {}, or leave it out",
                    self.named("--upstream", "`upstream`")
                )),
            )),
            (file, true) => Authorities::open(file.as_deref()).map_err(|error| failed(&error)),
            (None, false) => Authorities::nobody().map_err(|error| failed(&error)),
        }
    }

    /// What is asked of whoever comes to a server of this name.
    pub(in crate::cli) fn plan(
        self,
        server: Arc<str>,
        grants: Option<Arc<Grants>>,
        prepare: Option<Arc<dyn Prepare>>,
    ) -> ReceptionPlan {
        ReceptionPlan {
            prepare,
            server,
            hosts: self.host,
            origins: self.allow_origin,
            grants,
            issuer: self.oauth_issuer,
        }
    }
}

fn failed(error: &TlsError) -> Failure {
    let hint = match error {
        TlsError::Exposed { file, .. } => format!("chmod 600 {file}"),
        TlsError::NoAuthorities => "apt-get install ca-certificates".to_owned(),
        TlsError::Read { file, .. } => {
            format!("see with `ls -l {file}` whether this user may read it")
        }
        TlsError::Content { wanted, found, .. } => match found.as_deref() {
            None => format!("{wanted} in PEM begins with -----BEGIN; a file in DER is turned into PEM by `openssl x509 -inform der`, or `openssl pkey -inform der`"),
            Some("ENCRYPTED PRIVATE KEY") => {
                "it is encrypted, and nobody is there to type a password: `openssl pkey -in FILE -out PLAIN`, and chmod 600 that".to_owned()
            }
            Some(found) => format!("it begins with {found}: {wanted} is wanted; see whether the certificate and its key stand the right way round"),
        },
    };
    Failure::Usage(Account::new(error.to_string()).hint(hint))
}
