//! The command line as it is used: the binary itself, its output and its exit status.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes the helpers of a test file for no tests"
)]

#[path = "cli/check.rs"]
mod check;
#[path = "cli/guides.rs"]
mod guides;
#[path = "cli/readme.rs"]
mod readme;
#[path = "cli/specification.rs"]
mod specification;
#[path = "cli/told.rs"]
mod told;

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use capwarden::{
    audit::{
        AgentStopped, FilterRecord, InterfaceRecord, Log, OperatorRecord, Origin, Record,
        SessionOpened,
    },
    cli::NAMES_VERB,
    session::{EndReason, Protocols, SessionEnd, SessionId},
};

fn capwarden(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_capwarden"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("CAPWARDEN_LOG");
    command
}

/// The exit status, standard output and standard error.
fn told(arguments: &[&str]) -> (i32, String, String) {
    let output = capwarden(arguments);
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// A log of two records, and its head.
fn log_at(path: &Path) -> String {
    let log = Log::open(path).unwrap();
    for why in ["first", "second"] {
        let why = why.into();
        let record = Record::AgentStopped(AgentStopped { why, status: None });
        log.append(&record).unwrap();
    }
    log.head().hash.to_string()
}

#[test]
fn help_of_every_verb_renders_and_lists_the_exit_statuses() {
    let verbs: [&[&str]; 41] = [
        &[],
        &["run"],
        &["exec"],
        &["agent"],
        &["connect"],
        &["client-config"],
        &["policy"],
        &["policy", "check"],
        &["policy", "diff"],
        &["policy", "explain"],
        &["policy", "import"],
        &["policy", "schema"],
        &["policy", "test"],
        &["report"],
        &["sessions"],
        &["stop"],
        &["top"],
        &["web"],
        &["revoke"],
        &["logs"],
        &["approvals"],
        &["approve"],
        &["deny"],
        &["grant"],
        &["grant", "create"],
        &["grant", "list"],
        &["grant", "revoke"],
        &["tools"],
        &["tools", "accept"],
        &["tools", "diff"],
        &["tools", "forget"],
        &["tools", "list"],
        &["audit"],
        &["audit", "show"],
        &["audit", "verify"],
        &["host"],
        &["host", "lockdown"],
        &["host", "observe"],
        &["doctor"],
        &["completions"],
        &["man"],
    ];
    for verb in verbs {
        for flag in ["-h", "--help"] {
            let (status, out, err) = told(&[verb, &[flag]].concat());
            assert_eq!((status, err.as_str()), (0, ""), "{verb:?} {flag}");
            assert!(out.contains("Usage: capwarden"), "{verb:?} {flag}: {out}");
        }
    }
    let (_, out, _) = told(&["--help"]);
    for phrase in [
        "Exit status:",
        "  4  root is needed",
        "  8  the server of `run` ended before",
        "or 128 and",
    ] {
        assert!(out.contains(phrase), "{phrase} in {out}");
    }
    assert!(!out.contains("__compile-filter"), "{out}");
}

#[test]
fn version_is_told() {
    let (status, out, _) = told(&["--version"]);
    assert_eq!(status, 0);
    assert_eq!(out, format!("capwarden {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_are_generated() {
    for shell in ["bash", "zsh", "fish"] {
        let (status, out, _) = told(&["completions", shell]);
        assert_eq!(status, 0, "{shell}");
        assert!(out.contains("verify"), "{shell}");
        // Sessions and servers are asked for; in bash and zsh, before anything else.
        assert!(out.contains(&format!("capwarden {NAMES_VERB} ")), "{shell}");
        let first = "\n_capwarden() {\n    _capwarden_names && return 0\n    ";
        assert!(shell == "fish" || out.contains(first), "{shell}: {out}");
    }
}

#[test]
fn bash_asks_for_the_sessions_of_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let log = Log::open(path("log")).unwrap();
    for session in [1, 2, 12] {
        let stop = OperatorRecord {
            did: "stop".into(),
            session: SessionId(session),
            by: "uid:0".into(),
            why: None,
        };
        log.append(&Record::Operator(stop)).unwrap();
    }
    let agent = &log.agent()[..8];
    fs::write(path("script"), told(&["completions", "bash"]).1).unwrap();
    let completed = |line: &[&str]| {
        let words = "source \"$0\"; COMP_WORDS=(capwarden \"$@\"); COMP_CWORD=$#; \
            _capwarden capwarden \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"; \
            printf '%s\\n' \"${COMPREPLY[@]}\"";
        let own = Path::new(env!("CARGO_BIN_EXE_capwarden")).parent().unwrap();
        let mut bash = Command::new("bash");
        bash.args(["--noprofile", "--norc", "-c", words, &path("script")]);
        let bash = bash
            .args(line)
            .env("PATH", format!("{}:/usr/bin:/bin", own.display()));
        let done = bash.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&done.stderr), "", "{line:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    let file = path("log");
    let ids = |numbers: &[u32]| -> String {
        let ids = numbers.iter().map(|number| format!("{agent}/s{number}\n"));
        ids.collect()
    };
    for verb in [&["logs"][..], &["audit", "show"], &["audit", "verify"]] {
        let start = format!("{agent}/");
        let line = [verb, &[&file, "--session", &start]].concat();
        assert_eq!(completed(&line), ids(&[1, 12, 2]));
        let start = format!("{agent}/s1");
        let line = [verb, &[&file, "--session", "=", &start]].concat();
        assert_eq!(completed(&line), ids(&[1, 12]));
        // Where there is none such, there is nothing: no other word stands there.
        let line = [verb, &[&file, "--session", "x"]].concat();
        assert_eq!(completed(&line), "\n");
    }
    assert!(completed(&["audit", "ver"]).contains("verify"));
    assert!(completed(&["logs", "--sess"]).contains("--session"));
}

#[test]
fn manual_has_a_page_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let (status, ..) = told(&["man", "--out", path.to_str().unwrap()]);
    assert_eq!(status, 0);
    let names = |section: &str| {
        let pages = fs::read_dir(path.join(section)).unwrap();
        pages.map(|page| page.unwrap().file_name().into_string().unwrap())
    };
    let mut pages: Vec<String> = names("man5").chain(names("man8")).collect();
    pages.sort();
    assert_eq!(
        pages,
        [
            "capwarden-agent.8",
            "capwarden-agent.yaml.5",
            "capwarden-approvals.8",
            "capwarden-approve.8",
            "capwarden-audit-show.8",
            "capwarden-audit-verify.8",
            "capwarden-audit.8",
            "capwarden-client-config.8",
            "capwarden-completions.8",
            "capwarden-connect.8",
            "capwarden-deny.8",
            "capwarden-doctor.8",
            "capwarden-exec.8",
            "capwarden-filter-check.8",
            "capwarden-filter-explain.8",
            "capwarden-filter-lint.8",
            "capwarden-filter-pcap.8",
            "capwarden-filter-prove.8",
            "capwarden-filter.8",
            "capwarden-grant-create.8",
            "capwarden-grant-list.8",
            "capwarden-grant-revoke.8",
            "capwarden-grant.8",
            "capwarden-host-lockdown.8",
            "capwarden-host-observe.8",
            "capwarden-host.8",
            "capwarden-logs.8",
            "capwarden-man.8",
            "capwarden-policy-check.8",
            "capwarden-policy-diff.8",
            "capwarden-policy-explain.8",
            "capwarden-policy-import.8",
            "capwarden-policy-schema.8",
            "capwarden-policy-test.8",
            "capwarden-policy.5",
            "capwarden-policy.8",
            "capwarden-report.8",
            "capwarden-revoke.8",
            "capwarden-run.8",
            "capwarden-sessions.8",
            "capwarden-stop.8",
            "capwarden-tools-accept.8",
            "capwarden-tools-diff.8",
            "capwarden-tools-forget.8",
            "capwarden-tools-list.8",
            "capwarden-tools.8",
            "capwarden-top.8",
            "capwarden-web.8",
            "capwarden.8",
        ]
    );
    let written = pages.len();
    for page in pages {
        let of = if page.ends_with(".5") { "man5" } else { "man8" };
        let text = fs::read_to_string(path.join(of).join(&page)).unwrap();
        let section = match page.as_str() {
            "capwarden-policy.5" => ".SH LIMITS",
            "capwarden-agent.yaml.5" => ".SH \"OF EACH SERVER\"",
            _ => ".SH \"EXIT STATUS\"",
        };
        assert!(text.contains(section), "{page}: {text}");
    }
    let guides: Vec<String> = names("man7").collect();
    assert!(
        guides.contains(&"capwarden-sharkmcp.7".to_owned()),
        "{guides:?}"
    );
    let (status, out, _) = told(&["man"]);
    let all = written + guides.len();
    assert_eq!((status, out.matches(".TH ").count()), (0, all));
    // What follows the options in the help is in the page.
    for told in [
        "capwarden tools diff pcap",
        "CAPWARDEN_LOG_FORMAT",
        ".SH EXAMPLES",
    ] {
        assert!(out.contains(told), "{told}");
    }
}

#[test]
fn usage_errors_exit_with_2() {
    let wrong: [&[&str]; 11] = [
        &[],
        &["fly"],
        &["run"],
        &["run", "-p", "policy.yaml"],
        &["run", "--", "server"],
        &["exec", "--", "tcpdump"],
        &["exec", "-i", "lo", "--packets", "0", "--", "tcpdump"],
        &["exec", "-i", "lo", "--bytes", "5M", "--", "tcpdump"],
        &["audit", "verify", "--head", "abc"],
        &["audit", "show", "--kind", "nonsense"],
        &["doctor", "--log", "loud"],
    ];
    for arguments in wrong {
        let (status, out, err) = told(arguments);
        assert_eq!((status, out.as_str()), (2, ""), "{arguments:?}");
        assert!(!err.is_empty(), "{arguments:?}");
    }
    let output = command(&["doctor"]).env("CAPWARDEN_LOG", "loud").output();
    assert_eq!(output.unwrap().status.code(), Some(2));
}

#[test]
fn audit_verify_exits_with_0_when_sound_and_1_when_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let head = log_at(&path);
    let file = path.to_str().unwrap();

    let (status, out, _) = told(&["audit", "verify", file]);
    assert_eq!(status, 0, "{out}");
    assert!(out.contains(": sound, 2 records\n"), "{out}");
    assert!(out.contains(&format!("head {head}\n")), "{out}");
    let (status, out, _) = told(&["audit", "verify", file, "--head", &head]);
    assert_eq!(status, 0, "{out}");
    assert!(out.contains("nothing was cut off"), "{out}");

    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("first", "fi\u{1b}rst")).unwrap();
    let (status, out, _) = told(&["audit", "verify", file]);
    assert_eq!(status, 1);
    assert!(out.contains("error: line 2: broken link"), "{out}");
    assert!(!out.contains('\u{1b}'), "no colour in a pipe: {out}");
    let (status, out, _) = told(&["audit", "verify", file, "--json"]);
    assert_eq!(status, 1);
    assert!(out.contains("\"not-a-record\""), "{out}");

    let cut = text.lines().next().unwrap().to_owned() + "\n";
    fs::write(&path, cut).unwrap();
    let (status, out, _) = told(&["audit", "verify", file, "--head", &head]);
    assert_eq!(status, 1);
    assert!(out.contains("the expected head is not in the log"), "{out}");
}

