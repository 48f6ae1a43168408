//! What clients and servers should not send: messages, requests and answers with some damage, the same ones for the same
//! dice.

use serde_json::{Value, json};

use crate::dice::Dice;

/// What a client might send.
fn seeds(id: usize) -> Vec<String> {
    let call = |name: &str, arguments: Value| {
        json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": name, "arguments": arguments } })
            .to_string()
    };
    vec![
        json!({ "jsonrpc": "2.0", "id": id, "method": "ping" }).to_string(),
        json!({ "jsonrpc": "2.0", "id": id, "method": "tools/list", "params": {} }).to_string(),
        json!({ "jsonrpc": "2.0", "id": id.to_string(), "method": "initialize", "params": {} }).to_string(),
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } }).to_string(),
        json!({ "jsonrpc": "2.0", "id": id, "result": { "tools": [] } }).to_string(),
        json!([{ "jsonrpc": "2.0", "id": id, "method": "tools/call" }]).to_string(),
        call("echo", json!({ "n": id, "text": "\u{e9}\u{1f600}\0\u{2028}", "deep": [[[{ "a": null }]]] })),
        call("capture", json!({ "interface": "nosuch0", "filter": "tcp port 80" })),
        call("capture", json!({ "interface": "lo" })),
        call("stop", json!({ "id": "capture-1" })),
        call("hidden", json!({})),
        call("echo", json!({ "n": 1e300 })),
        r#"{"jsonrpc":"2.0","id":1,"ID":2,"method":"tools/call","METHOD":"ping","params":{"name":"hidden"}}"#.to_owned(),
        format!(r#"{{"id":{id},"method":"Tools/Call","params":{{"name":"hidden","arguments":{{"a":1,"a":2}}}}}}"#),
        format!("{{\"id\":{id},\"method\":\"x\",\"params\":{}{}}}", "[".repeat(200), "]".repeat(200)),
    ]
}

/// A line of a client: a good one with some damage, or none at all.
pub fn line(dice: &mut Dice, number: usize) -> Vec<u8> {
    let mut line: Vec<u8> = match dice.roll(10) {
        0 => (0..dice.roll(300)).map(|_| dice.byte()).collect(),
        _ => {
            let seeds = seeds(number);
            dice.pick(&seeds).cloned().unwrap_or_default().into_bytes()
        }
    };
    for _ in 0..dice.roll(5) {
        let at = dice.roll(line.len() + 1);
        match dice.roll(7) {
            0 => {
                let byte = dice.byte();
                if let Some(place) = line.get_mut(at) {
                    *place = byte;
                }
            }
            1 => line.insert(at, dice.byte()),
            2 => {
                let end = (at + dice.roll(20)).min(line.len());
                line.drain(at..end);
            }
            3 => {
                let tokens: [&[u8]; 12] = [
                    b"{",
                    b"}",
                    b"[",
                    b"]",
                    b"\"",
                    b"\\u0000",
                    b"\\ud800",
                    b"1e999",
                    b"\r",
                    b"\"id\":1,",
                    b"\"method\":\"tools/call\",",
                    b"null",
                ];
                let token = dice.pick(&tokens).copied().unwrap_or_default();
                line.splice(at..at, token.iter().copied());
            }
            4 => line.truncate(at),
            5 => {
                let part = line.get(at..).unwrap_or_default().to_vec();
                line.extend(part);
            }
            _ => line
                .splice(at..at, [b'['].repeat(dice.roll(400)))
                .for_each(drop),
        }
    }
    line.push(b'\n');
    line
}

/// A request over HTTP.
#[derive(Debug)]
pub struct Request {
    /// As it is sent.
    pub bytes: Vec<u8>,
    /// The message in it, if its end can be told, so that it has an answer.
    pub message: Option<Vec<u8>>,
}

/// A request to this host, in this session: one whose body alone is damaged, or one with some damage to its head, its
/// length or its chunks as well.
pub fn request(dice: &mut Dice, host: &str, session: &str, number: usize) -> Request {
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: {host}\r\nAccept: application/json, text/event-stream\r\nContent-Type: application/json\r\n{session}"
    );
    if dice.roll(3) == 0 {
        let bytes = damaged_request(dice, host, number);
        let message = None;
        return Request { bytes, message };
    }
    let body = match dice.roll(2) {
        0 => line(dice, number),
        _ => dice
            .pick(&seeds(number))
            .cloned()
            .unwrap_or_default()
            .into(),
    };
    let message = Some(body.clone());
    let (length, body) = match dice.roll(2) {
        0 => (format!("Content-Length: {}\r\n\r\n", body.len()), body),
        _ => {
            let pieces = body.chunks(1 + dice.roll(100));
            let chunks = pieces.flat_map(|piece| {
                let size = format!("{:X}\r\n", piece.len());
                [size.as_bytes(), piece, b"\r\n"].concat()
            });
            let chunks = chunks.chain(*b"0\r\n\r\n").collect();
            ("Transfer-Encoding: chunked\r\n\r\n".to_owned(), chunks)
        }
    };
    let bytes = [head.as_bytes(), length.as_bytes(), &body].concat();
    Request { bytes, message }
}

