//! The front between a client that writes bytes and servers on pipes that the test plays.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::gate::{fakes::SOON, http::Leave};

mod leave;
mod sent;
mod shared;

/// One server, as the test sees it.
struct Server {
    caller: Caller,
    wire: BufReader<UnixStream>,
    place: Option<Box<dyn Send>>,
}

impl Server {
    async fn hears(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = timeout(SOON, self.wire.read_line(&mut line)).await;
        match read.expect("a line comes").unwrap() {
            0 => None,
            _ => Some(serde_json::from_str(&line).unwrap()),
        }
    }

    async fn says(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.wire.write_all(line.as_bytes()).await.unwrap();
    }

    async fn answers(&mut self, result: &Value) {
        let asked = self.hears().await.expect("a request");
        let id = &asked["id"];
        self.says(&json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string())
            .await;
    }
}

struct Fake {
    started: Mutex<mpsc::UnboundedSender<Server>>,
    /// The connections of which something goes on by itself.
    busy: Mutex<Vec<u64>>,
}

impl Servers for Fake {
    fn start(&self, caller: Caller, place: Box<dyn Send>) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let server = Server {
            caller,
            wire: BufReader::new(theirs),
            place: Some(place),
        };
        lock(&self.started).send(server).ok().unwrap();
        Ok(ours)
    }

    fn is_busy(&self, connection: u64) -> bool {
        lock(&self.busy).contains(&connection)
    }

    fn dropped(&self, _: u64, _: &str) {}

    fn bounds(&self) -> Bounds {
        Bounds::default()
    }
}

struct Rig {
    address: SocketAddr,
    front: Arc<Piped<Fake>>,
    servers: mpsc::UnboundedReceiver<Server>,
}

/// A response on its way.
struct Coming {
    status: u16,
    session: Option<String>,
    stream: BufReader<TcpStream>,
}

impl Coming {
    /// The data of the next event.
    async fn event(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            let read = timeout(SOON, self.stream.read_line(&mut line)).await;
            if read.expect("an event comes").unwrap() == 0 {
                return None;
            }
            if let Some(data) = line.trim_end().strip_prefix("data: ") {
                return Some(data.to_owned());
            }
        }
    }

    async fn body(mut self) -> String {
        let mut body = String::new();
        let read = timeout(SOON, self.stream.read_to_string(&mut body)).await;
        read.expect("it ends").unwrap();
        body
    }
}

impl Rig {
    async fn new() -> Self {
        Self::leaving(Leave::never()).await.0
    }

    /// One that serves until it is to leave, and tells when it has left.
    async fn leaving(leave: Leave) -> (Self, JoinHandle<io::Result<()>>) {
        let (sender, servers) = mpsc::unbounded_channel();
        let plan = ReceptionPlan {
            server: "fake".into(),
            hosts: Vec::new(),
            origins: Vec::new(),
            grants: None,
            prepare: None,
            issuer: None,
        };
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let listener = Listener {
            tcp,
            tls: None,
            capacity: crate::gate::http::Capacity::of(1_024),
            leave,
        };
        let fake = Fake {
            started: Mutex::new(sender),
            busy: Mutex::default(),
        };
        let front = Arc::new(Piped::new(&plan, &listener, fake).unwrap());
        let serving = serve(Arc::clone(&front), listener, |_, _| Some(1000));
        let served = tokio::spawn(serving);
        let rig = Self {
            address,
            front,
            servers,
        };
        (rig, served)
    }

    /// The same front, for who asks while somebody else starts servers.
    fn beside(&self) -> Self {
        Self {
            address: self.address,
            front: Arc::clone(&self.front),
            servers: mpsc::unbounded_channel().1,
        }
    }

    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Coming {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAccept: application/json, text/event-stream\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n{body}",
            self.address,
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut coming = Coming {
            status: 0,
            session: None,
            stream: BufReader::new(stream),
        };
        loop {
            let mut line = String::new();
            let read = timeout(SOON, coming.stream.read_line(&mut line)).await;
            read.expect("a response comes").unwrap();
            let line = line.trim_end();
            if let Some(status) = line.strip_prefix("HTTP/1.1 ") {
                coming.status = status[..3].parse().unwrap();
            } else if let Some(id) = line.strip_prefix("mcp-session-id: ") {
                coming.session = Some(id.to_owned());
            } else if line.is_empty() {
                return coming;
            }
        }
    }

