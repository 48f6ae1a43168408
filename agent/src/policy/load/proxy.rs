//! The sections `proxy` and `baseline`: what a server may do with the network.

use super::{
    Field, Gather, Loaded, Section, Tree,
    capture::{argument, cap, interfaces, once_each_argument, over, seconds},
};
use crate::policy::{
    Baseline, Endpoint, EndpointHost,
    capture::{MAX_EXACT, Over},
    endpoint::asked_host,
    model::BaselineRule,
    proxy::{ANSWER_WITHIN, Defaults, Endpoints, ProxyArguments, ProxyEnd, ProxyRule},
};

/// Keys of a `proxy` section.
const PROXY: &[&str] = &[
    "from",
    "defaults",
    "listen",
    "upstream",
    "interfaces",
    "packets",
    "bytes",
    "connections",
    "seconds",
    "over",
    "answer_within",
    "end",
];

/// Keys of `from`.
const FROM: &[&str] = &["host", "port", "seconds"];

/// Keys of `defaults`.
const DEFAULTS: &[&str] = &["host", "port"];

/// Keys of `baseline`.
const BASELINE: &[&str] = &["listen", "connect"];

/// Ranges of ports, over all addresses, that one list may have: the guard holds 64 rules of one
/// session, in which names may come to several addresses.
const MAX_RULES: usize = 48;

const ENDPOINT: &str = "Write an address and a port, such as `127.0.0.1:8000-8999`, \
     `10.0.0.0/8:80,443`, `\"[::1]:*\"` or `udp:127.0.0.53:53`; tcp is meant where neither is said.";

/// Whether names are allowed in a list, which are looked up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Allowed,
    Refused,
}

pub(super) fn proxy(field: &Field<'_>) -> Loaded<ProxyRule> {
    let (section, mut gather) = field.open("a map of what a proxy may do", PROXY)?;
    let from = gather.keep(section.read("from", from)).flatten();
    let defaults = gather.keep(section.read("defaults", defaults)).flatten();
    let listen = match section.field("listen") {
        Some(field) => gather.keep(endpoints(&field, Names::Refused)),
        None => {
            if gather.is_clean() {
                const HELP: &str =
                    "List where the proxy may listen: `listen: [ \"127.0.0.1:8000-8999\" ]`.";
                gather.add(section.missing("listen", HELP));
            }
            None
        }
    };
    let upstream = section.read("upstream", |field| endpoints(field, Names::Allowed));
    let upstream = gather.keep(upstream).flatten();
    let interfaces = gather
        .keep(section.read("interfaces", interfaces))
        .flatten();
    let mut amount = |key: &str, what: &'static str, help: &'static str| {
        let read = section.read(key, |field| {
            Ok(cap(field, field.whole(1..=MAX_EXACT, what, help)?))
        });
        gather.keep(read).flatten()
    };
    const PACKETS: &str = "Write a whole number from 1: `packets: 100000`.";
    let packets = amount("packets", "a number of packets", PACKETS);
    const CONNECTIONS: &str = "Write a whole number from 1: `connections: 100`.";
    let connections = amount("connections", "a number of connections", CONNECTIONS);
    let bytes = section.read("bytes", |field| Ok(cap(field, field.bytes(1..=MAX_EXACT)?)));
    let bytes = gather.keep(bytes).flatten();
    let seconds = section.read("seconds", |field| Ok(cap(field, seconds(field)?)));
    let seconds = gather.keep(seconds).flatten();
    if gather.is_clean() && packets.is_none() && bytes.is_none() && seconds.is_none() {
        gather.add(field.key_fault(
            "`proxy` has no cap".to_owned(),
            "Add at least one of `packets`, `bytes` and `seconds`: a proxy must end.",
        ));
    }
    let over = gather.keep(section.read("over", over)).flatten();
    let answer_within = gather
        .keep(section.read("answer_within", self::seconds))
        .flatten();
    let end = section.read("end", |field| Ok((end(field)?, field.rule())));
    let end = gather.keep(end).flatten();
    Ok(ProxyRule {
        rule: field.rule(),
        from: from.unwrap_or_default(),
        defaults: defaults.unwrap_or_default(),
        listen: gather.done(listen)?,
        upstream,
        interfaces,
        packets,
        bytes,
        connections,
        seconds,
        over: over.unwrap_or(Over::Clamp),
        answer_within: answer_within.unwrap_or(ANSWER_WITHIN),
        end: end.unwrap_or_else(|| (ProxyEnd::default(), field.rule())),
    })
}

