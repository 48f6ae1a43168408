//! Debian packages that are unpacked here and never installed. apt's own configuration is asked
//! first; where it does not know a package, Debian's archive is, with lists and a cache apart, so that
//! nothing on the host changes and nobody needs to be root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{house, term::Progress};

/// Where Debian's kernels for this release are, of every line that is tried.
pub(crate) const KERNELS: &str = "http://deb.debian.org/debian-security bookworm-security main";

/// Where the release itself is, as it was made.
pub(crate) const RELEASE: &str = "http://deb.debian.org/debian bookworm main";

/// What Debian signs it with: of the package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An apt: the host's, or one whose lists are apart.
pub(crate) struct Apt {
    /// Its options before all others.
    options: Vec<String>,
}

impl Apt {
    /// As the host has it configured, with the lists that it has.
    pub(crate) fn host() -> Result<Self> {
        if !house::has_program("apt-get") {
            bail!("there is no apt-get here to fetch Debian's packages with");
        }
        Ok(Self { options: vec![] })
    }

    /// With nothing but one of Debian's archives, and all that it keeps in this directory.
    pub(crate) fn apart(progress: &Progress, directory: &Path, archive: &str) -> Result<Self> {
        Self::host()?;
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is not here; install the package debian-archive-keyring");
        }
        let made = |path: &str| -> Result<PathBuf> {
            let path = directory.join(path);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
            Ok(path)
        };
        made("state/lists/partial")?;
        made("cache/archives/partial")?;
        let (status, sources) = (directory.join("status"), directory.join("sources.list"));
        fs::write(&status, "")?;
        let source = format!(
            "deb [arch=amd64 signed-by={KEYRING}] {archive}\n\
             deb-src [signed-by={KEYRING}] {archive}\n"
        );
        fs::write(&sources, source)
            .with_context(|| format!("cannot write {}", sources.display()))?;
        let settings = [
            ("Dir::State", directory.join("state")),
            ("Dir::State::status", status),
            ("Dir::Cache", directory.join("cache")),
            ("Dir::Etc::sourcelist", sources),
            ("Dir::Etc::sourceparts", "/dev/null".into()),
            ("APT::Architecture", "amd64".into()),
            ("Acquire::Languages", "none".into()),
        ];
        let options =
            settings.map(|(name, value)| ["-o".to_owned(), format!("{name}={}", value.display())]);
        let apt = Self {
            options: options.concat(),
        };
        progress.run(apt.command("apt-get").args(["-q", "update"]))?;
        Ok(apt)
    }

    /// What a package of no content depends on now: the first whose name begins so.
    pub(crate) fn depends(&self, package: &str, prefix: &str) -> Result<String> {
        let mut cache = self.command("apt-cache");
        let lines = Progress::quiet().lines(cache.args(["depends", package]))?;
        let names = lines
            .iter()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        let found = names
            .into_iter()
            .find(|name| name.starts_with(prefix) && !name.ends_with("-unsigned"));
        let found = found.with_context(|| format!("{package} depends on no {prefix}…"))?;
        Ok(found.to_owned())
    }

    /// Fetches a package, checked as apt checks it, and unpacks it into a directory.
    pub(crate) fn unpack(&self, progress: &Progress, package: &str, into: &Path) -> Result<()> {
        let archives = into.with_extension("deb");
        let _ = fs::remove_dir_all(&archives);
        fs::create_dir_all(&archives)
            .with_context(|| format!("cannot make {}", archives.display()))?;
        progress.say(&format!("apt-get download {package}"));
        let mut get = self.command("apt-get");
        progress.run(get.current_dir(&archives).args(["-q", "download", package]))?;
        let mut found = fs::read_dir(&archives)?;
        let archive = found
            .next()
            .with_context(|| format!("apt-get downloaded no {package}"))??
            .path();
        let mut dpkg = Command::new("dpkg-deb");
        progress.run(dpkg.arg("--extract").arg(archive).arg(into))?;
        fs::remove_dir_all(&archives)?;
        Ok(())
    }

    /// Fetches the source of a package at a version (`libpcap=1.10.3-1`), checked as apt checks it, into a
    /// directory.
    pub(crate) fn source(&self, progress: &Progress, package: &str, into: &Path) -> Result<()> {
        fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
        progress.say(&format!("apt-get source {package}"));
        let mut get = self.command("apt-get");
        get.current_dir(into)
            .args(["-q", "--download-only", "source", package]);
        progress.run(&mut get)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options).env("LC_ALL", "C");
        command
    }
}
