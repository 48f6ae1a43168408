//! The network guard, with real sockets, against servers that try to get round it. What is refused
//! is first shown to work without the guard, or by another server that may.
//!
//! Runs in a network namespace of its own. Started with `server`, this binary is a server; with
//! `agent`, it is an agent that is killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unsafe_code,
    reason = "a test that speaks to the kernel"
)]

mod caps;
#[path = "../common/launchers.rs"]
mod launchers;
mod life;
mod paths;
mod rules;
mod server;
mod tricks;

use std::{
    cell::RefCell,
    env,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    ops::RangeInclusive,
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use capwarden::kernel::{
    AddressRange, Cgroup, Credentials, LAUNCHER_VERB, NetworkCaps, NetworkGuard, NetworkInterfaces,
    NetworkRule, NetworkSlot, NetworkTerms, NetworkUse, Transport,
};
use server::Server;

/// What the tests' programs do, in the order of `socket`'s arguments.
pub(crate) const TCP4: &str = "socket 2 1 0";
pub(crate) const TCP6: &str = "socket 10 1 0";
pub(crate) const UDP4: &str = "socket 2 2 0";
pub(crate) const UDP6: &str = "socket 10 2 0";

/// How long the tests wait for what must not come.
pub(crate) const SILENCE: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("server") => {
            server::serve();
            return ExitCode::SUCCESS;
        }
        Some("agent") => return life::agent(),
        Some(verb) if verb == LAUNCHER_VERB => return capwarden::kernel::launcher(),
        _ => {}
    }
    if !rustix::process::geteuid().is_root() {
        // Then the kernel must be what refuses.
        if let Ok(cgroup) = Cgroup::create() {
            let user = Credentials::choose(Some("nobody")).unwrap();
            assert!(NetworkGuard::attach(&cgroup, &user, &nothing()).is_err());
        }
        println!("test result: ok. 0 passed; not root");
        return ExitCode::SUCCESS;
    }
    // SAFETY: no pointers; there is one thread.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(up.unwrap().success());

    let tests: &[(&str, fn())] = &[
        ("listening", rules::listening),
        ("upstream", rules::upstream),
        ("kinds_of_sockets", rules::kinds_of_sockets),
        ("options", rules::options),
        ("baseline_stays", rules::baseline_stays),
        (
            "names_are_looked_up_again",
            rules::names_are_looked_up_again,
        ),
        ("refusals_are_told", rules::refusals_are_told),
        ("listen_without_bind", tricks::listen_without_bind),
        ("listen_after_connect", tricks::listen_after_connect),
        ("bind_again", tricks::bind_again),
        ("datagrams_of_strangers", tricks::datagrams_of_strangers),
        ("answers_to_clients", tricks::answers_to_clients),
        ("options_of_packets", tricks::options_of_packets),
        ("carry_over", tricks::carry_over),
        ("datagrams_are_capped_exactly", caps::datagrams),
        ("streams_are_capped", caps::streams),
        ("segments_count", caps::segments),
        ("connections", caps::connections),
        ("interfaces", caps::interfaces),
        ("deadline", caps::deadline),
        ("nothing_at_all", caps::nothing_at_all),
        ("neighbours", paths::neighbours),
        ("headers_of_packets", paths::headers_of_packets),
        ("data_in_the_first_packet", paths::data_in_the_first_packet),
        ("shared_ports", paths::shared_ports),
        ("two_sessions", life::two_sessions),
        ("resets", life::resets),
        ("upstreams", life::upstreams),
        ("slots_are_used_again", life::slots_are_used_again),
        ("agent_is_killed", life::agent_is_killed),
        ("nobody_leaves", life::nobody_leaves),
    ];
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-'));
    let (mut passed, mut failed) = (0, 0);
    for &(name, test) in tests {
        if wanted.is_some_and(|wanted| !name.contains(wanted.as_str())) {
            continue;
        }
        let start = Instant::now();
        print!("test {name} ... ");
        let _ = std::io::Write::flush(&mut std::io::stdout());
        let (count, said) = match std::panic::catch_unwind(test) {
            Ok(()) => (&mut passed, "ok"),
            Err(_) => (&mut failed, "FAILED"),
        };
        *count += 1;
        println!("{said} ({:.2} s)", start.elapsed().as_secs_f64());
    }
    drop(SHARED.take());
    println!("test result: {passed} passed; {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

/// A guarded server.
pub(crate) struct Guarded {
    pub(crate) server: Server,
    pub(crate) guard: NetworkGuard,
    /// Where the server is.
    place: PathBuf,
    /// None for a server that shares a guard with those of other tests.
    own: Option<(Cgroup, NetworkSlot)>,
}

thread_local! {
    /// A guard whose baseline is nothing. To load one takes longer than most tests.
    static SHARED: RefCell<Option<(Cgroup, NetworkGuard, NetworkSlot)>> = const { RefCell::new(None) };
}

impl Guarded {
    /// With a baseline, and a guard of its own.
    pub(crate) fn new(baseline: &NetworkTerms) -> Self {
        let (cgroup, guard, baseline) = attach(baseline);
        Self {
            server: Server::start(Some(cgroup.path())),
            place: cgroup.path().to_owned(),
            guard,
            own: Some((cgroup, baseline)),
        }
    }

    /// With nothing.
    pub(crate) fn bare() -> Self {
        SHARED.with_borrow_mut(|shared| {
            let (cgroup, guard, _) = shared.get_or_insert_with(|| attach(&nothing()));
            Self {
                server: Server::start(Some(cgroup.path())),
                place: cgroup.path().to_owned(),
                guard: guard.clone(),
                own: None,
            }
        })
    }

    /// With nothing but a session.
    pub(crate) fn with(terms: &NetworkTerms) -> (Self, NetworkSlot) {
        let guarded = Self::bare();
        let session = guarded.guard.open(terms).unwrap();
        (guarded, session)
    }

    /// One more process of the server.
    pub(crate) fn another(&self) -> Server {
        Server::start(Some(&self.place))
    }

    pub(crate) fn baseline(&self) -> &NetworkSlot {
        &self.own.as_ref().unwrap().1
    }
}

fn attach(baseline: &NetworkTerms) -> (Cgroup, NetworkGuard, NetworkSlot) {
    let cgroup = Cgroup::create().unwrap();
    let user = Credentials::choose(Some("nobody")).unwrap();
    let (guard, baseline) = NetworkGuard::attach(&cgroup, &user, baseline).unwrap();
    (cgroup, guard, baseline)
}

pub(crate) fn nothing() -> NetworkTerms {
    terms([])
}

pub(crate) fn terms<const N: usize>(rules: [NetworkRule; N]) -> NetworkTerms {
    NetworkTerms {
        rules: rules.into(),
        interfaces: NetworkInterfaces::Any,
        caps: NetworkCaps::default(),
        deadline: None,
    }
}

fn rule(
    kind: NetworkUse,
    protocol: Transport,
    network: &str,
    ports: RangeInclusive<u16>,
) -> NetworkRule {
    let (address, bits) = network.split_once('/').unwrap_or((network, "128"));
    let address: IpAddr = address.parse().unwrap();
    NetworkRule {
        kind,
        protocol: Some(protocol),
        addresses: AddressRange::Prefix(address, bits.parse().unwrap()),
        ports,
    }
}

pub(crate) fn listen(
    protocol: Transport,
    network: &str,
    ports: RangeInclusive<u16>,
) -> NetworkRule {
    rule(NetworkUse::Listen, protocol, network, ports)
}

pub(crate) fn connect(
    protocol: Transport,
    network: &str,
    ports: RangeInclusive<u16>,
) -> NetworkRule {
    rule(NetworkUse::Connect, protocol, network, ports)
}

/// Somebody outside who listens.
pub(crate) fn tcp(address: &str) -> TcpListener {
    TcpListener::bind(address).unwrap()
}

pub(crate) fn udp(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    socket
}

pub(crate) fn reaches(port: i64) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
    std::net::TcpStream::connect_timeout(&address, SILENCE).is_ok()
}
