//! The command line as it is used: the binary itself, its output and its exit status.

#![expect(
    clippy::unwrap_used,
    reason = "clippy takes the helpers of a test file for no tests"
)]

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use capwarden::audit::{AgentStopped, Log, Record};

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
    let verbs: [&[&str]; 11] = [
        &[],
        &["run"],
        &["exec"],
        &["policy"],
        &["policy", "check"],
        &["audit"],
        &["audit", "show"],
        &["audit", "verify"],
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
    for phrase in ["Exit status:", "  4  root is needed", "or 128 and"] {
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
    }
}

#[test]
fn manual_has_a_page_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("man8");
    let (status, ..) = told(&["man", "--out", path.to_str().unwrap()]);
    assert_eq!(status, 0);
    let mut pages: Vec<String> = fs::read_dir(&path)
        .unwrap()
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    assert_eq!(
        pages,
        [
            "capwarden-audit-show.8",
            "capwarden-audit-verify.8",
            "capwarden-audit.8",
            "capwarden-completions.8",
            "capwarden-doctor.8",
            "capwarden-exec.8",
            "capwarden-filter-check.8",
            "capwarden-filter-pcap.8",
            "capwarden-filter-prove.8",
            "capwarden-filter.8",
            "capwarden-man.8",
            "capwarden-policy-check.8",
            "capwarden-policy.8",
            "capwarden-run.8",
            "capwarden.8",
        ]
    );
    for page in pages {
        let text = fs::read_to_string(path.join(&page)).unwrap();
        assert!(text.contains(".SH \"EXIT STATUS\""), "{page}: {text}");
    }
    let (status, out, _) = told(&["man"]);
    assert_eq!((status, out.matches(".TH ").count()), (0, 15));
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
    assert!(out.contains("agent-stopped    second"), "{out}");
    assert!(out.ends_with(&format!("head {head}\n")), "{out}");
    let (status, out, _) = told(&["audit", "show", file, "--json"]);
    assert_eq!((status, out), (0, fs::read_to_string(&path).unwrap()));
}

#[test]
fn file_that_is_not_there_exits_with_7_and_says_which() {
    let (status, out, err) = told(&["audit", "verify", "/nonexistent/log"]);
    assert_eq!((status, out.as_str()), (7, ""));
    assert!(
        err.contains("/nonexistent/log") && err.contains("hint:"),
        "{err}"
    );
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
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 262_144, link] {
        file.extend(u32::to_ne_bytes(word));
    }
    for (bytes, wire_len) in packets {
        let captured = u32::try_from(bytes.len()).unwrap();
        for word in [1_700_000_000, 5, captured, *wire_len] {
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
    assert_eq!(status, 2, "{out}");
    assert!(err.contains("broken after 3 packets: truncated"), "{err}");
    assert!(out.starts_with("3 packets"), "{out}");
    let (status, ..) = told(&["filter", "pcap", file, "--within", "tcp prot"]);
    assert_eq!(status, 2);
    let (status, ..) = told(&["filter", "pcap", "/nonexistent", "--within", "tcp"]);
    assert_eq!(status, 2);

    // From standard input, too.
    fs::write(&path, &whole).unwrap();
    let mut command = command(&["filter", "pcap", "-", "--within", "tcp"]);
    let output = command
        .stdin(fs::File::open(&path).unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
