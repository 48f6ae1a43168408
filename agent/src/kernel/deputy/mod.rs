//! Daemons of the host that start programs for others: what they are called, where they listen, and where else what is
//! theirs lies. `mounts` hides these places from governed processes, the backstop (`lsm`) refuses connections to them.

pub(super) mod services;

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use serde::Serialize;

use super::users;

/// Daemons that start programs for others, as `--reach` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Deputy {
    /// Docker, BuildKit, and containerd beneath it.
    Docker,
    /// Podman, CRI-O.
    Podman,
    /// The system's message bus.
    Dbus,
    /// The service manager itself.
    Systemd,
    /// What runs for users who are logged in: their buses, service managers, engines and agents.
    User,
    /// Spools of `cron` and `at`.
    Cron,
    /// LXD, Incus.
    Incus,
    /// libvirt.
    Libvirt,
    /// snapd.
    Snapd,
    /// Terminals that outlive their windows: screen, tmux.
    Terminals,
}

impl Deputy {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Docker,
        Self::Podman,
        Self::Dbus,
        Self::Systemd,
        Self::User,
        Self::Cron,
        Self::Incus,
        Self::Libvirt,
        Self::Snapd,
        Self::Terminals,
    ];

    /// `docker`, …
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Dbus => "dbus",
            Self::Systemd => "systemd",
            Self::User => "user",
            Self::Cron => "cron",
            Self::Incus => "incus",
            Self::Libvirt => "libvirt",
            Self::Snapd => "snapd",
            Self::Terminals => "terminals",
        }
    }

    /// The one of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|deputy| deputy.name() == name)
    }

    /// Sockets that only a group may connect to: `--reach` puts the process into that group (`users`).
    pub(super) fn sockets(self) -> &'static [&'static str] {
        match self {
            Self::Docker => &["/run/docker.sock"],
            Self::Libvirt => &["/run/libvirt/libvirt-sock"],
            Self::Podman
            | Self::Dbus
            | Self::Systemd
            | Self::User
            | Self::Cron
            | Self::Incus
            | Self::Snapd
            | Self::Terminals => &[],
        }
    }

    /// Where it listens on most hosts, where that is one place.
    pub fn usual_socket(self) -> Option<&'static str> {
        Some(match self {
            Self::Docker => "/run/docker.sock",
            Self::Podman => "/run/podman/podman.sock",
            Self::Dbus => "/run/dbus/system_bus_socket",
            Self::Systemd => "/run/systemd/private",
            Self::Libvirt => "/run/libvirt/libvirt-sock",
            Self::Snapd => "/run/snapd.socket",
            Self::User | Self::Cron | Self::Incus | Self::Terminals => return None,
        })
    }

    /// What a drop-in of `capwarden-server@USER.service` says for servers of the service to find it: they have the mounts
    /// and the groups of their launcher.
    pub fn drop_in(self) -> String {
        let Some(socket) = self.usual_socket() else {
            return "BindPaths= or InaccessiblePaths=, see systemd.exec(5)".to_owned();
        };
        let group = self.sockets().first().and_then(|path| {
            let group = fs::metadata(path).ok()?.gid();
            (group != 0).then(|| users::group_name(group))
        });
        match group {
            Some(group) => format!("BindPaths={socket} and SupplementaryGroups={group}"),
            None => format!("BindPaths={socket}"),
        }
    }

    /// Whether a process finds it among its mounts; true where it is not known where it listens, or where it does not.
    pub(super) fn is_found_by(self, process: u32) -> bool {
        self.usual_socket().is_none_or(|socket| {
            let theirs = format!("/proc/{process}/root{socket}");
            !Path::new(socket).exists() || Path::new(&theirs).exists()
        })
    }

    /// How the names in `/run` begin that are its own.
    pub(super) fn in_run(self) -> &'static [&'static str] {
        match self {
            Self::Docker => &["docker", "containerd", "buildkit", "cri-dockerd", "k3s"],
            Self::Podman => &["podman", "crio"],
            Self::Dbus => &["dbus"],
            Self::User => &["user"],
            Self::Cron => &["atd", "crond"],
            Self::Incus => &["incus", "lxd", "lxc"],
            Self::Libvirt => &["libvirt", "virtlockd", "virtlogd"],
            Self::Snapd => &["snapd"],
            Self::Terminals => &["screen", "tmux", "tmate"],
            Self::Systemd => &[],
        }
    }

    /// Its directories elsewhere, but for those of each user.
    pub(super) fn elsewhere(self) -> &'static [&'static str] {
        match self {
            Self::Cron => &["/var/spool/cron", "/var/spool/at", "/var/spool/anacron"],
            Self::Incus => &["/var/lib/incus", "/var/lib/lxd", "/var/snap/lxd"],
            Self::Terminals => &["/tmp/screens"],
            Self::Docker
            | Self::Podman
            | Self::Dbus
            | Self::Systemd
            | Self::User
            | Self::Libvirt
            | Self::Snapd => &[],
        }
    }
}
