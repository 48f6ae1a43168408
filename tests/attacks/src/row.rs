//! The rows of the matrix: what an attack is, what must stop it, and what its attacker must see.

use serde::{Deserialize, Serialize};

use crate::{attacker::Attacker, sys::Way};

/// What came of an attack, or the errno of what the attacker could not do.
pub(crate) type Outcome = Result<Seen, i32>;

/// What an attacker saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Seen {
    /// It has what it wanted.
    Won(String),
    /// So many packets, or parts of them, that were not to be had.
    Heard(u64),
    /// The calls succeeded and it has nothing from them.
    Nothing(String),
    /// A call failed.
    Errno(i32),
    /// A signal killed it.
    Killed(i32),
    /// The attacker could not be tried.
    Broken(String),
}

impl Seen {
    pub(crate) fn won(what: impl Into<String>) -> Outcome {
        Ok(Self::Won(what.into()))
    }

    pub(crate) fn nothing(what: impl Into<String>) -> Outcome {
        Ok(Self::Nothing(what.into()))
    }

    pub(crate) fn broken(what: impl Into<String>) -> Outcome {
        Ok(Self::Broken(what.into()))
    }
}

/// What stands in an attack's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// The seccomp filter.
    Seccomp,
    /// The agent's answer to a notification.
    Broker,
    /// The eBPF program on a capture socket.
    Guard,
    /// `SO_LOCK_FILTER`.
    Lock,
    /// No capabilities, and no way to new ones.
    Powerless,
    /// The Landlock domain.
    Landlock,
    /// How a governed process is started: descriptors, keyring.
    Launch,
    /// eBPF on the server's cgroup.
    Network,
    /// Whose files they are.
    User,
    /// BPF LSM.
    Lsm,
    /// The egress program that drops what capture sockets send.
    Egress,
    /// The mount namespace without daemons' sockets.
    Mounts,
}

impl Layer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Seccomp => "seccomp",
            Self::Broker => "broker",
            Self::Guard => "guard",
            Self::Lock => "filter lock",
            Self::Powerless => "no capabilities",
            Self::Landlock => "Landlock",
            Self::Launch => "launch",
            Self::Network => "network guard",
            Self::User => "user",
            Self::Lsm => "BPF LSM",
            Self::Egress => "egress",
            Self::Mounts => "own mounts",
        }
    }
}

/// What a governed attacker must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Must {
    /// This errno.
    Errno(i32),
    /// One of these: which one is the kernel's choice.
    OneOf(&'static [i32]),
    /// At most so many packets.
    Heard(u64),
    /// The calls succeed, and nothing comes of them.
    Nothing,
    /// This errno, or nothing comes of it: there are two layers, and the first that a host has stops it.
    ErrnoOrNothing(i32),
    /// It works: SECURITY.md says so, for this reason.
    Residual(&'static str),
}

/// Who the attack works for without capwarden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Free {
    /// Root only.
    Root,
    /// Every user.
    Anyone,
}

/// Where the governed attacker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Setting {
    /// In a server without a session: it has no capture socket, and gets none.
    Bare,
    /// In `capwarden exec` with these options besides [`GRANT`].
    Granted(&'static str),
    /// The same, once the agent has been killed.
    Orphaned,
    /// In a server whose network is bounded to [`BASELINE`].
    Bounded,
}

/// What a granted attacker may capture: `stage::world` sends more than that.
pub(crate) const GRANT: &[&str] = &[
    "--interface",
    "cw0",
    "--filter",
    "udp dst port 7001",
    "--payload",
    "headers",
];

/// What a bounded attacker may connect to.
pub(crate) const BASELINE: &str = "udp:127.0.0.1:7009";

/// By which doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ways {
    Native,
    All,
    /// A call that only the 32-bit table has.
    I386,
}

impl Ways {
    pub(crate) fn each(self) -> &'static [Way] {
        match self {
            Self::Native => &[Way::Native],
            Self::All => &Way::ALL,
            Self::I386 => &[Way::I386],
        }
    }
}

/// Layers that not every host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Needs {
    /// As `capwarden doctor --json` names them; one of them does.
    pub(crate) layers: &'static [&'static str],
    /// What is stated of hosts without any of them.
    pub(crate) without: &'static str,
}

/// One attack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) id: &'static str,
    /// What is attempted, in a few words.
    pub(crate) says: &'static str,
    /// What must stop it.
    pub(crate) layer: Layer,
    pub(crate) run: fn(&mut Attacker) -> Outcome,
    pub(crate) must: Must,
    /// What uid 0 must see, where that is something else.
    pub(crate) root: Option<Must>,
    pub(crate) free: Free,
    pub(crate) setting: Setting,
    pub(crate) ways: Ways,
    /// What an ungoverned attacker sees on kernels that cannot do it.
    pub(crate) absent: &'static [i32],
    pub(crate) needs: Option<Needs>,
}

/// A row whose attacker must see this; by every door, and for root only without capwarden.
pub(crate) const fn row(
    id: &'static str,
    says: &'static str,
    layer: Layer,
    must: Must,
    run: fn(&mut Attacker) -> Outcome,
) -> Row {
    Row {
        id,
        says,
        layer,
        run,
        must,
        root: None,
        free: Free::Root,
        setting: Setting::Bare,
        ways: Ways::Native,
        absent: &[],
        needs: None,
    }
}

impl Row {
    pub(crate) const fn anyone(mut self) -> Self {
        self.free = Free::Anyone;
        self
    }

    pub(crate) const fn every_way(mut self) -> Self {
        self.ways = Ways::All;
        self
    }

    pub(crate) const fn i386_only(mut self) -> Self {
        self.ways = Ways::I386;
        self
    }

    pub(crate) const fn within(mut self, setting: Setting) -> Self {
        self.setting = setting;
        self
    }

    pub(crate) const fn root(mut self, must: Must) -> Self {
        self.root = Some(must);
        self
    }

    pub(crate) const fn absent(mut self, errnos: &'static [i32]) -> Self {
        self.absent = errnos;
        self
    }

    pub(crate) const fn needs(
        mut self,
        layers: &'static [&'static str],
        without: &'static str,
    ) -> Self {
        self.needs = Some(Needs { layers, without });
        self
    }

    /// What a governed attacker of this user must see.
    pub(crate) fn must(&self, user: u32) -> Must {
        match self.root {
            Some(must) if user == 0 => must,
            _ => self.must,
        }
    }
}
