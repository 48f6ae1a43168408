//! `capwarden client-config`: what the usual MCP clients want in their configurations.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::{
    audit::visible,
    config::USUAL_SOCKET,
    engine::hello::{self, Hello, Offer},
};

use super::{
    connect::{self, AgentSocket},
    exit::Exit,
    failure::{Account, Failure},
    term,
};

/// The variable that clients take a grant's token from.
const TOKEN: &str = "CAPWARDEN_TOKEN";

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

/// An MCP client. What each wants is what its maker documents:
///
/// - Claude Desktop: <https://modelcontextprotocol.io/docs/develop/connect-local-servers>
/// - Claude Code: <https://code.claude.com/docs/en/mcp>
/// - Cursor: <https://cursor.com/docs/mcp>
/// - VS Code: <https://code.visualstudio.com/docs/copilot/reference/mcp-configuration>
/// - Zed: <https://zed.dev/docs/ai/mcp>
/// - Codex: <https://developers.openai.com/codex/mcp>
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Client {
    /// Claude's desktop app
    ClaudeDesktop,
    /// Claude in a terminal, or an editor
    ClaudeCode,
    /// The Cursor editor
    Cursor,
    /// Visual Studio Code
    Vscode,
    /// The Zed editor
    Zed,
    /// OpenAI's Codex
    Codex,
}

/// How a client reaches a server.
enum Way {
    /// It starts this.
    Command {
        program: String,
        arguments: Vec<String>,
    },
    /// It asks this address.
    Http(String),
}

/// What belongs into which file.
struct Snippet {
    file: &'static str,
    config: Text,
}

enum Text {
    Json(Value),
    Toml(String),
}

