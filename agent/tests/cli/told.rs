//! What is told of files that are not there, of policies that are wrong, and of what is only looked at.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use super::told;

/// The text of a file in a directory, by its path.
fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_file_that_is_not_there_ends_every_verb_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let policy = write(dir.path(), "p.yaml", "version: 1\ntools: { t: allow }\n");
    let call = write(dir.path(), "c.json", "{\"tool\": \"t\"}");
    let log = write(dir.path(), "log.jsonl", "");
    let key = write(dir.path(), "key.pem", "");
    let (policy, call, log, key) = (&*policy, &*call, &*log, &*key);
    let none = "/nonexistent/file";
    let verbs: &[&[&str]] = &[
        &["run", "-p", none, "--", "true"],
        &["exec", "-p", none, "--", "true"],
        &[
            "run",
            "-p",
            policy,
            "--listen",
            "127.0.0.1:0",
            "--tls-cert",
            none,
            "--tls-key",
            key,
            "--",
            "true",
        ],
        &[
            "run",
            "-p",
            policy,
            "--listen",
            "127.0.0.1:0",
            "--upstream",
            "https://a.example/mcp",
            "--upstream-ca",
            none,
        ],
        &[
            "doctor",
            "--counters",
            "redis://127.0.0.1:1/0",
            "--counters-password-file",
            none,
        ],
        &["host", "lockdown", "--allow", none],
        &["policy", "check", none],
        &["policy", "explain", call, "-p", none],
        &["policy", "explain", none, "-p", policy],
        &["policy", "explain", call, "-p", policy, "--tools", none],
        &["policy", "test", none],
        &["policy", "diff", policy, none],
        &["policy", "import", none],
        &["filter", "pcap", none, "--within", "tcp"],
        &["audit", "show", none],
        &["audit", "show", log, "--arguments", none],
        &["audit", "verify", none],
        &["logs", none],
        &["audit", "verify", log, "--pcap", none, "--session", "s1"],
        &["approvals", "--state", none],
        &["grant", "list", "--state", none],
        &["tools", "list", "--state", none],
        &["tools", "diff", "s", "--state", none],
    ];
    for verb in verbs {
        let (status, out, err) = told(verb);
        assert_eq!((status, out.as_str()), (2, ""), "{verb:?}: {err}");
        assert!(
            err.contains(none) && err.contains("hint: "),
            "{verb:?}: {err}"
        );
    }
    assert!(!Path::new("/nonexistent").exists());
}

