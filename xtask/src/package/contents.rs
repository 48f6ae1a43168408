//! What is in the packages: the one list, whichever kind of package it is.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};

use super::{VERSION, binary::Binary, crates::Crate, deb, documents, licences};
use crate::{house, pictures::documents::shown_in, term::Progress};

/// Where units are.
const UNITS: &str = "agent/packaging/systemd";
/// Which of its files are units.
const UNIT_ENDS: [&str; 4] = ["service", "slice", "socket", "target"];

/// Files of the checkout, and where they go.
pub(super) const FILES: [(&str, &str); 6] = [
    ("agent/packaging/sysusers.d/capwarden.conf", SYSUSERS),
    (
        "agent/packaging/tmpfiles.d/capwarden.conf",
        "/usr/lib/tmpfiles.d/capwarden.conf",
    ),
    (
        "agent/packaging/config/agent.yaml",
        "/etc/capwarden/agent.yaml",
    ),
    ("README.md", "/usr/share/doc/capwarden/README.md"),
    ("SECURITY.md", "/usr/share/doc/capwarden/SECURITY.md"),
    (
        "agent/packaging/debian/copyright",
        "/usr/share/doc/capwarden/copyright",
    ),
];

/// The texts of our licences: Debian has them elsewhere.
pub(super) const LICENCES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];

/// Who and which groups are made.
const SYSUSERS: &str = "/usr/lib/sysusers.d/capwarden.conf";

/// Ready policies, and where they go.
pub(super) const POLICIES: &str = "policies";
pub(super) const POLICIES_AT: &str = "/usr/share/capwarden/policies";

/// A kind of package.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Deb,
    Rpm,
    Tarball,
}

/// A file of a package.
pub(super) struct Entry {
    /// Where it goes: `/usr/bin/capwarden`.
    pub(super) to: String,
    /// Where it is now.
    pub(super) from: PathBuf,
    pub(super) mode: u32,
}

impl Entry {
    /// Whether an administrator changes it, so that an upgrade must not.
    pub(super) fn is_configuration(&self) -> bool {
        self.to.starts_with("/etc/")
    }

    /// Whether it may be left out where documents are not wanted.
    pub(super) fn is_document(&self) -> bool {
        ["/usr/share/doc/", "/usr/share/man/"]
            .iter()
            .any(|place| self.to.starts_with(place))
    }
}

/// A unit that is enabled.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// Its file: `capwarden-server@.socket`.
    pub(super) file: String,
    /// What is started: `capwarden-server@capwarden-server.socket`, or the same.
    pub(super) name: String,
}

impl Unit {
    /// The unit of a file with this name and text, if it is one that is enabled.
    fn enabled(file: &str, text: &str) -> Option<Self> {
        let mut lines = text.lines().map(str::trim);
        lines.find(|line| *line == "[Install]")?;
        let instance = lines.find_map(|line| line.strip_prefix("DefaultInstance="));
        let name = match (file.split_once("@."), instance) {
            (Some((name, kind)), Some(instance)) => format!("{name}@{instance}.{kind}"),
            (Some(_), None) => return None,
            (None, _) => file.to_owned(),
        };
        let file = file.to_owned();
        Some(Self { file, name })
    }
}

/// The files of a package, below a directory as they will be below `/`.
pub(super) struct Stage {
    pub(super) root: PathBuf,
    pub(super) entries: Vec<Entry>,
    /// When all of them were written, as far as anybody can see: seconds since 1970.
    pub(super) time: u64,
}

