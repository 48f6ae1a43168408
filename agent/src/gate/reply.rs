//! The lines that the gate itself sends to the client.

use std::{fmt::Write, time::Duration};

use serde_json::{Value, json};

use super::captures::Opened;
use crate::{
    policy::{Change, Denial, Pending, RuleRef},
    session::{EndReason, SessionEnd, SessionKind},
};

/// A JSON-RPC error; `id` is JSON, and none where the request is not known.
pub(super) fn error(id: Option<&str>, code: i32, message: &str) -> String {
    let id = id.unwrap_or("null");
    let message = Value::from(message);
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":{code},\"message\":{message}}}}}\n"
    )
}

/// In which of its shapes a denial goes out.
#[derive(Clone, Copy, Debug)]
pub(super) struct DenialShape {
    /// The request was of the stateless protocol, where a result says its type.
    pub(super) stateless: bool,
    /// The tool has an output schema. Some clients hold even an error's structured content
    /// against it, and would show the model their own complaint in place of the denial.
    pub(super) output_schema: bool,
}

/// The result of a call that is denied.
pub(super) fn denial(id: &str, denial: &Denial, shape: DenialShape) -> String {
    let mut verdict = json!({
        "verdict": "deny",
        "reason": denial.reason,
        "rule": place(&denial.rule),
    });
    if let (Some(instead), Some(verdict)) = (&denial.instead, verdict.as_object_mut()) {
        verdict.insert("instead".to_owned(), Value::from(instead.as_str()));
    }
    // Another vendor's words, where they were chosen; what programs read stays ours.
    let text = denial.text.clone();
    refusal(
        id,
        &text.unwrap_or_else(|| denial.to_string()),
        &verdict,
        shape,
    )
}

/// The result of a call that waits for an approval.
pub(super) fn pending(id: &str, pending: &Pending, shape: DenialShape) -> String {
    let verdict = json!({
        "verdict": "pending",
        "id": pending.id,
        "expires": pending.expires,
        "reason": pending.reason,
        "rule": place(&pending.rule),
        "instead": pending.instead,
    });
    refusal(id, &pending.to_string(), &verdict, shape)
}

fn place(rule: &RuleRef) -> Value {
    json!({
        "file": &*rule.file,
        "line": rule.line,
        "column": rule.column,
        "path": rule.path,
    })
}

/// The result of a call that is not forwarded.
fn refusal(id: &str, text: &str, verdict: &Value, shape: DenialShape) -> String {
    let structured = if shape.output_schema {
        "_meta"
    } else {
        "structuredContent"
    };
    let mut result = json!({
        "content": [{ "type": "text", "text": text }],
        "isError": true,
        structured: { "capwarden": verdict },
    });
    if let (true, Some(result)) = (shape.stateless, result.as_object_mut()) {
        result.insert("resultType".to_owned(), Value::from("complete"));
    }
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}\n")
}

/// A call that the server did not answer in time.
pub(super) struct Unanswered<'a> {
    /// How long it had.
    pub(super) within: Duration,
    /// What the call had opened.
    pub(super) opened: &'a Opened,
    /// The session goes on: its proxy listens.
    pub(super) goes_on: bool,
    /// What the kernel refused the server meanwhile.
    pub(super) refused: &'a [String],
}

impl Unanswered<'_> {
    /// The result that the gate gives in the server's place.
    pub(super) fn line(&self, id: &str, shape: DenialShape) -> String {
        let (session, within) = (self.opened.session, self.within.as_secs_f64());
        let mut text = format!(
            "The server did not answer this call within {within} s, so capwarden answers for it."
        );
        // Writing to a string cannot fail.
        if !self.refused.is_empty() {
            let refused = self.refused.join("; ");
            let _ = write!(text, " Meanwhile the server was not allowed to {refused}.");
        }
        let _ = match self.goes_on {
            true => write!(
                text,
                " The proxy listens all the same, and {session} goes on: {}.",
                self.opened.summary
            ),
            false => write!(
                text,
                " The proxy does not listen, and {session} has ended: call again to have another."
            ),
        };
        let told = json!({
            "unanswered": true,
            "reason": text,
            "session": session,
            "ended": !self.goes_on,
            "refused": self.refused,
        });
        refusal(id, &text, &told, shape)
    }
}

