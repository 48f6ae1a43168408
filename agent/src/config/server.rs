//! One server of a configuration.

use std::{collections::BTreeMap, fmt::Display, path::PathBuf, str::FromStr};

use crate::{
    kernel::Deputy,
    policy::{
        PolicyError, Replies, RuleRef,
        reading::{Field, Gather, Loaded, Place, Source, Tree},
    },
};

use super::{
    Places,
    client::{self, Client},
    http::{HttpConfig, HttpDraft},
};

/// Keys of a server.
pub const SERVER_KEYS: &[&str] = &[
    "command",
    "policy",
    "user",
    "clients",
    "reach",
    "environment",
    "directory",
    "most",
    "pin",
    "replies",
    "listen",
    "upstream",
    "upstream_ca",
    "tls",
    "hosts",
    "origins",
    "anonymous",
    "oauth_issuer",
];

/// How many of a server run at once where it is not said.
const MOST: usize = 16;
/// How many may be allowed to.
const MOST_ALLOWED: u64 = 256;
/// Variables of a server's environment.
const MOST_VARIABLES: usize = 256;

/// A server that is served.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// Its command and its arguments; empty where the server runs already, at `upstream`.
    pub command: Vec<String>,
    /// The policy that decides its calls.
    pub policy: PathBuf,
    /// Whom it runs as, by name or number; none for `capwarden-server`, or `nobody` where there is no such user.
    pub user: Option<String>,
    /// Who may connect, besides root.
    pub clients: Vec<Client>,
    /// The daemons that it may have start programs.
    pub reach: Vec<Deputy>,
    /// What its environment has besides what every server's has.
    pub environment: BTreeMap<String, String>,
    /// Where it is started; none for the root directory.
    pub directory: Option<PathBuf>,
    /// How many of it run at once: each client on the socket has its own.
    pub most: usize,
    /// Whether tools are held back whose definition is not the accepted one, whatever the policy says.
    pub pin: Option<Pin>,
    /// In whose words is denied, where that is not for the policy to say.
    pub replies: Option<Replies>,
    /// How it is served over HTTP, if it is.
    pub http: Option<HttpConfig>,
    /// Where it stands first.
    pub at: RuleRef,
    /// Where each of its keys stands.
    pub places: Places,
}

/// What becomes of definitions that are seen first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// They are accepted.
    First,
    /// They are held back.
    Strict,
}

impl ServerConfig {
    /// Whether both say the same, wherever they stand.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let moved = Self {
            at: other.at.clone(),
            ..self.clone()
        };
        moved == *other
    }

    /// Where a key of it stands, or the server itself where no file says that key.
    #[must_use]
    pub fn place(&self, key: &str) -> &RuleRef {
        self.places.of_key(key).unwrap_or(&self.at)
    }
}

/// What one file says of a server.
pub(super) struct ServerDraft {
    source: Source,
    at: RuleRef,
    places: Places,
    place: Place,
    command: Option<Vec<String>>,
    policy: Option<PathBuf>,
    user: Option<String>,
    clients: Option<Vec<Client>>,
    reach: Option<Vec<Deputy>>,
    environment: Option<BTreeMap<String, String>>,
    directory: Option<PathBuf>,
    most: Option<usize>,
    pin: Option<Pin>,
    replies: Option<Replies>,
    http: HttpDraft,
}

impl ServerDraft {
    pub(super) fn read(field: &Field<'_>) -> Loaded<Self> {
        let (section, mut gather) = field.open("a server", SERVER_KEYS)?;
        let mut draft = Self {
            source: field.source.clone(),
            at: field.rule(),
            places: Places::of(&section),
            place: field.place,
            command: gather.keep(section.read("command", command)).flatten(),
            policy: gather.keep(section.read("policy", absolute)).flatten(),
            user: gather.keep(section.read("user", user)).flatten(),
            clients: gather
                .keep(section.read("clients", client::clients))
                .flatten(),
            reach: gather.keep(section.read("reach", reach)).flatten(),
            environment: gather
                .keep(section.read("environment", environment))
                .flatten(),
            directory: gather.keep(section.read("directory", absolute)).flatten(),
            most: gather.keep(section.read("most", most)).flatten(),
            pin: gather.keep(section.read("pin", pin)).flatten(),
            replies: gather.keep(section.read("replies", replies)).flatten(),
            http: HttpDraft::default(),
        };
        for entry in section.entries {
            let field = Field::new(section.source, entry, &section.path);
            draft.http.read(&field, &mut gather);
        }
        gather.done(Some(draft))
    }

