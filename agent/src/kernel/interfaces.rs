//! The interfaces of the agent's network namespace, now and as they change.

use std::{io, pin::pin};

use futures_util::{Stream, StreamExt, TryStreamExt};
use rtnetlink::{
    MulticastGroup, new_connection, new_multicast_connection,
    packet_route::link::{LinkAttribute, LinkMessage},
};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name; can change.
    pub name: String,
    /// Its index; the guard compares this.
    pub index: u32,
    /// Its hardware type (`ARPHRD_*`), which decides the link type of raw sockets.
    pub hardware: u16,
}

/// Everything that is there now.
pub async fn list() -> io::Result<Vec<Interface>> {
    let (connection, handle, _) = new_connection()?;
    let connection = tokio::spawn(connection);
    let interfaces = handle
        .link()
        .get()
        .execute()
        .try_filter_map(|link| async move { Ok(interface(link)) })
        .try_collect()
        .await
        .map_err(io::Error::other);
    connection.abort();
    interfaces
}

/// An interface for people, by its index: `eth0`, or its number where it has gone.
pub fn name_of(index: u32) -> String {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};

    let name = socket(AddressFamily::UNIX, SocketType::DGRAM, None)
        .and_then(|asked| netdevice::index_to_name(asked, index));
    name.unwrap_or_else(|_| format!("number {index}, which is not there any more"))
}

/// The indexes of all that are there now; none if that cannot be told.
pub(super) fn indexes() -> Vec<u32> {
    // SAFETY: no arguments.
    let list = unsafe { libc::if_nameindex() };
    let mut indexes = Vec::new();
    let mut entry = list;
    // SAFETY: the list ends with an entry whose index is 0.
    while !entry.is_null() && unsafe { (*entry).if_index } != 0 {
        // SAFETY: as above.
        indexes.push(unsafe { (*entry).if_index });
        // SAFETY: the entry is not the last one.
        entry = unsafe { entry.add(1) };
    }
    if !list.is_null() {
        // SAFETY: it came from `if_nameindex`, and is used no more.
        unsafe { libc::if_freenameindex(list) };
    }
    indexes
}

/// Yields whenever an interface came, went or was renamed. Subscribed when this returns.
pub fn changes() -> io::Result<impl Stream<Item = ()> + Unpin> {
    let (connection, _, messages) = new_multicast_connection(&[MulticastGroup::Link])?;
    tokio::spawn(connection);
    Ok(messages.map(|_| ()))
}

/// The hardware type as a number, whatever the netlink library calls it.
fn interface(link: LinkMessage) -> Option<Interface> {
    let name = link
        .attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })?;
    Some(Interface {
        name,
        index: link.header.index,
        hardware: link.header.link_layer_type.into(),
    })
}

/// Waits for the next change; false when none will come any more.
pub async fn changed(changes: &mut (impl Stream<Item = ()> + Unpin)) -> bool {
    pin!(changes.next()).await.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_named() {
        // Each network namespace has its loopback, which comes first.
        assert_eq!(name_of(1), "lo");
        assert!(name_of(u32::MAX >> 1).contains("not there any more"));
    }
}
