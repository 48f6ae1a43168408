//! Where the agent and its servers listen: addresses, sockets, and the certificates that are shown there.

use std::{io, net::SocketAddr, path::Path};

use tokio::net::TcpSocket;

use super::{
    super::{
        finding::{Findings, Subject, shown},
        prepare::reception,
    },
    Agent, Server,
    host::{Host, unit_says},
};
use crate::{
    cli::enforce,
    config::{Config, HttpConfig, USUAL_GROUP, USUAL_SOCKET},
    kernel, store,
    telemetry::Endpoint,
};

/// Ports below this take a capability that the service does not have.
const FIRST_FREE_PORT: u16 = 1024;

impl Agent<'_> {
    pub(super) fn listens(&self, findings: &mut Findings) {
        let (house, host) = (&self.config.house, self.host);
        match &house.metrics {
            Some(Endpoint::Loopback(address)) => {
                listens(*address, self.of("metrics"), host, findings);
            }
            Some(Endpoint::Unix(path)) => socket_at(path, self.of("metrics"), host, findings),
            None => {}
        }
        if let Some(path) = &house.socket {
            socket_at(path, self.of("socket"), host, findings);
        }
        let group = house.socket_group.as_deref().unwrap_or(USUAL_GROUP);
        if kernel::group_id(group).is_none() {
            findings.warning(
                self.of("socket_group"),
                format!(
                    "there is no group {}: only root reaches the socket",
                    shown(group)
                ),
                format!("sudo groupadd --system {}", shown(group)),
            );
        }
    }
}

/// A socket of the agent's own, in a directory that is safe.
fn socket_at(path: &Path, of: Subject<'_>, host: &Host, findings: &mut Findings) {
    let above = path.parent().unwrap_or(Path::new("/"));
    match store::exposed(above, None) {
        // It is made where it is the usual one.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if path != Path::new(USUAL_SOCKET) {
                findings.error(
                    of,
                    format!("there is no directory {}", above.display()),
                    "make it, which nobody but root may be able to change",
                );
            }
        }
        Err(error) if !host.is_root && error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => findings.error(of, format!("{}: {error}", above.display()), "see ls -ld"),
        Ok(Some(by)) => findings.error(
            of,
            format!("others could put a socket of theirs there: {by}"),
            by.remedy(),
        ),
        Ok(None) => {
            let own = ["/run/capwarden"].iter().any(|its| path.starts_with(its));
            let units = ["capwarden.service".to_owned()];
            let above = above.display().to_string();
            if host.is_service() && !own && !unit_says(&units, &above) {
                findings.warning(
                    of,
                    format!("the service may not make sockets in {above}"),
                    format!(
                        "sudo systemctl edit capwarden: ReadWritePaths={above}, below [Service]"
                    ),
                );
            }
        }
    }
}

/// Whether an address can be listened at.
fn listens(at: SocketAddr, of: Subject<'_>, host: &Host, findings: &mut Findings) {
    if at.port() == 0 {
        return;
    }
    let low = at.port() < FIRST_FREE_PORT;
    let units = ["capwarden.service".to_owned()];
    if low && host.is_service() && !unit_says(&units, "CAP_NET_BIND_SERVICE") {
        findings.error(
            of,
            format!("the service may not listen at a port below {FIRST_FREE_PORT}"),
            "choose another port, or sudo systemctl edit capwarden: \
             CapabilityBoundingSet=CAP_NET_BIND_SERVICE, below [Service]",
        );
    }
    if !at.ip().is_loopback() && host.is_service() && !unit_says(&units, "IPAddressAllow=") {
        findings.warning(
            of,
            format!("the service hears nobody from beyond this host at {at}"),
            "sudo systemctl edit capwarden: IPAddressAllow= with the addresses that may come, below [Service]",
        );
    }
    match may_bind(at) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !host.is_root => {}
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && host.is_served(at) => {}
        Err(error) => {
            let help = enforce::not_listening(&at.to_string(), error.kind());
            let what = format!("cannot listen on {at}: {error}");
            // Metrics of an agent that runs, or what who is not root may not ask it.
            match error.kind() == io::ErrorKind::AddrInUse
                && (of.key == "metrics" && host.served.is_some() || !host.is_root)
            {
                true => findings.warning(of, what, format!("{help}; or it is the agent's own")),
                false => findings.error(of, what, help),
            }
        }
    }
}

/// Whether an address is free, or why not. Somebody who listens there is in the way; this is in nobody's, since it does
/// not listen, and lets others bind meanwhile.
fn may_bind(at: SocketAddr) -> io::Result<()> {
    let socket = match at {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(at)
}

/// Servers that would listen at one address.
pub(super) fn twice_at_one_address(config: &Config, file: &str, findings: &mut Findings) {
    let mut taken: Vec<(SocketAddr, &str)> = Vec::new();
    for (name, server) in &config.servers {
        let Some(HttpConfig { listen, .. }) = &server.http else {
            continue;
        };
        let other = taken.iter().find(|(at, _)| at == listen && at.port() != 0);
        if let Some((_, other)) = other {
            let of = Subject {
                server: Some(name),
                key: "listen",
                at: Some(server.place("listen")),
                file,
            };
            let what = format!(
                "{listen} is where the server {} listens already",
                shown(other)
            );
            findings.error(of, what, "give each its own port");
        }
        taken.push((*listen, name));
    }
}

impl Server<'_> {
    pub(super) fn http(&self, http: &HttpConfig, findings: &mut Findings) {
        match reception(http) {
            Err(failure) => findings.failure(self.of("listen"), failure),
            Ok(reception) => {
                if let Err(failure) = reception.tls() {
                    findings.failure(self.of("tls"), failure);
                }
                if let Some(upstream) = &http.upstream
                    && let Err(failure) = reception.authorities(upstream.is_tls())
                {
                    findings.failure(self.of("upstream_ca"), failure);
                }
            }
        }
        listens(http.listen, self.of("listen"), self.host, findings);
    }
}
