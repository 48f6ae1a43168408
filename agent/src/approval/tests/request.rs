//! What an approval is bound to.

use super::*;

#[test]
fn same_arguments_are_the_same_however_they_are_written() {
    let one = request(json!({ "b": [1, { "y": "é\n", "x": null }], "a": 1.5 }));
    let other: Value =
        serde_json::from_str(r#" {"a" : 1.50, "b":[1,{"x":null,"y":"\u00e9\u000a"}]} "#).unwrap();
    let other = request(other);
    assert_eq!(one, other);
    assert_eq!(one.arguments, r#"{"a":1.5,"b":[1,{"x":null,"y":"é\n"}]}"#);
}

#[test]
fn any_difference_is_another_request() {
    let (caller, call) = (caller(), call(json!({ "a": [1, "x"], "b": { "c": true } })));
    let make = |caller: &Caller, call: &Call| Request::new(caller, call, &rule(), None).unwrap();
    let mut all = vec![make(&caller, &call)];
    for arguments in [
        json!({}),
        json!({ "a": [1, "x"] }),
        json!({ "a": [1, "x "], "b": { "c": true } }),
        json!({ "a": ["1", "x"], "b": { "c": true } }),
        json!({ "a": [1.0, "x"], "b": { "c": true } }),
        json!({ "a": ["x", 1], "b": { "c": true } }),
        json!({ "a": [[1, "x"]], "b": { "c": true } }),
        json!({ "a": [1, "x"], "b": { "c": null } }),
        json!({ "a": [1, "x"], "b": { "c": true }, "d": null }),
        json!({ "A": [1, "x"], "b": { "c": true } }),
        json!({ "a": [1, "x"], "b.c": true }),
        json!({ "a": [-0.0], "b": { "c": true } }),
        json!({ "a": [0], "b": { "c": true } }),
    ] {
        all.push(make(&caller, &super::call(arguments)));
    }
    let mut other = call.clone();
    other.tool = "stop".to_owned();
    all.push(make(&caller, &other));
    for change in [
        |caller: &mut Caller| caller.principal = Principal::User(1001),
        |caller: &mut Caller| caller.principal = Principal::Bearer("1000".into()),
        |caller: &mut Caller| caller.server = "other".into(),
        |caller: &mut Caller| caller.grant = Some("".into()),
        |caller: &mut Caller| caller.grant = Some("g".into()),
    ] {
        let mut other = caller.clone();
        change(&mut other);
        all.push(make(&other, &call));
    }
    // Parts that run into each other when they are only put one after the other.
    let mut other = caller.clone();
    other.server = "pcapuid:1000".into();
    all.push(make(&other, &call));
    for (at, one) in all.iter().enumerate() {
        for other in &all[at + 1..] {
            assert_ne!(one.digest, other.digest, "{one:?} {other:?}");
        }
    }
    // Another connection is the same caller.
    let mut other = caller.clone();
    other.connection = 9;
    assert_eq!(make(&other, &call).digest, all[0].digest);
}

#[test]
fn what_cannot_be_looked_at_or_kept_is_refused() {
    let try_it = |arguments| Request::new(&caller(), &call(arguments), &rule(), None);
    let room = LONGEST_ARGUMENTS - "start".len() - r#"{"a":""}"#.len();
    assert!(try_it(json!({ "a": "x".repeat(room) })).is_ok());
    assert!(matches!(
        try_it(json!({ "a": "x".repeat(room + 1) })),
        Err(Refused::TooLarge { bytes }) if bytes == LONGEST_ARGUMENTS + 1
    ));
    // Counted as it is shown: six characters for each of these.
    assert!(try_it(json!({ "a": "\u{1}".repeat(room / 5) })).is_err());
    for text in ["100000000000000000000001", "1e300", "-9007199254740993.0"] {
        let arguments = serde_json::from_str(&format!(r#"{{"a":[{text}]}}"#)).unwrap();
        assert!(matches!(try_it(arguments), Err(Refused::Inexact)), "{text}");
    }
    assert!(try_it(json!({ "a": [u64::MAX, i64::MIN, 0.1, -1e15] })).is_ok());
}

#[test]
fn request_of_any_depth_that_is_read_is_kept() {
    let home = Home::new();
    let approvals = open(&home);
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(120), "]".repeat(120));
    let arguments: Value = serde_json::from_str(&deep).unwrap();
    let id = pending(approvals.ask(request(arguments)));
    let listed = open(&home).list(false).unwrap();
    assert_eq!(
        (&listed[0].id, listed[0].entry.request.arguments.as_str()),
        (&id, deep.as_str())
    );
}
