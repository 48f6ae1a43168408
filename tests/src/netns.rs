//! Network namespaces of a test's own: loopback, and veth pairs to a namespace that stands for the
//! rest of the world. Nothing that a test sends leaves them.

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::Ipv4Addr,
    os::fd::AsFd,
    path::PathBuf,
    process::Command,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Tests that count every packet do not share the processors.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace, removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, with loopback up. Other tests may go on beside it, unlike in a [`Net`].
    pub fn new() -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cwtest-{}-{number}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        // Nothing is to be sent that no test asked for: no neighbour or multicast chatter.
        namespace.enter(|| {
            for scope in ["all", "default"] {
                let file = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
                if fs::exists(&file)? {
                    fs::write(&file, "1").with_context(|| file)?;
                }
            }
            Ok(())
        })?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// `ip <arguments>` in here.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        run(Command::new("ip")
            .args(["-n", &self.name])
            .args(arguments.split(' ')))
    }

    /// A program in here. Unlike `ip netns exec`, this leaves `/sys` alone, and with it the
    /// cgroups.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// A program in here, by `ip netns exec`.
    pub fn ip_netns_exec(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Does `work` on a thread in here.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let namespace = File::open(self.path())?;
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            });
            worker
                .join()
                .map_err(|_| anyhow!("the thread in {} panicked", self.name))?
        })
    }

    /// The index of an interface.
    pub fn index(&self, interface: &str) -> Result<u32> {
        self.enter(|| {
            let socket = rustix::net::socket(
                rustix::net::AddressFamily::INET,
                rustix::net::SocketType::DGRAM,
                None,
            )?;
            Ok(rustix::net::netdevice::name_to_index(&socket, interface)?)
        })
    }

    /// The ids of the processes that live in here.
    pub fn processes(&self) -> Result<Vec<u32>> {
        use std::os::unix::fs::MetadataExt as _;
        let ours = fs::metadata(self.path())?.ino();
        let lives_here = |pid: &u32| {
            fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|theirs| theirs.ino() == ours)
        };
        let all = fs::read_dir("/proc")?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        Ok(all.filter(lives_here).collect())
    }

    fn path(&self) -> PathBuf {
        ["/run/netns", &self.name].iter().collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for pid in self.processes().unwrap_or_default() {
            if let Some(pid) = i32::try_from(pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = run(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

/// Where a test happens: `here` with loopback and two interfaces, `there` with their peers.
///
/// | here | there |
/// |---|---|
/// | `cw0`, 10.99.0.1/25 | `peer0`, 10.99.0.2/25 |
/// | `cw1`, 10.99.0.129/25 | `peer1`, 10.99.0.130/25 |
#[derive(Debug)]
pub struct Net {
    /// Where capwarden runs.
    pub here: Namespace,
    /// The rest of the world.
    pub there: Namespace,
    _turn: MutexGuard<'static, ()>,
}

/// The address of `cw0`.
pub const CW0: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The address of `cw1`.
pub const CW1: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 129);

impl Net {
    /// Makes both. Waits until no other test of this binary has one.
    pub fn new() -> Result<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let net = Self {
            here: Namespace::new()?,
            there: Namespace::new()?,
            _turn: turn,
        };
        net.pair(0)?;
        net.pair(1)?;
        Ok(net)
    }

    /// Makes `cw<n>` and its peer.
    pub fn pair(&self, n: u8) -> Result<()> {
        let there = &self.there.name;
        let (ours, theirs) = (1 + 128 * u32::from(n), 2 + 128 * u32::from(n));
        self.here.ip(&format!(
            "link add cw{n} type veth peer name peer{n} netns {there}"
        ))?;
        self.here
            .ip(&format!("addr add 10.99.0.{ours}/25 dev cw{n}"))?;
        self.there
            .ip(&format!("addr add 10.99.0.{theirs}/25 dev peer{n}"))?;
        self.here.ip(&format!("link set cw{n} up"))?;
        self.there.ip(&format!("link set peer{n} up"))
    }
}

fn run(command: &mut Command) -> Result<()> {
    let done = command
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{command:?}: {said}");
    Ok(())
}
