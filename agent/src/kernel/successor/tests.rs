//! Successors that are shell scripts: what becomes of ones that fail.

use std::{
    fs,
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    time::Duration,
};

use super::*;

fn program(directory: &tempfile::TempDir, text: &str) -> Program {
    let path = directory.path().join("program");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Program::at(&path, &["first", "second"])
}

fn is_alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit_once(") ").map(|(_, rest)| rest.to_owned());
    state.is_some_and(|state| !state.starts_with('Z'))
}

async fn gone(pid: u32) {
    while is_alive(pid) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn successor_is_nobodys_child_and_has_the_arguments_and_what_it_is_given() {
    let directory = tempfile::tempdir().unwrap();
    let told = directory.path().join("told");
    let text = format!(
        "{{ echo \"$0 $*\"; cut -d' ' -f4,6 /proc/$$/stat; echo $$; env; }} > {0}.new; mv {0}.new {0}; exec sleep 60",
        told.display()
    );
    let program = program(&directory, &text);
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets = [("http one".to_owned(), socket.as_fd())];
    let successor = Successor::start(&program, &sockets).unwrap();
    let pid = successor.process();
    while !told.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let text = fs::read_to_string(&told).unwrap();
    let mut lines = text.lines();
    let arguments = format!("{} first second", program.path().display());
    assert_eq!(lines.next(), Some(arguments.as_str()));
    let stat = lines.next().unwrap();
    let (parent, session) = stat.split_once(' ').unwrap();
    assert_ne!(parent, std::process::id().to_string());
    assert_eq!(session, pid.to_string(), "its own");
    assert_eq!(lines.next(), Some(pid.to_string().as_str()));
    assert!(text.contains(&format!("{CHANNEL}=")));
    // One that was not told to serve goes with whoever has started it.
    assert!(is_alive(pid));
    drop(successor);
    gone(pid).await;
}

#[tokio::test]
async fn successor_that_ends_or_cannot_be_executed_is_told_of() {
    let directory = tempfile::tempdir().unwrap();
    // It may have ended by then.
    let error = match Successor::start(&program(&directory, "exit 1"), &[]) {
        Ok(mut successor) => successor.ready().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    let path = directory.path().join("program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Successor::start(&Program::at(&path, &[]), &[]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    let nowhere = Program::at(&directory.path().join("nowhere"), &[]);
    let error = Successor::start(&nowhere, &[]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}
