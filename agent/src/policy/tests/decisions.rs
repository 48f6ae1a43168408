use std::time::Duration;

use serde_json::json;

use super::*;

fn lo() -> InterfaceTerms {
    InterfaceTerms::Matching(vec![InterfacePattern("lo".to_owned())])
}

fn filter(expression: &str, origin: FilterOrigin) -> FilterTerm {
    FilterTerm {
        expression: expression.to_owned(),
        origin,
    }
}

#[test]
fn tools_are_shown_where_a_call_could_be_allowed() {
    let policy = full();
    for tool in ["list", "look", "start", "strict", "stop", "read"] {
        assert!(policy.visible(tool), "{tool}");
    }
    for tool in ["save", "List", "", "other", "exec"] {
        assert!(!policy.visible(tool), "{tool}");
    }
}

#[test]
fn simple_rules_forward_end_and_deny() {
    let policy = full();
    assert_eq!(
        ask(&policy, &call("list", json!({"x": 1}))),
        Verdict::Forward
    );
    assert_eq!(
        ask(&policy, &call("look", no_arguments())),
        Verdict::Forward
    );
    assert_eq!(
        ask(&policy, &call("stop", json!({"filter": "tcp"}))),
        Verdict::EndCapture
    );
    assert_eq!(
        denied(&policy, "save", no_arguments()).to_string(),
        "The tool `save` is denied: it saves. (rule: p.yaml:27:11 tools.save.deny)"
    );
    assert_eq!(
        denied(&policy, "nope", no_arguments()).to_string(),
        "The tool `nope` is not in the policy. Use `list`, `look`, `read`, `start`, `stop` or \
         `strict`. (rule: p.yaml:2:1 default)"
    );
}

#[test]
fn arguments_are_held_to_their_predicates() {
    let policy = full();
    for (tool, arguments, allowed) in [
        ("stop", json!({}), true),
        ("stop", json!({"filter": null}), true),
        ("stop", json!({"filter": ""}), true),
        ("stop", json!({"filter": "tcp\n"}), false),
        ("stop", json!({"filter": "tcp; rm"}), false),
        ("stop", json!({"filter": ["tcp"]}), false),
        ("stop", json!({"filter": 4}), false),
        ("read", json!({"file": "/cap/x"}), true),
        ("read", json!({"file": "/etc/x"}), false),
        ("read", json!({"format": "text"}), true),
        ("read", json!({"format": 1.0}), true),
        ("read", json!({"format": "1"}), false),
        ("read", json!({"format": "Text"}), false),
        ("read", json!({"depth": 3}), true),
        ("read", json!({"depth": 0}), true),
        ("read", json!({"depth": 3.01}), false),
        ("read", json!({"depth": -1}), false),
        ("read", json!({"depth": "3"}), false),
        ("read", json!({"unlisted": {"any": "thing"}}), true),
    ] {
        let verdict = ask(&policy, &call(tool, arguments.clone()));
        assert_eq!(
            !matches!(verdict, Verdict::Deny(_)),
            allowed,
            "{tool} {arguments}: {verdict:?}"
        );
    }
    assert_eq!(
        denied(&policy, "start", json!({"iface": "lo", "configName": null})).to_string(),
        "The argument `configName` is not allowed. Call again without `configName`. \
         (rule: p.yaml:8:21 tools.start.args.configName.absent)"
    );
    assert_eq!(
        denied(&policy, "read", json!({"format": "x"})).instead,
        Some("Send \"text\" or 1 as `format`.".to_owned())
    );
}

