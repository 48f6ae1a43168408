//! TLS towards clients and towards a server elsewhere: 1.2 and 1.3, by rustls.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::gate::conversation::lock;

/// How often the files are looked at, at most.
const LOOK: Duration = Duration::from_secs(1);
/// The longest file that is read.
const LONGEST: u64 = 1 << 20;

/// Why a certificate, a key or authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It cannot be read.
    #[error("cannot read {file}: {source}")]
    Read {
        /// Its path.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{file}: {why}")]
    Content {
        /// Its path.
        file: String,
        /// What is wrong with it.
        why: String,
        /// What was to be in it: `a certificate`.
        wanted: &'static str,
        /// What is in it instead, by the words of its first PEM block: `PRIVATE KEY`.
        found: Option<String>,
    },
    /// Others could read, or change, the key.
    #[error(
        "the key {file} can be used by others (mode {mode:04o}, user {user}): it must be yours, and mode 0600"
    )]
    Exposed {
        /// Its path.
        file: String,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        user: u32,
    },
    /// No authority is known that could vouch for a server.
    #[error("this host has no certificate authorities: name a file of them with --upstream-ca")]
    NoAuthorities,
}

/// A certificate and its key, read again when their files change.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    files: [Stamp; 2],
    looked: Instant,
}

/// What changes when a file does.
type Stamp = Option<(u64, u64, Option<SystemTime>)>;

impl Tls {
    /// Reads the certificate, with those between it and its authority, and its key: both PEM.
    ///
    /// # Errors
    ///
    /// A file cannot be read or is not what it should be, or others than the agent's user and root
    /// may read the key.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let files = [stamp(certificate), stamp(key)];
        Ok(Self {
            current: Mutex::new(Current {
                config: read(certificate, key)?,
                files,
                looked: Instant::now(),
            }),
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        })
    }

    /// What a connection is served with. Files that cannot be used change nothing.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        let mut current = lock(&self.current);
        if current.looked.elapsed() >= LOOK {
            current.looked = Instant::now();
            let files = [stamp(&self.certificate), stamp(&self.key)];
            if files != current.files {
                current.files = files;
                match read(&self.certificate, &self.key) {
                    Ok(config) => {
                        current.config = config;
                        tracing::info!(file = %self.certificate.display(), "a new certificate is used");
                    }
                    Err(error) => tracing::error!(%error, "the certificate used until now stays"),
                }
            }
        }
        Arc::clone(&current.config)
    }
}

fn stamp(file: &Path) -> Stamp {
    let meta = fs::metadata(file).ok()?;
    Some((meta.ino(), meta.len(), meta.modified().ok()))
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(certificate)?;
    if chain.is_empty() {
        let why = "it has no certificate in PEM: -----BEGIN CERTIFICATE-----";
        return Err(wrong(certificate, CERTIFICATE, why.to_owned()));
    }
    let meta = fs::metadata(key).map_err(|source| TlsError::Read {
        file: key.display().to_string(),
        source,
    })?;
    let (mode, user) = (meta.permissions().mode() & 0o7777, meta.uid());
    let own = rustix::process::geteuid().as_raw();
    if mode & 0o077 != 0 || (user != own && user != 0) {
        let file = key.display().to_string();
        return Err(TlsError::Exposed { file, mode, user });
    }
    let secret = PrivateKeyDer::from_pem_slice(&contents(key)?)
        .map_err(|error| wrong(key, KEY, format!("it has no private key in PEM: {error}")))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(certificate, CERTIFICATE, error.to_string()))?;
    let mut config = builder
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|error| {
            let why = format!("with {}: {error}", key.display());
            wrong(certificate, CERTIFICATE, why)
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// What is expected of files.
const CERTIFICATE: &str = "a certificate";
const KEY: &str = "a private key";

fn wrong(file: &Path, wanted: &'static str, why: String) -> TlsError {
    let text = contents(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let block = text.lines().find_map(|line| {
        let words = line.trim().strip_prefix("-----BEGIN ")?;
        words.strip_suffix("-----")
    });
    TlsError::Content {
        file: file.display().to_string(),
        why,
        wanted,
        found: block.map(|words| words.chars().take(40).collect()),
    }
}

fn contents(file: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read {
        file: file.display().to_string(),
        source,
    };
    let length = fs::metadata(file).map_err(failed)?.len();
    if length > LONGEST {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    fs::read(file).map_err(failed)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(&contents(file)?)
        .collect::<Result<_, _>>()
        .map_err(|error| {
            let why = format!("its certificates cannot be read: {error}");
            wrong(file, CERTIFICATE, why)
        })
}

/// Who vouches for a server elsewhere.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<ClientConfig>);

impl Authorities {
    /// Those of a PEM file, or else those that this host trusts.
    ///
    /// # Errors
    ///
    /// The file cannot be used, or the host has none.
    pub fn open(file: Option<&Path>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        let (usable, _) = match file {
            Some(file) => roots.add_parsable_certificates(certificates(file)?),
            None => roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
        };
        match file {
            Some(file) if usable == 0 => {
                let why = "it has no certificate of an authority in PEM".to_owned();
                return Err(wrong(file, CERTIFICATE, why));
            }
            None if usable == 0 => return Err(TlsError::NoAuthorities),
            _ => {}
        }
        Self::of(roots)
    }

    /// Nobody: for a server without TLS.
    ///
    /// # Errors
    ///
    /// Never, with the cryptography that is built in.
    pub fn nobody() -> Result<Self, TlsError> {
        Self::of(RootCertStore::empty())
    }

    fn of(roots: RootCertStore) -> Result<Self, TlsError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|_| TlsError::NoAuthorities)?;
        let config = builder.with_root_certificates(roots).with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn config(&self) -> ClientConfig {
        ClientConfig::clone(&self.0)
    }
}
