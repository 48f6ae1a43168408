//! What this host offers, found out by using it: a layer that loads without an error may still do
//! nothing, so each is made to do something.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddrV4},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use capwarden_abi::{LINK_ETHERNET, PAYLOAD_FULL, Terms};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketType, bind, socket},
    thread::{CapabilitySet, capabilities},
};
use serde::Serialize;

use super::{
    cgroup::{self, Cgroup},
    egress::Egress,
    guard::{Guard, GuardPlan},
    lsm::{Backstop, BackstopError},
    mounts::{self, Mounts},
    network::{NetworkCaps, NetworkGuard, NetworkInterfaces, NetworkTerms},
    socket::{SocketCall, arm},
    sys,
    tree::Tree,
    users::Credentials,
};

/// What a host offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Host {
    /// The layers of enforcement.
    pub layers: Vec<Layer>,
    /// The programs that servers use.
    pub tools: Vec<Tool>,
}

/// One layer of enforcement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Its name: `fork tagging`.
    pub name: String,
    /// Whether it is there.
    pub status: Status,
    /// True if capwarden refuses to run without it.
    pub required: bool,
    /// What was found: a version, or what the kernel said.
    pub detail: String,
    /// What is lost where it is not wholly present.
    pub cost: Option<String>,
    /// What an operator can do about that.
    pub hint: Option<String>,
}

/// Whether a layer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It works.
    Present,
    /// It is not there.
    Missing,
    /// It works in part.
    Degraded,
}

/// A program that servers use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tool {
    /// Its name: `dumpcap`.
    pub name: String,
    /// Where it is; none if it is not on PATH.
    pub path: Option<String>,
    /// Its version, where it tells.
    pub version: Option<String>,
    /// What an operator should know: its group, file capabilities, …
    pub note: Option<String>,
}

impl Host {
    /// The names of the layers that are required and missing.
    pub fn lacking(&self) -> Vec<&str> {
        let layers = self.layers.iter();
        layers
            .filter(|layer| layer.required && layer.status == Status::Missing)
            .map(|layer| layer.name.as_str())
            .collect()
    }
}

/// Tries everything. Takes a fraction of a second, and leaves nothing behind.
pub fn probe() -> Host {
    Host {
        layers: vec![
            kernel_version(),
            privileges(),
            seccomp(),
            guard(),
            fork_tagging(),
            cgroups(),
            network_guard(),
            memory_caps(),
            landlock(),
            backstop(),
            memory_of_processes(),
            injection(),
            private_mounts(),
            jit(),
        ],
        tools: ["tcpdump", "dumpcap", "tshark"].map(tool).into(),
    }
}

impl Layer {
    fn present(name: &str, detail: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            status: Status::Present,
            required: false,
            detail: detail.into(),
            cost: None,
            hint: None,
        }
    }

    fn required(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }

    /// With what was found.
    fn found(self, detail: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            ..self
        }
    }

    fn lacks(self, status: Status, cost: &str, hint: &str) -> Self {
        Self {
            status,
            cost: Some(cost.to_owned()),
            hint: Some(hint.to_owned()),
            ..self
        }
    }
}

/// `SECCOMP_IOCTL_NOTIF_ADDFD` with `SEND` came with it.
const OLDEST: (u32, u32) = (5, 14);

fn kernel_version() -> Layer {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    let version = numbers.next().zip(numbers.next()).unwrap_or((0, 0));
    let layer = Layer::present("kernel", release.clone()).required();
    if version >= OLDEST {
        return layer;
    }
    layer.lacks(
        Status::Missing,
        "capture sockets cannot be handed over in one step before Linux 5.14",
        "boot a newer kernel",
    )
}

fn privileges() -> Layer {
    const NEEDED: [(CapabilitySet, &str); 8] = [
        (CapabilitySet::NET_RAW, "net_raw"),
        (CapabilitySet::NET_ADMIN, "net_admin"),
        (CapabilitySet::BPF, "bpf"),
        (CapabilitySet::PERFMON, "perfmon"),
        (CapabilitySet::SYS_PTRACE, "sys_ptrace"),
        (CapabilitySet::SETUID, "setuid"),
        (CapabilitySet::SETGID, "setgid"),
        (CapabilitySet::SETPCAP, "setpcap"),
    ];
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(capability, _)| !effective.contains(*capability))
        .map(|(_, name)| *name)
        .collect();
    let layer = Layer::present("privileges", "every capability that capwarden uses").required();
    if missing.is_empty() {
        return layer;
    }
    layer
        .found(format!("missing: {}", missing.join(", ")))
        .lacks(
            Status::Missing,
            "capture sockets cannot be made or guarded for others",
            "run it as root: sudo capwarden doctor",
        )
}

