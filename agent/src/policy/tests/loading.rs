use std::io::Write as _;

use super::*;

/// A policy with one wrong thing in it: text, line, column, what the message and the help say.
#[rustfmt::skip] // A table: each text on its own line.
const CASES: &[Fault] = &[
    // The file as a whole.
    ("", 1, 1, "the file must be a policy, but is nothing", "`tools`, `exec` and `baseline`"),
    ("[]", 1, 1, "the file must be a policy, but is a list", "The keys here are"),
    ("{}", 1, 1, "the policy has no `version`", "version: 1"),
    ("version: 1", 1, 1, "neither `tools` nor `exec`", "Add `tools:`"),
    ("version: 2\ntools: {}", 1, 10, "`2` is not a version", "version: 1"),
    ("version: \"1\"\ntools: {}", 1, 10, "must be the number 1, but is a string", "version: 1"),
    ("version: 1\ndefault: allow\ntools: {}", 2, 10, "`allow` is not a default", "say why: `default: { allow:"),
    ("version: 1\ndefault: [deny]\ntools: {}", 2, 10, "must be `deny`, but is a list", "Write `default: deny`"),
    ("version: 1\ntool: {}", 2, 1, "unknown key `tool` in the file", "Did you mean `tools`? The keys here are"),
    ("version: 1\nTools: {}", 2, 1, "unknown key `Tools`", "Did you mean `tools`?"),
    ("version: 1\nlimits: {}", 2, 1, "unknown key `limits`", "The keys here are `version`"),
    ("version: 1\nproxy: {}", 2, 1, "unknown key `proxy`", "The keys here are"),
    ("version: 1\ntools: {}\nversion: 1", 3, 1, "`version` is written twice", "Keep one"),
    ("version: 1\ntools:\n  a: {}\n  b: {}\n  a: allow", 5, 3, "`a` is written twice", "Keep one"),
    ("version: 1\n---\nversion: 1", 2, 1, "goes beyond", "one document"),
    ("version: 1\ntools: {", 2, 8, "unclosed bracket", ""),
    ("version: 1\ntools:\n\t- b", 3, 2, "tabs disallowed", ""),
    ("version: 1\ntools: !custom {}", 2, 16, "unsupported tag", ""),
    ("version: 1\ntools: *nowhere", 2, 8, "alias references unknown anchor", ""),
    ("version: 1\ntools: { a: &a { b: *a } }", 2, 21, "recursive", ""),
    ("version: 1\ntools: { a: &a {}, b: { <<: *a } }", 2, 25, "`<<` merges", "Write the keys out"),
    // Tools and their rules.
    ("version: 1\ntools: []", 2, 8, "`tools` must be a map, but is a list", "rule"),
    ("version: 1\ntools: { \"start*\": allow }", 2, 10, "`start*` is no tool's name", "no globs"),
    ("version: 1\ntools:\n  a:\n", 3, 4, "`tools.a` must be a rule, but is nothing", "Write `allow`"),
    ("version: 1\ntools: { a: true }", 2, 13, "`tools.a` must be a rule, but is a boolean", "Write `allow`"),
    ("version: 1\ntools: { a: Allow }", 2, 13, "`Allow` is no rule", "Write `allow`"),
    ("version: 1\ntools: { a: deny }", 2, 13, "`deny` denies without a reason", "whoever reads"),
    ("version: 1\ntools: { a: { deny: \"\" } }", 2, 21, "is no reason", "whoever reads"),
    ("version: 1\ntools: { a: { deny: true } }", 2, 21, "must be a reason, but is a boolean", "whoever reads"),
    ("version: 1\ntools: { a: { deny: x, ends: capture } }", 2, 24, "`ends` cannot stand beside `deny`", "drop one"),
    ("version: 1\ntools: { a: { allow: true } }", 2, 15, "unknown key `allow` in `tools.a`", "The keys here are `args`"),
    ("version: 1\ntools: { a: { limit: [] } }", 2, 15, "unknown key `limit` in `tools.a`", "Did you mean `limits`?"),
    ("version: 1\ntools: { a: { ends: session } }", 2, 21, "`session` is nothing that a tool can end", "ends: capture"),
    ("version: 1\ntools: { a: { ends: capture, capture: { interfaces: [lo], packets: 1 } } }", 2, 15, "`ends` cannot stand beside `capture`", "drop one"),
    ("version: 1\ntools: { a: { record: [ x ] } }", 2, 23, "must be what is recorded, but is a list", "The keys here are `values`"),
    ("version: 1\ntools: { a: { record: {} } }", 2, 23, "`tools.a.record` has no `values`", "record: { values: [ interface, capture_filter ] }"),
    ("version: 1\ntools: { a: { record: { values: [] } } }", 2, 33, "is an empty list", "capture_filter"),
    ("version: 1\ntools: { a: { record: { values: [ x, x ] } } }", 2, 38, "`x` is listed twice", "Keep one"),
    ("version: 1\ntools: { a: { record: { values: [ x. ] } } }", 2, 35, "is no argument's name", "between its dots"),
    ("version: 1\ntools: { a: { record: { values: [a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q] } } }", 2, 33, "more than 16", "those that matter"),
    // Predicates.
    ("version: 1\ntools: { a: { args: [ x ] } }", 2, 21, "must be a map", "argument"),
    ("version: 1\ntools: { a: { args: { x: {} } } }", 2, 26, "asks nothing", "`absent`, `pattern`"),
    ("version: 1\ntools: { a: { args: { x: y } } }", 2, 26, "must be a map of predicates, but is a string", "The keys here are `absent`"),
    ("version: 1\ntools: { a: { args: { x..y: {} } } }", 2, 23, "between its dots", "config.interface"),
    ("version: 1\ntools: { a: { args: { x: { patern: a } } } }", 2, 28, "unknown key `patern` in `tools.a.args.x`", "Did you mean `pattern`?"),
    ("version: 1\ntools: { a: { args: { x: { pattern: '[a' } } } }", 2, 37, "unclosed character class", "regular expression"),
    ("version: 1\ntools: { a: { args: { x: { pattern: 'a)|(b' } } } }", 2, 37, "is not a regular expression", "as a whole"),
    ("version: 1\ntools: { a: { args: { x: { pattern: '(a{1000}){1000}' } } } }", 2, 37, "is not a regular expression", ""),
    ("version: 1\ntools: { a: { args: { x: { pattern: 5 } } } }", 2, 37, "must be a regular expression, but is a whole number", ""),
    ("version: 1\ntools: { a: { args: { x: { equals: [1] } } } }", 2, 36, "a string, a number or a boolean", "dotted name"),
    ("version: 1\ntools: { a: { args: { x: { one_of: [] } } } }", 2, 36, "is an empty list", ""),
    ("version: 1\ntools: { a: { args: { x: { one_of: text } } } }", 2, 36, "must be a list of values", "[ text, json ]"),
    ("version: 1\ntools: { a: { args: { x: { at_most: -1 } } } }", 2, 37, "not from 0", ""),
    ("version: 1\ntools: { a: { args: { x: { at_most: 1e999 } } } }", 2, 37, "`1e999` is not a number", "finite"),
    ("version: 1\ntools: { a: { args: { x: { under: cap } } } }", 2, 35, "is not an absolute directory", "/var/lib"),
    ("version: 1\ntools: { a: { args: { x: { under: /cap/../etc } } } }", 2, 35, "is not an absolute directory", "`..`"),
    ("version: 1\ntools: { a: { args: { x: { absent: yes } } } }", 2, 36, "must be true or false", "absent: true"),
    ("version: 1\ntools: { a: { args: { x: { absent: true, pattern: a } } } }", 2, 42, "must be absent", "Drop `absent`"),
    // Captures.
    ("version: 1\ntools: { a: { capture: {} } }", 2, 24, "`tools.a.capture` has no `interfaces`", "List the interfaces"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ] } } }", 2, 15, "`capture` has no cap", "must end"),
    ("version: 1\ntools: { a: { capture: { interfaces: lo, packets: 1 } } }", 2, 38, "must be a list of interfaces, but is a string", "veth*"),
    ("version: 1\ntools: { a: { capture: { interfaces: [], packets: 1 } } }", 2, 38, "is an empty list", "veth*"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ 4 ], packets: 1 } } }", 2, 40, "an interface's name in quotes, but is a whole number", "veth*"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo, \"eth[0]\" ], packets: 1 } } }", 2, 44, "no meaning in an interface glob", "veth*"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ nflog ], packets: 1 } } }", 2, 40, "firewall logs", "veth*"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ \"usbmon*\" ], packets: 1 } } }", 2, 40, "USB", "veth*"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ ANY ], packets: 1 } } }", 2, 40, "must be listed as `any`", "veth*"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], pakets: 1 } } }", 2, 46, "unknown key `pakets`", "Did you mean `packets`?"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], inside: deny } } }", 2, 46, "unknown key `inside`", "The keys here are `from`"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], packets: 0 } } }", 2, 55, "`0` is not from 1", "whole number from 1"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], packets: -5 } } }", 2, 55, "`-5` is not from 1", ""),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], packets: 1.5 } } }", 2, 55, "a number of packets, but is a decimal", ""),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], packets: 10k } } }", 2, 55, "a number of packets, but is a string", ""),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], bytes: 50Mib } } }", 2, 53, "`50Mib` is no number of bytes", "Did you mean `MiB`?"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], bytes: 50 parsecs } } }", 2, 53, "is no number of bytes", "`parsecs` is not a unit"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], bytes: 0 } } }", 2, 53, "`0` is not from 1", ""),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], bytes: [1] } } }", 2, 53, "a number of bytes, but is a list", ""),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], seconds: 60s } } }", 2, 55, "a number of seconds, but is a string", ""),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], seconds: 0 } } }", 2, 55, "`0` is not a time", ""),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], seconds: 1e9 } } }", 2, 55, "is not a time", "a year"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], seconds: .inf } } }", 2, 55, "`.inf` is not a number", ""),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], packets: 1, snap: 1MiB } } }", 2, 64, "is not from 1 to 262144 bytes", ""),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], packets: 1, payload: some } } }", 2, 67, "`some` is no amount of payload", "`headers`"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], packets: 1, over: drop } } }", 2, 64, "`drop` is neither", "`clamp`"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], packets: 1, within: ip, outside: drop } } }", 2, 79, "`drop` is neither `narrow` nor `deny`", "leave out"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], packets: 1, outside: deny } } }", 2, 58, "`outside` has no `within`", "Add `within`"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], packets: 1, within: \"\" } } }", 2, 66, "is empty", "capture filter"),
    ("version: 1\ntools: { a: { capture: { interfaces: [ lo ], packets: 1, within: \"a\\0b\" } } }", 2, 66, "control characters", "capture filter"),
    ("version: 1\ntools: { a: { capture: { from: { iface: x }, interfaces: [ lo ], packets: 1 } } }", 2, 34, "unknown key `iface` in `tools.a.capture.from`", "`interface`, `filter`"),
    ("version: 1\ntools: { a: { capture: { from: { packets: 5 }, interfaces: [ lo ], packets: 1 } } }", 2, 43, "an argument's name, but is a whole number", ""),
    ("version: 1\ntools: { a: { capture: { from: { packets: a. }, interfaces: [ lo ], packets: 1 } } }", 2, 43, "`a.` is no argument's name", ""),
    ("version: 1\ntools: { a: { capture: { from: { packets: n, seconds: n }, interfaces: [ lo ], packets: 1 } } }", 2, 55, "`n` asks for `packets` already", "another argument"),
    // Limits.
    ("version: 1\ntools: { a: { limits: [] } }", 2, 23, "`limits` is an empty list", "List limits"),
    ("version: 1\ntools: { a: { limits: { max: 1 } } }", 2, 23, "must be a list of limits, but is a map", "List limits"),
    ("version: 1\ntools: { a: { limits: [ 10/minute ] } }", 2, 25, "`tools.a.limits[0]` must be a limit, but is a string", "`max`, `window`"),
    ("version: 1\ntools: { a: { limits: [ { window: minute } ] } }", 2, 25, "`tools.a.limits[0]` has no `max`", "max: 10"),
    ("version: 1\ntools: { a: { limits: [ { max: 1 } ] } }", 2, 25, "has no `window`", "`hour`"),
    ("version: 1\ntools: { a: { limits: [ { max: 1, window: week } ] } }", 2, 43, "`week` is no time", "`minute`"),
    ("version: 1\ntools: { a: { limits: [ { max: 1, window: 0 s } ] } }", 2, 43, "`0 s` is no time", "`minute`"),
    ("version: 1\ntools: { a: { limits: [ { max: 1, window: 90 s, kind: calendar } ] } }", 2, 43, "is no unit of the calendar", "sliding"),
    ("version: 1\ntools: { a: { limits: [ { max: 1, window: day, kind: leaky } ] } }", 2, 54, "`leaky` is no kind of window", "`bucket`"),
    ("version: 1\ntools: { a: { limits: [ { max: 1, window: day, scope: user } ] } }", 2, 55, "`user` is no scope", "`principal`"),
    ("version: 1\ntools: { a: { limits: [ { max: -1, window: day } ] } }", 2, 32, "`-1` is not from 0", "how many"),
    ("version: 1\ntools: { a: { limits: [ { max: 9007199254740993, window: day } ] } }", 2, 32, "is not from 0 to 9007199254740992", ""),
    ("version: 1\ntools: { a: { limits: [ { max: 1.5, window: day } ] } }", 2, 32, "must be a whole number, but is a decimal number", ""),
    ("version: 1\ntools: { a: { limits: [ { max: 1, window: day, counter: \"\" } ] } }", 2, 57, "is no counter's name", ""),
    ("version: 1\ntools: { a: { limits: [ { max: 1, window: day, amount: 1, amount_from: n } ] } }", 2, 59, "`amount_from` cannot stand beside `amount`", "drop one"),
    ("version: 1\ntools: { a: { limits: [ { max: 1, window: day, amount_from: n. } ] } }", 2, 61, "`n.` is no argument's name", ""),
    ("version: 1\ntools: { a: { limits: [ { max: 1, window: day, refund: always } ] } }", 2, 56, "`always` is nothing after which", "`never`"),
    ("version: 1\ntools: { a: { limits: [ { max: 1, window: day }, { max: 2, window: day } ] } }", 2, 50, "the counter `a/day` has two limits here", "counter of its own"),
    ("version: 1\ntools: { a: { limits: [ { max: 1, window: day, spend: 5 } ] } }", 2, 48, "spend limits (`spend`) are not supported", "amount_from"),
    ("version: 1\nall_tools: { capture: {} }\ntools: {}", 2, 14, "unknown key `capture` in `all_tools`", "`limits`"),
    ("version: 1\nall_tools: []\ntools: {}", 2, 12, "`all_tools` must be a map", "`limits`"),
    // Hiding and approving.
    ("version: 1\nhide: a\ntools: {}", 2, 7, "`hide` must be a list of tools, but is a string", ""),
    ("version: 1\nhide: [ a, a ]\ntools: {}", 2, 12, "`a` is listed twice", "Keep one"),
    ("version: 1\nhide: [ \" \" ]\ntools: {}", 2, 9, "is no tool's name", ""),
    ("version: 1\ntools: { a: { approve: me } }", 2, 24, "`me` is nobody who can approve", "approve: operator"),
    ("version: 1\ntools: { a: { approve: {} } }", 2, 24, "has no `by`", "approve: operator"),
    ("version: 1\ntools: { a: { approve: { by: operator, timeout: 8 d } } }", 2, 49, "`8 d` is longer than a week", "10 min"),
    ("version: 1\ntools: { a: { approve: { by: operator, timeout: soon } } }", 2, 49, "`soon` is no time", "10 min"),
    ("version: 1\ntools: { a: { approve: operator, deny: x } }", 2, 15, "`approve` cannot stand beside `deny`", "drop one"),
    ("version: 1\ntools: { a: { required_by_schema: false } }", 2, 35, "demands nothing", "leave it out"),
    // More predicates.
    ("version: 1\ntools: { a: { args: { x: { less_than: \"5\" } } } }", 2, 39, "must be a number, but is a string", ""),
    ("version: 1\ntools: { a: { args: { x: { at_least: 9007199254740993 } } } }", 2, 38, "is not from -2^53 to 2^53", ""),
    ("version: 1\ntools: { a: { args: { x: { none_of: [] } } } }", 2, 37, "is an empty list", ""),
    ("version: 1\ntools: { a: { args: { x: { matches: '(' } } } }", 2, 37, "is not a regular expression", "anywhere"),
    ("version: 1\ntools: { a: { args: { x: { in_cidr: 10.0.0.0/8 } } } }", 2, 37, "must be a list of networks", "10.0.0.0/8"),
    ("version: 1\ntools: { a: { args: { x: { in_cidr: [ 10.0.0.1/8 ] } } } }", 2, 39, "has bits beyond its length", "own address"),
    ("version: 1\ntools: { a: { args: { x: { in_cidr: [ host ] } } } }", 2, 39, "`host` is no network", ""),
    ("version: 1\ntools: { a: { args: { x: { interface: [ nflog ] } } } }", 2, 41, "firewall logs", "veth*"),
    ("version: 1\ntools: { a: { args: { x: { capture_filter: tcp } } } }", 2, 44, "must be a map with `within`", ""),
    ("version: 1\ntools: { a: { args: { x: { capture_filter: {} } } } }", 2, 44, "has no `within`", "net 10.0.0.0/8"),
    // Checks.
    ("version: 1\ntools: { a: { checks: {} } }", 2, 23, "must be a list of checks", "`[ { require:"),
    ("version: 1\ntools: { a: { checks: [] } }", 2, 23, "is an empty list", ""),
    ("version: 1\ntools: { a: { checks: [ { name: n } ] } }", 2, 25, "has no `require`", "one of `require`"),
    ("version: 1\ntools: { a: { checks: [ { require: [], deny_if: [] } ] } }", 2, 40, "`deny_if` cannot stand beside `require`", "of its own"),
    ("version: 1\ntools: { a: { checks: [ { approve: operator, on_deny: x } ] } }", 2, 46, "`on_deny` cannot stand beside `approve`", ""),
    ("version: 1\ntools: { a: { checks: [ { require: [ { argument: x } ] } ] } }", 2, 38, "has no `equals`", "one comparison"),
    ("version: 1\ntools: { a: { checks: [ { require: [ { argument: x, equals: 1, less_than: 2 } ] } ] } }", 2, 64, "`less_than` cannot stand beside `equals`", ""),
    ("version: 1\ntools: { a: { checks: [ { require: [ { equals: 1 } ] } ] } }", 2, 38, "has no `argument`", "`counter`"),
    ("version: 1\ntools: { a: { checks: [ { require: [ { argument: x, counter: c, window: day, equals: 1 } ] } ] } }", 2, 40, "`argument` cannot stand beside `counter`", ""),
    ("version: 1\ntools: { a: { checks: [ { require: [ { argument: x, window: day, equals: 1 } ] } ] } }", 2, 53, "`window` says nothing of an argument", ""),
    ("version: 1\ntools: { a: { checks: [ { require: [ { counter: c, equals: 1 } ] } ] } }", 2, 38, "has no `window`", ""),
    ("version: 1\ntools: { a: { checks: [ { require: [ { argument: x, equals: null } ] } ] } }", 2, 61, "must be a value", ""),
    ("version: 1\ntools: { a: { checks: [ { require: [ { argument: x, equals: 1, compare: loose } ] } ] } }", 2, 73, "`loose` is no way to compare", "`compare: text`"),
    ("version: 1\ntools: { a: { checks: [ { require: [ { argument: x, absent: 1 } ] } ] } }", 2, 61, "must be true or false", ""),
    ("version: 1\ntools: { a: { checks: [ { require: [ { argument: x, at_most: 1 } ] } ] } }", 2, 53, "unknown key `at_most`", ""),
    ("version: 1\ntools: { a: { approve: { by: operator, if: operator } } }", 2, 44, "must be a list of conditions", ""),
    ("version: 1\nreplies: mine\ntools: {}", 2, 10, "`mine` is nobody whose words are known", "`intercept`"),
    ("version: 1\ndefault: { allow: \"\" }\ntools: {}", 2, 19, "says nothing", ""),
    ("version: 1\ndefault: {}\ntools: {}", 2, 10, "`default` has no `allow`", ""),
    // Commands.
    ("version: 1\nexec: { from: { packets: n }, interfaces: [ lo ], packets: 1 }", 2, 9, "unknown key `from` in `exec`", "The keys here are `interfaces`"),
    ("version: 1\nexec: { interfaces: [ lo ] }", 2, 1, "`exec` has no cap", ""),
    ("version: 1\nexec: allow", 2, 7, "`exec` must be a map of capture terms, but is a string", ""),
];

