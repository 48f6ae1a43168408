//! What events come to in the exposition.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use serde_json::{Map, json};

use super::{metrics::reason_word, named, *};
use crate::{
    approval::{self, By, What},
    gate::{CallEnd, CallEvent, GateEvent, Noted, Side},
    policy::RuleRef,
    principal::{Caller, Operator, Principal},
    session::{EndReason, SessionEnd, SessionEvent, SessionId},
};

fn call(tool: &str, verdict: CallVerdict, rule: Option<&str>) -> CallEvent {
    CallEvent {
        caller: Caller {
            principal: Principal::User(0),
            grant: None,
            connection: 1,
            server: Arc::from("s"),
        },
        id: Some("1".into()),
        tool: tool.into(),
        arguments: Map::new(),
        noted: Noted::default(),
        verdict,
        rule: rule.map(|path| RuleRef {
            file: "p.yaml".into(),
            line: 1,
            column: 1,
            path: path.into(),
        }),
    }
}

fn denied() -> CallVerdict {
    CallVerdict::Denied {
        reason: "No.".into(),
        instead: None,
    }
}

fn tell(metrics: &Metrics, tool: &str, verdict: CallVerdict, rule: Option<&str>) {
    metrics.gate(&GateEvent::Call(Box::new(call(tool, verdict, rule))));
}

/// The value of a series, as the exposition has it.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let text = metrics.exposition().unwrap();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|number| number.parse().unwrap())
}

