//! The gate: every line between an MCP client and its server passes here, and every `tools/call`
//! is decided here.
//!
//! What the gate does not understand it forwards as the bytes it came in; what it changes it
//! splices, so that every other byte stays; what two parsers could read in two ways it refuses.
//!
//! | file | has |
//! |---|---|
//! | `conversation`, `client`, `server` | what becomes of each message, whoever carries it, and from which side |
//! | `call`, `question`, `stops` | a call: decided and given its session, put to the client's user, meant to stop one |
//! | `handshake`, `tools`, `reply`, `farewell` | how it begins, what tools are shown, what the gate says itself, how it ends |
//! | `book`, `owners` | what the client waits for; whose sessions are whose where clients share a server |
//! | `captures`, `events` | what the gate asks of the rooms behind it, and tells them |
//! | `envelope`, `json`, `splice`, `trace`, `written` | text: read strictly, changed without touching the rest |
//! | `pump`, `lines`, `outlet`, `bounds` | carried over pipes, within bounds |
//! | `http` | carried over HTTP |
#![forbid(unsafe_code)]

mod book;
mod bounds;
mod call;
mod captures;
mod client;
mod conversation;
mod envelope;
mod events;
mod farewell;
mod handshake;
pub mod http;
mod json;
mod lines;
mod outlet;
mod owners;
mod pump;
mod question;
mod reply;
mod server;
mod splice;
mod stops;
mod tools;
mod trace;
mod written;

pub use bounds::{Bounds, CLIENT_LINE, DRAIN, IN_FLIGHT, SERVER_LINE};
pub use captures::*;
pub use conversation::{Gate, Rooms};
pub use events::*;
pub use farewell::{Fate, apologise};
pub use pump::{Interrupter, Outgoing, PumpEnd, Shift, Streams, pump};
pub use question::HOLD;
pub use trace::TraceParent;
pub use written::written_call;

#[cfg(test)]
mod fakes;
#[cfg(test)]
mod tests;
