//! What the programs may do that a tool of the server starts: a browser, say.

use std::{fmt, time::Duration};

use super::{Endpoint, RuleRef, capture::Cap, endpoint::words, proxy::Endpoints, units};

/// A `program:` section.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ProgramRule {
    pub(super) rule: RuleRef,
    pub(super) connect: Option<Endpoints>,
    pub(super) processes: Option<Cap<u64>>,
    pub(super) memory: Option<Cap<u64>>,
    pub(super) packets: Option<Cap<u64>>,
    pub(super) bytes: Option<Cap<u64>>,
    pub(super) connections: Option<Cap<u64>>,
    pub(super) seconds: Cap<Duration>,
}

/// Programs that the policy allows.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramVerdict {
    /// What they may do.
    pub terms: ProgramTerms,
    /// The rule that allowed them.
    pub rule: RuleRef,
}

/// What the programs of one session may do together, before names are looked up.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramTerms {
    /// Whom their sockets may connect and send to.
    pub connect: Vec<Endpoint>,
    /// Processes at a time.
    pub processes: Option<u64>,
    /// Bytes of memory, as the kernel counts it: what they share counts once.
    pub memory: Option<u64>,
    /// Packets in both directions together.
    pub packets: Option<u64>,
    /// Bytes in each direction, with their IP headers.
    pub bytes: Option<u64>,
    /// TCP connections begun.
    pub connections: Option<u64>,
    /// How long, from the moment the session opens.
    pub duration: Duration,
}

impl ProgramRule {
    /// The verdict on every call that gets here: no argument asks for anything of it.
    pub(super) fn verdict(&self) -> ProgramVerdict {
        ProgramVerdict {
            terms: self.terms(),
            rule: self.rule.clone(),
        }
    }

    /// What it grants.
    pub(super) fn terms(&self) -> ProgramTerms {
        let most = |cap: &Option<Cap<u64>>| cap.as_ref().map(|cap| cap.most);
        let connect = self.connect.as_ref();
        ProgramTerms {
            connect: connect.map_or_else(Vec::new, |connect| connect.list.clone()),
            processes: most(&self.processes),
            memory: most(&self.memory),
            packets: most(&self.packets),
            bytes: most(&self.bytes),
            connections: most(&self.connections),
            duration: self.seconds.most,
        }
    }
}

/// `programs connecting to 10.0.0.0/8:80,443, 20 processes, 1 GiB of memory, 50 MiB each way, 600
/// seconds`, for people.
impl fmt::Display for ProgramTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "programs connecting to {}", words(&self.connect, "and"))?;
        let counted = |one: &str, many: &str, count: u64| match count {
            1 => format!(", 1 {one}"),
            count => format!(", {count} {many}"),
        };
        if let Some(processes) = self.processes {
            f.write_str(&counted("process", "processes", processes))?;
        }
        if let Some(memory) = self.memory {
            write!(f, ", {} of memory", units::bytes(memory))?;
        }
        if let Some(packets) = self.packets {
            write!(f, ", {}", units::packets(packets))?;
        }
        if let Some(bytes) = self.bytes {
            write!(f, ", {} each way", units::bytes(bytes))?;
        }
        if let Some(connections) = self.connections {
            f.write_str(&counted("connection", "connections", connections))?;
        }
        write!(f, ", {}", crate::words::time(self.duration))
    }
}
