//! What a server is to reach: daemons that act for others, whose sockets it must find and may connect to.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use super::{
    super::finding::{Findings, shown},
    Server,
    host::unit_says,
};
use crate::kernel::{Credentials, Deputy};

impl Server<'_> {
    pub(super) fn reach(&self, credentials: &Credentials, findings: &mut Findings) {
        for deputy in &self.said.reach {
            let Some(socket) = deputy.usual_socket() else {
                continue;
            };
            let there = fs::metadata(socket);
            if there.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                findings.warning(
                    self.of("reach"),
                    format!("{}: nobody listens at {socket} on this host", deputy.name()),
                    "start that daemon, or leave it out",
                );
                continue;
            }
            if self.host.is_service() {
                self.reach_under_the_service(*deputy, socket, findings);
            }
            self.reach_by_group(*deputy, socket, credentials, findings);
        }
    }

    /// Servers of the service have the mounts of their launcher's unit.
    fn reach_under_the_service(&self, deputy: Deputy, socket: &str, findings: &mut Findings) {
        let units = self.units();
        let directory = Path::new(socket).parent().unwrap_or(Path::new("/"));
        let directory = directory.display().to_string();
        // The directory may be bound instead of the socket, but not all of /run.
        let says =
            unit_says(&units, socket) || (directory != "/run" && unit_says(&units, &directory));
        if !says {
            let [unit, _] = &units;
            findings.warning(
                self.of("reach"),
                format!(
                    "{}: servers of the service do not find {socket}",
                    deputy.name()
                ),
                format!(
                    "sudo systemctl edit {unit}: {}, below [Service]; then restart that unit",
                    deputy.drop_in()
                ),
            );
        }
    }

    /// The permissions of its socket still count.
    fn reach_by_group(
        &self,
        deputy: Deputy,
        socket: &str,
        credentials: &Credentials,
        findings: &mut Findings,
    ) {
        let Ok(about) = fs::metadata(socket) else {
            return;
        };
        let reaching = credentials.clone().reaching(&[deputy]);
        let groups = [&[reaching.group], reaching.groups.as_slice()].concat();
        let (mode, owner) = (about.mode(), about.uid());
        let may = owner == reaching.user && mode & 0o200 != 0
            || groups.contains(&about.gid()) && mode & 0o020 != 0
            || mode & 0o002 != 0;
        if !may {
            findings.warning(
                self.of("reach"),
                format!(
                    "{}: {} may not connect to {socket} (mode {:04o}, group {})",
                    deputy.name(),
                    shown(credentials.name()),
                    mode & 0o7777,
                    about.gid()
                ),
                "let that user connect, or leave it out",
            );
        }
    }
}
