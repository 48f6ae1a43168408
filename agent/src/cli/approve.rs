//! `capwarden approve`: let one call go that waits for it.

use clap::Args;

use crate::approval::{Approvals, OperatorError, shown_id};

use super::{
    approvals,
    exit::Exit,
    failure::{Account, Failure},
    state::{self, State},
    term::{self, Paint},
};

/// Approve a call that waits for an approval
///
/// The same call, with the same arguments by the same caller, can then be made once, for as long as the
/// policy's `timeout` says. What is approved is printed; `capwarden deny` takes it back until it is used.
///
/// The exit status is 1 if there is no such request, or its time is over.
#[derive(Debug, Args)]
pub(super) struct Approve {
    /// The request, as `capwarden approvals` lists it: K7QM-2F9X
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    state: State,
}

impl Approve {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let table = Approvals::open(&self.state.open()?)?;
        match table.approve(&self.id, state::operator()) {
            Ok(listed) => {
                let id = shown_id(&listed.id);
                let left = state::span(listed.left);
                term::print(|out| {
                    writeln!(out, "approved {id}: it can be called once within {left}")?;
                    approvals::details(&listed, Paint::for_stdout(), out)
                })?;
                Ok(Exit::Ok)
            }
            Err(error) => refused(error),
        }
    }
}

/// What is told where nothing could be said about a request.
pub(super) fn refused(error: OperatorError) -> Result<Exit, Failure> {
    let hint = state::whose().unwrap_or("capwarden approvals --all");
    match error {
        OperatorError::Store(error) => Err(error.into()),
        error => {
            let account = Account::new(error.to_string()).hint(hint);
            Err(Failure::NotThere(account))
        }
    }
}
