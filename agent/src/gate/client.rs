//! From the client to the server.

use std::time::Duration;

use super::{
    book::{CaptureFlight, Flight, Patience},
    captures::Captures,
    conversation::{Conversation, Rooms, Ticket, length},
    envelope::{CallParams, Envelope, Fault, Id, Refused},
    events::{CallEnd, CallEvent, CallVerdict, Decide, GateEvent, Side},
    json::Members,
    question::{self, Asking, Asks},
    reply::{self, DenialShape},
    splice, stops,
};
use crate::{
    policy::{
        Call, CaptureVerdict, Change, Denial, Pending, ProxyTerms, ProxyVerdict, RuleRef, Terms,
        Verdict,
    },
    session::{EndReason, SessionId, SessionKind},
};

/// What becomes of a client's message.
pub(super) enum FromClient<T> {
    /// It is forwarded as it is. A request is in flight from now on: if it cannot be forwarded,
    /// [`Conversation::undelivered`] is to be told.
    Forward(Option<Id>),
    /// This is the answer, and nothing is forwarded.
    Answer(Answer),
    /// This call is forwarded in place of it, as for [`Self::Forward`].
    Edited(Id, String),
    /// Nothing is forwarded, and there is nobody to answer.
    Drop(String),
    /// A session is to be opened first: [`Conversation::open`].
    Open(Box<Start<T>>),
    /// The client's user is to be asked first: the line is for the client, and then
    /// [`Conversation::hear`]. Only where [`Conversation::holding`] says so.
    Ask(Box<Asking>),
}

/// The gate's own answer to a request.
pub(super) struct Answer {
    /// A line.
    pub(super) line: String,
    /// The message is not one that MCP allows, so that it could not even be decided.
    pub(super) malformed: bool,
}

/// What a session is opened with.
enum Wanted {
    Capture(Terms),
    Proxy(ProxyTerms),
}

impl Wanted {
    fn kind(&self) -> SessionKind {
        match self {
            Self::Capture(_) => SessionKind::Capture,
            Self::Proxy(_) => SessionKind::Proxy,
        }
    }
}

/// A call that the policy allows, on its way to a session.
pub(super) struct Start<T> {
    /// The message, with the changes made.
    text: String,
    id: Id,
    id_text: String,
    call: Call,
    wanted: Wanted,
    changes: Vec<Change>,
    /// How long the server may take to answer; none: for ever.
    within: Option<Duration>,
    rule: RuleRef,
    ticket: T,
    shape: DenialShape,
}

/// What became of a call that waited for its session.
pub(super) enum AfterOpen<T> {
    /// To be forwarded when its turn comes.
    Ready {
        /// The request.
        id: Id,
        /// What is forwarded.
        text: String,
        /// [`Conversation::begin`] is to be asked at that moment, or [`Conversation::give_back`]
        /// to be told that the moment cannot come.
        beginning: Box<Beginning<T>>,
    },
    /// There is no session. The answer; none to a call that was cancelled.
    Refused(Option<Answer>),
}

/// A call with its session, about to be forwarded.
pub(super) struct Beginning<T> {
    id: Id,
    id_text: String,
    call: Call,
    capture: CaptureFlight<T>,
    rule: RuleRef,
}

impl<T> Beginning<T> {
    /// The session that was opened.
    pub(super) fn session(&self) -> SessionId {
        self.capture.opened.session
    }

    /// The answer that may take only so long: once the call is forwarded, and this time is over,
    /// [`Conversation::overdue`] is to be asked.
    pub(super) fn awaited(&self) -> Option<Awaited> {
        let patience = self.capture.patience.as_ref()?;
        Some(Awaited {
            id: self.id.clone(),
            session: self.session(),
            within: patience.within,
        })
    }

    /// What was changed in the call.
    pub(super) fn changes(&self) -> &[Change] {
        &self.capture.changes
    }
}

/// An answer of the server that may take only so long.
#[derive(Clone, Debug)]
pub(super) struct Awaited {
    pub(super) id: Id,
    pub(super) session: SessionId,
    pub(super) within: Duration,
}

impl Answer {
    fn to(line: String) -> Self {
        Self {
            line,
            malformed: false,
        }
    }

