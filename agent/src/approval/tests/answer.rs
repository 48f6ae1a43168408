//! What a client's user says.

use super::*;
use crate::policy::Said;

fn user(arguments: Value) -> Request {
    let rule = Approval {
        by: Approver::User,
        ..rule()
    };
    Request::new(&caller(), &call(arguments), &rule, None).unwrap()
}

fn bound(arguments: Value) -> Bound {
    Bound::of(&caller(), &call(arguments)).unwrap()
}

/// A question about `{"n": 1}`: where it is asked, its seal, its id and its state.
fn question(home: &Home) -> (Approvals, Seal, String, String) {
    let (approvals, seal) = (open(home), Seal::generate().unwrap());
    let id = pending(approvals.ask(user(json!({ "n": 1 }))));
    let state = seal.state(&id, &user(json!({ "n": 1 })));
    assert!(seal.owns(&state));
    (approvals, seal, id, state)
}

#[test]
fn yes_lets_the_call_go_once_and_is_taken_once() {
    let home = Home::new();
    let (approvals, seal, id, state) = question(&home);
    let answer = |said| approvals.answer(&seal, &state, &bound(json!({ "n": 1 })), said);
    answer(Said::Yes).unwrap();
    for said in [Said::Yes, Said::No] {
        assert!(matches!(answer(said), Err(NotTaken::Answered(_))));
    }
    let used = approved(approvals.ask(user(json!({ "n": 1 }))));
    assert_eq!((used.id.as_str(), used.by), (id.as_str(), By::Client));
    assert!(matches!(answer(Said::Yes), Err(NotTaken::Answered(_))));
    // What is given back is there to be used, and not to be answered.
    assert!(approvals.give_back(&used).unwrap());
    assert!(matches!(answer(Said::Yes), Err(NotTaken::Answered(_))));
    approved(approvals.ask(user(json!({ "n": 1 }))));
    let next = pending(approvals.ask(user(json!({ "n": 1 }))));
    assert_ne!(next, id);
    assert!(matches!(answer(Said::Yes), Err(NotTaken::Answered(_))));
}

#[test]
fn no_and_a_question_put_away_deny_the_call() {
    for (said, wanted) in [
        (Said::No, None),
        (Said::Dismissed, Some("the question was dismissed")),
    ] {
        let home = Home::new();
        let (approvals, seal, _, state) = question(&home);
        let call = bound(json!({ "n": 1 }));
        approvals.answer(&seal, &state, &call, said).unwrap();
        match approvals.ask(user(json!({ "n": 1 }))) {
            Asked::Denied { by, why, .. } => {
                assert_eq!((by, why.as_deref()), (By::Client, wanted));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn answer_with_another_state_or_call_is_not_taken() {
    let home = Home::new();
    let (approvals, seal, id, state) = question(&home);
    let mine = bound(json!({ "n": 1 }));
    // One letter is another, anywhere in the state.
    for at in 0..state.len() {
        let mut letters = state.clone().into_bytes();
        letters[at] = if letters[at] == b'7' { b'8' } else { b'7' };
        let changed = String::from_utf8(letters).unwrap();
        let answer = approvals.answer(&seal, &changed, &mine, Said::Yes);
        assert!(matches!(answer, Err(NotTaken::Forged)), "{changed}");
    }
    let cut = &state[..state.len() - 1];
    let of_another_agent = Seal::generate()
        .unwrap()
        .state(&id, &user(json!({ "n": 1 })));
    let of_another_effect = {
        let rule = Approval {
            by: Approver::User,
            ..rule()
        };
        let effect = Some("a capture of eth0".to_owned());
        let request = Request::new(&caller(), &call(json!({ "n": 1 })), &rule, effect).unwrap();
        seal.state(&id, &request)
    };
    for other in [cut, &of_another_agent, &of_another_effect, "", "capwarden."] {
        let answer = approvals.answer(&seal, other, &mine, Said::Yes);
        assert!(matches!(answer, Err(NotTaken::Forged)), "{other}");
    }
    assert!(!seal.owns(&of_another_agent));

    let mut others = vec![
        bound(json!({ "n": 2 })),
        bound(json!({ "n": 1, "m": null })),
    ];
    for change in [
        |caller: &mut Caller| caller.principal = Principal::User(0),
        |caller: &mut Caller| caller.server = "other".into(),
        |caller: &mut Caller| caller.grant = Some("g".into()),
    ] {
        let mut other = caller();
        change(&mut other);
        others.push(Bound::of(&other, &call(json!({ "n": 1 }))).unwrap());
    }
    let mut tool = call(json!({ "n": 1 }));
    tool.tool.push(' ');
    others.push(Bound::of(&caller(), &tool).unwrap());
    for other in others {
        let answer = approvals.answer(&seal, &state, &other, Said::Yes);
        assert!(matches!(answer, Err(NotTaken::OtherCall)), "{other:?}");
    }
    assert_eq!(pending(approvals.ask(user(json!({ "n": 1 })))), id);
    approvals.answer(&seal, &state, &mine, Said::Yes).unwrap();
}

#[test]
fn answer_that_comes_too_late_is_not_taken() {
    let home = Home::new();
    let (approvals, seal, id, state) = question(&home);
    home.pass(TIMEOUT);
    let answer = approvals.answer(&seal, &state, &bound(json!({ "n": 1 })), Said::Yes);
    assert!(matches!(answer, Err(NotTaken::Expired(_))), "{answer:?}");
    assert_ne!(pending(approvals.ask(user(json!({ "n": 1 })))), id);
}

#[test]
fn what_an_operator_is_asked_for_no_client_answers() {
    let home = Home::new();
    let (approvals, seal, _, state) = question(&home);
    let id = pending(approvals.ask(numbered(1)));
    let forged = seal.state(&id, &numbered(1));
    let mine = bound(json!({ "n": 1 }));
    let answer = approvals.answer(&seal, &forged, &mine, Said::Yes);
    assert!(matches!(answer, Err(NotTaken::Forged)));
    // A user's yes is none of an operator's, for the same call.
    approvals.answer(&seal, &state, &mine, Said::Yes).unwrap();
    assert_eq!(pending(approvals.ask(numbered(1))), id);
    // An operator answers for a user.
    let other = pending(approvals.ask(user(json!({ "n": 2 }))));
    approvals.approve(&other, BY).unwrap();
    assert_eq!(approved(approvals.ask(user(json!({ "n": 2 })))).by, BY);
}

#[test]
fn who_answered_is_kept_as_words_or_as_a_user() {
    let text = |by: By| serde_json::to_string(&by).unwrap();
    assert_eq!(text(By::Client), "\"client\"");
    assert_eq!(text(BY), r#"{"uid":0,"sudo_uid":1000}"#);
    for by in [By::Client, BY] {
        assert_eq!(serde_json::from_str::<By>(&text(by)).unwrap(), by);
    }
}
