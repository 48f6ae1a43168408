//! Who shows no token, or one that is not good, is not let in.

use super::*;
use crate::{
    principal::{Ceiling, NewGrant, Operator},
    store::StateDirectory,
};

const BY: Operator = Operator {
    uid: 0,
    sudo_uid: None,
};

struct Door {
    rig: Rig,
    grants: Arc<Grants>,
    _home: tempfile::TempDir,
}

impl Door {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(&home.path().join("state"), None).unwrap();
        let grants = Arc::new(Grants::open(&directory).unwrap());
        let shared = Some(Arc::clone(&grants));
        Self {
            rig: Rig::guarded(Box::new(good), Bounds::default(), shared).await,
            grants,
            _home: home,
        }
    }

    /// The header of a new grant.
    fn header(&self, name: &str, server: &str) -> String {
        let new = NewGrant {
            name: name.to_owned(),
            server: server.to_owned(),
            policy: None,
            ceiling: Ceiling::default(),
            lasts: None,
        };
        let (token, _) = self.grants.create(new, BY).unwrap();
        format!("Authorization: Bearer {}\r\n", token.reveal())
    }
}

#[tokio::test]
async fn without_a_good_token_nobody_is_let_in() {
    let door = Door::new().await;
    let good = door.header("laptop", "fake");
    let other = door.header("other", "another-server");
    let changed = good.replace("cwg_", "cwg_0");
    let twice = format!("{good}{good}");
    let basic = good.replace("Bearer", "Basic");
    for header in [
        "",
        &other,
        &changed,
        &twice,
        &basic,
        "Authorization: \u{ff}\r\n",
    ] {
        for method in ["POST", "GET", "DELETE"] {
            let body = call("echo");
            let body = if method == "POST" { body.as_str() } else { "" };
            let request = door.rig.request(method, header, body);
            let reply = door.rig.raw(&request).await;
            assert_eq!(reply.status, 401, "{method} {header}: {reply:?}");
            let scheme = reply.headers.get("www-authenticate");
            assert_eq!(
                scheme.map(String::as_str),
                Some(
                    format!(
                        "Bearer realm=\"capwarden\", resource_metadata=\"http://named.example:{}/.well-known/oauth-protected-resource/mcp\"",
                        door.rig.address.port()
                    )
                    .as_str()
                )
            );
        }
    }
    assert!(door.rig.got().is_empty());
    let reply = door
        .rig
        .post(&good.replace("Bearer", "bearer"), &call("echo"))
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[tokio::test]
async fn token_does_not_reach_the_server() {
    let door = Door::new().await;
    let header = door.header("laptop", "fake");
    door.rig.post(&header, &call("echo")).await;
    let got = door.rig.got();
    assert_eq!(got.len(), 1);
    assert!(!got[0].headers.contains_key("authorization"), "{got:?}");
}

#[tokio::test]
async fn session_is_its_bearers_and_ends_with_the_grant() {
    let door = Door::new().await;
    let laptop = door.header("laptop", "fake");
    let desk = door.header("desk", "fake");
    let begin = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
    let reply = door.rig.post(&laptop, begin).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let session = format!("Mcp-Session-Id: {}\r\n", reply.headers["mcp-session-id"]);
    let say = |who: &str| {
        let headers = format!("{who}{session}");
        async { door.rig.post(&{ headers }, &call("echo")).await.status }
    };
    assert_eq!(say(&laptop).await, 200);
    assert_eq!(say(&desk).await, 404, "another's session");
    assert_eq!(say("").await, 401);
    door.grants.revoke("laptop", BY).unwrap();
    assert_eq!(say(&laptop).await, 401);
    assert_eq!(say(&desk).await, 404);
}

#[tokio::test]
async fn metadata_names_who_accounts_for_tokens() {
    let door = Door::new().await;
    let base = format!("http://named.example:{}", door.rig.address.port());
    for path in ["", "/mcp"] {
        let request = door.rig.request("GET", "", "");
        let path = format!("/.well-known/oauth-protected-resource{path}");
        let request = request.replace("GET /mcp", &format!("GET {path}"));
        let reply = door.rig.raw(&request).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(
            reply.json(),
            json!({
                "resource": format!("{base}/mcp"),
                "authorization_servers": ["https://login.example"],
                "bearer_methods_supported": ["header"],
            })
        );
        let elsewhere = request.replace("Host: ", "Host: x.");
        assert_eq!(door.rig.raw(&elsewhere).await.status, 403);
        let post = request.replace("GET", "POST");
        assert_eq!(door.rig.raw(&post).await.status, 405);
    }
}

#[tokio::test]
async fn streams_sessions_and_captures_end_with_their_grant() {
    let mut door = Door::new().await;
    let laptop = door.header("laptop", "fake");
    let desk = door.header("desk", "fake");
    let begin = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
    let mut sessions = Vec::new();
    for (who, name) in [(&laptop, "laptop"), (&desk, "desk")] {
        let headers = format!("{who}X-Name: {name}\r\n");
        let reply = door.rig.post(&headers, begin).await;
        let id = &reply.headers["mcp-session-id"];
        sessions.push(format!("{who}Mcp-Session-Id: {id}\r\n"));
        let reply = door
            .rig
            .post(sessions.last().unwrap(), &call("start"))
            .await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    let listen = |headers: &str| door.rig.request("GET", headers, "");
    let (mut of_laptop, head) = door.rig.open(&listen(&sessions[0])).await;
    assert_eq!(head.status, 200);
    let (mut of_desk, _) = door.rig.open(&listen(&sessions[1])).await;
    door.rig.got();

    door.grants.revoke("laptop", BY).unwrap();
    let mut rest = Vec::new();
    timeout(SOON, of_laptop.read_to_end(&mut rest))
        .await
        .expect("the stream ends")
        .unwrap();
    door.rig
        .until("the capture ends", || {
            door.rig
                .captures
                .log()
                .iter()
                .any(|line| line == "end s1 Revoked")
        })
        .await;
    // The server is told of the session that nobody has any more.
    let told = || {
        let got = door.rig.got.lock().unwrap();
        got.iter()
            .any(|got| got.method == "DELETE" && got.headers["mcp-session-id"] == "s-laptop")
    };
    door.rig.until("the server's session ends", told).await;
    // The other goes on.
    assert!(
        !door
            .rig
            .captures
            .log()
            .iter()
            .any(|line| line.starts_with("end s2"))
    );
    let one_byte = timeout(Duration::from_millis(50), of_desk.read_u8());
    assert!(one_byte.await.is_err(), "the other's stream ended too");
    assert_eq!(door.rig.post(&sessions[1], &call("echo")).await.status, 200);
    door.rig.events.close();
}

#[tokio::test]
async fn who_opens_sessions_without_end_keeps_nobody_out() {
    let door = Door::new().await;
    let greedy = door.header("greedy", "fake");
    let modest = door.header("modest", "fake");
    let begin = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
    let mut taken = 0;
    for number in 0.. {
        let headers = format!("{greedy}X-Name: {number}\r\n");
        let reply = door.rig.post(&headers, begin).await;
        if reply.status == 503 {
            break;
        }
        assert_eq!(reply.status, 200, "{reply:?}");
        taken += 1;
    }
    assert_eq!(taken, 768, "three quarters of all");
    let headers = format!("{modest}X-Name: modest\r\n");
    assert_eq!(door.rig.post(&headers, begin).await.status, 200);
}
