//! What a policy file says, and what it says about a call.
//!
//! Nothing here looks at the host or at a clock: a [`Policy`] is read once, and [`Policy::decide`]
//! is a function of the policy, the call, and what is known of counters and of tools' schemas
//! ([`Knowledge`]). It decides on what is *asked*; the kernel holds what is *done*, whatever was
//! asked. What a policy cannot find out by itself is in the [`Decision`]: limits to reserve,
//! approvals to ask for, capture filters to prove.
//!
//! # The language
//!
//! ```yaml
//! version: 1
//! default: deny                 # the only default there is: what is not named is denied
//! hide: [ reset_all ]           # denied, and not shown, whatever else is said of it; "*" is all
//! all_tools:                    # asked of every call that is let through, after its own tool's
//!   limits: [ { max: 1000, window: day } ]
//! tools:
//!   list_interfaces: allow      # or {}: forwarded as it is
//!   manage_config: { deny: "saved configurations replace checked arguments" }
//!   stop_capture: { args: { keylog: { absent: true } }, ends: capture }
//!   restart_probe: { approve: operator }    # or { by: operator, timeout: 10 min, why: "…" }
//!   start_capture:
//!     args:                     # further demands on arguments; those not named are free
//!       format: { one_of: [ text, json ] }
//!       file: { under: /var/lib/captures, pattern: '[\w/.-]+' }
//!     required_by_schema: true  # what the tool's own schema requires is there and not null
//!     limits:
//!       - { max: 10, window: minute }
//!       - { max: 500, window: 90 s, kind: bucket, scope: server, amount_from: count }
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
//!   start_proxy:
//!     proxy:
//!       from: { host: listen_host, port: listen_port, seconds: timeout }
//!       defaults: { host: 127.0.0.1, port: 8080 }    # what the server takes for what is not sent
//!       listen: [ "127.0.0.1:8000-8999" ]   # only what was asked for is granted, and it must be within
//!       upstream: [ "10.0.0.0/8:80,443", "api.example:443" ]   # nothing if absent
//!       interfaces: [ lo ]      # any if absent
//!       packets: 100000         # at least one of packets, bytes and seconds
//!       bytes: 50MiB            # each way, IP headers included
//!       connections: 100        # accepted, and as many made
//!       seconds: 600
//!       over: clamp
//!   stop_proxy: { ends: proxy }
//! baseline:                     # the server's network without a session; `none` is nothing
//!   listen: [ "127.0.0.1:8765" ]
//!   connect: [ "udp:127.0.0.53:53", "[::1]:*" ]
//! exec:                         # a capture without `from`, for commands under `capwarden exec`
//!   interfaces: [ lo ]
//!   packets: 1000
//! ```
//!
//! ## Predicates on arguments
//!
//! | predicate | an argument must be |
//! |---|---|
//! | `absent: true`, `absent: false` | not sent, not even as null; sent, and not null |
//! | `equals`, `one_of`, `not_equals`, `none_of` | one of these scalars, or none of them; 1 is 1.0, and `"1"` is neither one of `[1]` nor none of it |
//! | `at_most` | a number from 0 to this |
//! | `less_than`, `no_more_than`, `more_than`, `at_least` | a number that compares so |
//! | `pattern`, `matches` | a string that a regular expression matches as a whole, or anywhere |
//! | `contains` | a string with this in it, or a list with this item |
//! | `under` | an absolute path without `..` in this directory, or a list of them; read as text, so links in the directory may lead out of it |
//! | `in_cidr` | an address or a network within one of these networks, or a list of them |
//! | `interface` | one of these interfaces, as `interfaces` of a capture lists them |
//! | `capture_filter: { within: … }` | a capture filter that is proved to stay within this one |
//!
//! All but `absent` and `capture_filter` hold for an argument that is not sent: they say what may
//! be sent, not that it must. (No capture filter matches every packet.) Dots in an argument's name
//! reach into objects.
//!
//! ## Addresses
//!
//! `[tcp:|udp:]ADDRESS[/LENGTH]:PORTS`, where tcp is meant if neither is said, IPv6 stands in brackets
//! (`[fd00::/8]:443`), `*` is any address or any port, and ports are as `80,443,8000-8999`. In
//! `upstream` and `connect`, names may stand for addresses (`api.example:443`): they are looked up when
//! they are granted, and again every minute.
//!
//! As soon as a policy has a `baseline` or a `proxy`, the server's network is bounded: what is not in
//! the baseline it may not listen on, connect or send to without a session. No `baseline` is `none`
//! then. Otherwise nothing is bounded but captures. (Commands under `exec` are no servers.)
//!
//! A call's address is taken for what it says: only addresses and `localhost` (127.0.0.1 and ::1) are
//! read, and no name is looked up.
//!
//! ## Limits
//!
//! | key | |
//! |---|---|
//! | `max` | how much is let through in one window |
//! | `window` | `minute`, `hour`, `day`, or a time such as `90 s`, `5 min`, `2 h` |
//! | `kind` | `calendar` (from one full minute, hour or day of UTC to the next; if absent, for those), `sliding` (the time before now; if absent, for other times) or `bucket` (`max` tokens that come back over the window) |
//! | `scope` | among whom it is shared: `grant` (if absent), `principal`, `connection`, `server`, `tool` or `global` |
//! | `counter` | its name; if absent, `tool/window`. The same name, scope and window is the same counter; a call that uses it by several limits is counted once, and the smallest `max` holds |
//! | `amount`, `amount_from` | how much one call uses: a number (1 if absent), or what an argument says, which must then be a whole number |
//! | `refund` | when a use is given back: `rpc_error` (if absent: the server answered with a JSON-RPC error), `failure` (or with a result that says so) or `never` |
//!
//! # The dialects of others
//!
//! PolicyLayer's JSON, Intercept's YAML and its catalogue's load as they are, told by their shape
//! ([`Dialect`]): the heads of the modules in `dialect/` say how each is read. What is unknown is
//! refused in all of them, each with its place, up to 20 things of a file at once.
#![forbid(unsafe_code)]

mod argument;
mod capture;
mod case;
mod condition;
mod decide;
mod dialect;
mod diff;
mod endpoint;
mod error;
mod explain;
mod import;
mod interface;
mod limit;
mod load;
mod model;
mod network;
mod operator;
mod predicate;
mod proxy;
mod request;
mod source;
mod summary;
mod units;
mod usage;
mod verdict;

#[cfg(test)]
mod tests;

/// The JSON Schema (2020-12) of our own language: what may stand where.
pub const SCHEMA: &str = include_str!("schema.json");

pub use case::{Case, Difference, Expected};
pub use diff::{Effect, PolicyChange, Subject};
pub use endpoint::{Endpoint, EndpointHost, Transport};
pub use error::PolicyError;
pub use explain::{Assumed, Outcome};
pub use import::{Imported, Reading};
pub use limit::*;
pub use model::{Dialect, Policy, PolicyFilter, Replies};
pub use proxy::{Baseline, ProxyTerms, ProxyVerdict};
pub use request::{Request, unpoliced};
pub use summary::{Summary, ToolSummary};
pub use verdict::*;
