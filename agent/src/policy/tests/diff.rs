//! Differences between policies: what is told, and that nothing is told of what is the same.

use super::*;

fn policy(text: &str) -> Policy {
    Policy::parse("p.yaml", text).unwrap_or_else(|error| panic!("{error:?}\n{text}"))
}

fn subject(change: &PolicyChange) -> String {
    match &change.subject {
        Subject::Tool(name) => name.clone(),
        Subject::AllTools => "*".to_owned(),
        Subject::OtherTools => "others".to_owned(),
        Subject::Exec => "exec".to_owned(),
        Subject::Baseline => "baseline".to_owned(),
    }
}

/// `+` for what becomes allowed, `-` for what becomes denied, `~` for the rest.
fn words(before: &Policy, after: &Policy) -> Vec<String> {
    let changes = before.changes(after);
    let words = changes.iter().map(|change| {
        let sign = match change.effect {
            Effect::Allows => '+',
            Effect::Denies => '-',
            Effect::Changed => '~',
        };
        format!("{sign} {}: {}", subject(change), change.what)
    });
    words.collect()
}

/// Differences between two rules for one tool.
fn rules(before: &str, after: &str) -> Vec<String> {
    let of = |rule: &str| policy(&format!("version: 1\ntools: {{ t: {rule} }}"));
    words(&of(before), &of(after))
}