fn damaged_request(dice: &mut Dice, host: &str, number: usize) -> Vec<u8> {
    const LONG: usize = 100 * 1024;
    let method = dice.word(&[
        "POST", "POST", "POST", "POST", "GET", "DELETE", "PUT", "post", "P\0ST", "",
    ]);
    let path = dice.word(&[
        "/mcp",
        "/mcp",
        "/mcp",
        "/mcp",
        "/sse",
        "/messages?sessionId=x",
        "/",
        "*",
        "//mcp/..",
        "/mcp?\u{e9}",
    ]);
    let version = dice.word(&[
        "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", "",
    ]);
    let mut head = format!(
        "{method} {path} {version}\r\nHost: {host}\r\nAccept: application/json, text/event-stream\r\nContent-Type: application/json\r\n"
    );
    let mut body = line(dice, number);
    if dice.roll(60) == 0 {
        body = vec![b'['; 5 << 20];
    }
    for _ in 0..dice.roll(3) {
        match dice.roll(10) {
            0 => head.push_str(&format!("X-Long: {}\r\n", "x".repeat(LONG))),
            1 => (0..200).for_each(|each| head.push_str(&format!("X-{each}: 1\r\n"))),
            2 => head.push_str("Mcp-Session-Id: nobody's\r\n"),
            3 => head.push_str("MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: hidden\r\n"),
            4 => head.push_str("MCP-Protocol-Version: 1\r\nMCP-Protocol-Version: 2\r\n"),
            5 => head.push_str("Continued: a\r\n b\r\n\tc\r\n"),
            6 => head.push_str("No colon\r\n: no name\r\nA b: space\r\nN\0l: \0\r\n"),
            7 => head.push_str("Expect: 100-continue\r\n"),
            8 => head.push_str("Content-Encoding: gzip\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"),
            _ => head.push_str("Authorization: Bearer \u{e9}\r\nOrigin: null\r\nLast-Event-ID: \u{1f600}\r\n"),
        }
    }
    let length = body.len();
    match dice.roll(8) {
        0..=3 => head.push_str(&format!("Content-Length: {length}\r\n")),
        4 => {
            let wrong = [
                "0",
                "1",
                "-1",
                "+5",
                "0x10",
                " 7 ",
                "18446744073709551616",
                "99999999999",
                "5, 5",
                "",
            ];
            head.push_str(&format!("Content-Length: {}\r\n", dice.word(&wrong)));
        }
        5 => head.push_str(&format!(
            "Content-Length: {length}\r\nContent-Length: 1\r\n"
        )),
        _ => {
            let how = [
                "chunked",
                "chunked",
                "chunked",
                "Chunked ",
                "identity",
                "gzip, chunked",
                "chunked, chunked",
                "xchunked",
            ];
            head.push_str(&format!("Transfer-Encoding: {}\r\n", dice.word(&how)));
            if dice.roll(4) == 0 {
                head.push_str("Content-Length: 3\r\n");
            }
            body = chunked(dice, &body);
        }
    }
    let end = dice.word(&["\r\n", "\r\n", "\r\n", "\r\n", "\n", "", "\r\n\r\n"]);
    let mut request = [head.as_bytes(), end.as_bytes(), &body].concat();
    if dice.roll(4) == 0 {
        damage(dice, &mut request);
    }
    request
}

