//! What two rules for proxies grant, and what servers may do without one.

use super::{Effect, Found, capture};
use crate::policy::{
    Endpoint, InterfacePattern, Policy, RuleRef,
    argument::Argument,
    capture::{Interfaces, Named, Over},
    proxy::{Endpoints, ProxyArguments, ProxyEnd, ProxyRule},
    units,
};

/// What is different between two rules for proxies.
pub(super) fn compare(before: &ProxyRule, after: &ProxyRule) -> Vec<Found> {
    let rules = (&before.rule, &after.rule);
    let lists = |rule: &'_ Endpoints| rule.list.clone();
    let mut found = endpoints(
        "listening on",
        (&before.listen.list, &after.listen.list),
        (&before.listen.rule, &after.listen.rule),
    );
    let upstream = |rule: &ProxyRule| rule.upstream.as_ref().map_or_else(Vec::new, lists);
    let place = |rule: &'_ ProxyRule| {
        let list = rule.upstream.as_ref();
        list.map_or(&rule.rule, |list| &list.rule).clone()
    };
    found.extend(endpoints(
        "connecting to",
        (&upstream(before), &upstream(after)),
        (&place(before), &place(after)),
    ));
    found.extend(capture::interfaces_of(
        "proxies",
        &interfaces(before),
        &interfaces(after),
    ));
    found.extend(capture::cap(
        "packets",
        before.packets.as_ref(),
        after.packets.as_ref(),
        rules,
        |n| units::packets(*n),
    ));
    found.extend(capture::cap(
        "bytes",
        before.bytes.as_ref(),
        after.bytes.as_ref(),
        rules,
        |n| format!("{} each way", units::bytes(*n)),
    ));
    found.extend(capture::cap(
        "connections",
        before.connections.as_ref(),
        after.connections.as_ref(),
        rules,
        |n| format!("{n} connections"),
    ));
    found.extend(capture::cap(
        "seconds",
        before.seconds.as_ref(),
        after.seconds.as_ref(),
        rules,
        |time| crate::words::time(*time),
    ));
    let mut differs = |effect, what: String| {
        found.push(Found::new(effect, what, Some(rules.0), Some(rules.1)));
    };
    if before.over != after.over {
        let what = "requests beyond a cap, which are cut to it where they are allowed";
        differs(Effect::of(after.over == Over::Clamp), what.to_owned());
    }
    if names(&before.from) != names(&after.from) {
        differs(
            Effect::Changed,
            "which arguments say where a proxy listens, and how long".to_owned(),
        );
    }
    if before.defaults != after.defaults {
        differs(
            Effect::Changed,
            "where a proxy is taken to listen if the call does not say".to_owned(),
        );
    }
    if before.end.0 != after.end.0 {
        let words = |end| match end {
            ProxyEnd::Drop => "its traffic is dropped and the server lives on",
            ProxyEnd::Restart => "the server is restarted",
        };
        let what = format!(
            "the end of a proxy: before, {}; now, {}",
            words(before.end.0),
            words(after.end.0)
        );
        let places = (Some(&before.end.1), Some(&after.end.1));
        found.push(Found::new(Effect::Changed, what, places.0, places.1));
    }
    found
}

/// What servers may do without a session.
pub(super) fn baseline(before: &Policy, after: &Policy) -> Vec<Found> {
    let place = |policy: &'_ Policy| {
        policy
            .baseline
            .as_ref()
            .map(|baseline| baseline.rule.clone())
    };
    let (one, other) = (place(before), place(after));
    let found = |effect, what: &str| vec![Found::new(effect, what, one.as_ref(), other.as_ref())];
    match (before.baseline(), after.baseline()) {
        (None, None) => Vec::new(),
        (None, Some(_)) => found(Effect::Denies, "all of the network that is not named"),
        (Some(_), None) => found(Effect::Allows, "all of the network"),
        (Some(was), Some(is)) => {
            let fallback = |place: &Option<RuleRef>, policy: &Policy| {
                place.clone().unwrap_or_else(|| policy.default.rule.clone())
            };
            let rules = (fallback(&one, before), fallback(&other, after));
            let rules = (&rules.0, &rules.1);
            let mut found = endpoints("listening on", (&was.listen, &is.listen), rules);
            let connect = (was.connect.as_slice(), is.connect.as_slice());
            found.extend(endpoints("connecting to", connect, rules));
            found
        }
    }
}

/// Lists of endpoints.
pub(super) fn endpoints(
    what: &str,
    (before, after): (&[Endpoint], &[Endpoint]),
    (one, other): (&RuleRef, &RuleRef),
) -> Vec<Found> {
    let sides = [
        (after, before, Effect::Allows),
        (before, after, Effect::Denies),
    ];
    let mut found = Vec::new();
    for (these, those, effect) in sides {
        let covered = |endpoint: &&Endpoint| !those.iter().any(|other| other.covers(endpoint));
        for endpoint in these.iter().filter(covered) {
            let what = format!("{what} {endpoint}");
            found.push(Found::new(effect, what, Some(one), Some(other)));
        }
    }
    found
}

/// The interfaces of a rule; all of them where it does not say.
fn interfaces(rule: &ProxyRule) -> Interfaces {
    let all = || Interfaces {
        any: false,
        patterns: vec![InterfacePattern("*".to_owned())],
        rule: rule.rule.clone(),
    };
    rule.interfaces.clone().unwrap_or_else(all)
}

fn names(from: &ProxyArguments) -> [Option<String>; 3] {
    [&from.host, &from.port, &from.seconds].map(|named: &Option<Named>| {
        let named = named.as_ref();
        named.map(|named| Argument::name(&named.argument).to_owned())
    })
}
