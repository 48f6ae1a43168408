//! Bearer grants: made, listed and taken back by the operator; what a request shows is held
//! against them.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Caller, Operator, Principal, Token, code};
use crate::{
    policy::Ceiling,
    store::{Clock, Seen, StateDirectory, StoreError, Table},
};

/// Grants that there may be at once, those that ended included.
pub const MOST_GRANTS: usize = 1_000;

/// Bytes of a grant's name, and of a server's.
const LONGEST_NAME: usize = 64;
const LONGEST_SERVER: usize = 256;
/// Bytes of the name of a policy's file.
const LONGEST_POLICY: usize = 1_024;

/// A grant, as it is kept: everything but the token. Times are seconds since 1970, UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What tells it from every other, also from one of the same name that was there before.
    pub id: String,
    /// The server that it is for.
    pub server: String,
    /// The file of the policy that decides its calls, from the root on; the agent's own if it names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The most that a session may have that is opened under it.
    pub ceiling: Ceiling,
    /// When it was made.
    pub created: u64,
    /// Who made it.
    pub created_by: Operator,
    /// When it ends; never, if that is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// When it was taken back, and by whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<(u64, Operator)>,
    /// SHA-256 of its token, in hexadecimal.
    digest: String,
}

/// Whether a grant can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It can.
    Valid,
    /// Its time is over.
    Expired,
    /// It was taken back.
    Revoked,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        })
    }
}

impl Grant {
    /// Whether it can be used at a moment, in seconds since 1970.
    #[must_use]
    pub fn standing(&self, now: u64) -> Standing {
        match self.expires {
            _ if self.revoked.is_some() => Standing::Revoked,
            Some(expires) if expires <= now => Standing::Expired,
            _ => Standing::Valid,
        }
    }
}

/// What a new grant is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGrant {
    /// What the operator calls it: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// The server that it is for, by its name.
    pub server: String,
    /// The file of the policy that decides its calls, from the root on.
    pub policy: Option<String>,
    /// The most that a session may have.
    pub ceiling: Ceiling,
    /// How long it lasts; without end if that is not said.
    pub lasts: Option<Duration>,
}

/// Why a grant could not be made, taken back or listed.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// A name that cannot be one.
    #[error("{0:?} is no name: it has at most 64 letters, digits, dots, underscores and hyphens")]
    Name(String),
    /// What cannot be a server's name.
    #[error(
        "{0:?} is no server: it is called as `capwarden run` says at its start, and has no slash unless it is an address or an npm package, @scope/name"
    )]
    Server(String),
    /// What cannot be a policy's file.
    #[error(
        "{0:?} cannot be a grant's policy: it is named from the root on, in at most {LONGEST_POLICY} bytes"
    )]
    Policy(String),
    /// There is one of this name.
    #[error("there is a grant {0} already; revoke it first, or choose another name")]
    Taken(String),
    /// There is none of this name.
    #[error("there is no grant {0}")]
    Unknown(String),
    /// It was taken back before.
    #[error("the grant {0} was revoked before")]
    Revoked(String),
    /// There are too many.
    #[error("there are {MOST_GRANTS} grants, and that is as many as there may be")]
    Full,
    /// The host has no randomness.
    #[error("cannot read /dev/urandom: {0}")]
    Random(io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a request is not let in. Whoever sent it is told none of this, only that it was not.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// It shows no token as capwarden writes them.
    #[error("what it shows is no token")]
    NoToken,
    /// The token belongs to no grant.
    #[error("its token is not known")]
    Unknown,
    /// The grant has ended.
    #[error("the grant {name} is {standing}")]
    Ended {
        /// The grant's name.
        name: Arc<str>,
        /// How it ended.
        standing: Standing,
    },
    /// The grant is for another server.
    #[error("the grant {name} is for the server {server}")]
    OtherServer {
        /// The grant's name.
        name: Arc<str>,
        /// The server it is for.
        server: Arc<str>,
    },
    /// The grants cannot be asked.
    #[error(transparent)]
    Unavailable(#[from] StoreError),
}

/// Whoever showed a token that is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The grant's name.
    pub name: Arc<str>,
    /// The grant's id.
    pub grant: Arc<str>,
    /// The server that it is for.
    pub server: Arc<str>,
    /// The file of the policy that decides its calls, if it names one.
    pub policy: Option<Arc<str>>,
    /// The most that a session may have.
    pub ceiling: Ceiling,
}

