//! The network guard of one governed server: what its sockets may do, and how much passes them,
//! without a session (the *baseline*) and within each.
//!
//! ```text
//!  rules ──▶ bind, connect, sendto ──▶ tag on the socket: slot, use of the slot, role
//!                                                │ accepted sockets inherit it
//!  caps, interfaces, deadline ──▶ every packet ◀─┘
//! ```
//! It is attached to the server's cgroup before the server is started, by the old way
//! (`BPF_PROG_ATTACH`), which lasts as long as the cgroup and its sockets do: an agent that dies
//! leaves its servers bounded. So nothing is ever detached.
//!
//! # Which way round is closed by what
//!
//! | to | stands in the way |
//! |---|---|
//! | listen on, connect or send to what no rule names; the same as `::ffff:1.2.3.4`, by `MSG_FASTOPEN`, from a connected UDP socket | `bind`, `connect`, `sendmsg` hooks |
//! | connect to `0.0.0.0` or `::`, by which the kernel means the host | the same; no rule allows it |
//! | bind to a granted address a socket that is bound to another already | tags are given after the bind, of what the kernel did |
//! | listen without a bind, on a socket that was connected and is no more, or that has come loose from what it was bound to | a listener's packets need the role, and the address of its tag |
//! | receive from others than one has sent to, by UDP | unless it is a listener, the sender of each datagram needs a rule |
//! | carry a socket over into another session, or into the baseline, which outlives it | a tag stays what it is for as long as the socket lives |
//! | MPTCP, SCTP, UDP-Lite, SMC, ping and raw sockets | `sock_create`; of the first four seccomp says that there are none, so that programs fall back |
//! | source routes; options that delay or redirect | each packet's IP header; `setsockopt` |
//! | IPv6 extension headers, which can lead elsewhere or hide the sender | but those that TCP and UDP have by themselves do not go out, and who hides is not heard |
//! | data in the first packet of a connection (`TCP_FASTOPEN`) | that packet is one like any other, and not heard beyond the cap on connections |
//! | another interface (`SO_BINDTODEVICE`, `IP_PKTINFO`, a route) | each packet's interface |
//! | `SO_REUSEPORT` | a process of the server that shares the port has the rule itself, and ends with it; the kernel keeps other users away |
//! | `splice`, `sendfile`, `MSG_ZEROCOPY`, `SO_PEEK_OFF` | these are packets all the same |
//! | io_uring, foreign system call tables, namespaces, sockets of other families | seccomp |
//! | detach the programs, write to their maps | `bpf` needs capabilities, and seccomp refuses it |
//! | leave the cgroup | its files: see [`NetworkGuard::attach`] |
//!
//! Not closed here: sockets that a process outside gives to the server (`SCM_RIGHTS`), or what it
//! does for it (a D-Bus service, a proxy behind a Unix socket): those are not the server's, and
//! take a user of its own (`--user`). What a listener had queued when its session ended may still be
//! read. Packets of a connection in TIME_WAIT are not counted: they carry no data.
//!
//! # What it costs
//! About 0.2 µs for a packet, and as much for an address with a few rules: 2 % of what a relay between
//! two sockets of this host does, whose system calls cost it half a percent more (see `seccomp`). The verifier reads some
//! 500,000 instructions before a server starts, which takes a quarter of a second on two CPUs.
//!
//! # What it needs
//! Linux 5.14, as all of capwarden. What it is made of came with:
//!
//! | what | Linux | |
//! |---|---|---|
//! | `cgroup/bind4`, `bind6`, `connect4`, `connect6` | 4.17 | <https://github.com/torvalds/linux/commit/4fbac77d2d092b475dda9eea66da674369665427> |
//! | `cgroup/sendmsg4`, `sendmsg6` | 4.18 | <https://github.com/torvalds/linux/blob/v4.18/net/ipv4/udp.c> |
//! | storage of sockets | 5.2 | <https://github.com/torvalds/linux/commit/6ac99e8f23d4b10258406ca0dd7bffca5f31da9d> |
//! | … in the hooks of addresses and of `sock_ops`, and `cgroup/setsockopt` | 5.3 | <https://github.com/torvalds/linux/commit/fb85c4a730af221339c1dde1a434b73da0dfc3ed>, <https://github.com/torvalds/linux/blob/v5.3/kernel/bpf/cgroup.c> |
//! | … inherited by accepted sockets | 5.4 | <https://github.com/torvalds/linux/blob/v5.4/net/core/bpf_sk_storage.c> |
//! | … in `post_bind4`, `post_bind6` | 5.9 | <https://github.com/torvalds/linux/commit/f7c6cb1d9728dea9d9f131ef57303d6821afb0f8> |
//! | sockets listed with their storage, to close those of a session that has ended | 5.7 | <https://github.com/torvalds/linux/blob/v5.7/net/core/bpf_sk_storage.c> |
//! | … and closed (`CONFIG_INET_DIAG_DESTROY`; without it peers wait until they give up) | 4.5 | <https://github.com/torvalds/linux/blob/v4.5/net/core/sock_diag.c> |
//! | ring buffers, the clock that goes on while the host is suspended | 5.8 | <https://github.com/torvalds/linux/blob/v5.8/kernel/bpf/ringbuf.c> |
//! | additions that return the sum | 5.12 | <https://github.com/torvalds/linux/blob/v5.12/kernel/bpf/verifier.c#L3606> |
//!
//! Before Linux 5.15, a host that has used `net_cls` or `net_prio` of cgroup v1 asks no program about
//! its new sockets (<https://github.com/torvalds/linux/commit/8520e224f547cd070c7c8f97b1fc6d58cff7ccaa>).
//! `probe` finds that out by trying.

