//! Sessions, as the command line names them.

use super::failure::{Account, Failure};

/// A session of the log: `s3`, or `5f1c2a9b/s3` of the agent whose name begins so, as `capwarden sessions` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct SessionName {
    /// The beginning of the agent's name.
    pub(in crate::cli) agent: Option<String>,
    /// Its number: `s3`.
    pub(in crate::cli) session: String,
}

/// Reads one. Whether there is such a session is for the log to say.
pub(in crate::cli) fn name(text: &str) -> Result<SessionName, String> {
    let (agent, session) = match text.split_once('/') {
        Some((agent, session)) => (Some(agent), session),
        None => (None, text),
    };
    if session.is_empty() || agent.is_some_and(str::is_empty) {
        return Err("it is s3, or 5f1c2a9b/s3 of the agent whose name begins so".to_owned());
    }
    Ok(SessionName {
        agent: agent.map(str::to_owned),
        session: session.to_owned(),
    })
}

impl SessionName {
    /// The same, with what `--agent` says.
    pub(in crate::cli) fn of_agent(self, said: Option<&str>) -> Result<Self, Failure> {
        let agent = match (self.agent, said) {
            (None, said) => said.map(str::to_owned),
            (Some(own), None) => Some(own),
            // The longer one says more.
            (Some(own), Some(said)) if own.starts_with(said) => Some(own),
            (Some(own), Some(said)) if said.starts_with(&own) => Some(said.to_owned()),
            (Some(own), Some(said)) => {
                let what = format!("the session is of the agent {own}, and --agent says {said}");
                return Err(Failure::Usage(Account::new(what).hint("leave --agent out")));
            }
        };
        Ok(Self {
            agent,
            session: self.session,
        })
    }

    /// What is told where there is none such: the same of every verb.
    pub(in crate::cli) fn not_there(what: impl Into<String>) -> Failure {
        Failure::NotThere(
            Account::new(what).hint("capwarden audit show --kind session-opened lists captures"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_named_with_or_without_their_agents() {
        let is = |text: &str, said: Option<&str>, agent: Option<&str>| {
            let found = name(text).unwrap().of_agent(said).unwrap();
            assert_eq!(found.session, "s3", "{text}");
            assert_eq!(found.agent.as_deref(), agent, "{text}");
        };
        is("s3", None, None);
        is("s3", Some("5f"), Some("5f"));
        is("5f1c/s3", None, Some("5f1c"));
        is("5f1c/s3", Some("5f"), Some("5f1c"));
        is("5f/s3", Some("5f1c"), Some("5f1c"));
        assert!(name("5f/s3").unwrap().of_agent(Some("a")).is_err());
        for bad in ["", "/s3", "5f/", "/"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