/// A body in chunks, of which some have sizes, ends or extensions that nobody means.
pub fn chunked(dice: &mut Dice, body: &[u8]) -> Vec<u8> {
    let mut chunks = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (piece, next) = rest.split_at((1 + dice.roll(rest.len())).min(rest.len()));
        rest = next;
        let size = match dice.roll(20) {
            0 => dice
                .word(&[
                    "-1",
                    "0x5",
                    "FFFFFFFFFFFFFFFFF",
                    "ffffffffffffffff",
                    "",
                    "G",
                    " 5",
                ])
                .to_owned(),
            1 => format!("{:x};name=\"value\"", piece.len()),
            2 => format!("{:x};{}", piece.len(), "x".repeat(40_000)),
            3 => format!("000000000000000000000000{:x}", piece.len()),
            _ => format!("{:x}", piece.len()),
        };
        let end = dice.word(&["\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", ""]);
        chunks.extend_from_slice(size.as_bytes());
        chunks.extend_from_slice(b"\r\n");
        chunks.extend_from_slice(piece);
        chunks.extend_from_slice(end.as_bytes());
    }
    let last = dice.word(&[
        "0\r\n\r\n",
        "0\r\n\r\n",
        "0\r\n\r\n",
        "0\r\nTrailer: x\r\n\r\n",
        "0\r\n",
        "",
        "0\r\n\r\nPOST /mcp HTTP/1.1\r\n\r\n",
    ]);
    chunks.extend_from_slice(last.as_bytes());
    chunks
}

/// An answer over HTTP that a server must not give, to a request with this id.
pub fn response(dice: &mut Dice, id: &str) -> Vec<u8> {
    let answer = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"content\":[],\"tools\":[{{\"name\":\"hidden\"}}]}}}}"
    );
    let mut body = answer.into_bytes();
    for _ in 0..dice.roll(4) {
        damage(dice, &mut body);
    }
    let events = dice.roll(2) == 0;
    if events {
        body = stream(dice, &body);
    }
    let status = dice.word(&[
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 202 Accepted",
        "HTTP/1.1 204 No Content",
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/",
        "HTTP/1.1 404 Not Found",
        "HTTP/1.1 500 x",
        "HTTP/1.1 999 x",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK",
        "HTTP/1.1 101 Switching Protocols",
        "HTTP/1.1 2000 x",
        "ICY 200 OK",
        "",
    ]);
    let kind = match events {
        true => dice.word(&["text/event-stream", "text/event-stream; charset=utf-16"]),
        false => dice.word(&[
            "application/json",
            "application/json",
            "text/html",
            "",
            "text/event-stream",
        ]),
    };
    let mut head = format!("{status}\r\nContent-Type: {kind}\r\n");
    if dice.roll(4) == 0 {
        head.push_str(dice.word(&[
            "Content-Encoding: gzip\r\n",
            "Mcp-Session-Id: \u{e9}\0\r\n",
            "Set-Cookie: a=b\r\nConnection: close\r\n",
            "No colon\r\n",
            "X: a\r\n b\r\n",
        ]));
    }
    match dice.roll(6) {
        0..=2 => head.push_str(&format!("Content-Length: {}\r\n", body.len())),
        3 => head.push_str(&format!(
            "Content-Length: {}\r\n",
            dice.word(&["0", "1", "-1", "99999", "18446744073709551616", "x"])
        )),
        4 => {} // until the connection ends
        _ => {
            head.push_str("Transfer-Encoding: chunked\r\n");
            body = chunked(dice, &body);
        }
    }
    let mut response = [head.as_bytes(), b"\r\n", &body].concat();
    if dice.roll(6) == 0 {
        damage(dice, &mut response);
    }
    response
}

/// Events as they should not be, among which is one with this message.
fn stream(dice: &mut Dice, message: &[u8]) -> Vec<u8> {
    let garbage: [&[u8]; 12] = [
        b":\n\n",
        b"data\n\n",
        b"data: \xff\xfe\n\n",
        b"event: \0\ndata: {}\n\n",
        b"id: \xf0\x9f\ndata: x\n\n",
        b"retry: -1\n\n",
        b"retry: 99999999999999999999\ndata: [\ndata: ]\n\n",
        b"\xef\xbb\xbfdata: {}\r\r",
        b"data: {}\r\n\r\n",
        b"data: no end",
        b"event: endpoint\ndata: http://127.0.0.1:1/\n\n",
        b"data: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"sampling/createMessage\"}\n\n",
    ];
    let mut events = Vec::new();
    let at = dice.roll(6);
    for number in 0..6 {
        if number == at {
            events.extend([b"event: message\ndata: ", message, b"\n\n"].concat());
        }
        events.extend_from_slice(dice.pick(&garbage).copied().unwrap_or_default());
        if dice.roll(40) == 0 {
            events.extend(b"data: ".iter().chain(&vec![b'x'; 1 << 20]));
        }
    }
    events
}

/// Changes, adds or takes away some bytes.
fn damage(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let at = dice.roll(bytes.len() + 1);
    match dice.roll(4) {
        0 => bytes.insert(at, dice.byte()),
        1 => bytes.truncate(at),
        2 => {
            let end = (at + dice.roll(20)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => {
            let byte = dice.byte();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
    }
}
