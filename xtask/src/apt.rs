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
    /// Its settings, in the place of the host's.
    settings: Option<PathBuf>,
}

impl Apt {
    /// As the host has it configured, with the lists that it has.
    pub(crate) fn host() -> Result<Self> {
        if !house::has_program("apt-get") {
            bail!("there is no apt-get here to fetch Debian's packages with");
        }
        Ok(Self { settings: None })
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
        let settings = directory.join("apt.conf");
        fs::write(&settings, apart(directory, &sources, &status))
            .with_context(|| format!("cannot write {}", settings.display()))?;
        let apt = Self {
            settings: Some(settings),
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
        command.env("LC_ALL", "C");
        if let Some(settings) = &self.settings {
            command.env("APT_CONFIG", settings);
        }
        command
    }
}

/// The settings of an apt that is apart, as `APT_CONFIG` names them: they are read before all others, and leave
/// out the host's, whose hooks would run with each update; but for the proxy that the host is told to use.
fn apart(directory: &Path, sources: &Path, status: &Path) -> String {
    let nothing = Path::new("/dev/null");
    let settings = [
        ("Dir::Etc::Main", nothing),
        ("Dir::Etc::Parts", nothing),
        ("Dir::Etc::SourceParts", nothing),
        ("Dir::Etc::SourceList", sources),
        ("Dir::State", &directory.join("state")),
        ("Dir::State::Status", status),
        ("Dir::Cache", &directory.join("cache")),
        ("APT::Architecture", Path::new("amd64")),
        ("Acquire::Languages", Path::new("none")),
    ];
    let settings = settings.map(|(name, value)| format!("{name} \"{}\";\n", value.display()));
    let proxies = Progress::quiet()
        .lines(Command::new("apt-config").args(["dump", "Acquire::http::Proxy"]))
        .unwrap_or_default();
    let proxies = proxies.iter().filter(|line| line.starts_with("Acquire::"));
    settings
        .into_iter()
        .chain(proxies.map(|line| format!("{line}\n")))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn hooks_of_the_host_are_left_out() {
        if !house::has_program("apt-config") {
            return; // nothing of apt is here
        }
        let directory = std::env::temp_dir().join(format!("capwarden-apt-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        // A host whose hook would run, as its apt reads it.
        let (host, hooks) = (directory.join("host.conf"), directory.join("parts"));
        fs::create_dir_all(&hooks).unwrap();
        let hook = r#"APT::Update::Pre-Invoke { "exit 1"; };"#;
        fs::write(hooks.join("50hook"), hook).unwrap();
        let parts = format!("Dir::Etc::Parts \"{}\";\n", hooks.display());
        fs::write(&host, &parts).unwrap();
        let dump = |settings: &Path| {
            let apt = Apt {
                settings: Some(settings.to_path_buf()),
            };
            let said = apt.command("apt-config").arg("dump").output().unwrap();
            String::from_utf8(said.stdout).unwrap()
        };
        assert!(dump(&host).contains("exit 1"));
        let own = directory.join("apt.conf");
        let settings = apart(
            &directory,
            &directory.join("sources"),
            &directory.join("status"),
        );
        fs::write(&own, settings).unwrap();
        let said = dump(&own);
        fs::remove_dir_all(&directory).unwrap();
        assert!(!said.contains("Invoke"), "{said}");
        assert!(said.contains(&format!("Dir::State \"{}/state\";", directory.display())));
    }
}
