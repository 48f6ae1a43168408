//! From the server to the client.

use tokio::io::AsyncWrite;

use super::{
    book::{CaptureFlight, Flight, Request},
    captures::Captures,
    envelope::Id,
    events::{AnswerEvent, CallEnd, Decide, GateEvent, Observer, Side},
    json::{self, Members},
    pump::{Shared, noted_text},
    reply, splice, tools,
};
use crate::session::{EndReason, SessionId};

/// The type of a result that asks for input instead of giving an answer.
const INPUT_REQUIRED: &str = "input_required";
/// The key of a result that tells of a tool's failure.
const IS_ERROR: &str = "isError";

/// A message of the server that answers something.
struct Answer<'a> {
    text: &'a str,
    id: &'a str,
    result: Option<&'a str>,
    failed: bool,
}

impl Answer<'_> {
    /// How the call ended that it answers.
    fn end(&self) -> CallEnd {
        if self.failed {
            return CallEnd::RpcError;
        }
        // Few results say either, and it takes time to look into one.
        if !self.text.contains(INPUT_REQUIRED) && !self.text.contains(IS_ERROR) {
            return CallEnd::Answered;
        }
        match self.result.and_then(|result| Members::parse(result).ok()) {
            Some(result) if wants_input(&result) => CallEnd::InputRequired,
            Some(result) if says_error(&result) => CallEnd::ToolFailed,
            _ => CallEnd::Answered,
        }
    }
}

/// What goes to the client.
#[derive(Default)]
struct Outgoing {
    /// In place of the server's own text.
    edited: Option<String>,
    /// After it.
    notice: Option<String>,
}

