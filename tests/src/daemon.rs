//! `capwarden agent`, whom it serves, and what its service manager hears.

use std::{
    fs,
    os::unix::net::{UnixDatagram, UnixStream},
    path::PathBuf,
    process::Command,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, channel},
    },
    thread,
    time::Instant,
};

use anyhow::{Context, Result};

use crate::{
    agent::{NOBODY, capwarden, wait_for},
    mcp::{Client, PATIENCE},
    stage::{Stage, python, user},
};

const HOSTILE: &str = include_str!("../scripts/hostile.py");

/// A daemon, where it is, and what its service manager hears.
#[derive(Debug)]
pub struct Daemon {
    /// Where it is.
    pub stage: Stage,
    /// What is executed.
    pub program: PathBuf,
    /// In their order.
    told: Mutex<Receiver<String>>,
}

impl Daemon {
    /// One that is not started yet; servers that do what they are told have this policy.
    pub fn new(policy: &str) -> Result<Self> {
        let stage = Stage::new()?;
        stage.write("hostile.py", HOSTILE)?;
        stage.write("policy.yaml", policy)?;
        fs::create_dir(stage.path("agent.d"))?;
        let notify = UnixDatagram::bind(stage.path("notify"))?;
        let (tell, told) = channel();
        // Read as they come: what does not fit into the socket is told later, or lost.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = notify.recv(&mut buffer) {
                let words = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
                if tell.send(words.into_owned()).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            stage,
            program: capwarden()?,
            told: Mutex::new(told),
        })
    }

    /// A file of its stage, as its configuration names it.
    pub fn at(&self, name: &str) -> String {
        self.stage.path(name).display().to_string()
    }

    /// A server that does what it is told, in its configuration.
    pub fn hostile(&self, name: &str) -> Result<String> {
        Ok(format!(
            "  {name}:\n    command: [{}, {}]\n    policy: {}\n    user: {}\n    directory: {}\n",
            python("python3")?.display(),
            self.at("hostile.py"),
            self.at("policy.yaml"),
            user(),
            self.at("captures"),
        ))
    }

    /// Gives it a configuration with these servers.
    pub fn configure(&self, servers: &str) -> Result<()> {
        let text = format!(
            "version: 1\naudit: {}\nstate: {}\nsocket: {}\nsocket_group: nogroup\nclients: [user:{NOBODY}]\nservers:\n{servers}",
            self.at("audit.jsonl"),
            self.at("state"),
            self.at("agent.sock"),
        );
        let new = self.stage.write("new.yaml", &text)?;
        Ok(fs::rename(new, self.stage.path("agent.yaml"))?)
    }

    /// Starts it, and listens to what it tells its service manager.
    pub fn start(&self) -> Result<Client> {
        self.start_by(self.stage.space.command(&self.program))
    }

    /// The same by a command that executes it in the end.
    pub fn start_by(&self, mut command: Command) -> Result<Client> {
        let socket = self.stage.path("agent.sock");
        command.env("NOTIFY_SOCKET", self.stage.path("notify"));
        command.env("WATCHDOG_USEC", "200000");
        command.arg("agent").arg("--config");
        command.arg(self.stage.path("agent.yaml"));
        command
            .env_remove("CAPWARDEN_LOG")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        // The servers' are not to have it.
        command.env("CWTEST_DAEMONS_OWN", "secret");
        let agent = Client::start(&mut command, &self.stage.path("stderr"))?;
        wait_for("the daemon's socket", PATIENCE, || {
            Ok(UnixStream::connect(&socket).is_ok().then_some(()))
        })
        .with_context(|| self.stage.stderr().unwrap_or_default())?;
        Ok(agent)
    }

    /// A verb as this user, who is in the group that may connect.
    pub fn verb(&self, user: u32, words: &[&str]) -> Result<Command> {
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={user}"));
        command
            .arg(format!("--regid={NOBODY}"))
            .arg("--clear-groups");
        command.arg("--").arg(capwarden()?).args(words);
        command.arg("--socket").arg(self.stage.path("agent.sock"));
        command.env_remove("CAPWARDEN_LOG");
        Ok(command)
    }

    /// A client of a server, which has shaken hands.
    pub fn client(&self, server: &str, number: usize) -> Result<Client> {
        let mut command = self.verb(NOBODY, &["connect", server])?;
        let stderr = self.stage.path(&format!("client-{number}"));
        let mut client = Client::start(&mut command, &stderr)?;
        client.shake_hands().with_context(|| {
            let told = fs::read_to_string(&stderr).unwrap_or_default();
            format!("{told}{}", self.stage.stderr().unwrap_or_default())
        })?;
        Ok(client)
    }

    /// Waits until the service manager hears something that begins so, after what it heard before.
    pub fn heard(&self, words: &str) -> Result<String> {
        let heard = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let told = heard.recv_timeout(left);
            let told = told
                .with_context(|| format!("{words}: {}", self.stage.stderr().unwrap_or_default()))?;
            if told.starts_with(words) {
                return Ok(told);
            }
        }
    }

    /// Waits until the log has these words so often.
    pub fn said(&self, words: &str, times: usize) -> Result<()> {
        wait_for(words, PATIENCE, || {
            let said = self.stage.stderr()?.matches(words).count();
            Ok((said >= times).then_some(()))
        })
        .with_context(|| self.stage.stderr().unwrap_or_default())
    }
}
