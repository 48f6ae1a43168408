//! Requests of several clients on one wire: their ids, and what is named after them, are replaced
//! by numbers on the way to the server, and put back on the way to the client.

use crate::gate::{
    envelope::{Envelope, Id},
    json::{self, Members},
    splice,
};

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// What a request had in place of its number.
#[derive(Debug)]
pub(super) struct Renumbered {
    number: String,
    id: String,
    progress: Option<String>,
    /// It wants to hear what the server logs.
    logs: bool,
}

impl Renumbered {
    /// A request with a number in place of its id and of its progress token.
    pub(super) fn of(text: &str, envelope: &Envelope<'_>, number: u64) -> Option<(Self, String)> {
        let (_, id) = envelope.id.as_ref()?;
        let number = number.to_string();
        let params = envelope
            .params
            .and_then(|params| Members::parse(params).ok());
        let meta = params.and_then(|params| Members::parse(params.get("_meta")?).ok());
        let member = |key: &str| meta.as_ref().and_then(|meta| meta.get(key));
        let progress = member("progressToken");
        let logs = member(LOG_LEVEL).is_some();
        let text = Splices::new(text)
            .put(id, &number)?
            .put_some(progress, &number)?
            .done()?;
        let renumbered = Self {
            number,
            id: (*id).to_owned(),
            progress: progress.map(str::to_owned),
            logs,
        };
        Some((renumbered, text))
    }

    /// The id that the server knows.
    pub(super) fn wire_id(&self) -> Option<Id> {
        Id::parse(&self.number)
    }

    /// The server's answer, as the client knows the request.
    pub(super) fn answer(&self, text: &str, members: &Members<'_>) -> Option<String> {
        let result = members.get("result");
        let subscription = result.and_then(|result| subscription(&Members::parse(result).ok()?));
        let mine = subscription.filter(|named| self.is_named(named));
        Splices::new(text)
            .put(members.get("id")?, &self.id)?
            .put_some(mine, &self.id)?
            .done()
    }

    /// A notification, if it is for this request.
    pub(super) fn notification(&self, text: &str, members: &Members<'_>) -> Option<String> {
        let method = members.get("method").and_then(json::string)?;
        let params = Members::parse(members.get("params")?).ok()?;
        let (named, own) = match &*method {
            "notifications/progress" => (params.get("progressToken")?, self.progress.as_ref()?),
            _ => match subscription(&params) {
                Some(named) => (named, &self.id),
                None if method == "notifications/message" && self.logs => {
                    return Some(text.to_owned());
                }
                None => return None,
            },
        };
        match self.is_named(named) {
            true => splice::replace(text, named, own),
            false => None,
        }
    }

    /// What takes the request back.
    pub(super) fn cancellation(&self) -> String {
        let number = &self.number;
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number}}}}}"#
        )
    }

    /// Whether that is the number; as a string too, which some servers make of it.
    fn is_named(&self, named: &str) -> bool {
        named.trim_matches('"') == self.number
    }
}

/// The subscription that `_meta` names.
fn subscription<'a>(members: &Members<'a>) -> Option<&'a str> {
    Members::parse(members.get("_meta")?)
        .ok()?
        .get(SUBSCRIPTION)
}

/// Several parts of a text that are replaced at once.
struct Splices<'a> {
    text: &'a str,
    parts: Vec<(std::ops::Range<usize>, String)>,
}

impl<'a> Splices<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            parts: Vec::new(),
        }
    }

    fn put(mut self, old: &str, new: &str) -> Option<Self> {
        let place = splice::span(self.text, old)?;
        self.parts.push((place, new.to_owned()));
        Some(self)
    }

    fn put_some(self, old: Option<&str>, new: &str) -> Option<Self> {
        match old {
            Some(old) => self.put(old, new),
            None => Some(self),
        }
    }

    fn done(mut self) -> Option<String> {
        self.parts.sort_by_key(|(place, _)| place.start);
        let mut edited = String::with_capacity(self.text.len() + 32);
        let mut at = 0;
        for (place, new) in &self.parts {
            edited.push_str(self.text.get(at..place.start)?);
            edited.push_str(new);
            at = place.end;
        }
        edited.push_str(self.text.get(at..)?);
        Some(edited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renumbered(text: &str) -> (Renumbered, String) {
        let envelope = Envelope::parse(text.as_bytes()).unwrap();
        Renumbered::of(text, &envelope, 42).unwrap()
    }

    #[test]
    fn ids_are_replaced_and_put_back_and_every_other_byte_stays() {
        let (request, sent) = renumbered(
            r#"{ "method":"tools/call","params":{"_meta":{"progressToken":"p\u0031", "x":1}, "name":"e"},"jsonrpc":"2.0","id" : "a\u0062" }"#,
        );
        assert_eq!(
            sent,
            r#"{ "method":"tools/call","params":{"_meta":{"progressToken":42, "x":1}, "name":"e"},"jsonrpc":"2.0","id" : 42 }"#
        );
        let told = |text: &str| request.notification(text, &Members::parse(text).unwrap());
        assert_eq!(
            told(r#"{"method":"notifications/progress","params":{"progressToken": 42,"progress":1}}"#),
            Some(r#"{"method":"notifications/progress","params":{"progressToken": "p\u0031","progress":1}}"#.to_owned())
        );
        let others =
            r#"{"method":"notifications/progress","params":{"progressToken":43,"progress":1}}"#;
        assert_eq!(told(others), None);
        assert_eq!(
            told(r#"{"method":"notifications/message","params":{"data":1}}"#),
            None
        );
        let answer = r#"{"result":{"b":[1.50e2]}, "id":42,"jsonrpc":"2.0"}"#;
        assert_eq!(
            request
                .answer(answer, &Members::parse(answer).unwrap())
                .unwrap(),
            r#"{"result":{"b":[1.50e2]}, "id":"a\u0062","jsonrpc":"2.0"}"#
        );
    }

    #[test]
    fn subscriptions_are_named_after_their_request() {
        let (listen, _) = renumbered(
            r#"{"jsonrpc":"2.0","id":"s","method":"subscriptions/listen","params":{"_meta":{"io.modelcontextprotocol/logLevel":"info"}}}"#,
        );
        let told = |text: &str| listen.notification(text, &Members::parse(text).unwrap());
        assert_eq!(
            told(r#"{"method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"42"}}}"#),
            Some(r#"{"method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"s"}}}"#.to_owned())
        );
        assert!(told(r#"{"method":"notifications/message","params":{"data":1}}"#).is_some());
        let answer = r#"{"id":42,"result":{"_meta":{"io.modelcontextprotocol/subscriptionId":42},"resultType":"complete"}}"#;
        assert_eq!(
            listen
                .answer(answer, &Members::parse(answer).unwrap())
                .unwrap(),
            r#"{"id":"s","result":{"_meta":{"io.modelcontextprotocol/subscriptionId":"s"},"resultType":"complete"}}"#
        );
    }
}
