use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{ROOT, home, tool};
use crate::{
    definitions::{AcceptError, FIRST, Offer, Pins, Standing, What},
    policy::Definition,
};

struct Desk {
    _home: tempfile::TempDir,
    pins: Pins,
    now: Arc<AtomicU64>,
}

impl Desk {
    fn new() -> Self {
        let (home, directory) = home();
        let now = Arc::new(AtomicU64::new(1_000));
        let clock = Arc::clone(&now);
        let pins = Pins::open_with(&directory, move || clock.load(Ordering::Relaxed)).unwrap();
        let _home = home;
        Self { _home, pins, now }
    }

    fn offer(&self, definition: &Arc<Definition>, strict: bool) -> Option<What> {
        let offer = Offer {
            server: "s".to_owned(),
            definition: Arc::clone(definition),
            strict,
        };
        self.pins.offer(&[offer]).unwrap().remove(0)
    }

    fn standing(&self, tool: &str) -> Standing {
        self.pins.servers().unwrap()["s"].tools[tool].standing()
    }
}

#[test]
fn first_list_is_accepted_and_what_comes_later_is_held_back() {
    let desk = Desk::new();
    let (a, b) = (tool("a", "1"), tool("b", "1"));
    assert_eq!(desk.offer(&a, false), Some(What::FirstSeen));
    assert_eq!(desk.offer(&a, false), None);
    assert_eq!(desk.offer(&b, false), Some(What::FirstSeen));
    // Even in the first list: a page that says something else of the same tool.
    assert_eq!(desk.offer(&tool("b", "2"), false), Some(What::Changed));
    desk.pins.settle("s").unwrap();
    assert_eq!(desk.offer(&tool("c", "1"), false), Some(What::New));
    assert_eq!(desk.offer(&tool("a", "2"), false), Some(What::Changed));
    assert_eq!(desk.offer(&tool("a", "2"), false), None);
    assert_eq!(desk.standing("a"), Standing::Changed);
    // It is as it was.
    assert_eq!(desk.offer(&a, false), None);
    assert_eq!(desk.standing("a"), Standing::Accepted);
    assert_eq!(desk.standing("c"), Standing::New);

    let unfit = Arc::new(Definition::read("d", r#"{"name":"d","name":"d"}"#));
    assert!(matches!(desk.offer(&unfit, false), Some(What::Unfit(_))));
}

#[test]
fn first_list_without_an_end_ends() {
    let desk = Desk::new();
    desk.offer(&tool("a", "1"), false);
    desk.now.store(1_000 + FIRST, Ordering::Relaxed);
    assert_eq!(desk.offer(&tool("b", "1"), false), Some(What::FirstSeen));
    desk.now.store(1_001 + FIRST, Ordering::Relaxed);
    assert_eq!(desk.offer(&tool("c", "1"), false), Some(What::New));
    // And a clock that goes back does not open it again.
    desk.now.store(10, Ordering::Relaxed);
    assert_eq!(desk.offer(&tool("d", "1"), false), Some(What::New));
}

#[test]
fn strict_accepts_nothing_by_itself() {
    let desk = Desk::new();
    assert_eq!(desk.offer(&tool("a", "1"), true), Some(What::New));
    assert_eq!(desk.offer(&tool("a", "1"), false), None);
    assert_eq!(desk.standing("a"), Standing::New);
}

#[test]
fn operator_accepts_what_was_seen() {
    let desk = Desk::new();
    desk.offer(&tool("a", "1"), false);
    desk.pins.settle("s").unwrap();
    let (shown, other) = (tool("a", "2"), tool("a", "3"));
    desk.offer(&shown, false);
    desk.offer(&tool("n", "1"), false);
    let names = ["a".to_owned()];
    let accept = |digest: Option<&str>| desk.pins.accept("s", Some(&names), digest, ROOT);
    // The server has changed it once more since the operator looked.
    desk.offer(&other, false);
    let refused = accept(Some(&shown.digest()[..12]));
    assert!(
        matches!(refused, Err(AcceptError::Other { .. })),
        "{refused:?}"
    );
    assert_eq!(desk.standing("a"), Standing::Changed);
    desk.now.store(2_000, Ordering::Relaxed);
    assert_eq!(accept(Some(other.digest())).unwrap(), ["a"]);
    let kept = desk.pins.servers().unwrap().remove("s").unwrap();
    let pin = &kept.tools["a"];
    assert_eq!((pin.standing(), pin.by), (Standing::Accepted, Some(ROOT)));
    assert_eq!(pin.accepted.as_ref().unwrap().since, 2_000);
    assert_eq!(desk.offer(&shown, false), Some(What::Changed));

    assert_eq!(desk.pins.accept("s", None, None, ROOT).unwrap(), ["a", "n"]);
    assert!(desk.pins.accept("s", None, None, ROOT).unwrap().is_empty());
    let nobody = desk.pins.accept("t", None, None, ROOT);
    assert!(matches!(nobody, Err(AcceptError::Server(_))));
    let names = ["a".to_owned(), "z".to_owned()];
    let unknown = desk.pins.accept("s", Some(&names), None, ROOT);
    assert!(matches!(unknown, Err(AcceptError::Tool { .. })));
}

#[test]
fn forgotten_tool_is_new_and_forgotten_server_is_seen_first() {
    let desk = Desk::new();
    desk.offer(&tool("a", "1"), false);
    desk.pins.settle("s").unwrap();
    assert!(desk.pins.forget("s", Some(&["z".to_owned()])).is_err());
    assert_eq!(desk.pins.forget("s", Some(&["a".to_owned()])).unwrap(), 1);
    assert_eq!(desk.offer(&tool("a", "1"), false), Some(What::New));
    assert_eq!(desk.pins.forget("s", None).unwrap(), 1);
    assert!(desk.pins.forget("s", None).is_err());
    assert_eq!(desk.offer(&tool("a", "1"), false), Some(What::FirstSeen));
}

#[test]
fn what_has_no_room_is_held_back() {
    let desk = Desk::new();
    let long = "x".repeat(100_000);
    let offers: Vec<Offer> = (0..60)
        .map(|n| Offer {
            server: "s".to_owned(),
            definition: tool(&format!("t{n}"), &long),
            strict: false,
        })
        .collect();
    let became = desk.pins.offer(&offers).unwrap();
    let refused = became
        .iter()
        .filter(|what| matches!(what, Some(What::Unfit(_))));
    assert_eq!(refused.count(), 8, "52 of 100 KB have room");
    // And so has no change of what is there.
    let changed = desk.offer(&tool("t0", &format!("{long}y")), false);
    assert!(matches!(changed, Some(What::Unfit(_))), "{changed:?}");
}