    fn malformed(line: String) -> Self {
        Self {
            line,
            malformed: true,
        }
    }
}

impl<G: Rooms> Conversation<G> {
    /// What is to be done with a message of the client.
    pub(super) async fn client_message(&self, message: &[u8]) -> FromClient<Ticket<G>> {
        match Envelope::parse(message) {
            Ok(envelope) => self.decide(message, &envelope).await,
            Err(refused) => FromClient::Answer(self.unreadable(message, &refused)),
        }
    }

    /// A message of the client that cannot be read, or in more than one way.
    pub(super) fn unreadable(&self, message: &[u8], refused: &Refused<'_>) -> Answer {
        let why = refused.fault.to_string();
        self.dropped(Side::Client, length(message), &why, message);
        Answer::malformed(reply::error(refused.id, refused.fault.code(), &why))
    }

    /// A message of the client that is longer than is read.
    pub(super) fn too_long(&self, bytes: u64) -> Answer {
        let limit = self.gate.bounds().client_line;
        let why = format!("the line is too long: {bytes} bytes, at most {limit} are read");
        self.dropped(Side::Client, bytes, &why, b"");
        Answer::malformed(reply::error(None, -32600, &why))
    }

    /// The same as [`Self::client_message`], of a message that was read already.
    pub(super) async fn decide(
        &self,
        message: &[u8],
        envelope: &Envelope<'_>,
    ) -> FromClient<Ticket<G>> {
        match envelope.method.as_deref() {
            None => {
                let id = envelope.id.as_ref().map(|(id, _)| id);
                if self.takes(message, id).await {
                    return FromClient::Drop("it was for the gate".to_owned());
                }
                // An answer to a request of the server.
                FromClient::Forward(None)
            }
            Some("tools/call") => self.call(message, envelope).await,
            Some(method) => self.other(message, method, envelope),
        }
    }

    /// Anything but a call: forwarded as it is.
    fn other(
        &self,
        message: &[u8],
        method: &str,
        envelope: &Envelope<'_>,
    ) -> FromClient<Ticket<G>> {
        let flight = match method {
            "initialize" => Flight::Initialize,
            "tools/list" => Flight::ToolList,
            _ => Flight::Passing,
        };
        match &envelope.id {
            // Its answer could not be told from any other, and would be let through whole.
            Some((Id::Null, text)) if matches!(flight, Flight::ToolList) => {
                let why = Fault::BadId.to_string();
                self.dropped(Side::Client, length(message), &why, message);
                FromClient::Answer(Answer::malformed(reply::error(Some(text), -32600, &why)))
            }
            None | Some((Id::Null, _)) => {
                if method == "notifications/cancelled" {
                    self.cancelled(envelope.params);
                }
                FromClient::Forward(None)
            }
            Some((id, text)) => {
                let speaks = !matches!(method, "initialize" | "ping");
                if let Err(full) = self.admit(id, flight) {
                    let why = full.to_string();
                    self.dropped(Side::Client, length(message), &why, message);
                    let line = reply::error(Some(text), full.code(), &why);
                    return FromClient::Answer(Answer::to(line));
                }
                if speaks {
                    self.speaks();
                }
                if method == "initialize" {
                    self.questions().declared(envelope.params);
                }
                FromClient::Forward(Some(id.clone()))
            }
        }
    }

    fn cancelled(&self, params: Option<&str>) {
        let Some(text) = params
            .and_then(|params| Members::parse(params).ok())
            .and_then(|members| members.get("requestId"))
        else {
            return;
        };
        if let Some(id) = Id::parse(text) {
            self.cancel(&id, text);
        }
    }

