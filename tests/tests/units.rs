//! What the service manager is told of capwarden: its units are understood, they confine as far as
//! they promise, and the users and directories that they rely on are made.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, bail, ensure};
use capwarden_tests::agent::{capwarden, skip};
use tempfile::TempDir;

const PACKAGING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/packaging");
/// Where the package puts the program.
const INSTALLED: &str = "/usr/bin/capwarden";

/// The most exposure of each service, as `systemd-analyze security` counts it, from 0 to 10.
const EXPOSURE: [(&str, f64); 3] = [
    ("capwarden.service", 4.0),
    ("capwarden-server@.service", 2.0),
    ("capwarden-cgroup.service", 2.0),
];

#[test]
fn units_are_understood_by_the_service_manager() -> Result<()> {
    let Some(units) = Units::here("units_are_understood")? else {
        return Ok(());
    };
    let all = units.instances()?;
    ensure!(all.len() >= EXPOSURE.len() + 2, "{all:?}");
    let verified = units.verify(&all)?;
    ensure!(verified.is_empty(), "{verified}");

    // What is not understood is told.
    let unit = units.directory().join("capwarden.service");
    let text = fs::read_to_string(&unit)?.replace("ProtectSystem=", "ProtectSystems=");
    fs::write(&unit, text)?;
    let verified = units.verify(&all)?;
    ensure!(verified.contains("ProtectSystems"), "{verified}");
    Ok(())
}

#[test]
fn units_expose_no_more_than_they_promise() -> Result<()> {
    let Some(units) = Units::here("units_expose_no_more")? else {
        return Ok(());
    };
    let services = units.names()?.into_iter().filter(|name| is_service(name));
    let promised = EXPOSURE.map(|(name, _)| name.to_owned());
    ensure!(services.eq(sorted(promised)), "a service without a promise");
    for (name, most) in EXPOSURE {
        let exposure = units.exposure(name)?;
        ensure!(exposure <= most, "{name}: {exposure}, not {most}");
    }
    // It is the directives that this counts.
    let unit = units.directory().join("capwarden.service");
    let text = fs::read_to_string(&unit)?;
    let bare = text.lines().filter(|line| !line.starts_with("Protect"));
    fs::write(&unit, bare.collect::<Vec<_>>().join("\n"))?;
    ensure!(units.exposure("capwarden.service")? > 4.0);
    Ok(())
}

/// What the units name is there once `systemd-sysusers` and `systemd-tmpfiles` have run.
#[test]
fn users_and_directories_of_the_units_are_made() -> Result<()> {
    let root = tempfile::tempdir()?;
    fs::create_dir(root.path().join("etc"))?;
    let made = [
        ("systemd-sysusers", "sysusers.d", None),
        ("systemd-tmpfiles", "tmpfiles.d", Some("--create")),
    ];
    for (program, directory, how) in made {
        let place = root.path().join("usr/lib").join(directory);
        fs::create_dir_all(&place)?;
        let file = Path::new(directory).join("capwarden.conf");
        fs::copy(
            Path::new(PACKAGING).join(file),
            place.join("capwarden.conf"),
        )?;
        let mut command = Command::new(program);
        command.arg(format!("--root={}", root.path().display()));
        command.args(how);
        let Some(output) = run("users_and_directories", &mut command)? else {
            return Ok(());
        };
        ensure!(output.status.success(), "{}", told(&output));
    }
    let read = |file: &str| fs::read_to_string(root.path().join("etc").join(file));
    let (users, groups) = (read("passwd")?, read("group")?);
    let has = |table: &str, name: &str| {
        table
            .lines()
            .any(|line| line.split(':').next() == Some(name))
    };
    let units = Units::copied()?;
    for name in units.names()? {
        let text = fs::read_to_string(units.directory().join(&name))?;
        for group in values(&text, "SocketGroup=") {
            ensure!(has(&groups, group), "{name}: there is no group {group}");
        }
        for user in values(&text, "DefaultInstance=") {
            ensure!(has(&users, user), "{name}: there is no user {user}");
        }
        let places = ["ListenStream=", "ListenSequentialPacket="];
        for place in places.iter().flat_map(|key| values(&text, key)) {
            let directory = Path::new(place).parent().context("no directory")?;
            let directory = root.path().join(directory.strip_prefix("/")?);
            ensure!(
                directory.is_dir(),
                "{name}: nothing makes {}",
                directory.display()
            );
        }
    }
    Ok(())
}

/// The units, copied to where the program is found that is under test.
struct Units(TempDir);

impl Units {
    /// None where there is no service manager to ask about them.
    fn here(test: &str) -> Result<Option<Self>> {
        let asked = run(test, Command::new("systemd-analyze").arg("--version"))?;
        asked.map(|_| Self::copied()).transpose()
    }

    fn copied() -> Result<Self> {
        let place = tempfile::tempdir()?;
        let program = capwarden()?;
        let program = program.to_str().context("a path that is no text")?;
        for entry in fs::read_dir(Path::new(PACKAGING).join("systemd"))? {
            let entry = entry?;
            let text = fs::read_to_string(entry.path())?;
            fs::write(
                place.path().join(entry.file_name()),
                text.replace(INSTALLED, program),
            )?;
        }
        Ok(Self(place))
    }

    fn directory(&self) -> &Path {
        self.0.path()
    }

    fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.directory())? {
            let name = entry?.file_name();
            names.push(name.to_str().context("a name that is no text")?.to_owned());
        }
        Ok(sorted(names))
    }

    /// All of them; of each template, one for a user.
    fn instances(&self) -> Result<Vec<PathBuf>> {
        let names = self.names()?.into_iter();
        Ok(names
            .map(|name| self.directory().join(name.replace("@.", "@root.")))
            .collect())
    }

    /// What is told of units that are not as they should be.
    fn verify(&self, units: &[PathBuf]) -> Result<String> {
        let mut command = Command::new("systemd-analyze");
        // The manual's pages are not installed yet.
        command.args(["verify", "--man=no"]).args(units);
        Ok(told(&command.output()?))
    }

    fn exposure(&self, name: &str) -> Result<f64> {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=yes", "--no-pager"])
            .arg(self.directory().join(name))
            .output()?;
        let text = told(&output);
        let Some((_, found)) = text.rsplit_once("Overall exposure level for ") else {
            bail!("{name}: {text}");
        };
        let number = found.split_whitespace().nth(1);
        number.context("no number")?.parse().context("no number")
    }
}

fn is_service(name: &str) -> bool {
    Path::new(name)
        .extension()
        .is_some_and(|kind| kind == "service")
}

fn sorted<T: Ord>(names: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort_unstable();
    names
}

/// The values of a key.
fn values<'a>(text: &'a str, key: &str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| line.strip_prefix(key))
}

fn told(output: &Output) -> String {
    let both = [&*output.stdout, &*output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// None, and a skipped test, where there is no such program.
fn run(test: &str, command: &mut Command) -> Result<Option<Output>> {
    match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let program = command.get_program().to_string_lossy();
            skip(test, &format!("{program} is not installed"))?;
            Ok(None)
        }
        ran => Ok(Some(ran?)),
    }
}
