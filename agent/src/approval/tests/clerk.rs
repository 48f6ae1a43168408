//! The clerk asks in order, and tells what becomes of requests.

use std::sync::{Mutex, mpsc};

use super::*;
use crate::store::StoreError;

struct Office {
    home: Home,
    clerk: Clerk,
    events: mpsc::Receiver<Event>,
}

impl Office {
    fn new() -> Self {
        let home = Home::new();
        let (directory, clock) = (home.directory.clone(), home.clock());
        let open = move || Approvals::open_with(&directory, clock.clone());
        let (tell, events) = mpsc::channel();
        let clerk = Clerk::start(open, move |event| tell.send(event).unwrap());
        Self {
            home,
            clerk,
            events,
        }
    }

    async fn pending(&self, n: usize) -> String {
        pending(self.clerk.ask(numbered(n)).await)
    }

    #[track_caller]
    fn told(&self, id: &str) -> What {
        let event = self.events.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(
            (
                event.id.as_str(),
                event.principal.as_str(),
                event.tool.as_str()
            ),
            (id, "uid:1000", "start")
        );
        event.what
    }
}

#[tokio::test]
async fn what_becomes_of_a_request_is_told() {
    let office = Office::new();
    let operator = open(&office.home);
    let id = office.pending(1).await;
    assert_eq!(office.told(&id), What::Requested);
    assert_eq!(office.pending(1).await, id, "told once");
    operator.deny(&id, BY, Some("no".to_owned())).unwrap();
    let denied = What::Denied(BY, 1_000_000, Some("no".to_owned()));
    assert_eq!(office.told(&id), denied);
    operator.approve(&id, BY).unwrap();
    assert_eq!(office.told(&id), What::Approved(BY, 1_000_000));
    let used = approved(office.clerk.ask(numbered(1)).await);
    assert_eq!(office.told(&id), What::Used(BY, 1_000_000));
    // Nobody waits in between: the next to ask finds what was given back before.
    office.clerk.give_back(used);
    let used = approved(office.clerk.ask(numbered(1)).await);
    assert_eq!(office.told(&id), What::GivenBack);
    assert_eq!(office.told(&id), What::Used(BY, 1_000_000));
    office.clerk.give_back(used);
    assert_eq!(office.told(&id), What::GivenBack);
    office.home.pass(TIMEOUT);
    assert_eq!(office.told(&id), What::Expired);
    assert!(office.events.try_recv().is_err());
}

#[tokio::test]
async fn approval_that_is_used_before_it_was_noticed_is_told() {
    let office = Office::new();
    let id = pending(open(&office.home).ask(numbered(1)));
    open(&office.home).approve(&id, BY).unwrap();
    approved(office.clerk.ask(numbered(1)).await);
    assert_eq!(office.told(&id), What::Approved(BY, 1_000_000));
    assert_eq!(office.told(&id), What::Used(BY, 1_000_000));
}

#[tokio::test]
async fn call_that_is_given_up_while_it_is_asked_for_uses_nothing() {
    let office = Office::new();
    let id = office.pending(1).await;
    open(&office.home).approve(&id, BY).unwrap();
    let asking = office.clerk.ask(numbered(1));
    let gone = tokio::time::timeout(Duration::ZERO, asking).await;
    // Whether it was given up in time or not, nothing is lost.
    if let Ok(asked) = gone {
        office.clerk.give_back(approved(asked));
    }
    approved(office.clerk.ask(numbered(1)).await);
}

#[tokio::test]
async fn store_that_cannot_be_opened_refuses_and_is_tried_again() {
    let home = Home::new();
    let directory = home.directory.clone();
    let broken = Mutex::new(true);
    let clerk = Clerk::start(
        move || {
            if std::mem::take(&mut *broken.lock().unwrap()) {
                return Err(StoreError::NoPlace);
            }
            Approvals::open(&directory)
        },
        |_| {},
    );
    assert!(matches!(
        clerk.ask(numbered(1)).await,
        Asked::Refused(Refused::Store(_))
    ));
    pending(clerk.ask(numbered(1)).await);
}

#[tokio::test]
async fn what_was_given_back_last_is_not_lost_with_the_clerk() {
    let office = Office::new();
    let id = office.pending(1).await;
    open(&office.home).approve(&id, BY).unwrap();
    let used = approved(office.clerk.ask(numbered(1)).await);
    office.clerk.give_back(used);
    drop(office.clerk);
    approved(open(&office.home).ask(numbered(1)));
}
