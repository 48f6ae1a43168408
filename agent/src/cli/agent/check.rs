//! `capwarden agent --check`: whether what the configuration says can be used, without making or starting anything.
//!
//! What is looked at is the host as it is now, as the service would use it where packages have made one.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde_json::json;
use tokio::net::TcpSocket;

use super::{
    finding::{Findings, Subject, shown},
    load,
    prepare::{kind, reception, surroundings, usual_user},
    script,
};
use crate::{
    audit::{self, AuditError},
    cli::{
        counters::Counters,
        enforce::{self, found},
        exit::Exit,
        failure::Failure,
        paths, state,
        term::{self, Paint},
    },
    config::{Client, Config, HttpConfig, ServerConfig, USUAL_FILE, USUAL_GROUP, USUAL_SOCKET},
    engine::hello::{self, Hello, Offer},
    kernel::{
        self, AccessError, Credentials, Deputy, Way, enterable_by, executable_by, launcher_socket,
        readable_by,
    },
    store::{self, StateDirectory},
    telemetry::Endpoint,
    words::counted,
};

/// Where units' drop-ins are.
const DROP_INS: [&str; 3] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
];
/// What servers of the service have an own one of, or nothing.
const NOT_THE_HOSTS: [&str; 3] = ["/tmp", "/var/tmp", "/run"];
/// Where the service may write.
const WRITABLE: [&str; 2] = ["/var/log/capwarden", "/var/lib/capwarden/state"];
/// Ports below this take a capability that the service does not have.
const FIRST_FREE_PORT: u16 = 1024;

/// Checks a configuration, and says what is found.
pub(super) fn run(file: &Path, json: bool) -> Result<Exit, Failure> {
    let mut findings = Findings::default();
    let name = file.display().to_string();
    let config = match load(file) {
        Ok(config) => config,
        Err(failure) => {
            let exit = failure.exit();
            let all = Subject {
                server: None,
                key: "",
                at: None,
                file: &name,
            };
            findings.failure(all, failure);
            tell(file, None, &findings, json)?;
            return Ok(exit);
        }
    };
    let host = Host::look(file, &config);
    of_the_agent(&config, &host, &name, &mut findings);
    for (server, said) in &config.servers {
        Server {
            name: server,
            said,
            file: &name,
            host: &host,
        }
        .check(&mut findings);
    }
    twice_at_one_address(&config, &name, &mut findings);
    tell(file, Some(&config), &findings, json)?;
    Ok(match findings.is_sound(None) {
        true => Exit::Ok,
        false => Exit::Policy,
    })
}

fn tell(
    file: &Path,
    config: Option<&Config>,
    findings: &Findings,
    json: bool,
) -> Result<(), Failure> {
    let sound = findings.is_sound(None);
    let servers = config.iter().flat_map(|config| &config.servers);
    if json {
        let servers = servers.map(|(name, server)| {
            json!({
                "name": name,
                "command": server.command,
                "policy": server.policy,
                "clients": server.clients.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "usable": findings.is_sound(Some(name)),
            })
        });
        return term::print_visible_json(&json!({
            "file": file,
            "files": config.map(|config| &config.files),
            "usable": sound,
            "servers": servers.collect::<Vec<_>>(),
            "findings": findings.listed(),
        }));
    }
    eprint!("{}", findings.in_words(Paint::for_stderr()));
    term::print(|out| {
        let mut count = 0;
        for (name, server) in servers {
            count += 1;
            if findings.is_sound(Some(name)) {
                writeln!(out, "{}", in_words(name, server))?;
            }
        }
        match sound {
            true => {
                let file = file.display();
                writeln!(
                    out,
                    "{file}: {}, all can be served",
                    counted(count, "server")
                )
            }
            false => Ok(()),
        }
    })
}

/// One line of what is served.
fn in_words(name: &str, server: &ServerConfig) -> String {
    let command = match server.command.as_slice() {
        [] => "a server that runs already".to_owned(),
        words => words.join(" "),
    };
    let clients: Vec<String> = server.clients.iter().map(ToString::to_string).collect();
    let clients = match clients.as_slice() {
        [] => "root alone".to_owned(),
        clients => clients.join(", "),
    };
    let user = server.user.as_deref().unwrap_or(usual_user());
    format!(
        "{name}: {command}, as {user}, under {}, for {clients}",
        server.policy.display()
    )
}

/// What there is on this host.
struct Host {
    /// Where the launchers' sockets are, where servers are started by them.
    launchers: Option<PathBuf>,
    /// What an agent that runs serves already, at addresses of its own.
    served: Option<Vec<Offer>>,
    is_root: bool,
}

impl Host {
    fn look(file: &Path, config: &Config) -> Self {
        // Another file is for an agent that is started by hand.
        let way = match file == Path::new(USUAL_FILE) {
            true => Way::of_service(),
            false => Way::chosen(),
        };
        let launchers = match way {
            Way::Launchers(directory) => Some(directory),
            Way::Fork => None,
        };
        let socket = config.house.socket.as_deref();
        let hello = Hello {
            connect: None,
            servers: true,
        };
        let asked = hello::ask(socket.unwrap_or(Path::new(USUAL_SOCKET)), &hello);
        Self {
            launchers,
            served: asked.ok().and_then(|(_, answer)| answer.servers),
            is_root: rustix::process::geteuid().is_root(),
        }
    }

    fn is_service(&self) -> bool {
        self.launchers.is_some()
    }

    /// Whether an address is taken by an agent that runs, which lets go of it for the next one.
    fn is_served(&self, at: SocketAddr) -> bool {
        let its = format!("//{at}/");
        let mut offers = self.served.iter().flatten();
        offers.any(|offer| offer.http.as_ref().is_some_and(|http| http.contains(&its)))
    }
}

