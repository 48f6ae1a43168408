//! `capwarden __names WORDS…`, which is no verb for people: the names that stand where the last of the words does, for the
//! scripts that `capwarden completions` makes.
//!
//! Nobody is told what they could not list: the operators' sockets listen to root alone, a log is read as whoever
//! presses the key, and the agent offers each user their own servers. Whatever cannot be asked has no names, and
//! nothing is said of that: somebody is writing a line.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc::{self, Sender},
    thread,
    time::{Duration, Instant},
};

use clap::{Arg, ArgAction, Command, CommandFactory as _};

use super::{Cli, paths};
use crate::{
    audit,
    config::USUAL_SOCKET,
    engine::hello::{self, Hello},
    operate,
};

/// The first argument by which the program is asked for names. The scripts of `completions` have it.
pub const NAMES_VERB: &str = "__names";
/// How long somebody waits who has pressed a key.
const PATIENCE: Duration = Duration::from_millis(300);
/// Names that are printed.
const MOST: usize = 256;
/// Bytes of a name.
const LONGEST: usize = 256;

/// What is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    /// A session that is open.
    Open,
    /// One that the audit log tells of.
    Recorded,
    /// A server of any agent.
    Server,
    /// A server that the agent serves to whoever asks.
    Offered,
}

/// Where names stand: under which verb, as which argument.
const PLACES: [(&str, &str, Named); 15] = [
    ("stop", "ids", Named::Open),
    ("stop", "server", Named::Server),
    ("sessions", "server", Named::Server),
    ("logs", "session", Named::Recorded),
    ("logs", "server", Named::Server),
    ("report", "session", Named::Recorded),
    ("audit show", "session", Named::Recorded),
    ("audit verify", "session", Named::Recorded),
    ("connect", "server", Named::Offered),
    ("client-config", "server", Named::Offered),
    ("grant create", "server", Named::Server),
    ("tools list", "server", Named::Server),
    ("tools diff", "server", Named::Server),
    ("tools accept", "server", Named::Server),
    ("tools forget", "server", Named::Server),
];

/// The options before which names stand, each once.
pub(super) fn options() -> BTreeSet<String> {
    let mut root = Cli::command();
    root.build();
    let of = |&(verb, id, _): &(&str, &str, Named)| {
        let command = verb
            .split(' ')
            .try_fold(&root, |at, word| at.find_subcommand(word));
        let mut arguments = command?.get_arguments();
        let argument = arguments.find(|argument| argument.get_id() == id)?;
        argument.get_long().map(str::to_owned)
    };
    PLACES.iter().filter_map(of).collect()
}

/// Prints the names that the last word may be completed to, one a line. Fails where no name stands there.
pub fn names() -> ExitCode {
    let words = std::env::args_os().skip(2);
    let words: Vec<String> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let mut root = Cli::command();
    root.build();
    let Some(wanted) = Wanted::of(&words, &root) else {
        return ExitCode::FAILURE;
    };
    let mut text = String::new();
    for name in wanted.find().into_iter().take(MOST) {
        text += &name;
        text.push('\n');
    }
    // Whoever asked may have given up.
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// Which names are wanted.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    named: Named,
    /// How they begin.
    start: String,
    /// The audit log that the line names before.
    log: Option<PathBuf>,
    /// The agent's socket that it names.
    socket: Option<PathBuf>,
}

impl Wanted {
    /// What stands at the end of a line; the last of the words is the one that is being written.
    fn of(words: &[String], root: &Command) -> Option<Self> {
        let (last, before) = words.split_last()?;
        let mut line = Line::new(root);
        before.iter().for_each(|word| line.word(word));
        let (argument, start) = match (line.open, last.split_once('=')) {
            // Bash has what stands after `--session=` as a word of its own, and the `=` too.
            (Some(argument), _) => (argument, last.strip_prefix('=').unwrap_or(last)),
            (None, Some((option, start))) if option.starts_with("--") => {
                (line.option(option)?, start)
            }
            (None, _) if last.starts_with('-') => return None,
            (None, _) => (line.next_position()?, last.as_str()),
        };
        let place = PLACES
            .iter()
            .find(|(verb, id, _)| *verb == line.verb && argument.get_id() == id);
        Some(Self {
            named: place?.2,
            start: start.to_owned(),
            log: line.said("file"),
            socket: line.said("path"),
        })
    }

