//! Every way to a server: what must not pass does not pass on any of them, what passes does so with
//! every byte, and each client has what is its own.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::wait_for,
    mcp::{Client, PATIENCE},
    stage::{Stage, python},
};
use rustix::process::Signal;
use serde_json::{Value, json};

const PLAIN: &str = include_str!("../scripts/plain.py");
const CARRY: &str = include_str!("../scripts/carry.py");
const BRIDGE: &str = include_str!("../scripts/bridge.py");

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
        let stage = Stage::new()?;
        let script = stage.write("plain.py", PLAIN)?;
        let python3 = python("python3")?;
        let socket = stage.path("socket");
        let listen = match way {
            Way::Pipe => {
                let client = stage.run(policy, &[&python3, &script])?;
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
                let mut command = Command::new(&python3);
                command.arg(stage.write("bridge.py", BRIDGE)?).arg(&socket);
                command
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
    for way in WAYS {
        holes(way).with_context(|| format!("{way:?}"))?;
    }
    Ok(())
}

fn holes(way: Way) -> Result<()> {
    let mut line = Line::new(way, GUARDED)?;
    line.client.shake_hands()?;
    for (number, (what, message)) in HOLES.iter().enumerate() {
        let id = json!(1000 + number);
        line.say(&message.replace("ID", &id.to_string()))?;
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
        line.say(message)?;
    }
    let list = line.client.request("tools/list", &json!({}))?;
    let kept = r#""ttlMs":60000,"cacheScope":"private","resultType":"complete","_meta":{"io.example/x":18446744073709551616},"tools":[{"name":"echo","inputSchema":{"type":"object"},"x":"\u00e9"}"#;
    ensure!(list.line.contains(kept), "{}", list.line);
    ensure!(!list.line.contains("secret"), "{}", list.line);
    ensure!(!list.line.contains("chat"), "{}", list.line);
    let spent = line.client.call("spend", &json!({ "n": 10 }))?;
    ensure!(!spent.failed(), "{}", spent.line);
    let over = line.client.call("spend", &json!({ "n": 1 }))?;
    ensure!(over.failed(), "{}", over.line);
    let called = line.client.call("echo", &json!({ "text": "hello" }))?;
    ensure!(!called.failed(), "{}", called.line);

    let seen = line.seen()?;
    let calls = seen.iter().filter(|line| line.contains("tools/call"));
    ensure!(calls.count() == 2, "{seen:?}");
    // Beside these: the handshake and the list.
    ensure!(seen.len() == 5, "{seen:?}");
    if way.is_http() {
        doors(&line.stage, way)?;
    }
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

/// What came to the client: the number of lines is known.
fn converse(client: &mut Client) -> Result<Vec<String>> {
    for line in CONVERSATION {
        client.send(format!("{line}\n").as_bytes())?;
        let message: Value = serde_json::from_str(line)?;
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
    let stage = Stage::new()?;
    let script = stage.write("plain.py", PLAIN)?;
    let mut alone = stage.direct(&[&python("python3")?, &script])?;
    let told = converse(&mut alone)?;
    alone.close_input();
    ensure!(alone.exit()?.success());
    let seen = fs::read_to_string(stage.capture("seen"))?;
    ensure!(seen.lines().count() == CONVERSATION.len(), "{seen}");
    ensure!(told.len() == 12, "{told:?}");

    for way in WAYS {
        let mut line = Line::new(way, OPEN)?;
        let mut through = converse(&mut line.client).with_context(|| format!("{way:?}"))?;
        let mut told = told.clone();
        // Over HTTP, messages of one answer may come on another stream than the answer.
        if way.is_http() {
            through.sort();
            told.sort();
        }
        ensure!(through == told, "{way:?}: {through:#?}\nalone: {told:#?}");
        let got = line.seen()?;
        let sent: Vec<&str> = seen.lines().collect();
        ensure!(got == sent, "{way:?}: {got:#?}\nalone: {sent:#?}");
        line.end()?;
    }
    Ok(())
}
