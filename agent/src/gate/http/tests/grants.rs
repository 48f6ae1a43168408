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
                Some("Bearer realm=\"capwarden\"")
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
