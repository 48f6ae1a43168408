//! A connection on which nothing takes longer than it may.

use std::{
    io::{self, BufReader, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};

use super::{
    address::Place,
    resp::{self, Reply},
};

/// A connection to the server.
#[derive(Debug)]
pub(super) struct Wire {
    reader: BufReader<Timed>,
}

#[derive(Debug)]
struct Timed {
    stream: Stream,
    until: Instant,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Wire {
    /// Connects. What looks names up, and a full backlog of a Unix socket, may take longer than
    /// `until`.
    pub(super) fn connect(place: &Place, until: Instant) -> io::Result<Self> {
        let stream = match place {
            Place::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
            Place::Tcp(host, port) => Stream::Tcp(connect(host, *port, until)?),
        };
        Ok(Self {
            reader: BufReader::new(Timed { stream, until }),
        })
    }

    /// Until when requests are to be sent and answers to come, from now on.
    pub(super) fn until(&mut self, until: Instant) {
        self.reader.get_mut().until = until;
    }

    pub(super) fn send(&mut self, requests: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(requests)
    }

    pub(super) fn read(&mut self) -> io::Result<Reply> {
        resp::read(&mut self.reader)
    }

    /// One request and its answer.
    pub(super) fn ask(&mut self, parts: &[&str]) -> io::Result<Reply> {
        let mut bytes = Vec::new();
        resp::request(&mut bytes, parts.iter().map(|part| part.as_bytes()));
        self.send(&bytes)?;
        self.read()
    }

    /// Whether it is still there, and the server says nothing that it was not asked.
    pub(super) fn is_quiet(&self) -> bool {
        let (mut byte, flags) = ([0_u8], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        let waiting = match &self.reader.get_ref().stream {
            Stream::Tcp(stream) => recv(stream, &mut byte, flags),
            Stream::Unix(stream) => recv(stream, &mut byte, flags),
        };
        self.reader.buffer().is_empty() && matches!(waiting, Err(Errno::AGAIN))
    }
}

fn connect(host: &str, port: u16, until: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(until)?) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

/// One word for what the kernel has two for.
fn timed(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

impl Read for Timed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = Some(left(self.until)?);
        match &mut self.stream {
            Stream::Tcp(stream) => {
                stream.set_read_timeout(left)?;
                stream.read(into)
            }
            Stream::Unix(stream) => {
                stream.set_read_timeout(left)?;
                stream.read(into)
            }
        }
        .map_err(timed)
    }
}

impl Write for Timed {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let left = Some(left(self.until)?);
        match &mut self.stream {
            Stream::Tcp(stream) => {
                stream.set_write_timeout(left)?;
                stream.write(from)
            }
            Stream::Unix(stream) => {
                stream.set_write_timeout(left)?;
                stream.write(from)
            }
        }
        .map_err(timed)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