impl Stage {
    /// Puts all files of such a package below this directory.
    pub(super) fn fill(
        kind: Kind,
        binary: &Binary,
        crates: &[Crate],
        time: u64,
        root: &Path,
    ) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(root)
                .with_context(|| format!("cannot remove {}", root.display()))?;
        }
        let mut stage = Self {
            root: root.to_path_buf(),
            entries: vec![],
            time,
        };
        let doc = "/usr/share/doc/capwarden";
        stage.copy("/usr/bin/capwarden", &binary.path, 0o755)?;
        for (from, to) in FILES {
            let from = house::root().join(from);
            match from.extension().is_some_and(|end| end == "md") {
                true => stage.document(kind, to, &from)?,
                false => stage.copy(to, &from, 0o644)?,
            }
        }
        stage.pictures()?;
        for unit in files(UNITS)? {
            if unit
                .extension()
                .is_some_and(|end| UNIT_ENDS.iter().any(|unit| end == *unit))
            {
                stage.copy_into("/usr/lib/systemd/system", &unit)?;
            }
        }
        for policy in files(POLICIES)? {
            stage.copy_into(POLICIES_AT, &policy)?;
        }
        stage.manuals(&binary.path)?;
        stage.completions(kind, &binary.path)?;

        let third_party = licences::write(crates)?;
        stage.gzip(&format!("{doc}/third-party.txt.gz"), third_party.as_bytes())?;
        match kind {
            Kind::Deb => {
                let log = deb::changelog(time)?;
                stage.gzip(&format!("{doc}/changelog.Debian.gz"), log.as_bytes())?;
            }
            Kind::Rpm | Kind::Tarball => {
                for name in LICENCES {
                    stage.copy_into(doc, &house::root().join(name))?;
                }
            }
        }
        if kind == Kind::Tarball {
            stage.text(&format!("{doc}/INSTALL"), &install(binary))?;
        }
        stage.entries.sort_by(|one, other| one.to.cmp(&other.to));
        Ok(stage)
    }

    /// The units that are enabled: those that say what wants them. Of a template that has an instance by
    /// itself (`DefaultInstance=`), that.
    pub(super) fn enabled_units(&self) -> Result<Vec<Unit>> {
        let mut units = vec![];
        for entry in &self.entries {
            if let Some(name) = entry.to.strip_prefix("/usr/lib/systemd/system/") {
                units.extend(Unit::enabled(name, &fs::read_to_string(&entry.from)?));
            }
        }
        Ok(units)
    }

    /// The users and groups that the package makes, in this order.
    pub(super) fn accounts(&self) -> Result<(Vec<String>, Vec<String>)> {
        let file = self.entries.iter().find(|entry| entry.to == SYSUSERS);
        let file = file.context("the package makes no users")?;
        Ok(accounts(&fs::read_to_string(&file.from)?))
    }

    fn copy_into(&mut self, directory: &str, from: &Path) -> Result<()> {
        let name = from.file_name().context("no name")?.to_string_lossy();
        self.copy(&format!("{directory}/{name}"), from, 0o644)
    }

    fn copy(&mut self, to: &str, from: &Path, mode: u32) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.put(to, &content, mode)
    }

    /// A document, with references that work where it goes.
    fn document(&mut self, kind: Kind, to: &str, from: &Path) -> Result<()> {
        let text = fs::read_to_string(from);
        let text = text.with_context(|| format!("cannot read {}", from.display()))?;
        let text = documents::installed(&text, kind).with_context(|| from.display().to_string())?;
        self.text(to, &text)
    }

    fn text(&mut self, to: &str, text: &str) -> Result<()> {
        self.put(to, text.as_bytes(), 0o644)
    }

    /// The same text gives the same bytes: neither name nor time is in them.
    fn gzip(&mut self, to: &str, content: &[u8]) -> Result<()> {
        let mut gzip = Command::new("gzip");
        gzip.args(["-9", "--no-name", "--stdout"]);
        let packed = through(gzip, content)?;
        self.put(to, &packed, 0o644)
    }

    fn put(&mut self, to: &str, content: &[u8], mode: u32) -> Result<()> {
        let path = self.root.join(to.trim_start_matches('/'));
        let above = path.parent().context("no parent")?;
        fs::create_dir_all(above).with_context(|| format!("cannot make {}", above.display()))?;
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(self.time);
        File::options()
            .write(true)
            .open(&path)?
            .set_modified(time)?;
        self.entries.push(Entry {
            to: to.to_owned(),
            from: path,
            mode,
        });
        Ok(())
    }

    /// The pictures of the documents, where they look for them.
    fn pictures(&mut self) -> Result<()> {
        for (from, to) in FILES.iter().filter(|(from, _)| from.ends_with(".md")) {
            let (from, to) = (house::root().join(from), Path::new(to));
            let text = fs::read_to_string(&from)
                .with_context(|| format!("cannot read {}", from.display()))?;
            for file in shown_in(&text) {
                let picture = from.parent().context("no parent")?.join(file);
                let beside = to.parent().context("no parent")?.join(file);
                self.copy(&beside.to_string_lossy(), &picture, 0o644)?;
            }
        }
        Ok(())
    }

    /// The manual, as the program writes it.
    fn manuals(&mut self, program: &Path) -> Result<()> {
        let home = self.root.with_extension("man");
        let mut man = Command::new(program);
        Progress::quiet().run(man.args(["man", "--out"]).arg(&home))?;
        for section in entries_of(&home)? {
            let name = section.file_name().context("no name")?.to_string_lossy();
            for page in entries_of(&section)? {
                let page_name = page.file_name().context("no name")?.to_string_lossy();
                let to = format!("/usr/share/man/{name}/{page_name}.gz");
                self.gzip(&to, &fs::read(&page)?)?;
            }
        }
        Ok(fs::remove_dir_all(home)?)
    }

    /// Completions, where shells look for them.
    fn completions(&mut self, kind: Kind, program: &Path) -> Result<()> {
        let zsh = match kind {
            Kind::Deb => "/usr/share/zsh/vendor-completions/_capwarden",
            Kind::Rpm | Kind::Tarball => "/usr/share/zsh/site-functions/_capwarden",
        };
        for (shell, to) in [
            ("bash", "/usr/share/bash-completion/completions/capwarden"),
            (
                "fish",
                "/usr/share/fish/vendor_completions.d/capwarden.fish",
            ),
            ("zsh", zsh),
        ] {
            let mut completions = Command::new(program);
            completions.args(["completions", shell]);
            let words = through(completions, b"")?;
            self.put(to, &words, 0o644)?;
        }
        Ok(())
    }
}

