//! kernel
#![allow(unsafe_code, reason = "the one room for syscalls")]
