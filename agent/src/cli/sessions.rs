//! `capwarden sessions`: what is captured, proxied and run on this host at this moment.

use std::io::{self, Write};

use clap::Args;
use serde_json::json;

use crate::{
    audit::visible,
    operate::Live,
    session::{Count, SessionKind, Standing},
};

use super::{
    agents,
    exit::Exit,
    failure::Failure,
    state,
    term::{self, Paint},
};

/// List the sessions that are open on this host
///
/// All agents are asked: `run`, `exec` and what else governs a server. Who asked for what, under which filter,
/// how much of its caps is used, and how long it may last yet: as the kernel counts it at this moment.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sudo capwarden sessions\n  sudo capwarden sessions --server pcap --json"
)]
pub(super) struct Sessions {
    /// Only sessions of this server
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

impl Sessions {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let mut agents = agents::ask("see what agents do")?;
        let (there, live) = agents.sessions(self.server.as_deref());
        agents::warn_of_silent(&agents);
        if self.json {
            let silent = agents.silent.iter();
            let silent: Vec<_> = silent
                .map(|silent| json!({ "pid": silent.pid, "why": silent.why }))
                .collect();
            term::print_visible_json(
                &json!({ "agents": there, "sessions": live, "silent": silent }),
            )?;
            return Ok(Exit::Ok);
        }
        let paint = Paint::for_stdout();
        term::print(|out| {
            for session in &live {
                write(session, paint, out)?;
                writeln!(out)?;
            }
            match (live.len(), there.len(), &self.server) {
                (0, 0, None) => writeln!(out, "no agent runs"),
                (0, 0, Some(server)) => writeln!(out, "no agent serves {}", visible(server)),
                (0, 1, _) => writeln!(out, "no session is open; 1 agent runs"),
                (0, agents, _) => writeln!(out, "no session is open; {agents} agents run"),
                _ => writeln!(out, "capwarden stop ID ends one"),
            }
        })?;
        Ok(Exit::Ok)
    }
}

/// Protocols that are named.
const PROTOCOLS: usize = 6;

/// One session, for people.
fn write(session: &Live, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let now = &session.now;
    let left = now.left_ms.map_or_else(
        || "no deadline".to_owned(),
        |left| format!("{} left", state::span(left.div_ceil(1_000))),
    );
    let standing = match (now.standing, now.reason) {
        (Standing::Waiting, _) => paint.warning(&format!("waits for its first process, {left}")),
        (Standing::Live, _) => paint.good(&format!("live, {left}")),
        (Standing::Ending, Some(reason)) => paint.error(&format!("ending: {reason}")),
        (Standing::Ending, None) => paint.error("ending"),
    };
    writeln!(out, "{}  {standing}", paint.strong(&session.short_id()))?;
    let mut line =
        |name: &str, text: &str| writeln!(out, "  {} {text}", paint.note(&format!("{name:<9}")));
    let kind = match now.kind {
        SessionKind::Capture => "capture",
        SessionKind::Proxy => "proxy",
        SessionKind::Program => "programs",
    };
    match &session.who {
        Some(who) => line(
            kind,
            &visible(&format!(
                "{} of {} at {}",
                who.tool, who.principal, session.server
            )),
        )?,
        None => line(kind, &visible(&format!("at {}", session.server)))?,
    }
    line("granted", &visible(&now.granted))?;
    if let Some(asked) = &now.asked {
        line("asked for", &visible(asked))?;
    }
    if let Some(cut) = &now.cut {
        line("less", &paint.warning(&visible(cut)))?;
    }
    let mut counts = format!(
        "{}, {}",
        count(now.packets, "packets"),
        count(now.bytes, "bytes")
    );
    if let Some(passed) = &now.passed {
        counts += &format!(
            " ({} in, {} out, {} accepted, {} made)",
            passed.bytes_in, passed.bytes_out, passed.accepted, passed.made
        );
    }
    if let Some(running) = now.running {
        counts += &format!(", {}", count(running, "processes"));
    }
    line("so far", &counts)?;
    if !now.protocols.is_empty() {
        line("protocols", &visible(&now.protocols.words(PROTOCOLS)))?;
    }
    let dropped = now.passed.map_or(0, |passed| passed.dropped);
    if now.refused > 0 || dropped > 0 {
        let text = format!("{} refused, {dropped} packets dropped", now.refused);
        line("kept from", &paint.warning(&text))?;
    }
    if !now.processes.is_empty() {
        let names = now.processes.iter();
        let names: Vec<String> = names
            .map(|process| format!("{} ({})", process.name, process.pid))
            .collect();
        line("processes", &visible(&names.join(", ")))?;
    }
    line(
        "opened",
        &visible(&format!("{} by {}", session.started, session.agent_words())),
    )
}

/// `12 of 1000 packets`.
fn count(count: Count, what: &str) -> String {
    match count.cap {
        Some(cap) => format!("{} of {cap} {what}", count.seen),
        None => format!("{} {what}", count.seen),
    }
}
