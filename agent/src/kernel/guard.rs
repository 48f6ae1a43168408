//! The guard of one session: its programs, and the maps that they share with the agent.

use std::sync::Arc;

use rustix::io::Errno;

use aya::maps::{Array, MapData, RingBuf};
use capwarden_abi::{Control, MAX_INTERFACES, State, Terms, ended, protocol::Protocols};

use super::{
    bpf::LoadError,
    instance::{Chain, Instances},
    link::{LinkError, Linked},
};
use crate::filter::EbpfInsn;

/// Why a guard could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// See [`LinkError`].
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The verifier refused the program.
    #[error("the kernel refused the guard: {0}")]
    Program(#[from] LoadError),
    /// A map is missing or could not be accessed.
    #[error("the guard's maps are not accessible: {0}")]
    Map(#[from] aya::maps::MapError),
    /// The kernel lends a socket no memory for a program of this length.
    #[error(
        "the filters come to {instructions} instructions, which is more than net.core.optmem_max \
         lets a socket have; raise it (sysctl -w net.core.optmem_max={wanted}), or ask for a \
         shorter list"
    )]
    DoesNotFit {
        /// Instructions of the filters and the guard.
        instructions: usize,
        /// What the setting would have to be, in bytes.
        wanted: usize,
    },
    /// A socket to try the program on could not be made.
    #[error("the guard could not be tried on a socket: {0}")]
    Trial(Errno),
    /// More interfaces than a guard can hold.
    #[error("a grant holds at most {MAX_INTERFACES} interfaces, not {0}")]
    TooManyInterfaces(usize),
}

/// What a guard is loaded with.
#[derive(Clone, Debug)]
pub struct GuardPlan {
    /// The session's terms; `link` describes raw sockets.
    pub terms: Terms,
    /// The filter chain of `SOCK_RAW` sockets; none: no such socket is admitted.
    pub raw: Option<Vec<EbpfInsn>>,
    /// The filter chain of `SOCK_DGRAM` sockets; none: no such socket is admitted.
    pub cooked: Option<Vec<EbpfInsn>>,
    /// Interface indexes, unless the terms grant all.
    pub interfaces: Vec<u32>,
}

/// Instances in store for raw sockets. tcpdump opens two; dumpcap and tshark open a few more, with time between
/// them to make others. Each takes the verifier some milliseconds, which is most of what a session costs.
pub(super) const RAW_IN_STORE: usize = 2;
/// Those for cooked ones, which come one at a time, and hardly ever in a session that is not about `any`.
const COOKED_IN_STORE: usize = 1;

/// A loaded guard. Dropping it does not free armed sockets: their program and maps live on.
pub struct Guard {
    instances: Arc<Instances>,
    state: Array<MapData, StateValue>,
    protocols: Array<MapData, ProtocolsValue>,
    control: Array<MapData, ControlValue>,
    current: Control,
    ends: Option<EndEvents>,
}

impl Guard {
    /// Loads a guard: nothing is delivered before a socket is armed with it.
    pub fn load(plan: &GuardPlan) -> Result<Self, GuardError> {
        let mut linked = Linked::new(&TermsValue(plan.terms))?;
        let state = Array::try_from(linked.take_array("STATE")?)?;
        let protocols = Array::try_from(linked.take_array("PROTOCOLS")?)?;
        let control = Array::try_from(linked.take_array("CONTROL")?)?;
        let ends = RingBuf::try_from(linked.take_ring("ENDS")?)?;
        let chain = |filters: Option<&Vec<EbpfInsn>>, guard, behind_own, in_store| {
            let chain = |filters: &Vec<EbpfInsn>| {
                Ok::<_, LinkError>(Chain {
                    code: [filters, &*linked.code(guard)?].concat(),
                    behind_own: linked.code(behind_own)?,
                    in_store,
                })
            };
            filters.map(chain).transpose()
        };
        let raw = chain(plan.raw.as_ref(), "guard_raw", "own_raw", RAW_IN_STORE)?;
        let cooked = match plan.terms.any_interface {
            0 => 0,
            _ => COOKED_IN_STORE,
        };
        let cooked = chain(plan.cooked.as_ref(), "guard_cooked", "own_cooked", cooked)?;
        let instances = Instances::new(raw, cooked, linked)?;
        instances.fit()?;
        let mut guard = Self {
            instances: Arc::new(instances),
            state,
            protocols,
            control,
            current: Control {
                revoked: 0,
                interface_count: 0,
                interfaces: [0; MAX_INTERFACES],
            },
            ends: Some(EndEvents(ends)),
        };
        guard.set_interfaces(&plan.interfaces)?;
        Ok(guard)
    }

    /// Replaces the granted interfaces.
    pub fn set_interfaces(&mut self, interfaces: &[u32]) -> Result<(), GuardError> {
        let mut next = Control {
            interface_count: 0,
            interfaces: [0; MAX_INTERFACES],
            ..self.current
        };
        if interfaces.len() > MAX_INTERFACES {
            return Err(GuardError::TooManyInterfaces(interfaces.len()));
        }
        for (slot, interface) in next.interfaces.iter_mut().zip(interfaces) {
            *slot = *interface;
            next.interface_count += 1;
        }
        self.write(next)
    }

