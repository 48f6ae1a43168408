//! Many clients at once, and more than there is room for.

use tokio::task::JoinSet;

use super::*;

const CLIENTS: usize = 1_000;

async fn crowded(connections: usize) -> Arc<Rig> {
    let capacity = Capacity {
        connections,
        ..Capacity::of(DESCRIPTORS)
    };
    let rig = Rig::with_capacity(Box::new(good), Bounds::default(), None, capacity);
    Arc::new(rig.await)
}

#[tokio::test]
async fn clients_at_once_are_all_answered() {
    // Each has four in this one process.
    let allowed = crate::kernel::descriptors(8_192);
    let clients = CLIENTS.min(usize::try_from(allowed / 5).unwrap());
    let rig = crowded(4_096).await;
    let mut crowd = JoinSet::new();
    for number in 0..clients {
        let rig = Arc::clone(&rig);
        crowd.spawn(async move {
            let body = call("echo").replace("\"id\":1", &format!("\"id\":{number}"));
            let reply = rig.post("", &body).await;
            assert_eq!(reply.status, 200, "{reply:?}");
            assert_eq!(reply.json()["id"], number);
        });
    }
    let mut answered = 0;
    while let Some(done) = crowd.join_next().await {
        done.unwrap();
        answered += 1;
    }
    assert_eq!(answered, clients);
}

#[tokio::test]
async fn connections_that_there_is_no_room_for_are_turned_away() {
    let rig = crowded(12).await;
    let mut idle = Vec::new();
    // A quarter is left to others.
    for _ in 0..9 {
        idle.push(TcpStream::connect(rig.address).await.unwrap());
    }
    let reply = rig.post("", &call("echo")).await;
    assert_eq!(reply.status, 503, "{reply:?}");
    assert_eq!(reply.headers["retry-after"], "1");
    idle.pop();
    let goes_on = async { while rig.post("", &call("echo")).await.status != 200 {} };
    timeout(SOON, goes_on).await.expect("there is room again");
}

/// A front that may ask its server one thing at a time, and a server that answers calls when the test
/// says so.
async fn narrow() -> Arc<Rig> {
    let capacity = Capacity {
        calls: 1,
        words: 1,
        streams: 2,
        ..Capacity::of(1_024)
    };
    let slow = |got: &Got| {
        let mut response = good(got);
        if got.body.contains("tools/call") {
            let open = "1".parse().unwrap();
            response.headers_mut().insert("x-open", open);
        }
        response
    };
    let rig = Rig::with_capacity(Box::new(slow), Bounds::default(), None, capacity);
    Arc::new(rig.await)
}

impl Rig {
    /// A call, in a task of its own, once the server has it or the front keeps it waiting.
    fn calls(self: &Arc<Self>, id: u64) -> tokio::task::JoinHandle<Reply> {
        let rig = Arc::clone(self);
        let body = call("echo").replace("\"id\":1", &format!("\"id\":{id}"));
        tokio::spawn(async move { rig.post("", &body).await })
    }

    /// How much has come to the server.
    fn asked(&self) -> usize {
        self.got.lock().unwrap().len()
    }

    async fn answer_next(&self, id: u64) {
        let next = self.streams.lock().unwrap().remove(0);
        let result = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
        next.send(result).await.unwrap();
    }
}

#[tokio::test]
async fn calls_wait_for_their_turn_and_what_asks_nothing_does_not() {
    let rig = narrow().await;
    let first = rig.calls(7);
    rig.until("it is with the server", || rig.asked() == 1)
        .await;
    let second = rig.calls(8);
    // Answers and notifications of clients are what calls may wait for.
    let note = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    for number in 1..10 {
        assert_eq!(rig.post("", note).await.status, 202);
        assert_eq!(rig.asked(), 1 + number, "the second call is not there");
    }
    rig.answer_next(7).await;
    assert_eq!(first.await.unwrap().json()["id"], 7);
    rig.until("its turn has come", || rig.asked() == 11).await;
    rig.answer_next(8).await;
    assert_eq!(second.await.unwrap().json()["id"], 8);
}

#[tokio::test]
async fn who_leaves_while_it_waits_takes_no_turn() {
    let rig = narrow().await;
    let first = rig.calls(7);
    rig.until("it is with the server", || rig.asked() == 1)
        .await;
    let body = call("echo");
    let mut leaving = TcpStream::connect(rig.address).await.unwrap();
    let request = rig.request("POST", "", &body);
    leaving.write_all(request.as_bytes()).await.unwrap();
    let last = rig.calls(9);
    drop(leaving);
    rig.answer_next(7).await;
    first.await.unwrap();
    // Whichever of them came first: the one that is there is answered.
    let answers = async {
        while !last.is_finished() {
            if !rig.streams.lock().unwrap().is_empty() {
                rig.answer_next(9).await;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, answers).await.expect("a turn is left");
    assert_eq!(last.await.unwrap().json()["id"], 9);
}

#[tokio::test]
async fn streams_that_stay_open_are_counted_apart() {
    let rig = narrow().await;
    let session = rig.session().await;
    let get = rig.request("GET", &session, "");
    let (_stream, head) = rig.open(&get).await;
    assert_eq!(head.status, 200);
    // The second place is for somebody else.
    let refused = rig.raw(&get).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.headers.contains_key("retry-after"));
    let before = rig.asked();
    let called = rig.calls(3);
    rig.until("calls go on", || rig.asked() == before + 1).await;
    rig.streams.lock().unwrap().remove(0);
    rig.answer_next(3).await;
    assert_eq!(called.await.unwrap().json()["id"], 3);
    // The server has ended the stream, so that there is room for another.
    let again = async {
        loop {
            let (stream, head) = rig.open(&get).await;
            if head.status == 200 {
                return stream;
            }
        }
    };
    timeout(SOON, again).await.expect("there is room again");
}
