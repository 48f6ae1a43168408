//! Other gateways that stand between an MCP client and a server over standard input and output,
//! as `cargo xtask bench` installs them from their registry.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::Bench;

/// One of them.
pub(crate) struct Peer {
    /// As the table names it.
    pub(crate) name: &'static str,
    /// What it makes of the name of the tool `echo` of the server `echo`.
    pub(crate) tool: &'static str,
    /// Its program, in an environment of its own.
    program: &'static str,
    /// Its arguments for a server. It may write a file.
    arguments: fn(&Bench, &[&str]) -> Result<Vec<String>>,
}

/// All of them, with nothing switched on that they do not do by themselves.
pub(crate) const PEERS: [Peer; 3] = [
    Peer {
        name: "agentx-mcp",
        tool: "echo",
        program: "agentx/bin/agentx-mcp",
        arguments: |_, server| Ok(server.iter().map(|&word| word.to_owned()).collect()),
    },
    Peer {
        name: "mcp-gateway",
        tool: "echo_echo",
        program: "mcp-gateway/bin/mcp-gateway",
        arguments: |bench, server| {
            let config = json!({ "mcpServers": { "mcp-gateway": {
                "command": "", "args": [], "servers": { "echo": entry(server) },
            } } });
            let path = config_file(bench, "mcp-gateway.json", &config)?;
            Ok(vec!["--mcp-json-path".to_owned(), path])
        },
    },
    Peer {
        name: "fastmcp",
        tool: "echo",
        program: "fastmcp/bin/fastmcp",
        arguments: |bench, server| {
            let config = json!({ "mcpServers": { "echo": entry(server) } });
            let path = config_file(bench, "fastmcp.json", &config)?;
            let options = ["--no-banner", "--log-level", "ERROR"];
            let mut arguments = vec!["run".to_owned(), path];
            arguments.extend(options.map(str::to_owned));
            Ok(arguments)
        },
    },
];

impl Peer {
    /// The command that runs it in front of the server; none if it is not installed.
    pub(crate) fn command(&self, bench: &Bench, server: &[&str]) -> Result<Option<Command>> {
        let Some(program) = installed(self.program) else {
            return Ok(None);
        };
        let mut command = Command::new(program);
        command
            .args((self.arguments)(bench, server)?)
            // What they keep, they keep here; what they tell their makers, they do not tell.
            .env("HOME", bench.file(""))
            .env("AGENTX_TELEMETRY", "off")
            .stderr(fs::File::create(bench.file("peer-stderr"))?);
        Ok(Some(command))
    }
}

fn installed(program: &str) -> Option<PathBuf> {
    let program = Path::new(&env::var_os("CAPWARDEN_PEERS")?).join(program);
    program.exists().then_some(program)
}

fn entry(server: &[&str]) -> serde_json::Value {
    let (command, arguments) = server.split_first().unwrap_or((&"", &[]));
    json!({ "command": command, "args": arguments })
}

fn config_file(bench: &Bench, name: &str, config: &serde_json::Value) -> Result<String> {
    let path = bench.file(name);
    fs::write(&path, config.to_string())?;
    let path = path.to_str().context("the path is no text")?;
    Ok(path.to_owned())
}
