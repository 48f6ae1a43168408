//! The decision on one proxy: where it is asked to listen, held against where it may.
//!
//! What is granted is exactly what was asked for, so that two proxies of one server are told apart
//! by their addresses, and a server that listens elsewhere than it was told to is refused.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde_json::{Map, Value};

use super::{
    Change, Denial, Endpoint, EndpointHost, InterfaceTerms, RuleRef, Transport, argument,
    argument::kind,
    capture::{Asked, Cap, Interfaces, Named, Over, SECONDS, settle, time},
    endpoint::{asked_host, port, words},
    units,
};
use crate::words::time as time_words;

/// A `proxy:` section.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ProxyRule {
    pub(super) rule: RuleRef,
    pub(super) from: ProxyArguments,
    pub(super) defaults: Defaults,
    pub(super) listen: Endpoints,
    pub(super) upstream: Option<Endpoints>,
    /// None: any.
    pub(super) interfaces: Option<Interfaces>,
    pub(super) packets: Option<Cap<u64>>,
    pub(super) bytes: Option<Cap<u64>>,
    pub(super) connections: Option<Cap<u64>>,
    pub(super) seconds: Option<Cap<Duration>>,
    pub(super) over: Over,
    pub(super) answer_within: Duration,
    /// Where it is written, if it is not as usual.
    pub(super) end: (ProxyEnd, RuleRef),
}

/// What becomes of a server when one of its proxies is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyEnd {
    /// It lives on; the kernel drops what belongs to the proxy.
    #[default]
    Drop,
    /// It is ended as well, and started again: nothing is left of what it held for the proxy.
    Restart,
}

/// How long a server may take to answer a call that starts a proxy, where the policy says nothing
/// of it.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Which arguments of the call say what is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ProxyArguments {
    pub(super) host: Option<Named>,
    pub(super) port: Option<Named>,
    pub(super) seconds: Option<Named>,
}

/// What the server takes for an argument that is not sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Defaults {
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
}

/// Endpoints, and where they are written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Endpoints {
    pub(super) list: Vec<Endpoint>,
    pub(super) rule: RuleRef,
}

/// What a server may do with the network without a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baseline {
    /// Where it may listen.
    pub listen: Vec<Endpoint>,
    /// Whom it may connect and send to.
    pub connect: Vec<Endpoint>,
}

/// A proxy that the policy allows.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyVerdict {
    /// What its sockets may do.
    pub terms: ProxyTerms,
    /// What is written into the call before it is forwarded.
    pub changes: Vec<Change>,
    /// How long the server may take to answer the call.
    pub answer_within: Duration,
    /// The rule that allowed it.
    pub rule: RuleRef,
}

/// What the sockets of a proxy session may do, before names are looked up.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyTerms {
    /// Where they may listen: what was asked for.
    pub listen: Vec<Endpoint>,
    /// Whom they may connect and send to.
    pub upstream: Vec<Endpoint>,
    /// Which interfaces their packets may use.
    pub interfaces: InterfaceTerms,
    /// Packets in both directions together.
    pub packets: Option<u64>,
    /// Bytes in each direction, with their IP headers.
    pub bytes: Option<u64>,
    /// TCP connections accepted, and as many begun.
    pub connections: Option<u64>,
    /// How long, from the moment the session opens.
    pub duration: Option<Duration>,
    /// What becomes of the server then.
    pub end: ProxyEnd,
}

impl Baseline {
    /// The same, with one more address and port to listen on by TCP.
    #[must_use]
    pub fn listening_on(mut self, address: SocketAddr) -> Self {
        let own = Endpoint::exactly(Transport::Tcp, address.ip(), address.port());
        if !self.listen.iter().any(|endpoint| endpoint.covers(&own)) {
            self.listen.push(own);
        }
        self
    }
}

impl ProxyRule {
    /// The verdict on a call.
    pub(super) fn decide(&self, call: &Map<String, Value>) -> Result<ProxyVerdict, Box<Denial>> {
        let hosts = self.host(call)?;
        let port = self.port(call)?;
        let listen = self.listen_terms(hosts.as_deref(), port);
        if listen.is_empty() {
            let asked = match (&hosts, port) {
                (Some(hosts), Some(port)) => socket_words(hosts, port),
                (Some(hosts), None) => address_words(hosts),
                (None, Some(port)) => format!("port {port}"),
                (None, None) => "nothing".to_owned(),
            };
            let reason = format!("A proxy may not listen on {asked}.");
            return Err(self.deny(&self.listen.rule, reason));
        }
        let mut changes = Vec::new();
        let duration = self.duration(call, &mut changes)?;
        Ok(ProxyVerdict {
            terms: self.terms(listen, duration),
            changes,
            answer_within: self.answer_within,
            rule: self.rule.clone(),
        })
    }

