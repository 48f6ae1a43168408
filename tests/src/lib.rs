//! Shared helpers of the end-to-end tests.

pub mod agent;
pub mod netns;
pub mod tools;
pub mod traffic;
