//! Each policy in `policies/` is loaded here, and asked what its server's users would ask.

use std::{collections::BTreeSet, path::Path, time::Duration};

use serde_json::json;

use super::*;

/// What is in `policies/`, and the shape of the server in `tests/shapes` if its tools are known.
pub(super) const SHIPPED: [(&str, Option<&str>); 12] = [
    ("awslabs-pcap-analyzer.yaml", Some("awslabs-pcap-analyzer")),
    ("intercept-looking-glass.yaml", None),
    ("kali-security-mcp.yaml", Some("kali-security-mcp")),
    ("looking-glass.yaml", None),
    ("mcp-wireshark.yaml", Some("mcp-wireshark")),
    ("mitmproxy-mcp.yaml", Some("mitmproxy-mcp")),
    ("netmcp.yaml", Some("netmcp")),
    ("playwright-mcp.yaml", Some("playwright-mcp")),
    ("policylayer-kali.json", Some("kali-security-mcp")),
    ("policylayer-sharkmcp.json", Some("sharkmcp")),
    ("sharkmcp.yaml", Some("sharkmcp")),
    ("wireshark-mcp.yaml", Some("wireshark-mcp")),
];

pub(super) fn directory() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies"))
}

pub(super) fn shipped(name: &str) -> Policy {
    Policy::load(&directory().join(name)).unwrap_or_else(|error| panic!("{error:?}"))
}

#[test]
fn every_shipped_policy_is_tested() {
    let files: BTreeSet<String> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".test.yaml") && name != "README.md")
        .collect();
    assert_eq!(files, SHIPPED.map(|(file, _)| file.to_owned()).into());
}

/// What the tests are run with.
const SETUP: &str = include_str!("../../../../xtask/src/setup.rs");
const LANGUAGE: &str = include_str!("../../../../policies/README.md");

#[test]
fn versions_that_policies_are_said_to_be_tried_with_are_those_of_the_tests() {
    let (_, said) = LANGUAGE.split_once("the server itself: ").unwrap();
    let (said, _) = said.split_once(". Of SharkMCP").unwrap();
    let mut servers = 0;
    for one in said.split(',') {
        let (name, version) = one.trim().rsplit_once(' ').unwrap();
        let installed = format!("(\"{}\", \"{version}\")", name.trim_matches('`'));
        assert!(SETUP.contains(&installed), "{installed}");
        servers += 1;
    }
    assert_eq!(servers, 6, "{said}");
}

#[test]
fn every_shipped_policy_decides_as_the_cases_beside_it_say() {
    let mut run = 0;
    for entry in std::fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().ends_with(".test.yaml") || path.ends_with("README.md") {
            continue;
        }
        let policy = Policy::load(&path).unwrap();
        let cases = Case::load(&path.with_extension("test.yaml"));
        for case in cases.unwrap_or_else(|error| panic!("{error:?}")) {
            let (unlike, _) = case.run(&policy);
            assert_eq!(unlike, [], "{}: {}", path.display(), case.name);
            run += 1;
        }
    }
    assert!(run >= 40, "{run}");
}

#[test]
fn sharkmcp() {
    let policy = shipped("sharkmcp.yaml");
    assert!(!policy.visible("manage_config"));
    let verdict = captured(
        &policy,
        "start_capture_session",
        json!({"interface": "lo", "captureFilter": "tcp", "maxPackets": 100_000, "timeout": 5}),
    );
    assert_eq!(
        verdict.terms.to_string(),
        "lo, \"tcp\" within \"net 10.0.0.0/8 and tcp\", 10000 packets, 50 MiB, 5 s, headers only"
    );
    assert_eq!(verdict.changes.len(), 1);
    assert_eq!(verdict.changes[0].argument, "maxPackets");
    for bad in [
        json!({"interface": "lo", "configName": "evil"}),
        json!({"interface": "any"}),
        // The server's default is lo0, which is not there on Linux: it must be named.
        json!({}),
        json!({"interface": "lo", "sessionName": "../../etc/x"}),
    ] {
        let _ = denied(&policy, "start_capture_session", bad);
    }
    let stop = |arguments| ask(&policy, &call("stop_capture_session", arguments));
    assert_eq!(
        stop(json!({"sessionId": "s", "displayFilter": "tcp.port == 80"})),
        Verdict::EndCapture
    );
    for bad in [
        json!({"sessionId": "s", "displayFilter": "x\"; id; echo \""}),
        json!({"sessionId": "s", "displayFilter": "$(id)"}),
        json!({"sessionId": "s", "displayFilter": "a\nid"}),
        json!({"sessionId": "s", "customFields": "ip.src `id`"}),
        json!({"sessionId": "s", "sslKeylogFile": "/x"}),
        json!({"sessionId": "s", "configName": "evil"}),
    ] {
        let _ = denied(&policy, "stop_capture_session", bad);
    }
    let read = |path| {
        ask(
            &policy,
            &call("analyze_pcap_file", json!({"filePath": path})),
        )
    };
    assert_eq!(read("/var/lib/capwarden/captures/a.pcap"), Verdict::Forward);
    for bad in [
        "/etc/shadow",
        "/var/lib/capwarden/captures/../x",
        "/var/lib/capwarden/captures/$(id)",
    ] {
        assert!(matches!(read(bad), Verdict::Deny(_)), "{bad}");
    }
}

