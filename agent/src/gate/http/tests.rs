//! The front between a client that writes bytes and a server that the test plays.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use super::{
    refusal::{Body, full},
    *,
};
use crate::{
    gate::{
        Bounds, CallEnd, Gate, GateEvent, Side,
        fakes::{FakeCaptures, FakePolicy, SOON},
    },
    principal::{Grants, Principal},
    session::{EndReason, Protocols, SessionEnd, SessionId},
};

mod crowd;
mod grants;
mod patience;
mod questions;

/// What the server got.
#[derive(Clone, Debug)]
struct Got {
    method: String,
    headers: HeaderMap,
    body: String,
}

/// How the server answers: status, headers, body.
type Script = Box<dyn Fn(&Got) -> Response<Body> + Send + Sync>;

struct Rig {
    address: std::net::SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    policy: Arc<FakePolicy>,
    captures: Arc<FakeCaptures>,
    events: mpsc::UnboundedReceiver<GateEvent>,
    ends: mpsc::Sender<SessionEnd>,
    /// What the server's streams still say; they end when these are dropped.
    streams: Arc<Mutex<Vec<mpsc::Sender<String>>>>,
}

/// A response, read to its end.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: HashMap<String, String>,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    fn code(&self) -> Option<i64> {
        self.json()["error"]["code"].as_i64()
    }
}

impl Rig {
    /// A front before a server that answers as a good one does.
    async fn new() -> Self {
        Self::before(Box::new(good)).await
    }

    async fn before(script: Script) -> Self {
        Self::with(script, Bounds::default()).await
    }

    async fn with(script: Script, bounds: Bounds) -> Self {
        Self::guarded(script, bounds, None).await
    }

    async fn guarded(script: Script, bounds: Bounds, grants: Option<Arc<Grants>>) -> Self {
        Self::with_capacity(script, bounds, grants, Capacity::of(1_024)).await
    }

    async fn with_capacity(
        script: Script,
        bounds: Bounds,
        grants: Option<Arc<Grants>>,
        capacity: Capacity,
    ) -> Self {
        Self::leaving(Leave::never(), script, bounds, grants, capacity).await
    }

    /// One that serves until it is to leave.
    async fn leaving(
        leave: Leave,
        script: Script,
        bounds: Bounds,
        grants: Option<Arc<Grants>>,
        capacity: Capacity,
    ) -> Self {
        let got = Arc::new(Mutex::new(Vec::new()));
        let streams = Arc::new(Mutex::new(Vec::new()));
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = format!("http://{}/inner/mcp", server.local_addr().unwrap());
        tokio::spawn(play(server, script, Arc::clone(&got), Arc::clone(&streams)));

        let policy = Arc::new(FakePolicy::default());
        let captures = Arc::new(FakeCaptures::default());
        let (observer, events) = mpsc::unbounded_channel();
        let (ends, ended) = mpsc::channel(16);
        let gate = Arc::new(Gate {
            policy: Arc::clone(&policy),
            captures: Arc::clone(&captures),
            observer,
            bounds,
        });
        let plan = plan(&upstream, grants);
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let listener = Listener {
            tcp,
            tls: None,
            capacity,
            leave,
        };
        tokio::spawn(async move { serve(&plan, listener, gate, ended, |_, _| Some(1000)).await });
        Self {
            address,
            got,
            policy,
            captures,
            events,
            ends,
            streams,
        }
    }

    /// Sends a request as it is written and reads the response's head.
    async fn open(&self, request: &str) -> (BufReader<TcpStream>, Reply) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut reply = Reply {
            status: 0,
            headers: HashMap::new(),
            body: String::new(),
        };
        loop {
            let mut line = String::new();
            timeout(SOON, stream.read_line(&mut line))
                .await
                .expect("a response comes")
                .unwrap();
            let line = line.trim_end();
            if let Some(status) = line.strip_prefix("HTTP/1.1 ") {
                reply.status = status[..3].parse().unwrap();
            } else if let Some((name, value)) = line.split_once(": ") {
                reply.headers.insert(name.to_owned(), value.to_owned());
            } else {
                return (stream, reply);
            }
        }
    }

    async fn raw(&self, request: &str) -> Reply {
        let (mut stream, mut reply) = self.open(request).await;
        let mut body = Vec::new();
        timeout(SOON, stream.read_to_end(&mut body))
            .await
            .expect("the response ends")
            .unwrap();
        if reply.headers.get("transfer-encoding").map(String::as_str) == Some("chunked") {
            body = chunks(&body);
        }
        reply.body = String::from_utf8(body).unwrap();
        reply
    }

    fn request(&self, method: &str, headers: &str, body: &str) -> String {
        let host = self.address;
        let length = if method == "POST" {
            format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            )
        } else {
            String::new()
        };
        format!(
            "{method} /mcp HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAccept: application/json, text/event-stream\r\n{length}{headers}\r\n{body}"
        )
    }

    async fn post(&self, headers: &str, body: &str) -> Reply {
        self.raw(&self.request("POST", headers, body)).await
    }

    /// Shakes hands; the header that belongs to the session.
    async fn session(&self) -> String {
        let reply = self
            .post(
                "",
                r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#,
            )
            .await;
        assert_eq!(reply.status, 200, "{reply:?}");
        format!("Mcp-Session-Id: {}\r\n", reply.headers["mcp-session-id"])
    }

    fn got(&self) -> Vec<Got> {
        std::mem::take(&mut *self.got.lock().unwrap())
    }

    /// Waits until something is so.
    async fn until(&self, what: &str, so: impl Fn() -> bool) {
        let waiting = async {
            while !so() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, waiting).await.expect(what);
    }
}

