//! The decision on one capture: what is asked, held against what the policy grants.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Map, Value};

use super::{
    CaptureVerdict, Change, Denial, FilterOrigin, FilterTerm, InterfacePattern, InterfaceTerms,
    Outside, Payload, Request, RuleRef, Terms,
    argument::{Argument, kind},
    source::{quoted, refuse},
    units,
};
use crate::words;

/// Bytes of a capture filter at most. libpcap's own grammar sets no bound.
pub(super) const MAX_FILTER: usize = 512 * 1024;

/// Beyond this, JSON numbers are not exact in most servers' languages.
pub(super) const MAX_EXACT: u64 = 1 << 53;

/// The snap length where a policy sets none, and the most that libpcap takes.
pub(super) const MAX_SNAP: u32 = 262_144;

/// Interfaces that one call may name.
const MAX_INTERFACES: usize = 64;

/// A `capture:` or `exec:` section.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CaptureRule {
    pub(super) rule: RuleRef,
    pub(super) from: Arguments,
    pub(super) interfaces: Interfaces,
    pub(super) within: Option<Within>,
    pub(super) outside: Outside,
    pub(super) packets: Option<Cap<u64>>,
    pub(super) bytes: Option<Cap<u64>>,
    pub(super) seconds: Option<Cap<Duration>>,
    pub(super) snap: u32,
    pub(super) payload: Payload,
    pub(super) over: Over,
}

/// The filter that a capture stays within, and where it is written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Within {
    pub(super) expression: String,
    pub(super) rule: RuleRef,
}

/// Which arguments of the call say what is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Arguments {
    pub(super) interface: Option<Named>,
    pub(super) filter: Option<Named>,
    pub(super) packets: Option<Named>,
    pub(super) bytes: Option<Named>,
    pub(super) seconds: Option<Named>,
}

/// An argument that a policy names, and where.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Named {
    pub(super) argument: Argument,
    pub(super) rule: RuleRef,
}

/// The interfaces of a rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Interfaces {
    /// `any` is listed.
    pub(super) any: bool,
    pub(super) patterns: Vec<InterfacePattern>,
    pub(super) rule: RuleRef,
}

/// The most that may be had of something.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cap<T> {
    pub(super) most: T,
    pub(super) whose: Whose,
    pub(super) rule: RuleRef,
}

/// Who sets a cap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Whose {
    #[default]
    Policy,
    Grant,
}

/// What happens to a call that asks for more than a cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// The cap is written into the call.
    Clamp,
    /// The call is denied.
    Deny,
}

/// What is asked of something that has a cap.
#[derive(Clone, Copy)]
pub(super) enum Asked<T> {
    Nothing,
    /// 0, which servers read as "no limit", or more than can be counted exactly.
    Unlimited,
    Amount(T),
}

/// How an amount is written.
pub(super) struct Unit<T> {
    pub(super) say: fn(T) -> String,
    pub(super) json: fn(T) -> Value,
}

const PACKETS: Unit<u64> = Unit {
    say: units::packets,
    json: |n| Value::from(n),
};

const BYTES: Unit<u64> = Unit {
    say: units::bytes,
    json: |n| Value::from(n),
};

pub(super) const SECONDS: Unit<Duration> = Unit {
    say: words::time,
    // A whole number where it can be one: many servers declare an integer.
    json: |time| {
        if time.subsec_nanos() == 0 {
            Value::from(time.as_secs())
        } else {
            Value::from(time.as_secs_f64())
        }
    },
};

