//! Approvals: a call for which the policy says `approve` waits until somebody has looked at it.
//!
//! With `approve: operator` the call is never held: the client is told at once under which id its request
//! is pending, and calls again with the same arguments once it is approved. Whoever can write the state
//! directory can approve; who it was and when is recorded.
//!
//! With `approve: user` the client is given a question to put to its user, where it can ask one. The
//! request is in the same table, and the answer is an approval or a denial like any other: used once,
//! bound to the same, over at the same time. Operators can answer in the user's place, and who may is
//! decided as for them: the state directory belongs to the user that the agent was started by, so that it
//! is that user, and root. An answer is taken with the question's state only ([`Seal`]), from the same
//! principal with the same call, and only the first.
//!
//! # What an approval is for
//!
//! For one call of one tool, with exactly these arguments, by this principal under this grant at this
//! server ([`Request`]). It is for nothing else: one more space in an argument is another call.
//!
//! # How often it can be used
//!
//! Once. It is used up before the call is forwarded, under the table's lock, so that of two identical
//! calls one goes and the other is pending anew. An agent that dies afterwards leaves it used. It is
//! given back only if it is certain that the server did nothing with the call:
//!
//! | the call | its approval |
//! |---|---|
//! | was taken back by the client before it was forwarded | is given back |
//! | is to come again with input that the server asks for | is given back, eight times at most: the same call comes again as a new one |
//! | could not be forwarded, or its session could not be opened | stays used: part of it may have been written |
//! | was forwarded, whatever came of it | stays used |
//!
//! # How long it lasts
//!
//! A request waits for as long as the policy's `timeout` says, and as long again for being used once it
//! is approved. A denial holds for that time too: the same call is then told the operator's reason, and
//! does not ask again.
//!
//! # Bounds
//!
//! [`MOST_PENDING`] requests wait for each principal, [`MOST_LIVE`] in all, each with arguments of at most
//! [`LONGEST_ARGUMENTS`] bytes, and [`MOST_BYTES`] in all. What is over is kept for a day, without its
//! arguments.
//!
//! # What it does not cover
//!
//! A client's own word. `approve: operator` is never answered by a client, though it may say that its
//! user agreed; `approve: user` is, and so protects from the model that a client runs, but not from the
//! client: one that lies, or answers without asking, is believed. What a server asks its client for
//! while it works on an approved call (elicitation, `inputResponses`) is between these two.
#![forbid(unsafe_code)]

mod answer;
mod book;
mod canonical;
mod clerk;
mod entry;
mod event;
mod request;
mod seal;
mod table;
#[cfg(test)]
mod tests;

pub use answer::{Bound, By, NotTaken};
pub use book::{Asked, Refused, Used};
pub use clerk::Clerk;
pub use entry::{Entry, Standing};
pub use event::{Event, What};
pub use request::{Request, shown_id};
pub use seal::Seal;
pub use table::{Approvals, Approved, Listed, OperatorError};

/// Requests of one principal that may wait for an operator.
pub const MOST_PENDING: usize = 32;

/// Requests in all that are not over.
pub const MOST_LIVE: usize = 1_000;

/// Bytes that one call's tool and arguments may have, as canonical JSON.
pub const LONGEST_ARGUMENTS: usize = 16 << 10;

/// Bytes of all requests that are not over. Half of what a table holds, less than that when escaped.
pub const MOST_BYTES: usize = 3 << 20;
