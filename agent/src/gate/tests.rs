//! The pump between a scripted client and a scripted server.

mod patience;
mod questions;
mod relief;

use std::{
    collections::HashSet,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream as Socket,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

use super::{
    fakes::{FakeCaptures, FakePolicy, SOON, rule},
    *,
};
use crate::{
    principal::{Caller, Principal},
    session::{EndReason, Protocols, SessionEnd, SessionId},
};

const QUIET: Duration = Duration::from_millis(50);

/// One side of the pump, as the test plays it.
struct Party {
    from: BufReader<OwnedReadHalf>,
    to: Option<OwnedWriteHalf>,
}

/// One end of a socket, as the pump has it.
struct Far(Socket);

impl Read for Far {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// What is written to, closed when it is dropped.
struct FarOut(Socket);

impl Write for FarOut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Outgoing for FarOut {
    fn interrupter(&self) -> Interrupter {
        let socket = self.0.try_clone().unwrap();
        Box::new(move || {
            let _ = socket.shutdown(Shutdown::Write);
        })
    }
}

impl Drop for FarOut {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

/// One side's socket, and its other end.
fn pair() -> (UnixStream, Far, FarOut) {
    let (near, far) = Socket::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let near = UnixStream::from_std(near).unwrap();
    (near, Far(far.try_clone().unwrap()), FarOut(far))
}

impl Party {
    fn new(stream: UnixStream) -> Self {
        let (from, to) = stream.into_split();
        Self {
            from: BufReader::new(from),
            to: Some(to),
        }
    }

    async fn say(&mut self, line: &str) {
        self.raw(format!("{line}\n").as_bytes()).await;
    }

    async fn raw(&mut self, bytes: &[u8]) {
        let to = self.to.as_mut().unwrap();
        to.write_all(bytes).await.unwrap();
    }

    /// The next line, with its end; empty at the end.
    async fn hear(&mut self) -> String {
        let mut line = String::new();
        timeout(SOON, self.from.read_line(&mut line))
            .await
            .expect("a line comes")
            .unwrap();
        line
    }

    async fn hear_json(&mut self) -> Value {
        serde_json::from_str(&self.hear().await).unwrap()
    }

    async fn hears_nothing(&mut self) {
        let mut line = String::new();
        let heard = timeout(QUIET, self.from.read_line(&mut line)).await;
        assert!(heard.is_err(), "{line}");
    }

    async fn hang_up(&mut self) {
        self.to.take().unwrap().shutdown().await.unwrap();
    }
}

struct Rig {
    client: Party,
    server: Party,
    policy: Arc<FakePolicy>,
    captures: Arc<FakeCaptures>,
    events: mpsc::UnboundedReceiver<GateEvent>,
    ends: mpsc::Sender<SessionEnd>,
    fate: watch::Sender<Option<Fate>>,
    shift: mpsc::Sender<Shift<FarOut, Far>>,
    pump: JoinHandle<PumpEnd>,
}

impl Rig {
    fn new() -> Self {
        Self::with(Bounds::default())
    }

    fn with(bounds: Bounds) -> Self {
        let (client, client_in, client_out) = pair();
        let (server, server_out, server_in) = pair();
        let policy = Arc::new(FakePolicy::default());
        let captures = Arc::new(FakeCaptures::default());
        let (observer, events) = mpsc::unbounded_channel();
        let (ends, ended) = mpsc::channel(16);
        let (fate, seen) = watch::channel(None);
        let (shift, shifts) = mpsc::channel(1);
        let gate = Gate {
            policy: Arc::clone(&policy),
            captures: Arc::clone(&captures),
            observer,
            bounds,
        };
        let caller = Caller {
            principal: Principal::User(1000),
            grant: None,
            connection: 1,
            server: "fake".into(),
        };
        let streams = Streams {
            client_in,
            client_out,
            server_in,
            server_out,
        };
        Self {
            client: Party::new(client),
            server: Party::new(server),
            policy,
            captures,
            events,
            ends,
            fate,
            shift,
            pump: tokio::spawn(pump(streams, Arc::new(gate), caller, ended, seen, shifts)),
        }
    }

    /// What is known of the server's end.
    fn ended(&self, words: &str, at_once: bool) {
        let words = words.to_owned();
        self.fate.send_replace(Some(Fate { words, at_once }));
    }

    /// The server ends, with exit status 3.
    async fn server_ends(&mut self) {
        self.server.hang_up().await;
        self.ended(ENDED, false);
    }

    /// A call and its answer go through, both as the bytes they are.
    async fn still_works(&mut self, id: &str) {
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":"{id}","method":"tools/call","params":{{"name":"echo"}}}}"#
        );
        self.client.say(&call).await;
        assert_eq!(self.server.hear().await.trim_end(), call);
        let answer = format!(r#"{{"jsonrpc":"2.0","id":"{id}","result":{{"content":[]}}}}"#);
        self.server.say(&answer).await;
        assert_eq!(self.client.hear().await.trim_end(), answer);
    }

    /// Starts a capture; the server answers that its name is `name`.
    async fn capture(&mut self, id: u32, name: &str) -> Value {
        self.client.say(&call(id, "start", r#"{"n":9}"#)).await;
        self.server.hear().await;
        self.server
            .say(&format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"started {name}"}}]}}}}"#
            ))
            .await;
        self.client.hear_json().await
    }

    fn settled(&self) -> Vec<CallEnd> {
        self.policy.settled()
    }

    fn call_events(&mut self) -> Vec<CallVerdict> {
        let mut verdicts = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            if let GateEvent::Call(call) = event {
                verdicts.push(call.verdict);
            }
        }
        verdicts
    }
}

fn call(id: u32, tool: &str, arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
    )
}

fn ended(session: u32, reason: EndReason) -> SessionEnd {
    SessionEnd {
        session: SessionId(session),
        reason,
        packets: 1000,
        bytes: 64000,
        sockets: 1,
        milliseconds: 5,
        protocols: Protocols::default(),
        proxy: None,
        program: None,
    }
}

