//! `capwarden policy test`: whether policies decide as their cases expect.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    audit::visible,
    policy::{Case, Definition, Difference, Outcome},
};

use super::super::{
    enforce,
    exit::Exit,
    failure::{Account, Failure},
    paths,
    term::{self, Paint},
};

/// What the name of a file of cases ends with, in place of its policy's ending.
const ENDING: &str = ".test.yaml";

/// Run the cases that stand beside policies
///
/// The cases of `pcap.yaml` or `pcap.json` are in `pcap.test.yaml`: a list of calls with what is
/// expected of each. Without a file, all cases in the current directory are run. The exit status
/// is 1 if a case fails, 3 if a policy or its cases cannot be read; the others are run all the same.
#[derive(Debug, Args)]
#[command(
    after_help = "A case:\n  - name: more packets than the cap are cut\n    call: { tool: start_capture, arguments: { iface: lo, count: 50000 } }\n    expect: capture           # allow, capture, proxy, program, ends, deny or hidden\n    rule: tools.start_capture.capture\n    forwarded: { count: 10000 }\n    uses: { start_capture/minute: 1 }\n\nAlso: reason, a part of the denial; approval: operator or user, where that one is asked; requires, the\narguments that the tool's schema requires; counts, what counters hold."
)]
pub(super) struct Test {
    /// The policies, or their cases
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What the server answered to tools/list
    ///
    /// A JSON file, for policies that ask for the tools' own schemas; or what `capwarden tools list SERVER
    /// --json` prints. Without it: of `pcap.yaml`, the file
    /// `pcap.tools.json`, if there is one beside it.
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

/// The same of what its server answers to tools/list.
const TOOLS: &str = "tools.json";

/// What a server answered to `tools/list`, by the tools' names.
type Listed = Arc<BTreeMap<String, Arc<Definition>>>;

/// A policy, and where its cases are.
struct Pair {
    policy: PathBuf,
    cases: PathBuf,
}

impl Test {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let files = match self.files.is_empty() {
            true => here()?,
            false => self.files,
        };
        let tools = self.tools.as_deref().map(super::recorded).transpose()?;
        let mut exit = Exit::Ok;
        let mut unread = None;
        let mut reports = Vec::new();
        for file in files {
            match Pair::of(&file).and_then(|pair| Tried::of(pair, tools.as_ref())) {
                Ok(tried) => {
                    if tried.failed() > 0 {
                        exit = Exit::Unsound;
                    }
                    if self.json {
                        reports.push(tried.as_json());
                    } else {
                        tried.print()?;
                    }
                }
                // The others are run all the same.
                Err(failure) => {
                    failure.tell();
                    unread.get_or_insert(failure.exit());
                    let why = failure.in_a_line();
                    reports.push(json!({ "file": file, "ok": false, "error": why }));
                }
            }
        }
        if self.json {
            term::print_json(&reports)?;
        }
        Ok(unread.unwrap_or(exit))
    }
}

/// Whether a file is one of cases, by its name.
pub(super) fn has_cases(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.ends_with(ENDING))
}

/// Runs the cases of a file, or those beside a policy.
pub(super) fn tried(file: &Path) -> Result<Tried, Failure> {
    Tried::of(Pair::of(file)?, None)
}

/// What came of the cases of one file.
pub(super) struct Tried {
    pair: Pair,
    results: Vec<(Case, Vec<Difference>, Outcome)>,
}

impl Tried {
    /// With what the server answered to `tools/list`: this, or what the file beside the policy says.
    fn of(pair: Pair, tools: Option<&Listed>) -> Result<Self, Failure> {
        let policy = enforce::check_policy(&pair.policy)?;
        let mut cases = Case::load(&pair.cases).map_err(Failure::Policy)?;
        let beside = pair.policy.with_extension(TOOLS);
        let beside = beside.is_file().then_some(beside.as_path());
        let beside = match tools {
            Some(_) => None,
            None => beside.map(super::recorded).transpose()?,
        };
        if let Some(tools) = tools.or(beside.as_ref()) {
            cases.iter_mut().for_each(|case| case.list(tools));
        }
        let results = cases.into_iter().map(|case| {
            let (unlike, outcome) = case.run(&policy);
            (case, unlike, outcome)
        });
        Ok(Self {
            results: results.collect(),
            pair,
        })
    }

