//! What a proof costs, against Z3 on the same two programs.
//!
//! The pairs are the realistic ones of the prover's tests, in both directions. Ours is timed whole:
//! symbolic execution, clauses and solving. Of Z3 only the solving counts (`QF_UFBV`), not what
//! Python takes to make the formula; so the ratio is the least that can be said. Both answer each
//! question by turns, and must give the same answer.
//!
//! *Verdict* is the time until it is known whether there is a difference. The *full query* goes on:
//! is a well-formed packet among the differences, and what does a readable one look like?

use std::{
    collections::HashMap,
    env, fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use capwarden::filter::{Budget, Compiler, Containment, LinkType, Origin, Program, prove_measured};
use serde_json::{Value, json};

use crate::{
    Bench, Running,
    measure::{Measurement, Target, Unit},
};

#[path = "../../../../agent/tests/filter_prove/pairs/mod.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "the prover's tests need the rest"
)]
mod pairs;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    let mut programs = Programs {
        compiler: bench.compiler(),
        compiled: HashMap::new(),
    };
    let mut z3 = Z3::start()?;
    let (mut verdict, mut full, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let mut prove = |requested: &Program, policy: &Program, name: &str| -> Result<()> {
        let link = LinkType::EN10MB;
        let (ours, cost) = prove_measured(requested, policy, link, Budget::default());
        let (contained, solved) = z3.ask(requested, policy)?;
        ensure!(
            !matches!(ours, Containment::Unknown { .. })
                && (ours == Containment::Contained) == contained,
            "{name}: the prover says {ours:?}, Z3 contained = {contained}"
        );
        verdict.push(cost.decided.as_secs_f64());
        full.push(cost.time.as_secs_f64());
        theirs.push(solved);
        Ok(())
    };
    // The first question of either is special.
    let [a, b] = ["tcp port 80", "tcp"].map(|one| programs.compile(one));
    prove(&a?, &b?, "warm-up")?;
    forget_peak_memory()?;
    let before = memory("VmRSS")?;
    for (requested, policy, ..) in pairs::everyday::PAIRS {
        let [a, b] = [programs.compile(requested)?, programs.compile(policy)?];
        prove(&a, &b, &format!("{requested} WITHIN {policy}"))?;
        prove(&b, &a, &format!("{policy} WITHIN {requested}"))?;
    }
    let memory = memory("VmHWM")? - before;

    let [verdict, full, theirs] = [verdict, full, theirs].map(|mut samples| {
        samples.remove(0);
        samples.sort_by(f64::total_cmp);
        samples
    });
    let row = |what: String, plain: Vec<f64>, guarded: Vec<f64>, target| Measurement {
        what,
        unit: Unit::Time,
        plain,
        guarded,
        target,
    };
    let part = |samples: &[f64], permille: usize| {
        let last = samples.len().saturating_sub(1);
        samples
            .get(last * permille / 1000)
            .copied()
            .into_iter()
            .collect()
    };
    let count = verdict.len();
    let mut rows = vec![row(
        format!("prove, verdict: {count} questions, Z3 | prover"),
        theirs.clone(),
        verdict.clone(),
        Target::Ratio(0.2),
    )];
    for (name, permille) in [("90 %", 900), ("99 %", 990), ("worst", 1000)] {
        rows.push(row(
            format!("prove, verdict: {name}, Z3 | prover"),
            part(&theirs, permille),
            part(&verdict, permille),
            Target::None,
        ));
    }
    rows.push(row(
        "prove, full query".to_owned(),
        Vec::new(),
        full.clone(),
        Target::Most(3e-3),
    ));
    for (name, permille, target) in [
        ("90 %", 900, Target::None),
        ("99 %", 990, Target::Most(0.1)),
        ("worst", 1000, Target::Most(1.0)),
    ] {
        let samples = part(&full, permille);
        rows.push(row(
            format!("prove, full query: {name}"),
            Vec::new(),
            samples,
            target,
        ));
    }
    rows.push(Measurement {
        what: "prove, peak memory beside the rest".to_owned(),
        unit: Unit::Bytes,
        plain: Vec::new(),
        guarded: vec![memory],
        target: Target::None,
    });
    Ok(rows)
}

struct Programs {
    compiler: Compiler,
    compiled: HashMap<String, Program>,
}

impl Programs {
    fn compile(&mut self, expression: &str) -> Result<Program> {
        if let Some(program) = self.compiled.get(expression) {
            return Ok(program.clone());
        }
        let program = self
            .compiler
            .compile(expression, LinkType::EN10MB, Origin::Request)?;
        let program = program.context("an empty filter")?;
        self.compiled.insert(expression.to_owned(), program.clone());
        Ok(program)
    }
}

/// The second opinion of the prover's tests, a line of JSON for each question.
struct Z3 {
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    _process: Running,
}

impl Z3 {
    fn start() -> Result<Self> {
        let venv = env::var_os("CAPWARDEN_VENV").context("CAPWARDEN_VENV is not set")?;
        let script = "../agent/tests/filter_prove/z3_oracle.py";
        let mut command = Command::new(PathBuf::from(venv).join("bin/python3"));
        command
            .arg("-B")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Running::start(&mut command)?;
        let to = process.0.stdin.take().context("no stdin")?;
        let from = process.0.stdout.take().context("no stdout")?;
        Ok(Self {
            to,
            from: BufReader::new(from),
            _process: process,
        })
    }

    /// Whether Z3 finds the request contained, and the seconds that took it.
    fn ask(&mut self, requested: &Program, policy: &Program) -> Result<(bool, f64)> {
        let insns = |program: &Program| -> Vec<Value> {
            let insns = program.insns().iter();
            insns
                .map(|insn| json!([insn.code, insn.jt, insn.jf, insn.k]))
                .collect()
        };
        let question = json!({
            "requested": insns(requested),
            "policy": insns(policy),
            "form": "ethernet",
            "only": "verdict",
            "milliseconds": 60_000,
        });
        writeln!(self.to, "{question}")?;
        let mut answer = String::new();
        self.from.read_line(&mut answer)?;
        let answer: Value =
            serde_json::from_str(&answer).context("z3_oracle.py ended; its words are above")?;
        let verdict = answer.get("verdict").and_then(Value::as_str);
        ensure!(verdict != Some("unknown"), "Z3 gave up on {question}");
        let solved = answer.pointer("/seconds/1").and_then(Value::as_f64);
        let solved = solved.context("no time in the answer")?;
        Ok((verdict == Some("contained"), solved))
    }
}

/// From now on the peak is the peak since now.
fn forget_peak_memory() -> Result<()> {
    fs::write("/proc/self/clear_refs", "5").context("cannot reset the peak of the memory")
}

/// A size out of `/proc/self/status`, in bytes.
fn memory(field: &str) -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(field));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
    let kibibytes: f64 = kibibytes.with_context(|| format!("no {field}"))?.parse()?;
    Ok(kibibytes * 1024.0)
}
