//! What the agent keeps: its audit log, its state, and its counters.

use std::{io, path::Path};

use super::{
    super::{
        finding::{Findings, Subject},
        prepare::usual_user,
    },
    Agent,
    host::{Host, unit_says},
};
use crate::{
    audit::{self, AuditError},
    cli::{counters::Counters, paths, state},
    config::ServerConfig,
    kernel::Credentials,
    store::{self, StateDirectory},
};

/// Where the service may write.
const WRITABLE: [&str; 2] = ["/var/log/capwarden", "/var/lib/capwarden/state"];

impl Agent<'_> {
    pub(super) fn kept(&self, findings: &mut Findings) {
        let (house, host) = (&self.config.house, self.host);
        audit_log(house.audit.as_deref(), self.of("audit"), host, findings);
        match state::place(house.state.as_deref()) {
            Err(failure) => findings.failure(self.of("state"), failure),
            Ok(place) => {
                let users = self.config.servers.values().filter_map(user_of);
                for user in users.map(Some).chain([None]) {
                    if let Err(error) = StateDirectory::check(&place, user) {
                        if host.is_root || !is_denied(&error) {
                            findings.failure(self.of("state"), error.into());
                        }
                        break;
                    }
                }
                writable(&place, self.of("state"), host, findings);
            }
        }
        let counters = Counters::of(house.counters.clone(), house.counters_password_file.clone());
        if let Err(failure) = counters.server() {
            findings.failure(self.of("counters_password_file"), failure);
        }
    }
}

fn is_denied(error: &store::StoreError) -> bool {
    matches!(error, store::StoreError::Directory { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
}

/// As whom a server runs, if it is started and there is such a user.
fn user_of(server: &ServerConfig) -> Option<u32> {
    let user = server.user.as_deref().unwrap_or(usual_user());
    let credentials = Credentials::choose(Some(user)).ok()?;
    (!server.command.is_empty()).then_some(credentials.user)
}

fn audit_log(named: Option<&Path>, of: Subject<'_>, host: &Host, findings: &mut Findings) {
    let place = match named {
        Some(named) => named.to_owned(),
        // Who is not root has a log of their own, which is not the agent's.
        None if !host.is_root => return,
        None => match paths::default_audit() {
            Ok(place) => place,
            Err(failure) => return findings.failure(of, failure),
        },
    };
    let above = place.parent().unwrap_or(Path::new("/"));
    if named.is_some() && !above.is_dir() {
        return findings.error(
            of,
            format!("there is no directory {}", above.display()),
            format!(
                "make it, with mode 0750: sudo mkdir -m 0750 {}",
                above.display()
            ),
        );
    }
    match audit::check_file(&place) {
        Ok(()) => {}
        Err(error) if !host.is_root && matches!(error, AuditError::Open { .. }) => {}
        Err(error) => return findings.failure(of, error.into()),
    }
    if let Ok(Some(by)) = store::exposed(above, None) {
        findings.warning(
            of,
            format!("the audit log could be replaced by others: {by}"),
            by.remedy(),
        );
    }
    writable(&place, of, host, findings);
}

/// The service may write to its own places only.
fn writable(place: &Path, of: Subject<'_>, host: &Host, findings: &mut Findings) {
    let own = WRITABLE.iter().any(|its| place.starts_with(its));
    let above = place.parent().unwrap_or(place).display().to_string();
    let units = ["capwarden.service".to_owned()];
    if host.is_service() && !own && !unit_says(&units, &above) {
        findings.warning(
            of,
            format!("the service may not write to {}", place.display()),
            format!("sudo systemctl edit capwarden: ReadWritePaths={above}, below [Service]"),
        );
    }
}