fn seccomp() -> Layer {
    let layer =
        Layer::present("seccomp notification", "the kernel reports socket calls").required();
    match sys::seccomp_notification_available() {
        Ok(()) => layer,
        Err(errno) => layer.found(errno.to_string()).lacks(
            Status::Missing,
            "processes without a capability could not be given capture sockets",
            "the kernel needs CONFIG_SECCOMP_FILTER",
        ),
    }
}

/// Loads a guard with everything in use, and arms a socket with it.
fn guard() -> Layer {
    const HINT: &str = "root, CONFIG_BPF_SYSCALL, and Linux 5.12 for atomics that return a value";
    let terms = Terms {
        packets: 1,
        bytes: 1,
        deadline: 1,
        snap: 1,
        payload: 0,
        link: LINK_ETHERNET,
        any_interface: 0,
    };
    let everything = GuardPlan {
        terms: Terms {
            payload: PAYLOAD_FULL,
            ..terms
        },
        raw: Some(Vec::new()),
        cooked: Some(Vec::new()),
        interfaces: vec![1],
    };
    let trimming = GuardPlan {
        terms,
        ..everything.clone()
    };
    let layer = Layer::present("guard", "").required();
    let started = Instant::now();
    let armed = Guard::load(&trimming)
        .and_then(|_| Guard::load(&everything))
        .map_err(|error| error.to_string())
        .and_then(|guard| {
            let loaded = started.elapsed() / 2;
            let started = Instant::now();
            let call = SocketCall::of(super::SocketKind::Raw);
            arm(&guard, call)
                .map(|_| (loaded, started.elapsed()))
                .map_err(|error| error.to_string())
        });
    match armed {
        Ok((loaded, armed)) => layer.found(format!(
            "loads in {} ms, a socket is armed in {} µs",
            loaded.as_millis(),
            armed.as_micros()
        )),
        Err(why) => {
            layer
                .found(why)
                .lacks(Status::Missing, "no capture can be held to its terms", HINT)
        }
    }
}

fn fork_tagging() -> Layer {
    let layer = Layer::present("fork tagging", "tp_btf programs load and attach");
    match Tree::load() {
        Ok(_) => layer,
        Err(error) => layer.found(error.to_string()).lacks(
            Status::Missing,
            "a process can be attributed only while a single capture is open; with two, neither gets sockets",
            "root, and a kernel with CONFIG_DEBUG_INFO_BTF",
        ),
    }
}

fn cgroups() -> Layer {
    const COST: &str = "stray processes of a capture may not be found when it ends";
    let place = cgroup::own().map_or_else(String::new, |path| path.display().to_string());
    let layer = Layer::present("cgroup v2", place);
    match Cgroup::create() {
        Ok(cgroup) if cgroup.can_kill() => layer,
        Ok(_) => layer.lacks(
            Status::Degraded,
            "what is left of a server is killed one by one (cgroup.kill came with Linux 5.14)",
            "boot a newer kernel",
        ),
        Err(error) => layer.found(error.to_string()).lacks(
            Status::Missing,
            COST,
            "mount cgroup2, and let capwarden write beneath its own group (systemd: Delegate=yes)",
        ),
    }
}

fn network_guard() -> Layer {
    const COST: &str =
        "neither proxies nor the network use of servers can be held to what is granted";
    const HINT: &str = "root, cgroup v2, and a kernel with CONFIG_CGROUP_BPF; Linux 5.15 where net_cls or net_prio of cgroup v1 are in use";
    let layer = Layer::present("network guard", "");
    match network_guard_refuses() {
        Ok(loaded) => layer.found(format!("loads in {} ms, and refuses", loaded.as_millis())),
        Err(why) => layer.found(why).lacks(Status::Missing, COST, HINT),
    }
}

