//! Which sessions an operator means.

use super::Live;

/// Sessions that a message names.
const NAMED: usize = 8;

/// It is not to be told which session is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchSession {
    /// None is called so.
    #[error("no session {0} is open")]
    None(String),
    /// Several could be meant.
    #[error("{name} could be {}", .of.join(", "))]
    Several {
        /// What was said.
        name: String,
        /// Some of those that could be meant.
        of: Vec<String>,
    },
}

/// The session that is meant: by its number, `s3`, where there is one of that number; by the beginning of its
/// agent's name and its number, `5f1c/s3`; or by the former alone, where that agent has one session.
///
/// # Errors
///
/// There is none, or several could be meant.
pub fn select<'a>(live: &'a [Live], name: &str) -> Result<&'a Live, NoSuchSession> {
    let is_meant = |one: &&Live| match name.split_once('/') {
        Some((agent, session)) => {
            one.agent.starts_with(agent) && one.now.session.to_string() == session
        }
        None => {
            one.now.session.to_string() == name || (!name.is_empty() && one.agent.starts_with(name))
        }
    };
    let mut meant = live.iter().filter(is_meant);
    match (meant.next(), meant.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(NoSuchSession::None(name.to_owned())),
        (Some(first), Some(second)) => Err(NoSuchSession::Several {
            name: name.to_owned(),
            of: [first, second]
                .into_iter()
                .chain(meant)
                .take(NAMED)
                .map(Live::short_id)
                .collect(),
        }),
    }
}
