//! What capwarden remembers from one run to the next, and shares with other runs on the host.
//!
//! Everything is in one directory, the [`StateDirectory`], in plain files of two kinds:
//!
//! - [`Slots`]: small records that change with every call (the counters of limits). One file of
//!   slots of equal size, changed in place under a lock.
//! - [`Table`]: few entries that people or rare events change (approvals, grants, pins). One JSON
//!   file per table, replaced as a whole.
//!
//! Several processes may use one directory at once. Locks are `flock`s, which the kernel drops when
//! a process dies, however it dies; a process that was stopped while it holds one makes the others
//! refuse, after a quarter of a second for slots and five seconds for tables. A process that uses slots
//! again and again keeps their lock between its uses for as long as nobody else wants it (`tenure.rs`).
//!
//! # What lasts
//!
//! | after | slots | tables |
//! |---|---|---|
//! | `kill -9` of any process, at any point | everything that was written | everything that was written |
//! | power loss, kernel crash | what was written up to [`SYNC_EVERY`] before | everything that was written |
//! | damage to a file | refused, with what to do; never taken for empty | the same |
//!
//! # Why no database
//!
//! A counter is changed on the path of a call, and may cost a few microseconds. Measured on 2 cores,
//! ext4, 1,000 counters, read and written one at a time, p50: SQLite with a write-ahead log and
//! `synchronous=NORMAL` 7.0–8.5 µs. LMDB 4.5 µs with `NOSYNC`, 0.8 µs with `WRITEMAP` as well; but without
//! syncs a power loss can leave it with pages that do not belong together, which it maps into memory and
//! follows without a check, and nothing bounds how long it waits for a writer that was stopped. A slot
//! under `flock` 2.4 µs, of which the write takes one, each with a checksum, and nothing to build.
//!
//! # Adding a table
//!
//! A type for its entries (`Serialize`, `Deserialize`), and
//! `Table::<MyEntry>::open(&directory, "my-entries")`.
#![forbid(unsafe_code)]

mod clock;
mod directory;
mod error;
mod lock;
mod slots;
mod sync;
mod table;
mod tenure;
#[cfg(test)]
pub(crate) mod tests;

pub use clock::Clock;
pub use directory::{Exposure, StateDirectory, exposed};
pub use error::StoreError;
pub use slots::{Found, Held, Key, SLOT_CAPACITY, Slots};
pub use sync::SYNC_EVERY;
pub use table::{Seen, Table};