    /// What a later file says takes the place of what this one says.
    pub(super) fn then(self, later: Self) -> Self {
        Self {
            source: self.source,
            at: self.at,
            places: self.places.then(later.places),
            place: self.place,
            command: later.command.or(self.command),
            policy: later.policy.or(self.policy),
            user: later.user.or(self.user),
            clients: later.clients.or(self.clients),
            reach: later.reach.or(self.reach),
            environment: later.environment.or(self.environment),
            directory: later.directory.or(self.directory),
            most: later.most.or(self.most),
            pin: later.pin.or(self.pin),
            replies: later.replies.or(self.replies),
            http: self.http.then(later.http),
        }
    }

    /// What all files say of it together.
    pub(super) fn done(self, clients: &[Client]) -> Loaded<ServerConfig> {
        let starts = self.command.is_some();
        let (has_user, reaches) = (self.user.is_some(), self.reach.is_some());
        let fault = {
            let (source, place, path) = (self.source, self.place, self.at.path.clone());
            move |what: &str, help: &str| -> PolicyError {
                let message = format!("`{path}` {what}");
                source.fault(place, message, "this server", Some(help.to_owned()))
            }
        };
        let Some(policy) = self.policy else {
            return Err(fault(
                "has no `policy`",
                "Write the file with its policy: policy: /etc/capwarden/policies/NAME.yaml.",
            ));
        };
        if !starts && !self.http.has_upstream() {
            return Err(fault(
                "has no `command`",
                "Write what starts it, as a list: command: [node, /opt/sharkmcp/dist/index.js].",
            ));
        }
        if !starts && (has_user || reaches) {
            return Err(fault(
                "has `user` or `reach` and no `command`: it is not started here",
                "Leave these keys out, or write its `command`.",
            ));
        }
        let http = match self.http.done() {
            Ok(http) => http,
            Err(key) => {
                return Err(fault(
                    &format!("has `{key}` and no `listen`"),
                    "Write where clients come over HTTP: listen: 127.0.0.1:8808.",
                ));
            }
        };
        Ok(ServerConfig {
            command: self.command.unwrap_or_default(),
            policy,
            user: self.user,
            clients: self.clients.unwrap_or_else(|| clients.to_vec()),
            reach: self.reach.unwrap_or_default(),
            environment: self.environment.unwrap_or_default(),
            directory: self.directory,
            most: self.most.unwrap_or(MOST),
            pin: self.pin,
            replies: self.replies,
            http,
            at: self.at,
            places: self.places,
        })
    }
}

fn command(field: &Field<'_>) -> Loaded<Vec<String>> {
    const HELP: &str = "Write the program and its arguments as a list, without a shell: [node, /opt/sharkmcp/dist/index.js].";
    let items = field.items("a list of words", HELP)?;
    if items.is_empty() {
        return Err(field.fault("names no program", HELP));
    }
    let word = |item: &Field<'_>| {
        let text = item.text("a word", HELP)?;
        match text.contains('\0') {
            true => Err(item.fault("has a null character", HELP)),
            false => Ok(text.to_owned()),
        }
    };
    let words = Gather::all(items.iter().map(word))?;
    match (words.first(), items.first()) {
        (Some(program), Some(item)) if program.is_empty() => {
            Err(item.fault("names no program", HELP))
        }
        _ => Ok(words),
    }
}

