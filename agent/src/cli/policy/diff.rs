//! `capwarden policy diff`: what another policy allows and denies.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::{
    audit::visible,
    filter::{Budget, Compiler, Containment, LinkType, Origin, Program, SocketForm, prove},
    policy::{Effect, PolicyChange, RuleRef, Subject},
};

use super::super::{
    enforce,
    exit::Exit,
    failure::Failure,
    term::{self, Paint},
};

/// Tell what becomes allowed and denied by another policy
///
/// By tool and by rule, whatever language each is written in. Capture filters are compared by
/// proof; what cannot be compared is told as changed. What denials say is not compared. The exit
/// status is 0 if both decide the same, 1 if they do not, 3 if one of them is wrong.
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// The policy that is there
    #[arg(value_name = "A")]
    before: PathBuf,
    /// The policy that would take its place
    #[arg(value_name = "B")]
    after: PathBuf,
    /// Print the differences as JSON
    #[arg(long)]
    json: bool,
}

impl Diff {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let before = enforce::check_policy(&self.before)?;
        let after = enforce::check_policy(&self.after)?;
        let compiler = enforce::compiler()?;
        let changes = before.changes(&after).into_iter();
        let changes: Vec<PolicyChange> = changes
            .filter_map(|change| proved(change, &compiler))
            .collect();
        if self.json {
            term::print_json(&changes.iter().map(as_json).collect::<Vec<_>>())?;
        } else {
            let paint = Paint::for_stdout();
            term::print(|out| {
                for (effect, heading) in [
                    (Effect::Allows, paint.warning("becomes allowed:")),
                    (Effect::Denies, paint.good("becomes denied:")),
                    (Effect::Changed, paint.strong("changed:")),
                ] {
                    let mut these = changes
                        .iter()
                        .filter(|change| change.effect == effect)
                        .peekable();
                    if these.peek().is_some() {
                        writeln!(out, "{heading}")?;
                    }
                    for change in these {
                        writeln!(
                            out,
                            "  {}: {}",
                            visible(&subject(&change.subject)),
                            visible(&change.what)
                        )?;
                        let places: Vec<String> =
                            [("before", &change.before), ("after", &change.after)]
                                .into_iter()
                                .filter_map(|(word, rule)| {
                                    Some(format!("{word} {}", rule.as_ref()?))
                                })
                                .collect();
                        writeln!(out, "    {}", paint.note(&visible(&places.join(", "))))?;
                    }
                }
                if changes.is_empty() {
                    writeln!(out, "both decide the same")?;
                }
                Ok(())
            })?;
        }
        Ok(if changes.is_empty() {
            Exit::Ok
        } else {
            Exit::Unsound
        })
    }
}

fn subject(subject: &Subject) -> String {
    match subject {
        Subject::Tool(name) => name.clone(),
        Subject::AllTools => "all tools".to_owned(),
        Subject::OtherTools => "other tools".to_owned(),
        Subject::Exec => "capwarden exec".to_owned(),
        Subject::Baseline => "the server itself".to_owned(),
    }
}

/// What a proof says of two filters; none if they match the same packets.
fn proved(mut change: PolicyChange, compiler: &Compiler) -> Option<PolicyChange> {
    let Some((before, after)) = &change.filters else {
        return Some(change);
    };
    // Both were compiled when the policies were checked; what fails now is told as changed.
    let compile = |text: &str| -> Option<Program> {
        let program = compiler.compile(text, LinkType::EN10MB, Origin::Policy);
        program.ok().flatten()
    };
    if let (Some(before), Some(after)) = (compile(before), compile(after)) {
        let within = |one: &Program, other: &Program| {
            let form = SocketForm::Raw(LinkType::EN10MB);
            matches!(
                prove(one, other, form, Budget::default()),
                Containment::Contained
            )
        };
        change.effect = match (within(&before, &after), within(&after, &before)) {
            (true, true) => return None,
            (true, false) => Effect::Allows,
            (false, true) => Effect::Denies,
            (false, false) => Effect::Changed,
        };
    }
    Some(change)
}

fn as_json(change: &PolicyChange) -> serde_json::Value {
    let rule = |rule: &Option<RuleRef>| {
        rule.as_ref().map(|rule| {
            json!({ "file": &*rule.file, "line": rule.line, "column": rule.column, "path": rule.path })
        })
    };
    json!({
        "effect": match change.effect {
            Effect::Allows => "allows",
            Effect::Denies => "denies",
            Effect::Changed => "changed",
        },
        "about": match &change.subject {
            Subject::Tool(_) => "tool",
            Subject::AllTools => "all_tools",
            Subject::OtherTools => "other_tools",
            Subject::Exec => "exec",
            Subject::Baseline => "baseline",
        },
        "tool": match &change.subject {
            Subject::Tool(name) => Some(name),
            _ => None,
        },
        "what": change.what,
        "before": rule(&change.before),
        "after": rule(&change.after),
    })
}
