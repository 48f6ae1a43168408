//! `capwarden filter explain`: what a filter matches.

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::Args;
use serde_json::{Value, json};

use crate::filter::{
    Budget, Containment, Emptiness, Explanation, Lint, LintBudget, Matches as Looked,
    NOT_LOOKED_THROUGH, Program, SocketForm, explain, hiding_name, is_empty, lint, prove,
    translate,
};

use super::{
    super::{
        enforce,
        exit::Exit,
        failure::{Account, Failure},
        term::{self, Fit, Paint},
    },
    Common, compile, hex, wrong,
};

/// Tell what a filter matches
///
/// In words: the ways in which a well-formed packet matches, each with an example, and packets that
/// nearly match with what they lack. Examples and near misses are run through the filter before
/// they are printed.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The filter, in libpcap's language
    expression: String,
    #[command(flatten)]
    common: Common,
}

/// What a filter matches at all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Matches {
    Nothing,
    Malformed,
    Some,
    Everything,
}

impl Matches {
    const fn word(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Malformed => "malformed",
            Self::Some => "some",
            Self::Everything => "everything",
        }
    }
}

impl Explain {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let link = self.common.link_type;
        let form = link.form();
        let program = compile(&self.expression, link)?;
        let classic = program.insns().len();
        let ebpf = translate(&program)
            .map_err(|error| wrong(&self.expression, &error))?
            .len();
        let matches = matches(&program, form);
        let explanation = explain(&program, form, budget()).map_err(|why| {
            Failure::Internal(
                Account::new("cannot explain the filter")
                    .on(&self.expression)
                    .because(why),
            )
        })?;
        let budget = LintBudget {
            each: false,
            ..LintBudget::default()
        };
        let lint = lint(&self.expression, form, &enforce::compiler()?, budget)
            .map_err(|error| enforce::not_compiled(&self.expression, error))?;
        if self.common.json {
            term::print_json(&json!({
                "matches": matches.word(),
                "classic": classic,
                "ebpf": ebpf,
                "ways": ways(&explanation, form),
                "more": explanation.more,
                "complete": explanation.complete,
                "lint": names(&lint),
                "looked_through": lint.looked_through(),
            }))?;
        } else {
            let (paint, fit) = (Paint::for_stdout(), Fit::for_stdout());
            term::print(|out| {
                writeln!(out, "{classic} classic instructions, {ebpf} in the guard")?;
                write_ways(matches, &explanation, form, (paint, fit), out)?;
                let mut warn = |what: &str| {
                    let line = format!("{} {what}", paint.warning("warning:"));
                    writeln!(out, "{}", fit.line(&line, 9))
                };
                let names = names(&lint);
                if !names.is_empty() {
                    warn(&format!(
                        "packets that it refuses get through as {} (see filter lint)",
                        names.join(", ")
                    ))?;
                }
                if lint.matches == Looked::NonePlain {
                    warn(NOT_LOOKED_THROUGH)?;
                }
                Ok(())
            })?;
        }
        Ok(Exit::Ok)
    }
}

/// More than a proof, because many packets are looked for.
fn budget() -> Budget {
    Budget {
        time: Duration::from_secs(8),
        ..Budget::default()
    }
}

fn matches(program: &Program, form: SocketForm) -> Matches {
    match is_empty(program, form, Budget::default()) {
        Emptiness::Empty => return Matches::Nothing,
        Emptiness::EmptyWellFormed { .. } => return Matches::Malformed,
        _ => {}
    }
    match prove(&Program::everything(), program, form, Budget::default()) {
        Containment::Contained | Containment::ContainedWellFormed { .. } => Matches::Everything,
        _ => Matches::Some,
    }
}

fn names(lint: &Lint) -> Vec<&'static str> {
    let findings = lint.findings.iter();
    findings
        .map(|finding| hiding_name(finding.hiding))
        .collect()
}

fn ways(explanation: &Explanation, form: SocketForm) -> Vec<Value> {
    let ways = explanation.ways.iter().map(|way| {
        let near = way.near_misses.iter().map(|near| {
            json!({
                "fails": near.fails.whole,
                "packet": near.example.in_words(form),
                "bytes": hex(&near.example.bytes),
            })
        });
        json!({
            "conditions": way.conditions.iter().map(|one| &one.whole).collect::<Vec<_>>(),
            "packet": way.example.as_ref().map(|example| example.in_words(form)),
            "bytes": way.example.as_ref().map(|example| hex(&example.bytes)),
            "near_misses": near.collect::<Vec<_>>(),
        })
    });
    ways.collect()
}

fn write_ways(
    matches: Matches,
    explanation: &Explanation,
    form: SocketForm,
    (paint, fit): (Paint, Fit),
    out: &mut dyn Write,
) -> io::Result<()> {
    match matches {
        Matches::Nothing => return writeln!(out, "it matches nothing"),
        Matches::Malformed => {
            return writeln!(out, "it matches nothing but malformed or truncated packets");
        }
        Matches::Everything => return writeln!(out, "it matches every well-formed packet"),
        Matches::Some => writeln!(out, "it matches:")?,
    }
    for way in &explanation.ways {
        let conditions = way.conditions.iter().map(|one| one.short.as_str());
        let conditions = conditions.collect::<Vec<_>>().join(", ");
        let line = format!("  {}", paint.strong(&conditions));
        writeln!(out, "{}", fit.line(&line, 4))?;
        if let Some(example) = &way.example {
            let line = format!("    like  {}", example.in_words(form));
            writeln!(out, "{}", fit.line(&line, 10))?;
        }
        for near in &way.near_misses {
            let (packet, fails) = (near.example.in_words(form), &near.fails.short);
            let line = format!("    not   {packet}  (fails: {fails})");
            writeln!(out, "{}", fit.line(&line, 10))?;
        }
    }
    match (explanation.more, explanation.complete) {
        (0, true) => Ok(()),
        (0, false) => writeln!(out, "  … and more ways, which were not looked for"),
        (more, true) => writeln!(out, "  … and {more} more ways"),
        (more, false) => writeln!(out, "  … and at least {more} more ways"),
    }
}
