use std::sync::Arc;

use serde_json::json;

use crate::definitions::Listings;

fn text(name: &str, description: &str) -> String {
    json!({ "name": name, "description": description }).to_string()
}

#[test]
fn connection_is_decided_by_what_it_was_told() {
    let listings = Listings::default();
    assert!(listings.find(1, "a").is_none());
    let one = listings.listed(1, "a", &text("a", "1"));
    let two = listings.listed(2, "a", &text("a", "2"));
    assert_eq!(listings.find(1, "a"), Some(Arc::clone(&one)));
    assert_eq!(listings.find(2, "a"), Some(Arc::clone(&two)));
    // Who was told nothing: by what anybody was told last.
    assert_eq!(listings.find(3, "a"), Some(two));
    let again = listings.listed(3, "a", &text("a", "1"));
    assert!(Arc::ptr_eq(&one, &again), "one of each");
}

#[test]
fn memory_is_bounded() {
    let listings = Listings::default();
    let long = "x".repeat(100_000);
    for n in 0..30 {
        let name = format!("t{n}");
        listings.listed(1, &name, &text(&name, &long));
    }
    assert!(listings.find(1, "t0").unwrap().fault().is_none());
    let last = listings.find(1, "t29").unwrap();
    assert!(last.fault().unwrap().contains("no room"), "{last:?}");
    for connection in 0..3_000 {
        listings.listed(connection, "a", &text("a", "1"));
    }
    // Its own list is forgotten, and what anybody was told is not.
    assert!(listings.find(1, "t0").is_some());
}