impl CaptureRule {
    /// The verdict on a call.
    pub(super) fn decide(&self, call: &Map<String, Value>) -> Result<CaptureVerdict, Box<Denial>> {
        let mut changes = Vec::new();
        let interfaces = self.interfaces_asked(call, &mut changes)?;
        let mut filters = Vec::new();
        if let Some(named) = &self.from.filter {
            let asked = match self.find(named, call)? {
                None | Some(Value::Null) => None,
                Some(Value::String(text)) => Some(text.as_str()),
                Some(other) => {
                    let reason = format!(
                        "The capture filter in `{}` must be a string, but is {}.",
                        named.argument.name(),
                        kind(other)
                    );
                    return Err(self.deny(&named.rule, reason));
                }
            };
            filters
                .extend(requested_filter(asked).map_err(|reason| self.deny(&named.rule, reason))?);
        }
        let packets = self.amount(
            call,
            &PACKETS,
            whole,
            self.from.packets.as_ref(),
            self.packets.as_ref(),
            &mut changes,
        )?;
        let bytes = self.amount(
            call,
            &BYTES,
            whole,
            self.from.bytes.as_ref(),
            self.bytes.as_ref(),
            &mut changes,
        )?;
        let duration = self.amount(
            call,
            &SECONDS,
            time,
            self.from.seconds.as_ref(),
            self.seconds.as_ref(),
            &mut changes,
        )?;
        Ok(self.verdict(
            interfaces,
            filters,
            (packets, bytes, duration),
            self.payload,
            changes,
        ))
    }

    /// The verdict on a command line.
    pub(super) fn decide_request(&self, request: &Request) -> Result<CaptureVerdict, Box<Denial>> {
        let interfaces = if request.interfaces.is_empty() {
            self.interfaces.terms()
        } else {
            let names: Vec<&str> = request.interfaces.iter().map(String::as_str).collect();
            self.admit_all(&names)?
        };
        let filters = requested_filter(request.filter.as_deref())
            .map_err(|reason| self.deny(&self.rule, reason))?;
        let whole = |n: Option<u64>| match n {
            None => Asked::Nothing,
            Some(0) => Asked::Unlimited,
            Some(n) => Asked::Amount(n),
        };
        let time = match request.duration {
            None => Asked::Nothing,
            Some(Duration::ZERO) => Asked::Unlimited,
            Some(time) => Asked::Amount(time),
        };
        let (packets, _) = self.settle(&PACKETS, whole(request.packets), self.packets.as_ref())?;
        let (bytes, _) = self.settle(&BYTES, whole(request.bytes), self.bytes.as_ref())?;
        let (duration, _) = self.settle(&SECONDS, time, self.seconds.as_ref())?;
        let payload = self
            .payload
            .narrower(request.payload.unwrap_or(Payload::Full));
        Ok(self.verdict(
            interfaces,
            filters.into_iter().collect(),
            (packets, bytes, duration),
            payload,
            Vec::new(),
        ))
    }

    fn verdict(
        &self,
        interfaces: InterfaceTerms,
        mut filters: Vec<FilterTerm>,
        (packets, bytes, duration): (Option<u64>, Option<u64>, Option<Duration>),
        payload: Payload,
        changes: Vec<Change>,
    ) -> CaptureVerdict {
        // A term of its own, never text put together with text: a request of `x) or (y` must not
        // be able to reach around it.
        filters.extend(self.within.iter().map(|within| FilterTerm {
            expression: within.expression.clone(),
            origin: FilterOrigin::Policy,
        }));
        CaptureVerdict {
            terms: Terms {
                interfaces,
                filters,
                outside: self.outside,
                packets,
                bytes,
                duration,
                snap_length: self.snap,
                payload,
            },
            changes,
            rule: self.rule.clone(),
        }
    }

