//! Where the headers of a captured packet end, for `payload: headers`.
//!
//! This says of a packet in a file what the guard said of it in the kernel (`ebpf/src/headers.rs`),
//! so the two change together. A file differs in two ways: an outer VLAN tag that the kernel kept
//! beside the bytes has been put back by libpcap, and the bytes may end early, because the guard
//! has trimmed them.

use crate::filter::LinkType;

const VLAN_TAG: usize = 4;
/// One more than the guard reads, which sees a packet without its outer tag.
const MAX_VLAN_TAGS: usize = 4;
const MAX_EXTENSION_HEADERS: usize = 8;

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const VLAN: u16 = 0x8100;
const IPV6: u16 = 0x86dd;
const QINQ: u16 = 0x88a8;

/// Where the headers end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadersEnd {
    /// At this offset from the packet's first byte.
    At(usize),
    /// Not before the end of what was captured: the packet was cut within them.
    NotCaptured,
    /// Nothing is known of packets with this link type.
    UnknownLink,
}

/// The offset at which the transport payload of a captured packet begins. What cannot be read or
/// is not known ends where the last understood header ended.
pub fn headers_end(bytes: &[u8], wire_len: u32, link: LinkType) -> HeadersEnd {
    let packet = Bytes {
        captured: bytes,
        length: usize::try_from(wire_len).unwrap_or(usize::MAX),
    };
    packet.end(link).map_or(HeadersEnd::NotCaptured, |end| {
        end.map_or(HeadersEnd::UnknownLink, HeadersEnd::At)
    })
}

/// How a packet of this link type begins: the length of the link header, and where in it the
/// EtherType is. None: not known.
pub(crate) const fn link_header(link: LinkType) -> Option<(usize, Option<usize>)> {
    match link {
        LinkType::EN10MB => Some((14, Some(12))),
        LinkType::LINUX_SLL => Some((16, Some(14))),
        LinkType::LINUX_SLL2 => Some((20, Some(0))),
        LinkType::RAW | LinkType::IPV4 | LinkType::IPV6 => Some((0, None)),
        _ => None,
    }
}

struct Bytes<'a> {
    captured: &'a [u8],
    length: usize,
}

/// None: the byte was there, and was not captured.
type Read<T> = Option<T>;

