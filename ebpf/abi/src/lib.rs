//! The memory layouts that the agent and its kernel programs share.
//!
//! Every type here is `#[repr(C)]`, has no padding that is not named, and is valid for any bit
//! pattern, so that the agent may read what a kernel program wrote without parsing it.
#![no_std]
#![forbid(unsafe_code)]

/// How many interfaces one grant can name. The guard compares them one by one for every packet,
/// so the bound is a bound on its cost too.
pub const MAX_INTERFACES: usize = 64;

/// [`Terms::payload`]: deliver each packet whole.
pub const PAYLOAD_FULL: u32 = u32::MAX;

/// [`Terms::link`]: frames begin with an Ethernet header (`SOCK_RAW` on an Ethernet-like device).
pub const LINK_ETHERNET: u32 = 0;
/// [`Terms::link`]: packets begin with the network header (`SOCK_DGRAM`, or a raw-IP device).
pub const LINK_NETWORK: u32 = 1;

/// What a session was granted: fixed when its guard is loaded, read-only in the kernel, so that
/// the verifier folds every rule that is not in use out of the program.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Packets that may be delivered in all; 0 means no packet cap.
    pub packets: u64,
    /// Bytes that may be delivered in all, as captured (after trimming); 0 means no byte cap.
    pub bytes: u64,
    /// `CLOCK_BOOTTIME` in nanoseconds after which nothing is delivered; 0 means no deadline.
    pub deadline: u64,
    /// Bytes delivered of one packet at most.
    pub snap: u32,
    /// Bytes delivered after the end of the transport header at most, or [`PAYLOAD_FULL`].
    pub payload: u32,
    /// What packets begin with: [`LINK_ETHERNET`] or [`LINK_NETWORK`].
    pub link: u32,
    /// 1 when every interface is granted, 0 when only those in [`State::interfaces`] are.
    pub any_interface: u32,
}

/// Why the guard stopped delivering, in [`State::ended`].
pub mod ended {
    /// Still delivering.
    pub const NO: u32 = 0;
    /// The packet cap was reached.
    pub const PACKETS: u32 = 1;
    /// The byte cap was reached.
    pub const BYTES: u32 = 2;
    /// The deadline passed.
    pub const DEADLINE: u32 = 3;
    /// The agent ended the session.
    pub const AGENT: u32 = 4;
}

/// What changes during a session: one element of an array map that all sockets of the session
/// share.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Packets delivered.
    pub packets: u64,
    /// Bytes delivered, as captured (after trimming).
    pub bytes: u64,
    /// One of [`ended`].
    pub ended: u32,
    /// Entries of [`State::interfaces`] in use.
    pub interface_count: u32,
    /// Interface indexes that are granted; 0 is an unused entry.
    pub interfaces: [u32; MAX_INTERFACES],
}
