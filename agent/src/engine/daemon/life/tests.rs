//! What becomes of those whom a daemon serves that another has followed.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use tempfile::TempDir;
use tracing::subscriber::{DefaultGuard, set_default};

use super::*;
use crate::{
    audit::Log,
    config::{Config, ServerConfig},
    engine::{
        Judge, StdioPlan,
        daemon::{Door, Listeners, Prepare, Prepared, Served, Table, Turn, take_over::Inherited},
        record::Opening,
        reload::Reload,
    },
    kernel::{Credentials, Program},
    limits::Limits,
    policy::Policy,
};

/// A configuration with one server.
const CONFIG: &str =
    "version: 1\nservers:\n  one: { command: [/bin/true], policy: /etc/capwarden/one.yaml }\n";
/// One of a later version.
const LATER: &str = "version: 1\nof_a_later_version: 1\n";

/// A daemon without servers that run, and what it needs to be followed.
struct Earlier {
    house: House,
    follow: Follow,
    signals: Signals,
    config: PathBuf,
    place: TempDir,
}

impl Earlier {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let config = place.path().join("agent.yaml");
        fs::write(&config, CONFIG).unwrap();
        let file = config.clone();
        let load = move || Config::load(&file).map_err(|error| error.to_string());
        let loaded = load().unwrap();
        let log = Log::open(place.path().join("audit.jsonl")).unwrap();
        let (record, events) = Opening::unattended(log);
        let table = Arc::new(Table::default());
        let house = House {
            record,
            events,
            routes: Arc::default(),
            metrics: None,
            door: Door::new(Arc::clone(&table)),
            table,
            turn: Turn::now(),
            listeners: Listeners::new(Inherited::default()),
            ending: Mutex::default(),
            adopted: Vec::new(),
        };
        for (name, config) in loaded.servers.clone() {
            let policy =
                || Policy::parse("one.yaml", "version: 1\ntools: { start: allow }\n").unwrap();
            let servers = StdioPlan {
                server: vec!["/bin/true".into()],
                name: name.as_str().into(),
                credentials: Credentials::nobody(),
                judge: Judge::new(policy(), Arc::new(Limits::in_memory().unwrap())),
                metrics: None,
                reload: Reload::new(&place.path().join("one.yaml"), move || Ok(policy())),
            };
            let prepared = Prepared {
                servers,
                http: None,
            };
            let shared = house.shared();
            let served = Served::begin(&name, config, prepared, shared, &house.listeners);
            house.table.put(served.unwrap());
        }
        let prepare: Arc<Prepare> =
            Arc::new(|_: &str, _: &ServerConfig| Err("nothing is begun any more".to_owned()));
        Self {
            follow: Follow::new(&config, loaded, Arc::new(load), prepare),
            signals: Signals::new().unwrap(),
            house,
            config,
            place,
        }
    }

    /// A client of the server, who is told why they are so no longer.
    fn client(&self) -> oneshot::Receiver<&'static str> {
        let served = self.house.table.get("one").unwrap();
        self.house.door.connect_for_tests(served)
    }

    /// A process that has followed it.
    fn successor(&self) -> Successor {
        let path = self.place.path().join("program");
        fs::write(&path, "#!/bin/sh\nexec sleep 600\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let program = Program::own().unwrap().elsewhere(&path);
        Successor::start(&program, &[]).unwrap()
    }

    async fn narrows(&mut self, config: &str) {
        fs::write(&self.config, config).unwrap();
        self.follow.narrow(&self.house).await;
    }
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    fn listen() -> (Self, DefaultGuard) {
        let said = Self::default();
        let to = said.clone();
        let lines = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || to.clone());
        (said, set_default(lines.finish()))
    }

    fn times(&self, words: &str) -> usize {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&said).matches(words).count()
    }
}

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn who_has_no_session_open_is_served_for_a_time_and_then_let_go() {
    let mut earlier = Earlier::new();
    let mut told = earlier.client();
    let successor = earlier.successor();
    let process = successor.process();
    let idle = 3 * LEFT;
    let begun = Instant::now();
    let Earlier {
        house,
        follow,
        signals,
        ..
    } = &mut earlier;
    let mut draining = Box::pin(drain(house, follow, signals, successor, idle));
    let early = timeout(idle / 2, &mut draining).await;
    assert!(early.is_err() && told.try_recv().is_err());
    let end = timeout(20 * LEFT, draining).await.expect("it ends");
    assert!(matches!(end, End::Replaced(by) if by == process));
    assert!(begun.elapsed() >= idle);
    assert_eq!(
        told.await.unwrap(),
        "another version of the agent serves, and no session was open: connect again"
    );
}

#[tokio::test]
async fn configuration_that_an_earlier_version_cannot_read_takes_nothing_away_and_that_is_said_once()
 {
    let (said, _listening) = Said::listen();
    let mut earlier = Earlier::new();
    let mut told = earlier.client();
    for _ in 0..2 {
        earlier.narrows(LATER).await;
    }
    for words in [
        "this earlier version cannot use the configuration",
        "agent.yaml:2:1",
        "by `capwarden stop`, or all by `systemctl restart capwarden`",
    ] {
        assert_eq!(said.times(words), 1, "{words}");
    }
    assert!(told.try_recv().is_err(), "nothing was taken away");

    // One that it can use counts, and the next one that it cannot is told of anew.
    earlier.narrows(CONFIG).await;
    assert!(told.try_recv().is_err());
    earlier.narrows("version: 1\n").await;
    assert_eq!(told.await.unwrap(), "its server was withdrawn");
    earlier.narrows("version: 1\n").await;
    assert_eq!(said.times("is not what its clients came for any more"), 1);
    earlier.narrows(LATER).await;
    assert_eq!(said.times("this earlier version cannot use"), 2);
}
