//! What becomes of a request.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::stream;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Frame},
    header::{
        AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue,
        REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    },
};
use serde::Deserialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::{Interval, MissedTickBehavior, interval},
};

use super::{
    super::{feed, top::Desk},
    digest,
    news::{Board, EVERY},
};
use crate::telemetry::is_local;

/// Bytes of what is to be done.
const LONGEST: usize = 4 << 10;
/// Pages that are told the news at once.
const PAGES: usize = 8;

/// Nothing but what comes from here, and nothing around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const EVENTS: &str = "text/event-stream";

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Who lets requests in, and does what they ask for.
pub(super) struct Door {
    /// Of the token.
    digest: [u8; 32],
    board: Arc<Board>,
    desk: Arc<Mutex<Box<dyn Desk>>>,
    sudo_uid: Option<u32>,
    pages: Arc<Semaphore>,
}

/// What is to be done.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    session: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answered {
    id: String,
}

impl Door {
    pub(super) fn new(
        digest: [u8; 32],
        board: Arc<Board>,
        desk: impl Desk + 'static,
        sudo_uid: Option<u32>,
    ) -> Self {
        Self {
            digest,
            board,
            desk: Arc::new(Mutex::new(Box::new(desk))),
            sudo_uid,
            pages: Arc::new(Semaphore::new(PAGES)),
        }
    }

    /// Answers one.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes> + Send,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        if !request.headers().get(HOST).is_some_and(is_local) {
            // A web page can have its own name lead here. It is told nothing.
            return told(StatusCode::FORBIDDEN, "not a name of this host");
        }
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::GET, "/") => text(StatusCode::OK, HTML, include_str!("page.html")),
            (&Method::GET, "/page.css") => text(StatusCode::OK, CSS, include_str!("page.css")),
            (&Method::GET, "/page.js") => text(StatusCode::OK, SCRIPT, include_str!("page.js")),
            (&Method::GET, "/news") | (&Method::POST, "/stop" | "/approve" | "/deny") => {
                if !self.lets_in(&request) {
                    let why = "the token is missing, or not good here: open the address that capwarden has printed";
                    return told(StatusCode::UNAUTHORIZED, why);
                }
                match path.as_str() {
                    "/news" => self.news(),
                    path => self.act(path, request).await,
                }
            }
            _ => told(StatusCode::NOT_FOUND, "there is nothing here"),
        }
    }

    /// There is no seat for one more who has the token.
    pub(super) fn full() -> Answer {
        let why = "too many connections are open already; close a page";
        told(StatusCode::SERVICE_UNAVAILABLE, why)
    }

    /// Takes as long for a wrong token as for the right one.
    pub(super) fn lets_in<B>(&self, request: &Request<B>) -> bool {
        let shown = request.headers().get(AUTHORIZATION);
        let shown = shown.and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.strip_prefix("Bearer "));
        let Some(shown) = shown else {
            return false;
        };
        let pairs = digest(shown).into_iter().zip(self.digest);
        pairs.fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
    }

    /// A stream of events, until the page is closed.
    fn news(&self) -> Answer {
        let Ok(seat) = Arc::clone(&self.pages).try_acquire_owned() else {
            let why = format!("{PAGES} pages are open already; close one");
            return told(StatusCode::SERVICE_UNAVAILABLE, &why);
        };
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let told = Told {
            board: Arc::clone(&self.board),
            desk: Arc::clone(&self.desk),
            ticks,
            _seat: seat,
        };
        let events = stream::unfold(told, |mut told| async move {
            told.ticks.tick().await;
            let event = told.next().await;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(event))), told))
        });
        response(
            StatusCode::OK,
            EVENTS,
            StreamBody::new(events).boxed_unsync(),
        )
    }

    async fn act<B>(&self, path: &str, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes> + Send,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let body = Limited::new(request.into_body(), LONGEST).collect().await;
        let Ok(body) = body else {
            return told(StatusCode::PAYLOAD_TOO_LARGE, "that is too much");
        };
        let body = body.to_bytes();
        let wrong = |error: serde_json::Error| {
            told(
                StatusCode::BAD_REQUEST,
                &format!("that is no request: {error}"),
            )
        };
        let done = if path == "/stop" {
            let stop: Stop = match serde_json::from_slice(&body) {
                Ok(stop) => stop,
                Err(error) => return wrong(error),
            };
            let Some(pid) = self.board.process_of(&stop.session) else {
                return told(StatusCode::NOT_FOUND, "that session has ended");
            };
            let sudo_uid = self.sudo_uid;
            spawn_blocking(move || feed::stop(pid, &stop.session, "stopped on the page", sudo_uid))
                .await
        } else {
            let answered: Answered = match serde_json::from_slice(&body) {
                Ok(answered) => answered,
                Err(error) => return wrong(error),
            };
            let (desk, approves) = (Arc::clone(&self.desk), path == "/approve");
            spawn_blocking(move || {
                let mut desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
                match approves {
                    true => desk.approve(&answered.id),
                    false => desk.deny(&answered.id),
                }
            })
            .await
        };
        match done {
            Ok(Ok(text)) => told(StatusCode::OK, &text),
            Ok(Err(why)) => told(StatusCode::CONFLICT, &why),
            Err(error) => told(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }
}

/// What a page is told from.
struct Told {
    board: Arc<Board>,
    desk: Arc<Mutex<Box<dyn Desk>>>,
    ticks: Interval,
    _seat: OwnedSemaphorePermit,
}

impl Told {
    async fn next(&self) -> String {
        let desk = Arc::clone(&self.desk);
        let waiting = spawn_blocking(move || {
            let mut desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
            desk.waiting()
        });
        let waiting = waiting.await.unwrap_or_else(|error| Err(error.to_string()));
        self.board.event(&waiting)
    }
}

fn told(status: StatusCode, words: &str) -> Answer {
    text(status, PLAIN, words)
}

fn text(status: StatusCode, kind: &'static str, text: &str) -> Answer {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes()));
    response(status, kind, body.boxed_unsync())
}

fn response(
    status: StatusCode,
    kind: &'static str,
    body: UnsyncBoxBody<Bytes, Infallible>,
) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