#[test]
fn awslabs_pcap_analyzer() {
    let policy = shipped("awslabs-pcap-analyzer.yaml");
    let summary = policy.summary();
    assert_eq!(
        (
            summary.count("allow"),
            summary.count("capture"),
            summary.count("ends"),
            summary.count("deny")
        ),
        (38, 1, 1, 6)
    );
    let verdict = captured(
        &policy,
        "start_packet_capture",
        json!({"interface": "lo", "output_file": "x.pcap"}),
    );
    assert_eq!(verdict.terms.duration, Some(Duration::from_secs(60)));
    assert_eq!(verdict.terms.packets, Some(10_000));
    assert_eq!(
        forwarded(&verdict, json!({"interface": "lo"})),
        json!({"interface": "lo", "duration": 60})
    );
    for bad in [
        json!({"interface": "eth0"}),
        json!({"interface": "lo", "duration": "60"}),
        json!({"interface": "lo", "output_file": "../x.pcap"}),
        json!({"duration": 5}),
    ] {
        let _ = denied(&policy, "start_packet_capture", bad);
    }
    assert_eq!(
        ask(
            &policy,
            &call(
                "stop_packet_capture",
                json!({"capture_id": "capture_1790000000"})
            )
        ),
        Verdict::EndCapture
    );
    let file = json!({"pcap_file": "/var/lib/capwarden/captures/x.pcap"});
    assert_eq!(
        ask(&policy, &call("analyze_tcp_resets", file.clone())),
        Verdict::Forward
    );
    let _ = denied(&policy, "analyze_tcp_resets", no_arguments());
    let _ = denied(&policy, "extract_credentials", file);
}

#[test]
fn wireshark_mcp() {
    let policy = shipped("wireshark-mcp.yaml");
    let verdict = captured(
        &policy,
        "wireshark_capture",
        json!({"interface": "veth1", "output_file": "/var/lib/capwarden/captures/a.pcap", "packet_count": 0, "duration_seconds": 10}),
    );
    assert_eq!(verdict.terms.packets, Some(5000));
    assert_eq!(verdict.terms.duration, Some(Duration::from_secs(10)));
    assert_eq!(verdict.terms.payload, Payload::Bytes(512));
    assert_eq!(verdict.changes.len(), 1);
    for bad in [
        json!({"interface": "lo", "output_file": "/tmp/a.pcap"}),
        json!({"interface": "lo"}),
        json!({"interface": "lo", "output_file": "/var/lib/capwarden/captures/a", "ring_buffer": "files:9"}),
    ] {
        let _ = denied(&policy, "wireshark_capture", bad);
    }
    assert!(policy.visible("wireshark_stats_endpoints"));
    assert!(!policy.visible("wireshark_yara_scan"));
}

