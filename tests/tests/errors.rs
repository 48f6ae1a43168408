//! What goes wrong before anything is started: a clear message, the right exit status, no panic.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixStream,
        process::ExitStatusExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{capwarden, exited, signal, wait_for},
    mcp::PATIENCE,
    stage::directory,
};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

const GOOD: &str = "version: 1\ndefault: deny\ntools: { t: allow }\n";

/// A place with a good policy in it.
struct Place(TempDir);

/// How a command ended, and what it said.
struct Ended {
    code: Option<i32>,
    out: String,
    errors: String,
}

impl Place {
    fn new() -> Result<Self> {
        let place = Self(directory()?);
        place.write("good.yaml", GOOD)?;
        Ok(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Runs capwarden in the place.
    fn capwarden(&self, arguments: &[&str]) -> Result<Ended> {
        let mut command = Command::new(capwarden()?);
        command.args(arguments);
        self.ended(command)
    }

    /// `capwarden run` with this policy, audit log and server.
    fn run(&self, policy: &str, audit: &str, server: &str) -> Result<Ended> {
        self.capwarden(&[
            "run", "-p", policy, "--audit", audit, "--state", "state", "--user", "65534", "--",
            server,
        ])
    }

    fn ended(&self, mut command: Command) -> Result<Ended> {
        command
            .current_dir(&self.0)
            .env_remove("CAPWARDEN_LOG")
            // A directory in it that only root may look into would change what a search finds.
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .stdin(Stdio::null())
            .stdout(fs::File::create(self.path("out"))?)
            .stderr(fs::File::create(self.path("errors"))?);
        let mut child = command.spawn()?;
        let status = wait_for("its end", PATIENCE, || Ok(child.try_wait()?));
        if status.is_err() {
            child.kill()?;
            child.wait()?;
        }
        let status = status.with_context(|| format!("{command:?}"))?;
        ensure!(status.signal().is_none(), "{command:?}: {status}");
        let ended = Ended {
            code: status.code(),
            out: fs::read_to_string(self.path("out"))?,
            errors: fs::read_to_string(self.path("errors"))?,
        };
        for said in [&ended.out, &ended.errors] {
            ensure!(!said.contains("panicked"), "it panicked: {said}");
            ensure!(!said.contains('\u{1b}'), "colours in a file: {said}");
        }
        Ok(ended)
    }
}

impl Ended {
    /// It ended with this status, its standard error has these words, its standard output is empty.
    fn is(&self, code: i32, words: &[&str]) -> Result<()> {
        let Self { out, errors, .. } = self;
        ensure!(self.code == Some(code), "{:?}: {errors}{out}", self.code);
        ensure!(out.is_empty(), "standard output is not for errors: {out}");
        for word in words {
            ensure!(errors.contains(word), "{word:?} is not in: {errors}");
        }
        Ok(())
    }
}

/// A policy, where in it something is wrong, and words that say what.
const WRONG: [(&str, &str, &str, &[&str]); 10] = [
    (
        "unknown key",
        "version: 1\ntools:\n  t:\n    capture:\n      intrfaces: [ lo ]\n",
        ":5:7",
        &["unknown key", "intrfaces", "Did you mean `interfaces`?"],
    ),
    (
        "duplicate key",
        "version: 1\ntools:\n  t: allow\n  t: allow\n",
        ":4:3",
        &["`t` is written twice"],
    ),
    (
        "version",
        "version: 7\ntools: { t: allow }\n",
        ":1:10",
        &["version"],
    ),
    (
        "no version",
        "tools: { t: allow }\n",
        ":1:1",
        &["version: 1"],
    ),
    (
        "default",
        "version: 1\ndefault: allow\ntools: { t: allow }\n",
        ":2:10",
        &["default: deny"],
    ),
    (
        "glob",
        "version: 1\ntools: { 't*': allow }\n",
        ":2:10",
        &["no tool's name"],
    ),
    (
        "regular expression",
        "version: 1\ntools:\n  t: { args: { a: { pattern: '(' } } }\n",
        ":3:",
        &["regular expression"],
    ),
    (
        "empty filter",
        "version: 1\ntools:\n  t: { capture: { interfaces: [ lo ], within: \" \" } }\n",
        ":3:",
        &["empty"],
    ),
    ("no YAML", "version: 1\ntools: { t: allow\n", ":", &[]),
    ("a list", "- version\n", ":1:1", &["must be a policy"]),
];

#[test]
fn policy_malformed_ends_run_with_its_place() -> Result<()> {
    for (what, text, place, words) in WRONG {
        let here = Place::new()?;
        here.write("wrong.yaml", text)?;
        let ended = here.run("wrong.yaml", "audit.jsonl", "/bin/true")?;
        ended.is(3, words).context(what)?;
        let mark = format!("wrong.yaml{place}");
        ensure!(
            ended.errors.contains(&mark),
            "{what}: {mark} is not in {}",
            ended.errors
        );
        // The excerpt: a line of the file, whole.
        let line = place
            .split(':')
            .nth(1)
            .and_then(|line| line.parse::<usize>().ok());
        if let Some(line) = line.and_then(|line| text.lines().nth(line - 1)) {
            ensure!(
                ended.errors.contains(line),
                "{what}: no excerpt in {}",
                ended.errors
            );
        }
        ensure!(!here.path("audit.jsonl").exists(), "nothing was begun");

        // `exec` reads it the same way, and `policy check` says it on standard output.
        let exec = [
            "exec",
            "-p",
            "wrong.yaml",
            "--audit",
            "audit.jsonl",
            "--",
            "/bin/true",
        ];
        here.capwarden(&exec)?.is(3, words).context(what)?;
        let check = here.capwarden(&["policy", "check", "good.yaml", "wrong.yaml"])?;
        ensure!(check.code == Some(1), "{what}: {:?}", check.code);
        ensure!(check.out.contains(&mark), "{what}: {}", check.out);
        ensure!(check.errors.is_empty(), "{what}: {}", check.errors);

        let json = here.capwarden(&["policy", "check", "--json", "good.yaml", "wrong.yaml"])?;
        ensure!(json.code == Some(1), "{what}: {:?}", json.code);
        let reports: Vec<Value> = serde_json::from_str(&json.out)?;
        let ok: Vec<_> = reports
            .iter()
            .map(|r| r.get("ok").and_then(Value::as_bool))
            .collect();
        ensure!(ok == [Some(true), Some(false)], "{what}: {}", json.out);
        let wrong = reports.last().context("no report")?;
        ensure!(
            wrong.get("line").is_some_and(Value::is_u64),
            "{what}: {wrong}"
        );
    }
    Ok(())
}

#[test]
fn policy_check_of_good_ones_is_ok() -> Result<()> {
    let here = Place::new()?;
    let good = here.capwarden(&["policy", "check", "good.yaml"])?;
    assert_eq!(good.code, Some(0), "{}", good.errors);
    assert!(
        good.out.contains("good.yaml") && good.errors.is_empty(),
        "{}",
        good.out
    );
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let mut seen = 0;
    for policy in fs::read_dir(shipped)? {
        let policy = policy?.path().to_string_lossy().into_owned();
        if policy.ends_with(".test.yaml") {
            let ended = here.capwarden(&["policy", "test", &policy])?;
            assert_eq!(ended.code, Some(0), "{policy}: {}", ended.out);
            continue;
        }
        let ended = here.capwarden(&["policy", "check", &policy])?;
        assert_eq!(ended.code, Some(0), "{policy}: {}", ended.out);
        seen += 1;
    }
    assert!(seen >= 5, "{seen} policies");
    Ok(())
}

#[test]
fn policy_missing_ends_with_2_and_unreadable_with_3() -> Result<()> {
    let here = Place::new()?;
    // A file that is not there is the command line's fault, whatever it was to be.
    here.run("none.yaml", "audit.jsonl", "/bin/true")?
        .is(2, &["there is no file `none.yaml`", "hint: "])?;
    here.run(".", "audit.jsonl", "/bin/true")?
        .is(3, &["cannot be read", "directory"])?;
    fs::write(here.path("bytes.yaml"), b"version: 1\n# \xff\xfe\n")?;
    here.run("bytes.yaml", "audit.jsonl", "/bin/true")?
        .is(3, &["bytes.yaml", "UTF-8"])?;
    here.write("large.yaml", &"#".repeat((1 << 20) + 1))?;
    here.run("large.yaml", "audit.jsonl", "/bin/true")?
        .is(3, &["large.yaml", "1 MiB"])?;
    // A file without an end is read no further than a policy may be long.
    here.run("/dev/zero", "audit.jsonl", "/bin/true")?
        .is(3, &["/dev/zero", "1 MiB"])?;
    Ok(())
}

#[test]
fn policy_bad_filter_is_told_in_libpcaps_words() -> Result<()> {
    let here = Place::new()?;
    for (filter, words) in [
        ("tcp prot 80", "syntax error"),
        ("host example.com", "example.com"),
        ("port http", "unknown port 'http'"),
    ] {
        let text = format!(
            "version: 1\ntools:\n  t:\n    capture:\n      interfaces: [ lo ]\n      packets: 1\n      within: {filter:?}\n"
        );
        here.write("filter.yaml", &text)?;
        let ended = here.run("filter.yaml", "audit.jsonl", "/bin/true")?;
        ended.is(
            3,
            &[filter, "within", words, "pcap-filter(7)", "filter.yaml:"],
        )?;
        let check = here.capwarden(&["policy", "check", "filter.yaml"])?;
        assert_eq!(check.code, Some(1));
        assert!(check.out.contains(words), "{}", check.out);
    }
    Ok(())
}

#[test]
fn exec_bad_terms_end_with_2() -> Result<()> {
    let here = Place::new()?;
    let exec = |more: &[&str]| {
        let mut all = vec!["exec", "--audit", "audit.jsonl", "--user", "65534"];
        all.extend(more);
        all.extend(["--", "/bin/true"]);
        here.capwarden(&all)
    };
    let bad = exec(&["-i", "lo", "-f", "tcp prot 80"])?;
    bad.is(2, &["tcp prot 80", "syntax error", "pcap-filter(7)"])?;
    exec(&["-i", "nosuch0"])?.is(2, &["nosuch0", "there is no interface"])?;
    exec(&["-f", "tcp"])?.is(2, &["--interface"])?;
    exec(&["-i", "lo", "-c", "0"])?.is(2, &["0"])?;
    exec(&["-i", "lo", "-b", "many"])?.is(2, &["many", "50MiB"])?;
    exec(&["-i", "lo", "-s", "-1"])?.is(2, &["-1"])?;
    exec(&["-i", "lo", "-f"])?.is(2, &[])?; // an option without its expression
    exec(&["-i", "lo", "--payload", "some"])?.is(2, &["headers"])?;
    // A policy without an `exec` section allows no commands.
    exec(&["-p", "good.yaml"])?.is(2, &["exec"])?;
    Ok(())
}

#[test]
fn exec_empty_filter_is_told() -> Result<()> {
    let here = Place::new()?;
    let arguments = [
        "exec",
        "--audit",
        "audit.jsonl",
        "-i",
        "lo",
        "-f",
        "",
        "--",
        "/bin/true",
    ];
    let ended = here.capwarden(&arguments)?;
    // libpcap takes the empty expression for every packet; so it must at least be no failure.
    assert!(
        matches!(ended.code, Some(0 | 2)),
        "{:?}: {}",
        ended.code,
        ended.errors
    );
    Ok(())
}

#[test]
fn run_unknown_user_ends_with_2() -> Result<()> {
    let here = Place::new()?;
    let run = |user: &str| {
        here.capwarden(&[
            "run",
            "-p",
            "good.yaml",
            "--audit",
            "audit.jsonl",
            "--user",
            user,
            "--",
            "/bin/true",
        ])
    };
    run("no-such-user")?.is(
        2,
        &[
            "no-such-user",
            "hint: make that user: sudo useradd --system",
        ],
    )?;
    run("4294967295")?.is(2, &["4294967295", "no user has such a number"])?;
    run("")?.is(2, &["--user"])?;
    assert!(!here.path("audit.jsonl").exists(), "nothing was begun");
    // A number needs no account.
    run("4242424")?.is(0, &[])?;
    Ok(())
}

#[test]
fn run_missing_program_ends_with_6() -> Result<()> {
    let here = Place::new()?;
    here.run("good.yaml", "audit.jsonl", "no-such-program")?
        .is(
            6,
            &[
                "cannot execute `no-such-program`",
                "it is in no directory of PATH, which is",
                "hint: give its full path",
            ],
        )?;
    here.run("good.yaml", "audit.jsonl", "/no/such/program")?
        .is(
            6,
            &[
                "/no/such/program",
                "hint: see whether its path is spelled right",
            ],
        )?;
    let exec = [
        "exec",
        "--audit",
        "audit.jsonl",
        "-i",
        "lo",
        "--",
        "no-such-program",
    ];
    here.capwarden(&exec)?
        .is(6, &["no-such-program", "hint: give its full path"])?;
    // The attempts are on record, and closed.
    let verify = here.capwarden(&["audit", "verify", "audit.jsonl"])?;
    assert_eq!(verify.code, Some(0), "{}", verify.out);
    let show = here.capwarden(&[
        "audit",
        "show",
        "--json",
        "--kind",
        "agent-stopped",
        "audit.jsonl",
    ])?;
    let stopped = show
        .out
        .lines()
        .filter(|line| line.contains("cannot execute"))
        .count();
    assert_eq!(stopped, 3, "{}", show.out);
    Ok(())
}

#[test]
fn run_program_that_may_not_be_executed_ends_with_6() -> Result<()> {
    let here = Place::new()?;
    let hint = "hint: give its full path; the governed user must be able to read";
    let plain = here.write("plain", "#!/bin/sh\n")?;
    here.run("good.yaml", "audit.jsonl", &plain.to_string_lossy())?
        .is(6, &["Permission denied", hint])?;
    // One that only root may execute: the server's user may not.
    let roots = here.write("roots", "#!/bin/sh\n")?;
    fs::set_permissions(&roots, fs::Permissions::from_mode(0o700))?;
    here.run("good.yaml", "audit.jsonl", &roots.to_string_lossy())?
        .is(6, &["Permission denied", hint])?;
    // A directory.
    here.run("good.yaml", "audit.jsonl", "/tmp")?
        .is(6, &["Permission denied"])
}

#[test]
fn run_without_root_ends_with_4() -> Result<()> {
    let here = Place::new()?;
    // The binary may lie where others cannot reach it.
    let own = here.path("capwarden");
    fs::copy(capwarden()?, &own)?;
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755))?;
    let verbs: [&[&str]; 2] = [
        &["run", "-p", "good.yaml", "--", "/bin/true", "a b"],
        &["exec", "-i", "lo", "--", "/bin/true", "a b"],
    ];
    for verb in verbs {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
        ]);
        command.arg(&own).args(verb);
        let ended = here.ended(command)?;
        let hint = format!(
            "hint: sudo {} {}",
            own.display(),
            verb.join(" ").replace("a b", "'a b'")
        );
        ended.is(4, &["error: only root may", &hint])?;
    }
    // What needs no root works without.
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(&own).args(["policy", "check", "good.yaml"]);
    let ended = here.ended(command)?;
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
    Ok(())
}

