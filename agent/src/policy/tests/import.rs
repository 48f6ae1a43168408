//! Policies of others in our own language decide as they did.

use serde_json::json;

use super::{cases::use_words, *};
use crate::policy::import;

/// What is told of a denial; which rule denies stands elsewhere in another file.
fn told(denial: &Denial) -> Value {
    // A regular expression is told as it is written, and that may be otherwise here.
    let patterns = denial
        .instead
        .as_ref()
        .is_some_and(|it| it.contains(" match"));
    let words = (!patterns).then(|| json!([denial.reason, denial.instead, denial.allowed]));
    json!({ "words": words, "text": denial.text })
}

/// All of a decision but the places of the rules.
fn decided(policy: &Policy, decision: &Decision) -> Value {
    let verdict = match &decision.verdict {
        Verdict::Deny(denial) => told(denial),
        Verdict::Capture(capture) => json!([capture.terms.to_string(), capture.changes.len()]),
        other => json!(format!("{other:?}")),
    };
    let uses = decision.uses.iter();
    let uses = uses.map(|one| json!([use_words(one), one.on_deny, policy.limit_text(one)]));
    let approval = decision.approval.as_ref();
    let approval = approval.map(|one| json!([one.timeout.as_secs(), one.why]));
    json!({
        "verdict": verdict,
        "uses": uses.collect::<Vec<_>>(),
        "approval": approval,
        "proofs": decision.proofs.len(),
    })
}

/// A policy as it is imported, which is the same in our language.
pub(super) fn imported(text: &str, replies: Replies) -> Policy {
    let made = import::text("p", text).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    let again = Policy::parse("p.yaml", &made.yaml)
        .unwrap_or_else(|error| panic!("{error:?}\n{}", made.yaml));
    assert_eq!(again.dialect(), Dialect::Capwarden, "{}", made.yaml);
    assert_eq!(made.from.changes(&again), [], "{}", made.yaml);
    assert_eq!(again.changes(&made.from), [], "{}", made.yaml);
    again.replying(replies)
}

/// Holds one decision against another.
pub(super) fn assert_alike(one: &Policy, other: &Policy, call: &Call, known: &dyn Knowledge) {
    let decisions = [one, other].map(|policy| decided(policy, &policy.decide(call, known)));
    assert_eq!(decisions[0], decisions[1], "{call:?}");
    assert_eq!(
        one.visible(&call.tool),
        other.visible(&call.tool),
        "{call:?}"
    );
}

fn yaml(text: &str) -> String {
    import::text("p", text).unwrap().yaml
}

#[test]
fn the_shipped_policies_of_others_are_imported() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    for (name, word) in [
        ("policylayer-sharkmcp.json", "refund: failure"),
        ("policylayer-kali.json", "counter: proxy_start_rate"),
        ("intercept-looking-glass.yaml", "required_by_schema: true"),
    ] {
        let text = std::fs::read_to_string(directory.join(name)).unwrap();
        let yaml = yaml(&text);
        assert!(yaml.contains(word), "{yaml}");
        imported(&text, Replies::Ours);
    }
}

#[test]
fn a_policy_is_written_with_what_was_left_open() {
    let text = r#"version: "1"
hide: [ secret, "*x" ]
tools:
  pay:
    capture: { from: { interface: i }, interfaces: [ lo ], within: "tcp port 80", packets: 5, payload: headers }
    rules:
      - name: "small \"sums\""
        conditions: [ { path: args.amount, op: lt, value: 1.5 }, { path: args.to, op: regex, value: '^\d+$' } ]
        on_deny: "Too\nmuch: yes"
      - { name: often, state: { counter: n, window: day, increment_from: args.n }, conditions: [ { path: state.pay.n, op: lt, value: 5 } ] }
  second: { rules: [ { name: "yes", action: deny } ] }
  stop: { ends: capture }
  "*": { rules: [ { name: r, rate_limit: 5/hour } ] }
"#;
    let expected = [
        "# Imported from p, in Intercept's YAML",
        "# * Tools that are not named are allowed, as Intercept does where a policy has no `default`.",
        "default: { allow: \"Intercept allows what its policies do not name\" }",
        "# replies: intercept    # to deny in its words, not in capwarden's",
        "hide: [ \"*x\", secret ]",
        "all_tools:",
        "    - { max: 5, window: hour, scope: server, counter: _global._rate_hour, refund: rpc_error }",
        "  pay:",
        "      # Written for RE2 as \"^\\\\d+$\".",
        "      - require: [ { argument: amount, less_than: 1.5 }, { argument: to, matches: \"^[0-9]+$\" } ]",
        "        name: \"small \\\"sums\\\"\"",
        "        on_deny: \"Too\\nmuch: yes\"",
        "      # 10:9 tools.pay.rules[1]",
        "      - { max: 4, window: day, scope: server, counter: pay.n, amount_from: \"n\", refund: rpc_error, name: often }",
        "    capture: { from: { interface: i }, interfaces: [ lo ], within: \"tcp port 80\", packets: 5, payload: headers }",
        "      - deny_if: []",
        "        name: \"yes\"",
        "    ends: capture",
    ];
    let made = yaml(text);
    let mut lines = made.lines();
    for line in expected {
        assert!(
            lines.any(|one| one == line),
            "{line}\nin this order in\n{made}"
        );
    }
    imported(text, Replies::Intercept);
}

