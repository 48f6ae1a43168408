//! The operators' socket of this process, for as long as there is a desk.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::{sync::broadcast, task::JoinSet};

use super::{Event, desk::Inner, place, serve};
use crate::kernel::LocalSocket;

/// Events that a watcher may be behind.
const BEHIND: usize = 128;

/// The one of this process.
static SHARED: Mutex<Weak<Office>> = Mutex::new(Weak::new());

/// The socket, and whoever is asked there.
pub(super) struct Office {
    board: Arc<Board>,
    /// It ends with this.
    _serving: JoinSet<()>,
}

/// What conversations see of it.
pub(super) struct Board {
    desks: Mutex<Vec<Weak<Inner>>>,
    happened: broadcast::Sender<Event>,
}

impl Office {
    /// That of this process; the socket is made if there is none yet.
    pub(super) fn shared() -> io::Result<Arc<Self>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(office) = shared.upgrade() {
            return Ok(office);
        }
        let office = Self::open(Path::new(place::DIRECTORY))?;
        *shared = Arc::downgrade(&office);
        Ok(office)
    }

    /// One whose socket is in this directory. What killed agents left there is removed.
    pub(super) fn open(directory: &Path) -> io::Result<Arc<Self>> {
        let socket = place::socket(directory, std::process::id());
        let failed = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", socket.display()))
        };
        place::make(directory).map_err(failed)?;
        place::sweep_all(directory);
        let own = rustix::process::geteuid().as_raw();
        let socket = LocalSocket::bind(&socket, own).map_err(failed)?;
        let board = Arc::new(Board {
            desks: Mutex::default(),
            happened: broadcast::Sender::new(BEHIND),
        });
        let mut serving = JoinSet::new();
        serving.spawn(serve::serve(socket, Arc::clone(&board)));
        Ok(Arc::new(Self {
            board,
            _serving: serving,
        }))
    }

    pub(super) fn enter(&self, desk: &Arc<Inner>) {
        let mut desks = self.board.all();
        desks.retain(|desk| desk.strong_count() > 0);
        desks.push(Arc::downgrade(desk));
    }

    /// Tells whoever watches, if anybody does.
    pub(super) fn tell(&self, event: impl FnOnce() -> Event) {
        if self.board.happened.receiver_count() > 0 {
            // Who has left meanwhile wants to know nothing more.
            let _ = self.board.happened.send(event());
        }
    }
}

impl Board {
    pub(super) fn desks(&self) -> Vec<Arc<Inner>> {
        self.all().iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn watch(&self) -> broadcast::Receiver<Event> {
        self.happened.subscribe()
    }

    fn all(&self) -> MutexGuard<'_, Vec<Weak<Inner>>> {
        self.desks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