#[test]
fn errors_point_at_what_is_wrong() {
    assert_faults(CASES);
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let text = "version: 2
hide: [ a, a ]
tools:
  a: { args: { x: { pattern: '(' }, y: { at_mots: 1 } } }
  b: { capture: { interfaces: [ nflog, lo, 4 ], packets: 0, over: drop } }
  c: denied
exec: { interfaces: [ lo ] }
";
    let error = Policy::parse("p.yaml", text).unwrap_err();
    let places: Vec<_> = std::iter::once(&error)
        .chain(error.others())
        .map(|error| (error.line().unwrap(), error.column().unwrap()))
        .collect();
    assert_eq!(
        places,
        [
            (1, 10),
            (2, 12),
            (4, 30),
            (4, 42),
            (5, 33),
            (5, 44),
            (5, 58),
            (5, 67),
            (6, 6),
            (7, 1)
        ]
    );
    let shown = format!("{error:?}");
    for told in [
        "not a version",
        "`at_mots`",
        "firewall logs",
        "`denied` is no rule",
    ] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    // What is missing is told only where nothing else is wrong: `pakets` may be the cap.
    let text = "version: 1\nexec: { interfaces: [ lo ], pakets: 1 }";
    let error = Policy::parse("p.yaml", text).unwrap_err();
    assert!(error.others().is_empty(), "{error:?}");

    let many: String = (0..100).map(|n| format!("  t{n}: wrong\n")).collect();
    let error = Policy::parse("p.yaml", &format!("version: 1\ntools:\n{many}")).unwrap_err();
    assert_eq!(error.others().len(), 19);
    assert_eq!(error.line(), Some(3));
    assert_eq!(error.others()[18].line(), Some(22));
}

