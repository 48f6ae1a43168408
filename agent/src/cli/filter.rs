//! `capwarden filter`: what a capture filter is worth.

mod explain;
mod lint;
mod pcap;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::filter::{
    Budget, Containment, LinkType, Origin, Program, SocketForm, prove_measured, translate,
};

use super::{
    enforce,
    exit::Exit,
    failure::{Account, Failure},
    term,
};

/// Check capture filters, and prove what they stay within
#[derive(Debug, Args)]
pub(super) struct Filter {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Check(Check),
    Prove(Prove),
    Explain(explain::Explain),
    Lint(lint::Lint),
    Pcap(pcap::Pcap),
}

/// Compile a capture filter
///
/// With libpcap, as a session would: names are not looked up, nothing is optimised. Says how many
/// instructions it comes to, or what is wrong in libpcap's words (exit status 2).
#[derive(Debug, Args)]
struct Check {
    /// The filter, in libpcap's language
    expression: String,
    #[command(flatten)]
    common: Common,
}

/// Prove that a capture filter stays within another
///
/// Over every packet of every length. If it does not, a packet shows why: one that the filter
/// accepts and the other does not. The exit status is 0 if it stays within, 1 if it does not or
/// that could not be told, 2 if a filter is wrong.
#[derive(Debug, Args)]
struct Prove {
    /// The filter, in libpcap's language
    expression: String,
    /// What it is to stay within
    #[arg(long, value_name = "EXPRESSION")]
    within: String,
    /// Be content if it stays within for well-formed packets
    #[arg(long)]
    well_formed: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// What packets begin with
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = Link::Ethernet)]
    link_type: Link,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Link {
    /// An Ethernet header; loopback too
    Ethernet,
    /// An IP header
    Raw,
    /// Whatever `any` gives: the network header, the rest beside it
    Any,
}

impl Link {
    fn form(self) -> SocketForm {
        match self {
            Self::Ethernet => SocketForm::Raw(LinkType::EN10MB),
            Self::Raw => SocketForm::Raw(LinkType::RAW),
            Self::Any => SocketForm::Cooked,
        }
    }
}

impl Filter {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        match self.verb {
            Verb::Check(check) => check.run(),
            Verb::Prove(prove) => prove.run(),
            Verb::Explain(explain) => explain.run(),
            Verb::Lint(lint) => lint.run(),
            Verb::Pcap(pcap) => pcap.run(),
        }
    }
}

impl Check {
    fn run(self) -> Result<Exit, Failure> {
        let program = compile(&self.expression, self.common.link_type)?;
        let classic = program.insns().len();
        let ebpf = translate(&program)
            .map_err(|error| wrong(&self.expression, &error))?
            .len();
        if self.common.json {
            term::print_json(&json!({ "classic": classic, "ebpf": ebpf }))?;
        } else {
            term::print(|out| {
                writeln!(
                    out,
                    "compiles: {classic} classic instructions, {ebpf} in the guard"
                )
            })?;
        }
        Ok(Exit::Ok)
    }
}

impl Prove {
    fn run(self) -> Result<Exit, Failure> {
        let link = self.common.link_type;
        let requested = compile(&self.expression, link)?;
        let policy = compile(&self.within, link)?;
        let (containment, cost) =
            prove_measured(&requested, &policy, link.form(), Budget::default());
        let (verdict, within, text) = match &containment {
            Containment::Contained => (
                "contained",
                true,
                "contained: every packet that it accepts is accepted by the other".to_owned(),
            ),
            Containment::ContainedWellFormed { .. } => (
                "contained-well-formed",
                self.well_formed,
                "contained for well-formed packets: only malformed or truncated ones fall outside"
                    .to_owned(),
            ),
            Containment::NotContained { .. } => {
                ("not-contained", false, "not contained".to_owned())
            }
            Containment::Unknown { why } => (
                "unknown",
                false,
                format!("not proved, so taken for not contained: {why}"),
            ),
        };
        let example = containment
            .counterexample()
            .map(|example| (example.in_words(link.form()), hex(&example.bytes)));
        if self.common.json {
            term::print_json(&json!({
                "verdict": verdict,
                "within": within,
                "packet": example.as_ref().map(|(words, _)| words),
                "bytes": example.as_ref().map(|(_, bytes)| bytes),
                "milliseconds": cost.time.as_secs_f64() * 1e3,
                "memory": cost.bytes,
            }))?;
        } else {
            term::print(|out| {
                writeln!(out, "{text}")?;
                if let Some((words, bytes)) = &example {
                    writeln!(out, "  outside: {words}")?;
                    writeln!(out, "  bytes:   {bytes}")?;
                }
                Ok(())
            })?;
        }
        Ok(if within { Exit::Ok } else { Exit::Unsound })
    }
}

fn compile(expression: &str, link: Link) -> Result<Program, Failure> {
    compile_for(expression, link.form())
}

/// An empty filter accepts every packet, as it does everywhere in libpcap.
fn compile_for(expression: &str, form: SocketForm) -> Result<Program, Failure> {
    const EVERYTHING: &str = "len >= 0";
    let compiler = enforce::compiler()?;
    let text = if expression.trim_ascii().is_empty() {
        EVERYTHING
    } else {
        expression
    };
    match compiler.compile_for(text, form, Origin::Policy) {
        Ok(Some(program)) => Ok(program),
        Ok(None) => Err(wrong(expression, &"it compiles to nothing")),
        Err(error) => Err(enforce::not_compiled(expression, error)),
    }
}

fn wrong(expression: &str, why: &dyn std::fmt::Display) -> Failure {
    let account = Account::new("cannot use the filter")
        .on(expression)
        .because(why);
    Failure::Usage(account.hint("see pcap-filter(7); names are not looked up: write numbers"))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