/// Whether a unit has a drop-in that says something of this.
fn unit_says(units: &[String], what: &str) -> bool {
    let files = units
        .iter()
        .flat_map(|unit| DROP_INS.map(|place| Path::new(place).join(format!("{unit}.d"))));
    files
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .any(|text| text.contains(what))
}

/// What all servers share.
fn of_the_agent(config: &Config, host: &Host, file: &str, findings: &mut Findings) {
    let house = &config.house;
    let of = |key| Subject {
        server: None,
        key,
        at: house.places.of_key(key),
        file,
    };
    audit_log(house.audit.as_deref(), of("audit"), host, findings);
    match state::place(house.state.as_deref()) {
        Err(failure) => findings.failure(of("state"), failure),
        Ok(place) => {
            let users = config.servers.values().filter_map(user_of);
            for user in users.map(Some).chain([None]) {
                if let Err(error) = StateDirectory::check(&place, user) {
                    if host.is_root || !is_denied(&error) {
                        findings.failure(of("state"), error.into());
                    }
                    break;
                }
            }
            writable(&place, of("state"), host, findings);
        }
    }
    let counters = Counters::of(house.counters.clone(), house.counters_password_file.clone());
    if let Err(failure) = counters.server() {
        findings.failure(of("counters_password_file"), failure);
    }
    match &house.metrics {
        Some(Endpoint::Loopback(address)) => {
            listens(*address, of("metrics"), host, findings);
        }
        Some(Endpoint::Unix(path)) => socket_at(path, of("metrics"), host, findings),
        None => {}
    }
    if let Some(path) = &house.socket {
        socket_at(path, of("socket"), host, findings);
    }
    let group = house.socket_group.as_deref().unwrap_or(USUAL_GROUP);
    if kernel::group_id(group).is_none() {
        findings.warning(
            of("socket_group"),
            format!(
                "there is no group {}: only root reaches the socket",
                shown(group)
            ),
            format!("sudo groupadd --system {}", shown(group)),
        );
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
fn twice_at_one_address(config: &Config, file: &str, findings: &mut Findings) {
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

/// One server.
struct Server<'a> {
    name: &'a str,
    said: &'a ServerConfig,
    file: &'a str,
    host: &'a Host,
}

impl Server<'_> {
    fn of<'s>(&'s self, key: &'s str) -> Subject<'s> {
        Subject {
            server: Some(self.name),
            key,
            at: Some(self.said.place(key)),
            file: self.file,
        }
    }

    fn check(&self, findings: &mut Findings) {
        let user = self.user(findings);
        self.policy(user.as_ref(), findings);
        if let Some(credentials) = &user
            && !self.said.command.is_empty()
        {
            let enters = self.directory(credentials, findings);
            if enters {
                self.program(credentials, findings);
            }
            self.script(credentials, findings);
            self.launcher(credentials, findings);
            self.reach(credentials, findings);
        }
        self.clients(findings);
        if let Some(http) = &self.said.http {
            self.http(http, findings);
        }
    }

    fn user(&self, findings: &mut Findings) -> Option<Credentials> {
        let user = self.said.user.as_deref().unwrap_or(usual_user());
        match Credentials::choose(Some(user)) {
            Ok(credentials) => Some(credentials.within(surroundings(self.said))),
            Err(error) => {
                let help = format!(
                    "make that user (sudo useradd --system {}), or give another one as `user`",
                    shown(user)
                );
                findings.error(self.of("user"), error, help);
                None
            }
        }
    }

    fn policy(&self, user: Option<&Credentials>, findings: &mut Findings) {
        let path = &self.said.policy;
        let loaded = enforce::policy_to_follow(path, self.said.replies, kind(self.said));
        if let Err(failure) = loaded {
            return findings.failure(self.of("policy"), failure);
        }
        if let Ok(Some(by)) = store::exposed(path, user.map(|user| user.user)) {
            findings.warning(
                self.of("policy"),
                format!("the server could change its policy, so it is not loaded again: {by}"),
                by.remedy(),
            );
        }
    }

    /// Whether it can be entered, or that is not known.
    fn directory(&self, credentials: &Credentials, findings: &mut Findings) -> bool {
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

    fn program(&self, credentials: &Credentials, findings: &mut Findings) {
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
    fn script(&self, credentials: &Credentials, findings: &mut Findings) {
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
    fn path(&self, credentials: &Credentials) -> String {
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
    fn units(&self) -> [String; 2] {
        let user = self.said.user.as_deref().unwrap_or(usual_user());
        [
            format!("capwarden-server@{}.service", shown(user)),
            "capwarden-server@.service".to_owned(),
        ]
    }

    fn launcher(&self, credentials: &Credentials, findings: &mut Findings) {
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

    fn reach(&self, credentials: &Credentials, findings: &mut Findings) {
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

    fn clients(&self, findings: &mut Findings) {
        if self.said.clients.is_empty() && self.said.http.is_none() {
            findings.warning(
                self.of("clients"),
                "nobody but root may connect: neither the server nor the configuration says `clients`",
                "clients: [group:capwarden], or user:NAME",
            );
        }
        for client in &self.said.clients {
            let (what, is_there) = match client {
                Client::User(name) => ("user", kernel::user_id(name).is_some()),
                Client::Group(name) => ("group", kernel::group_id(name).is_some()),
            };
            if !is_there {
                findings.warning(
                    self.of("clients"),
                    format!(
                        "{}: there is no such {what} now, so nobody comes in by it",
                        shown(client)
                    ),
                    format!(
                        "see: getent {}",
                        if what == "user" { "passwd" } else { "group" }
                    ),
                );
            }
        }
    }

    fn http(&self, http: &HttpConfig, findings: &mut Findings) {
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
