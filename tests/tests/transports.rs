//! Every way to a server: what must not pass does not pass on any of them, what passes does so with
//! every byte, and each client has what is its own.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::wait_for,
    mcp::{Client, Message, PATIENCE},
    redis::Redis,
    stage::{Stage, directory, python},
};
use rustix::process::Signal;
use serde_json::{Value, json};

const PLAIN: &str = include_str!("../scripts/plain.py");
const CARRY: &str = include_str!("../scripts/carry.py");

const HERE: &str = "127.0.0.1:8808";

/// A way from a client to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Pipe,
    UnixSocket,
    /// Streamable HTTP, to a server that speaks it too.
    HttpToHttp,
    /// Streamable HTTP, to a server on pipes.
    HttpToPipe,
    /// The transport of 2024-11-05, to a server over streamable HTTP.
    EventsToHttp,
    /// The same, to a server on pipes.
    EventsToPipe,
}

const WAYS: [Way; 6] = [
    Way::Pipe,
    Way::UnixSocket,
    Way::HttpToHttp,
    Way::HttpToPipe,
    Way::EventsToHttp,
    Way::EventsToPipe,
];

impl Way {
    fn is_http(self) -> bool {
        !matches!(self, Self::Pipe | Self::UnixSocket)
    }

    fn url(self) -> String {
        match self {
            Self::EventsToHttp | Self::EventsToPipe => format!("http://{HERE}/sse"),
            _ => format!("http://{HERE}/mcp"),
        }
    }
}

/// A server behind capwarden, and a client that has not said a word.
struct Line {
    stage: Stage,
    client: Client,
    /// Where the client is not capwarden's own.
    agent: Option<Client>,
}

impl Line {
    fn new(way: Way, policy: &str) -> Result<Self> {
        Self::with(way, policy, &[])
    }

    /// With more options of `run`.
    fn with(way: Way, policy: &str, more: &[&str]) -> Result<Self> {
        let stage = Stage::new()?;
        let script = stage.write("plain.py", PLAIN)?;
        let python3 = python("python3")?;
        let socket = stage.path("socket");
        let listen = match way {
            Way::Pipe => {
                let client = stage.run_with(policy, more, &[&python3, &script])?;
                return Ok(Self {
                    stage,
                    client,
                    agent: None,
                });
            }
            Way::UnixSocket => format!("unix:{}", socket.display()),
            _ => HERE.to_owned(),
        };
        let mut options = vec!["--listen", &listen];
        options.extend(more);
        let mut server = vec![python3.as_path(), script.as_path()];
        if way.is_http() {
            options.push("--anonymous");
        }
        if matches!(way, Way::HttpToHttp | Way::EventsToHttp) {
            options.extend(["--upstream", "http://127.0.0.1:8000/mcp"]);
            server.push(Path::new("8000"));
        }
        let agent = stage.run_with(policy, &options, &server)?;
        let mut command = match way.is_http() {
            true => {
                stage.listening_on(8808)?;
                carrier(&stage, &way.url())?
            }
            false => {
                wait_for("the socket", PATIENCE, || Ok(socket.exists().then_some(())))?;
                stage.bridge(&socket)?
            }
        };
        let client = Client::start(&mut command, &stage.path("client-stderr"))?;
        Ok(Self {
            stage,
            client,
            agent: Some(agent),
        })
    }

    /// The lines that the server got.
    fn seen(&self) -> Result<Vec<String>> {
        let seen = fs::read_to_string(self.stage.capture("seen")).unwrap_or_default();
        Ok(seen.lines().map(str::to_owned).collect())
    }

    /// Sends a line as it is.
    fn say(&mut self, line: &str) -> Result<()> {
        self.client.send(format!("{line}\n").as_bytes())
    }

    fn end(mut self) -> Result<()> {
        self.client.close_input();
        ensure!(self.client.exit()?.success(), "{}", self.stage.stderr()?);
        if let Some(mut agent) = self.agent.take() {
            agent.signal(Signal::TERM)?;
            ensure!(
                agent.exit()?.code() == Some(143),
                "{}",
                self.stage.stderr()?
            );
        }
        self.stage.is_empty()
    }
}

/// A client over HTTP, in the stage's network.
fn carrier(stage: &Stage, url: &str) -> Result<Command> {
    let script = stage.write("carry.py", CARRY)?;
    let mut command = stage.space.command(python("python3")?);
    command.arg(script).arg(url);
    Ok(command)
}

/// What a request of the revision without sessions has in its parameters.
const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Era {
    /// 2025-06-18, and 2024-11-05 where the way is of that.
    Sessions,
    /// 2026-07-28.
    Stateless,
}

