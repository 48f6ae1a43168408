//! Which file a path leads to, if nobody but root can make it lead elsewhere.

use std::{
    ffi::OsString,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use rustix::io::Errno;

/// Links that are followed, as many as the kernel does.
const LINKS: usize = 40;

/// The file that an absolute path leads to, by a path without links. All on the way, each link and what it leads by
/// included, is root's and for root alone to change. So it is the same file, or one that root has put there, when it is
/// executed by that path later.
///
/// # Errors
/// `PermissionDenied` and a sentence if somebody else could have a say; or it cannot be looked at, or is no file.
pub(super) fn resolved(path: &Path) -> io::Result<PathBuf> {
    let mut at = PathBuf::from("/");
    trusted(&at, &fs::symlink_metadata(&at)?)?;
    let mut links = 0;
    let mut ahead = steps(path);
    while let Some(step) = ahead.pop() {
        match step {
            Step::Root => at = PathBuf::from("/"),
            // What is left has no links in it.
            Step::Up => drop(at.pop()),
            Step::Into(name) => {
                let next = at.join(name);
                let meta = fs::symlink_metadata(&next)?;
                trusted(&next, &meta)?;
                if meta.is_symlink() {
                    links += 1;
                    if links > LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    ahead.extend(steps(&fs::read_link(&next)?));
                } else {
                    at = next;
                }
            }
        }
    }
    match fs::symlink_metadata(&at)?.is_file() {
        true => Ok(at),
        false => Err(io::Error::other(format!("{} is no file", at.display()))),
    }
}

enum Step {
    Root,
    Up,
    Into(OsString),
}

/// Those of a path, the last one first.
fn steps(path: &Path) -> Vec<Step> {
    let steps = path.components().rev();
    let steps = steps.filter_map(|step| match step {
        Component::RootDir => Some(Step::Root),
        Component::ParentDir => Some(Step::Up),
        Component::Normal(name) => Some(Step::Into(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    });
    steps.collect()
}

/// Whether what is there is root's, and for root alone to change.
fn trusted(at: &Path, meta: &Metadata) -> io::Result<()> {
    let mode = meta.mode() & 0o7777;
    // With the sticky bit, nobody else can rename or remove what is root's in it.
    let sticky = meta.is_dir() && mode & 0o1000 != 0;
    let why = if meta.uid() != 0 {
        format!("belongs to user {}", meta.uid())
    } else if mode & 0o022 != 0 && !sticky && !meta.is_symlink() {
        format!("may be changed by others (mode {mode:04o})")
    } else {
        return Ok(());
    };
    let why = format!(
        "{} {why}, and is on the way to what is to be executed: it is to be root's alone",
        at.display()
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refused(path: &Path) -> String {
        let error = resolved(path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        error.to_string()
    }

    #[test]
    fn files_that_others_could_have_put_there_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        fs::write(&path, "").unwrap();
        mode(&path, 0o755);
        assert_eq!(resolved(&path).unwrap(), path);
        mode(&path, 0o775);
        let why = refused(&path);
        assert!(
            why.contains("program may be changed by others (mode 0775)"),
            "{why}"
        );
        mode(&path, 0o755);
        mode(directory.path(), 0o777);
        refused(&path);
        mode(directory.path(), 0o755);
        assert!(resolved(directory.path()).is_err(), "it is no file");
        chown(&path, Some(65_534), None).unwrap();
        assert!(refused(&path).contains("belongs to user 65534"));
    }

    #[test]
    fn links_are_followed_only_where_nobody_else_can_turn_them() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["bin", "lib", "theirs"] {
            fs::create_dir(at(name)).unwrap();
            mode(&at(name), 0o755);
        }
        let file = at("lib/program");
        fs::write(&file, "").unwrap();
        mode(&file, 0o755);
        symlink("../bin/one", at("bin/../lib/two")).unwrap();
        symlink("./../lib/program", at("bin/one")).unwrap();
        assert_eq!(resolved(&at("lib/two")).unwrap(), file);
        // Root's link in another user's directory leads where that user wants, whatever it says when it is looked at.
        symlink(&file, at("theirs/program")).unwrap();
        symlink("../theirs/program", at("bin/by_theirs")).unwrap();
        chown(at("theirs"), Some(65_534), None).unwrap();
        for name in ["theirs/program", "bin/by_theirs"] {
            let why = refused(&at(name));
            assert!(why.contains("theirs belongs to user 65534"), "{why}");
        }
        lchown(at("bin/one"), Some(65_534), None).unwrap();
        assert!(refused(&at("lib/two")).contains("bin/one belongs to user 65534"));
        symlink("round", at("round")).unwrap();
        let error = resolved(&at("round")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
    }
}