fn memory_caps() -> Layer {
    const COST: &str = "servers whose policy caps the memory of programs are not started";
    const HINT: &str = "run capwarden as a system service with Delegate=yes, or start the host with the memory controller (cgroup_enable=memory)";
    let layer = Layer::present("memory caps", "");
    let capped = || -> Result<&str, String> {
        let failed = |error: std::io::Error| error.to_string();
        let cgroup = Cgroup::create().map_err(failed)?;
        let user = Credentials::choose(Some("65534")).map_err(|error| error.to_string())?;
        cgroup.divide(&user).map_err(failed)?;
        let group = cgroup.program_group(1, Some(1 << 30)).map_err(failed)?;
        Ok(group.controller())
    };
    match capped() {
        Ok(controller) => layer.found(controller.to_owned()),
        Err(why) => layer.found(why).lacks(Status::Missing, COST, HINT),
    }
}

/// Has a process in a guarded cgroup ask for what nothing grants.
fn network_guard_refuses() -> Result<Duration, String> {
    let nothing = NetworkTerms {
        rules: Vec::new(),
        interfaces: NetworkInterfaces::Any,
        caps: NetworkCaps::default(),
        deadline: None,
    };
    let cgroup = Cgroup::create().map_err(|error| format!("no cgroup: {error}"))?;
    let procs = cgroup.procs().map_err(|error| error.to_string())?;
    let user = Credentials::choose(Some("65534")).map_err(|error| error.to_string())?;
    let started = Instant::now();
    let guard = NetworkGuard::attach(&cgroup, &user, &nothing);
    let _guard = guard.map_err(|error| error.to_string())?;
    let loaded = started.elapsed();
    let mut never_executed = Command::new("/proc/self/exe");
    // SAFETY: the closure makes system calls only.
    unsafe {
        never_executed.pre_exec(move || {
            rustix::io::write(&procs, b"0")?;
            let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
            bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, u16::MAX))?;
            Err(Errno::ALREADY.into())
        })
    };
    match never_executed
        .spawn()
        .map_err(|error| Errno::from_io_error(&error))
    {
        Err(Some(Errno::PERM)) => Ok(loaded),
        Err(Some(Errno::ALREADY)) => Err("it loads, but refuses nothing".to_owned()),
        Err(Some(errno)) => Err(format!("it could not be tried: {errno}")),
        Err(None) | Ok(_) => Err("it could not be tried".to_owned()),
    }
}

fn landlock() -> Layer {
    const COST: &str =
        "a server running as the same user as other processes could signal or trace them";
    /// Signals and abstract Unix sockets are scoped from this version on (Linux 6.12).
    const SCOPES: u32 = 6;
    match sys::landlock_version() {
        Ok(version) if version >= SCOPES => Layer::present("Landlock", format!("ABI {version}")),
        Ok(version) => Layer::present("Landlock", format!("ABI {version}")).lacks(
            Status::Degraded,
            "a server can signal other processes of its user (scopes came with Linux 6.12)",
            "give each server a user of its own: --user",
        ),
        Err(errno) => Layer::present("Landlock", errno.to_string()).lacks(
            Status::Missing,
            COST,
            "boot with landlock in lsm=, or give each server a user of its own: --user",
        ),
    }
}

fn backstop() -> Layer {
    /// What nothing else refuses.
    const COST: &str = "a process outside the governed tree can pass it a capture socket; the rest is refused by one layer less";
    let layer = Layer::present("BPF LSM", "");
    let error = match Backstop::shared() {
        Ok(backstop) if backstop.absent().is_empty() => {
            return layer.found("its programs run, and refuse".to_owned());
        }
        Ok(backstop) => {
            let detail = format!("its programs run; without {}", backstop.absent().join(", "));
            return layer.found(detail).lacks(
                Status::Degraded,
                "what these hooks refuse is refused by one layer less",
                "boot a newer kernel (userns_create came with Linux 6.1)",
            );
        }
        Err(error) => error,
    };
    let hint = match &error {
        BackstopError::Inactive(modules) => format!(
            "boot with lsm={modules},bpf on the kernel's command line (CONFIG_BPF_LSM)"
        ),
        BackstopError::Silent(_) => {
            "boot with bpf at the end of lsm= on the kernel's command line".to_owned()
        }
        BackstopError::Program(..) | BackstopError::Attach(..) => {
            "root, and a kernel that takes programs on security hooks (CONFIG_BPF_LSM); some refuse them to everybody".to_owned()
        }
        _ => "root, Linux 5.11, CONFIG_BPF_LSM and CONFIG_DEBUG_INFO_BTF".to_owned(),
    };
    layer
        .found(error.to_string())
        .lacks(Status::Missing, COST, &hint)
}

