//! Ten thousand clients over HTTP at once (fewer, where the host allows fewer descriptors), each with a
//! connection of its own, all calling: whether every call of every client is answered, and what that
//! costs in memory and in waiting.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use capwarden::gate::http::Capacity;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::Barrier, task::JoinSet, time::timeout};

use crate::{
    Bench, fixture,
    measure::{Measurement, Target, Unit},
    web,
};

const MOST_CLIENTS: usize = 10_000;
/// Calls of each.
const CALLS: usize = 3;
/// Connections that are opened at a time: as many as may wait to be taken.
const OPENING: usize = 500;
/// How long a client waits for an answer before it counts as starved.
const PATIENCE: Duration = Duration::from_secs(60);
/// As many as are of use: capwarden takes what it is given.
const DESCRIPTORS: u64 = 65_536;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Measurement>> {
    let limit = getrlimit(Resource::Nofile);
    let current = limit
        .maximum
        .map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    // One user has three quarters at most, and a few of them are gone before the clients come.
    let clients = (Capacity::of(current).connections / 4 * 3).saturating_sub(16);
    let clients = clients.min(MOST_CLIENTS);
    ensure!(clients > 0, "this host allows only {current} descriptors");
    let raised = Rlimit {
        current: Some(current),
        ..limit
    };
    setrlimit(Resource::Nofile, raised)?;

    let server = fixture::start(web::SERVER)?;
    let gate = web::capwarden(
        bench,
        &["--anonymous"],
        "version: 1\ntools: { echo: allow }\n",
    )?;
    let idle = memory(gate.0.id(), "VmRSS:")?;
    let plain = fixture::runtime()?.block_on(crowd(web::SERVER, clients))?;
    ensure!(
        usize::try_from(plain.answered)? == clients,
        "the server alone does not answer all"
    );
    let guarded = fixture::runtime()?.block_on(crowd(web::GATE, clients))?;
    let most = memory(gate.0.id(), "VmHWM:")?;
    drop((gate, server));
    let each = |bytes: f64| -> Result<f64> { Ok(bytes / f64::from(u32::try_from(clients)?)) };
    let row = |what: &str, unit, plain, guarded, target| Measurement {
        what: format!("{clients} clients over HTTP: {what}"),
        unit,
        plain,
        guarded: vec![guarded],
        target,
    };
    Ok(vec![
        row(
            "all calls answered",
            Unit::Count,
            vec![f64::from(u32::try_from(clients)?)],
            f64::from(guarded.answered),
            Target::AtLeast(1.0),
        ),
        row(
            "the longest wait for an answer",
            Unit::Time,
            vec![plain.longest.as_secs_f64()],
            guarded.longest.as_secs_f64(),
            Target::Most(10.0),
        ),
        row(
            "memory of each",
            Unit::Bytes,
            Vec::new(),
            each(most - idle)?,
            Target::Most(f64::from(64 << 10)),
        ),
    ])
}

/// How it went with all clients.
#[derive(Default)]
struct Crowd {
    /// Clients whose calls were all answered.
    answered: u32,
    /// The longest that one of them waited.
    longest: Duration,
}

/// All clients at once.
async fn crowd(port: u16, all: usize) -> Result<Crowd> {
    let together = std::sync::Arc::new(Barrier::new(all));
    let mut clients = JoinSet::new();
    for number in 0..all {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect(address).await;
        let stream = stream.with_context(|| format!("client {number} does not get in"))?;
        let together = std::sync::Arc::clone(&together);
        clients.spawn(async move {
            together.wait().await;
            client(stream, number).await
        });
        if number % OPENING == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let mut crowd = Crowd::default();
    let mut failed = None;
    while let Some(done) = clients.join_next().await {
        match done? {
            Ok(longest) => {
                crowd.answered += 1;
                crowd.longest = crowd.longest.max(longest);
            }
            Err(error) => failed = Some(error),
        }
    }
    if let Some(error) = failed {
        eprintln!("the last of those without an answer: {error:#}");
    }
    Ok(crowd)
}

/// One client, which has connected; the longest that it waited.
async fn client(mut stream: TcpStream, number: usize) -> Result<Duration> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    let mut longest = Duration::ZERO;
    for call in 0..CALLS {
        let text = format!("{number}/{call}");
        let start = Instant::now();
        let sent = web::call(call + 1, &text, None);
        stream.write_all(sent.as_bytes()).await?;
        let answer = timeout(PATIENCE, fixture::message(&mut stream, &mut buffer)).await;
        let answer = answer.with_context(|| format!("client {number} starved"))??;
        let answer = String::from_utf8(answer.context("a client was left alone")?)?;
        ensure!(answer.contains(&text), "client {number} got: {answer}");
        longest = longest.max(start.elapsed());
    }
    Ok(longest)
}

/// A line of a process's status, in bytes.
fn memory(process: u32, name: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kibibytes.context("no such line")?.parse::<f64>()? * 1024.0)
}
