//! Questions that a client puts to its user for the gate: may this call be made?
//!
//! In the stateless protocol (2026-07-28) a question is the call's result, of the type
//! `input_required`, and its answer comes with the same call again. In those before it is a request of
//! its own, `elicitation/create`, with an id that no server can guess; the call waits, and the answer
//! goes no further than here.

use std::{collections::VecDeque, time::Duration};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    client::FromClient,
    conversation::{Conversation, Rooms, Ticket},
    envelope::{CallParams, Envelope, Id},
    events::{CallVerdict, Decide},
    json::{self, Members},
};
use crate::{
    policy::{Call, Question, Said},
    principal::code,
};

/// How long a call is held for its answer, by default: less than the minute after which most clients
/// give up.
pub const HOLD: Duration = Duration::from_secs(45);

/// The question's name among what a result asks for, and what the user sets to true.
pub(super) const KEY: &str = "capwarden_approval";
const FIELD: &str = "approve";

/// Questions of one connection that have no answer yet.
const MOST: usize = 16;
/// A call whose line is longer is not held.
const LONGEST: usize = 64 << 10;
/// The first revision in which a server can ask.
const FIRST: &str = "2025-06-18";

/// How the client of a call can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// It cannot, or was asked already.
    Not,
    /// By the call's result.
    ByResult,
    /// By a request, while the call waits.
    ByRequest,
}

/// A call that waits for the answer to a question.
pub(super) struct Asking {
    /// What the client is sent; none if the same question is before its user already.
    pub(super) line: Option<String>,
    message: Vec<u8>,
    /// The question's id, and the call's.
    question: String,
    id: Id,
    answered: oneshot::Receiver<()>,
}

/// What became of a call that waited.
pub(super) struct Heard<T> {
    /// What is to be done with its message.
    pub(super) outcome: FromClient<T>,
    /// The call's message.
    pub(super) message: Vec<u8>,
    /// What the client is told besides.
    pub(super) notice: Option<String>,
}

/// The questions of one connection that have no answer yet, oldest first.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// The client can be asked: it said so, and speaks a revision that has it.
    can: bool,
    /// What the ids begin with: drawn at the first question.
    prefix: Option<String>,
    number: u64,
    open: VecDeque<Open>,
}

#[derive(Debug)]
struct Open {
    question: String,
    state: String,
    call: Call,
    /// The call that waits, and how it is told; none if it was answered meanwhile.
    waiting: Option<(Id, oneshot::Sender<()>)>,
}

impl Questions {
    /// The client said what it can.
    pub(super) fn declared(&mut self, params: Option<&str>) {
        let params = params.and_then(|params| Members::parse(params).ok());
        let capabilities = params.and_then(|params| params.get("capabilities"));
        self.can = capabilities.is_some_and(elicits);
    }

    /// The server said which revision is spoken.
    pub(super) fn agreed(&mut self, result: Option<&str>) {
        let result = result.and_then(|result| Members::parse(result).ok());
        let version = result.and_then(|result| result.get("protocolVersion"));
        let version = version.and_then(json::string);
        // They are dates.
        self.can &= version.is_some_and(|version| *version >= *FIRST);
    }

    /// Whether an id is of a question, however old.
    fn owns(&self, id: &str) -> bool {
        let prefix = self.prefix.as_deref();
        prefix.is_some_and(|prefix| id.starts_with(prefix))
    }

    fn answered(&mut self, question: &str) -> Option<Open> {
        let mut open = self.open.iter();
        let at = open.position(|open| open.question == question)?;
        self.open.remove(at)
    }

    /// Nobody waits for this call's question any more.
    pub(super) fn withdraw(&mut self, call: &Id) {
        self.open
            .retain(|open| open.waiting.as_ref().is_none_or(|(id, _)| id != call));
    }

    /// Nobody waits for any.
    pub(super) fn clear(&mut self) {
        self.open.clear();
    }

