//! Telling the agent who has asked for a packet socket, and counting what it could not be told.

use aya_ebpf::{
    macros::map,
    maps::{Array, RingBuf},
};
use capwarden_abi::host::Socket;

use crate::budget::Counter;

/// [`Socket`]s.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

/// How many there was no room for.
#[map]
static LOST: Array<u64> = Array::with_max_entries(1, 0);

#[inline(always)]
pub fn tell(socket: Socket) {
    if EVENTS.output::<Socket>(socket, 0).is_err()
        && let Some(lost) = LOST.get_ptr_mut(0)
    {
        // SAFETY: a live map value, written here only.
        unsafe { Counter::new(lost) }.add(1);
    }
}