fn plan(upstream: &str, grants: Option<Arc<Grants>>) -> FrontPlan {
    FrontPlan {
        upstream: upstream.parse().unwrap(),
        authorities: Authorities::nobody().unwrap(),
        starting: false,
        reception: ReceptionPlan {
            server: "fake".into(),
            hosts: vec!["named.example".to_owned()],
            origins: vec!["https://inspector.example".to_owned()],
            grants,
            prepare: None,
            issuer: Some("https://login.example".parse().unwrap()),
        },
    }
}

/// A chunked body, put together.
fn chunks(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|end| end == b"\r\n") {
        let length = usize::from_str_radix(str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        whole.extend_from_slice(&body[end + 2..][..length]);
        body = &body[end + 2 + length + 2..];
    }
    whole
}

/// Plays the server.
async fn play(
    listener: TcpListener,
    script: Script,
    got: Arc<Mutex<Vec<Got>>>,
    streams: Arc<Mutex<Vec<mpsc::Sender<String>>>>,
) {
    let script = Arc::new(script);
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (script, got) = (Arc::clone(&script), Arc::clone(&got));
        let streams = Arc::clone(&streams);
        let service = service_fn(move |request: Request<Incoming>| {
            let (script, got) = (Arc::clone(&script), Arc::clone(&got));
            let streams = Arc::clone(&streams);
            async move {
                let (head, body) = request.into_parts();
                assert_eq!(head.uri.path(), "/inner/mcp");
                let body = body.collect().await.unwrap().to_bytes();
                let this = Got {
                    method: head.method.to_string(),
                    headers: head.headers,
                    body: String::from_utf8(body.to_vec()).unwrap(),
                };
                got.lock().unwrap().push(this.clone());
                let mut response = script(&this);
                // A stream that the test goes on with.
                if response.headers().contains_key("x-open") {
                    let (sender, receiver) = mpsc::channel::<String>(16);
                    streams.lock().unwrap().push(sender);
                    let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
                        let event = receiver.recv().await?;
                        let frame = Frame::data(Bytes::from(event));
                        Some((Ok::<_, std::io::Error>(frame), receiver))
                    });
                    *response.body_mut() = StreamBody::new(frames).boxed_unsync();
                }
                Ok::<_, Infallible>(response)
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn answer(kind: &str, body: &str) -> Response<Body> {
    Response::builder()
        .header("content-type", kind)
        .header("x-server", "kept")
        .header("access-control-allow-origin", "*")
        .body(full(body.to_owned()))
        .unwrap()
}

/// Answers as a good server does.
fn good(got: &Got) -> Response<Body> {
    if got.method == "DELETE" {
        return Response::new(full(""));
    }
    if got.method == "GET" {
        let mut response = answer("text/event-stream", "");
        response
            .headers_mut()
            .insert("x-open", "1".parse().unwrap());
        return response;
    }
    let message: Value = serde_json::from_str(&got.body).unwrap();
    let id = &message["id"];
    match message["method"].as_str() {
        Some("initialize") => {
            let mut response = answer(
                "application/json",
                &format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"result":{{"protocolVersion":"2025-06-18"}}}}"#
                ),
            );
            let session = format!(
                "s-{}",
                got.headers
                    .get("x-name")
                    .map_or("1", |name| name.to_str().unwrap())
            );
            response
                .headers_mut()
                .insert("mcp-session-id", session.parse().unwrap());
            response
        }
        Some("tools/list") => answer(
            "application/json; charset=utf-8",
            &LIST.replace("ID", &id.to_string()),
        ),
        Some("tools/call") if message["params"]["name"] == "open" => {
            let mut response = answer("text/event-stream", "");
            response
                .headers_mut()
                .insert("x-open", "1".parse().unwrap());
            response
        }
        Some("tools/call") => answer(
            "application/json",
            &format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"started"}}]}}}}"#
            ),
        ),
        _ => {
            let mut response = answer("application/json", "");
            *response.status_mut() = hyper::StatusCode::ACCEPTED;
            response
        }
    }
}

