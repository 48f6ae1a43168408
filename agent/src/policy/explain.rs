//! A decision in full, for people and programs that ask beforehand.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value, json};

use super::{
    Call, CaptureVerdict, Ceiling, Change, Counters, Decision, Definition, Endpoint, FilterOrigin,
    InterfaceTerms, Knowledge, LimitUse, Outside, Payload, Pinning, Policy, ProgramTerms,
    ProgramVerdict, ProxyEnd, ProxyTerms, ProxyVerdict, Refund, RuleRef, Scope, Terms, Unit,
    Verdict, Window,
};

/// What is taken to be so where a rule asks for more than the call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assumed {
    /// The arguments that the tool's schema requires; none: it is as in `definitions`.
    pub required: Option<Arc<[String]>>,
    /// What the server says of its tools, by their names; of others it has said nothing.
    pub definitions: Arc<BTreeMap<String, Arc<Definition>>>,
    /// What counters hold, by their names; 0 where they are not named.
    pub counts: BTreeMap<String, u64>,
    /// The most that whoever calls may have; by default nothing is bounded.
    pub ceiling: Ceiling,
}

impl Counters for Assumed {
    fn count(&self, counter: &str, _: Scope, _: Window) -> u64 {
        self.counts.get(counter).copied().unwrap_or(0)
    }
}

impl Knowledge for Assumed {
    fn definition(&self, tool: &str) -> Option<Arc<Definition>> {
        match &self.required {
            Some(names) => Some(Arc::new(Definition::requiring(tool, names))),
            None => self.definitions.get(tool).cloned(),
        }
    }

    fn ceiling(&self) -> Ceiling {
        self.ceiling
    }
}

/// What a policy decides on a call, and what comes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The decision.
    pub decision: Decision,
    /// The rule that made it: the one that denies or captures, otherwise the tool's.
    pub rule: RuleRef,
    /// Whether clients see the tool.
    pub visible: bool,
    /// The arguments that the server gets; none if the call is denied.
    pub forwarded: Option<Map<String, Value>>,
    /// The tool's definition is to be the accepted one; none where nobody asks for that.
    pub pinned: Option<Pinning>,
    /// The arguments, with dots that reach into objects, whose values the audit log gets if they are
    /// sent. It gets those of denied calls, too.
    pub recorded: Vec<String>,
}

impl Policy {
    /// Decides a call, and says what comes of it.
    #[must_use]
    pub fn outcome(&self, call: &Call, known: &dyn Knowledge) -> Outcome {
        let decision = self.decide(call, known);
        let (rule, forwarded) = match &decision.verdict {
            Verdict::Deny(denial) => (&denial.rule, None),
            Verdict::Pending(pending) => (&pending.rule, None),
            Verdict::Capture(capture) => (&capture.rule, Some(capture.forwarded(&call.arguments))),
            Verdict::Proxy(proxy) => (&proxy.rule, Some(proxy.forwarded(&call.arguments))),
            Verdict::Program(program) => (&program.rule, Some(call.arguments.clone())),
            Verdict::Forward | Verdict::EndCapture | Verdict::EndProxy | Verdict::EndProgram => {
                (self.rule(&call.tool), Some(call.arguments.clone()))
            }
        };
        Outcome {
            rule: rule.clone(),
            forwarded,
            visible: self.visible(&call.tool),
            pinned: self.pinning(&call.tool).cloned(),
            recorded: self.recorded(&call.tool).map(str::to_owned).collect(),
            decision,
        }
    }
}

impl Outcome {
    /// The verdict in a word: `allow`, `ends`, `capture`, `proxy`, `program` or `deny`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match &self.decision.verdict {
            Verdict::Forward => "allow",
            Verdict::EndCapture | Verdict::EndProxy | Verdict::EndProgram => "ends",
            Verdict::Capture(_) => "capture",
            Verdict::Proxy(_) => "proxy",
            Verdict::Program(_) => "program",
            Verdict::Deny(_) => "deny",
            Verdict::Pending(_) => "pending",
        }
    }

    /// What is granted, where a capture is.
    #[must_use]
    pub fn capture(&self) -> Option<&CaptureVerdict> {
        match &self.decision.verdict {
            Verdict::Capture(capture) => Some(capture),
            _ => None,
        }
    }

    /// What is granted, where a proxy is.
    #[must_use]
    pub fn proxy(&self) -> Option<&ProxyVerdict> {
        match &self.decision.verdict {
            Verdict::Proxy(proxy) => Some(proxy),
            _ => None,
        }
    }

    /// What is granted, where programs are.
    #[must_use]
    pub fn program(&self) -> Option<&ProgramVerdict> {
        match &self.decision.verdict {
            Verdict::Program(program) => Some(program),
            _ => None,
        }
    }

    /// What is written into the call, where a session is granted.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        match &self.decision.verdict {
            Verdict::Capture(capture) => &capture.changes,
            Verdict::Proxy(proxy) => &proxy.changes,
            _ => &[],
        }
    }

    /// All of it, for programs.
    #[must_use]
    pub fn as_json(&self) -> Value {
        let decision = &self.decision;
        let mut out = json!({
            "verdict": self.word(),
            "visible": self.visible,
            "rule": rule(&self.rule),
            "recorded": self.recorded,
        });
        let mut put = |key: &str, value: Value| {
            if let Some(out) = out.as_object_mut() {
                out.insert(key.to_owned(), value);
            }
        };
        if let Verdict::Deny(denial) = &decision.verdict {
            put("reason", json!(denial.reason));
            put("instead", json!(denial.instead));
            put("text", json!(denial.text));
            return out;
        }
        put("forwarded", json!(self.forwarded));
        let granted = self.capture().map(|capture| terms(&capture.terms));
        let granted = granted.or_else(|| self.proxy().map(|proxy| proxy_terms(&proxy.terms)));
        let granted =
            granted.or_else(|| self.program().map(|program| program_terms(&program.terms)));
        if let Some(terms) = granted {
            let changes = self.changes().iter().map(|change| {
                json!({
                    "argument": change.argument,
                    "asked": change.asked,
                    "forwarded": change.forwarded,
                    "why": change.why,
                })
            });
            put("changes", changes.collect());
            put("terms", terms);
        }
        put("uses", decision.uses.iter().map(limit).collect());
        let approval = decision.approval.as_ref().map(|approval| {
            json!({
                "by": approval.by.word(),
                "rule": rule(&approval.rule),
                "seconds": approval.timeout.as_secs(),
                "why": approval.why,
            })
        });
        put("approval", json!(approval));
        let pinned = self
            .pinned
            .as_ref()
            .map(|pinning| json!({ "strict": pinning.strict, "rule": rule(&pinning.rule) }));
        put("pinned", json!(pinned));
        let proofs = decision.proofs.iter().map(|proof| {
            json!({
                "argument": proof.argument,
                "filter": proof.expression,
                "within": proof.within,
                "rule": rule(&proof.rule),
            })
        });
        put("proofs", proofs.collect());
        let paths = decision.paths.iter().map(|demand| {
            json!({
                "argument": demand.argument,
                "path": demand.path,
                "under": demand.directory,
                "rule": rule(&demand.rule),
            })
        });
        put("paths", paths.collect());
        out
    }
}