#[rustfmt::skip] // A table: rule, other rule, what is different; and the other way round.
const CASES: &[(&str, &str, &str, &str)] = &[
    ("allow", "{ deny: x }", "- t: the tool, whatever", "+ t: the tool, whatever its arguments"),
    ("{ capture: { interfaces: [ lo ], packets: 1 } }", "{ deny: x }", "- t: the tool, whatever", "+ t: the tool, which starts a capture (lo, 1 packet), whatever its arguments"),
    ("{ ends: proxy, limits: [ { max: 3, window: day } ] }", "{ deny: x }", "- t: the tool, whatever", "+ t: the tool, which ends proxies, on these conditions: at most 3 a day"),
    ("{ approve: user, args: { a: { absent: true } } }", "{ deny: x }", "- t: the tool, whatever", "+ t: the tool, on these conditions: arguments checked, the client's user asked"),
    ("allow", "{ ends: capture }", "~ t: a call ends captures, where it was forwarded and no more", "~ t: a call is forwarded and no more, where it ended captures"),
    ("allow", "{ ends: proxy }", "~ t: a call ends proxies, where it was forwarded and no more", "~ t: a call is forwarded and no more, where it ended proxies"),
    ("allow", "{ ends: program }", "~ t: a call ends programs, where it was forwarded and no more", "~ t: a call is forwarded and no more, where it ended programs"),
    ("{ program: { seconds: 5 } }", "{ program: { seconds: 5, connect: [ \"*:443\" ] } }", "+ t: programs connecting to *:443", "- t: programs connecting to *:443"),
    ("{ program: { seconds: 5 } }", "{ program: { seconds: 5, processes: 9 } }", "- t: 9 processes, not any number of processes", "+ t: any number of processes, not 9 processes"),
    ("{ program: { seconds: 5, memory: 1MiB } }", "{ program: { seconds: 5, memory: 2MiB } }", "+ t: 2 MiB of memory", "- t: 1 MiB of memory"),
    ("{ program: { seconds: 5 } }", "{ program: { seconds: 6 } }", "+ t: 6 s", "- t: 5 s"),
    ("{ proxy: { listen: [ \"127.0.0.1:80-90\" ], seconds: 5 } }", "{ proxy: { listen: [ \"127.0.0.1:85\" ], seconds: 5 } }", "- t: listening on 127.0.0.1:80-90", "+ t: listening on 127.0.0.1:80-90"),
    ("{ proxy: { listen: [ \"127.0.0.1:80\" ], seconds: 5 } }", "{ proxy: { listen: [ \"127.0.0.1:80\" ], upstream: [ \"*:443\" ], seconds: 5 } }", "+ t: connecting to *:443", "- t: connecting to *:443"),
    ("{ proxy: { listen: [ \"127.0.0.1:80\" ], seconds: 5 } }", "{ proxy: { listen: [ \"127.0.0.1:80\" ], interfaces: [ lo ], seconds: 5 } }", "- t: proxies on *", "+ t: proxies on *"),
    ("{ proxy: { listen: [ \"127.0.0.1:80\" ], seconds: 5 } }", "{ proxy: { listen: [ \"127.0.0.1:80\" ], bytes: 1KiB, seconds: 5 } }", "- t: 1 KiB each way", "+ t: any number of bytes"),
    ("{ proxy: { listen: [ \"127.0.0.1:80\" ], seconds: 5 } }", "{ proxy: { listen: [ \"127.0.0.1:80\" ], seconds: 5, end: restart } }", "~ t: the end of a proxy: before, its traffic is dropped and the server lives on; now, the server is restarted", "~ t: the end of a proxy: before, the server is restarted; now,"),
    ("{ proxy: { listen: [ \"127.0.0.1:80\" ], from: { port: a }, seconds: 5 } }", "{ proxy: { listen: [ \"127.0.0.1:80\" ], from: { port: b }, seconds: 5 } }", "~ t: which arguments", "~ t: which arguments"),
    ("allow", "{ args: { a: { absent: true } } }", "- t: calls that do not pass: `a` is not sent", "+ t: calls no longer have to pass: `a` is not sent"),
    ("{ args: { a: { absent: true } } }", "{ args: { a: { absent: false } } }", "~ t: `a` is to be sent, not not sent", "~ t: `a` is to be not sent, not sent"),
    ("{ args: { a: { one_of: [ 1, 2 ] } } }", "{ args: { a: { one_of: [ 2.0, 1, x ] } } }", "+ t: \"x\" as `a`", "- t: \"x\" as `a`"),
    ("{ args: { a: { none_of: [ 1, 2 ] } } }", "{ args: { a: { none_of: [ 1 ] } } }", "+ t: `a` is to be", "- t: `a` is to be"),
    ("{ args: { a: { at_most: 5 } } }", "{ args: { a: { at_most: 6 } } }", "+ t: `a` is to be from 0 to 6", "- t: `a` is to be from 0 to 5"),
    ("{ args: { a: { more_than: 5 } } }", "{ args: { a: { more_than: 6 } } }", "- t: `a` is to be more than 6", "+ t: `a` is to be more than 5"),
    ("{ args: { a: { pattern: a } } }", "{ args: { a: { pattern: b } } }", "~ t: `a` is to be matched by \"b\"", "~ t: `a` is to be matched by \"a\""),
    ("{ args: { a: { under: /a } } }", "{ args: { a: { under: /a/b } } }", "- t: `a` is to be under /a/b", "+ t: `a` is to be under /a,"),
    ("{ args: { a: { under: /a } } }", "{ args: { a: { under: /ab } } }", "~ t: `a`", "~ t: `a`"),
    ("{ args: { a: { interface: [ lo, \"veth*\" ] } } }", "{ args: { a: { interface: [ lo, \"veth*\", veth1, eth0 ] } } }", "+ t: captures on eth0 by `a`", "- t: captures on eth0 by `a`"),
    ("{ args: { a: { capture_filter: { within: tcp } } } }", "{ args: { a: { capture_filter: { within: ip } } } }", "~ t: packets within \"ip\", not \"tcp\"", "~ t: packets within \"tcp\", not \"ip\""),
    ("allow", "{ limits: [ { max: 3, window: day } ] }", "- t: calls that do not pass: the limit of 3 in `t/day`", "+ t: calls no longer have to pass: the limit of 3"),
    ("{ limits: [ { max: 3, window: day } ] }", "{ limits: [ { max: 4, window: day } ] }", "+ t: up to 4 in `t/day`, not 3", "- t: up to 3 in `t/day`, not 4"),
    ("{ limits: [ { max: 3, window: day } ] }", "{ limits: [ { max: 3, window: day, refund: never } ] }", "~ t: how much", "~ t: how much"),
    ("{ approve: operator }", "{ approve: { by: operator, timeout: 5 min } }", "~ t: an operator is asked for 5 min, not 10 min", "~ t: an operator is asked for 10 min, not 5 min"),
    ("{ approve: operator }", "{ approve: user }", "+ t: the client's user approves, not an operator", "- t: an operator approves, not the client's user"),
    ("allow", "{ approve: operator, }", "- t: calls that do not pass: an operator approves within 10 min", "+ t: calls no longer"),
    ("{ required_by_schema: true }", "allow", "+ t: calls no longer have to pass: what the tool's schema", "- t: calls that do not pass: what"),
    ("allow", "{ capture: { interfaces: [ lo ], packets: 1 } }", "~ t: a call starts a capture, held to its terms, where it was forwarded", "~ t: a call is forwarded"),
];

