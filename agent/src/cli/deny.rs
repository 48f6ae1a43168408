//! `capwarden deny`: refuse one call that waits for an approval.

use std::path::PathBuf;

use clap::Args;

use crate::{
    approval::{Approvals, Listed, shown_id},
    audit::Log,
};

use super::{
    approvals, approve,
    exit::Exit,
    failure::Failure,
    paths,
    state::{self, State},
    term::{self, Paint},
};

/// Deny a call that waits for an approval
///
/// The same call is then told so, and does not ask again, for as long as the policy's `timeout` says. An
/// approval that was not used yet is taken back in the same way.
///
/// The exit status is 1 if there is no such request, or its time is over.
#[derive(Debug, Args)]
pub(super) struct Deny {
    /// The request, as `capwarden approvals` lists it: K7QM-2F9X
    #[arg(value_name = "ID")]
    id: String,
    /// Tell the model why
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    /// Record it in this audit log
    ///
    /// Without it: /var/log/capwarden/audit.jsonl for root, otherwise
    /// $XDG_STATE_HOME/capwarden/audit.jsonl.
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    #[command(flatten)]
    state: State,
}

impl Deny {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let table = Approvals::open(&self.state.open()?)?;
        // It is denied, whatever becomes of the log.
        let log = || Ok(Log::open(paths::audit_to_write(self.audit.as_deref())?)?);
        let (said, listed) = deny(&table, log, &self.id, self.why)?;
        term::print(|out| {
            writeln!(out, "{said}")?;
            approvals::details(&listed, Paint::for_stdout(), out)
        })?;
        Ok(Exit::Ok)
    }
}

/// Denies a request, then records it in a log that is opened for it. Says what was done.
pub(super) fn deny(
    table: &Approvals,
    log: impl FnOnce() -> Result<Log, Failure>,
    id: &str,
    why: Option<String>,
) -> Result<(String, Listed), Failure> {
    let by = state::operator();
    let listed = table.deny(id, by, why).map_err(approve::refused)?;
    approve::record(&log()?, &listed, by)?;
    let (id, left) = (shown_id(&listed.id), state::span(listed.left));
    Ok((
        format!("denied {id}: it is not asked for again within {left}"),
        listed,
    ))
}