fn rule(rule: &RuleRef) -> Value {
    json!({
        "file": &*rule.file,
        "line": rule.line,
        "column": rule.column,
        "path": rule.path,
    })
}

fn interfaces(interfaces: &InterfaceTerms) -> Value {
    match interfaces {
        InterfaceTerms::Any => json!(["any"]),
        InterfaceTerms::Matching(patterns) => patterns
            .iter()
            .map(|pattern| json!(pattern.as_str()))
            .collect(),
    }
}

fn endpoints(endpoints: &[Endpoint]) -> Value {
    let each = endpoints.iter();
    each.map(|endpoint| json!(endpoint.to_string())).collect()
}

fn program_terms(terms: &ProgramTerms) -> Value {
    json!({
        "summary": terms.to_string(),
        "connect": endpoints(&terms.connect),
        "processes": terms.processes,
        "memory": terms.memory,
        "packets": terms.packets,
        "bytes": terms.bytes,
        "connections": terms.connections,
        "seconds": terms.duration.as_secs_f64(),
    })
}

fn proxy_terms(terms: &ProxyTerms) -> Value {
    json!({
        "summary": terms.to_string(),
        "listen": endpoints(&terms.listen),
        "upstream": endpoints(&terms.upstream),
        "interfaces": interfaces(&terms.interfaces),
        "packets": terms.packets,
        "bytes": terms.bytes,
        "connections": terms.connections,
        "seconds": terms.duration.map(|time| time.as_secs_f64()),
        "end": match terms.end {
            ProxyEnd::Drop => "drop",
            ProxyEnd::Restart => "restart",
        },
    })
}

fn terms(terms: &Terms) -> Value {
    let filters = terms.filters.iter().map(|filter| {
        json!({
            "expression": filter.expression,
            "origin": match filter.origin {
                FilterOrigin::Requested => "requested",
                FilterOrigin::Policy => "policy",
            },
        })
    });
    json!({
        "summary": terms.to_string(),
        "interfaces": interfaces(&terms.interfaces),
        "filters": filters.collect::<Vec<_>>(),
        "outside": match terms.outside {
            Outside::Narrow => "narrow",
            Outside::Deny => "deny",
        },
        "packets": terms.packets,
        "bytes": terms.bytes,
        "seconds": terms.duration.map(|time| time.as_secs_f64()),
        "snap": terms.snap_length,
        "payload": match terms.payload {
            Payload::Full => json!("full"),
            Payload::Bytes(0) => json!("headers"),
            Payload::Bytes(bytes) => json!(bytes),
        },
    })
}

fn limit(used: &LimitUse) -> Value {
    let (kind, window) = match used.window {
        Window::Calendar(Unit::Minute) => ("calendar", json!("minute")),
        Window::Calendar(Unit::Hour) => ("calendar", json!("hour")),
        Window::Calendar(Unit::Day) => ("calendar", json!("day")),
        Window::Sliding(time) => ("sliding", json!(time.as_secs())),
        Window::Bucket(time) => ("bucket", json!(time.as_secs())),
    };
    json!({
        "counter": used.counter,
        "amount": used.amount,
        "max": used.max,
        "kind": kind,
        "window": window,
        "scope": used.scope.word(),
        "refund": used.refund.word(),
        "rule": rule(&used.rule),
    })
}

impl Scope {
    /// The scope as our language writes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::Principal => "principal",
            Self::Connection => "connection",
            Self::Server => "server",
            Self::Tool => "tool",
            Self::Global => "global",
        }
    }
}

impl Refund {
    /// The refund as our language writes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::OnFailure => "failure",
            Self::OnRpcError => "rpc_error",
            Self::Never => "never",
        }
    }
}
