//! The attacks, by what they are after.

pub(crate) mod agent;
pub(crate) mod borrow;
pub(crate) mod escape;
pub(crate) mod loosen;
pub(crate) mod other_sources;
pub(crate) mod own_socket;
pub(crate) mod proxy;

use crate::row::Row;

/// All of them.
pub(crate) const FAMILIES: &[&[Row]] = &[
    own_socket::ROWS,
    loosen::ROWS,
    other_sources::ROWS,
    borrow::ROWS,
    escape::ROWS,
    agent::ROWS,
    proxy::ROWS,
];

/// `struct sockaddr_in` of a port on 127.0.0.1.
pub(crate) fn internet(port: u16) -> [u8; 16] {
    let mut address = [0; 16];
    address[0] = 2;
    address[2..4].copy_from_slice(&port.to_be_bytes());
    address[4..8].copy_from_slice(&[127, 0, 0, 1]);
    address
}

/// A descriptor, process id or number of 32 bits, as system calls want it.
pub(crate) fn word(value: i32) -> u64 {
    value.cast_unsigned().into()
}