#[test]
fn netmcp() {
    let policy = shipped("netmcp.yaml");
    let verdict = captured(
        &policy,
        "capture_live_packets",
        json!({"interface": "lo", "bpf_filter": "", "packet_count": 100, "duration": 5}),
    );
    assert_eq!(verdict.changes, vec![]);
    assert_eq!(
        verdict.terms.to_string(),
        "lo, 100 packets, 10 MiB, 5 s, 256 bytes of payload"
    );
    // The same terms through the alias, under the tool's own name.
    let verdict = captured(
        &policy,
        "save_capture_to_file",
        json!({"interface": "lo", "output_file": "/var/lib/capwarden/captures/a.pcap"}),
    );
    assert_eq!(verdict.terms.packets, Some(1000));
    assert_eq!(verdict.rule.path, "tools.save_capture_to_file.capture");
    // eth0 is the server's default.
    let _ = denied(&policy, "quick_capture", no_arguments());
    let _ = denied(
        &policy,
        "capture_targeted_traffic",
        json!({"interface": "lo", "target_host": "a) or (b"}),
    );
    let _ = denied(
        &policy,
        "detect_network_protocols",
        json!({"interface": "lo", "filepath": "/var/lib/capwarden/captures/a"}),
    );
    assert!(!policy.visible("check_ip_threat_intel"));
}

#[test]
fn mcp_wireshark() {
    let policy = shipped("mcp-wireshark.yaml");
    let verdict = captured(
        &policy,
        "live_capture",
        json!({"interface": "lo", "duration": 10, "display_filter": "dns"}),
    );
    assert_eq!(verdict.changes, vec![]);
    assert_eq!(
        verdict.terms.to_string(),
        "lo, within \"ip or ip6 or arp\", 1000 packets, 10 MiB, 10 s, headers only"
    );
    let denial = denied(
        &policy,
        "live_capture",
        json!({"interface": "lo", "packet_count": 5000}),
    );
    assert_eq!(
        denial.reason,
        "5000 packets is more than the 1000 packets allowed."
    );
    let _ = denied(
        &policy,
        "protocol_stats",
        json!({"file_path": "/var/lib/capwarden/captures/a", "protocol": "io", "variant": "x,/etc"}),
    );
}

/// The servers' policies as their vendors' dialects have them: ten starts in a minute, and nothing
/// else.
#[test]
fn policylayer_and_intercept() {
    struct Listed;
    impl Counters for Listed {
        fn count(&self, _: &str, _: Scope, _: Window) -> u64 {
            0
        }
    }
    impl Knowledge for Listed {
        fn definition(&self, tool: &str) -> Option<std::sync::Arc<Definition>> {
            let definition = Definition::requiring(tool, &["host".to_owned()]);
            Some(std::sync::Arc::new(definition))
        }
    }
    for (file, dialect, tool, counter, scope, window, refund) in [
        (
            "policylayer-sharkmcp.json",
            Dialect::PolicyLayer,
            "start_capture_session",
            "start_capture_session_rate",
            Scope::Grant,
            Window::Calendar(Unit::Minute),
            Refund::OnFailure,
        ),
        (
            "policylayer-kali.json",
            Dialect::PolicyLayer,
            "proxy_start",
            "proxy_start_rate",
            Scope::Grant,
            Window::Calendar(Unit::Minute),
            Refund::OnFailure,
        ),
        (
            "intercept-looking-glass.yaml",
            Dialect::Catalogue,
            "session_start",
            "session_start._rate_1",
            Scope::Connection,
            Window::Sliding(Duration::from_secs(60)),
            Refund::OnRpcError,
        ),
    ] {
        let policy = shipped(file);
        assert_eq!(policy.dialect(), dialect);
        let decision = policy.decide(&call(tool, json!({"host": "x"})), &Listed);
        assert_eq!(decision.verdict, Verdict::Forward, "{file}");
        let [one] = decision.uses.as_slice() else {
            panic!("{file}: {:?}", decision.uses);
        };
        assert_eq!(
            (one.counter.as_str(), one.scope, one.window, one.refund),
            (counter, scope, window, refund)
        );
        assert_eq!((one.max, one.amount), (10, 1), "{file}");
        assert!(policy.visible(tool) && policy.has_limits());
        // A tool that is not named is hidden and denied.
        assert!(!policy.visible("other"), "{file}");
        let _ = denied(&policy, "other", json!({}));
    }
    let policy = shipped("intercept-looking-glass.yaml");
    let decision = policy.decide(&call("session_start", json!({})), &Listed);
    assert!(matches!(decision.verdict, Verdict::Deny(_)), "{decision:?}");
}
