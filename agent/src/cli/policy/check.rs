//! `capwarden policy check`: whether policies can be used, and what their filters let through.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    audit::visible,
    filter::{
        LinkType, Lint, LintBudget, Matches, NOT_LOOKED_THROUGH, SocketForm, hiding_name, lint,
    },
    policy::{Policy as Loaded, PolicyError, PolicyFilter, RuleRef},
    words,
};

use super::{
    super::{
        enforce,
        exit::Exit,
        failure::{self, Failure},
        paths,
        term::{self, Paint},
    },
    summary, test,
};

/// Check policy files, and point at what is wrong
///
/// Reads each file as `run` would: syntax, names, values, patterns and capture filters. Prints
/// the problems of each file (20 at most), and where they are. The exit status is 1 if there is one.
///
/// Then looks at each `within`: one that matches nothing is a problem, too. Ways in which refused
/// packets get through it are warnings, which leave the exit status alone; `filter lint` shows the
/// packets. So is a filter that cannot be used on `any`, where its rule lists that, and a condition on a counter in which
/// no limit counts.
///
/// Of a sound policy, it tells what each tool may do. Cases (`NAME.test.yaml`) are run against the
/// policy beside them, as `policy test` does; Markdown is left out.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The policy files, and cases beside them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print the problems as JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let mut unsound = false;
        let mut reports = Vec::new();
        for file in &self.files {
            paths::is_there(file)?;
            if file.extension().is_some_and(|ending| ending == "md") {
                let name = file.display().to_string();
                if !self.json {
                    term::print(|out| {
                        writeln!(out, "{}: left out, as it is Markdown", visible(&name))
                    })?;
                }
                continue;
            }
            if test::has_cases(file) {
                let tried = test::tried(file);
                unsound |= tried.as_ref().map_or(true, |tried| tried.failed() > 0);
                match tried {
                    Ok(tried) if self.json => reports.push(tried.as_json()),
                    Ok(tried) => tried.print()?,
                    Err(Failure::Policy(report)) => {
                        reports.push(problem(file, &report));
                        if !self.json {
                            let text = failure::policy(&report, Paint::for_stdout());
                            term::print(|out| out.write_all(text.as_bytes()))?;
                        }
                    }
                    Err(failure) => return Err(failure),
                }
                continue;
            }
            let checked = enforce::check_policy(file);
            match checked {
                Ok(policy) => {
                    let remarks = remarks(&policy)?;
                    let wrong = remarks.iter().any(Remark::is_error);
                    unsound |= wrong;
                    let summary = policy.summary();
                    let upstreams = policy.shared_upstreams();
                    let upstreams = upstreams.iter().map(|one| (one.second, one.message()));
                    let upstreams: Vec<Warning<'_>> = upstreams.collect();
                    let counters = policy.uncounted();
                    let counters = counters.iter().map(|one| (one.rule, one.message()));
                    let counters: Vec<Warning<'_>> = counters.collect();
                    let tools = summary.tools.iter().map(|tool| {
                        json!({
                            "name": tool.name,
                            "verdict": tool.verdict,
                            "asks": tool.asks,
                            "terms": tool.terms,
                        })
                    });
                    reports.push(json!({
                        "file": file,
                        "ok": !wrong,
                        "sha256": summary.digest,
                        "dialect": summary.dialect.key(),
                        "tools": tools.collect::<Vec<_>>(),
                        "all_tools": summary.all_tools,
                        "exec": summary.exec,
                        "others_allowed": summary.others_allowed,
                        "filters": remarks.iter().map(Remark::as_json).collect::<Vec<_>>(),
                        "upstreams": upstreams.iter().map(warning).collect::<Vec<_>>(),
                        "counters": counters.iter().map(warning).collect::<Vec<_>>(),
                    }));
                    if !self.json {
                        let paint = Paint::for_stdout();
                        term::print(|out| {
                            for remark in &remarks {
                                out.write_all(remark.in_words(paint).as_bytes())?;
                            }
                            for (rule, message) in upstreams.iter().chain(&counters) {
                                let warning = paint.warning("warning:");
                                writeln!(out, "{warning} {rule}: {message}")?;
                            }
                            out.write_all(summary::words(&summary, wrong, paint).as_bytes())
                        })?;
                    }
                }
                Err(Failure::Policy(report)) => {
                    unsound = true;
                    reports.push(problem(file, &report));
                    if !self.json {
                        let text = failure::policy(&report, Paint::for_stdout());
                        term::print(|out| out.write_all(text.as_bytes()))?;
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        if self.json {
            term::print_json(&reports)?;
        }
        Ok(if unsound { Exit::Unsound } else { Exit::Ok })
    }
}

/// What is no error of a rule, and hardly meant, in a sentence.
type Warning<'a> = (&'a RuleRef, String);

fn warning((rule, message): &Warning<'_>) -> Value {
    json!({
        "line": rule.line,
        "column": rule.column,
        "path": rule.path,
        "severity": "warning",
        "message": message,
    })
}

fn problem(file: &Path, error: &PolicyError) -> Value {
    let others = error.others().iter().map(|error| {
        json!({
            "message": error.message(),
            "line": error.line(),
            "column": error.column(),
            "help": error.help_text(),
        })
    });
    json!({
        "file": file,
        "ok": false,
        "message": error.message(),
        "line": error.line(),
        "column": error.column(),
        "help": error.help_text(),
        "others": others.collect::<Vec<_>>(),
    })
}

/// The time for one `within`.
const TIME: Duration = Duration::from_secs(3);

/// What there is to say about one `within`.
struct Remark<'a> {
    rule: &'a RuleRef,
    expression: &'a str,
    lint: Lint,
    /// Why it does not work on `any`, if the rule lists that.
    unfit_for_any: Option<String>,
}

