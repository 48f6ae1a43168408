//! Daemons that would start programs for a governed process: they are not to be found by it.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::Path,
};

use anyhow::{Context, Result};
use capwarden_tests::{
    agent::{NOBODY, capwarden, text, workplace},
    netns::{Namespace, Net},
    tools::PYTHON,
};
use serde_json::{Value, json};

/// Directories in `/run` that the test makes, each with a daemon: only there while it lives.
struct Daemons(Vec<(String, UnixListener)>);

/// A container engine, in a place of its own so that nobody's is touched.
const ENGINE: &str = "/run/docker-cwtest/engine.sock";
const DATABASE: &str = "/run/cwtest-database/socket";

impl Daemons {
    fn start() -> Result<Self> {
        let mut daemons = Vec::new();
        for socket in [ENGINE, DATABASE] {
            let place = Path::new(socket).parent().context("it is in a directory")?;
            fs::create_dir_all(place)?;
            let _ = fs::remove_file(socket);
            let listener = UnixListener::bind(socket)?;
            fs::set_permissions(socket, fs::Permissions::from_mode(0o777))?;
            daemons.push((place.display().to_string(), listener));
        }
        Ok(Self(daemons))
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        for (place, _) in &self.0 {
            let _ = fs::remove_dir_all(place);
        }
    }
}

/// Tries to reach each of the paths in `argv`, straight and by ways around.
const SCRIPT: &str = r#"
import errno, json, os, socket, sys
def connect(path):
    one = socket.socket(socket.AF_UNIX)
    try:
        one.connect(path)
        return "connected"
    except OSError as error:
        return errno.errorcode[error.errno]
said = {path: connect(path) for path in sys.argv[1:]}
engine = sys.argv[1]
said["by another process"] = connect("/proc/%d/root%s" % (os.getppid(), engine))
said["by /proc/1"] = connect("/proc/1/root" + engine)
try:
    os.chdir("/proc/%d/cwd" % os.getppid())
    said["by its directory"] = connect(engine.lstrip("/"))
except OSError as error:
    said["by its directory"] = errno.errorcode[error.errno]
said["user"] = os.getuid()
print(json.dumps(said))
"#;

/// What the script said, and the first line of the record.
fn ask(namespace: &Namespace, user: u32, options: &[&str]) -> Result<(Value, Value)> {
    let place = workplace()?;
    let log = place.path().join("audit.jsonl");
    let done = namespace
        .command(capwarden()?)
        .args([
            "exec",
            "-i",
            "lo",
            "-s",
            "60",
            "--user",
            &user.to_string(),
            "--audit",
        ])
        .arg(&log)
        .args(options)
        .args(["--", PYTHON, "-c", SCRIPT, ENGINE, DATABASE])
        .current_dir(place.path())
        .output()?;
    let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
    let said = serde_json::from_slice(&done.stdout).with_context(|| stderr)?;
    let records = fs::read_to_string(&log)?;
    let first = records.lines().next().context("no record")?;
    Ok((said, serde_json::from_str(first)?))
}

#[test]
fn engine_is_hidden_from_every_user_and_a_database_is_not() -> Result<()> {
    let net = Net::new()?;
    let daemons = Daemons::start()?;
    for user in [NOBODY, 0] {
        let (said, started) = ask(&net.here, user, &[])?;
        assert_eq!(said.get("user"), Some(&json!(user)));
        assert_eq!(said.get(ENGINE), Some(&json!("ENOENT")), "{said}");
        assert_eq!(said.get(DATABASE), Some(&json!("connected")), "{said}");
        for way in ["by another process", "by /proc/1", "by its directory"] {
            let found = said.get(way).and_then(Value::as_str);
            assert!(
                matches!(found, Some("EACCES" | "ENOENT" | "EPERM")),
                "{way}: {said}"
            );
        }
        assert_eq!(started.get("reach"), None);
    }
    // The host has lost nothing.
    assert!(Path::new(ENGINE).exists());
    drop(daemons);
    Ok(())
}

#[test]
fn engine_is_reached_where_that_was_said_and_recorded() -> Result<()> {
    let net = Net::new()?;
    let _daemons = Daemons::start()?;
    let (said, started) = ask(&net.here, NOBODY, &["--reach", "docker,cron"])?;
    assert_eq!(said.get(ENGINE), Some(&json!("connected")), "{said}");
    assert_eq!(started.get("reach"), Some(&json!(["docker", "cron"])));
    assert!(text(&started, "user")?.contains("65534"));
    Ok(())
}
