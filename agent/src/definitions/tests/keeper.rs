use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use super::{ROOT, home, tool};
use crate::{
    definitions::{Event, Held, Keeper, Pins, What},
    policy::Definition,
    store::StateDirectory,
};

struct Desk {
    keeper: Keeper,
    told: Arc<Mutex<Vec<Event>>>,
    changed: Arc<AtomicUsize>,
}

impl Desk {
    fn new(directory: &StateDirectory) -> Self {
        let told: Arc<Mutex<Vec<Event>>> = Arc::default();
        let changed = Arc::new(AtomicUsize::new(0));
        let (tells, changes) = (Arc::clone(&told), Arc::clone(&changed));
        let keeper = Keeper::start(
            directory.clone(),
            move |event| tells.lock().unwrap().push(event),
            move || {
                changes.fetch_add(1, Ordering::Relaxed);
            },
        );
        Self {
            keeper,
            told,
            changed,
        }
    }

    async fn lists(&self, definition: &Arc<Definition>) -> (bool, Result<(), Held>) {
        let shown = self.keeper.listed("s", definition, false);
        (shown, self.keeper.check("s", definition).await)
    }

    fn told(&self) -> Vec<What> {
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        told.into_iter().map(|event| event.what).collect()
    }
}

#[tokio::test]
async fn changed_tool_is_held_back_until_it_is_accepted() {
    let (_home, directory) = home();
    let desk = Desk::new(&directory);
    let (before, after) = (tool("a", "1"), tool("a", "2"));
    assert_eq!(desk.lists(&before).await, (true, Ok(())));
    desk.keeper.list_ended("s");
    assert_eq!(desk.lists(&after).await, (false, Err(Held::Changed)));
    let new = tool("b", "1");
    assert_eq!(desk.lists(&new).await, (false, Err(Held::New)));
    assert_eq!(desk.told(), [What::FirstSeen, What::Changed, What::New]);
    // Another connection may still be told the accepted one.
    assert_eq!(desk.keeper.check("s", &before).await, Ok(()));

    let pins = Pins::open(&directory).unwrap();
    desk.keeper.listed("s", &after, false);
    assert_eq!(desk.keeper.check("s", &after).await, Err(Held::Changed));
    pins.accept("s", None, None, ROOT).unwrap();
    // It is seen by the thread before long, and told to clients.
    let begun = std::time::Instant::now();
    while desk.changed.load(Ordering::Relaxed) == 0 {
        assert!(begun.elapsed().as_secs() < 60);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(desk.lists(&after).await, (true, Ok(())));
    assert_eq!(desk.keeper.check("s", &new).await, Ok(()));
    assert_eq!(desk.keeper.check("s", &before).await, Err(Held::Changed));
    let told = desk.told();
    let accepted = |what: &&What| matches!(what, What::Accepted(by, _) if *by == ROOT);
    assert_eq!(told.iter().filter(accepted).count(), 2, "{told:?}");

    // Whoever comes next knows of it, and tells in its own record who accepted.
    let next = Desk::new(&directory);
    assert_eq!(next.lists(&after).await, (true, Ok(())));
    assert!(matches!(next.told()[..], [What::Accepted(..)]));
    assert_eq!(next.lists(&before).await, (false, Err(Held::Changed)));
}

#[tokio::test]
async fn what_an_earlier_run_held_back_is_shown_once_it_is_accepted() {
    let (_home, directory) = home();
    let a = tool("a", "1");
    let desk = Desk::new(&directory);
    assert!(!desk.keeper.listed("s", &a, true));
    desk.keeper.list_ended("s");
    assert_eq!(desk.keeper.check("s", &a).await, Err(Held::New));
    drop(desk);

    // It has nothing to keep: all that it lists is in the table.
    let next = Desk::new(&directory);
    assert!(!next.keeper.listed("s", &a, true));
    next.keeper.list_ended("s");
    assert_eq!(next.keeper.check("s", &a).await, Err(Held::New));
    let pins = Pins::open(&directory).unwrap();
    pins.accept("s", None, None, ROOT).unwrap();
    let begun = std::time::Instant::now();
    while next.changed.load(Ordering::Relaxed) == 0 {
        assert!(begun.elapsed().as_secs() < 60);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(next.keeper.check("s", &a).await, Ok(()));
    assert!(next.keeper.listed("s", &a, true));
    assert!(matches!(next.told()[..], [What::Accepted(..)]));
}

#[tokio::test]
async fn what_cannot_be_kept_is_held_back() {
    let (_home, directory) = home();
    let desk = Desk::new(&directory);
    let unfit = Arc::new(Definition::read("a", r#"{"name":"a","name":"a"}"#));
    let (shown, held) = desk.lists(&unfit).await;
    assert!(!shown && matches!(held, Err(Held::Unfit(_))), "{held:?}");
    // Told once, however often it is listed.
    let _ = desk.lists(&unfit).await;
    assert!(matches!(desk.told()[..], [What::Unfit(_)]));

    let (_home, directory) = home();
    std::fs::write(directory.path().join("definitions.json"), "broken").unwrap();
    let desk = Desk::new(&directory);
    let (shown, held) = desk.lists(&tool("a", "1")).await;
    assert!(!shown && matches!(held, Err(Held::Unknown(_))), "{held:?}");
}
