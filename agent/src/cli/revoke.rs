//! `capwarden revoke`: take a grant back, with all that runs under it.

use clap::Args;

use crate::{audit::visible, operate::Live};

use super::{
    agents,
    exit::Exit,
    failure::Failure,
    grant, stop,
    term::{self, Paint},
};

/// Revoke a grant, and end its sessions now
///
/// As `capwarden grant revoke`, and then every session that was opened under it is ended, whichever agent has
/// it. Returns when all have ended, and says how. Agents refuse its token from the next request on.
///
/// The exit status is 1 if there is no such grant.
#[derive(Debug, Args)]
#[group(skip)]
#[command(after_help = "Example:\n  sudo capwarden revoke laptop")]
pub(super) struct Revoke {
    #[command(flatten)]
    grant: grant::Revoke,
}

impl Revoke {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        // Whoever may not end its sessions revokes nothing by this.
        let mut agents = agents::ask("end what runs under a grant")?;
        let grant = self.grant.revoke()?;
        let (_, live) = agents.sessions(None);
        agents::warn_of_silent(&agents);
        let its = |one: &&Live| {
            let who = one.who.as_ref();
            who.is_some_and(|who| who.grant.as_ref() == Some(&grant.id))
        };
        let unasked = agents.silent.len();
        let its: Vec<&Live> = live.iter().filter(its).collect();
        let ended = stop::stop_these(agents, &its, Some("its grant is revoked"))?;
        let paint = Paint::for_stdout();
        term::print(|out| {
            ended.iter().try_for_each(|ended| {
                let id = paint.strong(&ended.short_id());
                writeln!(out, "{id} ended: {}", visible(&ended.text))
            })
        })?;
        if unasked > 0 {
            return Err(stop::not_all_asked(unasked));
        }
        Ok(Exit::Ok)
    }
}