#[test]
fn a_capture_within_the_caps_is_granted_as_asked() {
    let arguments = json!({"iface": "veth7", "bpf": "tcp port 80", "count": 5, "size": 4096, "time": 1.5, "x": []});
    let verdict = captured(&full(), "start", arguments.clone());
    assert_eq!(
        verdict.terms,
        Terms {
            interfaces: InterfaceTerms::Matching(vec![InterfacePattern("veth7".to_owned())]),
            filters: vec![
                filter("tcp port 80", FilterOrigin::Requested),
                filter("net 10.0.0.0/8", FilterOrigin::Policy),
            ],
            outside: Outside::Narrow,
            packets: Some(5),
            bytes: Some(4096),
            duration: Some(Duration::from_millis(1500)),
            snap_length: 65_535,
            payload: Payload::Bytes(0),
        }
    );
    assert_eq!(verdict.changes, vec![]);
    assert_eq!(verdict.rule.to_string(), "p.yaml:9:5 tools.start.capture");
    assert_eq!(forwarded(&verdict, arguments.clone()), arguments);
    assert_eq!(
        verdict.terms.to_string(),
        "veth7, \"tcp port 80\" within \"net 10.0.0.0/8\", 5 packets, 4 KiB, 1.5 s, headers only"
    );
}

#[test]
fn what_goes_beyond_a_cap_becomes_the_cap() {
    for (count, time) in [
        (json!(10_001), json!(61)),
        (json!(0), json!(0)),
        (json!(0.0), json!(-0.0)),
        (json!(u64::MAX), json!(1e300)),
        (json!(1e300), json!(u64::MAX)),
        (json!(9_007_199_254_740_993_u64), json!(60.001)),
        (json!(null), json!(null)),
    ] {
        let arguments = json!({"iface": "lo", "count": count, "time": time});
        let verdict = captured(&full(), "start", arguments.clone());
        assert_eq!(verdict.terms.packets, Some(10_000), "{arguments}");
        assert_eq!(
            verdict.terms.duration,
            Some(Duration::from_secs(60)),
            "{arguments}"
        );
        assert_eq!(
            forwarded(&verdict, arguments),
            json!({"iface": "lo", "count": 10_000, "size": 52_428_800, "time": 60})
        );
        let [packets, bytes, _] = verdict.changes.as_slice() else {
            panic!("{:?}", verdict.changes);
        };
        assert_eq!(packets.argument, "count");
        assert_eq!(packets.asked, Some(count));
        assert_eq!(packets.why, "the policy allows at most 10000 packets");
        assert_eq!(bytes.asked, None);
        assert_eq!(bytes.why, "the policy allows at most 50 MiB");
    }
}

#[test]
fn what_is_no_amount_is_denied() {
    for (arguments, reason) in [
        (json!({"count": -1}), "`count` is negative."),
        (json!({"count": -0.5}), "`count` is negative."),
        (json!({"count": 1.5}), "`count` is not a whole number."),
        (
            json!({"count": "5"}),
            "`count` must be a number, but is a string.",
        ),
        (
            json!({"count": [5]}),
            "`count` must be a number, but is a list.",
        ),
        (
            json!({"count": true}),
            "`count` must be a number, but is a boolean.",
        ),
        (
            json!({"size": {}}),
            "`size` must be a number, but is an object.",
        ),
        (json!({"time": -1e-9}), "`time` is negative."),
        (
            json!({"time": "60"}),
            "`time` must be a number of seconds, but is a string.",
        ),
        (
            json!({"bpf": ["tcp"]}),
            "The capture filter in `bpf` must be a string, but is a list.",
        ),
        (
            json!({"bpf": "tcp\nor udp"}),
            "The capture filter has line ends or other control characters.",
        ),
        (
            json!({"bpf": "tcp\u{0}"}),
            "The capture filter has line ends or other control characters.",
        ),
        (
            json!({"bpf": "x".repeat(512 * 1024 + 1)}),
            "The capture filter is longer than 524288 bytes.",
        ),
    ] {
        let mut arguments = arguments;
        arguments["iface"] = json!("lo");
        let denial = denied(&full(), "start", arguments);
        assert_eq!(denial.reason, reason);
        assert_eq!(
            denial.instead.as_deref(),
            Some(
                "Ask for at most 10000 packets, 50 MiB and 1 min on lo or veth*, within \"net 10.0.0.0/8\"."
            )
        );
        assert_eq!(denial.rule.line, 10);
    }
}

