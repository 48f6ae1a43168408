//! The log under attack: tampering, crashes, and many writers.

use std::{
    env,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};

use tempfile::TempDir;

use crate::{
    policy::{Baseline, Endpoint, InterfaceTerms, ProgramTerms, ProxyEnd, ProxyTerms},
    session::{EndReason, ProgramGrant, Protocols, ProxyGrant, Relation, SessionEnd, SessionId},
};

use super::*;

fn started() -> Record {
    Record::AgentStarted(AgentStarted {
        version: "0.1.0".into(),
        server: None,
        command: ["npx", "-y", "server"].into_iter().collect(),
        policy: Some(PolicyFile {
            file: "policy.yaml".into(),
            sha256: Hash::of(b"version: 1"),
        }),
        user: "nobody".into(),
        reach: Some(["docker"].into_iter().collect()),
        degraded: ["no BPF LSM"].into_iter().collect(),
    })
}

fn opened(session: u32) -> Record {
    Record::SessionOpened(Box::new(SessionOpened {
        session: SessionId(session),
        interfaces: vec![InterfaceRecord {
            name: "lo".into(),
            index: 1,
        }],
        any_interface: false,
        link: "EN10MB".into(),
        filters: vec![FilterRecord {
            expression: "tcp port 80".into(),
            origin: Origin::Requested,
        }],
        cut: Some("\"tcp\" also matches".into()),
        packets: Some(100),
        bytes: None,
        seconds: Some(2.5),
        deadline: None,
        snap: 262_144,
        payload: "headers".into(),
        summary: "lo, \"tcp port 80\", 100 packets, 2.5 s".into(),
    }))
}

fn ended(session: u32) -> Record {
    Record::SessionEnded(SessionEnd {
        session: SessionId(session),
        reason: EndReason::PacketCap,
        packets: 100,
        bytes: 4_200,
        sockets: 1,
        milliseconds: 1_234,
        protocols: Protocols::default(),
        proxy: None,
        program: None,
    })
}

fn stopped() -> Record {
    Record::AgentStopped(AgentStopped {
        why: "the server exited".into(),
        status: Some(0),
    })
}

fn armed(comm: &str) -> Record {
    Record::SocketArmed(SocketArmed {
        session: SessionId(1),
        pid: 12,
        thread: 13,
        comm: comm.into(),
        socket: "raw".into(),
    })
}

fn attached(relation: Relation) -> Record {
    let socket = SocketArmed {
        session: SessionId(1),
        pid: 12,
        thread: 13,
        comm: "dumpcap".into(),
        socket: "raw".into(),
    };
    Record::FilterAttached(FilterAttached::new(socket, 7, Hash::of(b"abc"), relation))
}

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    (dir, path)
}

/// A small whole log, and its head.
fn small() -> (TempDir, PathBuf, Hash) {
    let (dir, path) = place();
    let log = Log::open(&path).unwrap();
    for record in [started(), opened(1), armed("dumpcap"), ended(1), stopped()] {
        log.append(&record).unwrap();
    }
    let head = log.head().hash;
    (dir, path, head)
}

/// Replaces a log's bytes.
fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

fn defects(path: &Path) -> Vec<(u64, Defect)> {
    let report = verify(path, None).unwrap();
    let problems = report.problems.into_iter();
    problems
        .map(|problem| (problem.line, problem.defect))
        .collect()
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn chain_is_sound_and_can_be_followed_by_hand() {
    let (_dir, path, head) = small();
    let report = verify(&path, Some(head)).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.records, report.head), (5, Some(head)));
    assert_eq!(report.anchor, Some(Anchor { line: 5, after: 0 }));
    assert!(report.problems.is_empty() && report.open.is_empty());

    let mut prev = "0".repeat(64);
    for (number, line) in lines(&path).iter().enumerate() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["prev"], prev.as_str());
        assert_eq!(value["seq"], number + 1);
        assert!(KINDS.contains(&value["kind"].as_str().unwrap()));
        let time = value["time"].as_str().unwrap();
        assert_eq!(time.len(), "2026-11-20T09:30:00.000123Z".len(), "{time}");
        prev = Hash::of(line.as_bytes()).to_string();
    }
    assert_eq!(prev, head.to_string());
}

