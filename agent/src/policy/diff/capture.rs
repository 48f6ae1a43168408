//! What two rules for captures grant.

use super::{Effect, Found};
use crate::policy::{
    InterfacePattern, Outside, Payload, RuleRef,
    argument::Argument,
    capture::{Arguments, Cap, CaptureRule, Interfaces, Named, Over, Within},
    units,
};

/// What is different between two rules for captures.
pub(super) fn compare(before: &CaptureRule, after: &CaptureRule) -> Vec<Found> {
    let rules = (&before.rule, &after.rule);
    let mut found = interfaces(&before.interfaces, &after.interfaces);
    found.extend(within(before.within.as_ref(), after.within.as_ref(), rules));
    found.extend(cap(
        "packets",
        before.packets.as_ref(),
        after.packets.as_ref(),
        rules,
        |n| units::packets(*n),
    ));
    found.extend(cap(
        "bytes",
        before.bytes.as_ref(),
        after.bytes.as_ref(),
        rules,
        |n| units::bytes(*n),
    ));
    found.extend(cap(
        "seconds",
        before.seconds.as_ref(),
        after.seconds.as_ref(),
        rules,
        |time| crate::words::time(*time),
    ));
    let mut differs = |effect, what: String| {
        found.push(Found::new(effect, what, Some(rules.0), Some(rules.1)));
    };
    if before.snap != after.snap {
        let what = format!(
            "{} of each packet, not {}",
            units::bytes(after.snap.into()),
            units::bytes(before.snap.into())
        );
        differs(Effect::of(after.snap > before.snap), what);
    }
    if before.payload != after.payload {
        let what = format!(
            "{}, not {}",
            payload(after.payload),
            payload(before.payload)
        );
        let more = before.payload.narrower(after.payload) == before.payload;
        differs(Effect::of(more), what);
    }
    let denies = |rule: &CaptureRule| rule.within.is_some() && rule.outside == Outside::Deny;
    if denies(before) != denies(after) {
        let what =
            "requests that lead outside `within`, which are cut to it where they are allowed";
        differs(Effect::of(denies(before)), what.to_owned());
    }
    if before.over != after.over {
        let what = "requests beyond a cap, which are cut to it where they are allowed";
        differs(Effect::of(after.over == Over::Clamp), what.to_owned());
    }
    if let Some(what) = from(&before.from, &after.from) {
        differs(Effect::Changed, what);
    }
    found
}

fn payload(payload: Payload) -> String {
    match payload {
        Payload::Full => "the whole payload".to_owned(),
        Payload::Bytes(0) => "headers only".to_owned(),
        Payload::Bytes(n) => format!("{} of payload", units::bytes(n.into())),
    }
}

/// The names of the arguments that say what is asked, where they are not the same.
fn from(before: &Arguments, after: &Arguments) -> Option<String> {
    let names = |from: &Arguments| {
        let name = |named: &Option<Named>| {
            named
                .as_ref()
                .map(|named| Argument::name(&named.argument).to_owned())
        };
        [
            ("interface", name(&from.interface)),
            ("filter", name(&from.filter)),
            ("packets", name(&from.packets)),
            ("bytes", name(&from.bytes)),
            ("seconds", name(&from.seconds)),
        ]
    };
    let both = names(before).into_iter().zip(names(after));
    let words: Vec<String> = both
        .filter(|((_, before), (_, after))| before != after)
        .map(|((what, before), (_, after))| {
            let say = |name: Option<String>| {
                name.map_or_else(|| "no argument".to_owned(), |name| format!("`{name}`"))
            };
            format!("{what} from {}, not {}", say(after), say(before))
        })
        .collect();
    (!words.is_empty()).then(|| units::either(&words, "and"))
}

