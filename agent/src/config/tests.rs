//! Configurations, as they are written.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::*;
use crate::kernel::Deputy;

/// A directory with `agent.yaml`, and drop-ins by name.
fn place(main: &str, beside: &[(&str, &str)]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = directory.path().join("agent.yaml");
    fs::write(&file, main).unwrap();
    fs::create_dir(drop_ins(&file)).unwrap();
    for (name, text) in beside {
        fs::write(drop_ins(&file).join(name), text).unwrap();
    }
    (directory, file)
}

fn config(main: &str, beside: &[(&str, &str)]) -> Config {
    let (_directory, file) = place(main, beside);
    Config::load(&file).unwrap()
}

/// What is told of a configuration that is wrong, with the places in it but not where the file is.
fn wrong(main: &str, beside: &[(&str, &str)]) -> String {
    let (directory, file) = place(main, beside);
    let Err(ConfigError::Wrong(error)) = Config::load(&file) else {
        panic!("it was taken: {main}");
    };
    let here = format!("{}/", directory.path().display());
    format!("{error:?}").replace(&here, "")
}

const SERVER: &str = "version: 1
servers:
  pcap: { command: [pcap, --stdio], policy: /p.yaml }
";

#[test]
fn whole_configuration_is_read() {
    let config = config(
        "version: 1
audit: /a.jsonl
state: /s
metrics: unix:/m.sock
counters: redis://127.0.0.1:6379/0
counters_password_file: /pw
socket: /run/x.sock
socket_group: wheel
clients: [group:capwarden, user:1000]
servers:
  shark:
    command: [node, /opt/shark/index.js]
    policy: /p.yaml
    user: 17
    clients: [user:alice]
    reach: [docker]
    environment: { KEY: value }
    directory: /var/lib/shark
    most: 3
    pin: strict
    replies: intercept
    listen: 127.0.0.1:8808
    tls: { cert: /c.pem, key: /k.pem }
    hosts: [Capture.Example]
    origins: [https://ui.example]
  '@scope/other': { policy: /o.yaml, listen: '127.0.0.1:9', upstream: 'http://127.0.0.1:8/mcp', anonymous: true }
",
        &[],
    );
    let path = |text: &str| Some(PathBuf::from(text));
    assert_eq!(config.house.audit, path("/a.jsonl"));
    assert_eq!(config.house.socket_group.as_deref(), Some("wheel"));
    let shark = &config.servers["shark"];
    assert_eq!(shark.command, ["node", "/opt/shark/index.js"]);
    assert_eq!(shark.user.as_deref(), Some("17"));
    assert_eq!(shark.clients, [Client::User("alice".to_owned())]);
    assert_eq!(shark.reach, [Deputy::Docker]);
    assert_eq!(shark.environment["KEY"], "value");
    assert_eq!((shark.most, shark.pin), (3, Some(Pin::Strict)));
    let http = shark.http.as_ref().unwrap();
    assert_eq!(http.hosts, ["capture.example"]);
    assert_eq!(http.tls, path("/c.pem").zip(path("/k.pem")));
    let other = &config.servers["@scope/other"];
    assert!(other.command.is_empty() && other.http.as_ref().unwrap().anonymous);
    assert_eq!(other.clients.len(), 2, "as the configuration says for all");
    assert_eq!(other.most, 16);
}

#[test]
fn later_files_change_single_keys_and_add_servers() {
    let config = config(
        SERVER,
        &[
            ("90-last.yaml", "servers:\n  pcap: { user: bob }\n"),
            (
                "10-first.yaml",
                "version: 1\nclients: [user:ann]\nservers:\n  pcap: { user: eve, most: 2 }\n  new: { command: [x], policy: /n.yaml }\n",
            ),
            ("50-nothing.yaml", "# servers: {}\n"),
            ("ignored.txt", "rubbish"),
            (".hidden.yaml", "rubbish"),
        ],
    );
    let pcap = &config.servers["pcap"];
    assert_eq!((pcap.user.as_deref(), pcap.most), (Some("bob"), 2));
    assert_eq!(pcap.command, ["pcap", "--stdio"]);
    assert_eq!(pcap.policy, Path::new("/p.yaml"));
    assert_eq!(
        config.servers["new"].clients,
        [Client::User("ann".to_owned())]
    );
    assert_eq!(config.files.len(), 4);
    let at = |server: &str, key: &str| {
        let place = config.servers[server].place(key);
        let file = Path::new(&*place.file).file_name().unwrap();
        format!("{}:{}:{}", file.display(), place.line, place.column)
    };
    assert_eq!(at("pcap", "command"), "agent.yaml:3:11");
    assert_eq!(at("pcap", "user"), "90-last.yaml:2:11");
    assert_eq!(at("pcap", "most"), "10-first.yaml:4:22");
    assert_eq!(at("new", "directory"), "10-first.yaml:5:3", "it says none");
    let clients = config.house.places.of_key("clients").unwrap();
    assert_eq!((clients.line, clients.column), (2, 1));
}

#[test]
fn servers_may_be_none_yet() {
    for text in [
        "version: 1\n",
        "version: 1\nservers:\n",
        "version: 1\nservers: {}\n",
    ] {
        assert!(config(text, &[]).servers.is_empty());
    }
}

#[test]
fn a_server_that_only_moved_says_the_same() {
    let before = config(SERVER, &[]).servers.remove("pcap").unwrap();
    let moved = SERVER.replace("servers:", "clients: []\n\nservers:");
    let after = config(&moved, &[]).servers.remove("pcap").unwrap();
    assert_ne!(before.at, after.at);
    assert!(before.says_the_same(&after));
    let other = SERVER.replace("--stdio", "--other");
    let other = config(&other, &[]).servers.remove("pcap").unwrap();
    assert!(!before.says_the_same(&other));
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let server = |keys: &str| format!("version: 1\nservers:\n  s: {{ {keys} }}\n");
    let sound = "command: [x], policy: /p";
    for (text, told) in [
        (
            "servers: {}\n".to_owned(),
            "agent.yaml:1:1: the configuration has no `version`",
        ),
        (
            "version: 2\n".to_owned(),
            "agent.yaml:1:10: `2` is not a version",
        ),
        (
            "- x\n".to_owned(),
            "agent.yaml:1:1: the file must be the configuration",
        ),
        (
            "version: 1\nserver: {}\n".to_owned(),
            "Did you mean `servers`?",
        ),
        (
            "version: 1\naudit: a.jsonl\n".to_owned(),
            "agent.yaml:2:8: `a.jsonl` is no absolute path",
        ),
        (
            "version: 1\nclients: [alice]\n".to_owned(),
            "agent.yaml:2:11: `alice` is neither user:NAME",
        ),
        (
            "version: 1\nclients: ['user:']\n".to_owned(),
            "is neither user:NAME",
        ),
        (
            "version: 1\nmetrics: 10.0.0.1:9\n".to_owned(),
            "is no loopback address",
        ),
        (
            "version: 1\nservers:\n  a/b: {}\n".to_owned(),
            "agent.yaml:3:3: `a/b` is no server's name",
        ),
        (server("command: [x]"), "`servers.s` has no `policy`"),
        (server("policy: /p"), "`servers.s` has no `command`"),
        (
            server("command: x, policy: /p"),
            "`servers.s.command` must be a list of words",
        ),
        (server("command: [], policy: /p"), "names no program"),
        (server("comand: [x], policy: /p"), "Did you mean `command`?"),
        (
            server(&format!("{sound}, user: -1")),
            "`-1` is no user's number",
        ),
        (
            server(&format!("{sound}, user: 4294967295")),
            "is no user's number",
        ),
        (
            server(&format!("{sound}, most: 0")),
            "`0` is not from 1 to 256",
        ),
        (
            server(&format!("{sound}, reach: [dockr]")),
            "`dockr` is no daemon that is known",
        ),
        (
            server(&format!("{sound}, environment: {{ A: 1 }}")),
            "`servers.s.environment.A` must be text",
        ),
        (
            server(&format!("{sound}, environment: {{ 1A: a }}")),
            "`1A` is no variable's name",
        ),
        (
            server(&format!("{sound}, directory: x")),
            "`x` is no absolute path",
        ),
        (
            server(&format!("{sound}, pin: maybe")),
            "`maybe` is neither `first` nor `strict`",
        ),
        (
            server(&format!("{sound}, hosts: [a]")),
            "`servers.s` has `hosts` and no `listen`",
        ),
        (
            server(&format!("{sound}, listen: localhost:1")),
            "`localhost:1` cannot be used",
        ),
        (
            server(&format!(
                "{sound}, listen: '127.0.0.1:1', tls: {{ cert: /c }}"
            )),
            "`servers.s.tls` has no `key`",
        ),
        (
            server("policy: /p, user: bob, listen: '127.0.0.1:1', upstream: 'http://127.0.0.1:2/'"),
            "has `user` or `reach` and no `command`",
        ),
        (
            server(&format!("{sound}, command: [y]")),
            "`command` is written twice",
        ),
    ] {
        let all = wrong(&text, &[]);
        assert!(all.contains(told), "{text}\n{all}");
    }
}

#[test]
fn all_files_are_told_of_at_once() {
    let told = wrong(
        "version: 1\nbad: 1\n",
        &[
            ("a.yaml", "version: 1\nworse: 1\n"),
            ("b.yaml", "version: 1\n"),
        ],
    );
    assert!(told.contains("agent.yaml:2:1: unknown key `bad`"), "{told}");
    assert!(
        told.contains("agent.d/a.yaml:2:1: unknown key `worse`"),
        "{told}"
    );
}

#[test]
fn files_that_others_could_have_written_are_not_read() {
    let (_directory, file) = place(SERVER, &[("a.yaml", "version: 1\n")]);
    assert!(Config::load(&file).is_ok());
    for path in [file.clone(), drop_ins(&file).join("a.yaml")] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let error = Config::load(&file).unwrap_err().to_string();
        assert!(error.contains("may be changed by others"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::remove_file(&file).unwrap();
    assert!(matches!(Config::load(&file), Err(ConfigError::Missing(_))));
}
