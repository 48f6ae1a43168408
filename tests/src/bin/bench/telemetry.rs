//! What it costs a call to be counted, and its record to have a digest. In this process: what is
//! measured is shorter than a system call.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use capwarden::{
    audit::ArgumentsDigest,
    gate::{CallEnd, CallEvent, CallVerdict, GateEvent, Noted},
    policy::RuleRef,
    principal::{Caller, Principal},
    telemetry::{CallSpans, Metrics},
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Map, json};

use crate::{
    Bench,
    measure::{Measurement, Target, Unit},
};

const TURNS: usize = 11;
const CALLS: u32 = 100_000;
/// What counting may add to a call.
const COUNTED: f64 = 100e-9;

const TOOL: &str = "start_packet_capture";

fn call(verdict: CallVerdict, rule: Option<RuleRef>) -> GateEvent {
    let mut arguments = Map::new();
    arguments.insert("interface".to_owned(), json!("lo"));
    arguments.insert("capture_filter".to_owned(), json!("udp port 53"));
    arguments.insert("duration".to_owned(), json!(60));
    GateEvent::Call(Box::new(CallEvent {
        caller: Caller {
            principal: Principal::User(1000),
            grant: None,
            connection: 1,
            server: Arc::from("pcap"),
        },
        id: Some("17".to_owned()),
        tool: TOOL.to_owned(),
        arguments,
        noted: Noted::default(),
        verdict,
        rule,
    }))
}

pub(crate) fn measure(_: &Bench) -> Result<Vec<Measurement>> {
    let metrics = Metrics::new().server("pcap");
    metrics.name_tools(
        (0..30)
            .map(|n| format!("tool_{n}"))
            .chain([TOOL.to_owned()]),
    );
    let forwarded = call(CallVerdict::Forwarded, None);
    let denied = CallVerdict::Denied {
        reason: "Port 22 is not allowed.".to_owned(),
        instead: None,
    };
    let rule = RuleRef {
        file: Arc::from("policy.yaml"),
        line: 3,
        column: 5,
        path: "tools.start_packet_capture.capture.within".to_owned(),
    };
    let denied = call(denied, Some(rule));
    let spans = CallSpans::default();
    let row = |what: &str, target, work: &dyn Fn()| Measurement {
        what: what.to_owned(),
        unit: Unit::Time,
        plain: Vec::new(),
        guarded: (0..TURNS).map(|_| each(work)).collect(),
        target,
    };
    let counted = Target::Most(COUNTED);
    let GateEvent::Call(call) = &forwarded else {
        return Ok(Vec::new());
    };
    Ok(vec![
        row("counting a call, its time and its end", counted, &|| {
            let begun = Instant::now();
            metrics.gate(black_box(&forwarded));
            metrics.ended(black_box(CallEnd::Answered));
            metrics.decisions().observe(begun.elapsed());
        }),
        row("counting a denied call", counted, &|| {
            metrics.gate(black_box(&denied));
        }),
        row(
            "a call's span, where nobody reads the log",
            counted,
            &|| {
                spans.gate(black_box(&forwarded));
            },
        ),
        row(
            "the arguments' digest, by the record keeper",
            Target::None,
            &|| {
                let _ = black_box(ArgumentsDigest::of(black_box(&call.arguments)));
            },
        ),
    ])
}

/// How long one of many keeps a processor, in seconds: others may want it too.
fn each(work: &dyn Fn()) -> f64 {
    let begun = processor_time();
    for _ in 0..CALLS {
        work();
    }
    let time = processor_time().saturating_sub(begun) / CALLS;
    time.as_secs_f64()
}

/// What this thread has had of the processors.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
