//! From what a policy allows to what the kernel is told: names are looked up on the host, filters
//! compiled for the link type that the interfaces really have.

use capwarden_abi::{
    LINK_ETHERNET, LINK_NETWORK, MAX_INTERFACES, PAYLOAD_FULL, Terms as GuardTerms,
};

use crate::{
    filter::{CompileError, Compiler, LinkType, TranslateError, VlanError},
    kernel::{BootTime, GuardPlan, Interface},
    policy::{InterfacePattern, InterfaceTerms, Payload, Terms},
};

use super::filters::{Cut, Filters};

/// A session's terms, with everything looked up.
#[derive(Clone, Debug)]
pub struct Grant {
    /// What the policy allowed.
    pub terms: Terms,
    /// The interfaces at the moment of the grant.
    pub interfaces: Vec<Interface>,
    /// When it was made: what its time is counted from.
    pub made: BootTime,
    /// When it ends.
    pub deadline: Option<BootTime>,
    /// What the guard is loaded with.
    pub plan: GuardPlan,
    /// The link type of raw sockets.
    pub link: LinkType,
    /// What the policy's filter takes from the requested one, if anything.
    pub cut: Option<Cut>,
}

/// Why a grant cannot be made, in a sentence for whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// No interface has that name.
    #[error("there is no interface {wanted} here; there are: {present}")]
    NoInterface {
        /// What was wanted.
        wanted: String,
        /// What there is.
        present: String,
    },
    /// Too many interfaces match.
    #[error("{0} interfaces match; a grant holds at most {MAX_INTERFACES}")]
    TooManyInterfaces(usize),
    /// Packets of the interface cannot be filtered.
    #[error("the link type of {name} (hardware type {hardware}) is not supported")]
    LinkType {
        /// The interface.
        name: String,
        /// Its `ARPHRD_*` number.
        hardware: u16,
    },
    /// One program cannot read packets of both.
    #[error("{first} and {second} have different link types")]
    MixedLinkTypes {
        /// An interface.
        first: String,
        /// One of another link type.
        second: String,
    },
    /// libpcap does not accept the filter.
    #[error("{whose} filter {expression:?}: {source}")]
    Filter {
        /// `the requested` or `the policy's`.
        whose: &'static str,
        /// The filter.
        expression: String,
        /// What libpcap says.
        source: CompileError,
    },
    /// The filter cannot be made to see VLAN tags.
    #[error("the filter {expression:?} cannot run in the kernel: {source}")]
    VlanTags {
        /// The filter.
        expression: String,
        /// Why.
        source: VlanError,
    },
    /// The compiled filter does not fit into the guard.
    #[error("the filter {expression:?} cannot run in the kernel: {source}")]
    Translate {
        /// The filter.
        expression: String,
        /// Why.
        source: TranslateError,
    },
    /// The requested filter accepts no packet at all.
    #[error("the requested filter {expression:?} can match no packet")]
    MatchesNothing {
        /// The filter.
        expression: String,
    },
    /// No packet matches both filters.
    #[error(
        "no packet matches both the requested filter {:?} and {:?}, which is all that the policy allows",
        .0.requested,
        .0.within
    )]
    NothingLeft(Cut),
    /// The requested filter leads outside, and the policy says `outside: deny`.
    #[error(
        "the requested filter {} {:?}, which is all that the policy allows{}",
        if .0.example.is_some() { "leads outside" } else { "could not be shown to stay within" },
        .0.within,
        .0.example.as_ref().map(|example| format!(" (one packet: {example})")).unwrap_or_default()
    )]
    Outside(Cut),
}

impl GrantError {
    /// What can be asked for instead, in a sentence.
    #[must_use]
    pub fn instead(&self) -> Option<String> {
        match self {
            Self::NoInterface { .. } => Some("Call again with one that is there.".to_owned()),
            Self::MixedLinkTypes { .. } => Some("Call again with one of them.".to_owned()),
            Self::Filter { source, .. } if source.is_of_the_host() => {
                Some("Call again when this host has less to do.".to_owned())
            }
            Self::Filter { whose, source, .. } if whose.ends_with("requested") => {
                let what = match source {
                    CompileError::Syntax { .. } | CompileError::Name => {
                        "a filter that pcap-filter(7) knows; names are not looked up"
                    }
                    CompileError::Cooked(_) => "a filter that reads no link header",
                    _ => "a shorter filter",
                };
                Some(format!("Call again with {what}."))
            }
            Self::MatchesNothing { .. } => {
                Some("Call again with a filter that some packet can match.".to_owned())
            }
            Self::NothingLeft(cut) => Some(format!(
                "Call again with a filter that stays within {:?}.",
                cut.within
            )),
            Self::Outside(cut) => Some(format!(
                "Call again with a filter that stays within it, such as \"({}) and ({})\".",
                cut.within, cut.requested
            )),
            Self::TooManyInterfaces(_)
            | Self::LinkType { .. }
            | Self::Filter { .. }
            | Self::VlanTags { .. }
            | Self::Translate { .. } => None,
        }
    }
}