#[test]
fn a_part_of_a_policy_denies_all_other_tools() {
    let text = r#"{"a": {"limits": [{"counter": "c", "window": "minute", "max": 2, "scope": "grant"}]}, "b": {}}"#;
    assert!(Policy::parse("p", text).is_err());
    let made = import::text("p", text).unwrap();
    assert!(
        made.fragment && made.yaml.contains("part of a policy"),
        "{}",
        made.yaml
    );
    let policy = imported(text, Replies::Ours);
    let verdicts = ["a", "b", "c"].map(|tool| ask(&policy, &call(tool, no_arguments())));
    assert_eq!(verdicts[0], Verdict::Forward);
    assert_eq!(verdicts[1], Verdict::Forward);
    assert!(matches!(verdicts[2], Verdict::Deny(_)));
}

#[test]
fn any_words_survive() {
    let words = "- [x] {y}: \"#\\ 'é\u{1f600}\u{feff}\u{2028}~ &a !c %d @e `f";
    let text = json!({"version": "1", "default": "deny", "tools": {
        "no": {"deny_if": [{"conditions": [{"path": "args.true", "op": "eq", "value": [words, 1, 1e30, {words: false}]}], "on_deny": words}]},
        words: {"require": [{"conditions": [{"path": "args.x y", "op": "in", "value": ["1", 1, "null", "0x1", "1_000"]}]}]},
    }})
    .to_string();
    let (theirs, ours) = (
        Policy::parse("p", &text).unwrap(),
        imported(&text, Replies::PolicyLayer),
    );
    for arguments in [
        json!({"true": [words, 1, 1e30, {words: false}]}),
        json!({"true": []}),
        json!({"x y": "null"}),
        json!({"x y": "1_000"}),
        json!({"x y": 1_000}),
    ] {
        for tool in ["no", words] {
            let theirs = theirs.clone().replying(Replies::PolicyLayer);
            assert_alike(&theirs, &ours, &call(tool, arguments.clone()), &());
        }
    }
}

#[test]
fn what_cannot_be_said_is_refused_with_its_place() {
    let long = "c".repeat(120);
    let counter = format!(
        "version: \"1\"\ntools:\n  create_charge:\n    rules:\n      - {{ name: n, state: {{ counter: {long}, window: day }}, conditions: [ {{ path: state.create_charge.{long}, op: lte, value: 5 }} ] }}\n"
    );
    for (text, line, message) in [
        (
            "version: 1\ntools: { a: allow }\n",
            1,
            "capwarden's own language",
        ),
        (
            "version: \"1\"\ntools:\n  a: { rules: [] }\n  b?: { rules: [] }\n",
            4,
            "\"b?\" cannot be named",
        ),
        (counter.as_str(), 5, "cannot be named"),
        (
            "version: \"1\"\ntools:\n  a: { rules: [ { nam: x } ] }\n",
            3,
            "unknown key `nam`",
        ),
    ] {
        let error = import::text("p", text).unwrap_err();
        assert!(error.message().contains(message), "{error}");
        assert_eq!(error.line(), Some(line), "{error}");
    }
}