#[tokio::test]
async fn passthrough_both_ways_keeps_every_byte() {
    let mut rig = Rig::new();
    for line in [
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{ \"x\": 1.50 }}\n",
        " {\"method\" : \"notifications/initialized\"} \r\n",
        "{\"id\":\"a\",\"method\":\"no/such\",\"future\":[1,{\"a\":1,\"a\":2}]}\n",
        "{\"id\":7,\"result\":{\"roots\":[]}}\n",
        "{\"id\":2,\"method\":\"tools/call\",\"params\":{\"_meta\":{\"t\":1},\"name\":\"ec\\u0068o\",\"arguments\":{\"u\":\"\\u00e9\u{2028}\"}}}\r\n",
        "{\"nothing\":true}\n",
    ] {
        rig.client.raw(line.as_bytes()).await;
        assert_eq!(rig.server.hear().await, line);
    }
    for line in [
        "{\"id\":9,\"method\":\"sampling/createMessage\",\"params\":{}}\n",
        "{\"method\":\"notifications/progress\" }\r\n",
        "{\"id\":2,\"result\":{\"content\":[],\"b\":1e5}}\n",
        "{\"id\":77,\"result\":{}}\n",
        "{\"id\":\"a\",\"error\":{\"code\":-32601,\"message\":\"\"}}\n",
    ] {
        rig.server.raw(line.as_bytes()).await;
        assert_eq!(rig.client.hear().await, line);
    }
}

#[tokio::test]
async fn passthrough_blank_lines_are_ignored() {
    let mut rig = Rig::new();
    rig.client.raw(b"\n\r\n  \n").await;
    rig.server.raw(b"\n\r\n").await;
    rig.still_works("1").await;
}

#[tokio::test]
async fn tools_hidden_are_cut_out_and_the_rest_stays() {
    let mut rig = Rig::new();
    rig.client.say(r#"{"id":1,"method":"tools/list"}"#).await;
    rig.server.hear().await;
    rig.server
        .say(r#"{"id":1, "result":{"ttlMs":5,"tools":[{"name":"hidden1"}, {"name":"a","inputSchema":{"required":["x"]}} ,{"name":"h","name":"hidden2"},{"title":"?"} ],"_meta":{"k":[ ]},"nextCursor":"c"},"z":0}"#)
        .await;
    assert_eq!(
        rig.client.hear().await,
        "{\"id\":1, \"result\":{\"ttlMs\":5,\"tools\":[{\"name\":\"a\",\"inputSchema\":{\"required\":[\"x\"]}} ],\"_meta\":{\"k\":[ ]},\"nextCursor\":\"c\"},\"z\":0}\n"
    );
    let definition = r#"{"name":"a","inputSchema":{"required":["x"]}}"#.to_owned();
    assert_eq!(
        *rig.policy.listed.lock().unwrap(),
        [("a".to_owned(), definition)]
    );
}

#[tokio::test]
async fn tools_whose_definition_is_held_back_are_not_shown() {
    let mut rig = Rig::new();
    rig.client.say(r#"{"id":1,"method":"tools/list"}"#).await;
    rig.server.hear().await;
    rig.server
        .say(r#"{"id":1,"result":{"tools":[{"name":"a","description":"poison"},{"name":"b"}],"nextCursor":null}}"#)
        .await;
    assert_eq!(
        rig.client.hear().await,
        "{\"id\":1,\"result\":{\"tools\":[{\"name\":\"b\"}],\"nextCursor\":null}}\n"
    );
    let listed = rig.policy.listed.lock().unwrap();
    let names: Vec<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "b", ""], "the list is told to be at its end");
}

#[tokio::test]
async fn tools_none_hidden_list_keeps_every_byte() {
    let mut rig = Rig::new();
    rig.client.say(r#"{"id":1,"method":"tools/list"}"#).await;
    rig.server.hear().await;
    let list = "{\"result\":{ \"tools\" : [ {\"name\":\"a\"} , {\"name\":\"b\"}]},\"id\":1.0}\r\n";
    rig.server.raw(list.as_bytes()).await;
    assert_eq!(rig.client.hear().await, list);
}

#[tokio::test]
async fn tools_that_readers_find_in_two_places_are_not_shown() {
    let mut rig = Rig::new();
    for list in [
        r#"{"tools":[{"name":"a"}],"tools":[{"name":"hidden"}]}"#,
        r#"{"tools":[{"name":"a"}],"Tools":[{"name":"hidden"}]}"#,
    ] {
        let answer = format!(r#"{{"id":8,"result":{list}}}"#);
        rig.server.say(&answer).await;
        assert_eq!(
            rig.client.hear().await,
            "{\"id\":8,\"result\":{\"tools\":[]}}\n"
        );
    }
    rig.client.say(r#"{"id":1,"method":"Tools/List"}"#).await;
    assert!(rig.client.hear().await.contains("-32600"));
}

#[tokio::test]
async fn tools_list_in_a_batch_or_unasked_is_cut_too() {
    let mut rig = Rig::new();
    let list = r#"{"id":8,"result":{"tools":[{"name":"hidden"}]}}"#;
    let cut = "{\"id\":8,\"result\":{\"tools\":[]}}\n";
    rig.server.say(list).await;
    assert_eq!(rig.client.hear().await, cut);
    rig.server
        .say(&format!(r#"[{list}, {{"method":"x"}}]"#))
        .await;
    assert_eq!(rig.client.hear().await, cut);
    assert_eq!(rig.client.hear().await, "{\"method\":\"x\"}\n");
}

#[tokio::test]
async fn call_hidden_tool_is_unknown() {
    let mut rig = Rig::new();
    rig.client.say(&call(4, "hidden", "{}")).await;
    assert_eq!(
        rig.client.hear_json().await,
        json!({"jsonrpc":"2.0","id":4,"error":{"code":-32602,"message":"Unknown tool: hidden"}})
    );
    assert_eq!(rig.call_events(), [CallVerdict::Hidden]);
    rig.server.hears_nothing().await;
}

#[tokio::test]
async fn call_denied_is_answered_with_what_to_do() {
    let mut rig = Rig::new();
    rig.client.say(&call(4, "deny", r#"{"secret":1}"#)).await;
    assert_eq!(
        rig.client.hear_json().await,
        json!({"jsonrpc":"2.0","id":4,"result":{
            "isError":true,
            "content":[{"type":"text","text":"Too \"wide\". Ask for less. (rule: p.yaml:3:7 tools.x)"}],
            "structuredContent":{"capwarden":{
                "verdict":"deny","reason":"Too \"wide\".","instead":"Ask for less.",
                "rule":{"file":"p.yaml","line":3,"column":7,"path":"tools.x"}}}}})
    );
    let Some(GateEvent::Call(event)) = rig.events.recv().await else {
        panic!("a call is observed");
    };
    assert_eq!(
        (&event.caller.principal, event.caller.connection),
        (&Principal::User(1000), 1)
    );
    assert!(event.arguments.keys().eq(["secret"]));
    assert_eq!(event.rule, Some(rule()));
    assert!(matches!(event.verdict, CallVerdict::Denied { .. }));
    rig.server.hears_nothing().await;
    // The id is free again.
    rig.client.say(&call(4, "deny", "{}")).await;
    assert_eq!(rig.client.hear_json().await["result"]["isError"], true);
}

#[tokio::test]
async fn call_denial_fits_schema_and_protocol() {
    let mut rig = Rig::new();
    rig.client.say(r#"{"id":1,"method":"tools/list"}"#).await;
    rig.server.hear().await;
    rig.server
        .say(r#"{"id":1,"result":{"tools":[{"name":"deny","outputSchema":{}}]}}"#)
        .await;
    rig.client.hear().await;
    rig.client
        .say(r#"{"id":2,"method":"tools/call","params":{"name":"deny","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#)
        .await;
    let result = &rig.client.hear_json().await["result"];
    assert_eq!(result["resultType"], "complete");
    assert_eq!(result["_meta"]["capwarden"]["verdict"], "deny");
    assert_eq!(result.get("structuredContent"), None);
}

#[tokio::test]
async fn call_smuggled_is_refused() {
    let mut rig = Rig::new();
    let evil = r#"{"id":2,"method":"tools/call","params":{"name":"deny"}}"#;
    for (line, id) in [
        (format!("[{evil}]"), json!(null)),
        (format!("{{\"id\":1,\"method\":\"ping\",\"params\":\r{evil}\r}}"), json!(null)),
        (r#"{"id":1,"method":"ping","method":"tools/call","params":{"name":"deny"}}"#.into(), json!(1)),
        (r#"{"id":1,"method":"ping","METHOD":"tools/call"}"#.into(), json!(1)),
        (r#"{"id":1,"method":"tools/call","params":{"name":"echo","Name":"deny"}}"#.into(), json!(1)),
        (r#"{"id":1,"method":"tools/call","params":{"name":"echo","arguments":{"a":{"b":1,"b":2}}}}"#.into(), json!(1)),
        (r#"{"id":1,"method":"tools/call","params":{"name":"echo","arguments":[1]}}"#.into(), json!(1)),
        (r#"{"id":1,"method":"tools/call","params":["echo"]}"#.into(), json!(1)),
        (r#"{"id":1,"method":"tools/call"}"#.into(), json!(1)),
        (r#"{"id":null,"method":"tools/call","params":{"name":"echo"}}"#.into(), json!(null)),
        (r#"{"id":null,"method":"tools/list"}"#.into(), json!(null)),
        (r#"{"id":[1],"method":"tools/call","params":{"name":"echo"}}"#.into(), json!(null)),
        (r#"{"id":1,"method":"Tools/Call","params":{"name":"deny"}}"#.into(), json!(1)),
        (format!("{evil}{evil}"), json!(null)),
        ("echo".into(), json!(null)),
    ] {
        rig.client.say(&line).await;
        let answer = rig.client.hear_json().await;
        assert!(answer["error"]["code"].is_i64(), "{line}: {answer}");
        assert_eq!(answer["id"], id, "{line}");
    }
    // A call that nobody can be told about.
    rig.client
        .say(r#"{"method":"tools/call","params":{"name":"echo"}}"#)
        .await;
    rig.server.hears_nothing().await;
    rig.client.hears_nothing().await;
    rig.still_works("x").await;
}

#[tokio::test]
async fn call_reused_id_is_refused() {
    let mut rig = Rig::new();
    rig.client.say(&call(1, "echo", "{}")).await;
    rig.server.hear().await;
    for line in [
        call(1, "echo", "{}"),
        r#"{"id":1.0,"method":"tools/list"}"#.to_owned(),
    ] {
        rig.client.say(&line).await;
        assert_eq!(rig.client.hear_json().await["error"]["code"], -32600);
    }
    rig.server.say(r#"{"id":1,"result":{}}"#).await;
    rig.client.hear().await;
    rig.client.say(&call(1, "echo", "{}")).await;
    rig.server.hear().await;
}

#[tokio::test]
async fn call_too_many_in_flight_is_refused() {
    let mut rig = Rig::with(Bounds {
        in_flight: 2,
        ..Bounds::default()
    });
    for id in 1..=2 {
        rig.client.say(&call(id, "echo", "{}")).await;
        rig.server.hear().await;
    }
    for line in [call(3, "echo", "{}"), r#"{"id":3,"method":"ping"}"#.into()] {
        rig.client.say(&line).await;
        assert_eq!(rig.client.hear_json().await["error"]["code"], -31001);
    }
    rig.server.hears_nothing().await;
    // A cancelled request need not be answered, so it makes room.
    rig.client
        .say(r#"{"method":"notifications/cancelled","params":{"requestId":1}}"#)
        .await;
    rig.server.hear().await;
    rig.still_works("x").await;
}

#[tokio::test]
async fn capture_over_limit_is_clamped_and_told() {
    let mut rig = Rig::new();
    rig.client
        .raw(b"{\"id\": 5,\"method\":\"tools/call\",\"params\":{\"name\":\"start\",\"arguments\":{ \"n\" : 99999 ,\"i\":\"lo\"},\"x\":[ ]}}\r\n")
        .await;
    assert_eq!(
        rig.server.hear().await,
        "{\"id\": 5,\"method\":\"tools/call\",\"params\":{\"name\":\"start\",\"arguments\":{ \"n\" : 1000 ,\"i\":\"lo\"},\"x\":[ ]}}\r\n"
    );
    assert_eq!(rig.captures.log(), ["open s1"]);
    rig.server
        .raw(b"{\"id\":5,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"ok\"} ],\"isError\":false}}\r\n")
        .await;
    assert_eq!(
        rig.client.hear().await,
        "{\"id\":5,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"ok\"} ,{\"type\":\"text\",\"text\":\"capwarden granted s1: any, 1000 packets\\nn: 99999 → 1000, the policy allows at most 1000 packets\"}],\"isError\":false}}\r\n"
    );
    assert_eq!(rig.captures.log(), ["open s1", "replied s1"]);
    assert!(matches!(
        rig.call_events().as_slice(),
        [CallVerdict::Captures { session: SessionId(1), changes, .. }] if changes.len() == 1
    ));
}

#[tokio::test]
async fn capture_answer_without_content_is_left_alone() {
    let mut rig = Rig::new();
    rig.client.say(&call(5, "start", "{}")).await;
    rig.server.hear().await;
    let answer = "{\"id\":5,\"result\":{\"task\":{\"taskId\":\"t\"}}}\n";
    rig.server.raw(answer.as_bytes()).await;
    assert_eq!(rig.client.hear().await, answer);
    let notice = rig.client.hear_json().await;
    assert_eq!(notice["method"], "notifications/message");
    assert_eq!(notice["params"]["data"]["session"], "s1");
}

#[tokio::test]
async fn capture_failed_call_ends_its_session() {
    let mut rig = Rig::new();
    rig.client.say(&call(5, "start", "{}")).await;
    rig.server.hear().await;
    let answer = "{\"id\":5,\"error\":{\"code\":1,\"message\":\"no\"}}\n";
    rig.server.raw(answer.as_bytes()).await;
    assert_eq!(rig.client.hear().await, answer);
    assert_eq!(
        rig.captures.log(),
        ["open s1", "replied s1", "end s1 CallFailed"]
    );
    assert_eq!(rig.settled(), [CallEnd::RpcError]);
}

#[tokio::test]
async fn capture_that_wants_input_gives_its_session_back() {
    let mut rig = Rig::new();
    rig.client.say(&call(5, "start", "{}")).await;
    rig.server.hear().await;
    let answer =
        "{\"id\":5,\"result\":{\"resultType\":\"input_required\",\"requestState\":\"x\"}}\n";
    rig.server.raw(answer.as_bytes()).await;
    assert_eq!(rig.client.hear().await, answer);
    assert_eq!(rig.captures.live(), []);
    assert_eq!(rig.settled(), [CallEnd::InputRequired]);
}

#[tokio::test]
async fn capture_not_opened_is_denied() {
    let mut rig = Rig::new();
    *rig.captures.refuse.lock().unwrap() = true;
    rig.client.say(&call(5, "start", "{}")).await;
    let answer = rig.client.hear_json().await;
    assert_eq!(answer["result"]["isError"], true);
    assert_eq!(
        answer["result"]["content"][0]["text"],
        "No such interface: eth9. (rule: p.yaml:3:7 tools.x)"
    );
    rig.server.hears_nothing().await;
    assert_eq!(rig.settled(), [CallEnd::NotForwarded]);
}

#[tokio::test]
async fn capture_waiting_lets_others_pass() {
    let mut rig = Rig::new();
    rig.captures.permits.forget_permits(usize::MAX);
    rig.client.say(&call(5, "start", "{}")).await;
    rig.still_works("1").await;
    // The server cannot answer what it was not sent.
    rig.server.say(r#"{"id":5,"result":{"content":[]}}"#).await;
    rig.client.hear().await;
    rig.captures.permits.add_permits(1);
    assert_eq!(rig.server.hear().await.trim_end(), call(5, "start", "{}"));
    rig.server.say(r#"{"id":5,"result":{"content":[]}}"#).await;
    assert!(rig.client.hear().await.contains("granted s1"));
}

#[tokio::test]
async fn cancel_waiting_capture_is_never_forwarded() {
    let mut rig = Rig::new();
    rig.captures.permits.forget_permits(usize::MAX);
    rig.client.say(&call(5, "start", "{}")).await;
    let cancel = "{\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":5}}\n";
    rig.client.raw(cancel.as_bytes()).await;
    assert_eq!(rig.server.hear().await, cancel);
    rig.captures.permits.add_permits(1);
    rig.server.hears_nothing().await;
    assert_eq!(rig.captures.log(), ["open s1", "end s1 CallFailed"]);
    assert_eq!(
        rig.call_events(),
        [CallVerdict::Withdrawn {
            session: SessionId(1)
        }]
    );
    assert_eq!(rig.settled(), [CallEnd::Cancelled]);
    rig.still_works("5").await;
}

#[tokio::test]
async fn cancel_forwarded_capture_ends_its_session() {
    let mut rig = Rig::new();
    rig.client.say(&call(5, "start", "{}")).await;
    rig.server.hear().await;
    rig.client
        .say(r#"{"method":"notifications/cancelled","params":{"requestId":5}}"#)
        .await;
    rig.server.hear().await;
    assert_eq!(rig.captures.log(), ["open s1", "end s1 CallFailed"]);
    assert_eq!(rig.settled(), []);
    let late = "{\"id\":5,\"result\":{\"content\":[]}}\n";
    rig.server.raw(late.as_bytes()).await;
    assert_eq!(rig.client.hear().await, late);
    assert_eq!(rig.settled(), [CallEnd::Answered]);
}

#[tokio::test]
async fn cancel_tool_list_still_hides() {
    let mut rig = Rig::new();
    rig.client.say(r#"{"id":1,"method":"tools/list"}"#).await;
    rig.client
        .say(r#"{"method":"notifications/cancelled","params":{"requestId":1}}"#)
        .await;
    rig.server
        .say(r#"{"id":1,"result":{"tools":[{"name":"hidden"}]}}"#)
        .await;
    assert!(!rig.client.hear().await.contains("hidden"));
}

#[tokio::test]
async fn stop_named_session_is_ended_after_the_answer() {
    let mut rig = Rig::new();
    rig.capture(1, "cap_1").await;
    rig.capture(2, "cap_10").await;
    rig.client
        .say(&call(3, "stop", r#"{"id":"cap_10","format":"text"}"#))
        .await;
    rig.server.hear().await;
    assert_eq!(rig.captures.live(), [SessionId(1), SessionId(2)]);
    rig.server.say(r#"{"id":3,"result":{"content":[]}}"#).await;
    rig.client.hear().await;
    assert_eq!(rig.captures.live(), [SessionId(1)]);
    assert_eq!(
        rig.captures.log().last().map(String::as_str),
        Some("end s2 StopCall")
    );
}

#[tokio::test]
async fn stop_unnamed_ends_the_only_session() {
    let mut rig = Rig::new();
    rig.capture(1, "cap_1").await;
    for (arguments, answer, left) in [
        (r#"{"id":"nope"}"#, r#""error":{"code":1,"message":""}"#, 1),
        (r#"{"id":"nope"}"#, r#""result":{"isError":true}"#, 1),
        ("{}", r#""result":{"content":[]}"#, 0),
    ] {
        rig.client.say(&call(3, "stop", arguments)).await;
        rig.server.hear().await;
        rig.server.say(&format!("{{\"id\":3,{answer}}}")).await;
        rig.client.hear().await;
        assert_eq!(rig.captures.live().len(), left, "{answer}");
    }
}

#[tokio::test]
async fn stop_unnamed_of_several_ends_none() {
    let mut rig = Rig::new();
    rig.capture(1, "cap_1").await;
    rig.capture(2, "cap_2").await;
    rig.client
        .say(&call(3, "stop", r#"{"id":"started"}"#))
        .await;
    rig.server.hear().await;
    rig.server.say(r#"{"id":3,"result":{"content":[]}}"#).await;
    rig.client.hear().await;
    assert_eq!(rig.captures.live().len(), 2);
}

#[tokio::test]
async fn stops_end_sessions_of_their_own_kind() {
    let mut rig = Rig::new();
    rig.capture(1, "cap_1").await;
    for id in [2, 3] {
        rig.client.say(&call(id, "start_proxy", "{}")).await;
        rig.server.hear().await;
        let answer = format!(r#"{{"id":{id},"result":{{"content":[]}}}}"#);
        rig.server.say(&answer).await;
        let told = rig.client.hear_json().await;
        let text = told["result"]["content"][0]["text"].as_str().unwrap();
        assert_eq!(
            text,
            format!(
                "capwarden granted s{id}: listening on 127.0.0.1:{}",
                9000 + id
            )
        );
    }
    // The proxy is known by its port, which the server has not said.
    for (stop, arguments, left) in [
        ("stop_proxy", r#"{"port":9003}"#, vec![1, 2]),
        ("stop", "{}", vec![2]),
        ("stop", "{}", vec![2]),
        ("stop_proxy", "{}", vec![]),
    ] {
        rig.client.say(&call(9, stop, arguments)).await;
        rig.server.hear().await;
        rig.server.say(r#"{"id":9,"result":{"content":[]}}"#).await;
        rig.client.hear().await;
        let left: Vec<SessionId> = left.into_iter().map(SessionId).collect();
        assert_eq!(rig.captures.live(), left, "{stop} {arguments}");
    }
    let verdicts = rig.call_events();
    assert!(matches!(
        &verdicts[1],
        CallVerdict::Proxies {
            session: SessionId(2),
            ..
        }
    ));
}

#[tokio::test]
async fn calls_share_a_session_for_programs_and_only_the_first_may_end_it_by_failing() {
    let mut rig = Rig::new();
    let answer = |id: u64| format!(r#"{{"id":{id},"result":{{"content":[]}}}}"#);
    let error = |id: u64| format!(r#"{{"id":{id},"error":{{"code":1,"message":"no"}}}}"#);
    for id in [1, 2, 3] {
        rig.client.say(&call(id, "browse", "{}")).await;
        rig.server.hear().await;
    }
    rig.server.say(&answer(1)).await;
    let told = rig.client.hear_json().await;
    let text = told["result"]["content"][0]["text"].as_str().unwrap();
    assert_eq!(text, "capwarden granted s1: programs connecting to nothing");
    // One that joined may fail, or be given up.
    rig.server.say(&error(2)).await;
    rig.client.hear().await;
    rig.client
        .say(r#"{"method":"notifications/cancelled","params":{"requestId":3}}"#)
        .await;
    rig.server.hear().await;
    rig.server.say(&answer(3)).await;
    rig.client.hear().await;
    assert_eq!(rig.captures.live(), [SessionId(1)]);
    // Nothing is said of it again.
    rig.client.say(&call(4, "browse", "{}")).await;
    rig.server.hear().await;
    rig.server.say(&answer(4)).await;
    assert_eq!(rig.client.hear().await.trim_end(), answer(4));
    rig.client.say(&call(5, "close", "{}")).await;
    rig.server.hear().await;
    rig.server.say(&answer(5)).await;
    rig.client.hear().await;
    rig.client.say(&call(6, "browse", "{}")).await;
    rig.server.hear().await;
    rig.server.say(&error(6)).await;
    rig.client.hear().await;
    assert_eq!(
        rig.captures.log(),
        [
            "open programs s1",
            "join s1",
            "join s1",
            "replied s1",
            "replied s1",
            "replied s1",
            "join s1",
            "replied s1",
            "end s1 StopCall",
            "open programs s2",
            "replied s2",
            "end s2 CallFailed",
        ]
    );
    assert!(matches!(
        &rig.call_events()[1],
        CallVerdict::Programs {
            session: SessionId(1),
            ..
        }
    ));
}

#[tokio::test]
async fn refusals_of_the_kernel_are_told_with_the_answer_to_the_call() {
    const TOLD: &str = "capwarden: while this call was carried out, the server was not allowed to \
                        connect to 10.0.0.1:80 (tcp).";
    let mut rig = Rig::new();
    let refuse = |rig: &Rig| {
        let what = "connect to 10.0.0.1:80 (tcp)".to_owned();
        rig.captures.refused.lock().unwrap().push(what);
    };
    refuse(&rig); // before any call
    rig.still_works("1").await;
    // Its own content stays, byte for byte.
    rig.client.say(&call(2, "echo", "{}")).await;
    rig.server.hear().await;
    refuse(&rig);
    rig.server
        .say(r#"{"id":2,"result":{ "content" : [ {"type":"text","text":"all \u0077ell"} ],"isError":false}}"#)
        .await;
    let line = rig.client.hear().await;
    assert!(
        line.starts_with(
            r#"{"id":2,"result":{ "content" : [ {"type":"text","text":"all \u0077ell"} ,"#
        ),
        "{line}"
    );
    let answer: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(answer["result"]["content"][1]["text"], TOLD);
    // Where there is no place for it, it comes after.
    rig.client.say(&call(3, "echo", "{}")).await;
    rig.server.hear().await;
    refuse(&rig);
    let error = r#"{"id":3,"error":{"code":-32603,"message":"no"}}"#;
    rig.server.say(error).await;
    assert_eq!(rig.client.hear().await.trim_end(), error);
    let notice = rig.client.hear_json().await;
    assert_eq!(notice["params"]["data"]["message"], TOLD);
    assert_eq!(notice["params"]["level"], "warning");
    // A session's answer has one item for all that there is to say.
    rig.client.say(&call(4, "start_proxy", "{}")).await;
    rig.server.hear().await;
    refuse(&rig);
    rig.server.say(r#"{"id":4,"result":{"content":[]}}"#).await;
    let answer = rig.client.hear_json().await;
    let content = answer["result"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 1);
    let text = content[0]["text"].as_str().unwrap();
    assert!(
        text.starts_with("capwarden granted s1: ") && text.ends_with(TOLD),
        "{text}"
    );
    rig.still_works("5").await;
}

#[tokio::test]
async fn notice_waits_for_the_handshake() {
    let mut rig = Rig::new();
    rig.ends.send(ended(1, EndReason::PacketCap)).await.unwrap();
    rig.client.hears_nothing().await;
    rig.client.say(r#"{"id":1,"method":"initialize"}"#).await;
    rig.client.say(r#"{"id":2,"method":"tools/list"}"#).await;
    rig.client.hears_nothing().await;
    let welcome = "{\"id\":1,\"result\":{}}\n";
    rig.server.raw(welcome.as_bytes()).await;
    assert_eq!(rig.client.hear().await, welcome);
    assert_eq!(
        rig.client.hear_json().await,
        json!({"jsonrpc":"2.0","method":"notifications/message","params":{
            "level":"notice","logger":"capwarden","data":{
                "session":"s1","reason":"packet-cap","packets":1000,"bytes":64000,
                "message":"capture s1 ended: the packet cap was reached (1000 packets, 64000 bytes)"}}})
    );
    rig.ends.send(ended(2, EndReason::Violation)).await.unwrap();
    assert_eq!(rig.client.hear_json().await["params"]["level"], "warning");
}

#[tokio::test]
async fn notice_needs_no_handshake_in_the_stateless_protocol() {
    let mut rig = Rig::new();
    rig.client.say(&call(1, "echo", "{}")).await;
    rig.server.hear().await;
    rig.ends.send(ended(1, EndReason::Deadline)).await.unwrap();
    let notice = rig.client.hear_json().await;
    assert_eq!(notice["params"]["data"]["reason"], "deadline");
}

#[tokio::test]
async fn notice_queued_at_the_end_is_delivered() {
    let mut rig = Rig::new();
    rig.still_works("1").await;
    rig.ends.send(ended(1, EndReason::Closed)).await.unwrap();
    rig.server.hang_up().await;
    assert!(rig.client.hear().await.contains("s1 ended"));
}

#[tokio::test]
async fn bounds_over_long_lines_are_skipped() {
    let mut rig = Rig::with(Bounds {
        client_line: 1000,
        server_line: 2000,
        ..Bounds::default()
    });
    let long = call(1, "echo", &format!(r#"{{"x":"{}"}}"#, "y".repeat(200_000)));
    rig.client.say(&long).await;
    let answer = rig.client.hear_json().await;
    assert_eq!(answer["id"], Value::Null);
    assert_eq!(answer["error"]["code"], -32600);
    rig.server.say(&long).await;
    rig.still_works("1").await;
    rig.server.hears_nothing().await;
}

#[tokio::test]
async fn server_noise_is_dropped() {
    let mut rig = Rig::new();
    rig.server
        .raw(b"\x1b[31mstarting\x1b[0m\n{broken\n\xff\xfe\n[1,\n\"text\"\n{\"id\":1,\"id\":2,\"result\":{}}\n")
        .await;
    rig.still_works("1").await;
    let mut dropped = 0;
    while let Ok(event) = rig.events.try_recv() {
        dropped += usize::from(matches!(
            event,
            GateEvent::Dropped {
                from: Side::Server,
                ..
            }
        ));
    }
    assert_eq!(dropped, 6);
}

#[tokio::test]
async fn server_deep_message_passes() {
    let mut rig = Rig::new();
    let deep = format!(
        "{{\"method\":\"x\",\"params\":{}{}}}\n",
        "[".repeat(200_000),
        "]".repeat(200_000)
    );
    rig.server.raw(deep.as_bytes()).await;
    assert_eq!(rig.client.hear().await, deep);
}

#[tokio::test]
async fn call_is_settled_by_its_answer() {
    let mut rig = Rig::new();
    for (answer, end) in [
        (r#""error":{"code":1,"message":""}"#, CallEnd::RpcError),
        (
            r#""result":{"resultType":"input_required"}"#,
            CallEnd::InputRequired,
        ),
        (
            r#""result":{"content":[],"x":"input_required"}"#,
            CallEnd::Answered,
        ),
        (
            r#""result":{"content":[],"isError" : true}"#,
            CallEnd::ToolFailed,
        ),
        (
            r#""result":{"content":[],"isError":false}"#,
            CallEnd::Answered,
        ),
        (
            r#""result":{"content":[{"isError":true}]}"#,
            CallEnd::Answered,
        ),
        (r#""result":17"#, CallEnd::Answered),
    ] {
        rig.client.say(&call(1, "echo", "{}")).await;
        rig.server.hear().await;
        rig.server.say(&format!("{{\"id\":1,{answer}}}")).await;
        rig.client.hear().await;
        assert_eq!(rig.settled(), [end], "{answer}");
    }
    rig.client.say(&call(1, "deny", "{}")).await;
    rig.client.hear().await;
    assert_eq!(rig.settled(), [CallEnd::NotForwarded]);
}

#[tokio::test]
async fn call_without_an_answer_is_lost() {
    let mut rig = Rig::with(Bounds {
        in_flight: 1,
        ..Bounds::default()
    });
    rig.client.say(&call(1, "echo", "{}")).await;
    rig.server.hear().await;
    rig.client
        .say(r#"{"method":"notifications/cancelled","params":{"requestId":1}}"#)
        .await;
    rig.server.hear().await;
    assert_eq!(rig.settled(), [], "its answer may still come");
    rig.client.say(&call(2, "echo", "{}")).await;
    rig.server.hear().await;
    assert_eq!(rig.settled(), [CallEnd::Lost]);
    rig.server.hang_up().await;
    timeout(SOON, &mut rig.pump).await.unwrap().unwrap();
    assert_eq!(rig.settled(), [CallEnd::Lost]);
}

#[tokio::test]
async fn end_of_client_drains_the_server() {
    let mut rig = Rig::new();
    rig.captures.permits.forget_permits(usize::MAX);
    rig.client.raw(call(1, "start", "{}").as_bytes()).await;
    rig.client.hang_up().await;
    rig.captures.permits.add_permits(1);
    // The last line had no end, and its session was still being opened.
    assert_eq!(rig.server.hear().await.trim_end(), call(1, "start", "{}"));
    assert_eq!(rig.server.hear().await, "");
    rig.server.say(r#"{"id":1,"result":{"content":[]}}"#).await;
    assert!(rig.client.hear().await.contains("granted s1"));
    rig.server.hang_up().await;
    let end = timeout(SOON, rig.pump).await.unwrap().unwrap();
    assert_eq!(end, PumpEnd::ClientClosed);
}

#[tokio::test]
async fn end_of_client_is_not_waited_for_for_ever() {
    let mut rig = Rig::with(Bounds {
        drain: Duration::from_millis(20),
        ..Bounds::default()
    });
    rig.client.hang_up().await;
    let end = timeout(SOON, rig.pump).await.unwrap().unwrap();
    assert_eq!(end, PumpEnd::ClientClosed);
}

#[tokio::test]
async fn end_of_server_ends_the_pump() {
    let mut rig = Rig::new();
    rig.captures.permits.forget_permits(usize::MAX);
    rig.client.say(&call(1, "start", "{}")).await;
    rig.still_works("1").await;
    rig.server_ends().await;
    let end = timeout(SOON, rig.pump).await.unwrap().unwrap();
    assert_eq!(end, PumpEnd::ServerClosed);
    // The session that comes too late is given back.
    rig.captures.permits.add_permits(1);
    timeout(SOON, async {
        while rig.captures.log().len() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(rig.captures.log(), ["open s1", "end s1 ServerExit"]);
}

const ENDED: &str = "The server has ended with exit status 3.";
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":"i","method":"initialize","params":{}}"#;

/// What a request is told whose server has gone.
fn told_of_the_end(id: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -31002, "message": ENDED } })
}

#[tokio::test]
async fn client_that_is_cut_off_is_told_why_and_nothing_more_is_carried() {
    let mut rig = Rig::new();
    rig.still_works("1").await;
    rig.client.say(&call(2, "echo", "{}")).await;
    rig.server.hear().await;
    rig.ended("Cut off.", true);
    let answer = rig.client.hear_json().await;
    assert_eq!(answer["error"]["message"], "Cut off.");
    assert_eq!(answer["id"], 2);
    // The server is there still, and has something to say.
    rig.server.say(r#"{"jsonrpc":"2.0","method":"late"}"#).await;
    let end = timeout(Duration::from_secs(1), rig.pump).await.unwrap();
    assert_eq!(end.unwrap(), PumpEnd::ServerClosed);
    assert_eq!(rig.client.hear().await, "");

    // Nobody waits for a client that waits for nothing.
    let rig = Rig::new();
    rig.ended("Cut off.", true);
    let end = timeout(Duration::from_secs(1), rig.pump).await.unwrap();
    assert_eq!(end.unwrap(), PumpEnd::ServerClosed);
}

#[tokio::test]
async fn client_is_told_how_a_server_ended_that_it_waits_for() {
    let mut rig = Rig::new();
    rig.client.say(INITIALIZE).await;
    rig.server.hear().await;
    rig.server_ends().await;
    assert_eq!(rig.client.hear_json().await, told_of_the_end(&json!("i")));
    let end = timeout(SOON, rig.pump).await.unwrap().unwrap();
    assert_eq!(end, PumpEnd::NeverServed);
    // The server was gone before it was asked.
    let mut rig = Rig::new();
    rig.server_ends().await;
    rig.client.say(INITIALIZE).await;
    assert_eq!(rig.client.hear_json().await, told_of_the_end(&json!("i")));
    let end = timeout(SOON, rig.pump).await.unwrap().unwrap();
    assert_eq!(end, PumpEnd::NeverServed);
    // Nobody waits for what nobody asked.
    let mut rig = Rig::new();
    rig.server_ends().await;
    rig.client.hang_up().await;
    let end = timeout(SOON, rig.pump).await.unwrap().unwrap();
    assert_ne!(end, PumpEnd::NeverServed);
}

#[tokio::test]
async fn every_request_in_flight_is_told_of_the_servers_end() {
    let mut rig = Rig::new();
    rig.still_works("0").await;
    rig.client.say(&call(1, "echo", "{}")).await;
    rig.server.hear().await;
    let list = r#"{"jsonrpc":"2.0","id":2.0,"method":"resources/list"}"#;
    rig.client.say(list).await;
    rig.server.hear().await;
    rig.server_ends().await;
    let mut told = [rig.client.hear_json().await, rig.client.hear_json().await];
    told.sort_by_key(|told| told["id"].as_u64());
    assert_eq!(
        told,
        [told_of_the_end(&json!(1)), told_of_the_end(&json!(2))]
    );
    let end = timeout(SOON, rig.pump).await.unwrap().unwrap();
    assert_eq!(end, PumpEnd::ServerClosed);
    assert_eq!(rig.policy.settled(), [CallEnd::Answered, CallEnd::Lost]);
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn line(&mut self) -> Vec<u8> {
        const SEEDS: [&str; 10] = [
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"start","arguments":{"n":99999,"p":{"q":[1]}}}}"#,
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"stop","arguments":{"id":"cap_1"}}}"#,
            r#"{"jsonrpc":"2.0","id":3,"method":"tools/list","params":{}}"#,
            r#"{"jsonrpc":"2.0","id":4,"method":"initialize"}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"cap_1"}]}}"#,
            r#"{"jsonrpc":"2.0","id":3,"result":{"tools":[{"name":"hidden"},{"name":"a"}]}}"#,
            r#"{"jsonrpc":"2.0","id":2,"error":{"code":1,"message":"x"}}"#,
            r#"[{"id":1,"result":{}},{"id":2,"result":{"content":[]}}]"#,
            r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"deny"}}"#,
        ];
        const BITS: [&str; 24] = [
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\\",
            "null",
            "1e9",
            "-0",
            "\"id\":",
            "\"id\":7",
            "\"method\":\"tools/call\"",
            "\"METHOD\"",
            "\"name\"",
            "\r",
            "\u{2028}",
            "\\u0041",
            "\\ud800",
            " ",
            "\"arguments\":{}",
            "\"content\":[",
            "é",
        ];
        let mut line = self.pick(&SEEDS).as_bytes().to_vec();
        // A fresh id keeps the table of requests moving.
        if self.below(2) == 0 {
            let id = format!("\"id\":{}", self.below(5000));
            line = String::from_utf8(line)
                .unwrap()
                .replacen("\"id\":1", &id, 1)
                .into_bytes();
        }
        for _ in 0..self.below(5) {
            let at = self.below(line.len() + 1);
            match self.below(5) {
                0 => line.truncate(at),
                1 => {
                    line.splice(at..at, self.pick(&BITS).bytes());
                }
                2 => {
                    let end = (at + self.below(12)).min(line.len());
                    line.drain(at..end);
                }
                3 => {
                    let end = (at + self.below(40)).min(line.len());
                    let again = line[at..end].to_vec();
                    line.splice(at..at, again);
                }
                _ => {
                    let byte = u8::try_from(self.below(256)).unwrap();
                    line.insert(at, byte);
                }
            }
        }
        if self.below(50) == 0 {
            line = (0..self.below(300))
                .map(|_| u8::try_from(self.below(256)).unwrap())
                .collect();
        }
        line.push(b'\n');
        line
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fuzz_both_sides_leave_a_working_pump() {
    let mut rig = Rig::with(Bounds {
        in_flight: 100_000,
        ..Bounds::default()
    });
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut called = HashSet::new();
    for round in 0..10 {
        let (mut from_client, mut from_server) = (Vec::new(), Vec::new());
        for _ in 0..500 {
            from_client.extend(random.line());
            from_server.extend(random.line());
        }
        let mark = format!("{{\"method\":\"mark/{round}\"}}\n");
        from_client.extend(mark.bytes());
        from_server.extend(mark.bytes());
        // Its answer is the last that the client gets to what it has sent.
        let last = format!("\"last/{round}\"");
        let denied = format!(
            "{{\"id\":{last},\"method\":\"tools/call\",\"params\":{{\"name\":\"deny\"}}}}\n"
        );
        from_client.extend(denied.bytes());

        let hear = async |party: &mut Party, mut ends: u32| {
            let mut heard = Vec::new();
            while ends > 0 {
                let mut line = Vec::new();
                party.from.read_until(b'\n', &mut line).await.unwrap();
                let answer = str::from_utf8(&line).is_ok_and(|line| line.contains(&last));
                if line == mark.as_bytes() || answer {
                    ends -= 1;
                } else {
                    heard.push(line);
                }
            }
            heard
        };
        let Rig { client, server, .. } = &mut rig;
        let (mut to_server, mut to_client) = (client.to.take().unwrap(), server.to.take().unwrap());
        let both = async {
            tokio::join!(
                async { to_server.write_all(&from_client).await.unwrap() },
                async { to_client.write_all(&from_server).await.unwrap() },
                hear(client, 2),
                hear(server, 1),
            )
        };
        let ((), (), to_client_heard, to_server_heard) =
            timeout(Duration::from_secs(60), both).await.unwrap();
        client.to = Some(to_server);
        server.to = Some(to_client);
        for line in &to_server_heard {
            // By the grammar alone: a half of a surrogate pair is the server's to judge.
            let text = str::from_utf8(line).expect("the server gets UTF-8 only");
            let message = json::Members::parse(text).expect("the server gets objects only");
            if message.get("method").and_then(json::string).as_deref() == Some("tools/call") {
                let params = message.get("params").unwrap();
                let params = json::Members::parse(params).unwrap();
                called.insert(
                    json::string(params.get("name").unwrap())
                        .unwrap()
                        .into_owned(),
                );
            }
        }
        for line in &to_client_heard {
            let text = str::from_utf8(line).expect("the client gets UTF-8 only");
            assert!(
                text.starts_with('{') || text.trim_start().starts_with('{'),
                "{text}"
            );
        }
    }
    assert!(called.contains("start") && called.contains("stop"));
    for name in called {
        assert!(!name.starts_with("hidden") && name != "deny", "{name}");
    }
    // What was still waiting for its session has come by now; then an ordinary call works.
    tokio::time::sleep(QUIET).await;
    rig.client.say(r#"{"id":"fresh","method":"ping"}"#).await;
    while !rig.server.hear().await.contains("fresh") {}
    rig.server
        .say(r#"{"id":"fresh","result":{"pong":1}}"#)
        .await;
    while !rig.client.hear().await.contains("pong") {}
    rig.still_works("after").await;
}

/// Answers every call.
async fn echo(mut server: Party) {
    loop {
        let line = server.hear().await;
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            return;
        };
        let answer = format!(r#"{{"id":{},"result":{{"content":[]}}}}"#, message["id"]);
        server.say(&answer).await;
    }
}

/// The median and the 99th percentile of many calls.
async fn measure(client: &mut Party) -> (Duration, Duration) {
    let mut times = Vec::new();
    for id in 0..20_000 {
        let line = call(id, "echo", r#"{"interface":"lo","text":"hello"}"#);
        let start = std::time::Instant::now();
        client.say(&line).await;
        client.hear().await;
        times.push(start.elapsed());
    }
    times.sort();
    (times[10_000], times[19_800])
}

/// Not a bound, but a number to look at: `cargo test --release -- --ignored --nocapture latency`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn latency_of_a_forwarded_call_is_shown() {
    let (client, server) = UnixStream::pair().unwrap();
    tokio::spawn(echo(Party::new(server)));
    let (p50, p99) = measure(&mut Party::new(client)).await;
    eprintln!("direct:  p50 {p50:?}, p99 {p99:?}");

    let mut rig = Rig::new();
    tokio::spawn(echo(rig.server));
    let (p50, p99) = measure(&mut rig.client).await;
    eprintln!("through: p50 {p50:?}, p99 {p99:?}");
}
