//! `capwarden web`: what goes on, in a browser on this host.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use clap::Args;

use crate::operate::web::{Place, Web as Page, WebError};

use super::{
    agents,
    exit::Exit,
    failure::{Account, Failure},
    state::{self, State},
    top::Calls,
};

/// Serve a page that shows the sessions of this host, and ends them by a click
///
/// The sessions of all agents, with packets over time against their cap; denials as they happen; calls that
/// wait for an approval. The page is for this host: it is served on a loopback address, and to whoever shows
/// the token in the address that is printed once, on standard error. The token is kept in no file, and is good
/// until this ends.
///
/// Never returns by itself.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sudo capwarden web --listen 127.0.0.1:9465")]
pub(super) struct Web {
    /// Where to serve it; with port 0, the kernel chooses
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: Place,
    /// Record approvals and denials in this audit log
    ///
    /// Without it: /var/log/capwarden/audit.jsonl for root, otherwise
    /// $XDG_STATE_HOME/capwarden/audit.jsonl. What is stopped is recorded by its agent.
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    #[command(flatten)]
    state: State,
}

impl Web {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        agents::require_root("watch what agents do")?;
        let calls = Calls::new(self.state, self.audit)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| failed("cannot start", &error))?;
        runtime.block_on(async {
            let opened = Page::open(self.listen, calls, state::operator().sudo_uid).await;
            let mut page = opened.map_err(|error| match error {
                WebError::Agents(error) => agents::failed(&error),
                error => Failure::Internal(Account::new(error.to_string())),
            })?;
            let address = page.reveal();
            writeln!(
                io::stderr(),
                "the page, for whoever has this address: {address}"
            )
            .map_err(|error| failed("cannot say where the page is", &error))?;
            drop(address);
            page.serve().await;
            Ok(Exit::Ok)
        })
    }
}

fn failed(what: &str, error: &io::Error) -> Failure {
    Failure::Internal(Account::new(what).because(error))
}
