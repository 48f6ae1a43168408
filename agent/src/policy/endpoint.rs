//! Addresses and ports that a server may listen on or connect to, as a policy writes them:
//! `127.0.0.1:8000-8999`, `udp:[fd00::/8]:53`, `api.example:443`, `*:80,443`.

use std::{fmt, net::IpAddr, ops::RangeInclusive};

use super::{network::Network, source::quoted};

/// Ranges of ports that one endpoint may have.
const MAX_PORTS: usize = 16;

/// All of them.
const EVERY_PORT: RangeInclusive<u16> = 1..=u16::MAX;

/// Bytes of a name at most, and of what stands between its dots.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Where something may listen, or whom it may connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// By which protocol.
    pub transport: Transport,
    /// With which addresses.
    pub host: EndpointHost,
    /// With which ports, from 1; never empty.
    pub ports: Vec<RangeInclusive<u16>>,
}

/// The protocols that have ports which can be bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP, which is meant where none is written.
    Tcp,
    /// UDP.
    Udp,
}

/// The addresses of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointHost {
    /// All, of both families.
    Any,
    /// Those that begin with so many bits of this one; never IPv4 in the guise of IPv6.
    Network(IpAddr, u8),
    /// Those that a name has, to be looked up.
    Name(String),
}

impl Endpoint {
    /// One address and one port.
    #[must_use]
    pub fn exactly(transport: Transport, address: IpAddr, port: u16) -> Self {
        Self {
            transport,
            host: EndpointHost::of(address),
            ports: vec![port..=port],
        }
    }

    /// Reads an endpoint as a policy writes it.
    ///
    /// # Errors
    ///
    /// What is wrong with it; to go after the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (transport, rest) = match (text.strip_prefix("tcp:"), text.strip_prefix("udp:")) {
            (Some(rest), _) => (Transport::Tcp, rest),
            (_, Some(rest)) => (Transport::Udp, rest),
            (None, None) => (Transport::Tcp, text),
        };
        let (host, ports) = match rest.strip_prefix('[') {
            Some(inner) => {
                let (host, rest) = inner.split_once(']').ok_or("has a `[` without its `]`")?;
                let ports = rest
                    .strip_prefix(':')
                    .ok_or("names no port after the `]`")?;
                (EndpointHost::v6(host)?, ports)
            }
            None => {
                let (host, ports) = rest.rsplit_once(':').ok_or("names no port")?;
                (EndpointHost::parse(host)?, ports)
            }
        };
        Ok(Self {
            transport,
            host,
            ports: parse_ports(ports)?,
        })
    }

    /// Whether an address and a port are within it; never for one with a name.
    #[must_use]
    pub fn has(&self, address: IpAddr, port: u16) -> bool {
        self.host.has(address) && self.has_port(port)
    }

    pub(super) fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|range| range.contains(&port))
    }

    /// Whether something is within both. What a name stands for is not known.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let overlap = |range: &RangeInclusive<u16>| {
            let common = |own: &RangeInclusive<u16>| {
                own.start() <= range.end() && range.start() <= own.end()
            };
            self.ports.iter().any(common)
        };
        self.transport == other.transport
            && (self.host.covers(&other.host) || other.host.covers(&self.host))
            && other.ports.iter().any(overlap)
    }

    /// Whether all of the other is within this one.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let within = |range: &RangeInclusive<u16>| {
            let whole = |own: &RangeInclusive<u16>| {
                own.start() <= range.start() && range.end() <= own.end()
            };
            self.ports.iter().any(whole)
        };
        self.transport == other.transport
            && self.host.covers(&other.host)
            && other.ports.iter().all(within)
    }
}

