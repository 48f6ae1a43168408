//! `capwarden approve`: let one call go that waits for it.

use std::path::PathBuf;

use clap::Args;

use crate::{
    approval::{Approvals, Approved, Listed, OperatorError, Standing, shown_id},
    audit::{ApprovalRecord, Log, Record, Text},
    principal::Operator,
};

use super::{
    approvals,
    exit::Exit,
    failure::{Account, Failure},
    paths,
    state::{self, State},
    term::{self, Paint},
};

/// Approve a call that waits for an approval
///
/// The same call, with the same arguments by the same caller, can then be made once, for as long as the
/// policy's `timeout` says. What is approved is printed; `capwarden deny` takes it back until it is used.
/// Approving it again changes nothing.
///
/// The exit status is 1 if there is no such request, or its time is over.
#[derive(Debug, Args)]
pub(super) struct Approve {
    /// The request, as `capwarden approvals` lists it: K7QM-2F9X
    #[arg(value_name = "ID")]
    id: String,
    /// Record it in this audit log
    ///
    /// Without it: /var/log/capwarden/audit.jsonl for root, otherwise
    /// $XDG_STATE_HOME/capwarden/audit.jsonl. If the log cannot be written, nothing is approved.
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    #[command(flatten)]
    state: State,
}

impl Approve {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let table = Approvals::open(&self.state.open()?)?;
        let log = Log::open(paths::audit_to_write(self.audit.as_deref())?)?;
        let (said, listed) = approve(&table, &log, &self.id)?;
        tell(&said, &listed)
    }
}

/// Approves a request, with a record of it. Says what was done.
pub(super) fn approve(table: &Approvals, log: &Log, id: &str) -> Result<(String, Listed), Failure> {
    let by = state::operator();
    match table.approve(id, by) {
        Ok(Approved::Now(listed)) => {
            if let Err(error) = record(log, &listed, by) {
                // What is not in the log is not to be.
                let why = "the approval could not be recorded".to_owned();
                if let Err(error) = table.deny(id, by, Some(why)) {
                    tracing::error!(%error, "what was approved could not be taken back");
                }
                return Err(error);
            }
            let id = shown_id(&listed.id);
            Ok((format!("approved {id}"), listed))
        }
        // Who approved it is in the log already.
        Ok(Approved::Before(listed)) => {
            let id = shown_id(&listed.id);
            Ok((format!("{id} was approved already"), listed))
        }
        Err(error) => Err(refused(error)),
    }
}

/// Tells what is approved, and for how long.
fn tell(said: &str, listed: &Listed) -> Result<Exit, Failure> {
    let left = state::span(listed.left);
    term::print(|out| {
        writeln!(out, "{said}: it can be called once within {left}")?;
        approvals::details(listed, Paint::for_stdout(), out)
    })?;
    Ok(Exit::Ok)
}

/// Records what an operator has said just now about a request.
pub(super) fn record(log: &Log, listed: &Listed, by: Operator) -> Result<(), Failure> {
    let request = &listed.entry.request;
    let (became, at, why) = match &listed.standing {
        Standing::Approved { at, .. } => ("approved", *at, None),
        Standing::Denied { at, why, .. } => ("denied", *at, why.clone()),
        Standing::Pending | Standing::Used { .. } | Standing::Expired => return Ok(()),
    };
    log.append(&Record::Approval(Box::new(ApprovalRecord {
        id: Text::new(shown_id(&listed.id)),
        became: became.into(),
        principal: Text::new(request.principal.as_str()),
        server: Text::new(request.server.as_str()),
        tool: Text::new(request.tool.as_str()),
        rule: Text::new(request.rule.as_str()),
        by: Some(Text::new(by.to_string())),
        at: Some(Text::new(state::time(at))),
        why: why.map(Text::new),
        seen: false,
    })))?;
    Ok(())
}

/// What is told where nothing could be said about a request.
pub(super) fn refused(error: OperatorError) -> Failure {
    let hint = state::whose().unwrap_or("capwarden approvals --all");
    match error {
        OperatorError::Store(error) => error.into(),
        error => Failure::NotThere(Account::new(error.to_string()).hint(hint)),
    }
}