    /// The call has waited long enough; the question stays.
    fn released(&mut self, question: &str) {
        let open = self.open.iter_mut().find(|open| open.question == question);
        if let Some(open) = open {
            open.waiting = None;
        }
    }

    /// Asks, or waits for what was asked before. None if there is no room, or another call waits for
    /// the same.
    pub(super) fn ask(
        &mut self,
        call: &Call,
        id: &Id,
        asked: &Question,
        message: &[u8],
    ) -> Option<Asking> {
        if message.len() > LONGEST {
            return None;
        }
        let (sender, answered) = oneshot::channel();
        let waiting = |question: String, line| Asking {
            line,
            message: message.to_vec(),
            question,
            id: id.clone(),
            answered,
        };
        let same = self.open.iter_mut().find(|open| open.state == asked.state);
        if let Some(open) = same {
            if open.waiting.is_some() {
                return None;
            }
            open.waiting = Some((id.clone(), sender));
            return Some(waiting(open.question.clone(), None));
        }
        if self.open.len() >= MOST {
            let late = self.open.iter().position(|open| open.waiting.is_none())?;
            self.open.remove(late);
        }
        if self.prefix.is_none() {
            let drawn = code::random::<10>().ok()?;
            self.prefix = Some(format!("capwarden-{}-", code::encode(&drawn)));
        }
        self.number += 1;
        let question = format!("{}{}", self.prefix.as_deref()?, self.number);
        let line = json!({
            "jsonrpc": "2.0",
            "id": question,
            "method": "elicitation/create",
            "params": params(&asked.message),
        });
        self.open.push_back(Open {
            question: question.clone(),
            state: asked.state.clone(),
            call: call.clone(),
            waiting: Some((id.clone(), sender)),
        });
        Some(waiting(question, Some(format!("{line}\n"))))
    }
}

impl<G: Rooms> Conversation<G> {
    /// How the client of a call can be asked.
    pub(super) fn asks(&self, params: &CallParams<'_>) -> Asks {
        match params.stateless {
            true if params.elicits => Asks::ByResult,
            false if self.holds && self.questions().can => Asks::ByRequest,
            _ => Asks::Not,
        }
    }

    /// A call that waits for the answer to a question, if there is room for it.
    pub(super) fn ask(
        &self,
        call: &Call,
        id: &Id,
        asked: &Question,
        message: &[u8],
    ) -> Option<Box<Asking>> {
        let asking = self.questions().ask(call, id, asked, message);
        asking.map(Box::new)
    }

    /// The client answers a request with this id: whether it was one of the gate's.
    pub(super) async fn takes(&self, message: &[u8], id: Option<&Id>) -> bool {
        let Some(Id::Text(id)) = id else {
            return false;
        };
        let open = {
            let mut questions = self.questions();
            if !questions.owns(id) {
                return false;
            }
            questions.answered(id)
        };
        let Some(open) = open else {
            tracing::debug!(id, "an answer that nobody waits for");
            return true;
        };
        // A client that answers with an error has not asked anybody.
        if let Some(said) = said_in(message) {
            let answer = self
                .gate
                .policy()
                .answer(&self.caller, &open.call, &open.state, said);
            if let Err(denial) = answer.await {
                tracing::info!(why = denial.reason, "an answer was not taken");
            }
        }
        if let Some((_, waiting)) = open.waiting {
            // It may have been cancelled meanwhile.
            let _ = waiting.send(());
        }
        true
    }

    /// Waits for the answer to a call's question; then says what is to be done with the call.
    pub(super) async fn hear(&self, asking: Asking) -> Heard<Ticket<G>> {
        let Asking {
            line: _,
            message,
            question,
            id,
            answered,
        } = asking;
        let mut notice = None;
        let outcome = match tokio::time::timeout(self.gate.bounds().hold, answered).await {
            Ok(Err(_)) => {
                self.given_up(&message, &id);
                notice = Some(withdrawn(&question));
                FromClient::Drop("the call was cancelled".to_owned())
            }
            Ok(Ok(())) => self.again(&message, &id).await,
            Err(_) => {
                self.questions().released(&question);
                self.again(&message, &id).await
            }
        };
        Heard {
            outcome,
            message,
            notice,
        }
    }

