//! What attackers are made of.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    row::{Outcome, Seen},
    sys::{
        self, Answer, Way,
        memory::Memory,
        number::{self, Number},
        process,
    },
    world::{CW0, GRANTED_PORT, World},
};

pub(crate) const AF_PACKET: u64 = 17;
pub(crate) const SOCK_RAW: u64 = 3;
pub(crate) const SOCK_DGRAM: u64 = 2;
pub(crate) const SOCK_STREAM: u64 = 1;
/// `ETH_P_ALL`, in network byte order.
pub(crate) const ALL: u64 = 0x0300;
pub(crate) const SOL_SOCKET: u64 = 1;
pub(crate) const SOL_PACKET: u64 = 263;

/// Frames that go by while an attacker listens: each is sent once a millisecond or so.
const PASSING: u64 = 60;
/// Enough of what was not to be heard.
const ENOUGH: u64 = 8;
/// The stage has stopped sending.
const SILENCE: Duration = Duration::from_secs(15);

/// Somebody who tries one thing, in a process of its own.
#[derive(Debug)]
pub(crate) struct Attacker {
    /// The door that the attack itself goes through; what prepares it goes the native way.
    pub(crate) way: Way,
    pub(crate) memory: Memory,
    pub(crate) world: World,
    /// The agent; without capwarden, a victim in its place.
    pub(crate) agent: u32,
    /// A capture socket from before the agent died.
    pub(crate) held: Option<u64>,
    /// Where packets are received.
    room: u64,
}

/// A packet is no longer.
const ROOM: usize = 1 << 14;

impl Attacker {
    pub(crate) fn new(way: Way, world: World) -> Self {
        let agent = if world.governed {
            std::os::unix::process::parent_id()
        } else {
            world.bystander.victims.last().copied().unwrap_or(0)
        };
        let mut memory = Memory::new();
        let room = memory.zeros(ROOM);
        Self {
            way,
            memory,
            world,
            agent,
            held: None,
            room,
        }
    }

    /// A system call through the attack's door.
    pub(crate) fn attack(&self, number: Number, arguments: [u64; 6]) -> Answer {
        sys::call(self.way, number, arguments)
    }

    /// A system call as everybody makes it.
    pub(crate) fn call(&self, number: Number, arguments: [u64; 6]) -> Answer {
        sys::call(Way::Native, number, arguments)
    }

    /// `socket`, through the attack's door.
    pub(crate) fn socket(&self, family: u64, kind: u64, protocol: u64) -> Answer {
        self.attack(number::SOCKET, [family, kind, protocol, 0, 0, 0])
    }

    /// `socket`, as everybody makes it.
    pub(crate) fn open_socket(&self, family: u64, kind: u64, protocol: u64) -> Answer {
        self.call(number::SOCKET, [family, kind, protocol, 0, 0, 0])
    }

    /// `setsockopt`, through the attack's door.
    pub(crate) fn option(&mut self, socket: u64, level: u64, option: u64, value: &[u8]) -> Answer {
        let at = self.memory.put(value);
        let length = value.len() as u64;
        self.attack(number::SETSOCKOPT, [socket, level, option, at, length, 0])
    }

    /// `setsockopt`, as everybody makes it.
    pub(crate) fn set(&mut self, socket: u64, level: u64, option: u64, value: &[u8]) -> Answer {
        let at = self.memory.put(value);
        let length = value.len() as u64;
        self.call(number::SETSOCKOPT, [socket, level, option, at, length, 0])
    }

    /// A packet socket that hears everything, wherever that is allowed: governed, it is armed.
    pub(crate) fn capture(&self) -> Answer {
        const NONBLOCK: u64 = 0o4000;
        self.open_socket(AF_PACKET, SOCK_RAW | NONBLOCK, ALL)
    }

    /// The same, with the grant on it even where nobody governs, though not for good: a filter
    /// that lets through what is granted, cut off behind its headers.
    pub(crate) fn filtered(&mut self) -> Answer {
        let socket = self.capture()?;
        if !self.world.governed {
            let program = self.program(&grant());
            self.set_at(socket, SOL_SOCKET, 26, program, 16)?;
            // What came before the filter was on is no part of any attack.
            while self.receive(socket).is_ok() {}
        }
        self.bind(socket, CW0, 20)?;
        Ok(socket)
    }

    /// `setsockopt` with a value that is in memory already.
    pub(crate) fn set_at(
        &self,
        socket: u64,
        level: u64,
        option: u64,
        at: u64,
        length: u64,
    ) -> Answer {
        self.call(number::SETSOCKOPT, [socket, level, option, at, length, 0])
    }

    /// The address of a `struct sock_fprog`, as native calls want it.
    pub(crate) fn program(&mut self, code: &[(u16, u8, u8, u32)]) -> u64 {
        let (count, code) = self.code(code);
        let mut header = count.to_ne_bytes().to_vec();
        header.resize(8, 0);
        header.extend(code.to_ne_bytes());
        self.memory.put(&header)
    }

    /// The same, as the attack's door wants it.
    pub(crate) fn program_by_way(&mut self, code: &[(u16, u8, u8, u32)]) -> u64 {
        if self.way == Way::Native {
            return self.program(code);
        }
        let (count, code) = self.code(code);
        let mut header = count.to_ne_bytes().to_vec();
        header.resize(4, 0);
        header.extend(low(code).to_ne_bytes());
        self.memory.put(&header)
    }

