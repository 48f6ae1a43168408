//! A governed process as a child of the agent.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    thread,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::process::Command;

use super::{
    Governed, Launch, LaunchError, Started,
    channel::{self, GO, Message, STOP},
    limits::{DESCRIPTORS, descriptors},
    request::{Place, Request},
    steps::{ChildPlan, Step},
};
use crate::kernel::notify::Listener;

/// See [`launch_by`](super::launch_by).
pub(super) fn launch<T: Send>(
    launch: &Launch<'_>,
    admit: impl FnOnce(u32, Listener) -> io::Result<T> + Send,
) -> Result<(Governed, T), LaunchError> {
    let prepare = |source: io::Error| launch.prepare(source);
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| prepare(error.into()))?;
    let request = launch.request();
    // Where the agent is it is anyway.
    let place = Some(request.place.clone()).filter(|place| matches!(place, Place::In(_)));
    let mut command = command(request);
    let pipes = launch.pipes().map_err(prepare)?.map(|(ours, theirs)| {
        command.stdin(theirs.input).stdout(theirs.output);
        ours
    });
    let plan = ChildPlan::of_agent(launch, theirs, place).map_err(prepare)?;
    descriptors(DESCRIPTORS);
    let mut plan = Some(plan);
    // SAFETY: the closure makes system calls only; it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || plan.take().map_or(Ok(()), ChildPlan::confine));
    }

    // `spawn` returns after exec, and exec waits for our byte: so that is another thread's task.
    thread::scope(|scope| {
        let admission = scope.spawn(move || receive(ours, admit));
        let spawned = command.spawn();
        drop(command); // closes our copy of the child's end: the admission thread cannot hang
        let admitted = admission
            .join()
            .unwrap_or_else(|_| Err(Admission::Failed(io::Error::other("admission panicked"))));
        match (spawned, admitted) {
            (Ok(child), Ok((pid, admitted))) => {
                let process = Started::Forked(child);
                let governed = Governed {
                    pid,
                    pipes,
                    process,
                };
                Ok((governed, admitted))
            }
            (_, Err(Admission::Step(step, source))) => Err(launch.stopped_at(step, source)),
            (Err(source), Ok(_)) => Err(LaunchError::Execute {
                program: launch.program(),
                source,
            }),
            (_, Err(Admission::Failed(source))) => Err(prepare(source)),
        }
    })
}

fn command(request: Request) -> Command {
    let mut words = request.command.into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).env_clear().envs(request.environment);
    command
}

enum Admission {
    Step(Step, io::Error),
    Failed(io::Error),
}

/// Stops a child that waits: that this end is closed does not show, since the child has it, too.
struct Stopping(OwnedFd);

impl Drop for Stopping {
    fn drop(&mut self) {
        // One that goes on already hears nothing any more.
        let _ = channel::send_bytes(&self.0, &[STOP], &[]);
    }
}

/// The agent's side of the socket pair.
fn receive<T>(
    channel: OwnedFd,
    admit: impl FnOnce(u32, Listener) -> io::Result<T>,
) -> Result<(u32, T), Admission> {
    let failed = |error: rustix::io::Errno| Admission::Failed(error.into());
    let channel = Stopping(channel); // on every way out but one, the child goes no further
    channel::wait(&channel.0, None).map_err(failed)?;
    let Some(received) = channel::receive(channel.0.as_fd()).map_err(failed)? else {
        return Err(Admission::Failed(io::ErrorKind::UnexpectedEof.into()));
    };
    match (received.message, received.descriptor) {
        (Message::Failed(step, errno), _) => Err(Admission::Step(step, errno.into())),
        (Message::Confined(pid), Some(listener)) => {
            let admitted = admit(pid, Listener::new(listener)).map_err(Admission::Failed)?;
            channel::send_bytes(&channel.0, &[GO], &[]).map_err(failed)?;
            Ok((pid, admitted))
        }
        _ => Err(Admission::Failed(io::Error::other("no listener came"))),
    }
}
