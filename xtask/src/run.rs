//! `cargo xtask run`: builds capwarden as the invoking user, then plays the demo as root.

use anyhow::Result;
use clap::Args;

use crate::{demo, root, setup, test};

/// Options of `cargo xtask run`
#[derive(Args)]
pub(crate) struct Options {
    /// What the call through sudo is told: everything is built
    #[arg(long, hide = true)]
    built: bool,
}

/// The verb.
pub(crate) fn main(options: &Options) -> Result<()> {
    if !options.built {
        setup::ensure_demo()?;
        test::build_capwarden()?;
    }
    if !root::is_root() {
        return root::again(&["run", "--built"]);
    }
    demo::play()
}
