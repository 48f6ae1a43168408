//! Requests of several clients on one wire: their ids, and what is named after them, are replaced
//! by numbers on the way to the server, and put back on the way to the client.

use crate::gate::{
    envelope::{Envelope, Id},
    json::Members,
    splice,
};

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// What tells of a request's progress.
pub(super) const PROGRESS: &str = "notifications/progress";
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// What a request had in place of its number.
#[derive(Debug)]
pub(super) struct Renumbered {
    number: String,
    id: String,
    progress: Option<String>,
    logs: bool,
    lists: bool,
}

/// How a notification says which request it is about: by this JSON, a number.
pub(super) enum Subject<'a> {
    /// It tells of its progress.
    Progress(&'a str),
    /// It belongs to what was subscribed to with it.
    Subscription(&'a str),
}

impl<'a> Subject<'a> {
    /// What a notification with these parameters is about, if it is about one request.
    pub(super) fn of(method: &str, params: &Members<'a>) -> Option<Self> {
        match method {
            PROGRESS => params.get("progressToken").map(Self::Progress),
            _ => subscription(params).map(Self::Subscription),
        }
    }

    /// The id that the server knows the request by; it may say it as a string, too.
    pub(super) fn request(&self) -> Option<Id> {
        let (Self::Progress(named) | Self::Subscription(named)) = self;
        Id::parse(named.trim_matches('"'))
    }
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
        let lists = envelope.method.as_deref() == Some("tools/list");
        let text = Splices::new(text)
            .put(id, &number)?
            .put_some(progress, &number)?
            .done()?;
        let renumbered = Self {
            number,
            id: (*id).to_owned(),
            progress: progress.map(str::to_owned),
            logs,
            lists,
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

    /// A notification that is about this request, as the client knows it.
    pub(super) fn notification(&self, text: &str, subject: &Subject<'_>) -> Option<String> {
        let (named, own) = match subject {
            Subject::Progress(named) => (named, self.progress.as_ref()?),
            Subject::Subscription(named) => (named, &self.id),
        };
        splice::replace(text, named, own)
    }

    /// The id that the client knows.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Whether it wants to hear what the server logs.
    pub(super) fn wants_logs(&self) -> bool {
        self.logs
    }

    /// Whether it asks which tools there are.
    pub(super) fn lists_tools(&self) -> bool {
        self.lists
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
    use crate::gate::json;

    fn renumbered(text: &str) -> (Renumbered, String) {
        let envelope = Envelope::parse(text.as_bytes()).unwrap();
        Renumbered::of(text, &envelope, 42).unwrap()
    }

    /// What a request is told, if it is for this one.
    fn told(request: &Renumbered, text: &str) -> Option<String> {
        let members = Members::parse(text).unwrap();
        let method = members.get("method").and_then(json::string).unwrap();
        let params = Members::parse(members.get("params").unwrap()).unwrap();
        let subject = Subject::of(&method, &params)?;
        let mine = subject.request() == request.wire_id();
        mine.then(|| request.notification(text, &subject))?
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
        let told = |text: &str| told(&request, text);
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
        let told = |text: &str| told(&listen, text);
        assert_eq!(
            told(r#"{"method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"42"}}}"#),
            Some(r#"{"method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"s"}}}"#.to_owned())
        );
        assert!(listen.wants_logs() && !listen.lists_tools());
        let answer = r#"{"id":42,"result":{"_meta":{"io.modelcontextprotocol/subscriptionId":42},"resultType":"complete"}}"#;
        assert_eq!(
            listen
                .answer(answer, &Members::parse(answer).unwrap())
                .unwrap(),
            r#"{"id":"s","result":{"_meta":{"io.modelcontextprotocol/subscriptionId":"s"},"resultType":"complete"}}"#
        );
    }
}
