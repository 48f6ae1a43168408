//! The dialects' files: what is refused and where, and which dialect a file is taken for.

use serde_json::json;

use super::*;

/// Wrong files: text, line, column, and parts of the message and the help.
#[rustfmt::skip] // A table: each text on its own line.
const CASES: &[Fault] = &[
    // PolicyLayer: JSON, and exactly that.
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"limits\": []},}}", 1, 67, "this is not JSON: key must be a string", "no comma after"),
    ("{'version': '1', 'default': 'deny', 'all_tools': {}}", 1, 2, "this is not JSON: key must be a string", "no comments"),
    ("version: \"1\"\ndefault: deny\nall_tools: {}", 1, 1, "this is not JSON: expected value", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {}, \"a\": {}}}", 1, 56, "`a` is written twice", "Keep one"),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {}, \"\\u0061\": {}}}", 1, 56, "`a` is written twice", "Keep one"),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"\\ud83d\": {}}}", 1, 47, "half of a surrogate pair", "character itself"),
    ("{\"version\": \"1\", \"default\": \"deny\", \"all_tools\": {\"limits\": [{\"counter\": \"c\", \"window\": \"day\", \"max\": 1e999, \"scope\": \"grant\"}]}}", 1, 103, "`1e999` is not a number that can be counted to", "finite"),
    ("{\"version\": \"2\", \"default\": \"deny\", \"all_tools\": {}}", 1, 13, "`2` is not a version", "version: \"1\""),
    ("{\"version\": \"1\", \"all_tools\": {}}", 1, 1, "has no `default`", "\"deny\""),
    ("{\"version\": \"1\", \"default\": \"ask\"}", 1, 29, "`ask` is neither `allow` nor `deny`", ""),
    ("{\"default\": \"deny\", \"all_tools\": {}}", 1, 1, "has no `version`", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tool\": {}}", 1, 37, "unknown key `tool` in the file", "Did you mean `tools`?"),
    ("{\"version\": \"1\", \"default\": \"deny\", \"hide\": \"a\"}", 1, 45, "must be a list of tools", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"hide\": [\"a\", \"*\", \"*\"]}", 1, 56, "`*` is listed twice", ""),
    ("{\"proxy_start\": {\"limits\": [{\"counter\": \"c\", \"window\": \"minute\", \"max\": 10, \"scope\": \"grant\"}]}}", 1, 1, "a part of a PolicyLayer policy", "\"default\": \"deny\""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"*\": {\"limits\": []}}}", 1, 47, "`*` is no tool's name", "all_tools"),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"require\": [], \"denyif\": []}}}", 1, 68, "unknown key `denyif` in `tools.a`", "Did you mean `deny_if`?"),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"require\": {}}}}", 1, 64, "must be a list of conditions", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"require\": [{}]}}}", 1, 65, "`tools.a.require[0]` has no `conditions`", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"deny_if\": [{\"conditions\": [{\"path\": \"args.x\", \"op\": \"equals\", \"value\": 1}]}]}}}", 1, 106, "`equals` is no operator", "`neq`"),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"deny_if\": [{\"conditions\": [{\"path\": \"args.x\", \"op\": \"eq\"}]}]}}}", 1, 81, "has no `value`", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"deny_if\": [{\"conditions\": [{\"path\": \"x\", \"op\": \"eq\", \"value\": 1}]}]}}}", 1, 90, "`x` is no path into the arguments", "args.amount"),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"deny_if\": [{\"conditions\": [{\"path\": \"args\", \"op\": \"eq\", \"value\": 1}]}]}}}", 1, 90, "`args` is no path", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"deny_if\": [{\"conditions\": [{\"path\": \"args.\", \"op\": \"eq\", \"value\": 1}]}]}}}", 1, 90, "`args.` is no path", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"deny_if\": [{\"conditions\": [{\"path\": \"state.a.c\", \"op\": \"eq\", \"value\": 1}]}]}}}", 1, 90, "is no path into the arguments", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"deny_if\": [{\"conditions\": [{\"path\": \"args.x\", \"op\": \"eq\", \"value\": null}]}]}}}", 1, 121, "must be a value, but is nothing", "op: exists"),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"deny_if\": [{\"conditions\": [{\"path\": \"args.x\", \"op\": \"in\", \"value\": \"a\"}]}]}}}", 1, 121, "must be a list of values", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"deny_if\": [{\"conditions\": [{\"path\": \"args.x\", \"op\": \"lt\", \"value\": \"5\"}]}]}}}", 1, 121, "must be a number, but is a string", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"deny_if\": [{\"conditions\": [{\"path\": \"args.x\", \"op\": \"lt\", \"value\": 9007199254740993}]}]}}}", 1, 121, "is not from -2^53 to 2^53", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"deny_if\": [{\"conditions\": [{\"path\": \"args.x\", \"op\": \"exists\", \"value\": \"true\"}]}]}}}", 1, 125, "must be true or false", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"deny_if\": [{\"conditions\": [{\"path\": \"args.x\", \"op\": \"regex\", \"value\": \"(?=a)\"}]}]}}}", 1, 124, "is not a regular expression", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"deny_if\": [{\"conditions\": [{\"path\": \"args.x\", \"op\": \"regex\", \"value\": \"(a{1000}){1000}\"}]}]}}}", 1, 124, "is not a regular expression", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"all_tools\": {\"limits\": [{\"counter\": \"c\", \"window\": \"week\", \"max\": 1, \"scope\": \"grant\"}]}}", 1, 89, "`week` is no window", "\"hour\""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"all_tools\": {\"limits\": [{\"counter\": \"c\", \"window\": \"day\", \"max\": 1, \"scope\": \"user\"}]}}", 1, 115, "`user` is no scope", "\"grant\""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"all_tools\": {\"limits\": [{\"counter\": \"c\", \"window\": \"day\", \"max\": 1}]}}", 1, 62, "has no `scope`", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"all_tools\": {\"limits\": [{\"counter\": \"c\", \"window\": \"day\", \"max\": 9007199254740993, \"scope\": \"grant\"}]}}", 1, 103, "is not from 0 to 9007199254740992", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"all_tools\": {\"limits\": [{\"counter\": \"c\", \"window\": \"day\", \"max\": 99999999999999999999999, \"scope\": \"grant\"}]}}", 1, 103, "is not from 0 to 9007199254740992", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"all_tools\": {\"limits\": [{\"counter\": \"c\", \"window\": \"day\", \"max\": -1, \"scope\": \"grant\"}]}}", 1, 103, "`-1` is not from 0", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"all_tools\": {\"limits\": [{\"counter\": \"c\", \"window\": \"day\", \"max\": \"10\", \"scope\": \"grant\"}]}}", 1, 103, "must be a whole number, but is a string", ""),
    ("{\"version\": \"1\", \"default\": \"deny\", \"all_tools\": {\"limits\": [{\"counter\": \"c\", \"window\": \"day\", \"max\": 1, \"scope\": \"grant\", \"amount\": 2}]}}", 1, 124, "unknown key `amount`", "`on_deny`"),
    ("{\"version\": \"1\", \"default\": \"deny\", \"all_tools\": {\"require\": [], \"limits\": []}}", 1, 51, "unknown key `require` in `all_tools`", "`limits`"),
    ("{\"version\": \"1\", \"default\": \"deny\", \"exec\": {}, \"all_tools\": {}}", 1, 13, "`version` must be the number 1", ""),
    // Intercept.
    ("version: \"2\"\ntools: { a: { rules: [] } }", 1, 10, "`2` is not a version", ""),
    ("version: 1.0\ntools: { a: { rules: [] } }", 1, 10, "`version` must be \"1\"", ""),
    ("version: \"1\"\ndefault: maybe\ntools: { a: { rules: [] } }", 2, 10, "`maybe` is neither", ""),
    ("version: \"1\"\nspend: { max: 5 }\ntools: { a: { rules: [] } }", 2, 1, "spend limits (`spend`) are not supported", "increment_from"),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, spend_limit: 5/day } ] } }", 2, 35, "spend limits (`spend_limit`) are not supported", "increment_from"),
    ("version: \"1\"\ntools: { a: { rules: [], all_tools: {} } }", 2, 26, "unknown key `all_tools` in `tools.a`", "`rules`"),
    ("version: \"1\"\ntools: { a: { rules: {} } }", 2, 22, "must be a list of rules", ""),
    ("version: \"1\"\ntools: { _global: { rules: [] } }", 2, 10, "`_global` is no tool's name", "\"*\""),
    ("version: \"1\"\ntools: { a: { rules: [ { action: deny } ] } }", 2, 24, "`tools.a.rules[0]` has no `name`", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, action: block } ] } }", 2, 43, "`block` is no action", "`require_approval`"),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n } ] } }", 2, 24, "has no `conditions`", "at least one"),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, conditions: [] } ] } }", 2, 24, "has no `conditions`", "at least one"),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, action: deny, conditions: [ { path: args.x, op: eq, value: 1 } ] } ] } }", 2, 49, "`conditions` cannot stand in a rule that denies", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, action: deny, rate_limit: 1/day } ] } }", 2, 49, "`rate_limit` cannot stand in a rule that denies", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, rate_limit: 1/day, conditions: [ { path: args.x, op: eq, value: 1 } ] } ] } }", 2, 54, "`conditions` cannot stand beside `rate_limit`", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, rate_limit: 0/day } ] } }", 2, 47, "`0/day` is no rate", "`5/minute`"),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, rate_limit: -1/day } ] } }", 2, 47, "`-1/day` is no rate", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, rate_limit: +1/day } ] } }", 2, 47, "`+1/day` is no rate", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, rate_limit: 5/week } ] } }", 2, 47, "`5/week` is no rate", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, rate_limit: 5 } ] } }", 2, 47, "must be a rate, but is a whole number", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, rate_limit: 9007199254740993/day } ] } }", 2, 47, "is more than 2^53 calls", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, rate_limit: 1/day }, { name: m, rate_limit: 2/day } ] } }", 2, 56, "the counter `a._rate_day` has two limits here", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, conditions: [ { path: x, op: eq, value: 1 } ] } ] } }", 2, 57, "`x` is no path", "state._global.calls"),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, conditions: [ { path: state.a, op: eq, value: 1 } ] } ] } }", 2, 57, "`state.a` is no path", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, conditions: [ { path: state.a.c, op: lt, value: 1 } ] } ] } }", 2, 57, "is a counter that no rule keeps", "`state`"),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, conditions: [ { path: args.x, op: like, value: 1 } ] } ] } }", 2, 69, "`like` is no operator", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, conditions: [ { path: args.x, op: eq, value: 1, else: 2 } ] } ] } }", 2, 83, "unknown key `else`", "`value`"),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, conditions: [ { path: args.x, op: eq, value: 1 } ], state: { counter: c, window: day } } ] } }", 2, 87, "has no limit, and so Intercept would not count it", "`lte`"),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, conditions: [ { path: state.a.c, op: lt, value: 0 } ], state: { counter: c, window: day } } ] } }", 2, 90, "is no whole number that a call could keep", "action: deny"),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, conditions: [ { path: state.a.c, op: lte, value: 1.5 } ], state: { counter: c, window: day } } ] } }", 2, 93, "is no whole number", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, conditions: [ { path: state.a.c, op: lte, value: 1 } ], state: { counter: c, window: week } } ] } }", 2, 57, "is a counter that no rule keeps", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, conditions: [ { path: state.a.c, op: lte, value: 1 } ], state: { counter: c, window: day, increment: -1 } } ] } }", 2, 136, "`-1` is not from 0", "from 1"),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, conditions: [ { path: state.a.c, op: lte, value: 1 } ], state: { counter: c, window: day, increment_from: amount } } ] } }", 2, 141, "`amount` is no path into the arguments", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, conditions: [ { path: state.a.c, op: lte, value: 1 } ], state: { counter: c, window: day, by: 2 } } ] } }", 2, 125, "unknown key `by`", "`increment`"),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, conditions: [ { path: state.a.c.d, op: lte, value: 1 } ], state: { counter: c.d, window: day } } ] } }", 2, 111, "`c.d` has a dot in it", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, approval_timeout: 5m, rate_limit: 1/day } ] } }", 2, 35, "`approval_timeout` stands in a rule that asks for no approval", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, action: require_approval, approval_timeout: 400h } ] } }", 2, 79, "`400h` is longer than a week", ""),
    ("version: \"1\"\ntools: { a: { rules: [ { name: n, action: require_approval, approval_timeout: 5 parsecs } ] } }", 2, 79, "`5 parsecs` is no time", ""),
    ("version: \"1\"\ntools: { a: { rules: [] }, a: { rules: [] } }", 2, 28, "`a` is written twice", ""),
    ("version: \"1\"\ntools: { \"*\": { rules: [], ends: capture } }", 2, 10, "captures cannot be started or ended by all tools", ""),
    ("version: \"1\"\ntools: { a: { rules: [] , capture: { interfaces: [ lo ] } } }", 2, 27, "`capture` has no cap", ""),
    // The catalogue.
    ("tools: { a: { rules: [ { action: permit } ] } }", 1, 34, "`permit` is no action", "`action: allow`"),
    ("tools: { a: { rules: [ { rate_limit: 1/day } ] } }", 1, 24, "has no `action`", ""),
    ("tools: { a: { rules: [ { action: allow, name: n } ] } }", 1, 41, "unknown key `name`", "`rate_limit`"),
    ("tools: { a: { rules: [ { action: allow, reason: n } ] } }", 1, 41, "`reason` stands in a rule that allows", ""),
    ("tools: { a: { rules: [ { action: deny, rate_limit: 1/day } ] } }", 1, 40, "`rate_limit` cannot stand in a rule that denies", ""),
    ("tools: { a: { rules: [ { action: allow, rate_limit: { max: 1, window: minute } } ] } }", 1, 71, "must be a number of seconds, but is a string", "in seconds"),
    ("tools: { a: { rules: [ { action: allow, rate_limit: { max: 1, window: 0 } } ] } }", 1, 71, "`0` is not from 1", ""),
    ("tools: { a: { rules: [ { action: allow, rate_limit: { max: 1 } } ] } }", 1, 53, "has no `window`", ""),
    ("tools: { a: { rules: [ { action: allow, rate_limit: { max: 1, window: 60, per: user } } ] } }", 1, 75, "unknown key `per`", "`window`"),
    ("tools: { a: { rules: [ { action: allow, rate_limit: { max: 0, window: 60 } } ] } }", 1, 60, "`0` is not from 1", ""),
    ("tools: { a: { rules: [ { action: allow, validate: { required_args: yes please } } ] } }", 1, 68, "must be true or false", ""),
    ("tools: { a: { rules: [ { action: allow, validate: { args: true } } ] } }", 1, 53, "unknown key `args`", "`required_args`"),
    ("hide: a\ntools: { a: { rules: [] } }", 1, 7, "`hide` must be a list of tools", ""),
];

