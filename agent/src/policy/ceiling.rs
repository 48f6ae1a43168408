//! The most that whoever calls may have, whatever a policy grants.

use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    ProgramTerms, ProxyTerms, RuleRef, Terms,
    capture::{Cap, CaptureRule, Whose},
    program::ProgramRule,
    proxy::ProxyRule,
};

/// The most that a session may have that is opened under a grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// Bytes, as captured; of a proxy and of programs, those of each direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Time, from the moment the session opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Duration>,
}

impl Ceiling {
    /// Of each cap, the lower one.
    pub fn narrow(&self, terms: &mut Terms) {
        terms.packets = lower(terms.packets, self.packets);
        terms.bytes = lower(terms.bytes, self.bytes);
        terms.duration = lower(terms.duration, self.duration);
    }

    /// The same of a proxy.
    pub fn narrow_proxy(&self, terms: &mut ProxyTerms) {
        terms.packets = lower(terms.packets, self.packets);
        terms.bytes = lower(terms.bytes, self.bytes);
        terms.duration = lower(terms.duration, self.duration);
    }

    /// The same of programs.
    pub fn narrow_program(&self, terms: &mut ProgramTerms) {
        terms.packets = lower(terms.packets, self.packets);
        terms.bytes = lower(terms.bytes, self.bytes);
        terms.duration = self.time(terms.duration);
    }

    fn time(&self, time: Duration) -> Duration {
        self.duration.map_or(time, |most| time.min(most))
    }

    /// A rule as it is where there is no ceiling; else a copy whose caps `hold` has lowered.
    fn over<R: Clone>(self, rule: &R, hold: impl FnOnce(&mut R)) -> Cow<'_, R> {
        if self == Self::default() {
            return Cow::Borrowed(rule);
        }
        let mut held = rule.clone();
        hold(&mut held);
        Cow::Owned(held)
    }
}

/// None is no cap.
fn lower<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The rule's cap, or the grant's where that is lower, or where the rule has none.
fn cap<T: Copy + Ord>(cap: &mut Option<Cap<T>>, most: Option<T>) {
    let Some(most) = most else { return };
    if cap.as_ref().is_none_or(|cap| most < cap.most) {
        *cap = Some(Cap {
            most,
            whose: Whose::Grant,
            rule: RuleRef {
                file: "".into(),
                line: 0,
                column: 0,
                path: "grant".to_owned(),
            },
        });
    }
}

impl CaptureRule {
    /// The rule, with its caps no higher than a grant's.
    pub(super) fn under(&self, ceiling: Ceiling) -> Cow<'_, Self> {
        ceiling.over(self, |rule| {
            cap(&mut rule.packets, ceiling.packets);
            cap(&mut rule.bytes, ceiling.bytes);
            cap(&mut rule.seconds, ceiling.duration);
        })
    }
}

impl ProxyRule {
    /// The same of a proxy's.
    pub(super) fn under(&self, ceiling: Ceiling) -> Cow<'_, Self> {
        ceiling.over(self, |rule| {
            cap(&mut rule.packets, ceiling.packets);
            cap(&mut rule.bytes, ceiling.bytes);
            cap(&mut rule.seconds, ceiling.duration);
        })
    }
}

impl ProgramRule {
    /// The same of programs'.
    pub(super) fn under(&self, ceiling: Ceiling) -> Cow<'_, Self> {
        ceiling.over(self, |rule| {
            cap(&mut rule.packets, ceiling.packets);
            cap(&mut rule.bytes, ceiling.bytes);
            rule.seconds.most = ceiling.time(rule.seconds.most);
        })
    }
}
