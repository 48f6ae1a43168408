//! Where the shared counters are, and the password that is shown there.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Where Redis listens if nothing else is said.
const PORT: u16 = 6379;
/// Bytes of a password.
const LONGEST_PASSWORD: usize = 4 << 10;

/// A Redis or Valkey server, without its password: `redis://[USER@]HOST[:PORT][/DB]`, or
/// `redis+unix://[USER@]/PATH[?db=DB]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub(super) place: Place,
    /// Whom the password is for; without one, Redis's default user.
    pub(in crate::limits) user: Option<String>,
    /// Which of the server's databases.
    pub(super) database: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A name or an address without brackets, and a port.
    Tcp(String, u16),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORMS: &str =
            "it is redis://HOST:PORT/DB or redis+unix:///PATH, such as redis://127.0.0.1:6379/0";
        if text.starts_with("rediss://") || text.starts_with("valkeys://") {
            return Err("capwarden speaks no TLS to Redis: put a TLS tunnel on this host in front of it, and name that".to_owned());
        }
        let tcp = ["redis://", "valkey://"];
        let unix = ["redis+unix://", "valkey+unix://"];
        let after = |forms: [&str; 2]| forms.iter().find_map(|form| text.strip_prefix(form));
        let is_unix = after(unix).is_some();
        let Some(rest) = after(unix).or_else(|| after(tcp)) else {
            return Err(FORMS.to_owned());
        };
        // A path may have an @ in it, a user's name has no slash.
        let (user, rest) = match rest.split_once('@') {
            Some((user, after)) if !user.contains('/') => (Some(user), after),
            _ => (None, rest),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err("every user of this host can read the password there: write it into a file that only root can read, and name that with --counters-password-file".to_owned());
        }
        let user = user.filter(|user| !user.is_empty()).map(str::to_owned);
        let number = |text: &str| {
            text.parse::<u32>()
                .map_err(|_| format!("{text:?} is no database's number; {FORMS}"))
        };
        if is_unix {
            let (path, database) = match rest.split_once('?') {
                Some((path, query)) => match query.strip_prefix("db=") {
                    Some(database) => (path, number(database)?),
                    None => return Err(format!("{query:?} is not known; write ?db=0")),
                },
                None => (rest, 0),
            };
            if path.len() < 2 || !path.starts_with('/') {
                return Err(
                    "the path of a socket is written from the root: redis+unix:///run/redis/redis.sock"
                        .to_owned(),
                );
            }
            return Ok(Self {
                place: Place::Unix(path.into()),
                user,
                database,
            });
        }
        let (host, database) = match rest.split_once('/') {
            Some((host, "")) => (host, 0),
            Some((host, database)) => (host, number(database)?),
            None => (rest, 0),
        };
        let (host, port) = match host.strip_prefix('[') {
            Some(inner) => match inner.split_once(']') {
                Some((host, port)) => (
                    host,
                    port.strip_prefix(':').or(port.is_empty().then_some("")),
                ),
                None => return Err(FORMS.to_owned()),
            },
            None => match host.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (host, Some("")),
            },
        };
        let port = match port {
            Some("") => Some(PORT),
            port => port.and_then(|port| port.parse().ok()),
        };
        match port {
            Some(port) if !host.is_empty() && port > 0 && !host.contains(['?', '#', '@', ' ']) => {
                Ok(Self {
                    place: Place::Tcp(host.to_owned(), port),
                    user,
                    database,
                })
            }
            _ => Err(FORMS.to_owned()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp(host, port) if host.contains(':') => write!(f, "redis://[{host}]:{port}")?,
            Place::Tcp(host, port) => write!(f, "redis://{host}:{port}")?,
            Place::Unix(path) => write!(f, "redis+unix://{}", path.display())?,
        }
        match (&self.place, self.database) {
            (_, 0) => Ok(()),
            (Place::Tcp(..), database) => write!(f, "/{database}"),
            (Place::Unix(_), database) => write!(f, "?db={database}"),
        }
    }
}

/// A password. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub(super) String);

impl Password {
    /// The first line of a file that nobody else can read.
    ///
    /// # Errors
    ///
    /// It cannot be read, others can read it, or there is no password in it.
    pub fn from_file(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let own = rustix::process::geteuid().as_raw();
        if metadata.mode() & 0o077 != 0 || (metadata.uid() != 0 && metadata.uid() != own) {
            let mode = metadata.mode() & 0o7777;
            let why = format!(
                "others can read it (mode {mode:04o}, user {}); type: chown root: {path} && chmod 600 {path}",
                metadata.uid(),
                path = path.display()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        if metadata.len() > u64::try_from(LONGEST_PASSWORD).unwrap_or(u64::MAX) {
            return Err(io::Error::other("it is too long for a password"));
        }
        let text = fs::read_to_string(path)?;
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(Self(line.to_owned())),
            _ => Err(io::Error::other("its first line is empty")),
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}
