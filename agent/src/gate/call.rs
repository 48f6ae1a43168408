//! A call of the client: decided, and given its session.

use std::time::Duration;

use super::{
    book::{CaptureFlight, Flight, Patience},
    captures::{Captures, ProgramOpened},
    client::{Answer, FromClient},
    conversation::{Conversation, Rooms, Ticket},
    envelope::{CallParams, Envelope, Fault, Id},
    events::{CallEnd, CallEvent, CallVerdict, Decide, GateEvent, Noted},
    question::{self, Asks},
    reply::{self, DenialShape},
    splice, stops,
};
use crate::{
    policy::{
        Call, CaptureVerdict, Change, Denial, Pending, ProgramTerms, ProgramVerdict, ProxyTerms,
        ProxyVerdict, RuleRef, Terms, Verdict,
    },
    session::{EndReason, SessionId, SessionKind},
};

/// What a session is opened with.
enum Wanted {
    Capture(Terms),
    Proxy(ProxyTerms),
    Program(ProgramTerms),
}

impl Wanted {
    fn kind(&self) -> SessionKind {
        match self {
            Self::Capture(_) => SessionKind::Capture,
            Self::Proxy(_) => SessionKind::Proxy,
            Self::Program(_) => SessionKind::Program,
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
    noted: Noted,
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
    noted: Noted,
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

    /// Whether that was open already.
    pub(super) fn joined(&self) -> bool {
        self.capture.joined
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

impl<G: Rooms> Conversation<G> {
    pub(super) async fn call(
        &self,
        message: &[u8],
        envelope: &Envelope<'_>,
    ) -> FromClient<Ticket<G>> {
        let params = CallParams::parse(envelope.params);
        let observed = |call: Option<CallParams<'_>>, verdict, rule| {
            let parent = call.as_ref().and_then(|call| call.parent);
            let call = call.map(|call| (call.name, call.arguments));
            let (tool, arguments) = call.unwrap_or_default();
            self.observe(GateEvent::Call(Box::new(CallEvent {
                caller: self.caller.clone(),
                id: envelope.id.as_ref().map(|(_, text)| (*text).to_owned()),
                tool,
                arguments,
                noted: Noted {
                    decided_by: self.gate.policy().decided_by(&self.caller, None),
                    parent: parent.or(envelope.parent),
                },
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
        params.parent = params.parent.or(envelope.parent);
        if !self.gate.policy().visible(&self.caller, &params.name) {
            let why = format!("Unknown tool: {}", params.name);
            let rule = self.gate.policy().hidden_by(&self.caller, &params.name);
            observed(Some(params), CallVerdict::Hidden, rule);
            return FromClient::Answer(Answer::to(reply::error(Some(id_text), -32602, &why)));
        }
        // Before the policy is asked, since asking may use up a limit.
        if let Err(full) = self.admit(id, Flight::Opening) {
            let line = refuse(Some(params), Some(id_text), full.code(), full.to_string());
            return FromClient::Answer(Answer::to(line));
        }
        self.speaks();
        self.owners().calls(&self.caller.principal);

        let call = params.call();
        if let Some(state) = self.ours(&params)
            && let Some(said) = question::said_again(params.responses)
        {
            let answer = self.gate.policy().answer(&self.caller, &call, state, said);
            if let Err(denial) = answer.await {
                let noted = self.noted(&params, None);
                return self.deny(
                    id,
                    id_text,
                    call,
                    *denial,
                    (None, noted),
                    self.shape(&params),
                );
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
        let noted = self.noted(params, Some(&ticket));
        let (wanted, changes, within, rule) = match verdict {
            Verdict::Deny(denial) => {
                return self.deny(id, id_text, call, denial, (Some(ticket), noted), shape);
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
                self.decided(
                    id_text,
                    call,
                    CallVerdict::Pending { id },
                    Some(rule),
                    noted,
                );
                return FromClient::Answer(Answer::to(line));
            }
            Verdict::Forward => {
                let flight = Flight::Call(ticket);
                return self.forward(message, (id, id_text), params, (call, noted), flight);
            }
            Verdict::EndCapture => {
                let names = stops::strings(&call.arguments);
                let flight = Flight::Ending(SessionKind::Capture, names, ticket);
                return self.forward(message, (id, id_text), params, (call, noted), flight);
            }
            Verdict::EndProxy => {
                let names = stops::strings_and_numbers(&call.arguments);
                let flight = Flight::Ending(SessionKind::Proxy, names, ticket);
                return self.forward(message, (id, id_text), params, (call, noted), flight);
            }
            Verdict::EndProgram => {
                let names = stops::strings(&call.arguments);
                let flight = Flight::Ending(SessionKind::Program, names, ticket);
                return self.forward(message, (id, id_text), params, (call, noted), flight);
            }
            Verdict::Program(verdict) => {
                let ProgramVerdict { terms, rule } = *verdict;
                (Wanted::Program(terms), Vec::new(), None, rule)
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
            return self.deny(id, id_text, call, denial, (Some(ticket), noted), shape);
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
            noted,
        }))
    }

    /// What is known of a call besides what it asks for.
    pub(super) fn noted(&self, params: &CallParams<'_>, ticket: Option<&Ticket<G>>) -> Noted {
        Noted {
            decided_by: self.gate.policy().decided_by(&self.caller, ticket),
            parent: params.parent,
        }
    }

    /// Forwards a call that is in the book and needs no session.
    fn forward(
        &self,
        message: &[u8],
        (id, id_text): (&Id, &str),
        params: &CallParams<'_>,
        (call, noted): (Call, Noted),
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
            let why = "the call was cancelled".to_owned();
            let refused = CallVerdict::Refused { why: why.clone() };
            self.decided(id_text, call, refused, None, noted);
            return FromClient::Drop(why);
        }
        match stops {
            None => self.decided(id_text, call, CallVerdict::Forwarded, None, noted),
            Some(stops) => {
                self.decided(id_text, call, CallVerdict::EndsCapture, None, noted);
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
        (ticket, noted): (Option<Ticket<G>>, Noted),
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
        self.decided(id_text, call, denied, Some(denial.rule), noted);
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
            noted,
        } = start;
        let kind = wanted.kind();
        let alone = |opened| ProgramOpened {
            opened,
            joined: false,
        };
        let opened = match wanted {
            Wanted::Capture(terms) => self.gate.captures().open(terms).await.map(alone),
            Wanted::Proxy(terms) => self.gate.captures().open_proxy(terms).await.map(alone),
            Wanted::Program(terms) => self.gate.captures().open_program(terms).await,
        };
        match opened {
            Ok(ProgramOpened { opened, joined }) => AfterOpen::Ready {
                id: id.clone(),
                text,
                beginning: Box::new(Beginning {
                    id,
                    id_text: id_text.clone(),
                    call,
                    capture: CaptureFlight {
                        kind,
                        joined,
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
                    noted,
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
                self.decided(&id_text, call, not_opened, Some(denial.rule), noted);
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
            noted,
        } = beginning;
        let session = capture.opened.session;
        self.owners().opened(session, &self.caller.principal);
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
            SessionKind::Program => CallVerdict::Programs { session, granted },
        };
        let joined = capture.joined;
        let refusals = self.gate.captures().refusals();
        let refused = {
            let flight = Flight::Capture(Box::new(capture));
            self.book().forwarding(&id, flight, refusals).err()
        };
        match refused {
            None => {
                self.decided(&id_text, call, granted, Some(rule), noted);
                true
            }
            Some(flight) => {
                if !joined {
                    self.gate.captures().end(session, EndReason::CallFailed);
                }
                self.settle(flight, CallEnd::Cancelled);
                let withdrawn = CallVerdict::Withdrawn { session };
                self.decided(&id_text, call, withdrawn, Some(rule), noted);
                false
            }
        }
    }

    /// The server has gone before the turn of a call came that waited for its session.
    pub(super) fn give_back(&self, beginning: Beginning<Ticket<G>>) {
        let Beginning { id, capture, .. } = beginning;
        self.book().remove(&id);
        let CaptureFlight {
            kind,
            opened,
            joined,
            ticket,
            ..
        } = capture;
        if kind == SessionKind::Program {
            self.gate.captures().replied(opened.session);
        }
        if !joined {
            self.gate
                .captures()
                .end(opened.session, EndReason::ServerExit);
        }
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
        noted: Noted,
    ) {
        self.observe(GateEvent::Call(Box::new(CallEvent {
            caller: self.caller.clone(),
            id: Some(id.to_owned()),
            tool: call.tool,
            arguments: call.arguments,
            noted,
            verdict,
            rule,
        })));
    }
}
