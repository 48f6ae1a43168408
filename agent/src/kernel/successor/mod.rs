//! A running agent hands over to its program's next version, which is started beside it.
//!
//! ```text
//! agent ── fork, fork, exec of the file at its path ──▶ successor       (a child of PID 1, which a service manager can watch)
//!   │ ──── socket NAME, and a listener; …; all ────────▶ │   binds nothing that it is given
//!   │ ◀─── ready VERSION AGENT ────────────────────────  │   its configuration is loaded, and can be served
//!   │ ──── serve ──────────────────────────────────────▶ │   from now on it takes clients, and the agent does not
//!   │ ◀─── serving ────────────────────────────────────  │
//!   │      (the manager is told that it is the main process)
//!   │ ──── known ──────────────────────────────────────▶ │   from now on it speaks to the manager, and has the sockets' paths
//!   │ ──── freed SERVER ───────────────────────────────▶ │   what only one of them can have
//! ```
//! They speak over a socket that keeps messages apart; the successor is told by [`CHANNEL`] which descriptor that is.
//! A word that one of them does not know is passed over: they are of different versions. Whatever goes wrong before
//! the manager is told, the successor ends and the agent goes on: at no moment there is none.
//!
//! `LISTEN_FDS` would not do for this: its `LISTEN_PID` is not known before the second fork, after which nothing
//! can be written to the environment any more; and listeners' names cannot have addresses in them.

mod line;
mod next;
mod previous;
mod program;
mod resolve;
#[cfg(test)]
mod tests;

pub(super) use line::Line;
pub use line::Word;
pub use next::{Ready, Successor};
pub use previous::{Predecessor, Words};
pub use program::Program;

/// The variable that has the number of a successor's descriptor.
pub(super) const CHANNEL: &str = "CAPWARDEN_PREDECESSOR";
