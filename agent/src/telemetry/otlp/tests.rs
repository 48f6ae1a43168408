//! What a collector gets.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};
use tracing::subscriber::with_default;
use tracing_subscriber::{Layer as _, layer::SubscriberExt as _, registry};

use super::*;
use crate::{
    gate::{AnswerEvent, CallEvent, CallVerdict, GateEvent, Noted, TraceParent},
    principal::{Caller, Principal},
    session::{EndReason, Protocols, ServerEvent, SessionEnd, SessionEvent, SessionId},
    telemetry::{CallSpans, SessionSpans},
};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const PATIENCE: Duration = Duration::from_secs(60);

/// A collector that answers with these statuses, the last one again and again; what it gets.
fn collector(statuses: &'static [&'static str]) -> (Collector, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, got) = channel();
    thread::spawn(move || {
        let mut answers = statuses.iter().chain(statuses.last().into_iter().cycle());
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                if let Some(text) = line.to_lowercase().strip_prefix("content-length: ") {
                    length = text.trim().parse().unwrap();
                }
                head += &line;
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let status = answers.next().unwrap();
            let answer = "{\"partialSuccess\":{\"rejectedSpans\":\"2\"}}";
            let answer = if status.starts_with("202") {
                answer
            } else {
                "{}"
            };
            let text = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
                answer.len()
            );
            stream.get_mut().write_all(text.as_bytes()).unwrap();
            if sender
                .send((head, serde_json::from_slice(&body).unwrap()))
                .is_err()
            {
                return;
            }
        }
    });
    (address.parse().unwrap(), got)
}

const QUICK: Pace = Pace {
    gather: Duration::from_millis(1),
    deadline: PATIENCE,
    pause: Duration::from_millis(1),
    longest: Duration::from_millis(2),
};

fn call(id: &str, verdict: CallVerdict, parent: Option<&str>) -> GateEvent {
    let mut arguments = Map::new();
    arguments.insert("password".into(), json!("hunter2"));
    GateEvent::Call(Box::new(CallEvent {
        caller: Caller {
            principal: Principal::Bearer("laptop".into()),
            grant: Some("G7".into()),
            connection: 3,
            server: "pcap".into(),
        },
        id: Some(id.to_owned()),
        tool: "start_capture".into(),
        arguments,
        noted: Noted {
            decided_by: None,
            parent: parent.and_then(TraceParent::parse),
        },
        verdict,
        rule: None,
    }))
}

fn answer(id: &str, failed: bool) -> GateEvent {
    GateEvent::Answer(AnswerEvent {
        connection: 3,
        id: id.to_owned(),
        failed,
        opened: None,
        ended: Vec::new(),
    })
}

fn spans(request: &Value) -> Vec<Value> {
    let spans = request.pointer("/resourceSpans/0/scopeSpans/0/spans");
    spans.unwrap().as_array().unwrap().clone()
}

fn attribute<'a>(span: &'a Value, name: &str) -> &'a Value {
    let attributes = span["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|one| one["key"] == name);
    found.map_or(&Value::Null, |one| &one["value"])
}

fn time(span: &Value, name: &str) -> u128 {
    span[name].as_str().unwrap().parse().unwrap()
}

fn nanoseconds() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_nanos()
}

fn end(session: SessionId) -> SessionEvent {
    SessionEvent::Ended(SessionEnd {
        session,
        reason: EndReason::PacketCap,
        packets: 7,
        bytes: 700,
        sockets: 1,
        milliseconds: 5,
        protocols: Protocols::default(),
        proxy: None,
        program: None,
    })
}

