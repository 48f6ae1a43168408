//! What is started: the program, the directory that it is in, and who starts it as its user.

use std::{io, path::Path};

use super::{
    super::{
        finding::{Findings, shown},
        prepare::usual_user,
        script,
    },
    Server,
    host::unit_says,
};
use crate::{
    cli::enforce::found,
    kernel::{AccessError, Credentials, enterable_by, executable_by, launcher_socket, readable_by},
};

/// What servers of the service have an own one of, or nothing.
const NOT_THE_HOSTS: [&str; 3] = ["/tmp", "/var/tmp", "/run"];

impl Server<'_> {
    /// Whether it can be entered, or that is not known.
    pub(super) fn directory(&self, credentials: &Credentials, findings: &mut Findings) -> bool {
        let Some(directory) = &self.said.directory else {
            return true;
        };
        let at = directory.display();
        match enterable_by(credentials, directory) {
            Ok(()) => {
                self.hidden(directory, "directory", findings);
                true
            }
            Err(AccessError::NotAsked) => true,
            Err(why) => {
                let user = shown(credentials.name());
                findings.error(
                    self.of("directory"),
                    format!("{user} cannot enter {at}: {why}"),
                    format!("make it, or let {user} into it and each directory above it: sudo -u {user} ls {at}"),
                );
                false
            }
        }
    }

    pub(super) fn program(&self, credentials: &Credentials, findings: &mut Findings) {
        let Some(program) = self.said.command.first() else {
            return;
        };
        let user = shown(credentials.name());
        let path = self.path(credentials);
        let file = match program.contains('/') {
            true => {
                let directory = self.said.directory.as_deref();
                directory.unwrap_or(Path::new("/")).join(program)
            }
            false => match found(program, &path) {
                Some(file) => file,
                None => {
                    return findings.error(
                        self.of("command"),
                        format!(
                            "{} is in no directory of the server's PATH, which is {path}",
                            shown(program)
                        ),
                        "give its full path, or set PATH in `environment`",
                    );
                }
            },
        };
        match executable_by(credentials, &file) {
            Ok(()) => self.hidden(&file, "command", findings),
            Err(AccessError::NotAsked) => findings.warning(
                self.of("command"),
                format!("whether {user} may execute {} is not known", file.display()),
                "sudo capwarden agent --check looks at that, too",
            ),
            Err(why) if why.is_missing() => findings.error(
                self.of("command"),
                format!("{} is not there: {why}", file.display()),
                "install it, or write in `command` where it is",
            ),
            Err(why) => findings.error(
                self.of("command"),
                format!("{user} cannot execute {}: {why}", file.display()),
                format!(
                    "see with namei -l {0}; {user} must be able to execute it, and to enter each directory above it",
                    file.display()
                ),
            ),
        }
    }

    /// What an interpreter is given to run: without it, it starts and ends at once.
    pub(super) fn script(&self, credentials: &Credentials, findings: &mut Findings) {
        let Some(script) = script::of(&self.said.command) else {
            return;
        };
        let (user, at) = (shown(credentials.name()), script.display());
        match readable_by(credentials, script) {
            Ok(()) => self.hidden(script, "command", findings),
            Err(AccessError::NotAsked) => {}
            Err(why) if why.is_missing() => findings.warning(
                self.of("command"),
                format!("{at} is not there: {why}"),
                "install it, or write in `command` where it is",
            ),
            Err(why) => findings.warning(
                self.of("command"),
                format!("{user} cannot read {at}: {why}"),
                format!("see with namei -l {at}; {user} must be able to read it, and to enter each directory above it"),
            ),
        }
    }

    /// The PATH that the server has.
    pub(super) fn path(&self, credentials: &Credentials) -> String {
        let said = credentials.surroundings.environment.iter().flatten();
        let mut path = said.filter(|(name, _)| name == "PATH");
        path.next()
            .map(|(_, path)| path.clone())
            .unwrap_or_default()
    }

    /// Whether something is where servers of the service have another directory, or none.
    fn hidden(&self, path: &Path, key: &'static str, findings: &mut Findings) {
        let place = NOT_THE_HOSTS.iter().find(|place| path.starts_with(place));
        let units = self.units();
        if let Some(place) = place
            && self.host.is_service()
            && !unit_says(&units, &path.display().to_string())
        {
            findings.warning(
                self.of(key),
                format!("{}: servers of the service have another {place} than the host", path.display()),
                format!(
                    "put it elsewhere, or sudo systemctl edit {}: BindReadOnlyPaths={}, below [Service]",
                    units.first().map_or("", String::as_str),
                    path.display()
                ),
            );
        }
    }

    /// The unit of its launcher, and the template of that.
    pub(super) fn units(&self) -> [String; 2] {
        let user = self.said.user.as_deref().unwrap_or(usual_user());
        [
            format!("capwarden-server@{}.service", shown(user)),
            "capwarden-server@.service".to_owned(),
        ]
    }

    pub(super) fn launcher(&self, credentials: &Credentials, findings: &mut Findings) {
        let Some(directory) = &self.host.launchers else {
            return;
        };
        if let Err((at, error)) = launcher_socket(directory, credentials) {
            if error.kind() == io::ErrorKind::PermissionDenied && !self.host.is_root {
                return;
            }
            let user = shown(credentials.name());
            findings.error(
                self.of("user"),
                format!(
                    "nobody starts servers as {user} here ({}: {error})",
                    at.display()
                ),
                format!("sudo systemctl enable --now capwarden-server@{user}.socket"),
            );
        }
    }
}
