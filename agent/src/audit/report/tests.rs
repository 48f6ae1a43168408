#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::{
    audit::{
        AgentStarted, AgentStopped, ApprovalRecord, ArgumentsDigest, CallRecord, Decision, Log,
        NoSession, PolicyFile, Record, SessionOpened, SocketArmed, SocketRefused, TextList, Values,
    },
    session::{EndReason, Protocols, SessionEnd, SessionId},
};

fn started() -> Record {
    Record::AgentStarted(AgentStarted {
        version: "0.1.0".into(),
        server: None,
        command: ["shark"].into_iter().collect(),
        policy: Some(PolicyFile {
            file: "policy.yaml".into(),
            sha256: Hash::of(b"version: 1"),
        }),
        user: "nobody".into(),
        degraded: TextList::default(),
        reach: None,
    })
}

fn approval(id: &str, became: &str, tool: &str) -> Record {
    Record::Approval(Box::new(ApprovalRecord {
        id: id.into(),
        became: became.into(),
        principal: "uid:1000".into(),
        server: "shark".into(),
        tool: tool.into(),
        rule: "policy.yaml:3:3 tools.start".into(),
        by: None,
        at: None,
        why: None,
        seen: false,
    }))
}

fn call(tool: &str, session: Option<u32>) -> Record {
    Record::Call(Box::new(CallRecord {
        principal: "uid:1000".into(),
        connection: 1,
        server: "shark".into(),
        request: "7".into(),
        tool: tool.into(),
        arguments: ["interface"].into_iter().collect(),
        digest: ArgumentsDigest::of(&Map::new()).unwrap(),
        values: Values::default(),
        verdict: Decision::Capture,
        reason: None,
        rule: None,
        policy: None,
        changes: TextList::default(),
        session: session.map(SessionId),
    }))
}

fn opened(session: u32) -> Record {
    Record::SessionOpened(Box::new(SessionOpened {
        session: SessionId(session),
        interfaces: Vec::new(),
        any_interface: false,
        link: "EN10MB".into(),
        filters: Vec::new(),
        cut: None,
        packets: Some(100),
        bytes: None,
        seconds: Some(2.5),
        deadline: None,
        snap: 96,
        payload: "full".into(),
        summary: "lo, 100 packets".into(),
    }))
}

fn armed(session: u32, comm: &str) -> Record {
    Record::SocketArmed(SocketArmed {
        session: SessionId(session),
        pid: 12,
        thread: 12,
        comm: comm.into(),
        socket: "raw".into(),
    })
}

fn refused(why: &str) -> Record {
    Record::SocketRefused(SocketRefused {
        pid: 13,
        comm: "evil".into(),
        why: why.into(),
        times: 1,
    })
}

fn ended(session: u32) -> Record {
    Record::SessionEnded(SessionEnd {
        session: SessionId(session),
        reason: EndReason::Deadline,
        packets: 25,
        bytes: 1_500,
        sockets: 1,
        milliseconds: 2_500,
        protocols: Protocols::default(),
        proxy: None,
        program: None,
    })
}

fn stopped() -> Record {
    Record::AgentStopped(AgentStopped {
        why: "SIGTERM".into(),
        status: Some(0),
    })
}

/// Two sessions, the first of them approved, with what belongs to neither between them.
fn log() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let log = Log::open(&path).unwrap();
    for record in [
        started(),
        approval("K7QM-2F9X", "requested", "start"),
        approval("AAAA-BBBB", "requested", "start"),
        approval("K7QM-2F9X", "approved", "start"),
        refused("there is no session"),
        approval("K7QM-2F9X", "used", "start"),
        call("start", Some(1)),
        opened(1),
        call("list", None),
        armed(1, "<script>alert(1)</script>"),
        refused("the session is full"),
        call("start", Some(2)),
        opened(2),
        armed(2, "other"),
        ended(1),
        refused("after its end"),
        ended(2),
        stopped(),
    ] {
        log.append(&record).unwrap();
    }
    (dir, path)
}

fn numbers(report: &SessionReport, part: Part) -> Vec<u64> {
    report.part(part).map(|line| line.line).collect()
}

#[test]
fn report_has_the_lines_of_its_session_and_no_others() {
    let (_dir, path) = log();
    let report = session_report(&path, "s1", None).unwrap();
    let found = Part::ALL.map(|part| numbers(&report, part));
    let wanted: [&[u64]; 6] = [&[1, 18], &[2, 4, 6, 7], &[8], &[10], &[11], &[15]];
    assert_eq!(found, wanted);
    assert_eq!(report.outcome(), "ended: deadline");
    assert!(report.log.is_sound());
    let gauges: Vec<String> = report.gauges().iter().map(Gauge::words).collect();
    let words = [
        "25 of at most 100 packets",
        "1500 bytes, without a cap",
        "2.5 of at most 2.5 seconds",
    ];
    assert_eq!(gauges, words);
    let other = session_report(&path, "s2", None).unwrap();
    assert_eq!(numbers(&other, Part::Asked), [12]);
    assert_eq!(numbers(&other, Part::Refused), [16]);
}

