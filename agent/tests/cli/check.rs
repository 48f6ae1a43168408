//! `agent --check`: what is found of a configuration, with its place and the next step.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tempfile::TempDir;

use super::told;

const POLICY: &str = "version: 1\ntools: { t: allow }\n";

/// A configuration, with what it names beside it.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Self { dir };
        place.mode("", 0o755);
        place.write("policy.yaml", POLICY);
        fs::create_dir(place.path("state")).unwrap();
        place.mode("state", 0o700);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        self.mode(name, 0o644);
        path
    }

    /// Writes the configuration, in which `@` is this place, and has it checked.
    fn checked(&self, servers: &str, json: bool) -> (i32, String, String) {
        let here = self.dir.path().to_str().unwrap();
        let text = format!(
            "version: 1\naudit: @/audit.jsonl\nstate: @/state\nsocket: @/agent.sock\nservers:\n{servers}"
        );
        let file = self.write("agent.yaml", &text.replace('@', here));
        let file = file.to_str().unwrap();
        let mut words = vec!["agent", "--check", "--config", file];
        if json {
            words.push("--json");
        }
        told(&words)
    }

    fn findings(&self, servers: &str) -> (i32, Vec<Value>) {
        let (status, out, err) = self.checked(servers, true);
        assert!(out.starts_with('{'), "{out}{err}");
        let report: Value = serde_json::from_str(&out).unwrap();
        let usable = report.get("usable").unwrap();
        assert_eq!(usable, &Value::from(status == 0), "{report}");
        let findings = report.get("findings").unwrap();
        (status, findings.as_array().unwrap().clone())
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

#[test]
fn what_can_be_served_is_told_and_nothing_is_made() {
    let place = Place::new();
    let (status, out, err) = place.checked(
        "  pcap: { command: [sh, -c, 'true'], policy: @/policy.yaml, user: nobody, clients: [user:root] }\n",
        false,
    );
    assert_eq!(status, 0, "{err}");
    assert!(out.contains("pcap: sh -c true, as nobody"), "{out}");
    assert!(out.contains("1 server, all can be served"), "{out}");
    assert!(!place.path("audit.jsonl").exists() && !place.path("agent.sock").exists());
}

#[test]
fn capture_tools_that_are_not_for_the_servers_user_are_told_of_where_it_captures() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    place.write(
        "captures.yaml",
        "version: 1\ntools: { t: { capture: { interfaces: [ lo ], packets: 5 } } }\n",
    );
    fs::create_dir(place.path("bin")).unwrap();
    place.mode("bin", 0o755);
    for (tool, mode) in [("bin/dumpcap", 0o750), ("bin/tcpdump", 0o755)] {
        place.write(tool, "\x7fELF");
        place.mode(tool, mode);
    }
    let found = |policy: &str, path: &str| {
        let (status, mut findings) = place.findings(&format!(
            "  one:\n    user: nobody\n    command: [/bin/sh]\n    policy: @/{policy}\n    clients: [user:root]\n    environment: {{ PATH: {path} }}\n"
        ));
        // Of the host there may be others.
        findings.retain(|finding| finding["server"] == "one");
        (status, findings)
    };
    let (status, findings) = found("captures.yaml", "@/bin");
    let [one] = findings.as_slice() else {
        panic!("{findings:?}");
    };
    assert_eq!((status, &one["severity"]), (0, &Value::from("warning")));
    assert_eq!((&one["key"], &one["line"]), (&"user".into(), &7.into()));
    let tool = place.path("bin/dumpcap").display().to_string();
    let message = one["message"].as_str().unwrap();
    assert!(
        message.contains(&format!("nobody cannot execute {tool}: Permission denied")),
        "{message}"
    );
    assert!(one["help"].as_str().unwrap().contains("namei -l"), "{one}");
    // What the server does not find, or does not need, is nobody's business.
    for (policy, path) in [("captures.yaml", "@"), ("policy.yaml", "@/bin")] {
        let findings = found(policy, path).1;
        assert!(findings.is_empty(), "{policy} {path}: {findings:?}");
    }
}