impl Bearer {
    /// The grant's id as a number of 40 bits.
    #[must_use]
    pub fn number(&self) -> u64 {
        let bytes = code::decode::<5>(&self.grant).unwrap_or_default();
        bytes
            .iter()
            .fold(0, |number, byte| (number << 8) | u64::from(*byte))
    }

    /// Who calls, over a connection of this number.
    #[must_use]
    pub fn caller(&self, connection: u64) -> Caller {
        Caller {
            principal: Principal::Bearer(Arc::clone(&self.name)),
            grant: Some(Arc::clone(&self.grant)),
            connection,
            server: Arc::clone(&self.server),
        }
    }
}

/// All grants. May be used from any thread and by several processes; what one changes, all see with
/// their next question.
pub struct Grants {
    table: Table<Grant>,
    clock: Clock,
    /// Tokens are found under a digest that nobody else can compute, so that how long it takes to
    /// find one tells nothing.
    secret: [u8; 32],
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    seen: Seen,
    by_token: HashMap<[u8; 32], Arc<Entry>>,
    by_id: HashMap<Arc<str>, Arc<Entry>>,
}

struct Entry {
    bearer: Bearer,
    grant: Grant,
}

impl Grants {
    /// Opens the grants of a state directory.
    ///
    /// # Errors
    ///
    /// The store cannot be used, or the host has no randomness.
    pub fn open(directory: &StateDirectory) -> Result<Self, GrantError> {
        Self::open_with(directory, Clock::system())
    }

