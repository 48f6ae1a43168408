//! From the client to the server.

use std::sync::Arc;

use tokio::{io::AsyncWrite, sync::mpsc};

use super::{
    book::{CaptureFlight, Flight},
    captures::Captures,
    envelope::{CallParams, Envelope, Fault, Id},
    events::{CallEvent, CallVerdict, Decide, GateEvent, Observer, Side},
    json::Members,
    pump::Shared,
    reply::{self, DenialShape},
    splice, stops,
};
use crate::{
    policy::{Call, CaptureVerdict, Denial, RuleRef, Verdict},
    session::EndReason,
};

/// Calls of longer lines are not kept while they are in flight.
const KEPT_CALL: usize = 64 * 1024;

/// A call that the policy allows to capture, on its way to a session.
struct Start {
    /// The line, with the changes made.
    line: String,
    id: Id,
    id_text: String,
    call: Call,
    verdict: CaptureVerdict,
    shape: DenialShape,
}

impl<P, C, O, CO, SI> Shared<P, C, O, CO, SI>
where
    P: Decide + ?Sized,
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
                let admitted = self.book().admit(id.clone(), flight);
                if let Err(full) = admitted {
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
            self.observe(GateEvent::Call(CallEvent {
                id: envelope.id.as_ref().map(|(_, text)| (*text).to_owned()),
                tool: call.map(|call| call.name.clone()).unwrap_or_default(),
                argument_names: call
                    .map(|call| call.arguments.keys().cloned().collect())
                    .unwrap_or_default(),
                verdict,
                rule,
            }));
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
        let room = self.book().room(id);
        if let Err(full) = room {
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
        let verdict = self.gate.policy.decide(&call);
        let flight = match verdict {
            Verdict::Deny(denial) => {
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
                    self.gate.policy.failed(&call);
                    self.decided(id_text, &call, denied(&denial), Some(denial.rule));
                    return self.tell(answer.as_bytes()).await;
                };
                // Cannot fail: there was room, and only this task admits.
                let _ = self.book().admit(id.clone(), Flight::Opening);
                let start = Start {
                    line,
                    id: id.clone(),
                    id_text: (*id_text).to_owned(),
                    call,
                    verdict: *verdict,
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
                Flight::Call(kept(line, call))
            }
            Verdict::EndCapture => {
                self.decided(id_text, &call, CallVerdict::EndsCapture, None);
                let names = stops::strings(&call.arguments);
                if let [session] = self.meant(&names, true).as_slice() {
                    self.gate.captures.stopping(*session);
                }
                Flight::Ending(names, kept(line, call))
            }
        };
        let _ = self.book().admit(id.clone(), flight);
        if !self.pass(line).await {
            self.book().remove(id);
        }
    }

    /// Opens the session of a call, then forwards the call.
    async fn start(&self, start: Start) {
        let Start {
            line,
            id,
            id_text,
            call,
            verdict,
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
                self.gate.policy.failed(&call);
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
        let flight = Box::new(CaptureFlight {
            opened,
            changes,
            call: kept(line.as_bytes(), call.clone()),
        });
        let wanted = || {
            let wanted = self.book().opened(&id, flight).is_ok();
            if wanted {
                self.decided(&id_text, &call, granted, Some(rule.clone()));
            }
            wanted
        };
        match self.pass_if(line.as_bytes(), wanted).await {
            Some(true) => {}
            Some(false) => {
                self.gate.captures.end(session, EndReason::CallFailed);
                self.gate.policy.failed(&call);
                let withdrawn = CallVerdict::Withdrawn { session };
                self.decided(&id_text, &call, withdrawn, Some(rule));
            }
            None => {
                self.book().remove(&id);
                self.gate.captures.end(session, EndReason::ServerExit);
            }
        }
    }

    fn decided(&self, id: &str, call: &Call, verdict: CallVerdict, rule: Option<RuleRef>) {
        self.observe(GateEvent::Call(CallEvent {
            id: Some(id.to_owned()),
            tool: call.tool.clone(),
            argument_names: call.arguments.keys().cloned().collect(),
            verdict,
            rule,
        }));
    }
}

fn denied(denial: &Denial) -> CallVerdict {
    CallVerdict::Denied {
        reason: denial.reason.clone(),
        instead: denial.instead.clone(),
    }
}

fn kept(line: &[u8], call: Call) -> Option<Box<Call>> {
    (line.len() <= KEPT_CALL).then(|| Box::new(call))
}

fn length(line: &[u8]) -> u64 {
    u64::try_from(line.len()).unwrap_or(u64::MAX)
}
