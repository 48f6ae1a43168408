//! `capwarden tools`: what servers say of their tools, and what of it is accepted.

mod diff;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    audit::{DefinitionRecord, Log, Record, Text, visible},
    definitions::{AcceptError, Pin, Pins, ServerPins, Standing},
    words::counted,
};

use super::{
    exit::Exit,
    failure::{Account, Failure},
    paths,
    state::{self, State},
    term::{self, Paint},
};

/// List servers' tools, and accept how they are defined
///
/// Where a policy says `definitions: pinned`, or `capwarden run` has --pin, a tool whose name, title,
/// description, schemas or annotations are not as they were accepted is held back: it is not listed, and
/// calls of it are denied. The same holds for a tool that was not there before.
///
/// Without a command: `list`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  capwarden tools list\n  capwarden tools diff pcap start_capture\n  capwarden tools accept pcap start_capture"
)]
pub(super) struct Tools {
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// List servers' tools, and which of them are held back
///
/// The exit status is 0, also if tools are held back; 1 if there is no such server.
#[derive(Debug, Default, Args)]
struct List {
    /// Of this server only
    #[arg(value_name = "SERVER")]
    server: Option<String>,
    /// Print the list as JSON, definitions included
    ///
    /// `policy explain --tools` and `policy test --tools` take it, too.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: State,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(List),
    Diff(diff::Diff),
    Accept(Accept),
    Forget(Forget),
}

/// Accept how tools are defined that are held back
///
/// Servers that run behind capwarden are shown with them from the next second on. What is accepted is the
/// definition that the server listed last; with --sha256, only if that is the one which was looked at.
#[derive(Debug, Args)]
struct Accept {
    /// The server, as `capwarden tools list` shows it
    #[arg(value_name = "SERVER")]
    server: String,
    /// The tools
    #[arg(value_name = "TOOL", required_unless_present = "all")]
    tools: Vec<String>,
    /// All that are held back
    #[arg(long, conflicts_with_all = ["tools", "sha256"])]
    all: bool,
    /// Only what has this SHA-256, or one that begins so, as `capwarden tools diff` prints it
    #[arg(long, value_name = "HASH", value_parser = digest)]
    sha256: Option<String>,
    #[command(flatten)]
    state: State,
}

/// Forget what was accepted
///
/// A tool that is forgotten is held back as a new one when it is listed again. A server that is forgotten as a
/// whole is as one that was never there: with `definitions: pinned`, its next list is accepted.
#[derive(Debug, Args)]
struct Forget {
    /// The server, as `capwarden tools list` shows it
    #[arg(value_name = "SERVER")]
    server: String,
    /// The tools
    #[arg(value_name = "TOOL", required_unless_present = "all")]
    tools: Vec<String>,
    /// The server as a whole
    #[arg(long, conflicts_with = "tools")]
    all: bool,
    /// Record it in this audit log
    ///
    /// Without it: /var/log/capwarden/audit.jsonl for root, otherwise
    /// $XDG_STATE_HOME/capwarden/audit.jsonl. If the log cannot be written, nothing is forgotten.
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    #[command(flatten)]
    state: State,
}

fn digest(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    let whole = (8..=64).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_hexdigit());
    whole
        .then_some(text)
        .ok_or_else(|| "write 8 to 64 hexadecimal digits".to_owned())
}

impl Tools {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        match self.verb {
            Some(Verb::List(list)) => list.run(),
            Some(Verb::Diff(diff)) => diff.run(),
            Some(Verb::Accept(accept)) => accept.run(),
            Some(Verb::Forget(forget)) => forget.run(),
            None => List::default().run(),
        }
    }
}

/// What is known of servers' tools.
fn servers(state: &State) -> Result<BTreeMap<String, ServerPins>, Failure> {
    Ok(match state.look()? {
        Some(directory) => Pins::open(&directory)?.servers()?,
        None => BTreeMap::new(),
    })
}

impl List {
    fn run(self) -> Result<Exit, Failure> {
        let mut servers = servers(&self.state)?;
        if let Some(wanted) = &self.server {
            servers.retain(|server, _| server == wanted);
            if servers.is_empty() {
                return Err(refused(AcceptError::Server(wanted.clone())));
            }
        }
        if self.json {
            let list = servers.iter().flat_map(|(server, known)| {
                let tools = known.tools.iter();
                tools.map(move |(tool, pin)| in_json(server, tool, pin))
            });
            let list: Vec<Value> = list.collect();
            term::print_visible_json(&list)?;
            return Ok(Exit::Ok);
        }
        let paint = Paint::for_stdout();
        term::print(|out| list(&servers, paint, out))?;
        if let (true, Some(whose)) = (servers.is_empty(), state::whose()) {
            tracing::info!("{whose}");
        }
        Ok(Exit::Ok)
    }
}

