//! Limits, as a policy states them: the limits room counts, the policy says what.

use std::{sync::Arc, time::Duration};

use super::{Ceiling, Definition, RuleRef};

/// One use of one limit by one call. A call's uses are reserved before it is forwarded: all of
/// them, or none.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitUse {
    /// The counter. The same name in the same scope is the same counter, whatever rule names it.
    pub counter: String,
    /// Among whom the counter is shared.
    pub scope: Scope,
    /// Over which time it counts.
    pub window: Window,
    /// How much is admitted in one window.
    pub max: u64,
    /// How much of it this call uses; 0 uses nothing but is still refused beyond `max`.
    pub amount: u64,
    /// When the use is given back.
    pub refund: Refund,
    /// The rule that limits.
    pub rule: RuleRef,
    /// What is said when the limit is reached, in place of our own words.
    pub on_deny: Option<String>,
}

/// Among whom a counter is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The calls that come with one bearer grant; where there is none, one principal's.
    Grant,
    /// One principal's calls.
    Principal,
    /// One connection's calls. Over HTTP, where anybody opens another at will: one grant's, or
    /// without grants one user's.
    Connection,
    /// The calls to one governed server.
    Server,
    /// The calls of one tool of one governed server.
    Tool,
    /// All calls.
    Global,
}

/// Over which time a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// From one full minute, hour or day (UTC) to the next.
    Calendar(Unit),
    /// The time before now.
    Sliding(Duration),
    /// A bucket of `max` tokens, which fills up in this time.
    Bucket(Duration),
}

/// A unit of the calendar, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// 60 seconds.
    Minute,
    /// 60 minutes.
    Hour,
    /// 24 hours.
    Day,
}

/// When a use is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refund {
    /// When the call failed in whatever way: a JSON-RPC error, or a result that says so.
    OnFailure,
    /// When the server answered with a JSON-RPC error.
    OnRpcError,
    /// When the call was not forwarded, only.
    Never,
}

/// What a policy's conditions may read of the counters. Read before anything is reserved, so what
/// is read may be out of date when it is used: only a [`LimitUse`] limits.
pub trait Counters {
    /// What a counter of a calendar window holds now, in the caller's scope.
    fn count(&self, counter: &str, scope: Scope, window: Window) -> u64;
}

/// No call was ever counted.
impl Counters for () {
    fn count(&self, _: &str, _: Scope, _: Window) -> u64 {
        0
    }
}

/// All that a decision may know beside the policy and the call.
pub trait Knowledge: Counters {
    /// What the server says of the tool; none while it has not listed it, in which case a rule
    /// that asks for its schema denies.
    fn definition(&self, _tool: &str) -> Option<Arc<Definition>> {
        None
    }

    /// The most that whoever calls may have, whatever the policy grants.
    fn ceiling(&self) -> Ceiling {
        Ceiling::default()
    }
}

/// Nothing is known: no call was counted, no tool listed.
impl Knowledge for () {}
