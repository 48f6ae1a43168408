//! `capwarden top`: what goes on, on one screen.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use clap::Args;

use crate::{
    approval::{Approvals, Standing, shown_id},
    audit::Log,
    operate::top::{self, Desk, Ended, TopError, Waiting},
    store::StateDirectory,
};

use super::{
    agents, approve, deny,
    exit::Exit,
    failure::{Account, Failure},
    paths,
    state::{self, State},
};

/// Watch the sessions of this host, and end them by a key
///
/// All sessions of all agents with their rates, and gauges for their caps; denials and refusals as they
/// happen; calls that wait for an approval. Keys: arrows or j and k select, s or Del stops (and asks first), a
/// approves, d denies, Enter shows everything of a session, / filters, ? helps, q leaves.
///
/// Takes a terminal. For programs: `capwarden sessions --json`.
#[derive(Debug, Args)]
pub(super) struct Top {
    /// Record approvals and denials in this audit log
    ///
    /// Without it: /var/log/capwarden/audit.jsonl for root, otherwise
    /// $XDG_STATE_HOME/capwarden/audit.jsonl. What is stopped is recorded by its agent.
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    #[command(flatten)]
    state: State,
}

impl Top {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Err(Failure::Usage(
                Account::new("top draws on a terminal, and there is none here")
                    .hint("capwarden sessions --json"),
            ));
        }
        agents::require_root("watch what agents do")?;
        let calls = Calls::new(self.state, self.audit)?;
        match top::run(calls, state::operator().sudo_uid) {
            Ok(Ended::Left) => Ok(Exit::Ok),
            Ok(Ended::Signal(signal)) => {
                Ok(Exit::Child(u8::try_from(128 + signal).unwrap_or(u8::MAX)))
            }
            Err(TopError::Agents(error)) => Err(agents::failed(&error)),
            Err(error @ TopError::Terminal(_)) => {
                Err(Failure::Internal(Account::new(error.to_string())))
            }
        }
    }
}

/// The calls that wait. There may be no state yet.
pub(super) struct Calls {
    state: State,
    directory: Option<StateDirectory>,
    table: Option<Approvals>,
    audit: Option<PathBuf>,
}

impl Calls {
    pub(super) fn new(state: State, audit: Option<PathBuf>) -> Result<Self, Failure> {
        Ok(Self {
            directory: state.look()?,
            table: None,
            state,
            audit,
        })
    }

    fn table(&mut self) -> Result<Option<&Approvals>, Failure> {
        if self.table.is_none() {
            if self.directory.is_none() {
                self.directory = self.state.look()?;
            }
            let opened = self.directory.as_ref().map(Approvals::open);
            self.table = opened.transpose()?;
        }
        Ok(self.table.as_ref())
    }

    fn answer(
        &mut self,
        answer: impl FnOnce(&Approvals, Log) -> Result<String, Failure>,
    ) -> Result<String, String> {
        let log = paths::audit_to_write(self.audit.as_deref())
            .and_then(|path| Ok(Log::open(path)?))
            .map_err(|failure| failure.in_a_line())?;
        let table = self.table().map_err(|failure| failure.in_a_line())?;
        let table = table.ok_or_else(|| "no call waits for an approval".to_owned())?;
        answer(table, log).map_err(|failure| failure.in_a_line())
    }
}

impl Desk for Calls {
    fn waiting(&mut self) -> Result<Vec<Waiting>, String> {
        let table = self.table().map_err(|failure| failure.in_a_line())?;
        let Some(table) = table else {
            return Ok(Vec::new());
        };
        let listed = table.list(false).map_err(|error| error.to_string())?;
        let pending = listed
            .into_iter()
            .filter(|one| one.standing == Standing::Pending);
        let waiting = pending.map(|one| Waiting {
            id: shown_id(&one.id),
            caller: format!(
                "{} at {}",
                one.entry.request.principal, one.entry.request.server
            ),
            tool: one.entry.request.tool,
            arguments: one.entry.request.arguments,
            effect: one.entry.request.effect,
            left: one.left,
        });
        Ok(waiting.collect())
    }

    fn approve(&mut self, id: &str) -> Result<String, String> {
        self.answer(|table, log| approve::approve(table, &log, id).map(|(said, _)| said))
    }

    fn deny(&mut self, id: &str) -> Result<String, String> {
        self.answer(|table, log| deny::deny(table, || Ok(log), id, None).map(|(said, _)| said))
    }
}
