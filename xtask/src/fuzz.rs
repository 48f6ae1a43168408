//! `cargo xtask fuzz`: fuzzes the filter room, target after target.
//!
//! What libFuzzer finds interesting stays in `target/fuzz/corpus`, so that a run goes on where the
//! last one ended; `--keep` puts the smallest set that reaches as much into `tests/fuzz/corpus`,
//! which `cargo xtask test` replays.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::{house, root, setup, term};

/// The version of cargo-fuzz.
const VERSION: &str = "0.13.2";

/// The longest input in bytes, its time, and the memory of a run: more is a finding.
const MOST_BYTES: u64 = 512;
const MOST_SECONDS: u64 = 10;
const MOST_MEBIBYTES: u64 = 1024;

/// So much of each target's corpus is kept in the repository at most.
const MOST_KEPT: usize = 45;

/// Options of `cargo xtask fuzz`
#[derive(Args)]
pub(crate) struct Options {
    /// Only these targets
    #[arg(value_enum, value_name = "TARGET")]
    targets: Vec<Target>,
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u64,
    /// Run one target on this input and nothing else
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Afterwards, put the smallest corpus that reaches as much into tests/fuzz/corpus
    #[arg(long)]
    keep: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Target {
    /// Text, through libpcap, to a translated program
    Expression,
    /// Instructions: a program to us and to the kernel, or to neither
    Cbpf,
    /// Interpreter, classic BPF and eBPF on the same packets; as root
    Translation,
    /// The prover's answers against the interpreter
    Prover,
}

impl Target {
    const fn name(self) -> &'static str {
        match self {
            Self::Expression => "expression",
            Self::Cbpf => "cbpf",
            Self::Translation => "translation",
            Self::Prover => "prover",
        }
    }

    /// Where the corpus in the repository is.
    fn kept(self) -> PathBuf {
        crate_dir().join("corpus").join(self.name())
    }

    /// Where the corpus of all runs is.
    fn corpus(self) -> PathBuf {
        work_dir().join("corpus").join(self.name())
    }

    /// Where inputs go that show something.
    fn findings(self) -> PathBuf {
        work_dir().join("findings").join(self.name())
    }

    /// What libFuzzer is, with this target in it.
    fn command(self) -> Result<Command> {
        let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let program = work_dir().join(host).join("release").join(self.name());
        let variables = [("RUST_BACKTRACE", "1".into())];
        let mut command = if self == Self::Translation {
            root::command(&program, &variables)?
        } else {
            let mut command = Command::new(&program);
            command.envs(variables);
            command
        };
        command.current_dir(house::root());
        Ok(command)
    }
}

fn crate_dir() -> PathBuf {
    house::root().join("tests/fuzz")
}

/// Below the target directory, where the agent's build script finds bpf-linker.
fn work_dir() -> PathBuf {
    house::target().join("fuzz")
}

/// The verb.
pub(crate) fn main(options: &Options) -> Result<()> {
    let targets = match options.targets.as_slice() {
        [] => Target::value_variants(),
        some => some,
    };
    if options.json {
        build(&term::Progress::quiet())?;
    } else {
        setup::ensure_build()?;
        term::step("cargo-fuzz", install)?;
        term::step("build the fuzz targets", build)?;
    }
    if let Some(input) = &options.input {
        let [target] = targets else {
            bail!("name the one target that is to run on {}", input.display());
        };
        return term::loud("replay", target.command()?.arg(fs::canonicalize(input)?));
    }
    let mut runs = Vec::new();
    for target in targets {
        let name = format!("{} for {} s", target.name(), options.seconds);
        let work = |progress: &term::Progress| {
            let run = fuzz(*target, options.seconds, progress)?;
            if options.keep {
                keep(*target, progress)?;
            }
            Ok(run)
        };
        runs.push(if options.json {
            work(&term::Progress::quiet())?
        } else {
            let run = term::step(&name, work)?;
            println!("  {}", run.in_words());
            run
        });
    }
    if options.json {
        let runs: Vec<Value> = runs.iter().map(Run::to_json).collect();
        println!(
            "{}",
            serde_json::to_string_pretty(&json!({ "runs": runs }))?
        );
    }
    Ok(())
}

/// Some minutes, the first time.
fn install(progress: &term::Progress) -> Result<()> {
    if cargo_fuzz().is_file() {
        return Ok(());
    }
    let mut cargo = house::cargo(&["install", "cargo-fuzz", "--version", VERSION, "--locked"]);
    cargo.arg("--root").arg(house::tools());
    progress
        .run(&mut cargo)
        .context("cargo-fuzz does not build; its last words are above")
}

fn cargo_fuzz() -> PathBuf {
    house::tools().join("bin/cargo-fuzz")
}

/// Ten minutes the first time: all that the agent is made of is built once more, to be watched.
///
/// Without a sanitizer: the code is Rust without `unsafe`, and runs twice as fast. Overflows and
/// debug assertions are checked.
fn build(progress: &term::Progress) -> Result<()> {
    if !cargo_fuzz().is_file() {
        bail!("cargo-fuzz is not installed; run this once without --json");
    }
    let nightly = setup::kernel_toolchain()?;
    let mut rustup = Command::new("rustup");
    house::forget_own(&mut rustup);
    rustup
        .current_dir(house::root())
        .args(["run", &nightly])
        .arg(cargo_fuzz())
        .args(["fuzz", "build", "--sanitizer", "none"])
        .args(["--features", "libfuzzer", "--fuzz-dir"])
        .arg(crate_dir())
        .arg("--target-dir")
        .arg(work_dir());
    progress
        .run(&mut rustup)
        .context("the fuzz targets do not build; the compiler's words are above")
}

