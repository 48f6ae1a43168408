//! Several clients on `capwarden run --listen unix:PATH`, each with a server of its own.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use anyhow::{Result, ensure};
use capwarden_tests::{
    agent::wait_for,
    mcp::{Client, PATIENCE},
    stage::{Stage, TWENTY_PACKETS, granted, packets, python, text},
};
use rustix::process::Signal;
use serde_json::json;

const SERVER: &str = include_str!("../scripts/hostile.py");

fn connect(stage: &Stage, socket: &Path, name: &str) -> Result<Client> {
    Client::start(
        &mut stage.bridge(socket)?,
        &stage.path(&format!("{name}-stderr")),
    )
}

#[test]
fn local_socket_is_not_put_where_a_user_could_swap_it() -> Result<()> {
    let stage = Stage::new()?;
    let script = stage.write("hostile.py", SERVER)?;
    // This directory is the server's own user's.
    let listen = format!("unix:{}", stage.capture("socket").display());
    let server = [&*python("python3")?, &*script];
    let mut agent = stage.run_with(TWENTY_PACKETS, &["--listen", &listen], &server)?;
    ensure!(!agent.exit()?.success());
    let told = stage.stderr()?;
    ensure!(
        told.contains("belongs to user") && told.contains("choose another directory"),
        "{told}"
    );
    Ok(())
}

#[test]
fn local_clients_have_servers_and_captures_of_their_own() -> Result<()> {
    let stage = Stage::new()?;
    let script = stage.write("hostile.py", SERVER)?;
    let socket = stage.path("socket");
    let listen = format!("unix:{}", socket.display());
    let mut agent = stage.run_with(
        TWENTY_PACKETS,
        &["--listen", &listen],
        &[&python("python3")?, &script],
    )?;
    wait_for("the socket", PATIENCE, || Ok(socket.exists().then_some(())))?;
    ensure!(fs::metadata(&socket)?.mode() & 0o777 == 0o600);

    // Both use the same request ids, and capture at the same time.
    let mut one = connect(&stage, &socket, "one")?;
    let mut other = connect(&stage, &socket, "other")?;
    one.shake_hands()?;
    other.shake_hands()?;
    let udp = stage.space.udp()?;
    let (first, second) = (stage.capture("one.pcap"), stage.capture("other.pcap"));
    let arguments = |file: &Path| json!({ "interface": "lo", "file": file, "filter": format!("udp port {}", udp.port()) });
    let session = granted(&one.call("capture", &arguments(&first))?)?;
    let of_other = granted(&other.call("capture", &arguments(&second))?)?;
    ensure!(session != of_other, "{session} twice");
    stage.live(&first, 2)?;
    stage.live(&second, 2)?;
    udp.send(50, 10)?;
    for (client, session, file) in [
        (&mut one, &session, &first),
        (&mut other, &of_other, &second),
    ] {
        let end = client.session_end(session)?;
        ensure!(text(&end, "reason") == "packet-cap", "{end}");
        ensure!(packets(file)? == 20);
    }
    let others = one
        .rest()
        .iter()
        .any(|message| message.line.contains(&of_other));
    ensure!(!others, "one client heard of the other's session");

    // The one leaves, and its server with it; the other goes on.
    one.close_input();
    ensure!(one.exit()?.success());
    let echoed = other.call("echo", &json!({ "n": 1 }))?;
    ensure!(echoed.text() == "{\"n\": 1}", "{}", echoed.line);
    agent.signal(Signal::TERM)?;
    ensure!(agent.exit()?.code() == Some(143), "{}", stage.stderr()?);
    other.close_input();
    ensure!(other.exit()?.success());
    ensure!(!socket.exists());
    wait_for("the end of all processes", Duration::from_secs(5), || {
        Ok(stage.processes(&[])?.is_empty().then_some(()))
    })?;
    stage.audit_is_closed("a signal", Some(143))
}