    /// How many of them are decided otherwise than expected.
    pub(super) fn failed(&self) -> usize {
        let failed = self
            .results
            .iter()
            .filter(|(_, unlike, _)| !unlike.is_empty());
        failed.count()
    }

    pub(super) fn as_json(&self) -> Value {
        let cases = self.results.iter();
        let cases = cases.map(|(case, unlike, outcome)| as_json(case, unlike, outcome));
        json!({
            "policy": self.pair.policy,
            "cases": self.pair.cases,
            "ok": self.failed() == 0,
            "results": cases.collect::<Vec<_>>(),
        })
    }

    /// Prints those that fail, and how many pass.
    pub(super) fn print(&self) -> Result<(), Failure> {
        let paint = Paint::for_stdout();
        term::print(|out| {
            let failed = self
                .results
                .iter()
                .filter(|(_, unlike, _)| !unlike.is_empty());
            for (case, unlike, _) in failed {
                let place = &case.place;
                let place = format!("{}:{}:{}", place.file, place.line, place.column);
                writeln!(
                    out,
                    "{} {}: {}",
                    paint.error("failed:"),
                    visible(&place),
                    visible(&case.name)
                )?;
                for one in unlike {
                    writeln!(out, "  {}", paint.note(&visible(&one.what)))?;
                    writeln!(out, "    expected {}", visible(&one.expected))?;
                    writeln!(out, "    found    {}", visible(&one.found))?;
                }
            }
            let all = self.results.len();
            let summary = format!(
                "{}: {} of {all} cases pass",
                self.pair.policy.display(),
                all - self.failed()
            );
            writeln!(out, "{}", visible(&summary))
        })
    }
}

fn as_json(case: &Case, unlike: &[Difference], outcome: &Outcome) -> Value {
    let unlike = unlike
        .iter()
        .map(|one| json!({ "what": one.what, "expected": one.expected, "found": one.found }));
    json!({
        "name": case.name,
        "line": case.place.line,
        "ok": unlike.len() == 0,
        "differences": unlike.collect::<Vec<_>>(),
        "outcome": outcome.as_json(),
    })
}

impl Pair {
    /// From the name of either.
    fn of(file: &Path) -> Result<Self, Failure> {
        let missing = |what: &str, hint: String| {
            Failure::Usage(Account::new(what).on(file.display()).hint(hint))
        };
        paths::is_there(file)?;
        let stem = file
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(ENDING));
        if let Some(stem) = stem {
            let named = |ending: &str| file.with_file_name(format!("{stem}.{ending}"));
            let policy = ["yaml", "yml", "json"]
                .map(named)
                .into_iter()
                .find(|path| path.is_file());
            return match policy {
                Some(policy) => Ok(Self {
                    policy,
                    cases: file.to_owned(),
                }),
                None => Err(missing(
                    "there is no policy beside the cases",
                    format!("name the policy {stem}.yaml or {stem}.json"),
                )),
            };
        }
        let cases = file.with_extension(&ENDING[1..]);
        if cases.is_file() {
            Ok(Self {
                policy: file.to_owned(),
                cases,
            })
        } else {
            Err(missing(
                "there are no cases beside the policy",
                format!("write them into {}", cases.display()),
            ))
        }
    }
}

/// All that have cases in the current directory.
fn here() -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::Internal(Account::new("cannot list the current directory").because(error))
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(".").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name.to_str().is_some_and(|name| name.ends_with(ENDING)) {
            files.push(PathBuf::from(name));
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Failure::Usage(
            Account::new("there are no cases in the current directory")
                .hint("name a policy, or write pcap.test.yaml beside pcap.yaml"),
        ));
    }
    Ok(files)
}