    /// The most that any call can get.
    pub(super) fn widest(&self) -> ProxyTerms {
        let seconds = self.seconds.as_ref().map(|cap| cap.most);
        self.terms(self.listen.list.clone(), seconds)
    }

    fn terms(&self, listen: Vec<Endpoint>, duration: Option<Duration>) -> ProxyTerms {
        let most = |cap: &Option<Cap<u64>>| cap.as_ref().map(|cap| cap.most);
        ProxyTerms {
            listen,
            upstream: self
                .upstream
                .as_ref()
                .map_or_else(Vec::new, |upstream| upstream.list.clone()),
            interfaces: self
                .interfaces
                .as_ref()
                .map_or(InterfaceTerms::Any, Interfaces::terms),
            packets: most(&self.packets),
            bytes: most(&self.bytes),
            connections: most(&self.connections),
            duration,
            end: self.end.0,
        }
    }

    /// Of what the rule allows, what is asked: no address, or no port, asks for each.
    fn listen_terms(&self, hosts: Option<&[IpAddr]>, port: Option<u16>) -> Vec<Endpoint> {
        let mut terms = Vec::new();
        for allowed in &self.listen.list {
            if port.is_some_and(|port| !allowed.has_port(port)) {
                continue;
            }
            let ports = port.map_or_else(|| allowed.ports.clone(), |port| vec![port..=port]);
            let hosts = match hosts {
                None => vec![allowed.host.clone()],
                Some(hosts) => hosts
                    .iter()
                    .filter(|host| allowed.host.has(**host))
                    .map(|host| EndpointHost::of(*host))
                    .collect(),
            };
            for host in hosts {
                let one = Endpoint {
                    transport: allowed.transport,
                    host,
                    ports: ports.clone(),
                };
                if !terms.contains(&one) {
                    terms.push(one);
                }
            }
        }
        terms
    }

    /// The addresses that are asked for; none where nothing says so.
    fn host(&self, call: &Map<String, Value>) -> Result<Option<Vec<IpAddr>>, Box<Denial>> {
        let Some(named) = &self.from.host else {
            return self.default_host();
        };
        let name = named.argument.name();
        let text = match self.find(named, call)? {
            None | Some(Value::Null) => match self.default_host()? {
                None => {
                    let reason = format!("No address is named in `{name}`.");
                    return Err(self.deny(&named.rule, reason));
                }
                default => return Ok(default),
            },
            Some(Value::String(text)) => text,
            Some(other) => {
                let reason = format!("`{name}` must be an address, but is {}.", kind(other));
                return Err(self.deny(&named.rule, reason));
            }
        };
        asked_host(text)
            .map(Some)
            .map_err(|what| self.deny(&named.rule, format!("`{name}` {what}.")))
    }

    fn default_host(&self) -> Result<Option<Vec<IpAddr>>, Box<Denial>> {
        let read = |text: &String| {
            // The loader has read it as well.
            asked_host(text).map_err(|what| {
                let reason = format!("The policy's own default address {what}.");
                self.deny(&self.rule, reason)
            })
        };
        self.defaults.host.as_ref().map(read).transpose()
    }

    /// The port that is asked for; none where nothing says so.
    fn port(&self, call: &Map<String, Value>) -> Result<Option<u16>, Box<Denial>> {
        let Some(named) = &self.from.port else {
            return Ok(self.defaults.port);
        };
        let name = named.argument.name();
        let asked = match self.find(named, call)? {
            None | Some(Value::Null) => match self.defaults.port {
                None => {
                    let reason = format!("No port is named in `{name}`.");
                    return Err(self.deny(&named.rule, reason));
                }
                default => return Ok(default),
            },
            Some(Value::Number(number)) => match number.as_u64() {
                Some(0) => {
                    let reason =
                        format!("`{name}` is 0, for which the system chooses a port; name one.");
                    return Err(self.deny(&named.rule, reason));
                }
                Some(number) => u16::try_from(number).ok(),
                // As many clients write whole numbers.
                None => number
                    .as_f64()
                    .filter(|number| number.fract() == 0.0)
                    .and_then(|number| port(&number.to_string())),
            },
            Some(Value::String(text)) => port(text),
            Some(other) => {
                let reason = format!("`{name}` must be a port, but is {}.", kind(other));
                return Err(self.deny(&named.rule, reason));
            }
        };
        asked.map(Some).ok_or_else(|| {
            let reason = format!("`{name}` is no port from 1 to 65535.");
            self.deny(&named.rule, reason)
        })
    }

