//! `capwarden agent --check`: whether what the configuration says can be used, without making or starting anything.
//!
//! What is looked at is the host as it is now, as the service would use it where packages have made one.

mod capture_tools;
mod host;
mod listen;
mod program;
mod reach;
mod state;

use std::path::Path;

use serde_json::json;

use self::host::Host;
use super::{
    finding::{Findings, Subject, shown},
    load,
    prepare::{kind, surroundings, usual_user},
};
use crate::{
    cli::{
        enforce,
        exit::Exit,
        failure::Failure,
        term::{self, Paint},
    },
    config::{Client, Config, ServerConfig},
    kernel::{self, Credentials},
    policy::Policy,
    store,
    words::counted,
};

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
    Agent {
        config: &config,
        file: &name,
        host: &host,
    }
    .check(&mut findings);
    for (server, said) in &config.servers {
        Server {
            name: server,
            said,
            file: &name,
            host: &host,
        }
        .check(&mut findings);
    }
    listen::twice_at_one_address(&config, &name, &mut findings);
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

/// What all servers share.
struct Agent<'a> {
    config: &'a Config,
    file: &'a str,
    host: &'a Host,
}

impl<'a> Agent<'a> {
    fn of(&self, key: &'a str) -> Subject<'a> {
        Subject {
            server: None,
            key,
            at: self.config.house.places.of_key(key),
            file: self.file,
        }
    }

    fn check(&self, findings: &mut Findings) {
        self.kept(findings);
        self.listens(findings);
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
        let policy = self.policy(user.as_ref(), findings);
        if let Some(credentials) = &user
            && !self.said.command.is_empty()
        {
            let enters = self.directory(credentials, findings);
            if enters {
                self.program(credentials, findings);
            }
            self.script(credentials, findings);
            if let Some(policy) = &policy {
                self.capture_tools(policy, credentials, findings);
            }
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

    fn policy(&self, user: Option<&Credentials>, findings: &mut Findings) -> Option<Policy> {
        let path = &self.said.policy;
        let loaded = enforce::policy_to_follow(path, self.said.replies, kind(self.said));
        let policy = match loaded {
            Ok((policy, _)) => policy,
            Err(failure) => {
                findings.failure(self.of("policy"), failure);
                return None;
            }
        };
        if let Ok(Some(by)) = store::exposed(path, user.map(|user| user.user)) {
            findings.warning(
                self.of("policy"),
                format!("the server could change its policy, so it is not loaded again: {by}"),
                by.remedy(),
            );
        }
        Some(policy)
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
}
