//! Shared helpers of the end-to-end tests.

pub mod agent;
pub mod bpf_objects;
pub mod captive;
pub mod daemon;
pub mod dice;
pub mod mangle;
pub mod mcp;
pub mod netns;
pub mod readers;
pub mod redis;
pub mod space;
pub mod spellings;
pub mod stage;
pub mod terminal;
pub mod tools;
pub mod tracer;
pub mod traffic;
