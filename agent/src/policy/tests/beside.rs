//! Files of cases: what is read, what is refused, and that a case that does not hold is told.

use serde_json::json;

use super::*;

fn load(text: &str) -> Result<Vec<Case>, PolicyError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.test.yaml");
    std::fs::write(&path, text).unwrap();
    Case::load(&path)
}

/// What differs, as `what: expected / found`.
fn unlike(case: &str) -> Vec<String> {
    let cases = load(&format!("- {{ name: n, {case} }}\n")).unwrap();
    let (unlike, _) = cases[0].run(&full());
    let words = unlike.iter();
    let words = words.map(|one| format!("{}: {} / {}", one.what, one.expected, one.found));
    words.collect()
}

#[test]
fn what_is_as_expected_is_no_difference() {
    for case in [
        "call: { tool: list }, expect: allow, uses: {}, rule: tools.list",
        "call: { tool: stop, arguments: { filter: abc } }, expect: ends",
        "call: { tool: start, arguments: { iface: lo, count: 20000 } }, expect: capture, forwarded: { iface: lo, count: 1.0e4, other: null }",
        "call: { tool: start, arguments: { iface: lo, configName: x } }, expect: deny, rule: tools.start.args.configName.absent, reason: configName",
        "call: { tool: save }, expect: deny",
        "call: { tool: save }, expect: hidden, reason: it saves",
        "call: { tool: nobody }, expect: hidden, rule: default",
    ] {
        assert_eq!(unlike(case), Vec::<String>::new(), "{case}");
    }
}

#[test]
fn what_is_not_as_expected_is_told() {
    for (case, wanted) in [
        (
            "call: { tool: list }, expect: deny",
            "verdict: deny / allow",
        ),
        (
            "call: { tool: list }, expect: hidden",
            "verdict: hidden / allow",
        ),
        (
            "call: { tool: stop }, expect: allow",
            "verdict: allow / ends",
        ),
        (
            "call: { tool: nobody }, expect: allow",
            "verdict: allow / hidden: The tool `nobody` is not in the policy.",
        ),
        (
            "call: { tool: read, arguments: { depth: 9 } }, expect: hidden",
            "verdict: hidden / deny: ",
        ),
        (
            "call: { tool: list }, expect: allow, rule: tools.look",
            "rule: tools.look / p.yaml:4:3 tools.list",
        ),
        (
            "call: { tool: save }, expect: deny, reason: it leaves",
            "reason: …it leaves… / The tool `save`",
        ),
        (
            "call: { tool: list }, expect: allow, reason: x",
            "reason: …x… / no denial",
        ),
        (
            "call: { tool: start, arguments: { iface: lo, count: 20000 } }, expect: capture, forwarded: { count: 20000 }",
            "forwarded.count: 20000 / 10000",
        ),
        (
            "call: { tool: list }, expect: allow, forwarded: { a: 1 }",
            "forwarded.a: 1 / nothing",
        ),
        (
            "call: { tool: save }, expect: deny, forwarded: { a: null }",
            "forwarded.a: null / nothing",
        ),
        (
            "call: { tool: list }, expect: allow, uses: { a: 1 }",
            "uses: a: 1 / nothing",
        ),
        (
            "call: { tool: list }, expect: allow, approval: true",
            "approval: asked for / not asked for",
        ),
    ] {
        let found = unlike(case);
        assert_eq!(found.len(), 1, "{case}: {found:?}");
        assert!(found[0].starts_with(wanted), "{found:?}, not {wanted}");
    }
}

#[test]
fn approvals_uses_and_what_is_assumed() {
    let policy = Policy::parse(
        "p.yaml",
        "version: 1
tools:
  a: { approve: operator, limits: [ { max: 5, window: day, amount_from: n } ] }
  b: { required_by_schema: true }
  c: { approve: user }
",
    )
    .unwrap();
    let run = |case: &str| {
        let case = load(&format!("- {{ name: n, {case} }}\n"))
            .unwrap()
            .remove(0);
        case.run(&policy).0
    };
    let asked = "call: { tool: a, arguments: { n: 3 } }, expect: allow, uses: { a/day: 3 }";
    assert_eq!(run(&format!("{asked}, approval: true")), []);
    assert_eq!(run(&format!("{asked}, approval: operator")), []);
    assert_eq!(run(&format!("{asked}, approval: user"))[0].what, "approval");
    assert_eq!(run(asked)[0].what, "approval");
    let user = "call: { tool: c }, expect: allow";
    assert_eq!(run(&format!("{user}, approval: user")), []);
    assert_eq!(run(&format!("{user}, approval: true")), []);
    assert_eq!(
        run(&format!("{user}, approval: operator"))[0].what,
        "approval"
    );
    let call = "call: { tool: b, arguments: { port: 1 } }";
    assert_eq!(run(&format!("{call}, expect: deny")), []);
    assert_eq!(
        run(&format!("{call}, expect: allow, requires: [ port ]")),
        []
    );
    assert_eq!(
        run(&format!("{call}, expect: deny, requires: [ port, host ]")),
        []
    );
}

#[test]
fn arguments_are_whatever_json_can_say() {
    let cases = load("- { name: n, expect: deny, call: { tool: t, arguments: { a: [ 1, 2.5, null, { b: [] } ], c: true, d: \"1\", e: -3 } } }").unwrap();
    let wanted = json!({ "a": [1, 2.5, null, { "b": [] }], "c": true, "d": "1", "e": -3 });
    assert_eq!(Value::Object(cases[0].call.arguments.clone()), wanted);
}

#[test]
fn errors_point_at_what_is_wrong() {
    #[rustfmt::skip]
    let table = [
        ("", 1, 1, "must be a list of cases, but is nothing"),
        ("[]", 1, 1, "is an empty list"),
        ("{}", 1, 1, "must be a list of cases, but is a map"),
        ("- a", 1, 3, "must be a case, but is a string"),
        ("- { name: n }", 1, 3, "has no `call`"),
        ("- { name: n, call: { tool: t } }", 1, 3, "has no `expect`"),
        ("- { call: { tool: t }, expect: deny }", 1, 3, "has no `name`"),
        ("- { name: n, call: {}, expect: deny }", 1, 20, "has no `tool`"),
        ("- { name: n, call: { tool: t, args: {} }, expect: deny }", 1, 31, "unknown key `args`"),
        ("- { name: n, call: { tool: t, arguments: [] }, expect: deny }", 1, 42, "must be a map"),
        ("- { name: n, call: { tool: t }, expect: denied }", 1, 41, "`denied` is nothing that can be expected"),
        ("- { name: n, call: { tool: t }, expct: deny }", 1, 33, "unknown key `expct`"),
        ("- { name: n, call: { tool: t }, expect: deny, uses: { a: -1 } }", 1, 58, "`-1` is not from 0"),
        ("- { name: n, call: { tool: t }, expect: deny, approval: yes please }", 1, 57, "`yes please` is nobody who can approve"),
        ("- { name: n, name: n }", 1, 14, "`name` is written twice"),
    ];
    for (text, line, column, message) in table {
        let error = load(text).unwrap_err();
        assert!(
            error.message().contains(message),
            "{error:?}, not {message}: {text}"
        );
        assert_eq!(
            (error.line(), error.column()),
            (Some(line), Some(column)),
            "{error:?}: {text}"
        );
    }
}
