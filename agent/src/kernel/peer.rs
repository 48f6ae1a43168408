//! Whose the socket at the other end of a connection within this host is.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

/// The user whose socket is at `theirs`, connected to `ours`, as the kernel's table of TCP sockets
/// says. None if there is no such socket in this network namespace, or nobody holds it any more:
/// the kernel would call that root's.
pub fn tcp_owner(theirs: SocketAddr, ours: SocketAddr) -> Option<u32> {
    let table = match theirs {
        SocketAddr::V4(_) => "/proc/net/tcp",
        SocketAddr::V6(_) => "/proc/net/tcp6",
    };
    find(&fs::read_to_string(table).ok()?, theirs, ours)
}

fn find(table: &str, theirs: SocketAddr, ours: SocketAddr) -> Option<u32> {
    const ESTABLISHED: &str = "01";
    const CLOSE_WAIT: &str = "08";
    let (theirs, ours) = (written(theirs), written(ours));
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let found = fields.next()? == theirs && fields.next()? == ours;
        let held = found && matches!(fields.next()?, ESTABLISHED | CLOSE_WAIT);
        // Queues, timer, retransmissions; then the user.
        held.then(|| fields.nth(3)?.parse().ok()).flatten()
    })
}

/// An address as the table has it: words of 32 bits, in the host's byte order.
fn written(address: SocketAddr) -> String {
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = octets.chunks_exact(4).map(|word| {
        let word = <[u8; 4]>::try_from(word).map_or(0, u32::from_ne_bytes);
        format!("{word:08X}")
    });
    format!("{}:{:04X}", words.collect::<String>(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn own_connection_is_ones_own() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                assert!(address.starts_with('['), "IPv4 is everywhere");
                continue;
            };
            let here = listener.local_addr().unwrap();
            let stream = TcpStream::connect(here).unwrap();
            let (_accepted, peer) = listener.accept().unwrap();
            let own = rustix::process::getuid().as_raw();
            assert_eq!(tcp_owner(peer, here), Some(own));
            drop(stream);
            assert_eq!(tcp_owner(peer, here), None, "nobody holds it any more");
        }
    }

    #[test]
    fn table_is_read_by_its_columns() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 0100007F:8F3A 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 46811 1\n   1: 0100007F:8F3B 0100007F:1F90 04 00000000:00000000 00:00000000 00000000     0        0 0 1\n";
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let expected = cfg!(target_endian = "little").then_some(1000);
        assert_eq!(find(table, at(0x8f3a), at(8080)), expected);
        assert_eq!(find(table, at(0x8f3b), at(8080)), None);
        assert_eq!(find(table, at(0x8f3a), at(8081)), None);
        assert_eq!(find("rubbish\n 0: 1\n", at(1), at(2)), None);
    }
}
