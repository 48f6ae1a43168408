//! An approval is used once, by whichever thread of whichever process comes first.

use std::{
    env,
    io::{self, Write as _},
    process::Command,
    thread,
};

use super::*;

const PLACE: &str = "CAPWARDEN_TEST_APPROVALS";
const PROCESSES: usize = 3;
const THREADS: usize = 8;
const CALLS: usize = 6;

/// Asks for every call from every thread; how often each was approved.
fn race(directory: &StateDirectory) -> Vec<usize> {
    let shared = Approvals::open(directory).unwrap();
    let mut won = vec![0; CALLS];
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let own = Approvals::open(directory).unwrap();
                let shared = &shared;
                scope.spawn(move || {
                    // Half of them share one opening.
                    let approvals = if thread % 2 == 0 { shared } else { &own };
                    (0..CALLS)
                        .filter(|n| {
                            loop {
                                // A lock that was held for too long is no answer.
                                match approvals.ask(numbered(*n)) {
                                    Asked::Refused(Refused::Store(_)) => {}
                                    asked => break matches!(asked, Asked::Approved(_)),
                                }
                            }
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        for thread in threads {
            for n in thread.join().unwrap() {
                won[n] += 1;
            }
        }
    });
    won
}

#[test]
#[ignore = "another test's other processes"]
fn child() {
    let directory =
        StateDirectory::open(env::var_os(PLACE).unwrap().as_ref(), Some(65_534)).unwrap();
    let won = race(&directory);
    writeln!(io::stdout(), "won {won:?}").unwrap();
}

#[test]
fn approval_is_used_once_by_threads_of_several_processes() {
    let home = Home::new();
    let approvals = Approvals::open(&home.directory).unwrap();
    for n in 0..CALLS {
        let id = pending(approvals.ask(numbered(n)));
        approvals.approve(&id, BY).unwrap();
    }
    let children: Vec<_> = (0..PROCESSES)
        .map(|_| {
            Command::new(env::current_exe().unwrap())
                .args([
                    "--exact",
                    "approval::tests::once::child",
                    "--ignored",
                    "--nocapture",
                ])
                .env(PLACE, home.directory.path())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut won = race(&home.directory);
    for child in children {
        let done = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{text}");
        let list = text
            .split("won [")
            .nth(1)
            .unwrap()
            .split(']')
            .next()
            .unwrap();
        let list = list.split(", ").map(|n| n.parse::<usize>().unwrap());
        for (sum, n) in won.iter_mut().zip(list) {
            *sum += n;
        }
    }
    assert_eq!(won, [1; CALLS]);
}
