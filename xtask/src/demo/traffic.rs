//! Real packets on loopback, bounded in number and time.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

/// No traffic of the demo lasts longer.
const MOST: Duration = Duration::from_secs(10);

/// `alice:hunter2`, as HTTP's basic authentication sends it.
pub(super) const CREDENTIAL: &str = "YWxpY2U6aHVudGVyMg==";

/// A UDP receiver on loopback, so that no packet is answered by ICMP, and its sender.
pub(super) struct Udp {
    receiver: UdpSocket,
    sender: UdpSocket,
}

impl Udp {
    /// Takes a free port.
    pub(super) fn new() -> Result<Self> {
        let receiver = UdpSocket::bind("127.0.0.1:0")?;
        let sender = UdpSocket::bind("127.0.0.1:0")?;
        sender.connect(receiver.local_addr()?)?;
        Ok(Self { receiver, sender })
    }

    /// The receiver's port.
    pub(super) fn port(&self) -> Result<u16> {
        Ok(self.receiver.local_addr()?.port())
    }

    /// Sends this many packets in bursts that a capture ring can hold; returns how many went out.
    pub(super) fn flood(&self, packets: u32) -> u32 {
        self.send(packets, 50, Duration::from_millis(2))
    }

    /// Sends a packet every 10 ms for this long; returns how many went out.
    pub(super) fn tick(&self, time: Duration) -> u32 {
        let packets = u32::try_from(time.as_millis() / 10).unwrap_or(u32::MAX);
        self.send(packets, 1, Duration::from_millis(10))
    }

    fn send(&self, packets: u32, burst: u32, pause: Duration) -> u32 {
        let start = Instant::now();
        let mut sent = 0;
        while sent < packets && start.elapsed() < MOST {
            for _ in 0..burst.min(packets - sent) {
                // ENOBUFS and the like: not sent, not counted, tried again in the next burst.
                if self.sender.send(&[b'x'; 200]).is_ok() {
                    sent += 1;
                }
            }
            thread::sleep(pause);
        }
        sent
    }
}

/// A web server for one request.
pub(super) struct Web {
    listener: TcpListener,
}

impl Web {
    /// Takes a free port.
    pub(super) fn new() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        Ok(Self { listener })
    }

    /// Its port.
    pub(super) fn port(&self) -> Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// Asks for a page with a credential; whether the server read the credential.
    pub(super) fn log_in(&self) -> Result<bool> {
        let address = self.listener.local_addr()?;
        thread::scope(|scope| {
            let server = scope.spawn(|| -> Result<bool> {
                let (mut stream, _) = self.listener.accept()?;
                stream.set_read_timeout(Some(MOST))?;
                let mut request = Vec::new();
                let mut part = [0; 1024];
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut part)? {
                        0 => break,
                        n => request.extend_from_slice(part.get(..n).unwrap_or_default()),
                    }
                }
                stream.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: close\r\n\r\nwelcome back\n",
                )?;
                Ok(contains(&request, CREDENTIAL.as_bytes()))
            });
            let mut browser = TcpStream::connect_timeout(&address, MOST)?;
            browser.set_read_timeout(Some(MOST))?;
            browser.write_all(
                format!(
                    "GET /account HTTP/1.1\r\nHost: {address}\r\nAuthorization: Basic {CREDENTIAL}\r\n\r\n"
                )
                .as_bytes(),
            )?;
            browser.read_to_end(&mut Vec::new())?;
            server.join().map_err(|_| anyhow!("the web server died"))?
        })
    }
}

/// Whether the bytes contain these bytes.
pub(super) fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
