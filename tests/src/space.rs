//! A network namespace for one server: loopback, UDP on it, and another interface if need be.

use std::{fs, net::UdpSocket, ops::Deref, thread, time::Duration};

use anyhow::Result;

use crate::netns::Namespace;

/// A network namespace of a test that goes on beside others.
#[derive(Debug)]
pub struct Space(Namespace);

impl Deref for Space {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.0
    }
}

impl Space {
    /// Makes one.
    pub fn new() -> Result<Self> {
        Namespace::new().map(Self)
    }

    /// Another interface than loopback, `other0`, and a socket that sends through it.
    pub fn elsewhere(&self) -> Result<UdpSocket> {
        self.ip("link add other0 type veth peer name other1")?;
        self.ip("address add 10.99.1.1/24 dev other0")?;
        self.ip("link set other1 up")?;
        self.ip("link set other0 up")?;
        self.ip("neigh add 10.99.1.2 lladdr 02:00:00:00:00:01 dev other0")?;
        self.enter(|| {
            let socket = UdpSocket::bind("10.99.1.1:0")?;
            socket.connect("10.99.1.2:9999")?;
            Ok(socket)
        })
    }

    /// UDP on loopback, so that what is sent is also received.
    pub fn udp(&self) -> Result<Udp> {
        self.enter(|| {
            let receiver = UdpSocket::bind("127.0.0.1:0")?;
            let sender = UdpSocket::bind("127.0.0.1:0")?;
            sender.connect(receiver.local_addr()?)?;
            let port = receiver.local_addr()?.port();
            Ok(Udp {
                sender,
                _receiver: receiver,
                port,
            })
        })
    }

    /// Packet sockets in it that hear something.
    pub fn listening(&self) -> Result<usize> {
        self.enter(|| {
            let table = fs::read_to_string("/proc/thread-self/net/packet")?;
            let heard = |row: &&str| row.split_whitespace().nth(3) != Some("0000");
            Ok(table.lines().skip(1).filter(heard).count())
        })
    }
}

/// UDP on loopback, to one port.
#[derive(Debug)]
pub struct Udp {
    sender: UdpSocket,
    _receiver: UdpSocket,
    port: u16,
}

impl Udp {
    /// The port that is sent to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends this many packets with so much payload.
    pub fn send(&self, packets: usize, payload: usize) -> Result<()> {
        let payload = vec![b'u'; payload];
        for _ in 0..packets {
            self.sender.send(&payload)?;
            // The receiver reads nothing, and a burst would be more than a capture's ring holds.
            thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }
}
