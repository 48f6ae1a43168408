//! `capwarden top`: what goes on, on one screen, and the keys that end it.
//!
//! ```text
//!  agents ──lines──▶ feed ──┐
//!  approvals ───────────────┼─▶ Top (state) ──▶ draw ──▶ terminal
//!  keys ──▶ press ──▶ Act ──┘      ▲  what came of an act
//! ```
//! What is shown is a function of what was heard (`state`, `rates`), and what is drawn one of that (`draw`);
//! what a key means is in `keys`. Only `run` speaks to agents and to the terminal, which `screen` gives back
//! however this ends.

mod draw;
mod keys;
mod rates;
mod run;
mod screen;
mod state;
#[cfg(test)]
pub(super) mod tests;

pub use run::{Ended, TopError, run};
pub(super) use state::Top;
pub use state::Waiting;

/// The calls that wait for an approval, and how they are answered. Each method may take a moment.
pub trait Desk: Send {
    /// Those that wait, oldest first.
    ///
    /// # Errors
    ///
    /// Why they cannot be read, in a sentence.
    fn waiting(&mut self) -> Result<Vec<Waiting>, String>;

    /// Lets one go. Says what was done.
    ///
    /// # Errors
    ///
    /// Why it was not done, in a sentence.
    fn approve(&mut self, id: &str) -> Result<String, String>;

    /// Refuses one. Says what was done.
    ///
    /// # Errors
    ///
    /// Why it was not done, in a sentence.
    fn deny(&mut self, id: &str) -> Result<String, String>;
}