    /// Those that begin so, as far as they are known in time.
    fn find(&self) -> BTreeSet<String> {
        let (tell, hear) = mpsc::channel();
        match self.named {
            Named::Open => ask_agents(tell, true),
            Named::Recorded => {
                ask_agents(tell.clone(), true);
                let log = self.log.clone();
                apart(move || recorded(log.as_deref(), &tell));
            }
            Named::Server => {
                ask_agents(tell.clone(), false);
                apart(move || offered(Path::new(USUAL_SOCKET), &tell));
            }
            Named::Offered => {
                let socket = self.socket.clone().unwrap_or_else(|| USUAL_SOCKET.into());
                apart(move || offered(&socket, &tell));
            }
        }
        let end = Instant::now() + PATIENCE;
        let mut found = BTreeSet::new();
        // Who has not answered by then is left to itself: its thread ends with the process.
        while let Ok(name) = hear.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if name.starts_with(&self.start) && is_plain(&name) && found.len() < MOST {
                found.insert(name);
            }
        }
        found
    }
}

/// A line as far as it was read.
struct Line<'a> {
    verb: String,
    command: &'a Command,
    /// The option whose value comes next.
    open: Option<&'a Arg>,
    /// Nothing is an option any more.
    plain: bool,
    /// Arguments before this one that have no option.
    positions: usize,
    values: Vec<(&'a Arg, String)>,
}

impl<'a> Line<'a> {
    fn new(root: &'a Command) -> Self {
        Self {
            verb: String::new(),
            command: root,
            open: None,
            plain: false,
            positions: 0,
            values: Vec::new(),
        }
    }

    /// One more word of it.
    fn word(&mut self, word: &str) {
        if let Some(option) = self.open {
            if word != "=" {
                self.values.push((option, word.to_owned()));
                self.open = None;
            }
        } else if self.plain || word == "-" || !word.starts_with('-') {
            self.plain_word(word);
        } else if word == "--" {
            self.plain = true;
        } else {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            let option = self.option(name);
            match (option, value) {
                (Some(option), Some(value)) => self.values.push((option, value.to_owned())),
                (option, _) => self.open = option,
            }
        }
    }

    fn plain_word(&mut self, word: &str) {
        let verb = self.command.find_subcommand(word);
        if let Some(verb) = verb.filter(|_| !self.plain && self.positions == 0) {
            self.command = verb;
            let between = if self.verb.is_empty() { "" } else { " " };
            self.verb = format!("{}{between}{}", self.verb, verb.get_name());
            return;
        }
        if let Some(argument) = self.next_position() {
            self.values.push((argument, word.to_owned()));
        }
        self.positions += 1;
    }

    /// The option that is called so, if a value belongs to it.
    fn option(&self, word: &str) -> Option<&'a Arg> {
        let mut options = self.command.get_arguments();
        let option = options.find(|option| match word.strip_prefix("--") {
            Some(long) => option.get_long() == Some(long),
            // Of several in one word, only the last may have its value in the next one.
            None => option.get_short().is_some() && option.get_short() == word.chars().last(),
        })?;
        let takes = matches!(option.get_action(), ArgAction::Set | ArgAction::Append);
        takes.then_some(option)
    }

    /// What the next argument without an option is; the last of them may be one of many.
    fn next_position(&self) -> Option<&'a Arg> {
        let all: Vec<&Arg> = self.command.get_positionals().collect();
        let many = |argument: &&&Arg| matches!(argument.get_action(), ArgAction::Append);
        let at = all.get(self.positions);
        at.or_else(|| all.last().filter(many)).copied()
    }

    /// What was said as this argument.
    fn said(&self, id: &str) -> Option<PathBuf> {
        let mut values = self.values.iter();
        let (_, value) = values.find(|(argument, _)| argument.get_id() == id)?;
        Some(value.into())
    }
}

/// Does something without being waited for; where there are no more threads, there are no names.
fn apart(what: impl FnOnce() + Send + 'static) {
    let _ = thread::Builder::new().spawn(what);
}

/// Tells of the sessions that are open on this host, or of the servers.
fn ask_agents(tell: Sender<String>, sessions: bool) {
    apart(move || {
        operate::ask_each(move |agents, live| {
            let ids = live.iter().map(operate::Live::short_id);
            // One that serves many is called after none of them; it offers them elsewhere.
            let one = agents.into_iter().filter(|agent| agent.serves.is_none());
            let servers = one.map(|agent| agent.server);
            let names: Vec<String> = match sessions {
                true => ids.collect(),
                false => servers
                    .chain(live.iter().map(|one| one.server.clone()))
                    .collect(),
            };
            for name in names {
                // Somebody may have waited for long enough.
                let _ = tell.send(name);
            }
        });
    });
}