#[test]
fn each_thing_that_is_wrong_is_found_at_its_place() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    place.write("not-executable", "#!/bin/sh\n");
    place.write("no-interpreter", "#!/no/such/shell\n");
    place.mode("no-interpreter", 0o755);
    fs::create_dir(place.path("closed")).unwrap();
    place.mode("closed", 0o700);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let server = |keys: &str| match keys.contains("user:") {
        true => format!("  one:\n{keys}"),
        false => format!("  one:\n    user: nobody\n{keys}"),
    };
    let (sound, policy) = ("    command: [sh]\n", "    policy: @/policy.yaml\n");
    for (keys, key, line, what) in [
        (
            format!("    command: [/no/such/program]\n{policy}"),
            "command",
            8,
            "/no/such/program is not there: No such file",
        ),
        (
            format!("    command: [no-such-program-here]\n{policy}"),
            "command",
            8,
            "is in no directory of the server's PATH",
        ),
        (
            format!("    command: [@/not-executable]\n{policy}"),
            "command",
            8,
            "Permission denied",
        ),
        (
            format!("    command: [@/no-interpreter]\n{policy}"),
            "command",
            8,
            "its first line names /no/such/shell",
        ),
        (
            format!("{sound}{policy}    directory: @/closed\n"),
            "directory",
            10,
            "nobody cannot enter",
        ),
        (
            format!("{sound}{policy}    directory: @/none\n"),
            "directory",
            10,
            "No such file",
        ),
        (
            format!("{sound}{policy}    user: no-such-user\n"),
            "user",
            10,
            "there is no user",
        ),
        (
            format!("{sound}    policy: @/none.yaml\n"),
            "policy",
            9,
            "there is no file",
        ),
        (
            format!("{sound}{policy}    listen: 127.0.0.1:{port}\n"),
            "listen",
            10,
            "cannot listen on 127.0.0.1",
        ),
        (
            format!("{sound}{policy}    listen: 10.255.255.1:0\n"),
            "listen",
            10,
            "is not a loopback address",
        ),
        (
            format!(
                "{sound}{policy}    listen: 127.0.0.1:0\n    tls: {{ cert: @/none.pem, key: @/none.key }}\n"
            ),
            "tls",
            11,
            "there is no file",
        ),
    ] {
        let (status, found) = place.findings(&server(&keys));
        assert_eq!(status, 3, "{keys}: {found:?}");
        let one = found.iter().find(|one| one["severity"] == "error").unwrap();
        assert_eq!(
            (&one["server"], &one["key"]),
            (&"one".into(), &key.into()),
            "{one}"
        );
        let is_shown = one["message"].as_str().unwrap().contains(what);
        assert!(is_shown, "{what}: {one}");
        assert!(!one["help"].as_str().unwrap().is_empty(), "{one}");
        let file = one["file"].as_str().unwrap();
        assert!(Path::new(file).ends_with("agent.yaml"), "{one}");
        // The user's line is gone where it is another.
        let line = if key == "user" { 9 } else { line };
        assert_eq!(one["line"], line, "{one}");
        assert_eq!(one["column"], 5, "{one}");
    }
    // For people: the line, and the next step.
    let (status, out, err) =
        place.checked(&server(&format!("    command: [/none]\n{policy}")), false);
    assert_eq!((status, out.as_str()), (3, ""), "{err}");
    assert!(err.contains("agent.yaml:8:5: /none is not there"), "{err}");
    assert!(
        err.contains("8 |     command: [/none]") && err.contains("hint: install it"),
        "{err}"
    );
}

#[test]
fn what_would_only_show_when_a_client_comes_is_warned_of() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let script = place.write("secret.sh", "");
    place.mode("secret.sh", 0o600);
    let (status, found) = place.findings(
        "  one: { command: [sh, @/none.sh], policy: @/policy.yaml, user: nobody }\n  \
         two: { command: [sh, @/secret.sh], policy: @/policy.yaml, user: nobody, clients: [user:root] }\n",
    );
    assert_eq!(status, 0, "{found:?}");
    let told = |server: &str, key: &str| -> String {
        let mut of = found
            .iter()
            .filter(|one| one["server"] == server && one["key"] == key);
        let one = of
            .next()
            .unwrap_or_else(|| panic!("{server} {key}: {found:?}"));
        assert_eq!(one["severity"], "warning", "{one}");
        assert!(!one["help"].as_str().unwrap().is_empty(), "{one}");
        one["message"].as_str().unwrap().to_owned()
    };
    assert!(told("one", "command").contains("none.sh is not there"));
    assert!(told("one", "clients").contains("nobody but root may connect"));
    let unreadable = format!("nobody cannot read {}: Permission", script.display());
    assert!(told("two", "command").starts_with(&unreadable));
    let of_two = |one: &&Value| one["server"] == "two" && one["key"] == "clients";
    assert!(!found.iter().any(|one| of_two(&one)), "{found:?}");
}