impl Bytes<'_> {
    /// A byte, or that the packet has none there.
    fn byte(&self, at: usize) -> Read<Option<u8>> {
        match self.captured.get(at) {
            Some(byte) => Some(Some(*byte)),
            None if at < self.length => None,
            None => Some(None),
        }
    }

    fn half(&self, at: usize) -> Read<Option<u16>> {
        if at + 2 > self.length {
            return Some(None);
        }
        let bytes = self.captured.get(at..)?.first_chunk::<2>()?;
        Some(Some(u16::from_be_bytes(*bytes)))
    }

    fn end(&self, link: LinkType) -> Read<Option<usize>> {
        let Some((mut offset, type_at)) = link_header(link) else {
            return Some(None);
        };
        let kind = match type_at {
            Some(at) => self.half(at)?,
            None => self.byte(0)?.map(|first| match first >> 4 {
                6 => IPV6,
                _ => IPV4,
            }),
        };
        let Some(mut kind) = kind else {
            return Some(Some(offset));
        };
        for _ in 0..MAX_VLAN_TAGS {
            if !matches!(kind, VLAN | QINQ) {
                break;
            }
            kind = match self.half(offset + 2)? {
                Some(kind) => kind,
                None => return Some(Some(offset)),
            };
            offset += VLAN_TAG;
        }
        let end = match kind {
            IPV4 => self.ipv4(offset)?,
            IPV6 => self.ipv6(offset)?,
            ARP | RARP => offset + 28,
            _ => offset,
        };
        Some(Some(end))
    }

    fn ipv4(&self, offset: usize) -> Read<usize> {
        let Some(first) = self.byte(offset)? else {
            return Some(offset);
        };
        let header = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || header < 20 {
            return Some(offset);
        }
        let after = offset + header;
        match self.half(offset + 6)? {
            // Later fragments have no transport header.
            Some(fragment) if fragment & 0x1fff == 0 => {}
            _ => return Some(after),
        }
        match self.byte(offset + 9)? {
            Some(protocol) => self.transport(protocol, after),
            None => Some(after),
        }
    }

    fn ipv6(&self, offset: usize) -> Read<usize> {
        let Some(mut next) = self.byte(offset + 6)? else {
            return Some(offset);
        };
        let mut at = offset + 40;
        for _ in 0..MAX_EXTENSION_HEADERS {
            let length = match next {
                0 | 43 | 60 | 135 | 139 | 140 => match self.byte(at + 1)? {
                    Some(units) => (usize::from(units) + 1) * 8,
                    None => return Some(at),
                },
                44 => match self.half(at + 2)? {
                    Some(fragment) if fragment & 0xfff8 == 0 => 8,
                    Some(_) => return Some(at + 8),
                    None => return Some(at),
                },
                51 => match self.byte(at + 1)? {
                    Some(units) => (usize::from(units) + 2) * 4,
                    None => return Some(at),
                },
                protocol => return self.transport(protocol, at),
            };
            next = match self.byte(at)? {
                Some(next) => next,
                None => return Some(at),
            };
            at += length;
        }
        Some(at)
    }

    fn transport(&self, protocol: u8, at: usize) -> Read<usize> {
        Some(match protocol {
            6 => match self.byte(at + 12)? {
                Some(offset) if offset >> 4 >= 5 => at + usize::from(offset >> 4) * 4,
                _ => at,
            },
            // UDP, UDP-Lite, ICMP, ICMPv6.
            17 | 136 | 1 | 58 => at + 8,
            132 => at + 12,
            _ => at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ethernet frame with so many tags, an IPv4 header and a transport header.
    fn frame(tags: usize, protocol: u8, transport: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        for _ in 0..tags {
            frame.extend([0x81, 0, 0, 7]);
        }
        frame.extend([8, 0, 0x45, 0, 0, 60, 0, 0, 0, 0, 64, protocol]);
        frame.extend([0; 10]);
        frame.extend(transport);
        frame
    }

    fn end(frame: &[u8]) -> HeadersEnd {
        let length = u32::try_from(frame.len()).unwrap();
        headers_end(frame, length, LinkType::EN10MB)
    }

    #[test]
    fn headers_end_where_the_payload_begins() {
        let tcp = |words: u8| [&[0; 12][..], &[words << 4], &[0; 60]].concat();
        for tags in 0..4 {
            let at = 34 + 4 * tags;
            assert_eq!(end(&frame(tags, 6, &tcp(5))), HeadersEnd::At(at + 20));
            assert_eq!(end(&frame(tags, 6, &tcp(8))), HeadersEnd::At(at + 32));
            assert_eq!(end(&frame(tags, 17, &[0; 90])), HeadersEnd::At(at + 8));
        }
        assert_eq!(
            end(&frame(0, 6, &tcp(4))),
            HeadersEnd::At(34),
            "no TCP header"
        );
        assert_eq!(end(&frame(0, 47, &[0; 90])), HeadersEnd::At(34));
        let mut fragment = frame(0, 17, &[0; 90]);
        fragment[21] = 1;
        assert_eq!(end(&fragment), HeadersEnd::At(34));
        let unknown = headers_end(&[0; 40], 40, LinkType::NULL);
        assert_eq!(unknown, HeadersEnd::UnknownLink);
    }

    #[test]
    fn extension_headers_are_passed() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 40, 0, 64];
        packet.extend([0; 32]);
        packet.extend([44, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend([17, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0; 24]);
        let end = |packet: &[u8]| headers_end(packet, 80, LinkType::RAW);
        assert_eq!(end(&packet), HeadersEnd::At(64));
        packet[51] = 8; // a later fragment
        assert_eq!(end(&packet), HeadersEnd::At(56));
    }

    #[test]
    fn what_was_cut_within_the_headers_has_no_end() {
        let whole = frame(0, 6, &[&[0; 12][..], &[0x50], &[0; 30]].concat());
        let length = u32::try_from(whole.len()).unwrap();
        let cut = |at: usize| headers_end(&whole[..at], length, LinkType::EN10MB);
        assert_eq!(cut(54), HeadersEnd::At(54));
        assert_eq!(cut(46), HeadersEnd::NotCaptured);
        assert_eq!(cut(13), HeadersEnd::NotCaptured);
        // A short frame ends by itself.
        assert_eq!(end(&whole[..46]), HeadersEnd::At(34));
    }
}
