//! Processes that ask for packet sockets: those of the test itself, and those that execute a copy of its file.

use std::{
    io::Write as _,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::*;
use crate::kernel::{
    socket::{SocketCall, SocketKind},
    sys,
};

/// A lockdown is everybody's: held by whoever makes one, and by whoever executes other files.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a process of this file does, and fails if it is refused.
#[test]
#[ignore = "other tests execute it"]
fn a_packet_socket_is_made() {
    sys::packet_socket(SocketCall::of(SocketKind::Raw)).unwrap();
}

/// Whether a process that executes this file gets a packet socket, and its number.
fn gets(program: &Path) -> (bool, u32) {
    let helper = "kernel::host::tests::a_packet_socket_is_made";
    let mut child = Command::new(program)
        .args(["--exact", helper, "--ignored"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let process = child.id();
    (child.wait().unwrap().success(), process)
}

/// A process that executes this file, and may have no packet socket.
fn asks_in_vain(program: &Path) -> u32 {
    const NOBODY: u32 = 65_534;
    let helper = "kernel::host::tests::a_packet_socket_is_made";
    let mut child = Command::new(program)
        .args(["--exact", helper, "--ignored"])
        .uid(NOBODY)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let process = child.id();
    assert!(!child.wait().unwrap().success());
    process
}

fn asked(watch: &mut HostWatch, process: u32) -> Asked {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(20) {
        match watch.next_asked() {
            Some(asked) if asked.process == process => return asked,
            Some(_) => {} // of other tests
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    panic!("nothing was told of {process}");
}

/// Executable, and another file than this one.
fn copy() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("copy");
    fs::copy("/proc/self/exe", &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (dir, path)
}

#[test]
fn lockdown_goes_by_the_file_whatever_it_is_called() {
    let _alone = alone();
    let own = || File::open("/proc/self/exe").unwrap();
    let (dir, program) = copy();
    let mut watch = match HostWatch::lockdown(vec![own()]) {
        Ok(watch) => watch,
        Err(error) => return skip("lockdown_goes_by_the_file_whatever_it_is_called", &error),
    };
    assert_eq!(watch.by(), WatchedBy::Hook);
    let (got, process) = gets(&program);
    assert!(!got, "another file is refused, whoever executes it");
    let refused = asked(&mut watch, process);
    assert!(
        refused.refused && refused.descriptor.is_none(),
        "{refused:?}"
    );
    assert_eq!(refused.program.as_deref(), Some("copy"));
    assert!(gets(Path::new("/proc/self/exe")).0);
    drop(watch);
    assert!(gets(&program).0, "nothing is left behind");

    let watch = HostWatch::lockdown(vec![own(), File::open(&program).unwrap()]).unwrap();
    assert!(gets(&program).0);
    let renamed = dir.path().join("renamed");
    fs::rename(&program, &renamed).unwrap();
    assert!(gets(&renamed).0);
    drop(watch);
}

#[test]
fn who_captures_is_told_of_by_the_hook_or_by_the_system_call() {
    let _alone = alone();
    let (_dir, program) = copy();
    let (mut watch, why) = HostWatch::observe(Vec::new()).unwrap();
    if let Some(why) = why {
        skip("who_captures_is_told_of_by_the_hook", &why);
    }
    let mut by_call = HostWatch::on_call().unwrap();
    assert_eq!(by_call.by(), WatchedBy::Call);
    if watch.by() == WatchedBy::Hook {
        // Who may have none is not told of: it captures nothing.
        let in_vain = asks_in_vain(&program);
        let (got, process) = gets(&program);
        assert!(got);
        let told = std::iter::from_fn(|| {
            let told = watch.next_asked()?;
            assert_ne!(told.process, in_vain);
            Some(told)
        });
        let told: Vec<Asked> = told.collect();
        let asked = told.iter().find(|asked| asked.process == process).unwrap();
        assert!(!asked.refused);
        assert_eq!(asked.program.as_deref(), Some("copy"));
    }
    let (got, process) = gets(&program);
    assert!(got);
    let asked = asked(&mut by_call, process);
    assert!(!asked.refused);
    assert!(
        asked.descriptor.is_some_and(|number| number > 2),
        "{asked:?}"
    );
}

#[test]
fn what_does_not_fit_into_the_queue_is_counted() {
    const ROOM: u32 = 4096; // the least that there can be
    const SOCKETS: u64 = 80;
    let _alone = alone();
    let mut watch = HostWatch::on_call_with(|map| match map.map_type() {
        RING => bpf::create_map(&bpf::CreateAttributes {
            max_entries: ROOM,
            ..object::attributes(map)
        }),
        _ => object::create(map),
    })
    .unwrap();
    let call = SocketCall::of(SocketKind::Raw);
    let sockets: Vec<_> = (0..SOCKETS).map(|_| sys::packet_socket(call)).collect();
    assert!(sockets.iter().all(Result::is_ok));
    let lost = watch.lost();
    let told = std::iter::from_fn(|| watch.next_asked()).count();
    let told = u64::try_from(told).unwrap();
    assert!(
        lost > 0 && told > 0 && told + lost >= SOCKETS,
        "{told} {lost}"
    );
}

/// `BPF_MAP_TYPE_RINGBUF`
const RING: u32 = 27;

#[test]
fn who_has_packet_sockets_is_found() {
    let _socket = sys::packet_socket(SocketCall::of(SocketKind::Raw)).unwrap();
    let own = std::process::id();
    for found in [capturers(Some(own)), capturers(None)] {
        let this = found.iter().find(|found| found.process == own).unwrap();
        assert!(this.interfaces.contains(&0));
    }
    assert!(program_file(own).is_some_and(|file| file.starts_with('/')));
}

/// As in `kernel::lsm::tests`.
fn skip(test: &str, error: &BackstopError) {
    match error {
        BackstopError::Inactive(modules) => assert!(!modules.split(',').any(|one| one == "bpf")),
        BackstopError::Program(_, why) => assert!(why.contains("not permitted"), "{why}"),
        other => panic!("{other}"),
    }
    if let Some(skips) = std::env::var_os("CAPWARDEN_SKIPS") {
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(skips)
            .unwrap();
        writeln!(file, "kernel::host::{test}\t{error}").unwrap();
    }
}
