//! capwarden makes packet captures, intercepting proxies and browsers that a language model starts safe to
//! allow.
//!
//! Two planes: the [`gate`] decides what an MCP call may ask for, and the guard in [`kernel`]
//! holds the processes which that call starts to what was granted. A [`session`] joins them and
//! [`audit`] closes it. The [`engine`] puts
//! the rooms together.

pub mod approval;
pub mod audit;
mod backlog;
pub mod capture_file;
pub mod cli;
pub mod config;
pub mod definitions;
pub mod engine;
pub mod filter;
pub mod gate;
pub mod kernel;
pub mod limits;
pub mod operate;
pub mod policy;
pub mod principal;
pub mod session;
mod spelling;
pub mod store;
pub mod telemetry;
mod words;
