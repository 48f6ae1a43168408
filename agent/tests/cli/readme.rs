//! The commands that README shows are commands that there are, and say what they are said to say.

use std::{collections::BTreeSet, fs, path::Path, process::Stdio};

use tempfile::TempDir;

use super::{capture_file, command, log_of_a_session, tcp, told};

const README: &str = include_str!("../../../README.md");

/// A command that README shows, without `capwarden`; how it is run here, and how that ends. Of what
/// takes root, only the command line is looked at.
const COMMANDS: &[(&str, Try)] = &[
    ("agent --check", Parse("agent --check")),
    ("approvals", Run("approvals", 0)),
    ("approve K7QM-2F9X", Run("approve K7QM-2F9X", 1)),
    ("audit show", Run("audit show log.jsonl", 0)),
    (
        "audit verify --pcap FILE --session s1",
        Run("audit verify log.jsonl --pcap some.pcap --session s1", 1),
    ),
    ("completions bash", Run("completions bash", 0)),
    (
        "deny K7QM-2F9X --why \"not during the fair\"",
        Run("deny K7QM-2F9X --why not", 1),
    ),
    ("doctor", Parse("doctor")),
    (
        "exec --interface lo --filter 'tcp port 80' --packets 100 --seconds 60 -- tcpdump -i lo -w http.pcap",
        Parse("exec --interface lo --filter tcp --packets 100 --seconds 60 -- tcpdump"),
    ),
    ("filter check EXPR", Run("filter check tcp", 0)),
    ("filter explain EXPR", Run("filter explain tcp", 0)),
    ("filter lint EXPR", Run("filter lint tcp", 0)),
    (
        "filter pcap FILE --within EXPR",
        Run("filter pcap some.pcap --within tcp", 0),
    ),
    (
        "filter prove EXPR --within EXPR",
        Run("filter prove tcp --within ip", 1),
    ),
    (
        "filter prove \"tcp port 80 and host 10.0.0.5\" --within \"net 10.0.0.0/8 and not port 22\"",
        // Held against what README says it prints, below.
        Parse("filter prove tcp --within tcp"),
    ),
    (
        "host lockdown --allow PROGRAM",
        Parse("host lockdown --allow /usr/bin/dumpcap"),
    ),
    ("host observe", Parse("host observe")),
    ("logs -f", Parse("logs -f")),
    ("man --out /usr/local/share/man", Run("man --out man", 0)),
    ("policy check FILE…", Run("policy check policy.yaml", 0)),
    (
        "policy diff A B",
        Run("policy diff policy.yaml policy.json", 1),
    ),
    (
        "policy explain CALL.json -p FILE",
        Run("policy explain call.json -p policy.yaml", 0),
    ),
    ("policy import FILE", Run("policy import policy.json", 0)),
    ("policy schema", Run("policy schema", 0)),
    ("report s1", Run("report s1 log.jsonl", 0)),
    (
        "report s1 --pcap FILE --html",
        Run("report s1 log.jsonl --pcap some.pcap --html", 0),
    ),
    ("policy test [FILE…]", Run("policy test", 0)),
    ("policy check FILE", Run("policy check policy.yaml", 0)),
    (
        "policy check /etc/capwarden/policies/pcap.yaml",
        Run("policy check policy.yaml", 0),
    ),
    ("revoke NAME", Parse("revoke laptop")),
    (
        "run --metrics 127.0.0.1:9464 …",
        Parse("run --metrics 127.0.0.1:9464 -p p -- s"),
    ),
    (
        "run --otlp http://127.0.0.1:4318 …",
        Parse("run --otlp http://127.0.0.1:4318 -p p -- s"),
    ),
    ("sessions", Parse("sessions")),
    ("stop ID --why TEXT", Parse("stop s1 --why x")),
    ("tools list SERVER --json", Parse("tools list pcap --json")),
    ("top", Parse("top")),
    ("agent --check", Parse("agent --check")),
    ("audit verify", Run("audit verify log.jsonl", 0)),
    (
        "client-config pcap --for claude-code",
        Parse("client-config pcap --for claude-code"),
    ),
    ("connect pcap", Parse("connect pcap")),
    ("grant create", Parse("grant create")),
    ("report s1 --html", Run("report s1 log.jsonl --html", 0)),
    ("web", Parse("web")),
];

/// How a command of README is tried.
#[derive(Clone, Copy)]
enum Try {
    Run(&'static str, i32),
    Parse(&'static str),
}
use Try::{Parse, Run};

/// All commands that a text shows, in blocks and in its text.
pub(super) fn shown(text: &str) -> BTreeSet<String> {
    let joined = text.replace("\\\n", " ");
    let mut found = BTreeSet::new();
    let mut add = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        found.insert(words.join(" "));
    };
    let mut in_block = false;
    for line in joined.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
            continue;
        }
        if !in_block {
            for code in line.split('`').skip(1).step_by(2) {
                let code = code.strip_prefix("sudo ").unwrap_or(code);
                if let Some(rest) = code.strip_prefix("capwarden ") {
                    add(rest);
                }
            }
            continue;
        }
        let (line, aside) = line.split_once(" # ").unwrap_or((line, ""));
        let aside = aside.trim_start().strip_prefix("or:").unwrap_or("");
        for part in [line, aside] {
            let part = part
                .trim()
                .trim_start_matches("$ ")
                .trim_start_matches("sudo ");
            if let Some(rest) = part.strip_prefix("capwarden ") {
                add(rest.split(" | ").next().unwrap());
            }
        }
    }
    found
}

