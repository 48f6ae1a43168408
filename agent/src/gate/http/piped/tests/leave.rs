//! Nobody is let in any more: who waits is answered, and none waits for ever.

use std::collections::BTreeSet;

use super::{
    streams::{KEPT, QUEUE},
    *,
};

/// More than the kernel keeps of a connection that is not read.
const MUCH: usize = 8 << 20;

type Tell = watch::Sender<Option<Instant>>;

/// A front that can be told to leave, and what it does until it has left.
async fn leaving(patience: Duration, last: Duration) -> (Rig, Tell, JoinHandle<io::Result<()>>) {
    let tell = Tell::new(None);
    let (leave, _) = Leave::when(tell.subscribe(), patience, last);
    let (rig, served) = Rig::leaving(leave).await;
    (rig, tell, served)
}

fn now(tell: &Tell) {
    tell.send_replace(Some(Instant::now()));
}

async fn has_left(served: JoinHandle<io::Result<()>>) {
    let left = timeout(SOON, served).await;
    left.expect("it leaves").unwrap().unwrap();
}

/// The id of the request that is answered in the server's place.
fn in_its_place(answer: &str) -> Value {
    let answer: Value = serde_json::from_str(answer).unwrap();
    assert_eq!(answer["error"]["code"], -32603, "{answer}");
    assert_eq!(answer["error"]["message"], FOLLOWED, "{answer}");
    answer["id"].clone()
}

#[tokio::test]
async fn who_waits_for_an_answer_gets_it_and_who_does_not_is_let_go() {
    let (mut rig, tell, served) = leaving(SOON, SOON).await;
    let (session, mut slow) = rig.session().await;
    let (_, mut idle) = rig.session().await;
    let mut stream = rig.ask("GET", "/sse", "", "").await;
    let path = stream.event().await.expect("where to post");
    let mut legacy = rig.server().await;
    let request = request(7, "x");
    let mut waits = rig.post(&session, &request).await;
    assert_eq!(rig.ask("POST", &path, "", &request).await.status, 202);
    now(&tell);
    assert_eq!(idle.hears().await, None);
    for server in [&mut slow, &mut legacy] {
        server.answers(&json!({ "late": 1 })).await;
    }
    for client in [&mut waits, &mut stream] {
        let answer = client.event().await.unwrap();
        assert!(answer.contains("\"late\""), "{answer}");
        assert_eq!(client.event().await, None);
    }
    has_left(served).await;
}

#[tokio::test]
async fn what_is_never_answered_is_answered_in_the_servers_place_when_it_is_late() {
    let (mut rig, tell, served) = leaving(Duration::from_millis(100), SOON).await;
    let (session, mut dead) = rig.session().await;
    let (captures, mut busy) = rig.session().await;
    let mut stream = rig.ask("GET", "/sse", "", "").await;
    let path = stream.event().await.expect("where to post");
    let mut legacy = rig.server().await;
    let (rig, mut shared) = rig.shared().await;
    let (mut subscribed, _) = rig.waits(&mut shared, "listens", &json!({})).await;
    let mut waits = rig.post(&session, &request(7, "x")).await;
    let mut guarded = rig.post(&captures, &request(8, "x")).await;
    let posted = rig.ask("POST", &path, "", &request(9, "x")).await;
    assert_eq!(posted.status, 202);
    lock(&rig.front.servers.busy).push(busy.caller.connection);
    now(&tell);
    for (client, id) in [
        (&mut subscribed, json!("listens")),
        (&mut waits, json!(7)),
        (&mut stream, json!(9)),
    ] {
        let answer = client.event().await.expect("an answer");
        assert_eq!(in_its_place(&answer), id);
        assert_eq!(client.event().await, None);
    }
    for server in [&mut dead, &mut legacy, &mut shared] {
        while server.hears().await.is_some() {}
    }
    // What goes on is not late, and its end may be told of.
    lock(&rig.front.servers.busy).clear();
    sleep(2 * LEAVING).await;
    busy.answers(&json!({ "late": 1 })).await;
    let answer = guarded.event().await.expect("an answer");
    assert!(answer.contains("\"late\""), "{answer}");
    has_left(served).await;
}

