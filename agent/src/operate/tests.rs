//! The socket, asked as an operator asks it; and who is meant by a name.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::TempDir;
use tokio::task::spawn_blocking;

use super::{
    Desk, Line, Live, NoSuchSession, Request, client::agents_in, office::Office, place, select,
    wire::short,
};
use crate::{
    approval,
    audit::Log,
    session::{Count, Protocols, Roll, SessionId, SessionKind, Snapshot, Standing},
};

fn live(agent: &str, session: u32) -> Live {
    Live {
        id: format!("{agent}/s{session}"),
        agent: agent.to_owned(),
        pid: 1,
        server: "pcap".to_owned(),
        who: None,
        started: String::new(),
        version: None,
        replaced_by: None,
        now: Snapshot {
            session: SessionId(session),
            kind: SessionKind::Capture,
            standing: Standing::Live,
            reason: None,
            granted: "\u{1b}".repeat(100_000),
            interfaces: vec!["lo".to_owned()],
            asked: Some("x".repeat(100_000)),
            within: Some("\"".repeat(100_000)),
            cut: Some("\u{7f}".repeat(100_000)),
            packets: Count {
                seen: 7,
                cap: Some(1_000),
            },
            bytes: Count::default(),
            protocols: Protocols::default(),
            passed: None,
            sockets: 1,
            refused: 0,
            running: None,
            processes: Vec::new(),
            age_ms: 10,
            left_ms: None,
        },
    }
}

#[test]
fn sessions_are_named_as_shortly_as_can_be() {
    let all = [
        live("5f1c2a9b7d0e1f23", 1),
        live("5f1c2a9b7d0e1f23", 10),
        live("5f00000000000000", 1),
        live("a000000000000000", 2),
    ];
    let meant = |name: &str| select(&all, name).map(|one| one.id.as_str());
    assert_eq!(meant("s10"), Ok("5f1c2a9b7d0e1f23/s10"));
    assert_eq!(meant("s2"), Ok("a000000000000000/s2"));
    assert_eq!(meant("a0"), Ok("a000000000000000/s2"));
    assert_eq!(meant("5f1/s1"), Ok("5f1c2a9b7d0e1f23/s1"));
    assert_eq!(meant("5f1c2a9b7d0e1f23/s10"), Ok("5f1c2a9b7d0e1f23/s10"));
    let several = NoSuchSession::Several {
        name: "s1".to_owned(),
        of: vec!["5f1c2a9b/s1".to_owned(), "5f000000/s1".to_owned()],
    };
    assert_eq!(meant("s1"), Err(several));
    for none in ["", "s", "s3", "b", "/", "a0/s1", "5f1c/10"] {
        let none = meant(none).err();
        assert!(matches!(none, Some(NoSuchSession::None(_))), "{none:?}");
    }
    assert!(matches!(meant("5f"), Err(NoSuchSession::Several { .. })));
}

#[test]
fn lines_are_bounded_and_read_back() {
    let line = Line::Session(Box::new(live("5f1c2a9b7d0e1f23", 1).bounded()));
    let text = serde_json::to_string(&line).unwrap();
    assert!(text.len() <= super::LONGEST_LINE, "{}", text.len());
    assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
    assert!(short(&"ä".repeat(10_000)).len() < 1_100);
}

/// An office, and a desk of it with a log.
fn open(dir: &Path) -> (Arc<Office>, Desk, Log) {
    let office = Office::open(&dir.join("agents")).unwrap();
    let log = Log::open(dir.join("audit.jsonl")).unwrap();
    let desk = Desk::open_in(Some(Arc::clone(&office)), "pcap", &log, Roll::default());
    (office, desk, log)
}

fn directory() -> TempDir {
    // Its own directory is checked down from the root, so not just any place will do.
    tempfile::tempdir().unwrap()
}

