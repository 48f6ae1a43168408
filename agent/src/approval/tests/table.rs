//! What becomes of requests.

use super::*;

#[test]
fn approved_call_goes_once() {
    let home = Home::new();
    let (agent, operator) = (open(&home), open(&home));
    let id = pending(agent.ask(numbered(1)));
    assert_eq!(pending(agent.ask(numbered(1))), id, "asked once");
    let listed = operator.list(false).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].standing.clone(), listed[0].left),
        (Standing::Pending, TIMEOUT)
    );
    home.pass(5);
    let spoken = shown_id(&id).to_lowercase();
    operator.approve(&spoken, BY).unwrap();
    assert!(matches!(agent.ask(numbered(2)), Asked::Pending { .. }));
    let used = approved(agent.ask(numbered(1)));
    assert_eq!((used.by, used.approved), (BY, 1_000_005));
    assert_ne!(pending(agent.ask(numbered(1))), id, "used");
    assert!(matches!(
        operator.approve(&id, BY),
        Err(OperatorError::Used(_))
    ));
    assert!(matches!(
        operator.deny(&id, BY, None),
        Err(OperatorError::Used(_))
    ));
}

#[test]
fn approval_of_another_is_no_approval() {
    let home = Home::new();
    let approvals = open(&home);
    let id = pending(approvals.ask(numbered(1)));
    approvals.approve(&id, BY).unwrap();
    let make = |caller: &Caller, call: &Call| Request::new(caller, call, &rule(), None).unwrap();
    let (caller, call) = (caller(), call(json!({ "n": 1 })));
    let mut others = vec![request(json!({ "n": 1, "m": null }))];
    let mut other = call.clone();
    other.tool.push(' ');
    others.push(make(&caller, &other));
    for change in [
        |caller: &mut Caller| caller.principal = Principal::User(0),
        |caller: &mut Caller| caller.server = "other".into(),
        |caller: &mut Caller| caller.grant = Some("g".into()),
    ] {
        let mut other = caller.clone();
        change(&mut other);
        others.push(make(&other, &call));
    }
    for other in others {
        pending(approvals.ask(other));
    }
    approved(approvals.ask(make(&caller, &call)));
}

#[test]
fn approving_again_changes_nothing() {
    let home = Home::new();
    let approvals = open(&home);
    let id = pending(approvals.ask(numbered(1)));
    let Approved::Now(first) = approvals.approve(&id, BY).unwrap() else {
        panic!("it was not approved yet");
    };
    home.pass(5);
    let Approved::Before(again) = approvals.approve(&id, BY).unwrap() else {
        panic!("it was approved already");
    };
    assert_eq!((&again.entry, again.left), (&first.entry, first.left - 5));
    // What was taken back, or used and given back, is another matter.
    approvals.deny(&id, BY, None).unwrap();
    let now = approvals.approve(&id, BY).unwrap();
    assert!(matches!(now, Approved::Now(_)), "{now:?}");
    approved(approvals.ask(numbered(1)));
    assert!(matches!(
        approvals.approve(&id, BY),
        Err(OperatorError::Used(_))
    ));
}

#[test]
fn given_back_approval_goes_once_more_and_no_longer() {
    let home = Home::new();
    let approvals = open(&home);
    let id = pending(approvals.ask(numbered(1)));
    approvals.approve(&id, BY).unwrap();
    home.pass(TIMEOUT - 1);
    let used = approved(approvals.ask(numbered(1)));
    approvals.give_back(&used).unwrap();
    let used = approved(approvals.ask(numbered(1)));
    approvals.give_back(&used).unwrap();
    home.pass(1);
    assert_ne!(pending(approvals.ask(numbered(1))), id);
}

#[test]
fn approval_is_not_given_back_without_end() {
    let home = Home::new();
    let approvals = open(&home);
    let id = pending(approvals.ask(numbered(1)));
    approvals.approve(&id, BY).unwrap();
    for _ in 0..8 {
        let used = approved(approvals.ask(numbered(1)));
        assert!(approvals.give_back(&used).unwrap());
    }
    let used = approved(approvals.ask(numbered(1)));
    assert!(!approvals.give_back(&used).unwrap());
    assert_ne!(pending(approvals.ask(numbered(1))), id);
}

