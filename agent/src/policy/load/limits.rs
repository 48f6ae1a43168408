//! `limits`: how often, or how much.

use std::time::Duration;

use super::{Field, Gather, Loaded, Section, Tree, checks};
use crate::policy::{
    Refund, Scope, Unit, Window,
    argument::Argument,
    capture::MAX_EXACT,
    usage::{Amount, LimitRule},
};

/// Keys of a limit.
const LIMIT: &[&str] = &[
    "max",
    "window",
    "kind",
    "scope",
    "counter",
    "amount",
    "amount_from",
    "refund",
    "name",
    "on_deny",
];

/// Bytes of a counter's name at most.
const MAX_COUNTER: usize = 128;

/// The longest window: a year.
const MAX_WINDOW: Duration = Duration::from_secs(365 * 86_400);

/// Reads the limits of a tool, or of all (`*`).
pub(super) fn limits(field: &Field<'_>, tool: &str) -> Loaded<Vec<LimitRule>> {
    const HELP: &str = "List limits: `[ { max: 10, window: minute } ]`.";
    field.list("a list of limits", HELP)?;
    let limits = Gather::all(
        field
            .items("a list of limits", HELP)?
            .iter()
            .map(|item| Ok((limit(item, tool)?, item.place))),
    )?;
    once_each(field, limits)
}

/// Refuses two limits that count the same twice.
pub(in crate::policy) fn once_each(
    field: &Field<'_>,
    limits: Vec<(LimitRule, super::Place)>,
) -> Loaded<Vec<LimitRule>> {
    let mut once: Vec<LimitRule> = Vec::new();
    let mut gather = Gather::default();
    for (limit, place) in limits {
        let same = |other: &LimitRule| {
            other.counter == limit.counter
                && other.scope == limit.scope
                && other.window == limit.window
        };
        if once.iter().any(same) {
            gather.add(field.source.fault(
                place,
                format!("the counter `{}` has two limits here", limit.counter),
                "this is the second",
                Some("Keep the smaller one, or give one of them a counter of its own.".to_owned()),
            ));
        } else {
            once.push(limit);
        }
    }
    gather.done(Some(once))
}

