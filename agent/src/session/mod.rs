//! Sessions: what joins the gate and the guards. A policy's terms become a [`Grant`], the grant a
//! loaded guard, and the processes that a call starts are held to it until one of its ends.
//!
//! | file | has |
//! |---|---|
//! | `registry` | the sessions of one server, and which process belongs to which |
//! | `roll` | those of all servers, for whoever looks at them from outside |
//! | `grant`, `filters` | from terms to what the kernel is told, on this host and its interfaces |
//! | `lifecycle`, `end` | one session from its opening to its end, and which ends there are |
//! | `admit` | what the broker asks: who gets a capture socket |
//! | `own_filter`, `compare` | the filter that a tool attaches itself: checked, and held against what was asked for |
//! | `rings`, `memberships` | what its sockets may use of the kernel's memory, and ask of interfaces |
//! | `proxy`, `program` | sessions of these two kinds |
//! | `snapshot`, `protocols` | what it has come to, at this moment and by protocol |
//! | `event`, `sampling` | what is told to whoever keeps the record, and refusals thinned out |
#![forbid(unsafe_code)]

mod admit;
mod compare;
mod end;
mod event;
mod filters;
mod grant;
mod lifecycle;
mod memberships;
mod own_filter;
mod program;
mod protocols;
mod proxy;
mod registry;
mod rings;
mod roll;
mod sampling;
mod snapshot;

pub use compare::Relation;
pub use end::*;
pub use event::{Events, Happened, Restart, ServerEvent, SessionEvent};
pub use filters::{Cut, foresee, stays_within};
pub use grant::{Grant, GrantError};
pub use program::{ProgramError, ProgramGrant};
pub use protocols::Protocols;
pub use proxy::{NetworkRefusal, ProxyError, ProxyGrant};
pub use registry::{Attribution, SessionError, Sessions};
pub use roll::Roll;
pub use snapshot::{Count, Member, Passed, Snapshot, Standing};
