//! What each MCP client wants in its configuration: all that is known of one is here.

use clap::ValueEnum;
use serde_json::{Value, json};

use super::super::failure::{Account, Failure};

/// The variable that clients take a grant's token from.
pub(super) const TOKEN: &str = "CAPWARDEN_TOKEN";

/// An MCP client. What each wants is what its maker documents:
///
/// - Claude Desktop: <https://modelcontextprotocol.io/docs/develop/connect-local-servers>
/// - Claude Code: <https://code.claude.com/docs/en/mcp>
/// - Cursor: <https://cursor.com/docs/mcp>
/// - VS Code: <https://code.visualstudio.com/docs/copilot/reference/mcp-configuration>
/// - Zed: <https://zed.dev/docs/ai/mcp>
/// - Codex: <https://developers.openai.com/codex/mcp>
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Client {
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
pub(super) enum Way {
    /// It starts this.
    Command {
        program: String,
        arguments: Vec<String>,
    },
    /// It asks this address.
    Http(String),
}

/// What belongs into which file.
pub(super) struct Snippet {
    /// Which, as people say it.
    pub(super) file: &'static str,
    pub(super) config: Text,
}

pub(super) enum Text {
    Json(Value),
    Toml(String),
}

/// What a server is called in a client's configuration: several take nothing but letters, digits, - and _.
pub(super) fn key(name: &str) -> String {
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
    /// What belongs into its configuration for a server, which is called so there.
    pub(super) fn snippet(self, key: &str, way: &Way) -> Result<Snippet, Failure> {
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
