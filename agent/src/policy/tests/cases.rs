//! Decisions by tables: each file in `cases/` has policies, calls and what is decided, as the
//! dialect's documents have it.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::json;

use super::{
    import::{assert_alike, imported},
    *,
};

/// What a case knows beside the policy and the call.
#[derive(Default)]
struct Known {
    counts: BTreeMap<String, u64>,
    required: Option<Arc<[String]>>,
    schema: Option<Value>,
}

impl Counters for Known {
    fn count(&self, counter: &str, scope: Scope, window: Window) -> u64 {
        let key = format!("{counter} {} {}", scope_name(scope), window_name(window));
        self.counts.get(&key).copied().unwrap_or(0)
    }
}

impl Knowledge for Known {
    fn definition(&self, tool: &str) -> Option<Arc<Definition>> {
        if let Some(schema) = &self.schema {
            let tool = json!({ "name": tool, "inputSchema": schema });
            return Some(Arc::new(Definition::read(
                tool["name"].as_str()?,
                &tool.to_string(),
            )));
        }
        let names = self.required.as_ref()?;
        Some(Arc::new(Definition::requiring(tool, names)))
    }
}

fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Grant => "grant",
        Scope::Principal => "principal",
        Scope::Connection => "connection",
        Scope::Server => "server",
        Scope::Tool => "tool",
        Scope::Global => "global",
    }
}

fn window_name(window: Window) -> String {
    match window {
        Window::Calendar(Unit::Minute) => "minute".to_owned(),
        Window::Calendar(Unit::Hour) => "hour".to_owned(),
        Window::Calendar(Unit::Day) => "day".to_owned(),
        Window::Sliding(time) => format!("sliding-{}", time.as_secs()),
        Window::Bucket(time) => format!("bucket-{}", time.as_secs()),
    }
}

pub(super) fn use_words(one: &LimitUse) -> String {
    let refund = match one.refund {
        Refund::OnFailure => "failure",
        Refund::OnRpcError => "rpc_error",
        Refund::Never => "never",
    };
    format!(
        "{} {} {} {} {} {refund}",
        one.counter,
        scope_name(one.scope),
        window_name(one.window),
        one.max,
        one.amount
    )
}

/// Keys of a case: what is asked, and what is expected. A misspelled one would expect nothing.
const KEYS: &[&str] = &[
    "tool", "args", "counts", "required", "schema", "deny", "says", "text", "allowed", "visible",
    "captures", "ends", "uses", "rules", "texts", "approval", "proofs",
];

