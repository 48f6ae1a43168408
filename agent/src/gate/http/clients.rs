//! The clients of a front: who is in the middle of an MCP session, and what was opened for whom.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use hyper::StatusCode;
use tokio::sync::mpsc;

use super::{
    reception::Visitor,
    refusal::Refusal,
    shares::{Share, Shares},
    tether::Tether,
};
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
    /// What it hangs on.
    tether: Option<Arc<Tether>>,
    heard: Mutex<Instant>,
    /// To the stream that the client listens to.
    notices: Mutex<Option<mpsc::Sender<String>>>,
}

impl<G: Rooms> Client<G> {
    pub(super) fn new(conversation: Conversation<G>, visitor: &Visitor) -> Arc<Self> {
        Arc::new(Self {
            conversation,
            tether: visitor.tether.clone(),
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

/// An MCP session, and its place among all.
struct Seated<G: Rooms> {
    client: Arc<Client<G>>,
    _place: Share<Principal>,
}

/// A capture session: who opened it, if they are still there, and under which grant.
struct Opener<G: Rooms> {
    client: Weak<Client<G>>,
    tether: Option<Arc<Tether>>,
}

/// All MCP sessions of a front, of a bounded number.
pub(super) struct Clients<G: Rooms> {
    places: Arc<Shares<Principal>>,
    sessions: Mutex<HashMap<String, Seated<G>>>,
    opened: Mutex<HashMap<SessionId, Opener<G>>>,
}

impl<G: Rooms> Clients<G> {
    /// Room for this many MCP sessions at once.
    pub(super) fn new(most: usize) -> Self {
        Self {
            places: Shares::new(most),
            sessions: Mutex::default(),
            opened: Mutex::default(),
        }
    }

    /// The client of an MCP session. Another user's is not there, as far as this one is told.
    pub(super) fn get(&self, id: &str, principal: &Principal) -> Result<Arc<Client<G>>, Refusal> {
        let sessions = lock(&self.sessions);
        let client = sessions
            .get(id)
            .map(|seated| &seated.client)
            .filter(|client| client.conversation.caller.principal == *principal)
            .ok_or_else(Refusal::no_session)?;
        *lock(&client.heard) = Instant::now();
        Ok(Arc::clone(client))
    }

    /// A place for one more MCP session; makes room for it if it has to.
    pub(super) fn room(&self, principal: &Principal) -> Result<Share<Principal>, Refusal> {
        if let Some(place) = self.places.try_take(principal, 1) {
            return Ok(place);
        }
        let gone = {
            let mut sessions = lock(&self.sessions);
            let idle = sessions
                .iter()
                .map(|(id, seated)| (id, &seated.client))
                .filter(|(_, client)| !client.listens() && Arc::strong_count(client) == 1)
                .map(|(id, client)| (lock(&client.heard).elapsed(), id))
                .max()
                .filter(|(idle, _)| *idle >= IDLE)
                .map(|(_, id)| id.clone());
            idle.and_then(|id| sessions.remove(&id))
        };
        drop(gone);
        self.places.try_take(principal, 1).ok_or_else(|| {
            Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many sessions are open: try again when one has ended",
            )
        })
    }

    /// The server has given a client's MCP session this id.
    pub(super) fn insert(&self, id: &str, client: &Arc<Client<G>>) -> Result<(), Refusal> {
        if id.is_empty() || id.len() > ID || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Refusal::upstream("the server's session id cannot be one"));
        }
        let place = self.room(&client.conversation.caller.principal)?;
        let mut sessions = lock(&self.sessions);
        // Its grant may have ended since it was let in.
        if client.tether.as_ref().is_some_and(|tether| tether.is_cut()) {
            return Err(Refusal::unauthorized(Some("the grant has ended")));
        }
        if sessions.contains_key(id) {
            return Err(Refusal::upstream(
                "the server gave a session the id of another one",
            ));
        }
        sessions.insert(
            id.to_owned(),
            Seated {
                client: Arc::clone(client),
                _place: place,
            },
        );
        Ok(())
    }

    /// Takes the MCP sessions out that hang on a grant. Returns their ids, and the capture sessions
    /// that were opened under it.
    pub(super) fn ended(&self, grant: &str) -> (Vec<String>, Vec<SessionId>) {
        let hangs = |tether: &Option<Arc<Tether>>| {
            let grant_of = tether.as_ref().map(|tether| &**tether.grant());
            grant_of == Some(grant)
        };
        let mut gone = Vec::new();
        lock(&self.sessions).retain(|id, seated| {
            let over = hangs(&seated.client.tether);
            if over {
                gone.push((id.clone(), Arc::clone(&seated.client)));
            }
            !over
        });
        let opened = lock(&self.opened);
        let captures = opened.iter().filter(|(_, opener)| hangs(&opener.tether));
        let captures = captures.map(|(session, _)| *session).collect();
        (gone.into_iter().map(|(id, _)| id).collect(), captures)
    }

    /// Sends a notification to every client of an MCP session that listens.
    pub(super) fn notify_all(&self, notice: &str) {
        for seated in lock(&self.sessions).values() {
            seated.client.notify(notice);
        }
    }

    pub(super) fn remove(&self, id: &str) {
        let gone = lock(&self.sessions).remove(id);
        drop(gone);
    }

    /// A capture session was opened for this client. False if its grant has ended meanwhile.
    pub(super) fn opened(&self, session: SessionId, client: &Arc<Client<G>>) -> bool {
        let mut opened = lock(&self.opened);
        if opened.len() >= OPENED {
            opened.retain(|_, opener| opener.client.strong_count() > 0);
        }
        if opened.len() < OPENED {
            let opener = Opener {
                client: Arc::downgrade(client),
                tether: client.tether.clone(),
            };
            opened.insert(session, opener);
        }
        !client.tether.as_ref().is_some_and(|tether| tether.is_cut())
    }

    /// A capture session has ended: the client that it was opened for, if it is still there.
    pub(super) fn opener(&self, session: SessionId) -> Option<Arc<Client<G>>> {
        lock(&self.opened).remove(&session)?.client.upgrade()
    }
}