#[test]
fn whole_numbers_may_be_written_with_a_point() {
    let verdict = captured(&full(), "start", json!({"iface": "lo", "count": 7.0}));
    assert_eq!(verdict.terms.packets, Some(7));
}

#[test]
fn a_time_too_short_to_count_is_not_no_limit() {
    let verdict = captured(&full(), "start", json!({"iface": "lo", "time": 1e-300}));
    assert_eq!(verdict.terms.duration, Some(Duration::from_millis(1)));
}

#[test]
fn empty_filters_leave_the_policy_s_own() {
    for bpf in [json!(null), json!(""), json!("  ")] {
        let verdict = captured(&full(), "start", json!({"iface": "lo", "bpf": bpf}));
        assert_eq!(
            verdict.terms.filters,
            vec![filter("net 10.0.0.0/8", FilterOrigin::Policy)]
        );
    }
}

#[test]
fn filters_are_never_put_together_as_text() {
    let verdict = captured(
        &full(),
        "start",
        json!({"iface": "lo", "bpf": "tcp) or (udp"}),
    );
    assert_eq!(
        verdict.terms.filters,
        vec![
            filter("tcp) or (udp", FilterOrigin::Requested),
            filter("net 10.0.0.0/8", FilterOrigin::Policy),
        ]
    );
}

#[test]
fn over_deny_denies_what_clamp_would_cut() {
    let policy = full();
    for (opts, reason, line) in [
        (
            json!({"count": 11}),
            "11 packets is more than the 10 packets allowed.",
            22,
        ),
        (
            json!({"count": 0}),
            "No limit was asked for, and at most 10 packets is allowed.",
            22,
        ),
        (
            json!({"time": 2.6}),
            "2.6 s is more than the 2.5 s allowed.",
            23,
        ),
        (
            json!({"time": 0}),
            "No limit was asked for, and at most 2.5 s is allowed.",
            23,
        ),
    ] {
        let denial = denied(&policy, "strict", json!({"opts": opts}));
        assert_eq!(denial.reason, reason);
        assert_eq!(denial.rule.line, line);
        assert_eq!(
            denial.instead.as_deref(),
            Some("Ask for at most 10 packets and 2.5 s on lo.")
        );
    }
    // What is not asked is not denied, and not written: the kernel holds the caps.
    let verdict = captured(&policy, "strict", json!({"opts": {"count": 10}}));
    assert_eq!(verdict.terms.packets, Some(10));
    assert_eq!(verdict.terms.duration, Some(Duration::from_millis(2500)));
}

#[test]
fn the_only_interface_is_written_where_none_is_named() {
    let policy = full();
    for arguments in [
        json!({}),
        json!({"opts": null}),
        json!({"opts": {}}),
        json!({"opts": {"iface": null}}),
        json!({"opts": {"iface": ""}}),
        json!({"opts": {"iface": []}}),
    ] {
        let verdict = captured(&policy, "strict", arguments.clone());
        assert_eq!(verdict.terms.interfaces, lo(), "{arguments}");
        assert_eq!(
            forwarded(&verdict, arguments),
            json!({"opts": {"iface": "lo"}})
        );
        assert_eq!(verdict.changes[0].argument, "opts.iface");
        assert_eq!(verdict.changes[0].why, "the policy allows lo only");
    }
    assert_eq!(
        denied(&policy, "start", no_arguments()).reason,
        "No interface is named in `iface`."
    );
    assert_eq!(
        denied(&policy, "strict", json!({"opts": "lo"})).reason,
        "`opts.iface` cannot be found: what stands before `.iface` is no object."
    );
    // A key that has the dot in it is not what the name reaches.
    let verdict = captured(&policy, "strict", json!({"opts.iface": "eth0"}));
    assert_eq!(verdict.terms.interfaces, lo());
}

