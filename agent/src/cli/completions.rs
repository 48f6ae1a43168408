//! `capwarden completions`: completions for shells.
//!
//! Which verbs and options there are stands in the scripts themselves, as clap writes them. Which sessions and servers
//! there are is only known when somebody presses the key: for these, the scripts of the usual shells ask the program
//! (`names`). They ask the one that the shell finds in its PATH, whatever the line begins with: pressing a key in
//! somebody else's directory must not run what lies there.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, exit::Exit, failure::Failure, names, term};

/// Print completions for a shell
///
/// With bash, zsh and fish, sessions and servers are completed too: as far as whoever presses the key may list
/// them.
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
        let text = String::from_utf8_lossy(&text);
        let text = with_names(self.shell, &text);
        term::print(|out| out.write_all(text.as_bytes()))?;
        Ok(Exit::Ok)
    }
}

/// How the function begins that clap writes for bash and for zsh.
const FUNCTION: &str = "_capwarden() {\n";

/// What bash is told. No file's name stands where a session's does.
const BASH: &str = r#"_capwarden_names() {
    local names
    names=$(command capwarden __names "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null) || return 1
    COMPREPLY=()
    [[ -z "$names" ]] || mapfile -t COMPREPLY <<<"$names"
    compopt +o bashdefault +o default 2>/dev/null
    return 0
}

"#;

/// What zsh is told. What stands before the cursor is `PREFIX`.
const ZSH: &str = r#"_capwarden_names() {
    local told
    local -a names
    told=$(command capwarden __names "${(@)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null) || return 1
    names=(${(f)told})
    compset -P '*='
    compadd -a names
    return 0
}

"#;

/// What fish is told. Its functions are asked twice: whether there are names, then which.
const FISH: &str = r#"
function __fish_capwarden_names
    set -l words (commandline -opc)
    set -e words[1]
    set -l last (commandline -ct)
    command capwarden __names $words "$last" 2>/dev/null
end
function __fish_capwarden_takes_names
    __fish_capwarden_names >/dev/null
end
complete -c capwarden -n __fish_capwarden_takes_names -f -a "(__fish_capwarden_names)"
"#;

/// A script that asks the program for names first.
fn with_names(shell: Shell, script: &str) -> String {
    let asks_first = |function: &str| {
        let first = format!("{function}{FUNCTION}    _capwarden_names && return 0\n");
        script.replacen(FUNCTION, &first, 1)
    };
    match shell {
        Shell::Bash => asks_first(BASH),
        Shell::Zsh => asks_first(ZSH),
        Shell::Fish => {
            let of_options = names::options().into_iter().map(|option| {
                format!(
                    "complete -c capwarden -n __fish_capwarden_takes_names -l {option} -r -f -a \"(__fish_capwarden_names)\"\n"
                )
            });
            format!("{script}{FISH}{}", of_options.collect::<String>())
        }
        _ => script.to_owned(),
    }
}
