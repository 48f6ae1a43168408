//! Proofs about programs, over every packet there is.
//!
//! ```text
//!   two programs ──symbolic execution──▶ and-inverter graph ──▶ clauses ──▶ SAT solver
//!                  (one state per                                              │
//!                   instruction)                            unsatisfiable ◀────┴───▶ assignment
//!                                                                 │                      │
//!                                                             contained           packet, run through
//!                                                                                  both programs
//! ```
//!
//! A proof is about the exact code that runs, under the kernel's rules as [`interpret`] has them.
//! A counterexample is never taken on trust: it is run, and one that does not show what it is said
//! to show makes the answer [`Unknown`].
//!
//! [`interpret`]: super::interpret()

mod bits;
mod checksum;
mod compose;
mod deadline;
mod describe;
mod disguise;
mod example;
mod graph;
mod hiding;
mod ranges;
mod recognise;
mod solve;
mod space;
mod symbolic;
mod template;
mod tuples;
mod verdict;
mod view;
mod ways;
mod well_formed;

pub use compose::{ComposeError, compose};
pub(super) use deadline::Deadline;
pub use describe::in_words;
pub(in crate::filter) use disguise::TUNNEL_PORTS;
pub use example::Example;
pub use hiding::{Disguise, Hiding, Mark, Pair, disguises, dropped, hides, reads_addresses};
pub(super) use symbolic::live_registers;
pub(super) use verdict::exclusive;
pub use verdict::{
    Budget, Containment, Cost, Difference, Emptiness, Equivalence, Unknown, difference, equivalent,
    is_conjunction, is_empty, prove, prove_measured,
};
pub use ways::{Explanation, NearMiss, Way, Wording, explain};
pub use well_formed::well_formed;