#[test]
fn denial_is_told_until_it_is_over() {
    let home = Home::new();
    let approvals = open(&home);
    let id = pending(approvals.ask(numbered(1)));
    home.pass(TIMEOUT - 1);
    let why = Some("not on a Sunday".to_owned());
    approvals.deny(&id, BY, why.clone()).unwrap();
    home.pass(TIMEOUT - 1);
    for _ in 0..2 {
        match approvals.ask(numbered(1)) {
            Asked::Denied {
                id: same,
                why: told,
                ..
            } => {
                assert_eq!((same, told), (id.clone(), why.clone()));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(approvals.list(false).unwrap().is_empty());
    // Somebody may think better of it.
    approvals.approve(&id, BY).unwrap();
    approvals.deny(&id, BY, None).unwrap();
    home.pass(TIMEOUT);
    pending(approvals.ask(numbered(1)));
}

#[test]
fn requests_and_approvals_expire() {
    let home = Home::new();
    let approvals = open(&home);
    let first = pending(approvals.ask(numbered(1)));
    home.pass(TIMEOUT);
    assert!(matches!(
        approvals.approve(&first, BY),
        Err(OperatorError::Expired(_))
    ));
    let second = pending(approvals.ask(numbered(1)));
    assert_ne!(first, second);
    home.pass(TIMEOUT - 1);
    approvals.approve(&second, BY).unwrap();
    home.pass(TIMEOUT);
    let third = pending(approvals.ask(numbered(1)));
    assert_ne!(second, third);
    let all = approvals.list(true).unwrap();
    let standings: Vec<_> = all.iter().map(|one| one.standing.clone()).collect();
    assert_eq!(
        standings,
        [Standing::Expired, Standing::Expired, Standing::Pending]
    );
    // What is over is kept without its arguments, and not for ever.
    assert_eq!(all[0].entry.request.arguments, "");
    assert_ne!(all[2].entry.request.arguments, "");
    home.pass(2 * 86_400);
    pending(approvals.ask(numbered(2)));
    assert_eq!(approvals.list(true).unwrap().len(), 1);
}

#[test]
fn clock_that_is_set_back_makes_nothing_last_longer() {
    let home = Home::new();
    let approvals = open(&home);
    let id = pending(approvals.ask(numbered(1)));
    approvals.approve(&id, BY).unwrap();
    // As clocks are corrected all the time.
    home.set(1_000_000 - 30);
    let used = approved(approvals.ask(numbered(1)));
    approvals.give_back(&used).unwrap();
    home.set(1_000_000 - 3_600);
    assert_ne!(pending(approvals.ask(numbered(1))), id);
}

#[test]
fn unknown_ids_are_refused() {
    let home = Home::new();
    let approvals = open(&home);
    for id in ["", "AAAA-AAAA", "../../etc", "é", &"x".repeat(1000)] {
        assert!(matches!(
            approvals.approve(id, BY),
            Err(OperatorError::Unknown(_))
        ));
    }
}

#[test]
fn each_principal_has_so_many_pending() {
    let home = Home::new();
    let approvals = open(&home);
    let ids: Vec<String> = (0..MOST_PENDING)
        .map(|n| pending(approvals.ask(numbered(n))))
        .collect();
    assert!(matches!(
        approvals.ask(numbered(MOST_PENDING)),
        Asked::Refused(Refused::TooManyPending)
    ));
    // Those that wait already are still known, and others are not held up.
    assert_eq!(pending(approvals.ask(numbered(3))), ids[3]);
    let mut other = caller();
    other.principal = Principal::User(7);
    let call = call(json!({}));
    pending(approvals.ask(Request::new(&other, &call, &rule(), None).unwrap()));
    approvals.approve(&ids[0], BY).unwrap();
    pending(approvals.ask(numbered(MOST_PENDING)));
}

/// Request number `n`, of one of many principals.
fn of_many(n: usize, text: &str) -> Request {
    let mut caller = caller();
    caller.principal = Principal::User(u32::try_from(n / MOST_PENDING).unwrap());
    let call = call(json!({ "n": n, "text": text }));
    Request::new(&caller, &call, &rule(), None).unwrap()
}

#[test]
fn all_together_have_so_many_requests() {
    let mut book = book::Book::new();
    for n in 0..MOST_LIVE - 1 {
        book.insert(format!("K{n}"), Entry::pending(of_many(n, ""), 7));
    }
    let ask = |book: &mut book::Book, n| book::ask(book, of_many(n, ""), format!("K{n}"), 7);
    pending(ask(&mut book, MOST_LIVE - 1));
    assert!(matches!(
        ask(&mut book, MOST_LIVE),
        Asked::Refused(Refused::Full)
    ));
    assert_eq!(pending(ask(&mut book, 5)), "K5");
    assert_eq!(book.len(), MOST_LIVE);
}

#[test]
fn all_together_have_so_many_bytes_and_fit_the_table() {
    // Each quote takes two bytes as it is counted, and four in the table.
    let text = "\"".repeat(LONGEST_ARGUMENTS / 2 - 20);
    let home = Home::new();
    let approvals = open(&home);
    let now = approvals.now();
    let made = approvals
        .table_for_tests()
        .change(|book| {
            (0..).position(|n| {
                let asked = book::ask(book, of_many(n, &text), format!("K{n}"), now);
                !matches!(asked, Asked::Pending { .. })
            })
        })
        .unwrap()
        .unwrap();
    assert!((180..=200).contains(&made), "{made}");
    assert!(matches!(
        approvals.ask(of_many(made, &text)),
        Asked::Refused(Refused::Full)
    ));
}

#[test]
fn what_is_over_is_bounded() {
    let home = Home::new();
    let approvals = open(&home);
    let now = approvals.now();
    let left = approvals
        .table_for_tests()
        .change(|book| {
            for n in 0..1_000 {
                let n_now = now + u64::try_from(n).unwrap() * (TIMEOUT + 1) / 10;
                let asked = book::ask(book, numbered(n), format!("K{n}"), n_now);
                assert!(matches!(asked, Asked::Pending { .. }), "{n}: {asked:?}");
            }
            book.len()
        })
        .unwrap();
    assert!(left <= 256 + MOST_PENDING, "{left}");
}

#[test]
fn damaged_table_approves_nothing() {
    let home = Home::new();
    let approvals = open(&home);
    let id = pending(approvals.ask(numbered(1)));
    approvals.approve(&id, BY).unwrap();
    let path = home.directory.path().join("approvals.json");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(
        approvals.ask(numbered(1)),
        Asked::Refused(Refused::Store(_))
    ));
    assert!(approvals.approve(&id, BY).is_err());
    std::fs::write(&path, &whole).unwrap();
    approved(approvals.ask(numbered(1)));
}
