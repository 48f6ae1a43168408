//! For the person on call: what the agents of this host do at this moment, and how to stop it.
//!
//! Each agent process serves a Unix socket, `/run/capwarden/agents/PID.sock`, in a directory that only root can
//! look into. Whoever connects must be root, by the kernel's word, and no governed process.
//!
//! ```text
//!  session, gate, approval ──▶ Desk: one for each server ──▶ Office: one for each process ◀──▶ verbs
//!       what happens             who asked for what            the socket, the watchers
//! ```
//!
//! # What is said
//!
//! One JSON object a line, each of at most [`LONGEST_LINE`] bytes. A client asks by a [`Request`]:
//!
//! | request | answer, in [`Line`]s |
//! |---|---|
//! | `{"do":"sessions"}` | an `agent` for each server, a `session` for each session of it, then `moment` |
//! | `{"do":"sessions","server":"pcap"}` | the same of this server: no `agent` that does not serve it |
//! | `{"do":"watch","every_ms":250}` | the same, again and again, with `event` in between, until the client leaves |
//! | `{"do":"stop","sessions":["5f1c2a9b…/s3"],"why":"…"}` | `stopping`, an `ended` for each session, then `done`; a `refused` for whatever went wrong |
//! | `{"do":"stop","all":true}` | the same for every session of the process |
//!
//! What a session has come to is read from the maps of its guard when it is asked for. What an operator does
//! is in the audit log, with who did it, before it is done.
//!
//! # Bounds
//!
//! [`CONVERSATIONS`] at once, each ended when nothing is asked for a minute, or when it does not read for ten
//! seconds; and [`RESERVED`] more, for whoever wants to stop something while others watch. A watcher that is too slow for what happens is told how much it missed.
#![forbid(unsafe_code)]

mod client;
mod desk;
mod feed;
mod name;
mod office;
mod place;
mod serve;
#[cfg(test)]
mod tests;
pub mod top;
pub mod web;
mod wire;

pub use client::{Agents, AskError, Conversation, Silent, agents, ask_each};
pub use desk::Desk;
pub use name::{NoSuchSession, select};
pub use wire::{Agent, Ended, Event, EventKind, LONGEST_LINE, Line, Live, Request, Who, short_id};

/// Conversations that an agent has at once.
pub const CONVERSATIONS: usize = 8;
/// More of them, in which nobody may watch, and which are short: whoever is to stop something finds a seat.
pub const RESERVED: usize = 2;
