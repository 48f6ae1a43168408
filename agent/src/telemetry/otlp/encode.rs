//! Spans as opentelemetry-proto's JSON mapping has them: ids in hexadecimal, 64-bit numbers as text, enums as
//! numbers, names in camel case.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{Ended, Field};

/// `SPAN_KIND_INTERNAL` and `SPAN_KIND_SERVER`.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;
/// Flags of a span: it is sampled, it is known whether its parent is another program's, and that it is.
const SAMPLED: u32 = 0x1;
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// An `ExportTraceServiceRequest`.
pub(super) fn request(spans: &[Ended]) -> Value {
    json!({
        "resourceSpans": [{
            "resource": { "attributes": [
                attribute("service.name", &json!({ "stringValue": "capwarden" })),
                attribute("service.version", &json!({ "stringValue": env!("CARGO_PKG_VERSION") })),
                attribute("process.pid", &json!({ "intValue": std::process::id().to_string() })),
            ] },
            "scopeSpans": [{
                "scope": { "name": "capwarden", "version": env!("CARGO_PKG_VERSION") },
                "spans": spans.iter().map(span).collect::<Vec<_>>(),
            }],
        }],
    })
}

fn span(span: &Ended) -> Value {
    let attributes = span.fields.iter().map(|(name, field)| {
        let value = match field {
            Field::Text(text) => json!({ "stringValue": text }),
            Field::Whole(number) => json!({ "intValue": number.to_string() }),
            Field::Truth(truth) => json!({ "boolValue": truth }),
        };
        attribute(&format!("capwarden.{name}"), &value)
    });
    let remote = span.parent.is_some_and(|(_, remote)| remote);
    let mut encoded = json!({
        "traceId": hex(&span.context.trace),
        "spanId": hex(&span.context.span),
        "flags": SAMPLED | HAS_IS_REMOTE | if remote { IS_REMOTE } else { 0 },
        "name": span.name,
        "kind": if span.name == "call" { SERVER } else { INTERNAL },
        "startTimeUnixNano": nanoseconds(span.start),
        "endTimeUnixNano": nanoseconds(span.end),
        "attributes": attributes.collect::<Vec<_>>(),
    });
    let mut put = |key: &str, value: Value| {
        if let Some(encoded) = encoded.as_object_mut() {
            encoded.insert(key.to_owned(), value);
        }
    };
    if let Some((parent, _)) = span.parent {
        put("parentSpanId", hex(&parent).into());
    }
    if span.fields.contains(&("failed", Field::Truth(true))) {
        put("status", json!({ "code": ERROR }));
    }
    encoded
}

fn attribute(key: &str, value: &Value) -> Value {
    json!({ "key": key, "value": value })
}

fn nanoseconds(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