#[test]
fn run_audit_log_that_cannot_be_written_ends_with_7() -> Result<()> {
    let here = Place::new()?;
    let began = here.path("began");
    let server = here.write("server", &format!("#!/bin/sh\n: > {}\n", began.display()))?;
    fs::set_permissions(&server, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(here.0.path(), fs::Permissions::from_mode(0o1777))?;
    let server = server.to_string_lossy().into_owned();

    here.run("good.yaml", "none/audit.jsonl", &server)?.is(
        2,
        &[
            "there is no directory none",
            "hint: see whether --audit is spelled right",
        ],
    )?;
    fs::create_dir(here.path("directory"))?;
    here.write("real.jsonl", "")?;
    symlink("real.jsonl", here.path("link.jsonl"))?;
    symlink("nowhere.jsonl", here.path("dangling.jsonl"))?;
    here.write("other.txt", "this is no audit log\n")?;
    here.write("exposed.jsonl", "")?;
    fs::set_permissions(
        here.path("exposed.jsonl"),
        fs::Permissions::from_mode(0o666),
    )?;
    fs::set_permissions(here.path("other.txt"), fs::Permissions::from_mode(0o600))?;
    for (audit, words) in [
        (
            "directory",
            ["not a regular file", "hint: name the file itself"],
        ),
        (
            "/dev/full",
            ["not a regular file", "hint: name the file itself"],
        ),
        (
            "link.jsonl",
            ["is a symbolic link", "hint: name the file itself"],
        ),
        (
            "dangling.jsonl",
            ["is a symbolic link", "hint: name the file itself"],
        ),
        (
            "exposed.jsonl",
            [
                "may be written by others (mode 0666)",
                "hint: take the write permission",
            ],
        ),
        (
            "other.txt",
            [
                "does not end like an audit log",
                "hint: see what `capwarden audit verify` says",
            ],
        ),
        ("/proc/self/nothing", ["cannot open the audit log", "hint:"]),
    ] {
        let ended = here.run("good.yaml", audit, &server)?;
        ended
            .is(7, &[&["error: ", audit], words.as_slice()].concat())
            .context(audit)?;
        assert!(!began.exists(), "{audit}: the server was started");
    }
    assert!(!here.path("nowhere.jsonl").exists(), "a link was followed");
    assert_eq!(fs::read_to_string(here.path("real.jsonl"))?, "");
    assert_eq!(
        fs::read_to_string(here.path("other.txt"))?,
        "this is no audit log\n"
    );

    // And where it can be written, the server is started.
    here.run("good.yaml", "good.jsonl", &server)?.is(0, &[])?;
    wait_for("the server", Duration::from_secs(1), || {
        Ok(began.exists().then_some(()))
    })
}

#[test]
fn run_wrong_command_lines_end_with_2() -> Result<()> {
    let here = Place::new()?;
    let lines: [&[&str]; 7] = [
        &["run", "--", "/bin/true"],
        &["run", "-p", "good.yaml"],
        &["run", "-p", "good.yaml", "/bin/true"],
        &[
            "run",
            "-p",
            "good.yaml",
            "--no-such-option",
            "--",
            "/bin/true",
        ],
        &["run", "-p", "good.yaml", "--log", "loud", "--", "/bin/true"],
        &["no-such-verb"],
        &[],
    ];
    for line in lines {
        let ended = here.capwarden(line)?;
        ended
            .is(2, &["Usage"])
            .or_else(|_| ended.is(2, &["error"]))
            .with_context(|| format!("{line:?}"))?;
    }
    let mut command = Command::new(capwarden()?);
    command
        .args(["policy", "check", "good.yaml"])
        .env("CAPWARDEN_LOG", "loud");
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let status = wait_for("its end", PATIENCE, || Ok(child.try_wait()?))?;
    assert_eq!(status.code(), Some(2));
    Ok(())
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":7,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;

/// Servers that end at once, what their clients are told, and the status of `run`.
const SHORT_LIVED: [(&[&str], &str, i32); 3] = [
    (
        &["/bin/sh", "-c", "exit 3"],
        "has ended with exit status 3",
        8,
    ),
    (&["/bin/sh", "-c", "kill -9 $$"], "has ended by signal 9", 8),
    (&["/no/such/server"], "could not be started: ", 6),
];

/// `capwarden run`, with its standard error in the file `errors`.
fn running(here: &Place, options: &[&str], server: &[&str]) -> Result<Child> {
    let mut command = Command::new(capwarden()?);
    command
        .args([
            "run",
            "-p",
            "good.yaml",
            "--audit",
            "audit.jsonl",
            "--state",
            "state",
        ])
        .args(["--user", "65534"])
        .args(options)
        .arg("--")
        .args(server)
        .current_dir(&here.0)
        .env_remove("CAPWARDEN_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(here.path("errors"))?);
    Ok(command.spawn()?)
}

/// The one answer in a text, which is an error with these words.
fn is_told(text: &str, words: &str) -> Result<()> {
    let line = text.lines().find(|line| line.starts_with('{'));
    let answer: Value = serde_json::from_str(line.with_context(|| format!("no answer: {text}"))?)?;
    let told = answer.pointer("/error/message").and_then(Value::as_str);
    ensure!(
        answer.get("id") == Some(&Value::from(7)) && told.is_some_and(|told| told.contains(words)),
        "{words:?} is not in {answer}"
    );
    Ok(())
}

#[test]
fn server_that_ends_at_once_is_explained_to_its_client() -> Result<()> {
    for (server, words, code) in SHORT_LIVED {
        // Over standard input and output.
        let here = Place::new()?;
        let mut child = running(&here, &[], server)?;
        let mut input = child.stdin.take().context("no standard input")?;
        // It may be gone already, and is written to all the same.
        let _ = writeln!(input, "{INITIALIZE}");
        let mut out = String::new();
        child
            .stdout
            .take()
            .context("no output")?
            .read_to_string(&mut out)?;
        let status = exited(&mut child, PATIENCE)?;
        drop(input);
        let errors = fs::read_to_string(here.path("errors"))?;
        is_told(&out, words).context(errors.clone())?;
        ensure!(status.code() == Some(code), "{status}: {errors}");
        let logged = if code == 8 { words } else { "cannot execute" };
        ensure!(errors.contains(logged), "{logged:?} is not in {errors}");

        // Over a Unix socket, and over HTTP.
        let here = Place::new()?;
        let socket = here.path("socket");
        let mut child = running(
            &here,
            &["--listen", &format!("unix:{}", socket.display())],
            server,
        )?;
        let stream = wait_for("the socket", PATIENCE, || {
            Ok(UnixStream::connect(&socket).ok())
        });
        let told = stream.and_then(|stream| said(stream, &format!("{INITIALIZE}\n")));
        signal(child.id(), Signal::TERM)?;
        exited(&mut child, PATIENCE)?;
        is_told(&told?, words).context("over a Unix socket")?;

        let here = Place::new()?;
        let mut child = running(&here, &["--listen", "127.0.0.1:0", "--anonymous"], server)?;
        let told = wait_for("its address", PATIENCE, || {
            let errors = fs::read_to_string(here.path("errors"))?;
            let address = errors.split("listening on http://").nth(1);
            Ok(address.and_then(|rest| Some(rest.split_once("/mcp")?.0.to_owned())))
        })
        .and_then(|address| {
            let length = INITIALIZE.len();
            let request = format!(
                "POST /mcp HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{INITIALIZE}"
            );
            said(TcpStream::connect(&address)?, &request)
        });
        signal(child.id(), Signal::TERM)?;
        exited(&mut child, PATIENCE)?;
        let told = told?;
        // As a body, or as an event.
        is_told(&told.replace("data: ", ""), words)
            .with_context(|| format!("over HTTP: {told}"))?;
    }
    Ok(())
}

/// What comes back for this, until the other side closes.
fn said(mut stream: impl Read + Write, text: &str) -> Result<String> {
    stream.write_all(text.as_bytes())?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8(answer)?)
}

#[test]
fn address_in_use_says_who_may_hold_it() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let at = taken.local_addr()?.to_string();
    let hint = format!("ss -ltnp 'sport = :{}'", taken.local_addr()?.port());
    let here = Place::new()?;
    for option in ["--listen", "--metrics"] {
        let ended = here.capwarden(&[
            "run",
            "-p",
            "good.yaml",
            "--audit",
            "audit.jsonl",
            "--state",
            "state",
            "--user",
            "65534",
            option,
            &at,
            "--",
            "/bin/true",
        ])?;
        ended.is(2, &[&at, "in use", &hint])?;
    }
    let nowhere = here.capwarden(&[
        "run",
        "-p",
        "good.yaml",
        "--audit",
        "audit.jsonl",
        "--state",
        "state",
        "--user",
        "65534",
        "--listen",
        "unix:/no/such/socket",
        "--",
        "/bin/true",
    ])?;
    ensure!(nowhere.errors.contains("hint: "), "{}", nowhere.errors);
    Ok(())
}
