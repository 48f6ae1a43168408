//! B: a capture socket that was granted, made to give more.
//!
//! Without capwarden these attackers make such a socket themselves and put the grant on it as a
//! filter that is not locked (`Attacker::filtered`); where a filter could be no match (a cap, a
//! deadline), they have one without.

mod delivery;
mod filters;
mod interfaces;
mod memberships;
mod options;
mod rings;

use libc::{EACCES, EINVAL, ENOBUFS, ENOENT, ENOMEM, ENOPROTOOPT, ENOSYS, EOPNOTSUPP, EPERM};

pub(crate) use options::join_group;

use crate::row::{Layer, Must, Row, Setting, row};

const REFUSED: Must = Must::Errno(EPERM);
const NONE: Must = Must::Heard(0);
const HERE: Setting = Setting::Granted("");
const STILL: Setting = Setting::Orphaned;

pub(crate) const ROWS: &[Row] = &[
    row(
        "B1",
        "SO_DETACH_FILTER",
        Layer::Broker,
        Must::Errno(ENOENT),
        filters::detach,
    )
    .every_way()
    .within(HERE),
    row(
        "B1b",
        "a filter of one's own on, then off",
        Layer::Broker,
        NONE,
        filters::attach_detach,
    )
    .within(HERE),
    row(
        "B2",
        "SO_ATTACH_FILTER: a filter that takes all",
        Layer::Guard,
        NONE,
        filters::attach_all,
    )
    .within(HERE),
    row(
        "B2b",
        "the same by int 0x80",
        Layer::Seccomp,
        NONE,
        filters::attach_foreign,
    )
    .i386_only()
    .within(HERE),
    row(
        "B3",
        "SO_ATTACH_BPF",
        Layer::Lock,
        REFUSED,
        filters::attach_bpf,
    )
    .every_way()
    .within(HERE),
    row(
        "B3b",
        "SO_LOCK_FILTER off, then SO_DETACH_FILTER",
        Layer::Lock,
        REFUSED,
        filters::unlock,
    )
    .every_way()
    .within(HERE),
    row(
        "B5",
        "bind to an interface that was not granted",
        Layer::Broker,
        REFUSED,
        interfaces::rebind,
    )
    .within(HERE),
    row(
        "B5b",
        "the same with a longer address, past the broker",
        Layer::Guard,
        NONE,
        interfaces::rebind_longer,
    )
    .within(HERE),
    row(
        "B5c",
        "bind to all interfaces",
        Layer::Guard,
        NONE,
        interfaces::rebind_any,
    )
    .within(HERE),
    row(
        "B5d",
        "bind to an address that changes while the agent reads it",
        Layer::Guard,
        NONE,
        interfaces::rebind_race,
    )
    .within(HERE),
    row(
        "B6",
        "promiscuous mode on an interface that was not granted",
        Layer::Broker,
        REFUSED,
        memberships::promiscuous,
    )
    .within(HERE),
    row(
        "B6b",
        "promiscuous mode there, for its own sake",
        Layer::Broker,
        REFUSED,
        memberships::make_promiscuous,
    )
    .within(HERE),
    row(
        "B6c",
        "the same by an address that changes while the agent reads it",
        Layer::Broker,
        Must::Nothing,
        memberships::promiscuity_race,
    )
    .within(HERE),
    row(
        "B6d",
        "1,000 multicast addresses of one socket",
        Layer::Broker,
        Must::Errno(ENOBUFS),
        memberships::many_addresses,
    )
    .within(HERE),
    row(
        "B8",
        "PACKET_COPY_THRESH: whole packets past a snap length",
        Layer::Seccomp,
        REFUSED,
        rings::copy_threshold,
    )
    .every_way()
    .within(HERE),
    row(
        "B8b",
        "payload by a ring of TPACKET_V1",
        Layer::Guard,
        NONE,
        rings::ring_v1,
    )
    .within(HERE),
    row(
        "B8c",
        "payload by a ring of TPACKET_V2",
        Layer::Guard,
        NONE,
        rings::ring_v2,
    )
    .within(HERE),
    row(
        "B8d",
        "payload by a ring of TPACKET_V3",
        Layer::Guard,
        NONE,
        rings::ring_v3,
    )
    .within(HERE),
    row(
        "B9",
        "PACKET_VNET_HDR",
        Layer::Seccomp,
        REFUSED,
        options::packet_option::<15>,
    )
    .every_way()
    .within(HERE),
    row(
        "B9b",
        "PACKET_VNET_HDR_SZ",
        Layer::Seccomp,
        REFUSED,
        options::header_size,
    )
    .absent(&[ENOPROTOOPT])
    .every_way()
    .within(HERE),
    row(
        "B9c",
        "PACKET_TX_RING",
        Layer::Seccomp,
        REFUSED,
        rings::send_ring,
    )
    .every_way()
    .within(HERE),
    row(
        "B9d",
        "PACKET_LOSS",
        Layer::Seccomp,
        REFUSED,
        options::packet_option::<14>,
    )
    .every_way()
    .within(HERE),
    row(
        "B9e",
        "PACKET_TX_HAS_OFF",
        Layer::Seccomp,
        REFUSED,
        options::packet_option::<19>,
    )
    .every_way()
    .within(HERE),
    row(
        "B9f",
        "PACKET_ORIGDEV",
        Layer::Seccomp,
        REFUSED,
        options::packet_option::<9>,
    )
    .every_way()
    .within(HERE),
    row(
        "B9g",
        "PACKET_QDISC_BYPASS",
        Layer::Seccomp,
        REFUSED,
        options::packet_option::<20>,
    )
    .every_way()
    .within(HERE),
    row(
        "B11",
        "io_uring: setsockopt as a command",
        Layer::Seccomp,
        Must::Errno(ENOSYS),
        options::by_ring,
    )
    .absent(&[ENOSYS, EINVAL, EOPNOTSUPP, EPERM])
    .within(HERE),
    row(
        "B12",
        "a cap of 10 packets: forks, duplicates, many sockets",
        Layer::Guard,
        Must::Heard(10),
        delivery::share,
    )
    .within(Setting::Granted("--packets 10")),
    row(
        "B13",
        "open an eBPF map by its id",
        Layer::Seccomp,
        REFUSED,
        options::map_by_id,
    )
    .every_way()
    .within(HERE),
    row(
        "B13b",
        "open an eBPF map by its path",
        Layer::Seccomp,
        REFUSED,
        options::map_by_path,
    )
    .every_way()
    .within(HERE),
    row(
        "B14",
        "payload by recvmsg, MSG_PEEK and MSG_TRUNC",
        Layer::Guard,
        NONE,
        delivery::receive_ways,
    )
    .within(HERE),
    row(
        "B14b",
        "payload by recvmmsg",
        Layer::Guard,
        NONE,
        delivery::receive_many,
    )
    .within(HERE),
    row(
        "B14c",
        "payload by splice through a pipe",
        Layer::Guard,
        NONE,
        delivery::splice,
    )
    .absent(&[EINVAL])
    .within(HERE),
    row(
        "B15",
        "outlive a deadline of 3 s, deaf to SIGTERM",
        Layer::Guard,
        NONE,
        delivery::outlive,
    )
    .within(Setting::Granted("--seconds 3")),
    row(
        "B17",
        "SO_RCVBUFFORCE",
        Layer::Powerless,
        REFUSED,
        options::force_buffer,
    )
    .every_way()
    .within(HERE),
    row(
        "B17b",
        "SO_MARK: take the mark off what it sends",
        Layer::Powerless,
        REFUSED,
        options::mark,
    )
    .every_way()
    .within(HERE),
    row(
        "B18",
        "a receive ring of 96 MiB",
        Layer::Broker,
        Must::Errno(ENOMEM),
        rings::huge_ring,
    )
    .absent(&[ENOMEM])
    .within(HERE),
    row(
        "B18b",
        "a ring whose size changes while the agent reads it",
        Layer::Broker,
        Must::Nothing,
        rings::ring_race,
    )
    .absent(&[ENOMEM])
    .within(HERE),
    row(
        "B18c",
        "ten rings of 32 MiB",
        Layer::Broker,
        Must::Errno(ENOMEM),
        rings::many_rings,
    )
    .absent(&[ENOMEM])
    .within(HERE),
    row(
        "B19",
        "use a socket of a dead agent's session",
        Layer::Guard,
        NONE,
        interfaces::held,
    )
    .within(STILL),
    row(
        "B19b",
        "the same, freed of a filter of one's own",
        Layer::Seccomp,
        Must::Errno(ENOSYS),
        filters::held_detach,
    )
    .within(STILL),
    row(
        "B19c",
        "the same, bound to another interface",
        Layer::Guard,
        NONE,
        interfaces::held_rebind,
    )
    .within(STILL),
    row(
        "B20",
        "PACKET_STATISTICS: how many packets there are of others",
        Layer::Guard,
        NONE,
        interfaces::statistics,
    )
    .within(HERE),
    row(
        "B21",
        "a filter that takes all, from memory that is not to be read (PR_SET_DUMPABLE)",
        Layer::Guard,
        NONE,
        filters::attach_hidden,
    )
    .within(HERE),
    row(
        "B21b",
        "bind to another interface, from such memory",
        Layer::Broker,
        REFUSED,
        interfaces::rebind_hidden,
    )
    .within(HERE),
    row(
        "B22",
        "a filter that changes while the agent reads it",
        Layer::Guard,
        NONE,
        filters::attach_race,
    )
    .within(HERE),
    row(
        "B23",
        "a filter on a number that comes to mean another socket",
        Layer::Guard,
        NONE,
        filters::attach_swapped,
    )
    .within(HERE),
    row(
        "B24",
        "SO_GET_FILTER: read the grant",
        Layer::Lock,
        Must::Errno(EACCES),
        filters::read_filter,
    )
    .within(HERE),
];
