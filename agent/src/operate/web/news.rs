//! What goes on, as the page is told of it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use serde_json::Value;

use super::super::{
    AskError, Event, Live,
    feed::{self, Heard},
    top::{Top, Waiting},
};
use crate::audit::{visible, visible_json};

/// How often a page is told.
pub(super) const EVERY: Duration = Duration::from_millis(500);
/// Denials that it is told of.
const DENIALS: usize = 20;

/// What was heard of all agents.
#[derive(Default)]
pub(super) struct Board(Mutex<Top>);

/// One picture of it.
#[derive(Serialize)]
struct News<'a> {
    sessions: Vec<Shown<'a>>,
    servers: usize,
    /// Processes of agents, each with one server or many.
    agents: usize,
    denials: Vec<&'a Event>,
    waiting: &'a [Waiting],
    /// Why it is not known which calls wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<&'a str>,
}

/// A session as the page is told of it.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    live: &'a Live,
    /// Whose it is, in the words of `sessions`.
    by: String,
}

impl Board {
    /// Hears all agents from now on, for as long as this is kept.
    pub(super) fn follow(self: &Arc<Self>) -> Result<(), AskError> {
        let board = Arc::downgrade(self);
        feed::start(move |heard| {
            let Some(board) = board.upgrade() else {
                return false;
            };
            let mut top = board.top();
            match heard {
                Heard::Line(pid, line) => top.hear(pid, line),
                Heard::Gone(pid) => top.gone(pid),
            }
            true
        })
    }

    /// The process of a session's agent.
    pub(super) fn process_of(&self, session: &str) -> Option<u32> {
        self.top().row(session).map(|row| row.live.pid)
    }

    /// An event of a stream: one line of JSON.
    pub(super) fn event(&self, waiting: &Result<Vec<Waiting>, String>) -> String {
        let top = self.top();
        let (_, servers, agents) = top.counts();
        let sessions = top.rows().into_iter().map(|row| Shown {
            live: &row.live,
            by: row.live.agent_words(),
        });
        let news = News {
            sessions: sessions.collect(),
            servers,
            agents,
            denials: top.denials().take(DENIALS).collect(),
            waiting: waiting.as_deref().unwrap_or_default(),
            unread: waiting.as_ref().err().map(String::as_str),
        };
        // It holds nothing that JSON cannot.
        let mut news = serde_json::to_value(&news).unwrap_or_default();
        show(&mut news);
        let json = news.to_string();
        format!("data: {json}\n\n")
    }

    pub(super) fn top(&self) -> MutexGuard<'_, Top> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has every text show what is in it: what is invisible, or turns the direction of writing, is
/// written out, so that whoever approves reads what they approve.
fn show(value: &mut Value) {
    match value {
        Value::String(text) => *text = visible(text),
        Value::Array(items) => items.iter_mut().for_each(show),
        Value::Object(fields) => {
            // What is JSON itself is written as JSON writes it.
            if let Some(Value::String(arguments)) = fields.get_mut("arguments") {
                *arguments = visible_json(arguments);
            }
            fields.values_mut().for_each(show);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
