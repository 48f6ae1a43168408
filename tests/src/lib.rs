//! Shared helpers of the end-to-end tests.

pub mod agent;
pub mod mcp;
pub mod netns;
pub mod space;
pub mod stage;
pub mod tools;
pub mod traffic;