    /// A call was cancelled, or its client has gone, while its user was asked.
    fn given_up(&self, message: &[u8], id: &Id) {
        self.book().remove(id);
        if let Some((id_text, mut params)) = read(message) {
            let why = "given up while its user was asked".to_owned();
            let refused = CallVerdict::Refused { why };
            let noted = self.noted(&params, None);
            self.decided(id_text, params.call(), refused, None, noted);
        }
    }

    /// Decides a call anew whose user was asked.
    async fn again(&self, message: &[u8], id: &Id) -> FromClient<Ticket<G>> {
        let Some((id_text, mut params)) = read(message) else {
            // It was read before.
            self.book().remove(id);
            return FromClient::Drop("the call cannot be read".to_owned());
        };
        let call = params.call();
        self.weigh(message, (id, id_text), &params, call, Asks::Not)
            .await
    }
}

/// The id of a call, as it was written, and what it is called with.
fn read(message: &[u8]) -> Option<(&str, CallParams<'_>)> {
    let envelope = Envelope::parse(message).ok()?;
    let params = CallParams::parse(envelope.params).ok()?;
    Some((envelope.id?.1, params))
}

/// What the answer to a request says; none if it says nothing of its user.
fn said_in(message: &[u8]) -> Option<Said> {
    let message = str::from_utf8(message).ok()?;
    let members = Members::parse(message).ok()?;
    said(members.get("result")?)
}

/// What a call that comes again says to the question of the gate.
pub(super) fn said_again(responses: Option<&str>) -> Option<Said> {
    let responses = Members::parse(responses?).ok()?;
    if responses.repeated().is_some() {
        return None;
    }
    said(responses.get(KEY)?)
}

/// What a result of `elicitation/create` says. Nothing but a plain yes is one.
fn said(result: &str) -> Option<Said> {
    let result = json::strict(result).ok()?;
    let yes = || result.pointer(&format!("/content/{FIELD}")) == Some(&Value::Bool(true));
    match result.get("action")?.as_str()? {
        "accept" if yes() => Some(Said::Yes),
        "accept" | "decline" => Some(Said::No),
        "cancel" => Some(Said::Dismissed),
        _ => None,
    }
}

/// Whether capabilities have elicitation, of forms.
pub(super) fn elicits(capabilities: &str) -> bool {
    let capabilities = Members::parse(capabilities).ok();
    let elicitation = capabilities.and_then(|capabilities| capabilities.get("elicitation"));
    let elicitation = elicitation.and_then(|elicitation| Members::parse(elicitation).ok());
    // In the first revision that had it there were forms only, and nothing to say.
    elicitation.is_some_and(|modes| modes.get("form").is_some() || modes.get("url").is_none())
}

/// The parameters of `elicitation/create`.
fn params(message: &str) -> Value {
    json!({
        "message": message,
        "requestedSchema": {
            "type": "object",
            "properties": {
                FIELD: {
                    "type": "boolean",
                    "title": "Allow this call once",
                    "description": "True if exactly this call may be made, once.",
                },
            },
            "required": [FIELD],
        },
    })
}

/// The result of a call whose client is to ask its user.
pub(super) fn input_required(id: &str, question: &Question) -> String {
    let mut params = params(&question.message);
    if let Some(params) = params.as_object_mut() {
        params.insert("mode".to_owned(), Value::from("form"));
    }
    let result = json!({
        "resultType": "input_required",
        "inputRequests": { KEY: { "method": "elicitation/create", "params": params } },
        "requestState": question.state,
    });
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}\n")
}

fn withdrawn(question: &str) -> String {
    let notice = json!({
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": { "requestId": question, "reason": "the call was cancelled" },
    });
    format!("{notice}\n")
}

