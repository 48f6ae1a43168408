//! Where the state is, and whom it is safe from.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use super::{NOBODY, directory};
use crate::store::{StateDirectory, StoreError, exposed};

#[test]
fn directory_is_made_for_the_owner_alone() {
    let (_home, directory) = directory();
    let mode = fs::metadata(directory.path()).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o700);
    assert_eq!(
        StateDirectory::open(directory.path(), Some(NOBODY)).unwrap(),
        directory
    );
}

#[test]
fn directories_that_others_can_change_are_refused() {
    let (home, directory) = directory();
    let refused = |what: &str| match StateDirectory::open(directory.path(), Some(NOBODY)) {
        Err(StoreError::Exposed { path, by }) => {
            assert!(by.to_string().contains(what), "{by}");
            // What is looked at alone is refused for the same reason.
            let looked = StateDirectory::check(directory.path(), Some(NOBODY)).unwrap_err();
            let error = StoreError::Exposed {
                path,
                by: by.clone(),
            }
            .to_string();
            assert_eq!(looked.to_string(), error);
            assert!(error.contains(&by.remedy()), "{error}");
            by
        }
        other => panic!("{other:?}"),
    };
    let mode = |path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(directory.path(), 0o750);
    let by = refused("is open to others (mode 0750");
    let command = format!("sudo chmod 0700 {}", directory.path().display());
    assert_eq!(by.remedy(), command);
    mode(directory.path(), 0o700);
    mode(home.path(), 0o770);
    // It is the one above that is at fault, and that is to be changed.
    let by = refused("may be changed by others (mode 0770)");
    assert_eq!(by.at, home.path());
    let command = format!("sudo chmod go-w {}", home.path().display());
    assert_eq!(by.remedy(), command);
    // As /tmp is: nobody can rename what belongs to somebody else.
    mode(home.path(), 0o1777);
    StateDirectory::open(directory.path(), Some(NOBODY)).unwrap();
}

#[test]
fn a_directory_that_is_only_looked_at_is_not_made() {
    let (home, directory) = directory();
    let place = home.path().join("deep/er");
    StateDirectory::check(&place, None).unwrap();
    assert!(!home.path().join("deep").exists());
    StateDirectory::check(directory.path(), Some(NOBODY)).unwrap();
    fs::write(home.path().join("deep"), "").unwrap();
    assert!(StateDirectory::check(&home.path().join("deep"), None).is_err());
}

#[test]
fn what_others_can_change_is_told_of_any_path() {
    let (home, directory) = directory();
    let file = home.path().join("policy.yaml");
    fs::write(&file, "").unwrap();
    let mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let why = |path: &Path| exposed(path, None).unwrap().map(|by| by.to_string());
    assert_eq!((why(&file), why(directory.path())), (None, None));
    mode(&file, 0o664);
    assert!(why(&file).is_some_and(|why| why.contains("policy.yaml may be changed by others")));
    mode(&file, 0o644);
    mode(home.path(), 0o777);
    assert!(why(&file).is_some_and(|why| why.contains("may be changed by others")));
    assert!(exposed(&home.path().join("none"), None).is_err());
}

#[test]
fn directory_of_the_governed_user_is_refused() {
    let (home, directory) = directory();
    let own = fs::metadata(home.path()).unwrap().uid();
    if own == 0 {
        for path in [home.path(), directory.path()] {
            std::os::unix::fs::chown(path, Some(NOBODY), None).unwrap();
            let error = StateDirectory::open(directory.path(), Some(NOBODY)).unwrap_err();
            assert!(
                error.to_string().contains("belongs to user 65534"),
                "{error}"
            );
            std::os::unix::fs::chown(path, Some(0), None).unwrap();
        }
    } else {
        let error = StateDirectory::open(directory.path(), Some(own)).unwrap_err();
        assert!(
            error.to_string().contains("as whom servers are run"),
            "{error}"
        );
    }
}

#[test]
fn symbolic_links_are_followed_before_anything_is_looked_at() {
    let (home, directory) = directory();
    let link = home.path().join("link");
    symlink(directory.path(), &link).unwrap();
    let through = StateDirectory::open(&link, Some(NOBODY)).unwrap();
    assert_eq!(through.path(), directory.path());
}
