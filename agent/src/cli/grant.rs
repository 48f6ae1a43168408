//! `capwarden grant`: who may use a server over HTTP.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    audit::{GrantRecord, Hash, Log, PolicyFile, Record, Text, visible},
    policy::Policy,
    principal::{Ceiling, Grant as Granted, GrantError, Grants, NewGrant, Standing},
    store,
    words::{self, counted},
};

use super::{
    enforce,
    exit::Exit,
    failure::{Account, Failure},
    paths,
    state::{self, State},
    term,
    values::{self, Size},
};

/// Make, list and revoke bearer grants
///
/// A grant lets whoever bears its token use one server over HTTP.
#[derive(Debug, Args)]
pub(super) struct Grant {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// Make a grant, and print its token
///
/// The token is printed on standard output, this once: only a digest of it is kept. The client sends it
/// with each request, as `Authorization: Bearer TOKEN`.
#[derive(Debug, Args)]
struct Create {
    /// What to call it: it stands in the audit log, and limits are counted by it
    #[arg(value_name = "NAME")]
    name: String,
    /// The server that it is for, as the agent's configuration names it or `capwarden run` calls it at its start
    ///
    /// What `run --server` says; without it, what its command runs: `netmcp` of `uvx netmcp@1.2`; the
    /// address after --upstream where that stands alone.
    #[arg(long, value_name = "NAME")]
    server: String,
    /// Decide its calls by this policy
    ///
    /// In place of the one that `capwarden run` was given, which its calls are then not asked: it can allow
    /// more, and less. Checked now and whenever it is loaded; when the file changes, it is loaded again.
    /// While it is gone, nothing is allowed. Nobody but root, or whoever makes the grant, may be able to
    /// change it.
    #[arg(short, long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// How long it lasts: 12h, 30d, or never
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = lasting)]
    expires: Lasting,
    /// No session under it gets more packets than this
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    packets: Option<u64>,
    /// No session under it gets more bytes than this: 50MiB
    #[arg(long, value_name = "N", value_parser = values::size)]
    bytes: Option<Size>,
    /// No session under it lasts more seconds than this
    #[arg(long, value_name = "S", value_parser = values::seconds)]
    seconds: Option<Duration>,
    /// Record it in this audit log
    ///
    /// Without it: /var/log/capwarden/audit.jsonl for root, otherwise
    /// $XDG_STATE_HOME/capwarden/audit.jsonl. If the log cannot be written, no grant is made.
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    #[command(flatten)]
    state: State,
}

/// List the grants
///
/// Those that have ended are listed until one of the same name is made. No token is shown: none is kept.
#[derive(Debug, Args)]
struct List {
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: State,
}

/// Revoke a grant
///
/// Agents that run refuse it from its next request on. The exit status is 1 if there is no such grant.
#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// Record it in this audit log
    ///
    /// Without it: /var/log/capwarden/audit.jsonl for root, otherwise
    /// $XDG_STATE_HOME/capwarden/audit.jsonl.
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    #[command(flatten)]
    state: State,
}

/// How long a grant lasts; without end if there is nothing in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lasting(Option<Duration>);

fn lasting(text: &str) -> Result<Lasting, String> {
    const WRONG: &str = "it is a number with m, h or d, such as 30d, or never";
    if text == "never" {
        return Ok(Lasting(None));
    }
    let unit = match text.chars().last() {
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(WRONG.to_owned()),
    };
    let number = text.get(..text.len() - 1).unwrap_or_default();
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: Option<u64> = number.parse().ok().filter(|number| digits && *number > 0);
    let seconds = number.and_then(|number| number.checked_mul(unit));
    // A thousand years: what is more is meant otherwise.
    match seconds.filter(|seconds| *seconds <= 365_000 * 86_400) {
        Some(seconds) => Ok(Lasting(Some(Duration::from_secs(seconds)))),
        None => Err(WRONG.to_owned()),
    }
}

impl Grant {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        match self.verb {
            Verb::Create(create) => create.run(),
            Verb::List(list) => list.run(),
            Verb::Revoke(revoke) => revoke.run(),
        }
    }
}