impl Era {
    /// The ways on which clients speak so.
    fn ways(self) -> impl Iterator<Item = Way> {
        let events = [Way::EventsToHttp, Way::EventsToPipe];
        WAYS.into_iter()
            .filter(move |way| self == Self::Sessions || !events.contains(way))
    }

    /// A line as it is said in this era.
    fn line(self, line: &str) -> String {
        match self {
            Self::Sessions => line.to_owned(),
            Self::Stateless => line.replacen("\"params\":{", &format!("\"params\":{{{META},"), 1),
        }
    }

    /// Parameters as they are said in this era.
    fn params(self, params: &Value) -> Result<Value> {
        let mut params = params.clone();
        if self == Self::Stateless {
            let meta: Value = serde_json::from_str(&format!("{{{META}}}"))?;
            let all = params.as_object_mut().context("an object")?;
            all.extend(meta.as_object().context("an object")?.clone());
        }
        Ok(params)
    }

    fn call(self, client: &mut Client, tool: &str, arguments: &Value) -> Result<Message> {
        let params = self.params(&json!({ "name": tool, "arguments": arguments }))?;
        client.request("tools/call", &params)
    }

    fn begin(self, client: &mut Client) -> Result<()> {
        match self {
            Self::Sessions => client.shake_hands().map(drop),
            Self::Stateless => Ok(()),
        }
    }
}

const GUARDED: &str = "version: 1
default: deny
tools:
  echo: { args: { text: { equals: hello } } }
  spend: { limits: [ { max: 10, window: day, amount_from: n, counter: spent } ] }
  restart: { approve: { by: operator, timeout: 1 h } }
";

/// What must not reach the server, by what is wrong with it.
const HOLES: &[(&str, &str)] = &[
    (
        "a batch smuggles a call",
        r#"[{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"secret"}}]"#,
    ),
    (
        "a name beside another one",
        r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"echo","Name":"secret","arguments":{"text":"hello"}}}"#,
    ),
    (
        "a method beside another one",
        r#"{"jsonrpc":"2.0","id":ID,"method":"ping","METHOD":"tools/call","params":{"name":"secret"}}"#,
    ),
    (
        "a key that stands twice",
        r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"echo","name":"secret","arguments":{"text":"hello"}}}"#,
    ),
    (
        "a method that stands twice",
        r#"{"jsonrpc":"2.0","id":ID,"method":"ping","method":"tools/call","params":{"name":"secret"}}"#,
    ),
    (
        "a method in other letters",
        r#"{"jsonrpc":"2.0","id":ID,"method":"Tools/Call","params":{"name":"secret"}}"#,
    ),
    (
        "arguments that are a list",
        r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"echo","arguments":["hello"]}}"#,
    ),
    (
        "arguments that are text",
        r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"echo","arguments":"{}"}}"#,
    ),
    (
        "an amount below zero",
        r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"spend","arguments":{"n":-100}}}"#,
    ),
    (
        "an amount that is no number",
        r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"spend","arguments":{"n":"1"}}}"#,
    ),
    (
        "more than the limit",
        r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"spend","arguments":{"n":11}}}"#,
    ),
    (
        "a tool that is hidden",
        r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"secret","arguments":{}}}"#,
    ),
    (
        "an argument that is denied",
        r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"echo","arguments":{"text":"bye"}}}"#,
    ),
    (
        "a call that waits for an operator",
        r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"restart","arguments":{}}}"#,
    ),
    (
        "a call whose id is null",
        r#"{"jsonrpc":"2.0","id":null,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hello"}}}"#,
    ),
    (
        "text that is no JSON",
        r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call""#,
    ),
];

/// Calls that nobody would see the end of: they are neither carried out nor answered.
const SILENT: &[&str] = &[
    r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"echo","arguments":{"text":"hello"}}}"#,
    r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"secret"}}"#,
];

#[test]
fn holes_are_closed_on_every_way() -> Result<()> {
    for era in [Era::Sessions, Era::Stateless] {
        for way in era.ways() {
            holes(way, era).with_context(|| format!("{way:?}, {era:?}"))?;
        }
    }
    Ok(())
}

