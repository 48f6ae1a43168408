//! The policy room as its users meet it.

mod beside;
mod cases;
mod decisions;
mod dialects;
mod diff;
mod documented;
mod import;
mod loading;
mod mutations;
mod programs;
mod proxies;
mod shapes;
mod shipped;

use serde_json::{Map, Value};

use super::*;

/// A policy that uses all there is.
const FULL: &str = r#"version: 1
default: deny
tools:
  list: allow
  look: {}
  start:
    args:
      configName: { absent: true }
    capture:
      from: { interface: iface, filter: bpf, packets: count, bytes: size, seconds: time }
      interfaces: [ lo, "veth*" ]
      within: "net 10.0.0.0/8"
      packets: 10000
      bytes: 50MiB
      seconds: 60
      snap: 65535
      payload: headers
  strict:
    capture:
      from: { interface: opts.iface, packets: opts.count, seconds: opts.time }
      interfaces: [ lo ]
      packets: 10
      seconds: 2.5
      over: deny
  stop: { args: { filter: { pattern: '[a-z]*' } }, ends: capture }
  read: { args: { file: { under: /cap }, format: { one_of: [ text, 1 ] }, depth: { at_most: 3 } } }
  save: { deny: "it saves." }
exec:
  interfaces: [ lo, any ]
  within: tcp
  packets: 5
  payload: 64
"#;

fn full() -> Policy {
    Policy::parse("p.yaml", FULL).unwrap()
}

fn call(tool: &str, arguments: Value) -> Call {
    let Value::Object(arguments) = arguments else {
        panic!("arguments are an object");
    };
    Call {
        tool: tool.to_owned(),
        arguments,
    }
}

/// The verdict where nothing is known but the policy and the call.
fn ask(policy: &Policy, call: &Call) -> Verdict {
    policy.decide(call, &()).verdict
}

/// The denial, or a panic that shows what was allowed.
fn denied(policy: &Policy, tool: &str, arguments: Value) -> Denial {
    let call = call(tool, arguments);
    match ask(policy, &call) {
        Verdict::Deny(denial) => denial,
        other => panic!("{call:?}: {other:?}"),
    }
}

/// The capture, or a panic that shows the denial.
fn captured(policy: &Policy, tool: &str, arguments: Value) -> CaptureVerdict {
    let call = call(tool, arguments);
    match ask(policy, &call) {
        Verdict::Capture(verdict) => *verdict,
        other => panic!("{call:?}: {other:?}"),
    }
}

/// What is forwarded, as JSON.
fn forwarded(verdict: &CaptureVerdict, arguments: Value) -> Value {
    let call = call("", arguments);
    Value::Object(verdict.forwarded(&call.arguments))
}

fn no_arguments() -> Value {
    Value::Object(Map::new())
}

/// What is no policy: the text, the line and column of its first fault, parts of the message and
/// of the help.
type Fault = (&'static str, u64, u64, &'static str, &'static str);

/// Each of these is refused for its own fault.
fn assert_faults(faults: &[Fault]) {
    let mut wrong = Vec::new();
    for (text, line, column, message, help) in faults {
        match Policy::parse("p", text) {
            Ok(_) => wrong.push(format!("accepted: {text}")),
            Err(error) => {
                let right = error.message().contains(message)
                    && error.help_text().unwrap_or_default().contains(help)
                    && (error.line(), error.column()) == (Some(*line), Some(*column));
                if !right {
                    wrong.push(format!(
                        "{error:?}, not {line}:{column} {message} ({help}):\n{text}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
