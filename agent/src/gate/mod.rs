//! gate.
#![forbid(unsafe_code)]

mod captures;

pub use captures::*;
