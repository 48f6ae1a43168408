//! What an attacker is told of the place that it is in.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The interface that may be captured on.
pub(crate) const CW0: u32 = 10;
/// One that may not.
pub(crate) const CW1: u32 = 11;
/// One that nobody uses, and that is down.
pub(crate) const SPARE: &str = "spare";

/// Where what may be captured is sent.
pub(crate) const GRANTED_PORT: u16 = 7001;
/// Where what nobody may capture is sent.
pub(crate) const SECRET_PORT: u16 = 7002;
/// A port that the bystander listens on, with `SO_REUSEPORT`.
pub(crate) const SHARED_PORT: u16 = 7003;
/// A TCP server of the stage's.
pub(crate) const TCP_PORT: u16 = 7004;
/// A UDP server of the stage's.
pub(crate) const UDP_PORT: u16 = 7005;

/// In each packet that nobody may capture.
pub(crate) const SECRET: &[u8] = b"SECRET";
/// In each packet's payload.
pub(crate) const BODY: &[u8] = b"BODY";

/// The number of a descriptor that whoever started all this has left open: a packet socket.
pub(crate) const LEAKED: i32 = 77;

/// What is in a key of the session keyring of whoever started all this.
pub(crate) const KEY: &[u8] = b"the operator's key";

/// The group that the bystander's packet sockets share packets in, as an intrusion detector's do.
pub(crate) const FANOUT_GROUP: u32 = 42;

/// The place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct World {
    pub(crate) user: u32,
    pub(crate) governed: bool,
    /// A process of the same user that has nothing to do with the attacker.
    pub(crate) bystander: Bystander,
    /// Where programs with privileges are.
    pub(crate) helpers: PathBuf,
    /// A file that only root may write: governed, the audit log.
    pub(crate) log: PathBuf,
    /// An eBPF map of somebody's.
    pub(crate) map: u32,
    /// The same, pinned.
    pub(crate) pinned: PathBuf,
}

/// The process beside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bystander {
    pub(crate) pid: u32,
    /// Where in its memory, and in its victims', the secret is.
    pub(crate) secret: u64,
    /// Its packet socket.
    pub(crate) packet_socket: u32,
    /// A Unix socket, where whoever connects is given that.
    pub(crate) socket: PathBuf,
    /// The same, by a name without a file.
    pub(crate) name: String,
    /// Its children, which nobody misses.
    pub(crate) victims: Vec<u32>,
}
