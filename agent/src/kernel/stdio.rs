//! Standard input and output, and the pipes of a server: each read and written by a thread that
//! waits for it.
//!
//! A message then costs one system call to read and one to write; waiting for readiness first would
//! double that. A thread that waits to read is left alone when its turn is over. One that waits to
//! write holds up whoever else wants to, so that it can be told to give up: descriptors are written to
//! without waiting, and waited for together with that news. `O_NONBLOCK` would be seen by everybody
//! who shares what was inherited, so it is never set on that: a pipe is opened a second time, and a
//! socket is told for each call that it must not wait. Anything else, files and terminals, is written
//! as it is.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    sync::Arc,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fs::{FileType, OFlags, fstat},
    io::Errno,
    net::{SendFlags, SocketType, send, sockopt::socket_type},
};

/// Something to read from, which waits.
#[derive(Debug)]
pub struct Input(OwnedFd);

impl Input {
    /// Standard input.
    ///
    /// # Errors
    ///
    /// There are no descriptors left.
    pub fn standard() -> io::Result<Self> {
        Ok(Self(io::stdin().as_fd().try_clone_to_owned()?))
    }
}

impl From<OwnedFd> for Input {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(&self.0, &mut *buffer) {
                Ok(read) => return Ok(read),
                Err(Errno::INTR) => {}
                // Somebody who shares it has set O_NONBLOCK.
                Err(Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// How something is written to.
#[derive(Debug)]
enum Channel {
    /// A second description of the same pipe.
    Pipe(File),
    /// The same description as the one that was given.
    Socket(OwnedFd),
    /// The same, and each write waits until it is done.
    Other(OwnedFd),
}

impl Channel {
    fn of(given: BorrowedFd<'_>) -> io::Result<Self> {
        let mode = fstat(given)?.st_mode;
        match FileType::from_raw_mode(mode) {
            FileType::Fifo => {
                let mut open = File::options();
                let flags = OFlags::NONBLOCK.bits().cast_signed();
                let again = open
                    .write(true)
                    .custom_flags(flags)
                    .open(format!("/proc/self/fd/{}", given.as_raw_fd()));
                if let Ok(pipe) = again {
                    return Ok(Self::Pipe(pipe));
                }
            }
            FileType::Socket if socket_type(given) == Ok(SocketType::STREAM) => {
                return Ok(Self::Socket(given.try_clone_to_owned()?));
            }
            _ => {}
        }
        Ok(Self::Other(given.try_clone_to_owned()?))
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match self {
            Self::Pipe(pipe) => rustix::io::write(pipe, bytes),
            Self::Socket(socket) => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                send(socket, bytes, flags)
            }
            Self::Other(other) => rustix::io::write(other, bytes),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Pipe(pipe) => pipe.as_fd(),
            Self::Socket(socket) | Self::Other(socket) => socket.as_fd(),
        }
    }
}

/// Something to write to, which waits until it is told not to.
#[derive(Debug)]
pub struct Output {
    channel: Channel,
    /// An eventfd that can be read once writes shall wait no longer.
    news: Arc<OwnedFd>,
}

impl Output {
    /// Standard output.
    ///
    /// # Errors
    ///
    /// There are no descriptors left.
    pub fn standard() -> io::Result<Self> {
        Self::to(io::stdout().as_fd())
    }

    /// Whatever this is. It stays open until the `Output` is dropped.
    ///
    /// # Errors
    ///
    /// There are no descriptors left.
    pub fn to(descriptor: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self {
            channel: Channel::of(descriptor)?,
            news: Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?),
        })
    }

    /// Once it is called, from any thread, a write that would have to wait fails.
    pub fn interrupter(&self) -> impl Fn() + Send + Sync + use<> {
        let news = Arc::clone(&self.news);
        move || {
            // It fails only if it was called 2⁶⁴ times.
            let _ = rustix::io::write(&news, &1_u64.to_ne_bytes());
        }
    }

    /// Waits until it can be written to.
    fn wait(&self) -> io::Result<()> {
        let mut wanted = [
            PollFd::new(&self.channel, PollFlags::OUT),
            PollFd::new(&self.news, PollFlags::IN),
        ];
        poll(&mut wanted, None)?;
        let [_, news] = wanted;
        if news.revents().is_empty() {
            Ok(())
        } else {
            // Not `Interrupted`, after which one tries again.
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.channel.write(bytes) {
                Ok(written) => return Ok(written),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => match self.wait() {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    waited => waited?,
                },
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, thread};

    use super::*;

    /// More than a pipe or a socket holds goes through whole, its end is seen, and nobody else
    /// finds the descriptors changed.
    fn carries(reader: OwnedFd, writer: OwnedFd) {
        let flags = |fd: &OwnedFd| rustix::fs::fcntl_getfl(fd).unwrap();
        let mut output = Output::to(writer.as_fd()).unwrap();
        assert!(!flags(&writer).contains(OFlags::NONBLOCK));
        assert!(!flags(&reader).contains(OFlags::NONBLOCK));
        let mut input = Input::from(reader);
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let sending = thread::spawn(move || {
            output.write_all(&sent).unwrap();
            drop((output, writer));
        });
        let mut received = Vec::new();
        input.read_to_end(&mut received).unwrap();
        sending.join().unwrap();
        assert!(received == expected);
    }

    #[test]
    fn pipes_and_sockets_are_waited_for() {
        let (reader, writer) = io::pipe().unwrap();
        carries(reader.into(), writer.into());
        let (one, other) = UnixStream::pair().unwrap();
        carries(one.into(), other.into());
    }

    #[test]
    fn input_that_somebody_made_nonblocking_is_waited_for() {
        let (one, mut other) = UnixStream::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        let mut input = Input::from(OwnedFd::from(one));
        let reading = thread::spawn(move || {
            let mut byte = [0];
            input.read_exact(&mut byte).unwrap();
            byte
        });
        other.write_all(b"x").unwrap();
        assert_eq!(reading.join().unwrap(), *b"x");
    }

    #[test]
    fn a_write_that_waits_is_interrupted() {
        let (_reader, writer) = io::pipe().unwrap();
        let (_one, other) = UnixStream::pair().unwrap();
        for full in [OwnedFd::from(writer), OwnedFd::from(other)] {
            let mut output = Output::to(full.as_fd()).unwrap();
            let interrupt = output.interrupter();
            let writing = thread::spawn(move || output.write_all(&vec![0; 1 << 22]));
            interrupt();
            let error = writing.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
    }

    #[test]
    fn files_are_written_as_they_are() {
        let mut file = tempfile::tempfile().unwrap();
        let mut output = Output::to(file.as_fd()).unwrap();
        output.write_all(b"line\n").unwrap();
        io::Seek::rewind(&mut file).unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "line\n");
    }
}