/// Whether a process may write the memory of another of its user that is not its child.
fn memory_of_processes() -> Layer {
    const COST: &str = "a program of a session, such as a browser, that is taken over can write the memory of the server that started it";
    const SETTING: &str = "/proc/sys/kernel/yama/ptrace_scope";
    let layer = Layer::present("Yama", "");
    match fs::read_to_string(SETTING).as_deref().map(str::trim) {
        Ok("0") => layer
            .found("kernel.yama.ptrace_scope is 0".to_owned())
            .lacks(Status::Missing, COST, "sysctl kernel.yama.ptrace_scope=1"),
        Ok(scope) => layer.found(format!("kernel.yama.ptrace_scope is {scope}")),
        Err(error) => layer.found(error.to_string()).lacks(
            Status::Missing,
            COST,
            "boot a kernel with CONFIG_SECURITY_YAMA and yama in lsm=",
        ),
    }
}

fn injection() -> Layer {
    const COST: &str =
        "whoever holds a capture socket can send frames by it, also after its session";
    const HINT: &str = "root, and a kernel with CONFIG_NET_CLS_ACT and CONFIG_NET_CLS_BPF, or Linux 6.6; or drop frames with the mark 0x63617077 on egress";
    let layer = Layer::present("injection drop", "");
    let dropped = Egress::shared().and_then(|egress| Ok((egress.drops()?, egress.way())));
    match dropped {
        Ok((Some(true), way)) => layer.found(format!(
            "{way}, a frame that a capture socket sends goes nowhere"
        )),
        Ok((None, way)) => layer.found(format!("{way}; not tried, as loopback is down")),
        Ok((Some(false), way)) => layer
            .found(format!("{way} attaches, but drops nothing"))
            .lacks(Status::Missing, COST, HINT),
        Err(error) => layer
            .found(error.to_string())
            .lacks(Status::Missing, COST, HINT),
    }
}

fn private_mounts() -> Layer {
    let layer = Layer::present(
        "private mounts",
        "servers see no daemons that start programs",
    );
    match mounts::available().and_then(|()| Mounts::without_deputies(&[], 0)) {
        Ok(_) => layer,
        Err(error) => layer.found(error.to_string()).lacks(
            Status::Missing,
            "a server can ask a container engine, a message bus or a service manager that lets its user in to start programs for it",
            "run capwarden where it may mount (CAP_SYS_ADMIN), or put the server's user in no such group",
        ),
    }
}

fn jit() -> Layer {
    let path = "/proc/sys/net/core/bpf_jit_enable";
    // Kernels that always compile have no such file.
    let setting = fs::read_to_string(path).unwrap_or_else(|_| "1".to_owned());
    let layer = Layer::present("BPF JIT", format!("bpf_jit_enable is {}", setting.trim()));
    if setting.trim() == "0" {
        return layer.lacks(
            Status::Degraded,
            "the guard costs several times more for each packet",
            "sysctl net.core.bpf_jit_enable=1",
        );
    }
    layer
}

fn tool(name: &str) -> Tool {
    let path = find(name);
    let version = path.as_deref().and_then(version);
    let note = path.as_deref().and_then(note);
    Tool {
        name: name.to_owned(),
        path: path.map(|path| path.display().to_string()),
        version,
        note,
    }
}

fn find(name: &str) -> Option<PathBuf> {
    const EXECUTABLE: u32 = 0o111;
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(name))
        .find(|path| {
            fs::metadata(path)
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & EXECUTABLE != 0)
        })
}

/// The first number in what `--version` prints.
fn version(path: &Path) -> Option<String> {
    let printed = Command::new(path).arg("--version").output().ok()?;
    let text = [printed.stdout, printed.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .next()?
        .split_whitespace()
        .map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
}

fn note(path: &Path) -> Option<String> {
    const SETUID: u32 = 0o4000;
    const BY_OTHERS: u32 = 0o001;
    let file = fs::metadata(path).ok()?;
    let mut space = [0_u8; 64];
    if file.mode() & SETUID != 0 {
        Some("is setuid: that has no effect under the guard".to_owned())
    } else if rustix::fs::getxattr(path, "security.capability", &mut space[..]).is_ok() {
        Some("has file capabilities: they have no effect under the guard".to_owned())
    } else if file.mode() & BY_OTHERS == 0 {
        Some(format!(
            "only group {} may execute it: governed processes get that group",
            file.gid()
        ))
    } else {
        None
    }
}
