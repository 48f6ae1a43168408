//! Servers that do not answer in time.

use tokio::{sync::watch, time::Instant};

use super::{
    questions::YES,
    refusal::{FOLLOWED, NOT_SENT},
    *,
};
use crate::gate::{CallVerdict, Captures as _};

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

/// A front that can be told to leave, before a server that is mute to calls.
async fn leaving(kind: &'static str) -> (Rig, watch::Sender<Option<Instant>>) {
    let tell = watch::Sender::new(None);
    let (leave, _) = Leave::when(tell.subscribe(), Duration::from_millis(10), SOON);
    let capacity = Capacity::of(1_024);
    let rig = Rig::leaving(leave, mute(kind), Bounds::default(), None, capacity).await;
    (rig, tell)
}

impl Rig {
    /// Waits until a call has come to the server.
    async fn called(&self) {
        self.until("the call", || {
            let got = self.got.lock().unwrap();
            got.iter().any(|got| got.body.contains("tools/call"))
        })
        .await;
    }
}

/// What is answered to the call in the server's place.
fn in_its_place(answer: &Value) -> &str {
    assert_eq!(answer["id"], 1, "{answer}");
    answer["error"]["message"].as_str().unwrap()
}

#[tokio::test]
async fn calls_that_wait_are_answered_when_an_agent_that_leaves_waits_no_longer() {
    for kind in ["application/json", "text/event-stream"] {
        let (mut rig, tell) = leaving(kind).await;
        let session = rig.session().await;
        let asker = rig.asker("asker").await;
        let mut asked = rig.asks(&asker, 1).await;
        let question = asked.question().await;
        let called = call("echo");
        let called = rig.post(&session, &called);
        let telling = async {
            rig.called().await;
            tell.send_replace(Some(Instant::now()));
        };
        let (reply, ()) = tokio::join!(called, telling);
        let body = reply.body.trim();
        let answer: Value =
            serde_json::from_str(body.strip_prefix("data: ").unwrap_or(body)).unwrap();
        assert_eq!(in_its_place(&answer), FOLLOWED);
        // The user need not say any more whether the other may be made, which the server has not seen.
        let notice = asked.event().await.unwrap();
        assert_eq!(notice["method"], "notifications/cancelled", "{notice}");
        assert_eq!(notice["params"]["requestId"], question.as_str());
        let answer = asked.event().await.unwrap();
        assert_eq!(in_its_place(&answer), NOT_SENT);
        assert_eq!(asked.event().await, None);
        let told: Vec<_> = std::iter::from_fn(|| rig.events.try_recv().ok())
            .filter_map(|event| match event {
                GateEvent::Call(call) if call.tool == "ask" => Some(call.verdict),
                _ => None,
            })
            .collect();
        let why = "given up while its user was asked".to_owned();
        assert_eq!(told, [CallVerdict::Refused { why }]);
    }
}

#[tokio::test]
async fn call_whose_user_said_yes_is_answered_once_whenever_the_agent_leaves() {
    for (kind, answers) in [
        ("application/json", false),
        ("text/event-stream", false),
        ("text/event-stream", true),
    ] {
        let (rig, tell) = leaving(kind).await;
        let asker = rig.asker("asker").await;
        let mut asked = rig.asks(&asker, 1).await;
        let question = asked.question().await;
        rig.says(&asker, &question, YES).await;
        rig.called().await;
        if answers {
            let answer = "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n".to_owned();
            let server = rig.streams.lock().unwrap().last().cloned().unwrap();
            server.send(answer).await.unwrap();
            assert_eq!(asked.event().await.unwrap()["result"], json!({}));
        }
        tell.send_replace(Some(Instant::now()));
        if answers {
            // The server goes on with its stream for a while.
            tokio::time::sleep(Duration::from_millis(100)).await;
            rig.streams.lock().unwrap().clear();
        } else {
            let answer = asked.event().await.unwrap();
            assert_eq!(in_its_place(&answer), FOLLOWED);
        }
        assert_eq!(asked.event().await, None, "{kind}, {answers}");
    }
}
