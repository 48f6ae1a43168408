//! Whose ids a governed process gets, and whom it may reach with them.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::deputy::Deputy;

/// User and groups of a governed process.
///
/// Supplementary groups of the user are deliberately left out: `docker` and its like would lend
/// the process the hands of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub user: u32,
    /// Group id.
    pub group: u32,
    /// Supplementary groups: dumpcap's, where only its group may execute it.
    pub groups: Vec<u32>,
    /// The daemons that it may have start programs: none, unless [`reaching`](Self::reaching) says so.
    pub reach: Vec<Deputy>,
    /// What it finds around it: the agent's own, unless [`within`](Self::within) says otherwise.
    pub surroundings: Surroundings,
    account: Option<Account>,
}

/// What a governed process finds around it when it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Its environment, besides HOME, USER and LOGNAME, which are its user's; none for the agent's own.
    pub environment: Option<Vec<(String, String)>>,
    /// The directory that it is started in; none for the agent's own.
    pub directory: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    name: String,
    user: u32,
    group: u32,
    home: String,
}

/// `nobody` and `nogroup`, on every distribution looked at.
const NOBODY: u32 = 65_534;

/// The user that was asked for does not exist.
#[derive(Debug, thiserror::Error)]
#[error("there is no user {0:?} in /etc/passwd")]
pub struct NoSuchUser(String);

impl Credentials {
    /// The user that was asked for by name or number; else the one who ran `sudo`; else the
    /// agent's own, unless that is root; else `nobody`.
    pub fn choose(asked: Option<&str>) -> Result<Self, NoSuchUser> {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let own = rustix::process::getuid().as_raw();
        let mut credentials = match asked {
            Some(asked) => match (Account::find(&passwd, |a| a.name == asked), asked.parse()) {
                (Some(account), _) => Self::of(account),
                (None, Ok(user)) => Self::numbered(&passwd, user, user),
                (None, Err(_)) => return Err(NoSuchUser(asked.to_owned())),
            },
            None if own != 0 => Self::numbered(&passwd, own, rustix::process::getgid().as_raw()),
            None => match (variable("SUDO_UID"), variable("SUDO_GID")) {
                (Some(user), Some(group)) if user != 0 => Self::numbered(&passwd, user, group),
                _ => Self::numbered(&passwd, NOBODY, NOBODY),
            },
        };
        credentials.groups.extend(dumpcap_group());
        Ok(credentials)
    }

    /// Of a user whom nobody is and nothing belongs to.
    #[must_use]
    pub fn nobody() -> Self {
        Self::numbered("", NOBODY, NOBODY)
    }

    /// The same, and these daemons within reach: the process is also in the groups that their
    /// sockets are for.
    #[must_use]
    pub fn reaching(mut self, deputies: &[Deputy]) -> Self {
        for deputy in deputies {
            let sockets = deputy.sockets().iter();
            let groups = sockets.filter_map(|path| fs::metadata(path).ok().map(|file| file.gid()));
            self.groups.extend(groups.filter(|group| *group != 0));
            self.reach.push(*deputy);
        }
        self.groups.sort_unstable();
        self.groups.dedup();
        self.reach.sort_unstable();
        self.reach.dedup();
        self
    }

    /// The same as whom a launcher starts servers: with the groups that `/etc/group` says the user is a member of, and no
    /// other.
    #[must_use]
    pub fn of_launcher(self) -> Self {
        let table = fs::read_to_string("/etc/group").unwrap_or_default();
        Self {
            groups: groups_of(&table, &self.name()),
            ..self
        }
    }

    /// The same, with these surroundings.
    #[must_use]
    pub fn within(self, surroundings: Surroundings) -> Self {
        Self {
            surroundings,
            ..self
        }
    }

    fn of(account: Account) -> Self {
        Self {
            user: account.user,
            group: account.group,
            groups: Vec::new(),
            reach: Vec::new(),
            surroundings: Surroundings::default(),
            account: Some(account),
        }
    }

    fn numbered(passwd: &str, user: u32, group: u32) -> Self {
        match Account::find(passwd, |account| account.user == user) {
            Some(account) => Self::of(account),
            None => Self {
                user,
                group,
                groups: Vec::new(),
                reach: Vec::new(),
                surroundings: Surroundings::default(),
                account: None,
            },
        }
    }

    /// The user's name; its number, where it has none.
    #[must_use]
    pub fn name(&self) -> String {
        let account = self.account.as_ref();
        account.map_or_else(|| self.user.to_string(), |account| account.name.clone())
    }

    /// Whether the file's mode lets them write to it. Without capabilities root is a user like
    /// others, but for what is its own.
    pub(super) fn may_write(&self, file: &Path) -> bool {
        const GROUP: u32 = 0o020;
        const OTHERS: u32 = 0o002;
        let Ok(about) = fs::metadata(file) else {
            return false;
        };
        let in_group = about.gid() == self.group || self.groups.contains(&about.gid());
        let (mode, owner) = (about.mode(), about.uid());
        // Who owns a file can also change its mode.
        owner == self.user || (in_group && mode & GROUP != 0) || mode & OTHERS != 0
    }

