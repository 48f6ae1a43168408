//! Decides calls for the gate: by the policy, then by the limits that it names.
//!
//! # Calls that come again
//!
//! A server may answer a call by asking for input; then the client sends the call again, as a new
//! one. It is one call to its limits: charged when it is first sent, and with each time it comes
//! again the charge moves to that time, so that it counts when the tool may act. Once input was
//! asked for, nothing is given back whatever becomes of the call, since the server has worked on
//! it; and after [`MOST_ROUNDS`] times it is charged anew. So a call is never charged twice, and
//! there is no way to have a server work for nothing by sending the same call again and again.
//!
//! # The order
//!
//! First whether the grant that it came with is still good, then the policy, within what that grant allows, then whether the tool's definition is the accepted one, then the limits, then, of a call that needs one, the approval: it is used up only for
//! a call that may go. Where it is missing, the limits get back what was reserved.
//!
//! A grant is looked at anew with each call, so that one which is taken back ends what it let in. The policy
//! that it names decides, if it names one. What a denial offers, and what is written into a call, is what the
//! policy and the grant allow together.

#[cfg(test)]
mod approval_tests;
#[cfg(test)]
mod tests;
mod waiting;

use std::sync::{Arc, PoisonError, RwLock, atomic::AtomicU64};

use serde_json::json;
use tokio::sync::watch;

use self::waiting::Waiting;
use super::{
    approve,
    grant_policies::{self, GrantPolicies},
    links, pinned,
    stay::Prover,
};
use crate::{
    approval::{Approvals, Clerk, Event, Used},
    definitions::{self, Keeper, Listings},
    filter::Compiler,
    gate::{CallEnd, Decide, DecidedBy},
    limits::{LimitReached, Limits, LimitsError, Refused, Reservation, Settle},
    policy::{
        Baseline, Call, Ceiling, Counters, Decision, Definition, Denial, Knowledge, Pinning,
        Policy, ProgramNeeds, RuleRef, Said, Scope, Verdict, Window,
    },
    principal::{Caller, Grants},
    store::StateDirectory,
};

/// How often a call may come again, with the input that was asked for, on one charge.
const MOST_ROUNDS: u8 = 8;

/// Decides the calls to one governed server.
#[derive(Debug)]
pub struct Judge {
    policy: RwLock<Arc<Policy>>,
    limits: Arc<Limits>,
    listings: Listings,
    /// What is pinned where the policy says nothing of that.
    pinning: Option<Pinning>,
    /// Knows which definitions are accepted.
    keeper: Option<Keeper>,
    waiting: Waiting,
    /// Where approvals are kept, and who asks for them there.
    state: Option<StateDirectory>,
    approvals: Option<Clerk>,
    grants: Option<Arc<Grants>>,
    /// The policies that grants name.
    own: Option<Arc<GrantPolicies>>,
    prover: Option<Prover>,
    /// How often other tools became visible.
    changes: watch::Sender<u64>,
}

/// What a call has reserved.
#[derive(Debug, Default)]
pub struct Ticket {
    reservation: Reservation,
    /// By which the call is known if it comes again.
    mark: u64,
    /// How often it has come again.
    rounds: u8,
    /// The approval that it has used up.
    approved: Option<Used>,
    /// The policy that decided it.
    by: Option<DecidedBy>,
}

impl Judge {
    /// Decides by this policy, and counts there.
    #[must_use]
    pub fn new(policy: Policy, limits: Arc<Limits>) -> Self {
        Self {
            policy: RwLock::new(Arc::new(policy)),
            limits,
            listings: Listings::default(),
            pinning: None,
            keeper: None,
            waiting: Waiting::default(),
            changes: watch::Sender::new(0),
            state: None,
            approvals: None,
            grants: None,
            own: None,
            prover: None,
        }
    }

