//! Which requests of a client with one stream are known to wait: those that the server was sent.

use super::*;

/// Whether a message is sent. If it is not soon, whoever sends it leaves.
async fn is_sent(wire: &Wire, id: Option<&str>, message: &str) -> bool {
    let id = id.and_then(Id::parse);
    let sent = timeout(Duration::from_millis(50), wire.post(id, message.as_bytes()));
    sent.await.is_ok_and(|sent| sent.is_ok())
}

#[tokio::test]
async fn request_whose_client_leaves_before_it_is_sent_does_not_wait() {
    let (ours, server) = UnixStream::pair().unwrap();
    let (answers, whose) = (Shares::new(1 << 20), Principal::User(1000));
    let wire = Wire::new(ours, Kind::OneStream, 1 << 20, answers, whose);
    let mut stream = wire.listen();
    assert!(is_sent(&wire, Some("5"), &request(5, "x")).await);
    // The server takes nothing more.
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    while is_sent(&wire, None, &long).await {}
    assert!(!is_sent(&wire, Some("6"), &request(6, "x")).await);
    assert_eq!(wire.asked(), 1);
    // Nor does another one of the same id take the place of the first.
    assert!(!is_sent(&wire, Some("5"), &request(5, "x")).await);
    assert_eq!(wire.asked(), 1);
    let mut server = BufReader::new(server);
    let answer = "{\"jsonrpc\":\"2.0\",\"id\":5,\"result\":{}}\n";
    server.write_all(answer.as_bytes()).await.unwrap();
    let told = timeout(SOON, stream.recv()).await.unwrap().unwrap();
    assert_eq!(told.text, answer.trim());
    assert!(!wire.waits() && wire.asked() == 0);
}
