//! What a policy file says, and what it says about a call.
//!
//! Nothing here looks at the host: a [`Policy`] is read once, and [`Policy::decide`] is a function
//! of the policy and the call alone. It decides on what is *asked*; the kernel holds what is
//! *done*, whatever was asked.
//!
//! # The language
//!
//! ```yaml
//! version: 1
//! default: deny                 # the only default there is: what is not named is denied
//! tools:
//!   list_interfaces: allow      # or {}: forwarded as it is
//!   manage_config: { deny: "saved configurations replace checked arguments" }
//!   stop_capture: { args: { keylog: { absent: true } }, ends: capture }
//!   start_capture:
//!     args:                     # further demands on arguments; those not named are free
//!       format: { one_of: [ text, json ] }
//!       file: { under: /var/lib/captures, pattern: '[\w/.-]+' }
//!     capture:
//!       from: { interface: iface, filter: bpf, packets: count, seconds: timeout }
//!       interfaces: [ lo, "veth*" ]         # names, globs, any
//!       within: "net 10.0.0.0/8"            # enforced beside what is asked, never joined as text
//!       outside: narrow         # if absent, too: a request that leads outside is cut and told so; or deny
//!       packets: 10000                      # at least one of packets, bytes and seconds
//!       bytes: 50MiB
//!       seconds: 60                         # decimals are allowed
//!       snap: 65535                         # bytes of one packet; 262144 if absent
//!       payload: headers                    # or full (if absent), or bytes after the transport header
//!       over: clamp                         # if absent, too: more than a cap becomes the cap; or deny
//! exec:                         # a capture without `from`, for commands under `capwarden exec`
//!   interfaces: [ lo ]
//!   packets: 1000
//! ```
//!
//! Predicates on arguments: `absent: true` (not even null) or `false` (must be sent), `pattern` (a
//! regular expression that the whole string must match), `equals`, `one_of`, `at_most` (a number
//! from 0), `under` (an absolute path without `..`, or a list of them). All but `absent` hold for
//! an argument that is not sent. Dots in an argument's name reach into objects.
#![forbid(unsafe_code)]

mod argument;
mod capture;
mod condition;
mod decide;
mod dialect;
mod error;
mod interface;
mod limit;
mod load;
mod model;
mod network;
mod operator;
mod predicate;
mod request;
mod source;
mod units;
mod usage;
mod verdict;

#[cfg(test)]
mod tests;

pub use error::PolicyError;
pub use limit::*;
pub use model::{Dialect, Policy, PolicyFilter, Summary};
pub use request::{Request, unpoliced};
pub use verdict::*;