pub(super) fn cap<T: PartialOrd>(
    name: &str,
    before: Option<&Cap<T>>,
    after: Option<&Cap<T>>,
    (one, other): (&RuleRef, &RuleRef),
    say: impl Fn(&T) -> String,
) -> Option<Found> {
    let rule = |cap: Option<&Cap<T>>, whole: &RuleRef| cap.map_or(whole, |cap| &cap.rule).clone();
    let rules = (rule(before, one), rule(after, other));
    let more = match (before, after) {
        (None, None) => return None,
        (Some(before), Some(after)) if before.most == after.most => return None,
        (Some(before), Some(after)) => after.most > before.most,
        (before, _) => before.is_some(),
    };
    let words = |cap: Option<&Cap<T>>| {
        cap.map_or_else(|| format!("any number of {name}"), |cap| say(&cap.most))
    };
    let what = format!("{}, not {}", words(after), words(before));
    Some(Found::new(
        Effect::of(more),
        what,
        Some(&rules.0),
        Some(&rules.1),
    ))
}

/// The filters that captures, or arguments, stay within.
pub(super) fn within(
    before: Option<&Within>,
    after: Option<&Within>,
    (one, other): (&RuleRef, &RuleRef),
) -> Option<Found> {
    let rule = |within: Option<&Within>, whole: &RuleRef| {
        within.map_or(whole, |within| &within.rule).clone()
    };
    let rules = (rule(before, one), rule(after, other));
    let found = |effect, what: String| Found::new(effect, what, Some(&rules.0), Some(&rules.1));
    match (before, after) {
        (None, None) => None,
        (Some(before), Some(after)) if before.expression == after.expression => None,
        (None, Some(after)) => Some(found(
            Effect::Denies,
            format!("packets outside {:?}", after.expression),
        )),
        (Some(before), None) => Some(found(
            Effect::Allows,
            format!("packets outside {:?}", before.expression),
        )),
        (Some(before), Some(after)) => {
            let what = format!(
                "packets within {:?}, not {:?}",
                after.expression, before.expression
            );
            let filters = Some((before.expression.clone(), after.expression.clone()));
            Some(Found {
                filters,
                ..found(Effect::Changed, what)
            })
        }
    }
}

/// Lists of interfaces.
pub(super) fn interfaces(before: &Interfaces, after: &Interfaces) -> Vec<Found> {
    interfaces_of("captures", before, after)
}

/// The same, of what is on them.
pub(super) fn interfaces_of(of: &str, before: &Interfaces, after: &Interfaces) -> Vec<Found> {
    let mut all = Vec::new();
    let sides = [
        (after, before, Effect::Allows),
        (before, after, Effect::Denies),
    ];
    for (these, those, effect) in sides {
        let mut differs = |effect, what: String| {
            all.push(Found::new(
                effect,
                what,
                Some(&before.rule),
                Some(&after.rule),
            ));
        };
        if these.any && !those.any {
            differs(effect, format!("{of} on `any`"));
        }
        for pattern in &these.patterns {
            match covered(pattern, those) {
                Some(true) => {}
                Some(false) => differs(effect, format!("{of} on {pattern}")),
                None => differs(Effect::Changed, format!("{of} on {pattern}")),
            }
        }
    }
    all
}

/// Whether whatever a pattern matches is matched by one of a list; none if that cannot be told.
fn covered(pattern: &InterfacePattern, list: &Interfaces) -> Option<bool> {
    // Where `any` is listed, every interface is admitted by its own name, too.
    if list.any {
        return Some(true);
    }
    let list = &list.patterns;
    let one = |name: &str| list.iter().any(|other| other.matches(name));
    if list
        .iter()
        .any(|other| other == pattern || other.as_str() == "*")
    {
        return Some(true);
    }
    if pattern.is_name() {
        return Some(one(pattern.as_str()));
    }
    // One that it matches and they do not shows that it is not.
    let stands = [("", "0"), ("0", "0"), ("x", "x"), ("zz", "9")];
    let escapes = stands.iter().any(|(run, letter)| {
        let name = pattern.as_str().replace('*', run).replace('?', letter);
        name.len() <= crate::policy::interface::MAX_NAME && !name.is_empty() && !one(&name)
    });
    escapes.then_some(false)
}
