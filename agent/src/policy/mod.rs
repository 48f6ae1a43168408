//! policy.
#![forbid(unsafe_code)]

mod verdict;

pub use verdict::*;
