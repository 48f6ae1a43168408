//! What lint finds, that its examples are what they are said to be, and that every rewrite holds;
//! what explain says, and that its examples do.

use std::time::Duration;

use capwarden::filter::{
    Budget, Containment, Hiding, Keeps, LinkType, Lint, LintBudget, Matches, Program, Rewrite,
    SocketForm, disguises, explain, hides, hiding_name, hiding_why, lint, prove, well_formed,
};

use super::{
    accepts, budget,
    common::{ETHERNET, compiler},
    compile_for,
};

fn of(filter: &str, form: SocketForm, each: bool) -> Lint {
    let compiler = compiler();
    let budget = LintBudget {
        time: Duration::from_secs(120),
        question: Budget {
            time: Duration::from_secs(60),
            ..Budget::default()
        },
        each,
    };
    lint(filter, form, &compiler, budget).unwrap_or_else(|error| panic!("{filter}: {error}"))
}

const TUNNELS: &[&str] = &["ip-in-ip", "6in4", "gre", "vxlan"];
const LINK: &[&str] = &["vlan", "qinq", "mpls", "pppoe"];

/// Filters, and what is found; some more.
pub fn findings() {
    let all: Vec<&str> = [
        &["later-fragment", "ipv6-fragment", "ipv6-extension-header"][..],
        &["authentication-header"],
        LINK,
        TUNNELS,
        &["icmp-error", "other-transport"],
    ]
    .concat();
    let addresses = [TUNNELS, &["icmp-error", "arp"]].concat();
    let ethernet: &[(&str, &[&str])] = &[
        ("not port 22", &all),
        ("net 10.0.0.0/8", &addresses),
        (
            "net 10.0.0.0/8 and not port 22",
            &[
                "later-fragment",
                "authentication-header",
                "ip-in-ip",
                "6in4",
                "gre",
                "vxlan",
                "icmp-error",
                "other-transport",
                "arp",
            ],
        ),
        ("ip", &["6in4", "gre", "vxlan"]),
        ("ip6", &["ip-in-ip", "gre", "vxlan"]),
        ("udp", &["vxlan"]),
        ("icmp", &["icmp-error"]),
        ("not arp", &["vlan", "qinq"]),
        ("tcp", &[]),
        ("tcp port 80", &[]),
        // Longer in disguise, so it is longer.
        ("tcp and len > 100", &[]),
        ("port 53", &[]),
        ("tcp port 80 and host 10.0.0.5", &[]),
        ("ip6 host 2001:db8::1 and tcp", &[]),
        ("arp host 10.0.0.5", &[]),
        // What lint itself offers.
        (
            "(ip or ip6 or arp) and (not ip or (ip[6:2] & 0x1fff = 0 and (ip proto 6 or ip proto 17))) and (not ip6 or ip6[6] = 6) and not (udp dst port 4789 or udp dst port 8472 or udp dst port 6081) and not port 22",
            &[],
        ),
    ];
    for (filter, expected) in ethernet {
        check(filter, ETHERNET, expected);
    }
    let raw = SocketForm::Raw(LinkType::RAW);
    let without_link: Vec<&str> = all
        .iter()
        .copied()
        .filter(|name| !LINK.contains(name))
        .collect();
    check("not port 22", raw, &without_link);
    check("net 10.0.0.0/8", raw, &[TUNNELS, &["icmp-error"]].concat());
    check("tcp port 80", raw, &[]);
    assert_eq!(of("tcp and udp", ETHERNET, false).matches, Matches::Nothing);
    // What hides inside a tag or a tunnel is not looked for, and so not told to be none.
    for inside in [
        "vlan and tcp port 80",
        "vlan 5 and not port 22",
        "ip proto 47",
    ] {
        let report = of(inside, ETHERNET, true);
        assert_eq!(report.matches, Matches::NonePlain, "{inside}");
        assert_eq!(report.findings, [], "{inside}");
        assert!(!report.is_clean() && !report.looked_through(), "{inside}");
    }
    for everything in ["", "len >= 0", "tcp or not tcp"] {
        assert_eq!(
            of(everything, ETHERNET, false).matches,
            Matches::Everything,
            "{everything}"
        );
    }
}

