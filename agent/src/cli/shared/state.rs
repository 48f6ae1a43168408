//! The state directory, as the verbs find it, and who runs them.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;

use crate::{
    kernel,
    principal::Operator,
    store::{StateDirectory, StoreError},
    words,
};

use super::failure::{Account, Failure};

#[derive(Debug, Default, Args)]
pub(in crate::cli) struct State {
    /// The directory that `capwarden run` keeps its state in
    ///
    /// Without it: /var/lib/capwarden/state for root, otherwise $XDG_STATE_HOME/capwarden/state.
    #[arg(long = "state", value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl State {
    /// The directory, which is made if it is not there.
    pub(in crate::cli) fn open(&self) -> Result<StateDirectory, Failure> {
        Ok(StateDirectory::open(
            &place(self.directory.as_deref())?,
            None,
        )?)
    }

    /// The same for who only reads: it is not made. None where there is nothing yet.
    pub(in crate::cli) fn look(&self) -> Result<Option<StateDirectory>, Failure> {
        let place = match &self.directory {
            Some(named) => named.clone(),
            None => StateDirectory::usual_place()?,
        };
        let there = place.symlink_metadata();
        match (there.map_err(|error| error.kind()), &self.directory) {
            (Err(ErrorKind::NotFound), None) => Ok(None),
            (Err(ErrorKind::NotFound), Some(named)) => {
                let account = Account::new("there is no state directory").on(named.display());
                Err(Failure::Usage(account.hint(
                    "give the directory that `capwarden run --state` was given; it is made by that",
                )))
            }
            _ => Ok(Some(StateDirectory::open(&place, None)?)),
        }
    }

    /// That it is a user's own, if it is and nobody has said where it is.
    pub(in crate::cli) fn whose(&self) -> Option<&'static str> {
        whose().filter(|_| self.directory.is_none())
    }
}

/// Where the state is, or is to be: where it was said, or in the usual place. A directory that was
/// named is made, but none above it: it may be misspelled.
pub(in crate::cli) fn place(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let Some(path) = named else {
        return Ok(StateDirectory::usual_place()?);
    };
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    if let Some(above) = above
        && !above.is_dir()
    {
        return Err(Failure::Usage(
            Account::new("cannot keep the state in")
                .on(path.display())
                .because(format!("there is no directory {}", above.display()))
                .hint("see whether --state is spelled right; only its last part is made"),
        ));
    }
    if !path.exists() {
        tracing::info!("making the state directory {}", path.display());
    }
    Ok(path.to_owned())
}

/// Who runs this verb.
pub(in crate::cli) fn operator() -> Operator {
    let uid = rustix::process::getuid().as_raw();
    let invoking = kernel::invoking_user();
    Operator {
        uid,
        sudo_uid: (invoking != uid).then_some(invoking),
    }
}

/// What somebody who is not root should know who does not find what they look for.
pub(in crate::cli) fn whose() -> Option<&'static str> {
    let own = !rustix::process::geteuid().is_root();
    own.then_some("agents that run as root have a state of their own: use sudo")
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let account = Account::new(error.to_string());
        let denied = match &error {
            StoreError::Directory { source, .. } | StoreError::File { source, .. } => {
                source.kind() == ErrorKind::PermissionDenied
            }
            _ => false,
        };
        Self::Internal(match denied {
            true => account.hint("sudo, or another directory with --state DIR"),
            false => account,
        })
    }
}

/// How long a time is, for people and to its two largest units: `9 min 58 s`, `3 d 4 h`.
pub(in crate::cli) fn span(seconds: u64) -> String {
    let told = match seconds {
        0..3_600 => seconds,
        3_600..86_400 => seconds - seconds % 60,
        _ => seconds - seconds % 3_600,
    };
    words::time(Duration::from_secs(told))
}

/// Seconds since 1970 as RFC 3339 has it, in UTC.
pub(in crate::cli) fn time(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).ok();
    let time = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.unwrap_or(jiff::Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told() {
        for (seconds, text) in [
            (0, "0 s"),
            (60, "1 min"),
            (598, "9 min 58 s"),
            (3_600, "1 h"),
            (7_300, "2 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(time(1_795_269_600), "2026-11-21T14:00:00Z");
        assert!(time(u64::MAX).starts_with("9999"));
    }
}