    /// Whether packets of this interface may be delivered.
    pub fn covers(&self, interface: u32) -> bool {
        let used = usize::try_from(self.current.interface_count).unwrap_or(0);
        self.current
            .interfaces
            .iter()
            .take(used)
            .any(|index| *index == interface)
    }

    /// From now on nothing is delivered, whatever happens to the agent.
    pub fn revoke(&mut self) -> Result<(), GuardError> {
        self.write(Control {
            revoked: 1,
            ..self.current
        })
    }

    /// What the guard has counted.
    pub fn state(&self) -> Result<State, GuardError> {
        Ok(self.state.get(&0, 0)?.0)
    }

    /// The same by protocol: of packets that are being delivered at this moment, not all.
    pub fn protocols(&self) -> Result<Protocols, GuardError> {
        Ok(self.protocols.get(&0, 0)?.0)
    }

    /// The news of the guard's own ends; can be taken once.
    pub fn take_ends(&mut self) -> Option<EndEvents> {
        self.ends.take()
    }

    /// What makes the programs of its sockets.
    pub fn instances(&self) -> &Arc<Instances> {
        &self.instances
    }

    fn write(&mut self, control: Control) -> Result<(), GuardError> {
        self.control.set(0, ControlValue(control), 0)?;
        self.current = control;
        Ok(())
    }
}

/// Becomes readable when the guard ends its session by itself.
pub struct EndEvents(RingBuf<MapData>);

impl EndEvents {
    /// Takes everything that is waiting.
    pub fn drain(&mut self) {
        while self.0.next().is_some() {}
    }
}

impl std::os::fd::AsRawFd for EndEvents {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

/// Whether the guard has ended the session, and by which rule (see [`ended`]).
pub fn has_ended(state: &State) -> bool {
    state.ended != ended::NO
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
    TermsValue(Terms),
    StateValue(State),
    ProtocolsValue(Protocols),
    ControlValue(Control)
);

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use capwarden_abi::{LINK_ETHERNET, PAYLOAD_FULL};

    use super::{super::socket::arm, *};

    fn plan(packets: u64, bytes: u64, payload: u32) -> GuardPlan {
        GuardPlan {
            terms: Terms {
                packets,
                bytes,
                deadline: 0,
                snap: 262_144,
                payload,
                link: LINK_ETHERNET,
                any_interface: 0,
            },
            raw: Some(Vec::new()),
            cooked: Some(Vec::new()),
            interfaces: vec![1],
        }
    }

    /// Sends 50 datagrams of 60 bytes (14 + 20 + 8 + 18 on the wire) over loopback.
    fn traffic() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = socket.local_addr().unwrap();
        for _ in 0..50 {
            socket.send_to(&[0; 18], own).unwrap();
        }
    }

    /// What the guard counted; none without root, where the kernel must be what refuses.
    fn counted(plan: &GuardPlan) -> Option<State> {
        let guard = match Guard::load(plan) {
            Ok(guard) => guard,
            Err(error) => {
                assert!(!rustix::process::geteuid().is_root(), "{error}");
                assert!(
                    matches!(error, GuardError::Link(LinkError::Map(_))),
                    "{error}"
                );
                return None;
            }
        };
        let mut call = super::super::SocketCall::of(super::super::SocketKind::Raw);
        call.protocol = 0x0003_u16.to_be(); // ETH_P_ALL
        let _armed = arm(&guard, call).unwrap();
        traffic();
        Some(guard.state().unwrap())
    }

    #[test]
    fn guard_packet_cap_is_exact() {
        if let Some(state) = counted(&plan(7, 0, PAYLOAD_FULL)) {
            assert_eq!((state.packets, state.ended), (7, ended::PACKETS));
        }
    }

    #[test]
    fn guard_byte_cap_is_never_passed_and_headers_count_alone() {
        if let Some(state) = counted(&plan(0, 1_000, 0)) {
            assert!(state.bytes <= 1_000, "{state:?}");
            assert_eq!(state.ended, ended::BYTES);
        }
    }

    #[test]
    fn guard_without_the_interface_delivers_nothing() {
        let mut plan = plan(7, 0, PAYLOAD_FULL);
        plan.interfaces = vec![4_000_000];
        if let Some(state) = counted(&plan) {
            assert_eq!(state, State::default());
        }
    }

    #[test]
    fn guard_holds_only_so_many_interfaces() {
        let mut plan = plan(1, 0, PAYLOAD_FULL);
        plan.interfaces = (1..=65).collect();
        if rustix::process::geteuid().is_root() {
            let refused = Guard::load(&plan).err();
            assert!(matches!(refused, Some(GuardError::TooManyInterfaces(65))));
        }
    }
}
