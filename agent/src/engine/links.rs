//! Paths in arguments: a policy reads them as they are written, and here the host's links are followed.
//! That holds for the moment of the call; a server that makes links itself can make one later.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tokio::task::spawn_blocking;

use crate::policy::{Denial, PathDemand};

/// Denies a call with a path from which links lead out of its directory.
pub(super) async fn stay(demands: Vec<PathDemand>) -> Result<(), Box<Denial>> {
    let Some(first) = demands.first() else {
        return Ok(());
    };
    let unseen = Denial::new("The path could not be looked at.", first.rule.clone());
    // A file system may take its time.
    let looked = spawn_blocking(move || demands.into_iter().try_for_each(|one| hold(&one)));
    looked.await.unwrap_or_else(|_| Err(unseen.into()))
}

fn hold(demand: &PathDemand) -> Result<(), Box<Denial>> {
    let PathDemand {
        argument,
        path,
        directory,
        rule,
    } = demand;
    let reason = match stays(Path::new(path), Path::new(directory)) {
        Ok(true) => return Ok(()),
        Ok(false) => {
            format!("In the argument `{argument}`, a link leads from {path:?} out of {directory}.")
        }
        Err(error) => {
            format!("In the argument `{argument}`, {path:?} cannot be looked at: {error}.")
        }
    };
    let mut denial = Denial::new(reason, rule.clone());
    denial.instead = Some(format!(
        "Send a path under {directory} without links out of it as `{argument}`."
    ));
    Err(denial.into())
}

/// Whether a path leads into the directory once all links are followed, as far as it exists.
fn stays(path: &Path, directory: &Path) -> io::Result<bool> {
    let inside = match fs::canonicalize(directory) {
        // There is nothing yet that could lead anywhere.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        inside => inside?,
    };
    Ok(real(path)?.starts_with(inside))
}

/// The longest part of a path that exists, with its links followed.
fn real(path: &Path) -> io::Result<PathBuf> {
    let mut at = path;
    loop {
        match fs::canonicalize(at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A link to what is not there yet: whoever writes through it makes it.
                if fs::symlink_metadata(at).is_ok() {
                    return Err(io::Error::other("it is a link to nothing"));
                }
                at = at.parent().ok_or(error)?;
            }
            found => return found,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_may_lead_about_inside_and_not_out() {
        let home = tempfile::tempdir().unwrap();
        let inside = home.path().join("captures");
        fs::create_dir_all(inside.join("old")).unwrap();
        fs::write(inside.join("old/a.pcap"), "").unwrap();
        fs::write(home.path().join("secret"), "").unwrap();
        symlink(home.path(), inside.join("up")).unwrap();
        symlink("old/a.pcap", inside.join("last")).unwrap();
        symlink(home.path().join("secret"), inside.join("b.pcap")).unwrap();
        symlink(home.path().join("not-there"), inside.join("c.pcap")).unwrap();
        let stays = |path: &str| stays(&inside.join(path), &inside).ok();
        for good in ["old/a.pcap", "last", "new.pcap", "old/new/deep.pcap", ""] {
            assert_eq!(stays(good), Some(true), "{good}");
        }
        for bad in ["b.pcap", "up/secret", "up/new", "up"] {
            assert_eq!(stays(bad), Some(false), "{bad}");
        }
        assert_eq!(stays("c.pcap"), None);
        let nowhere = home.path().join("nowhere");
        assert!(super::stays(&nowhere.join("x"), &nowhere).unwrap());
        // The policy's directory may be a link itself.
        let linked = home.path().join("linked");
        symlink(&inside, &linked).unwrap();
        assert!(super::stays(&linked.join("old/a.pcap"), &linked).unwrap());
    }
}
