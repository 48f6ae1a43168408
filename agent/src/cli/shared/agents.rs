//! The agents of the host, as the operators' verbs ask them.

use crate::operate::{self, Agents, AskError};

use super::failure::{Account, Failure};

/// The agents that run, of whom those that cannot be asked are warned of.
pub(in crate::cli) fn ask(purpose: &str) -> Result<Agents, Failure> {
    require_root(purpose)?;
    operate::agents().map_err(|error| failed(&error))
}

/// Agents listen to nobody else.
pub(in crate::cli) fn require_root(purpose: &str) -> Result<(), Failure> {
    match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => Err(Failure::needs_root(purpose)),
    }
}

/// Says in a line each which agents could not be asked.
pub(in crate::cli) fn warn_of_silent(agents: &Agents) {
    for silent in &agents.silent {
        tracing::warn!(
            "the agent with process id {} cannot be asked: {}",
            silent.pid,
            silent.why
        );
    }
}

pub(in crate::cli) fn failed(error: &AskError) -> Failure {
    Failure::Internal(Account::new(error.to_string()))
}
