//! One server in place of another.

use tokio::sync::oneshot;

use super::*;

const GONE: &str = "It is restarted.";
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const SHAKEN: &str = r#"{"jsonrpc":"2.0","id":"i","result":{"protocolVersion":"2025-06-18","capabilities":{"prompts":{}}}}"#;

impl Rig {
    async fn shake_hands(&mut self) {
        self.client.say(INITIALIZE).await;
        self.server.hear().await;
        self.server.say(SHAKEN).await;
        self.client.hear().await;
        self.client.say(INITIALIZED).await;
        self.server.hear().await;
    }

    /// The server goes; nothing more is sent to it when this returns.
    async fn server_goes(&mut self) {
        let (done, away) = oneshot::channel();
        let words = GONE.to_owned();
        let shift = Shift::Away { words, done };
        assert!(self.shift.send(shift).await.is_ok());
        timeout(SOON, away).await.unwrap().unwrap();
    }

    /// Another one is put in its place.
    async fn server_comes(&mut self) -> oneshot::Receiver<Result<(), String>> {
        let (server, server_out, server_in) = pair();
        let (up, came) = oneshot::channel();
        let shift = Shift::Here {
            server_in,
            server_out,
            up,
        };
        assert!(self.shift.send(shift).await.is_ok());
        self.server = Party::new(server);
        came
    }

    /// It answers the handshake that it hears again.
    async fn shakes_hands_again(&mut self) {
        let again: Value = self.server.hear_json().await;
        assert_eq!(again["method"], "initialize");
        let asked: Value = serde_json::from_str(INITIALIZE).unwrap();
        assert_eq!(again["params"], asked["params"]);
        let answer = SHAKEN.replace("\"i\"", &again["id"].to_string());
        self.server.say(&answer.replace("prompts", "logging")).await;
        assert_eq!(self.server.hear().await.trim_end(), INITIALIZED);
    }
}

#[tokio::test]
async fn conversation_goes_on_with_another_server() {
    let mut rig = Rig::new();
    rig.shake_hands().await;
    rig.still_works("before").await;
    rig.client.say(&call(1, "echo", "{}")).await;
    rig.server.hear().await;
    rig.server_goes().await;
    let told = rig.client.hear_json().await;
    assert_eq!(
        told,
        json!({ "jsonrpc": "2.0", "id": 1, "error": { "code": -31002, "message": GONE } })
    );
    // What the old one still says, and its end, is nothing to the client.
    rig.server
        .say(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#)
        .await;
    rig.server.hang_up().await;
    // What comes meanwhile waits.
    let waiting = call(2, "echo", "{}");
    rig.client.say(&waiting).await;
    rig.client.hears_nothing().await;
    let came = rig.server_comes().await;
    rig.shakes_hands_again().await;
    assert_eq!(timeout(SOON, came).await.unwrap().unwrap(), Ok(()));
    assert_eq!(rig.server.hear().await.trim_end(), waiting);
    let notices = [
        rig.client.hear_json().await,
        rig.client.hear_json().await,
        rig.client.hear_json().await,
    ];
    let methods = notices.map(|notice| notice["method"].as_str().unwrap().to_owned());
    assert_eq!(
        methods,
        [
            "notifications/message",
            "notifications/tools/list_changed",
            "notifications/prompts/list_changed"
        ]
    );
    rig.server
        .say(r#"{"jsonrpc":"2.0","id":2,"result":{}}"#)
        .await;
    assert_eq!(rig.client.hear_json().await["id"], 2);
    rig.still_works("after").await;
    assert_eq!(
        rig.settled(),
        [
            CallEnd::Answered,
            CallEnd::Lost,
            CallEnd::Answered,
            CallEnd::Answered
        ]
    );
    rig.client.hang_up().await;
    assert!(rig.server.hear().await.is_empty());
    rig.server.hang_up().await;
    let end = timeout(SOON, rig.pump).await.unwrap().unwrap();
    assert_eq!(end, PumpEnd::ClientClosed);
}

#[tokio::test]
async fn client_is_told_if_no_other_server_comes() {
    let mut rig = Rig::new();
    rig.shake_hands().await;
    rig.server_goes().await;
    rig.client.say(&call(1, "echo", "{}")).await;
    rig.client.hears_nothing().await;
    rig.ended(ENDED, false);
    drop(rig.shift);
    assert_eq!(rig.client.hear_json().await, told_of_the_end(&json!(1)));
    let end = timeout(SOON, rig.pump).await.unwrap().unwrap();
    assert_eq!(end, PumpEnd::ServerClosed);
}

#[tokio::test]
async fn server_that_ends_in_its_handshake_is_none() {
    let mut rig = Rig::new();
    rig.shake_hands().await;
    rig.server_goes().await;
    rig.client.say(&call(1, "echo", "{}")).await;
    rig.client.hears_nothing().await;
    let came = rig.server_comes().await;
    rig.server.hear().await;
    rig.server.hang_up().await;
    let came = timeout(SOON, came).await.unwrap().unwrap();
    assert_eq!(came, Err("the new server has ended at once".to_owned()));
    rig.ended(ENDED, false);
    drop(rig.shift);
    assert_eq!(rig.client.hear_json().await, told_of_the_end(&json!(1)));
    let end = timeout(SOON, rig.pump).await.unwrap().unwrap();
    assert_eq!(end, PumpEnd::ServerClosed);
}

#[tokio::test]
async fn client_that_leaves_meanwhile_is_not_held_up() {
    let mut rig = Rig::new();
    rig.shake_hands().await;
    rig.server_goes().await;
    rig.client.hang_up().await;
    let end = timeout(SOON, rig.pump).await.unwrap().unwrap();
    assert_eq!(end, PumpEnd::ClientClosed);
}