    async fn call(&self, message: &[u8], envelope: &Envelope<'_>) -> FromClient<Ticket<G>> {
        let params = CallParams::parse(envelope.params);
        let observed = |call: Option<CallParams<'_>>, verdict, rule| {
            let call = call.map(|call| (call.name, call.arguments));
            let (tool, arguments) = call.unwrap_or_default();
            self.observe(GateEvent::Call(Box::new(CallEvent {
                caller: self.caller.clone(),
                id: envelope.id.as_ref().map(|(_, text)| (*text).to_owned()),
                tool,
                arguments,
                recorded: None,
                verdict,
                rule,
            })));
        };
        let refuse = |call: Option<CallParams<'_>>, id: Option<&str>, code, why: String| {
            tracing::warn!(why, "refused a call");
            let line = reply::error(id, code, &why);
            observed(call, CallVerdict::Refused { why }, None);
            line
        };

        let Some((id, id_text)) = &envelope.id else {
            // Nobody would see what became of it.
            let why = "a call without an id is not carried out".to_owned();
            tracing::warn!(why, "dropped a call");
            let refused = CallVerdict::Refused { why: why.clone() };
            observed(params.ok(), refused, None);
            return FromClient::Drop(why);
        };
        if *id == Id::Null {
            let why = Fault::BadId.to_string();
            let line = refuse(params.ok(), None, -32600, why);
            return FromClient::Answer(Answer::malformed(line));
        }
        let mut params = match params {
            Ok(params) => params,
            Err(fault) => {
                let line = refuse(None, Some(id_text), fault.code(), fault.to_string());
                return FromClient::Answer(Answer::malformed(line));
            }
        };
        if !self.gate.policy().visible(&params.name) {
            let why = format!("Unknown tool: {}", params.name);
            let rule = self.gate.policy().hidden_by(&params.name);
            observed(Some(params), CallVerdict::Hidden, rule);
            return FromClient::Answer(Answer::to(reply::error(Some(id_text), -32602, &why)));
        }
        // Before the policy is asked, since asking may use up a limit.
        if let Err(full) = self.admit(id, Flight::Opening) {
            let line = refuse(Some(params), Some(id_text), full.code(), full.to_string());
            return FromClient::Answer(Answer::to(line));
        }
        self.speaks();

        let call = params.call();
        if let Some(state) = self.ours(&params)
            && let Some(said) = question::said_again(params.responses)
        {
            let answer = self.gate.policy().answer(&self.caller, &call, state, said);
            if let Err(denial) = answer.await {
                let shape = self.shape(&params);
                return self.deny(id, id_text, call, *denial, None, shape);
            }
        }
        let asks = self.asks(&params);
        self.weigh(message, (id, id_text), &params, call, asks)
            .await
    }

    /// The state that a call comes with, if it is of a question of the gate.
    fn ours<'a>(&self, params: &'a CallParams<'_>) -> Option<&'a str> {
        let state = params.state.as_deref()?;
        self.gate.policy().asked(state).then_some(state)
    }

    fn shape(&self, params: &CallParams<'_>) -> DenialShape {
        DenialShape {
            stateless: params.stateless,
            output_schema: self.schemas().has_output(&params.name),
        }
    }

    /// Decides a call that is in the book, and says what is to be done with it.
    pub(super) async fn weigh(
        &self,
        message: &[u8],
        (id, id_text): (&Id, &str),
        params: &CallParams<'_>,
        call: Call,
        asks: Asks,
    ) -> FromClient<Ticket<G>> {
        let shape = self.shape(params);
        // What was said to the gate is not the server's business.
        let edit = |text: String| match self.ours(params) {
            Some(_) => question::without_answer(&text),
            None => Some(text),
        };
        let (verdict, ticket) = self.gate.policy().decide(&self.caller, &call).await;
        let (wanted, changes, within, rule) = match verdict {
            Verdict::Deny(denial) => {
                return self.deny(id, id_text, call, denial, Some(ticket), shape);
            }
            Verdict::Pending(pending) => {
                self.gate.policy().settle(ticket, CallEnd::NotForwarded);
                let line = match (&pending.question, asks) {
                    (Some(asked), Asks::ByRequest) => {
                        if let Some(asking) = self.ask(&call, id, asked, message) {
                            return FromClient::Ask(asking);
                        }
                        reply::pending(id_text, &pending, shape)
                    }
                    (Some(asked), Asks::ByResult) => question::input_required(id_text, asked),
                    _ => reply::pending(id_text, &pending, shape),
                };
                self.book().remove(id);
                let Pending { id, rule, .. } = *pending;
                self.decided(id_text, call, CallVerdict::Pending { id }, Some(rule));
                return FromClient::Answer(Answer::to(line));
            }
            Verdict::Forward => {
                return self.forward(message, (id, id_text), params, call, Flight::Call(ticket));
            }
            Verdict::EndCapture => {
                let names = stops::strings(&call.arguments);
                let flight = Flight::Ending(SessionKind::Capture, names, ticket);
                return self.forward(message, (id, id_text), params, call, flight);
            }
            Verdict::EndProxy => {
                let names = stops::strings_and_numbers(&call.arguments);
                let flight = Flight::Ending(SessionKind::Proxy, names, ticket);
                return self.forward(message, (id, id_text), params, call, flight);
            }
            Verdict::Capture(verdict) => {
                let CaptureVerdict {
                    terms,
                    changes,
                    rule,
                } = *verdict;
                (Wanted::Capture(terms), changes, None, rule)
            }
            Verdict::Proxy(verdict) => {
                let ProxyVerdict {
                    terms,
                    changes,
                    answer_within,
                    rule,
                } = *verdict;
                (Wanted::Proxy(terms), changes, Some(answer_within), rule)
            }
        };
        let edited = str::from_utf8(message)
            .ok()
            .and_then(|text| splice::change_arguments(text, params, &changes))
            .and_then(edit);
        let Some(text) = edited else {
            let reason = "The policy's changes could not be written into the call.";
            let denial = Denial::new(reason, rule);
            return self.deny(id, id_text, call, denial, Some(ticket), shape);
        };
        FromClient::Open(Box::new(Start {
            text,
            id: id.clone(),
            id_text: (*id_text).to_owned(),
            call,
            wanted,
            changes,
            within,
            rule,
            ticket,
            shape,
        }))
    }

    /// Forwards a call that is in the book and needs no session.
    fn forward(
        &self,
        message: &[u8],
        (id, id_text): (&Id, &str),
        params: &CallParams<'_>,
        call: Call,
        flight: Flight<Ticket<G>>,
    ) -> FromClient<Ticket<G>> {
        let edited = match self.ours(params) {
            None => None,
            Some(_) => {
                let text = str::from_utf8(message).ok();
                let edited = text.and_then(question::without_answer);
                if edited.is_none() {
                    // It was read before, so that this does not happen.
                    self.settle(flight, CallEnd::NotForwarded);
                    self.book().remove(id);
                    return FromClient::Drop("the call could not be changed".to_owned());
                }
                edited
            }
        };
        let stops = match &flight {
            Flight::Ending(kind, names, _) => Some(self.meant(*kind, names, true)),
            _ => None,
        };
        let refusals = self.gate.captures().refusals();
        let refused = self.book().forwarding(id, flight, refusals).err();
        if let Some(flight) = refused {
            self.settle(flight, CallEnd::Cancelled);
            return FromClient::Drop("the call was cancelled".to_owned());
        }
        match stops {
            None => self.decided(id_text, call, CallVerdict::Forwarded, None),
            Some(stops) => {
                self.decided(id_text, call, CallVerdict::EndsCapture, None);
                if let [session] = stops.as_slice() {
                    self.gate.captures().stopping(*session);
                }
            }
        }
        match edited {
            None => FromClient::Forward(Some(id.clone())),
            Some(text) => FromClient::Edited(id.clone(), text),
        }
    }

    /// Denies a call that is in the book.
    fn deny(
        &self,
        id: &Id,
        id_text: &str,
        call: Call,
        denial: Denial,
        ticket: Option<Ticket<G>>,
        shape: DenialShape,
    ) -> FromClient<Ticket<G>> {
        if let Some(ticket) = ticket {
            self.gate.policy().settle(ticket, CallEnd::NotForwarded);
        }
        self.book().remove(id);
        let line = reply::denial(id_text, &denial, shape);
        let denied = CallVerdict::Denied {
            reason: denial.reason,
            instead: denial.instead,
        };
        self.decided(id_text, call, denied, Some(denial.rule));
        FromClient::Answer(Answer::to(line))
    }

    /// Opens the session of a call. Takes as long as that takes; meanwhile the call can be
    /// cancelled. Must be run to its end.
    pub(super) async fn open(&self, start: Start<Ticket<G>>) -> AfterOpen<Ticket<G>> {
        let Start {
            text,
            id,
            id_text,
            call,
            wanted,
            changes,
            within,
            rule,
            ticket,
            shape,
        } = start;
        let kind = wanted.kind();
        let opened = match wanted {
            Wanted::Capture(terms) => self.gate.captures().open(terms).await,
            Wanted::Proxy(terms) => self.gate.captures().open_proxy(terms).await,
        };
        match opened {
            Ok(opened) => AfterOpen::Ready {
                id: id.clone(),
                text,
                beginning: Box::new(Beginning {
                    id,
                    id_text: id_text.clone(),
                    call,
                    capture: CaptureFlight {
                        kind,
                        opened,
                        changes,
                        ticket,
                        patience: within.map(|within| Patience {
                            within,
                            id_text,
                            shape,
                        }),
                    },
                    rule,
                }),
            },
            Err(error) => {
                let cancelled = self.book().remove(&id).is_none_or(|call| call.cancelled);
                let end = if cancelled {
                    CallEnd::Cancelled
                } else {
                    CallEnd::NotForwarded
                };
                self.gate.policy().settle(ticket, end);
                let reason = error.reason;
                let mut denial = Denial::new(reason.clone(), rule);
                denial.instead = error.instead;
                // A request that was cancelled is not answered.
                let answer =
                    (!cancelled).then(|| Answer::to(reply::denial(&id_text, &denial, shape)));
                let not_opened = CallVerdict::NotOpened { reason };
                self.decided(&id_text, call, not_opened, Some(denial.rule));
                AfterOpen::Refused(answer)
            }
        }
    }

    /// The turn of a call has come that waited for its session. Whether it is to be forwarded: if
    /// it was cancelled meanwhile, its session has ended.
    pub(super) fn begin(&self, beginning: Beginning<Ticket<G>>) -> bool {
        let Beginning {
            id,
            id_text,
            call,
            capture,
            rule,
        } = beginning;
        let session = capture.opened.session;
        let granted = capture.opened.summary.clone();
        let changes = capture.changes.clone();
        let granted = match capture.kind {
            SessionKind::Capture => CallVerdict::Captures {
                session,
                granted,
                changes,
            },
            SessionKind::Proxy => CallVerdict::Proxies {
                session,
                granted,
                changes,
            },
        };
        let refusals = self.gate.captures().refusals();
        let refused = {
            let flight = Flight::Capture(Box::new(capture));
            self.book().forwarding(&id, flight, refusals).err()
        };
        match refused {
            None => {
                self.decided(&id_text, call, granted, Some(rule));
                true
            }
            Some(flight) => {
                self.gate.captures().end(session, EndReason::CallFailed);
                self.settle(flight, CallEnd::Cancelled);
                let withdrawn = CallVerdict::Withdrawn { session };
                self.decided(&id_text, call, withdrawn, Some(rule));
                false
            }
        }
    }

    /// The server has gone before the turn of a call came that waited for its session.
    pub(super) fn give_back(&self, beginning: Beginning<Ticket<G>>) {
        let Beginning { id, capture, .. } = beginning;
        self.book().remove(&id);
        let CaptureFlight { opened, ticket, .. } = capture;
        self.gate
            .captures()
            .end(opened.session, EndReason::ServerExit);
        self.gate.policy().settle(ticket, CallEnd::NotForwarded);
    }

    /// The live sessions of a kind that a stop call with these names means; `guess` at the only one
    /// there is if no name is known, not even as that of a session which has ended.
    pub(super) fn meant(&self, kind: SessionKind, names: &[String], guess: bool) -> Vec<SessionId> {
        let live = self.gate.captures().live_of(kind);
        let notes = self.notes();
        let named = notes.named(names, &live);
        match live.as_slice() {
            [only] if named.is_empty() && guess && !notes.named_ended(names, &live) => vec![*only],
            _ => named,
        }
    }

    /// Tells what became of a call, which is moved: its arguments may be long.
    pub(super) fn decided(
        &self,
        id: &str,
        call: Call,
        verdict: CallVerdict,
        rule: Option<RuleRef>,
    ) {
        self.observe(GateEvent::Call(Box::new(CallEvent {
            caller: self.caller.clone(),
            id: Some(id.to_owned()),
            tool: call.tool,
            arguments: call.arguments,
            recorded: None,
            verdict,
            rule,
        })));
    }
}
