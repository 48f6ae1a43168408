//! What becomes of a call that needs an approval, in words for the model.

use jiff::Timestamp;

use crate::{
    approval::{Asked, Clerk, Refused, Request, Used, shown_id},
    policy::{Approval, Call, Denial, Pending, Verdict},
    principal::Caller,
};

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
        let reason = "This call needs an operator's approval, and there is nobody to ask.";
        let denial = Denial::new(reason, approval.rule.clone());
        return Err(Box::new(Verdict::Deny(denial)));
    };
    let effect = match verdict {
        Verdict::Capture(capture) => Some(format!("a capture of {}", capture.terms)),
        Verdict::Proxy(proxy) => Some(format!("a proxy {}", proxy.terms)),
        _ => None,
    };
    let asked = match Request::new(caller, call, approval, effect) {
        Ok(request) => clerk.ask(request).await,
        Err(refused) => Asked::Refused(refused),
    };
    answer(asked, approval)
}

fn answer(asked: Asked, approval: &Approval) -> Result<Used, Box<Verdict>> {
    let rule = approval.rule.clone();
    Err(Box::new(match asked {
        Asked::Approved(used) => return Ok(used),
        Asked::Pending { id, until } => {
            let id = shown_id(&id);
            let expires = time(until);
            Verdict::Pending(Box::new(Pending {
                reason: format!(
                    "This call needs an operator's approval; it is pending as {id} until {expires}."
                ),
                instead: format!(
                    "Ask for `capwarden approve {id}`, then call again with the same arguments."
                ),
                id,
                expires,
                rule,
            }))
        }
        Asked::Denied { id, why, until } => {
            let why = why.map(|why| format!(", because: {}", why.trim_end_matches('.')));
            let reason = format!(
                "An operator has denied this call ({}){}.",
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
            let reason = format!(
                "This call needs an operator's approval, which cannot be asked for: {refused}."
            );
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