impl Rig {
    /// Waits until a session's wire is so.
    async fn until(&self, so: impl Fn(&Wire) -> bool) {
        let waiting = async {
            let is_so = || lock(&self.front.sessions).values().any(|one| so(&one.wire));
            while !is_so() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, waiting).await.expect("it becomes so");
    }

    /// A request whose client does not read, and for which so much has come that there is no room for more.
    async fn unread(&self, session: &str, server: &mut Server) -> Coming {
        let unread = self.post(session, &request(7, "x")).await;
        assert_eq!(server.hears().await.unwrap()["id"], 7);
        let news = |length: usize| {
            let params = json!({ "data": "x".repeat(length) });
            json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": params })
        };
        server.says(&news(MUCH).to_string()).await;
        for _ in 0..QUEUE {
            server.says(&news(1).to_string()).await;
        }
        unread
    }
}

impl Coming {
    /// Reads what has come for it besides its answer.
    async fn catches_up(&mut self) {
        for _ in 0..=QUEUE {
            let news = self.event().await.expect("news");
            assert!(news.contains("notifications/message"));
        }
    }
}

#[tokio::test]
async fn answer_on_its_way_to_a_client_that_reads_slowly_is_not_cut_off() {
    for patience in [SOON, Duration::ZERO] {
        let (mut rig, tell, served) = leaving(patience, SOON).await;
        let (session, mut server) = rig.session().await;
        let mut slow = rig.unread(&session, &mut server).await;
        let answer = r#"{"jsonrpc":"2.0","id":7,"result":{"late":1}}"#;
        server.says(answer).await;
        rig.until(|wire| wire.asked() == 0 && wire.waits()).await;
        rig.front.sweep(Duration::from_nanos(1));
        now(&tell);
        sleep(2 * LEAVING).await;
        slow.catches_up().await;
        assert_eq!(slow.event().await.as_deref(), Some(answer));
        assert_eq!(slow.event().await, None);
        has_left(served).await;
    }
}

#[tokio::test]
async fn last_answers_wait_for_room_where_much_comes_before_them() {
    let (mut rig, tell, served) = leaving(Duration::from_millis(100), SOON).await;
    let (session, mut server) = rig.session().await;
    let mut slow = rig.unread(&session, &mut server).await;
    rig.until(Wire::is_full).await;
    // All of these have one stream.
    let mut stream = rig.ask("GET", "/sse", "", "").await;
    let path = stream.event().await.expect("where to post");
    let mut legacy = rig.server().await;
    let ids: BTreeSet<u32> = (0..).take(KEPT + 10).collect();
    for id in &ids {
        let posted = rig.ask("POST", &path, "", &request(*id, "x")).await;
        assert_eq!(posted.status, 202);
    }
    now(&tell);
    sleep(2 * LEAVING).await;
    let mut told = BTreeSet::new();
    while let Some(answer) = stream.event().await {
        let id = in_its_place(&answer).as_u64().unwrap();
        assert!(told.insert(u32::try_from(id).unwrap()), "twice: {answer}");
    }
    assert_eq!(told, ids);
    // What its server says now is not heard any more.
    server.says(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#).await;
    slow.catches_up().await;
    let answer = slow.event().await.expect("an answer");
    assert_eq!(in_its_place(&answer), json!(7));
    assert_eq!(slow.event().await, None);
    for server in [&mut server, &mut legacy] {
        while server.hears().await.is_some() {}
    }
    has_left(served).await;
}

#[tokio::test]
async fn client_that_does_not_read_its_last_answer_holds_nobody_up() {
    let (mut rig, tell, served) = leaving(Duration::ZERO, Duration::from_millis(100)).await;
    let (session, mut server) = rig.session().await;
    let _deaf = rig.post(&session, &request(7, "x")).await;
    let long = json!({ "long": "x".repeat(MUCH) });
    server.answers(&long).await;
    now(&tell);
    has_left(served).await;
    assert_eq!(server.hears().await, None);
}
