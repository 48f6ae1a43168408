//! Tokens and grants.

use std::{collections::HashSet, time::Duration};

use super::*;
use crate::{
    policy::{InterfaceTerms, Outside, Payload, Terms},
    store::tests::Home,
};

const BY: Operator = Operator {
    uid: 0,
    sudo_uid: Some(1000),
};

fn grants(home: &Home) -> Grants {
    Grants::open_with(&home.directory, home.clock()).unwrap()
}

fn new(name: &str) -> NewGrant {
    NewGrant {
        name: name.to_owned(),
        server: "pcap".to_owned(),
        policy: None,
        ceiling: Ceiling::default(),
        lasts: Some(Duration::from_secs(60)),
    }
}

#[test]
fn token_is_read_in_its_one_spelling() {
    let token = Token::generate().unwrap();
    let text = token.reveal();
    assert_eq!(text.len(), 62);
    assert!(text.starts_with("cwg_"));
    assert_eq!(Token::parse(&text).unwrap().reveal(), text);
    for at in 0..text.len() {
        for other in ["0", "Z", "a", "_", "é"] {
            let mut changed = text.clone();
            changed.replace_range(at..=at, other);
            assert!(changed == text || Token::parse(&changed).is_none(), "{at}");
        }
    }
    for other in [
        text.to_lowercase(),
        format!("{text} "),
        text[4..].to_owned(),
        String::new(),
    ] {
        assert!(Token::parse(&other).is_none());
    }
    assert_eq!(format!("{token:?}"), "Token");
}

#[test]
fn tokens_differ() {
    let tokens: HashSet<String> = (0..100)
        .map(|_| Token::generate().unwrap().reveal())
        .collect();
    assert_eq!(tokens.len(), 100);
}

#[test]
fn good_token_names_its_caller() {
    let home = Home::new();
    let grants = grants(&home);
    let (token, grant) = grants.create(new("laptop"), BY).unwrap();
    let bearer = grants.verify(&token.reveal(), "pcap").unwrap();
    let caller = bearer.caller(7);
    assert_eq!(caller.principal.to_string(), "grant:laptop");
    assert_eq!(caller.grant.as_deref(), Some(grant.id.as_str()));
    assert_eq!((caller.connection, &*caller.server), (7, "pcap"));
    assert_eq!(grants.recheck(&grant.id, "pcap").unwrap(), bearer);
}

#[test]
fn other_tokens_are_not_let_in() {
    let home = Home::new();
    let grants = grants(&home);
    let (token, _) = grants.create(new("laptop"), BY).unwrap();
    let stranger = Token::generate().unwrap();
    assert!(matches!(
        grants.verify(&stranger.reveal(), "pcap"),
        Err(Rejected::Unknown)
    ));
    assert!(matches!(
        grants.verify("Bearer x", "pcap"),
        Err(Rejected::NoToken)
    ));
    assert!(matches!(
        grants.verify(&token.reveal(), "other"),
        Err(Rejected::OtherServer { .. })
    ));
}

#[test]
fn grant_ends_in_its_last_second() {
    let home = Home::new();
    let grants = grants(&home);
    let token = grants.create(new("laptop"), BY).unwrap().0.reveal();
    home.pass(59);
    assert!(grants.verify(&token, "pcap").is_ok());
    home.pass(1);
    assert!(matches!(
        grants.verify(&token, "pcap"),
        Err(Rejected::Ended {
            standing: Standing::Expired,
            ..
        })
    ));
    let mut forever = new("forever");
    forever.lasts = None;
    let token = grants.create(forever, BY).unwrap().0.reveal();
    home.pass(1 << 40);
    assert!(grants.verify(&token, "pcap").is_ok());
}

#[test]
fn revoked_grant_is_refused_at_once_by_another_opening() {
    let home = Home::new();
    let (agent, operator) = (grants(&home), grants(&home));
    for number in 0..20 {
        let name = format!("laptop-{number}");
        let (token, grant) = operator.create(new(&name), BY).unwrap();
        let token = token.reveal();
        assert!(agent.verify(&token, "pcap").is_ok());
        operator.revoke(&name, BY).unwrap();
        assert!(matches!(
            agent.verify(&token, "pcap"),
            Err(Rejected::Ended {
                standing: Standing::Revoked,
                ..
            })
        ));
        assert!(agent.recheck(&grant.id, "pcap").is_err());
        assert!(matches!(
            operator.revoke(&name, BY),
            Err(GrantError::Revoked(_))
        ));
    }
}