fn holes(way: Way, era: Era) -> Result<()> {
    let mut line = Line::new(way, GUARDED)?;
    era.begin(&mut line.client)?;
    for (number, (what, message)) in HOLES.iter().enumerate() {
        let id = json!(1000 + number);
        line.say(&era.line(&message.replace("ID", &id.to_string())))?;
        // Where the request cannot be told for certain, the answer is to none.
        let told = |message: &Value| {
            let to = message
                .get("id")
                .filter(|_| message.get("method").is_none());
            to.is_some_and(|to| *to == id || to.is_null())
        };
        let answer = line.client.wait(PATIENCE, told).context(*what)?;
        ensure!(answer.failed(), "{what}: {}", answer.line);
    }
    for message in SILENT {
        line.say(&era.line(message))?;
    }
    let list = line
        .client
        .request("tools/list", &era.params(&json!({}))?)?;
    let kept = r#""ttlMs":60000,"cacheScope":"private","resultType":"complete","_meta":{"io.example/x":18446744073709551616},"tools":[{"name":"echo","inputSchema":{"type":"object"},"x":"\u00e9"}"#;
    ensure!(list.line.contains(kept), "{}", list.line);
    ensure!(!list.line.contains("secret"), "{}", list.line);
    ensure!(!list.line.contains("chat"), "{}", list.line);
    let spent = era.call(&mut line.client, "spend", &json!({ "n": 10 }))?;
    ensure!(!spent.failed(), "{}", spent.line);
    let over = era.call(&mut line.client, "spend", &json!({ "n": 1 }))?;
    ensure!(over.failed(), "{}", over.line);
    let called = era.call(&mut line.client, "echo", &json!({ "text": "hello" }))?;
    ensure!(!called.failed(), "{}", called.line);

    let mut seen = line.seen()?;
    let calls = seen.iter().filter(|line| line.contains("tools/call"));
    ensure!(calls.count() == 2, "{seen:?}");
    // Beside these: the list, and what begins a session, or asks whether there are any.
    seen.retain(|line| !line.contains("server/discover") && !line.contains("initialize"));
    ensure!(seen.len() == 3, "{seen:?}");
    if way.is_http() {
        doors(&line.stage, way)?;
    }
    line.end()
}

const COUNTED: &str = "version: 1
default: deny
tools: { echo: allow, spend: { limits: [ { max: 10, window: day } ] } }
";

#[test]
fn calls_with_limits_are_denied_on_every_way_while_the_counters_are_gone() -> Result<()> {
    for era in [Era::Sessions, Era::Stateless] {
        for way in era.ways() {
            uncounted(way, era).with_context(|| format!("{way:?}, {era:?}"))?;
        }
    }
    Ok(())
}

fn uncounted(way: Way, era: Era) -> Result<()> {
    let place = directory()?;
    let mut redis = Redis::start(place.path(), &[])?;
    let mut line = Line::with(way, COUNTED, &["--counters", &redis.address()])?;
    era.begin(&mut line.client)?;
    let counted = era.call(&mut line.client, "spend", &json!({}))?;
    ensure!(!counted.failed(), "{}", counted.line);
    redis.kill()?;
    for _ in 0..2 {
        let refused = era.call(&mut line.client, "spend", &json!({}))?;
        ensure!(
            refused.failed() && refused.text().contains("the counters cannot be reached"),
            "{}",
            refused.line
        );
    }
    let free = era.call(&mut line.client, "echo", &json!({}))?;
    ensure!(!free.failed(), "{}", free.line);
    let seen = line.seen()?;
    let spent = seen.iter().filter(|line| line.contains("spend")).count();
    ensure!(spent == 1, "{seen:?}");
    line.end()
}

/// Pages of other sites, and names that were made to lead here, are kept out.
fn doors(stage: &Stage, way: Way) -> Result<()> {
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hello"}}}"#;
    let paths: &[&str] = match way {
        Way::EventsToHttp | Way::EventsToPipe => &["/sse", "/messages?sessionId=x"],
        _ => &["/mcp"],
    };
    for path in paths {
        for header in ["Origin: https://evil.example", "Host: evil.example"] {
            for post in [true, false] {
                let mut command = stage.space.command("curl");
                command.args(["-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}"]);
                command.args([
                    "-H",
                    header,
                    "-H",
                    "Accept: application/json, text/event-stream",
                ]);
                if post {
                    command.args(["-H", "Content-Type: application/json", "-d", call]);
                }
                let done = command.arg(format!("http://{HERE}{path}")).output()?;
                let status = String::from_utf8_lossy(&done.stdout);
                ensure!(status == "403", "{path} {header} {post}: {status}");
            }
        }
    }
    Ok(())
}

const OPEN: &str = "version: 1\ndefault: deny\ntools: { echo: allow, chat: allow, secret: allow, spend: allow, restart: allow }\n";

