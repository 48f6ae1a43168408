//! Options of a socket, and the maps behind it.

use crate::{
    attacker::{Attacker, SOL_PACKET, SOL_SOCKET},
    ring,
    row::{Outcome, Seen},
    sys::number,
    world::FANOUT_GROUP,
};

pub(super) fn packet_option<const OPTION: u64>(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    a.option(socket, SOL_PACKET, OPTION, &1_u32.to_ne_bytes())?;
    Seen::won("the option is set")
}

pub(super) fn header_size(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    a.option(socket, SOL_PACKET, 24, &10_u32.to_ne_bytes())?;
    Seen::won("the option is set")
}

pub(super) fn by_ring(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    let socket_fd = i32::try_from(socket).unwrap_or(-1);
    // SOCKET_URING_OP_SETSOCKOPT, PACKET_COPY_THRESH.
    let value = a.memory.put(&1500_u32.to_ne_bytes());
    ring::set_option(a, socket_fd, [263, 7], value)?;
    Seen::won("the option is set")
}

pub(super) fn map_by_id(a: &mut Attacker) -> Outcome {
    let attributes = a.memory.put(&a.world.map.to_ne_bytes());
    a.memory.zeros(32);
    a.attack(number::BPF, [14, attributes, 12, 0, 0, 0])?;
    Seen::won("a map of somebody's")
}

pub(super) fn map_by_path(a: &mut Attacker) -> Outcome {
    let path = a.world.pinned.as_os_str().as_encoded_bytes().to_vec();
    let path = a.memory.put(&[path, vec![0]].concat());
    let attributes = a.memory.put(&[path.to_ne_bytes(), [0; 8]].concat());
    a.attack(number::BPF, [7, attributes, 16, 0, 0, 0])?;
    Seen::won("a map of somebody's")
}

pub(super) fn force_buffer(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    a.option(socket, SOL_SOCKET, 33, &(64_u32 << 20).to_ne_bytes())?;
    Seen::won("a buffer beyond the host's limit")
}

pub(super) fn mark(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    a.option(socket, SOL_SOCKET, 36, &[0; 4])?;
    Seen::won("a mark of its choice")
}

/// For the group of somebody's that a socket is to join: see `agent`.
pub(crate) fn join_group(a: &mut Attacker) -> Outcome {
    let socket = a.filtered()?;
    a.option(socket, SOL_PACKET, 18, &FANOUT_GROUP.to_ne_bytes())?;
    Seen::won("in the group: it takes a part of its packets")
}
