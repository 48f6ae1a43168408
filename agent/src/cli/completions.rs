//! `capwarden completions`: completions for shells.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, exit::Exit, failure::Failure, term};

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    capwarden completions bash > /usr/share/bash-completion/completions/capwarden")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        // To a buffer first: the generator does not expect its reader to go away.
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "capwarden", &mut text);
        term::print(|out| out.write_all(&text))?;
        Ok(Exit::Ok)
    }
}