impl Grant {
    /// Looks everything up. Blocks while libpcap compiles.
    pub fn make(
        terms: Terms,
        present: &[Interface],
        compiler: &Compiler,
    ) -> Result<Self, GrantError> {
        let interfaces = select(&terms.interfaces, present)?;
        let link = link_type(&interfaces)?;
        let any = terms.interfaces == InterfaceTerms::Any;
        let filters = Filters::make(&terms.filters, terms.outside, link, any, compiler)?;
        let made = BootTime::now();
        let deadline = terms.duration.map(|duration| made.after(duration));
        let plan = GuardPlan {
            terms: GuardTerms {
                packets: terms.packets.unwrap_or(0),
                bytes: terms.bytes.unwrap_or(0),
                deadline: deadline.map_or(0, BootTime::nanoseconds),
                snap: terms.snap_length,
                payload: match terms.payload {
                    Payload::Full => PAYLOAD_FULL,
                    Payload::Bytes(bytes) => bytes,
                },
                link: if link == LinkType::EN10MB {
                    LINK_ETHERNET
                } else {
                    LINK_NETWORK
                },
                any_interface: u32::from(any),
            },
            raw: Some(filters.raw),
            cooked: filters.cooked,
            interfaces: interfaces.iter().map(|interface| interface.index).collect(),
        };
        Ok(Self {
            terms,
            interfaces,
            made,
            deadline,
            plan,
            link,
            cut: filters.cut,
        })
    }

    /// The indexes that the grant covers after interfaces came, went or were renamed.
    pub fn indexes(&self, present: &[Interface]) -> Vec<u32> {
        present
            .iter()
            .filter(|interface| matches(&self.terms.interfaces, interface))
            .filter(|interface| LinkType::of_arphrd(interface.hardware) == Some(self.link))
            .map(|interface| interface.index)
            .take(MAX_INTERFACES)
            .collect()
    }

    /// What was granted, in one line for people.
    pub fn summary(&self) -> String {
        self.terms.to_string()
    }
}

pub(super) fn matches(wanted: &InterfaceTerms, interface: &Interface) -> bool {
    match wanted {
        InterfaceTerms::Any => true,
        InterfaceTerms::Matching(patterns) => patterns
            .iter()
            .any(|pattern| pattern.matches(&interface.name)),
    }
}

fn select(wanted: &InterfaceTerms, present: &[Interface]) -> Result<Vec<Interface>, GrantError> {
    let mut selected: Vec<Interface> = present
        .iter()
        .filter(|interface| matches(wanted, interface))
        .cloned()
        .collect();
    if *wanted == InterfaceTerms::Any {
        // Raw sockets see those of Ethernet's link type; cooked ones see all (`Terms::any_interface`).
        selected
            .retain(|interface| LinkType::of_arphrd(interface.hardware) == Some(LinkType::EN10MB));
        selected.truncate(MAX_INTERFACES);
    }
    match (wanted, selected.len()) {
        (InterfaceTerms::Matching(patterns), 0) => Err(GrantError::NoInterface {
            wanted: patterns
                .iter()
                .map(InterfacePattern::as_str)
                .collect::<Vec<_>>()
                .join(", "),
            present: names(present),
        }),
        (_, count) if count > MAX_INTERFACES => Err(GrantError::TooManyInterfaces(count)),
        _ => Ok(selected),
    }
}

fn link_type(interfaces: &[Interface]) -> Result<LinkType, GrantError> {
    let mut common: Option<(LinkType, &Interface)> = None;
    for interface in interfaces {
        let link = LinkType::of_arphrd(interface.hardware).ok_or_else(|| GrantError::LinkType {
            name: interface.name.clone(),
            hardware: interface.hardware,
        })?;
        match common {
            Some((other, first)) if other != link => {
                return Err(GrantError::MixedLinkTypes {
                    first: first.name.clone(),
                    second: interface.name.clone(),
                });
            }
            _ => common = Some((link, interface)),
        }
    }
    Ok(common.map_or(LinkType::EN10MB, |(link, _)| link))
}

pub(super) fn names(interfaces: &[Interface]) -> String {
    interfaces
        .iter()
        .map(|interface| interface.name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_to_ask_for_instead_is_about_what_is_wrong() {
        let instead = |whose, source| {
            let expression = "tcp".to_owned();
            let error = GrantError::Filter {
                whose,
                expression,
                source,
            };
            error.instead().unwrap_or_default()
        };
        let busy = || CompileError::Busy(Duration::from_secs(20));
        for whose in ["the requested", "the policy's"] {
            let told = instead(whose, busy());
            assert_eq!(told, "Call again when this host has less to do.");
        }
        let told = instead("the requested", CompileError::Name);
        assert!(told.contains("pcap-filter(7)"), "{told}");
        let told = instead("the requested", CompileError::TimedOut);
        assert_eq!(told, "Call again with a shorter filter.");
        // Whoever calls has not written it.
        assert_eq!(instead("the policy's", CompileError::Name), "");
    }
}
