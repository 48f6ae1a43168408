//! `capwarden logs`: the audit log as it grows.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    path::PathBuf,
    thread,
    time::Duration,
};

use clap::Args;

use crate::audit::{AuditError, Filter, Follow, Followed, Rendering};

use super::{
    exit::Exit,
    failure::{Account, Failure},
    paths,
    session::{self, SessionName},
    term::Paint,
};

/// How often it is looked whether something has come.
const LOOK: Duration = Duration::from_millis(100);

/// Print the end of the audit log, and follow it
///
/// One record a line, as `capwarden audit show` has it. The whole log is read, and its chain followed: where
/// it does not hold, that is said before the first record that nothing speaks for, and the exit status is 1.
/// With -f, records are printed as they are written, also when the log is replaced by another file.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sudo capwarden logs -f\n  sudo capwarden logs -n 100 --session 5f1c2a9b/s3"
)]
pub(super) struct Logs {
    /// The audit log
    ///
    /// Without it: /var/log/capwarden/audit.jsonl for root, otherwise
    /// $XDG_STATE_HOME/capwarden/audit.jsonl.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Go on printing what is written
    #[arg(short, long)]
    follow: bool,
    /// Only records of this session: s3, or 5f1c2a9b/s3 of the agent whose name begins so
    ///
    /// Without -f, the exit status is 1 if the log has none such.
    #[arg(long, value_name = "SESSION", value_parser = session::name)]
    session: Option<SessionName>,
    /// Only records of agents of this server
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Begin with the last N of those
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    last: usize,
    /// Print the lines as they are in the file
    #[arg(long)]
    json: bool,
}

impl Logs {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let path = paths::audit_to_read(self.file.as_deref())?;
        let (agent, session) = match self.session.clone() {
            Some(SessionName { agent, session }) => (agent, Some(session)),
            None => (None, None),
        };
        let filter = Filter {
            session,
            agent,
            ..Filter::default()
        };
        let rendering = match (self.json, Paint::for_stdout().is_on()) {
            (true, _) => Rendering::Json,
            (false, false) => Rendering::Plain,
            (false, true) => Rendering::Colour,
        };
        let mut follow = Follow::open(&path, filter, self.server, rendering)?;
        let mut broken = false;
        let mut tail = || -> Result<Option<&SessionName>, AuditError> {
            let shown = end(&mut follow, self.last, &mut broken)?;
            match &self.session {
                Some(name) if shown == 0 && !self.follow => return Ok(Some(name)),
                Some(name) if shown == 0 => {
                    tracing::info!("the log has no session {} yet", name.session);
                }
                _ => {}
            }
            match self.follow {
                true => go_on(&mut follow, &mut broken).map(|()| None),
                false => Ok(None),
            }
        };
        let done = tail();
        if !self.follow && follow.is_torn() {
            tracing::warn!("the last line is cut short, or is just being written");
        }
        match done {
            Ok(Some(name)) => {
                let what = format!("the log has no session {}", name.session);
                return Err(SessionName::not_there(what));
            }
            Err(AuditError::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(AuditError::Print(error)) => {
                return Err(Failure::Internal(
                    Account::new("cannot write to standard output").because(error),
                ));
            }
            Err(error) => return Err(error.into()),
            Ok(None) => {}
        }
        Ok(match broken {
            true => Exit::Unsound,
            false => Exit::Ok,
        })
    }
}

/// Prints the last few records; how many there were to choose from.
fn end(follow: &mut Follow, last: usize, broken: &mut bool) -> Result<u64, AuditError> {
    let (mut held, mut found) = (VecDeque::new(), 0);
    follow.read(&mut |one| {
        match one {
            Followed::Record(text) => {
                found += 1;
                held.push_back(text);
            }
            other => tell(other, broken)?,
        }
        if held.len() > last {
            held.pop_front();
        }
        Ok(())
    })?;
    held.into_iter()
        .try_for_each(|text| tell(Followed::Record(text), broken))
        .map_err(AuditError::Print)?;
    Ok(found)
}

/// Prints all that come.
fn go_on(follow: &mut Follow, broken: &mut bool) -> Result<(), AuditError> {
    loop {
        thread::sleep(LOOK);
        follow.read(&mut |one| tell(one, broken))?;
    }
}

fn tell(one: Followed, broken: &mut bool) -> io::Result<()> {
    match one {
        Followed::Record(text) => {
            let mut out = io::stdout().lock();
            writeln!(out, "{text}")?;
            out.flush()
        }
        Followed::Broken { line, why } => {
            *broken = true;
            tracing::error!(
                "the log is not whole: line {line}: {why}; nothing speaks for what comes after it: see `capwarden audit verify`"
            );
            Ok(())
        }
        Followed::Replaced => {
            tracing::info!("the log is another file from here on, with a chain of its own");
            Ok(())
        }
    }
}
