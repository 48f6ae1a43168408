//! Checksums of an example, so that other programs take it for an intact packet.

use etherparse::{IpHeaders, PacketHeaders, PayloadSlice, TransportHeader};

/// Fills in the IPv4 header's checksum, and the one behind it too if that is wanted. Leaves the
/// bytes alone where there is none.
pub(super) fn fill_in(bytes: &mut [u8], network: usize, transport: bool) {
    let Some((headers, more)) = computed(bytes, network) else {
        return;
    };
    let mut set = |at: usize, checksum: u16| {
        let field = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<2>);
        if let Some(field) = field {
            *field = checksum.to_be_bytes();
        }
    };
    if let Some(checksum) = headers {
        set(network + 10, checksum);
    }
    if let Some((at, checksum)) = more
        && transport
    {
        set(network + at, checksum);
    }
}

type Computed = (Option<u16>, Option<(usize, u16)>);

fn computed(bytes: &[u8], network: usize) -> Option<Computed> {
    let packet = bytes.get(network..)?;
    let headers = PacketHeaders::from_ip_slice(packet).ok()?;
    let (ip, _) = IpHeaders::from_slice(packet).ok()?;
    let first = match &ip {
        IpHeaders::Ipv4(header, _) => Some(header.calc_header_checksum()),
        IpHeaders::Ipv6(..) => None,
    };
    let start = ip.header_len();
    let (PayloadSlice::Tcp(payload)
    | PayloadSlice::Udp(payload)
    | PayloadSlice::Icmpv4(payload)
    | PayloadSlice::Icmpv6(payload)) = headers.payload
    else {
        return Some((first, None));
    };
    let more = match (&ip, headers.transport?) {
        (IpHeaders::Ipv4(ip, _), TransportHeader::Tcp(tcp)) => {
            (16, tcp.calc_checksum_ipv4(ip, payload).ok()?)
        }
        (IpHeaders::Ipv6(ip, _), TransportHeader::Tcp(tcp)) => {
            (16, tcp.calc_checksum_ipv6(ip, payload).ok()?)
        }
        (IpHeaders::Ipv4(ip, _), TransportHeader::Udp(udp)) => {
            (6, udp.calc_checksum_ipv4(ip, payload).ok()?)
        }
        (IpHeaders::Ipv6(ip, _), TransportHeader::Udp(udp)) => {
            (6, udp.calc_checksum_ipv6(ip, payload).ok()?)
        }
        (_, TransportHeader::Icmpv4(icmp)) => (2, icmp.icmp_type.calc_checksum(payload)),
        (IpHeaders::Ipv6(ip, _), TransportHeader::Icmpv6(icmp)) => {
            let sum = icmp
                .icmp_type
                .calc_checksum(ip.source, ip.destination, payload);
            (2, sum.ok()?)
        }
        _ => return Some((first, None)),
    };
    Some((first, Some((start + more.0, more.1))))
}
