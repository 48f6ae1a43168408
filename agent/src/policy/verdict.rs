//! What crosses the wall between the policy and the rest: a call goes in, a verdict comes out.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{LimitUse, ProgramVerdict, ProxyVerdict, argument, units};

/// One `tools/call`, as far as a policy cares.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The tool's name, exactly as the client spelled it.
    pub tool: String,
    /// The call's arguments.
    pub arguments: Map<String, Value>,
}

/// All that the policy says about a call. What is not `verdict` is what must still be found out
/// before the call is forwarded, and is empty where the verdict is a denial.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What is to be done with the call, if all the rest holds.
    pub verdict: Verdict,
    /// What the call uses of which limits, in the order in which a refusal is told.
    pub uses: Vec<LimitUse>,
    /// Somebody must approve of the call first.
    pub approval: Option<Approval>,
    /// Capture filters that the call carries and that must be proved to stay within a policy's.
    pub proofs: Vec<FilterDemand>,
    /// Paths that the call carries and that must not lead out of a policy's directories.
    pub paths: Vec<PathDemand>,
}

/// Whom a rule wants to say yes to a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Approver {
    /// Whoever sits at the MCP client, asked by it. What it answers is its own word: this protects
    /// from the model, not from the client.
    User,
    /// Whoever can write the state directory.
    #[default]
    Operator,
}

impl Approver {
    /// The word of the policy language.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Operator => "operator",
        }
    }
}

/// `an operator`, for people.
impl fmt::Display for Approver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "the client's user",
            Self::Operator => "an operator",
        })
    }
}

/// A call needs somebody's approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Whose.
    pub by: Approver,
    /// The rule that asks for it.
    pub rule: RuleRef,
    /// How long the call waits for it; then it is denied.
    pub timeout: Duration,
    /// Why, for who approves.
    pub why: Option<String>,
}

/// A capture filter in an argument of a tool that opens no session: it must be proved to stay
/// within the policy's filter, or the call is to be denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterDemand {
    /// The argument's name, with dots that reach into objects.
    pub argument: String,
    /// What the call sent in it, in libpcap's language.
    pub expression: String,
    /// What it must stay within, in libpcap's language.
    pub within: String,
    /// The rule that demands it.
    pub rule: RuleRef,
}

/// A path in an argument, which lies in the policy's directory as it is written: no link may lead out of
/// there, which only the host can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathDemand {
    /// The argument's name, with dots that reach into objects.
    pub argument: String,
    /// What the call sent in it: an absolute path without `..`.
    pub path: String,
    /// What it must lie in.
    pub directory: String,
    /// The rule that demands it.
    pub rule: RuleRef,
}

/// A verdict with nothing left to find out.
impl From<Verdict> for Decision {
    fn from(verdict: Verdict) -> Self {
        Self {
            verdict,
            uses: Vec::new(),
            approval: None,
            proofs: Vec::new(),
            paths: Vec::new(),
        }
    }
}

/// What is to be done with a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Forward the client's own bytes.
    Forward,
    /// Forward the client's own bytes; the tool ends captures.
    EndCapture,
    /// Open a session first, then forward with the changes made.
    Capture(Box<CaptureVerdict>),
    /// Forward the client's own bytes; the tool ends proxies.
    EndProxy,
    /// Open a session for a proxy first, then forward with the changes made.
    Proxy(Box<ProxyVerdict>),
    /// Forward the client's own bytes; the tool ends programs.
    EndProgram,
    /// Open a session for programs first, unless one is open, then forward the client's own bytes.
    Program(Box<ProgramVerdict>),
    /// Do not forward.
    Deny(Denial),
    /// Do not forward before somebody has approved of it, who was asked. No policy says this by
    /// itself: it is what becomes of a [`Decision::approval`].
    Pending(Box<Pending>),
}

/// A call that waits for somebody's approval. It is not held: it is to be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// What it is approved by: `K7QM-2F9X`.
    pub id: String,
    /// Until when it waits, as RFC 3339 has it, in UTC.
    pub expires: String,
    /// One sentence: what it waits for.
    pub reason: String,
    /// One sentence: what the model can do.
    pub instead: String,
    /// The rule that asks for the approval.
    pub rule: RuleRef,
    /// What the client can put to its user, so that the call need not wait; none where an operator
    /// is to approve.
    pub question: Option<Question>,
}

/// What the user of a client is asked: yes or no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What the call is, what it comes to, and why that is asked. Several lines.
    pub message: String,
    /// By which the answer is known for one to this question: opaque, and not to be guessed.
    pub state: String,
}

/// What somebody said who was asked by a [`Question`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The call may go, once.
    Yes,
    /// It may not.
    No,
    /// Nothing: the question was put away.
    Dismissed,
}

/// As it is told to the model.
impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reason,
            instead,
            rule,
            ..
        } = self;
        write!(f, "{reason} {instead} (rule: {rule})")
    }
}

/// A refusal that a model can act on and an operator can trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Denial {
    /// One sentence: what was refused, and why.
    pub reason: String,
    /// One sentence: what would be allowed instead.
    pub instead: Option<String>,
    /// The rule that refused.
    pub rule: RuleRef,
    /// What the model is told in place of `reason` and `instead`, where another vendor's words
    /// were chosen ([`super::Replies`]).
    pub text: Option<String>,
    /// What `instead` says, for programs: an object such as `{"packets": 10000, "interfaces":
    /// ["lo"]}` or `{"argument": "amount", "at_most": 500}`.
    pub allowed: Option<Box<Value>>,
    /// A limit was reached: the same call may be allowed later.
    pub limit: bool,
}

