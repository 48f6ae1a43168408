//! What is in a machine: busybox, some of the host's programs with the libraries that they load, the
//! kernel's modules, and what is run.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{archive::Archive, kernels::Kernel, programs::Program};
use crate::term::Progress;

/// The first process of a machine.
const INIT: &str = include_str!("init.sh");

/// What the machines take from the host besides busybox: what tests run, or governed servers.
const HOST_PROGRAMS: [&str; 4] = ["ip", "nsenter", "tcpdump", "python3"];

/// What Python's library has that nothing in a machine imports: most of it by size.
const UNUSED_PYTHON: [&str; 10] = [
    "dist-packages",
    "distutils",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tkinter",
    "turtledemo",
];

/// Where the programs that are run lie in a machine.
pub(super) const PROGRAMS: &str = "vm";

/// Nothing but busybox, and what it needs.
pub(super) fn bare(progress: &Progress) -> Result<Archive> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "run", "sys", "tmp"] {
        archive.directory(directory, 0o755);
    }
    archive.device("dev/console", 5, 1);
    let busybox = host_program("busybox").context("there is no busybox here")?;
    program(progress, &mut archive, &busybox, "bin/busybox")?;
    archive.link("bin/sh", "busybox");
    Ok(archive)
}

/// Everything but the kernel's modules.
pub(super) fn fill(progress: &Progress, programs: &[Program]) -> Result<Archive> {
    let mut archive = Archive::default();
    for directory in [
        "dev", "proc", "run", "sys", "etc", "root", "var/lib", "var/log",
    ] {
        archive.directory(directory, 0o755);
    }
    archive.directory("tmp", 0o1777);
    archive.directory("var/tmp", 0o1777);
    archive.device("dev/console", 5, 1);
    archive.text("init", INIT, 0o755);
    archive.text("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n", 0o644);
    let passwd =
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n";
    archive.text("etc/passwd", passwd, 0o644);
    archive.text("etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644);

    let busybox = host_program("busybox").context("there is no busybox here")?;
    program(progress, &mut archive, &busybox, "bin/busybox")?;
    archive.link("bin/sh", "busybox");
    archive.link("sbin/modprobe", "../bin/busybox"); // whom the kernel asks for modules
    for name in HOST_PROGRAMS {
        let Some(path) = host_program(name) else {
            continue; // What needs it says so.
        };
        program(progress, &mut archive, &path, &format!("usr/bin/{name}"))?;
        if name == "python3" {
            python(progress, &mut archive, &path)?;
        }
    }

    let mut list = String::new();
    for runs in programs {
        let path = format!("{PROGRAMS}/{}", runs.name);
        program(progress, &mut archive, &runs.file, &path)?;
        if let Some((name, file)) = &runs.beside {
            program(progress, &mut archive, file, &format!("usr/bin/{name}"))?;
        }
        let when = if runs.once { "bpf" } else { "always" };
        let (name, most_seconds, arguments) = (runs.name, runs.most_seconds, &runs.arguments);
        list += &format!("{name} {most_seconds} {when} {arguments}\n");
    }
    archive.text(&format!("{PROGRAMS}/list"), &list, 0o644);
    Ok(archive)
}

/// With the modules of a kernel.
pub(super) fn add_modules(archive: &mut Archive, kernel: &Kernel) -> Result<()> {
    let to = format!("lib/modules/{}", kernel.version);
    tree(archive, &kernel.modules, &to, &|_| true)
}

/// A program, without what debuggers want of it, and the libraries that it loads.
fn program(progress: &Progress, archive: &mut Archive, from: &Path, to: &str) -> Result<()> {
    if archive.has(to) {
        return Ok(());
    }
    archive.file(to, from, 0o755);
    libraries(progress, archive, from)
}

/// The libraries that a program loads, where the host has them.
fn libraries(progress: &Progress, archive: &mut Archive, program: &Path) -> Result<()> {
    let mut ldd = Command::new("ldd");
    let Ok(lines) = progress.lines(ldd.arg(program)) else {
        return Ok(()); // It is linked statically.
    };
    for line in lines {
        // `libc.so.6 => /lib/…/libc.so.6 (0x…)`, or `/lib64/ld-linux-x86-64.so.2 (0x…)`.
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.contains(&"not") {
            bail!("{} needs {}", program.display(), line.trim());
        }
        for path in words.iter().filter(|word| word.starts_with('/')) {
            if !archive.has(path) {
                archive.file(path, Path::new(path), 0o755);
            }
        }
    }
    Ok(())
}

/// Python's library.
fn python(progress: &Progress, archive: &mut Archive, interpreter: &Path) -> Result<()> {
    let asked = "import sysconfig; print(sysconfig.get_path('stdlib'))";
    let mut python = Command::new(interpreter);
    let said = progress.lines(python.args(["-I", "-c", asked]))?;
    let library = PathBuf::from(said.first().context("where Python's library is")?);
    let wanted = |name: &str| !UNUSED_PYTHON.contains(&name) && !name.starts_with("config-");
    let to = library.to_string_lossy().into_owned();
    tree(archive, &library, &to, &wanted)?;
    // Of the modules that are libraries, `ctypes` is the one that needs another.
    for entry in fs::read_dir(library.join("lib-dynload"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("_ctypes.") {
            libraries(progress, archive, &entry.path())?;
        }
    }
    Ok(())
}

/// A directory with all below it but the directories that are not wanted.
fn tree(archive: &mut Archive, from: &Path, to: &str, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let to = format!("{to}/{name}");
        let kind = entry.file_type()?;
        if kind.is_dir() && wanted(&name) {
            tree(archive, &entry.path(), &to, wanted)?;
        } else if kind.is_file() {
            archive.file(&to, &entry.path(), 0o644);
        }
    }
    Ok(())
}

/// Where a program of the host is: Debian's own before others in `PATH`.
fn host_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let own = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    own.into_iter()
        .chain(env::split_paths(&path))
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .and_then(|path| fs::canonicalize(path).ok())
}
