//! `capture` and `exec`: what a capture may see.

use std::time::Duration;

use super::{Field, Gather, Loaded, Section, Tree, section::trim_stop};
use crate::policy::{
    InterfacePattern, Outside, Payload,
    argument::Argument,
    capture::{
        Arguments, Cap, CaptureRule, Interfaces, MAX_EXACT, MAX_SNAP, Named, Over, Whose, Within,
        check_filter,
    },
    units,
};

/// Keys of a `capture` section.
pub(super) const CAPTURE: &[&str] = &[
    "from",
    "interfaces",
    "within",
    "outside",
    "packets",
    "bytes",
    "seconds",
    "snap",
    "payload",
    "over",
];

/// Keys of the `exec` section: those of a capture that no call asks for.
pub(super) const EXEC: &[&str] = CAPTURE.split_at(1).1;

/// Keys of `from`.
const FROM: &[&str] = &["interface", "filter", "packets", "bytes", "seconds"];

pub(in crate::policy) fn capture(
    field: &Field<'_>,
    keys: &'static [&'static str],
) -> Loaded<CaptureRule> {
    let (section, mut gather) = field.open("a map of capture terms", keys)?;
    let arguments = gather.keep(section.read("from", from)).flatten();
    let interfaces = match section.field("interfaces") {
        Some(field) => gather.keep(interfaces(&field)),
        None => {
            if gather.is_clean() {
                const HELP: &str =
                    "List the interfaces that may be captured on: `interfaces: [ lo, \"veth*\" ]`.";
                gather.add(section.missing("interfaces", HELP));
            }
            None
        }
    };
    let within = gather.keep(section.read("within", within)).flatten();
    let packets = gather.keep(section.read("packets", |field| {
        const HELP: &str = "Write a whole number from 1: `packets: 10000`.";
        let most = field.whole(1..=MAX_EXACT, "a number of packets", HELP)?;
        Ok(cap(field, most))
    }));
    let bytes =
        gather.keep(section.read("bytes", |field| Ok(cap(field, field.bytes(1..=MAX_EXACT)?))));
    let seconds = gather.keep(section.read("seconds", |field| Ok(cap(field, seconds(field)?))));
    let (packets, bytes, seconds) = (packets.flatten(), bytes.flatten(), seconds.flatten());
    if gather.is_clean() && packets.is_none() && bytes.is_none() && seconds.is_none() {
        gather.add(field.key_fault(
            format!("`{}` has no cap", field.key),
            "Add at least one of `packets`, `bytes` and `seconds`: a capture must end.",
        ));
    }
    let snap = gather.keep(section.read("snap", |field| {
        let snap = field.bytes(1..=u64::from(MAX_SNAP))?;
        Ok(u32::try_from(snap).unwrap_or(MAX_SNAP))
    }));
    let payload = gather.keep(section.read("payload", payload)).flatten();
    let has_within = section.field("within").is_some();
    let outside = gather.keep(section.read("outside", |field| outside(field, has_within)));
    let over = gather.keep(section.read("over", over)).flatten();
    Ok(CaptureRule {
        rule: field.rule(),
        from: arguments.unwrap_or_default(),
        interfaces: gather.done(interfaces)?,
        within,
        outside: outside.flatten().unwrap_or_default(),
        packets,
        bytes,
        seconds,
        snap: snap.flatten().unwrap_or(MAX_SNAP),
        payload: payload.unwrap_or(Payload::Full),
        over: over.unwrap_or(Over::Clamp),
    })
}

pub(super) fn cap<T>(field: &Field<'_>, most: T) -> Cap<T> {
    Cap {
        most,
        whose: Whose::default(),
        rule: field.rule(),
    }
}

fn from(field: &Field<'_>) -> Loaded<Arguments> {
    const EXPECTED: &str = "a map from what is asked to the argument that asks it";
    let (section, mut gather) = field.open(EXPECTED, FROM)?;
    let mut named = |key: &str| gather.keep(section.read(key, argument)).flatten();
    let arguments = Arguments {
        interface: named("interface"),
        filter: named("filter"),
        packets: named("packets"),
        bytes: named("bytes"),
        seconds: named("seconds"),
    };
    if !gather.is_clean() {
        return gather.done(None);
    }
    once_each_argument(&section, FROM)?;
    Ok(arguments)
}

/// Reads the name of an argument.
pub(super) fn argument(field: &Field<'_>) -> Loaded<Named> {
    const HELP: &str =
        "Write the argument's name as the server spells it; dots reach into objects.";
    let argument = Argument::parse(field.text("an argument's name", HELP)?)
        .map_err(|_| field.fault("is no argument's name", HELP))?;
    Ok(Named {
        argument,
        rule: field.rule(),
    })
}