#[test]
fn reports_show_the_source() {
    let text = "# ü\nversion: 1\ntools:\n  stärt:\n    capture:\n      interfaces: [ lo ]\n      pakets: 10\n";
    let error = Policy::parse("dir/p.yaml", text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "dir/p.yaml:7:7: unknown key `pakets` in `tools.\"stärt\".capture`"
    );
    let excerpt = error.excerpt().unwrap();
    assert_eq!(excerpt.line, "      pakets: 10");
    assert_eq!(&excerpt.line[excerpt.wrong], "pakets");
    assert!(
        error
            .help_text()
            .unwrap()
            .contains("Did you mean `packets`?")
    );
}

#[test]
fn what_is_written_by_hand_is_read() {
    for text in [
        "version: 1\ntools: {}\n",
        "\u{feff}version: 1\r\ntools: {}\r\n",
        "{\"version\": 1, \"default\": \"deny\", \"tools\": {\"a\": {}}}",
        "---\nversion: 1\nexec: { interfaces: [ any ], seconds: 0.5 }\n...\n",
        "version: 1\ntools:\n  a.b/c: allow\n  \"true\": allow\n  1: allow\n",
        "version: 1\ntools: { a: &r { args: { x: { absent: true } } }, b: *r }\n",
    ] {
        let policy = Policy::parse("p.yaml", text);
        assert!(policy.is_ok(), "{text}: {policy:?}");
    }
}

