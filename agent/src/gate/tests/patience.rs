//! Servers that do not answer in time.

use super::*;
use crate::gate::CallEnd;

/// A call that opens a session, of which the server hears and says nothing; what the client is told.
async fn ignored(rig: &mut Rig, id: u32) -> Value {
    rig.client.say(&call(id, "quick_proxy", "{}")).await;
    rig.server.hear().await;
    let what = "listen on 0.0.0.0:8080 (tcp)".to_owned();
    rig.captures.refused.lock().unwrap().push(what);
    rig.client.hear_json().await
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap()
}

#[tokio::test]
async fn call_that_is_not_answered_is_answered_by_the_gate_and_its_session_ends() {
    let mut rig = Rig::new();
    let answer = ignored(&mut rig, 1).await;
    assert_eq!(answer["id"], 1);
    assert_eq!(answer["result"]["isError"], true);
    assert_eq!(
        text(&answer),
        "The server did not answer this call within 0.5 s, so capwarden answers for it. Meanwhile the \
         server was not allowed to listen on 0.0.0.0:8080 (tcp). The proxy does not listen, and s1 \
         has ended: call again to have another."
    );
    let told = &answer["result"]["structuredContent"]["capwarden"];
    assert_eq!(
        (&told["session"], &told["ended"]),
        (&json!("s1"), &json!(true))
    );
    assert!(rig.captures.live().is_empty());
    assert_eq!(rig.settled(), [CallEnd::Lost]);

    // Its id is not free while the answer may still come, which is then dropped.
    rig.client.say(&call(1, "echo", "{}")).await;
    assert_eq!(rig.client.hear_json().await["error"]["code"], -32600);
    rig.server.say(r#"{"id":1,"result":{"content":[]}}"#).await;
    rig.still_works("2").await;
    rig.client.say(&call(1, "echo", "{}")).await;
    rig.server.hear().await;
    let mut told = Vec::new();
    while let Ok(event) = rig.events.try_recv() {
        match event {
            GateEvent::Unanswered { id, ended, .. } => told.push((id, ended)),
            GateEvent::Late { id, .. } => told.push((id, false)),
            _ => {}
        }
    }
    assert_eq!(told, [("1".to_owned(), true), ("1".to_owned(), false)]);
}

#[tokio::test]
async fn proxy_that_listens_goes_on_without_an_answer() {
    let mut rig = Rig::new();
    rig.captures.listening.lock().unwrap().push(SessionId(1));
    let answer = ignored(&mut rig, 1).await;
    assert!(text(&answer).ends_with(
        " The proxy listens all the same, and s1 goes on: listening on 127.0.0.1:9001."
    ));
    assert_eq!(rig.captures.live(), [SessionId(1)]);
    // It is known by its port all the same.
    rig.client.say(&call(2, "start_proxy", "{}")).await;
    rig.server.hear().await;
    rig.server.say(r#"{"id":2,"result":{"content":[]}}"#).await;
    rig.client.hear().await;
    rig.client
        .say(&call(3, "stop_proxy", r#"{"port":9001}"#))
        .await;
    rig.server.hear().await;
    rig.server.say(r#"{"id":3,"result":{"content":[]}}"#).await;
    rig.client.hear().await;
    assert_eq!(rig.captures.live(), [SessionId(2)]);
}

#[tokio::test]
async fn answer_in_time_and_call_that_was_cancelled_are_left_alone() {
    let mut rig = Rig::new();
    for id in [1, 2] {
        rig.client.say(&call(id, "quick_proxy", "{}")).await;
        rig.server.hear().await;
    }
    rig.server.say(r#"{"id":1,"result":{"content":[]}}"#).await;
    rig.client.hear().await;
    rig.client
        .say(r#"{"method":"notifications/cancelled","params":{"requestId":2}}"#)
        .await;
    rig.server.hear().await;
    // As long as the others may take, and longer: this one was asked after them.
    let answer = ignored(&mut rig, 3).await;
    assert_eq!(answer["id"], 3);
    rig.client.hears_nothing().await;
}
