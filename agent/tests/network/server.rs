//! A server that does with sockets what it is told, a line at a time: what a proxy might do, and
//! what somebody who wants to get round the guard would.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use libc::c_int;

/// Errno.
pub(crate) type Answer = Result<i64, i32>;

/// How long a socket waits for what may not come.
const PATIENCE_MS: i64 = 250;

// ---- The test's side

pub(crate) struct Server {
    child: Option<Child>,
    input: Box<dyn Write>,
    output: Box<dyn BufRead>,
}

impl Server {
    /// As root, with every capability, and without a seccomp filter: what is refused then, the guard
    /// refuses. In a cgroup, or free.
    pub(crate) fn start(cgroup: Option<&Path>) -> Self {
        Self::run(command(cgroup))
    }

    /// Free, in a network namespace of its own.
    pub(crate) fn elsewhere() -> Self {
        let leave = || {
            // SAFETY: it takes a number.
            match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        let mut command = command(None);
        // SAFETY: it makes one system call, and allocates nothing.
        unsafe { command.pre_exec(leave) };
        Self::run(command)
    }

    /// Free, as another user. It is forked, not executed: the program may lie where others cannot.
    pub(crate) fn of_user(user: u32) -> Self {
        let mut server = Self::start(None);
        server.ask(format!("user {user}")).unwrap();
        server
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    fn run(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut server = Self::over(input, output);
        server.child = Some(child);
        server
    }

    /// One that somebody else has started.
    pub(crate) fn over(input: impl Write + 'static, output: impl Read + 'static) -> Self {
        Self {
            child: None,
            input: Box::new(input),
            output: Box::new(BufReader::new(output)),
        }
    }

    pub(crate) fn ask(&mut self, line: impl AsRef<str>) -> Answer {
        writeln!(self.input, "{}", line.as_ref()).unwrap();
        self.input.flush().unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        let (kind, value) = answer.trim().split_once(' ').expect("an answer");
        match kind {
            "ok" => Ok(value.parse().unwrap()),
            "err" => Err(value.parse().unwrap()),
            other => panic!("{other}"),
        }
    }

    /// Asks for all in turn, until one fails. `$` in a line is the socket that the first one made.
    pub(crate) fn all(&mut self, lines: &[&str]) -> Answer {
        let mut socket = None;
        let mut last = Ok(0);
        for line in lines {
            let line = match socket {
                Some(socket) => line.replace('$', &format!("{socket}")),
                None => (*line).to_owned(),
            };
            last = self.ask(line);
            if last.is_err() {
                break;
            }
            socket = socket.or(last.ok());
        }
        last
    }

    /// The same, and then closes everything.
    pub(crate) fn attempt(&mut self, lines: &[&str]) -> Answer {
        let result = self.all(lines);
        self.ask("closeall").unwrap();
        result
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// This program as a server.
pub(crate) fn command(cgroup: Option<&Path>) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("server");
    if let Some(cgroup) = cgroup {
        let procs = cgroup.join("cgroup.procs");
        // SAFETY: the program that forks has one thread that allocates; this is a test.
        unsafe { command.pre_exec(move || fs::write(&procs, "0")) };
    }
    command
}

// ---- The server's side

#[derive(Default)]
struct Sockets(HashMap<c_int, ()>);

pub(crate) fn serve() {
    let mut sockets = Sockets::default();
    let mut output = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let words: Vec<String> = line.unwrap().split(' ').map(str::to_owned).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match sockets.obey(&words) {
            Ok(value) => writeln!(output, "ok {value}").unwrap(),
            Err(errno) => writeln!(output, "err {errno}").unwrap(),
        }
        output.flush().unwrap();
    }
}

fn check(result: impl Into<i64>) -> Answer {
    let result = result.into();
    if result < 0 {
        Err(std::io::Error::last_os_error().raw_os_error().unwrap())
    } else {
        Ok(result)
    }
}

fn number<T: std::str::FromStr>(word: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    word.parse().unwrap()
}

impl Sockets {
    fn obey(&mut self, words: &[&str]) -> Answer {
        match *words {
            // Family, type, protocol: as numbers.
            ["socket", family, kind, protocol] => {
                // SAFETY: no pointers.
                let made = unsafe { libc::socket(number(family), number(kind), number(protocol)) };
                let socket = check(made)?;
                self.0.insert(made, ());
                patience(made);
                reuse(made);
                Ok(socket)
            }
            ["bind", socket, to] => with_address(to, |address, size| {
                // SAFETY: the address and its size.
                unsafe { libc::bind(number(socket), address, size) }.into()
            }),
            ["connect", socket, to] => with_address(to, |address, size| {
                // SAFETY: as above.
                unsafe { libc::connect(number(socket), address, size) }.into()
            }),
            // connect with AF_UNSPEC
            ["loosen", socket] => {
                let nobody = [0_u8; 16];
                // SAFETY: sixteen bytes of AF_UNSPEC.
                check(unsafe { libc::connect(number(socket), nobody.as_ptr().cast(), 16) })
            }
            // SAFETY: no pointers.
            ["listen", socket] => check(unsafe { libc::listen(number(socket), 100) }),
            ["port", socket] => local_port(number(socket)),
            ["accept", socket] => {
                // SAFETY: null for nothing.
                let made = unsafe {
                    libc::accept(number(socket), std::ptr::null_mut(), std::ptr::null_mut())
                };
                let accepted = check(made)?;
                self.0.insert(made, ());
                patience(made);
                Ok(accepted)
            }
            ["sendto", socket, to, size, flags] => with_address(to, |address, length| {
                let bytes = vec![7_u8; number(size)];
                // SAFETY: the bytes and their size, the address and its.
                let sent = unsafe {
                    libc::sendto(
                        number(socket),
                        bytes.as_ptr().cast(),
                        bytes.len(),
                        number(flags),
                        address,
                        length,
                    )
                };
                i64::try_from(sent).unwrap()
            }),
            ["send", socket, size] => {
                let bytes = vec![7_u8; number(size)];
                check_size(send(number(socket), &bytes))
            }
            ["recv", socket] => {
                let mut bytes = vec![0_u8; 65_536];
                // SAFETY: the bytes and their size.
                let got = unsafe {
                    libc::recv(number(socket), bytes.as_mut_ptr().cast(), bytes.len(), 0)
                };
                check_size(got)
            }
            ["option", socket, level, option, value] => {
                let bytes = match value.parse::<i32>() {
                    Ok(value) => value.to_ne_bytes().to_vec(),
                    Err(_) => value.as_bytes().to_vec(),
                };
                // SAFETY: the bytes and their size.
                check(unsafe {
                    libc::setsockopt(
                        number(socket),
                        number(level),
                        number(option),
                        bytes.as_ptr().cast(),
                        u32::try_from(bytes.len()).unwrap(),
                    )
                })
            }
            // A datagram with IP options (IP_RETOPTS): three that do nothing.
            ["options", socket, to] => with_address(to, |address, size| {
                let [level, kind] = [0_i32, 7].map(i32::to_ne_bytes);
                let [a, b, c, d] = kind;
                let length = size_of::<libc::cmsghdr>() + 4;
                let mut control = [
                    u64::try_from(length).unwrap(),
                    u64::from_ne_bytes([level[0], level[1], level[2], level[3], a, b, c, d]),
                    u64::from_ne_bytes([1, 1, 1, 0, 0, 0, 0, 0]),
                ];
                send_with(number(socket), address, size, &mut control, length)
            }),
            // A datagram with an extension header of this kind (IPV6_DSTOPTS, …): padding.
            ["headers", socket, kind, to] => with_address(to, |address, size| {
                let [level, kind] = [41_i32, number(kind)].map(i32::to_ne_bytes);
                let [a, b, c, d] = kind;
                let length = size_of::<libc::cmsghdr>() + 8;
                let mut control = [
                    u64::try_from(length).unwrap(),
                    u64::from_ne_bytes([level[0], level[1], level[2], level[3], a, b, c, d]),
                    u64::from_ne_bytes([0, 0, 1, 4, 0, 0, 0, 0]),
                ];
                send_with(number(socket), address, size, &mut control, length)
            }),
            ["user", user] => {
                // SAFETY: no pointers.
                check(unsafe { libc::setuid(number(user)) })
            }
            // Accepts for ever; sends each connection as much as it takes, or what it said.
            ["flood", socket] => Ok(behind(number(socket), |stream| {
                let bytes = [7_u8; 65_536];
                while send(stream, &bytes) > 0 {}
            })),
            ["echo", socket] => Ok(behind(number(socket), |stream| {
                let mut bytes = [0_u8; 4096];
                loop {
                    // SAFETY: the bytes and their size.
                    let got =
                        unsafe { libc::recv(stream, bytes.as_mut_ptr().cast(), bytes.len(), 0) };
                    let Ok(got @ 1..) = usize::try_from(got) else {
                        return;
                    };
                    send(stream, &bytes[..got]);
                }
            })),
            // Reads, for ever, and throws it away.
            ["sink", socket] => Ok(behind(number(socket), |stream| {
                let mut bytes = [0_u8; 4096];
                // SAFETY: as above.
                while unsafe { libc::recv(stream, bytes.as_mut_ptr().cast(), 4096, 0) } > 0 {}
            })),
            // Sends its clock until it is refused; answers how often that was.
            ["clock", socket, to] => with_address(to, |address, size| {
                let mut sent = 0;
                loop {
                    let now = capwarden::kernel::BootTime::now()
                        .nanoseconds()
                        .to_ne_bytes();
                    // SAFETY: eight bytes; the address and its size.
                    let done = unsafe {
                        libc::sendto(number(socket), now.as_ptr().cast(), 8, 0, address, size)
                    };
                    if done < 0 {
                        let errno = std::io::Error::last_os_error().raw_os_error();
                        return if errno == Some(libc::EPERM) { sent } else { -1 };
                    }
                    sent += 1;
                }
            }),
            ["closeall"] => {
                for (socket, ()) in self.0.drain() {
                    // SAFETY: it was made here.
                    unsafe { libc::close(socket) };
                }
                Ok(0)
            }
            // Whether it can move itself to another cgroup.
            ["leave", procs] => match fs::write(procs, "0") {
                Ok(()) => Ok(0),
                Err(error) => Err(error.raw_os_error().unwrap()),
            },
            // A child of its own does the rest.
            ["child", ..] => {
                let mut child = Server::start(None);
                child.all(&words[1..].join(" ").split(';').collect::<Vec<_>>())
            }
            _ => panic!("{words:?}"),
        }
    }
}

/// Sends `hello` with a control message.
fn send_with(
    socket: c_int,
    address: *const libc::sockaddr,
    size: libc::socklen_t,
    control: &mut [u64; 3],
    length: usize,
) -> i64 {
    let mut part = libc::iovec {
        iov_base: b"hello".as_ptr().cast_mut().cast(),
        iov_len: 5,
    };
    // SAFETY: all zeros is a valid value of this plain C structure.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = address.cast_mut().cast();
    message.msg_namelen = size;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = length;
    // SAFETY: what the message points at outlives the call.
    let sent = unsafe { libc::sendmsg(socket, &raw const message, 0) };
    i64::try_from(sent).unwrap()
}

fn check_size(size: isize) -> Answer {
    check(i64::try_from(size).unwrap())
}

fn send(socket: c_int, bytes: &[u8]) -> isize {
    // SAFETY: the bytes and their size.
    unsafe {
        libc::send(
            socket,
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_NOSIGNAL,
        )
    }
}

fn behind(listener: c_int, each: fn(c_int)) -> i64 {
    thread::spawn(move || {
        loop {
            // SAFETY: null for nothing.
            let stream =
                unsafe { libc::accept(listener, std::ptr::null_mut(), std::ptr::null_mut()) };
            if stream >= 0 {
                set_patience(stream, 0);
                thread::spawn(move || each(stream));
            }
        }
    });
    0
}

fn patience(socket: c_int) {
    set_patience(socket, PATIENCE_MS);
}

/// 0 for ever.
fn set_patience(socket: c_int, milliseconds: i64) {
    let time = libc::timeval {
        tv_sec: 0,
        tv_usec: milliseconds * 1000,
    };
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        // SAFETY: the value and its size.
        unsafe {
            libc::setsockopt(
                socket,
                libc::SOL_SOCKET,
                option,
                (&raw const time).cast(),
                u32::try_from(size_of_val(&time)).unwrap(),
            )
        };
    }
}

/// What the test before has left behind in TIME_WAIT shall not matter.
fn reuse(socket: c_int) {
    let yes: c_int = 1;
    // SAFETY: the value and its size.
    unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_REUSEADDR,
            (&raw const yes).cast(),
            4,
        )
    };
}

fn local_port(socket: c_int) -> Answer {
    let mut address = [0_u8; 128];
    let mut size = 128_u32;
    // SAFETY: the bytes and their size.
    check(unsafe { libc::getsockname(socket, address.as_mut_ptr().cast(), &raw mut size) })?;
    Ok(u16::from_be_bytes([address[2], address[3]]).into())
}

fn with_address(
    named: &str,
    call: impl FnOnce(*const libc::sockaddr, libc::socklen_t) -> i64,
) -> Answer {
    let named: SocketAddr = named.parse().unwrap();
    let mut bytes = Vec::new();
    match named.ip() {
        IpAddr::V4(ip) => {
            bytes.extend(2_u16.to_ne_bytes());
            bytes.extend(named.port().to_be_bytes());
            bytes.extend(ip.octets());
            bytes.extend([0; 8]);
        }
        IpAddr::V6(ip) => {
            bytes.extend(10_u16.to_ne_bytes());
            bytes.extend(named.port().to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(ip.octets());
            bytes.extend([0; 4]);
        }
    }
    let size = libc::socklen_t::try_from(bytes.len()).unwrap();
    check(call(bytes.as_ptr().cast(), size))
}
