//! What the verbs share.
//!
//! | file | has |
//! |---|---|
//! | `agents` | the agents of the host, as operators ask them |
//! | `enforce` | what `run` and `exec` check before they start anything, and how what goes wrong is told |
//! | `exit`, `failure` | exit statuses, and why a verb could not do its work |
//! | `paths`, `state` | where the log and the state are; files that are not there; who runs the verb |
//! | `term`, `log` | standard output and its colours, standard error |
//! | `values`, `session`, `counters`, `reception` | values and options that are read in one way |

pub(super) mod agents;
pub(super) mod counters;
pub(super) mod enforce;
pub(super) mod exit;
pub(super) mod failure;
pub(super) mod log;
pub(super) mod paths;
pub(super) mod reception;
pub(super) mod session;
pub(super) mod state;
pub(super) mod term;
pub(super) mod values;
