//! filter.
#![forbid(unsafe_code)]
