//! Where the attacks happen.
//!
//! Everything is in one mount namespace of the program's own, where `/run` is empty but for the
//! stage's files and the sockets of daemons that the stage plays; and in network namespaces of its own,
//! one for each user without capwarden and under it.

pub(crate) mod actors;
pub(crate) mod bystander;
mod cgroups;
pub(crate) mod daemons;
mod layers;
mod place;
mod scenario;
mod space;

use std::{
    collections::HashMap,
    io::IsTerminal,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::Result;

use crate::{
    act::Try,
    attacker::{decode, encode},
    judge::{Host, judge},
    report::{Report, Tried},
    row::{Free, Row, Seen, Setting},
    sys::{self, Way, number, process},
};
use layers::Layers;
use place::Place;
use scenario::Scenario;

/// Users that attackers are.
const NOBODY: u32 = 65_534;
const USERS: [u32; 2] = [NOBODY, 0];

/// So many scenarios at a time: they wait more than they work.
const AT_A_TIME: usize = 4;

/// Sockets that one session may have, and some for what is left of others.
const TRIES_OF_ONE_SESSION: usize = 12;

/// Who saw something: row, way, user, governed.
type Key = (&'static str, Way, u32, bool);

/// Tries these rows.
///
/// # Errors
/// A layer that is required is not here, or the stage cannot be set.
pub(crate) fn run(
    capwarden: &Path,
    rows: Vec<&'static Row>,
    required: &[String],
) -> Result<Report> {
    // While this program has one thread: it forks.
    let closed = closed_doors();
    let place = Place::prepare(capwarden)?;
    let layers = Layers::found_by(capwarden)?;
    layers.demand(required)?;
    let host = Host {
        layers: layers.present(),
        closed,
    };
    let scenarios: Vec<Scenario> = scenarios(&rows);
    let seen = Mutex::new(HashMap::<Key, Seen>::new());
    let (next, failure) = (Mutex::new(scenarios.into_iter()), Mutex::new(None));
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(scenario) = lock(&next).next() {
                    progress(&scenario.to_string());
                    match scenario.play(&place) {
                        Ok(saw) => lock(&seen).extend(saw),
                        Err(error) => {
                            let error = error.context(scenario.to_string());
                            lock(&failure).get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    progress("");
    if let Some(error) = lock(&failure).take() {
        return Err(error);
    }
    let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut report = Report::default();
    for row in rows {
        for way in row.ways.each() {
            for user in users(row) {
                let saw = |governed: bool, user: u32| {
                    let saw = seen.get(&(row.id, *way, user, governed)).cloned();
                    saw.unwrap_or_else(|| Seen::Broken("no answer".into()))
                };
                let free_user = match row.free {
                    Free::Anyone => *user,
                    Free::Root => 0,
                };
                let (free, governed) = (saw(false, free_user), saw(true, *user));
                let mark = judge(row, *user, *way, &free, &governed, &host);
                report.0.push(Tried {
                    row,
                    user: *user,
                    way: *way,
                    free,
                    governed,
                    mark,
                });
            }
        }
    }
    Ok(report)
}

/// Shows what is being tried, where a person looks.
fn progress(what: &str) {
    if std::io::stderr().is_terminal() {
        let dots = if what.is_empty() { "" } else { "… " };
        eprint!("\r\x1b[2K{dots}{what}\r");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Root could leave the cgroup that its network is bounded by, so capwarden starts no such server.
fn users(row: &Row) -> &'static [u32] {
    match row.setting {
        Setting::Bounded => &[NOBODY],
        _ => &USERS,
    }
}

/// Who does what where, all of it: what a session may have bounds how much is tried in one.
fn scenarios(rows: &[&'static Row]) -> Vec<Scenario> {
    let tries = |wanted: &dyn Fn(&Row) -> bool| -> Vec<Try> {
        let rows = rows.iter().copied().filter(|row| wanted(row));
        rows.flat_map(|row| row.ways.each().iter().map(|way| Try { row, way: *way }))
            .collect()
    };
    let mut all = Vec::new();
    for user in USERS {
        let free = tries(&|row| user == 0 || row.free == Free::Anyone);
        all.push(Scenario::free(user, free));
    }
    let mut settings: Vec<Setting> = rows.iter().map(|row| row.setting).collect();
    settings.sort_unstable();
    settings.dedup();
    for setting in settings {
        for user in USERS {
            let here = tries(&|row| row.setting == setting && users(row).contains(&user));
            let most = match setting {
                Setting::Granted(_) => TRIES_OF_ONE_SESSION,
                _ => usize::MAX,
            };
            for part in here.chunks(most) {
                all.push(Scenario::governed(setting, user, part.to_vec()));
            }
        }
    }
    all.retain(|scenario| !scenario.is_empty());
    all
}

/// The doors that this kernel does not have, and what whoever tries one sees.
fn closed_doors() -> Vec<(Way, Seen)> {
    let doors = Way::ALL.into_iter().filter_map(|way| {
        let tried = process::in_child(|| {
            let tried = sys::call(way, number::GETPID, [0; 6]);
            encode(&tried.map_or_else(Seen::Errno, |_| Seen::Won("a number".into())))
        });
        let seen = decode(tried);
        (!matches!(seen, Seen::Won(_))).then_some((way, seen))
    });
    doors.collect()
}
