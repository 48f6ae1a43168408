//! From what a policy allows a proxy to what the guard is told.

use std::{collections::BTreeSet, net::IpAddr};

use capwarden_abi::MAX_INTERFACES;

use super::{
    ProxyError,
    lookup::{self, Known},
};
use crate::{
    kernel::{BootTime, Interface, NetworkCaps, NetworkInterfaces, NetworkRule, NetworkTerms},
    policy::{InterfaceTerms, ProxyTerms},
    session::{
        GrantError,
        grant::{matches, names},
    },
};

/// A proxy's terms, with everything looked up.
#[derive(Clone, Debug)]
pub struct ProxyGrant {
    /// What the policy allowed.
    pub terms: ProxyTerms,
    /// What the names among them stood for when the session was opened.
    pub names: Vec<(String, BTreeSet<IpAddr>)>,
    /// The interfaces at that moment; none where every one is granted.
    pub interfaces: Vec<Interface>,
    /// When it was made: what its time is counted from.
    pub made: BootTime,
    /// When it ends.
    pub deadline: Option<BootTime>,
}

impl ProxyGrant {
    pub(super) async fn make(terms: ProxyTerms, present: &[Interface]) -> Result<Self, ProxyError> {
        let wanted = &terms.interfaces;
        let interfaces = match wanted {
            InterfaceTerms::Any => Vec::new(),
            InterfaceTerms::Matching(_) => {
                let there = present.iter().filter(|one| matches(wanted, one));
                there.cloned().collect()
            }
        };
        if *wanted != InterfaceTerms::Any && interfaces.is_empty() {
            return Err(ProxyError::Grant(GrantError::NoInterface {
                wanted: wanted.to_string(),
                present: names(present),
            }));
        }
        let names = lookup::names(&terms.upstream).await?;
        let made = BootTime::now();
        Ok(Self {
            names,
            interfaces,
            made,
            deadline: terms.duration.map(|time| made.after(time)),
            terms,
        })
    }

    /// The guard's terms.
    pub(super) fn network_terms(&self) -> NetworkTerms {
        let terms = &self.terms;
        NetworkTerms {
            rules: self.rules(&self.names),
            interfaces: match terms.interfaces {
                InterfaceTerms::Any => NetworkInterfaces::Any,
                InterfaceTerms::Matching(_) => {
                    NetworkInterfaces::Only(self.indexes(&self.interfaces))
                }
            },
            caps: NetworkCaps {
                packets: terms.packets,
                bytes_in: terms.bytes,
                bytes_out: terms.bytes,
                accepted: terms.connections,
                made: terms.connections,
            },
            deadline: self.deadline,
        }
    }

    /// The guard's rules, if this is what is known of names.
    pub(super) fn rules(&self, known: &[Known]) -> Vec<NetworkRule> {
        lookup::rules(&self.terms.listen, &self.terms.upstream, known)
    }

    /// The indexes that it covers after interfaces came, went or were renamed.
    pub(super) fn indexes(&self, present: &[Interface]) -> Vec<u32> {
        let wanted = present
            .iter()
            .filter(|interface| matches(&self.terms.interfaces, interface));
        let indexes = wanted.map(|interface| interface.index);
        indexes.take(MAX_INTERFACES).collect()
    }

    /// What was granted, in one line for people.
    pub fn summary(&self) -> String {
        self.terms.to_string()
    }
}
