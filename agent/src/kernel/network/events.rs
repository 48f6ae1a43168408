//! What the network guard tells as it happens.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use aya::maps::{MapData, RingBuf};
use capwarden_abi::network::{Event, ended, event, protocol};

use super::terms::{Transport, endpoint};

/// One use of a slot: the baseline, or a session. No two uses have the same, whatever the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub(super) u64);

#[cfg(test)]
impl SlotId {
    pub(crate) fn for_tests(number: u64) -> Self {
        Self(number)
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkEvent {
    /// When, in nanoseconds of `CLOCK_BOOTTIME`.
    pub time: u64,
    /// Whom it concerns; none where no slot let the socket do it.
    pub slot: Option<SlotId>,
    /// What.
    pub what: NetworkNews,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkNews {
    /// A process asked for a socket of another protocol than TCP and UDP, by its number.
    Socket(u32),
    /// No rule allows this address; the process got EPERM.
    Address {
        /// What the process wanted.
        call: NetworkCall,
        /// The address that it named.
        to: SocketAddr,
        /// With which protocol; none for others than TCP and UDP.
        protocol: Option<Transport>,
    },
    /// A socket option that would lead packets elsewhere; the process got EPERM.
    Option {
        /// As in `setsockopt`.
        level: u32,
        /// As in `setsockopt`.
        option: u32,
    },
    /// More connections than the cap came in. Told once of a session; its counts say how many.
    TooManyAccepted,
    /// A process began more connections than the cap, first to this address. Told once of a
    /// session.
    TooManyMade(SocketAddr),
    /// The guard has ended the slot's traffic.
    Ended(NetworkEnd),
}

/// A call that names an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NetworkCall {
    /// `bind`
    Bind,
    /// `connect`
    Connect,
    /// `sendto`, `sendmsg`
    Send,
}

/// Why a slot's traffic ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NetworkEnd {
    /// The packet cap.
    Packets,
    /// The cap on bytes to the server's sockets.
    BytesIn,
    /// The cap on bytes from them.
    BytesOut,
    /// Its time was over.
    Deadline,
    /// The agent ended it.
    Revoked,
}

impl NetworkEnd {
    pub(super) fn of(reason: u64) -> Option<Self> {
        match reason {
            ended::PACKETS => Some(Self::Packets),
            ended::BYTES_IN => Some(Self::BytesIn),
            ended::BYTES_OUT => Some(Self::BytesOut),
            ended::DEADLINE => Some(Self::Deadline),
            _ => None,
        }
    }
}

/// Becomes readable when something has happened: to be waited for as a [`Readable`].
///
/// [`Readable`]: crate::kernel::Readable
pub struct NetworkEvents(Mutex<RingBuf<MapData>>);

impl NetworkEvents {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self(Mutex::new(ring))
    }

    /// The next event that is waiting. Each is given to one who asks.
    pub fn next_event(&self) -> Option<NetworkEvent> {
        // A panic elsewhere leaves the ring whole: what was read is given back when it is dropped.
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(item) = ring.next() {
            let told = read(&item).and_then(|event| NetworkEvent::of(&event));
            if told.is_some() {
                return told;
            }
        }
        None
    }
}

impl std::os::fd::AsRawFd for NetworkEvents {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.as_raw_fd()
    }
}

fn read(bytes: &[u8]) -> Option<Event> {
    if bytes.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: there are enough bytes, and any are valid for plain integers.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}

impl NetworkEvent {
    fn of(event: &Event) -> Option<Self> {
        let to = endpoint(event.address, event.port);
        let address = |call| NetworkNews::Address {
            call,
            to,
            protocol: match u8::try_from(event.detail) {
                Ok(protocol::TCP) => Some(Transport::Tcp),
                Ok(protocol::UDP) => Some(Transport::Udp),
                _ => None,
            },
        };
        let what = match event.event {
            event::SOCKET => NetworkNews::Socket(event.detail),
            event::BIND => address(NetworkCall::Bind),
            event::CONNECT => address(NetworkCall::Connect),
            event::SEND => address(NetworkCall::Send),
            event::OPTION => NetworkNews::Option {
                level: event.detail,
                option: event.port,
            },
            event::ACCEPTED => NetworkNews::TooManyAccepted,
            event::MADE => NetworkNews::TooManyMade(to),
            event::ENDED => NetworkNews::Ended(NetworkEnd::of(event.detail.into())?),
            _ => return None,
        };
        Some(Self {
            time: event.time,
            slot: (event.generation != 0).then_some(SlotId(event.generation)),
            what,
        })
    }
}