    /// What a login would set, so that programs do not look for their files in root's home.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        // The agent's own environment has that of the agent's own user already.
        let given = self.surroundings.environment.is_some();
        match &self.account {
            Some(account) if given || account.user != rustix::process::getuid().as_raw() => vec![
                ("HOME", account.home.clone()),
                ("USER", account.name.clone()),
                ("LOGNAME", account.name.clone()),
            ],
            _ => Vec::new(),
        }
    }
}

/// The user who started the agent: the one who called `sudo`, otherwise its own.
pub fn invoking_user() -> u32 {
    match rustix::process::getuid().as_raw() {
        0 => variable("SUDO_UID").unwrap_or(0),
        own => own,
    }
}

/// The number of the user of this name or number; none if there is no such user.
pub fn user_id(name: &str) -> Option<u32> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    id_in(&passwd, name)
}

/// The number of the group of this name or number; none if there is no such group.
pub fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    id_in(&groups, name)
}

/// The name of the group of this number; the number where it has none.
pub fn group_name(number: u32) -> String {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    name_in(&groups, number).unwrap_or_else(|| number.to_string())
}

fn name_in(table: &str, number: u32) -> Option<String> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
    })
}

/// The groups that have this member.
fn groups_of(table: &str, member: &str) -> Vec<u32> {
    let its = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let (group, members) = (fields.next()?.parse().ok()?, fields.next()?);
        members.split(',').any(|one| one == member).then_some(group)
    };
    table.lines().filter_map(its).collect()
}

/// The id in the third field of the line of this name; of a number, the number itself.
fn id_in(table: &str, name: &str) -> Option<u32> {
    let found = table.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    });
    found.or_else(|| name.parse().ok())
}

/// A variable of the environment that is a number.
fn variable(name: &str) -> Option<u32> {
    std::env::var(name).ok()?.parse().ok()
}

impl Account {
    fn find(passwd: &str, wanted: impl Fn(&Self) -> bool) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let mut next = || fields.next().map(str::to_owned);
            let (name, _password) = (next()?, next()?);
            let account = Self {
                name,
                user: next()?.parse().ok()?,
                group: next()?.parse().ok()?,
                home: next().and(next())?,
            };
            wanted(&account).then_some(account)
        })
    }
}

/// The group of a dumpcap that only its group may execute, as Debian installs it where members of
/// a group may capture.
fn dumpcap_group() -> Option<u32> {
    const EXECUTABLE_BY_OTHERS: u32 = 0o001;
    const EXECUTABLE_BY_GROUP: u32 = 0o010;
    let metadata = [
        "/usr/bin/dumpcap",
        "/usr/sbin/dumpcap",
        "/usr/local/bin/dumpcap",
    ]
    .iter()
    .find_map(|path| fs::metadata(Path::new(path)).ok())?;
    let mode = metadata.mode();
    (mode & EXECUTABLE_BY_OTHERS == 0 && mode & EXECUTABLE_BY_GROUP != 0 && metadata.gid() != 0)
        .then_some(metadata.gid())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\nbroken:line\nann:x:1000:1001:Ann,,,:/home/ann:/bin/sh\n";

    #[test]
    fn account_reads_passwd_lines_and_skips_broken_ones() {
        let ann = Account::find(PASSWD, |account| account.name == "ann").unwrap();
        assert_eq!(
            (ann.user, ann.group, ann.home.as_str()),
            (1000, 1001, "/home/ann")
        );
        assert_eq!(
            Account::find(PASSWD, |account| account.name == "broken"),
            None
        );
    }

    #[test]
    fn groups_are_those_that_name_the_user_as_a_member() {
        let table = "wireshark:x:122:ann,bob\nbroken\npcap:x:7:bob\nempty:x:8:\nnone:x:9\n";
        assert_eq!(groups_of(table, "bob"), [122, 7]);
        assert_eq!(groups_of(table, "ann"), [122]);
        assert_eq!(groups_of(table, "an"), [0; 0]);
        let nobody = Credentials::nobody().of_launcher();
        assert!(!nobody.groups.contains(&0), "{nobody:?}");
    }

    #[test]
    fn credentials_of_unknown_number_keep_it_and_name_is_refused() {
        let credentials = Credentials::choose(Some("4242424")).unwrap();
        assert_eq!(
            (credentials.user, credentials.group),
            (4_242_424, 4_242_424)
        );
        assert!(credentials.environment().is_empty());
        assert_eq!(id_in(PASSWD, "ann"), Some(1000));
        assert_eq!(id_in(PASSWD, "17"), Some(17));
        assert_eq!(id_in(PASSWD, "broken"), None);
        assert_eq!(id_in(PASSWD, "bob"), None);
        assert_eq!(name_in(PASSWD, 1000).as_deref(), Some("ann"));
        assert_eq!(name_in(PASSWD, 17), None);
        assert!(Credentials::choose(Some("no such user")).is_err());
    }
}
