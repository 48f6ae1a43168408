use serde_json::{Number, json};

use super::*;

/// xorshift64*: the same run every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % n
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

const SMALL: &str = "version: 1
tools:
  start:
    args: { x: { one_of: [a, 1] } }
    capture:
      from: { packets: count }
      interfaces: [ lo, \"veth*\" ]
      bytes: 1MiB
  stop: { ends: capture }
";

const PIECES: &[&str] = &[
    ": ",
    "\n",
    "  ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "|",
    ">",
    "&a ",
    "*a",
    "!x ",
    "#",
    "\t",
    "\u{0}",
    "ü",
    "\u{feff}",
    "0",
    "-1",
    "1e999",
    ".nan",
    "99999999999999999999999",
    "~",
    "null",
    "true",
    "any",
    "*",
    "?",
    "[",
    "packets: 1",
    "args:",
    "capture:",
    "version: 1",
    "---\n",
    "...\n",
    "<<: ",
    "nflog",
    "50MiB",
    "1.5",
    "\r",
    "\u{2028}",
    "%YAML 1.2",
    "? ",
    ", ",
];

#[test]
fn mutated_policies_do_not_panic() {
    let mut random = Random(0x5eed);
    let mut accepted = 0;
    for _ in 0..10_000 {
        // The large one takes a while to read in a debug build.
        let base = if random.below(16) == 0 { FULL } else { SMALL };
        let mut text: Vec<char> = base.chars().collect();
        for _ in 0..=random.below(3) {
            let at = random.below(text.len());
            let end = (at + random.below(12)).min(text.len());
            match random.below(4) {
                0 => drop(text.drain(at..end)),
                1 => drop(text.splice(at..at, random.pick(PIECES).chars())),
                2 => drop(text.splice(at..end, random.pick(PIECES).chars())),
                _ => {
                    let copy: Vec<char> = text[at..end].to_vec();
                    let to = random.below(text.len());
                    drop(text.splice(to..to, copy));
                }
            }
        }
        let text: String = text.into_iter().collect();
        match Policy::parse("p.yaml", &text) {
            Ok(policy) => {
                accepted += 1;
                let _ = ask(&policy, &call("start", json!({"iface": "lo", "count": 1})));
                let _ = policy.exec_verdict(&Request::default());
            }
            Err(error) => {
                // The place must be in the text, or a report would fail to show it.
                let excerpt = error.excerpt().unwrap();
                assert!(
                    excerpt.line.get(excerpt.wrong.clone()).is_some()
                        && text.contains(excerpt.line),
                    "{excerpt:?} {error}\n{text}"
                );
            }
        }
    }
    // Neither all nor none, or the mutations would be too mild or too wild to say anything.
    assert!((200..9_800).contains(&accepted), "{accepted}");
}

fn value(random: &mut Random, depth: usize) -> Value {
    const TEXTS: &[&str] = &[
        "",
        "lo",
        "LO",
        "veth1",
        "any",
        "nflog",
        "-",
        "/x",
        "4",
        "tcp",
        "a\0b",
        "\n",
        "ü",
        "lo,lo",
        "TCP@h",
        "text",
        "/cap/x",
        "/cap/../x",
    ];
    match random.below(if depth == 0 { 6 } else { 8 }) {
        0 => Value::Null,
        1 => json!(random.below(2) == 0),
        2 => json!(random.next() >> random.below(64)),
        3 => json!(-i64::try_from(random.next() >> 1).unwrap()),
        4 => Number::from_f64(f64::from_bits(random.next())).map_or(Value::Null, Value::Number),
        5 => json!(*random.pick(TEXTS)),
        6 => (0..random.below(4))
            .map(|_| value(random, depth - 1))
            .collect(),
        _ => Value::Object(object(random, depth - 1)),
    }
}

fn object(random: &mut Random, depth: usize) -> Map<String, Value> {
    const KEYS: &[&str] = &[
        "iface",
        "bpf",
        "count",
        "size",
        "time",
        "configName",
        "opts",
        "filter",
        "file",
        "format",
        "depth",
        "",
    ];
    (0..random.below(6))
        .map(|_| ((*random.pick(KEYS)).to_owned(), value(random, depth)))
        .collect()
}

#[test]
fn mutated_calls_do_not_panic_and_never_exceed_the_caps() {
    let policy = full();
    let mut random = Random(0xca11);
    let mut captures = 0;
    for _ in 0..10_000 {
        let tool = *random.pick(&["start", "strict", "stop", "read", "list", "save", "x"]);
        let mut arguments = object(&mut random, 2);
        if random.below(2) == 0 {
            arguments.insert("iface".to_owned(), json!("lo"));
        }
        let call = Call {
            tool: tool.to_owned(),
            arguments,
        };
        let verdict = ask(&policy, &call);
        assert_eq!(ask(&policy, &call), verdict);
        match verdict {
            Verdict::Capture(verdict) => {
                captures += 1;
                let most = if tool == "start" { 10_000 } else { 10 };
                let packets = verdict.terms.packets.unwrap();
                assert!((1..=most).contains(&packets), "{call:?}");
                assert!(!verdict.terms.duration.unwrap().is_zero(), "{call:?}");
                assert_ne!(verdict.terms.interfaces, InterfaceTerms::Any, "{call:?}");
                // What is forwarded passes by itself, unchanged.
                let again = Call {
                    tool: call.tool.clone(),
                    arguments: verdict.forwarded(&call.arguments),
                };
                match ask(&policy, &again) {
                    Verdict::Capture(second) => {
                        assert_eq!(second.changes, vec![], "{again:?}");
                        assert_eq!(second.terms, verdict.terms, "{again:?}");
                    }
                    other => panic!("{again:?}: {other:?}"),
                }
            }
            Verdict::Deny(denial) => {
                let sentence = denial.to_string();
                assert!(!sentence.chars().any(char::is_control), "{sentence:?}");
                assert!(denial.reason.ends_with('.'), "{sentence}");
            }
            Verdict::Forward | Verdict::EndCapture => {}
            Verdict::Pending(_)
            | Verdict::Proxy(_)
            | Verdict::EndProxy
            | Verdict::Program(_)
            | Verdict::EndProgram => unreachable!("{call:?}"),
        }
    }
    assert!(captures > 300, "{captures}");
}

const LAYERED: &str = r#"{"version": "1", "default": "deny", "hide": ["x"], "tools": {
  "start": {"require": [{"conditions": [{"path": "args.iface", "op": "in", "value": ["lo", 1]}]}],
    "deny_if": [{"conditions": [{"path": "args.count", "op": "gt", "value": 5}], "on_deny": "no"}],
    "limits": [{"counter": "c", "window": "minute", "max": 3, "scope": "grant"}]}}}"#;