    /// The same, told by another clock.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn open_with(directory: &StateDirectory, clock: Clock) -> Result<Self, GrantError> {
        Ok(Self {
            table: Table::open(directory, "grants")?,
            clock,
            secret: code::random().map_err(GrantError::Random)?,
            known: Mutex::default(),
        })
    }

    /// Makes a grant. Its token is not kept: this is the only time it can be shown. A grant of the
    /// same name that has ended is replaced.
    ///
    /// # Errors
    ///
    /// The name is none or is taken, there are too many grants, or the store fails.
    pub fn create(&self, new: NewGrant, by: Operator) -> Result<(Token, Grant), GrantError> {
        if !is_name(&new.name) {
            return Err(GrantError::Name(new.name));
        }
        if !is_server(&new.server) {
            return Err(GrantError::Server(new.server));
        }
        if let Some(policy) = &new.policy
            && (!policy.starts_with('/') || policy.len() > LONGEST_POLICY)
        {
            return Err(GrantError::Policy(policy.clone()));
        }
        let token = Token::generate().map_err(GrantError::Random)?;
        let id = code::encode(&code::random::<5>().map_err(GrantError::Random)?);
        let now = self.clock.now();
        let grant = Grant {
            id,
            server: new.server,
            policy: new.policy,
            ceiling: new.ceiling,
            created: now,
            created_by: by,
            expires: new.lasts.map(|lasts| now.saturating_add(lasts.as_secs())),
            revoked: None,
            digest: hex(&token.digest()),
        };
        self.table.change(|grants| {
            let same = grants.get(&new.name);
            if same.is_some_and(|same| same.standing(now) == Standing::Valid) {
                return Err(GrantError::Taken(new.name.clone()));
            }
            if same.is_none() && grants.len() >= MOST_GRANTS {
                return Err(GrantError::Full);
            }
            grants.insert(new.name.clone(), grant.clone());
            Ok(())
        })??;
        Ok((token, grant))
    }

    /// Takes a grant back. Agents that run refuse it from their next request on.
    ///
    /// # Errors
    ///
    /// There is none of this name, or it was taken back before, or the store fails.
    pub fn revoke(&self, name: &str, by: Operator) -> Result<Grant, GrantError> {
        let now = self.clock.now();
        self.table.change(|grants| {
            let Some(grant) = grants.get_mut(name) else {
                return Err(GrantError::Unknown(name.to_owned()));
            };
            if grant.revoked.is_some() {
                return Err(GrantError::Revoked(name.to_owned()));
            }
            grant.revoked = Some((now, by));
            Ok(grant.clone())
        })?
    }

    /// All grants by name, with whether each can be used now.
    ///
    /// # Errors
    ///
    /// The store fails.
    pub fn list(&self) -> Result<BTreeMap<String, (Grant, Standing)>, GrantError> {
        let now = self.clock.now();
        let grants = self.table.entries()?.into_iter();
        let grants = grants.map(|(name, grant)| {
            let standing = grant.standing(now);
            (name, (grant, standing))
        });
        Ok(grants.collect())
    }

    /// Whose token that is, if it is good at this server. Takes a few microseconds, unless grants have
    /// changed since the last question.
    ///
    /// # Errors
    ///
    /// It is not good, or the store fails; either way the request is not let in.
    pub fn verify(&self, token: &str, server: &str) -> Result<Bearer, Rejected> {
        let token = Token::parse(token).ok_or(Rejected::NoToken)?;
        let key = self.key(&token.digest());
        let found = self.known(|known| known.by_token.get(&key).map(Arc::clone))?;
        self.good(&*found.ok_or(Rejected::Unknown)?, server)
    }

    /// Whether the grant that a connection was let in with is still good, by its id.
    ///
    /// # Errors
    ///
    /// As for [`verify`](Self::verify).
    pub fn recheck(&self, grant: &str, server: &str) -> Result<Bearer, Rejected> {
        let found = self.known(|known| known.by_id.get(grant).map(Arc::clone))?;
        self.good(&*found.ok_or(Rejected::Unknown)?, server)
    }

    fn good(&self, entry: &Entry, server: &str) -> Result<Bearer, Rejected> {
        let Entry { bearer, grant } = entry;
        let standing = grant.standing(self.clock.now());
        if standing != Standing::Valid {
            let name = Arc::clone(&bearer.name);
            return Err(Rejected::Ended { name, standing });
        }
        if grant.server != server {
            return Err(Rejected::OtherServer {
                name: Arc::clone(&bearer.name),
                server: Arc::clone(&bearer.server),
            });
        }
        Ok(bearer.clone())
    }

    /// Asks what is known, once it is what the table says now.
    fn known<R>(&self, ask: impl FnOnce(&Known) -> R) -> Result<R, StoreError> {
        // It is replaced as a whole, so a panic elsewhere does not spoil it.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(grants) = self.table.news(&mut known.seen)? {
            known.by_token.clear();
            known.by_id.clear();
            for (name, grant) in grants {
                let entry = Arc::new(Entry {
                    bearer: Bearer {
                        name: name.into(),
                        grant: grant.id.as_str().into(),
                        server: grant.server.as_str().into(),
                        policy: grant.policy.as_deref().map(Arc::from),
                        ceiling: grant.ceiling,
                    },
                    grant,
                });
                if let Some(digest) = unhex(&entry.grant.digest) {
                    known.by_token.insert(self.key(&digest), Arc::clone(&entry));
                }
                known.by_id.insert(Arc::clone(&entry.bearer.grant), entry);
            }
        }
        Ok(ask(&known))
    }

    #[cfg(test)]
    pub(super) fn table_for_tests(&self) -> &Table<Grant> {
        &self.table
    }

    fn key(&self, digest: &[u8; 32]) -> [u8; 32] {
        let key = Sha256::new().chain_update(self.secret).chain_update(digest);
        key.finalize().into()
    }
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grants").finish_non_exhaustive()
    }
}

fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=LONGEST_NAME).contains(&text.len()) && text.chars().all(fits)
}

/// Whether a server can be called so: by its command's file name or its npm package's name, with the
/// scope that tells it from others (`@scope/name`); one that capwarden did not start, by its address.
///
/// Any other name with a slash is taken for a path, which no server is called by.
#[must_use]
pub fn is_server(text: &str) -> bool {
    (1..=LONGEST_SERVER).contains(&text.len())
        && text == text.trim()
        && !text.chars().any(char::is_control)
        && (text.starts_with("http://")
            || text.starts_with("https://")
            || !text.contains('/')
            || is_scoped(text))
}

/// `@scope/name`, as npm has it: nothing that leads anywhere as a path.
fn is_scoped(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '~');
    let part =
        |part: &str| !part.is_empty() && !part.starts_with(['.', '_']) && part.chars().all(fits);
    let parts = text.strip_prefix('@').and_then(|text| text.split_once('/'));
    parts.is_some_and(|(scope, name)| part(scope) && part(name))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}
