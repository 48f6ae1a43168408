//! Files of cases: [`Case`].

use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde_json::{Map, Value};

use super::{Field, Gather, Loaded, Node, Place, Section, Tree, contents, scalar, tree::Entry};
use crate::policy::{
    Approver, Assumed, Call, Case, Ceiling, Expected, capture::MAX_EXACT, case::ExpectedApproval,
};

/// Keys of a case.
const CASE: &[&str] = &[
    "name",
    "call",
    "requires",
    "counts",
    "expect",
    "rule",
    "reason",
    "forwarded",
    "uses",
    "approval",
];

/// Keys of a case's call.
const CALL: &[&str] = &["tool", "arguments"];

/// Reads a file of cases.
pub(in crate::policy) fn cases(path: &Path) -> Loaded<Vec<Case>> {
    let (name, text) = contents(path)?;
    let (source, root, _) = super::tree(&name, &text)?;
    // A list has no key of its own.
    let entry = Entry {
        key: "cases".to_owned(),
        place: Place::default(),
        value: root,
    };
    let list = Field::new(&source, &entry, "");
    const HELP: &str =
        "List cases: `- { name: …, call: { tool: …, arguments: {…} }, expect: allow }`.";
    list.list("a list of cases", HELP)?;
    let items = list.items("a list of cases", HELP)?;
    Gather::all(items.iter().map(case))
}

fn case(field: &Field<'_>) -> Loaded<Case> {
    let (section, mut gather) = field.open("a case", CASE)?;
    let name = required(
        &section,
        &mut gather,
        "name",
        "Say what the case shows.",
        |field| field.words("what the case shows", "Say it in words."),
    );
    const HELP: &str = "Write `call: { tool: start_capture, arguments: { iface: lo } }`.";
    let call = required(&section, &mut gather, "call", HELP, call);
    const EXPECT: &str =
        "Write `expect: allow`, `capture`, `proxy`, `program`, `ends`, `deny` or `hidden`.";
    let expect = required(&section, &mut gather, "expect", EXPECT, |field| match field
        .text("what is expected", EXPECT)?
    {
        "allow" => Ok(Expected::Allow),
        "capture" => Ok(Expected::Capture),
        "proxy" => Ok(Expected::Proxy),
        "program" => Ok(Expected::Program),
        "ends" => Ok(Expected::Ends),
        "deny" => Ok(Expected::Deny),
        "hidden" => Ok(Expected::Hidden),
        "pending" => Err(field.fault(
            "is not what is expected, but that somebody is asked first",
            "Write `approval: true`, and in `expect` what the approved call comes to.",
        )),
        _ => Err(field.fault("is nothing that can be expected", EXPECT)),
    });
    let mut words = |key: &str, help: &'static str| {
        let read = section.read(key, |field| field.words("a string", help));
        gather.keep(read).flatten()
    };
    let rule = words(
        "rule",
        "Write the rule's path, as `policy explain` prints it.",
    );
    let reason = words(
        "reason",
        "Write a part of the sentence that the model gets to read.",
    );
    let forwarded = gather.keep(section.read("forwarded", object)).flatten();
    let uses = gather.keep(section.read("uses", counts)).flatten();
    let counts = gather.keep(section.read("counts", counts)).flatten();
    let required = section.read("requires", |field| {
        const HELP: &str = "List the arguments that the tool's schema requires.";
        let items = field.items("a list of names", HELP)?;
        Gather::all(
            items
                .iter()
                .map(|item| Ok(item.text("a name", HELP)?.to_owned())),
        )
    });
    let required: Option<Vec<String>> = gather.keep(required).flatten();
    let approval = gather.keep(section.read("approval", |field| match field.node.tree {
        Tree::Bool(true) => Ok(ExpectedApproval::Somebody),
        Tree::Bool(false) => Ok(ExpectedApproval::Nobody),
        _ => {
            const HELP: &str = "Write who is asked: `operator` or `user`; `true` for anybody.";
            match field.text("true, false, `operator` or `user`", HELP)? {
                "operator" => Ok(ExpectedApproval::By(Approver::Operator)),
                "user" => Ok(ExpectedApproval::By(Approver::User)),
                _ => Err(field.fault("is nobody who can approve", HELP)),
            }
        }
    }));
    let (name, (call, expect)) = gather.done(name.zip(call.zip(expect)))?;
    Ok(Case {
        name,
        place: field.rule(),
        call,
        assumed: Assumed {
            required: required.map(Arc::from),
            definitions: Arc::default(),
            counts: counts.unwrap_or_default(),
            ceiling: Ceiling::default(),
        },
        expect,
        rule,
        reason,
        forwarded,
        uses,
        approval: approval.flatten().unwrap_or(ExpectedApproval::Nobody),
    })
}

/// What a case cannot be without.
fn required<'a, T>(
    section: &Section<'a>,
    gather: &mut Gather,
    key: &str,
    help: &str,
    read: impl FnOnce(&Field<'a>) -> Loaded<T>,
) -> Option<T> {
    match section.field(key) {
        Some(field) => gather.keep(read(&field)),
        None => {
            if gather.is_clean() {
                gather.add(section.missing(key, help));
            }
            None
        }
    }
}

fn call(field: &Field<'_>) -> Loaded<Call> {
    let (section, mut gather) = field.open("a call", CALL)?;
    const HELP: &str = "Write the tool's name as the server spells it.";
    let tool = required(&section, &mut gather, "tool", HELP, |field| {
        Ok(field.text("a tool's name", HELP)?.to_owned())
    });
    let arguments = gather.keep(section.read("arguments", object)).flatten();
    Ok(Call {
        tool: gather.done(tool)?,
        arguments: arguments.unwrap_or_default(),
    })
}

fn counts(field: &Field<'_>) -> Loaded<BTreeMap<String, u64>> {
    const HELP: &str = "Write a map from each counter's name to a number.";
    let counters = field.entries("a map", HELP)?;
    let counts = Gather::all(counters.iter().map(|field| {
        let amount = field.whole(0..=MAX_EXACT, "a whole number", HELP)?;
        Ok((field.key.to_owned(), amount))
    }))?;
    Ok(counts.into_iter().collect())
}

fn object(field: &Field<'_>) -> Loaded<Map<String, Value>> {
    const HELP: &str = "Write a map from each argument's name to its value.";
    match value(field, field.node)? {
        Value::Object(map) => Ok(map),
        _ => Err(field.wrong("a map", HELP)),
    }
}

/// Whatever JSON can say.
fn value(field: &Field<'_>, node: &Node) -> Loaded<Value> {
    match &node.tree {
        Tree::Null => Ok(Value::Null),
        Tree::List(items) => items.iter().map(|item| value(field, item)).collect(),
        Tree::Map(entries) => {
            let each = entries.iter();
            let each = each.map(|entry| Ok((entry.key.clone(), value(field, &entry.value)?)));
            Ok(Value::Object(each.collect::<Loaded<Map<_, _>>>()?))
        }
        _ => scalar(field, node),
    }
}