#[test]
fn audit_show_prints_records_and_the_head() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let head = log_at(&path);
    let file = path.to_str().unwrap();
    let (status, out, _) = told(&["audit", "show", file, "--last", "1"]);
    assert_eq!((status, out.lines().count()), (0, 2), "{out}");
    assert!(out.contains("agent-stopped      second"), "{out}");
    assert!(out.ends_with(&format!("head {head}\n")), "{out}");
    let (status, out, _) = told(&["audit", "show", file, "--json"]);
    assert_eq!((status, out), (0, fs::read_to_string(&path).unwrap()));
}

#[test]
fn reader_that_goes_away_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    log_at(&path);
    let file = path.to_str().unwrap();
    for arguments in [
        &["audit", "show", file][..],
        &["audit", "verify", file],
        &["completions", "zsh"],
        &["man"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(arguments).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn filter_prove_tells_by_its_exit_status_and_shows_a_packet() {
    let prove = |filter: &str, within: &str| {
        let output = capwarden(&["filter", "prove", filter, "--within", within, "--json"]);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), answer)
    };
    let (status, answer) = prove("tcp port 80 and net 10.1.0.0/16", "net 10.0.0.0/8");
    assert_eq!((status, &answer["verdict"]), (Some(0), &"contained".into()));
    let (status, answer) = prove("tcp port 80", "not port 22");
    assert_eq!(
        (status, &answer["verdict"]),
        (Some(1), &"not-contained".into())
    );
    assert!(
        answer["packet"].as_str().unwrap().contains("22"),
        "{answer}"
    );
    let (status, _) = prove("tcp prot 80", "tcp");
    assert_eq!(status, Some(2));
}