/// One argument that asks two things would be written twice.
pub(super) fn once_each_argument(section: &Section<'_>, keys: &[&str]) -> Loaded<()> {
    for (n, key) in keys.iter().enumerate() {
        let Some(field) = section.field(key) else {
            continue;
        };
        let name = field.text("an argument's name", "")?;
        if let Some(other) = keys.iter().take(n).find(|other| {
            section
                .field(other)
                .is_some_and(|other| matches!(&other.node.tree, Tree::Text(text) if text == name))
        }) {
            return Err(field.fault(
                &format!("asks for `{other}` already"),
                "Name another argument for one of the two, or drop it.",
            ));
        }
    }
    Ok(())
}

/// Reads a list of interfaces.
pub(super) fn interfaces(field: &Field<'_>) -> Loaded<Interfaces> {
    const HELP: &str =
        "List interface names, globs with `*` and `?`, or `any`: `[ lo, \"veth*\" ]`.";
    let mut any = false;
    let mut patterns = Vec::new();
    let mut gather = Gather::default();
    for node in field.list("a list of interfaces", HELP)? {
        let Tree::Text(text) = &node.tree else {
            gather.add(field.wrong_at(node, "an interface's name in quotes", HELP));
            continue;
        };
        if text == "any" {
            any = true;
            continue;
        }
        patterns.extend(gather.keep(InterfacePattern::parse(text).map_err(|reason| {
            let help = Some(HELP.to_owned());
            field
                .source
                .fault(node.place, trim_stop(&reason), "here", help)
        })));
    }
    gather.done(Some(Interfaces {
        any,
        patterns,
        rule: field.rule(),
    }))
}

/// Reads a capture filter of the policy's.
pub(super) fn within(field: &Field<'_>) -> Loaded<Within> {
    const HELP: &str = "Write a capture filter in quotes: `within: \"net 10.0.0.0/8\"`.";
    // Line ends of a block scalar mean no more to libpcap than spaces do.
    let text = field.text("a capture filter", HELP)?;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() {
        return Err(field.fault("is empty", HELP));
    }
    match check_filter(&text) {
        Ok(()) => Ok(Within {
            expression: text,
            rule: field.rule(),
        }),
        Err(reason) => Err(field.source.fault(
            field.node.place,
            trim_stop(&reason),
            "here",
            Some(HELP.to_owned()),
        )),
    }
}

pub(super) fn seconds(field: &Field<'_>) -> Loaded<Duration> {
    const HELP: &str = "Write a number of seconds, such as 60 or 0.5, of at most a year.";
    let seconds: f64 = match &field.node.tree {
        // Through text, as this type has no lossless conversion.
        Tree::Integer(n) => n.to_string().parse().unwrap_or(f64::INFINITY),
        Tree::Float(n) => *n,
        _ => return Err(field.wrong("a number of seconds", HELP)),
    };
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if seconds <= units::MAX_SECONDS && time >= Duration::from_millis(1) => Ok(time),
        _ => Err(field.fault("is not a time that a session may take", HELP)),
    }
}

fn payload(field: &Field<'_>) -> Loaded<Payload> {
    const HELP: &str =
        "Write `headers`, `full`, or a number of bytes to keep after the transport header.";
    match &field.node.tree {
        Tree::Text(word) if word == "full" => Ok(Payload::Full),
        Tree::Text(word) if word == "headers" => Ok(Payload::Bytes(0)),
        Tree::Text(word) if !word.starts_with(|c: char| c.is_ascii_digit()) => {
            Err(field.fault("is no amount of payload", HELP))
        }
        Tree::Integer(_) | Tree::Text(_) => {
            let n = field.bytes(0..=u64::from(MAX_SNAP))?;
            Ok(Payload::Bytes(u32::try_from(n).unwrap_or(MAX_SNAP)))
        }
        _ => Err(field.wrong("an amount of payload", HELP)),
    }
}

fn outside(field: &Field<'_>, has_within: bool) -> Loaded<Outside> {
    const HELP: &str = "Write `narrow` to leave out what a requested filter matches beyond `within`, or `deny` to deny the call.";
    if !has_within {
        return Err(field.key_fault(
            "`outside` has no `within` to be outside of".to_owned(),
            "Add `within`, or leave out `outside`.",
        ));
    }
    match field.text("`narrow` or `deny`", HELP)? {
        "narrow" => Ok(Outside::Narrow),
        "deny" => Ok(Outside::Deny),
        _ => Err(field.fault("is neither `narrow` nor `deny`", HELP)),
    }
}

pub(super) fn over(field: &Field<'_>) -> Loaded<Over> {
    const HELP: &str = "Write `clamp` to write the cap into a call that asks for more, or `deny` to deny the call.";
    match field.text("`clamp` or `deny`", HELP)? {
        "clamp" => Ok(Over::Clamp),
        "deny" => Ok(Over::Deny),
        _ => Err(field.fault("is neither `clamp` nor `deny`", HELP)),
    }
}
