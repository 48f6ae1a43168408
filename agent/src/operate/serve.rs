//! The agent's side of a conversation with an operator.

use std::{io, os::fd::AsFd as _, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::broadcast::error::RecvError,
    task::{JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at},
};

use super::{
    CONVERSATIONS, Ended, Event, EventKind, LONGEST_LINE, Line, RESERVED, Request,
    desk::{Inner, NotStopped},
    office::Board,
    wire::short,
};
use crate::{
    audit::AuditError,
    kernel::{LocalSocket, Peer},
    principal::Operator,
    session::SessionId,
};

/// How long nothing may be asked.
const IDLE: Duration = Duration::from_secs(60);
/// How long nothing may be asked where seats are short.
const BRIEF: Duration = Duration::from_secs(5);
/// How long a client may take to read what it is told.
const READ: Duration = Duration::from_secs(10);
/// How long the end of a session is waited for: it may take 14 s (`session/lifecycle.rs`), a restart longer.
const END: Duration = Duration::from_secs(30);
/// How often it is looked which sessions are left, should an event have been missed.
const LOOK: Duration = Duration::from_secs(1);
/// How often a watcher may want to be told, in milliseconds.
const OFTEN: std::ops::RangeInclusive<u64> = 100..=10_000;
/// How long nobody is let in when the host has no more descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Lets operators in, for as long as it is not dropped.
pub(super) async fn serve(socket: LocalSocket, board: Arc<Board>) {
    let mut conversations = JoinSet::new();
    loop {
        let stream = match socket.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "an operator could not be let in");
                sleep(PAUSE).await;
                continue;
            }
        };
        while conversations.try_join_next().is_some() {}
        let short = conversations.len() >= CONVERSATIONS;
        let full = conversations.len() >= CONVERSATIONS + RESERVED;
        let board = Arc::clone(&board);
        let mut conversation = match Conversation::new(stream, short) {
            Ok(conversation) => conversation,
            Err(error) => {
                tracing::warn!(%error, "closed a connection to the operators' socket");
                continue;
            }
        };
        if full {
            let why = full_words();
            // It fits into the socket's buffer, or the client has gone.
            let _ = timeout(PAUSE, conversation.say(&Line::Refused(why))).await;
            continue;
        }
        conversations.spawn(async move {
            if let Err(error) = conversation.run(&board).await {
                tracing::debug!(%error, "a conversation with an operator ended");
            }
        });
    }
}

struct Conversation {
    from: BufReader<OwnedReadHalf>,
    to: OwnedWriteHalf,
    user: u32,
    /// Whether it has a seat on which nobody may watch.
    short: bool,
}

fn full_words() -> String {
    format!("{CONVERSATIONS} operators are connected already; try again later")
}