/// Tells of the sessions that a log had last.
fn recorded(log: Option<&Path>, tell: &Sender<String>) {
    let Ok(log) = log.map_or_else(paths::default_audit, |log| Ok(log.to_owned())) else {
        return;
    };
    for (agent, session) in audit::last_sessions(&log).unwrap_or_default() {
        let _ = tell.send(operate::short_id(&format!("{agent}/{session}")));
    }
}

/// Tells of the servers that the agent serves to this user.
fn offered(socket: &Path, tell: &Sender<String>) {
    let hello = Hello {
        connect: None,
        servers: true,
    };
    let servers = hello::ask(socket, &hello).ok();
    for offer in servers
        .and_then(|(_, told)| told.servers)
        .into_iter()
        .flatten()
    {
        let _ = tell.send(offer.name);
    }
}

/// Whether a name may be put into a line of any shell as it is.
fn is_plain(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_./@+".contains(c);
    name.len() <= LONGEST && !name.starts_with('-') && name.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(line: &str) -> Option<Wanted> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let mut root = Cli::command();
        root.build();
        Wanted::of(&words, &root)
    }

    #[test]
    fn every_place_is_an_argument_of_its_verb() {
        let mut root = Cli::command();
        root.build();
        for (verb, id, _) in PLACES {
            let command = verb
                .split(' ')
                .fold(&root, |at, word| at.find_subcommand(word).unwrap());
            let mut arguments = command.get_arguments();
            assert!(arguments.any(|one| one.get_id() == id), "{verb} {id}");
        }
        assert_eq!(options(), ["server", "session"].map(str::to_owned).into());
    }

    #[test]
    fn names_stand_where_verbs_take_them() {
        let is = |line: &str, named: Named, start: &str| {
            let found = wanted(line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(
                (found.named, found.start.as_str()),
                (named, start),
                "{line}"
            );
        };
        is("stop ", Named::Open, "");
        is("stop 5f", Named::Open, "5f");
        is("stop 5f1c/s1 --why s3 a", Named::Open, "a");
        is("--log warn stop -- ", Named::Open, "");
        is("stop --server p", Named::Server, "p");
        is("stop --server=p", Named::Server, "p");
        is("stop --server =", Named::Server, "");
        is("stop --server = p", Named::Server, "p");
        is("sessions --json --server ", Named::Server, "");
        is("report ", Named::Recorded, "");
        is("report --json --pcap a.pcap 5f", Named::Recorded, "5f");
        is("logs -fn 3 --session ", Named::Recorded, "");
        is("logs -f --session ", Named::Recorded, "");
        is("audit show --session ", Named::Recorded, "");
        is("connect s", Named::Offered, "s");
        is("client-config --for codex ", Named::Offered, "");
        is("grant create ann --server ", Named::Server, "");
        is("tools accept ", Named::Server, "");
        for none in [
            "",
            "st",
            "stop -",
            "stop --s",
            "stop --why ",
            "stop --log ",
            "report s1 ",
            "report --pcap ",
            "logs ",
            "run --server ",
            "tools accept pcap ",
            "policy check ",
            "nonsense ",
        ] {
            assert_eq!(wanted(none), None, "{none}");
        }
        let log = wanted("logs /l.jsonl --session ").unwrap().log;
        assert_eq!(log.as_deref(), Some(Path::new("/l.jsonl")));
        let socket = wanted("connect --socket /s ").unwrap().socket;
        assert_eq!(socket.as_deref(), Some(Path::new("/s")));
    }

    #[test]
    fn only_names_that_no_shell_reads_otherwise_are_told() {
        for plain in ["5f1c2a9b/s3", "@scope/server", "net-mcp_1.2+x"] {
            assert!(is_plain(plain), "{plain}");
        }
        let long = "x".repeat(LONGEST + 1);
        for other in [
            "$(x)", "a b", "a;b", "-x", "ä", "a'b", "a=b", "a:b", "~", &long,
        ] {
            assert!(!is_plain(other), "{other}");
        }
    }
}
