//! Hears every agent of the host, those that come later too.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::{
    AskError, Conversation, Line, Request,
    client::{agent, agents_but},
};

/// How often agents are to say how it stands, in milliseconds.
const EVERY: u64 = 250;
/// How often it is looked for agents that have come.
const LOOK: Duration = Duration::from_secs(1);

/// Something that was heard of an agent's process.
pub(super) enum Heard {
    /// It says this.
    Line(u32, Line),
    /// It has gone, or cannot be heard any more.
    Gone(u32),
}

/// Who is heard already.
type Known = Arc<Mutex<BTreeSet<u32>>>;

/// Hears agents from now on, on threads of their own, for as long as `tell` says that somebody listens.
pub(super) fn start(tell: impl Fn(Heard) -> bool + Clone + Send + 'static) -> Result<(), AskError> {
    let known = Known::default();
    find(&known, &tell)?;
    thread::spawn(move || {
        loop {
            thread::sleep(LOOK);
            // It could be looked a moment ago, and can again.
            let _ = find(&known, &tell);
        }
    });
    Ok(())
}

/// Hears every agent that is not heard yet.
fn find(
    known: &Known,
    tell: &(impl Fn(Heard) -> bool + Clone + Send + 'static),
) -> Result<(), AskError> {
    let mut set = lock(known);
    for agent in agents_but(&set)?.there {
        let pid = agent.pid();
        set.insert(pid);
        let (known, tell) = (Arc::clone(known), tell.clone());
        thread::spawn(move || {
            hear(agent, &tell);
            lock(&known).remove(&pid);
            tell(Heard::Gone(pid));
        });
    }
    Ok(())
}

fn lock(known: &Known) -> MutexGuard<'_, BTreeSet<u32>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes on what an agent says, until it says nothing more.
fn hear(mut agent: Conversation, tell: &impl Fn(Heard) -> bool) {
    if agent.ask(&Request::Watch { every_ms: EVERY }).is_err() {
        return;
    }
    while let Ok(line) = agent.hear() {
        if !tell(Heard::Line(agent.pid(), line)) {
            return;
        }
    }
}

/// Ends a session of an agent's process, and says how it has ended, or why it may not have.
pub(super) fn stop(pid: u32, id: &str, why: &str, sudo_uid: Option<u32>) -> Result<String, String> {
    let bad = |why: &str| format!("{id} may be open still: {why}");
    let mut agent = agent(pid).map_err(|error| bad(&error.to_string()))?;
    let request = Request::Stop {
        sessions: vec![id.to_owned()],
        all: false,
        why: Some(why.to_owned()),
        sudo_uid,
    };
    agent
        .ask(&request)
        .map_err(|error| bad(&error.to_string()))?;
    loop {
        match agent.hear() {
            Ok(Line::Ended(ended)) => {
                return Ok(format!("{} ended: {}", ended.short_id(), ended.text));
            }
            Ok(Line::Refused(why)) => return Err(bad(&why)),
            Ok(Line::Done {}) => return Err(bad("nothing was said of its end")),
            Ok(_) => {}
            Err(error) => return Err(bad(&error.to_string())),
        }
    }
}