/// What a client says, in order; each request after the answer to the one before.
const CONVERSATION: &[&str] = &[
    r#"{"jsonrpc" : "2.0","id":"h\u00e9-1","method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{"sampling":{},"elicitation":{},"x-new":[1.0]},"clientInfo":{"name":"t","version":"0"}},"x-top":{"a":[]}}"#,
    r#"{"method":"notifications/initialized","jsonrpc":"2.0"}"#,
    r#"{"jsonrpc":"2.0","id":18014398509481985,"method":"tools/list","params":{"_meta":{"io.example/a":1e2},"cursor":""}}"#,
    r#"{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{ "name":"\u0063hat","arguments":{"big":123456789012345678901234567890,"u":"\ud83d\ude00 \u2028","n":null,"a":[1.10,-0.0,1E5]},"_meta":{"progressToken":"tok\u0065n"},"task":{"ttl":60000}}}"#,
    "\u{20}{\"jsonrpc\":\"2.0\",\"id\":\"srv-1\",\"result\":{\"role\":\"assistant\",\"content\":{\"type\":\"text\",\"text\":\"\u{1f600}\"},\"model\":\"m\",\"x\":1.0}}",
    r#"{"jsonrpc":"2.0","id":-7,"error":{"code":-1,"message":"n\u00f6","data":{"x":[ ]}}}"#,
    r#"{"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"file:\/\/\/a%20b","x":  {}}}"#,
    r#"{"jsonrpc":"2.0","id":3,"method":"tasks/get","params":{"taskId":"t"}}"#,
    r#"{"jsonrpc":"2.0","id":4,"method":"x/unknown","params":{"deep":[[[[{"a":{}}]]]]}}"#,
    r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"echo","arguments":{}}}"#,
];

/// The same without a session.
const REQUESTS: &[&str] = &[
    r#"{"jsonrpc" : "2.0","id":"h\u00e9-1","method":"tools/list","params":{"cursor":"","x":1e2}}"#,
    r#"{"jsonrpc":"2.0","id":18014398509481985,"method":"tools/call","params":{"name":"echo","arguments":{"big":123456789012345678901234567890,"u":"\ud83d\ude00 \u2028","n":null,"a":[1.10,-0.0,1E5]}}}"#,
    r#"{"jsonrpc":"2.0","id":4,"method":"x/unknown","params":{"deep":[[[[{"a":{}}]]]]}}"#,
];

impl Era {
    fn conversation(self) -> Vec<String> {
        let lines = match self {
            Self::Sessions => CONVERSATION,
            Self::Stateless => REQUESTS,
        };
        lines.iter().map(|line| self.line(line)).collect()
    }
}

/// What came to the client: the number of lines is known.
fn converse(client: &mut Client, era: Era) -> Result<Vec<String>> {
    for line in era.conversation() {
        client.send(format!("{line}\n").as_bytes())?;
        let message: Value = serde_json::from_str(&line)?;
        if let (Some(id), Some(_)) = (message.get("id"), message.get("method")) {
            client.answered(id)?;
        }
    }
    Ok(client
        .rest()
        .drain(..)
        .map(|message| message.line)
        .collect())
}

#[test]
fn bytes_are_those_of_the_server_alone_on_every_way() -> Result<()> {
    for (era, comes) in [(Era::Sessions, 12), (Era::Stateless, 3)] {
        let stage = Stage::new()?;
        let script = stage.write("plain.py", PLAIN)?;
        let mut alone = stage.direct(&[&python("python3")?, &script])?;
        let told = converse(&mut alone, era)?;
        alone.close_input();
        ensure!(alone.exit()?.success());
        ensure!(told.len() == comes, "{told:?}");
        let seen = fs::read_to_string(stage.capture("seen"))?;
        let sent: Vec<&str> = seen.lines().collect();
        ensure!(sent.len() == era.conversation().len(), "{seen}");
        for way in era.ways() {
            bytes(way, era, &told, &sent).with_context(|| format!("{way:?}, {era:?}"))?;
        }
    }
    Ok(())
}

/// Compares what came to the client, and to the server, with what did without capwarden.
fn bytes(way: Way, era: Era, told: &[String], sent: &[&str]) -> Result<()> {
    let mut line = Line::new(way, OPEN)?;
    let mut through = converse(&mut line.client, era)?;
    let mut told = told.to_vec();
    // Over HTTP, messages of one answer may come on another stream than the answer.
    if way.is_http() {
        through.sort();
        told.sort();
    }
    ensure!(through == told, "{through:#?}\nalone: {told:#?}");
    let mut got = line.seen()?;
    let mut sent: Vec<String> = sent.iter().map(ToString::to_string).collect();
    // Several clients share the server, so requests are numbered; every other byte stays.
    if (way, era) == (Way::HttpToPipe, Era::Stateless) {
        got.retain(|line| !line.contains("server/discover"));
        let rest = |line: &String| -> Result<String> {
            let (head, id) = line.split_once("\"id\":").context("an id")?;
            let (_, tail) = id.split_once(",\"method\"").context("a method")?;
            Ok(format!("{head}{tail}"))
        };
        got = got.iter().map(rest).collect::<Result<_>>()?;
        sent = sent.iter().map(rest).collect::<Result<_>>()?;
    }
    ensure!(got == sent, "{got:#?}\nalone: {sent:#?}");
    line.end()
}