impl<P, C, O, CO, SI> Shared<P, C, O, CO, SI>
where
    P: Decide,
    C: Captures,
    O: Observer + ?Sized,
    CO: AsyncWrite + Unpin + Send + 'static,
    SI: AsyncWrite + Unpin + Send + 'static,
{
    pub(super) async fn server_line(&self, line: &[u8]) {
        let trimmed = line.trim_ascii();
        let text = match str::from_utf8(line) {
            _ if trimmed.is_empty() => return,
            Ok(text) => text,
            Err(_) => return self.noise(line, "the line is not valid UTF-8"),
        };
        match trimmed.first() {
            Some(b'{') => self.message(text).await,
            // A batch, of the one revision that had them: its messages go on one by one, so that
            // no answer escapes.
            Some(b'[') => match json::elements(text) {
                Some(messages) => {
                    for message in messages {
                        // A batch of junk must not keep the client from being heard.
                        tokio::task::yield_now().await;
                        self.message(message).await;
                    }
                }
                None => self.noise(line, "the line is not JSON"),
            },
            _ => self.noise(line, "the line is not JSON"),
        }
    }

    fn noise(&self, line: &[u8], why: &str) {
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        self.dropped(Side::Server, length, why, line);
    }

    async fn message(&self, text: &str) {
        let Ok(members) = Members::parse(text) else {
            return self.noise(text.as_bytes(), "the line is not a JSON object");
        };
        if members.repeated().is_some() {
            return self.noise(text.as_bytes(), "a key of the message stands twice");
        }
        let (result, error) = (members.get("result"), members.get("error"));
        if result.is_none() && error.is_none() {
            return self.tell(text.as_bytes()).await;
        }
        let id = members.get("id").unwrap_or("null");
        let settled = Id::parse(id).and_then(|id| self.book().answered(&id));
        let answer = Answer {
            text,
            id,
            result,
            failed: error.is_some(),
        };
        let handshake = matches!(
            settled,
            Some(Request {
                flight: Flight::Initialize,
                ..
            })
        );
        let outgoing = self.answer(&answer, settled);
        match outgoing.edited {
            Some(edited) => self.tell(edited.as_bytes()).await,
            None => self.tell(text.as_bytes()).await,
        }
        if handshake {
            self.ready.send_replace(true);
        }
        if let Some(notice) = outgoing.notice {
            self.tell(notice.as_bytes()).await;
        }
    }

    fn answer(&self, answer: &Answer<'_>, settled: Option<Request<P::Ticket>>) -> Outgoing {
        let Some(Request { flight, cancelled }) = settled else {
            // Nothing was asked, yet it may be a list of tools all the same.
            return self.tool_list(answer);
        };
        match flight {
            Flight::Passing | Flight::Initialize | Flight::Opening => Outgoing::default(),
            Flight::ToolList => self.tool_list(answer),
            Flight::Call(ticket) => {
                self.gate.policy.settle(ticket, answer.end());
                self.answered(answer, None, Vec::new());
                Outgoing::default()
            }
            // Its session ended when the call was cancelled.
            Flight::Capture(capture) if cancelled => {
                self.gate.policy.settle(capture.ticket, answer.end());
                Outgoing::default()
            }
            Flight::Capture(capture) => self.capture_answer(answer, *capture),
            Flight::Ending(names, ticket) => {
                self.gate.policy.settle(ticket, answer.end());
                let ended = self.stop_answer(answer, &names);
                self.answered(answer, None, ended);
                Outgoing::default()
            }
        }
    }

    fn answered(&self, answer: &Answer<'_>, opened: Option<SessionId>, ended: Vec<SessionId>) {
        self.observe(GateEvent::Answer(AnswerEvent {
            connection: self.gate.caller.connection,
            id: answer.id.to_owned(),
            failed: answer.failed,
            opened,
            ended,
        }));
    }

    fn tool_list(&self, answer: &Answer<'_>) -> Outgoing {
        let edited = answer.result.and_then(|result| {
            tools::filter(answer.text, result, &*self.gate.policy, &mut self.schemas())
        });
        Outgoing {
            edited,
            notice: None,
        }
    }

    /// The answer to a call that opened a session.
    fn capture_answer(&self, answer: &Answer<'_>, capture: CaptureFlight<P::Ticket>) -> Outgoing {
        let session = capture.opened.session;
        let captures = &self.gate.captures;
        captures.replied(session);
        self.gate.policy.settle(capture.ticket, answer.end());
        let result = answer
            .result
            .filter(|_| !answer.failed)
            .and_then(|result| Members::parse(result).ok());
        // A server that wants input has not begun: the client will send the call again, as a
        // new request with a session of its own.
        let Some(result) = result.filter(|result| !wants_input(result)) else {
            captures.end(session, EndReason::CallFailed);
            self.answered(answer, Some(session), vec![session]);
            return Outgoing::default();
        };
        let live = captures.live();
        self.notes()
            .keep(session, spoken(&result), noted_text(), &live);
        self.answered(answer, Some(session), Vec::new());

        let granted = reply::granted(&capture.opened, &capture.changes);
        let edited = result
            .get("content")
            .filter(|_| result.repeated().is_none())
            .filter(|content| content.starts_with('['))
            .and_then(|content| {
                let item = reply::granted_item(&granted);
                let with = splice::append_element(content, &item)?;
                splice::replace(answer.text, content, &with)
            });
        let notice = edited
            .is_none()
            .then(|| reply::granted_notice(&capture.opened, &granted));
        Outgoing { edited, notice }
    }

    /// The answer to a call that ends captures: ends the session that it meant.
    fn stop_answer(&self, answer: &Answer<'_>, names: &[String]) -> Vec<SessionId> {
        let result = answer.result.and_then(|result| Members::parse(result).ok());
        let refused = result.as_ref().is_some_and(says_error);
        if answer.failed || result.as_ref().is_some_and(wants_input) {
            return Vec::new();
        }
        let meant = self.meant(names, !refused);
        // Several: the name is too common to mean one. The server stops its own process, and the
        // session ends with that.
        if meant.len() > 1 {
            tracing::info!(?meant, "a stop call could mean several sessions");
            return Vec::new();
        }
        for session in &meant {
            self.gate.captures.end(*session, EndReason::StopCall);
        }
        meant
    }

    /// The live sessions that a stop call with these names means; `guess` at the only one there is
    /// if no name is known, not even as that of a session which has ended.
    pub(super) fn meant(&self, names: &[String], guess: bool) -> Vec<SessionId> {
        let live = self.gate.captures.live();
        let notes = self.notes();
        let named = notes.named(names, &live);
        match live.as_slice() {
            [only] if named.is_empty() && guess && !notes.named_ended(names, &live) => vec![*only],
            _ => named,
        }
    }
}

fn says_error(result: &Members<'_>) -> bool {
    result.get(IS_ERROR) == Some("true")
}

fn wants_input(result: &Members<'_>) -> bool {
    result
        .get("resultType")
        .and_then(json::string)
        .is_some_and(|kind| kind == INPUT_REQUIRED)
}

/// The text that a result shows.
fn spoken(result: &Members<'_>) -> String {
    let mut spoken = String::new();
    let items = result
        .get("content")
        .and_then(json::elements)
        .unwrap_or_default();
    for item in items {
        let text = Members::parse(item)
            .ok()
            .and_then(|item| item.get("text"))
            .and_then(json::string);
        if let Some(text) = text {
            spoken.push_str(&text);
            spoken.push('\n');
        }
        if spoken.len() >= noted_text() {
            return spoken;
        }
    }
    if let Some(structured) = result.get("structuredContent") {
        spoken.push_str(structured);
    }
    spoken
}
