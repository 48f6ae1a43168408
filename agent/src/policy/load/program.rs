//! The section `program`: what the programs may do that a tool starts.

use super::{
    Field, Loaded,
    capture::{cap, seconds},
    proxy::{Names, endpoints},
};
use crate::policy::{capture::MAX_EXACT, program::ProgramRule};

/// Keys of a `program` section.
const PROGRAM: &[&str] = &[
    "connect",
    "processes",
    "memory",
    "packets",
    "bytes",
    "connections",
    "seconds",
];

/// The least memory that a process can be run in; less than this is a mistake.
const LEAST_MEMORY: u64 = 1 << 20;

pub(super) fn program(field: &Field<'_>) -> Loaded<ProgramRule> {
    let (section, mut gather) = field.open("a map of what programs may do", PROGRAM)?;
    let connect = section.read("connect", |field| endpoints(field, Names::Allowed));
    let connect = gather.keep(connect).flatten();
    let mut amount = |key: &str, what: &'static str, help: &'static str| {
        let read = section.read(key, |field| {
            Ok(cap(field, field.whole(1..=MAX_EXACT, what, help)?))
        });
        gather.keep(read).flatten()
    };
    const PROCESSES: &str = "Write a whole number from 1: `processes: 30`.";
    let processes = amount("processes", "a number of processes", PROCESSES);
    const PACKETS: &str = "Write a whole number from 1: `packets: 100000`.";
    let packets = amount("packets", "a number of packets", PACKETS);
    const CONNECTIONS: &str = "Write a whole number from 1: `connections: 100`.";
    let connections = amount("connections", "a number of connections", CONNECTIONS);
    let memory = section.read("memory", |field| {
        Ok(cap(field, field.bytes(LEAST_MEMORY..=MAX_EXACT)?))
    });
    let memory = gather.keep(memory).flatten();
    let bytes = section.read("bytes", |field| Ok(cap(field, field.bytes(1..=MAX_EXACT)?)));
    let bytes = gather.keep(bytes).flatten();
    let seconds = match section.field("seconds") {
        Some(field) => gather.keep(seconds(&field).map(|time| cap(&field, time))),
        None => {
            if gather.is_clean() {
                const HELP: &str = "Say how long programs may run: `seconds: 600`. They must end.";
                gather.add(section.missing("seconds", HELP));
            }
            None
        }
    };
    Ok(ProgramRule {
        rule: field.rule(),
        connect,
        processes,
        memory,
        packets,
        bytes,
        connections,
        seconds: gather.done(seconds)?,
    })
}