    /// Keeps the approvals there that the policy wants. Without it, calls that need one are denied.
    #[must_use]
    pub fn with_state(self, directory: StateDirectory) -> Self {
        Self {
            state: Some(directory),
            ..self
        }
    }

    /// Asks for approvals from now on, and tells of what becomes of them.
    #[must_use]
    pub(super) fn telling(self, tell: impl FnMut(Event) + Send + 'static) -> Self {
        let approvals = self.state.clone().map(|directory| {
            // The table is opened for the first call that needs it: most policies ask for none.
            Clerk::start(move || Approvals::open(&directory), tell)
        });
        Self { approvals, ..self }
    }

    /// Pins all definitions, whatever the policy says.
    #[must_use]
    pub fn with_pinning(self, pinning: Option<Pinning>) -> Self {
        Self { pinning, ..self }
    }

    /// Keeps definitions from now on, and tells what becomes of them.
    #[must_use]
    pub(super) fn keeping(self, tell: impl FnMut(definitions::Event) + Send + 'static) -> Self {
        let changes = self.changes.clone();
        let keeper = self.state.clone().map(|directory| {
            Keeper::start(directory, tell, move || {
                changes.send_modify(|times| *times += 1);
            })
        });
        Self { keeper, ..self }
    }

    /// Proves with this compiler what the policy wants proved of filters in arguments. Without it,
    /// calls that need a proof are denied.
    #[must_use]
    pub fn with_compiler(self, compiler: Compiler) -> Self {
        Self {
            prover: Some(Prover::new(compiler)),
            ..self
        }
    }

    /// Holds calls that come with a grant to what that says now.
    #[must_use]
    pub fn with_grants(self, grants: Arc<Grants>) -> Self {
        Self {
            grants: Some(grants),
            ..self
        }
    }

    /// Decides calls whose grant names a policy by that. Without it, they are denied.
    #[must_use]
    pub fn with_grant_policies(self, policies: Arc<GrantPolicies>) -> Self {
        Self {
            own: Some(policies),
            ..self
        }
    }

    /// The policies that grants name, and who is to be told when they show other tools.
    pub(super) fn grant_policies(&self) -> Option<(Arc<GrantPolicies>, watch::Sender<u64>)> {
        let own = self.own.as_ref()?;
        Some((Arc::clone(own), self.changes.clone()))
    }

    /// What a server of this caller's own may do with the network without a session, and what the kernel
    /// must be able to hold its programs to. Where it cannot be told whose policy decides, nothing.
    pub(super) fn bounds(&self, caller: &Caller) -> (Option<Baseline>, Option<ProgramNeeds>) {
        match self.held(caller) {
            Ok(held) if held.by.own => grant_policies::bounds(&held.by.policy, &self.policy()),
            Ok(held) => (held.by.policy.baseline(), held.by.policy.programs()),
            Err(_) => (Some(Baseline::default()), None),
        }
    }

