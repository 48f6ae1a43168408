//! The clients of a front: who is in the middle of an MCP session, and what was opened for whom.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use hyper::StatusCode;
use tokio::sync::mpsc;

use super::refusal::Refusal;
use crate::{
    gate::conversation::{Conversation, Rooms, lock},
    principal::Principal,
    session::SessionId,
};

/// The longest id of an MCP session.
const ID: usize = 256;
/// An MCP session that was not heard of for so long makes room for another.
const IDLE: Duration = Duration::from_secs(600);
/// Notices that may wait for a client to read them.
const NOTICES: usize = 16;
/// Capture sessions of which is known who opened them.
const OPENED: usize = 1024;

/// One MCP session; or one request that stands for itself.
pub(super) struct Client<G: Rooms> {
    pub(super) conversation: Conversation<G>,
    heard: Mutex<Instant>,
    /// To the stream that the client listens to.
    notices: Mutex<Option<mpsc::Sender<String>>>,
}

impl<G: Rooms> Client<G> {
    pub(super) fn new(conversation: Conversation<G>) -> Arc<Self> {
        Arc::new(Self {
            conversation,
            heard: Mutex::new(Instant::now()),
            notices: Mutex::default(),
        })
    }

    /// What the client's stream gets from now on: the last stream there is gets it all.
    pub(super) fn listen(&self) -> mpsc::Receiver<String> {
        let (sender, receiver) = mpsc::channel(NOTICES);
        *lock(&self.notices) = Some(sender);
        receiver
    }

    /// Sends the client a notification, if it listens and keeps up.
    pub(super) fn notify(&self, notice: &str) {
        if let Some(notices) = &*lock(&self.notices) {
            let _ = notices.try_send(notice.trim_end().to_owned());
        }
    }

    fn listens(&self) -> bool {
        lock(&self.notices)
            .as_ref()
            .is_some_and(|notices| !notices.is_closed())
    }
}

impl<G: Rooms> Drop for Client<G> {
    fn drop(&mut self) {
        self.conversation.close();
    }
}

/// All MCP sessions of a front, of a bounded number.
pub(super) struct Clients<G: Rooms> {
    limit: usize,
    sessions: Mutex<HashMap<String, Arc<Client<G>>>>,
    opened: Mutex<HashMap<SessionId, Weak<Client<G>>>>,
}

impl<G: Rooms> Clients<G> {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            sessions: Mutex::default(),
            opened: Mutex::default(),
        }
    }

    /// The client of an MCP session. Another user's is not there, as far as this one is told.
    pub(super) fn get(&self, id: &str, principal: &Principal) -> Result<Arc<Client<G>>, Refusal> {
        let sessions = lock(&self.sessions);
        let client = sessions
            .get(id)
            .filter(|client| client.conversation.caller.principal == *principal)
            .ok_or_else(|| {
                Refusal::new(
                    StatusCode::NOT_FOUND,
                    "there is no such session (any more): start again with initialize",
                )
            })?;
        *lock(&client.heard) = Instant::now();
        Ok(Arc::clone(client))
    }

    /// Whether one more MCP session can be taken; makes room if it has to.
    pub(super) fn room(&self) -> Result<(), Refusal> {
        let mut sessions = lock(&self.sessions);
        if sessions.len() < self.limit {
            return Ok(());
        }
        let idle = sessions
            .iter()
            .filter(|(_, client)| !client.listens() && Arc::strong_count(client) == 1)
            .map(|(id, client)| (lock(&client.heard).elapsed(), id))
            .max()
            .filter(|(idle, _)| *idle >= IDLE)
            .map(|(_, id)| id.clone());
        match idle.and_then(|id| sessions.remove(&id)) {
            Some(_) => Ok(()),
            None => Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many sessions are open: try again when one has ended",
            )),
        }
    }

    /// The server has given a client's MCP session this id.
    pub(super) fn insert(&self, id: &str, client: &Arc<Client<G>>) -> Result<(), Refusal> {
        if id.is_empty() || id.len() > ID || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Refusal::upstream("the server's session id cannot be one"));
        }
        self.room()?;
        let mut sessions = lock(&self.sessions);
        if sessions.contains_key(id) {
            return Err(Refusal::upstream(
                "the server gave a session the id of another one",
            ));
        }
        sessions.insert(id.to_owned(), Arc::clone(client));
        Ok(())
    }

    /// Sends a notification to every client of an MCP session that listens.
    pub(super) fn notify_all(&self, notice: &str) {
        for client in lock(&self.sessions).values() {
            client.notify(notice);
        }
    }

    pub(super) fn remove(&self, id: &str) {
        let gone = lock(&self.sessions).remove(id);
        drop(gone);
    }

    /// A capture session was opened for this client.
    pub(super) fn opened(&self, session: SessionId, client: &Arc<Client<G>>) {
        let mut opened = lock(&self.opened);
        if opened.len() >= OPENED {
            opened.retain(|_, client| client.strong_count() > 0);
        }
        if opened.len() < OPENED {
            opened.insert(session, Arc::downgrade(client));
        }
    }

    /// A capture session has ended: the client that it was opened for, if it is still there.
    pub(super) fn opener(&self, session: SessionId) -> Option<Arc<Client<G>>> {
        lock(&self.opened).remove(&session)?.upgrade()
    }
}
