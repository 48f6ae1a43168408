//! Streamable HTTP in front of an MCP server: what a client sends is decided as over any other
//! transport, and what the server sends back is looked at message by message.
//!
//! The eras with sessions (2025-03-26, 2025-06-18, 2025-11-25) and the stateless one (2026-07-28)
//! are told apart by the header `MCP-Protocol-Version`, as the protocol has it. Clients of
//! 2024-11-05, which had a transport of two endpoints, find it under `/sse` and `/messages`.
//! JSON-RPC batches, which one revision had, are refused.
//!
//! Behind it is one server that speaks HTTP itself, which all clients share ([`serve()`]), or a
//! server on pipes for each MCP session ([`serve_piped`]). Whoever comes is checked, counted and let
//! go in the same way: grants end what was begun under them within a second, and nobody can take
//! what others need.
//!
//! | file | has |
//! |---|---|
//! | `serve`, `tls` | connections: taken, encrypted, timed, counted |
//! | `reception`, `tether` | who comes in, and until when |
//! | `headers` | what must hold before a body is believed; which headers go on |
//! | `params` | headers that repeat a call's arguments |
//! | `front`, `clients` | one request to an HTTP server: checked, decided, carried; who has an MCP session |
//! | `upstream`, `turns` | the HTTP server behind; whose turn it is with it |
//! | `relay`, `sse` | its answers on their way back |
//! | `asked` | a call that waits while its user is asked |
//! | `piped` | servers on pipes, one for each session |
//! | `capacity`, `shares` | how much there is for all, and how much of it for each |
//! | `legacy` | the transport of 2024-11-05 |
//! | `metadata` | what OAuth clients are told |
//! | `refusal` | what is answered in place of an answer |

mod asked;
mod base64;
mod capacity;
mod clients;
mod front;
mod headers;
mod legacy;
mod metadata;
mod params;
mod piped;
mod reception;
mod refusal;
mod relay;
mod serve;
mod shares;
mod sse;
mod tether;
mod tls;
mod turns;
mod upstream;

pub use capacity::{Capacity, DESCRIPTORS};
pub use front::{ENDPOINT, FrontPlan};
pub use metadata::{Issuer, NoIssuer};
pub use piped::{Servers, serve_piped};
pub use reception::{Prepare, ReceptionPlan};
pub use serve::{Leave, Listener, listen, serve};
pub use tls::{Authorities, Tls, TlsError};
pub use upstream::{AddressError, UpstreamAddress};

#[cfg(test)]
mod tests;
