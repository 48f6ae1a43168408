//! Traffic: bounded in number and rate, to an address of the namespaces' own.

use std::{
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};

use crate::netns::Namespace;

/// Packets that are sent between two looks at the clock.
const BURST: u32 = 16;

/// UDP packets.
#[derive(Clone, Copy, Debug)]
pub struct Flood<'a> {
    /// To where.
    pub to: Ipv4Addr,
    /// To which port.
    pub port: u16,
    /// What they carry.
    pub payload: &'a [u8],
    /// How many.
    pub count: u32,
    /// How many in a second.
    pub rate: u32,
}

impl<'a> Flood<'a> {
    /// `count` packets at 2000 per second.
    pub fn new(to: Ipv4Addr, payload: &'a [u8], count: u32) -> Self {
        Self {
            to,
            port: 9_999,
            payload,
            count,
            rate: 2_000,
        }
    }

    /// Sends them from `namespace`; returns when the last was sent, and when that was.
    pub fn send(self, namespace: &Namespace) -> Result<SystemTime> {
        namespace.enter(|| self.send_here())
    }

    fn send_here(self) -> Result<SystemTime> {
        ensure!(
            self.to.is_loopback() || self.to.octets().starts_with(&[10, 99, 0]),
            "{} is not one of the test's own addresses",
            self.to
        );
        // What nobody listens for would be answered with ICMP, which captures see too.
        let _sink = self
            .to
            .is_loopback()
            .then(|| UdpSocket::bind((self.to, self.port)))
            .transpose()?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((self.to, self.port))?;
        let start = Instant::now();
        for sent in 0..self.count {
            if sent % BURST == 0 {
                let due = Duration::from_secs(1) * sent / self.rate;
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
            // On veth the sink is in the other namespace; ICMP's answer, if any, comes back here.
            match socket.send(self.payload) {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                sent => drop(sent.context("send")?),
            }
        }
        Ok(SystemTime::now())
    }
}

/// Sends frames as they are on an interface of `namespace`.
pub fn inject(namespace: &Namespace, interface: &str, frames: &[Vec<u8>]) -> Result<()> {
    let index = namespace.index(interface)?;
    namespace.enter(|| {
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::PACKET,
            rustix::net::SocketType::RAW,
            None,
        )?;
        for frame in frames {
            send_frame(&socket, index, frame)?;
        }
        Ok(())
    })
}

#[allow(
    unsafe_code,
    reason = "no safe crate in use here addresses packet sockets"
)]
fn send_frame(socket: &impl AsRawFd, index: u32, frame: &[u8]) -> Result<()> {
    // SAFETY: all zeroes is a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET)?;
    address.sll_ifindex = i32::try_from(index)?;
    // SAFETY: both pointers are valid for the lengths given; the kernel copies from them.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            u32::try_from(size_of::<libc::sockaddr_ll>())?,
        )
    };
    ensure!(
        usize::try_from(sent).ok() == Some(frame.len()),
        "sendto: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}
