//! Programs: what a rule grants, and what is wrong in one.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::policy::{Baseline, ProgramNeeds, ProgramVerdict};

const POLICY: &str = "version: 1
tools:
  start:
    program: &browser
      connect: [ \"10.0.0.0/8:80,443\", \"udp:127.0.0.53:53\", \"api.example:443\" ]
      processes: 20
      memory: 512MiB
      packets: 1000
      bytes: 1MiB
      connections: 1
      seconds: 60
  navigate: { program: *browser, args: { url: { pattern: 'https?://.*' } } }
  alone: { program: { seconds: 5, processes: 1 } }
  stop: { ends: program }
";

fn policy() -> Policy {
    Policy::parse("p.yaml", POLICY).unwrap_or_else(|error| panic!("{error:?}"))
}

fn granted(tool: &str, arguments: Value) -> ProgramVerdict {
    match ask(&policy(), &call(tool, arguments)) {
        Verdict::Program(verdict) => *verdict,
        other => panic!("{tool}: {other:?}"),
    }
}

#[test]
fn programs_get_what_the_rule_says_whichever_tool_starts_them() {
    let terms = granted("start", json!({ "anything": 1 })).terms;
    assert_eq!(
        terms.to_string(),
        "programs connecting to 10.0.0.0/8:80,443, udp:127.0.0.53:53 and api.example:443, \
         20 processes, 512 MiB of memory, 1000 packets, 1 MiB each way, 1 connection, 1 min"
    );
    assert_eq!(terms.duration, Duration::from_secs(60));
    // An alias is the same terms, so that the calls share a session.
    let navigate = granted("navigate", json!({ "url": "http://a/" }));
    assert_eq!(navigate.terms, terms);
    let alone = granted("alone", json!({})).terms;
    assert_eq!(
        alone.to_string(),
        "programs connecting to nothing, 1 process, 5 s"
    );
    let denied = ask(&policy(), &call("navigate", json!({ "url": "file:///a" })));
    assert!(matches!(denied, Verdict::Deny(_)), "{denied:?}");
    let ends = ask(&policy(), &call("stop", json!({})));
    assert_eq!(ends, Verdict::EndProgram);
}

#[test]
fn policy_with_programs_bounds_the_servers_network_and_says_what_it_needs() {
    let policy = policy();
    assert_eq!(policy.baseline(), Some(Baseline::default()));
    assert_eq!(policy.programs(), Some(ProgramNeeds { memory: true }));
    let without = "version: 1\ntools: { t: { program: { seconds: 1 } }, u: allow }\n";
    let without = Policy::parse("p", without).unwrap();
    assert_eq!(without.programs(), Some(ProgramNeeds { memory: false }));
    let none = Policy::parse("p", "version: 1\ntools: { t: allow }\n").unwrap();
    assert_eq!((none.programs(), none.baseline()), (None, None));
}

#[test]
fn what_is_wrong_in_a_rule_for_programs_is_told_with_its_place() {
    for (rule, what) in [
        ("{ processes: 3 }", "has no `seconds`"),
        ("{ seconds: 0 }", "is not a time that a session may take"),
        ("{ seconds: 1, processes: 0 }", "`processes: 30`"),
        ("{ seconds: 1, memory: 1000 }", "is not from 1048576"),
        (
            "{ seconds: 1, listen: [ \"*:1\" ] }",
            "unknown key `listen`",
        ),
        ("{ seconds: 1, over: deny }", "unknown key `over`"),
        ("{ seconds: 1, connect: [] }", "connect"),
        ("3", "a map of what programs may do"),
    ] {
        let text = format!("version: 1\ntools:\n  t: {{ program: {rule} }}\n");
        let error = Policy::parse("p.yaml", &text).unwrap_err();
        let told = format!("{error:?}");
        assert!(told.contains(what), "{rule}: {told}");
        assert!(told.contains("p.yaml:3:"), "{rule}: {told}");
    }
    let both = "version: 1\ntools:\n  t: { program: { seconds: 1 }, ends: program }\n";
    let error = format!("{:?}", Policy::parse("p", both).unwrap_err());
    assert!(error.contains("cannot stand beside"), "{error}");
}