/// A place with all that the commands name.
fn place() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write(
        "policy.yaml",
        "version: 1\ntools: { list: allow, start: { approve: { by: operator, timeout: 30 min } } }\n",
    );
    write(
        "policy.test.yaml",
        "- { name: a, call: { tool: list }, expect: allow }\n",
    );
    write(
        "policy.json",
        r#"{"version":"1","default":"allow","tools":{"t":{"rules":[{"name":"n","action":"deny"}]}}}"#,
    );
    write("call.json", r#"{"tool": "list"}"#);
    capture_file(&dir.path().join("some.pcap"), 101, &[tcp(80, 40)]);
    log_of_a_session(&dir.path().join("log.jsonl"));
    dir
}

/// Runs it there. Verbs with a state get one.
fn run(place: &Path, line: &str) -> std::process::Output {
    let mut words: Vec<&str> = line.split(' ').collect();
    let verb = words.first().copied().unwrap_or_default();
    if ["approvals", "approve", "deny", "grant", "tools"].contains(&verb) {
        words.extend(["--state", "state"]);
    }
    command(&words)
        .current_dir(place)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The command line is one that there is: whatever is wrong before --help is told in its place.
pub(super) fn parsed(line: &str) {
    let (before, _) = line.split_once(" -- ").unwrap_or((line, ""));
    let quoted = before.split('"').enumerate();
    let words = quoted.flat_map(|(n, part)| match n % 2 {
        0 => part.split_whitespace().collect(),
        _ => vec![part],
    });
    let words: Vec<&str> = words.chain(["--help"]).collect();
    let (status, _, err) = told(&words);
    assert_eq!(status, 0, "{line}: {err}");
}

#[test]
fn every_command_of_the_readme_is_run_or_its_line_is_read() {
    let listed: BTreeSet<String> = COMMANDS
        .iter()
        .map(|(line, _)| (*line).to_owned())
        .collect();
    let shown = shown(README);
    let difference: Vec<_> = shown.symmetric_difference(&listed).collect();
    assert!(
        difference.is_empty(),
        "README and this table: {difference:#?}"
    );

    let place = place();
    // As `capwarden run` has made it.
    fs::DirBuilder::new()
        .create(place.path().join("state"))
        .unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(place.path().join("state"), private).unwrap();
    for (shown, how) in COMMANDS {
        match how {
            Run(line, status) => {
                let output = run(place.path(), line);
                assert_eq!(output.status.code(), Some(*status), "{shown}: {output:?}");
            }
            Parse(line) => parsed(line),
        }
    }
    assert!(place.path().join("man/man5/capwarden-policy.5").is_file());
}

#[test]
fn what_the_readme_says_a_proof_prints_is_printed() {
    let (_, block) = README.split_once("$ capwarden filter prove ").unwrap();
    let (line, expected) = block.split_once('\n').unwrap();
    let (expected, _) = expected.split_once("```").unwrap();
    let words: Vec<&str> = line.split('"').map(str::trim).collect();
    let ["", filter, "--within", within, ""] = words.as_slice() else {
        panic!("{words:?}");
    };
    let (status, out, _) = told(&["filter", "prove", filter, "--within", within]);
    assert_eq!((status, out.as_str()), (1, expected));
}

#[test]
fn policies_and_the_clients_configuration_in_the_readme_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let block = |kind| {
        README
            .split(kind)
            .skip(1)
            .map(|it| it.split("```").next().unwrap())
    };
    let mut policies = 0;
    for policy in block("```yaml\n").filter(|text| text.contains("\ntools:\n")) {
        let path = dir.path().join("policy.yaml");
        fs::write(&path, policy).unwrap();
        let file = path.to_str().unwrap();
        let (status, _, err) = told(&["policy", "diff", file, file]);
        assert_eq!(status, 0, "{err}");
        policies += 1;
    }
    assert!(policies >= 2);
    let configuration = block("```json\n").next().unwrap();
    let configuration: serde_json::Value = serde_json::from_str(configuration).unwrap();
    let words = configuration["mcpServers"]["pcap"]["args"]
        .as_array()
        .unwrap();
    let words = words.iter().map(|word| word.as_str().unwrap());
    let words = words.skip_while(|word| *word != "capwarden").skip(1);
    let words: Vec<&str> = words
        .take_while(|word| *word != "--")
        .chain(["--help"])
        .collect();
    assert_eq!(told(&words).0, 0, "{words:?}");
}