fn limit(field: &Field<'_>, tool: &str) -> Loaded<LimitRule> {
    let (section, mut gather) = field.open("a limit", LIMIT)?;
    let max = match section.field("max") {
        Some(field) => gather.keep(field.whole(
            0..=MAX_EXACT,
            "a whole number",
            "Write how many calls are let through in one window.",
        )),
        None if gather.is_clean() => {
            gather.add(section.missing("max", "Write `max: 10`: as many as are let through."));
            None
        }
        None => None,
    };
    let window = match section.field("window") {
        None if !gather.is_clean() => None,
        _ => gather.keep(window_of(&section)),
    };
    let scope = gather.keep(scope_of(&section));
    let named = gather.keep(section.read("counter", counter)).flatten();
    let amount = gather.keep(section.read("amount", |field| {
        const HELP: &str = "Write how much one call uses, such as 1.";
        field.whole(0..=MAX_EXACT, "a whole number", HELP)
    }));
    let amount_from = gather.keep(section.read("amount_from", |field| {
        const HELP: &str =
            "Write the argument's name as the server spells it; dots reach into objects.";
        Argument::parse(field.text("an argument's name", HELP)?)
            .map_err(|_| field.fault("is no argument's name", HELP))
    }));
    if let (Some(_), Some(from)) = (section.field("amount"), section.field("amount_from")) {
        gather.add(from.key_fault(
            "`amount_from` cannot stand beside `amount`".to_owned(),
            "A call uses a fixed amount, or what an argument says: drop one of the two.",
        ));
    }
    let refund = gather.keep(section.read("refund", refund)).flatten();
    let name = gather.keep(section.read("name", |field| {
        field.words("a name", "Name the limit in some words.")
    }));
    let on_deny = gather.keep(section.read("on_deny", checks::on_deny));
    let (max, window) = gather.done(max.zip(window))?;
    Ok(LimitRule {
        counter: named.unwrap_or_else(|| format!("{tool}/{}", window_name(window))),
        scope: scope.unwrap_or(Scope::Grant),
        window,
        max,
        amount: match (amount.flatten(), amount_from.flatten()) {
            (_, Some(argument)) => Amount::From(argument),
            (Some(amount), None) => Amount::Fixed(amount),
            (None, None) => Amount::Fixed(1),
        },
        refund: refund.unwrap_or(Refund::OnRpcError),
        rule: field.rule(),
        on_deny: on_deny.flatten(),
        name: name.flatten(),
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Calendar,
    Sliding,
    Bucket,
}

fn kind(field: &Field<'_>) -> Loaded<Kind> {
    const HELP: &str = "Write `calendar` (from one full minute to the next), `sliding` (the time before now) or `bucket` (`max` tokens that come back over the time).";
    match field.text("a kind of window", HELP)? {
        "calendar" => Ok(Kind::Calendar),
        "sliding" => Ok(Kind::Sliding),
        "bucket" => Ok(Kind::Bucket),
        _ => Err(field.fault("is no kind of window", HELP)),
    }
}

fn window(field: &Field<'_>, kind: Option<Kind>) -> Loaded<Window> {
    const HELP: &str =
        "Write `minute`, `hour` or `day`, or a time such as `\"90 s\"`, `\"5 min\"` or `\"2 h\"`.";
    let unit = match &field.node.tree {
        Tree::Text(word) => unit(word),
        _ => None,
    };
    let time = match unit {
        Some(Unit::Minute) => Duration::from_secs(60),
        Some(Unit::Hour) => Duration::from_secs(3_600),
        Some(Unit::Day) => Duration::from_secs(86_400),
        None => duration(field, HELP)?,
    };
    match (unit, kind) {
        (Some(unit), None | Some(Kind::Calendar)) => Ok(Window::Calendar(unit)),
        (None, Some(Kind::Calendar)) => Err(field.fault(
            "is no unit of the calendar",
            "Write `minute`, `hour` or `day`, or take `kind: sliding`.",
        )),
        (_, Some(Kind::Bucket)) => Ok(Window::Bucket(time)),
        (_, None | Some(Kind::Sliding)) => Ok(Window::Sliding(time)),
    }
}

/// A unit of the calendar by its name.
pub(in crate::policy) fn unit(word: &str) -> Option<Unit> {
    match word {
        "minute" => Some(Unit::Minute),
        "hour" => Some(Unit::Hour),
        "day" => Some(Unit::Day),
        _ => None,
    }
}

/// The `window` of a section, of the `kind` that it says.
pub(super) fn window_of(section: &Section<'_>) -> Loaded<Window> {
    const HELP: &str = "Write `window: minute`, `hour` or `day`, or a time such as `\"90 s\"`.";
    let kind = section.read("kind", kind)?;
    match section.field("window") {
        Some(field) => window(&field, kind),
        None => Err(section.missing("window", HELP)),
    }
}

/// The `scope` of a section, a grant's if it says none.
pub(super) fn scope_of(section: &Section<'_>) -> Loaded<Scope> {
    Ok(section.read("scope", scope)?.unwrap_or(Scope::Grant))
}

fn scope(field: &Field<'_>) -> Loaded<Scope> {
    const HELP: &str = "Write `grant`, `principal`, `connection`, `server`, `tool` or `global`.";
    match field.text("a scope", HELP)? {
        "grant" => Ok(Scope::Grant),
        "principal" => Ok(Scope::Principal),
        "connection" => Ok(Scope::Connection),
        "server" => Ok(Scope::Server),
        "tool" => Ok(Scope::Tool),
        "global" => Ok(Scope::Global),
        _ => Err(field.fault("is no scope", HELP)),
    }
}

fn refund(field: &Field<'_>) -> Loaded<Refund> {
    const HELP: &str = "Write `rpc_error` (the server answered with a JSON-RPC error), `failure` (or with a result that says so) or `never`.";
    match field.text("when a use is given back", HELP)? {
        "rpc_error" => Ok(Refund::OnRpcError),
        "failure" => Ok(Refund::OnFailure),
        "never" => Ok(Refund::Never),
        _ => Err(field.fault("is nothing after which a use is given back", HELP)),
    }
}

/// A counter's name.
pub(in crate::policy) fn counter(field: &Field<'_>) -> Loaded<String> {
    const HELP: &str = "Name the counter in a word or two, of at most 128 bytes.";
    let name = field.text("a counter's name", HELP)?;
    if !is_counter(name) {
        return Err(field.fault("is no counter's name", HELP));
    }
    Ok(name.to_owned())
}

/// Whether a counter may have this name.
pub(in crate::policy) fn is_counter(name: &str) -> bool {
    !name.trim().is_empty() && name.len() <= MAX_COUNTER && !name.chars().any(char::is_control)
}

/// Reads `90 s`, `5 min`, `2 h`, `1 day` or a whole number of seconds.
pub(in crate::policy) fn duration(field: &Field<'_>, help: &str) -> Loaded<Duration> {
    let seconds = match &field.node.tree {
        Tree::Text(text) => span(text),
        Tree::Integer(n) => u64::try_from(*n).ok(),
        _ => return Err(field.wrong("a time", help)),
    };
    match seconds.map(Duration::from_secs) {
        Some(time) if !time.is_zero() && time <= MAX_WINDOW => Ok(time),
        _ => Err(field.fault("is no time from a second to a year", help)),
    }
}

/// Reads `90 s`, or several such one after the other: `1h30m`.
fn span(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total = 0_u64;
    while !rest.is_empty() {
        let (number, after) = rest.split_at_checked(rest.find(|c: char| !c.is_ascii_digit())?)?;
        let after = after.trim_start();
        let unit = after.find(|c: char| !c.is_ascii_alphabetic());
        let (unit, after) = after.split_at_checked(unit.unwrap_or(after.len()))?;
        let scale = match unit {
            "s" | "sec" | "second" | "seconds" => 1,
            "m" | "min" | "minute" | "minutes" => 60,
            "h" | "hour" | "hours" => 3_600,
            "d" | "day" | "days" => 86_400,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(scale)?)?;
        rest = after.trim_start();
    }
    Some(total)
}

/// A window as a counter's name has it.
fn window_name(window: Window) -> String {
    match window {
        Window::Calendar(Unit::Minute) => "minute".to_owned(),
        Window::Calendar(Unit::Hour) => "hour".to_owned(),
        Window::Calendar(Unit::Day) => "day".to_owned(),
        Window::Sliding(time) => format!("{} s", time.as_secs()),
        Window::Bucket(time) => format!("bucket of {} s", time.as_secs()),
    }
}
