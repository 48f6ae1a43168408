//! The operator's side: asks every agent of the host.

use std::{
    collections::BTreeSet,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::Duration,
};

use super::{
    Agent, LONGEST_LINE, Line, Live, Request,
    place::{self, DIRECTORY},
};

/// How long an agent may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long it may take to end a session; it gives up itself before.
const END: Duration = Duration::from_secs(40);

/// Why the agents, or one of them, cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The directory with their sockets cannot be read.
    #[error("cannot look for agents in {DIRECTORY}: {0}")]
    Directory(io::Error),
    /// It does not answer, or has gone.
    #[error("it does not answer: {0}")]
    Silent(io::Error),
    /// It answers what is not to be understood: it may be of another version.
    #[error("it answers what this version does not understand: {0}")]
    Strange(String),
}

/// The agents of the host.
#[derive(Debug, Default)]
pub struct Agents {
    /// Those that listen.
    pub there: Vec<Conversation>,
    /// Those that do not.
    pub silent: Vec<Silent>,
}

/// An agent that cannot be asked.
#[derive(Debug)]
pub struct Silent {
    /// Its process.
    pub pid: u32,
    /// Why.
    pub why: String,
}

/// A conversation with one agent process.
#[derive(Debug)]
pub struct Conversation {
    pid: u32,
    from: BufReader<UnixStream>,
}

/// Finds the agents of the host. What killed ones left behind is removed.
///
/// # Errors
///
/// It cannot be looked where they are: only root may.
pub fn agents() -> Result<Agents, AskError> {
    agents_but(&BTreeSet::new())
}

/// The same without these processes.
pub(super) fn agents_but(known: &BTreeSet<u32>) -> Result<Agents, AskError> {
    agents_in(Path::new(DIRECTORY), known)
}

/// One agent, by its process.
pub(super) fn agent(pid: u32) -> Result<Conversation, AskError> {
    let path = place::socket(Path::new(DIRECTORY), pid);
    Conversation::begin(pid, &path).map_err(AskError::Silent)
}

pub(super) fn agents_in(directory: &Path, but: &BTreeSet<u32>) -> Result<Agents, AskError> {
    let mut agents = Agents::default();
    let sockets = place::sockets(directory).map_err(AskError::Directory)?;
    for (pid, path) in sockets.into_iter().filter(|(pid, _)| !but.contains(pid)) {
        match Conversation::begin(pid, &path) {
            Ok(conversation) => agents.there.push(conversation),
            Err(_) if place::sweep(pid, &path) || !path.exists() => {}
            Err(error) => agents.silent.push(Silent {
                pid,
                why: error.to_string(),
            }),
        }
    }
    Ok(agents)
}

/// Asks every agent of the host what it does, each on a thread of its own: `tell` hears of those who answer, as they do.
/// Nothing becomes of the others. Returns before they have answered.
pub fn ask_each(tell: impl Fn(Vec<Agent>, Vec<Live>) + Clone + Send + 'static) {
    for (pid, path) in place::sockets(Path::new(DIRECTORY)).unwrap_or_default() {
        let tell = tell.clone();
        let ask = move || {
            let agent = Conversation::begin(pid, &path).map_err(AskError::Silent);
            if let Ok((agents, live)) = agent.and_then(|mut agent| agent.sessions(None)) {
                tell(agents, live);
            }
        };
        // A host that has no more threads is not asked.
        let _ = thread::Builder::new().spawn(ask);
    }
}

impl Agents {
    /// What all of them do, or those that serve one server, there. Whoever does not answer is among the silent
    /// from now on.
    pub fn sessions(&mut self, server: Option<&str>) -> (Vec<Agent>, Vec<Live>) {
        let (mut agents, mut live) = (Vec::new(), Vec::new());
        let silent = &mut self.silent;
        self.there.retain_mut(|agent| match agent.sessions(server) {
            Ok((its, sessions)) => {
                agents.extend(its);
                live.extend(sessions);
                true
            }
            Err(error) => {
                silent.push(Silent {
                    pid: agent.pid,
                    why: error.to_string(),
                });
                false
            }
        });
        (agents, live)
    }
}

impl Conversation {
    fn begin(pid: u32, path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        Ok(Self {
            pid,
            from: BufReader::new(stream),
        })
    }

    /// The agent's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it does, or what it does at one server.
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn sessions(&mut self, server: Option<&str>) -> Result<(Vec<Agent>, Vec<Live>), AskError> {
        let server = server.map(str::to_owned);
        self.ask(&Request::Sessions { server })?;
        let (mut agents, mut live) = (Vec::new(), Vec::new());
        loop {
            match self.hear()? {
                Line::Agent(agent) => agents.push(agent),
                Line::Session(session) => live.push(*session),
                Line::Moment(_) => return Ok((agents, live)),
                Line::Refused(why) => return Err(AskError::Strange(why)),
                other => return Err(AskError::Strange(format!("{other:?}"))),
            }
        }
    }

    /// Asks for something whose answer is read by [`Self::hear`].
    ///
    /// # Errors
    ///
    /// See [`AskError`].
    pub fn ask(&mut self, request: &Request) -> Result<(), AskError> {
        let wait = match request {
            Request::Stop { .. } => END,
            Request::Sessions { .. } | Request::Watch { .. } => ANSWER,
        };
        let mut text =
            serde_json::to_vec(request).map_err(|error| AskError::Silent(error.into()))?;
        text.push(b'\n');
        let stream = self.from.get_mut();
        let asked = stream
            .set_read_timeout(Some(wait))
            .and_then(|()| stream.write_all(&text));
        asked.map_err(AskError::Silent)
    }

    /// The next line of an answer.
    ///
    /// # Errors
    ///
    /// See [`AskError`]. An agent that has gone is silent, with `UnexpectedEof`.
    pub fn hear(&mut self) -> Result<Line, AskError> {
        let most = u64::try_from(LONGEST_LINE).unwrap_or(u64::MAX);
        let mut line = Vec::new();
        let mut bounded = (&mut self.from).take(most.saturating_add(1));
        let read = bounded.read_until(b'\n', &mut line);
        if read.map_err(AskError::Silent)? == 0 {
            return Err(AskError::Silent(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&line).map_err(|error| AskError::Strange(error.to_string()))
    }
}
