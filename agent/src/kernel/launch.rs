//! Starts a governed process: confined before its first instruction, known to the agent before it
//! can fork.
//!
//! The child's side runs between fork and exec, so it allocates nothing; everything is prepared
//! in a [`ChildPlan`]. Its steps, in order, are those of [`Step`]. At the end it sends its seccomp
//! listener over a socket pair and waits for one byte: meanwhile the agent tags it and starts the
//! broker. If anything fails, nothing is executed.

use std::{
    ffi::{OsStr, OsString},
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    process::Stdio,
    sync::OnceLock,
    thread,
};

use landlock::{AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
    process::{Pid, Resource, Rlimit, getpid, getppid, getrlimit, setrlimit},
};
use tokio::process::{Child, Command};

use super::{cgroup::Cgroup, mounts::Mounts, notify::Listener, seccomp, sys, users::Credentials};

/// What to start, and as whom.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Program and arguments.
    pub command: &'a [OsString],
    /// Whose ids it gets, and whom it may reach.
    pub credentials: &'a Credentials,
    /// Where it lives; none where the host offers no cgroup.
    pub cgroup: Option<&'a Cgroup>,
    /// Give it pipes for standard input and output (an MCP server) instead of the agent's own.
    pub piped: bool,
}

/// A governed process, running.
#[derive(Debug)]
pub struct Governed {
    /// The process. Its exit does not end its descendants.
    pub child: Child,
    /// Its id.
    pub pid: u32,
}

/// Why it could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The program is not there, or may not be executed by the governed user.
    #[error("cannot execute {program}: {source}")]
    Execute {
        /// As it was named.
        program: String,
        /// What `exec` said.
        source: io::Error,
    },
    /// The confinement could not be put on; nothing was executed.
    #[error("cannot confine {program}: {step}: {source}")]
    Confine {
        /// As it was named.
        program: String,
        /// Which step.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The agent's side failed.
    #[error("cannot start {program}: {source}")]
    Prepare {
        /// As it was named.
        program: String,
        /// What failed.
        source: io::Error,
    },
}

/// The child's steps. The numbers go over the socket pair when one fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Session = 1,
    Cgroup,
    Mounts,
    BoundingSet,
    Groups,
    GroupId,
    UserId,
    Capabilities,
    NoNewPrivileges,
    Landlock,
    CloseDescriptors,
    Seccomp,
    Listener,
}

impl Step {
    const ALL: [Self; 13] = [
        Self::Session,
        Self::Cgroup,
        Self::Mounts,
        Self::BoundingSet,
        Self::Groups,
        Self::GroupId,
        Self::UserId,
        Self::Capabilities,
        Self::NoNewPrivileges,
        Self::Landlock,
        Self::CloseDescriptors,
        Self::Seccomp,
        Self::Listener,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Session => "setsid",
            Self::Cgroup => "entering its cgroup",
            Self::Mounts => "entering its mounts",
            Self::BoundingSet => "dropping the capability bounding set",
            Self::Groups => "setgroups",
            Self::GroupId => "setresgid",
            Self::UserId => "setresuid",
            Self::Capabilities => "capset",
            Self::NoNewPrivileges => "no_new_privs",
            Self::Landlock => "landlock_restrict_self",
            Self::CloseDescriptors => "close_range",
            Self::Seccomp => {
                "installing the seccomp filter (is the agent itself under another seccomp supervisor?)"
            }
            Self::Listener => "handing its listener over",
        }
    }
}

/// Starts `launch`. `admit` is called with the process id and the listener once the process is
/// confined and before it executes anything; when it fails, the process ends there.
pub fn launch<T: Send>(
    launch: &Launch<'_>,
    admit: impl FnOnce(u32, Listener) -> io::Result<T> + Send,
) -> Result<(Governed, T), LaunchError> {
    let program = || {
        let program = launch.command.first();
        program.map_or_else(String::new, |program| {
            program.to_string_lossy().into_owned()
        })
    };
    let prepare = |source: io::Error| LaunchError::Prepare {
        program: program(),
        source,
    };
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| prepare(error.into()))?;
    let mut command = command(launch);
    let mut plan = ChildPlan::new(launch, theirs).map_err(prepare)?;
    descriptors(DESCRIPTORS);
    plan.descriptors = Some(first_limit());
    let mut plan = Some(plan);
    // SAFETY: the closure makes system calls only; it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || plan.take().map_or(Ok(()), ChildPlan::confine));
    }

    sys::ignore_signals();
    // `spawn` returns after exec, and exec waits for our byte: so that is another thread's task.
    thread::scope(|scope| {
        let admission = scope.spawn(move || receive(ours, admit));
        let spawned = command.spawn();
        drop(command); // closes our copy of the child's end: the admission thread cannot hang
        let admitted = admission
            .join()
            .unwrap_or_else(|_| Err(Admission::Failed(io::Error::other("admission panicked"))));
        match (spawned, admitted) {
            (Ok(child), Ok((pid, admitted))) => Ok((Governed { child, pid }, admitted)),
            (_, Err(Admission::Step(step, source))) => Err(LaunchError::Confine {
                program: program(),
                step: step.name(),
                source,
            }),
            (Err(source), Ok(_)) => Err(LaunchError::Execute {
                program: program(),
                source,
            }),
            (_, Err(Admission::Failed(source))) => Err(prepare(source)),
        }
    })
}

