//! From the server to the client.

use std::borrow::Cow;

use super::{
    book::{CaptureFlight, Flight, Patience, Request},
    call::Awaited,
    captures::Captures,
    conversation::{Conversation, Rooms, Ticket, length},
    envelope::Id,
    events::{AnswerEvent, CallEnd, Decide, GateEvent, Side},
    json::{self, Members},
    reply, splice, tools,
};
use crate::session::{EndReason, SessionId, SessionKind};

/// The type of a result that asks for input instead of giving an answer.
const INPUT_REQUIRED: &str = "input_required";
/// The key of a result that tells of a tool's failure.
const IS_ERROR: &str = "isError";
/// How much of a start call's answer is kept to match a stop call with.
const NOTED_TEXT: usize = 64 * 1024;

/// What goes to the client for one message of the server.
#[derive(Debug, Default)]
pub(super) struct FromServer<'a> {
    /// The message, changed or as it is; none if it is not let through.
    pub(super) message: Option<Cow<'a, str>>,
    /// After it.
    pub(super) notice: Option<String>,
    /// The request that it answers.
    pub(super) answers: Option<Id>,
    /// [`Conversation::shook_hands`] is to be told once the client has got it.
    pub(super) handshake: bool,
}

/// A message of the server that answers something.
struct Answer<'a> {
    text: &'a str,
    id: &'a str,
    result: Option<&'a str>,
    failed: bool,
}

/// What is put in place of, and after, an answer.
#[derive(Default)]
struct Outgoing {
    /// In place of the server's own text.
    edited: Option<String>,
    /// After it.
    notice: Option<String>,
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

/// The messages in what a server sent at once: one, or those of a batch, of the one revision that
/// had them. They go on one by one, so that no answer escapes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Messages<'a> {
    /// Nothing but white space.
    None,
    /// An object.
    One(&'a str),
    /// The elements of an array.
    Batch(Vec<&'a str>),
}

impl<'a> Messages<'a> {
    /// Why there are none to be read, if that is so.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let first = bytes.trim_ascii().first();
        let text = match str::from_utf8(bytes) {
            _ if first.is_none() => return Ok(Self::None),
            Ok(text) => text,
            Err(_) => return Err("the line is not valid UTF-8"),
        };
        match first {
            Some(b'{') => Ok(Self::One(text)),
            Some(b'[') => json::elements(text)
                .map(Self::Batch)
                .ok_or("the line is not JSON"),
            _ => Err("the line is not JSON"),
        }
    }
}

impl<G: Rooms> Conversation<G> {
    /// Records what the server sent that is no message.
    pub(super) fn noise(&self, bytes: &[u8], why: &str) {
        self.dropped(Side::Server, length(bytes), why, bytes);
    }