#[test]
fn name_is_free_again_once_its_grant_has_ended() {
    let home = Home::new();
    let grants = grants(&home);
    let (old, first) = grants.create(new("laptop"), BY).unwrap();
    assert!(matches!(
        grants.create(new("laptop"), BY),
        Err(GrantError::Taken(_))
    ));
    home.pass(60);
    let (token, second) = grants.create(new("laptop"), BY).unwrap();
    assert_ne!(first.id, second.id);
    assert!(matches!(
        grants.verify(&old.reveal(), "pcap"),
        Err(Rejected::Unknown)
    ));
    assert!(grants.recheck(&first.id, "pcap").is_err());
    assert!(grants.verify(&token.reveal(), "pcap").is_ok());
}

#[test]
fn bad_names_and_too_many_grants_are_refused() {
    let home = Home::new();
    let grants = grants(&home);
    for bad in ["", "a b", "a/b", "\u{1b}[2J", "é", &"x".repeat(65)] {
        assert!(
            matches!(grants.create(new(bad), BY), Err(GrantError::Name(_))),
            "{bad:?}"
        );
    }
    let long = "x".repeat(257);
    for bad in [
        "",
        " a",
        "a/b",
        "\u{1b}[2J",
        &long,
        "@/b",
        "@a/",
        "@a/b/c",
        "@../b",
        "@a/..",
        "@a/.b",
        "@a/b c",
        "/@a/b",
        "@a/b@1",
    ] {
        let mut other = new("laptop");
        other.server = bad.to_owned();
        let refused = grants.create(other, BY);
        assert!(matches!(refused, Err(GrantError::Server(_))), "{bad:?}");
    }
    let mut scoped = new("scoped");
    scoped.server = "@playwright/mcp".to_owned();
    let (token, _) = grants.create(scoped, BY).unwrap();
    assert!(grants.verify(&token.reveal(), "@playwright/mcp").is_ok());
    assert!(grants.verify(&token.reveal(), "@other/mcp").is_err());
    assert!(matches!(
        grants.revoke("x", BY),
        Err(GrantError::Unknown(_))
    ));
    // As many as there may be, without a thousand syncs.
    let (_, grant) = grants.create(new("g"), BY).unwrap();
    grants
        .table_for_tests()
        .change(|all| {
            for number in 1..MOST_GRANTS {
                all.insert(format!("g{number}"), grant.clone());
            }
        })
        .unwrap();
    assert!(matches!(
        grants.create(new("one-more"), BY),
        Err(GrantError::Full)
    ));
}

#[test]
fn nothing_that_is_kept_or_printed_shows_a_token() {
    let home = Home::new();
    let grants = grants(&home);
    let (token, grant) = grants.create(new("laptop"), BY).unwrap();
    let secret = token.reveal();
    let kept = std::fs::read_to_string(home.directory.path().join("grants.json")).unwrap();
    for text in [kept, format!("{grant:?} {grants:?} {token:?}")] {
        assert!(!text.contains(&secret[4..20]), "{text}");
    }
}

#[test]
fn damaged_grants_let_nobody_in() {
    let home = Home::new();
    let grants = grants(&home);
    let token = grants.create(new("laptop"), BY).unwrap().0.reveal();
    assert!(grants.verify(&token, "pcap").is_ok());
    let path = home.directory.path().join("grants.json");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 2]).unwrap();
    for _ in 0..2 {
        assert!(matches!(
            grants.verify(&token, "pcap"),
            Err(Rejected::Unavailable(_))
        ));
    }
    std::fs::write(&path, &whole).unwrap();
    assert!(grants.verify(&token, "pcap").is_ok());
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(
        grants.verify(&token, "pcap"),
        Err(Rejected::Unknown)
    ));
}

#[test]
fn ceiling_takes_the_lower_of_each_cap() {
    let terms = |packets, bytes, seconds| Terms {
        interfaces: InterfaceTerms::Any,
        filters: Vec::new(),
        outside: Outside::Narrow,
        packets,
        bytes,
        duration: Option::map(seconds, Duration::from_secs),
        snap_length: 65_535,
        payload: Payload::Full,
    };
    let ceiling = Ceiling {
        packets: Some(100),
        bytes: None,
        duration: Some(Duration::from_secs(5)),
    };
    for (before, after) in [
        (
            terms(Some(1000), Some(7), Some(1)),
            terms(Some(100), Some(7), Some(1)),
        ),
        (terms(Some(10), None, None), terms(Some(10), None, Some(5))),
        (terms(None, None, Some(9)), terms(Some(100), None, Some(5))),
    ] {
        let mut narrowed = before;
        ceiling.narrow(&mut narrowed);
        assert_eq!(narrowed, after);
    }
}
