//! Proxies of one server that may connect to the same addresses, under different caps.
//!
//! Nothing in the kernel says for which of its proxies a process connects: where two sessions allow
//! an address, the older one's caps are used. So whoever writes such a policy is told.

use super::{Endpoint, Policy, ProxyTerms, RuleRef, model::Action, proxy::ProxyRule};

/// Two tools whose proxies may connect to the same place, each under caps of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedUpstream<'a> {
    /// The first tool's list.
    pub first: &'a RuleRef,
    /// The second tool's list.
    pub second: &'a RuleRef,
    /// The place, as the second list has it.
    pub upstream: &'a Endpoint,
}

impl SharedUpstream<'_> {
    /// What follows from it, in a sentence.
    #[must_use]
    pub fn message(&self) -> String {
        format!(
            "proxies of {} may connect to {} too, under other caps: while both run, connections to it \
             count for the one that was started first",
            self.first, self.upstream
        )
    }
}

impl Policy {
    /// Each pair of tools of which that is so, once.
    #[must_use]
    pub fn shared_upstreams(&self) -> Vec<SharedUpstream<'_>> {
        let proxies: Vec<&ProxyRule> = self
            .tools
            .values()
            .filter_map(|tool| match &tool.action {
                Action::Proxy(proxy) => Some(&**proxy),
                _ => None,
            })
            .collect();
        let mut shared = Vec::new();
        for (number, second) in proxies.iter().enumerate() {
            let before = proxies.iter().take(number);
            shared.extend(before.filter_map(|first| shares(first, second)));
        }
        shared
    }
}

fn shares<'a>(first: &'a ProxyRule, second: &'a ProxyRule) -> Option<SharedUpstream<'a>> {
    let caps = |rule: &ProxyRule| {
        let terms = rule.widest();
        let ProxyTerms {
            listen: _,
            upstream: _,
            interfaces,
            packets,
            bytes,
            connections,
            duration,
            end: _,
        } = terms;
        (interfaces, packets, bytes, connections, duration)
    };
    if caps(first) == caps(second) {
        return None;
    }
    let (ours, theirs) = (first.upstream.as_ref()?, second.upstream.as_ref()?);
    let meets = |one: &&Endpoint| ours.list.iter().any(|other| other.meets(one));
    Some(SharedUpstream {
        first: &ours.rule,
        second: &theirs.rule,
        upstream: theirs.list.iter().find(meets)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(first: &str, second: &str) -> Vec<String> {
        let text = format!(
            "version: 1\ntools:\n  a: {{ proxy: {{ listen: [ \"127.0.0.1:1\" ], {first} }} }}\n  \
             b: {{ proxy: {{ listen: [ \"127.0.0.1:2\" ], {second} }} }}\n"
        );
        let policy = Policy::parse("p.yaml", &text).unwrap();
        let shared = policy.shared_upstreams();
        shared.iter().map(|one| one.upstream.to_string()).collect()
    }

    #[test]
    fn upstreams_under_different_caps_are_told() {
        let ten = r#"upstream: [ "10.0.0.0/8:80-90" ], packets: 5"#;
        for (other, expected) in [
            (
                r#"upstream: [ "10.1.0.0/16:90,443" ], packets: 6"#,
                vec!["10.1.0.0/16:90,443"],
            ),
            (
                r#"upstream: [ "192.0.2.1:80", "*:85" ], bytes: 5"#,
                vec!["*:85"],
            ),
            (r#"upstream: [ "10.1.0.0/16:91" ], packets: 6"#, vec![]),
            (r#"upstream: [ "udp:10.1.0.0/16:80" ], packets: 6"#, vec![]),
            (r#"upstream: [ "11.0.0.0/8:80" ], packets: 6"#, vec![]),
            (r#"upstream: [ "10.0.0.0/8:80" ], packets: 5"#, vec![]),
            ("packets: 6", vec![]),
        ] {
            assert_eq!(shared(ten, other), expected, "{other}");
        }
    }
}