impl EndpointHost {
    /// One address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self::Network(address, if address.is_ipv4() { 32 } else { 128 })
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if text.contains(':') {
            return Err("has an IPv6 address without brackets");
        }
        if text.contains('/') || text.parse::<IpAddr>().is_ok() {
            return Self::network(text);
        }
        name(text).map(Self::Name)
    }

    fn v6(text: &str) -> Result<Self, &'static str> {
        match Self::network(text)? {
            Self::Network(address, _) if address.is_ipv4() => {
                Err("has brackets around an IPv4 address")
            }
            Self::Network(address, _) if address.to_canonical().is_ipv4() => {
                Err("is an IPv4 address in the guise of IPv6; write it as IPv4")
            }
            network => Ok(network),
        }
    }

    fn network(text: &str) -> Result<Self, &'static str> {
        let network = Network::parse(text).ok_or("names no address and no network")?;
        if !Network::is_plain(text) {
            return Err("has bits of the address beyond the network's length");
        }
        Ok(Self::Network(network.address(), network.length()))
    }

    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.covers(&Self::of(address))
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Network(address, length), Self::Network(other, other_length)) => {
                Network::new(*address, *length).contains(Network::new(*other, *other_length))
            }
            (Self::Name(name), Self::Name(other)) => name == other,
            _ => false,
        }
    }
}

/// A host's name, in small letters.
fn name(text: &str) -> Result<String, &'static str> {
    const WRONG: &str = "names neither an address nor a host";
    let name = text.to_ascii_lowercase();
    let label = |label: &str| {
        let fits = (1..=MAX_LABEL).contains(&label.len());
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        fits && label.chars().all(plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    // Many programs read these as addresses, each in its own way.
    let number = last.chars().all(|c| c.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_hexdigit()));
    if name.len() > MAX_NAME || number || !name.split('.').all(label) {
        return Err(WRONG);
    }
    Ok(name)
}

fn parse_ports(text: &str) -> Result<Vec<RangeInclusive<u16>>, &'static str> {
    if text == "*" {
        return Ok(vec![EVERY_PORT]);
    }
    let ports: Option<Vec<_>> = text
        .split(',')
        .map(|range| match range.split_once('-') {
            None => port(range).map(|port| port..=port),
            Some((first, last)) => {
                let (first, last) = (port(first)?, port(last)?);
                (first <= last).then_some(first..=last)
            }
        })
        .collect();
    match ports {
        Some(ports) if ports.len() <= MAX_PORTS => Ok(ports),
        Some(_) => Err("has more than 16 ranges of ports"),
        None => Err("has ports that are none, from 1 to 65535"),
    }
}

/// Reads a port, from 1, as it is written everywhere: without a sign or zeros before it.
pub(super) fn port(text: &str) -> Option<u16> {
    let plain = text.starts_with(|c: char| ('1'..='9').contains(&c));
    plain.then(|| text.parse().ok()).flatten()
}

/// As a policy writes it; `tcp:` is left out.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.transport == Transport::Udp {
            f.write_str("udp:")?;
        }
        match &self.host {
            EndpointHost::Any => f.write_str("*:")?,
            EndpointHost::Name(name) => write!(f, "{name}:")?,
            EndpointHost::Network(address, length) => {
                let whole = if address.is_ipv4() { 32 } else { 128 };
                let length = if *length == whole {
                    String::new()
                } else {
                    format!("/{length}")
                };
                match address {
                    IpAddr::V4(_) => write!(f, "{address}{length}:")?,
                    IpAddr::V6(_) => write!(f, "[{address}{length}]:")?,
                }
            }
        }
        for (n, range) in self.ports.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                _ if *range == EVERY_PORT => write!(f, "{comma}*")?,
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// `127.0.0.1:8080 or [::1]:8080`, for people; `nothing` for none.
pub(super) fn words(endpoints: &[Endpoint], last: &str) -> String {
    const SHOWN: usize = 8;
    if endpoints.is_empty() {
        return "nothing".to_owned();
    }
    let shown = endpoints.iter().take(SHOWN).map(ToString::to_string);
    let mut words: Vec<String> = shown.collect();
    if let Some(more) = endpoints.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        words.push(format!("{more} more"));
    }
    super::units::either(&words, last)
}

