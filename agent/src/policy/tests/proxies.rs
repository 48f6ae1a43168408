//! Proxies: what of a request is granted, what is refused and how that is told.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::policy::{Baseline, Endpoint, ProxyEnd, ProxyVerdict};

const POLICY: &str = "version: 1
tools:
  start:
    proxy:
      from: { host: listen_host, port: listen_port, seconds: timeout }
      defaults: { host: 127.0.0.1, port: 8080 }
      listen: [ \"127.0.0.1:8000-8999\", \"[::1]:8080\", \"udp:127.0.0.1:8053\" ]
      upstream: [ \"10.0.0.0/8:80,443\", \"api.example:443\" ]
      interfaces: [ lo ]
      packets: 1000
      bytes: 1MiB
      connections: 10
      seconds: 60
  strict: { proxy: { from: { port: p }, listen: [ \"127.0.0.0/8:1024-65535\" ], seconds: 5, over: deny } }
  fixed: { proxy: { listen: [ \"127.0.0.1:9000\" ], packets: 5 } }
  stop: { ends: proxy }
";

fn policy() -> Policy {
    Policy::parse("p.yaml", POLICY).unwrap_or_else(|error| panic!("{error:?}"))
}

fn granted(tool: &str, arguments: Value) -> ProxyVerdict {
    let call = call(tool, arguments);
    match ask(&policy(), &call) {
        Verdict::Proxy(verdict) => *verdict,
        other => panic!("{call:?}: {other:?}"),
    }
}

fn listens(tool: &str, arguments: Value) -> Vec<String> {
    let verdict = granted(tool, arguments);
    verdict
        .terms
        .listen
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn proxies_listen_just_where_they_were_asked_to() {
    for (arguments, listen) in [
        (json!({}), vec!["127.0.0.1:8080"]),
        (json!({ "listen_port": 8999 }), vec!["127.0.0.1:8999"]),
        (json!({ "listen_port": 8001.0 }), vec!["127.0.0.1:8001"]),
        (json!({ "listen_port": "8001" }), vec!["127.0.0.1:8001"]),
        (json!({ "listen_port": null }), vec!["127.0.0.1:8080"]),
        (json!({ "listen_host": "::1" }), vec!["[::1]:8080"]),
        (
            json!({ "listen_host": "LOCALHOST" }),
            vec!["127.0.0.1:8080", "[::1]:8080"],
        ),
        (
            json!({ "listen_host": "localhost", "listen_port": 8081 }),
            vec!["127.0.0.1:8081"],
        ),
        (
            json!({ "listen_host": "::ffff:127.0.0.1" }),
            vec!["127.0.0.1:8080"],
        ),
        (
            json!({ "listen_port": 8053 }),
            vec!["127.0.0.1:8053", "udp:127.0.0.1:8053"],
        ),
    ] {
        assert_eq!(listens("start", arguments.clone()), listen, "{arguments}");
    }
    assert_eq!(
        listens("strict", json!({ "p": 2000 })),
        ["127.0.0.0/8:2000"]
    );
    assert_eq!(listens("fixed", json!({ "port": 1 })), ["127.0.0.1:9000"]);
}

#[test]
fn servers_have_fifteen_seconds_to_answer_or_what_the_policy_says() {
    assert_eq!(
        granted("fixed", json!({})).answer_within,
        Duration::from_secs(15)
    );
    let text = POLICY.replace("packets: 5", "packets: 5, answer_within: 2.5");
    let quick = Policy::parse("p.yaml", &text).unwrap();
    let Verdict::Proxy(verdict) = ask(&quick, &call("fixed", json!({}))) else {
        panic!("no proxy");
    };
    assert_eq!(verdict.answer_within, Duration::from_millis(2_500));
    let never = text.replace("answer_within: 2.5", "answer_within: never");
    assert!(Policy::parse("p.yaml", &never).is_err());
}

#[test]
fn proxies_elsewhere_are_denied_with_what_is_allowed() {
    for (tool, arguments, why) in [
        ("start", json!({ "listen_host": "0.0.0.0" }), "0.0.0.0:8080"),
        ("start", json!({ "listen_host": "::" }), "[::]:8080"),
        (
            "start",
            json!({ "listen_host": "10.0.0.1" }),
            "10.0.0.1:8080",
        ),
        (
            "start",
            json!({ "listen_host": "127.0.0.2" }),
            "127.0.0.2:8080",
        ),
        (
            "start",
            json!({ "listen_host": "::1", "listen_port": 8081 }),
            "[::1]:8081",
        ),
        ("start", json!({ "listen_port": 22 }), "127.0.0.1:22"),
        ("start", json!({ "listen_port": 0 }), "the system chooses"),
        ("start", json!({ "listen_port": 70000 }), "is no port"),
        ("start", json!({ "listen_port": -1 }), "is no port"),
        ("start", json!({ "listen_port": 80.5 }), "is no port"),
        ("start", json!({ "listen_port": "080" }), "is no port"),
        ("start", json!({ "listen_port": true }), "a boolean"),
        ("start", json!({ "listen_host": 1 }), "a number"),
        ("start", json!({ "listen_host": "" }), "every address"),
        (
            "start",
            json!({ "listen_host": "ip6-localhost" }),
            "only addresses",
        ),
        ("start", json!({ "listen_host": "127.1" }), "only addresses"),
        (
            "start",
            json!({ "Listen_Host": "127.0.0.1" }),
            "could be read as",
        ),
        ("strict", json!({}), "No port is named"),
        ("strict", json!({ "p": 80 }), "port 80"),
    ] {
        let denial = denied(&policy(), tool, arguments.clone());
        assert!(denial.reason.contains(why), "{arguments}: {denial}");
        assert!(denial.reason.ends_with('.'), "{denial}");
        let instead = denial.instead.unwrap();
        assert!(instead.contains("127.0.0."), "{instead}");
        assert!(denial.allowed.unwrap()["listen"][0].is_string());
    }
}

#[test]
fn terms_are_told_and_time_is_cut() {
    let verdict = granted("start", json!({ "timeout": 600 }));
    assert_eq!(verdict.terms.duration, Some(Duration::from_secs(60)));
    assert_eq!(verdict.changes.len(), 1);
    let call = call("start", json!({ "timeout": 600 }));
    assert_eq!(verdict.forwarded(&call.arguments)["timeout"], json!(60));
    assert_eq!(
        verdict.terms.to_string(),
        "listening on 127.0.0.1:8080, upstream 10.0.0.0/8:80,443 and api.example:443, on lo, \
         1000 packets, 1 MiB each way, 10 connections, 1 min"
    );
    assert_eq!(verdict.rule.path, "tools.start.proxy");
    let outcome = policy().outcome(&call, &());
    assert_eq!(outcome.word(), "proxy");
    assert_eq!(outcome.as_json()["terms"]["upstream"][1], "api.example:443");
    assert_eq!(
        granted("strict", json!({ "p": 2000 })).terms.duration,
        Some(Duration::from_secs(5))
    );
    let stop = self::call("stop", json!({}));
    assert_eq!(ask(&policy(), &stop), Verdict::EndProxy);
}

#[test]
fn network_is_bounded_as_soon_as_a_policy_says_anything_of_it() {
    let baseline = |text: &str| Policy::parse("p", text).unwrap().baseline();
    assert_eq!(policy().baseline(), Some(Baseline::default()));
    assert_eq!(baseline("version: 1\ntools: { a: allow }"), None);
    assert_eq!(baseline("version: 1\ntools: { a: { ends: proxy } }"), None);
    let none = "version: 1\ntools: { a: allow }\nbaseline: none";
    assert_eq!(baseline(none), Some(Baseline::default()));
    let some = "version: 1\ntools: { a: allow }\nbaseline: { connect: [ \"udp:127.0.0.53:53\" ] }";
    let some = baseline(some).unwrap();
    assert_eq!(
        some.to_string(),
        "listens on nothing, connects to udp:127.0.0.53:53"
    );
    let heard = some.listening_on(([127, 0, 0, 1], 8765).into());
    assert_eq!(heard.listen, [Endpoint::parse("127.0.0.1:8765").unwrap()]);
    assert_eq!(
        heard.clone().listening_on(([127, 0, 0, 1], 8765).into()),
        heard
    );
    let summary = policy().summary().to_string();
    assert!(summary.contains("3 proxy, 1 ends"), "{summary}");
    assert!(
        summary.ends_with("the server listens on nothing, connects to nothing"),
        "{summary}"
    );
}

#[test]
fn what_cannot_be_held_is_refused_with_its_place() {
    for (proxy, what) in [
        ("{ seconds: 5 }", "`tools.t.proxy` has no `listen`"),
        ("{ listen: [ \"127.0.0.1:80\" ] }", "has no cap"),
        (
            "{ listen: [ \"127.0.0.1:80\" ], connections: 5 }",
            "has no cap",
        ),
        ("{ listen: [ \"127.0.0.1\" ], seconds: 5 }", "names no port"),
        ("{ listen: [ \"localhost:80\" ], seconds: 5 }", "is a name"),
        (
            "{ listen: [ \"127.0.0.1:80\" ], upstream: [ \"::1:80\" ], seconds: 5 }",
            "without brackets",
        ),
        (
            "{ listen: [ \"127.0.0.1:80\" ], end: stop, seconds: 5 }",
            "neither `drop` nor `restart`",
        ),
        (
            "{ listen: [ \"127.0.0.1:80\" ], defaults: { host: here }, seconds: 5 }",
            "is no address",
        ),
        (
            "{ listen: [ \"127.0.0.1:80\" ], from: { host: a, port: a }, seconds: 5 }",
            "asks for `host` already",
        ),
        (
            "{ listen: [ \"127.0.0.1:80\" ], seconds: 5 }, ends: proxy",
            "cannot stand beside",
        ),
        (
            "{ listen: [ \"127.0.0.1:80\" ], seconds: 5 }, capture: { interfaces: [ lo ], seconds: 1 }",
            "cannot stand beside",
        ),
    ] {
        let text = format!("version: 1\ntools:\n  t: {{ proxy: {proxy} }}\n");
        let error = Policy::parse("p.yaml", &text).expect_err(proxy).to_string();
        assert!(
            error.starts_with("p.yaml:3:") && error.contains(what),
            "{error}"
        );
    }
    for baseline in [
        "all",
        "{}",
        "{ listen: [] }",
        "{ listen: [ \"a:1\" ] }",
        "[]",
        "{ x: 1 }",
    ] {
        let text = format!("version: 1\ntools: {{ a: allow }}\nbaseline: {baseline}\n");
        assert!(Policy::parse("p", &text).is_err(), "{baseline}");
    }
}

#[test]
fn end_of_a_proxy_is_as_the_policy_says() {
    let rule = |end: &str| {
        format!(
            "version: 1\ntools:\n  p: {{ proxy: {{ listen: [ \"127.0.0.1:80\" ], seconds: 5{end} }} }}\n"
        )
    };
    let parse = |end: &str| Policy::parse("p.yaml", &rule(end));
    for (end, wanted, place) in [
        ("", ProxyEnd::Drop, None),
        (", end: drop", ProxyEnd::Drop, None),
        (", end: restart", ProxyEnd::Restart, Some("p.yaml:3:")),
    ] {
        let policy = parse(end).unwrap_or_else(|error| panic!("{error:?}"));
        let Verdict::Proxy(verdict) = ask(&policy, &call("p", json!({}))) else {
            panic!("a proxy: {end}");
        };
        assert_eq!(verdict.terms.end, wanted, "{end}");
        let told = verdict
            .terms
            .to_string()
            .contains("the server is restarted");
        assert_eq!(told, wanted == ProxyEnd::Restart);
        let restarting = policy.restarting().map(ToString::to_string);
        match place {
            None => assert_eq!(restarting, None),
            Some(place) => assert!(restarting.unwrap().contains(place)),
        }
    }
    let wrong = format!("{:?}", parse(", end: stop").unwrap_err());
    assert!(wrong.contains("neither `drop` nor `restart`"), "{wrong}");
}
