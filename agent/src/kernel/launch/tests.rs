//! Both ways to start a process, and what a launcher that lies gains by it. A launcher is this program once more.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{fs::PermissionsExt, process::ExitStatusExt as _},
    },
    path::Path,
    thread,
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use super::*;
use crate::kernel::Surroundings;

#[path = "../../../tests/common/launchers.rs"]
mod launchers;
pub(in crate::kernel) use launchers::Launcher;

/// Says that this process is a launcher.
const ROLE: &str = "CWTEST_LAUNCHER";
const NOBODY: u32 = 65_534;

/// Not a test: what [`a_launcher`] starts.
#[test]
fn launcher_process() {
    if env::var_os(ROLE).is_some() {
        assert_eq!(
            launcher(),
            std::process::ExitCode::FAILURE,
            "it does not end by itself"
        );
    }
}

/// A launcher of `nobody`, and the way by it. None without root.
pub(in crate::kernel) fn a_launcher() -> Option<(Launcher, Way)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let program = env::current_exe().unwrap();
    let arguments = [
        "--exact",
        "kernel::launch::tests::launcher_process",
        "--nocapture",
    ];
    let launcher = Launcher::start(&program, &arguments, &[(ROLE, "1")], NOBODY).unwrap();
    let way = Way::Launchers(launcher.directory().to_owned());
    Some((launcher, way))
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(Into::into).collect()
}

fn start(way: &Way, command: &[&str]) -> Result<Governed, LaunchError> {
    let credentials = Credentials::choose(None).unwrap();
    let plan = Launch {
        command: &words(command),
        credentials: &credentials,
        cgroup: None,
        piped: true,
    };
    let started = launch_by(way, &plan, |pid, _| {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        assert!(status.contains("Seccomp:\t2"), "{status}");
        Ok(())
    });
    started.map(|(governed, ())| governed)
}

/// What a command writes.
fn said(governed: &mut Governed) -> Vec<String> {
    let pipes = governed.take_pipes().unwrap();
    drop(pipes.input);
    let lines = BufReader::new(File::from(pipes.output)).lines();
    lines.map(Result::unwrap).collect()
}

async fn starts(way: &Way) {
    const SCRIPT: &str = "id -u; id -g; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; echo \"$LISTEN_FDS$NOTIFY_SOCKET\"; ls /proc/self/fd | wc -l; read line; echo \"$line\"; exit 7";
    let mut governed = start(way, &["sh", "-c", SCRIPT]).unwrap();
    assert!(governed.pid() > 1);
    assert_eq!(
        said(&mut governed),
        [
            "65534",
            "65534",
            "CapEff:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
            "",
            "4",
            ""
        ]
    );
    assert_eq!(governed.wait().await.unwrap().code(), Some(7));
    // Whoever asks again is told again.
    assert_eq!(governed.wait().await.unwrap().code(), Some(7));

    let mut echo = start(way, &["cat"]).unwrap();
    let pipes = echo.take_pipes().unwrap();
    assert!(echo.take_pipes().is_none());
    let mut input = File::from(pipes.input);
    input.write_all(b"hello\n").unwrap();
    let mut output = BufReader::new(File::from(pipes.output));
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "hello\n");
    echo.kill();
    assert_eq!(echo.wait().await.unwrap().signal(), Some(9));

    in_its_directory(way).await;
    let missing = start(way, &["/no/such/program"]).unwrap_err();
    assert!(matches!(missing, LaunchError::Execute { .. }), "{missing}");
    let credentials = Credentials::choose(None).unwrap();
    let plan = Launch {
        command: &words(&["touch", "/tmp/never"]),
        credentials: &credentials,
        cgroup: None,
        piped: true,
    };
    let refused = launch_by(way, &plan, |_, _| Err::<(), _>(io::Error::other("no")));
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("cannot start touch: no")
    );
}

/// A directory that was said is entered, or nothing is started.
async fn in_its_directory(way: &Way) {
    let place = tempfile::tempdir().unwrap();
    let closed = place.path().join("closed");
    fs::create_dir(&closed).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode));
    mode(place.path(), 0o755).unwrap();
    mode(&closed, 0o700).unwrap();
    let start = |directory: &Path| {
        let credentials = Credentials::choose(None).unwrap().within(Surroundings {
            environment: Some(vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            directory: Some(directory.to_owned()),
        });
        let plan = Launch {
            command: &words(&["pwd"]),
            credentials: &credentials,
            cgroup: None,
            piped: true,
        };
        launch_by(way, &plan, |_, _| Ok(())).map(|(governed, ())| governed)
    };
    let mut governed = start(place.path()).unwrap();
    assert_eq!(said(&mut governed), [place.path().to_str().unwrap()]);
    assert!(governed.wait().await.unwrap().success());
    for (directory, why) in [
        (place.path().join("none"), "No such file"),
        // Root's, which the agent could enter.
        (closed, "Permission denied"),
    ] {
        let error = start(&directory).unwrap_err();
        assert!(matches!(error, LaunchError::Directory { .. }), "{error}");
        let told = error.to_string();
        assert!(told.contains(why), "{told}");
        assert!(told.contains(directory.to_str().unwrap()), "{told}");
        assert!(told.contains("nobody may enter it"), "{told}");
    }
}

#[tokio::test]
async fn forked_process_is_confined() {
    if rustix::process::geteuid().is_root() {
        starts(&Way::Fork).await;
    }
}

#[tokio::test]
async fn process_of_a_launcher_is_confined() {
    let Some((_launcher, way)) = a_launcher() else {
        return;
    };
    starts(&way).await;
}

