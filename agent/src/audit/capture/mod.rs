//! A finished capture against the log: whether a session's files hold what it was granted, and no
//! more.

mod check;
mod granted;

pub use check::{CaptureReport, FileReport, Rule, Violation, verify_capture};
pub use granted::{Ended, Granted, NoSession, find_session};