const LIST: &str = r#"{"jsonrpc":"2.0", "id":ID,"result":{"ttlMs":5,"cacheScope":"private","resultType":"complete","new":[1 ],"tools":[{"name":"hidden1"},{"name":"a" }],"_meta":{"k":1}}}"#;
const LIST_SHOWN: &str = r#"{"jsonrpc":"2.0", "id":ID,"result":{"ttlMs":5,"cacheScope":"private","resultType":"complete","new":[1 ],"tools":[{"name":"a" }],"_meta":{"k":1}}}"#;

fn call(tool: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}"}}}}"#)
}

/// The same in the stateless revision, and its headers.
fn stateless(tool: &str) -> (String, String) {
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"n":9}},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}}}}"#
    );
    let headers = format!(
        "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\n"
    );
    (headers, body)
}

#[tokio::test]
async fn doors_other_sites_stay_outside() {
    let rig = Rig::new().await;
    let port = rig.address.port();
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let request = |host: &str, more: &str| {
        format!(
            "POST /mcp HTTP/1.1\r\n{host}{more}Connection: close\r\nContent-Type: application/json\r\nAccept: */*\r\nContent-Length: {}\r\n\r\n{ping}",
            ping.len()
        )
    };
    for host in ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"] {
        let host = format!("Host: {host}:{port}\r\n");
        assert_eq!(rig.raw(&request(&host, "")).await.status, 200, "{host}");
    }
    for (host, status) in [
        ("evil.example".to_owned(), 403),
        (format!("evil.example:{port}"), 403),
        ("127.0.0.1".to_owned(), 403),
        (format!("127.0.0.1:{}", port ^ 1), 403),
        (format!("localhost.evil.example:{port}"), 403),
        (format!("localhost:{port}\r\nHost: localhost:{port}"), 400),
    ] {
        let reply = rig.raw(&request(&format!("Host: {host}\r\n"), "")).await;
        assert_eq!(reply.status, status, "{host}");
    }
    assert_eq!(rig.raw(&request("", "")).await.status, 403);
    let host = format!("Host: localhost:{port}\r\n");
    for (origin, status) in [
        ("http://localhost:6274", 200),
        ("http://127.0.0.1", 200),
        ("https://inspector.example", 200),
        ("https://evil.example", 403),
        ("https://inspector.example.evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("http://evil.example:127.0.0.1", 403),
        ("null", 403),
        ("file://", 403),
        ("", 403),
    ] {
        let origin = format!("Origin: {origin}\r\n");
        let reply = rig.raw(&request(&host, &origin)).await;
        assert_eq!(reply.status, status, "{origin}");
        assert!(!reply.headers.contains_key("access-control-allow-origin"));
    }
    // What a browser sends for a page that only wants something shown has no origin.
    for (site, status) in [
        ("cross-site", 403),
        ("same-site", 403),
        ("same-origin", 200),
        ("none", 200),
    ] {
        let site = format!("Sec-Fetch-Site: {site}\r\n");
        let reply = rig.raw(&request(&host, &site)).await;
        assert_eq!(reply.status, status, "{site}");
    }
    assert!(
        rig.got()
            .iter()
            .all(|got| !got.headers.contains_key("origin"))
    );
}

#[tokio::test]
async fn heads_that_are_not_for_this_are_refused() {
    let rig = Rig::new().await;
    let good = rig.request("POST", "", &call("echo"));
    for (from, to, status) in [
        ("POST /mcp ", "POST /other ", 404),
        ("POST /mcp ", "PUT /mcp ", 405),
        ("POST /mcp ", "OPTIONS /mcp ", 405),
        (
            "Content-Type: application/json",
            "Content-Type: text/plain",
            415,
        ),
        (
            "Content-Type: application/json",
            "Content-Type: application/json; charset=utf-16",
            415,
        ),
        ("Content-Type: application/json", "X: y", 415),
        (
            "Content-Type: application/json",
            "Content-Type: application/json\r\nContent-Encoding: gzip",
            415,
        ),
        (
            "application/json, text/event-stream",
            "application/json",
            406,
        ),
        (
            "application/json, text/event-stream",
            "text/event-stream",
            406,
        ),
        (
            "application/json, text/event-stream",
            "application/json, text/event-stream;q=0",
            406,
        ),
        (
            "Connection",
            "MCP-Protocol-Version: 2099-01-01\r\nConnection",
            400,
        ),
        (
            "Connection",
            "MCP-Protocol-Version: 2025-06-18\r\nMCP-Protocol-Version: 2026-07-28\r\nConnection",
            400,
        ),
        ("Connection", "Mcp-Session-Id: nobody\r\nConnection", 404),
        ("Connection", "Mcp-Method: tools/list\r\nConnection", 400),
        ("Connection", "Mcp-Name: other\r\nConnection", 400),
    ] {
        let reply = rig.raw(&good.replacen(from, to, 1)).await;
        assert_eq!(reply.status, status, "{to}");
        assert!(reply.code().is_some(), "{to}: {reply:?}");
    }
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let reply = rig.raw(&rig.request("POST", &many, &call("echo"))).await;
    assert_eq!(reply.status, 431);
    assert!(rig.got().is_empty(), "nothing reached the server");
    assert_eq!(rig.raw(&good).await.status, 200);
}

