//! Which session a stop call meant: servers give a capture a name of their own in the answer to
//! the call that started it, and want it back in the call that stops it.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    ops::RangeInclusive,
};

use serde_json::{Map, Value};

use crate::session::SessionId;

/// Shorter arguments name nothing, and neither do longer ones.
const NAME: RangeInclusive<usize> = 4..=1024;
/// Arguments that are looked at.
const NAMES: usize = 64;

/// Sessions that have ended and whose names are still known.
const ENDED: usize = 64;

/// What was said about the sessions when they started.
#[derive(Debug, Default)]
pub(super) struct Notes {
    texts: HashMap<SessionId, String>,
    /// The same of the last sessions that have ended, oldest first: a call to stop one of them
    /// means no other.
    ended: VecDeque<String>,
}

impl Notes {
    /// Keeps the beginning of what the server answered; forgets the sessions that are not live.
    pub(super) fn keep(
        &mut self,
        session: SessionId,
        mut text: String,
        limit: usize,
        live: &[SessionId],
    ) {
        text.truncate(text.floor_char_boundary(limit));
        text.shrink_to_fit();
        let gone = self.texts.keys().filter(|known| !live.contains(known));
        for gone in gone.copied().collect::<Vec<_>>() {
            self.forget(gone);
        }
        self.texts.insert(session, text);
    }

    /// The session has ended.
    pub(super) fn forget(&mut self, session: SessionId) {
        if let Some(text) = self.texts.remove(&session) {
            if self.ended.len() >= ENDED {
                self.ended.pop_front();
            }
            self.ended.push_back(text);
        }
    }

    /// Whether one of `names` was said of a session that is not live any more.
    pub(super) fn named_ended(&self, names: &[String], live: &[SessionId]) -> bool {
        let gone = self.texts.iter().filter(|(known, _)| !live.contains(known));
        let mut texts = gone.map(|(_, text)| text).chain(&self.ended);
        texts.any(|text| names.iter().any(|name| contains(text, name)))
    }

    /// The live sessions that `names` means: those whose text has the name that the fewest of
    /// them have. None if no text has any of the names.
    pub(super) fn named(&self, names: &[String], live: &[SessionId]) -> Vec<SessionId> {
        names
            .iter()
            .map(|name| {
                let sessions: Vec<SessionId> = live
                    .iter()
                    .copied()
                    .filter(|session| {
                        self.texts
                            .get(session)
                            .is_some_and(|text| contains(text, name))
                    })
                    .collect();
                (sessions, name.len())
            })
            .filter(|(sessions, _)| !sessions.is_empty())
            .min_by_key(|(sessions, length)| (sessions.len(), Reverse(*length)))
            .map(|(sessions, _)| sessions)
            .unwrap_or_default()
    }
}

/// Whether the text has the name, and not just as a part of a longer one: `capture_1` does not
/// mean `capture_10`.
fn contains(text: &str, name: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-');
    text.match_indices(name).any(|(at, found)| {
        let (before, after) = (text.get(..at), text.get(at + found.len()..));
        !part(before.and_then(|before| before.chars().next_back()))
            && !part(after.and_then(|after| after.chars().next()))
    })
}

/// The strings in a call's arguments that may be names.
pub(super) fn strings(arguments: &Map<String, Value>) -> Vec<String> {
    names(arguments, |value| value.as_str().map(str::to_owned))
}

/// The same, and numbers as they are written: a proxy may be known by its port.
pub(super) fn strings_and_numbers(arguments: &Map<String, Value>) -> Vec<String> {
    names(arguments, |value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}

fn names(arguments: &Map<String, Value>, read: fn(&Value) -> Option<String>) -> Vec<String> {
    fn collect(value: &Value, read: fn(&Value) -> Option<String>, into: &mut Vec<String>) {
        match value {
            Value::Array(values) => values.iter().for_each(|value| collect(value, read, into)),
            Value::Object(members) => {
                let values = members.values();
                values.for_each(|value| collect(value, read, into));
            }
            value if into.len() < NAMES => {
                into.extend(read(value).filter(|name| NAME.contains(&name.len())));
            }
            _ => {}
        }
    }
    let mut names = Vec::new();
    let values = arguments.values();
    values.for_each(|value| collect(value, read, &mut names));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: [SessionId; 3] = [SessionId(1), SessionId(2), SessionId(3)];

    fn notes() -> Notes {
        let mut notes = Notes::default();
        for (session, text) in LIVE.iter().zip([
            "Session ID: cap_1. Output: text",
            "Session ID: cap_10. Output: text",
            "Session ID: cap_1-b",
        ]) {
            notes.keep(*session, text.into(), 1024, &LIVE);
        }
        notes
    }

    #[test]
    fn stops_whole_name_is_matched() {
        let named = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            notes().named(&names, &LIVE)
        };
        assert_eq!(named(&["cap_10"]), [SessionId(2)]);
        assert_eq!(named(&["text", "cap_1-b", "tcp"]), [SessionId(3)]);
        assert_eq!(named(&["cap_1"]), [SessionId(1)]);
        assert_eq!(named(&["text", "cap_10"]), [SessionId(2)]);
        assert_eq!(named(&["text"]), [SessionId(1), SessionId(2)]);
    }

    #[test]
    fn stops_name_of_an_ended_session_is_known() {
        let names = ["cap_10".to_owned()];
        let mut notes = notes();
        assert!(!notes.named_ended(&names, &LIVE));
        // Ended, and its end not heard of yet; then heard of.
        assert!(notes.named_ended(&names, &[SessionId(1), SessionId(3)]));
        notes.forget(SessionId(2));
        let live = [SessionId(1), SessionId(3)];
        assert!(notes.named_ended(&names, &live));
        assert!(notes.named(&names, &live).is_empty());
        assert!(!notes.named_ended(&["cap_1".to_owned()], &live));
        for n in 0..ENDED + 1 {
            let session = SessionId(u32::try_from(n).unwrap() + 10);
            notes.keep(session, "x".into(), 1024, &live);
            notes.forget(session);
        }
        assert!(!notes.named_ended(&names, &live), "bounded");
    }

    #[test]
    fn stops_names_are_strings_of_any_depth_and_bounded_length() {
        let Value::Object(arguments) = serde_json::json!({
            "a": "abc", "b": ["abcd", 12345], "c": {"d": "efgh"}, "e": "x".repeat(2000),
        }) else {
            panic!("an object");
        };
        assert_eq!(strings(&arguments), ["abcd", "efgh"]);
        assert_eq!(strings_and_numbers(&arguments), ["abcd", "12345", "efgh"]);
    }

    #[test]
    fn stops_text_is_bounded_at_a_letter() {
        let mut notes = Notes::default();
        notes.keep(SessionId(1), "abcé".into(), 4, &LIVE);
        assert_eq!(notes.texts[&SessionId(1)], "abc");
    }

    #[test]
    fn stops_dead_session_is_forgotten() {
        let mut notes = notes();
        notes.keep(SessionId(3), "x".into(), 9, &[SessionId(3)]);
        assert_eq!(notes.texts.len(), 1);
    }
}