#[test]
fn session_end_is_recorded_flat() {
    let (_dir, path, _) = small();
    let line = &lines(&path)[3];
    let value: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(value["kind"], "session-ended");
    assert_eq!(value["session"], "s1");
    assert_eq!(value["reason"], "packet-cap");
    assert_eq!(value["packets"], 100);
}

#[test]
fn log_goes_on_where_it_was_left() {
    let (_dir, path, _) = small();
    let log = Log::open(&path).unwrap();
    assert_eq!(log.head().seq, 5);
    log.append(&started()).unwrap();
    let report = verify(&path, Some(log.head().hash)).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.records, 6);
}

#[test]
fn tamper_flip_of_any_byte_is_detected() {
    let (_dir, path, head) = small();
    let sound = fs::read(&path).unwrap();
    let last_line = sound.len() - lines(&path)[4].len() - 1;
    for position in 0..sound.len() {
        let flip = 1 << (position % 8);
        let mut bytes = sound.clone();
        bytes[position] ^= flip;
        put(&path, &bytes);
        let anchored = verify(&path, Some(head)).unwrap();
        assert!(!anchored.is_sound(), "byte {position} ^ {flip:#x}");
        if position < last_line {
            let alone = verify(&path, None).unwrap();
            assert!(!alone.is_sound(), "byte {position} ^ {flip:#x}, no head");
        }
    }
}

#[test]
fn tamper_removed_line_is_detected() {
    let (_dir, path, head) = small();
    let sound = lines(&path);
    for gone in 0..sound.len() {
        let mut rest = sound.clone();
        rest.remove(gone);
        put(&path, (rest.join("\n") + "\n").as_bytes());
        assert!(
            !verify(&path, Some(head)).unwrap().is_sound(),
            "line {gone}"
        );
        let defects = defects(&path);
        let line = gone as u64 + 1;
        let gap = Defect::Gap {
            expected: line,
            found: line + 1,
        };
        match gone {
            0 => assert_eq!(defects[..2], [(1, Defect::NoBeginning), (1, gap)]),
            // Only the head tells that the end is missing.
            4 => assert_eq!(defects, []),
            _ => {
                assert!(defects.contains(&(line, Defect::BrokenLink)), "line {gone}");
                assert!(defects.contains(&(line, gap)), "line {gone}");
            }
        }
    }
}

#[test]
fn tamper_swapped_and_inserted_lines_are_detected() {
    let (_dir, path, head) = small();
    let sound = lines(&path);
    for first in 0..sound.len() {
        for second in first + 1..sound.len() {
            let mut moved = sound.clone();
            moved.swap(first, second);
            put(&path, (moved.join("\n") + "\n").as_bytes());
            assert!(
                !verify(&path, None).unwrap().is_sound(),
                "{first} and {second}"
            );
        }
        let mut doubled = sound.clone();
        doubled.insert(first, sound[first].clone());
        put(&path, (doubled.join("\n") + "\n").as_bytes());
        assert!(
            !verify(&path, Some(head)).unwrap().is_sound(),
            "{first} twice"
        );
        let again = (first as u64 + 2, Defect::Repeated(first as u64 + 1));
        assert!(defects(&path).contains(&again), "{first} twice");
    }
}

#[test]
fn tamper_end_cut_off_needs_the_head() {
    let (_dir, path, head) = small();
    let sound = lines(&path);
    put(&path, (sound[..3].join("\n") + "\n").as_bytes());
    let report = verify(&path, None).unwrap();
    assert!(report.is_sound());
    assert_eq!(report.open.len(), 1, "the session that was open then");
    let report = verify(&path, Some(head)).unwrap();
    assert!(!report.is_sound());
    assert_eq!(report.problems[0].defect, Defect::NoAnchor);
}

