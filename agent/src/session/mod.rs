//! Sessions: what joins the gate and the guards. A policy's terms become a [`Grant`], the grant a
//! loaded guard, and the processes that a call starts are held to it until one of its ends.
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