    fn interfaces_asked(
        &self,
        call: &Map<String, Value>,
        changes: &mut Vec<Change>,
    ) -> Result<InterfaceTerms, Box<Denial>> {
        let Some(named) = &self.from.interface else {
            return Ok(self.interfaces.terms());
        };
        let name = named.argument.name();
        let asked = self.find(named, call)?;
        let names: Vec<&str> = match asked {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(text)) if text.is_empty() => Vec::new(),
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(items)) => {
                if items.len() > MAX_INTERFACES {
                    let reason = format!("`{name}` lists more than {MAX_INTERFACES} interfaces.");
                    return Err(self.deny(&self.interfaces.rule, reason));
                }
                items
                    .iter()
                    .map(|item| match item {
                        Value::String(text) => Ok(text.as_str()),
                        other => Err(self.deny(
                            &self.interfaces.rule,
                            format!(
                                "`{name}` must list interface names, but has {}.",
                                kind(other)
                            ),
                        )),
                    })
                    .collect::<Result<_, _>>()?
            }
            Some(Value::Number(_)) => {
                let reason = format!(
                    "`{name}` is a number, which tools look up in a list of their own; name the interface."
                );
                return Err(self.deny(&self.interfaces.rule, reason));
            }
            Some(other) => {
                let reason = format!(
                    "`{name}` must be an interface's name, but is {}.",
                    kind(other)
                );
                return Err(self.deny(&self.interfaces.rule, reason));
            }
        };
        if !names.is_empty() {
            return self.admit_all(&names);
        }
        // The server would choose one by itself.
        let Some(only) = self.interfaces.only() else {
            let reason = format!("No interface is named in `{name}`.");
            return Err(self.deny(&self.interfaces.rule, reason));
        };
        changes.push(Change {
            argument: name.to_owned(),
            asked: asked.cloned(),
            forwarded: Value::from(only.as_str()),
            why: format!("the policy allows {only} only"),
        });
        Ok(InterfaceTerms::Matching(vec![only.clone()]))
    }

    fn admit_all(&self, names: &[&str]) -> Result<InterfaceTerms, Box<Denial>> {
        let mut any = false;
        let mut patterns = Vec::new();
        for name in names {
            match self.interfaces.admit(name) {
                Ok(None) => any = true,
                Ok(Some(pattern)) if patterns.contains(&pattern) => {}
                Ok(Some(pattern)) => patterns.push(pattern),
                Err(reason) => return Err(self.deny(&self.interfaces.rule, reason)),
            }
        }
        Ok(if any {
            InterfaceTerms::Any
        } else {
            InterfaceTerms::Matching(patterns)
        })
    }

    /// Reads an amount from the call and settles it, with the change that is needed for it.
    fn amount<T: Copy + Ord>(
        &self,
        call: &Map<String, Value>,
        unit: &Unit<T>,
        read: fn(&Value) -> Result<Asked<T>, String>,
        named: Option<&Named>,
        cap: Option<&Cap<T>>,
        changes: &mut Vec<Change>,
    ) -> Result<Option<T>, Box<Denial>> {
        let Some(named) = named else {
            return Ok(cap.map(|cap| cap.most));
        };
        let value = self.find(named, call)?;
        let asked = match value {
            None | Some(Value::Null) => Asked::Nothing,
            Some(value) => read(value).map_err(|what| {
                let name = named.argument.name();
                self.deny(&named.rule, format!("`{name}` {what}."))
            })?,
        };
        let (granted, written) = self.settle(unit, asked, cap)?;
        if let (Some(most), Some(cap)) = (written, cap) {
            changes.push(Change {
                argument: named.argument.name().to_owned(),
                asked: value.cloned(),
                forwarded: (unit.json)(most),
                why: cap.why(unit),
            });
        }
        Ok(granted)
    }

    fn settle<T: Copy + Ord>(
        &self,
        unit: &Unit<T>,
        asked: Asked<T>,
        cap: Option<&Cap<T>>,
    ) -> Result<Settled<T>, Box<Denial>> {
        settle(unit, asked, cap, self.over).map_err(|(rule, reason)| self.deny(rule, reason))
    }

    fn find<'a>(
        &self,
        named: &Named,
        call: &'a Map<String, Value>,
    ) -> Result<Option<&'a Value>, Box<Denial>> {
        named
            .argument
            .find(call)
            .map_err(|reason| self.deny(&named.rule, reason))
    }

    fn deny(&self, rule: &RuleRef, reason: String) -> Box<Denial> {
        Box::new(Denial {
            reason,
            instead: Some(self.offer()),
            rule: rule.clone(),
            text: None,
            allowed: Some(Box::new(self.allowed())),
            limit: false,
        })
    }

    /// What the rule would allow, for programs.
    fn allowed(&self) -> Value {
        let mut allowed = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                allowed.insert(key.to_owned(), value);
            }
        };
        put("interfaces", Some(self.interfaces.names().into()));
        let within = self.within.as_ref();
        put("within", within.map(|it| it.expression.as_str().into()));
        put("packets", self.packets.as_ref().map(|cap| cap.most.into()));
        put("bytes", self.bytes.as_ref().map(|cap| cap.most.into()));
        let seconds = self.seconds.as_ref();
        put("seconds", seconds.map(|cap| (SECONDS.json)(cap.most)));
        Value::Object(allowed)
    }

    /// What the rule would allow, in a sentence.
    pub(super) fn offer(&self) -> String {
        let mut caps = Vec::new();
        caps.extend(self.packets.as_ref().map(|cap| units::packets(cap.most)));
        caps.extend(self.bytes.as_ref().map(|cap| units::bytes(cap.most)));
        caps.extend(self.seconds.as_ref().map(|cap| words::time(cap.most)));
        let caps = units::either(&caps, "and");
        let interfaces = self.interfaces.words();
        let mut offer = match caps.is_empty() {
            true => format!("Ask for a capture on {interfaces}"),
            false => format!("Ask for at most {caps} on {interfaces}"),
        };
        if let Some(within) = &self.within {
            let _ = write!(offer, ", within \"{}\"", within.expression);
        }
        offer + "."
    }
}