#[test]
fn older_head_vouches_for_what_was_there_then() {
    let (_dir, path) = place();
    let log = Log::open(&path).unwrap();
    let early = log.append(&started()).unwrap();
    log.append(&stopped()).unwrap();
    let report = verify(&path, Some(early.hash)).unwrap();
    assert!(report.is_sound());
    assert_eq!(report.anchor, Some(Anchor { line: 1, after: 1 }));
}

#[test]
fn session_without_end_is_told_apart_by_its_agent() {
    let (_dir, path) = place();
    let log = Log::open(&path).unwrap();
    log.append(&opened(1)).unwrap();
    let report = verify(&path, None).unwrap();
    assert!(report.problems.is_empty());
    assert_eq!(report.open[0].session, "s1");
    log.append(&stopped()).unwrap();
    let report = verify(&path, None).unwrap();
    assert!(report.is_sound() && report.open.is_empty());
    assert_eq!((report.warnings, report.problems[0].line), (1, 1));
    // The same number in another run is another session.
    let other = Log::open(&path).unwrap();
    other.append(&ended(1)).unwrap();
    let agent = other.agent().to_owned();
    let session = "s1".to_owned();
    assert_eq!(
        defects(&path)[1],
        (3, Defect::NeverOpened { agent, session })
    );
}

#[test]
fn verify_names_what_is_no_record() {
    let (_dir, path, _) = small();
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend(b"\n{}\nhello\n");
    bytes.extend(vec![b'x'; 2 << 20]);
    bytes.extend(b"\n{\"se");
    put(&path, &bytes);
    let defects = defects(&path);
    let found: Vec<u64> = defects.iter().map(|(line, _)| *line).collect();
    assert_eq!(found, [6, 7, 8, 9, 10]);
    assert_eq!(defects[3].1, Defect::TooLong(2 << 20));
    assert_eq!(defects[4].1, Defect::Torn(4));
}

#[test]
fn verify_of_an_empty_log_is_sound_unless_a_head_is_expected() {
    let (_dir, path) = place();
    Log::open(&path).unwrap();
    assert!(verify(&path, None).unwrap().is_sound());
    assert!(!verify(&path, Some(Hash::of(b""))).unwrap().is_sound());
}

#[test]
fn torn_tail_of_every_length_is_put_aside_and_nothing_else_is_lost() {
    let (dir, path) = place();
    let log = Log::open(&path).unwrap();
    log.append(&started()).unwrap();
    let whole = fs::read(&path).unwrap().len();
    log.append(&armed("tshark")).unwrap();
    drop(log);
    let sound = fs::read(&path).unwrap();
    // From nothing of the last line to all of it but its end.
    for length in whole..sound.len() {
        put(&path, &sound[..length]);
        let log = Log::open(&path).unwrap();
        log.append(&stopped()).unwrap();
        let after = fs::read(&path).unwrap();
        assert_eq!(after[..whole], sound[..whole], "length {length}");
        let report = verify(&path, Some(log.head().hash)).unwrap();
        assert!(report.is_sound(), "length {length}: {report:?}");

        let torn = asides(dir.path());
        if length == whole {
            assert_eq!((report.records, torn.len()), (2, 0));
        } else if length == sound.len() - 1 {
            // Only the line's end was missing.
            assert_eq!((report.records, torn.len()), (3, 0));
            assert_eq!(after[..sound.len()], sound);
        } else {
            assert_eq!((report.records, torn.len()), (3, 1), "length {length}");
            assert_eq!(fs::read(&torn[0]).unwrap(), sound[whole..length]);
            assert_eq!(fs::metadata(&torn[0]).unwrap().mode() & 0o777, 0o600);
            let kept = torn[0].to_str().unwrap().to_owned();
            assert_eq!(report.problems[0].defect, Defect::Repaired(kept));
            fs::remove_file(&torn[0]).unwrap();
        }
    }
}