#[test]
fn faults_of_a_policy_and_of_the_configuration_are_findings_with_their_own_places() {
    let place = Place::new();
    place.write(
        "wrong.yaml",
        "version: 1\ntools:\n  a: { pakets: 1 }\n  b: { deny: 7 }\n",
    );
    let (status, found) =
        place.findings("  one: { command: [sh], policy: @/wrong.yaml, user: nobody }\n");
    let of_policy: Vec<_> = found
        .iter()
        .filter(|one| one["severity"] == "error")
        .collect();
    assert_eq!((status, of_policy.len()), (3, 2), "{found:?}");
    for (one, line) in of_policy.into_iter().zip([3, 4]) {
        assert!(
            one["file"].as_str().unwrap().ends_with("/wrong.yaml"),
            "{one}"
        );
        assert_eq!(
            (&one["line"], &one["server"], &one["key"]),
            (&line.into(), &"one".into(), &"policy".into())
        );
    }
    let (status, found) = place.findings("  one: { comand: [sh] }\n  two: { policy: x }\n");
    assert!(status == 3 && found.len() >= 2, "{found:?}");
    assert!(
        found
            .iter()
            .all(|one| one["line"].is_u64() && one["server"].is_null()),
        "{found:?}"
    );
}

#[test]
fn the_log_the_state_and_the_socket_have_to_be_safe() {
    let place = Place::new();
    let one = "  one: { command: [sh], policy: @/policy.yaml, user: nobody }\n";
    place.mode("state", 0o755);
    place.write("audit.jsonl", "");
    place.mode("audit.jsonl", 0o666);
    let (status, found) = place.findings(one);
    assert_eq!(status, 3, "{found:?}");
    for (key, line, what, help) in [
        ("state", 3, "is open to others (mode 0755", "chmod 0700"),
        ("audit", 2, "may be written by others", "write permission"),
    ] {
        let its = found.iter().find(|one| one["key"] == key).unwrap();
        assert_eq!(
            (&its["line"], &its["severity"]),
            (&line.into(), &"error".into()),
            "{its}"
        );
        let text = its.to_string();
        assert!(text.contains(what) && text.contains(help), "{text}");
    }
    place.mode("state", 0o700);
    place.mode("audit.jsonl", 0o600);
    place.mode("", 0o777);
    let (status, out, err) = place.checked(one, false);
    // The configuration itself could be changed by others.
    let here = place.dir.path().display();
    assert_eq!((status, out.as_str()), (2, ""), "{err}");
    assert!(
        err.contains(&format!("hint: sudo chmod go-w {here}\n")),
        "{err}"
    );
    place.mode("", 0o755);
    assert_eq!(place.findings(one).0, 0);
}

#[test]
fn two_servers_at_one_address_and_clients_that_are_nobody_are_found() {
    let place = Place::new();
    let (status, found) = place.findings(
        "  one: { command: [sh], policy: @/policy.yaml, user: nobody, listen: 127.0.0.1:1, anonymous: true, clients: [user:no-such-user] }\n  two: { command: [sh], policy: @/policy.yaml, user: nobody, listen: 127.0.0.1:1, anonymous: true }\n",
    );
    assert_eq!(status, 3, "{found:?}");
    let about = |key: &str, server: &str| {
        let its = |one: &&Value| one["key"] == key && one["server"] == server;
        found
            .iter()
            .filter(its)
            .map(ToString::to_string)
            .collect::<String>()
    };
    assert!(
        about("listen", "two").contains("is where the server one listens already"),
        "{found:?}"
    );
    let clients = about("clients", "one");
    assert!(
        clients.contains("user:no-such-user: there is no such user now")
            && clients.contains("warning"),
        "{clients}"
    );
}
