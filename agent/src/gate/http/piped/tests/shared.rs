//! Requests that share a server do not hold each other up, and hear nothing of each other.

use super::*;

impl Rig {
    /// The same front, and a server behind it that has answered a request of the stateless revision.
    pub(super) async fn shared(&mut self) -> (Self, Server) {
        let rig = self.beside();
        let (headers, body) = stateless(&json!(0), "x/first", &json!({}));
        let playing = async {
            let mut server = self.server().await;
            let speaks = json!({ "resultType": "complete", "supportedVersions": ["2026-07-28"] });
            server.answers(&speaks).await;
            server.answers(&json!({})).await;
            server
        };
        let (reply, server) = tokio::join!(rig.post(&headers, &body), playing);
        assert_eq!(reply.status, 200);
        (rig, server)
    }

    /// A request that is not answered at once, with this in its `_meta`; and how the server knows it.
    pub(super) async fn waits(
        &self,
        server: &mut Server,
        id: &str,
        meta: &Value,
    ) -> (Coming, Value) {
        let (headers, body) = stateless(&json!(id), "x/slow", &json!({}));
        let mut body: Value = serde_json::from_str(&body).unwrap();
        let all = body["params"]["_meta"].as_object_mut().unwrap();
        all.extend(meta.as_object().unwrap().clone());
        let coming = self.post(&headers, &body.to_string()).await;
        assert_eq!(coming.status, 200);
        (coming, server.hears().await.unwrap()["id"].clone())
    }
}

fn answer(id: &Value, text: &str) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "result": { "of": text } }).to_string()
}

fn notification(method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string()
}

#[tokio::test]
async fn client_that_does_not_read_holds_nobody_up() {
    let mut rig = Rig::new().await;
    let (rig, mut server) = rig.shared().await;
    let token = json!({ "progressToken": "p" });
    let (mut slow, number) = rig.waits(&mut server, "slow", &token).await;
    let subscription = json!({});
    let (deaf, subscribed) = rig.waits(&mut server, "deaf", &subscription).await;
    // More than its connection takes, which it does not read meanwhile.
    let long = "x".repeat(60_000);
    let progress = json!({ "progressToken": number, "progress": 1, "message": long });
    let progress = notification("notifications/progress", &progress);
    let meta = json!({ "io.modelcontextprotocol/subscriptionId": subscribed });
    let changed = json!({ "_meta": meta, "long": long });
    let changed = notification("notifications/resources/updated", &changed);
    for _ in 0..300 {
        server.says(&progress).await;
        server.says(&changed).await;
    }
    server.says(&answer(&number, "slow")).await;
    let (headers, body) = stateless(&json!("quick"), "x/quick", &json!({}));
    let playing = async { server.answers(&json!({ "of": "quick" })).await };
    let (quick, ()) = tokio::join!(rig.post(&headers, &body), playing);
    assert!(quick.body().await.contains("\"quick\""));

    // What it missed was progress: the answer comes.
    let mut last = String::new();
    let mut told = 0;
    while let Some(event) = slow.event().await {
        told += 1;
        last = event;
    }
    assert!((2..300).contains(&told), "{told}");
    assert_eq!(last, answer(&json!("slow"), "slow"));
    // What cannot be missed was the end of the other, which the server hears.
    drop(deaf);
    let back = server.hears().await.unwrap();
    assert_eq!(back["method"], "notifications/cancelled");
    assert_eq!(back["params"]["requestId"], subscribed);
}

#[tokio::test]
async fn notifications_go_to_whom_they_name_and_logs_to_the_only_one_who_asked() {
    let mut rig = Rig::new().await;
    let (rig, mut server) = rig.shared().await;
    let logs = json!({ "io.modelcontextprotocol/logLevel": "info" });
    let both = json!({ "io.modelcontextprotocol/logLevel": "info", "progressToken": 7 });
    let (mut silent, first) = rig.waits(&mut server, "same", &json!({})).await;
    let (mut one, second) = rig.waits(&mut server, "same", &both).await;
    let log = |data: &str| notification("notifications/message", &json!({ "data": data }));
    server.says(&log("of one")).await;
    assert_eq!(one.event().await, Some(log("of one")));
    let (mut other, third) = rig.waits(&mut server, "same", &logs).await;
    // Whose is this? And these are nobody's, or of who has not asked.
    server.says(&log("of either")).await;
    server
        .says(&notification(
            "notifications/tools/list_changed",
            &json!({}),
        ))
        .await;
    let progress = |token: &Value| {
        notification(
            "notifications/progress",
            &json!({ "progressToken": token, "progress": 1 }),
        )
    };
    for nobody in [&first, &third, &json!(999), &json!("p")] {
        server.says(&progress(nobody)).await;
    }
    server.says(&progress(&second)).await;
    assert_eq!(one.event().await, Some(progress(&json!(7))));
    for (id, stream) in [
        (&first, &mut silent),
        (&second, &mut one),
        (&third, &mut other),
    ] {
        server.says(&answer(id, "x")).await;
        assert_eq!(stream.event().await, Some(answer(&json!("same"), "x")));
        assert_eq!(stream.event().await, None);
    }
}

#[tokio::test]
async fn headers_that_repeat_arguments_must_say_what_they_are() {
    let mut rig = Rig::new().await;
    let (rig, mut server) = rig.shared().await;
    let region = json!({ "type": "string", "x-mcp-header": "Region" });
    let schema = json!({ "type": "object", "properties": { "region": region } });
    let list = json!({ "tools": [{ "name": "t", "inputSchema": schema }] });
    let (headers, body) = stateless(&json!(1), "tools/list", &json!({}));
    let playing = async { server.answers(&list).await };
    let (listed, ()) = tokio::join!(rig.post(&headers, &body), playing);
    assert_eq!(listed.status, 200);

    let call = json!({ "name": "t", "arguments": { "region": "us" } });
    let (headers, body) = stateless(&json!(2), "tools/call", &call);
    let headers = format!("{headers}Mcp-Name: t\r\n");
    for more in [
        "",
        "Mcp-Param-Region: eu\r\n",
        "Mcp-Param-Region: us\r\nMcp-Param-X: eu\r\n",
    ] {
        let refused = rig.post(&format!("{headers}{more}"), &body).await;
        assert_eq!(refused.status, 400, "{more}");
        let told: Value = serde_json::from_str(&refused.body().await).unwrap();
        assert_eq!(
            (&told["error"]["code"], &told["id"]),
            (&json!(-32020), &json!(2))
        );
    }
    let good = format!("{headers}Mcp-Param-Region: us\r\n");
    let playing = async { server.answers(&json!({ "content": [] })).await };
    let (called, ()) = tokio::join!(rig.post(&good, &body), playing);
    assert_eq!(called.status, 200);
}

#[tokio::test]
async fn headers_of_a_session_may_not_lie_either() {
    let mut rig = Rig::new().await;
    let (session, mut server) = rig.session().await;
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "t", "arguments": { "a": 1 } } }).to_string();
    let lying = format!("{session}Mcp-Param-A: 2\r\n");
    assert_eq!(rig.post(&lying, &call).await.status, 400);
    let honest = format!("{session}Mcp-Param-A: 1\r\n");
    let playing = async { server.answers(&json!({})).await };
    let (called, ()) = tokio::join!(rig.post(&honest, &call), playing);
    assert_eq!(called.status, 200);
}
