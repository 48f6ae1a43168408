//! What events come to in the exposition.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use serde_json::{Map, json};

use super::{
    metrics::{ALL, Kind, SERVERS, reason_word, table},
    named, *,
};
use crate::{
    approval::{self, By, What},
    gate::{CallEnd, CallEvent, GateEvent, Noted, Side},
    policy::RuleRef,
    principal::{Caller, Operator, Principal},
    session::{EndReason, Protocols, SessionEnd, SessionEvent, SessionId},
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

fn tell(server: &ServerMetrics, tool: &str, verdict: CallVerdict, rule: Option<&str>) {
    server.gate(&GateEvent::Call(Box::new(call(tool, verdict, rule))));
}

/// `name{server="s",…}` of `name{…}`.
fn of_server(series: &str) -> String {
    const ALONE: [&str; 1] = ["capwarden_audit_queue_records"];
    match series.split_once('{') {
        // A histogram puts its buckets first.
        Some((name, rest)) if rest.starts_with("le=") => {
            format!("{name}{{{},server=\"s\"}}", rest.trim_end_matches('}'))
        }
        Some((name, rest)) => format!("{name}{{server=\"s\",{rest}"),
        None if ALONE.contains(&series) => series.to_owned(),
        None => format!("{series}{{server=\"s\"}}"),
    }
}

/// The value of a series, as the exposition has it.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    // Every series here is the server's: its label is the first.
    let series = &of_server(series);
    let text = metrics.exposition().unwrap();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|number| number.parse().unwrap())
}

#[test]
fn calls_count_by_tool_and_verdict_and_denials_by_cause() {
    let metrics = Metrics::new();
    let server = metrics.server("s");
    server.name_tools(["start \"x\"\n", "list"]);
    let session = SessionId(1);
    tell(&server, "list", CallVerdict::Forwarded, None);
    tell(&server, "list", CallVerdict::Forwarded, None);
    tell(&server, "list", CallVerdict::EndsCapture, None);
    let captures = CallVerdict::Captures {
        session,
        granted: String::new(),
        changes: Vec::new(),
    };
    tell(&server, "start \"x\"\n", captures, Some("tools.start"));
    tell(&server, "list", denied(), Some("tools.list.a"));
    tell(&server, "list", denied(), Some("tools.list.a"));
    tell(&server, "nobody knows me", CallVerdict::Hidden, None);
    let why = String::new();
    tell(&server, "", CallVerdict::Refused { why }, None);
    tell(
        &server,
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
        let server = metrics.server("s");
        let word = verdict_word(&verdict);
        tell(&server, "t", verdict, None);
        let series = format!("capwarden_calls_total{{tool=\"(other)\",verdict=\"{word}\"}}");
        assert_eq!(value(&metrics, &series), Some(1.0), "{series}");
    }
}