/// An absolute path: the daemon has no directory of its own.
pub(super) fn absolute(field: &Field<'_>) -> Loaded<PathBuf> {
    const HELP: &str = "Write the path from the root directory on: /etc/capwarden/….";
    let path = PathBuf::from(field.text("a path", HELP)?);
    match path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0) {
        true => Ok(path),
        false => Err(field.fault("is no absolute path", HELP)),
    }
}

/// Something that has a way to be written.
pub(super) fn parsed<T>(field: &Field<'_>, expected: &str, help: &str) -> Loaded<T>
where
    T: FromStr,
    T::Err: Display,
{
    let text = field.text(expected, help)?;
    text.parse()
        .map_err(|why: T::Err| field.fault(&format!("cannot be used: {why}"), help))
}

pub(super) fn flag(field: &Field<'_>) -> Loaded<bool> {
    match field.node.tree {
        Tree::Bool(said) => Ok(said),
        _ => Err(field.wrong("true or false", "Write `true` or `false`.")),
    }
}

fn user(field: &Field<'_>) -> Loaded<String> {
    const HELP: &str = "Write a user's name or number.";
    match &field.node.tree {
        Tree::Integer(number) => match u32::try_from(*number) {
            // The largest number means "no change" to the system calls.
            Ok(number) if number != u32::MAX => Ok(number.to_string()),
            _ => Err(field.fault("is no user's number", HELP)),
        },
        _ => match field.text("a user's name or number", HELP)? {
            "" => Err(field.fault("is no user", HELP)),
            name => Ok(name.to_owned()),
        },
    }
}

fn reach(field: &Field<'_>) -> Loaded<Vec<Deputy>> {
    let names = Deputy::ALL.map(Deputy::name).join(", ");
    let help = format!("Write a list of these, as `run --reach` takes them: {names}.");
    let items = field.items("a list of daemons", &help)?;
    let one = |item: &Field<'_>| {
        let name = item.text("a daemon", &help)?;
        Deputy::of(name).ok_or_else(|| item.fault("is no daemon that is known", &help))
    };
    Gather::all(items.iter().map(one))
}

fn environment(field: &Field<'_>) -> Loaded<BTreeMap<String, String>> {
    const HELP: &str = "Write variables and their values: { PCAP_STORAGE_DIR: /var/lib/capwarden/captures }. A number is written as text: \"1\".";
    let entries = field.entries("variables with their values", HELP)?;
    if entries.len() > MOST_VARIABLES {
        return Err(field.fault("has more variables than a server needs", HELP));
    }
    let one = |entry: &Field<'_>| {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let digit = entry.key.starts_with(|c: char| c.is_ascii_digit());
        if entry.key.is_empty() || digit || !entry.key.chars().all(fits) {
            let message = format!("`{}` is no variable's name", entry.key.escape_debug());
            return Err(entry.key_fault(message, HELP));
        }
        let value = entry.text("text", HELP)?;
        match value.contains('\0') {
            true => Err(entry.fault("has a null character", HELP)),
            false => Ok((entry.key.to_owned(), value.to_owned())),
        }
    };
    Ok(Gather::all(entries.iter().map(one))?.into_iter().collect())
}

fn most(field: &Field<'_>) -> Loaded<usize> {
    const HELP: &str = "Write how many of this server may run at once, each for one client.";
    let most = field.whole(1..=MOST_ALLOWED, "a number of servers", HELP)?;
    Ok(usize::try_from(most).unwrap_or(MOST))
}

fn pin(field: &Field<'_>) -> Loaded<Pin> {
    const HELP: &str = "Write `first` (definitions that are seen first are accepted) or `strict` (they are held back).";
    match field.text("`first` or `strict`", HELP)? {
        "first" => Ok(Pin::First),
        "strict" => Ok(Pin::Strict),
        _ => Err(field.fault("is neither `first` nor `strict`", HELP)),
    }
}

fn replies(field: &Field<'_>) -> Loaded<Replies> {
    const HELP: &str = "Write `ours`, `policylayer` or `intercept`.";
    let name = field.text("in whose words denials are told", HELP)?;
    Replies::named(name).ok_or_else(|| field.fault("is nobody whose words are known", HELP))
}