/// What a tarball says of itself.
fn install(binary: &Binary) -> String {
    let (glibc, libraries) = (&binary.glibc, binary.libraries.join(", "));
    format!(
        "capwarden {VERSION} for Linux on x86-64\n\n\
         It needs Linux 5.14 or newer, glibc {glibc} or newer, and of libraries {libraries}: libpcap is in it.\n\n\
         As root, below this directory:\n\n\
         \x20 tar --create usr etc | tar --extract --no-same-owner --directory=/\n\
         \x20 systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload\n\
         \x20 capwarden doctor\n\
         \x20 systemctl enable --now capwarden.service\n\n\
         An etc/capwarden/agent.yaml that is there already is replaced: leave etc out then.\n"
    )
}

/// The files of a directory of the checkout.
fn files(directory: &str) -> Result<Vec<PathBuf>> {
    let mut files = entries_of(&house::root().join(directory))?;
    files.retain(|path| path.is_file());
    Ok(files)
}

/// What is in a directory, by name.
fn entries_of(directory: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read {}", directory.display());
    let mut paths = vec![];
    for entry in fs::read_dir(directory).with_context(cannot)? {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}

/// What a program makes of its standard input.
fn through(mut program: Command, input: &[u8]) -> Result<Vec<u8>> {
    let name = program.get_program().display().to_string();
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let done = child.wait_with_output()?;
    let written = writer.join().is_ok_and(|written| written.is_ok());
    if !done.status.success() || !written {
        bail!("{name}: {}", done.status);
    }
    Ok(done.stdout)
}

/// The users and groups of a file for systemd-sysusers.
fn accounts(sysusers: &str) -> (Vec<String>, Vec<String>) {
    let (mut users, mut groups) = (vec![], vec![]);
    for line in sysusers.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            // A user has a group of the same name, which goes with him.
            (Some("u" | "u!"), Some(name)) => users.push(name.to_owned()),
            (Some("g"), Some(name)) => groups.push(name.to_owned()),
            _ => {}
        }
    }
    (users, groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_read() {
        let text = "# who\ng capwarden -\nu! captures - \"Servers\" /\nu other 300\nm captures capwarden\n";
        let (users, groups) = accounts(text);
        assert_eq!(users, ["captures", "other"]);
        assert_eq!(groups, ["capwarden"]);
    }

    #[test]
    fn enabled_units_are_those_that_something_wants() {
        let enabled = |file, text| Unit::enabled(file, text).map(|unit| unit.name);
        let wanted = "[Unit]\n[Install]\nWantedBy=sockets.target\n";
        assert_eq!(enabled("a.socket", wanted).as_deref(), Some("a.socket"));
        assert_eq!(enabled("a.socket", "[Unit]\n"), None);
        assert_eq!(enabled("a@.socket", wanted), None);
        let text = format!("{wanted}DefaultInstance=b\n");
        let unit = Unit::enabled("a@.socket", &text);
        let (file, name) = ("a@.socket".to_owned(), "a@b.socket".to_owned());
        assert_eq!(unit, Some(Unit { file, name }));
    }

    #[test]
    fn configuration_and_documents_are_told_apart() {
        let entry = |to: &str| Entry {
            to: to.to_owned(),
            from: PathBuf::new(),
            mode: 0o644,
        };
        assert!(entry("/etc/capwarden/agent.yaml").is_configuration());
        assert!(entry("/usr/share/man/man8/capwarden.8.gz").is_document());
        let policy = entry("/usr/share/capwarden/policies/netmcp.yaml");
        assert!(!policy.is_document() && !policy.is_configuration());
    }
}