#[test]
fn errors_point_at_what_is_wrong() {
    assert_faults(CASES);
}

#[test]
fn dialects_are_told_by_their_shape() {
    use Dialect::*;
    for (text, dialect) in [
        ("version: 1\ntools: { a: {} }", Capwarden),
        (
            "{\"version\": 1, \"default\": \"deny\", \"tools\": {\"a\": {}}}",
            Capwarden,
        ),
        (
            "version: 1\nhide: [ a ]\nall_tools: { limits: [ { max: 1, window: day } ] }\ntools: { a: {} }",
            Capwarden,
        ),
        (
            "version: 1\ntools: { a: { limits: [ { max: 1, window: day } ] } }",
            Capwarden,
        ),
        (
            "{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {}}}",
            PolicyLayer,
        ),
        (
            "\u{feff}{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\\/b\": {}}}",
            PolicyLayer,
        ),
        (
            "\n\t{\t\"version\":\"1\",\r\n\"default\":\"allow\"}\t\n",
            PolicyLayer,
        ),
        (
            "{\"version\": \"1\", \"default\": \"deny\", \"tools\": {\"a\": {\"limits\": []}}}",
            PolicyLayer,
        ),
        ("version: \"1\"\ntools: { a: { rules: [] } }", Intercept),
        ("version: 1\ntools: { a: { rules: [] } }", Intercept),
        (
            "{\"version\": \"1\", \"tools\": {\"a\": {\"rules\": []}}}",
            Intercept,
        ),
        (
            "version: \"1\"\ndescription: x\nhide: [ a ]\ntools: {}",
            Intercept,
        ),
        ("tools: { a: { rules: [] } }", Catalogue),
        (
            "version: \"1\"\ntools: { a: { rules: [ { action: allow } ] } }",
            Catalogue,
        ),
        (
            "version: \"1\"\ntools: { a: { rules: [ { action: deny, reason: x } ] } }",
            Catalogue,
        ),
    ] {
        match Policy::parse("p", text) {
            Ok(policy) => assert_eq!(policy.dialect(), dialect, "{text}"),
            Err(error) => panic!("{text}: {error:?}"),
        }
    }
    // Nothing but a slip of the quotes must make a policy of ours one that allows what it does
    // not name.
    for text in [
        "version: \"1\"\ntools: { a: {} }",
        "version: \"1\"\ndefault: deny\ntools: { a: allow }",
    ] {
        let error = Policy::parse("p", text).unwrap_err();
        assert!(error.message().contains("the number 1"), "{error}");
    }
}