impl<T: Copy> Cap<T> {
    /// Why no more is forwarded: `the policy allows at most 10000 packets`.
    pub(super) fn why(&self, unit: &Unit<T>) -> String {
        let whose = match self.whose {
            Whose::Policy => "the policy",
            Whose::Grant => "the grant",
        };
        format!("{whose} allows at most {}", (unit.say)(self.most))
    }
}

/// What is granted, and what is to be written where the asker did not say just that.
type Settled<T> = (Option<T>, Option<T>);

/// Settles what is asked. An error is the rule that is in the way, and why.
pub(super) fn settle<'c, T: Copy + Ord>(
    unit: &Unit<T>,
    asked: Asked<T>,
    cap: Option<&'c Cap<T>>,
    over: Over,
) -> Result<Settled<T>, (&'c RuleRef, String)> {
    let Some(cap) = cap else {
        return Ok(match asked {
            Asked::Amount(n) => (Some(n), None),
            Asked::Nothing | Asked::Unlimited => (None, None),
        });
    };
    match (asked, over) {
        (Asked::Amount(n), _) if n <= cap.most => Ok((Some(n), None)),
        // Nothing was asked that could be denied, and the kernel holds the cap.
        (Asked::Nothing, Over::Deny) => Ok((Some(cap.most), None)),
        (_, Over::Clamp) => Ok((Some(cap.most), Some(cap.most))),
        (Asked::Amount(n), Over::Deny) => {
            let (n, most) = ((unit.say)(n), (unit.say)(cap.most));
            Err((&cap.rule, format!("{n} is more than the {most} allowed.")))
        }
        (Asked::Unlimited, Over::Deny) => {
            let most = (unit.say)(cap.most);
            Err((
                &cap.rule,
                format!("No limit was asked for, and at most {most} is allowed."),
            ))
        }
    }
}

