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
        terms.duration = self
            .duration
            .map_or(terms.duration, |most| terms.duration.min(most));
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
        if ceiling == Ceiling::default() {
            return Cow::Borrowed(self);
        }
        let mut rule = self.clone();
        cap(&mut rule.packets, ceiling.packets);
        cap(&mut rule.bytes, ceiling.bytes);
        cap(&mut rule.seconds, ceiling.duration);
        Cow::Owned(rule)
    }
}

impl ProxyRule {
    /// The same of a proxy's.
    pub(super) fn under(&self, ceiling: Ceiling) -> Cow<'_, Self> {
        if ceiling == Ceiling::default() {
            return Cow::Borrowed(self);
        }
        let mut rule = self.clone();
        cap(&mut rule.packets, ceiling.packets);
        cap(&mut rule.bytes, ceiling.bytes);
        cap(&mut rule.seconds, ceiling.duration);
        Cow::Owned(rule)
    }
}

impl ProgramRule {
    /// The same of programs'.
    pub(super) fn under(&self, ceiling: Ceiling) -> Cow<'_, Self> {
        if ceiling == Ceiling::default() {
            return Cow::Borrowed(self);
        }
        let mut rule = self.clone();
        cap(&mut rule.packets, ceiling.packets);
        cap(&mut rule.bytes, ceiling.bytes);
        rule.seconds.most = ceiling
            .duration
            .map_or(rule.seconds.most, |most| rule.seconds.most.min(most));
        Cow::Owned(rule)
    }
}