    fn code(&mut self, code: &[(u16, u8, u8, u32)]) -> (u16, u64) {
        let mut bytes = Vec::new();
        for (code, jt, jf, k) in code {
            bytes.extend(code.to_ne_bytes());
            bytes.extend([*jt, *jf]);
            bytes.extend(k.to_ne_bytes());
        }
        let count = u16::try_from(code.len()).unwrap_or(u16::MAX);
        (count, self.memory.put(&bytes))
    }

    /// A `struct iovec` of one piece, as the attack's door wants it.
    pub(crate) fn piece(&mut self, at: u64, length: u64) -> u64 {
        let piece = match self.way {
            Way::Native => [at.to_ne_bytes(), length.to_ne_bytes()].concat(),
            _ => [low(at).to_ne_bytes(), low(length).to_ne_bytes()].concat(),
        };
        self.memory.put(&piece)
    }

    /// Binds a packet socket to an interface, with an address of this length.
    pub(crate) fn bind(&mut self, socket: u64, interface: u32, length: u64) -> Answer {
        let address = self.packet_address(interface);
        self.call(number::BIND, [socket, address, length, 0, 0, 0])
    }

    /// A `struct sockaddr_ll` in more room than it needs.
    pub(crate) fn packet_address(&mut self, interface: u32) -> u64 {
        let mut address = [0_u8; 128];
        address[0] = 17;
        address[3] = 3;
        address[4..8].copy_from_slice(&interface.to_ne_bytes());
        address[11] = 6;
        self.memory.put(&address)
    }

    /// How many packets with `wanted` in them a socket hears while a number of frames passes by
    /// each interface.
    pub(crate) fn listen(&self, socket: u64, wanted: &[u8]) -> Outcome {
        self.hear(wanted, |attacker| attacker.receive(socket))
    }

    /// The next packet, if there is one.
    pub(crate) fn receive(&self, socket: u64) -> Result<Vec<u8>, i32> {
        const DONTWAIT: u64 = 0x40;
        let arguments = [socket, self.room, ROOM as u64, DONTWAIT, 0, 0];
        let count = sys::native(libc::SYS_recvfrom, arguments)?;
        Ok(self
            .memory
            .read(self.room, usize::try_from(count).unwrap_or(0)))
    }

    /// The same, by another way to receive.
    pub(crate) fn hear(
        &self,
        wanted: &[u8],
        mut receive: impl FnMut(&Self) -> Result<Vec<u8>, i32>,
    ) -> Outcome {
        let (start, first) = (Instant::now(), passed());
        let mut heard = 0;
        loop {
            let enough = passed()
                .iter()
                .zip(first)
                .all(|(now, then)| now - then >= PASSING);
            // What has passed by now is there to be read now.
            loop {
                match receive(self) {
                    Ok(bytes) if contains(&bytes, wanted) => heard += 1,
                    Ok(_) => {}
                    Err(libc::EAGAIN) => break,
                    Err(libc::EINTR | libc::ENETDOWN) => {}
                    Err(errno) => return Err(errno),
                }
                if heard >= ENOUGH {
                    break;
                }
            }
            if heard >= ENOUGH || enough {
                return Ok(Seen::Heard(heard));
            }
            if start.elapsed() > SILENCE {
                return Seen::broken("no frame came by");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What a call that was not to succeed said, where it is known to have led to nothing: if a
    /// socket has heard something, that counts.
    pub(crate) fn after(&self, tried: Answer, socket: u64, wanted: &[u8]) -> Outcome {
        match (self.listen(socket, wanted)?, tried) {
            (Seen::Heard(0), Err(errno)) => Err(errno),
            (seen, _) => Ok(seen),
        }
    }
}

/// An attacker's words, over a pipe.
pub(crate) fn encode(seen: &Seen) -> Vec<u8> {
    serde_json::to_vec(seen).unwrap_or_default()
}

/// The same, at the other end.
pub(crate) fn decode(end: std::io::Result<process::End>) -> Seen {
    match end {
        Ok(process::End::Said(said)) => serde_json::from_slice(&said)
            .unwrap_or_else(|error| Seen::Broken(format!("not understood: {error}"))),
        Ok(process::End::Killed(signal)) => Seen::Killed(signal),
        Ok(process::End::Silent) => Seen::Broken("it said nothing".into()),
        Err(error) => Seen::Broken(format!("no process could be made: {error}")),
    }
}

pub(crate) fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

pub(crate) fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|part| part == wanted)
}

/// Frames received on `cw0` and `cw1` so far.
fn passed() -> [u64; 2] {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    ["cw0:", "cw1:"].map(|name| field(&table, name, 1))
}

/// Frames sent on an interface so far.
pub(crate) fn sent(interface: &str) -> u64 {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    field(&table, &format!("{interface}:"), 9)
}

fn field(table: &str, name: &str, number: usize) -> u64 {
    let line = table
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(name));
    let value = line.and_then(|line| line.split_whitespace().nth(number));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// The grant as a classic filter: UDP over IPv4 to the granted port on `cw0`, its headers.
fn grant() -> [(u16, u8, u8, u32); 11] {
    const INTERFACE: u32 = 0xffff_f008;
    const HEADERS: u32 = 42;
    [
        (0x20, 0, 0, INTERFACE),
        (0x15, 0, 8, CW0),
        (0x28, 0, 0, 12),
        (0x15, 0, 6, 0x0800),
        (0x30, 0, 0, 23),
        (0x15, 0, 4, 17),
        (0x28, 0, 0, 36),
        (0x15, 0, 2, u32::from(GRANTED_PORT)),
        (0x06, 0, 0, HEADERS),
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 0),
    ]
}
