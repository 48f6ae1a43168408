//! Builds the kernel programs of `ebpf/` and leaves them in `OUT_DIR`, each as an object file
//! of its own: `guard.o`, …
//!
//! They need another compiler than the rest: nightly with `-Z build-std=core` for
//! `bpfel-unknown-none`, and `bpf-linker`. No `--btf`: the agent rewrites the guard's ELF for each
//! session, and type information would have to be rewritten with it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

#[path = "../ebpf/toolchain.rs"]
mod toolchain;

const TARGET: &str = "bpfel-unknown-none";
const PROGRAMS: [&str; 7] = [
    "egress",
    "guard",
    "host_call",
    "host_hook",
    "lsm",
    "network",
    "tree",
];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let manifest_dir = directory("CARGO_MANIFEST_DIR")?;
    let out = directory("OUT_DIR")?;
    let house = manifest_dir
        .parent()
        .ok_or("the agent's directory has no parent")?;
    let ebpf = house.join("ebpf");
    for input in [&ebpf, &house.join("Cargo.lock")] {
        println!("cargo::rerun-if-changed={}", input.display());
    }

    let setup = |missing: String| format!("{missing}; run: cargo xtask setup");
    let nightly = toolchain::pinned(&ebpf)
        .and_then(|pinned| toolchain::installed(&pinned))
        .map_err(setup)?;
    if !toolchain::has_rust_src(&nightly)? {
        return Err(setup(format!(
            "the toolchain {nightly} lacks the component rust-src"
        )));
    }
    let linker = toolchain::linker(&out.ancestors().collect::<Vec<_>>()).ok_or_else(|| {
        setup(format!(
            "no working {} in <target>/tools/bin or PATH",
            toolchain::LINKER
        ))
    })?;

    let built = out.join("ebpf");
    compile(house, &nightly, &linker, &built)?;
    for program in PROGRAMS {
        let from = built.join(TARGET).join("release").join(program);
        let to = out.join(program).with_extension("o");
        fs::copy(&from, &to)
            .map_err(|e| format!("cannot copy {} to {}: {e}", from.display(), to.display()))?;
    }
    Ok(())
}

/// Runs the other cargo. What it says goes to stderr, which the outer cargo shows if this fails.
fn compile(house: &Path, nightly: &str, linker: &Path, target_dir: &Path) -> Result<(), String> {
    let mut cargo = Command::new("rustup");
    cargo
        .current_dir(house)
        .args(["run", nightly, "cargo", "build", "--release", "--locked"])
        .args(["-Z", "build-std=core", "--target", TARGET])
        .args(["-p", "capwarden-ebpf", "--target-dir"])
        .arg(target_dir);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(belongs_to_the_outer_cargo) {
            cargo.env_remove(name);
        }
    }
    let linker = linker
        .to_str()
        .ok_or_else(|| format!("{} is no UTF-8", linker.display()))?;
    let flags = [&format!("-Clinker={linker}"), "-Ctarget-cpu=v3"];
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));

    let done = cargo
        .output()
        .map_err(|e| format!("cannot run rustup: {e}"))?;
    eprintln!("{}", String::from_utf8_lossy(&done.stderr));
    if done.status.success() {
        Ok(())
    } else {
        Err("the kernel programs in ebpf/ do not build; the compiler's words are below".to_owned())
    }
}

/// The outer cargo describes its own toolchain, package and flags to build scripts: all wrong for
/// the other one. Where its home, its network and its job server are stays right.
fn belongs_to_the_outer_cargo(name: &str) -> bool {
    const SHARED: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_SOURCE_",
        "CARGO_REGISTR",
    ];
    let outer = ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"];
    outer.iter().any(|prefix| name.starts_with(prefix))
        && !SHARED.iter().any(|prefix| name.starts_with(prefix))
}

fn directory(variable: &str) -> Result<PathBuf, String> {
    env::var_os(variable)
        .map(PathBuf::from)
        .ok_or_else(|| format!("{variable} is not set: this is a build script for cargo"))
}
