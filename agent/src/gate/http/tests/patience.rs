//! Servers that do not answer in time.

use super::*;
use crate::gate::Captures as _;

/// Says that something will come, of this type, and nothing more to a call.
fn mute(kind: &'static str) -> Script {
    Box::new(move |got: &Got| {
        let mut response = good(got);
        if got.body.contains("tools/call") {
            response = answer(kind, "");
            let headers = response.headers_mut();
            headers.insert("x-open", "1".parse().unwrap());
        }
        response
    })
}

#[tokio::test]
async fn call_that_is_not_answered_is_answered_by_the_gate() {
    for kind in ["application/json", "text/event-stream"] {
        let mut rig = Rig::before(mute(kind)).await;
        let session = rig.session().await;
        let call = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"quick_proxy","arguments":{}}}"#;
        let reply = rig.post(&session, call).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let body = reply.body.trim();
        let answer: Value =
            serde_json::from_str(body.strip_prefix("data: ").unwrap_or(body)).unwrap();
        assert_eq!(answer["id"], 7);
        assert_eq!(answer["result"]["isError"], true);
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        assert!(
            text.starts_with("The server did not answer this call within 0.5 s"),
            "{text}"
        );
        assert!(rig.captures.live().is_empty());
        let told = std::iter::from_fn(|| rig.events.try_recv().ok())
            .filter(|event| matches!(event, GateEvent::Unanswered { ended: true, .. }));
        assert_eq!(told.count(), 1);
        // The one before is not in the way of the next.
        let again = rig.post(&session, &call.replace(":7", ":8")).await;
        assert!(again.body.contains("\"id\":8"), "{again:?}");
    }
}
