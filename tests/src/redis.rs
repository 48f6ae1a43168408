//! A Redis server of a test's own, on a Unix socket. Also included by the agent's tests of its
//! limits, so it needs nothing but the standard library.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long it may take to start.
const START: Duration = Duration::from_secs(20);

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    socket: PathBuf,
    directory: PathBuf,
    options: Vec<String>,
}

impl Redis {
    /// Starts one that keeps its socket and what it writes in this directory, which is to be
    /// there. `options` are more of `redis-server`'s own.
    ///
    /// # Errors
    ///
    /// It is not installed (`cargo xtask setup`), or does not start.
    pub fn start(directory: &Path, options: &[&str]) -> io::Result<Self> {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let socket = directory.join("redis.sock");
        let child = launch(directory, &socket, &options)?;
        Ok(Self {
            child,
            socket,
            directory: directory.to_owned(),
            options,
        })
    }

    /// How capwarden is told of it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("redis+unix://{}", self.socket.display())
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it, as if the power had gone.
    ///
    /// # Errors
    ///
    /// It cannot be killed.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Starts it again where it was.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill()?;
        self.child = launch(&self.directory, &self.socket, &self.options)?;
        Ok(())
    }

    /// Asks it something, and returns its answer as it comes.
    ///
    /// # Errors
    ///
    /// It cannot be asked.
    pub fn ask(&self, words: &[&str]) -> io::Result<String> {
        ask(&self.socket, words)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn launch(directory: &Path, socket: &Path, options: &[String]) -> io::Result<Child> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut child = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--unixsocketperm", "700"])
        .arg("--unixsocket")
        .arg(socket)
        .arg("--dir")
        .arg(directory)
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| {
            let why = format!("cannot start redis-server (cargo xtask setup): {error}");
            io::Error::new(error.kind(), why)
        })?;
    let start = Instant::now();
    while !ask(socket, &["PING"]).is_ok_and(|answer| !answer.starts_with("-LOADING")) {
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("redis-server: {status}")));
        }
        if start.elapsed() > START {
            let _ = child.kill();
            return Err(io::Error::other("redis-server does not start"));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(child)
}

fn ask(socket: &Path, words: &[&str]) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(request.as_bytes())?;
    let mut answer = vec![0; 1 << 16];
    let read = stream.read(&mut answer)?;
    answer.truncate(read);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
