//! The filter that a process attaches to its capture socket itself: whether it is one, how many
//! of them there may be, and putting it in front of the grant.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    filter::{Insn, Program, ProgramError, translate_own},
    kernel::{Caller, Errno, LoadedFilter, Slot, SocketKind},
};

/// Own filters that one session may attach in all: libpcap attaches two for each socket.
const MAX_ATTACHED: u32 = 256;
/// How long the agent may work on them in all: for a millisecond each, unless they are made to
/// take long. Others that want to attach one may have to wait meanwhile.
const MAX_WORK: Duration = Duration::from_secs(5);
/// One that takes the verifier this long is made to, and is the session's last. The verifier itself
/// gives up after a million steps, which are some seconds.
const MADE_TO_TAKE_LONG: Duration = Duration::from_millis(250);

/// What a capture tool is told about a filter that cannot run here: to it, this is a kernel
/// without socket filters. libpcap then filters by itself, without a warning; what it says about
/// other errors would be wrong advice.
pub(super) const FILTER_YOURSELF: Errno = Errno::NOPROTOOPT;

/// What one session has spent on own filters.
#[derive(Debug, Default)]
pub(super) struct Spent {
    attached: u32,
    work: Duration,
}

impl Spent {
    /// Takes one more filter into account; false if there have been too many.
    pub(super) fn one_more(&mut self) -> bool {
        if self.attached >= MAX_ATTACHED || self.work >= MAX_WORK {
            return false;
        }
        self.attached += 1;
        true
    }

    pub(super) fn worked(&mut self, time: Duration) {
        let time = if time < MADE_TO_TAKE_LONG {
            time
        } else {
            MAX_WORK
        };
        self.work = self.work.saturating_add(time);
    }
}

/// An own filter that is in its slot now.
#[derive(Clone, Debug)]
pub(super) struct Attached {
    pub(super) caller: Caller,
    pub(super) kind: SocketKind,
    pub(super) program: Program,
}

/// The program that a process wants to attach.
///
/// # Errors
/// What the kernel would say, or [`FILTER_YOURSELF`] where it would run a program that is no
/// function of the packet.
pub(super) fn check(mut insns: Vec<Insn>) -> Result<Program, Errno> {
    let mut understood = true;
    // One turn for each kind of load that is refused, of which there are a dozen.
    loop {
        match Program::new(insns.clone()) {
            Ok(program) if understood => return Ok(program),
            Ok(_) => return Err(FILTER_YOURSELF),
            Err(ProgramError::NotOfThePacket { at, .. }) => {
                // The kernel takes this load, so it decides by the rest of the program.
                const LOAD_CONSTANT: u16 = 0;
                let Some(refused) = insns.get(at).copied() else {
                    return Err(Errno::INVAL);
                };
                understood = false;
                let same = |insn: &&mut Insn| (insn.code, insn.k) == (refused.code, refused.k);
                for insn in insns.iter_mut().filter(same) {
                    insn.code = LOAD_CONSTANT;
                }
            }
            Err(_) => return Err(Errno::INVAL),
        }
    }
}

/// Loads the filter for a slot, which is as it was. Takes as long as the verifier does.
pub(super) fn load(slot: &Slot, program: &Program) -> Result<LoadedFilter, Errno> {
    let code = if program.accepts_nothing() {
        // libpcap attaches `ret #0` first, then reads away what was queued before.
        None
    } else {
        let code = translate_own(program);
        Some(code.map_err(|error| {
            tracing::debug!(%error, "a process's own filter cannot be translated");
            FILTER_YOURSELF
        })?)
    };
    slot.load(code.as_deref()).map_err(|error| {
        tracing::debug!(%error, "the kernel refuses a process's own filter");
        FILTER_YOURSELF
    })
}

/// The slot of a socket, changed by one caller at a time.
#[derive(Debug)]
pub(super) struct Place {
    slot: Slot,
    changing: Mutex<()>,
}

impl Place {
    pub(super) fn new(slot: Slot) -> Self {
        Self {
            slot,
            changing: Mutex::new(()),
        }
    }

    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Puts a loaded filter there if its caller still waits. Whatever else the caller may do comes
    /// after that, and so it does here.
    pub(super) fn put(
        &self,
        filter: &LoadedFilter,
        waits: impl FnOnce() -> bool,
    ) -> Result<(), Errno> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !waits() {
            return Err(Errno::INTR);
        }
        self.slot.put(filter)
    }

    /// Takes off what is there.
    pub(super) fn clear(&self) -> Result<(), Errno> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.slot.clear()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: Insn = Insn::new(0x20, 0, 0, 0xffff_f038);
    const CPU: Insn = Insn::new(0x20, 0, 0, 0xffff_f024);
    const RETURN_A: Insn = Insn::new(0x16, 0, 0, 0);

    #[test]
    fn what_the_kernel_alone_can_run_is_told_from_garbage() {
        assert!(check(vec![Insn::new(0x06, 0, 0, 1)]).is_ok());
        for (insns, errno) in [
            (vec![RANDOM, RETURN_A], FILTER_YOURSELF),
            (vec![RANDOM, CPU, RANDOM, RETURN_A], FILTER_YOURSELF),
            (vec![RANDOM, CPU], Errno::INVAL),
            (
                vec![RANDOM, Insn::new(0x05, 0, 0, 9), RETURN_A],
                Errno::INVAL,
            ),
            (vec![Insn::new(0xffff, 0, 0, 0)], Errno::INVAL),
            (vec![], Errno::INVAL),
        ] {
            assert_eq!(check(insns.clone()).unwrap_err(), errno, "{insns:?}");
        }
    }

    #[test]
    fn session_attaches_only_so_many_and_only_for_so_long() {
        let mut spent = Spent::default();
        let allowed = (0..1_000).filter(|_| spent.one_more()).count();
        assert_eq!(allowed, usize::try_from(MAX_ATTACHED).unwrap());
        let mut spent = Spent::default();
        assert!(spent.one_more());
        spent.worked(Duration::MAX);
        assert!(!spent.one_more());
    }
}