#[test]
fn interfaces_are_admitted_by_name_and_case() {
    let policy = full();
    let names = |names: &[&str]| {
        InterfaceTerms::Matching(
            names
                .iter()
                .map(|name| InterfacePattern((*name).to_owned()))
                .collect(),
        )
    };
    for (iface, terms) in [
        (json!("lo"), names(&["lo"])),
        (json!("veth"), names(&["veth"])),
        (json!(["lo"]), names(&["lo"])),
        (json!(["lo", "veth1", "lo"]), names(&["lo", "veth1"])),
    ] {
        let verdict = captured(&policy, "start", json!({"iface": iface}));
        assert_eq!(verdict.terms.interfaces, terms);
    }
    for (iface, reason) in [
        (json!("eth0"), "not among the interfaces"),
        (json!("LO"), "told apart by case"),
        (json!("Veth1"), "told apart by case"),
        (json!("any"), "every interface"),
        (json!("lo,eth0"), "comma"),
        (json!("veth1 eth0"), "space"),
        (json!("veth*"), "glob"),
        (json!("veth1234567890123"), "15 bytes"),
        (json!("veth1:1"), "no interface's name"),
        (json!("4"), "number"),
        (json!(4), "number"),
        (json!(true), "boolean"),
        (json!({"name": "lo"}), "object"),
        (json!(["lo", "eth0"]), "not among the interfaces"),
        (json!(["lo", 4]), "a number"),
        (json!([["lo"]]), "a list"),
        (json!(["lo", ""]), "empty string"),
        (json!(vec!["lo"; 65]), "more than 64"),
        (json!("nflog:5"), "firewall logs"),
        (json!("TCP@10.0.0.1:19000"), "remote host"),
        (json!("-"), "standard input"),
        (json!("/tmp/veth"), "path"),
    ] {
        let denial = denied(&policy, "start", json!({"iface": iface}));
        assert!(denial.reason.contains(reason), "{iface}: {denial}");
        assert_eq!(denial.rule.path, "tools.start.capture.interfaces");
        assert_eq!((denial.rule.line, denial.rule.column), (11, 7));
    }
}

#[test]
fn a_star_admits_interfaces_and_nothing_else() {
    let policy = Policy::parse(
        "p.yaml",
        "version: 1\ntools: { t: { capture: { from: { interface: i }, interfaces: [ \"*\" ], packets: 1 } } }\n",
    )
    .unwrap();
    for name in ["lo", "eth0", "LO"] {
        let _ = captured(&policy, "t", json!({"i": name}));
    }
    for name in [
        "any",
        "nflog",
        "nfqueue:1",
        "usbmon1",
        "bluetooth-monitor",
        "dbus-system",
        "dpdk:0",
        "sshdump",
        "-",
        "/tmp/x",
        "1",
        "*",
        "TCP@h:1",
        "rpcap://h/i",
    ] {
        let _ = denied(&policy, "t", json!({"i": name}));
    }
}

#[test]
fn any_is_admitted_where_it_is_listed() {
    let policy = Policy::parse(
        "p.yaml",
        "version: 1\ntools: { t: { capture: { from: { interface: i }, interfaces: [ any ], packets: 1 } } }\n",
    )
    .unwrap();
    assert_eq!(
        captured(&policy, "t", json!({"i": "any"})).terms.interfaces,
        InterfaceTerms::Any
    );
    assert_eq!(
        captured(&policy, "t", json!({"i": "lo"})).terms.interfaces,
        lo()
    );
    assert_eq!(
        captured(&policy, "t", json!({"i": ["lo", "any"]}))
            .terms
            .interfaces,
        InterfaceTerms::Any
    );
    for name in ["ANY", "Any", "nflog"] {
        let _ = denied(&policy, "t", json!({"i": name}));
    }
    let denial = denied(&policy, "t", no_arguments());
    assert_eq!(
        denial.instead.as_deref(),
        Some("Ask for at most 1 packet on any.")
    );
}