#[test]
fn calls_count_by_tool_and_verdict_and_denials_by_cause() {
    let metrics = Metrics::new();
    metrics.name_tools(["start \"x\"\n", "list"]);
    let session = SessionId(1);
    tell(&metrics, "list", CallVerdict::Forwarded, None);
    tell(&metrics, "list", CallVerdict::Forwarded, None);
    tell(&metrics, "list", CallVerdict::EndsCapture, None);
    let captures = CallVerdict::Captures {
        session,
        granted: String::new(),
        changes: Vec::new(),
    };
    tell(&metrics, "start \"x\"\n", captures, Some("tools.start"));
    tell(&metrics, "list", denied(), Some("tools.list.a"));
    tell(&metrics, "list", denied(), Some("tools.list.a"));
    tell(&metrics, "nobody knows me", CallVerdict::Hidden, None);
    let why = String::new();
    tell(&metrics, "", CallVerdict::Refused { why }, None);
    tell(
        &metrics,
        "list",
        CallVerdict::Withdrawn { session },
        Some("r"),
    );

    for (series, expected) in [
        ("calls_total{tool=\"list\",verdict=\"allow\"}", 2.0),
        ("calls_total{tool=\"list\",verdict=\"ends\"}", 1.0),
        ("calls_total{tool=\"list\",verdict=\"deny\"}", 3.0),
        ("calls_total{tool=\"list\",verdict=\"capture\"}", 0.0),
        (
            "calls_total{tool=\"start \\\"x\\\"\\n\",verdict=\"capture\"}",
            1.0,
        ),
        ("calls_total{tool=\"(other)\",verdict=\"deny\"}", 2.0),
        ("denials_total{cause=\"policy\",rule=\"tools.list.a\"}", 2.0),
        ("denials_total{cause=\"hidden\",rule=\"\"}", 1.0),
        ("denials_total{cause=\"refused\",rule=\"\"}", 1.0),
        ("denials_total{cause=\"withdrawn\",rule=\"\"}", 1.0),
        ("denials_total{cause=\"not-opened\",rule=\"\"}", 0.0),
    ] {
        assert_eq!(
            value(&metrics, &format!("capwarden_{series}")),
            Some(expected),
            "{series}"
        );
    }
    let text = metrics.exposition().unwrap();
    assert!(!text.contains("nobody"), "a client must not choose labels");
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn calls_are_labelled_with_the_word_of_the_record() {
    for verdict in CallVerdict::one_of_each() {
        let metrics = Metrics::new();
        let word = verdict_word(&verdict);
        tell(&metrics, "t", verdict, None);
        let series = format!("capwarden_calls_total{{tool=\"(other)\",verdict=\"{word}\"}}");
        assert_eq!(value(&metrics, &series), Some(1.0), "{series}");
    }
}

#[test]
fn labels_are_bounded_however_long_the_policy_is() {
    let metrics = Metrics::new();
    let tools: Vec<String> = (0..2_000).map(|n| format!("t{n}")).collect();
    metrics.name_tools(&tools);
    for tool in &tools {
        tell(&metrics, tool, denied(), Some(tool));
    }
    let text = metrics.exposition().unwrap();
    let of = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(of("capwarden_calls_total"), (named::MOST + 1) * 7);
    assert_eq!(of("capwarden_denials_total"), named::MOST + 5);
    let rest = Some(f64::from(2_000 - u16::try_from(named::MOST).unwrap()));
    let other = "capwarden_calls_total{tool=\"(other)\",verdict=\"deny\"}";
    assert_eq!(value(&metrics, other), rest);
    let other = "capwarden_denials_total{cause=\"policy\",rule=\"(other)\"}";
    assert_eq!(value(&metrics, other), rest);
}

#[test]
fn sessions_count_what_the_guard_delivered() {
    let metrics = Metrics::new();
    let end = |reason, packets, bytes| {
        metrics.session(&SessionEvent::Ended(SessionEnd {
            session: SessionId(1),
            reason,
            packets,
            bytes,
            sockets: 1,
            milliseconds: 1,
            proxy: None,
            program: None,
        }));
    };
    end(EndReason::PacketCap, 1 << 40, 7);
    end(EndReason::PacketCap, 3, 4);
    end(EndReason::Unused, 0, 0);
    for (series, expected) in [
        ("sessions_ended_total{reason=\"packet-cap\"}", 2.0),
        ("sessions_ended_total{reason=\"unused\"}", 1.0),
        ("sessions_ended_total{reason=\"violation\"}", 0.0),
        ("delivered_packets_total", 1_099_511_627_779.0),
        ("delivered_bytes_total", 11.0),
        ("sessions_live", -3.0), // none was opened here
    ] {
        assert_eq!(
            value(&metrics, &format!("capwarden_{series}")),
            Some(expected),
            "{series}"
        );
    }
    for reason in [EndReason::PacketCap, EndReason::ByteCap, EndReason::Revoked] {
        assert_eq!(
            serde_json::to_value(reason).unwrap(),
            json!(reason_word(reason))
        );
    }
}

#[test]
fn what_others_count_is_read_when_it_is_asked_for() {
    let metrics = Metrics::new();
    assert_eq!(
        value(&metrics, "capwarden_sockets_refused_total"),
        Some(0.0)
    );
    let refusals = Arc::new(AtomicU64::new(12_345));
    metrics.refusals_are(Arc::clone(&refusals), Arc::default());
    metrics.queue_is(|| 17);
    assert_eq!(
        value(&metrics, "capwarden_sockets_refused_total"),
        Some(12_345.0)
    );
    assert_eq!(value(&metrics, "capwarden_audit_queue_records"), Some(17.0));
}

#[test]
fn ends_of_calls_and_dropped_lines_count() {
    let metrics = Metrics::new();
    for end in [CallEnd::Answered, CallEnd::Answered, CallEnd::Lost] {
        metrics.ended(end);
    }
    metrics.gate(&GateEvent::Dropped {
        from: Side::Server,
        bytes: 1,
        why: String::new(),
        lines: 9_950,
    });
    for (series, expected) in [
        ("call_ends_total{end=\"answered\"}", 2.0),
        ("call_ends_total{end=\"lost\"}", 1.0),
        ("call_ends_total{end=\"tool-failed\"}", 0.0),
        ("dropped_lines_total{from=\"server\"}", 9_950.0),
        ("dropped_lines_total{from=\"client\"}", 0.0),
    ] {
        assert_eq!(
            value(&metrics, &format!("capwarden_{series}")),
            Some(expected),
            "{series}"
        );
    }
}

#[test]
fn limits_and_approvals_count() {
    let metrics = Metrics::new();
    metrics.limit_reached();
    tell(&metrics, "t", CallVerdict::Pending { id: "K".into() }, None);
    let operator = By::Operator(Operator {
        uid: 0,
        sudo_uid: None,
    });
    for what in [
        What::Requested,
        What::Requested,
        What::Approved(operator, 1),
        What::Used(operator, 1),
        What::Approved(By::Client, 1),
    ] {
        metrics.approval(&approval::Event {
            id: "K".into(),
            what,
            principal: String::new(),
            server: String::new(),
            tool: String::new(),
            rule: String::new(),
        });
    }
    for (series, expected) in [
        ("limits_reached_total", 1.0),
        ("calls_total{tool=\"(other)\",verdict=\"pending\"}", 1.0),
        ("calls_total{tool=\"(other)\",verdict=\"deny\"}", 0.0),
        (
            "approvals_total{through=\"none\",became=\"requested\"}",
            2.0,
        ),
        (
            "approvals_total{through=\"operator\",became=\"approved\"}",
            1.0,
        ),
        (
            "approvals_total{through=\"client\",became=\"approved\"}",
            1.0,
        ),
        ("approvals_total{through=\"operator\",became=\"used\"}", 1.0),
    ] {
        assert_eq!(
            value(&metrics, &format!("capwarden_{series}")),
            Some(expected),
            "{series}"
        );
    }
}

#[test]
fn times_fall_into_the_bucket_that_holds_them() {
    let metrics = Metrics::new();
    for nanoseconds in [0, 1_000, 1_001, 3_000_000, 60_000_000_000] {
        metrics
            .decisions()
            .observe(Duration::from_nanos(nanoseconds));
    }
    for (bound, expected) in [
        ("0.000001", 2.0),
        ("0.000002", 3.0),
        ("0.001", 3.0),
        ("0.01", 4.0),
        ("10.0", 4.0),
        ("+Inf", 5.0),
    ] {
        let series = format!("capwarden_decision_seconds_bucket{{le=\"{bound}\"}}");
        let text = metrics.exposition().unwrap();
        assert_eq!(
            value(&metrics, &series),
            Some(expected),
            "{series} in {text}"
        );
    }
    assert_eq!(
        value(&metrics, "capwarden_decision_seconds_count"),
        Some(5.0)
    );
    let sum = value(&metrics, "capwarden_decision_seconds_sum").unwrap();
    assert!((sum - 60.003_002_001).abs() < 1e-9, "{sum}");
}
