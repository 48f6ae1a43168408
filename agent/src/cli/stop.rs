//! `capwarden stop`: end sessions now.

use clap::{ArgGroup, Args};

use crate::{
    audit::visible,
    operate::{self, Agents, Conversation, Ended, Line, Live, NoSuchSession, Request},
    words::counted,
};

use super::{
    agents,
    exit::Exit,
    failure::{Account, Failure},
    state,
    term::{self, Paint},
};

/// End sessions now
///
/// Nothing more is delivered from that moment on; then the capturing process is asked to end, so that its file
/// is complete. Returns when all have ended, and says how. Who did it, and why, is in the audit log before it
/// is done; the MCP client is told that an operator stopped it.
///
/// The exit status is 1 if there is no such session, 2 if several could be meant.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(["ids", "all", "server"]))]
#[command(
    after_help = "Examples:\n  sudo capwarden stop s3 --why 'not during the fair'\n  sudo capwarden stop --server pcap"
)]
pub(super) struct Stop {
    /// The sessions, as `capwarden sessions` lists them: 5f1c2a9b/s3, or as much of it as tells it from the
    /// others, such as s3
    #[arg(value_name = "ID", conflicts_with_all = ["all", "server"])]
    ids: Vec<String>,
    /// All sessions of all agents
    #[arg(long, conflicts_with = "server")]
    all: bool,
    /// All sessions of this server
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
}

impl Stop {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let mut agents = agents::ask("stop what agents do")?;
        let (_, live) = agents.sessions(None);
        agents::warn_of_silent(&agents);
        let unasked = agents.silent.len();
        let wanted = self.wanted(&live)?;
        let why = self.why.as_deref();
        let ended = stop_these(agents, &wanted, why)?;
        term::print(|out| {
            let paint = Paint::for_stdout();
            for ended in &ended {
                let id = paint.strong(&ended.short_id());
                writeln!(out, "{id} ended: {}", visible(&ended.text))?;
            }
            Ok(())
        })?;
        if self.ids.is_empty() && unasked > 0 {
            return Err(not_all_asked(unasked));
        }
        Ok(Exit::Ok)
    }

    fn wanted<'a>(&self, live: &'a [Live]) -> Result<Vec<&'a Live>, Failure> {
        let mut wanted: Vec<&Live> = Vec::new();
        if self.ids.is_empty() {
            let its = |one: &&Live| {
                let server = self.server.as_ref();
                server.is_none_or(|server| one.server == *server)
            };
            wanted.extend(live.iter().filter(its));
            if wanted.is_empty() {
                let of = self.server.as_ref();
                let of = of.map_or_else(String::new, |server| format!(" of the server {server}"));
                return Err(not_there(format!("no session{of} is open")));
            }
        }
        for id in &self.ids {
            let one = operate::select(live, id).map_err(|error| no_such(&error))?;
            if !wanted.contains(&one) {
                wanted.push(one);
            }
        }
        Ok(wanted)
    }
}

/// Some agents could not be asked: what they do goes on.
pub(super) fn not_all_asked(count: usize) -> Failure {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    let what = format!(
        "{} could not be asked: what runs there goes on",
        counted(count, "agent")
    );
    let hint = "see the warnings above; try again, or end the agent itself";
    Failure::Internal(Account::new(what).hint(hint))
}

fn not_there(what: String) -> Failure {
    Failure::NotThere(Account::new(what).hint("capwarden sessions lists those that are"))
}

fn no_such(error: &NoSuchSession) -> Failure {
    match error {
        NoSuchSession::None(_) => not_there(error.to_string()),
        NoSuchSession::Several { .. } => {
            Failure::Usage(Account::new(error.to_string()).hint("say which: AGENT/SESSION"))
        }
    }
}

/// Ends these sessions of these agents, and says how each has ended. All agents are told before the first is
/// waited for.
pub(super) fn stop_these(
    agents: Agents,
    wanted: &[&Live],
    why: Option<&str>,
) -> Result<Vec<Ended>, Failure> {
    let (mut asked, mut ended, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for mut agent in agents.there {
        let its = wanted.iter().filter(|one| one.pid == agent.pid());
        let its: Vec<String> = its.map(|one| one.id.clone()).collect();
        if its.is_empty() {
            continue;
        }
        let request = Request::Stop {
            sessions: its,
            all: false,
            why: why.map(str::to_owned),
            sudo_uid: state::operator().sudo_uid,
        };
        match agent.ask(&request) {
            Ok(()) => asked.push(agent),
            Err(error) => failed.push(format!("agent process {}: {error}", agent.pid())),
        }
    }
    for mut agent in asked {
        if let Err(why) = listen(&mut agent, &mut ended) {
            failed.push(format!("agent process {}: {why}", agent.pid()));
        }
    }
    if failed.is_empty() {
        return Ok(ended);
    }
    let (of, told) = (wanted.len(), ended.len());
    let account = Account::new(format!(
        "{told} of {of} are known to have ended as they should"
    ));
    Err(Failure::Internal(
        account
            .because(failed.join("; "))
            .hint("capwarden sessions lists what is open"),
    ))
}

/// What is said of those that are being ended; an error in words if one may not have.
fn listen(agent: &mut Conversation, ended: &mut Vec<Ended>) -> Result<(), String> {
    let (mut left, mut wrong) = (usize::MAX, Vec::new());
    loop {
        match agent.hear() {
            Ok(Line::Stopping(sessions)) => left = sessions.len(),
            Ok(Line::Ended(end)) => {
                ended.push(end);
                left = left.saturating_sub(1);
            }
            Ok(Line::Refused(why)) => wrong.push(why),
            Ok(Line::Done {}) => break,
            // An agent of one command ends with its session.
            Err(_) if left == 0 => break,
            Ok(other) => return Err(format!("{other:?}")),
            Err(error) => return Err(error.to_string()),
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("; ")),
    }
}