const RULES: &str = "version: \"1\"
tools:
  start:
    rules:
      - name: a
        conditions: [ { path: args.iface, op: regex, value: l }, { path: state.start.c, op: lte, value: 3 } ]
        state: { counter: c, window: day, increment_from: args.count }
      - { name: b, action: require_approval, approval_timeout: 5m }
  \"*\": { rules: [ { name: r, rate_limit: 5/hour } ] }
";

const CATALOGUE: &str = "tools:
  start: { rules: [ { action: allow, rate_limit: { max: 1, window: 60 }, validate: { required_args: true } } ] }
  x: { rules: [ { action: deny, reason: no } ] }
";

#[test]
fn mutated_dialects_do_not_panic() {
    let mut random = Random(0xd1a1);
    let mut accepted = 0;
    for n in 0..3_000 {
        let base = [LAYERED, RULES, CATALOGUE][n % 3];
        let mut text: Vec<char> = base.chars().collect();
        for _ in 0..=random.below(2) {
            let at = random.below(text.len());
            let end = (at + random.below(12)).min(text.len());
            match random.below(3) {
                0 => drop(text.drain(at..end)),
                1 => drop(text.splice(at..at, random.pick(PIECES).chars())),
                _ => drop(text.splice(at..end, random.pick(PIECES).chars())),
            }
        }
        let text: String = text.into_iter().collect();
        match Policy::parse("p", &text) {
            Ok(policy) => {
                accepted += 1;
                for _ in 0..4 {
                    let call = Call {
                        tool: (*random.pick(&["start", "x", "y"])).to_owned(),
                        arguments: object(&mut random, 2),
                    };
                    let decision = policy.decide(&call, &());
                    for one in &decision.uses {
                        assert!(
                            one.amount <= 1 << 53 && one.max <= 1 << 53,
                            "{one:?}\n{text}"
                        );
                        let _ = policy.limit_text(one);
                    }
                    if let Verdict::Deny(denial) = decision.verdict {
                        let sentence = denial.to_string();
                        assert!(!sentence.chars().any(char::is_control), "{sentence:?}");
                        assert!(decision.uses.is_empty() && decision.proofs.is_empty());
                    }
                }
            }
            Err(error) => {
                for error in std::iter::once(&error).chain(error.others()) {
                    let excerpt = error.excerpt().unwrap();
                    assert!(
                        excerpt.line.get(excerpt.wrong.clone()).is_some(),
                        "{excerpt:?} {error}\n{text}"
                    );
                }
            }
        }
    }
    assert!((50..2_950).contains(&accepted), "{accepted}");
}
