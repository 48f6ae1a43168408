//! Capture tools that a server may start: whether its user may execute them. Debian lets only a group execute dumpcap,
//! once it was said that users may capture.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use super::{
    super::finding::{Findings, shown},
    Server,
    host::unit_says,
};
use crate::{
    cli::enforce::found,
    kernel::{self, AccessError, Credentials, executable_by},
    policy::Policy,
};

/// The programs that open capture sockets; tshark starts dumpcap.
const TOOLS: [&str; 2] = ["dumpcap", "tcpdump"];

impl Server<'_> {
    /// Which of them the server starts is not known. One that is there, but not for its user, is worth a word
    /// where the policy has it capture at all.
    pub(super) fn capture_tools(
        &self,
        policy: &Policy,
        credentials: &Credentials,
        findings: &mut Findings,
    ) {
        let summary = policy.summary();
        if summary.with("capture").next().is_none() {
            return;
        }
        let credentials = match self.host.is_service() {
            // Its groups are those that the unit has from /etc/group, unless a drop-in says others.
            true if unit_says(&self.units(), "SupplementaryGroups=") => return,
            true => credentials.clone().of_launcher(),
            false => credentials.clone(),
        };
        let path = self.path(&credentials);
        for tool in TOOLS {
            let Some(file) = found(tool, &path) else {
                continue;
            };
            let why = match executable_by(&credentials, &file) {
                Ok(()) | Err(AccessError::NotAsked) => continue,
                Err(why) => why,
            };
            let user = shown(credentials.name());
            findings.warning(
                self.of("user"),
                format!(
                    "{user} cannot execute {}: {why}; if the server captures by it, it gets nothing",
                    file.display()
                ),
                self.remedy(&credentials, &user, &file),
            );
        }
    }

    fn remedy(&self, credentials: &Credentials, user: &str, file: &Path) -> String {
        const BY_GROUP: u32 = 0o010;
        let group = fs::metadata(file).ok();
        let group = group.filter(|about| {
            let is_in = credentials.groups.contains(&about.gid());
            about.mode() & BY_GROUP != 0 && about.gid() != 0 && !is_in
        });
        let [unit, _] = self.units();
        match group {
            Some(group) if self.host.is_service() => format!(
                "sudo usermod -aG {} {user}; then restart {unit}, which ends what it has started",
                shown(kernel::group_name(group.gid()))
            ),
            // Without launchers, servers are in no group of their user's; who is in it is kept out by something else.
            _ => format!(
                "see with namei -l {}; {user} must be able to execute it, and to enter each directory above it",
                file.display()
            ),
        }
    }
}
