//! Servers that do not answer in time.

use tokio::{sync::watch, time::Instant};

use super::{refusal::FOLLOWED, *};
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

/// The data of the next event, read as JSON.
async fn event(stream: &mut BufReader<TcpStream>) -> Value {
    loop {
        let mut line = String::new();
        let read = timeout(SOON, stream.read_line(&mut line)).await;
        assert!(read.expect("an event comes").unwrap() > 0, "it ended");
        if let Some(data) = line.trim_end().strip_prefix("data: ") {
            return serde_json::from_str(data).unwrap();
        }
    }
}

#[tokio::test]
async fn calls_that_wait_are_answered_when_an_agent_that_leaves_waits_no_longer() {
    for kind in ["application/json", "text/event-stream"] {
        let tell = watch::Sender::new(None);
        let (leave, _) = Leave::when(tell.subscribe(), Duration::from_millis(10), SOON);
        let capacity = Capacity::of(1_024);
        let rig = Rig::leaving(leave, mute(kind), Bounds::default(), None, capacity).await;
        let session = rig.session().await;
        let body = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"capabilities":{"elicitation":{}}}}"#;
        let asker = rig.post("X-Name: asker\r\n", body).await;
        let asker = format!("Mcp-Session-Id: {}\r\n", asker.headers["mcp-session-id"]);
        let (mut asked, _) = rig.open(&rig.request("POST", &asker, &call("ask"))).await;
        assert_eq!(event(&mut asked).await["method"], "elicitation/create");
        let called = call("echo");
        let called = rig.post(&session, &called);
        let telling = async {
            rig.until("the call", || {
                let got = rig.got.lock().unwrap();
                got.iter().any(|got| got.body.contains("tools/call"))
            })
            .await;
            tell.send_replace(Some(Instant::now()));
        };
        let (reply, ()) = tokio::join!(called, telling);
        let body = reply.body.trim();
        let answer: Value =
            serde_json::from_str(body.strip_prefix("data: ").unwrap_or(body)).unwrap();
        for answer in [answer, event(&mut asked).await] {
            assert_eq!(answer["id"], 1, "{answer}");
            assert_eq!(answer["error"]["message"], FOLLOWED, "{answer}");
        }
    }
}