/// The line of a call without what its client answered to the gate.
pub(super) fn without_answer(line: &str) -> Option<String> {
    let message = Members::parse(line).ok()?;
    let params = message.get("params")?;
    let responses = |text: &str| {
        let left = super::splice::without(text, &[KEY])?;
        Some((!Members::parse(&left).ok()?.is_empty()).then_some(left))
    };
    let mut left = super::splice::without(params, &["requestState"])?;
    let members = Members::parse(params).ok()?;
    if let Some(old) = members.get("inputResponses").map(responses) {
        left = match old {
            // Not an object: the server's business.
            None => left,
            Some(None) => super::splice::without(&left, &["inputResponses"])?,
            Some(Some(new)) => {
                let members = Members::parse(&left).ok()?;
                let old = members.get("inputResponses")?;
                super::splice::replace(&left, old, &new)?
            }
        };
    }
    super::splice::replace(line, params, &left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_yes_is_one() {
        for (result, wanted) in [
            (
                r#"{"action":"accept","content":{"approve":true}}"#,
                Some(Said::Yes),
            ),
            (
                r#"{"action":"accept","content":{"approve":false}}"#,
                Some(Said::No),
            ),
            (
                r#"{"action":"accept","content":{"approve":"true"}}"#,
                Some(Said::No),
            ),
            (
                r#"{"action":"accept","content":{"approve":1}}"#,
                Some(Said::No),
            ),
            (r#"{"action":"accept"}"#, Some(Said::No)),
            (
                r#"{"action":"decline","content":{"approve":true}}"#,
                Some(Said::No),
            ),
            (r#"{"action":"cancel"}"#, Some(Said::Dismissed)),
            (r#"{"action":"accept","action":"decline"}"#, None),
            (
                r#"{"action":"accept","content":{"approve":false,"approve":true}}"#,
                None,
            ),
            (r#"{"action":"Accept","content":{"approve":true}}"#, None),
            (r#"{"content":{"approve":true}}"#, None),
            ("true", None),
        ] {
            assert_eq!(said(result), wanted, "{result}");
        }
        let twice = r#"{"capwarden_approval":{"action":"decline"},"capwarden_approval":{"action":"accept","content":{"approve":true}}}"#;
        assert_eq!(said_again(Some(twice)), None);
    }

    #[test]
    fn forms_are_what_a_client_must_have() {
        for (capabilities, wanted) in [
            (r#"{"elicitation":{}}"#, true),
            (r#"{"elicitation":{"form":{}}}"#, true),
            (r#"{"elicitation":{"form":{},"url":{}}}"#, true),
            (r#"{"elicitation":{"url":{}}}"#, false),
            (r#"{"elicitation":null}"#, false),
            (r#"{"sampling":{}}"#, false),
            ("[]", false),
        ] {
            assert_eq!(elicits(capabilities), wanted, "{capabilities}");
        }
    }

    #[test]
    fn what_was_said_to_the_gate_is_taken_out_and_the_rest_stays() {
        let line = |params: &str| {
            format!("{{\"id\":1, \"params\":{params} , \"method\":\"tools/call\"}}\n")
        };
        let answer = r#""capwarden_approval":{"action":"accept"}"#;
        for (params, left) in [
            (
                format!(
                    r#"{{"name":"t","requestState":"s","inputResponses":{{{answer}}},"_meta":{{ "a":1.0 }}}}"#
                ),
                r#"{"name":"t","_meta":{ "a":1.0 }}"#,
            ),
            (
                format!(
                    r#"{{"inputResponses":{{"x":{{ }},{answer}}},"requestState":"s","name":"t"}}"#
                ),
                r#"{"inputResponses":{"x":{ }},"name":"t"}"#,
            ),
            (
                r#"{"name":"t","requestState":"s","inputResponses":7}"#.to_owned(),
                r#"{"name":"t","inputResponses":7}"#,
            ),
        ] {
            assert_eq!(without_answer(&line(&params)).unwrap(), line(left));
        }
    }
}