impl Conversation {
    /// With root, or whoever the agent runs as; never with what is governed, which may run as root too.
    fn new(stream: UnixStream, short: bool) -> io::Result<Self> {
        let peer = Peer::of(stream.as_fd())?;
        let own = rustix::process::geteuid().as_raw();
        if (peer.user != 0 && peer.user != own) || peer.may_be_governed() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("it was the user {}, or a governed process", peer.user),
            ));
        }
        let (from, to) = stream.into_split();
        Ok(Self {
            from: BufReader::new(from),
            to,
            user: peer.user,
            short,
        })
    }

    async fn run(&mut self, board: &Board) -> io::Result<()> {
        while let Some(line) = self.next().await? {
            match serde_json::from_slice(&line) {
                Ok(Request::Sessions { server }) => self.tell_all(board, server).await?,
                Ok(Request::Watch { .. }) if self.short => {
                    return self.say(&Line::Refused(full_words())).await;
                }
                Ok(Request::Watch { every_ms }) => return self.watch(board, every_ms).await,
                Ok(Request::Stop {
                    sessions,
                    all,
                    why,
                    sudo_uid,
                }) => {
                    let by = Operator {
                        uid: self.user,
                        sudo_uid,
                    };
                    let stop = Stop {
                        sessions,
                        all,
                        why: why.as_deref().map(short),
                        by,
                    };
                    self.stop(board, stop).await?;
                }
                Err(error) => {
                    let why = format!("that is no request: {error}");
                    self.say(&Line::Refused(short(&why))).await?;
                }
            }
        }
        Ok(())
    }

    /// The next line; none if the client has left. One that is too long ends the conversation.
    async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let most = u64::try_from(LONGEST_LINE).unwrap_or(u64::MAX);
        let mut line = Vec::new();
        let mut bounded = (&mut self.from).take(most.saturating_add(1));
        let idle = if self.short { BRIEF } else { IDLE };
        let read = timeout(idle, bounded.read_until(b'\n', &mut line));
        let read = read.await.map_err(|_| io::ErrorKind::TimedOut)??;
        if read > LONGEST_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok((read > 0).then_some(line))
    }

    async fn say(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        if text.len() > LONGEST_LINE {
            // All texts in it are bounded, so this is not to be seen.
            text = serde_json::to_vec(&Line::Refused("a line would be too long".to_owned()))?;
        }
        text.push(b'\n');
        let written = timeout(READ, self.to.write_all(&text));
        written.await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Of one server, or of all.
    async fn tell_all(&mut self, board: &Board, server: Option<String>) -> io::Result<()> {
        let desks = board.desks();
        let looked = spawn_blocking(move || {
            let server = server.as_deref();
            let told = desks.iter().filter_map(|desk| {
                let sessions = desk.sessions(server);
                // A server that is served no longer may have some still.
                let is_meant = server.is_none_or(|server| desk.is_of(server));
                (is_meant || !sessions.is_empty()).then(|| (desk.agent(), sessions))
            });
            told.collect::<Vec<_>>()
        });
        for (agent, sessions) in looked.await.map_err(io::Error::other)? {
            self.say(&Line::Agent(agent)).await?;
            for session in sessions {
                self.say(&Line::Session(Box::new(session))).await?;
            }
        }
        self.say(&Line::Moment(super::wire::now())).await
    }

    async fn watch(&mut self, board: &Board, every_ms: u64) -> io::Result<()> {
        let every = every_ms.clamp(*OFTEN.start(), *OFTEN.end());
        let mut ticks = interval(Duration::from_millis(every));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut happened = board.watch();
        let mut rest = [0];
        loop {
            tokio::select! {
                _ = ticks.tick() => self.tell_all(board, None).await?,
                event = happened.recv() => match event {
                    Ok(event) => self.say(&Line::Event(event)).await?,
                    Err(RecvError::Lagged(missed)) => self.say(&Line::Missed(missed)).await?,
                    Err(RecvError::Closed) => return Ok(()),
                },
                // Whoever watches says nothing more.
                _ = self.from.read(&mut rest) => return Ok(()),
            }
        }
    }

    async fn stop(&mut self, board: &Board, stop: Stop) -> io::Result<()> {
        // From before, so that no end is missed.
        let mut happened = board.watch();
        let wanted = match stop.find(board) {
            Ok(wanted) => wanted,
            Err(why) => {
                self.say(&Line::Refused(why)).await?;
                return self.say(&Line::Done {}).await;
            }
        };
        let waits: Vec<_> = wanted.iter().map(|(desk, _)| desk.waits()).collect();
        let acted = spawn_blocking(move || stop.act(wanted));
        let Acted {
            mut ending,
            over,
            unrecorded,
        } = acted.await.map_err(io::Error::other)?;
        let all = ending.iter().chain(&over);
        let ids = all.map(|(desk, session)| desk.id(*session));
        self.say(&Line::Stopping(ids.collect())).await?;
        if let Some(error) = unrecorded {
            let why = format!("not everything could be recorded: {error}");
            self.say(&Line::Refused(short(&why))).await?;
        }
        for (desk, session) in over {
            self.say(&Line::Ended(unheard(&desk, session))).await?;
        }
        let until = Instant::now() + END;
        while !ending.is_empty() && Instant::now() < until {
            let ended = match timeout_at(until.min(Instant::now() + LOOK), happened.recv()).await {
                Ok(Ok(event)) => take(&mut ending, &event).into_iter().collect(),
                Ok(Err(RecvError::Closed)) => break,
                // Nothing was heard, or not all of it.
                Ok(Err(RecvError::Lagged(_))) | Err(_) => gone(&mut ending),
            };
            for ended in ended {
                self.say(&Line::Ended(ended)).await?;
            }
        }
        drop(waits);
        if !ending.is_empty() {
            let late = ending.iter().map(|(desk, session)| desk.id(*session));
            let late = late.collect::<Vec<_>>().join(", ");
            let why = format!(
                "nothing more is delivered, but the processes of {late} did not end within {} s",
                END.as_secs()
            );
            self.say(&Line::Refused(short(&why))).await?;
        }
        self.say(&Line::Done {}).await
    }
}