    /// Decides by another policy from now on. What was counted stays, and so does what calls have
    /// reserved already. Clients are told if they see other tools now.
    pub fn replace_policy(&self, policy: Policy) {
        let policy = Arc::new(policy);
        let before = {
            let mut place = self.policy.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *place, Arc::clone(&policy))
        };
        // What is pinned from now on is to be listed once more, for it to be known.
        if !before.shows_the_same(&policy) || before.pins() || policy.pins() {
            self.changes.send_modify(|times| *times += 1);
        }
    }

    /// How often calls were refused because the counters could not be asked.
    pub(super) fn unavailable(&self) -> Arc<AtomicU64> {
        self.limits.unavailable()
    }

    /// The policy that decides now.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether what let a caller in holds: everything but a grant that has ended.
    pub(super) fn lets_in(&self, caller: &Caller) -> bool {
        let (Some(grants), Some(grant)) = (&self.grants, &caller.grant) else {
            return true;
        };
        grants.recheck(grant, &caller.server).is_ok()
    }

    /// What a caller's calls are held to. One who came with a grant has that looked at anew: it must
    /// still be good; its policy decides, if it names one, and its ceiling is the session's.
    fn held(&self, caller: &Caller) -> Result<Held, Box<Denial>> {
        let policy = self.policy();
        let denied = |reason: &str, path: &str| {
            let rule = RuleRef {
                file: Arc::clone(policy.file()),
                line: 0,
                column: 0,
                path: path.to_owned(),
            };
            Box::new(Denial::new(reason, rule))
        };
        let bearer = match (&self.grants, &caller.grant) {
            (Some(grants), Some(grant)) => grants.recheck(grant, &caller.server),
            _ => {
                let by = DecidedBy { policy, own: false };
                let ceiling = Ceiling::default();
                return Ok(Held { by, ceiling });
            }
        };
        let bearer = bearer.map_err(|rejected| {
            tracing::warn!(why = %rejected, "refused a call");
            denied(
                "The grant that this connection was let in with is no longer good.",
                "grants",
            )
        })?;
        let by = match &bearer.policy {
            None => DecidedBy { policy, own: false },
            Some(file) => match self.own.as_ref().and_then(|own| own.get(file)) {
                Some(policy) => DecidedBy { policy, own: true },
                None => {
                    return Err(denied(
                        "The policy that this grant names cannot be used, so nothing is allowed under it.",
                        &format!("grants.{}.policy", bearer.name),
                    ));
                }
            },
        };
        let ceiling = bearer.ceiling;
        Ok(Held { by, ceiling })
    }

    /// The tool's definition must be the accepted one, where that is asked for.
    async fn hold_to_definition(
        &self,
        caller: &Caller,
        call: &Call,
        policy: &Policy,
    ) -> Result<(), Box<Denial>> {
        let Some(pinning) = policy.pinning(&call.tool).or(self.pinning.as_ref()) else {
            return Ok(());
        };
        let listed = self.listings.find(caller.connection, &call.tool);
        pinned::check(
            self.keeper.as_ref(),
            caller,
            call,
            listed.as_deref(),
            pinning,
        )
        .await
    }

    /// Reserves what a call uses, if it is allowed by all the rest.
    async fn reserve(
        &self,
        caller: &Caller,
        call: &Call,
        policy: &Policy,
        decision: &Decision,
    ) -> Result<Ticket, Box<Denial>> {
        let Some(first) = decision.uses.first() else {
            return Ok(Ticket::default());
        };
        let mark = self.waiting.mark(caller, call);
        let (tool, uses) = (call.tool.as_str(), &decision.uses);
        let (reserved, rounds) = match self.waiting.take(mark) {
            None => {
                let nothing = Reservation::default();
                let reserved = self.limits.replace_async(&nothing, caller, tool, uses);
                (reserved.await, 0)
            }
            Some(earlier) => {
                let rounds = earlier.rounds + 1;
                let reserved = &earlier.reservation;
                let reserved = self
                    .limits
                    .replace_async(reserved, caller, tool, uses)
                    .await;
                if reserved.is_err() {
                    self.waiting.keep(earlier);
                }
                (reserved, rounds)
            }
        };
        match reserved {
            Ok(reservation) => Ok(Ticket {
                reservation,
                mark,
                rounds,
                approved: None,
                by: None,
            }),
            Err(Refused::Reached(reached)) => Err(denial(&reached, policy).into()),
            Err(Refused::Unavailable(error)) => Err(unchecked(&error, &first.rule).into()),
        }
    }

    /// Decides a call by the policy that it is held to.
    async fn weigh(&self, caller: &Caller, call: &Call, held: &Held) -> (Verdict, Ticket) {
        let policy = &held.by.policy;
        let ceiling = held.ceiling;
        let decided = self.limits.deciding(caller, &call.tool, |counters| {
            let known = Known {
                counters,
                listings: &self.listings,
                connection: caller.connection,
                ceiling,
            };
            Policy::decide(policy, call, &known)
        });
        let mut decision = match decided.await {
            Ok(decision) => decision,
            Err(error) => {
                let denial = unchecked(&error, policy.rule(&call.tool));
                return (Verdict::Deny(denial), Ticket::default());
            }
        };
        // The decision stays within the grant; should it not, the session does.
        match &mut decision.verdict {
            Verdict::Capture(capture) => ceiling.narrow(&mut capture.terms),
            Verdict::Proxy(proxy) => ceiling.narrow_proxy(&mut proxy.terms),
            Verdict::Program(program) => ceiling.narrow_program(&mut program.terms),
            _ => {}
        }
        if matches!(decision.verdict, Verdict::Deny(_)) {
            return (decision.verdict, Ticket::default());
        }
        if let Err(denial) = self.hold_to_definition(caller, call, policy).await {
            return (Verdict::Deny(*denial), Ticket::default());
        }
        let proofs = std::mem::take(&mut decision.proofs);
        if let Some(demand) = proofs.first() {
            let proved = match &self.prover {
                Some(prover) => prover.prove(proofs).await,
                None => {
                    let reason = "There is nobody who could check the capture filter.";
                    Err(Denial::new(reason, demand.rule.clone()).into())
                }
            };
            if let Err(denial) = proved {
                return (Verdict::Deny(*denial), Ticket::default());
            }
        }
        let paths = std::mem::take(&mut decision.paths);
        if let Err(denial) = links::stay(paths).await {
            return (Verdict::Deny(*denial), Ticket::default());
        }
        let mut ticket = match self.reserve(caller, call, policy, &decision).await {
            Ok(ticket) => ticket,
            Err(denial) => return (Verdict::Deny(*denial), Ticket::default()),
        };
        if let Some(approval) = &decision.approval {
            let clerk = self.approvals.as_ref();
            // The ticket is settled for the verdict that comes in place of an approval.
            match approve::ask(clerk, caller, call, approval, &decision.verdict).await {
                Ok(used) => ticket.approved = Some(used),
                Err(verdict) => return (*verdict, ticket),
            }
        }
        (decision.verdict, ticket)
    }
}