const CAPTURE: &str = "interfaces: [ lo ], packets: 10";

#[rustfmt::skip] // A table: what is added to the terms, what is different; and the other way round.
const TERMS: &[(&str, &str, &str)] = &[
    ("bytes: 5MB", "- t: 5 MB, not any number of bytes", "+ t: any number of bytes, not 5 MB"),
    ("seconds: 5", "- t: 5 s, not any number of seconds", "+ t: any number of seconds"),
    ("within: tcp", "- t: packets outside \"tcp\"", "+ t: packets outside \"tcp\""),
    ("snap: 100", "- t: 100 bytes of each packet, not 256 KiB", "+ t: 256 KiB of each packet"),
    ("payload: headers", "- t: headers only, not the whole payload", "+ t: the whole payload"),
    ("over: deny", "- t: requests beyond a cap", "+ t: requests beyond a cap"),
    ("from: { packets: n }", "~ t: packets from `n`, not no argument", "~ t: packets from no argument, not `n`"),
];

fn is(found: &[String], wanted: &str) -> bool {
    found.len() == 1 && found[0].starts_with(wanted)
}

#[test]
fn rules_are_compared() {
    for (one, other, there, back) in CASES {
        for (one, other, wanted) in [(one, other, there), (other, one, back)] {
            let found = rules(one, other);
            assert!(
                is(&found, wanted),
                "{one} → {other}: {found:?}, not {wanted}"
            );
            assert_eq!(rules(one, one), Vec::<String>::new());
        }
    }
}

#[test]
fn terms_of_captures_are_compared() {
    let plain = format!("{{ capture: {{ {CAPTURE} }} }}");
    for (term, there, back) in TERMS {
        let term = format!("{{ capture: {{ {CAPTURE}, {term} }} }}");
        for (one, other, wanted) in [(&plain, &term, there), (&term, &plain, back)] {
            let found = rules(one, other);
            assert!(
                is(&found, wanted),
                "{one} → {other}: {found:?}, not {wanted}"
            );
        }
    }
    for (interfaces, wanted) in [
        ("[ lo, lo ]", &[][..]),
        ("[ any, lo ]", &["+ t: captures on `any`"]),
        ("[ any ]", &["+ t: captures on `any`"]),
        (
            "[ eth0 ]",
            &["+ t: captures on eth0", "- t: captures on lo"],
        ),
        ("[ \"*\" ]", &["+ t: captures on *"]),
        ("[ \"l*\" ]", &["+ t: captures on l*"]),
    ] {
        let other = format!("{{ capture: {{ interfaces: {interfaces}, packets: 10 }} }}");
        assert_eq!(rules(&plain, &other), wanted, "{interfaces}");
    }
    let any = |rest: &str| format!("{{ capture: {{ interfaces: [ any{rest} ], packets: 10 }} }}");
    assert_eq!(rules(&any(""), &plain), ["- t: captures on `any`"]);
    assert_eq!(rules(&any(""), &any(", lo, \"veth*\"")), [""; 0]);
    assert_eq!(rules(&any(", lo, \"veth*\""), &any("")), [""; 0]);
    let filters = |text: &str| format!("{{ capture: {{ {CAPTURE}, within: {text:?} }} }}");
    let of = |rule: String| policy(&format!("version: 1\ntools: {{ t: {rule} }}"));
    let changes = of(filters("tcp")).changes(&of(filters("ip")));
    assert_eq!(
        changes[0].filters,
        Some(("tcp".to_owned(), "ip".to_owned()))
    );
    assert_eq!(
        changes[0].after.as_ref().unwrap().path,
        "tools.t.capture.within"
    );
}