impl ClientConfig {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let hello = Hello {
            connect: None,
            servers: true,
        };
        let asked = hello::ask(&self.socket.path, &hello);
        let offers = match &asked {
            Ok((_, answer)) => answer.servers.clone(),
            Err(_) => None,
        };
        let Some(name) = &self.server else {
            let offers = match (asked, offers) {
                (Err(error), _) => return Err(connect::unreachable(&self.socket.path, &error)),
                (Ok((_, answer)), None) => {
                    let why = answer.error.unwrap_or_else(|| "it did not say".to_owned());
                    let account = Account::new("the agent does not say which servers there are");
                    return Err(Failure::Internal(account.because(why)));
                }
                (Ok(_), Some(offers)) => offers,
            };
            return self.list(&offers);
        };
        let offer = match &offers {
            None => {
                tracing::warn!(
                    "the agent at {} cannot be asked: whether it serves {} is not known",
                    self.socket.path.display(),
                    visible(name)
                );
                None
            }
            Some(offers) => Some(offers.iter().find(|offer| offer.name == *name).ok_or_else(
                || {
                    let names: Vec<&str> = offers.iter().map(|offer| offer.name.as_str()).collect();
                    let account = Account::new("there is for you no server").on(name);
                    Failure::NotThere(match names.as_slice() {
                        [] => account
                            .hint("`clients` in the agent's configuration says who may connect"),
                        names => account.hint(format!("there is: {}", names.join(", "))),
                    })
                },
            )?),
        };
        let way = self.way(name, offer)?;
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
                Failure::NotThere(match offer {
                    Some(_) => account
                        .because("the agent does not serve it over HTTP")
                        .hint("leave --http out, or give it `listen` in the agent's configuration"),
                    None => account.hint("see that the agent runs: systemctl status capwarden"),
                })
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

/// What a server is called in a client's configuration: several take nothing but letters, digits, - and _.
fn key(name: &str) -> String {
    let plain = |c: char| match c.is_ascii_alphanumeric() || c == '_' {
        true => c,
        false => '-',
    };
    let key: String = name.chars().map(plain).collect();
    match key.trim_matches('-') {
        "" => "capwarden".to_owned(),
        key => key.to_owned(),
    }
}

impl Client {
    fn snippet(self, key: &str, way: &Way) -> Result<Snippet, Failure> {
        let bearer = |token: String| json!({ "Authorization": format!("Bearer {token}") });
        let of_environment = format!("${{{TOKEN}}}");
        let plain = |way: &Way, token: String| match way {
            Way::Command { program, arguments } => json!({ "command": program, "args": arguments }),
            Way::Http(url) => json!({ "url": url, "headers": bearer(token) }),
        };
        let typed = |way: &Way, token: String| {
            let (kind, mut entry) = match way {
                Way::Command { .. } => ("stdio", plain(way, token)),
                Way::Http(_) => ("http", plain(way, token)),
            };
            if let Some(entry) = entry.as_object_mut() {
                entry.shift_insert(0, "type".to_owned(), kind.into());
            }
            entry
        };
        Ok(match self {
            Self::ClaudeDesktop => match way {
                Way::Command { .. } => Snippet {
                    file: "~/.config/Claude/claude_desktop_config.json (on macOS: ~/Library/Application Support/Claude/)",
                    config: Text::Json(json!({ "mcpServers": { key: plain(way, String::new()) } })),
                },
                Way::Http(_) => {
                    let account = Account::new(
                        "Claude's desktop app takes no servers over HTTP from its configuration",
                    );
                    return Err(Failure::Usage(account.hint("leave --http out")));
                }
            },
            Self::ClaudeCode => Snippet {
                file: ".mcp.json of the project (or `claude mcp add-json NAME JSON` with what stands under the name)",
                config: Text::Json(json!({ "mcpServers": { key: typed(way, of_environment) } })),
            },
            Self::Cursor => Snippet {
                file: "~/.cursor/mcp.json, or .cursor/mcp.json of the project",
                config: Text::Json(
                    json!({ "mcpServers": { key: plain(way, format!("${{env:{TOKEN}}}")) } }),
                ),
            },
            Self::Vscode => {
                let mut config = json!({ "servers": { key: typed(way, "${input:capwarden-token}".to_owned()) } });
                if let (Way::Http(_), Some(config)) = (way, config.as_object_mut()) {
                    let input = json!([{
                        "type": "promptString",
                        "id": "capwarden-token",
                        "description": "The token of a capwarden grant",
                        "password": true,
                    }]);
                    config.insert("inputs".to_owned(), input);
                }
                Snippet {
                    file: ".vscode/mcp.json of the workspace (or the command `MCP: Open User Configuration`)",
                    config: Text::Json(config),
                }
            }
            Self::Zed => Snippet {
                file: "~/.config/zed/settings.json",
                config: Text::Json(
                    json!({ "context_servers": { key: plain(way, "TOKEN".to_owned()) } }),
                ),
            },
            Self::Codex => Snippet {
                file: "~/.codex/config.toml",
                config: Text::Toml(toml(key, way)),
            },
        })
    }
}

/// Codex's table. What JSON writes of strings and lists of them is TOML, too.
fn toml(key: &str, way: &Way) -> String {
    let quoted = |value: Value| value.to_string();
    let lines = match way {
        Way::Command { program, arguments } => format!(
            "command = {}\nargs = {}\n",
            quoted(json!(program)),
            quoted(json!(arguments))
        ),
        Way::Http(url) => format!(
            "url = {}\nbearer_token_env_var = \"{TOKEN}\"\n",
            quoted(json!(url))
        ),
    };
    format!("[mcp_servers.{key}]\n{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(client: Client, way: &Way) -> String {
        match client.snippet("pcap", way).unwrap().config {
            Text::Json(value) => value.to_string(),
            Text::Toml(text) => text,
        }
    }

    #[test]
    fn each_client_gets_what_it_documents() {
        let command = Way::Command {
            program: "/usr/bin/capwarden".to_owned(),
            arguments: vec!["connect".to_owned(), "pcap".to_owned()],
        };
        let http = Way::Http("http://127.0.0.1:8808/mcp".to_owned());
        let started = r#""command":"/usr/bin/capwarden","args":["connect","pcap"]"#;
        for (client, way, text) in [
            (
                Client::ClaudeDesktop,
                &command,
                format!(r#"{{"mcpServers":{{"pcap":{{{started}}}}}}}"#),
            ),
            (
                Client::ClaudeCode,
                &command,
                format!(r#"{{"mcpServers":{{"pcap":{{"type":"stdio",{started}}}}}}}"#),
            ),
            (
                Client::ClaudeCode,
                &http,
                r#"{"mcpServers":{"pcap":{"type":"http","url":"http://127.0.0.1:8808/mcp","headers":{"Authorization":"Bearer ${CAPWARDEN_TOKEN}"}}}}"#.to_owned(),
            ),
            (
                Client::Cursor,
                &http,
                r#"{"mcpServers":{"pcap":{"url":"http://127.0.0.1:8808/mcp","headers":{"Authorization":"Bearer ${env:CAPWARDEN_TOKEN}"}}}}"#.to_owned(),
            ),
            (
                Client::Vscode,
                &command,
                format!(r#"{{"servers":{{"pcap":{{"type":"stdio",{started}}}}}}}"#),
            ),
            (
                Client::Zed,
                &command,
                format!(r#"{{"context_servers":{{"pcap":{{{started}}}}}}}"#),
            ),
            (
                Client::Codex,
                &command,
                "[mcp_servers.pcap]\ncommand = \"/usr/bin/capwarden\"\nargs = [\"connect\",\"pcap\"]\n".to_owned(),
            ),
            (
                Client::Codex,
                &http,
                "[mcp_servers.pcap]\nurl = \"http://127.0.0.1:8808/mcp\"\nbearer_token_env_var = \"CAPWARDEN_TOKEN\"\n".to_owned(),
            ),
        ] {
            assert_eq!(config(client, way), text, "{client:?}");
        }
        assert!(config(Client::Vscode, &http).contains(r#""inputs":[{"type":"promptString""#));
        assert!(Client::ClaudeDesktop.snippet("pcap", &http).is_err());
    }

    #[test]
    fn names_are_such_as_all_clients_take() {
        for (name, plain) in [
            ("sharkmcp", "sharkmcp"),
            ("@playwright/mcp", "playwright-mcp"),
            ("awslabs.pcap", "awslabs-pcap"),
            ("a b\"]\n[x", "a-b----x"),
            ("@", "capwarden"),
        ] {
            assert_eq!(key(name), plain);
        }
    }
}