#[test]
fn who_only_reads_makes_no_state() {
    let home = tempfile::tempdir().unwrap();
    for words in [
        &["approvals"][..],
        &["approvals", "--json"],
        &["grant", "list"],
        &["tools"],
        &["tools", "list", "--json"],
    ] {
        // Root's usual place is the host's own.
        if fs::metadata(home.path()).unwrap().uid() == 0 {
            break;
        }
        let mut command = super::command(words);
        let output = command.env("XDG_STATE_HOME", home.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn every_fault_of_a_policy_is_told_with_its_place_its_line_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let shape = write(
        dir.path(),
        "shape.yaml",
        "version: 1\ntools:\n  a: { capture: { pakets: 1 } }\n  b: { deny: 7 }\n",
    );
    let filter = write(
        dir.path(),
        "filter.yaml",
        "version: 1\ntools:\n  a: { capture: { interfaces: [ lo ], packets: 1, within: tcp prot 80 } }\n",
    );
    for (file, lines) in [(&shape, &[3, 4][..]), (&filter, &[3])] {
        let text = fs::read_to_string(file).unwrap();
        let (status, out, _) = told(&["policy", "check", file]);
        assert_eq!(status, 1, "{out}");
        let (status, empty, err) = told(&["policy", "diff", file, file]);
        assert_eq!((status, empty.as_str()), (3, ""), "{err}");
        assert_eq!(out, err, "one way, wherever it is told");
        for line in lines {
            let source = text.lines().nth(line - 1).unwrap();
            assert!(out.contains(&format!("error: {file}:{line}:")), "{out}");
            assert!(
                out.contains(&format!("\n  {line} | {source}\n    | ")),
                "{out}"
            );
        }
        assert!(out.contains("^") && out.contains("\n hint: "), "{out}");
    }
}

#[test]
fn pins_and_times_are_told_as_the_policy_says_them() {
    let dir = tempfile::tempdir().unwrap();
    let policy = write(
        dir.path(),
        "p.yaml",
        "version: 1\ndefinitions: { pinned: strict }\ntools:\n  t:\n    approve: { by: operator, timeout: 30 min }\n    limits: [ { max: 3, window: 90 min } ]\n    capture: { interfaces: [ lo ], seconds: 600 }\n",
    );
    let call = write(dir.path(), "c.json", "{\"tool\": \"t\"}");
    let (status, out, err) = told(&["policy", "explain", &call, "-p", &policy]);
    assert_eq!(status, 0, "{err}");
    for words in [
        "the tool's definition is the accepted one; one that is seen first is held back",
        "an operator, within 30 min",
        "in any 1 h 30 min",
        "lo, 10 min",
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
    let (_, out, _) = told(&["policy", "explain", &call, "-p", &policy, "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["pinned"]["strict"], true, "{out}");
    let (_, out, _) = told(&["policy", "check", &policy]);
    assert!(out.contains("at most 3 in 1 h 30 min"), "{out}");
}

#[test]
fn what_tools_list_prints_is_a_list_of_tools() {
    let dir = tempfile::tempdir().unwrap();
    let policy = write(
        dir.path(),
        "p.yaml",
        "version: 1\ntools: { t: { schema: true } }\n",
    );
    let call = write(dir.path(), "c.json", r#"{"tool":"t","arguments":{"n":5}}"#);
    let known = write(
        dir.path(),
        "known.json",
        r#"[{"server":"s","tool":"t","standing":"accepted","offered":null,
            "accepted":{"definition":{"name":"t","inputSchema":{"properties":{"n":{"maximum":4}}}}}}]"#,
    );
    let explain = ["policy", "explain", &call, "-p", &policy, "--tools", &known];
    let (status, out, err) = told(&explain);
    assert_eq!(status, 1, "{err}");
    assert!(out.contains("/n: 5 is more than 4."), "{out}");
}

#[test]
fn what_is_wrong_with_a_certificate_is_told_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let policy = write(dir.path(), "p.yaml", "version: 1\ntools: { t: allow }\n");
    let file = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = write(dir.path(), name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let block = |words: &str| format!("-----BEGIN {words}-----\nAAAA\n-----END {words}-----\n");
    let key = file("key.pem", &block("PRIVATE KEY"));
    let encrypted = file("encrypted.pem", &block("ENCRYPTED PRIVATE KEY"));
    let certificate = file("certificate.pem", &block("CERTIFICATE"));
    let der = file("der", "\u{30}\u{82}");
    for (certificate, key, words) in [
        (&key, &certificate, "stand the right way round"),
        (&der, &key, "openssl x509 -inform der"),
        (&certificate, &encrypted, "openssl pkey"),
    ] {
        let (status, _, err) = told(&[
            "run",
            "-p",
            &policy,
            "--listen",
            "127.0.0.1:0",
            "--tls-cert",
            certificate,
            "--tls-key",
            key,
            "--",
            "true",
        ]);
        assert_eq!(status, 2, "{err}");
        assert!(err.contains(words), "{words}: {err}");
    }
}

#[test]
fn report_says_what_is_no_log_and_an_agent_has_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let notes = write(dir.path(), "notes.txt", "call the operator\n");
    let log = write(dir.path(), "log.jsonl", "");
    let (status, out, why) = told(&["report", "s1", &notes]);
    assert_eq!((status, &*out), (2, ""));
    assert!(why.contains("notes.txt is no audit log"), "{why}");
    for verb in [&["report", "s1", &log][..], &["audit", "show", &log]] {
        let (status, out, why) = told(&[verb, &["--agent", ""]].concat());
        assert_eq!((status, &*out), (2, ""), "{verb:?}");
        assert!(why.contains("--agent"), "{why}");
    }
}

#[test]
fn a_session_that_is_not_there_ends_every_verb_with_1_and_one_that_is_with_its_agents_name_is_found()
 {
    let dir = tempfile::tempdir().unwrap();
    let (path, capture) = (dir.path().join("audit.jsonl"), dir.path().join("one.pcap"));
    super::log_of_a_session(&path);
    super::capture_file_of(&capture, 1, 0, &[]);
    let (log, capture) = (path.to_str().unwrap(), capture.to_str().unwrap());
    let text = fs::read_to_string(&path).unwrap();
    let opened: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let agent: String = opened["agent"].as_str().unwrap().chars().take(8).collect();
    let verbs = |session: &str| -> [Vec<String>; 4] {
        [
            vec!["report", session, log],
            vec!["audit", "show", log, "--session", session],
            vec!["logs", log, "--session", session],
            vec![
                "audit",
                "verify",
                log,
                "--session",
                session,
                "--pcap",
                capture,
            ],
        ]
        .map(|words| words.into_iter().map(str::to_owned).collect())
    };
    let told = |words: &[String]| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        told(&words)
    };
    for session in [
        "s9".to_owned(),
        format!("{agent}/s9"),
        "0000zz/s1".to_owned(),
    ] {
        for words in verbs(&session) {
            let (status, _, err) = told(&words);
            assert_eq!(status, 1, "{words:?}: {err}");
            let number = session.rsplit('/').next().unwrap();
            let why = format!("the log has no session {number}");
            assert!(err.contains(&why), "{words:?}: {err}");
        }
    }
    for session in ["s1".to_owned(), format!("{agent}/s1")] {
        for words in verbs(&session) {
            let (_, out, err) = told(&words);
            assert!(
                !out.is_empty() && !err.contains("no session"),
                "{words:?}: {err}"
            );
        }
    }
    // A second agent had a session of that number, too.
    super::log_of_a_session(&path);
    for verb in [&verbs("s1")[0], &verbs("s1")[3]] {
        let (status, _, err) = told(verb);
        assert_eq!(status, 2, "{err}");
        assert!(err.contains("say which: AGENT/SESSION"), "{err}");
    }
    let (status, out, _) = told(&verbs(&format!("{agent}/s1"))[0]);
    assert_eq!(status, 0);
    assert!(out.contains(&agent), "{out}");
}

#[test]
fn client_config_says_why_the_agent_cannot_be_asked_and_what_to_do() {
    let none = "/nonexistent/agent.sock";
    let (status, out, err) = told(&["client-config", "pcap", "--socket", none]);
    assert_eq!(status, 0, "{err}");
    assert!(out.contains("\"connect\""), "{out}");
    for words in [
        "whether the agent serves pcap to you is not known",
        none,
        "No such file",
        "systemctl status capwarden",
    ] {
        assert!(err.contains(words), "{words}: {err}");
    }
    // Nothing is known of where it is over HTTP.
    let (status, out, err) = told(&["client-config", "pcap", "--http", "--socket", none]);
    assert_eq!((status, out.as_str()), (1, ""), "{err}");
    assert!(
        err.contains("cannot ask the agent at") && err.contains("hint: "),
        "{err}"
    );
}