#[test]
fn whole_policies_are_compared() {
    let one = policy("version: 1\ntools: { a: allow, b: allow }");
    for (text, wanted) in [
        ("version: 1\ntools: { b: {}, a: { args: {} } }", &[][..]),
        (
            "version: 1\nhide: [ c ]\ntools: { b: {}, a: {}, d: { deny: x } }",
            &[],
        ),
        (
            "version: 1\nhide: [ b ]\ntools: { a: allow, b: allow }",
            &["- b: the tool, whatever its arguments"],
        ),
        (
            "version: 1\ntools: { a: allow, c: allow }",
            &[
                "- b: the tool, whatever its arguments",
                "+ c: the tool, whatever its arguments",
            ],
        ),
        (
            "version: 1\nall_tools: { approve: operator }\ntools: { a: allow, b: allow }",
            &["- *: calls that do not pass: an operator approves within 10 min"],
        ),
        (
            "version: 1\ntools: { a: allow, b: allow }\nexec: { interfaces: [ lo ], packets: 1 }",
            &["+ exec: captures of commands (lo, 1 packet)"],
        ),
    ] {
        assert_eq!(words(&one, &policy(text)), wanted, "{text}");
    }
    let open = "version: \"1\"\ndefault: allow\ntools: { a: { rules: [] } }";
    let open = Policy::parse("p.yaml", open).unwrap();
    assert!(
        words(&one, &open).contains(&"+ others: tools that are not named".to_owned()),
        "{:?}",
        words(&one, &open)
    );
    assert!(words(&open, &one).contains(&"- others: tools that are not named".to_owned()));
}

#[test]
fn other_languages_that_mean_the_same_are_the_same() {
    let theirs = include_str!("../../../../policies/policylayer-sharkmcp.json");
    let ours = "version: 1
tools:
  start_capture_session:
    limits: [ { max: 10, window: minute, counter: start_capture_session_rate } ]
";
    let (theirs, ours) = (policy(theirs), policy(ours));
    assert_eq!(theirs.dialect(), Dialect::PolicyLayer);
    let found = words(&theirs, &ours);
    // When a failed call's use is given back is each language's own.
    assert_eq!(
        found,
        [
            "~ start_capture_session: how much a call uses of `start_capture_session_rate`, or when that is given back"
        ]
    );
    assert_eq!(words(&full(), &full()), Vec::<String>::new());
}

#[test]
fn clients_are_told_of_other_tools_only() {
    let one = policy("version: 1\ntools: { a: allow, b: { deny: x } }");
    for (text, same) in [
        (
            "version: 1\ntools: { a: { limits: [ { max: 1, window: day } ] } }",
            true,
        ),
        (
            "version: 1\nhide: [ c ]\ntools: { a: { ends: capture } }",
            true,
        ),
        ("version: 1\ntools: { a: { deny: x } }", false),
        ("version: 1\ntools: { a: allow, b: allow }", false),
        ("version: 1\nhide: [ a ]\ntools: { a: allow }", false),
        (
            "version: \"1\"\ndefault: allow\ntools: { b: { rules: [ { name: n, action: deny } ] } }",
            false,
        ),
    ] {
        let other = policy(text);
        assert_eq!(one.shows_the_same(&other), same, "{text}");
        assert_eq!(other.shows_the_same(&one), same, "{text}");
    }
}

#[test]
fn what_is_recorded_is_neither_allowed_nor_denied() {
    let none = policy("version: 1\ntools: { a: {} }");
    let one = policy("version: 1\ntools: { a: { record: { values: [x, y] } } }");
    let other = policy("version: 1\ntools: { a: { record: { values: [y, z.w] } } }");
    assert_eq!(
        words(&none, &one),
        ["~ a: recorded: the values of `x` and `y`"]
    );
    assert_eq!(
        words(&one, &other),
        [
            "~ a: recorded: the value of `z.w`",
            "~ a: no longer recorded: the value of `x`"
        ]
    );
    assert_eq!(
        words(&other, &none),
        ["~ a: no longer recorded: the values of `y` and `z.w`"]
    );
    let turned = policy("version: 1\ntools: { a: { record: { values: [y, x] } } }");
    assert!(words(&one, &turned).is_empty());
}

#[test]
fn values_are_recorded_that_the_tool_and_all_tools_name() {
    let policy = policy(
        "version: 1\nall_tools: { record: { values: [i] } }\ntools: { a: { record: { values: [x] } }, b: allow }",
    );
    let names = |tool| policy.recorded(tool).collect::<Vec<_>>().join(" ");
    assert_eq!([names("a"), names("b"), names("c")], ["x i", "i", "i"]);
}
