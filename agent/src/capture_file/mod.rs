//! capture_file: what a finished capture holds.
//!
//! ```text
//!  pcap, pcapng ──read──▶ Captured packets, one at a time
//!                 names ─▶ the interfaces that a pcapng file says its packets came from
//!                survey ─▶ how many packets a filter would have let through
//!               headers ─▶ where the headers of a packet end, as the guard sees it
//! ```
//!
//! Files are read as a stream, in bounded memory, and nothing in them is trusted: they were written
//! by the processes that capwarden governs.
#![forbid(unsafe_code)]

mod headers;
mod names;
mod read;
mod survey;

pub use headers::{HeadersEnd, headers_end};
pub use names::{InterfaceCount, Names, interface_names};
#[cfg(test)]
pub(crate) use read::tests::pcap_file;
pub use read::{CaptureFile, CaptureFileError, Captured};
pub use survey::{Survey, survey};
