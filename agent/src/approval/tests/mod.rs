//! Requests and approvals, with a clock that the tests set.

mod answer;
mod clerk;
mod once;
mod request;
mod table;

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::{
    policy::{Approval, Approver, Call, RuleRef},
    principal::{Caller, Operator, Principal},
    store::{StateDirectory, tests::Home},
};

const BY: By = By::Operator(Operator {
    uid: 0,
    sudo_uid: Some(1000),
});

/// Seconds that a request waits.
const TIMEOUT: u64 = 600;

fn open(home: &Home) -> Approvals {
    Approvals::open_with(&home.directory, home.clock()).unwrap()
}

fn caller() -> Caller {
    Caller {
        principal: Principal::User(1000),
        grant: None,
        connection: 1,
        server: "pcap".into(),
    }
}

fn call(arguments: Value) -> Call {
    let Value::Object(arguments) = arguments else {
        panic!("no object");
    };
    Call {
        tool: "start".to_owned(),
        arguments,
    }
}

fn rule() -> Approval {
    Approval {
        by: Approver::Operator,
        rule: RuleRef {
            file: "p.yaml".into(),
            line: 3,
            column: 5,
            path: "tools.start.approve".to_owned(),
        },
        timeout: Duration::from_secs(TIMEOUT),
        why: None,
    }
}

fn request(arguments: Value) -> Request {
    Request::new(&caller(), &call(arguments), &rule(), None).unwrap()
}

/// Request number `n`, different from every other.
fn numbered(n: usize) -> Request {
    request(json!({ "n": n }))
}

#[track_caller]
fn pending(asked: Asked) -> String {
    match asked {
        Asked::Pending { id, .. } => id,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn approved(asked: Asked) -> Used {
    match asked {
        Asked::Approved(used) => used,
        other => panic!("{other:?}"),
    }
}
