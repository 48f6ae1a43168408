//! Services of the host that start programs, or containers, for whoever asks: by where they listen.
//!
//! They are told by the address that they have bound to, as they wrote it: that stays the same when one is
//! restarted, and whoever connects cannot change it. A service that listens elsewhere than usual is not known here;
//! permissions keep governed processes from that, as they do without the backstop.

use super::Deputy;

/// What a service is called, and how the addresses begin where such listen. `{uid}` is a governed user's;
/// a zero stands before an abstract name.
const SERVICES: [(&str, &[&str]); 6] = [
    (
        "D-Bus",
        &[
            "/run/dbus/",
            "/var/run/dbus/",
            "/run/user/{uid}/bus",
            "/tmp/dbus-",
            "\0/tmp/dbus-",
        ],
    ),
    (
        "systemd",
        &["/run/systemd/private", "/run/user/{uid}/systemd/"],
    ),
    (
        "a container engine",
        &[
            "/run/docker",
            "/var/run/docker",
            "/run/user/{uid}/docker",
            "/run/containerd/",
            "/var/run/containerd/",
            "/run/podman/",
            "/var/run/podman/",
            "/run/user/{uid}/podman/",
            "/run/crio/",
            "/var/run/crio/",
            "/run/incus/",
            "/var/lib/incus/",
            "/var/lib/lxd/",
            "/var/snap/lxd/",
        ],
    ),
    (
        "a manager of virtual machines",
        &[
            "/run/libvirt/",
            "/var/run/libvirt/",
            "/run/user/{uid}/libvirt/",
        ],
    ),
    ("snapd", &["/run/snapd"]),
    (
        "a terminal multiplexer",
        &["/tmp/tmux-{uid}/", "/run/screen/", "/var/run/screen/"],
    ),
];

const USER: &str = "{uid}";

/// The beginnings of addresses that are the same for everybody, each with its service's number.
pub(in crate::kernel) fn of_host() -> impl Iterator<Item = (Vec<u8>, u32)> {
    all()
        .filter(|(beginning, _)| !beginning.contains(USER))
        .map(|(beginning, number)| (beginning.as_bytes().to_vec(), number))
}

/// Those that are a user's own.
pub(in crate::kernel) fn of_user(user: u32) -> impl Iterator<Item = (Vec<u8>, u32)> {
    all()
        .filter(|(beginning, _)| beginning.contains(USER))
        .map(move |(beginning, number)| {
            let its = beginning.replace(USER, &user.to_string());
            (its.into_bytes(), number)
        })
}

/// What the service with this number is called.
pub(in crate::kernel) fn name(number: u32) -> &'static str {
    let index = usize::try_from(number).unwrap_or(usize::MAX);
    SERVICES.get(index).map_or("a service", |(name, _)| name)
}

/// The services that a server may reach which may reach these daemons: a bit for each, by its number.
pub(in crate::kernel) fn bits(reached: &[Deputy]) -> u32 {
    // In the order of the services above.
    let [dbus, systemd, engine, machines, snapd, terminals] = [1, 2, 4, 8, 16, 32];
    let of = |deputy: &Deputy| match deputy {
        Deputy::Dbus => dbus,
        Deputy::Systemd => systemd,
        Deputy::Docker | Deputy::Podman | Deputy::Incus => engine,
        Deputy::Libvirt => machines,
        Deputy::Snapd => snapd,
        Deputy::Terminals => terminals,
        Deputy::User => dbus | systemd | engine | machines,
        Deputy::Cron => 0,
    };
    reached.iter().fold(0, |bits, deputy| bits | of(deputy))
}

fn all() -> impl Iterator<Item = (&'static str, u32)> {
    (0..).zip(SERVICES).flat_map(|(number, (_, beginnings))| {
        beginnings.iter().map(move |beginning| (*beginning, number))
    })
}

#[cfg(test)]
mod tests {
    use capwarden_abi::lsm::PATH;

    use super::*;

    #[test]
    fn every_beginning_fits_and_is_somebodys() {
        let host: Vec<_> = of_host().collect();
        let user: Vec<_> = of_user(u32::MAX).collect();
        assert_eq!(host.len() + user.len(), all().count());
        for (beginning, number) in host.iter().chain(&user) {
            assert!(beginning.len() < PATH, "{beginning:?}");
            assert_ne!(name(*number), "a service");
        }
        assert!(user.contains(&(b"/run/user/4294967295/bus".to_vec(), 0)));
        let services: u32 = (0..).zip(SERVICES).map(|(number, _)| 1 << number).sum();
        assert_eq!(bits(&Deputy::ALL), services);
        for (deputy, service) in [
            (Deputy::Dbus, "D-Bus"),
            (Deputy::Docker, "a container engine"),
            (Deputy::Libvirt, "a manager of virtual machines"),
            (Deputy::Terminals, "a terminal multiplexer"),
        ] {
            assert_eq!(name(bits(&[deputy]).trailing_zeros()), service);
        }
    }
}
