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
        Err(StoreError::Exposed { why, .. }) => assert!(why.contains(what), "{why}"),
        other => panic!("{other:?}"),
    };
    let mode = |path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(directory.path(), 0o750);
    refused("is open to others (mode 0750");
    mode(directory.path(), 0o700);
    mode(home.path(), 0o770);
    refused("may be changed by others (mode 0770)");
    // As /tmp is: nobody can rename what belongs to somebody else.
    mode(home.path(), 0o1777);
    StateDirectory::open(directory.path(), Some(NOBODY)).unwrap();
}

#[test]
fn what_others_can_change_is_told_of_any_path() {
    let (home, directory) = directory();
    let file = home.path().join("policy.yaml");
    fs::write(&file, "").unwrap();
    let mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let why = |path: &Path| exposed(path, None).unwrap();
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
