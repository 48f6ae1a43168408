//! capwarden: see the library.
fn main() {}
