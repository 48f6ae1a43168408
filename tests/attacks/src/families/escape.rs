//! E.

use crate::{row::Row, sys::{native, process}};

pub(crate) const ROWS: &[Row] = &[];

/// What a program with privileges does when attackers execute it: exits with 0 if it gets a packet
/// socket.
pub(crate) fn helper() -> ! {
    let socket = native(libc::SYS_socket, [17, 3, 0, 0, 0, 0]);
    process::exit(i32::from(socket.is_err()))
}
