//! `capwarden deny`: refuse one call that waits for an approval.

use std::path::PathBuf;

use clap::Args;

use crate::{
    approval::{Approvals, shown_id},
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
        let by = state::operator();
        match table.deny(&self.id, by, self.why) {
            Ok(listed) => {
                // It is denied, whatever becomes of the log.
                let log = Log::open(paths::audit_to_write(self.audit.as_deref())?)?;
                approve::record(&log, &listed, by)?;
                let id = shown_id(&listed.id);
                let left = state::span(listed.left);
                term::print(|out| {
                    writeln!(out, "denied {id}: it is not asked for again within {left}")?;
                    approvals::details(&listed, Paint::for_stdout(), out)
                })?;
                Ok(Exit::Ok)
            }
            Err(error) => approve::refused(error),
        }
    }
}
