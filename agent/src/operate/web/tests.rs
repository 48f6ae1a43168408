//! Who is let in at the page, and what is told to whom.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request,
    body::Bytes,
    header::{AUTHORIZATION, CONTENT_SECURITY_POLICY, HOST},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{Place, Web, answer::Door, digest, news::Board, seats::Seats};
use crate::operate::{
    Agent, Line,
    top::{
        Desk, Waiting,
        tests::{agent, live},
    },
};

const TOKEN: &str = "a token";

/// Remembers what it was told to do.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<String>>>);

impl Desk for Calls {
    fn waiting(&mut self) -> Result<Vec<Waiting>, String> {
        Ok(vec![Waiting {
            id: "K7QM-2F9X".to_owned(),
            tool: "</script><b>".to_owned(),
            arguments: "{\"file\":\"a\u{202e}b\u{200b}\"}".to_owned(),
            ..Waiting::default()
        }])
    }

    fn approve(&mut self, id: &str) -> Result<String, String> {
        self.0.lock().unwrap().push(format!("approve {id}"));
        Ok(format!("approved {id}"))
    }

    fn deny(&mut self, id: &str) -> Result<String, String> {
        self.0.lock().unwrap().push(format!("deny {id}"));
        Err("it is over".to_owned())
    }
}

fn door(calls: &Calls) -> Door {
    Door::new(
        digest(TOKEN),
        Arc::new(Board::default()),
        calls.clone(),
        None,
    )
}

/// The status of an answer, and its first piece.
async fn ask(
    door: &Door,
    method: &str,
    path: &str,
    host: &str,
    token: Option<&str>,
    body: &str,
) -> (u16, String) {
    let mut request = Request::builder().method(method).uri(path);
    request = request.header(HOST, host);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    let mut answer = door.answer(request.body(body).unwrap()).await;
    let policy = answer.headers().get(CONTENT_SECURITY_POLICY).unwrap();
    assert!(policy.to_str().unwrap().starts_with("default-src 'none'"));
    let first = answer.body_mut().frame().await;
    let first = first.and_then(|frame| frame.unwrap().into_data().ok());
    let first = String::from_utf8(first.unwrap_or_default().to_vec()).unwrap();
    (answer.status().as_u16(), first)
}

