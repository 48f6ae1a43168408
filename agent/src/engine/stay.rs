//! Capture filters in arguments of tools that open no session: a call is let through only if they
//! are proved to stay within what the policy says. No guard holds them, so nothing can be narrowed.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::{
    filter::{Compiler, LinkType},
    policy::{Denial, FilterDemand},
    session,
};

/// Proofs at once: each may take a processor for the time that a question is given.
const AT_ONCE: usize = 2;

/// Who proves.
#[derive(Clone, Debug)]
pub(super) struct Prover {
    compiler: Compiler,
    turns: Arc<Semaphore>,
}

impl Prover {
    pub(super) fn new(compiler: Compiler) -> Self {
        Self {
            compiler,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Proves all of them, or says why the call is denied. On Ethernet: what a tool that is not
    /// governed as a capture reads, a file as a rule, has no interface to ask.
    pub(super) async fn prove(&self, demands: Vec<FilterDemand>) -> Result<(), Box<Denial>> {
        let Some(first) = demands.first() else {
            return Ok(());
        };
        let unproved = Denial::new(
            "The capture filter could not be checked in time.",
            first.rule.clone(),
        );
        let Ok(turn) = Arc::clone(&self.turns).acquire_owned().await else {
            return Err(unproved.into());
        };
        let compiler = self.compiler.clone();
        let proved = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            demands
                .into_iter()
                .try_for_each(|demand| hold(demand, &compiler))
        });
        proved.await.unwrap_or_else(|_| Err(unproved.into()))
    }
}

fn hold(demand: FilterDemand, compiler: &Compiler) -> Result<(), Box<Denial>> {
    let FilterDemand {
        argument,
        expression,
        within,
        rule,
    } = demand;
    session::stays_within(expression, within.clone(), LinkType::EN10MB, compiler).map_err(|error| {
        let why = error.to_string();
        let mut denial = Denial::new(format!("In the argument `{argument}`: {why}."), rule);
        denial.instead = Some(format!(
            "Call again with a filter that stays within {within:?}."
        ));
        denial.into()
    })
}
