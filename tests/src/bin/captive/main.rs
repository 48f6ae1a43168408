//! A governed program that means no good: what it holds it tries to loosen, what it may ask it asks too often,
//! and with arguments that nobody means.
//!
//! | verb | does |
//! |---|---|
//! | `hold SOCKET` | opens capture sockets, then does as it is told over the Unix socket |
//! | `wait SOCKET COUNT` | so many processes that open sockets only when they are told |
//! | `fuzz SOCKET SEED` | makes calls that nobody means |
//! | `burst SEED`, `linger` | parts of that |
//! | `flood SOCKET` | asks for capture sockets from many threads until it is told to stop |
//! | `serve SOCKET` | is an MCP server whose tools `capture` and `flood` start `hold SOCKET` and `flood SOCKET` |
//!
//! It is native, small and started by a copy of itself, so that thousands of rounds take minutes.

mod flood;
mod fuzz;
mod hold;
mod memory;
mod serve;
mod sys;

use std::{env, path::Path, thread};

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["hold", control] => hold::hold(Path::new(control)),
        ["wait", control, count] => hold::wait(Path::new(control), count.parse()?),
        ["fuzz", control, seed] => fuzz::fuzz(Path::new(control), seed.parse()?),
        ["burst", seed] => fuzz::burst(seed.parse()?),
        ["linger"] => loop {
            thread::park();
        },
        ["flood", control] => flood::flood(Path::new(control)),
        ["serve", control] => serve::serve(control),
        _ => bail!("this is started by tests"),
    }
}
