//! `capwarden deny`: refuse one call that waits for an approval.

use clap::Args;

use crate::approval::{Approvals, shown_id};

use super::{
    approvals, approve,
    exit::Exit,
    failure::Failure,
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
    #[command(flatten)]
    state: State,
}

impl Deny {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let table = Approvals::open(&self.state.open()?)?;
        match table.deny(&self.id, state::operator(), self.why) {
            Ok(listed) => {
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
