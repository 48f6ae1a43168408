//! Many clients at once, and more than there is room for.

use tokio::task::JoinSet;

use super::*;

const CLIENTS: usize = 1_000;

async fn crowded(connections: usize) -> Arc<Rig> {
    let rig = Rig::with_connections(Box::new(good), Bounds::default(), None, connections);
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
