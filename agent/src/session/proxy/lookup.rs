//! Endpoints as the guard's rules, with names looked up.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use tokio::{net::lookup_host, time::timeout};

use super::ProxyError;
use crate::{
    kernel::{AddressRange, NetworkRule, NetworkSlot, NetworkUse, Transport},
    policy::{self, Endpoint, EndpointHost},
};

/// How often names are looked up again.
pub(in crate::session) const REFRESH: Duration = Duration::from_secs(60);
/// How long a name may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Addresses of one name that are taken; of names with more, each look may bring others.
const MAX_ADDRESSES: usize = 16;

/// A name and its addresses.
pub(in crate::session) type Known = (String, BTreeSet<IpAddr>);

/// Looks up every name among the endpoints.
pub(in crate::session) async fn names(endpoints: &[Endpoint]) -> Result<Vec<Known>, ProxyError> {
    let mut known: Vec<Known> = Vec::new();
    for endpoint in endpoints {
        if let EndpointHost::Name(name) = &endpoint.host
            && !known.iter().any(|(other, _)| other == name)
        {
            known.push((name.clone(), addresses(name).await?));
        }
    }
    Ok(known)
}

async fn addresses(name: &str) -> Result<BTreeSet<IpAddr>, ProxyError> {
    let failed = |why: String| ProxyError::Name {
        name: name.to_owned(),
        why,
    };
    let found = timeout(PATIENCE, lookup_host((name, 0))).await;
    let found = found
        .map_err(|_| failed(format!("no answer within {} seconds", PATIENCE.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    let mut all: BTreeSet<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
    if all.is_empty() {
        return Err(failed("it has no address".to_owned()));
    }
    // Whoever answers for a name does not answer for this host.
    if name != "localhost" {
        all.retain(|address| !is_of_this_host(*address));
    }
    if all.is_empty() {
        let why = "it stands for this host itself; write the address, if that is meant";
        return Err(failed(why.to_owned()));
    }
    Ok(all.into_iter().take(MAX_ADDRESSES).collect())
}

/// Addresses that mean this host, its link or everybody, wherever the name comes from.
fn is_of_this_host(address: IpAddr) -> bool {
    let special = address.is_loopback() || address.is_unspecified() || address.is_multicast();
    special
        || match address {
            IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        }
}

/// The rules that endpoints come to.
pub(in crate::session) fn rules(
    listen: &[Endpoint],
    connect: &[Endpoint],
    known: &[Known],
) -> Vec<NetworkRule> {
    let mut rules = Vec::new();
    let uses = [(NetworkUse::Listen, listen), (NetworkUse::Connect, connect)];
    for (kind, endpoints) in uses {
        for endpoint in endpoints {
            for addresses in ranges(&endpoint.host, known) {
                rules.extend(endpoint.ports.iter().map(|ports| NetworkRule {
                    kind,
                    protocol: Some(match endpoint.transport {
                        policy::Transport::Tcp => Transport::Tcp,
                        policy::Transport::Udp => Transport::Udp,
                    }),
                    addresses,
                    ports: ports.clone(),
                }));
            }
        }
    }
    rules
}

/// Looks names up again, and gives the slot the rules that they come to now. What cannot be looked up,
/// or set, stays as it was.
pub(in crate::session) async fn refresh(
    slot: &Arc<NetworkSlot>,
    listen: &[Endpoint],
    connect: &[Endpoint],
    known: &mut Vec<Known>,
) {
    let now = match names(connect).await {
        Ok(now) if now == *known => return,
        Ok(now) => now,
        Err(error) => return tracing::warn!(%error, "the addresses of before stay"),
    };
    let (slot, rules) = (Arc::clone(slot), rules(listen, connect, &now));
    match tokio::task::spawn_blocking(move || slot.set_rules(&rules)).await {
        Ok(Ok(())) => *known = now,
        Ok(Err(error)) => tracing::warn!(%error, "the addresses of before stay"),
        Err(_) => {}
    }
}

fn ranges(host: &EndpointHost, known: &[Known]) -> Vec<AddressRange> {
    match host {
        EndpointHost::Any => vec![AddressRange::Any],
        EndpointHost::Network(address, length) => vec![AddressRange::Prefix(*address, *length)],
        EndpointHost::Name(name) => known
            .iter()
            .filter(|(other, _)| other == name)
            .flat_map(|(_, addresses)| addresses)
            .map(|address| AddressRange::one(*address))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_become_rules_for_each_address_and_range() {
        let read = |text: &str| Endpoint::parse(text).unwrap();
        let listen = [read("127.0.0.1:8080")];
        let connect = [read("localhost:80,443"), read("udp:*:53")];
        let known = names(&connect).await.unwrap();
        let rules = rules(&listen, &connect, &known);
        let addresses = known[0].1.len();
        assert!(known[0].1.iter().all(IpAddr::is_loopback));
        assert_eq!(rules.len(), 1 + 2 * addresses + 1);
        assert_eq!(rules[0].kind, NetworkUse::Listen);
        assert_eq!(rules[1].ports, 80..=80);
        assert_eq!(rules.last().unwrap().addresses, AddressRange::Any);
        assert_eq!(rules.last().unwrap().protocol, Some(Transport::Udp));
        let nobody = [read("no-such-name.invalid:1")];
        let error = names(&nobody).await.unwrap_err().to_string();
        assert!(error.starts_with("no-such-name.invalid cannot"), "{error}");
    }
}