fn asides(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    files
        .filter(|path| path.to_str().unwrap().contains(".torn-"))
        .collect()
}

#[test]
fn torn_first_line_is_put_aside() {
    for fragment in [
        &b"{\"se"[..],
        b"{\"seq\":1,\"time\":\"2026-11-2",
        b"\0\0\0\0",
    ] {
        let (dir, path) = place();
        private(&path, fragment);
        let log = Log::open(&path).unwrap();
        assert_eq!(log.head().seq, 1);
        assert_eq!(asides(dir.path()).len(), 1);
        assert!(verify(&path, None).unwrap().is_sound());
    }
}

#[test]
fn torn_tail_of_another_agent_is_put_aside_while_running() {
    let (dir, path, _) = small();
    let log = Log::open(&path).unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"seq\":6,").unwrap();
    log.append(&started()).unwrap();
    assert_eq!(asides(dir.path()).len(), 1);
    assert_eq!(verify(&path, None).unwrap().records, 7);
}

fn private(path: &Path, bytes: &[u8]) {
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    file.unwrap().write_all(bytes).unwrap();
}

#[test]
fn file_that_is_no_log_is_refused_and_untouched() {
    let long = vec![b'x'; 3 << 20];
    for content in [&b"PATH=/bin"[..], b"hello\n", b"{}\n", &long] {
        let (_dir, path) = place();
        private(&path, content);
        let error = Log::open(&path).unwrap_err();
        assert!(matches!(error, AuditError::NotALog { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[test]
fn file_is_created_for_its_owner_alone() {
    let (_dir, path) = place();
    Log::open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn symlink_directory_pipe_and_writable_file_are_refused() {
    let (dir, path) = place();
    let target = dir.path().join("target");
    symlink(&target, &path).unwrap();
    assert!(matches!(Log::open(&path), Err(AuditError::Symlink(_))));
    assert!(!target.exists());

    assert!(matches!(
        Log::open(dir.path()),
        Err(AuditError::NotAFile(_))
    ));
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert!(matches!(
        Log::open(&pipe),
        Err(AuditError::NotAFile(_) | AuditError::Open { .. })
    ));

    private(&target, b"");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o620)).unwrap();
    let error = Log::open(&target).unwrap_err();
    assert!(error.to_string().contains("mode 0620"), "{error}");
}

#[test]
fn file_cut_deleted_or_forged_while_running_stops_the_agent() {
    let (_dir, path, _) = small();
    let log = Log::open(&path).unwrap();
    let sound = fs::read(&path).unwrap();

    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(sound.split_inclusive(|&b| b == b'\n').next().unwrap())
        .unwrap();
    let error = log.append(&started()).unwrap_err();
    assert!(matches!(error, AuditError::Broken { .. }), "{error}");

    put(&path, &sound[..10]);
    let error = log.append(&started()).unwrap_err();
    assert!(matches!(error, AuditError::Shrunk { .. }), "{error}");

    put(&path, &sound);
    log.append(&started()).unwrap();
    fs::remove_file(&path).unwrap();
    let error = log.append(&started()).unwrap_err();
    assert!(matches!(error, AuditError::Removed(_)), "{error}");
}

#[test]
fn last_line_changed_while_running_is_found_afterwards() {
    let (_dir, path, _) = small();
    let log = Log::open(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    put(
        &path,
        text.replace("the server exited", "the client exited")
            .as_bytes(),
    );
    log.append(&started()).unwrap();
    assert_eq!(defects(&path), [(6, Defect::BrokenLink)]);
}

#[test]
fn hostile_names_stay_in_their_line() {
    let (_dir, path) = place();
    let log = Log::open(&path).unwrap();
    let comm = "x\"}\n{\"seq\":9}\u{1b}[31m\u{202e}\u{9b}";
    log.append(&armed(comm)).unwrap();
    log.append(&armed(&"A".repeat(5_000_000))).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 2);
    assert!(
        text.chars()
            .all(|c| c == '\n' || c == '…' || c.is_ascii_graphic() || c == ' ')
    );
    let value: serde_json::Value = serde_json::from_str(&lines(&path)[0]).unwrap();
    assert_eq!(value["comm"], comm);
    assert!(lines(&path)[1].len() < 2048);

    let shown = shown(&path, &Filter::default(), Rendering::Plain);
    assert_eq!(shown.lines().count(), 2);
    assert!(!shown.contains(['\u{1b}', '\u{202e}', '\u{9b}']), "{shown}");
}

fn shown(path: &Path, filter: &Filter, rendering: Rendering) -> String {
    let mut out = Vec::new();
    show(path, filter, rendering, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn show_filters_and_renders() {
    let (_dir, path, head) = small();
    let all = shown(&path, &Filter::default(), Rendering::Plain);
    assert_eq!(all.lines().count(), 5);
    for phrase in [
        "capwarden 0.1.0 runs npx -y server as nobody under policy.yaml (sha256 ",
        ", may reach docker, degraded: no BPF LSM",
        "s1: lo, \"tcp port 80\", 100 packets, 2.5 s",
        "s1: raw socket for dumpcap (pid 12, thread 13)",
        "s1: packet-cap, 100 packets, 4200 bytes, 1 socket, 1.234 s",
        "the server exited, status 0",
    ] {
        assert!(all.contains(phrase), "{phrase} in\n{all}");
    }
    let filter = Filter {
        session: Some("s1".to_owned()),
        last: Some(2),
        ..Filter::default()
    };
    let some = shown(&path, &filter, Rendering::Plain);
    assert_eq!(some.lines().count(), 2);
    assert!(some.contains("socket-armed") && some.contains("session-ended"));
    let filter = Filter {
        kind: Some("call".to_owned()),
        ..Filter::default()
    };
    assert_eq!(shown(&path, &filter, Rendering::Plain), "");

    let json = shown(&path, &Filter::default(), Rendering::Json);
    assert_eq!(json, fs::read_to_string(&path).unwrap());
    assert!(shown(&path, &Filter::default(), Rendering::Colour).contains("\u{1b}[32m"));
    let summary = show(&path, &Filter::default(), Rendering::Json, &mut Vec::new()).unwrap();
    assert_eq!((summary.shown, summary.head), (5, Some(head)));
}

#[test]
fn own_filter_is_shown_in_a_sentence_with_packets() {
    let (_dir, path) = place();
    let log = Log::open(&path).unwrap();
    let (adds, leaves_out) = (|| "TCP a → b".to_owned(), || "UDP c → d".to_owned());
    let why = "no proof within the time allowed".to_owned();
    for relation in [
        Relation::Same,
        Relation::Narrower {
            leaves_out: leaves_out(),
        },
        Relation::Wider { adds: adds() },
        Relation::Different {
            adds: adds(),
            leaves_out: leaves_out(),
        },
        Relation::Unknown { why },
    ] {
        log.append(&attached(relation)).unwrap();
    }
    let shown = shown(&path, &Filter::default(), Rendering::Plain);
    let phrases = [
        "the same packets as asked",
        "fewer packets than asked, not UDP c → d",
        "more packets than asked, as TCP a → b, which the guard drops",
        "other packets than asked: not UDP c → d, but TCP a → b, which the guard drops",
        "not compared with what was asked: no proof within the time allowed",
    ];
    for (line, phrase) in shown.lines().zip(phrases) {
        let whole = format!(
            "s1: dumpcap (pid 12) filters its raw socket itself, with 7 instructions (sha256 \
             ba7816bf8f01): {phrase}"
        );
        assert!(line.ends_with(&whole), "{line}");
    }
    assert_eq!(shown.lines().count(), phrases.len());
}

fn made() -> GrantRecord {
    GrantRecord {
        name: "laptop".into(),
        id: "g1".into(),
        became: "made".into(),
        server: "pcap".into(),
        policy: None,
        by: "uid:0".into(),
        expires: Some("2026-12-01T00:00:00Z".into()),
        packets: Some(10),
        bytes: None,
        seconds: Some(5.0),
    }
}

#[test]
fn grants_are_shown_in_a_phrase() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let log = Log::open(&path).unwrap();
    log.append(&Record::Grant(Box::new(made()))).unwrap();
    let mut out = Vec::new();
    show(&path, &Filter::default(), Rendering::Plain, &mut out).unwrap();
    let line = String::from_utf8(out).unwrap();
    let phrase =
        "laptop (g1) made for pcap by uid:0, ends at 2026-12-01T00:00:00Z; at most 10 packets, 5 s";
    assert!(line.trim_end().ends_with(phrase), "{line}");
}

#[test]
fn kinds_are_all_of_them() {
    let records = [
        started(),
        Record::Call(Box::new(CallRecord {
            principal: "uid:0".into(),
            connection: 1,
            server: "s".into(),
            request: "1".into(),
            tool: "t".into(),
            arguments: TextList::default(),
            digest: ArgumentsDigest::of(&serde_json::Map::new()).unwrap(),
            values: Values::default(),
            verdict: Decision::Allow,
            reason: None,
            rule: None,
            policy: None,
            changes: TextList::default(),
            session: None,
        })),
        Record::Approval(Box::new(ApprovalRecord {
            id: "K7QM-2F9X".into(),
            became: "requested".into(),
            principal: "uid:1000".into(),
            server: "pcap".into(),
            tool: "t".into(),
            rule: "p:1:1 tools.t".into(),
            by: None,
            at: None,
            why: None,
            seen: false,
        })),
        Record::Grant(Box::new(made())),
        Record::Operator(OperatorRecord {
            did: "stop".into(),
            session: SessionId(1),
            by: "uid:0".into(),
            why: Some("w".into()),
        }),
        Record::Definition(Box::new(DefinitionRecord {
            server: "pcap".into(),
            tool: "t".into(),
            became: "changed".into(),
            sha256: Some(Hash::ZERO),
            by: None,
            at: None,
            why: None,
        })),
        opened(1),
        armed(""),
        attached(Relation::Same),
        Record::SocketRefused(SocketRefused {
            times: 1,
            pid: 1,
            comm: "a".into(),
            why: "b".into(),
        }),
        Record::UnmanagedCapture(UnmanagedCapture {
            pid: 1,
            comm: "a".into(),
            user: 0,
            program: None,
            interfaces: TextList::default(),
            became: "seen".into(),
            times: 1,
        }),
        Record::NetworkBounded(NetworkBounded::new(&Baseline::default())),
        Record::ProxyOpened(Box::new(ProxyOpened::new(
            SessionId(2),
            &ProxyGrant {
                terms: ProxyTerms {
                    listen: vec![Endpoint::parse("127.0.0.1:8080").unwrap()],
                    upstream: Vec::new(),
                    interfaces: InterfaceTerms::Any,
                    packets: None,
                    bytes: Some(1),
                    connections: None,
                    duration: None,
                    end: ProxyEnd::Drop,
                },
                names: Vec::new(),
                interfaces: Vec::new(),
                made: crate::kernel::BootTime::now(),
                deadline: None,
            },
        ))),
        Record::ProgramOpened(Box::new(ProgramOpened::new(
            SessionId(3),
            &ProgramGrant {
                terms: ProgramTerms {
                    connect: vec![Endpoint::parse("127.0.0.1:8080").unwrap()],
                    processes: Some(3),
                    memory: Some(1 << 20),
                    packets: None,
                    bytes: None,
                    connections: None,
                    duration: std::time::Duration::from_secs(1),
                },
                names: Vec::new(),
                made: crate::kernel::BootTime::now(),
                deadline: crate::kernel::BootTime::now(),
            },
        ))),
        Record::NetworkRefused(NetworkRefused {
            times: 1,
            session: None,
            what: "w".into(),
        }),
        Record::Unanswered(Unanswered {
            connection: 1,
            call: "7".into(),
            session: Some(SessionId(1)),
            what: "w".into(),
        }),
        ended(1),
        Record::ServerRestarted(ServerRestarted {
            session: SessionId(2),
            milliseconds: 700,
            failed: Some("it did not answer".into()),
        }),
        Record::PolicyReloaded(PolicyReloaded {
            policy: PolicyFile {
                file: "p".into(),
                sha256: Hash::ZERO,
            },
            before: Hash::ZERO,
        }),
        Record::PolicyRefused(PolicyRefused {
            stays: PolicyFile {
                file: "p".into(),
                sha256: Hash::ZERO,
            },
            why: "w".into(),
        }),
        Record::ServerServed(Box::new(ServerServed {
            server: "pcap".into(),
            command: ["c"].into_iter().collect(),
            policy: PolicyFile {
                file: "p".into(),
                sha256: Hash::ZERO,
            },
            user: "0".into(),
            reach: None,
        })),
        Record::ServerWithdrawn(ServerWithdrawn {
            server: "pcap".into(),
            why: "w".into(),
        }),
        Record::HandedOver(HandedOver {
            to: "a".into(),
            pid: 1,
            version: "0".into(),
            clients: 1,
            sessions: 1,
        }),
        stopped(),
        Record::TornTail(TornTail {
            bytes: 1,
            sha256: Hash::ZERO,
            kept: "f".into(),
        }),
    ];
    let kinds = records.map(|record| {
        let value = serde_json::to_value(record).unwrap();
        value["kind"].as_str().unwrap().to_owned()
    });
    assert_eq!(kinds, KINDS);
}

const WRITERS: u64 = 4;
const EACH: u64 = 50;

fn write_many(path: &Path) {
    let log = Log::open(path).unwrap();
    for number in 0..EACH {
        log.append(&armed(&number.to_string())).unwrap();
    }
}

#[test]
fn many_threads_share_one_log_and_one_file() {
    let (_dir, path) = place();
    let log = Arc::new(Log::open(&path).unwrap());
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (log, path) = (Arc::clone(&log), path.clone());
            thread::spawn(move || {
                for _ in 0..EACH {
                    log.append(&armed("shared")).unwrap();
                }
                write_many(&path);
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    let report = verify(&path, None).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.records, 2 * WRITERS * EACH);
}

/// The other end of the next test.
#[test]
fn writer_process() {
    if let Some(path) = env::var_os("CAPWARDEN_TEST_LOG") {
        write_many(Path::new(&path));
    }
}

#[test]
fn many_processes_share_one_file() {
    let (_dir, path) = place();
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            Command::new(env::current_exe().unwrap())
                .args(["--exact", "audit::tests::writer_process", "--quiet"])
                .env("CAPWARDEN_TEST_LOG", &path)
                .stdout(File::create("/dev/null").unwrap())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    let report = verify(&path, None).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.records, WRITERS * EACH);
}

#[test]
fn full_disk_fails_the_append_and_leaves_a_sound_log() {
    let (dir, path) = place();
    // A process that may write 8 blocks of 512 bytes stands for the disk; the trap turns the
    // signal into an error.
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"";
    let writer = Command::new("sh")
        .args(["-c", script])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "audit::tests::writer_process"])
        .env("CAPWARDEN_TEST_LOG", &path)
        .output()
        .unwrap();
    assert!(!writer.status.success());
    let told = String::from_utf8_lossy(&writer.stdout);
    assert!(told.contains("FileTooLarge"), "{told}");
    let report = verify(&path, None).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert!((5..EACH).contains(&report.records), "{report:?}");
    let log = Log::open(&path).unwrap();
    assert_eq!(log.append(&stopped()).unwrap().seq, report.records + 1);
    assert_eq!(asides(dir.path()).len(), 0);
}

/// A call with these arguments, of which these are recorded.
fn called(arguments: &serde_json::Value, recorded: &serde_json::Value, filler: &str) -> Record {
    let arguments = arguments.as_object().unwrap();
    let names = recorded.as_object().unwrap().keys().map(String::as_str);
    let (values, digest) = Values::taken(arguments, names).unwrap();
    Record::Call(Box::new(CallRecord {
        principal: format!("grant:laptop{filler}").into(),
        connection: 4,
        server: format!("pcap{filler}").into(),
        request: format!("7{filler}").into(),
        tool: format!("start{filler}").into(),
        arguments: arguments.keys().map(String::as_str).collect(),
        digest,
        values,
        policy: None,
        verdict: Decision::Deny,
        reason: Some(format!("No.{filler}").into()),
        rule: Some(format!("p.yaml:1:1 tools{filler}").into()),
        changes: (0..10).map(|n| format!("{n}{filler}")).collect(),
        session: None,
    }))
}

#[test]
fn call_is_shown_with_its_caller_and_found_by_its_arguments() {
    let (_dir, path) = place();
    let log = Log::open(&path).unwrap();
    let arguments = serde_json::json!({ "key": "hunter2", "port": 80 });
    log.append(&called(&arguments, &serde_json::json!({ "port": 80 }), ""))
        .unwrap();
    log.append(&opened(3)).unwrap();
    let text = shown(&path, &Filter::default(), Rendering::Plain);
    let phrase = "start(key, port): deny, No., changed 0; 1; 2; 3; 4; 5; 6; 7; 8; 9, \
                  rule p.yaml:1:1 tools, with {\"port\":80}, by grant:laptop (connection 4 to pcap), digest ";
    assert!(text.contains(phrase) && !text.contains("hunter2"), "{text}");

    let mut filter = Filter {
        arguments: arguments.as_object().cloned(),
        ..Filter::default()
    };
    assert_eq!(shown(&path, &filter, Rendering::Json).lines().count(), 1);
    filter.arguments = Some(serde_json::Map::new());
    assert_eq!(shown(&path, &filter, Rendering::Json), "");

    // Who asks for a session that is not there is told of those that are.
    let filter = Filter {
        session: Some("s9".to_owned()),
        ..Filter::default()
    };
    let found = show(&path, &filter, Rendering::Plain, &mut Vec::new()).unwrap();
    assert!(found.shown == 0 && found.sessions.iter().eq(["s3"]));
}

#[test]
fn values_that_were_changed_in_the_log_are_found() {
    let (_dir, path) = place();
    let log = Log::open(&path).unwrap();
    let arguments = serde_json::json!({ "key": "hunter2", "port": 80 });
    let port = serde_json::json!({ "port": 80 });
    log.append(&called(&arguments, &port, "")).unwrap();
    assert!(verify(&path, None).unwrap().is_sound());
    // The last line of a log has no other that links to it.
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"port\":80", "\"port\":81")).unwrap();
    let report = verify(&path, None).unwrap();
    assert!(
        report
            .problems
            .iter()
            .any(|problem| problem.defect == Defect::OtherValues),
        "{report:?}"
    );
}

#[test]
fn call_with_the_worst_of_everything_still_fits_a_line() {
    let (_dir, path) = place();
    let log = Log::open(&path).unwrap();
    // Each of these bytes is six in the file.
    let filler = "\u{1b}".repeat(3_000);
    let long = (0..200).map(|n| (format!("{n}{filler}"), filler.clone().into()));
    // As long as the names of values may be that a policy lists.
    let named = (0..40).map(|n| {
        (
            format!("{n:02}{}", "\u{1b}".repeat(254)),
            filler.clone().into(),
        )
    });
    let members = long.chain(named);
    let arguments = serde_json::Value::Object(members.collect());
    log.append(&called(&arguments, &arguments, &filler))
        .unwrap();
    assert!(verify(&path, None).unwrap().is_sound());
}
