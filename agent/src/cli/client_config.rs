//! `capwarden client-config`: what the usual MCP clients want in their configurations. `clients` has what each wants.

mod clients;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::{
    audit::visible,
    config::USUAL_SOCKET,
    engine::hello::{self, Answer, Hello, Offer},
};

use self::clients::{Client, Snippet, TOKEN, Text, Way, key};
use super::{
    connect::{self, AgentSocket},
    exit::Exit,
    failure::{Account, Failure},
    term,
};

/// Print what an MCP client's configuration needs for a server of the agent's
///
/// The client then starts `capwarden connect NAME`, as its own user. What is printed goes to standard output
/// as it belongs into the file; which file that is, to standard error. Without a name: which servers
/// there are for you.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capwarden client-config\n  \
    capwarden client-config sharkmcp --for cursor\n  \
    capwarden client-config sharkmcp --for codex --http")]
pub(super) struct ClientConfig {
    /// The server, as the agent's configuration calls it
    #[arg(value_name = "NAME")]
    server: Option<String>,
    /// For this client
    #[arg(
        long = "for",
        value_name = "CLIENT",
        value_enum,
        default_value = "claude-desktop",
        requires = "server"
    )]
    client: Client,
    /// Have the client speak HTTP to it, where the agent serves it so
    ///
    /// With the token of a grant, which the client takes from the variable CAPWARDEN_TOKEN where it can.
    #[arg(long, requires = "server")]
    http: bool,
    /// Print it as JSON, with the name of the file
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: AgentSocket,
}

impl ClientConfig {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let offers = self.offers();
        let Some(name) = &self.server else {
            return self.list(&offers?);
        };
        let offer = match offers {
            Ok(offers) => Some(offer_of(name, offers)?),
            // Where it is over HTTP is for the agent to say.
            Err(failure) if self.http => return Err(failure),
            Err(failure) => {
                tracing::warn!(
                    "whether the agent serves {} to you is not known: {}",
                    visible(name),
                    failure.with_hint()
                );
                None
            }
        };
        let way = self.way(name, offer.as_ref())?;
        let snippet = self.client.snippet(&key(name), &way)?;
        if self.json {
            let (format, config) = match &snippet.config {
                Text::Json(value) => ("json", value.clone()),
                Text::Toml(text) => ("toml", Value::from(text.as_str())),
            };
            let client = self.client.to_possible_value();
            term::print_json(&json!({
                "client": client.as_ref().map(clap::builder::PossibleValue::get_name),
                "file": snippet.file,
                "format": format,
                "config": config,
            }))?;
            return Ok(Exit::Ok);
        }
        match &snippet.config {
            Text::Json(value) => term::print_json(value)?,
            Text::Toml(text) => term::print(|out| out.write_all(text.as_bytes()))?,
        }
        eprint!("{}", self.aside(&snippet));
        Ok(Exit::Ok)
    }

    /// The servers that there are for this user, or why that is not known.
    fn offers(&self) -> Result<Vec<Offer>, Failure> {
        let hello = Hello {
            connect: None,
            servers: true,
        };
        let asked = hello::ask(&self.socket.path, &hello);
        let (_, answer) = asked.map_err(|error| connect::unreachable(&self.socket.path, &error))?;
        let Answer {
            servers,
            error,
            instead,
            ..
        } = answer;
        servers.ok_or_else(|| {
            let account = Account::new("the agent does not say which servers there are");
            let account = account.because(error.unwrap_or_else(|| "it gave no reason".to_owned()));
            Failure::Internal(match instead {
                Some(instead) => account.hint(instead),
                None => account.hint("see its log: journalctl -u capwarden"),
            })
        })
    }

    /// What is said beside it.
    fn aside(&self, snippet: &Snippet) -> String {
        let mut text = format!("This belongs into {}.\n", snippet.file);
        if self.http {
            text += &format!(
                "A grant's token is needed: `sudo capwarden grant create NAME --server {}` prints one; it belongs into {TOKEN}, or where TOKEN stands.\n",
                self.server.as_deref().unwrap_or_default()
            );
        }
        text
    }

    fn way(&self, name: &str, offer: Option<&Offer>) -> Result<Way, Failure> {
        if self.http {
            let address = offer.and_then(|offer| offer.http.clone());
            return address.map(Way::Http).ok_or_else(|| {
                let account = Account::new("no address is known for").on(name);
                Failure::NotThere(
                    account
                        .because("the agent does not serve it over HTTP")
                        .hint("leave --http out, or give it `listen` in the agent's configuration"),
                )
            });
        }
        if offer.is_some_and(|offer| offer.http_only) {
            let account = Account::new("the agent serves it over HTTP alone:").on(name);
            return Err(Failure::NotThere(account.hint("add --http")));
        }
        let own = std::env::current_exe().map_err(|error| {
            Failure::Internal(Account::new("cannot find capwarden itself").because(error))
        })?;
        let mut arguments = vec!["connect".to_owned(), name.to_owned()];
        if self.socket.path.as_os_str() != USUAL_SOCKET {
            arguments.push("--socket".to_owned());
            arguments.push(self.socket.path.display().to_string());
        }
        Ok(Way::Command {
            program: own.display().to_string(),
            arguments,
        })
    }

    fn list(&self, offers: &[Offer]) -> Result<Exit, Failure> {
        if self.json {
            term::print_visible_json(&json!({ "servers": offers }))?;
            return Ok(Exit::Ok);
        }
        if offers.is_empty() {
            eprintln!(
                "There is no server for you: `clients` in the agent's configuration says who may connect."
            );
            return Ok(Exit::Ok);
        }
        let longest = offers.iter().map(|offer| offer.name.chars().count()).max();
        let width = longest.unwrap_or_default();
        term::print(|out| {
            for offer in offers {
                write!(
                    out,
                    "{:<width$}  {:<7}  ",
                    visible(&offer.name),
                    visible(&offer.state)
                )?;
                let count = u64::try_from(offer.clients).unwrap_or(u64::MAX);
                write!(out, "{}", crate::words::counted(count, "client"))?;
                for more in [&offer.http, &offer.why].into_iter().flatten() {
                    write!(out, ", {}", visible(more))?;
                }
                writeln!(out)?;
            }
            Ok(())
        })?;
        Ok(Exit::Ok)
    }
}

/// What is said of the server of this name.
fn offer_of(name: &str, offers: Vec<Offer>) -> Result<Offer, Failure> {
    let names: Vec<String> = offers.iter().map(|offer| offer.name.clone()).collect();
    let found = offers.into_iter().find(|offer| offer.name == name);
    found.ok_or_else(|| {
        let account = Account::new("there is for you no server").on(name);
        Failure::NotThere(match names.as_slice() {
            [] => account.hint("`clients` in the agent's configuration says who may connect"),
            names => account.hint(format!("there is: {}", names.join(", "))),
        })
    })
}
