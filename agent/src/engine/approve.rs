//! What becomes of a call that needs an approval, in words for the model.

use jiff::Timestamp;

use crate::{
    approval::{Asked, Bound, By, Clerk, NotTaken, Refused, Request, Used, shown_id},
    audit::{visible, visible_json},
    policy::{Approval, Approver, Call, Denial, Pending, Question, RuleRef, Said, Verdict},
    principal::Caller,
};

/// Bytes of what a client's user is asked.
const LONGEST_MESSAGE: usize = 4 << 10;

/// Asks for the approval of a call that is allowed by all the rest. What is returned in place of an
/// approval is what becomes of the call.
pub(super) async fn ask(
    clerk: Option<&Clerk>,
    caller: &Caller,
    call: &Call,
    approval: &Approval,
    verdict: &Verdict,
) -> Result<Used, Box<Verdict>> {
    let Some(clerk) = clerk else {
        let reason = format!(
            "This call needs {} approval, and there is nobody to ask.",
            whose(approval.by)
        );
        let denial = Denial::new(reason, approval.rule.clone());
        return Err(Box::new(Verdict::Deny(denial)));
    };
    let effect = match verdict {
        Verdict::Capture(capture) => Some(format!("a capture of {}", capture.terms)),
        Verdict::Proxy(proxy) => Some(format!("a proxy {}", proxy.terms)),
        Verdict::Program(program) => Some(program.terms.to_string()),
        _ => None,
    };
    let request = match Request::new(caller, call, approval, effect) {
        Ok(request) => request,
        Err(refused) => return told(Asked::Refused(refused), approval, None),
    };
    let message = (approval.by == Approver::User)
        .then(|| message(&request))
        .flatten();
    let kept = message.is_some().then(|| request.clone());
    let asked = clerk.ask(request).await;
    let question = match (&asked, message, kept) {
        (Asked::Pending { id, .. }, Some(message), Some(request)) => clerk
            .state(id, &request)
            .map(|state| Question { message, state }),
        _ => None,
    };
    told(asked, approval, question)
}

/// Takes what a client's user said about a call.
pub(super) async fn answer(
    clerk: &Clerk,
    caller: &Caller,
    call: &Call,
    state: &str,
    said: Said,
    rule: RuleRef,
) -> Result<(), Box<Denial>> {
    let taken = match Bound::of(caller, call) {
        Ok(bound) => clerk.answer(state, bound, said).await,
        Err(refused) => Err(refused.into()),
    };
    taken.map_err(|not_taken| {
        if let NotTaken::Store(error) = &not_taken {
            tracing::error!(%error, "an answer cannot be taken");
        }
        let reason = format!("The answer that this call came with is not taken: {not_taken}.");
        let mut denial = Denial::new(reason, rule);
        denial.instead = Some(
            "Call again without `requestState` and `inputResponses`; if the call still needs it, its user is then asked anew."
                .to_owned(),
        );
        Box::new(denial)
    })
}

/// Whose approval it is, to the model.
fn whose(approver: Approver) -> &'static str {
    match approver {
        Approver::Operator => "an operator's",
        Approver::User => "the user's",
    }
}

/// What the user of a client is asked about a call; none if that is too long to be read in a form, so
/// that nobody says yes to what was cut off.
fn message(request: &Request) -> Option<String> {
    let mut message = format!(
        "May this call be made, once?\n\nTool: {} (at the server {})",
        visible(&request.tool),
        visible(&request.server),
    );
    let mut line = |name: &str, text: Option<&str>| {
        if let Some(text) = text {
            message.push_str(&format!("\n{name}: {}", visible(text)));
        }
    };
    line("It comes to", request.effect.as_deref());
    line("Why this is asked", request.why.as_deref());
    line("Rule", Some(&request.rule));
    // Last, since who calls chooses how long they are.
    message.push_str(&format!(
        "\nArguments: {}",
        visible_json(&request.arguments)
    ));
    (message.len() <= LONGEST_MESSAGE).then_some(message)
}

fn told(
    asked: Asked,
    approval: &Approval,
    question: Option<Question>,
) -> Result<Used, Box<Verdict>> {
    let rule = approval.rule.clone();
    let whose = whose(approval.by);
    Err(Box::new(match asked {
        Asked::Approved(used) => return Ok(used),
        Asked::Pending { id, until } => {
            let id = shown_id(&id);
            let expires = time(until);
            Verdict::Pending(Box::new(Pending {
                reason: format!(
                    "This call needs {whose} approval; it is pending as {id} until {expires}."
                ),
                instead: match approval.by {
                    Approver::Operator => format!(
                        "Ask for `capwarden approve {id}`, then call again with the same arguments."
                    ),
                    Approver::User => format!(
                        "Ask the user to say yes where the client asks, or for `capwarden approve {id}`, then call again with the same arguments."
                    ),
                },
                id,
                expires,
                rule,
                question,
            }))
        }
        Asked::Denied { id, by, why, until } => {
            let why = why.map(|why| format!(", because: {}", why.trim_end_matches('.')));
            let who = match by {
                By::Client => "The user",
                By::Operator(_) => "An operator",
            };
            let reason = format!(
                "{who} has denied this call ({}){}.",
                shown_id(&id),
                why.unwrap_or_default()
            );
            let mut denial = Denial::new(reason, rule);
            denial.instead = Some(format!(
                "Do without it; the same call is not asked for again before {}.",
                time(until)
            ));
            Verdict::Deny(denial)
        }
        Asked::Refused(refused) => {
            if let Refused::Store(error) = &refused {
                tracing::error!(%error, "approvals cannot be asked for");
            }
            let reason =
                format!("This call needs {whose} approval, which cannot be asked for: {refused}.");
            let mut denial = Denial::new(reason, rule);
            denial.instead = match refused {
                Refused::TooLarge { .. } => Some("Call with shorter arguments.".to_owned()),
                Refused::Inexact => {
                    Some("Send the number as a string, if the tool takes one.".to_owned())
                }
                Refused::TooManyPending | Refused::Full => {
                    Some("Wait until those have been approved or denied.".to_owned())
                }
                Refused::Store(_) | Refused::Random(_) | Refused::Closed => None,
            };
            Verdict::Deny(denial)
        }
    }))
}

/// Seconds since 1970 as RFC 3339 has it, in UTC.
pub(super) fn time(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).ok();
    let time = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.unwrap_or(Timestamp::MAX).to_string()
}
