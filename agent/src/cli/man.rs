//! `capwarden man`: the manual pages.

mod words;
mod written;

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, Command, CommandFactory as _};
use clap_mangen::roff::{Roff, bold, roman};

use super::{
    Cli,
    exit::{self, Exit},
    failure::{Account, Failure},
    term,
};

/// Print the manual, or write its pages to a directory
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  capwarden man | man -l -\n  sudo capwarden man --out /usr/local/share/man"
)]
pub(super) struct Man {
    /// Write one page for each command, one for the policy language, and the guides, into the
    /// directories man8, man5 and man7 of this one
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let mut command = Cli::command();
        command.build();
        let mut pages = Vec::new();
        collect(&command, &mut pages);
        match self.out {
            None => term::print(|out| {
                pages.iter().try_for_each(|page| page.write(out))?;
                written::PAGES.iter().try_for_each(|page| page.write(out))
            })?,
            Some(directory) => {
                let failed = |path: &PathBuf, error: io::Error| {
                    let account = Account::new("cannot write the manual to").on(path.display());
                    Failure::Internal(account.because(error))
                };
                let save = |name: &str, write: &dyn Fn(&mut dyn Write) -> io::Result<()>| {
                    let section = name.rsplit('.').next().unwrap_or_default();
                    let place = directory.join(format!("man{section}"));
                    fs::create_dir_all(&place).map_err(|error| failed(&place, error))?;
                    let path = place.join(name);
                    let mut text = Vec::new();
                    let written = write(&mut text).and_then(|()| fs::write(&path, text));
                    written.map_err(|error| failed(&path, error))
                };
                for page in pages {
                    save(&page.0.get_filename(), &|out| page.write(out))?;
                }
                for page in written::PAGES {
                    save(&page.file(), &|out| page.write(out))?;
                }
            }
        }
        Ok(Exit::Ok)
    }
}

struct Page(clap_mangen::Man, Command);

/// The page of a command, then those of its subcommands. `help` pages are left out.
fn collect(command: &Command, pages: &mut Vec<Page>) {
    let man = clap_mangen::Man::new(command.clone())
        .section("8")
        .manual("capwarden");
    pages.push(Page(man, command.clone()));
    let subcommands = command.get_subcommands();
    for subcommand in subcommands.filter(|command| !command.is_hide_set()) {
        if subcommand.get_name() != "help" {
            collect(subcommand, pages);
        }
    }
}

impl Page {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self(man, command) = self;
        man.render_title(out)?;
        man.render_name_section(out)?;
        let usage = command.clone().render_usage().to_string();
        let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
        Roff::new()
            .control("SH", ["SYNOPSIS"])
            .text([roman(usage)])
            .to_writer(out)?;
        man.render_description_section(out)?;
        man.render_options_section(out)?;
        if command.has_subcommands() {
            man.render_subcommands_section(out)?;
        }
        let mut roff = Roff::new();
        // What follows the options in `--help` has sections of its own here.
        let example = command.get_after_help().map(ToString::to_string);
        // The root's is the list of exit statuses, which every page has.
        let example = example.filter(|_| command.get_name() != "capwarden");
        if let Some((heading, example)) = example.as_deref().and_then(|text| text.split_once(":\n"))
        {
            roff.control("SH", [heading.to_uppercase().as_str()]);
            roff.control("nf", []);
            roff.text([roman(example)]);
            roff.control("fi", []);
        }
        let (statuses, passed_on) = exit::table();
        roff.control("SH", ["EXIT STATUS"]);
        for (code, meaning) in statuses {
            roff.control("TP", []);
            roff.text([bold(code.to_string())]);
            roff.text([roman(meaning)]);
        }
        roff.control("PP", []);
        roff.text([roman(passed_on)]);
        roff.control("SH", ["ENVIRONMENT"]);
        for (name, meaning) in [
            (
                "CAPWARDEN_LOG",
                "what to log to standard error, where --log is not given",
            ),
            (
                "CAPWARDEN_LOG_FORMAT",
                "how the log looks, text or json, where --log-format is not given",
            ),
            ("NO_COLOR", "if it is set, nothing is coloured"),
            (
                "XDG_STATE_HOME",
                "where the audit log and the state of a user other than root are kept",
            ),
            (
                "HOME",
                "its .local/state stands in for XDG_STATE_HOME where that is not set",
            ),
        ] {
            roff.control("TP", []);
            roff.text([bold(name)]);
            roff.text([roman(meaning)]);
        }
        roff.control("SH", ["FILES"]);
        roff.control("TP", []);
        roff.text([bold("/var/log/capwarden/audit.jsonl")]);
        roff.text([roman("the audit log of root")]);
        roff.control("TP", []);
        roff.text([bold("/var/lib/capwarden/state")]);
        roff.text([roman(
            "root's counters, approvals, grants and accepted definitions",
        )]);
        roff.to_writer(out)?;
        match command.get_name() {
            "capwarden" => words::write(out),
            _ => Ok(()),
        }
    }
}
