//! Standard input and output, without a thread between them and the gate.
//!
//! tokio reads and writes them on a blocking thread, which costs every message two changes of
//! thread. Clients give a server pipes (Python, Rust, Go) or stream sockets (Node): those can be
//! waited for like any other. `O_NONBLOCK` would be seen by everybody who shares them, so it is
//! never set on what was inherited: a pipe is opened a second time, and a socket is told for each
//! call that it must not wait. Anything else, files and terminals, is left to tokio.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::{
    fs::{FileType, OFlags, fstat},
    net::{RecvFlags, SendFlags, SocketType, recv, send, sockopt::socket_type},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd};

/// What can be waited for.
enum Channel {
    /// A second description of the same pipe.
    Pipe(File),
    /// The same description as the one that was inherited.
    Socket(OwnedFd),
}

impl Channel {
    /// None: it is neither a pipe nor a stream socket, or cannot be opened again.
    fn of(inherited: BorrowedFd<'_>, for_writing: bool) -> Option<Self> {
        let mode = fstat(inherited).ok()?.st_mode;
        match FileType::from_raw_mode(mode) {
            FileType::Fifo => {
                let mut open = File::options();
                open.read(!for_writing).write(for_writing);
                let flags = OFlags::NONBLOCK.bits().cast_signed();
                let again = open
                    .custom_flags(flags)
                    .open(format!("/proc/self/fd/{}", inherited.as_raw_fd()));
                again.ok().map(Self::Pipe)
            }
            FileType::Socket if socket_type(inherited) == Ok(SocketType::STREAM) => {
                inherited.try_clone_to_owned().ok().map(Self::Socket)
            }
            _ => None,
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => (&mut &*pipe).read(buffer),
            Self::Socket(socket) => Ok(recv(socket, buffer, RecvFlags::DONTWAIT)?.0),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => (&mut &*pipe).write(bytes),
            Self::Socket(socket) => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                Ok(send(socket, bytes, flags)?)
            }
        }
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Pipe(pipe) => pipe.as_raw_fd(),
            Self::Socket(socket) => socket.as_raw_fd(),
        }
    }
}

fn register(channel: Channel) -> Option<AsyncFd<Channel>> {
    // SAFETY: a `Channel` keeps its one descriptor open until it is dropped.
    unsafe { AsyncFd::register(channel) }.ok()
}

/// What the client writes.
pub struct Input(Way<tokio::io::Stdin>);

/// What the client reads.
pub struct Output(Way<tokio::io::Stdout>);

enum Way<T> {
    Direct(AsyncFd<Channel>),
    Threaded(T),
}

/// Standard input. Must be called within a runtime.
pub fn standard_input() -> Input {
    let way = Channel::of(io::stdin().as_fd(), false)
        .and_then(register)
        .map_or_else(|| Way::Threaded(tokio::io::stdin()), Way::Direct);
    Input(way)
}

/// Standard output. Must be called within a runtime.
pub fn standard_output() -> Output {
    let way = Channel::of(io::stdout().as_fd(), true)
        .and_then(register)
        .map_or_else(|| Way::Threaded(tokio::io::stdout()), Way::Direct);
    Output(way)
}

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Way::Threaded(input) => Pin::new(input).poll_read(context, buffer),
            Way::Direct(channel) => loop {
                let mut ready = ready!(channel.poll_read_ready(context))?;
                let room = buffer.initialize_unfilled();
                // An error here means that it was not ready after all.
                if let Ok(read) = ready.try_io(|channel| channel.get_ref().read(room)) {
                    let length = read?;
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
            },
        }
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Way::Threaded(output) => Pin::new(output).poll_write(context, bytes),
            Way::Direct(channel) => loop {
                let mut ready = ready!(channel.poll_write_ready(context))?;
                if let Ok(written) = ready.try_io(|channel| channel.get_ref().write(bytes)) {
                    return Poll::Ready(written);
                }
            },
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Way::Threaded(output) => Pin::new(output).poll_flush(context),
            Way::Direct(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Way::Threaded(output) => Pin::new(output).poll_shutdown(context),
            Way::Direct(_) => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn direct(end: impl AsFd, for_writing: bool) -> AsyncFd<Channel> {
        register(Channel::of(end.as_fd(), for_writing).unwrap()).unwrap()
    }

    /// More than a pipe or a socket holds goes through whole, its end is seen, and nobody else
    /// finds the descriptors changed.
    async fn carries(reader: OwnedFd, writer: OwnedFd) {
        let mut input = Input(Way::Direct(direct(&reader, false)));
        let mut output = Output(Way::Direct(direct(&writer, true)));
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let flags = [&reader, &writer].map(|fd| rustix::fs::fcntl_getfl(fd).unwrap());
        assert!(flags.iter().all(|flags| !flags.contains(OFlags::NONBLOCK)));
        let expected = sent.clone();
        let sending = async move {
            output.write_all(&sent).await.unwrap();
            output.flush().await.unwrap();
            drop((output, writer));
        };
        let mut received = Vec::new();
        let (_, read) = tokio::join!(sending, input.read_to_end(&mut received));
        assert_eq!(read.unwrap(), expected.len());
        assert!(received == expected);
    }

    #[tokio::test]
    async fn pipes_and_sockets_are_waited_for() {
        let (reader, writer) = io::pipe().unwrap();
        carries(reader.into(), writer.into()).await;
        let (one, other) = UnixStream::pair().unwrap();
        carries(one.into(), other.into()).await;
    }

    #[tokio::test]
    async fn files_are_left_to_tokio() {
        let file = tempfile::tempfile().unwrap();
        assert!(Channel::of(file.as_fd(), false).is_none());
    }
}