impl Interfaces {
    /// What may be named, as it is written.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.patterns.iter().map(ToString::to_string).collect();
        if self.any {
            names.push("any".to_owned());
        }
        names
    }

    /// The same in words: `lo or veth*`.
    pub(super) fn words(&self) -> String {
        units::either(&self.names(), "or")
    }

    /// Where nothing is asked: all that the policy lists.
    pub(super) fn terms(&self) -> InterfaceTerms {
        if self.any {
            InterfaceTerms::Any
        } else {
            InterfaceTerms::Matching(self.patterns.clone())
        }
    }

    /// The one interface that there is no choice about.
    fn only(&self) -> Option<&InterfacePattern> {
        match self.patterns.as_slice() {
            [only] if only.is_name() && !self.any => Some(only),
            _ => None,
        }
    }

    /// The interface that a name stands for (none for `any`), or why it is not to be captured on.
    pub(super) fn admit(&self, name: &str) -> Result<Option<InterfacePattern>, String> {
        if name == "any" && self.any {
            return Ok(None);
        }
        // Before the patterns: a glob must not admit what is no interface.
        let pattern = interface(name)?;
        if self.any || self.patterns.iter().any(|allowed| allowed.matches(name)) {
            return Ok(Some(pattern));
        }
        Err(
            match self
                .patterns
                .iter()
                .find(|allowed| allowed.matches_but_for_case(name))
            {
                Some(allowed) => format!(
                    "{} is not {allowed}: interface names are told apart by case, though some tools ignore it.",
                    quoted(name)
                ),
                None => format!(
                    "{} is not among the interfaces that the policy allows.",
                    quoted(name)
                ),
            },
        )
    }
}

/// One interface by its name, or why the name is not one interface's.
pub(super) fn interface(name: &str) -> Result<InterfacePattern, String> {
    match refuse(name) {
        Some(reason) => Err(reason),
        None => Ok(InterfacePattern(name.to_owned())),
    }
}

/// The filter that was asked for; none if it is empty.
pub(super) fn requested_filter(asked: Option<&str>) -> Result<Option<FilterTerm>, String> {
    let Some(text) = asked else {
        return Ok(None);
    };
    check_filter(text)?;
    Ok((!text.trim().is_empty()).then(|| FilterTerm {
        expression: text.to_owned(),
        origin: FilterOrigin::Requested,
    }))
}

/// What can be said of a filter without libpcap.
pub(super) fn check_filter(text: &str) -> Result<(), String> {
    if text.len() > MAX_FILTER {
        Err(format!(
            "The capture filter is longer than {MAX_FILTER} bytes."
        ))
    } else if text.chars().any(|c| c.is_control() && c != '\t') {
        Err("The capture filter has line ends or other control characters.".to_owned())
    } else {
        Ok(())
    }
}

/// Reads a number of packets or bytes; the error goes after the argument's name.
fn whole(value: &Value) -> Result<Asked<u64>, String> {
    let Value::Number(number) = value else {
        return Err(format!("must be a number, but is {}", kind(value)));
    };
    let n = match (number.as_u64(), number.as_f64()) {
        (Some(n), _) => n,
        (None, Some(f)) if f < 0.0 => return Err("is negative".to_owned()),
        // Beyond the largest u64, too.
        (None, Some(f)) if f >= 9_007_199_254_740_992.0 => return Ok(Asked::Unlimited),
        (None, Some(f)) if f.fract() == 0.0 => format!("{:.0}", f.abs())
            .parse()
            .map_err(|_| "is not a whole number".to_owned())?,
        _ => return Err("is not a whole number".to_owned()),
    };
    Ok(if n == 0 || n > MAX_EXACT {
        Asked::Unlimited
    } else {
        Asked::Amount(n)
    })
}

/// Reads a number of seconds; the error goes after the argument's name.
pub(super) fn time(value: &Value) -> Result<Asked<Duration>, String> {
    let seconds = match value {
        Value::Number(number) => number.as_f64(),
        other => {
            return Err(format!(
                "must be a number of seconds, but is {}",
                kind(other)
            ));
        }
    };
    match seconds {
        Some(s) if s < 0.0 => Err("is negative".to_owned()),
        Some(s) if s == 0.0 || s > units::MAX_SECONDS => Ok(Asked::Unlimited),
        // At least something, as no time at all would be taken for no limit.
        Some(s) => Duration::try_from_secs_f64(s)
            .map(|time| Asked::Amount(time.max(Duration::from_millis(1))))
            .map_err(|_| "is not a number of seconds".to_owned()),
        None => Err("is not a number of seconds".to_owned()),
    }
}