    async fn post(&self, headers: &str, body: &str) -> Coming {
        self.ask("POST", "/mcp", headers, body).await
    }

    async fn server(&mut self) -> Server {
        let server = timeout(SOON, self.servers.recv()).await;
        server.expect("a server is started").unwrap()
    }

    /// A session: its header, and its server.
    async fn session(&mut self) -> (String, Server) {
        let begin = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
        let rig = self.beside();
        let asking = tokio::spawn(async move { rig.post("", begin).await });
        let mut server = self.server().await;
        server.answers(&json!({})).await;
        let reply = asking.await.unwrap();
        assert_eq!(reply.status, 200);
        let id = reply.session.expect("a session");
        assert_eq!(id.len(), 26, "128 bits, five in each letter");
        (format!("Mcp-Session-Id: {id}\r\n"), server)
    }
}

fn request(id: u32, method: &str) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": {} }).to_string()
}

#[tokio::test]
async fn each_session_has_a_server_that_ends_with_it() {
    let mut rig = Rig::new().await;
    let (one, mut first) = rig.session().await;
    let (other, mut second) = rig.session().await;
    assert_ne!(one, other);
    assert_ne!(first.caller.connection, second.caller.connection);
    assert_eq!(first.caller.lasting_connection(), None);
    let note = r#"{"jsonrpc":"2.0","method":"notifications/x","params":{"of":"one"}}"#;
    assert_eq!(rig.post(&one, note).await.status, 202);
    assert_eq!(first.hears().await.unwrap()["params"]["of"], "one");
    assert_eq!(rig.ask("DELETE", "/mcp", &one, "").await.status, 200);
    assert_eq!(first.hears().await, None, "its wire has ended");
    assert_eq!(rig.post(&one, note).await.status, 404);
    // One that ends by itself is not there any more either.
    assert_eq!(rig.post(&other, note).await.status, 202);
    assert!(second.hears().await.is_some());
    drop(second);
    let front = Arc::clone(&rig.front);
    timeout(SOON, async {
        while lock(&front.sessions)
            .values()
            .any(|session| !session.wire.is_gone())
        {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(rig.post(&other, note).await.status, 404);
    assert_eq!(rig.post("", note).await.status, 400);
}

#[tokio::test]
async fn what_the_server_says_besides_finds_a_stream() {
    let mut rig = Rig::new().await;
    let (session, mut server) = rig.session().await;
    // Nobody listens yet: it is kept.
    let early = r#"{"jsonrpc":"2.0","id":"r1","method":"roots/list"}"#;
    server.says(early).await;
    let kept = || {
        lock(&rig.front.sessions)
            .values()
            .any(|session| session.wire.keeps())
    };
    timeout(SOON, async {
        while !kept() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let mut listening = rig.ask("GET", "/mcp", &session, "").await;
    assert_eq!(listening.status, 200);
    assert_eq!(listening.event().await.as_deref(), Some(early));
    // While requests wait: with the one whose progress it is, else with the latest.
    let with_token =
        r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"progressToken":"t"}}}"#;
    let slow = rig.post(&session, with_token);
    let later = request(2, "y");
    let late = async {
        let asked = server.hears().await.unwrap();
        assert_eq!(asked["id"], 1);
        let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":1}}"#;
        server.says(progress).await;
        (server, progress)
    };
    let (mut slow, (mut server, progress)) = tokio::join!(slow, late);
    assert_eq!(slow.event().await.as_deref(), Some(progress));
    let message = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#;
    let talk = async {
        assert_eq!(server.hears().await.unwrap()["id"], 2);
        server.says(message).await;
        server.says(progress).await;
        server.says(r#"{"jsonrpc":"2.0","id":2,"result":{}}"#).await;
        server
            .says(r#"{"jsonrpc":"2.0","id":1,"result":{"late":1}}"#)
            .await;
        server
            .says(r#"{"jsonrpc":"2.0","id":1,"result":{"twice":1}}"#)
            .await;
        server.says(message).await;
        server
    };
    let (mut quick, server) = tokio::join!(rig.post(&session, &later), talk);
    assert_eq!(quick.event().await.as_deref(), Some(message));
    assert_eq!(
        quick.event().await.as_deref(),
        Some(r#"{"jsonrpc":"2.0","id":2,"result":{}}"#)
    );
    assert_eq!(quick.event().await, None);
    assert_eq!(slow.event().await.as_deref(), Some(progress));
    assert_eq!(
        slow.event().await.as_deref(),
        Some(r#"{"jsonrpc":"2.0","id":1,"result":{"late":1}}"#)
    );
    assert_eq!(slow.event().await, None);
    assert_eq!(listening.event().await.as_deref(), Some(message));
    drop(server);
    assert_eq!(listening.event().await, None);
}

#[tokio::test]
async fn request_that_waits_already_is_refused_and_one_that_is_taken_back_ends() {
    let mut rig = Rig::new().await;
    let (session, mut server) = rig.session().await;
    let mut first = rig.post(&session, &request(7, "x")).await;
    assert_eq!(first.status, 200, "a stream is begun before the answer");
    assert_eq!(rig.post(&session, &request(7, "x")).await.status, 400);
    let back = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#;
    assert_eq!(rig.post(&session, back).await.status, 202);
    assert_eq!(first.event().await, None);
    assert_eq!(server.hears().await.unwrap()["id"], 7);
    assert_eq!(
        server.hears().await.unwrap()["method"],
        "notifications/cancelled"
    );
}

#[tokio::test]
async fn idle_sessions_end_and_those_with_a_stream_stay() {
    let mut rig = Rig::new().await;
    let (idle, mut first) = rig.session().await;
    let (busy, second) = rig.session().await;
    let mut listening = rig.ask("GET", "/mcp", &busy, "").await;
    rig.front.sweep(Duration::from_nanos(1));
    assert_eq!(first.hears().await, None);
    let note = r#"{"jsonrpc":"2.0","method":"notifications/x"}"#;
    assert_eq!(rig.post(&idle, note).await.status, 404);
    assert_eq!(rig.post(&busy, note).await.status, 202);
    drop(second);
    assert_eq!(listening.event().await, None);
}

#[tokio::test]
async fn servers_are_bounded_until_nothing_of_them_is_left() {
    let mut rig = Rig::new().await;
    let mut kept = Vec::new();
    let begin = request(0, "initialize");
    for _ in 0..24 {
        kept.push(rig.session().await);
    }
    let full = rig.post("", &begin).await;
    assert_eq!(full.status, 503, "three quarters are the most for one");
    let (session, mut server) = kept.pop().unwrap();
    assert_eq!(rig.ask("DELETE", "/mcp", &session, "").await.status, 200);
    assert_eq!(server.hears().await, None);
    assert_eq!(
        rig.post("", &begin).await.status,
        503,
        "its processes still run"
    );
    server.place = None;
    rig.session().await;
}

const STATELESS: &str = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: METHOD\r\n";

/// A request of the stateless revision, with its headers.
fn stateless(id: &Value, method: &str, more: &Value) -> (String, String) {
    let mut params = json!({ "_meta": { "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} } });
    for (key, value) in more.as_object().unwrap() {
        params[key] = value.clone();
    }
    let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    (STATELESS.replace("METHOD", method), body.to_string())
}

#[tokio::test]
async fn stateless_requests_share_a_server_and_get_their_own_answers() {
    let mut rig = Rig::new().await;
    let speaks = json!({ "resultType": "complete", "supportedVersions": ["2026-07-28"] });
    let (headers, body) = stateless(&json!("same"), "x/one", &json!({}));
    let (other_headers, other_body) = stateless(&json!("same"), "x/two", &json!({}));
    let rig_too = rig.beside();
    let playing = async {
        let mut server = rig.server().await;
        server.answers(&speaks).await;
        let (one, two) = (server.hears().await.unwrap(), server.hears().await.unwrap());
        assert_ne!(one["id"], two["id"]);
        for asked in [&two, &one] {
            let id = &asked["id"];
            let answer = json!({ "jsonrpc": "2.0", "id": id, "result": { "of": asked["method"] } });
            server.says(&answer.to_string()).await;
        }
        server
    };
    let (one, two, mut server) = tokio::join!(
        async { rig_too.post(&headers, &body).await.body().await },
        async { rig_too.post(&other_headers, &other_body).await.body().await },
        playing,
    );
    assert!(
        one.contains("\"x/one\"") && one.contains("\"same\""),
        "{one}"
    );
    assert!(
        two.contains("\"x/two\"") && two.contains("\"same\""),
        "{two}"
    );

    // Who leaves takes the request back.
    let leaving = rig_too.post(&headers, &body).await;
    assert_eq!(leaving.status, 200);
    let asked = server.hears().await.unwrap();
    drop(leaving);
    let back = server.hears().await.unwrap();
    assert_eq!(back["method"], "notifications/cancelled");
    assert_eq!(back["params"]["requestId"], asked["id"]);

    // What is unknown is told with the status of the revision.
    let answering = async {
        let asked = server.hears().await.unwrap();
        let error = json!({ "code": -32601, "message": "no" });
        let answer = json!({ "jsonrpc": "2.0", "id": asked["id"], "error": error });
        server.says(&answer.to_string()).await;
    };
    let (unknown, ()) = tokio::join!(rig_too.post(&headers, &body), answering);
    assert_eq!(unknown.status, 404);
    // So is a request that does not say what its client can do, before anybody hears of it.
    let silent = body.replace("clientCapabilities", "clientInfo");
    let refused = rig_too.post(&headers, &silent).await;
    assert_eq!(refused.status, 400);
    assert!(refused.body().await.contains("-32602"));
    // And it is nobody's to turn it into a server of another revision, or to cancel for others.
    let (headers, body) = stateless(&json!(1), "initialize", &json!({}));
    assert_eq!(rig_too.post(&headers, &body).await.status, 404);
    let headers = STATELESS.replace("METHOD", "notifications/cancelled");
    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } });
    assert_eq!(
        rig_too.post(&headers, &cancel.to_string()).await.status,
        202
    );
    let (headers, body) = stateless(&json!(2), "x/last", &json!({}));
    let hearing = async { server.hears().await.unwrap() };
    let (_reply, heard) = tokio::join!(rig_too.post(&headers, &body), hearing);
    assert_eq!(heard["method"], "x/last");
}

#[tokio::test]
async fn server_of_sessions_only_is_not_made_to_speak_without() {
    let mut rig = Rig::new().await;
    let (headers, body) = stateless(&json!(1), "tools/list", &json!({}));
    let rig_too = rig.beside();
    let playing = async {
        let mut server = rig.server().await;
        let asked = server.hears().await.unwrap();
        assert_eq!(asked["method"], "server/discover");
        let error = json!({ "code": -32602, "message": "before initialize" });
        let answer = json!({ "jsonrpc": "2.0", "id": asked["id"], "error": error });
        server.says(&answer.to_string()).await;
        assert_eq!(server.hears().await, None, "it is of no use");
    };
    let (refused, ()) = tokio::join!(rig_too.post(&headers, &body), playing);
    assert_eq!(refused.status, 400);
    let told: Value = serde_json::from_str(&refused.body().await).unwrap();
    assert_eq!(told["error"]["code"], -32022);
    assert_eq!(told["error"]["data"]["supported"][0], "2025-11-25");
    // The next one is not asked about it again.
    assert_eq!(rig_too.post(&headers, &body).await.status, 400);
    assert!(rig.servers.try_recv().is_err());
}

#[tokio::test]
async fn client_of_2024_has_one_stream_and_its_session_ends_with_it() {
    let mut rig = Rig::new().await;
    let mut stream = rig.ask("GET", "/sse", "", "").await;
    let path = stream.event().await.expect("where to post");
    let mut server = rig.server().await;
    let posted = rig.ask("POST", &path, "", &request(1, "initialize")).await;
    assert_eq!(posted.status, 202);
    server.answers(&json!({ "x": 1 })).await;
    let answer = stream.event().await.unwrap();
    assert!(answer.contains("\"id\":1"), "{answer}");
    // It is a session of this transport, and of no other.
    let id = path.rsplit('=').next().unwrap();
    let header = format!("Mcp-Session-Id: {id}\r\n");
    assert_eq!(rig.post(&header, &request(2, "x")).await.status, 404);
    let elsewhere = "/messages?sessionId=none";
    assert_eq!(
        rig.ask("POST", elsewhere, "", &request(2, "x"))
            .await
            .status,
        404
    );
    assert_eq!(
        rig.ask("POST", "/messages", "", &request(2, "x"))
            .await
            .status,
        400
    );
    drop(stream);
    assert_eq!(server.hears().await, None);
}