#[tokio::test]
async fn calls_smuggled_are_refused() {
    let mut rig = Rig::new().await;
    let session = rig.session().await;
    rig.got();
    let evil = r#"{"id":2,"method":"tools/call","params":{"name":"deny"}}"#;
    for (body, id) in [
        (format!("[{evil}]"), json!(null)),
        (format!("[{evil},{evil}]"), json!(null)),
        (r#"{"id":1,"method":"ping","method":"tools/call","params":{"name":"deny"}}"#.into(), json!(1)),
        (r#"{"id":1,"method":"ping","METHOD":"tools/call"}"#.into(), json!(1)),
        (r#"{"id":1,"method":"tools/call","params":{"name":"echo","Name":"deny"}}"#.into(), json!(1)),
        (r#"{"id":1,"method":"tools/call","params":{"name":"echo","name":"deny"}}"#.into(), json!(1)),
        (r#"{"id":1,"method":"tools/call","params":{"name":"echo","arguments":{"a":{"b":1,"b":2}}}}"#.into(), json!(1)),
        (r#"{"id":1,"method":"tools/call","params":{"name":"echo","arguments":[1]}}"#.into(), json!(1)),
        (r#"{"id":1,"method":"tools/call","params":{"name":"echo","arguments":"{}"}}"#.into(), json!(1)),
        (r#"{"method":"tools/call","params":{"name":"echo"}}"#.into(), json!(null)),
        (r#"{"id":null,"method":"tools/call","params":{"name":"echo"}}"#.into(), json!(null)),
        (r#"{"id":null,"method":"tools/list"}"#.into(), json!(null)),
        (r#"{"id":1,"method":"Tools/Call","params":{"name":"deny"}}"#.into(), json!(1)),
        (format!("{evil}{evil}"), json!(null)),
        (format!("{evil}\n{evil}"), json!(null)),
        (String::new(), json!(null)),
    ] {
        for headers in ["", session.as_str()] {
            let reply = rig.post(headers, &body).await;
            assert_eq!(reply.status, 400, "{body}: {reply:?}");
            assert!(reply.code().is_some(), "{body}: {reply:?}");
            assert_eq!(reply.json()["id"], id, "{body}");
        }
    }
    assert!(rig.got().is_empty(), "nothing reached the server");
    let mut dropped = 0;
    while let Ok(event) = rig.events.try_recv() {
        dropped += usize::from(matches!(
            event,
            GateEvent::Dropped {
                from: Side::Client,
                ..
            }
        ));
    }
    assert!(dropped > 10, "{dropped}");
}

#[tokio::test]
async fn calls_denied_and_hidden_are_answered_as_over_pipes() {
    let mut rig = Rig::new().await;
    let reply = rig.post("", &call("deny")).await;
    assert_eq!(
        (reply.status, &reply.json()["result"]["isError"]),
        (200, &json!(true))
    );
    assert_eq!(
        reply.json()["result"]["content"][0]["text"],
        "Too \"wide\". Ask for less. (rule: p.yaml:3:7 tools.x)"
    );
    let reply = rig.post("", &call("hidden")).await;
    assert_eq!((reply.status, reply.code()), (200, Some(-32602)));
    assert!(rig.got().is_empty(), "nothing reached the server");
    assert_eq!(rig.policy.settled(), [CallEnd::NotForwarded]);
    // Both are told of with their caller, which is the same: neither belongs to an MCP session.
    let mut callers = Vec::new();
    while let Ok(event) = rig.events.try_recv() {
        if let GateEvent::Call(call) = event {
            callers.push(call.caller);
        }
    }
    let [denied, hidden] = callers.try_into().unwrap();
    assert_eq!(denied, hidden);
    assert_eq!(denied.principal, Principal::User(1000));
}

#[tokio::test]
async fn what_is_forwarded_keeps_its_bytes_and_headers() {
    let rig = Rig::new().await;
    let body = "{ \"jsonrpc\":\"2.0\",\"id\": \"x\\u0041\",\"future\":[1.50],\"method\":\"tools/call\",\"params\":{\"name\":\"echo\"}}";
    let headers = "X-Unknown: one\r\nX-Unknown: two\r\nAuthorization: Bearer t\r\nX-Hop: 1\r\nConnection: X-Hop\r\nAccept-Encoding: gzip\r\n";
    let reply = rig.post(headers, body).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.headers["x-server"], "kept");
    let [got] = rig.got().try_into().unwrap();
    assert_eq!(got.body, body);
    let unknown: Vec<_> = got.headers.get_all("x-unknown").iter().collect();
    assert_eq!(unknown, ["one", "two"]);
    assert_eq!(got.headers["authorization"], "Bearer t");
    for gone in ["x-hop", "accept-encoding"] {
        assert!(!got.headers.contains_key(gone), "{gone}");
    }
}

#[tokio::test]
async fn tools_hidden_are_cut_out_of_json_and_events() {
    let ask = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;
    let shown = LIST_SHOWN.replace("ID", "7");
    let rig = Rig::new().await;
    assert_eq!(rig.post("", ask).await.body, shown);

    let list = LIST.replace("ID", "7");
    let events = format!(
        ": hello\n\nevent: message\nid: 1\ndata: {{\"method\":\"x\" }}\n\nid: 2\nretry: 5\ndata: {list}\n\ndata: rubbish\n\ndata: [{{\"id\":8,\"result\":{{\"tools\":[{{\"name\":\"hidden\"}}]}}}},{{\"method\":\"y\"}}]\nid: 3\n\n"
    );
    let rig = Rig::before(Box::new(move |_| answer("text/event-stream", &events))).await;
    let reply = rig.post("", ask).await;
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    assert_eq!(
        reply.body,
        format!(
            ": hello\n\nevent: message\nid: 1\ndata: {{\"method\":\"x\" }}\n\nid: 2\nretry: 5\ndata: {shown}\n\ndata: {{\"id\":8,\"result\":{{\"tools\":[]}}}}\n\ndata: {{\"method\":\"y\"}}\nid: 3\n\n"
        )
    );
}

#[tokio::test]
async fn sessions_begin_belong_and_end() {
    let rig = Rig::new().await;
    let one = rig.session().await;
    let reply = rig
        .post(
            "X-Name: 1\r\n",
            r#"{"jsonrpc":"2.0","id":0,"method":"initialize"}"#,
        )
        .await;
    assert_eq!(reply.status, 502, "one id is one session: {reply:?}");
    rig.got();

    // The same request id in flight twice, in two sessions: each is its own.
    let other = rig
        .post(
            "X-Name: 2\r\n",
            r#"{"jsonrpc":"2.0","id":0,"method":"initialize"}"#,
        )
        .await;
    let other = format!("Mcp-Session-Id: {}\r\n", other.headers["mcp-session-id"]);
    let (_first, reply) = rig.open(&rig.request("POST", &one, &call("open"))).await;
    assert_eq!(reply.status, 200);
    assert_eq!(rig.post(&other, &call("echo")).await.status, 200);
    let taken = rig.post(&one, &call("echo")).await;
    assert_eq!(
        (taken.status, taken.code()),
        (200, Some(-32600)),
        "{taken:?}"
    );

    let again = format!("{one}MCP-Protocol-Version: 2025-06-18\r\n");
    let reply = rig
        .post(
            &again,
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        )
        .await;
    assert_eq!((reply.status, reply.body.as_str()), (202, ""));
    let reply = rig
        .post(&one, r#"{"jsonrpc":"2.0","id":0,"method":"initialize"}"#)
        .await;
    assert_eq!(reply.status, 400);
    assert_eq!(rig.raw(&rig.request("DELETE", &one, "")).await.status, 200);
    assert_eq!(rig.post(&one, &call("echo")).await.status, 404);
    assert_eq!(rig.raw(&rig.request("DELETE", &one, "")).await.status, 404);
    assert_eq!(rig.raw(&rig.request("DELETE", "", "")).await.status, 400);
    // Of a server without sessions.
    let (_, reply) = rig.open(&rig.request("GET", "", "")).await;
    assert_eq!(reply.status, 200);
    assert!(rig.got().iter().any(|got| got.method == "DELETE"));
}

#[tokio::test]
async fn sessions_that_the_server_has_lost_are_forgotten() {
    let rig = Rig::before(Box::new(|got| {
        if got.headers.contains_key("mcp-session-id") {
            let mut response = answer("application/json", r#"{"jsonrpc":"2.0","id":"x","error":{"code":-32600,"message":"Session not found"}}"#);
            *response.status_mut() = hyper::StatusCode::NOT_FOUND;
            return response;
        }
        good(got)
    }))
    .await;
    let session = rig.session().await;
    rig.got();
    let reply = rig.post(&session, &call("echo")).await;
    assert_eq!((reply.status, reply.code()), (404, Some(-32600)));
    assert_eq!(rig.got().len(), 1);
    assert_eq!(rig.policy.settled(), [CallEnd::RpcError]);
    assert_eq!(rig.post(&session, &call("echo")).await.status, 404);
    assert!(rig.got().is_empty());
}

#[tokio::test]
async fn captures_are_granted_and_their_end_is_told() {
    let rig = Rig::new().await;
    let session = rig.session().await;
    let resume = format!("{session}Last-Event-ID: e7\r\n");
    let (mut stream, reply) = rig.open(&rig.request("GET", &resume, "")).await;
    assert_eq!(
        (reply.status, reply.headers["content-type"].as_str()),
        (200, "text/event-stream")
    );
    assert_eq!(rig.got().last().unwrap().headers["last-event-id"], "e7");

    let body = call("start").replace("\"start\"", "\"start\",\"arguments\":{\"n\":99999}");
    let reply = rig.post(&session, &body).await;
    assert_eq!(
        reply.json()["result"]["content"][1]["text"],
        "capwarden granted s1: any, 1000 packets\nn: 99999 → 1000, the policy allows at most 1000 packets"
    );
    assert!(rig.got().last().unwrap().body.contains("\"n\":1000"));
    assert_eq!(rig.captures.log(), ["open s1", "replied s1"]);
    let end = SessionEnd {
        session: SessionId(1),
        reason: EndReason::PacketCap,
        packets: 1000,
        bytes: 64000,
        sockets: 1,
        milliseconds: 5,
        protocols: Protocols::default(),
        proxy: None,
        program: None,
    };
    rig.ends.send(end).await.unwrap();
    let streams = rig.streams.lock().unwrap().clone();
    streams[0]
        .send("data: {\"method\":\"x\"}\n\n".into())
        .await
        .unwrap();
    let mut heard = String::new();
    while !(heard.contains("capture s1 ended") && heard.contains("\"x\"")) {
        let read = timeout(SOON, stream.read_line(&mut heard))
            .await
            .unwrap()
            .unwrap();
        assert_ne!(read, 0, "{heard}");
    }
}

#[tokio::test]
async fn stateless_headers_must_say_what_the_body_says() {
    let rig = Rig::new().await;
    let (headers, body) = stateless("echo");
    let reply = rig.post(&headers, &body).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let wrapped = headers.replace("Mcp-Name: echo", "Mcp-Name: =?base64?ZWNobw==?=");
    assert_eq!(rig.post(&wrapped, &body).await.status, 200);
    rig.got();
    for (from, to) in [
        ("Mcp-Method: tools/call", "Mcp-Method: tools/list"),
        ("Mcp-Method: tools/call", "Mcp-Method: Tools/Call"),
        ("Mcp-Method: tools/call\r\n", ""),
        ("Mcp-Name: echo", "Mcp-Name: deny"),
        ("Mcp-Name: echo\r\n", ""),
        ("Mcp-Name: echo", "Mcp-Name: echo\r\nMcp-Name: echo"),
        ("Mcp-Name: echo", "Mcp-Name: =?base64?ZWNobw=?="),
        ("2026-07-28", "2025-11-25"),
        ("MCP-Protocol-Version: 2026-07-28\r\n", ""),
    ] {
        let reply = rig.post(&headers.replace(from, to), &body).await;
        assert_eq!((reply.status, reply.code()), (400, Some(-32020)), "{to}");
        assert_eq!(reply.json()["id"], 1, "{to}");
    }
    let old = body.replace("2026-07-28", "2025-11-25");
    assert_eq!(rig.post(&headers, &old).await.code(), Some(-32020));
    let none = body.replace("io.modelcontextprotocol/protocolVersion", "x");
    assert_eq!(rig.post(&headers, &none).await.code(), Some(-32602));
    // A session belongs to another era, and a server may read that header only.
    let session = format!("{headers}Mcp-Session-Id: s\r\n");
    assert_eq!(rig.post(&session, &body).await.status, 400);
    // What is checked here must reach the server.
    for named in ["mcp-protocol-version", "close, Mcp-Name", "Authorization"] {
        let dropped = format!("{headers}Connection: {named}\r\n");
        assert_eq!(rig.post(&dropped, &body).await.status, 400, "{named}");
    }
    let unknown = headers.replace("2026-07-28", "2027-01-01");
    let reply = rig.post(&unknown, &body).await;
    assert_eq!((reply.status, reply.code()), (400, Some(-32022)));
    // As `server/discover` would say: a message of that revision is told of its kind only.
    assert_eq!(
        reply.json()["error"]["data"]["supported"],
        json!(["2026-07-28"])
    );
    assert_eq!(reply.json()["id"], 1);
    // No stream to listen to, no session to end, nothing of the client's to answer.
    for method in ["GET", "DELETE"] {
        assert_eq!(
            rig.raw(&rig.request(method, &headers, "")).await.status,
            405
        );
    }
    let response = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    assert_eq!(
        rig.post("MCP-Protocol-Version: 2026-07-28\r\n", response)
            .await
            .status,
        400
    );
    assert!(rig.got().is_empty(), "nothing reached the server");
    // A denial is a result of its revision.
    let (headers, body) = stateless("deny");
    assert_eq!(
        rig.post(&headers, &body).await.json()["result"]["resultType"],
        "complete"
    );
}

#[tokio::test]
async fn stateless_call_is_asked_by_its_result_and_comes_again() {
    let rig = Rig::new().await;
    let (headers, body) = stateless("ask");
    let can = r#"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}"#;
    let asks = body.replace("2026-07-28\"", can);
    let asked = rig.post(&headers, &asks).await;
    assert_eq!(asked.status, 200);
    assert_eq!(asked.json()["result"]["resultType"], "input_required");
    assert!(rig.got().is_empty());
    // One that cannot be asked is told that its call is pending.
    let pending = rig.post(&headers, &body).await;
    assert_eq!(pending.json()["result"]["isError"], true);
    let answer = r#","requestState":"ours:1","inputResponses":{"capwarden_approval":{"action":"accept","content":{"approve":true}}}}}"#;
    let again = asks.strip_suffix("}}").unwrap().to_owned() + answer;
    assert_eq!(rig.post(&headers, &again).await.status, 200);
    let got = rig.got();
    assert_eq!(got.len(), 1);
    let wanted: Value = serde_json::from_str(&asks).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&got[0].body).unwrap(), wanted);
}

#[tokio::test]
async fn stateless_headers_of_arguments_follow_what_is_changed() {
    let rig = Rig::new().await;
    let (headers, body) = stateless("start");
    let body = body.replace("\"n\":9", "\"n\":99999,\"if\":\"lo\"");
    let more = "Mcp-Param-Packets: 99999\r\nMcp-Param-Interface: lo\r\nX-Number: 99999\r\n";
    let reply = rig.post(&format!("{headers}{more}"), &body).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let [got] = rig.got().try_into().unwrap();
    assert!(got.body.contains("\"n\":1000"), "{got:?}");
    assert_eq!(got.headers["mcp-param-packets"], "1000");
    assert_eq!(got.headers["mcp-param-interface"], "lo");
    assert_eq!(got.headers["x-number"], "99999");
}

#[tokio::test]
async fn stateless_disconnection_takes_the_call_back() {
    let rig = Rig::new().await;
    let (headers, body) = stateless("open");
    let (stream, reply) = rig.open(&rig.request("POST", &headers, &body)).await;
    assert_eq!(reply.status, 200);
    let server = rig.streams.lock().unwrap()[0].clone();
    drop(stream);
    rig.until("the server sees it", || server.is_closed()).await;
    rig.until("it is settled", || {
        !rig.policy.settled.lock().unwrap().is_empty()
    })
    .await;
    assert_eq!(rig.policy.settled(), [CallEnd::Lost]);

    // While its session is being opened: it is never forwarded.
    rig.got();
    rig.captures.permits.forget_permits(usize::MAX);
    let (headers, body) = stateless("start");
    let request = rig.request("POST", &headers, &body);
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut events = rig.events;
    while events.try_recv().is_ok() {}
    drop(stream);
    loop {
        let event = timeout(SOON, events.recv())
            .await
            .expect("it is cancelled")
            .unwrap();
        if matches!(&event, GateEvent::Cancelled { session: None, .. }) {
            break;
        }
    }
    rig.captures.permits.add_permits(1);
    let ended = ["open s1", "end s1 CallFailed"];
    timeout(SOON, async {
        while rig.captures.log() != ended {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("its session ends");
    assert_eq!(rig.policy.settled(), [CallEnd::Cancelled]);
    assert!(
        rig.got.lock().unwrap().is_empty(),
        "nothing reached the server"
    );
}

#[tokio::test]
async fn session_era_disconnection_is_no_cancellation() {
    let rig = Rig::new().await;
    let session = rig.session().await;
    let (stream, _) = rig
        .open(&rig.request("POST", &session, &call("open")))
        .await;
    let server = rig.streams.lock().unwrap()[0].clone();
    server.send("id: 1\ndata:\n\n".into()).await.unwrap();
    drop(stream);
    rig.until("the server sees it", || server.is_closed()).await;
    assert_eq!(rig.policy.settled(), []);
    // The client comes back, and the answer with it.
    let resume = format!("{session}Last-Event-ID: 1\r\n");
    let (mut stream, _) = rig.open(&rig.request("GET", &resume, "")).await;
    let server = rig.streams.lock().unwrap()[1].clone();
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#;
    server
        .send(format!("id: 2\ndata: {answer}\n\n"))
        .await
        .unwrap();
    let mut heard = String::new();
    while !heard.contains(answer) {
        timeout(SOON, stream.read_line(&mut heard))
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!(rig.policy.settled(), [CallEnd::Answered]);
}

#[tokio::test]
async fn answers_that_lead_around_the_gate_are_refused() {
    for (script,) in [
        (Box::new(|_: &Got| {
            Response::builder()
                .status(307)
                .header("location", "http://127.0.0.1:1/mcp")
                .body(full(""))
                .unwrap()
        }) as Script,),
        (Box::new(|_: &Got| answer("text/html", "<html>")),),
        (Box::new(|_: &Got| answer("application/json", "rubbish")),),
        (Box::new(|_: &Got| {
            let mut response = answer("application/json", "{}");
            response
                .headers_mut()
                .insert("content-encoding", "gzip".parse().unwrap());
            response
        }),),
    ] {
        let rig = Rig::before(script).await;
        let reply = rig.post("", &call("echo")).await;
        assert_eq!(
            (reply.status, reply.code()),
            (502, Some(-32603)),
            "{reply:?}"
        );
        assert_eq!(reply.json()["id"], 1);
        assert!(!reply.headers.contains_key("location"));
        assert_eq!(rig.policy.settled(), [CallEnd::Lost]);
    }
}

#[tokio::test]
async fn unknown_method_is_the_servers_to_refuse() {
    let rig = Rig::before(Box::new(|_| {
        let mut response = answer(
            "application/json",
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}}"#,
        );
        *response.status_mut() = hyper::StatusCode::NOT_FOUND;
        response
    }))
    .await;
    let headers = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: no/such\r\n";
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"no/such","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let reply = rig.post(headers, body).await;
    assert_eq!((reply.status, reply.code()), (404, Some(-32601)));
}

#[tokio::test]
async fn bounds_long_messages_are_refused() {
    let bounds = Bounds {
        client_line: 1000,
        server_line: 2000,
        ..Bounds::default()
    };
    let long = format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":["{}"]}}}}"#,
        "x".repeat(4000)
    );
    let rig = Rig::with(Box::new(move |_| answer("application/json", &long)), bounds).await;
    let body = call("echo").replace("echo", &"e".repeat(2000));
    assert_eq!(rig.post("", &body).await.status, 413);
    // Not announced.
    let chunked = rig
        .request("POST", "Transfer-Encoding: chunked\r\n", "")
        .replace("Content-Length: 0\r\n", "");
    let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    assert_eq!(rig.raw(&(chunked + &chunk)).await.status, 413);
    assert!(rig.got().is_empty());
    let reply = rig.post("", &call("echo")).await;
    assert_eq!((reply.status, reply.code()), (502, Some(-32603)));
}

#[tokio::test]
async fn server_that_is_not_there_is_told() {
    let rig = Rig::new().await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("http://{}/mcp", gone.local_addr().unwrap());
    drop(gone);
    let plan = plan(&upstream, None);
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let listener = Listener {
        tcp,
        tls: None,
        capacity: Capacity::of(1_024),
        leave: Leave::never(),
    };
    let (observer, _events) = mpsc::unbounded_channel();
    let gate = Arc::new(Gate {
        policy: Arc::clone(&rig.policy),
        captures: Arc::clone(&rig.captures),
        observer,
        bounds: Bounds::default(),
    });
    let (_ends, ended) = mpsc::channel(1);
    tokio::spawn(async move { serve(&plan, listener, gate, ended, |_, _| Some(1000)).await });
    let rig = Rig { address, ..rig };
    let reply = rig.post("", &call("start")).await;
    assert_eq!((reply.status, reply.code()), (502, Some(-32603)));
    assert_eq!(reply.json()["id"], 1);
    assert_eq!(rig.captures.log(), ["open s1", "end s1 CallFailed"]);
    assert_eq!(rig.policy.settled(), [CallEnd::RpcError]);
}