#[test]
fn what_no_argument_asks_is_the_policy_s_alone() {
    let policy = Policy::parse(
        "p.yaml",
        "version: 1\ntools: { t: { capture: { interfaces: [ lo, \"veth*\" ], seconds: 3 } } }\n",
    )
    .unwrap();
    let verdict = captured(&policy, "t", json!({"interface": "eth0", "packets": 0}));
    assert_eq!(verdict.changes, vec![]);
    assert_eq!(verdict.terms.to_string(), "lo or veth*, 3 s");
    assert_eq!(verdict.terms.snap_length, 262_144);
    assert_eq!(verdict.terms.payload, Payload::Full);
}

#[test]
fn an_amount_without_a_cap_is_granted_as_asked() {
    let policy = Policy::parse(
        "p.yaml",
        "version: 1\ntools: { t: { capture: { from: { packets: n }, interfaces: [ lo ], seconds: 3 } } }\n",
    )
    .unwrap();
    for (n, granted) in [
        (json!(7), Some(7)),
        (json!(0), None),
        (json!(null), None),
        (json!(1e17), None),
    ] {
        let verdict = captured(&policy, "t", json!({"n": n}));
        assert_eq!(verdict.terms.packets, granted);
        assert_eq!(verdict.changes, vec![]);
    }
    let _ = denied(&policy, "t", json!({"n": -1}));
}

#[test]
fn commands_get_the_exec_section() {
    let policy = full();
    let verdict = policy.exec_verdict(&Request::default()).unwrap();
    assert_eq!(verdict.terms.interfaces, InterfaceTerms::Any);
    assert_eq!(verdict.terms.packets, Some(5));
    assert_eq!(verdict.terms.payload, Payload::Bytes(64));
    assert_eq!(
        verdict.terms.filters,
        vec![filter("tcp", FilterOrigin::Policy)]
    );
    assert_eq!(verdict.rule.to_string(), "p.yaml:28:1 exec");

    let request = Request {
        interfaces: vec!["lo".to_owned()],
        filter: Some("port 80".to_owned()),
        packets: Some(3),
        bytes: Some(100),
        duration: Some(Duration::from_secs(9)),
        payload: Some(Payload::Bytes(8)),
    };
    let terms = policy.exec_verdict(&request).unwrap().terms;
    assert_eq!(
        terms.to_string(),
        "lo, \"port 80\" within \"tcp\", 3 packets, 100 bytes, 9 s, 8 bytes of payload"
    );

    let more = Request {
        packets: Some(6),
        payload: Some(Payload::Full),
        ..Request::default()
    };
    let terms = policy.exec_verdict(&more).unwrap().terms;
    assert_eq!(
        (terms.packets, terms.payload),
        (Some(5), Payload::Bytes(64))
    );

    for bad in ["nflog", "ANY", "veth*", "-i", ""] {
        let request = Request {
            interfaces: vec![bad.to_owned()],
            ..Request::default()
        };
        assert!(policy.exec_verdict(&request).is_err(), "{bad}");
        assert!(unpoliced(&request).is_err(), "{bad}");
    }

    let without = Policy::parse("p.yaml", "version: 1\ntools: {}\n").unwrap();
    assert_eq!(
        without
            .exec_verdict(&Request::default())
            .unwrap_err()
            .to_string(),
        "The policy has no `exec` section, so no command may capture under it. Add `exec:` with `interfaces` and a cap to it, or leave out --policy. (rule: p.yaml:1:1 default)"
    );
}

