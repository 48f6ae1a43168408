//! The gate: every line between an MCP client and its server passes here, and every `tools/call`
//! is decided here.
//!
//! What the gate does not understand it forwards as the bytes it came in; what it changes it
//! splices, so that every other byte stays; what two parsers could read in two ways it refuses.
#![forbid(unsafe_code)]

mod book;
mod captures;
mod client;
mod envelope;
mod events;
mod json;
mod lines;
mod pump;
mod reply;
mod server;
mod splice;
mod stops;
mod tools;

pub use captures::*;
pub use events::*;
pub use pump::{Bounds, CLIENT_LINE, DRAIN, Gate, IN_FLIGHT, PumpEnd, SERVER_LINE, Streams, pump};

#[cfg(test)]
mod tests;