#[tokio::test]
async fn process_whose_launcher_has_gone_is_waited_for() {
    let Some((launcher, way)) = a_launcher() else {
        return;
    };
    let mut governed = start(&way, &["cat"]).unwrap();
    drop(launcher);
    let early = tokio::time::timeout(std::time::Duration::from_millis(50), governed.wait());
    assert!(early.await.is_err(), "it runs");
    drop(governed.take_pipes());
    assert!(governed.wait().await.is_err());
    let none = start(&way, &["cat"]).unwrap_err();
    assert!(
        none.to_string()
            .contains("systemctl enable --now capwarden-server@nobody.socket"),
        "{none}"
    );
}

#[tokio::test]
async fn launcher_is_asked_for_what_it_can_do() {
    let Some((_launcher, way)) = a_launcher() else {
        return;
    };
    let long = start(&way, &["true", &"a".repeat(200_000)]).unwrap_err();
    assert!(long.to_string().contains("128 KiB"), "{long}");
    let reaching = Credentials::choose(None)
        .unwrap()
        .reaching(&[crate::kernel::Deputy::Docker]);
    let plan = Launch {
        command: &words(&["true"]),
        credentials: &reaching,
        cgroup: None,
        piped: false,
    };
    // What may be reached is for the agent to say, and to record; whether it is found there, for the launcher's unit.
    let (mut governed, ()) = launch_by(&way, &plan, |_, _| Ok(())).unwrap();
    assert!(governed.wait().await.unwrap().success());
    let other = Credentials::choose(Some("1")).unwrap();
    let plan = Launch {
        credentials: &other,
        ..plan
    };
    let nobody = launch_by(&way, &plan, |_, _| Ok(())).unwrap_err();
    assert!(matches!(nobody, LaunchError::NoLauncher { .. }), "{nobody}");
}

/// How a request is sent.
type Send = fn(&OwnedFd, &[u8], &[std::os::fd::BorrowedFd<'_>]) -> Result<(), rustix::io::Errno>;

/// Root alone is not believed, since it may be governed: who asks has to have what no governed process has.
#[tokio::test]
async fn launcher_starts_nothing_for_root_without_capabilities() {
    let Some((launcher, way)) = a_launcher() else {
        return;
    };
    let credentials = Credentials::choose(None).unwrap();
    let plan = Launch {
        command: &words(&["true"]),
        credentials: &credentials,
        cgroup: None,
        piped: true,
    };
    let request = plan.request().encode().unwrap();
    let at = launcher_socket(launcher.directory(), &credentials).unwrap();
    let ask = |send: Send| {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(&at).unwrap()).unwrap();
        let null = File::open("/dev/null").unwrap();
        let sent = send(&socket, &request, &[null.as_fd(); 3]);
        (socket, sent)
    };
    // In its own name it is root, and is told no.
    let (socket, sent) = ask(channel::send_bytes);
    sent.unwrap();
    channel::wait(&socket, None).unwrap();
    let told = channel::receive(socket.as_fd()).unwrap().unwrap().message;
    assert_eq!(told, channel::Message::Unable(rustix::io::Errno::PERM));
    // In the other one, the kernel says no.
    thread::scope(|scope| {
        let governed = scope.spawn(|| {
            sys::clear_capabilities().unwrap();
            ask(channel::send_request).1
        });
        assert_eq!(governed.join().unwrap(), Err(rustix::io::Errno::PERM));
    });
    // This thread has them.
    assert!(
        start(&way, &["true"])
            .unwrap()
            .wait()
            .await
            .unwrap()
            .success()
    );
}

/// A launcher that answers with something else than a confined process: none of it is let go on.
#[tokio::test]
async fn launcher_that_lies_is_not_believed() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let way = Way::Launchers(directory.path().to_owned());
    let socket = listening(&directory.path().join("nobody.sock"));
    type Lie = fn(&OwnedFd);
    let answers: [(&str, Lie); 3] = [
        ("no seccomp listener", |connection| {
            let file = File::open("/dev/null").unwrap();
            let other = [file.as_fd()];
            channel::send(connection, channel::Message::Confined(1), &other).unwrap();
        }),
        // A true listener, of a process that is root.
        ("does not run as the user 65534", |connection| {
            let filter = super::super::seccomp::governed();
            let copy = connection.try_clone().unwrap();
            let confined = thread::spawn(move || {
                rustix::thread::set_no_new_privs(true).unwrap();
                let listener = sys::install_filter(&filter).unwrap();
                let it = [listener.as_fd()];
                channel::send(&copy, channel::Message::Confined(1), &it).unwrap();
            });
            confined.join().unwrap();
        }),
        ("Protocol error", |connection| {
            channel::send(connection, channel::Message::Started, &[]).unwrap();
        }),
    ];
    for (told, answer) in answers {
        let socket = socket.try_clone().unwrap();
        let lying = thread::spawn(move || {
            let connection = rustix::net::accept(&socket).unwrap();
            channel::wait(&connection, None).unwrap();
            let mut request = vec![0; request::LONGEST];
            let received = channel::receive_bytes(connection.as_fd(), &mut request).unwrap();
            assert_eq!(received.descriptors.len(), 3);
            answer(&connection);
            // Whoever is not believed gets no byte.
            let mut byte = [0];
            assert_eq!(rustix::io::read(&connection, &mut byte), Ok(0));
        });
        let refused = start(&way, &["true"]).unwrap_err().to_string();
        assert!(refused.contains(told), "{refused}");
        lying.join().unwrap();
    }
}

fn listening(at: &Path) -> OwnedFd {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    );
    let socket = socket.unwrap();
    bind(&socket, &SocketAddrUnix::new(at).unwrap()).unwrap();
    listen(&socket, 4).unwrap();
    socket
}