#[test]
fn commands_without_a_policy_get_what_they_ask() {
    let verdict = unpoliced(&Request::default()).unwrap();
    assert_eq!(verdict.terms.to_string(), "any interface");
    assert_eq!(verdict.rule.to_string(), "command line");
    let request = Request {
        interfaces: vec!["lo".to_owned()],
        filter: Some("icmp".to_owned()),
        packets: Some(0),
        bytes: Some(10),
        ..Request::default()
    };
    assert_eq!(
        unpoliced(&request).unwrap().terms.to_string(),
        "lo, \"icmp\", 10 bytes"
    );
}

#[test]
fn a_policy_is_named_by_its_bytes() {
    let policy = Policy::parse("p.yaml", "version: 1\ntools: {}\n").unwrap();
    assert_eq!(&**policy.file(), "p.yaml");
    assert_eq!(
        policy.digest(),
        "f2f4f6d1746cf497fe7ff406b0164b9c4635ac189c7de7bdb8237fb57c783547"
    );
    assert_eq!(
        full().summary().to_string(),
        "p.yaml, in capwarden's language: tools: 2 capture, 1 ends, 3 allow, 1 deny, others deny; exec: yes"
    );
}

/// A caller whose grant allows so much.
struct Under(Ceiling);

impl Counters for Under {
    fn count(&self, _: &str, _: Scope, _: Window) -> u64 {
        0
    }
}

impl Knowledge for Under {
    fn ceiling(&self) -> Ceiling {
        self.0
    }
}

#[test]
fn what_a_grant_allows_is_offered_and_written_into_calls() {
    let text = "version: 1
tools:
  cut: { capture: { from: { packets: n, seconds: s }, interfaces: [ lo ], packets: 1000, seconds: 1800 } }
  strict: { capture: { from: { packets: n, interface: i }, interfaces: [ lo, eth0 ], packets: 1000, over: deny } }
  open: { capture: { from: { bytes: b }, interfaces: [ lo ], packets: 5 } }
  proxy: { proxy: { from: { seconds: s }, listen: [ \"127.0.0.1:80\" ], seconds: 600 } }
";
    let policy = Policy::parse("p", text).unwrap();
    let under = Under(Ceiling {
        packets: Some(10),
        bytes: Some(4096),
        duration: Some(Duration::from_secs(3_600)),
    });
    let call = |tool: &str, arguments: Value| Call {
        tool: tool.to_owned(),
        arguments: arguments.as_object().unwrap().clone(),
    };
    let whys = |tool: &str, arguments: Value| -> Vec<String> {
        let outcome = policy.outcome(&call(tool, arguments), &under);
        let changes = outcome.changes().iter();
        changes
            .map(|it| format!("{} {}: {}", it.argument, it.forwarded, it.why))
            .collect()
    };
    // Of each cap the lower one, with whose it is.
    assert_eq!(
        whys("cut", json!({ "n": 500, "s": 9_999 })),
        [
            "n 10: the grant allows at most 10 packets",
            "s 1800: the policy allows at most 30 min"
        ]
    );
    assert_eq!(
        whys("open", json!({ "b": 9_999 })),
        ["b 4096: the grant allows at most 4 KiB"]
    );
    assert_eq!(
        whys("proxy", json!({ "s": 9_999 })),
        ["s 600: the policy allows at most 10 min"]
    );
    // What would be allowed is told of both together.
    let offer = "Ask for at most 10 packets, 4 KiB and 1 h on lo or eth0.";
    for arguments in [json!({ "i": "lo", "n": 500 }), json!({ "i": "wlan0" })] {
        let Verdict::Deny(denial) = policy.decide(&call("strict", arguments), &under).verdict
        else {
            panic!("it was not denied");
        };
        assert_eq!(denial.instead.as_deref(), Some(offer), "{denial}");
        assert_eq!(denial.allowed.unwrap()["packets"], 10);
    }
    let outcome = policy.outcome(&call("cut", json!({ "n": 5 })), &());
    assert_eq!(outcome.capture().unwrap().terms.packets, Some(5));
}