fn own_socket(dir: &Path) -> PathBuf {
    place::socket(&dir.join("agents"), std::process::id())
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_answers_on_a_socket_of_its_own_and_takes_it_away() {
    let dir = directory();
    let (office, desk, log) = open(dir.path());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.path().join("agents")), 0o700);
    assert_eq!(mode(&own_socket(dir.path())), 0o600);
    let place = dir.path().join("agents");
    let asked = spawn_blocking(move || {
        let mut agents = agents_in(&place, &BTreeSet::new()).unwrap();
        let (there, sessions) = agents.sessions(None);
        assert!(agents.silent.is_empty() && sessions.is_empty());
        let mut one = agents.there.pop().unwrap();
        one.ask(&Request::Stop {
            sessions: vec!["none/s1".to_owned()],
            all: false,
            why: None,
            sudo_uid: None,
        })
        .unwrap();
        (there, one.hear().unwrap())
    });
    let (there, answer) = asked.await.unwrap();
    assert_eq!(there.len(), 1);
    assert_eq!(there[0].agent, log.agent());
    assert_eq!(
        (there[0].server.as_str(), there[0].pid),
        ("pcap", std::process::id())
    );
    assert_eq!(
        answer,
        Line::Refused("no session none/s1 is open here".to_owned())
    );
    drop((desk, office));
    tokio::task::yield_now().await;
    for _ in 0..100 {
        if !own_socket(dir.path()).exists() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the socket is there still");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_one_server_hears_of_nobody_else() {
    let dir = directory();
    let (_office, desk, _log) = open(dir.path());
    let ask = |server: &'static str| {
        let place = dir.path().join("agents");
        spawn_blocking(move || {
            let mut agents = agents_in(&place, &BTreeSet::new()).unwrap();
            agents.sessions(Some(server)).0.len()
        })
    };
    assert_eq!(ask("pcap").await.unwrap(), 1);
    assert_eq!(ask("sniffer").await.unwrap(), 0);
    // From now on it is called so, and serves others.
    desk.serves("sniffer", true);
    assert_eq!(ask("sniffer").await.unwrap(), 1);
    assert_eq!(ask("pcap").await.unwrap(), 0);
    desk.serves("sniffer", false);
    assert_eq!(ask("sniffer").await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_are_told_what_happens_between_two_moments() {
    let dir = directory();
    let (_office, desk, _log) = open(dir.path());
    let place = dir.path().join("agents");
    let (watches, watched) = std::sync::mpsc::channel();
    let heard = spawn_blocking(move || {
        let mut one = agents_in(&place, &BTreeSet::new())
            .unwrap()
            .there
            .pop()
            .unwrap();
        one.ask(&Request::Watch { every_ms: 0 }).unwrap();
        let mut lines = Vec::new();
        loop {
            let line = one.hear().unwrap();
            if matches!(line, Line::Moment(_)) {
                let _ = watches.send(());
            }
            let done = matches!(line, Line::Event(_));
            lines.push(line);
            if done {
                return lines;
            }
        }
    });
    spawn_blocking(move || watched.recv().unwrap())
        .await
        .unwrap();
    desk.approval(&approval::Event {
        id: "K7QM2F9X".to_owned(),
        what: approval::What::Requested,
        principal: "uid:1000".to_owned(),
        // One of several servers of the agent.
        server: "sniffer".to_owned(),
        tool: "start".to_owned(),
        rule: String::new(),
    });
    let lines = heard.await.unwrap();
    assert!(matches!(lines[0], Line::Agent(_)), "{lines:?}");
    let Some(Line::Event(event)) = lines.last() else {
        panic!("{lines:?}");
    };
    assert_eq!(event.text, "K7QM-2F9X requested: start of uid:1000");
    assert_eq!(event.server, "sniffer");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused_and_what_is_too_long_ends_the_conversation() {
    let dir = directory();
    let (_office, _desk, _log) = open(dir.path());
    let path = own_socket(dir.path());
    let told = spawn_blocking(move || {
        let mut told = Vec::new();
        for text in [
            "nonsense\n".to_owned(),
            "{\"do\":\"sessions\",\"x\":1}\n".to_owned(),
            "{\"do\":\"stop\"}\n".to_owned(),
            "{\"do\":\"stop\",\"all\":true}\n".to_owned(),
            format!("{}\n", "x".repeat(super::LONGEST_LINE + 1)),
        ] {
            let mut stream = UnixStream::connect(&path).unwrap();
            // It may be closed before all is written.
            let _ = stream.write_all(text.as_bytes());
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            told.push(answer);
        }
        told
    });
    let told = told.await.unwrap();
    for (answer, words) in told.iter().zip([
        "that is no request: ",
        "unknown field",
        "say which sessions, or all",
        "{\"stopping\":[]}\n{\"done\":{}}\n",
    ]) {
        assert!(answer.contains(words), "{words}: {answer}");
    }
    assert_eq!(told[4], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_beyond_those_that_have_room_are_turned_away() {
    let dir = directory();
    let (_office, _desk, _log) = open(dir.path());
    let path = own_socket(dir.path());
    let answer = spawn_blocking(move || {
        let seated: Vec<_> = (0..super::CONVERSATIONS + super::RESERVED)
            .map(|seat| {
                let mut stream = UnixStream::connect(&path).unwrap();
                let what = match seat < super::CONVERSATIONS {
                    true => "{\"do\":\"watch\",\"every_ms\":10000}\n",
                    false => "{\"do\":\"sessions\"}\n",
                };
                stream.write_all(what.as_bytes()).unwrap();
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap(); // it is let in
                stream
            })
            .collect();
        let mut answer = String::new();
        let mut late = UnixStream::connect(&path).unwrap();
        late.read_to_string(&mut answer).unwrap();
        drop(seated);
        answer
    });
    let answer = answer.await.unwrap();
    assert!(
        answer.contains("8 operators are connected already"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_leave_room_for_whoever_stops_something() {
    let dir = directory();
    let (_office, _desk, _log) = open(dir.path());
    let path = own_socket(dir.path());
    let told = spawn_blocking(move || {
        let ask = |what: &str| {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.write_all(what.as_bytes()).unwrap();
            stream
        };
        let watch = "{\"do\":\"watch\",\"every_ms\":10000}\n";
        let seated: Vec<_> = (0..super::CONVERSATIONS)
            .map(|_| {
                let mut stream = ask(watch);
                stream.read_exact(&mut [0]).unwrap(); // it is let in
                stream
            })
            .collect();
        let mut watcher = String::new();
        ask(watch).read_to_string(&mut watcher).unwrap();
        let mut stopped = ask("{\"do\":\"stop\",\"all\":true}\n");
        stopped.shutdown(std::net::Shutdown::Write).unwrap();
        let mut told = String::new();
        stopped.read_to_string(&mut told).unwrap();
        drop(seated);
        (watcher, told)
    });
    let (watcher, stopped) = told.await.unwrap();
    assert!(
        watcher.contains("8 operators are connected already"),
        "{watcher}"
    );
    assert_eq!(stopped, "{\"stopping\":[]}\n{\"done\":{}}\n");
}

#[test]
fn sockets_of_dead_processes_are_swept_and_no_others() {
    let dir = directory();
    let place = dir.path().join("agents");
    place::make(&place).unwrap();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = child.id();
    child.wait().unwrap();
    for pid in [dead, std::process::id()] {
        drop(std::os::unix::net::UnixListener::bind(place::socket(&place, pid)).unwrap());
    }
    fs::write(place.join("7.sock"), "no socket").unwrap();
    let agents = agents_in(&place, &BTreeSet::new()).unwrap();
    assert!(!place::socket(&place, dead).exists());
    assert!(place::socket(&place, std::process::id()).exists());
    assert_eq!(agents.silent.len(), 1);
    assert_eq!(
        fs::read_to_string(place.join("7.sock")).unwrap(),
        "no socket"
    );
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(place::make(&place).is_err());
}
