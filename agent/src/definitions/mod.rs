//! What servers say of their tools: what each connection was told last, and which definitions are
//! accepted.
//!
//! A tool's description and schemas are text that a model reads and believes. A server can change them at
//! any time, after somebody has looked at them. Where the policy says `definitions: pinned` (or `run`
//! has `--pin`), each definition is kept, and a tool is shown and can be called only while the server
//! defines it as it was accepted.
//!
//! # What is accepted
//!
//! What a server lists first, to the end of that first list (or for [`FIRST`] seconds, should it have no
//! end), is accepted, which is told in the log and the record; with `{ pinned: strict }` it is not. After
//! that, a tool that is new, or defined otherwise than accepted, is held back until an operator accepts it.
//! What cannot be read without doubt, such as a key that stands twice, is never accepted.
//!
//! # By which definition a call is decided
//!
//! By what the server listed last to the client's connection: a server may tell each something else. A
//! connection that was told nothing of the tool yet is decided by what the server said last to anybody,
//! since this agent started; clients need not list anew what they remember. Where nobody was told of
//! the tool, the call is denied, and the model told to list the tools.
//!
//! # Bounds
//!
//! A definition has at most 128 KiB. Of each server [`MOST_TOOLS`] tools are kept, of [`MOST_SERVERS`]
//! servers, of at most [`MOST_BYTES`] in all; what has no room is held back.
#![forbid(unsafe_code)]

mod diff;
mod event;
mod keeper;
mod listings;
mod pin;
mod pins;
#[cfg(test)]
mod tests;

pub use diff::{Difference, Edit, Piece, differences};
pub use event::{Event, What};
pub use keeper::{Held, Keeper};
pub use listings::Listings;
pub use pin::{Pin, ServerPins, Standing, Version};
pub use pins::{AcceptError, Offer, Pins};

/// Tools of one server that are kept.
pub const MOST_TOOLS: usize = 1_024;

/// Servers that are kept.
pub const MOST_SERVERS: usize = 256;

/// Bytes of all definitions that are kept, about. A table holds a little more.
pub const MOST_BYTES: usize = 5 << 20;

/// How many seconds a server's first list may take.
pub const FIRST: u64 = 600;