/// Looks at every `within` of a policy; at equal ones once.
fn remarks(policy: &Loaded) -> Result<Vec<Remark<'_>>, Failure> {
    let compiler = enforce::compiler()?;
    let form = SocketForm::Raw(LinkType::EN10MB);
    let budget = LintBudget {
        time: TIME,
        each: false,
        ..LintBudget::default()
    };
    let mut known: HashMap<&str, Lint> = HashMap::new();
    let mut remarks = Vec::new();
    for filter in policy.filters() {
        let PolicyFilter {
            expression, rule, ..
        } = filter;
        let unfit_for_any = enforce::unfit_for_any(filter, &compiler)?;
        let found = match known.get(expression) {
            Some(found) => found.clone(),
            None => lint(expression, form, &compiler, budget)
                .map_err(|error| enforce::not_compiled(expression, error))?,
        };
        known.insert(expression, found.clone());
        if !found.is_clean() || unfit_for_any.is_some() {
            remarks.push(Remark {
                rule,
                expression,
                lint: found,
                unfit_for_any,
            });
        }
    }
    Ok(remarks)
}

impl Remark<'_> {
    fn is_error(&self) -> bool {
        self.lint.matches == Matches::Nothing
    }

    fn message(&self) -> String {
        let names = |hidings: Vec<&str>| hidings.join(", ");
        let found = self.lint.findings.iter();
        let found = names(found.map(|one| hiding_name(one.hiding)).collect());
        let unknown = self.lint.unknown.iter();
        let unknown = names(unknown.map(|(hiding, _)| hiding_name(*hiding)).collect());
        let mut parts = Vec::new();
        match self.lint.matches {
            Matches::Nothing => parts.push("it matches nothing, so nothing can be captured".into()),
            Matches::Everything => parts.push("it matches every packet, so it refuses none".into()),
            Matches::Unknown => parts.push("it is too large to be looked through".into()),
            Matches::NonePlain => parts.push(NOT_LOOKED_THROUGH.into()),
            Matches::Some => {}
        }
        if !found.is_empty() {
            parts.push(format!("packets that it refuses get through as {found}"));
        }
        if !unknown.is_empty() {
            parts.push(format!("not told in {}: {unknown}", words::time(TIME)));
        }
        parts.extend(self.unfit_for_any.clone());
        parts.join("; ")
    }

    fn in_words(&self, paint: Paint) -> String {
        let Self { rule, lint, .. } = self;
        let severity = if self.is_error() {
            paint.error("error:")
        } else {
            paint.warning("warning:")
        };
        let (expression, message) = (visible(self.expression), self.message());
        let mut text = format!("{severity} {rule}: the filter {expression:?}: {message}\n");
        if let Some(rewrite) = &lint.rewrite {
            let rewrite = visible(&rewrite.expression);
            text += &format!("  {} {rewrite}\n", paint.note("proved to close them:"));
        }
        text
    }

    fn as_json(&self) -> Value {
        json!({
            "line": self.rule.line,
            "column": self.rule.column,
            "path": self.rule.path,
            "filter": self.expression,
            "severity": if self.is_error() { "error" } else { "warning" },
            "message": self.message(),
            "findings": self.lint.findings.iter().map(|finding| hiding_name(finding.hiding)).collect::<Vec<_>>(),
            "rewrite": self.lint.rewrite.as_ref().map(|rewrite| &rewrite.expression),
        })
    }
}