/// What a caller's calls are held to.
struct Held {
    by: DecidedBy,
    /// The grant's.
    ceiling: Ceiling,
}

impl Decide for Judge {
    type Ticket = Ticket;

    fn visible(&self, caller: &Caller, tool: &str) -> bool {
        // Whoever may see nothing may not call it either, and is told why.
        self.held(caller)
            .is_ok_and(|held| Policy::visible(&held.by.policy, tool))
    }

    fn hidden_by(&self, caller: &Caller, tool: &str) -> Option<RuleRef> {
        Some(match self.held(caller) {
            Ok(held) => held.by.policy.rule(tool).clone(),
            Err(denial) => denial.rule,
        })
    }

    fn decided_by(&self, caller: &Caller, ticket: Option<&Ticket>) -> Option<DecidedBy> {
        match ticket {
            Some(ticket) => ticket.by.clone(),
            None => Some(self.held(caller).ok()?.by),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn listed(&self, caller: &Caller, tool: &str, definition: &str) -> bool {
        let definition = self.listings.listed(caller.connection, tool, definition);
        let Ok(held) = self.held(caller) else {
            return false;
        };
        match held.by.policy.pinning(tool).or(self.pinning.as_ref()) {
            None => true,
            Some(pinning) => self
                .keeper
                .as_ref()
                .is_some_and(|keeper| keeper.listed(&caller.server, &definition, pinning.strict)),
        }
    }

    fn list_ended(&self, caller: &Caller) {
        if let Some(keeper) = &self.keeper {
            keeper.list_ended(&caller.server);
        }
    }

    async fn decide(&self, caller: &Caller, call: &Call) -> (Verdict, Ticket) {
        match self.held(caller) {
            Ok(held) => {
                let (verdict, ticket) = self.weigh(caller, call, &held).await;
                let by = Some(held.by);
                (verdict, Ticket { by, ..ticket })
            }
            Err(denial) => (Verdict::Deny(*denial), Ticket::default()),
        }
    }

    fn asked(&self, state: &str) -> bool {
        let clerk = self.approvals.as_ref();
        clerk.is_some_and(|clerk| clerk.owns(state))
    }

    async fn answer(
        &self,
        caller: &Caller,
        call: &Call,
        state: &str,
        said: Said,
    ) -> Result<(), Box<Denial>> {
        let rule = self.held(caller)?.by.policy.rule(&call.tool).clone();
        match &self.approvals {
            Some(clerk) => approve::answer(clerk, caller, call, state, said, rule).await,
            None => Err(Denial::new("There is nobody who could take an answer.", rule).into()),
        }
    }

    fn settle(&self, mut ticket: Ticket, end: CallEnd) {
        if let (Some(clerk), Some(used)) = (&self.approvals, ticket.approved.take())
            && matches!(end, CallEnd::Cancelled | CallEnd::InputRequired)
        {
            clerk.give_back(used);
        }
        if ticket.reservation.is_empty() {
            return;
        }
        let has_come_again = ticket.rounds > 0;
        match end {
            CallEnd::InputRequired if ticket.rounds < MOST_ROUNDS => self.waiting.keep(ticket),
            CallEnd::NotForwarded | CallEnd::Cancelled if has_come_again => {
                // It may still come once more.
                let rounds = ticket.rounds - 1;
                self.waiting.keep(Ticket { rounds, ..ticket });
            }
            _ if has_come_again => self.limits.settle(ticket.reservation, Settle::Used),
            CallEnd::NotForwarded | CallEnd::Cancelled => {
                self.limits.settle(ticket.reservation, Settle::NotMade);
            }
            CallEnd::ToolFailed => self.limits.settle(ticket.reservation, Settle::ToolFailed),
            CallEnd::RpcError => self.limits.settle(ticket.reservation, Settle::RpcError),
            CallEnd::InputRequired | CallEnd::Answered | CallEnd::Lost => {
                self.limits.settle(ticket.reservation, Settle::Used);
            }
        }
    }
}

/// A call whose limits nobody can tell is not made.
fn unchecked(error: &LimitsError, rule: &RuleRef) -> Denial {
    tracing::error!(%error, "limits cannot be checked");
    let reason = format!("The limits of this call cannot be checked: {error}.");
    Denial::new(reason, rule.clone())
}

fn denial(reached: &LimitReached, policy: &Policy) -> Denial {
    let limit = &reached.limit;
    let mut allowed = json!({ "max": limit.max, "used": reached.used });
    if let (Some(again), Some(allowed)) = (reached.again, allowed.as_object_mut()) {
        let seconds = again.after.as_secs() + u64::from(again.after.subsec_nanos() > 0);
        allowed.insert("after_seconds".to_owned(), seconds.into());
    }
    Denial {
        reason: reached.reason(),
        instead: Some(reached.instead()),
        rule: limit.rule.clone(),
        text: policy.limit_text(limit),
        allowed: Some(Box::new(allowed)),
        limit: true,
    }
}

/// What a decision may know.
struct Known<'a, C> {
    counters: C,
    listings: &'a Listings,
    connection: u64,
    ceiling: Ceiling,
}

impl<C: Counters> Counters for Known<'_, C> {
    fn count(&self, counter: &str, scope: Scope, window: Window) -> u64 {
        self.counters.count(counter, scope, window)
    }
}

impl<C: Counters> Knowledge for Known<'_, C> {
    fn definition(&self, tool: &str) -> Option<Arc<Definition>> {
        self.listings.find(self.connection, tool)
    }

    fn ceiling(&self) -> Ceiling {
        self.ceiling
    }
}
