//! `cargo xtask test`: lint, unit tests as the invoking user, end-to-end tests as root, and the tests
//! that speak to the kernel on other kernels.
//!
//! What fails does not stop what comes after it: the last line counts everything.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::{again, attacks, house, root, setup, shell, tally::Tally, term, vm};

/// Test programs of the agent that run as it is shipped: they do so much that the time to build
/// them optimized comes back many times over.
const OPTIMIZED: [&str; 4] = [
    "filter_kernel",
    "filter_lists",
    "filter_prove",
    "limits_kills",
];

/// How long one binary of end-to-end tests may take.
const MOST_SECONDS: &str = "600";

/// What `timeout` exits with when the time was up.
const TIMED_OUT: i32 = 124;

/// Names the file in which an end-to-end test notes why it was skipped: a line
/// `name<TAB>reason`. It counts as passed for libtest, and as skipped here.
const SKIPS: &str = "CAPWARDEN_SKIPS";

/// Options of `cargo xtask test`
#[derive(Args)]
pub(crate) struct Options {
    /// Only the tests whose name contains this
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Only one part
    #[arg(long, value_enum, value_name = "PART")]
    only: Option<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Lint,
    Unit,
    E2e,
    Vm,
}

/// The verb.
pub(crate) fn main(options: &Options) -> Result<()> {
    let start = Instant::now();
    setup::ensure()?;
    let mut tally = Tally::default();
    let wants = |part| options.only.is_none_or(|only| only == part);
    if wants(Part::Lint) {
        lint(&mut tally);
    }
    if wants(Part::Unit) {
        unit(options, &mut tally);
    }
    if wants(Part::E2e)
        && let Err(error) = end_to_end(options, &mut tally)
    {
        tally.broken.push(format!("{error:#}"));
    }
    if wants(Part::E2e)
        && options
            .filter
            .as_deref()
            .is_none_or(|filter| "attacks".contains(filter))
        && let Err(error) = attacks::part(&mut tally)
    {
        tally.broken.push(format!("{error:#}"));
    }
    // Nobody who asks for one test waits for machines to boot.
    let machines = options.filter.is_none() || options.only == Some(Part::Vm);
    if wants(Part::Vm)
        && machines
        && let Err(error) = vm::part(options.filter.as_deref(), &mut tally)
    {
        tally.broken.push(format!("{error:#}"));
    }

    again::bound(&mut tally);
    println!();
    print!("{}", tally.skipped());
    print!("{}", tally.unsteady());
    print!("{}", tally.failures());
    for broken in &tally.broken {
        println!("{} {broken}", term::mark(false));
    }
    let clean = tally.broken.is_empty() && tally.failed == 0;
    println!(
        "{} {tally} in {}",
        term::mark(clean),
        term::elapsed(start.elapsed())
    );
    if !clean {
        bail!("not everything passed; one part alone: cargo xtask test --only lint|unit|e2e|vm");
    }
    Ok(())
}

fn lint(tally: &mut Tally) {
    let mut step = |what: &str, arguments: &[&str]| {
        let mut cargo = house::cargo(arguments);
        cargo.env("RUSTDOCFLAGS", "-D warnings"); // links in comments are checked like code
        if let Err(error) = term::loud(what, &mut cargo) {
            tally.broken.push(format!("{error:#}"));
        }
    };
    step("cargo fmt --check", &["fmt", "--all", "--check"]);
    let clippy = "clippy --workspace --exclude capwarden-ebpf --all-targets -- -D warnings";
    step("cargo clippy", &clippy.split(' ').collect::<Vec<_>>());
    let doc = "doc --workspace --exclude capwarden-ebpf --no-deps --quiet";
    step("cargo doc", &doc.split(' ').collect::<Vec<_>>());
    if house::has_program("cargo-deny") {
        step("cargo deny check", &["deny", "check"]);
    } else {
        println!(
            "  cargo deny is not installed and takes minutes to build, so licences and advisories are left to the GitHub workflow (here: cargo install cargo-deny --locked)"
        );
    }
    if let Err(error) = shell::check() {
        tally.broken.push(format!("{error:#}"));
    }
}

fn unit(options: &Options, tally: &mut Tally) {
    let agent = match agents_programs() {
        Ok(programs) => programs,
        Err(error) => return tally.broken.push(format!("{error:#}")),
    };
    let (optimized, plain): (Vec<String>, Vec<String>) = agent
        .into_iter()
        .partition(|program| OPTIMIZED.contains(&program.as_str()));
    let named = |programs: &[String]| -> Vec<String> {
        let each = programs.iter().map(|program| format!("--test={program}"));
        each.collect()
    };
    let package = ["--package=capwarden".to_owned()];
    let parts = ["--lib".to_owned(), "--bins".to_owned()];
    let others =
        "--workspace --exclude=capwarden-ebpf --exclude=capwarden-tests --exclude=capwarden";
    let others: Vec<String> = others.split(' ').map(str::to_owned).collect();
    let release = ["--release".to_owned()];

    println!("{} unit tests", term::bold("→"));
    unit_part(
        options,
        tally,
        &[&package[..], &parts, &named(&plain)].concat(),
    );
    unit_part(options, tally, &others);
    println!("{} unit tests that need the optimizer", term::bold("→"));
    unit_part(
        options,
        tally,
        &[&release[..], &package, &named(&optimized)].concat(),
    );
}