/// What the model is told of a grant: the terms, and each change of its call.
pub(super) fn granted(opened: &Opened, changes: &[Change]) -> String {
    let mut text = format!("capwarden granted {}: {}", opened.session, opened.summary);
    // Writing to a string cannot fail.
    if let Some(cut) = &opened.cut {
        let _ = write!(text, "\n{cut}");
    }
    for change in changes {
        let asked = match &change.asked {
            Some(asked) => asked.to_string(),
            None => "not given".to_owned(),
        };
        let _ = write!(
            text,
            "\n{}: {asked} → {}, {}",
            change.argument, change.forwarded, change.why
        );
    }
    text
}

/// What the model is told of what the kernel refused the server while a call was carried out.
pub(super) fn refused(refused: &[String]) -> String {
    format!(
        "capwarden: while this call was carried out, the server was not allowed to {}.",
        refused.join("; ")
    )
}

/// The same as a notification, for an answer that has no place for it.
pub(super) fn refused_notice(text: &str) -> String {
    notice("warning", &json!({ "message": text }))
}

/// A text as a content item.
pub(super) fn text_item(text: &str) -> String {
    json!({ "type": "text", "text": text }).to_string()
}

/// The same as a notification, for an answer that has no place for it.
pub(super) fn granted_notice(opened: &Opened, text: &str) -> String {
    notice(
        "notice",
        &json!({ "session": opened.session, "message": text }),
    )
}

/// A session ended.
pub(super) fn end_notice(end: &SessionEnd) -> String {
    let level = match end.reason {
        EndReason::Violation | EndReason::Revoked | EndReason::Stopped | EndReason::CallFailed => {
            "warning"
        }
        _ => "notice",
    };
    let kind = match end.kind() {
        SessionKind::Capture => "capture",
        SessionKind::Proxy => "proxy",
        SessionKind::Program => "session for programs",
    };
    notice(
        level,
        &json!({
            "session": end.session,
            "reason": end.reason,
            "message": format!(
                "{kind} {} ended: {} ({} packets, {} bytes)",
                end.session, end.why(), end.packets, end.bytes
            ),
            "packets": end.packets,
            "bytes": end.bytes,
        }),
    )
}

/// Other tools are to be seen than before: the client lists them again.
pub(super) const TOOLS_CHANGED: &str =
    "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n";

/// What a client lists again if a restarted server has other capabilities, by their names.
pub(super) const LISTS_CHANGED: [(&str, &str); 2] = [
    (
        "prompts",
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/prompts/list_changed\"}\n",
    ),
    (
        "resources",
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/resources/list_changed\"}\n",
    ),
];

/// The server is another process now.
pub(super) fn restart_notice() -> String {
    let message = "the server was restarted, as the policy has it at the end of a proxy: it has \
                   forgotten what it kept in memory, subscriptions and log levels included";
    notice("warning", &json!({ "message": message }))
}

fn notice(level: &str, data: &Value) -> String {
    format!(
        "{}\n",
        json!({
            "jsonrpc": "2.0",
            "method": "notifications/message",
            "params": { "level": level, "logger": "capwarden", "data": data },
        })
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn other_words_are_told_where_they_were_chosen() {
        let rule = RuleRef {
            file: Arc::from("p"),
            line: 1,
            column: 2,
            path: "tools.a".to_owned(),
        };
        let mut refused = Denial::new("No.", rule);
        let shape = DenialShape {
            stateless: false,
            output_schema: false,
        };
        let told = |refused: &Denial| -> Value {
            serde_json::from_str(&denial("7", refused, shape)).unwrap()
        };
        let ours = told(&refused);
        assert_eq!(
            ours["result"]["content"][0]["text"],
            "No. (rule: p:1:2 tools.a)"
        );
        let text = "[INTERCEPT POLICY DENIED] Denied by rule \"x\"";
        refused.text = Some(text.to_owned());
        let theirs = told(&refused);
        assert_eq!(theirs["result"]["content"][0]["text"], text);
        let structured = |answer: &Value| answer["result"]["structuredContent"].clone();
        assert_eq!(structured(&theirs), structured(&ours));
    }
}