fn fuzz(target: Target, seconds: u64, progress: &term::Progress) -> Result<Run> {
    let (corpus, kept, findings) = (target.corpus(), target.kept(), target.findings());
    for dir in [&corpus, &kept, &findings] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let before = files(&findings)?;
    let mut command = target.command()?;
    let mut prefix = findings.clone().into_os_string();
    prefix.push("/");
    command
        .args([&corpus, &kept])
        .arg(join("-artifact_prefix=", prefix))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MOST_BYTES}"))
        .arg(format!("-timeout={MOST_SECONDS}"))
        .arg(format!("-rss_limit_mb={MOST_MEBIBYTES}"))
        .args(["-print_final_stats=1", "-use_value_profile=1"]);
    if target == Target::Expression {
        command.arg(join("-dict=", crate_dir().join("expression.dict")));
    }
    match progress.lines(&mut command) {
        Ok(lines) => Run::read(target, &lines),
        Err(error) => {
            let found: Vec<_> = files(&findings)?.difference(&before).cloned().collect();
            let Some(input) = found.first() else {
                return Err(error);
            };
            let input = input.display();
            let name = target.name();
            Err(error.context(format!(
                "{name} found something; the input is {input}; again, alone: cargo xtask fuzz {name} --input {input}"
            )))
        }
    }
}

fn join(option: &str, value: impl Into<std::ffi::OsString>) -> std::ffi::OsString {
    let mut joined = std::ffi::OsString::from(option);
    joined.push(value.into());
    joined
}

/// Puts the smallest part of both corpora that reaches as much as all into the repository, or the
/// smallest inputs of it where that is too much.
fn keep(target: Target, progress: &term::Progress) -> Result<()> {
    let least = work_dir().join("least").join(target.name());
    match fs::remove_dir_all(&least) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => fs::create_dir_all(&least)?,
    }
    let kept = target.kept();
    progress.run(
        target
            .command()?
            .arg("-merge=1")
            .args([&least, &kept, &target.corpus()]),
    )?;
    let mut inputs: Vec<_> = files(&least)?.into_iter().collect();
    inputs.sort_by_key(|path| fs::metadata(path).map_or(u64::MAX, |found| found.len()));
    // Every so many of them, from the smallest to the largest.
    let every = inputs.len().div_ceil(MOST_KEPT).max(1);
    for old in files(&kept)? {
        fs::remove_file(old)?;
    }
    for input in inputs.iter().step_by(every) {
        let name = input.file_name().ok_or_else(|| anyhow!("no file name"))?;
        fs::copy(input, kept.join(name))?;
    }
    Ok(())
}

fn files(dir: &Path) -> Result<BTreeSet<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// What a run came to.
struct Run {
    target: Target,
    /// Inputs that were run.
    runs: u64,
    /// Edges of the program that were reached, and with them what was compared.
    coverage: u64,
    features: u64,
    /// Inputs that are kept from run to run.
    corpus: u64,
    seconds: u64,
}

impl Run {
    /// Reads what libFuzzer says at the end.
    fn read(target: Target, lines: &[String]) -> Result<Self> {
        let stat = |name: &str| {
            let line = lines.iter().rev().find(|line| line.contains(name))?;
            let (_, value) = line.split_once(name)?;
            value.trim_start().split([' ', '/']).next()?.parse().ok()
        };
        let read = |name| stat(name).with_context(|| format!("libFuzzer does not say {name}"));
        Ok(Self {
            target,
            runs: read("stat::number_of_executed_units:")?,
            coverage: read("cov: ")?,
            features: read(" ft: ")?,
            corpus: read("corp: ")?,
            seconds: read(" runs in ")?,
        })
    }

    fn in_words(&self) -> String {
        let Self {
            runs,
            coverage,
            features,
            corpus,
            seconds,
            ..
        } = self;
        format!(
            "{runs} runs in {seconds} s, {coverage} edges, {features} features, {corpus} inputs; nothing found"
        )
    }

    fn to_json(&self) -> Value {
        json!({
            "target": self.target.name(),
            "runs": self.runs,
            "seconds": self.seconds,
            "coverage": self.coverage,
            "features": self.features,
            "corpus": self.corpus,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_read_from_libfuzzers_words() {
        let lines = [
            "#2\tINITED cov: 45 ft: 46 corp: 1/1b exec/s: 0 rss: 40Mb",
            "#524288\tREDUCE cov: 1245 ft: 4660 corp: 310/12Kb lim: 512 exec/s: 1000 rss: 90Mb",
            "Done 611111 runs in 61 second(s)",
            "stat::number_of_executed_units: 611111",
        ];
        let lines = lines.map(str::to_owned);
        let run = Run::read(Target::Cbpf, &lines).unwrap();
        assert_eq!(
            run.in_words(),
            "611111 runs in 61 s, 1245 edges, 4660 features, 310 inputs; nothing found"
        );
        assert!(Run::read(Target::Cbpf, &lines[..3]).is_err());
    }
}