#[test]
fn block_filters_lose_their_line_ends() {
    let text = "version: 1\nexec:\n  interfaces: [ lo ]\n  packets: 1\n  within: |\n    tcp\n      and port 80\n";
    let policy = Policy::parse("p.yaml", text).unwrap();
    let verdict = policy.exec_verdict(&Request::default()).unwrap();
    assert_eq!(verdict.terms.filters[0].expression, "tcp and port 80");
}

#[test]
fn rules_keep_their_places_behind_aliases() {
    let text = "version: 1\ntools:\n  a:\n    capture: &c\n      interfaces: [ lo ]\n      packets: 1\n  b: { capture: *c }\n";
    let policy = Policy::parse("p.yaml", text).unwrap();
    let verdict = captured(&policy, "b", no_arguments());
    assert_eq!(verdict.rule.to_string(), "p.yaml:7:8 tools.b.capture");
}

#[test]
fn small_files_do_not_grow_large() {
    let mut bomb = String::from("version: 1\nx0: &x0 [ a, a, a, a, a, a, a, a, a ]\n");
    for n in 1..9 {
        let list = vec![format!("*x{}", n - 1); 9].join(", ");
        bomb.push_str(&format!("x{n}: &x{n} [ {list} ]\n"));
    }
    let deep = format!(
        "version: 1\ntools: {}{}",
        "[".repeat(5000),
        "]".repeat(5000)
    );
    let deep_block: String = (0..500).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    for text in [bomb, deep, deep_block] {
        let error = Policy::parse("p.yaml", &text).unwrap_err();
        assert!(error.line().is_some(), "{error}");
    }
    let large = format!("version: 1\ntools: {{}}\n#{}", "x".repeat(1 << 20));
    let error = Policy::parse("p.yaml", &large).unwrap_err();
    assert_eq!(error.to_string(), "p.yaml: is larger than 1 MiB");
}

#[test]
fn files_are_read_or_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none.yaml");
    let error = Policy::load(&missing).unwrap_err();
    assert!(
        error.to_string().contains("none.yaml: cannot be read"),
        "{error}"
    );
    assert_eq!(error.line(), None);
    assert!(Policy::load(directory.path()).is_err());

    let path = directory.path().join("latin.yaml");
    std::fs::File::create(&path)
        .and_then(|mut file| file.write_all(b"version: 1 # \xe9\n"))
        .unwrap();
    let error = Policy::load(&path).unwrap_err();
    assert!(error.to_string().contains("byte 13"), "{error}");

    let path = directory.path().join("good.yaml");
    std::fs::write(&path, FULL).unwrap();
    let summary = Policy::load(&path).unwrap().summary();
    assert_eq!((summary.count("allow"), summary.count("capture")), (3, 2));
    assert_eq!(summary.digest, full().digest());
}