impl Create {
    fn run(self) -> Result<Exit, Failure> {
        let grants = Grants::open(&self.state.open()?).map_err(failed)?;
        let policy = self.policy.as_deref().map(policy).transpose()?;
        let new = NewGrant {
            name: self.name,
            server: self.server,
            policy: policy.as_ref().map(|policy| policy.file().to_string()),
            ceiling: Ceiling {
                packets: self.packets,
                bytes: self.bytes.map(|size| size.0),
                duration: self.seconds,
            },
            lasts: self.expires.0,
        };
        let name = new.name.clone();
        let log = Log::open(paths::audit_to_write(self.audit.as_deref())?)?;
        let (token, grant) = grants.create(new, state::operator()).map_err(failed)?;
        if let Err(error) = log.append(&record(&name, "made", &grant, policy.as_ref())) {
            // Nobody has its token, and a grant that is not in the log is to be none.
            grants.revoke(&name, state::operator()).map_err(failed)?;
            return Err(error.into());
        }
        tracing::info!(
            "made the grant {name} for {}, which {}; its token is printed this once",
            grant.server,
            end(&grant)
        );
        if let Some(whose) = self.state.whose() {
            tracing::warn!("it is in your own state, which the service does not know: {whose}");
        }
        term::print(|out| writeln!(out, "{}", token.reveal()))?;
        Ok(Exit::Ok)
    }
}

impl List {
    fn run(self) -> Result<Exit, Failure> {
        let grants = match self.state.look()? {
            Some(directory) => {
                let grants = Grants::open(&directory).map_err(failed)?;
                grants.list().map_err(failed)?
            }
            None => Default::default(),
        };
        if self.json {
            let list = grants.iter();
            let list: Vec<Value> = list
                .map(|(name, (grant, standing))| in_json(name, grant, *standing))
                .collect();
            term::print_json(&list)?;
            return Ok(Exit::Ok);
        }
        term::print(|out| {
            if grants.is_empty() {
                writeln!(out, "there are no grants")?;
            }
            for (name, (grant, standing)) in &grants {
                let told = match standing {
                    Standing::Valid => end(grant),
                    Standing::Expired => "has expired".to_owned(),
                    Standing::Revoked => "is revoked".to_owned(),
                };
                let policy = grant.policy.as_ref();
                let policy = policy.map_or_else(String::new, |file| format!(" under {file}"));
                let line = format!(
                    "{name} ({}) for {}{policy}, {told}; made at {} by {}{}",
                    grant.id,
                    grant.server,
                    state::time(grant.created),
                    grant.created_by,
                    ceiling(&grant.ceiling)
                );
                writeln!(out, "{}", visible(&line))?;
            }
            Ok(())
        })?;
        if let (true, Some(whose)) = (grants.is_empty(), state::whose()) {
            tracing::info!("{whose}");
        }
        Ok(Exit::Ok)
    }
}

impl Revoke {
    fn run(self) -> Result<Exit, Failure> {
        self.revoke().map(|_| Exit::Ok)
    }