/// What stands in the agent's folder of test programs.
fn agents_programs() -> Result<Vec<String>> {
    let folder = house::root().join("agent/tests");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut programs = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_program =
            path.extension().is_some_and(|end| end == "rs") || path.join("main.rs").exists();
        programs.extend(
            is_program
                .then_some(path.file_stem())
                .flatten()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    programs.sort();
    Ok(programs)
}

fn unit_part(options: &Options, tally: &mut Tally, selection: &[String]) {
    let mut cargo = house::cargo(&["test", "--no-fail-fast"]);
    cargo.args(selection);
    if let Ok(venv) = house::venv() {
        cargo.env("CAPWARDEN_VENV", venv);
    }
    if let Some(filter) = &options.filter {
        cargo.args(["--", filter]);
    }
    let failed = tally.failed;
    match echo(&mut cargo, tally) {
        // Tests that failed are counted by their own lines.
        Ok(0) => {}
        Ok(_) if tally.failed > failed => {}
        Ok(code) => tally.broken.push(format!(
            "the unit tests do not build, or one died (exit code {code}); see above"
        )),
        Err(error) => tally.broken.push(format!("{error:#}")),
    }
}

fn end_to_end(options: &Options, tally: &mut Tally) -> Result<()> {
    build_capwarden()?;
    let binaries = build_tests(&["--package=capwarden-tests".to_owned()])?;
    let venv = fs::canonicalize(house::venv()?)?;
    let suite = fs::canonicalize(house::suite()?)?;
    let proxies = fs::canonicalize(house::proxies()?)?;
    let tests = house::root().join("tests");
    for binary in binaries {
        let name = program_name(&binary);
        println!("{} end to end, as root: {name}", term::bold("→"));

        let notes = house::target().join("skips.txt");
        fs::write(&notes, "").with_context(|| format!("cannot write {}", notes.display()))?;
        let variables = [
            ("CAPWARDEN_BIN", house::capwarden().into()),
            ("CAPWARDEN_VENV", venv.clone().into()),
            ("CAPWARDEN_SUITE", suite.clone().into()),
            ("CAPWARDEN_PROXIES", proxies.clone().into()),
            ("CARGO_MANIFEST_DIR", tests.clone().into()),
            (SKIPS, notes.clone().into()),
            ("PATH", std::env::var_os("PATH").unwrap_or_default()),
            ("RUST_BACKTRACE", "1".into()),
        ];
        // `timeout` runs inside sudo: only root can end what root runs.
        let command = || -> Result<Command> {
            let mut command = root::command(Path::new("timeout"), &variables)?;
            command
                .current_dir(&tests)
                .args(["--kill-after=10", MOST_SECONDS])
                .arg(&binary);
            Ok(command)
        };
        let (failed, known) = (tally.failed, tally.failures.len());
        match echo(command()?.args(&options.filter), tally)? {
            0 => {}
            TIMED_OUT => tally.broken.push(format!(
                "{name}: ended after {MOST_SECONDS} s; the test it hung in is the last one above"
            )),
            _ if tally.failed > failed => {}
            code => tally
                .broken
                .push(format!("{name}: died (exit code {code})")),
        }
        tally.count_noted(&fs::read_to_string(&notes).unwrap_or_default());
        again::alone(tally, known, |test| {
            let mut alone = Tally::default();
            let code = echo(command()?.args(["--exact", test]), &mut alone)?;
            Ok(code == 0 && alone.passed == 1)
        })?;
    }
    Ok(())
}

/// Builds the release binary.
pub(crate) fn build_capwarden() -> Result<()> {
    term::loud(
        "build capwarden (release)",
        &mut house::cargo(&["build", "--release", "--package", "capwarden"]),
    )
}

/// Builds the tests that these arguments of cargo select, and returns their binaries.
pub(crate) fn build_tests(selection: &[String]) -> Result<Vec<PathBuf>> {
    let mut cargo = house::cargo(&[
        "test",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    cargo.args(selection);
    println!(
        "{} build the tests: {}",
        term::bold("→"),
        selection.join(" ")
    );
    let done = cargo
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !done.status.success() {
        bail!("the tests do not build; the compiler's words are above");
    }
    let messages = String::from_utf8(done.stdout)?;
    let binaries = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let test = message.pointer("/profile/test")?.as_bool()?;
        let executable = message.get("executable")?.as_str()?;
        test.then(|| executable.into())
    });
    Ok(binaries.collect())
}

/// What a test binary is called in its sources.
pub(crate) fn program_name(binary: &Path) -> String {
    let name = binary.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit_once('-')
        .map_or(&name[..], |(name, _)| name)
        .to_owned()
}

/// Runs a command, shows what it prints, counts the test lines in it, and returns its exit code.
fn echo(command: &mut Command, tally: &mut Tally) -> Result<i32> {
    let mut child = command
        .stdin(Stdio::inherit())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let out = child.stdout.take().ok_or_else(|| anyhow!("no stdout"))?;
    let mut out = BufReader::new(out);
    let mut line = Vec::new();
    while out.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        tally.count(text.trim_end());
        line.clear();
    }
    Ok(child.wait()?.code().unwrap_or(-1))
}