/// The addresses that a call's host stands for. Names are not looked up: what they would come to
/// when the server does so is anybody's guess.
pub(super) fn asked_host(text: &str) -> Result<Vec<IpAddr>, String> {
    if text.eq_ignore_ascii_case("localhost") {
        use std::net::{Ipv4Addr, Ipv6Addr};
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(vec![address.to_canonical()]),
        Err(_) if text.is_empty() => {
            Err("is empty, which servers take for every address".to_owned())
        }
        Err(_) => Err(format!(
            "is {}, and only addresses and `localhost` are known for what they are",
            quoted(text)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_written() {
        for text in [
            "127.0.0.1:8080",
            "udp:127.0.0.53:53",
            "10.0.0.0/8:80,443",
            "[::1]:*",
            "[fd00::/8]:8000-8999,9000",
            "*:443",
            "udp:*:*",
            "api.example:443",
            "0.0.0.0/0:1-65534",
            "[::]:1",
        ] {
            let read = Endpoint::parse(text).unwrap_or_else(|why| panic!("{text} {why}"));
            assert_eq!(read.to_string(), text);
        }
        let same = Endpoint::parse("tcp:API.example:1-65535").unwrap();
        assert_eq!(same.to_string(), "api.example:*");
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in [
            "",
            "tcp:",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "127.0.0.1:080",
            "127.0.0.1:+80",
            "127.0.0.1:90-80",
            "127.0.0.1:80,",
            "127.0.0.1:http",
            "10.0.0.1/8:80",
            "10.0.0.0/33:80",
            "127.1:80",
            "0x7f000001:80",
            "2130706433:80",
            "010.0.0.1:80",
            "::1:80",
            "[::1]",
            "[::1]80",
            "[::1:80",
            "[127.0.0.1]:80",
            "[::ffff:127.0.0.1]:80",
            "[fe80::1%lo]:80",
            "sctp:127.0.0.1:80",
            "http://a:80",
            "a b:80",
            "-a:80",
            "a..b:80",
            "*.example:80",
            "1:1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
        ] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn endpoints_cover_what_is_within_them() {
        for (outer, inner, covered) in [
            ("10.0.0.0/8:80-90", "10.1.2.3:80", true),
            ("10.0.0.0/8:80-90", "10.1.0.0/16:81-89,90", true),
            ("10.0.0.0/8:80-90", "10.1.2.3:80,91", false),
            ("10.0.0.0/8:80", "11.0.0.0:80", false),
            ("10.0.0.0/8:80", "udp:10.0.0.1:80", false),
            ("*:*", "[::1]:80", true),
            ("*:*", "a.example:80", true),
            ("0.0.0.0/0:*", "[::1]:80", false),
            ("a.example:80", "A.example:80", true),
            ("a.example:80", "10.0.0.1:80", false),
            ("10.0.0.1:80", "*:80", false),
        ] {
            let read = |text| Endpoint::parse(text).unwrap();
            assert_eq!(read(outer).covers(&read(inner)), covered, "{outer} {inner}");
        }
        let loopback = Endpoint::parse("127.0.0.0/8:80").unwrap();
        assert!(loopback.has("::ffff:127.0.0.1".parse().unwrap(), 80));
        assert!(!loopback.has("0.0.0.0".parse().unwrap(), 80));
    }

    #[test]
    fn asked_hosts_are_addresses() {
        let read = |text: &str| asked_host(text).map(|all| all.len());
        assert_eq!(read("localhost"), Ok(2));
        assert_eq!(read("127.0.0.1"), Ok(1));
        assert_eq!(
            asked_host("::ffff:1.2.3.4").unwrap(),
            [IpAddr::from([1, 2, 3, 4])]
        );
        for text in [
            "",
            "127.1",
            "0x7f.1",
            "010.0.0.1",
            "host",
            "[::1]",
            " ::1",
            "0",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
