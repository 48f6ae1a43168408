//! What the agent and the network guard share.
//!
//! Addresses are four words as they lie in memory, that is in network byte order, with IPv4 mapped
//! to `::ffff:0:0/96`; ports are in the host's.

use crate::MAX_INTERFACES;

/// Slots of one server: the baseline, and this many sessions less one at a time.
pub const SLOTS: usize = 64;
/// The slot of what the server may do without a session.
pub const BASELINE: u32 = 0;
/// Rules of all slots of one server. They are compared one by one, but only when an address is
/// named (`bind`, `connect`, `sendto`), and when a datagram comes to a socket that has no peer. The
/// time that the verifier takes before a server starts grows with this number.
pub const MAX_RULES: usize = 256;
/// Those who have sent datagrams to the server's listening sockets, and so may be answered.
pub const MAX_PEERS: u32 = 4_096;

/// The third word of an IPv4 address (`::ffff:0:0/96`).
pub const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// IP protocols.
pub mod protocol {
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
}

/// What somebody wants to do with an address, or what a rule allows: a set of bits, of which a want
/// has one. So one comparison tells whether a rule is about it.
pub mod want {
    /// To be bound to an IPv4 address, by TCP. The others are this one, shifted.
    pub const LISTEN: u32 = 1;
    /// Shift by this: to send to it.
    pub const CONNECT_SHIFT: u32 = 4;
    /// Shift by this: by UDP.
    pub const UDP_SHIFT: u32 = 2;
    /// Shift by this: an IPv6 address, unless it stands for an IPv4 address.
    pub const V6_SHIFT: u32 = 1;
}

/// One thing that a slot allows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// What an address must be, where [`Rule::mask`] has ones.
    pub address: [u32; 4],
    /// Which bits count.
    pub mask: [u32; 4],
    /// Bits of [`want`]; 0 for no rule, nor any behind it.
    pub allows: u32,
    /// Whose it is.
    pub slot: u32,
    /// The first port.
    pub first_port: u16,
    /// The last port.
    pub last_port: u16,
    /// Not used.
    pub unused: u32,
}

/// What the agent writes of a slot. A cap of 0 is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotControl {
    /// Which use of the slot this is; 0 for none. No two uses have the same.
    pub generation: u64,
    /// `CLOCK_BOOTTIME` in nanoseconds after which nothing passes; 0 means no deadline.
    pub deadline: u64,
    /// Packets in both directions.
    pub packets: u64,
    /// Bytes to the server's sockets.
    pub bytes_in: u64,
    /// Bytes from them.
    pub bytes_out: u64,
    /// TCP connections accepted.
    pub accepted: u64,
    /// TCP connections begun.
    pub made: u64,
    /// Not 0: nothing passes any more.
    pub revoked: u32,
    /// 1 when packets of any interface pass.
    pub any_interface: u32,
    /// Entries of [`SlotControl::interfaces`] in use.
    pub interface_count: u32,
    /// Which slot this is.
    pub number: u32,
    /// Not 0: resets of what does not go on any more pass, uncounted.
    pub resets: u32,
    /// Not used.
    pub unused: u32,
    /// Interface indexes that are granted.
    pub interfaces: [u32; MAX_INTERFACES],
}

/// What the guard writes of a slot. The agent clears it before a slot is used again, when no
/// program is running any more that knows the former use.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotState {
    /// Packets that passed, both directions together. What the kernel handles as one, but sends as
    /// many, counts as many.
    pub packets: u64,
    /// Bytes that passed to the server's sockets, IP headers included.
    pub bytes_in: u64,
    /// Bytes that passed from them.
    pub bytes_out: u64,
    /// TCP connections accepted.
    pub accepted: u64,
    /// TCP connections begun.
    pub made: u64,
    /// Packets that did not pass.
    pub dropped: u64,
    /// Connections that the caps refused.
    pub refused: u64,
    /// Sockets that were bound as listeners.
    pub listeners: u64,
    /// One of [`ended`].
    pub ended: u64,
    /// The kernel tick in which the deadline was last seen to be far away.
    pub early_tick: u64,
}

/// Why a slot ended, in [`SlotState::ended`].
pub mod ended {
    /// It has not.
    pub const NO: u64 = 0;
    /// The packet cap was reached.
    pub const PACKETS: u64 = 1;
    /// The cap on bytes to the server was reached, or the next packet would have passed it.
    pub const BYTES_IN: u64 = 2;
    /// The same of bytes from the server.
    pub const BYTES_OUT: u64 = 3;
    /// The deadline passed.
    pub const DEADLINE: u64 = 4;
}

/// What is known of a socket: its local storage, which accepted sockets inherit.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketTag {
    /// Which use of the slot.
    pub generation: u64,
    /// The slot that it belongs to, for good.
    pub slot: u32,
    /// Bits of [`role`].
    pub role: u32,
    /// What it was bound to as a listener.
    pub address: [u32; 4],
    /// The port of that.
    pub port: u32,
    /// Not used.
    pub unused: u32,
}

/// [`SocketTag::role`]
pub mod role {
    /// A rule let it be bound.
    pub const LISTENS: u32 = 1;
    /// A rule let it send.
    pub const CONNECTS: u32 = 2;
    /// A connection beyond the cap.
    pub const DEAD: u32 = 4;
}

/// Somebody who may be answered: the key of a map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The cookie of the socket that it has sent to.
    pub socket: u64,
    /// Its address.
    pub address: [u32; 4],
    /// Its port.
    pub port: u32,
    /// Not used.
    pub unused: u32,
}

/// What the guard tells as it happens.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_BOOTTIME` in nanoseconds.
    pub time: u64,
    /// Which use of the slot; 0 where no slot is concerned.
    pub generation: u64,
    /// The slot.
    pub slot: u32,
    /// One of [`event`].
    pub event: u32,
    /// The address that was named, or that somebody connected from.
    pub address: [u32; 4],
    /// Its port.
    pub port: u32,
    /// [`event::SOCKET`] and addresses: the IP protocol. [`event::ENDED`]: one of [`ended`].
    /// [`event::OPTION`]: level and option.
    pub detail: u32,
}

/// [`Event::event`]
pub mod event {
    /// A kind of socket that is not let through.
    pub const SOCKET: u32 = 1;
    /// A `bind` without a rule.
    pub const BIND: u32 = 2;
    /// A `connect` without a rule.
    pub const CONNECT: u32 = 3;
    /// A `sendto` without a rule.
    pub const SEND: u32 = 4;
    /// A socket option that is not let through.
    pub const OPTION: u32 = 5;
    /// A connection beyond the cap on those accepted; told once of a session.
    pub const ACCEPTED: u32 = 6;
    /// A connection beyond the cap on those begun; told once of a session.
    pub const MADE: u32 = 7;
    /// The guard has ended the slot.
    pub const ENDED: u32 = 8;
}

/// What the guard counts of a whole server.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events that the ring had no room for.
    pub lost: u64,
    /// Packets of sockets that belong to no slot.
    pub untagged: u64,
}