/// A session of a desk.
type One = (Arc<Inner>, SessionId);

/// What is to be stopped, by whom.
struct Stop {
    sessions: Vec<String>,
    all: bool,
    why: Option<String>,
    by: Operator,
}

/// What has been done of it.
struct Acted {
    /// Those that are ending.
    ending: Vec<One>,
    /// Those that had ended by then.
    over: Vec<One>,
    unrecorded: Option<AuditError>,
}

impl Stop {
    fn find(&self, board: &Board) -> Result<Vec<One>, String> {
        let desks = board.desks();
        match (self.sessions.is_empty(), self.all) {
            (true, true) => {
                let all = desks.iter().flat_map(|desk| {
                    let live = desk.live().into_iter();
                    live.map(|session| (Arc::clone(desk), session))
                });
                return Ok(all.collect());
            }
            (false, false) => {}
            _ => return Err("say which sessions, or all".to_owned()),
        }
        let wanted = self.sessions.iter().map(|id| {
            let mut desks = desks.iter();
            let its = desks.find_map(|desk| Some((Arc::clone(desk), desk.session_of(id)?)));
            its.ok_or_else(|| format!("no session {} is open here", short(id)))
        });
        wanted.collect()
    }

    /// Records it and ends them.
    fn act(&self, wanted: Vec<One>) -> Acted {
        let mut acted = Acted {
            ending: Vec::new(),
            over: Vec::new(),
            unrecorded: None,
        };
        for (desk, session) in wanted {
            match desk.stop(session, self.by, self.why.as_deref()) {
                Ok(error) => {
                    acted.unrecorded = acted.unrecorded.or(error);
                    acted.ending.push((desk, session));
                }
                // The agent ends all of them.
                Err(NotStopped::Closed) => acted.ending.push((desk, session)),
                Err(NotStopped::Over) => acted.over.push((desk, session)),
            }
        }
        acted
    }
}

/// The session that has ended by this event, which is waited for no longer.
fn take(left: &mut Vec<One>, event: &Event) -> Option<Ended> {
    if event.kind != EventKind::Ended {
        return None;
    }
    let at = left.iter().position(|(desk, session)| {
        desk.agent().agent == event.agent && Some(*session) == event.session
    })?;
    let (desk, session) = left.remove(at);
    Some(Ended {
        session: desk.id(session),
        reason: event.reason,
        text: event.text.clone(),
    })
}

/// Those that have ended without our having heard of it.
fn gone(left: &mut Vec<One>) -> Vec<Ended> {
    let mut ended = Vec::new();
    left.retain(|(desk, session)| {
        let is_live = desk.live().contains(session);
        if !is_live {
            ended.push(unheard(desk, *session));
        }
        is_live
    });
    ended
}

/// How one ended of which nothing was heard.
fn unheard(desk: &Inner, session: SessionId) -> Ended {
    Ended {
        session: desk.id(session),
        reason: None,
        text: "it has ended by itself; the audit log says how".to_owned(),
    }
}