fn command(launch: &Launch<'_>) -> Command {
    let (program, arguments) = match launch.command {
        [program, arguments @ ..] => (program.as_os_str(), arguments),
        [] => (OsStr::new(""), launch.command),
    };
    let mut command = Command::new(program);
    command.args(arguments);
    if launch.piped {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
    }
    let surroundings = &launch.credentials.surroundings;
    if let Some(directory) = &surroundings.directory {
        command.current_dir(directory);
    }
    if surroundings.environment.is_some() {
        command.env_clear();
    }
    command.envs(launch.credentials.environment());
    command.envs(surroundings.environment.iter().flatten().cloned());
    command
}

enum Admission {
    Step(Step, io::Error),
    Failed(io::Error),
}

/// The agent's side of the socket pair.
fn receive<T>(
    channel: OwnedFd,
    admit: impl FnOnce(u32, Listener) -> io::Result<T>,
) -> Result<(u32, T), Admission> {
    let failed = |error: Errno| Admission::Failed(error.into());
    let channel = channel; // owned: on every way out it closes, and the child goes no further
    let mut message = [0_u8; 5];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        &channel,
        &mut [io::IoSliceMut::new(&mut message)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .map_err(failed)?;
    let [kind, value @ ..] = message;
    let value = u32::from_ne_bytes(value);
    if received.bytes != message.len() {
        return Err(Admission::Failed(io::ErrorKind::UnexpectedEof.into()));
    }
    if let Some(step) = Step::ALL.into_iter().find(|step| *step as u8 == kind) {
        let error = io::Error::from_raw_os_error(value.cast_signed());
        return Err(Admission::Step(step, error));
    }
    let listener = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let listener =
        listener.ok_or_else(|| Admission::Failed(io::Error::other("no listener came")))?;
    let admitted = admit(value, Listener::new(listener)).map_err(Admission::Failed)?;
    rustix::io::write(&channel, &[1]).map_err(failed)?;
    Ok((value, admitted))
}

/// Everything that the child needs, made before the fork.
struct ChildPlan {
    channel: OwnedFd,
    /// Its parent, for as long as that lives.
    agent: Option<Pid>,
    new_session: bool,
    cgroup: Option<OwnedFd>,
    mounts: Option<Mounts>,
    user: u32,
    group: u32,
    groups: Vec<u32>,
    landlock: Option<OwnedFd>,
    filter: seccomp::Filter,
    /// The limit that the agent was started with.
    descriptors: Option<Rlimit>,
}

/// Descriptors of the agent: one for each capture socket, of which a session has up to 64, and
/// there are up to 64 sessions. The usual limit of 1,024 is for programs that call `select`.
const DESCRIPTORS: u64 = 8_192;

/// The limit that the agent was started with, which servers get back.
fn first_limit() -> Rlimit {
    static FIRST: OnceLock<Rlimit> = OnceLock::new();
    *FIRST.get_or_init(|| getrlimit(Resource::Nofile))
}

/// Raises the agent's limit of descriptors to so many, or as far as it may, and returns what it is
/// then. What it starts has the limit that it had itself.
pub fn descriptors(wanted: u64) -> u64 {
    first_limit();
    let before = getrlimit(Resource::Nofile);
    let wanted = before.maximum.map_or(wanted, |most| most.min(wanted));
    let Some(now) = before.current.filter(|now| *now < wanted) else {
        return before.current.unwrap_or(u64::MAX);
    };
    let raised = Rlimit {
        current: Some(wanted),
        ..before
    };
    setrlimit(Resource::Nofile, raised).map_or(now, |()| wanted)
}

impl ChildPlan {
    fn new(launch: &Launch<'_>, channel: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            channel,
            agent: Some(getpid()),
            new_session: launch.piped,
            cgroup: launch.cgroup.map(Cgroup::procs).transpose()?,
            mounts: {
                let Credentials { reach, user, .. } = launch.credentials;
                let mounts = Mounts::without_deputies(reach, *user)?;
                let directory = launch.credentials.surroundings.directory.as_deref();
                mounts.map(|mounts| mounts.at(directory)).transpose()?
            },
            user: launch.credentials.user,
            group: launch.credentials.group,
            groups: launch.credentials.groups.clone(),
            landlock: landlock_domain(),
            filter: seccomp::governed(),
            descriptors: None,
        })
    }

    /// The child's side.
    fn confine(mut self) -> io::Result<()> {
        self.steps().map_err(|(step, errno)| {
            let mut message = [step as u8, 0, 0, 0, 0];
            if let Some(value) = message.get_mut(1..) {
                value.copy_from_slice(&errno.raw_os_error().to_ne_bytes());
            }
            let _ = rustix::io::write(&self.channel, &message);
            io::Error::from_raw_os_error(errno.raw_os_error())
        })
    }

    fn steps(&mut self) -> Result<(), (Step, Errno)> {
        let at = |step| move |errno| (step, errno);
        sys::restore_signals();
        if let Some(limit) = self.descriptors.take() {
            // It was allowed before, so it is now.
            let _ = setrlimit(Resource::Nofile, limit);
        }
        sys::new_session_keyring();
        if self.new_session {
            // A server has no business with the terminal that its client may run in.
            rustix::process::setsid().map_err(at(Step::Session))?;
        }
        if let Some(procs) = &self.cgroup {
            rustix::io::write(procs, b"0").map_err(at(Step::Cgroup))?;
        }
        if let Some(mounts) = &self.mounts {
            mounts.enter().map_err(at(Step::Mounts))?;
        }
        sys::drop_bounding_set().map_err(at(Step::BoundingSet))?;
        sys::set_groups(&self.groups).map_err(at(Step::Groups))?;
        sys::set_group_id(self.group).map_err(at(Step::GroupId))?;
        sys::set_user_id(self.user).map_err(at(Step::UserId))?;
        sys::clear_capabilities().map_err(at(Step::Capabilities))?;
        rustix::thread::set_no_new_privs(true).map_err(at(Step::NoNewPrivileges))?;
        if let Some(domain) = &self.landlock {
            sys::landlock_restrict_self(domain.as_fd()).map_err(at(Step::Landlock))?;
        }
        sys::close_on_exec_from(3).map_err(at(Step::CloseDescriptors))?;
        let listener = sys::install_filter(&self.filter).map_err(at(Step::Seccomp))?;
        self.hand_over(listener.as_fd()).map_err(at(Step::Listener))
    }

    fn hand_over(&self, listener: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut message = [0_u8; 5];
        if let Some(value) = message.get_mut(1..) {
            value.copy_from_slice(&std::process::id().to_ne_bytes());
        }
        let fds = [listener];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(
            &self.channel,
            &[io::IoSlice::new(&message)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )?;
        self.wait_while_the_agent_lives()?;
        let mut go = [0_u8; 1];
        // No byte: the agent refused.
        match rustix::io::read(&self.channel, &mut go)? {
            1 => Ok(()),
            _ => Err(Errno::CANCELED),
        }
    }

    /// Waits for the agent's byte. That an agent has died does not show on the socket pair: until it executes
    /// something, this process has the agent's end too, and so may another that is being started.
    fn wait_while_the_agent_lives(&self) -> Result<(), Errno> {
        const LOOK_AGAIN: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let mut channel = [PollFd::new(&self.channel, PollFlags::IN)];
        loop {
            match poll(&mut channel, Some(&LOOK_AGAIN)) {
                Ok(0) if getppid() != self.agent => return Err(Errno::CANCELED),
                Ok(0) | Err(Errno::INTR) => {}
                ready => return ready.map(drop),
            }
        }
    }
}

/// A Landlock domain that takes nothing from a server but what it needs privilege for anyway, and
/// gives what comes with every domain: no ptrace, no `/proc/<pid>/mem` of processes outside it,
/// and (ABI 6, Linux 6.12) no signals to them and no abstract Unix sockets of theirs.
fn landlock_domain() -> Option<OwnedFd> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::MakeChar | AccessFs::MakeBlock)
        .and_then(|ruleset| ruleset.scope(Scope::Signal))
        .and_then(|ruleset| ruleset.scope(Scope::AbstractUnixSocket))
        .and_then(Ruleset::create)
        .ok()
        .and_then(Option::<OwnedFd>::from)
}

impl std::fmt::Debug for ChildPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChildPlan")
            .field("channel", &self.channel.as_raw_fd())
            .finish_non_exhaustive()
    }
}
