//! From the client to the server.

use std::sync::Arc;

use tokio::{io::AsyncWrite, sync::mpsc};

use super::{
    book::{CaptureFlight, Flight, NoRoom},
    captures::Captures,
    envelope::{CallParams, Envelope, Fault, Id},
    events::{CallEnd, CallEvent, CallVerdict, Decide, GateEvent, Observer, Side},
    json::Members,
    pump::Shared,
    reply::{self, DenialShape},
    splice, stops,
};
use crate::{
    policy::{Call, CaptureVerdict, Denial, RuleRef, Verdict},
    session::EndReason,
};

/// A call that the policy allows to capture, on its way to a session.
struct Start<T> {
    /// The line, with the changes made.
    line: String,
    id: Id,
    id_text: String,
    call: Call,
    verdict: CaptureVerdict,
    ticket: T,
    shape: DenialShape,
}

impl<P, C, O, CO, SI> Shared<P, C, O, CO, SI>
where
    P: Decide,
    C: Captures,
    O: Observer + ?Sized,
    CO: AsyncWrite + Unpin + Send + 'static,
    SI: AsyncWrite + Unpin + Send + 'static,
{
    pub(super) async fn client_line(self: &Arc<Self>, line: &[u8], waiting: &mpsc::Sender<()>) {
        if line.trim_ascii().is_empty() {
            return;
        }
        let envelope = match Envelope::parse(line) {
            Ok(envelope) => envelope,
            Err(refused) => {
                let why = refused.fault.to_string();
                self.dropped(Side::Client, length(line), &why, line);
                let code = refused.fault.code();
                self.tell(reply::error(refused.id, code, &why).as_bytes())
                    .await;
                return;
            }
        };
        match envelope.method.as_deref() {
            None => {
                // An answer to a request of the server.
                self.pass(line).await;
            }
            Some("tools/call") => self.call(line, &envelope, waiting).await,
            Some(method) => self.other(line, method, &envelope).await,
        }
    }

    /// Anything but a call: forwarded as it is.
    async fn other(&self, line: &[u8], method: &str, envelope: &Envelope<'_>) {
        let flight = match method {
            "initialize" => Flight::Initialize,
            "tools/list" => Flight::ToolList,
            _ => Flight::Passing,
        };
        match &envelope.id {
            // Its answer could not be told from any other, and would be let through whole.
            Some((Id::Null, text)) if matches!(flight, Flight::ToolList) => {
                let why = Fault::BadId.to_string();
                self.dropped(Side::Client, length(line), &why, line);
                self.tell(reply::error(Some(text), -32600, &why).as_bytes())
                    .await;
            }
            None | Some((Id::Null, _)) => {
                if method == "notifications/cancelled" {
                    self.cancelled(envelope.params);
                }
                self.pass(line).await;
            }
            Some((id, text)) => {
                let speaks = !matches!(method, "initialize" | "ping");
                if let Err(full) = self.admit(id, flight) {
                    let why = full.to_string();
                    self.dropped(Side::Client, length(line), &why, line);
                    self.tell(reply::error(Some(text), full.code(), &why).as_bytes())
                        .await;
                    return;
                }
                if speaks {
                    self.speaks();
                }
                if !self.pass(line).await {
                    self.book().remove(id);
                }
            }
        }
    }

    /// Takes a request into the book.
    fn admit(&self, id: &Id, flight: Flight<P::Ticket>) -> Result<(), NoRoom> {
        let gone = self.book().admit(id.clone(), flight)?;
        if let Some(gone) = gone {
            self.settle(gone.flight, CallEnd::Lost);
        }
        Ok(())
    }

    /// The client sent a request that is not its first of a handshake: it can take notifications
    /// unless it still waits for the handshake's answer.
    fn speaks(&self) {
        if !*self.ready.borrow() && !self.book().initializing() {
            self.ready.send_replace(true);
        }
    }

    fn cancelled(&self, params: Option<&str>) {
        let Some(text) = params
            .and_then(|params| Members::parse(params).ok())
            .and_then(|members| members.get("requestId"))
        else {
            return;
        };
        let Some(id) = Id::parse(text) else { return };
        let cancelled = self.book().cancel(&id);
        if let Some(session) = cancelled {
            if let Some(session) = session {
                // The client ignores the answer now, so nobody will know the capture's name.
                self.gate.captures.end(session, EndReason::CallFailed);
            }
            self.observe(GateEvent::Cancelled {
                connection: self.gate.caller.connection,
                id: text.to_owned(),
                session,
            });
        }
    }

    async fn call(
        self: &Arc<Self>,
        line: &[u8],
        envelope: &Envelope<'_>,
        waiting: &mpsc::Sender<()>,
    ) {
        let params = CallParams::parse(envelope.params);
        let decided = |call: Option<&CallParams<'_>>, verdict, rule| {
            self.observe(GateEvent::Call(Box::new(CallEvent {
                caller: self.gate.caller.clone(),
                id: envelope.id.as_ref().map(|(_, text)| (*text).to_owned()),
                tool: call.map(|call| call.name.clone()).unwrap_or_default(),
                arguments: call.map(|call| call.arguments.clone()).unwrap_or_default(),
                recorded: None,
                verdict,
                rule,
            })));
        };
        let refuse = |call: Option<&CallParams<'_>>, id: Option<&str>, code, why: String| {
            tracing::warn!(why, "refused a call");
            let answer = reply::error(id, code, &why);
            decided(call, CallVerdict::Refused { why }, None);
            answer
        };

        let Some((id, id_text)) = &envelope.id else {
            // Nobody would see what became of it.
            let why = "a call without an id is not carried out".to_owned();
            tracing::warn!(why, "dropped a call");
            decided(params.as_ref().ok(), CallVerdict::Refused { why }, None);
            return;
        };
        if *id == Id::Null {
            let why = Fault::BadId.to_string();
            let answer = refuse(params.as_ref().ok(), None, -32600, why);
            return self.tell(answer.as_bytes()).await;
        }
        let mut params = match params {
            Ok(params) => params,
            Err(fault) => {
                let answer = refuse(None, Some(id_text), fault.code(), fault.to_string());
                return self.tell(answer.as_bytes()).await;
            }
        };
        if !self.gate.policy.visible(&params.name) {
            decided(Some(&params), CallVerdict::Hidden, None);
            let why = format!("Unknown tool: {}", params.name);
            let answer = reply::error(Some(id_text), -32602, &why);
            return self.tell(answer.as_bytes()).await;
        }
        // Before the policy is asked, since asking may use up a limit.
        if let Err(full) = self.admit(id, Flight::Opening) {
            let answer = refuse(Some(&params), Some(id_text), full.code(), full.to_string());
            return self.tell(answer.as_bytes()).await;
        }
        self.speaks();

        let shape = DenialShape {
            stateless: params.stateless,
            output_schema: self.schemas().has_output(&params.name),
        };
        let call = Call {
            tool: params.name.clone(),
            arguments: std::mem::take(&mut params.arguments),
        };
        let (verdict, ticket) = self.gate.policy.decide(&self.gate.caller, &call).await;
        let flight = match verdict {
            Verdict::Deny(denial) => {
                self.gate.policy.settle(ticket, CallEnd::NotForwarded);
                self.book().remove(id);
                let answer = reply::denial(id_text, &denial, shape);
                self.decided(id_text, &call, denied(&denial), Some(denial.rule));
                return self.tell(answer.as_bytes()).await;
            }
            Verdict::Capture(verdict) => {
                let edited = str::from_utf8(line)
                    .ok()
                    .and_then(|text| splice::change_arguments(text, &params, &verdict.changes));
                let Some(line) = edited else {
                    let denial = Denial {
                        reason: "The policy's changes could not be written into the call."
                            .to_owned(),
                        instead: None,
                        rule: verdict.rule,
                        text: None,
                        allowed: None,
                    };
                    let answer = reply::denial(id_text, &denial, shape);
                    self.gate.policy.settle(ticket, CallEnd::NotForwarded);
                    self.book().remove(id);
                    self.decided(id_text, &call, denied(&denial), Some(denial.rule));
                    return self.tell(answer.as_bytes()).await;
                };
                let start = Start {
                    line,
                    id: id.clone(),
                    id_text: (*id_text).to_owned(),
                    call,
                    verdict: *verdict,
                    ticket,
                    shape,
                };
                let (shared, waiting) = (Arc::clone(self), waiting.clone());
                tokio::spawn(async move {
                    shared.start(start).await;
                    drop(waiting);
                });
                return;
            }
            Verdict::Forward => {
                self.decided(id_text, &call, CallVerdict::Forwarded, None);
                Flight::Call(ticket)
            }
            Verdict::EndCapture => {
                self.decided(id_text, &call, CallVerdict::EndsCapture, None);
                let names = stops::strings(&call.arguments);
                if let [session] = self.meant(&names, true).as_slice() {
                    self.gate.captures.stopping(*session);
                }
                Flight::Ending(names, ticket)
            }
        };
        // Cannot fail: it could be cancelled by a message only, and this is the task that reads them.
        let _ = self.book().forwarding(id, flight);
        if !self.pass(line).await {
            self.not_forwarded(id);
        }
    }

    /// The server does not read any more.
    fn not_forwarded(&self, id: &Id) {
        let request = self.book().remove(id);
        if let Some(request) = request {
            self.settle(request.flight, CallEnd::NotForwarded);
        }
    }

    /// Opens the session of a call, then forwards the call.
    async fn start(&self, start: Start<P::Ticket>) {
        let Start {
            line,
            id,
            id_text,
            call,
            verdict,
            ticket,
            shape,
        } = start;
        let CaptureVerdict {
            terms,
            changes,
            rule,
        } = verdict;
        let opened = match self.gate.captures.open(terms).await {
            Ok(opened) => opened,
            Err(error) => {
                let cancelled = self.book().remove(&id).is_some_and(|call| call.cancelled);
                let end = if cancelled {
                    CallEnd::Cancelled
                } else {
                    CallEnd::NotForwarded
                };
                self.gate.policy.settle(ticket, end);
                let reason = error.to_string();
                let denial = Denial {
                    reason: reason.clone(),
                    instead: None,
                    rule: rule.clone(),
                    text: None,
                    allowed: None,
                };
                self.decided(
                    &id_text,
                    &call,
                    CallVerdict::NotOpened { reason },
                    Some(rule),
                );
                // A request that was cancelled is not answered.
                if !cancelled {
                    self.tell(reply::denial(&id_text, &denial, shape).as_bytes())
                        .await;
                }
                return;
            }
        };
        let session = opened.session;
        let granted = CallVerdict::Captures {
            session,
            granted: opened.summary.clone(),
            changes: changes.clone(),
        };
        let flight = Flight::Capture(Box::new(CaptureFlight {
            opened,
            changes,
            ticket,
        }));
        let wanted = || {
            let refused = self.book().forwarding(&id, flight).err();
            match refused {
                Some(flight) => {
                    self.settle(flight, CallEnd::Cancelled);
                    false
                }
                None => {
                    self.decided(&id_text, &call, granted, Some(rule.clone()));
                    true
                }
            }
        };
        match self.pass_if(line.as_bytes(), wanted).await {
            Some(true) => {}
            Some(false) => {
                self.gate.captures.end(session, EndReason::CallFailed);
                let withdrawn = CallVerdict::Withdrawn { session };
                self.decided(&id_text, &call, withdrawn, Some(rule));
            }
            None => {
                self.not_forwarded(&id);
                self.gate.captures.end(session, EndReason::ServerExit);
            }
        }
    }

    fn decided(&self, id: &str, call: &Call, verdict: CallVerdict, rule: Option<RuleRef>) {
        self.observe(GateEvent::Call(Box::new(CallEvent {
            caller: self.gate.caller.clone(),
            id: Some(id.to_owned()),
            tool: call.tool.clone(),
            arguments: call.arguments.clone(),
            recorded: None,
            verdict,
            rule,
        })));
    }
}

fn denied(denial: &Denial) -> CallVerdict {
    CallVerdict::Denied {
        reason: denial.reason.clone(),
        instead: denial.instead.clone(),
    }
}

fn length(line: &[u8]) -> u64 {
    u64::try_from(line.len()).unwrap_or(u64::MAX)
}