#[test]
fn json_strings_are_json_s() {
    let text = r#"{"version": "1", "default": "deny", "tools": {"\ud83d\ude00\/\u00e9": {"require": [
        {"conditions": [{"path": "args.a", "op": "eq", "value": "\t\"\\\b\f"}], "on_deny": "n"}]}}}"#;
    let policy = Policy::parse("p", text).unwrap();
    let tool = "😀/é";
    assert!(policy.visible(tool));
    let verdict = ask(&policy, &call(tool, json!({"a": "\t\"\\\u{8}\u{c}"})));
    assert_eq!(verdict, Verdict::Forward);
    let denial = denied(&policy, tool, json!({"a": "t"}));
    assert_eq!(
        denial.rule.to_string(),
        "p:2:9 /tools/😀/é/require/args.a-eq"
    );
}

#[test]
fn deep_and_large_json_is_refused() {
    let head = "{\"version\": \"1\", \"default\": \"deny\", \"all_tools\": ";
    let deep = format!("{head}{}{}}}", "[".repeat(5000), "]".repeat(5000));
    let wide = format!("{head}[{}0]}}", "0,".repeat(150_000));
    for text in [deep, wide] {
        let error = Policy::parse("p", &text).unwrap_err();
        assert!(error.message().contains("beyond what a policy"), "{error}");
    }
}

#[test]
fn the_largest_numbers_are_kept_exactly() {
    for most in [9_007_199_254_740_991_u64, 9_007_199_254_740_992] {
        let text =
            format!("tools: {{ a: {{ rules: [ {{ action: allow, rate_limit: {most}/day }} ] }} }}");
        let policy = Policy::parse("p", &text).unwrap();
        let decision = policy.decide(&call("a", no_arguments()), &());
        assert_eq!(decision.uses[0].max, most);
    }
}

#[test]
fn unanchored_and_in_linear_time() {
    let text = r#"{"version": "1", "default": "deny", "tools": {"a": {"require": [
        {"conditions": [{"path": "args.x", "op": "regex", "value": "(a*)*b"}]}]}}}"#;
    let policy = Policy::parse("p", text).unwrap();
    let long = "a".repeat(100_000);
    // What backtracks would not come back within the life of the machine.
    let _ = denied(&policy, "a", json!({"x": long}));
    assert_eq!(
        ask(&policy, &call("a", json!({"x": format!("{long}b!")}))),
        Verdict::Forward
    );
}