#[test]
fn lines_carry_the_hashes_that_the_log_has() {
    let (_dir, path) = log();
    let report = session_report(&path, "s1", None).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    for line in &report.lines {
        let number = usize::try_from(line.line).unwrap();
        let bytes = text.lines().nth(number - 1).unwrap();
        assert_eq!(line.sha256, Hash::of(bytes.as_bytes()));
    }
    // A line that was changed is told of.
    std::fs::write(
        &path,
        text.replacen("lo, 100 packets", "lo, 900 packets", 1),
    )
    .unwrap();
    let report = session_report(&path, "s1", None).unwrap();
    assert!(!report.log.is_sound());
    assert!(report.log_words().contains("not what capwarden wrote"));
    assert!(html(&report).contains("class=\"bad\""));
}

#[test]
fn page_shows_names_as_they_are_and_runs_nothing() {
    let (_dir, path) = log();
    let mut report = session_report(&path, "s1", None).unwrap();
    report.made = Made {
        host: "ward".to_owned(),
        version: "1.2.3".to_owned(),
        time: "2026-01-01T00:00:00Z".to_owned(),
    };
    report.traffic = Some(Traffic {
        files: vec![CaptureOf {
            file: "some<.pcap".into(),
            sha256: Hash::of(b"packets"),
        }],
        first: None,
        packets: 25,
        bytes: 1_500,
        moments: vec![Moment {
            seconds: 2.0,
            packets: 25,
            bytes: 1_500,
        }],
    });
    let page = html(&report);
    assert!(!page.contains("<script"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(1)"));
    assert!(page.contains("cap: 100 packets"));
    assert!(page.contains("some&lt;.pcap sha256 <code>"));
    assert!(page.contains(&Hash::of(b"packets").to_string()));
    assert!(page.contains("Made by capwarden 1.2.3 on ward at 2026-01-01T00:00:00Z."));
    assert!(page.contains("25 packets in 2.0 s, 1500 bytes as captured"));
}

#[test]
fn file_that_is_no_log_is_told_from_one_without_the_session() {
    let (dir, path) = log();
    let other = dir.path().join("other");
    std::fs::write(&other, "\u{7f}ELF\nand more").unwrap();
    for error in [
        session_report(&other, "s1", None).unwrap_err(),
        super::super::find_session(&other, "s1", None).unwrap_err(),
    ] {
        assert!(
            matches!(&error, NoSession::NotALog(file) if *file == other),
            "{error}"
        );
    }
    std::fs::write(&other, "").unwrap();
    let empty = session_report(&other, "s1", None).unwrap_err();
    assert!(matches!(empty, NoSession::NotFound { .. }), "{empty}");
    let made = session_report(&path, "s1", None).unwrap().made;
    let time: Timestamp = made.time.parse().unwrap();
    let age = Timestamp::now().duration_since(time).as_secs();
    assert!((-1..600).contains(&age), "{made:?}");
}

#[test]
fn session_that_is_not_there_or_is_there_twice() {
    let (_dir, path) = log();
    let missing = session_report(&path, "s9", None).unwrap_err().to_string();
    assert!(missing.contains("it has s1, s2"), "{missing}");
    let again = Log::open(&path).unwrap();
    again.append(&started()).unwrap();
    again.append(&opened(1)).unwrap();
    let twice = session_report(&path, "s1", None).unwrap_err();
    let NoSession::Ambiguous { agents, .. } = &twice else {
        panic!("{twice}");
    };
    let second = agents.iter().find(|name| of(&path, name).end().is_none());
    let second = of(&path, second.unwrap());
    assert_eq!(second.outcome(), "not ended yet, or its agent died");
    assert!(second.gauges().is_empty());
}

fn of(path: &Path, agent: &str) -> SessionReport {
    session_report(path, "s1", Some(agent)).unwrap()
}

#[test]
fn report_of_one_server_of_many_leaves_out_what_the_others_were_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let chain = Log::open(&path).unwrap();
    for (server, record) in [
        ("agent", started()),
        ("pcap", opened(1)),
        ("web", refused("it is not pcap's")),
        ("pcap", refused("it is pcap's")),
        ("pcap", ended(1)),
        ("pcap", call("start", Some(1))),
    ] {
        chain.append_about(server, record).unwrap();
    }
    let report = session_report(&path, "s1", None).unwrap();
    assert_eq!(report.server.as_deref(), Some("pcap"));
    assert_eq!(numbers(&report, Part::Refused), [4]);
    assert!(report.title().starts_with("session s1 at pcap, of agent "));
    let allowed = report.part(Part::Allowed).next().unwrap();
    assert!(allowed.words.ends_with(", at pcap"), "{}", allowed.words);
    // One that names its server itself does not do so twice.
    let first = std::fs::read_to_string(&path).unwrap();
    let servers = first
        .lines()
        .map(|line| line.matches("\"server\":").count());
    assert_eq!(servers.collect::<Vec<_>>(), [0, 1, 1, 1, 1, 1]);
    // Logs of older versions do not name it.
    let (_dir, old) = log();
    let report = session_report(&old, "s1", None).unwrap();
    assert_eq!(report.server, None);
    assert!(report.title().starts_with("session s1 of agent "));
}
