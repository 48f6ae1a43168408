//! What a policy file says, and what it says about a call.
//!
//! Nothing here looks at the host or at a clock: a [`Policy`] is read once, and [`Policy::decide`]
//! is a function of the policy, the call, and what is known of counters and of tools' definitions
//! ([`Knowledge`]). It decides on what is *asked*; the kernel holds what is *done*, whatever was
//! asked. What a policy cannot find out by itself is in the [`Decision`]: limits to reserve,
//! approvals to ask for, capture filters to prove.
//!
//! # The language
//!
//! It is described where its users find it, in `policies/README.md` (and `capwarden-policy(5)`,
//! which is made from that); `schema.json` has it for editors. Tests hold both against the loader:
//! all that is shown loads, and no key is missing.
//!
//! A tool's rule comes to a `model::Action` and a list of `model::Step`s, in the order in which
//! they are asked: `args` (`predicate`), `checks` (`condition`, `operator`), approvals, limits
//! (`usage`). All dialects come to the same model, so that there is one decision (`decide`),
//! one comparison (`diff`), and one way to write any of them in ours (`import`). What is no error, and hardly meant, is
//! found by `overlap` and `uncounted`.
//!
//! # Who approves
//!
//! `approve: operator` waits for whoever can write the state directory, and never takes a client's
//! word. `approve: user` asks whoever sits at the MCP client, through it, where it can (by elicitation);
//! elsewhere the call waits as for an operator, who can always answer in the user's place. A client
//! reports its user's answer itself: `user` protects from the model, not from the client. Where
//! several rules ask for an approval, an operator's is needed if one of them says so.
//!
//! # The dialects of others
//!
//! PolicyLayer's JSON, Intercept's YAML and its catalogue's load as they are, told by their shape
//! ([`Dialect`]): the heads of the modules in `dialect/` say how each is read. What is unknown is
//! refused in all of them, each with its place, up to 20 things of a file at once.
#![forbid(unsafe_code)]

mod argument;
mod capture;
mod case;
mod ceiling;
mod condition;
mod decide;
mod definition;
mod dialect;
mod diff;
mod endpoint;
mod error;
mod explain;
mod import;
mod interface;
mod json_schema;
mod limit;
mod load;
mod model;
mod network;
mod number;
mod operator;
mod overlap;
mod predicate;
mod program;
mod proxy;
mod request;
mod source;
mod summary;
mod uncounted;
mod units;
mod usage;
mod verdict;

#[cfg(test)]
mod tests;

/// The JSON Schema (2020-12) of our own language: what may stand where.
pub const SCHEMA: &str = include_str!("schema.json");

/// How files like policies are read: keys and values with their places, and all that is wrong at once.
pub(crate) mod reading {
    pub(crate) use super::{
        error::Source,
        load::{Field, Gather, Loaded, Place, Section, Tree, contents, tree},
    };
}

pub use case::{Case, Difference, Expected};
pub use ceiling::Ceiling;
pub use definition::{Definition, LONGEST_DEFINITION, PARTS};
pub use diff::{Effect, PolicyChange, Subject};
pub use endpoint::{Endpoint, EndpointHost, Transport};
pub use error::{Excerpt, PolicyError};
pub use explain::{Assumed, Outcome};
pub use import::{Imported, Reading};
pub use limit::*;
pub use model::{Dialect, Pinning, Policy, PolicyFilter, ProgramNeeds, Replies};
pub use overlap::SharedUpstream;
pub use program::{ProgramTerms, ProgramVerdict};
pub use proxy::{Baseline, ProxyEnd, ProxyTerms, ProxyVerdict};
pub use request::{Request, unpoliced};
pub use summary::{Summary, ToolSummary};
pub use uncounted::Uncounted;
pub use verdict::*;