    fn duration(
        &self,
        call: &Map<String, Value>,
        changes: &mut Vec<Change>,
    ) -> Result<Option<Duration>, Box<Denial>> {
        let cap = self.seconds.as_ref();
        let Some(named) = &self.from.seconds else {
            return Ok(cap.map(|cap| cap.most));
        };
        let name = named.argument.name();
        let value = self.find(named, call)?;
        let asked = match value {
            None | Some(Value::Null) => Asked::Nothing,
            Some(value) => {
                time(value).map_err(|what| self.deny(&named.rule, format!("`{name}` {what}.")))?
            }
        };
        let (granted, written) = settle(&SECONDS, asked, cap, self.over)
            .map_err(|(rule, reason)| self.deny(rule, reason))?;
        if let (Some(most), Some(cap)) = (written, cap) {
            changes.push(Change {
                argument: name.to_owned(),
                asked: value.cloned(),
                forwarded: (SECONDS.json)(most),
                why: cap.why(&SECONDS),
            });
        }
        Ok(granted)
    }

    fn find<'a>(
        &self,
        named: &Named,
        call: &'a Map<String, Value>,
    ) -> Result<Option<&'a Value>, Box<Denial>> {
        named
            .argument
            .find(call)
            .map_err(|reason| self.deny(&named.rule, reason))
    }

    fn deny(&self, rule: &RuleRef, reason: String) -> Box<Denial> {
        let mut denial = Denial::new(reason, rule.clone());
        let listen = words(&self.listen.list, "or");
        denial.instead = Some(match &self.seconds {
            Some(cap) => {
                let most = time_words(cap.most);
                format!("Ask for a proxy on {listen}, for at most {most}.")
            }
            None => format!("Ask for a proxy on {listen}."),
        });
        let mut allowed = Map::new();
        let listen = self.listen.list.iter().map(ToString::to_string);
        allowed.insert("listen".to_owned(), listen.collect());
        if let Some(cap) = &self.seconds {
            allowed.insert("seconds".to_owned(), (SECONDS.json)(cap.most));
        }
        denial.allowed = Some(Box::new(Value::Object(allowed)));
        Box::new(denial)
    }
}

/// `0.0.0.0:8080`, `[::]:8080`.
fn socket_words(hosts: &[IpAddr], port: u16) -> String {
    let each = hosts.iter().map(|host| match host {
        IpAddr::V4(host) => format!("{host}:{port}"),
        IpAddr::V6(host) => format!("[{host}]:{port}"),
    });
    units::either(&each.collect::<Vec<_>>(), "or")
}

fn address_words(hosts: &[IpAddr]) -> String {
    let each: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    units::either(&each, "or")
}

impl ProxyVerdict {
    /// Makes the changes in a copy of the call's arguments, which is then to be forwarded.
    #[must_use]
    pub fn forwarded(&self, arguments: &Map<String, Value>) -> Map<String, Value> {
        let mut arguments = arguments.clone();
        for change in &self.changes {
            argument::write(&mut arguments, &change.argument, change.forwarded.clone());
        }
        arguments
    }
}

/// `listening on 127.0.0.1:8080, upstream 10.0.0.0/8:80,443, on lo, 50 MiB each way, 100
/// connections, 600 seconds`, for people.
impl fmt::Display for ProxyTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (listen, upstream) = (words(&self.listen, "and"), words(&self.upstream, "and"));
        write!(f, "listening on {listen}, upstream {upstream}")?;
        if self.interfaces != InterfaceTerms::Any {
            write!(f, ", on {}", self.interfaces)?;
        }
        if let Some(packets) = self.packets {
            write!(f, ", {}", units::packets(packets))?;
        }
        if let Some(bytes) = self.bytes {
            write!(f, ", {} each way", units::bytes(bytes))?;
        }
        match self.connections {
            None => {}
            Some(1) => f.write_str(", 1 connection")?,
            Some(connections) => write!(f, ", {connections} connections")?,
        }
        if let Some(time) = self.duration {
            write!(f, ", {}", time_words(time))?;
        }
        if self.end == ProxyEnd::Restart {
            f.write_str("; then the server is restarted")?;
        }
        Ok(())
    }
}

/// `listens on 127.0.0.1:8765, connects to nothing`, for people.
impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (listen, connect) = (words(&self.listen, "and"), words(&self.connect, "and"));
        write!(f, "listens on {listen}, connects to {connect}")
    }
}
