//! What a process does to itself between fork and exec: system calls only, of a [`ChildPlan`] that was
//! made before. At the end it hands its seccomp listener over and waits for one byte. If anything fails,
//! nothing is executed.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use landlock::{AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Resource, Rlimit, getpid, getppid, setrlimit},
};

use super::{
    Launch,
    channel::{GO, Message, STOP, send},
    limits::first_limit,
    request::Place,
};
use crate::kernel::{cgroup::Cgroup, mounts::Mounts, seccomp, sys};

/// The child's steps, in order. The numbers go over its channel when one fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    Session = 1,
    Cgroup,
    Mounts,
    Directory,
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
    pub(super) const ALL: [Self; 14] = [
        Self::Session,
        Self::Cgroup,
        Self::Mounts,
        Self::Directory,
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

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Session => "setsid",
            Self::Cgroup => "entering its cgroup",
            Self::Mounts => "entering its mounts",
            Self::Directory => "entering its directory",
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

/// Everything that the child needs, made before the fork.
pub(super) struct ChildPlan {
    channel: OwnedFd,
    /// Its parent, for as long as that lives.
    parent: Option<Pid>,
    new_session: bool,
    /// The limit of descriptors that it gets back.
    descriptors: Option<Rlimit>,
    privileged: Option<Privileged>,
    place: Option<Place>,
    landlock: Option<OwnedFd>,
    filter: seccomp::Filter,
}

/// What only root can do to itself.
struct Privileged {
    cgroup: Option<OwnedFd>,
    mounts: Option<Mounts>,
    user: u32,
    group: u32,
    groups: Vec<u32>,
}

impl ChildPlan {
    /// For a child of the agent.
    pub(super) fn of_agent(
        launch: &Launch<'_>,
        channel: OwnedFd,
        place: Option<Place>,
    ) -> io::Result<Self> {
        let credentials = launch.credentials;
        let mounts = Mounts::without_deputies(&credentials.reach, credentials.user)?;
        Ok(Self {
            new_session: launch.piped,
            descriptors: Some(first_limit()),
            privileged: Some(Privileged {
                cgroup: launch.cgroup.map(Cgroup::procs).transpose()?,
                mounts,
                user: credentials.user,
                group: credentials.group,
                groups: credentials.groups.clone(),
            }),
            ..Self::of_launcher(channel, place)
        })
    }

    /// For a child of somebody without privileges, who has the user, the groups and the mounts that it is to have.
    /// The agent moves it into its cgroup.
    pub(super) fn of_launcher(channel: OwnedFd, place: Option<Place>) -> Self {
        Self {
            channel,
            parent: Some(getpid()),
            new_session: true,
            descriptors: None,
            privileged: None,
            place,
            landlock: landlock_domain(),
            filter: seccomp::governed(),
        }
    }

    /// The child's side.
    pub(super) fn confine(mut self) -> io::Result<()> {
        self.steps().map_err(|(step, errno)| {
            let _ = send(&self.channel, Message::Failed(step, errno), &[]);
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
        if let Some(privileged) = &self.privileged {
            privileged.steps()?;
        }
        // As the user that it is by now.
        if let Some(place) = &self.place {
            place.enter().map_err(at(Step::Directory))?;
        }
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
        let confined = Message::Confined(std::process::id());
        send(&self.channel, confined, &[listener])?;
        self.wait_while_the_parent_lives()?;
        let mut byte = [STOP];
        // Nothing at all where the agent has gone.
        match rustix::io::read(&self.channel, &mut byte)? {
            1 if byte == [GO] => Ok(()),
            _ => Err(Errno::CANCELED),
        }
    }

    /// Waits for the agent's byte. That a parent has died does not show on a socket pair: until it executes
    /// something, this process has the agent's end too, and so may another that is being started.
    fn wait_while_the_parent_lives(&self) -> Result<(), Errno> {
        const LOOK_AGAIN: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let mut channel = [PollFd::new(&self.channel, PollFlags::IN)];
        loop {
            match poll(&mut channel, Some(&LOOK_AGAIN)) {
                Ok(0) if getppid() != self.parent => return Err(Errno::CANCELED),
                Ok(0) | Err(Errno::INTR) => {}
                ready => return ready.map(drop),
            }
        }
    }
}

impl Privileged {
    fn steps(&self) -> Result<(), (Step, Errno)> {
        let at = |step| move |errno| (step, errno);
        if let Some(procs) = &self.cgroup {
            rustix::io::write(procs, b"0").map_err(at(Step::Cgroup))?;
        }
        if let Some(mounts) = &self.mounts {
            mounts.enter().map_err(at(Step::Mounts))?;
        }
        sys::drop_bounding_set().map_err(at(Step::BoundingSet))?;
        sys::set_groups(&self.groups).map_err(at(Step::Groups))?;
        sys::set_group_id(self.group).map_err(at(Step::GroupId))?;
        sys::set_user_id(self.user).map_err(at(Step::UserId))
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