/// A classic capture file: link type, then for each packet its bytes and its length on the wire.
fn capture_file(path: &Path, link: u32, packets: &[(Vec<u8>, u32)]) {
    capture_file_of(path, link, 1_700_000_000, packets);
}

/// The same, captured at this second.
fn capture_file_of(path: &Path, link: u32, second: u32, packets: &[(Vec<u8>, u32)]) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 262_144, link] {
        file.extend(u32::to_ne_bytes(word));
    }
    for (bytes, wire_len) in packets {
        let captured = u32::try_from(bytes.len()).unwrap();
        for word in [second, 5, captured, *wire_len] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(bytes);
    }
    fs::write(path, file).unwrap();
}

/// A TCP packet without a link header, as much of it as is wanted.
fn tcp(port: u16, captured: usize) -> (Vec<u8>, u32) {
    let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0];
    packet.extend([10, 0, 0, 5, 10, 0, 0, 9, 0xc7, 0x38]);
    packet.extend(port.to_be_bytes());
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xfa, 0xf0, 0, 0, 0, 0]);
    packet.truncate(captured);
    (packet, 40)
}

#[test]
fn filter_pcap_lists_what_is_outside_and_what_cannot_be_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("some.pcap");
    let file = path.to_str().unwrap();
    let pcap = |within: &str| told(&["filter", "pcap", file, "--within", within]);
    for (link, header) in [(101, 0), (228, 0), (1, 14), (113, 16), (276, 20), (0, 4)] {
        let link_header: Vec<u8> = match link {
            1 => [&[2; 12][..], &[8, 0]].concat(),
            113 => [&[0; 14][..], &[8, 0]].concat(),
            276 => [&[8, 0][..], &[0; 18]].concat(),
            0 => 2_u32.to_ne_bytes().to_vec(),
            _ => Vec::new(),
        };
        let packets = [tcp(22, 40), tcp(80, 40), tcp(80, 20), tcp(443, 24)];
        let packets =
            packets.map(|(bytes, length)| ([link_header.clone(), bytes].concat(), length + header));
        capture_file(&path, link, &packets);
        let (status, out, err) = pcap("not port 22");
        assert_eq!((status, err.as_str()), (1, ""), "{link}: {out}");
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 3, "{out}");
        assert!(
            lines[0].starts_with("1 2023-11-14T22:13:20.000005Z outside: "),
            "{out}"
        );
        assert!(link == 0 || lines[0].contains("10.0.0.9:22"), "{out}");
        assert!(
            lines[1].starts_with("3 ") && lines[1].contains(" undecidable: "),
            "{out}"
        );
        assert!(
            lines[2].ends_with(" 2 inside, 1 outside, 1 undecidable"),
            "{out}"
        );
        let (status, out, _) = pcap("tcp");
        assert_eq!((status, out.lines().count()), (0, 1), "{out}");
    }
    let output = capwarden(&["filter", "pcap", file, "--within", "port 80", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["outside"], 2, "{answer}");
    assert_eq!(answer["found"][1]["verdict"], "undecidable", "{answer}");

    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    let (status, out, err) = pcap("tcp");
    assert_eq!(status, 7, "{out}");
    assert!(err.contains("broken after 3 packets: truncated"), "{err}");
    assert!(err.contains("tcpdump -r"), "{err}");
    assert!(out.starts_with("3 packets"), "{out}");
    let (status, ..) = told(&["filter", "pcap", file, "--within", "tcp prot"]);
    assert_eq!(status, 2);
    let (status, _, err) = told(&["filter", "pcap", "/nonexistent", "--within", "tcp"]);
    assert_eq!((status, err.contains("tcpdump")), (2, false), "{err}");

    // From standard input, too.
    fs::write(&path, &whole).unwrap();
    let mut command = command(&["filter", "pcap", "-", "--within", "tcp"]);
    let output = command
        .stdin(fs::File::open(&path).unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// A log of one session that was granted three packets of HTTP, headers only, for an hour.
fn log_of_a_session(path: &Path) {
    let session = SessionId(1);
    let log = Log::open(path).unwrap();
    let filter = |expression: &str| FilterRecord {
        expression: expression.into(),
        origin: Origin::Policy,
    };
    let opened = SessionOpened {
        session,
        interfaces: vec![InterfaceRecord {
            name: "lo".into(),
            index: 1,
        }],
        any_interface: false,
        link: "EN10MB".into(),
        filters: vec![filter("port 80"), filter("tcp or udp")],
        cut: None,
        packets: Some(3),
        bytes: Some(200),
        seconds: Some(3600.0),
        deadline: None,
        snap: 60,
        payload: "headers".into(),
        summary: "lo".into(),
    };
    log.append(&Record::SessionOpened(Box::new(opened)))
        .unwrap();
    let ended = SessionEnd {
        session,
        reason: EndReason::PacketCap,
        packets: 3,
        bytes: 162,
        sockets: 1,
        milliseconds: 10,
        protocols: Protocols::default(),
        proxy: None,
        program: None,
    };
    log.append(&Record::SessionEnded(ended)).unwrap();
}

/// An Ethernet frame with a tag or without, and a TCP packet with four bytes of payload, cut.
fn frame(port: u16, tagged: bool, captured: usize) -> (Vec<u8>, u32) {
    let tag: &[u8] = if tagged { &[0x81, 0, 0, 7] } else { &[] };
    let (packet, length) = tcp(port, 40);
    let mut frame = [&[2; 12][..], tag, &[8, 0], &packet, b"data"].concat();
    frame.truncate(captured);
    (frame, length + if tagged { 22 } else { 18 })
}

#[test]
fn lines_end_where_a_terminal_does_and_are_whole_elsewhere() {
    const COLUMNS: usize = 60;
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.jsonl");
    log_of_a_session(&log);
    for words in [
        &["report", "s1", log.to_str().unwrap()][..],
        &["filter", "explain", "tcp port 80"],
    ] {
        let whole = told(words).1;
        let longest = |text: &str| {
            let lines = text.lines().filter(|line| line.contains(' '));
            lines.map(|line| line.chars().count()).max().unwrap()
        };
        assert!(longest(&whole) > COLUMNS, "{whole}");
        let line = format!(
            "stty rows 40 cols {COLUMNS}; exec {} {}",
            env!("CARGO_BIN_EXE_capwarden"),
            words
                .iter()
                .map(|word| format!("'{word}'"))
                .collect::<Vec<_>>()
                .join(" ")
        );
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-c", &line, "/dev/null"]);
        script.stdin(Stdio::null()).env("NO_COLOR", "1");
        let done = script.output().unwrap();
        let shown = String::from_utf8_lossy(&done.stdout).replace('\r', "");
        // A hash is not broken.
        let fits = |line: &str| line.starts_with("head ") || line.chars().count() <= COLUMNS;
        assert!(shown.lines().all(fits), "{shown}");
        let words = |text: &str| text.split_whitespace().count();
        assert_eq!(words(&shown), words(&whole), "{shown}");
    }
}

#[test]
fn audit_verify_checks_every_packet_of_a_capture() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.jsonl");
    log_of_a_session(&log);
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let now = u32::try_from(now).unwrap();
    let (one, two) = (dir.path().join("one.pcap"), dir.path().join("two.pcap"));
    let verify = |more: &[&str]| {
        let mut arguments = vec!["audit", "verify", log.to_str().unwrap(), "--session", "s1"];
        arguments.extend(["--pcap", one.to_str().unwrap()]);
        arguments.extend(more);
        told(&arguments)
    };
    let good = frame(80, false, 54);
    capture_file_of(&one, 1, now, &[good.clone(), good.clone()]);
    let (status, out, err) = verify(&[]);
    assert_eq!(status, 0, "{out}{err}");
    assert!(
        out.contains("within its terms; 2 packets in 1 file, 1 fewer than"),
        "{out}"
    );
    assert!(out.contains("only pcapng files have them"), "{out}");

    // The ring's second file; a tag that libpcap has put back makes it four bytes longer.
    capture_file_of(&two, 1, now, &[frame(80, true, 58)]);
    let second = ["--pcap", two.to_str().unwrap()];
    let (status, out, _) = verify(&second);
    // `port 80` does not look behind a tag.
    assert_eq!((status, out.matches("error:").count()), (1, 2), "{out}");
    capture_file_of(&two, 1, now, std::slice::from_ref(&good));
    let (status, out, _) = verify(&second);
    assert_eq!(status, 0, "{out}");
    assert!(out.contains("3 packets in 2 files, as many as"), "{out}");

    for (packets, words) in [
        (vec![frame(443, false, 54)], "is outside \"port 80\""),
        (
            vec![frame(80, false, 55)],
            "1 bytes after its headers were captured",
        ),
        (vec![frame(80, false, 58)], "4 bytes after its headers"),
        (
            vec![(vec![8; 61], 61)],
            "61 bytes were captured, and 60 granted",
        ),
        (vec![good.clone(); 4], "4 packets, and the terms were for 3"),
        (
            vec![good.clone(); 4],
            "216 bytes, and the guard delivered 162",
        ),
        (vec![frame(80, false, 20)], "too short to tell"),
    ] {
        capture_file_of(&one, 1, now, &packets);
        let (status, out, err) = verify(&[]);
        assert_eq!(status, 1, "{out}{err}");
        assert!(out.contains(words), "{words} in {out}");
    }
    for second in [now - 100, now + 4000] {
        capture_file_of(&one, 1, second, std::slice::from_ref(&good));
        let (status, out, _) = verify(&[]);
        assert_eq!(status, 1, "{out}");
        assert!(out.contains("packet 1: captured at "), "{out}");
    }
    capture_file_of(&one, 101, now, &[tcp(80, 40)]);
    let (status, out, _) = verify(&[]);
    assert_eq!(status, 1, "{out}");
    assert!(
        out.contains("its packets are RAW, and the session's were EN10MB"),
        "{out}"
    );
    // On a cooked socket, from another interface.
    let cooked = [&[8, 0, 0, 0, 0, 0, 0, 9][..], &[0; 12], &tcp(80, 40).0].concat();
    capture_file_of(&one, 276, now, &[(cooked, 60)]);
    let (status, out, _) = verify(&[]);
    assert_eq!((status, out.matches("error:").count()), (1, 1), "{out}");
    assert!(
        out.contains("from interface number 9, which was not granted"),
        "{out}"
    );

    capture_file_of(&one, 1, now, &[good.clone(), good.clone()]);
    let whole = fs::read(&one).unwrap();
    fs::write(&one, &whole[..whole.len() - 1]).unwrap();
    let (status, out, _) = verify(&[]);
    assert_eq!(status, 1, "{out}");
    assert!(out.contains("broken after 1 packet:"), "{out}");
    fs::write(&one, &whole).unwrap();

    let output = capwarden(&[
        "audit",
        "verify",
        log.to_str().unwrap(),
        "--json",
        "--session",
        "s1",
        "--pcap",
        one.to_str().unwrap(),
    ]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["capture"]["violated"], 0, "{answer}");
    assert_eq!(answer["log"]["errors"], 0, "{answer}");

    let (status, _, err) = verify(&["--agent", "nobody"]);
    assert_eq!(status, 1);
    assert!(err.contains("the log has no session s1"), "{err}");
    let (status, ..) = told(&["audit", "verify", "--session", "s1"]);
    assert_eq!(status, 2);

    // A log of an older version says less, and that much is still checked.
    let text = fs::read_to_string(&log).unwrap();
    let old = text.lines().next().unwrap();
    let old = old.replace("\"any_interface\":false,\"link\":\"EN10MB\",", "");
    let old = old.replace("\"deadline\":null,", "") + "\n";
    assert!(old.len() + 50 < text.lines().next().unwrap().len(), "{old}");
    fs::write(&log, old).unwrap();
    let (status, out, _) = verify(&[]);
    assert_eq!(status, 0, "{out}");
    for gap in ["the link type", "the interfaces", "what the guard counted"] {
        assert!(
            out.contains(&format!("not checked: {gap}")),
            "{gap} in {out}"
        );
    }
    // What a log says that was changed is not checked against.
    fs::write(&log, text.replace("port 80", "port 81")).unwrap();
    let (status, out, _) = verify(&[]);
    assert_eq!(status, 1);
    assert!(out.contains("the capture was not checked"), "{out}");
}

#[test]
fn filter_lint_tells_by_its_exit_status_and_offers_a_rewrite() {
    let (status, out, _) = told(&["filter", "lint", "tcp port 80"]);
    assert_eq!((status, out.as_str()), (0, "nothing found\n"));
    let output = capwarden(&["filter", "lint", "net 10.0.0.0/8", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{answer}");
    let arp = answer["findings"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&arp["name"], &arp["rewrite"]["keeps_plain"]),
        (&"arp".into(), &true.into())
    );
    let rewrite = arp["rewrite"]["expression"].as_str().unwrap();
    let (status, out, _) = told(&["filter", "prove", rewrite, "--within", "net 10.0.0.0/8"]);
    assert_eq!(status, 0, "{out}");
    let (status, ..) = told(&["filter", "lint", "tcp prot"]);
    assert_eq!(status, 2);
    // Not looked through is not clean.
    let tagged = "vlan 5 and not port 22";
    let (status, out, _) = told(&["filter", "lint", tagged]);
    assert_eq!(status, 1, "{out}");
    assert!(out.starts_with("not looked through: "), "{out}");
    let output = capwarden(&["filter", "lint", tagged, "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&answer["matches"], &answer["looked_through"]),
        (&"none-plain".into(), &false.into())
    );
    let (_, out, _) = told(&["filter", "explain", tagged]);
    assert!(out.contains("warning: not looked through"), "{out}");
}

#[test]
fn filter_explain_says_it_in_words() {
    let (status, out, err) = told(&["filter", "explain", "tcp port 80"]);
    assert_eq!((status, err.as_str()), (0, ""));
    for words in [
        "22 classic instructions, ",
        "IPv6, TCP, source or destination port 80",
        "like  TCP 10.0.0.5",
        "(fails: not a later fragment)",
    ] {
        assert!(out.contains(words), "{words} in {out}");
    }
    let (_, out, _) = told(&["filter", "explain", "tcp and udp"]);
    assert!(out.ends_with("it matches nothing\n"), "{out}");
    let (_, out, _) = told(&["filter", "explain", ""]);
    assert!(out.contains("it matches every well-formed packet"), "{out}");
    // A long list is shortened for people only.
    let hosts: Vec<String> = (1..=20).map(|n| format!("src host 10.0.{n}.1")).collect();
    let hosts = format!("ip and ({})", hosts.join(" or "));
    let (_, out, _) = told(&["filter", "explain", &hosts]);
    assert!(out.contains("10.0.6.1 or one of 14 more"), "{out}");
    let (_, out, _) = told(&["filter", "explain", &hosts, "--json"]);
    assert!(
        out.contains(" or 10.0.20.1\"") && !out.contains(" or one of "),
        "{out}"
    );
    let (_, out, _) = told(&["filter", "explain", "net 10.0.0.0/8", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["matches"], "some", "{answer}");
    assert!(
        answer["lint"].as_array().unwrap().contains(&"arp".into()),
        "{answer}"
    );
}

#[test]
fn policy_is_explained_and_tested_with_the_servers_own_tools() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let policy = write("p.yaml", "version: 1\ntools: { t: { schema: true } }\n");
    let call = write("call.json", r#"{"tool":"t","arguments":{"n":5}}"#);
    let explain = ["policy", "explain", &call, "-p", &policy];
    let (status, out, _) = told(&explain);
    assert_eq!(status, 1);
    assert!(out.contains("has not listed the tool"), "{out}");
    let tools =
        r#"{"result":{"tools":[{"name":"t","inputSchema":{"properties":{"n":{"maximum":4}}}}]}}"#;
    let tools = write("p.tools.json", tools);
    let (status, out, _) = told(&[&explain[..], &["--tools", &tools]].concat());
    assert_eq!(status, 1);
    assert!(out.contains("/n: 5 is more than 4."), "{out}");

    let cases = "- { name: a, call: { tool: t, arguments: { n: 5 } }, expect: deny, reason: 5 is more than 4 }\n\
                 - { name: b, call: { tool: t, arguments: { n: 4 } }, expect: allow }\n";
    write("p.test.yaml", cases);
    let (status, out, _) = told(&["policy", "test", &policy]);
    assert_eq!((status, out.contains("2 of 2")), (0, true), "{out}");
    let (status, _, err) = told(&["policy", "test", &policy, "--tools", &call]);
    assert_eq!(status, 2);
    assert!(err.contains("it has no list of tools"), "{err}");
    assert!(err.contains("capwarden tools list SERVER --json"), "{err}");
}

#[test]
fn tools_of_servers_that_are_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    // As `capwarden run` makes it.
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(&state).unwrap();
    let state = ["--state", state.to_str().unwrap()];
    let (status, out, _) = told(&[&["tools", "list"], &state[..]].concat());
    assert_eq!(
        (status, out.as_str()),
        (0, "no server's definitions are pinned yet\n")
    );
    for words in [
        &["tools", "list", "s"][..],
        &["tools", "diff", "s"],
        &["tools", "accept", "s", "--all"],
        &["tools", "forget", "s", "t"],
    ] {
        let (status, _, err) = told(&[words, &state[..]].concat());
        assert_eq!(status, 1, "{words:?} {err}");
        assert!(err.contains("no tool of a server \"s\""), "{err}");
    }
    let (status, ..) = told(&["tools", "accept", "s", "t", "--sha256", "x"]);
    assert_eq!(status, 2);
}

#[test]
fn policy_check_warns_of_what_its_filters_let_through() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.yaml");
    let file = path.to_str().unwrap();
    let policy = |within: &str| {
        let text = format!(
            "version: 1\nexec:\n  interfaces: [ lo ]\n  packets: 1\n  within: {within:?}\n"
        );
        fs::write(&path, text).unwrap();
        told(&["policy", "check", file])
    };
    let (status, out, _) = policy("net 10.0.0.0/8");
    assert_eq!(status, 0, "{out}");
    assert!(
        out.starts_with(&format!("warning: {file}:5:3 exec.within: ")),
        "{out}"
    );
    assert!(out.contains("arp"), "{out}");
    let (status, out, _) = policy("tcp port 80");
    assert_eq!((status, out.contains("warning")), (0, false), "{out}");
    let (status, out, _) = policy("tcp or not tcp");
    assert_eq!(status, 0, "{out}");
    assert!(
        out.contains("warning: ") && out.contains("it matches every packet"),
        "{out}"
    );
    let (status, out, _) = policy("vlan 5 and not port 22");
    assert_eq!(status, 0, "{out}");
    assert!(
        out.contains("warning: ") && out.contains("not looked through"),
        "{out}"
    );
    let (status, out, _) = policy("tcp and udp");
    assert_eq!(status, 1, "{out}");
    assert!(
        out.contains("error: ") && out.contains("it matches nothing"),
        "{out}"
    );
    let output = capwarden(&["policy", "check", "--json", file]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer[0]["ok"], false, "{answer}");
    assert_eq!(answer[0]["filters"][0]["line"], 5, "{answer}");
    // What means something on Ethernet only is of no use on `any`.
    let ether = "ether host 02:00:00:00:00:05 and tcp port 80";
    for (interface, warned) in [("any", true), ("lo", false)] {
        let text = format!(
            "version: 1\nexec:\n  interfaces: [ {interface} ]\n  packets: 1\n  within: {ether:?}\n"
        );
        fs::write(&path, text).unwrap();
        let (status, out, _) = told(&["policy", "check", file]);
        let words = "on `any`, tools open cooked sockets, for which this filter does not compile: ";
        assert_eq!((status, out.contains(words)), (0, warned), "{out}");
        assert_eq!(out.contains("; name interfaces instead"), warned, "{out}");
    }
}

#[test]
fn policy_explain_tells_by_its_exit_status_and_names_the_rule() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.yaml");
    let policy = path.to_str().unwrap();
    fs::write(
        &path,
        "version: 1\ntools:\n  stop: allow\n  start:\n    limits: [ { max: 3, window: hour } ]\n    capture:\n      from: { filter: bpf, packets: count }\n      interfaces: [ lo ]\n      within: tcp\n      packets: 10\n",
    )
    .unwrap();
    let explain = |call: &str, json: bool| {
        let file = dir.path().join("call.json");
        fs::write(&file, call).unwrap();
        let file = file.to_str().unwrap();
        let mut arguments = vec!["policy", "explain", file, "-p", policy];
        arguments.extend(json.then_some("--json"));
        told(&arguments)
    };
    let (status, out, _) = explain(r#"{"tool": "start", "arguments": {"count": 50}}"#, false);
    assert_eq!(status, 0, "{out}");
    for line in [
        "start: allowed; starts a capture",
        &format!("rule: {policy}:6:5 tools.start.capture"),
        "terms: lo, within \"tcp\", 10 packets",
        "changed: count: 50 becomes 10, as the policy allows at most 10 packets",
        "forwarded: {\"count\":10}",
        "counts: 1 of 3 in each hour, counter \"start/hour\", scope grant",
    ] {
        assert!(out.contains(line), "{line} in {out}");
    }
    // What the session would refuse, and what it would leave out.
    let call = |filter: &str| format!(r#"{{"tool": "start", "arguments": {{"bpf": "{filter}"}}}}"#);
    let (status, out, _) = explain(&call("tcp and"), false);
    assert_eq!(status, 1, "{out}");
    assert!(
        out.contains("denied when its session is opened") && out.contains("syntax error"),
        "{out}"
    );
    let (status, out, _) = explain(&call("port 53"), true);
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &answer["allowed"]), (0, &true.into()), "{out}");
    assert!(answer["cut"].as_str().unwrap().contains("port 53"), "{out}");
    assert_eq!(answer["terms"]["packets"], 10);

    let (status, out, _) = explain(r#"{"tool": "other"}"#, true);
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &answer["verdict"]), (1, &"deny".into()), "{out}");
    assert_eq!(
        (&answer["visible"], &answer["rule"]["path"]),
        (&false.into(), &"default".into())
    );
    for no_call in ["", "[]", r#"{"tool": "a", "tool": "b"}"#, r#"{"tol": "a"}"#] {
        let (status, out, err) = explain(no_call, false);
        assert_eq!((status, out.as_str()), (2, ""), "{no_call}");
        assert!(
            err.contains("cannot use the call") && err.contains("hint:"),
            "{err}"
        );
    }
    fs::write(&path, "version: 1\ntools: { a: alow }\n").unwrap();
    let (status, _, err) = explain(r#"{"tool": "a"}"#, false);
    assert_eq!(status, 3, "{err}");
}

#[test]
fn policy_explain_decides_under_the_ceiling_of_a_grant() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (policy, state, call) = (path("p.yaml"), path("state"), path("call.json"));
    fs::write(
        &policy,
        "version: 1\ntools:\n  start: { capture: { from: { packets: n }, interfaces: [ lo ], packets: 10, over: deny } }\n  browse: { program: { seconds: 60, connect: [ \"*:443\" ] } }\n",
    )
    .unwrap();
    let create = ["grant", "create", "g", "--server", "s", "--packets", "3"];
    let more = ["--seconds", "2", "--state", &state, "--audit"];
    let (status, _, err) = told(&[&create[..], &more, &[&path("audit.jsonl")]].concat());
    assert_eq!(status, 0, "{err}");
    let explain = |text: &str| {
        fs::write(&call, text).unwrap();
        let words = ["policy", "explain", &call, "-p", &policy, "--grant", "g"];
        told(&[&words[..], &["--state", &state]].concat())
    };
    let (status, out, _) = explain(r#"{"tool":"start","arguments":{"n":5}}"#);
    assert_eq!(status, 1, "{out}");
    assert!(
        out.contains("5 packets is more than the 3 packets"),
        "{out}"
    );
    let (status, out, _) = explain(r#"{"tool":"start","arguments":{"n":2}}"#);
    assert_eq!(status, 0, "{out}");
    assert!(out.contains("terms: lo, 2 packets, 2 s"), "{out}");
    let (status, out, _) = explain(r#"{"tool":"browse"}"#);
    assert_eq!(status, 0, "{out}");
    assert!(out.contains("3 packets") && out.contains("2 s"), "{out}");
}

#[test]
fn policy_test_runs_the_cases_beside_and_shows_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(
        path("p.yaml"),
        "version: 1\ntools: { a: allow, b: { deny: no } }\n",
    )
    .unwrap();
    let (status, _, err) = told(&["policy", "test", &path("p.yaml")]);
    assert_eq!(status, 2, "{err}");
    assert!(err.contains("p.test.yaml"), "{err}");
    let good = "- { name: a passes, call: { tool: a }, expect: allow }\n";
    fs::write(path("p.test.yaml"), good).unwrap();
    for name in ["p.yaml", "p.test.yaml"] {
        let (status, out, _) = told(&["policy", "test", &path(name)]);
        assert_eq!(status, 0, "{out}");
        assert!(out.contains("p.yaml: 1 of 1 cases pass"), "{out}");
    }
    let here = command(&["policy", "test"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(here.status.code(), Some(0));

    let bad = format!("{good}- {{ name: b passes, call: {{ tool: b }}, expect: allow }}\n");
    fs::write(path("p.test.yaml"), bad).unwrap();
    let (status, out, _) = told(&["policy", "test", &path("p.yaml")]);
    assert_eq!(status, 1);
    for line in [
        "p.test.yaml:2:3: b passes",
        "expected allow",
        "found    hidden: The tool `b` is denied",
        "1 of 2 cases pass",
    ] {
        assert!(out.contains(line), "{line} in {out}");
    }
    let (status, out, _) = told(&["policy", "test", &path("p.yaml"), "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &answer[0]["results"][1]["ok"]), (1, &false.into()));
    fs::write(path("p.test.yaml"), "- { name: n }\n").unwrap();
    let (status, _, err) = told(&["policy", "test", &path("p.yaml")]);
    assert_eq!(status, 3);
    assert!(err.contains("has no `call`"), "{err}");

    // What is wrong with one file leaves the others to be run.
    fs::write(path("q.yaml"), "version: 1\ntools: { a: allow }\n").unwrap();
    fs::write(path("q.test.yaml"), good).unwrap();
    let here = |more: &[&str]| {
        let mut command = command(&["policy", "test"]);
        let output = command.args(more).current_dir(dir.path()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (status, out, err) = here(&[]);
    assert_eq!(status, Some(3), "{err}");
    assert!(err.contains("has no `call`"), "{err}");
    assert!(out.contains("q.yaml: 1 of 1 cases pass"), "{out}");
    let (status, out, _) = here(&["--json"]);
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status, Some(3));
    assert_eq!(
        (&answer[0]["ok"], &answer[1]["ok"]),
        (&false.into(), &true.into())
    );
}

#[test]
fn policy_diff_tells_by_its_exit_status_and_proves_filters() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, rule: &str| {
        let path = dir.path().join(name);
        fs::write(&path, format!("version: 1\ntools: {{ t: {rule} }}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let capture = |within: &str, packets: u32| {
        format!("{{ capture: {{ interfaces: [ lo ], within: {within:?}, packets: {packets} }} }}")
    };
    let one = write("one.yaml", &capture("tcp port 80", 10));
    let same = write("same.yaml", &capture("port 80 and tcp", 10));
    let (status, out, _) = told(&["policy", "diff", &one, &same]);
    assert_eq!((status, out.as_str()), (0, "both decide the same\n"));
    let wider = write("wider.yaml", &capture("tcp", 9));
    let (status, out, _) = told(&["policy", "diff", &one, &wider]);
    assert_eq!(status, 1);
    for line in [
        "becomes allowed:\n  t: packets within \"tcp\", not \"tcp port 80\"",
        "becomes denied:\n  t: 9 packets, not 10 packets",
        "one.yaml:2:46 tools.t.capture.within",
    ] {
        assert!(out.contains(line), "{line} in {out}");
    }
    let (status, out, _) = told(&["policy", "diff", &wider, &one, "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (status, &answer[0]["effect"], &answer[1]["effect"]),
        (1, &"allows".into(), &"denies".into())
    );
    let (status, ..) = told(&["policy", "diff", &one, "/nonexistent"]);
    assert_eq!(status, 2);
}

#[test]
fn policy_schema_is_json() {
    let (status, out, _) = told(&["policy", "schema"]);
    let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status, 0);
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
}

#[test]
fn policy_import_writes_a_policy_that_decides_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let theirs = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../policies/policylayer-sharkmcp.json"
    );
    let (status, yaml, _) = told(&["policy", "import", theirs]);
    assert_eq!(status, 0);
    let ours = path("ours.yaml");
    fs::write(&ours, &yaml).unwrap();
    let (status, out, _) = told(&["policy", "diff", theirs, &ours]);
    assert_eq!((status, out.as_str()), (0, "both decide the same\n"));
    let (status, out, _) = told(&["policy", "check", &ours]);
    assert_eq!(status, 0, "{out}");

    let (_, out, _) = told(&["policy", "import", "--json", theirs]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["policy"], yaml);
    assert_eq!(report["dialect"], "policylayer");
    let says = report["readings"][0]["says"].as_str().unwrap();
    assert!(says.contains("UTC") && yaml.contains(&format!("# * {says}")));

    // What is ours already is no other's, and what is none is told with its place.
    let (status, _, told_why) = told(&["policy", "import", &ours]);
    assert_eq!(status, 3);
    assert!(told_why.contains("own language"), "{told_why}");
}

#[test]
fn policy_check_tells_what_is_allowed_and_all_that_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (policy, cases) = (path("p.yaml"), path("p.test.yaml"));
    fs::write(&policy, "version: 1\ntools: { a: allow }\n").unwrap();
    let case = |expect: &str| {
        let text = format!("- {{ name: n, call: {{ tool: a }}, expect: {expect} }}\n");
        fs::write(&cases, text).unwrap();
        told(&["policy", "check", &policy, &cases])
    };
    let (status, out, _) = case("allow");
    assert_eq!(status, 0, "{out}");
    let expected = format!(
        "{policy}: sound, in capwarden's language\n  allow    a\n  deny     every tool that is not named here\n{policy}: 1 of 1 cases pass\n"
    );
    assert_eq!(out, expected);
    let (status, out, _) = case("deny");
    assert!(status == 1 && out.contains("0 of 1 cases pass"), "{out}");
    let (status, out, _) = case("no");
    assert!(status == 1 && out.contains("p.test.yaml:1:"), "{out}");

    // A document among them is left alone.
    let notes = path("README.md");
    fs::write(&notes, "# Policies\n").unwrap();
    let (status, out, _) = told(&["policy", "check", &notes, &policy]);
    assert!(status == 0 && out.contains("README.md: left out"), "{out}");

    // Every filter that does not compile is told, with its place.
    let text = "version: 1
tools:
  a: { args: { f: { capture_filter: { within: 'udp prot 1' } } } }
exec: { interfaces: [ lo ], packets: 1, within: 'tcp prot 2' }
";
    fs::write(&policy, text).unwrap();
    let (status, out, _) = told(&["policy", "check", &policy]);
    assert_eq!(status, 1);
    assert!(
        out.contains("udp prot 1") && out.contains("tcp prot 2"),
        "{out}"
    );
    let (_, out, _) = told(&["policy", "check", "--json", &policy]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report[0]["line"], 3);
    assert_eq!(report[0]["others"][0]["line"], 4);

    // In whose language a file is read is told with what is wrong in it.
    fs::write(
        &policy,
        "version: \"1\"\ntools: { a: { rules: [ { nam: x } ] } }\n",
    )
    .unwrap();
    let (_, out, _) = told(&["policy", "check", &policy]);
    assert!(out.contains("read as Intercept's YAML"), "{out}");
}

#[test]
fn grants_are_recorded_and_a_misspelled_place_is_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let log = path("audit.jsonl");
    let grant = |words: &[&str], state: &str| {
        told(&[&["grant"], words, &["--audit", &log, "--state", state]].concat())
    };
    let create = ["create", "laptop", "--server", "pcap", "--packets", "10"];
    // Only the last part of a path is made.
    let (status, _, why) = grant(&create, &path("no/such"));
    assert_eq!(status, 2, "{why}");
    assert!(why.contains("there is no directory") && !directory.path().join("no").exists());
    let state = path("state");
    let (status, token, why) = grant(&create, &state);
    assert_eq!(status, 0, "{why}");
    assert_eq!(grant(&["revoke", "laptop"], &state).0, 0);
    let (_, shown, _) = told(&["audit", "show", &log, "--kind", "grant"]);
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].contains(" made for pcap by uid:"), "{shown}");
    assert!(lines[1].contains(" revoked for pcap by uid:"), "{shown}");
    assert!(!fs::read_to_string(&log).unwrap().contains(token.trim()));
    assert_eq!(told(&["audit", "verify", &log]).0, 0);
    // A log that cannot be written: nothing is made.
    let mut again = ["grant", "create", "other", "--server", "s"].to_vec();
    let nowhere = path("no/audit");
    again.extend(["--audit", nowhere.as_str(), "--state", &state]);
    assert_ne!(told(&again).0, 0);
    let (_, list, _) = told(&["grant", "list", "--state", &state]);
    assert!(!list.contains("other"), "{list}");
}

#[test]
fn audit_show_says_so_of_what_is_no_audit_log() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    fs::write(&path, "milk\n{\"bread\": 2}\n").unwrap();
    let (status, out, why) = told(&["audit", "show", path.to_str().unwrap()]);
    assert_eq!((status, out.as_str()), (2, ""));
    assert!(
        why.contains("no audit log") && why.contains("notes.txt"),
        "{why}"
    );
}
