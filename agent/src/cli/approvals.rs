//! `capwarden approvals`: the calls that wait for an approval.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use clap::Args;
use serde_json::{Value, json, value::RawValue};

use crate::{
    approval::{Approvals as Table, Listed, Standing, shown_id},
    audit::{visible, visible_json},
};

use super::{
    exit::Exit,
    failure::Failure,
    state::{self, State},
    term::{self, Paint},
};

/// Arguments longer than this are shown one below the other.
const ONE_LINE: usize = 80;
/// Characters beyond ASCII that are named.
const NAMED: usize = 12;

/// List the calls that wait for an approval
///
/// Who calls which tool with which arguments, by which rule it waits, and for how long. Arguments come
/// from a model: what could move a cursor, hide or turn text around is escaped, and characters beyond
/// ASCII are named, since some look like others.
#[derive(Debug, Args)]
pub(super) struct Approvals {
    /// List those too that were used or denied, or have expired, for a day
    #[arg(long)]
    all: bool,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: State,
}

impl Approvals {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let listed = match self.state.look()? {
            Some(directory) => Table::open(&directory)?.list(self.all)?,
            None => Vec::new(),
        };
        if self.json {
            let list: Vec<Value> = listed.iter().map(in_json).collect();
            term::print_visible_json(&list)?;
            return Ok(Exit::Ok);
        }
        let paint = Paint::for_stdout();
        term::print(|out| {
            for one in &listed {
                head(one, paint, out)?;
                details(one, paint, out)?;
                writeln!(out)?;
            }
            match listed.iter().find(|one| one.standing == Standing::Pending) {
                Some(one) => {
                    let id = shown_id(&one.id);
                    writeln!(
                        out,
                        "capwarden approve {id}, or capwarden deny {id} --why TEXT"
                    )
                }
                None if listed.is_empty() => writeln!(out, "no call waits for an approval"),
                None => Ok(()),
            }
        })?;
        if let (true, Some(whose)) = (listed.is_empty(), state::whose()) {
            tracing::info!("{whose}");
        }
        Ok(Exit::Ok)
    }
}

fn head(one: &Listed, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let left = state::span(one.left);
    let id = paint.strong(&shown_id(&one.id));
    let standing = match &one.standing {
        Standing::Pending => paint.warning(&format!("pending, {left} left")),
        Standing::Approved { by, .. } => {
            paint.good(&format!("approved by {by}, can be used once within {left}"))
        }
        Standing::Denied { by, at, .. } => {
            paint.error(&format!("denied by {by} at {}", state::time(*at)))
        }
        Standing::Used { by, at } => format!("used at {}, approved by {by}", state::time(*at)),
        Standing::Expired => "expired".to_owned(),
    };
    writeln!(out, "{id}  {standing}")
}

/// Everything about a request but where it stands.
pub(super) fn details(one: &Listed, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let request = &one.entry.request;
    let mut line =
        |name: &str, text: &str| writeln!(out, "  {} {text}", paint.note(&format!("{name:<9}")));
    line("tool", &visible(&request.tool))?;
    let caller = format!("{} at {}", request.principal, request.server);
    line("caller", &visible(&caller))?;
    if request.arguments.is_empty() {
        line("arguments", "not kept, since it is over")?;
    } else {
        let members: BTreeMap<String, &RawValue> = if request.arguments.len() > ONE_LINE {
            serde_json::from_str(&request.arguments).unwrap_or_default()
        } else {
            BTreeMap::new()
        };
        match members.len() {
            0 => line("arguments", &visible_json(&request.arguments))?,
            _ => line("arguments", "")?,
        }
        for (key, value) in members {
            let key = visible_json(&Value::from(key).to_string());
            line("", &format!("{key}: {}", visible_json(value.get())))?;
        }
        if let Some(beyond) = beyond_ascii(&request.arguments) {
            line("", &paint.warning(&format!("(beyond ASCII: {beyond})")))?;
        }
    }
    if let Some(effect) = &request.effect {
        line("comes to", &visible(effect))?;
    }
    line("asks", &request.by.to_string())?;
    line("rule", &visible(&request.rule))?;
    if let Some(why) = &request.why {
        line("why", &visible(why))?;
    }
    if let Standing::Denied { why: Some(why), .. } = &one.standing {
        line("denied", &visible(&format!("because {why}")))?;
    }
    line("asked", &state::time(one.entry.requested))
}

/// Characters that look like others, or could: by number.
fn beyond_ascii(text: &str) -> Option<String> {
    let mut found: Vec<char> = text.chars().filter(|c| !c.is_ascii()).collect();
    found.sort_unstable();
    found.dedup();
    let more = found.len().saturating_sub(NAMED);
    let names = found.iter().take(NAMED);
    let mut names: Vec<String> = names.map(|c| format!("U+{:04X}", u32::from(*c))).collect();
    if more > 0 {
        names.push(format!("{more} more"));
    }
    (!names.is_empty()).then(|| names.join(", "))
}

fn in_json(one: &Listed) -> Value {
    let request = &one.entry.request;
    let mut value = json!({
        "id": shown_id(&one.id),
        "standing": one.standing,
        "seconds_left": one.left,
        "requested": state::time(one.entry.requested),
        "server": request.server,
        "principal": request.principal,
        "grant": request.grant,
        "tool": request.tool,
        "rule": request.rule,
        "by": request.by,
        "why": request.why,
        "effect": request.effect,
        // As text, since a program that reads numbers as doubles would show others.
        "arguments": request.arguments,
    });
    if let (true, Some(value)) = (request.arguments.is_empty(), value.as_object_mut()) {
        value.insert("arguments".to_owned(), Value::Null);
    }
    value
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        approval::Request,
        policy::{Approval, Approver, Call, RuleRef},
        principal::{Caller, Principal},
        store::StateDirectory,
    };

    #[test]
    fn what_a_model_sends_cannot_write_the_list() {
        let home = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(&home.path().join("state"), Some(65_534)).unwrap();
        let table = Table::open(&directory).unwrap();
        let arguments = json!({
            "path": "/tmp/\u{430}\u{1b}[2J\u{202e}gpj\u{2028}\n\u{9b}31m\u{e0041}",
            "\u{1b}]0;x\u{7}": "x".repeat(100),
        });
        let Value::Object(arguments) = arguments else {
            panic!("no object");
        };
        let call = Call {
            tool: "start\u{1b}[1A".to_owned(),
            arguments,
        };
        let caller = Caller {
            principal: Principal::User(1000),
            grant: None,
            connection: 1,
            server: "pcap\u{202e}".into(),
        };
        let approval = Approval {
            by: Approver::Operator,
            rule: RuleRef {
                file: "p.yaml".into(),
                line: 1,
                column: 1,
                path: "tools.start".to_owned(),
            },
            timeout: Duration::from_secs(600),
            why: Some("it\nwrites".to_owned()),
        };
        let request = Request::new(&caller, &call, &approval, None).unwrap();
        let _ = table.ask(request);
        let listed = table.list(true).unwrap();
        let mut out = Vec::new();
        head(&listed[0], Paint::off(), &mut out).unwrap();
        details(&listed[0], Paint::off(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let hidden = |c: char| c.is_control() && c != '\n' || !c.is_ascii() && c != '\u{430}';
        assert!(!text.contains(hidden), "{text:?}");
        assert_eq!(text.lines().count(), 11, "{text}");
        for phrase in ["U+0430", "\\u001b[2J", "\\u202e", "\\u2028", "\\u009b31m"] {
            assert!(text.contains(phrase), "{phrase} in {text}");
        }
    }
}