fn list(
    servers: &BTreeMap<String, ServerPins>,
    paint: Paint,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut held = None;
    for (server, known) in servers {
        writeln!(
            out,
            "{}  since {}",
            paint.strong(&visible(server)),
            state::time(known.since)
        )?;
        let width = known
            .tools
            .keys()
            .map(|tool| visible(tool).chars().count())
            .max();
        let width = width.unwrap_or(0).min(40);
        for (tool, pin) in &known.tools {
            writeln!(out, "  {:<width$}  {}", visible(tool), standing(pin, paint))?;
            if pin.offered.is_some() {
                held.get_or_insert((server, tool));
            }
        }
        writeln!(out)?;
    }
    match held {
        Some((server, tool)) => {
            let words = format!("{} {}", word(server), word(tool));
            writeln!(
                out,
                "capwarden tools diff {words}, then capwarden tools accept {words}"
            )
        }
        None if servers.is_empty() => writeln!(out, "no server's definitions are pinned yet"),
        None => Ok(()),
    }
}

/// How a tool stands, since when, and by whom.
fn standing(pin: &Pin, paint: Paint) -> String {
    let accepted = pin.accepted.as_ref().map(|version| {
        let by = match &pin.by {
            Some(by) => format!("accepted by {by}"),
            None => "accepted as it was seen first".to_owned(),
        };
        format!("{by}, {}", state::time(version.since))
    });
    let offered = pin.offered.as_ref();
    let offered = offered.map_or_else(String::new, |version| state::time(version.since));
    match (pin.standing(), accepted) {
        (Standing::Accepted, accepted) => paint.good(&accepted.unwrap_or_default()),
        (Standing::Changed, accepted) => format!(
            "{}; {}",
            paint.error(&format!("changed, {offered}: held back")),
            accepted.unwrap_or_default()
        ),
        (Standing::New, _) => paint.warning(&format!("new, {offered}: held back")),
    }
}

fn in_json(server: &str, tool: &str, pin: &Pin) -> Value {
    let version = |version: &crate::definitions::Version| {
        json!({
            "sha256": version.digest,
            "since": state::time(version.since),
            "definition": version.parts,
        })
    };
    json!({
        "server": server,
        "tool": tool,
        "standing": pin.standing(),
        "accepted": pin.accepted.as_ref().map(version),
        "accepted_by": pin.by.map(|by| by.to_string()),
        "offered": pin.offered.as_ref().map(version),
    })
}

impl Accept {
    fn run(self) -> Result<Exit, Failure> {
        let pins = Pins::open(&self.state.open()?)?;
        let tools = (!self.all).then_some(self.tools.as_slice());
        let digest = self.sha256.as_deref();
        let accepted = pins.accept(&self.server, tools, digest, state::operator());
        let accepted = accepted.map_err(refused)?;
        term::print(|out| {
            for tool in &accepted {
                writeln!(
                    out,
                    "accepted {} of {}",
                    visible(tool),
                    visible(&self.server)
                )?;
            }
            if accepted.is_empty() {
                writeln!(out, "nothing was held back")?;
            }
            Ok(())
        })?;
        Ok(Exit::Ok)
    }
}

impl Forget {
    fn run(self) -> Result<Exit, Failure> {
        let pins = Pins::open(&self.state.open()?)?;
        let tools = (!self.all).then_some(self.tools.as_slice());
        let log = Log::open(paths::audit_to_write(self.audit.as_deref())?)?;
        // Before it is done: what is forgotten is accepted as it is seen first, which must not come
        // out of nothing.
        for tool in tools.unwrap_or(&["*".to_owned()]) {
            log.append(&Record::Definition(Box::new(DefinitionRecord {
                server: Text::new(self.server.as_str()),
                tool: Text::new(tool.as_str()),
                became: Text::new("forgotten"),
                sha256: None,
                by: Some(Text::new(state::operator().to_string())),
                at: None,
                why: None,
            })))?;
        }
        let count = pins.forget(&self.server, tools).map_err(refused)?;
        let count = counted(u64::try_from(count).unwrap_or(u64::MAX), "tool");
        let server = visible(&self.server);
        term::print(|out| match self.all {
            true => writeln!(out, "forgot {server} and its {count}"),
            false => writeln!(out, "forgot {count} of {server}"),
        })?;
        Ok(Exit::Ok)
    }
}

/// What is told where a server or a tool is not there.
fn refused(error: AcceptError) -> Failure {
    let hint = state::whose().unwrap_or("capwarden tools list");
    match error {
        AcceptError::Store(error) => error.into(),
        AcceptError::Other { ref tool, .. } => {
            let hint = format!("look at it again: capwarden tools diff, for {tool}");
            Failure::NotThere(Account::new(error.to_string()).hint(hint))
        }
        error => Failure::NotThere(Account::new(error.to_string()).hint(hint)),
    }
}

/// A name as a shell takes it.
fn word(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    match !name.is_empty() && !name.starts_with('-') && name.chars().all(plain) {
        true => name.to_owned(),
        false => format!("'{}'", visible(name).replace('\'', "'\\''")),
    }
}