#[tokio::test]
async fn page_is_for_this_host_and_its_news_for_who_has_the_token() {
    let calls = Calls::default();
    let door = door(&calls);
    for path in ["/", "/page.js", "/page.css"] {
        let (status, text) = ask(&door, "GET", path, "127.0.0.1:9465", None, "").await;
        assert_eq!(status, 200, "{path}");
        assert!(!text.contains(TOKEN) && !text.contains("//cdn"), "{path}");
        for host in ["example.org", "127.0.0.1.example.org:9465", ""] {
            let (status, _) = ask(&door, "GET", path, host, Some(TOKEN), "").await;
            assert_eq!(status, 403, "{path} at {host}");
        }
    }
    for (method, path) in [
        ("GET", "/news"),
        ("POST", "/stop"),
        ("POST", "/approve"),
        ("POST", "/deny"),
    ] {
        for token in [
            None,
            Some(""),
            Some("a toke"),
            Some("a token "),
            Some("b token"),
        ] {
            let (status, _) = ask(&door, method, path, "localhost:1", token, "{}").await;
            assert_eq!(status, 401, "{path} with {token:?}");
        }
    }
    let (status, _) = ask(&door, "GET", "/approve", "localhost", Some(TOKEN), "").await;
    assert_eq!(status, 404, "nothing is done by a GET");
    let (status, news) = ask(&door, "GET", "/news", "[::1]:1", Some(TOKEN), "").await;
    assert_eq!(status, 200);
    let news = news.strip_prefix("data: ").unwrap();
    assert_eq!(news.find("\n\n"), Some(news.len() - 2), "one line: {news}");
    let news: serde_json::Value = serde_json::from_str(news).unwrap();
    assert_eq!(news["waiting"][0]["id"], "K7QM-2F9X");
    // What cannot be seen is written out, as the page puts texts in as they are.
    assert_eq!(
        news["waiting"][0]["arguments"],
        r#"{"file":"a\u202eb\u200b"}"#
    );
    assert!(calls.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_to_be_done_is_done_and_its_outcome_told() {
    let calls = Calls::default();
    let door = door(&calls);
    let id = r#"{"id":"K7QM-2F9X"}"#;
    for (path, body, status, words) in [
        ("/approve", id, 200, "approved K7QM-2F9X"),
        ("/deny", id, 409, "it is over"),
        ("/stop", r#"{"session":"none/s1"}"#, 404, "has ended"),
        ("/stop", "nonsense", 400, "that is no request"),
        ("/approve", r#"{"id":"x","y":1}"#, 400, "unknown field"),
    ] {
        let told = ask(&door, "POST", path, "127.0.0.1", Some(TOKEN), body).await;
        assert_eq!(told.0, status, "{path} {body}: {}", told.1);
        assert!(told.1.contains(words), "{path}: {}", told.1);
    }
    let long = "x".repeat(10_000);
    let told = ask(&door, "POST", "/stop", "127.0.0.1", Some(TOKEN), &long).await;
    assert_eq!(told.0, 413);
    let done = calls.0.lock().unwrap().clone();
    assert_eq!(done, ["approve K7QM-2F9X", "deny K7QM-2F9X"]);
}

#[tokio::test]
async fn only_so_many_pages_are_told_the_news_at_once() {
    let door = door(&Calls::default());
    let mut open = Vec::new();
    loop {
        let request = Request::builder()
            .uri("/news")
            .header(HOST, "localhost")
            .header(AUTHORIZATION, format!("Bearer {TOKEN}"));
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let answer = door.answer(request).await;
        if answer.status() != 200 {
            assert_eq!((answer.status().as_u16(), open.len()), (503, 8));
            break;
        }
        open.push(answer);
    }
    open.clear();
    let again = ask(&door, "GET", "/news", "localhost", Some(TOKEN), "").await;
    assert_eq!(again.0, 200);
}

#[test]
fn page_is_told_whose_a_session_is_and_how_many_servers_there_are() {
    let board = Board::default();
    let mut session = live(1, 3, 1_000);
    session.version = Some("1.2.3".to_owned());
    session.replaced_by = Some(9);
    let agent = Agent {
        serves: Some(3),
        ..agent()
    };
    {
        let mut top = board.top();
        top.hear(7, Line::Agent(agent));
        top.hear(7, Line::Session(Box::new(session)));
        top.hear(7, Line::Moment(String::new()));
    }
    let event = board.event(&Ok(Vec::new()));
    let news = event.strip_prefix("data: ").unwrap();
    let news: serde_json::Value = serde_json::from_str(news).unwrap();
    assert_eq!((&news["servers"], &news["agents"]), (&3.into(), &1.into()));
    let one = &news["sessions"][0];
    assert_eq!(
        one["by"],
        "agent process 7 (version 1.2.3, replaced by process 9)"
    );
    assert_eq!(one["packets"]["seen"], 3);
}

#[test]
fn page_stays_on_the_host() {
    for good in ["127.0.0.1:9465", "127.7.0.1:0", "[::1]:9465"] {
        assert!(good.parse::<Place>().is_ok(), "{good}");
    }
    for bad in [
        "0.0.0.0:1",
        "[::]:1",
        "192.0.2.1:1",
        "localhost:1",
        "127.0.0.1",
        "",
    ] {
        assert!(bad.parse::<Place>().is_err(), "{bad}");
    }
}

/// A page whose guests may stay for so long.
async fn served(moment: Duration) -> (SocketAddr, tokio::task::JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let web = Web {
        listener,
        at,
        address: String::new(),
        door: Arc::new(door(&Calls::default())),
        seats: Seats::lasting(moment),
    };
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(web.serve());
    (at, serving)
}

/// Asks for something on a connection, and reads as much of the answer as there is at once.
async fn asked(stream: &mut TcpStream, path: &str, token: &str) -> String {
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = vec![0; 16 << 10];
    let length = stream.read(&mut answer).await.unwrap_or(0);
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_token_has_few_connections_and_not_for_long() {
    let (at, _serving) = served(Duration::from_millis(200)).await;
    let mut member = TcpStream::connect(at).await.unwrap();
    let news = asked(&mut member, "/news", TOKEN).await;
    assert!(news.starts_with("HTTP/1.1 200"), "{news}");
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(at).await.unwrap());
    }
    // All of them are closed, whether they were let in or not.
    for stream in &mut silent {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
    }
    // Whoever had shown the token is still told, and so is the next one who does.
    let mut more = vec![0; 1 << 10];
    assert!(member.read(&mut more).await.unwrap() > 0);
    let mut next = TcpStream::connect(at).await.unwrap();
    assert!(
        asked(&mut next, "/page.css", "")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(
        asked(&mut next, "/news", TOKEN)
            .await
            .starts_with("HTTP/1.1 200")
    );
}
