//! `{ path, op, value }`, which PolicyLayer and Intercept write alike.

use serde_json::{Map, Value};

use crate::policy::{
    argument::Argument,
    condition::{Condition, Subject},
    load::{Field, Gather, Loaded, Node, Tree, bound, compile, scalar, values},
    operator::{Equality, Operator, Pattern},
};

/// Keys of a condition.
const CONDITION: &[&str] = &["path", "op", "value"];

/// The operators.
const OPERATORS: &[&str] = &[
    "eq", "neq", "lt", "lte", "gt", "gte", "in", "not_in", "exists", "regex", "contains",
];

/// A condition, with the path and operator as they are written.
pub(super) struct Written<'a> {
    pub(super) path: &'a str,
    pub(super) op: &'a str,
    pub(super) condition: Condition,
}

/// Reads a list of conditions; `subject` reads a path.
pub(super) fn conditions<'a>(
    field: &Field<'a>,
    equality: Equality,
    subject: impl Fn(&Field<'a>, &'a str) -> Loaded<Subject>,
) -> Loaded<Vec<Written<'a>>> {
    const HELP: &str = "Write a list of conditions: `{ path: args.amount, op: lte, value: 500 }`.";
    let items = field.items("a list of conditions", HELP)?;
    Gather::all(items.iter().map(|item| one(item, equality, &subject)))
}

fn one<'a>(
    field: &Field<'a>,
    equality: Equality,
    subject: &impl Fn(&Field<'a>, &'a str) -> Loaded<Subject>,
) -> Loaded<Written<'a>> {
    const PATH: &str = "Write a path such as `args.amount`; dots reach into objects.";
    let (section, mut gather) = field.open("a condition", CONDITION)?;
    if gather.is_clean()
        && let Some(missing) = CONDITION.iter().find(|key| section.field(key).is_none())
    {
        gather.add(section.missing(missing, "A condition has `path`, `op` and `value`."));
    }
    let path = gather.keep(section.read("path", |field| {
        let path = field.text("a path", PATH)?;
        Ok((path, subject(field, path)?))
    }));
    let op = gather.keep(section.read("op", |field| {
        const HELP: &str = "Write one of `eq`, `neq`, `lt`, `lte`, `gt`, `gte`, `in`, `not_in`, `exists`, `regex` and `contains`.";
        match field.text("an operator", HELP)? {
            op if OPERATORS.contains(&op) => Ok(op),
            _ => Err(field.fault("is no operator", HELP)),
        }
    }));
    let op = op.flatten();
    let operator = op.and_then(|op| {
        let operator = section.read("value", |field| operator(field, op));
        gather.keep(operator).flatten()
    });
    let ((path, subject), operator) = gather.done(path.flatten().zip(operator))?;
    Ok(Written {
        path,
        op: op.unwrap_or_default(),
        condition: Condition {
            subject,
            equality: match operator.compares_values() {
                true => equality,
                false => Equality::ByType,
            },
            operator,
        },
    })
}

/// `args.…`, none if the path is none into the arguments.
pub(super) fn argument(path: &str) -> Option<Argument> {
    Argument::parse(path.strip_prefix("args.")?).ok()
}

fn operator(field: &Field<'_>, op: &str) -> Loaded<Operator> {
    const REGEX: &str =
        "Write a regular expression in quotes; it may match anywhere in the argument.";
    Ok(match op {
        "eq" => Operator::Equal(value(field, field.node)?),
        "neq" => Operator::Unequal(value(field, field.node)?),
        "in" => Operator::OneOf(values(field, value)?),
        "not_in" => Operator::NoneOf(values(field, value)?),
        "lt" => Operator::Less(bound(field)?),
        "lte" => Operator::AtMost(bound(field)?),
        "gt" => Operator::More(bound(field)?),
        "gte" => Operator::AtLeast(bound(field)?),
        "regex" => {
            let written = field.text("a regular expression", REGEX)?;
            let regex = super::re2::rewrite(written).map_err(|why| field.fault(why, REGEX))?;
            Operator::Matches(Pattern {
                written: written.to_owned(),
                regex: compile(field, &regex, REGEX)?,
            })
        }
        "contains" => Operator::Contains(scalar(field, field.node)?),
        _ => match field.node.tree {
            Tree::Bool(wanted) => Operator::Exists(wanted),
            _ => {
                return Err(field.wrong(
                    "true or false",
                    "Write `true` for what must be there, `false` for what must not.",
                ));
            }
        },
    })
}

/// Anything but null, which counts as missing here and so equals nothing.
pub(in crate::policy) fn value(field: &Field<'_>, node: &Node) -> Loaded<Value> {
    match &node.tree {
        Tree::Null => Err(field.wrong_at(
            node,
            "a value",
            "To ask whether something is there, write `op: exists`.",
        )),
        Tree::List(items) => items.iter().map(|item| value(field, item)).collect(),
        Tree::Map(entries) => {
            let mut map = Map::new();
            for entry in entries {
                map.insert(entry.key.clone(), value(field, &entry.value)?);
            }
            Ok(Value::Object(map))
        }
        _ => scalar(field, node),
    }
}