fn check(filter: &str, form: SocketForm, expected: &[&str]) {
    let report = of(filter, form, true);
    let names: Vec<&str> = report
        .findings
        .iter()
        .map(|finding| hiding_name(finding.hiding))
        .collect();
    assert_eq!(names, expected, "{filter} on {form:?}");
    assert_eq!(report.unknown, [], "{filter}");
    assert_eq!(report.is_clean(), expected.is_empty(), "{filter}");
    let program = compile_for(filter, form).unwrap();
    for finding in &report.findings {
        let name = hiding_name(finding.hiding);
        let (refused, accepted) = (&finding.pair.refused, &finding.pair.accepted);
        assert!(well_formed(&refused.packet(), form), "{filter}: {name}");
        assert!(!accepts(&program, &refused.packet()), "{filter}: {name}");
        assert!(accepts(&program, &accepted.packet()), "{filter}: {name}");
        assert!(hiding_why(finding.hiding).ends_with('.'));
        let rewrite = finding.rewrite.as_ref();
        let rewrite = rewrite.unwrap_or_else(|| panic!("{filter}: no rewrite for {name}"));
        let closed = holds(&program, rewrite, &[finding.hiding], form);
        assert!(!accepts(&closed, &accepted.packet()), "{filter}: {name}");
    }
    if !report.findings.is_empty() {
        let rewrite = report
            .rewrite
            .unwrap_or_else(|| panic!("{filter}: no rewrite for all"));
        let hidings: Vec<Hiding> = report.findings.iter().map(|one| one.hiding).collect();
        holds(&program, &rewrite, &hidings, form);
        assert_eq!(
            rewrite.keeps,
            Keeps::All,
            "{filter}: {}",
            rewrite.expression
        );
        // Nothing is left to be found in it.
        assert!(
            of(&rewrite.expression, form, false).findings.is_empty(),
            "{}",
            rewrite.expression
        );
    }
}

/// A rewrite compiles, stays within the filter, and refuses what hides.
fn holds(before: &Program, rewrite: &Rewrite, hidings: &[Hiding], form: SocketForm) -> Program {
    let text = &rewrite.expression;
    let after = compile_for(text, form).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(
        prove(&after, before, form, budget()),
        Containment::Contained,
        "{text}"
    );
    for disguise in disguises(form) {
        if hidings.contains(&disguise.hiding) {
            let pair = hides(before, &after, &disguise, form, budget());
            assert_eq!(pair, Ok(None), "{text}: {disguise:?}");
        }
    }
    after
}

/// What explain says of some filters, and that every packet is what it is said to be.
pub fn explanations() {
    let first = |filter: &str| {
        explained(filter, ETHERNET)
            .first()
            .cloned()
            .unwrap_or_default()
    };
    for (filter, words) in [
        (
            "tcp port 80",
            "IPv4, TCP, not a later fragment, source or destination port 80",
        ),
        (
            "net 10.0.0.0/8",
            "IPv4, ARP or RARP, source or destination address in 10.0.0.0/8",
        ),
        (
            "host 10.0.0.1 or host 10.0.0.2",
            "IPv4, source or destination address 10.0.0.1 or 10.0.0.2",
        ),
        ("ip6 src net fd00::/8", "IPv6, source address in fd00::/8"),
        (
            "ether src 02:00:00:00:00:05",
            "source Ethernet address 02:00:00:00:00:05",
        ),
        (
            "ip and tcp[13] & 2 != 0",
            "IPv4, TCP, not a later fragment, byte 13 of the transport header & 2 is not 0",
        ),
        ("ether[47] & 2 != 0", "byte 47 & 2 is not 0"),
        (
            "dst port 443 and ip6",
            "IPv6, TCP, UDP or SCTP, destination port 443",
        ),
        ("len > 100", "the length is more than 100"),
        ("ip[6:2] & 0x1fff != 0", "IPv4, a later fragment"),
    ] {
        assert_eq!(first(filter), words, "{filter}");
    }
    for filter in [
        "not port 22",
        "vlan 5",
        "tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420",
        "icmp6 or not ip6",
    ] {
        assert!(!explained(filter, ETHERNET).is_empty(), "{filter}");
    }
    for (link, words) in [
        (SocketForm::Raw(LinkType::RAW), "TCP"),
        (SocketForm::Raw(LinkType::LINUX_SLL2), "IPv4, TCP"),
        (SocketForm::Cooked, "TCP"),
    ] {
        let ways = explained("tcp dst port 80", link);
        assert!(ways.iter().any(|way| way.contains(words)), "{ways:?}");
    }
    assert!(explained("tcp and udp", ETHERNET).is_empty());
    assert_eq!(explained("len >= 0", ETHERNET), [""]);
    // A long list is bounded, and says that it is.
    let hosts: Vec<String> = (1..60).map(|host| format!("host 10.0.{host}.1")).collect();
    let ways = explained(&hosts.join(" or "), ETHERNET);
    assert!(
        ways.len() <= 12 && ways.iter().any(|way| way.contains(" or one of ")),
        "{ways:?}"
    );
}

fn explained(filter: &str, form: SocketForm) -> Vec<String> {
    let program = compile_for(filter, form).unwrap();
    let explanation = explain(&program, form, budget()).unwrap();
    let mut words = Vec::new();
    for way in &explanation.ways {
        let short: Vec<&str> = way.conditions.iter().map(|one| &*one.short).collect();
        let all = short.join(", ");
        for one in &way.conditions {
            assert!(!one.whole.contains(" or one of "), "{filter}: {one:?}");
        }
        if let Some(example) = &way.example {
            assert!(accepts(&program, &example.packet()), "{filter}: {all}");
        }
        for near in &way.near_misses {
            assert!(
                !accepts(&program, &near.example.packet()),
                "{filter}: {near:?}"
            );
            assert!(way.conditions.contains(&near.fails), "{filter}: {near:?}");
        }
        words.push(all);
    }
    words
}
