//! What servers in Python, Node, Java and Go do all day goes on under the confinement as it does
//! without it: threads, children, sockets, names, compilers of their own.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use capwarden_tests::{
    agent::{Exec, NOBODY, workplace},
    netns::Net,
    stage::{Stage, node, suite},
    tools::PYTHON,
};
use serde_json::json;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/runtimes");

/// Has a program try everything, alone and governed, as the same user: it says the same.
fn all_goes_on(runtime: &[&Path], script: &str, tried: usize) -> Result<()> {
    let net = Net::new()?;
    let place = workplace()?;
    let script_here = place.path().join(script);
    fs::copy(Path::new(SCRIPTS).join(script), &script_here)?;
    fs::set_permissions(&script_here, fs::Permissions::from_mode(0o644))?;
    let mut words: Vec<PathBuf> = runtime.iter().map(|word| word.to_path_buf()).collect();
    words.push(script_here);

    let mut alone = net.here.command("setpriv");
    alone.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")]);
    alone.args(["--clear-groups", "--inh-caps=-all", "--"]);
    let alone = alone.args(&words).current_dir(place.path()).output()?;
    let errors = String::from_utf8_lossy(&alone.stderr);
    ensure!(alone.status.success(), "alone: {errors}");
    let alone = String::from_utf8(alone.stdout)?;
    ensure!(!alone.contains("failed"), "it fails by itself: {alone}");
    ensure!(alone.lines().count() == tried, "{alone}");

    let governed = Exec::new(&net.here, "-i lo").start_in(place, words)?;
    let governed = governed.finish()?;
    ensure!(governed.status.success(), "{}", governed.stderr);
    assert_eq!(governed.stdout, alone, "{}", governed.stderr);
    Ok(())
}

#[test]
fn python_goes_on_as_without_us() -> Result<()> {
    all_goes_on(&[Path::new(PYTHON)], "everything.py", 13)
}

#[test]
fn node_goes_on_as_without_us() -> Result<()> {
    all_goes_on(&[&node()?], "everything.mjs", 15)
}

#[test]
fn java_goes_on_as_without_us() -> Result<()> {
    all_goes_on(&[Path::new("/usr/bin/java")], "Everything.java", 10)
}

/// A server in Go, which its package for Python has inside.
fn go_server() -> Result<PathBuf> {
    let pythons = fs::read_dir(suite("lib")?)?;
    let mut inside = pythons.filter_map(|python| {
        let path = python.ok()?.path();
        let server = path.join("site-packages/mcp_grafana/bin/mcp-grafana");
        server.exists().then_some(server)
    });
    inside.next().context("mcp-grafana is not installed")
}

/// A server in Go: what it says to its client, and what it does for it, with a network of its own in
/// which nobody answers it.
#[test]
fn server_in_go_answers_as_without_us() -> Result<()> {
    let stage = Stage::new()?;
    let server = go_server()?;
    let words = [
        Path::new("env"),
        Path::new("GRAFANA_URL=http://127.0.0.1:9"),
        Path::new("DO_NOT_TRACK=1"),
        &server,
    ];
    let policy = "version: 1\ndefault: { allow: a test }\ntools: { list_datasources: allow }\n";
    let mut said = Vec::new();
    for mut client in [stage.run(policy, &words)?, stage.direct(&words)?] {
        let shaken = client.shake_hands();
        shaken.with_context(|| stage.stderr().unwrap_or_default())?;
        let tools = client.request("tools/list", &json!({}))?;
        ensure!(tools.line.contains("list_datasources"), "{}", tools.line);
        let call = client.call("list_datasources", &json!({}))?;
        ensure!(call.text().contains("refused"), "{}", call.line);
        said.push((tools.line, call.line));
        client.close_input();
        client.exit()?;
    }
    assert_eq!(said[0], said[1]);
    Ok(())
}

/// The tests above are about what is installed, and say which it is.
#[test]
fn runtimes_are_what_they_are_called() -> Result<()> {
    let says = |program: &Path, option: &str, word: &str| -> Result<()> {
        let done = Command::new(program).arg(option).output()?;
        let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        ensure!(said.contains(word), "{}: {said}", program.display());
        Ok(())
    };
    says(Path::new(PYTHON), "--version", "Python 3")?;
    says(&node()?, "--version", "v24")?;
    says(Path::new("/usr/bin/java"), "-version", "OpenJDK")?;
    let go = fs::read(go_server()?)?;
    let mark = b"Go buildinf:";
    ensure!(go.windows(mark.len()).any(|bytes| bytes == mark));
    Ok(())
}