#[test]
fn collector_gets_calls_and_sessions_with_their_parents_and_times() {
    let (collector, got) = collector(&["200 OK"]);
    let (queue, inbox, dropped) = queue(QUEUE);
    let exporter = Exporter::start(&collector, inbox, Arc::clone(&dropped), QUICK).unwrap();
    let layer = SpanLayer::new(queue).with_filter(SpanLayer::wants());
    let before = nanoseconds();
    with_default(registry().with(layer), || {
        let calls = CallSpans::default();
        let mut sessions = SessionSpans::default();
        let session = SessionId(1);
        sessions.begin_for_tests(session);
        let verdict = CallVerdict::Captures {
            session,
            granted: "lo".into(),
            changes: Vec::new(),
        };
        calls.gate(&call("1", verdict, Some(PARENT)));
        let reason = "`password` is hunter2, which is not allowed.".to_owned();
        let denied = CallVerdict::Denied {
            reason,
            instead: None,
        };
        calls.gate(&call("2", denied, None));
        calls.gate(&call("3", CallVerdict::Forwarded, None));
        calls.gate(&answer("3", true));
        calls.gate(&answer("1", false));
        sessions.session(&ServerEvent {
            server: Arc::from("s"),
            event: end(session),
        });
        // Of others, nothing is taken.
        tracing::info_span!("other", secret = "hunter2").in_scope(|| tracing::error!("x"));
    });
    let after = nanoseconds();
    drop(exporter);
    let mut all = Vec::new();
    while let Ok((head, request)) = got.try_recv() {
        assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
        assert!(
            head.to_lowercase()
                .contains("content-type: application/json"),
            "{head}"
        );
        assert!(!request.to_string().contains("hunter2"), "{request}");
        let resource = &request["resourceSpans"][0]["resource"];
        assert_eq!(
            attribute(resource, "service.name")["stringValue"],
            "capwarden"
        );
        all.extend(spans(&request));
    }
    assert_eq!(all.len(), 4, "{all:?}");
    assert_eq!(dropped.load(Ordering::Relaxed), 0);
    let with = |name: &str, value: &str| {
        let found = all
            .iter()
            .find(|span| attribute(span, name)["stringValue"] == value);
        found.unwrap_or_else(|| panic!("{name} {value}: {all:?}"))
    };
    for span in &all {
        let (start, end) = (
            time(span, "startTimeUnixNano"),
            time(span, "endTimeUnixNano"),
        );
        assert!(before <= start && start <= end, "{span}");
        assert!(end <= after + 1_000_000_000, "{span}");
        assert_eq!(span["traceId"].as_str().unwrap().len(), 32);
        assert_eq!(span["spanId"].as_str().unwrap().len(), 16);
    }
    let first = with("capwarden.id", "1");
    assert_eq!(first["name"], "call");
    assert_eq!(first["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(first["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!(first["flags"], 0x301);
    assert_eq!(first["kind"], 2);
    assert_eq!(
        attribute(first, "capwarden.principal")["stringValue"],
        "grant:laptop"
    );
    assert_eq!(attribute(first, "capwarden.failed")["boolValue"], false);
    assert_eq!(first.get("status"), None);

    let session = with("capwarden.reason", "packet-cap");
    assert_eq!(session["name"], "session");
    assert_eq!(session["traceId"], first["traceId"]);
    assert_eq!(session["parentSpanId"], first["spanId"]);
    assert_eq!(session["flags"], 0x101);
    assert_eq!(attribute(session, "capwarden.packets")["intValue"], "7");

    let denied = with("capwarden.id", "2");
    assert_eq!(
        attribute(denied, "capwarden.verdict")["stringValue"],
        "deny"
    );
    assert_eq!(denied.get("parentSpanId"), None);
    let failed = with("capwarden.id", "3");
    assert_eq!(failed["status"], json!({ "code": 2 }));
    assert_ne!(failed["traceId"], denied["traceId"]);
}

fn ended() -> Ended {
    Ended {
        name: "call",
        context: Context {
            trace: [1; 16],
            span: [2; 8],
        },
        parent: None,
        start: UNIX_EPOCH,
        end: UNIX_EPOCH,
        fields: Vec::new(),
    }
}

#[test]
fn batch_is_sent_again_until_the_collector_takes_it() {
    let (collector, got) =
        collector(&["503 Service Unavailable", "429 Too Many Requests", "200 OK"]);
    let (queue, inbox, dropped) = queue(8);
    let exporter = Exporter::start(&collector, inbox, Arc::clone(&dropped), QUICK).unwrap();
    queue.put(ended());
    for _ in 0..3 {
        let (_, request) = got.recv_timeout(PATIENCE).unwrap();
        assert_eq!(spans(&request).len(), 1);
    }
    drop(exporter);
    assert!(got.try_recv().is_err(), "it was taken once");
    assert_eq!(dropped.load(Ordering::Relaxed), 0);
}

#[test]
fn what_the_collector_does_not_take_is_dropped_and_counted() {
    let (collector, got) = collector(&["400 Bad Request", "202 Accepted"]);
    let (queue, inbox, dropped) = queue(8);
    let exporter = Exporter::start(&collector, inbox, Arc::clone(&dropped), QUICK).unwrap();
    queue.put(ended());
    got.recv_timeout(PATIENCE).unwrap();
    queue.put(ended());
    got.recv_timeout(PATIENCE).unwrap();
    drop(exporter);
    // One that was refused, and two that the collector says it rejects.
    assert_eq!(dropped.load(Ordering::Relaxed), 3);
}

#[test]
fn what_does_not_fit_is_dropped_and_counted_and_nobody_waits() {
    let (queue, _inbox, dropped) = queue(2);
    for _ in 0..5 {
        queue.put(ended());
    }
    assert_eq!(dropped.load(Ordering::Relaxed), 3);
}

#[test]
fn end_does_not_wait_for_a_collector_that_is_not_there() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let collector: Collector = format!("http://{}", gone.local_addr().unwrap())
        .parse()
        .unwrap();
    drop(gone);
    let (queue, inbox, dropped) = queue(8);
    let slow = Pace {
        pause: Duration::from_secs(3_600),
        longest: Duration::from_secs(3_600),
        ..QUICK
    };
    let exporter = Exporter::start(&collector, inbox, Arc::clone(&dropped), slow).unwrap();
    queue.put(ended());
    queue.put(ended());
    drop(exporter);
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
}

#[test]
fn collectors_are_on_this_host_or_behind_tls() {
    let address = |text: &str| text.parse::<Collector>().map(|one| one.to_string());
    for (text, meant) in [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("http://localhost:4318/", "http://127.0.0.1:4318/v1/traces"),
        ("http://[::1]:4318/own", "http://[::1]:4318/own"),
        ("https://c.example", "https://c.example/v1/traces"),
    ] {
        assert_eq!(address(text).as_deref(), Ok(meant), "{text}");
    }
    for text in [
        "http://10.0.0.1:4318",
        "ftp://127.0.0.1:1",
        "127.0.0.1:4318",
    ] {
        assert!(
            matches!(address(text), Err(CollectorError::Refused(_))),
            "{text}"
        );
    }
    for text in [
        "",
        "http://127.0.0.1",
        "https://c.example/?key=1",
        "https://a@b",
    ] {
        assert_eq!(address(text), Err(CollectorError::Malformed), "{text}");
    }
}