    /// What is to be done with one message of the server.
    pub(super) fn server_message<'a>(&self, text: &'a str) -> FromServer<'a> {
        let Ok(members) = Members::parse(text) else {
            self.noise(text.as_bytes(), "the line is not a JSON object");
            return FromServer::default();
        };
        if members.repeated().is_some() {
            self.noise(text.as_bytes(), "a key of the message stands twice");
            return FromServer::default();
        }
        let (result, error) = (members.get("result"), members.get("error"));
        if result.is_none() && error.is_none() {
            return FromServer {
                message: Some(Cow::Borrowed(text)),
                ..FromServer::default()
            };
        }
        let id_text = members.get("id").unwrap_or("null");
        let id = Id::parse(id_text);
        let settled = id.as_ref().and_then(|id| self.book().answered(id));
        if settled.is_none() && id.as_ref().is_some_and(|id| self.book().too_late(id)) {
            let why = "it answers a call that was answered by capwarden, as its time was up";
            self.dropped(Side::Server, length(text.as_bytes()), why, b"");
            self.observe(GateEvent::Late {
                connection: self.caller.connection,
                id: id_text.to_owned(),
            });
            return FromServer::default();
        }
        let answer = Answer {
            text,
            id: id_text,
            result,
            failed: error.is_some(),
        };
        let handshake = settled
            .as_ref()
            .is_some_and(|request| matches!(request.flight, Flight::Initialize));
        let outgoing = self.answer(&answer, settled);
        FromServer {
            message: Some(outgoing.edited.map_or(Cow::Borrowed(text), Cow::Owned)),
            notice: outgoing.notice,
            answers: id,
            handshake,
        }
    }

    fn answer(&self, answer: &Answer<'_>, settled: Option<Request<Ticket<G>>>) -> Outgoing {
        let Some(Request {
            flight,
            cancelled,
            refusals,
            ..
        }) = settled
        else {
            // Nothing was asked, yet it may be a list of tools all the same.
            return self.tool_list(answer);
        };
        match flight {
            Flight::Initialize => {
                self.questions().agreed(answer.result);
                self.handshake().agreed(answer.result);
                Outgoing::default()
            }
            Flight::Passing | Flight::Opening => Outgoing::default(),
            Flight::ToolList => self.tool_list(answer),
            Flight::Call(ticket) => {
                self.gate.policy().settle(ticket, answer.end());
                self.answered(answer, None, Vec::new());
                self.with_refusals(answer, refusals)
            }
            // Its session ended when the call was cancelled.
            Flight::Capture(capture) if cancelled => {
                self.gate.captures().replied(capture.opened.session);
                self.gate.policy().settle(capture.ticket, answer.end());
                Outgoing::default()
            }
            Flight::Capture(capture) => self.capture_answer(answer, *capture, refusals),
            Flight::Ending(kind, names, ticket) => {
                self.gate.policy().settle(ticket, answer.end());
                let ended = self.stop_answer(answer, kind, &names);
                self.answered(answer, None, ended);
                self.with_refusals(answer, refusals)
            }
        }
    }

    fn answered(&self, answer: &Answer<'_>, opened: Option<SessionId>, ended: Vec<SessionId>) {
        self.observe(GateEvent::Answer(AnswerEvent {
            connection: self.caller.connection,
            id: answer.id.to_owned(),
            failed: answer.failed,
            opened,
            ended,
        }));
    }

    fn tool_list(&self, answer: &Answer<'_>) -> Outgoing {
        let edited = answer.result.and_then(|result| {
            let policy = self.gate.policy();
            tools::filter(
                answer.text,
                result,
                policy,
                &self.caller,
                &mut self.schemas(),
            )
        });
        Outgoing {
            edited,
            notice: None,
        }
    }

    /// The answer to a call that opened a session.
    fn capture_answer(
        &self,
        answer: &Answer<'_>,
        capture: CaptureFlight<Ticket<G>>,
        refusals: u64,
    ) -> Outgoing {
        let session = capture.opened.session;
        let captures = self.gate.captures();
        captures.replied(session);
        self.gate.policy().settle(capture.ticket, answer.end());
        let result = answer
            .result
            .filter(|_| !answer.failed)
            .and_then(|result| Members::parse(result).ok());
        // A server that wants input has not begun: the client will send the call again, as a
        // new request with a session of its own.
        let Some(result) = result.filter(|result| !wants_input(result)) else {
            if capture.joined {
                self.answered(answer, None, Vec::new());
            } else {
                captures.end(session, EndReason::CallFailed);
                self.answered(answer, Some(session), vec![session]);
            }
            return self.with_refusals(answer, refusals);
        };
        if capture.joined {
            self.answered(answer, None, Vec::new());
            return self.with_refusals(answer, refusals);
        }
        let live = captures.live();
        let mut said = spoken(&result);
        if capture.kind == SessionKind::Proxy {
            // Its port names it, whether or not the server says so.
            said.push_str(&capture.opened.summary);
        }
        self.notes().keep(session, said, NOTED_TEXT, &live);
        self.answered(answer, Some(session), Vec::new());

        let mut granted = reply::granted(&capture.opened, &capture.changes);
        let refused = self.refused_since(refusals);
        if !refused.is_empty() {
            granted.push('\n');
            granted.push_str(&reply::refused(&refused));
        }
        let edited = with_text(answer.text, &result, &granted);
        let notice = edited
            .is_none()
            .then(|| reply::granted_notice(&capture.opened, &granted));
        Outgoing { edited, notice }
    }

    /// The time is up for the answer to a call that opened a session. What the client is answered
    /// in its place; none if nobody waits for it any more.
    pub(super) fn overdue(&self, awaited: &Awaited) -> Option<String> {
        let request = self.book().overdue(&awaited.id, awaited.session)?;
        let Flight::Capture(capture) = request.flight else {
            return None;
        };
        let CaptureFlight {
            opened,
            ticket,
            patience,
            ..
        } = *capture;
        let Patience {
            within,
            id_text,
            shape,
        } = patience?;
        let (session, captures) = (opened.session, self.gate.captures());
        self.gate.policy().settle(ticket, CallEnd::Lost);
        let goes_on = captures.listens(session);
        if goes_on {
            captures.replied(session);
            let live = captures.live();
            let summary = opened.summary.clone();
            self.notes().keep(session, summary, NOTED_TEXT, &live);
        } else {
            captures.end(session, EndReason::CallFailed);
        }
        let refused = self.refused_since(request.refusals);
        tracing::warn!(id = id_text, %session, goes_on, "the server did not answer a call");
        self.observe(GateEvent::Unanswered {
            connection: self.caller.connection,
            id: id_text.clone(),
            session,
            within,
            ended: !goes_on,
        });
        let unanswered = reply::Unanswered {
            within,
            opened: &opened,
            goes_on,
            refused: &refused,
        };
        Some(unanswered.line(&id_text, shape))
    }

    /// The answer to a call, with what the kernel refused the server meanwhile: many servers report
    /// that as success, or not at all.
    fn with_refusals(&self, answer: &Answer<'_>, refusals: u64) -> Outgoing {
        let refused = self.refused_since(refusals);
        if refused.is_empty() {
            return Outgoing::default();
        }
        let text = reply::refused(&refused);
        let result = answer.result.and_then(|result| Members::parse(result).ok());
        let edited = result.and_then(|result| with_text(answer.text, &result, &text));
        let notice = edited.is_none().then(|| reply::refused_notice(&text));
        Outgoing { edited, notice }
    }

    /// What the kernel refused the server since then, as far as it is this client's business.
    fn refused_since(&self, refusals: u64) -> Vec<String> {
        let principal = &self.caller.principal;
        let hears = |session| self.owners().may_hear(principal, session);
        self.gate.captures().refused_since(refusals, &hears)
    }

    /// The answer to a call that ends captures: ends the session that it meant.
    fn stop_answer(
        &self,
        answer: &Answer<'_>,
        kind: SessionKind,
        names: &[String],
    ) -> Vec<SessionId> {
        let result = answer.result.and_then(|result| Members::parse(result).ok());
        let refused = result.as_ref().is_some_and(says_error);
        if answer.failed || result.as_ref().is_some_and(wants_input) {
            return Vec::new();
        }
        let meant = self.meant(kind, names, !refused);
        // Several: the name is too common to mean one. The server stops its own process, and the
        // session ends with that.
        if meant.len() > 1 {
            let meant: Vec<String> = meant.iter().map(ToString::to_string).collect();
            let meant = meant.join(", ");
            tracing::info!("a stop call could mean each of {meant}: they end with their processes");
            return Vec::new();
        }
        for session in &meant {
            self.gate.captures().end(*session, EndReason::StopCall);
        }
        meant
    }
}

/// A message with one more text in its result's content, if there is room for it.
fn with_text(message: &str, result: &Members<'_>, text: &str) -> Option<String> {
    let content = result.get("content")?;
    if result.repeated().is_some() || !content.starts_with('[') {
        return None;
    }
    let with = splice::append_element(content, &reply::text_item(text))?;
    splice::replace(message, content, &with)
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
        if spoken.len() >= NOTED_TEXT {
            return spoken;
        }
    }
    if let Some(structured) = result.get("structuredContent") {
        spoken.push_str(structured);
    }
    spoken
}