impl Denial {
    /// A denial with nothing but a reason, one whole sentence, and the rule.
    #[must_use]
    pub fn new(reason: impl Into<String>, rule: RuleRef) -> Self {
        Self {
            reason: reason.into(),
            instead: None,
            rule,
            text: None,
            allowed: None,
            limit: false,
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        if let Some(instead) = &self.instead {
            write!(f, " {instead}")?;
        }
        write!(f, " (rule: {})", self.rule)
    }
}

/// Where in which policy a rule stands: `policy.yaml:12:7 tools.start.capture.packets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// The policy file, as it was named on the command line.
    pub file: Arc<str>,
    /// Line, from 1; 0 where no file is meant, but the command line.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// The key's path in the file.
    pub path: String,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return f.write_str(&self.path);
        }
        write!(
            f,
            "{}:{}:{} {}",
            self.file, self.line, self.column, self.path
        )
    }
}

/// A capture that the policy allows.
#[derive(Clone, Debug, PartialEq)]
pub struct CaptureVerdict {
    /// What the session may see.
    pub terms: Terms,
    /// What is written into the call before it is forwarded.
    pub changes: Vec<Change>,
    /// The rule that allowed it.
    pub rule: RuleRef,
}

/// What a capture session may see, before names are looked up on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// The interfaces.
    pub interfaces: InterfaceTerms,
    /// A packet is seen only if all of these match it. Empty: every packet.
    pub filters: Vec<FilterTerm>,
    /// What becomes of a request that leads outside the policy's filter.
    pub outside: Outside,
    /// Packets in all.
    pub packets: Option<u64>,
    /// Bytes in all, as captured.
    pub bytes: Option<u64>,
    /// How long, from the moment the session opens.
    pub duration: Option<Duration>,
    /// Bytes of one packet at most.
    pub snap_length: u32,
    /// What is kept after the transport header.
    pub payload: Payload,
}

/// Which interfaces a session covers.
#[derive(Clone, Debug, PartialEq)]
pub enum InterfaceTerms {
    /// Every interface of the network namespace (the policy lists `any`).
    Any,
    /// The interfaces that a name or a glob of this list matches, now and while the session lasts:
    /// the one that a call asked for, or the policy's own list where nothing is asked.
    Matching(Vec<InterfacePattern>),
}

/// An interface name, or a glob (`*` and `?`) over interface names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InterfacePattern(pub(crate) String);

/// One capture filter and who wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterTerm {
    /// In libpcap's language.
    pub expression: String,
    /// Who wants it.
    pub origin: FilterOrigin,
}

/// Who wants a capture filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterOrigin {
    /// The call, or the command line.
    Requested,
    /// The policy's `within`.
    Policy,
}

/// What becomes of a request whose filter also matches packets that the policy's does not. Such
/// packets are never seen, either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outside {
    /// It is granted, and told what is left out.
    #[default]
    Narrow,
    /// It is denied.
    Deny,
}

/// How much of a packet is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// All of it, up to the snap length.
    Full,
    /// Up to the end of the transport header and this many bytes after it (0 for `headers`).
    Bytes(u32),
}

/// One argument that is written into the forwarded call.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The argument's name; dots reach into objects.
    pub argument: String,
    /// What the client sent; none if it sent nothing.
    pub asked: Option<Value>,
    /// What is forwarded.
    pub forwarded: Value,
    /// Why, in a few words for the model: `the policy allows at most 10000 packets`.
    pub why: String,
}

impl CaptureVerdict {
    /// Makes the changes in a copy of the call's arguments, which is then to be forwarded.
    #[must_use]
    pub fn forwarded(&self, arguments: &Map<String, Value>) -> Map<String, Value> {
        let mut arguments = arguments.clone();
        for change in &self.changes {
            argument::write(&mut arguments, &change.argument, change.forwarded.clone());
        }
        arguments
    }
}

impl Payload {
    /// The one that delivers less.
    #[must_use]
    pub fn narrower(self, other: Self) -> Self {
        match (self, other) {
            (Self::Full, narrower) | (narrower, Self::Full) => narrower,
            (Self::Bytes(a), Self::Bytes(b)) => Self::Bytes(a.min(b)),
        }
    }
}

/// `lo or veth*, "tcp port 80" within "net 10.0.0.0/8", 1000 packets, 50 MiB, 60 seconds`, for
/// people.
impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.interfaces)?;
        for (n, term) in self.filters.iter().enumerate() {
            let lead = match (n, term.origin) {
                (0, FilterOrigin::Requested) => ", ",
                (0, FilterOrigin::Policy) => ", within ",
                (_, FilterOrigin::Policy) => " within ",
                (_, FilterOrigin::Requested) => " and ",
            };
            write!(f, "{lead}\"{}\"", term.expression)?;
        }
        if let Some(packets) = self.packets {
            write!(f, ", {}", units::packets(packets))?;
        }
        if let Some(bytes) = self.bytes {
            write!(f, ", {}", units::bytes(bytes))?;
        }
        if let Some(time) = self.duration {
            write!(f, ", {}", crate::words::time(time))?;
        }
        match self.payload {
            Payload::Full => Ok(()),
            Payload::Bytes(0) => f.write_str(", headers only"),
            Payload::Bytes(n) => write!(f, ", {} of payload", units::bytes(n.into())),
        }
    }
}

/// `lo, eth0 or veth*`, for people.
impl fmt::Display for InterfaceTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any interface"),
            Self::Matching(patterns) => {
                let words: Vec<String> = patterns.iter().map(ToString::to_string).collect();
                f.write_str(&units::either(&words, "or"))
            }
        }
    }
}
