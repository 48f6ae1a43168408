//! What was begun under a grant ends with the grant, within a second.

use std::{
    collections::HashMap,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::{Body as HttpBody, Bytes, Frame};
use tokio::{sync::watch, time::sleep};

use super::refusal::Body;
use crate::{gate::conversation::lock, principal::Grants};

/// How often grants are looked at under which something goes on.
const LOOK: Duration = Duration::from_millis(250);

/// Held by all that goes on under one grant.
#[derive(Debug)]
pub(super) struct Tether {
    grant: Arc<str>,
    cut: watch::Sender<bool>,
}

impl Tether {
    /// Waits until the grant has ended.
    pub(super) fn cut(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut cut = self.cut.subscribe();
        async move {
            // Nobody is left who could say so: it is over.
            let _ = cut.wait_for(|cut| *cut).await;
        }
    }

    /// The grant's id.
    pub(super) fn grant(&self) -> &Arc<str> {
        &self.grant
    }

    /// Whether the grant has ended.
    pub(super) fn is_cut(&self) -> bool {
        *self.cut.borrow()
    }
}

/// The tethers of all grants under which something goes on.
#[derive(Debug)]
pub(super) struct Tethers {
    grants: Arc<Grants>,
    server: Arc<str>,
    live: Mutex<HashMap<Arc<str>, Weak<Tether>>>,
}

impl Tethers {
    pub(super) fn new(grants: Arc<Grants>, server: Arc<str>) -> Self {
        Self {
            grants,
            server,
            live: Mutex::default(),
        }
    }

    /// The tether of a grant, by its id.
    pub(super) fn of(&self, grant: &Arc<str>) -> Arc<Tether> {
        let mut live = lock(&self.live);
        if let Some(tether) = live.get(grant).and_then(Weak::upgrade) {
            return tether;
        }
        let tether = Arc::new(Tether {
            grant: Arc::clone(grant),
            cut: watch::Sender::new(false),
        });
        live.insert(Arc::clone(grant), Arc::downgrade(&tether));
        tether
    }

    /// Cuts the tethers of grants that end, and tells of each.
    pub(super) async fn watch(&self, ended: impl Fn(&str)) {
        loop {
            sleep(LOOK).await;
            for tether in self.look() {
                tether.cut.send_replace(true);
                ended(&tether.grant);
            }
        }
    }

    /// The tethers that are to be cut. One whose grant cannot be looked up is among them.
    fn look(&self) -> Vec<Arc<Tether>> {
        let mut over = Vec::new();
        lock(&self.live).retain(|grant, tether| {
            let Some(tether) = tether.upgrade() else {
                return false;
            };
            match self.grants.recheck(grant, &self.server) {
                Ok(_) => true,
                Err(why) => {
                    tracing::info!(grant = &**grant, %why, "what goes on under a grant ends");
                    over.push(tether);
                    false
                }
            }
        });
        over
    }
}

/// A stream that ends with its grant, and holds what it occupies until then.
pub(super) struct Tied<T> {
    body: Body,
    cut: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _tether: Option<Arc<Tether>>,
    _held: T,
}

impl<T> Tied<T> {
    pub(super) fn new(body: Body, tether: Option<Arc<Tether>>, held: T) -> Self {
        Self {
            body,
            cut: tether.as_ref().map(|tether| Box::pin(tether.cut()) as _),
            _tether: tether,
            _held: held,
        }
    }
}

impl<T: Unpin> HttpBody for Tied<T> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if let Some(cut) = &mut this.cut
            && cut.as_mut().poll(context).is_ready()
        {
            this.cut = None;
            this.body = super::refusal::full(Bytes::new());
        }
        Pin::new(&mut this.body).poll_frame(context)
    }
}
