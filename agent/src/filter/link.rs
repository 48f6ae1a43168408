//! What the bytes of a packet begin with.

use std::fmt;

/// A link type: one of libpcap's `DLT_` values as they are numbered on Linux (the numbers in
/// capture files, `LINKTYPE_`, differ for a few: raw IP is 12 here and 101 there).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkType(pub i32);

impl LinkType {
    /// BSD loopback: four bytes of address family in front of the packet.
    pub const NULL: Self = Self(0);
    /// Ethernet, and Linux's loopback device.
    pub const EN10MB: Self = Self(1);
    /// PPP with its protocol field.
    pub const PPP: Self = Self(9);
    /// IPv4 or IPv6 without any header in front.
    pub const RAW: Self = Self(12);
    /// 802.11 frames.
    pub const IEEE802_11: Self = Self(105);
    /// The cooked header of old captures on `any`.
    pub const LINUX_SLL: Self = Self(113);
    /// 802.11 frames behind a radiotap header.
    pub const IEEE802_11_RADIO: Self = Self(127);
    /// IPv4 without any header in front.
    pub const IPV4: Self = Self(228);
    /// IPv6 without any header in front.
    pub const IPV6: Self = Self(229);
    /// The cooked header of captures on `any`: 20 bytes, interface index included.
    pub const LINUX_SLL2: Self = Self(276);

    /// The link type of packets on a device with this `ARPHRD_` type (`/sys/class/net/*/type`),
    /// for a `SOCK_RAW` socket. None: no filter can be compiled for such a device.
    pub fn of_arphrd(arphrd: u16) -> Option<Self> {
        const ETHER: u16 = 1;
        const PPP: u16 = 512;
        const RAWIP: u16 = 519;
        const TUNNEL: u16 = 768;
        const LOOPBACK: u16 = 772;
        const NONE: u16 = 0xfffe;
        match arphrd {
            ETHER | LOOPBACK => Some(Self::EN10MB),
            // libpcap prefers a cooked socket for PPP, because some drivers deliver a link header
            // and some do not; where it has to take a raw one it calls it raw IP.
            NONE | TUNNEL | RAWIP | PPP => Some(Self::RAW),
            _ => None,
        }
    }

    /// libpcap's name, without the `DLT_`.
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::NULL => "NULL",
            Self::EN10MB => "EN10MB",
            Self::PPP => "PPP",
            Self::RAW => "RAW",
            Self::IEEE802_11 => "IEEE802_11",
            Self::LINUX_SLL => "LINUX_SLL",
            Self::IEEE802_11_RADIO => "IEEE802_11_RADIO",
            Self::IPV4 => "IPV4",
            Self::IPV6 => "IPV6",
            Self::LINUX_SLL2 => "LINUX_SLL2",
            _ => return None,
        })
    }
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "link type {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_the_link_type_that_libpcap_gives_them() {
        for (arphrd, link) in [
            (1, Some(LinkType::EN10MB)),
            (772, Some(LinkType::EN10MB)),
            (0xfffe, Some(LinkType::RAW)),
            (768, Some(LinkType::RAW)),
            (519, Some(LinkType::RAW)),
            (512, Some(LinkType::RAW)),
            (803, None),
            (0, None),
        ] {
            assert_eq!(LinkType::of_arphrd(arphrd), link, "{arphrd}");
        }
    }

    #[test]
    fn names_are_the_ones_libpcap_knows() {
        for number in 0..300 {
            let link = LinkType(number);
            if let Some(name) = link.name() {
                let theirs = pcap::Linktype(number).get_name();
                assert_eq!(theirs.as_deref(), Ok(name));
            }
        }
        assert_eq!(LinkType(147).to_string(), "link type 147");
        assert_eq!(LinkType::RAW.to_string(), "RAW");
    }
}