mod events;
mod object;
mod resets;
mod terms;

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aya::maps::{Array, MapData, MapError, RingBuf};
use capwarden_abi::{
    MAX_INTERFACES,
    network::{MAX_RULES, Rule, SLOTS, SlotControl, SlotState, Totals},
};
use rustix::io::Errno;

pub use events::{NetworkCall, NetworkEnd, NetworkEvent, NetworkEvents, NetworkNews, SlotId};
pub use terms::{
    AddressRange, MAX_SLOT_RULES, NetworkCaps, NetworkInterfaces, NetworkRule, NetworkTerms,
    NetworkUse, Transport,
};

use super::{BootTime, bpf, bpf::LoadError, cgroup::Cgroup, users::Credentials};
use object::Attached;

/// Why the network cannot be guarded.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The embedded object is not what this build of the agent expects.
    #[error("the kernel programs' object file is damaged: {0}")]
    Object(String),
    /// The cgroup cannot be opened.
    #[error("the server's cgroup cannot be opened: {0}")]
    Cgroup(std::io::Error),
    /// Whoever the server runs as could leave the cgroup, and the guard with it.
    #[error(
        "a server that runs as user {user} could leave its cgroup, as it may write to {}; run the \
         server as another user (--user), or capwarden outside that user's session, as a \
         system service",
        path.display()
    )]
    Leaves {
        /// The user.
        user: u32,
        /// What it may write to.
        path: PathBuf,
    },
    /// The kernel does not make the map.
    #[error("the kernel refused the network guard's map {0}: {1}")]
    Map(String, Errno),
    /// The verifier refused the program.
    #[error("the kernel refused the network guard's program {0}: {1}")]
    Program(&'static str, LoadError),
    /// It cannot be attached.
    #[error("the network guard's program {0} cannot be attached to the server's cgroup: {1}")]
    Attach(&'static str, Errno),
    /// A map could not be accessed.
    #[error("the network guard's maps are not accessible: {0}")]
    Access(#[from] MapError),
    /// The rules could not be replaced.
    #[error("the network guard's rules cannot be written: {0}")]
    Rules(Errno),
    /// Connections could not be closed.
    #[error("the connections of a proxy cannot be closed (CONFIG_INET_DIAG_DESTROY): {0}")]
    Resets(Errno),
    /// More than one slot can have.
    #[error("a server's baseline and each proxy have at most {MAX_SLOT_RULES} addresses, not {0}")]
    TooManyRules(usize),
    /// More than all slots can have.
    #[error("a server's baseline and proxies have at most {MAX_RULES} addresses together, not {0}")]
    TooManyRulesTogether(usize),
    /// More than one slot can have.
    #[error("a grant holds at most {MAX_INTERFACES} interfaces, not {0}")]
    TooManyInterfaces(usize),
    /// All slots are in use.
    #[error("a server can have {} proxies at a time", SLOTS - 1)]
    TooManySessions,
}

/// The guard of one server. It stays where it is when this is dropped.
#[derive(Clone)]
pub struct NetworkGuard(Arc<Mutex<Slots>>);

/// A session of the server, or its baseline. Nothing of a session passes any more once this is
/// dropped.
pub struct NetworkSlot {
    slots: Arc<Mutex<Slots>>,
    number: u32,
    id: SlotId,
}

/// What has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCounts {
    /// Packets, both directions together.
    pub packets: u64,
    /// Bytes to the server's sockets, IP headers included.
    pub bytes_in: u64,
    /// Bytes from them.
    pub bytes_out: u64,
    /// TCP connections accepted.
    pub accepted: u64,
    /// TCP connections begun.
    pub made: u64,
    /// Packets that did not pass.
    pub dropped: u64,
    /// Connections that were too many; in packets, where they would have been accepted.
    pub refused: u64,
    /// Sockets that were bound where the rules let them listen, whether they are still there or not.
    pub listeners: u64,
}

impl NetworkGuard {
    /// Loads a guard and attaches it. Sockets are guarded from the moment that a process in the
    /// cgroup makes them: those that it had before are not.
    ///
    /// # Errors
    /// Among others, if a process with these credentials could leave the cgroup. Then, and
    /// whenever this fails, the server must not be started.
    pub fn attach(
        cgroup: &Cgroup,
        credentials: &Credentials,
        baseline: &NetworkTerms,
    ) -> Result<(Self, NetworkSlot), NetworkError> {
        if let Some(path) = cgroup.way_out(credentials) {
            let user = credentials.user;
            return Err(NetworkError::Leaves { user, path });
        }
        let directory = cgroup.directory().map_err(NetworkError::Cgroup)?;
        let mut attached = Attached::new(directory.as_fd())?;
        let slots = Slots {
            control: Array::try_from(attached.take_array("CONTROL")?)?,
            state: Array::try_from(attached.take_array("STATE")?)?,
            totals: Array::try_from(attached.take_array("TOTALS")?)?,
            events: Some(NetworkEvents::new(RingBuf::try_from(
                attached.take_ring("EVENTS")?,
            )?)),
            rules: attached.take("RULES")?,
            tags: attached.take("TAGS")?,
            slots: (0..SLOTS).map(|_| Slot::Free).collect(),
            next_generation: 1,
        };
        let guard = Self(Arc::new(Mutex::new(slots)));
        let baseline = guard.open(baseline)?;
        Ok((guard, baseline))
    }

    /// Opens a session: from now on the server may do what the terms say. Takes some milliseconds,
    /// in which the kernel waits for programs that still see the rules as they were.
    pub fn open(&self, terms: &NetworkTerms) -> Result<NetworkSlot, NetworkError> {
        let (number, id) = lock(&self.0).open(terms)?;
        Ok(NetworkSlot {
            slots: Arc::clone(&self.0),
            number,
            id,
        })
    }

    /// What is told as it happens; can be taken once.
    pub fn take_events(&self) -> Option<NetworkEvents> {
        lock(&self.0).events.take()
    }

    /// Events that were lost because nobody took those before them.
    pub fn lost_events(&self) -> Result<u64, NetworkError> {
        Ok(lock(&self.0).totals.get(&0, 0)?.0.lost)
    }

    /// Packets that were dropped because their socket belongs to no slot.
    pub fn dropped(&self) -> Result<u64, NetworkError> {
        Ok(lock(&self.0).totals.get(&0, 0)?.0.untagged)
    }
}

impl NetworkSlot {
    /// Which use of a slot it is.
    pub fn id(&self) -> SlotId {
        self.id
    }

    /// From now on nothing passes, whatever happens to the agent.
    pub fn revoke(&self) -> Result<(), NetworkError> {
        self.change(|control| {
            control.revoked = 1;
            Ok(())
        })
    }

    /// Closes the TCP connections of what has ended: whoever is at the other end gets a reset, which
    /// is the one packet that passes then, while this runs. Nothing passes without it either: so where
    /// the kernel cannot do it, peers wait until they give up. How many there were.
    ///
    /// Looks at all TCP sockets of this thread's network namespace, for some milliseconds.
    pub fn reset_connections(&self) -> Result<usize, NetworkError> {
        self.change(|control| {
            control.resets = 1;
            Ok(())
        })?;
        let tags = lock(&self.slots).tags.try_clone();
        let closed = tags.map_err(MapError::IoError).map(|tags| {
            let [generation, slot] = [
                self.id.0.to_ne_bytes().to_vec(),
                self.number.to_ne_bytes().to_vec(),
            ];
            resets::close(tags.as_fd(), &[generation, slot].concat())
        });
        self.change(|control| {
            control.resets = 0;
            Ok(())
        })?;
        closed?.map_err(NetworkError::Resets)
    }

    /// Replaces the granted interfaces.
    pub fn set_interfaces(&self, interfaces: &NetworkInterfaces) -> Result<(), NetworkError> {
        self.change(|control| interfaces.write(control))
    }

    /// Replaces the rules, for what is bound, connected and sent from now on: names have been
    /// looked up again, say. Takes some milliseconds, as opening does.
    pub fn set_rules(&self, rules: &[NetworkRule]) -> Result<(), NetworkError> {
        let mut slots = lock(&self.slots);
        let before = match slots.slots.get_mut(index(self.number)) {
            Some(Slot::Used(used)) => {
                let new = terms::encode(rules, &used.caps, self.number)?;
                std::mem::replace(&mut used.rules, new)
            }
            _ => return Ok(()),
        };
        let published = slots.publish();
        if published.is_err()
            && let Some(Slot::Used(used)) = slots.slots.get_mut(index(self.number))
        {
            used.rules = before;
        }
        published
    }

    /// What has passed so far.
    pub fn counts(&self) -> Result<NetworkCounts, NetworkError> {
        let state = lock(&self.slots).state.get(&self.number, 0)?.0;
        Ok(NetworkCounts {
            packets: state.packets,
            bytes_in: state.bytes_in,
            bytes_out: state.bytes_out,
            accepted: state.accepted,
            made: state.made,
            dropped: state.dropped,
            refused: state.refused,
            listeners: state.listeners,
        })
    }

    /// Why nothing passes any more; none while it does. The deadline counts whether or not a
    /// packet has come since.
    pub fn ended(&self) -> Result<Option<NetworkEnd>, NetworkError> {
        let slots = lock(&self.slots);
        let state = slots.state.get(&self.number, 0)?.0;
        let control = match slots.slots.get(index(self.number)) {
            Some(Slot::Used(used)) => used.control,
            _ => return Ok(Some(NetworkEnd::Revoked)),
        };
        let late = control.deadline != 0 && control.deadline <= BootTime::now().nanoseconds();
        Ok(NetworkEnd::of(state.ended)
            .or_else(|| (control.revoked != 0).then_some(NetworkEnd::Revoked))
            .or_else(|| late.then_some(NetworkEnd::Deadline)))
    }

    fn change(
        &self,
        change: impl FnOnce(&mut SlotControl) -> Result<(), NetworkError>,
    ) -> Result<(), NetworkError> {
        let mut slots = lock(&self.slots);
        let mut control = match slots.slots.get(index(self.number)) {
            Some(Slot::Used(used)) => used.control,
            _ => return Ok(()),
        };
        change(&mut control)?;
        slots.control.set(self.number, ControlValue(control), 0)?;
        if let Some(Slot::Used(used)) = slots.slots.get_mut(index(self.number)) {
            used.control = control;
        }
        Ok(())
    }
}

impl Drop for NetworkSlot {
    fn drop(&mut self) {
        let revoked = self.revoke();
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.slots.get_mut(index(self.number)) {
            match revoked {
                Ok(()) => *slot = Slot::Closed,
                // Then it is not used again either.
                Err(error) => tracing::error!(%error, "a proxy could not be ended"),
            }
        }
    }
}

/// All slots of a server.
struct Slots {
    control: Array<MapData, ControlValue>,
    state: Array<MapData, StateValue>,
    totals: Array<MapData, TotalsValue>,
    events: Option<NetworkEvents>,
    rules: OwnedFd,
    tags: OwnedFd,
    slots: Vec<Slot>,
    next_generation: u64,
}

/// What a slot is used for.
enum Slot {
    Free,
    Used(Box<Used>),
    /// Not any more; programs may be running that do not know yet.
    Closed,
}

struct Used {
    control: SlotControl,
    caps: NetworkCaps,
    rules: Vec<Rule>,
}

impl Slots {
    fn open(&mut self, terms: &NetworkTerms) -> Result<(u32, SlotId), NetworkError> {
        if !self.slots.iter().any(|slot| matches!(slot, Slot::Free)) {
            self.publish()?; // frees those that are closed
        }
        let free = |slot: &Slot| matches!(slot, Slot::Free);
        let place = self.slots.iter().position(free);
        let number = place
            .and_then(|place| u32::try_from(place).ok())
            .ok_or(NetworkError::TooManySessions)?;
        let generation = self.next_generation;
        let control = terms.control(number, generation)?;
        let rules = terms::encode(&terms.rules, &terms.caps, number)?;
        self.next_generation += 1;

        self.state
            .set(number, StateValue(SlotState::default()), 0)?;
        self.control.set(number, ControlValue(control), 0)?;
        let used = Box::new(Used {
            control,
            caps: terms.caps,
            rules,
        });
        self.put(number, Slot::Used(used));
        if let Err(error) = self.publish() {
            // No socket can have its tag.
            self.put(number, Slot::Free);
            return Err(error);
        }
        Ok((number, SlotId(generation)))
    }

    fn put(&mut self, number: u32, slot: Slot) {
        if let Some(place) = self.slots.get_mut(index(number)) {
            *place = slot;
        }
    }

    /// Writes the rules of all slots that are in use. When this returns,
    /// no program runs any more that has seen a closed slot's use, and so those are free.
    fn publish(&mut self) -> Result<(), NetworkError> {
        let used = self.slots.iter().filter_map(|slot| match slot {
            Slot::Used(used) => Some(&used.rules),
            Slot::Free | Slot::Closed => None,
        });
        let rules: Vec<Rule> = used.flatten().copied().collect();
        if rules.len() > MAX_RULES {
            return Err(NetworkError::TooManyRulesTogether(rules.len()));
        }
        let closed: Vec<u32> = self
            .slots
            .iter()
            .zip(0_u32..)
            .filter_map(|(slot, number)| matches!(slot, Slot::Closed).then_some(number))
            .collect();
        for number in &closed {
            self.control.set(*number, ControlValue(NOBODYS), 0)?;
        }
        let table = object::rules().map_err(NetworkError::Rules)?;
        let mut array = Array::<_, RuleValue>::try_from(aya::maps::Map::Array(MapData::from_fd(
            table.try_clone().map_err(MapError::IoError)?,
        )?))?;
        for (number, rule) in (0..).zip(rules) {
            array.set(number, RuleValue(rule), 0)?;
        }
        bpf::set_inner_map(self.rules.as_fd(), table.as_fd()).map_err(NetworkError::Rules)?;
        for number in closed {
            self.put(number, Slot::Free);
        }
        Ok(())
    }
}

/// Of a slot that nobody uses.
const NOBODYS: SlotControl = SlotControl {
    generation: 0,
    deadline: 0,
    packets: 0,
    bytes_in: 0,
    bytes_out: 0,
    accepted: 0,
    made: 0,
    revoked: 1,
    any_interface: 0,
    interface_count: 0,
    number: 0,
    resets: 0,
    unused: 0,
    interfaces: [0; MAX_INTERFACES],
};

fn lock(slots: &Mutex<Slots>) -> MutexGuard<'_, Slots> {
    // What a panic left behind is what the kernel has, or is less.
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

// The layouts are plain integers without padding (see `capwarden_abi`), so any bytes are valid.
macro_rules! plain_old_data {
    ($($wrapper:ident($inner:ty)),+) => {$(
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug)]
        struct $wrapper($inner);
        // SAFETY: `#[repr(C)]` integers only, no padding.
        unsafe impl aya::Pod for $wrapper {}
    )+};
}
plain_old_data!(
    ControlValue(SlotControl),
    StateValue(SlotState),
    TotalsValue(Totals),
    RuleValue(Rule)
);
