//! session.
#![forbid(unsafe_code)]

mod end;

pub use end::*;
