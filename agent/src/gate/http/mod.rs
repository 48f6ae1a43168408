//! Streamable HTTP in front of an MCP server: what a client sends is decided as over any other
//! transport, and what the server sends back is looked at message by message.
//!
//! The eras with sessions (2025-03-26, 2025-06-18, 2025-11-25) and the stateless one (2026-07-28)
//! are told apart by the header `MCP-Protocol-Version`, as the protocol has it. 2024-11-05 had a
//! transport of two endpoints; it is not spoken. JSON-RPC batches, which one revision had, are
//! refused.
//!
//! | file | has |
//! |---|---|
//! | `serve` | connections: taken, timed, counted |
//! | `headers` | what must hold before a body is believed; which headers go on |
//! | `front` | one request: checked, decided, carried |
//! | `clients` | who has an MCP session |
//! | `upstream` | the server behind |
//! | `relay`, `sse` | its answers on their way back |
//! | `refusal` | what is answered in its place |

mod base64;
mod clients;
mod front;
mod headers;
mod refusal;
mod relay;
mod serve;
mod sse;
mod upstream;

pub use front::{ENDPOINT, FrontPlan};
pub use serve::{DESCRIPTORS, listen, serve};
pub use upstream::{AddressError, UpstreamAddress};

#[cfg(test)]
mod tests;