/// Runs the cases of a file; returns how many there were.
fn run(text: &str, dialect: Dialect, prefix: &str) -> usize {
    let groups: Value = serde_saphyr::from_str(text).unwrap();
    let mut count = 0;
    let mut wrong = Vec::new();
    for group in groups.as_array().unwrap() {
        let text = match &group["policy"] {
            Value::String(yaml) => yaml.clone(),
            json => serde_json::to_string_pretty(json).unwrap(),
        };
        let policy = Policy::parse("p", &text);
        let policy = policy.unwrap_or_else(|error| panic!("{}: {error:?}", group["about"]));
        assert_eq!(policy.dialect(), dialect, "{}", group["about"]);
        let policy = match words(dialect) {
            Replies::Ours => policy,
            replies => policy.replying(replies),
        };
        let ours = (dialect != Dialect::Capwarden).then(|| imported(&text, words(dialect)));
        for case in group["cases"].as_array().unwrap() {
            count += 1;
            let unlike = judge(&policy, ours.as_ref(), case, prefix);
            if !unlike.is_empty() {
                wrong.push(format!(
                    "{}: {case}\n  {}",
                    group["about"],
                    unlike.join("\n  ")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    count
}

/// The words in which a dialect's own denials are.
fn words(dialect: Dialect) -> Replies {
    match dialect {
        Dialect::Capwarden => Replies::Ours,
        Dialect::PolicyLayer => Replies::PolicyLayer,
        Dialect::Catalogue | Dialect::Intercept => Replies::Intercept,
    }
}

/// What is decided otherwise than expected. `ours` is the same policy in our own language, which
/// is to decide alike.
fn judge(policy: &Policy, ours: Option<&Policy>, case: &Value, prefix: &str) -> Vec<String> {
    let case = case.as_object().unwrap();
    for key in case.keys() {
        assert!(KEYS.contains(&key.as_str()), "{key}");
    }
    let texts = |value: Option<&Value>| -> Vec<Value> {
        let list = value.and_then(Value::as_array).cloned();
        list.unwrap_or_default()
    };
    let known = Known {
        counts: case.get("counts").map_or_else(BTreeMap::new, |counts| {
            serde_json::from_value(counts.clone()).unwrap()
        }),
        schema: case.get("schema").cloned(),
        required: case.get("required").map(|names| {
            serde_json::from_value::<Vec<String>>(names.clone())
                .unwrap()
                .into()
        }),
    };
    let tool = case["tool"].as_str().unwrap();
    let arguments = case.get("args").cloned().unwrap_or_else(no_arguments);
    let call = call(tool, arguments);
    let decision = policy.decide(&call, &known);
    if let Some(ours) = ours {
        assert_alike(policy, ours, &call, &known);
    }
    let mut unlike = Vec::new();
    let mut expect = |what: &str, wanted: Value, found: Value| {
        if wanted != found {
            unlike.push(format!("{what}: {found}, not {wanted}"));
        }
    };
    let (mut verdict, mut captures) = ("allowed", Value::Null);
    match &decision.verdict {
        Verdict::Forward => {}
        Verdict::EndCapture | Verdict::EndProxy | Verdict::EndProgram => verdict = "ends",
        Verdict::Pending(_) => unreachable!("a policy asks for approvals, and nobody for it"),
        Verdict::Capture(capture) => captures = json!(capture.terms.to_string()),
        Verdict::Proxy(_) | Verdict::Program(_) => unreachable!("no case has these"),
        Verdict::Deny(denial) => {
            verdict = "denied";
            let sentence = denial.to_string();
            assert!(denial.reason.ends_with(['.', '!', '?']), "{sentence}");
            assert!(!sentence.chars().any(char::is_control), "{sentence:?}");
            if let Some(rule) = case.get("deny") {
                expect("rule", rule.clone(), json!(denial.rule.path));
            }
            if let Some(says) = case.get("says").and_then(Value::as_str) {
                let found = sentence.contains(says);
                expect(&format!("says {sentence}"), json!(true), json!(found));
            }
            if let Some(Value::String(text)) = case.get("text") {
                let whole = match text.starts_with(prefix) {
                    true => text.clone(),
                    false => format!("{prefix}{text}"),
                };
                expect("text", json!(whole), json!(denial.text));
            }
            if let Some(allowed) = case.get("allowed") {
                expect("allowed", allowed.clone(), json!(denial.allowed));
            }
            let rest = (&decision.uses, &decision.approval, &decision.proofs);
            assert_eq!(rest, (&vec![], &None, &vec![]), "{sentence}");
        }
    }
    let wanted = match (case.get("deny"), case.get("ends")) {
        (Some(_), _) => "denied",
        (_, Some(_)) => "ends",
        _ => "allowed",
    };
    expect("verdict", json!(wanted), json!(verdict));
    let wanted = case.get("captures").cloned().unwrap_or_default();
    expect("captures", wanted, captures);
    let uses: Vec<Value> = decision
        .uses
        .iter()
        .map(|one| json!(use_words(one)))
        .collect();
    expect("uses", texts(case.get("uses")).into(), uses.into());
    if let Some(rules) = case.get("rules") {
        let found: Vec<Value> = decision
            .uses
            .iter()
            .map(|one| json!(one.rule.path))
            .collect();
        expect("rules", rules.clone(), found.into());
    }
    if let Some(texts) = case.get("texts") {
        let found = decision
            .uses
            .iter()
            .map(|one| json!(policy.limit_text(one)));
        expect("texts", texts.clone(), found.collect());
    }
    let approval = decision.approval.as_ref().map(|approval| {
        let why = approval.why.clone().unwrap_or_default();
        format!("{} {why}", approval.timeout.as_secs())
            .trim()
            .to_owned()
    });
    let wanted = case.get("approval").cloned().unwrap_or_default();
    expect("approval", wanted, json!(approval));
    let proofs = decision.proofs.iter();
    let proofs = proofs.map(|one| json!([one.argument, one.expression, one.within]));
    expect("proofs", texts(case.get("proofs")).into(), proofs.collect());
    // What is denied whatever is sent is not shown, and the other way round.
    let visible = case.get("visible") != Some(&json!(false));
    if visible || case.get("deny").is_some() {
        let shown = visible && case.get("deny") != Some(&json!("(default deny)"));
        expect("visible", json!(shown), json!(policy.visible(tool)));
    }
    unlike
}

#[test]
fn our_own_language() {
    let count = run(include_str!("cases/own.yaml"), Dialect::Capwarden, "");
    assert!(count >= 45, "{count}");
}

#[test]
fn policylayer() {
    let text = include_str!("cases/policylayer.yaml");
    let count = run(text, Dialect::PolicyLayer, "") + operators(Dialect::PolicyLayer);
    assert!(count >= 800, "{count}");
}

#[test]
fn intercept() {
    let text = include_str!("cases/intercept.yaml");
    let prefix = "[INTERCEPT POLICY DENIED] ";
    let count = run(text, Dialect::Intercept, prefix) + operators(Dialect::Intercept);
    assert!(count >= 450, "{count}");
}

#[test]
fn catalogue() {
    let text = include_str!("cases/catalogue.yaml");
    let count = run(text, Dialect::Catalogue, "");
    assert!(count >= 200, "{count}");
}

/// Each operator against values of all types; returns how many decisions were looked at.
fn operators(dialect: Dialect) -> usize {
    let rows: Value = serde_saphyr::from_str(include_str!("cases/operators.yaml")).unwrap();
    let mut count = 0;
    for row in rows.as_array().unwrap() {
        let condition = json!({"path": "args.v", "op": row["op"], "value": row["value"]});
        let policy = match dialect {
            Dialect::PolicyLayer => json!({"version": "1", "default": "deny", "tools": {
                "require": {"require": [{"conditions": [condition]}]},
                "deny_if": {"deny_if": [{"conditions": [condition]}]},
            }}),
            _ => json!({"version": "1", "default": "deny", "tools": {
                "require": {"rules": [{"name": "n", "conditions": [condition]}]},
            }}),
        };
        let ours = imported(&policy.to_string(), words(dialect));
        let policy = Policy::parse("p", &policy.to_string()).unwrap();
        assert_eq!(policy.dialect(), dialect);
        let policy = policy.replying(words(dialect));
        let list = |key: &str| row[key].as_array().cloned().unwrap_or_default();
        assert!(!list("yes").is_empty() || !list("no").is_empty(), "{row}");
        let truths = ["yes", "no", "open", "text", "read"]
            .into_iter()
            .flat_map(|truth| {
                list(truth)
                    .into_iter()
                    .map(move |value| (truth, json!({"v": value})))
            });
        let none = row["none"].as_str().unwrap();
        let nothing = [json!({}), json!({"v": null}), json!({"w": 1})];
        for (truth, arguments) in truths.chain(nothing.map(|arguments| (none, arguments))) {
            let negative = row["op"] == "neq" || row["op"] == "not_in";
            let truth = match (truth, dialect) {
                ("text", Dialect::PolicyLayer) => "open",
                ("text", _) if negative => "no",
                ("text", _) => "yes",
                ("read", _) => "open",
                (truth, _) => truth,
            };
            for (tool, allowed) in [("require", truth == "yes"), ("deny_if", truth == "no")] {
                if tool == "deny_if" && dialect != Dialect::PolicyLayer {
                    continue;
                }
                count += 1;
                assert_alike(&policy, &ours, &call(tool, arguments.clone()), &());
                let verdict = ask(&policy, &call(tool, arguments.clone()));
                assert_eq!(
                    verdict == Verdict::Forward,
                    allowed,
                    "{tool} {row}: {arguments}: {verdict:?}"
                );
            }
        }
    }
    count
}
