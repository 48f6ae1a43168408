//! Who may connect to a server.

use std::fmt;

use crate::policy::reading::{Field, Gather, Loaded};

const HELP: &str =
    "Write who may connect: [user:alice, group:capwarden], by name or by number. Root may anyway.";

/// Somebody who may connect. Names are looked up when somebody comes: accounts come and go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// The user of this name or number.
    User(String),
    /// Everybody in the group of this name or number.
    Group(String),
}

/// `user:alice`, `group:capwarden`.
impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user:{name}"),
            Self::Group(name) => write!(f, "group:{name}"),
        }
    }
}

pub(super) fn clients(field: &Field<'_>) -> Loaded<Vec<Client>> {
    let items = field.items("a list of users and groups", HELP)?;
    Gather::all(items.iter().map(client))
}

fn client(item: &Field<'_>) -> Loaded<Client> {
    let text = item.text("a user or a group", HELP)?;
    let named = |name: &str| {
        let fits = |c: char| c.is_ascii_graphic() && c != ':' && c != ',';
        (!name.is_empty() && name.len() <= 64 && name.chars().all(fits)).then(|| name.to_owned())
    };
    let client = match text.split_once(':') {
        Some(("user", name)) => named(name).map(Client::User),
        Some(("group", name)) => named(name).map(Client::Group),
        _ => None,
    };
    client.ok_or_else(|| item.fault("is neither user:NAME nor group:NAME", HELP))
}
