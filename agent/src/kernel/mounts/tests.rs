//! A host with daemons, in a mount namespace of the test's own, and what is left of them.

use std::{
    os::unix::net::{UnixListener, UnixStream},
    sync::mpsc,
};

use super::*;

/// Makes a `/run` as hosts have it on this thread, which has mounts of its own, with a daemon at each
/// of these sockets.
fn host(sockets: &[&str]) -> Vec<UnixListener> {
    mount(
        c"tmpfs",
        c"/run",
        c"tmpfs",
        MountFlags::empty(),
        c"mode=755",
    )
    .unwrap();
    let mut listeners = Vec::new();
    for socket in sockets {
        fs::create_dir_all(Path::new(socket).parent().unwrap()).unwrap();
        listeners.push(UnixListener::bind(socket).unwrap());
    }
    listeners
}

/// Does something where only root may.
fn as_root<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> Option<T> {
    rustix::process::geteuid()
        .is_root()
        .then(|| apart(work).unwrap())
}

const DEPUTIES: [&str; 7] = [
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
    "/run/systemd/io.systemd.Manager",
    "/run/user/1000/bus",
    "/run/snapd.socket",
];
const OTHERS: [&str; 3] = [
    "/run/postgresql/.s.PGSQL.5432",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/nscd.sock",
];

#[test]
fn deputies_are_gone_and_what_else_listens_is_there() {
    as_root(|| {
        let _daemons = host(&[&DEPUTIES[..], &OTHERS[..]].concat());
        symlink("docker.sock", "/run/link").unwrap();
        fs::write("/run/a.pid", "7").unwrap();
        fs::create_dir_all("/run/lock/empty").unwrap();
        cover(&[], 1000).unwrap();
        for socket in DEPUTIES {
            let refused = UnixStream::connect(socket).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::NotFound, "{socket}");
        }
        for socket in OTHERS {
            UnixStream::connect(socket).unwrap();
        }
        assert!(UnixStream::connect("/run/link").is_err());
        assert_eq!(fs::read("/run/a.pid").unwrap(), b"7");
        assert!(Path::new("/run/lock/empty").is_dir());
        assert_eq!(fs::metadata("/run").unwrap().mode() & 0o7777, 0o755);
        Ok(())
    });
}

#[test]
fn what_a_daemon_puts_there_later_does_not_appear_in_a_server_that_runs() {
    as_root(|| {
        let daemons = host(&["/run/docker.sock", "/run/postgresql/.s.PGSQL.5432"]);
        let (later, is_later) = mpsc::channel();
        let (begun, has_begun) = mpsc::channel();
        thread::scope(|scope| {
            let server = scope.spawn(move || {
                apart(move || {
                    cover(&[], 1000)?;
                    begun.send(()).unwrap();
                    is_later.recv().unwrap();
                    assert!(UnixStream::connect("/run/docker.sock").is_err());
                    assert!(UnixStream::connect("/run/podman/podman.sock").is_err());
                    // Within a directory that is there, all is as it is on the host.
                    UnixStream::connect("/run/postgresql/other")?;
                    Ok(())
                })
                .unwrap();
            });
            has_begun.recv().unwrap();
            // It is started once more, as after an update.
            drop(daemons);
            fs::remove_file("/run/docker.sock").unwrap();
            let _again = UnixListener::bind("/run/docker.sock").unwrap();
            let _more = host_adds("/run/podman/podman.sock");
            let _other = UnixListener::bind("/run/postgresql/other").unwrap();
            later.send(()).unwrap();
            server.join().unwrap();
        });
        // The host has lost nothing.
        assert!(Path::new("/run/docker.sock").exists());
        Ok(())
    });
}

fn host_adds(socket: &str) -> UnixListener {
    fs::create_dir_all(Path::new(socket).parent().unwrap()).unwrap();
    UnixListener::bind(socket).unwrap()
}

#[test]
fn deputy_that_is_reached_is_all_that_is_left_in() {
    for deputy in [Deputy::Docker, Deputy::Systemd, Deputy::User] {
        as_root(|| {
            let _daemons = host(&DEPUTIES);
            cover(&[deputy], 1000).unwrap();
            let found: Vec<&str> = DEPUTIES
                .into_iter()
                .filter(|socket| UnixStream::connect(socket).is_ok())
                .collect();
            let expected: &[&str] = match deputy {
                Deputy::Docker => &["/run/docker.sock", "/run/containerd/containerd.sock"],
                Deputy::Systemd => &["/run/systemd/private", "/run/systemd/io.systemd.Manager"],
                _ => &["/run/user/1000/bus"],
            };
            assert_eq!(found, expected, "{deputy:?}");
            Ok(())
        });
    }
}

#[test]
fn directories_elsewhere_are_closed_and_links_are_not_followed() {
    as_root(|| {
        fs::create_dir_all("/var/spool")?;
        mount(
            c"tmpfs",
            c"/var/spool",
            c"tmpfs",
            MountFlags::empty(),
            c"mode=755",
        )?;
        mount(
            c"tmpfs",
            c"/tmp",
            c"tmpfs",
            MountFlags::empty(),
            c"mode=1777",
        )?;
        fs::create_dir_all("/var/spool/cron/crontabs")?;
        fs::create_dir_all("/tmp/tmux-1000")?;
        fs::create_dir_all("/tmp/victim/here")?;
        symlink("/tmp/victim", "/tmp/tmux-1001")?;
        // One that is there, one that is a link, and one that would come later.
        for user in [1000, 1001, 1002] {
            cover(&[], user)?;
        }
        for directory in ["/var/spool/cron", "/tmp/tmux-1000", "/tmp/tmux-1002"] {
            assert_eq!(fs::metadata(directory)?.mode() & 0o7777, 0, "{directory}");
            assert_eq!(fs::read_dir(directory)?.count(), 0, "{directory}");
            assert!(fs::write(format!("{directory}/new"), "").is_err());
        }
        assert!(Path::new("/tmp/victim/here").is_dir());
        Ok(())
    });
}

#[test]
fn every_deputy_has_a_name_of_its_own() {
    for deputy in Deputy::ALL {
        assert_eq!(Deputy::of(deputy.name()), Some(deputy));
        assert_eq!(
            serde_json::to_value(deputy).unwrap(),
            serde_json::Value::from(deputy.name())
        );
    }
    assert_eq!(Deputy::of("nobody"), None);
}