#[test]
fn labels_are_bounded_however_long_the_policy_is() {
    let metrics = Metrics::new();
    let server = metrics.server("s");
    let tools: Vec<String> = (0..2_000).map(|n| format!("t{n}")).collect();
    server.name_tools(&tools);
    for tool in &tools {
        tell(&server, tool, denied(), Some(tool));
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
    let server = metrics.server("s");
    let end = |reason, packets, bytes| {
        server.session(&SessionEvent::Ended(SessionEnd {
            session: SessionId(1),
            reason,
            packets,
            bytes,
            sockets: 1,
            milliseconds: 1,
            protocols: Protocols::default(),
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
    let server = metrics.server("s");
    assert_eq!(
        value(&metrics, "capwarden_sockets_refused_total"),
        Some(0.0)
    );
    let refusals = Arc::new(AtomicU64::new(12_345));
    server.refusals_are(Arc::clone(&refusals), Arc::default());
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
    let server = metrics.server("s");
    for end in [CallEnd::Answered, CallEnd::Answered, CallEnd::Lost] {
        server.ended(end);
    }
    server.gate(&GateEvent::Dropped {
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
    let server = metrics.server("s");
    server.limit_reached();
    tell(&server, "t", CallVerdict::Pending { id: "K".into() }, None);
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
        server.approval(&approval::Event {
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
    let server = metrics.server("s");
    for nanoseconds in [0, 1_000, 1_001, 3_000_000, 60_000_000_000] {
        server
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

#[test]
fn servers_are_told_apart_and_bounded() {
    let metrics = Metrics::new();
    for n in 0..SERVERS + 10 {
        metrics.server(&format!("s{n}")).limit_reached();
    }
    let text = metrics.exposition().unwrap();
    let lines = text.lines();
    let of = "capwarden_limits_reached_total{";
    let lines: Vec<&str> = lines.filter(|line| line.starts_with(of)).collect();
    assert_eq!(lines.len(), SERVERS + 1);
    for line in [
        "{server=\"s0\"} 1",
        "{server=\"s255\"} 1",
        "{server=\"(other)\"} 10",
    ] {
        let line = format!("capwarden_limits_reached_total{line}");
        assert!(lines.contains(&line.as_str()), "{line}");
    }
}

#[test]
fn tools_of_all_servers_together_are_bounded() {
    let metrics = Metrics::new();
    for server in 0..20 {
        let server = metrics.server(&format!("s{server}"));
        server.name_tools((0..100).map(|tool| format!("t{tool}")));
    }
    let text = metrics.exposition().unwrap();
    let calls = text
        .lines()
        .filter(|line| line.starts_with("capwarden_calls_total"));
    assert_eq!(calls.count(), (named::MOST_OF_ALL + 20) * 7);
}

/// Whoever looks a metric up finds it with these labels.
#[test]
fn every_metric_is_in_the_catalogue_as_it_is_served() {
    let metrics = Metrics::new();
    let server = metrics.server("s");
    metrics.dropped_spans_are(Arc::default());
    metrics.queue_is(|| 0);
    let session = SessionId(1);
    server.session(&SessionEvent::FilterAttached {
        session,
        caller: crate::kernel::Caller {
            process: 1,
            thread: 1,
            name: String::new(),
        },
        kind: crate::kernel::SocketKind::Raw,
        length: 1,
        digest: [0; 32],
        relation: crate::session::Relation::Same,
    });
    server.approval(&approval::Event {
        id: "K".into(),
        what: What::Requested,
        principal: String::new(),
        server: String::new(),
        tool: String::new(),
        rule: String::new(),
    });
    let text = metrics.exposition().unwrap();
    let mut served = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        let mut words = line.split(' ').skip(2);
        let (name, kind) = (words.next().unwrap(), words.next().unwrap());
        let described = ALL.iter().find(|metric| {
            let series = metric.series();
            let end = ["_total", "_info"]
                .into_iter()
                .find_map(|end| series.strip_suffix(end));
            end.unwrap_or(&series) == name
        });
        let described = described.unwrap_or_else(|| panic!("{name} is not in the catalogue"));
        assert_eq!(described.kind.word(), kind, "{name}");
        served.push(described.name);
        let help = format!("# HELP {name} {}.", described.help);
        assert!(text.contains(&help), "{help}");
        let series = match described.kind {
            Kind::Histogram => format!("{}_bucket", described.series()),
            _ => described.series(),
        };
        let labels = text
            .lines()
            .find_map(|line| line.strip_prefix(series.as_str()));
        let labels = labels.unwrap_or_else(|| panic!("{series} has no value"));
        let labels = labels
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'));
        let labels = labels.map_or("", |(labels, _)| labels);
        let mut labels: Vec<&str> = labels
            .split("\",")
            .filter_map(|label| Some(label.split_once('=')?.0))
            .collect();
        labels.sort_by_key(|label| described.labels.iter().position(|one| one == label));
        assert_eq!(labels, described.labels, "{name}");
    }
    assert_eq!(served.len(), ALL.len(), "{served:?}");
}

#[test]
fn manual_has_every_metric_as_the_catalogue_describes_it() {
    let page = include_str!("../../manual/metrics.md");
    let table = table();
    let (_, written) = page.split_once("## All of them\n\n").unwrap();
    assert_eq!(
        written, table,
        "agent/manual/metrics.md is to have\n{table}"
    );
    assert!(table.contains("| `capwarden_sessions_live` | gauge of sessions, by `server`. "));
}
