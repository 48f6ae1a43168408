//! Where things are unless the command line says otherwise.

use std::{
    env,
    ffi::OsString,
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use super::{
    failure::{Account, Failure, quoted},
    state,
};

/// The audit log to write: the one named, or the default one, whose directory is made.
pub(in crate::cli) fn audit_to_write(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = named {
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        return match above {
            Some(above) if !above.is_dir() => Err(Failure::Usage(
                Account::new("cannot keep the audit log in")
                    .on(path.display())
                    .because(format!("there is no directory {}", above.display()))
                    .hint("see whether --audit is spelled right; directories are not made for it"),
            )),
            _ => Ok(path.to_owned()),
        };
    }
    let path = default_audit()?;
    if let Some(directory) = path.parent() {
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory);
        made.map_err(|error| {
            Failure::Internal(
                Account::new("cannot make the audit log's directory")
                    .on(directory.display())
                    .because(error)
                    .hint("name another file with --audit FILE"),
            )
        })?;
    }
    Ok(path)
}

/// The audit log to read: the one named, or the default one.
pub(in crate::cli) fn audit_to_read(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let path = named.map_or_else(default_audit, |path| Ok(path.to_owned()))?;
    let there = path.metadata().map_err(|error| error.kind());
    if there.err() != Some(io::ErrorKind::NotFound) {
        return Ok(path);
    }
    let account = Account::new("there is no audit log").on(path.display());
    let elsewhere =
        "nothing was recorded there yet; name the file that `capwarden run --audit` was given";
    Err(Failure::Usage(match (named, state::whose()) {
        (None, Some(_)) => account.hint(format!(
            "{elsewhere}; what runs as root has a log of its own: use sudo"
        )),
        _ => account.hint(elsewhere),
    }))
}

/// A file that the command line names is there. What else is wrong with it shows when it is read.
pub(in crate::cli) fn is_there(path: &Path) -> Result<(), Failure> {
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing(path)),
        _ => Ok(()),
    }
}

/// What is told of a file that is not there, whatever it was to be.
pub(in crate::cli) fn missing(path: &Path) -> Failure {
    let account = Account::new("there is no file").on(path.display());
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    Failure::Usage(match above {
        Some(above) if !above.is_dir() => {
            account.hint(format!("there is no directory {} either", above.display()))
        }
        Some(above) => account.hint(format!("see: ls {}", quoted(&above.to_string_lossy()))),
        None => account.hint("it is looked for in the current directory: give its full path"),
    })
}

/// The log of whoever runs this, unless another is named.
pub(in crate::cli) fn default_audit() -> Result<PathBuf, Failure> {
    let is_root = rustix::process::geteuid().is_root();
    let state = env::var_os("XDG_STATE_HOME");
    default_audit_for(is_root, state, env::var_os("HOME")).ok_or_else(|| {
        Failure::Usage(
            Account::new("there is no place for the audit log")
                .because("neither XDG_STATE_HOME nor HOME is set to a full path")
                .hint("name a file"),
        )
    })
}

fn default_audit_for(
    is_root: bool,
    state: Option<OsString>,
    home: Option<OsString>,
) -> Option<PathBuf> {
    if is_root {
        return Some(PathBuf::from("/var/log/capwarden/audit.jsonl"));
    }
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let state = state
        .and_then(absolute)
        .or_else(|| Some(home.and_then(absolute)?.join(".local/state")))?;
    Some(state.join("capwarden/audit.jsonl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audit_log_has_its_place() {
        let place = |root, state: Option<&str>, home: Option<&str>| {
            let path = default_audit_for(root, state.map(Into::into), home.map(Into::into));
            path.map(|path| path.to_str().unwrap().to_owned())
        };
        let home = Some("/home/ann");
        assert_eq!(
            place(true, Some("/s"), home).as_deref(),
            Some("/var/log/capwarden/audit.jsonl")
        );
        assert_eq!(
            place(false, Some("/s"), home).as_deref(),
            Some("/s/capwarden/audit.jsonl")
        );
        let fallback = Some("/home/ann/.local/state/capwarden/audit.jsonl");
        assert_eq!(place(false, None, home).as_deref(), fallback);
        assert_eq!(place(false, Some("relative"), home).as_deref(), fallback);
        assert_eq!(place(false, None, None), None);
    }
}