fn end(field: &Field<'_>) -> Loaded<ProxyEnd> {
    const HELP: &str = "Write `drop` to end the proxy's traffic and let the server live on, or `restart` to restart the server.";
    match field.text("`drop` or `restart`", HELP)? {
        "drop" => Ok(ProxyEnd::Drop),
        "restart" => Ok(ProxyEnd::Restart),
        _ => Err(field.fault("is neither `drop` nor `restart`", HELP)),
    }
}

fn from(field: &Field<'_>) -> Loaded<ProxyArguments> {
    const EXPECTED: &str = "a map from what is asked to the argument that asks it";
    let (section, mut gather) = field.open(EXPECTED, FROM)?;
    let mut named = |key: &str| gather.keep(section.read(key, argument)).flatten();
    let arguments = ProxyArguments {
        host: named("host"),
        port: named("port"),
        seconds: named("seconds"),
    };
    if gather.is_clean() {
        gather.keep(once_each_argument(&section, FROM));
    }
    gather.done(Some(arguments))
}

fn defaults(field: &Field<'_>) -> Loaded<Defaults> {
    const EXPECTED: &str = "a map of what the server takes for what is not sent";
    let (section, mut gather) = field.open(EXPECTED, DEFAULTS)?;
    let host = section.read("host", |field| {
        const HELP: &str = "Write the address that the server listens on by itself: `127.0.0.1`.";
        let host = field.text("an address", HELP)?;
        match asked_host(host) {
            Ok(_) => Ok(host.to_owned()),
            Err(_) => Err(field.fault("is no address", HELP)),
        }
    });
    let host = gather.keep(host).flatten();
    let port = section.read("port", |field| {
        const HELP: &str = "Write the port that the server listens on by itself: `8080`.";
        let port = field.whole(1..=u64::from(u16::MAX), "a port", HELP)?;
        u16::try_from(port).map_err(|_| field.fault("is no port", HELP))
    });
    let port = gather.keep(port).flatten();
    gather.done(Some(Defaults { host, port }))
}

/// Reads what a server may do without a session.
pub(super) fn baseline(field: &Field<'_>) -> Loaded<BaselineRule> {
    const HELP: &str = "Write `none`, or a map with `listen` and `connect`.";
    let rule = field.rule();
    if let Tree::Text(word) = &field.node.tree {
        return match word.as_str() {
            "none" => Ok(BaselineRule {
                baseline: Baseline::default(),
                rule,
            }),
            _ => Err(field.fault("is no baseline", HELP)),
        };
    }
    let (section, mut gather) = field.open("`none`, or a map of addresses", BASELINE)?;
    let list = |section: &Section<'_>, gather: &mut Gather, key: &str, names| {
        let read = section.read(key, |field| endpoints(field, names));
        let list = gather.keep(read).flatten();
        list.map_or_else(Vec::new, |endpoints| endpoints.list)
    };
    let baseline = Baseline {
        listen: list(&section, &mut gather, "listen", Names::Refused),
        connect: list(&section, &mut gather, "connect", Names::Allowed),
    };
    if gather.is_clean() && baseline == Baseline::default() {
        gather.add(field.key_fault("`baseline` names nothing".to_owned(), HELP));
    }
    gather.done(Some(BaselineRule { baseline, rule }))
}

pub(super) fn endpoints(field: &Field<'_>, names: Names) -> Loaded<Endpoints> {
    const EXPECTED: &str = "a list of addresses with ports";
    field.list(EXPECTED, ENDPOINT)?;
    let items = field.items(EXPECTED, ENDPOINT)?;
    let list = Gather::all(items.iter().map(|item| {
        let endpoint = Endpoint::parse(item.text("an address with a port", ENDPOINT)?)
            .map_err(|what| item.fault(what, ENDPOINT))?;
        if names == Names::Refused && matches!(endpoint.host, EndpointHost::Name(_)) {
            return Err(item.fault("is a name, and servers listen on addresses", ENDPOINT));
        }
        Ok(endpoint)
    }))?;
    let rules: usize = list.iter().map(|endpoint| endpoint.ports.len()).sum();
    if rules > MAX_RULES {
        return Err(field.key_fault(
            format!(
                "`{}` has {rules} ranges of ports, and at most {MAX_RULES} are held",
                field.key
            ),
            "Put networks or ranges of ports together.",
        ));
    }
    Ok(Endpoints {
        list,
        rule: field.rule(),
    })
}
