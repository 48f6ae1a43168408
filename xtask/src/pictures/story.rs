//! What happens while pictures are made: an agent with a real MCP server, clients of two users, and packets
//! on loopback. Everything that is shown of it has happened.

use std::{
    fs::{self, File},
    net::UdpSocket,
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::place::{CAPTURES, GROUP, Place};
use crate::demo::client::{Answer, Client};

/// What the host's administrator has written.
pub(super) const POLICY: (&str, &str) = ("/etc/capwarden/pcap.yaml", include_str!("pcap.yaml"));
const AGENT: (&str, &str) = ("/etc/capwarden/agent.yaml", include_str!("agent.yaml"));

/// Until something that was asked for has come to be.
const PATIENCE: Duration = Duration::from_secs(20);

/// An agent that serves.
pub(super) struct Story<'a> {
    place: &'a Place,
    agent: Child,
}

impl<'a> Story<'a> {
    /// Starts the agent, and waits until it serves.
    pub(super) fn begin(place: &'a Place) -> Result<Self> {
        for (file, text) in [POLICY, AGENT] {
            fs::write(file, text)?;
        }
        let mut agent = place.capwarden(&["agent"]);
        let log = "/var/log/capwarden/agent.log";
        let agent = agent
            .env("PATH", &place.path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(log)?)
            .spawn()
            .context("cannot run capwarden agent")?;
        let story = Self { place, agent };
        wait_for("the agent's socket", || {
            Ok(UnixStream::connect("/run/capwarden/agent.sock").is_ok())
        })
        .with_context(|| fs::read_to_string(log).unwrap_or_default())?;
        Ok(story)
    }

    /// A client of this user's, which has connected to the server.
    pub(super) fn client(&self, user: u32) -> Result<Client> {
        let mut connect = Command::new(&self.place.capwarden);
        connect
            .args(["connect", "pcap"])
            .current_dir("/")
            .stderr(File::create(format!("/var/log/capwarden/client-{user}"))?)
            .env_clear()
            .uid(user)
            .gid(GROUP);
        Client::start(&mut connect).with_context(|| {
            let log = fs::read_to_string("/var/log/capwarden/agent.log");
            log.unwrap_or_default()
        })
    }

    /// The sessions that are live now, as `sessions --json` lists them.
    pub(super) fn live(&self) -> Result<Vec<Value>> {
        let done = self.place.capwarden(&["sessions", "--json"]).output()?;
        let listed: Value = serde_json::from_slice(&done.stdout)
            .with_context(|| String::from_utf8_lossy(&done.stderr).into_owned())?;
        let all = listed.get("sessions").and_then(Value::as_array);
        let live = |one: &&Value| one.get("standing") == Some(&json!("live"));
        Ok(all.into_iter().flatten().filter(live).cloned().collect())
    }

    /// Has a client start a capture of this name and filter, until it runs. The session as people call it.
    pub(super) fn capture(&self, client: &mut Client, name: &str, filter: &str) -> Result<String> {
        let before = self.live()?;
        let answer = ask(client, "lo", name, filter)?;
        if answer.failed {
            bail!("no capture of {filter}: {}", answer.text());
        }
        let known = |one: &Value| before.iter().any(|old| old.get("id") == one.get("id"));
        let mut new = None;
        wait_for("the capture", || {
            new = self.live()?.into_iter().find(|one| !known(one));
            // A capture file has its header when its tool hears.
            let file = Path::new(CAPTURES).join(name);
            Ok(new.is_some() && fs::metadata(file).is_ok_and(|file| file.len() > 0))
        })?;
        let id = new.as_ref().and_then(|one| one.get("id")?.as_str());
        let (agent, session) = id.and_then(|id| id.split_once('/')).context("no id")?;
        Ok(format!("{}/{session}", agent.get(..8).unwrap_or(agent)))
    }

    /// The id of the call that waits for an approval.
    pub(super) fn waiting(&self) -> Result<String> {
        let done = self.place.capwarden(&["approvals", "--json"]).output()?;
        let listed: Value = serde_json::from_slice(&done.stdout)?;
        let pending = |one: &&Value| one.pointer("/standing/state") == Some(&json!("pending"));
        let all = listed.as_array().into_iter().flatten();
        let mut ids = all
            .filter(pending)
            .filter_map(|one| one.get("id")?.as_str());
        let id = ids
            .next_back()
            .with_context(|| format!("nothing waits: {listed}"))?;
        Ok(id.to_owned())
    }
}

impl Drop for Story<'_> {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.agent.id()).map(Pid::from_raw)
            && let Some(pid) = pid
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        let start = Instant::now();
        while start.elapsed() < PATIENCE && matches!(self.agent.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

/// Has a client ask for a capture on this interface, into this file.
pub(super) fn ask(
    client: &mut Client,
    interface: &str,
    name: &str,
    filter: &str,
) -> Result<Answer> {
    client.call(
        "start_packet_capture",
        &json!({
            "interface": interface,
            "capture_filter": filter,
            "duration": 600,
            "output_file": name,
        }),
    )
}

/// Has a client ask for the names of who was captured: the policy has somebody look at that first.
pub(super) fn ask_for_lookup(client: &mut Client, name: &str) -> Result<Answer> {
    client.call(
        "analyze_network_topology",
        &json!({ "pcap_file": format!("{CAPTURES}/{name}") }),
    )
}

/// Waits until something is so.
fn wait_for(what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !so()? {
        if start.elapsed() > PATIENCE {
            bail!("waited for {what} for {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// UDP packets to a port of loopback, until this is dropped: of changing rates, as real ones.
pub(super) struct Packets {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
}

impl Packets {
    /// Sends so many in each of the seconds, and then again so.
    pub(super) fn to(port: u16, size: usize, each_second: &'static [u64]) -> Result<Self> {
        let receiver = UdpSocket::bind(("127.0.0.1", port))?;
        let sender = UdpSocket::bind("127.0.0.1:0")?;
        sender.connect(receiver.local_addr()?)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sender = thread::spawn(move || {
            // Nobody reads: what comes to a full buffer is dropped behind the capture.
            let _receiver = receiver;
            for rate in each_second.iter().cycle() {
                let second = Instant::now();
                while second.elapsed() < Duration::from_secs(1) {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let _ = sender.send(&vec![b'x'; size]);
                    thread::sleep(Duration::from_micros(1_000_000 / (*rate).max(1)));
                }
            }
        });
        Ok(Self {
            stop,
            sender: Some(sender),
        })
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
    }
}
