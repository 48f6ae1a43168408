use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::{
    gate::{DecidedBy, Noted},
    policy::{Policy, RuleRef},
    principal::{Caller, Principal},
    telemetry,
};

fn event(verdict: CallVerdict) -> CallEvent {
    let mut arguments = Map::new();
    arguments.insert("key".into(), json!("hunter2"));
    CallEvent {
        caller: Caller {
            principal: Principal::User(1000),
            grant: None,
            connection: 3,
            server: Arc::from("pcap"),
        },
        id: Some("7".into()),
        tool: "start_capture".into(),
        arguments,
        noted: Noted::default(),
        verdict,
        rule: Some(RuleRef {
            file: "p.yaml".into(),
            line: 3,
            column: 5,
            path: "tools.start_capture".into(),
        }),
    }
}

fn denied() -> CallVerdict {
    CallVerdict::Denied {
        reason: "Port 22 is not allowed.".into(),
        instead: None,
    }
}

#[test]
fn call_is_recorded_with_its_caller_its_rule_and_the_names_of_its_arguments() {
    let call = event(denied());
    let written = call_record(&call).unwrap();
    let mut value = serde_json::to_value(Record::Call(Box::new(written))).unwrap();
    let digest = value.as_object_mut().unwrap().remove("digest").unwrap();
    assert_eq!(
        value,
        json!({
            "kind": "call",
            "principal": "uid:1000",
            "connection": 3,
            "server": "pcap",
            "request": "7",
            "tool": "start_capture",
            "arguments": ["key"],
            "verdict": "deny",
            "reason": "Port 22 is not allowed.",
            "rule": "p.yaml:3:5 tools.start_capture",
        })
    );
    let salted = format!("{}", digest["salt"]);
    assert_eq!(salted.len(), 32 + 2);
    assert!(!value.to_string().contains("hunter2"));
}

#[test]
fn values_are_recorded_only_where_that_is_wanted() {
    let text = "version: 1\ntools: { start_capture: { record: { values: [port, opts.bpf] } } }";
    let policy = Arc::new(Policy::parse("p.yaml", text).unwrap());
    let mut call = event(CallVerdict::Forwarded);
    call.arguments.insert("port".into(), json!(80));
    call.arguments
        .insert("opts".into(), json!({ "bpf": "tcp", "key": "hunter3" }));
    let told = |call: &CallEvent| serde_json::to_value(call_record(call).unwrap()).unwrap();
    assert_eq!(told(&call).get("values"), None);
    let own = false;
    call.noted.decided_by = Some(DecidedBy { policy, own });
    let value = told(&call);
    assert_eq!(value["values"], json!({ "port": 80, "opts.bpf": "tcp" }));
    assert!(!value.to_string().contains("hunter") && value.get("policy").is_none());
    if let Some(by) = &mut call.noted.decided_by {
        by.own = true;
    }
    let value = told(&call);
    assert_eq!(value["policy"]["file"], "p.yaml");
    assert_eq!(value["policy"]["sha256"].as_str().unwrap().len(), 64);
}

#[test]
fn verdicts_have_the_same_words_in_the_record_and_in_the_metrics() {
    for verdict in CallVerdict::one_of_each() {
        let word = telemetry::verdict_word(&verdict);
        let record = call_record(&event(verdict)).unwrap();
        assert_eq!(serde_json::to_value(record.verdict).unwrap(), json!(word));
    }
}

fn observer(queue: usize) -> (GateObserver, mpsc::Receiver<Entry>) {
    let (entries, inbox) = mpsc::channel(queue);
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path().join("audit.jsonl")).unwrap();
    let observer = GateObserver {
        server: Arc::from("pcap"),
        entries,
        breaks: watch::Sender::new(false),
        waiting: Arc::default(),
        alarm: Alarm::default(),
        metrics: None,
        spans: CallSpans::default(),
        desk: Desk::unattended(&log),
    };
    (observer, inbox)
}

#[test]
fn long_calls_do_not_wait_for_the_disk_as_they_are() {
    let (observer, mut inbox) = observer(4);
    let mut long = event(denied());
    long.arguments.insert("x".into(), json!("x".repeat(CALL)));
    observer.observe(GateEvent::Call(Box::new(long.clone())));
    observer.observe(GateEvent::Call(Box::new(event(denied()))));
    let Entry::LongCall(record, bytes) = inbox.try_recv().unwrap() else {
        panic!("it is too long to wait");
    };
    assert!(
        record
            .digest
            .matches(&long.arguments, std::iter::empty::<&str>())
    );
    assert_eq!(bytes, CALL);
    let Entry::Call(_, bytes) = inbox.try_recv().unwrap() else {
        panic!("it is short");
    };
    assert!(bytes < 200);
    assert_eq!(observer.waiting.load(Ordering::Relaxed), CALL + bytes);
    assert!(!*observer.breaks.borrow());
}

#[test]
fn what_waits_for_the_disk_is_bounded_in_number_and_bytes() {
    let (few, _inbox) = observer(2);
    for expected in [false, false, true] {
        few.observe(GateEvent::Call(Box::new(event(denied()))));
        assert_eq!(*few.breaks.borrow(), expected);
    }

    let (heavy, _inbox) = observer(QUEUE);
    let mut call = event(denied());
    call.arguments
        .insert("x".into(), json!("x".repeat(CALL - 1_000)));
    let mut told = 0;
    while !*heavy.breaks.borrow() {
        heavy.observe(GateEvent::Call(Box::new(call.clone())));
        told += 1;
    }
    assert!((1_000..1_100).contains(&told), "{told}");
}
