//! `capwarden filter lint`: which refused packets get through a filter when they hide.

use std::io::{self, Write};

use clap::Args;
use serde_json::{Value, json};

use crate::filter::{
    Finding, Keeps, Lint as Report, LintBudget, Matches, NOT_LOOKED_THROUGH, Rewrite, SocketForm,
    hiding_name, hiding_why, lint,
};

use super::{
    super::{
        enforce,
        exit::Exit,
        failure::Failure,
        term::{self, Paint},
    },
    Common, hex,
};

/// Find out how packets that a filter refuses get through it
///
/// As the filter of a policy, an expression is often weaker than its author thinks: `not port 22`
/// lets later fragments through, and tunnels. Each finding is a packet that the filter refuses,
/// and the same packet as it is accepted. Every rewrite that is printed compiles and is proved:
/// it accepts nothing that the filter does not, and refuses the packets of the finding.
///
/// The search starts from plain packets: a filter that accepts none of them, only such as are tagged
/// or tunnelled, is not looked through.
///
/// The exit status is 0 if nothing was found, 1 if something was or could not be told, 2 if the
/// filter is wrong.
#[derive(Debug, Args)]
pub(super) struct Lint {
    /// The filter, in libpcap's language
    expression: String,
    #[command(flatten)]
    common: Common,
}

impl Lint {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let form = self.common.link_type.form();
        let compiler = enforce::compiler()?;
        let report = lint(&self.expression, form, &compiler, LintBudget::default())
            .map_err(|error| enforce::not_compiled(&self.expression, error))?;
        if self.common.json {
            term::print_json(&as_json(&report, form))?;
        } else {
            term::print(|out| write_report(&report, form, Paint::for_stdout(), out))?;
        }
        Ok(if report.is_clean() {
            Exit::Ok
        } else {
            Exit::Unsound
        })
    }
}

fn write_report(
    report: &Report,
    form: SocketForm,
    paint: Paint,
    out: &mut dyn Write,
) -> io::Result<()> {
    match report.matches {
        Matches::Nothing => writeln!(out, "the filter matches nothing that a network carries")?,
        Matches::Everything => writeln!(out, "the filter matches every packet: it refuses none")?,
        Matches::Unknown => writeln!(out, "could not be told within the budget")?,
        Matches::NonePlain => writeln!(out, "{NOT_LOOKED_THROUGH}")?,
        Matches::Some if report.is_clean() => writeln!(out, "nothing found")?,
        Matches::Some => {}
    }
    for finding in &report.findings {
        let Finding {
            hiding,
            pair,
            rewrite,
        } = finding;
        writeln!(
            out,
            "{} {}",
            paint.warning(&format!("{}:", hiding_name(*hiding))),
            hiding_why(*hiding)
        )?;
        writeln!(out, "  refused:  {}", pair.refused.in_words(form))?;
        writeln!(out, "            {}", hex(&pair.refused.bytes))?;
        writeln!(out, "  accepted: {}", pair.accepted.in_words(form))?;
        writeln!(out, "            {}", hex(&pair.accepted.bytes))?;
        write_rewrite("closed by", rewrite.as_ref(), form, out)?;
    }
    for (hiding, why) in &report.unknown {
        writeln!(out, "{}: {why}", hiding_name(*hiding))?;
    }
    if report.findings.len() > 1 {
        writeln!(out, "{}", paint.strong("all of these:"))?;
        write_rewrite("closed by", report.rewrite.as_ref(), form, out)?;
    }
    Ok(())
}

fn write_rewrite(
    label: &str,
    rewrite: Option<&Rewrite>,
    form: SocketForm,
    out: &mut dyn Write,
) -> io::Result<()> {
    let Some(rewrite) = rewrite else {
        return writeln!(
            out,
            "  no rewrite was proved: say what is wanted, not what is not"
        );
    };
    writeln!(out, "  {label}: {}", rewrite.expression)?;
    writeln!(out, "             {}", kept(&rewrite.keeps, form))
}

fn kept(keeps: &Keeps, form: SocketForm) -> String {
    match keeps {
        Keeps::All => "which keeps every plain packet".to_owned(),
        Keeps::AllBut(example) => {
            format!("which takes plain packets, too: {}", example.in_words(form))
        }
        Keeps::Unknown => "whether it keeps every plain packet could not be told".to_owned(),
    }
}

fn as_json(report: &Report, form: SocketForm) -> Value {
    let packet = |example: &crate::filter::Example| json!({ "packet": example.in_words(form), "bytes": hex(&example.bytes) });
    let rewrite = |rewrite: &Rewrite| {
        json!({
            "expression": rewrite.expression,
            "keeps_plain": match rewrite.keeps {
                Keeps::All => Some(true),
                Keeps::AllBut(_) => Some(false),
                Keeps::Unknown => None,
            },
        })
    };
    let findings = report.findings.iter().map(|finding| {
        json!({
            "name": hiding_name(finding.hiding),
            "why": hiding_why(finding.hiding),
            "refused": packet(&finding.pair.refused),
            "accepted": packet(&finding.pair.accepted),
            "rewrite": finding.rewrite.as_ref().map(rewrite),
        })
    });
    let unknown = report
        .unknown
        .iter()
        .map(|(hiding, why)| json!({ "name": hiding_name(*hiding), "why": why.to_string() }));
    json!({
        "matches": match report.matches {
            Matches::Nothing => "nothing",
            Matches::Some => "some",
            Matches::NonePlain => "none-plain",
            Matches::Everything => "everything",
            Matches::Unknown => "unknown",
        },
        "looked_through": report.looked_through(),
        "findings": findings.collect::<Vec<_>>(),
        "unknown": unknown.collect::<Vec<_>>(),
        "rewrite": report.rewrite.as_ref().map(rewrite),
    })
}