    /// Revokes it, and says so. Returns what it was.
    pub(super) fn revoke(self) -> Result<Granted, Failure> {
        let grants = Grants::open(&self.state.open()?).map_err(failed)?;
        match grants.revoke(&self.name, state::operator()) {
            Ok(grant) => {
                // It is revoked, whatever becomes of the log.
                let log = Log::open(paths::audit_to_write(self.audit.as_deref())?)?;
                log.append(&record(&self.name, "revoked", &grant, None))?;
                let name = visible(&self.name);
                term::print(|out| writeln!(out, "revoked {name}"))?;
                Ok(grant)
            }
            Err(error @ (GrantError::Unknown(_) | GrantError::Revoked(_))) => {
                let hint = state::whose().unwrap_or("capwarden grant list");
                Err(Failure::NotThere(
                    Account::new(error.to_string()).hint(hint),
                ))
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// The policy that a grant is to name: as sound as that of an agent, and safe from others.
fn policy(file: &Path) -> Result<Policy, Failure> {
    let path = file.canonicalize().map_err(|error| {
        let account = Account::new("cannot read the policy").on(file.display());
        Failure::Usage(account.because(error))
    })?;
    let policy = enforce::load_policy(&path)?;
    let unsafe_to_use = |why: String| {
        let account = Account::new("cannot take the policy").on(path.display());
        Failure::Usage(account.because(why).hint(
            "put it where nobody but root or you can change it, as under /etc/capwarden, with mode 0644",
        ))
    };
    match store::exposed(&path, None) {
        Ok(None) => Ok(policy),
        Ok(Some(by)) => Err(unsafe_to_use(by.to_string())),
        Err(error) => Err(unsafe_to_use(error.to_string())),
    }
}

/// What the audit log gets to hold of it.
fn record(name: &str, became: &str, grant: &Granted, policy: Option<&Policy>) -> Record {
    Record::Grant(Box::new(GrantRecord {
        name: Text::new(name),
        id: Text::new(grant.id.to_string()),
        became: Text::new(became),
        server: Text::new(grant.server.as_str()),
        policy: policy.map(|policy| PolicyFile {
            file: Text::new(&**policy.file()),
            sha256: policy.digest().parse().unwrap_or(Hash::ZERO),
        }),
        by: Text::new(state::operator().to_string()),
        expires: grant.expires.map(|time| Text::new(state::time(time))),
        packets: grant.ceiling.packets,
        bytes: grant.ceiling.bytes,
        seconds: grant.ceiling.duration.map(|time| time.as_secs_f64()),
    }))
}

fn end(grant: &Granted) -> String {
    match grant.expires {
        Some(expires) => format!("ends at {}", state::time(expires)),
        None => "never ends".to_owned(),
    }
}

/// `; at most 1000 packets, 5 s`.
fn ceiling(ceiling: &Ceiling) -> String {
    let mut caps = Vec::new();
    caps.extend(ceiling.packets.map(|packets| counted(packets, "packet")));
    caps.extend(ceiling.bytes.map(|bytes| counted(bytes, "byte")));
    caps.extend(ceiling.duration.map(words::time));
    match caps.as_slice() {
        [] => String::new(),
        caps => format!("; at most {}", caps.join(", ")),
    }
}

fn in_json(name: &str, grant: &Granted, standing: Standing) -> Value {
    json!({
        "name": name,
        "id": grant.id,
        "server": grant.server,
        "policy": grant.policy,
        "standing": standing,
        "created": state::time(grant.created),
        "created_by": grant.created_by,
        "expires": grant.expires.map(state::time),
        "revoked": grant.revoked.map(|(at, _)| state::time(at)),
        "revoked_by": grant.revoked.map(|(_, by)| by),
        "packets": grant.ceiling.packets,
        "bytes": grant.ceiling.bytes,
        "seconds": grant.ceiling.duration.map(|time| time.as_secs_f64()),
    })
}

fn failed(error: GrantError) -> Failure {
    match error {
        GrantError::Store(error) => error.into(),
        GrantError::Random(_) => Failure::Internal(Account::new(error.to_string())),
        GrantError::Full => Failure::Usage(
            Account::new(error.to_string()).hint("make one in place of one that has ended"),
        ),
        error => Failure::Usage(Account::new(error.to_string()).hint("capwarden grant list")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let is = |text, seconds| {
            let time = Some(Duration::from_secs(seconds));
            assert_eq!(lasting(text), Ok(Lasting(time)), "{text}");
        };
        is("30d", 30 * 86_400);
        is("12h", 43_200);
        is("5m", 300);
        assert_eq!(lasting("never"), Ok(Lasting(None)));
        for bad in [
            "",
            "d",
            "0d",
            "-1d",
            "+1d",
            "1.5d",
            "30",
            "1y",
            "99999999999999999d",
            "é",
        ] {
            assert!(lasting(bad).is_err(), "{bad}");
        }
    }
}
