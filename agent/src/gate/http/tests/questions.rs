//! Calls whose user is asked on the stream of the call, in the revisions with sessions.

use std::sync::atomic::Ordering;

use super::*;
use crate::{gate::CallVerdict, policy::Said};

pub(super) const YES: &str = r#"{"action":"accept","content":{"approve":true}}"#;

/// A response that is read event by event.
pub(super) struct Asking {
    stream: BufReader<TcpStream>,
}

impl Asking {
    /// The next event; none at the end of the stream.
    pub(super) async fn event(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            let read = timeout(SOON, self.stream.read_line(&mut line)).await;
            if read.expect("an event comes").unwrap() == 0 {
                return None;
            }
            if let Some(data) = line.trim_end().strip_prefix("data: ") {
                return Some(serde_json::from_str(data).unwrap());
            }
        }
    }

    /// The id of the question that comes.
    pub(super) async fn question(&mut self) -> String {
        let question = self.event().await.expect("a question");
        assert_eq!(question["method"], "elicitation/create", "{question}");
        assert_eq!(question["params"]["message"], "May it?");
        question["id"].as_str().unwrap().to_owned()
    }
}

impl Rig {
    /// A client that can ask its user; the headers of its messages.
    pub(super) async fn asker(&self, name: &str) -> String {
        let body = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"capabilities":{"elicitation":{}}}}"#;
        let reply = self.post(&format!("X-Name: {name}\r\n"), body).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        self.got();
        format!("Mcp-Session-Id: {}\r\n", reply.headers["mcp-session-id"])
    }

    /// A call whose user is asked.
    pub(super) async fn asks(&self, session: &str, id: u32) -> Asking {
        let body = call("ask").replace("\"id\":1,", &format!("\"id\":{id},"));
        let (stream, reply) = self.open(&self.request("POST", session, &body)).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.headers["content-type"], "text/event-stream");
        Asking { stream }
    }

    pub(super) async fn says(&self, session: &str, question: &str, result: &str) -> Reply {
        let body = format!(r#"{{"jsonrpc":"2.0","id":"{question}","result":{result}}}"#);
        self.post(session, &body).await
    }

    /// Bodies that the server got.
    fn bodies(&self) -> Vec<String> {
        self.got().into_iter().map(|got| got.body).collect()
    }
}

#[tokio::test]
async fn user_says_yes_on_the_stream_of_the_call() {
    let rig = Rig::new().await;
    let session = rig.asker("a").await;
    let mut asking = rig.asks(&session, 1).await;
    let question = asking.question().await;
    // Meanwhile others pass.
    assert_eq!(
        rig.post(&session, &call("other")).await.code(),
        Some(-32600)
    );
    let list = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#;
    assert_eq!(rig.post(&session, list).await.status, 200);
    assert_eq!(rig.bodies(), [list]);

    let taken = rig.says(&session, &question, YES).await;
    assert_eq!((taken.status, taken.body.as_str()), (202, ""));
    let answer = asking.event().await.unwrap();
    assert_eq!(answer["id"], 1);
    assert_eq!(
        answer["result"]["content"][0]["text"], "started",
        "{answer}"
    );
    assert_eq!(asking.event().await, None);
    // Neither question nor answer is the server's to see.
    assert_eq!(rig.bodies(), [call("ask")]);
    assert_eq!(
        rig.policy.settled(),
        [CallEnd::NotForwarded, CallEnd::Answered]
    );
    // A second answer is nobody's, and not the server's either.
    assert_eq!(rig.says(&session, &question, YES).await.status, 202);
    assert_eq!(rig.bodies(), [""; 0]);
}

#[tokio::test]
async fn user_says_no_and_the_call_is_denied() {
    let rig = Rig::new().await;
    let session = rig.asker("a").await;
    let mut asking = rig.asks(&session, 1).await;
    let question = asking.question().await;
    rig.says(&session, &question, r#"{"action":"decline"}"#)
        .await;
    let answer = asking.event().await.unwrap();
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    assert!(answer.to_string().contains("The user said no."), "{answer}");
    assert_eq!(rig.bodies(), [""; 0]);
}

#[tokio::test]
async fn answer_of_another_session_is_none() {
    let rig = Rig::new().await;
    let (session, other) = (rig.asker("a").await, rig.asker("b").await);
    let mut asking = rig.asks(&session, 1).await;
    let question = asking.question().await;
    rig.says(&other, &question, YES).await;
    rig.says("", &question, YES).await;
    assert!(rig.policy.said.lock().unwrap().is_empty());
    rig.got();
    rig.says(&session, &question, YES).await;
    assert_eq!(asking.event().await.unwrap()["id"], 1);
    assert_eq!(rig.bodies(), [call("ask")]);
}

#[tokio::test]
async fn call_is_pending_where_nobody_answers_in_time_and_a_late_yes_is_for_the_next() {
    let bounds = Bounds {
        hold: Duration::from_millis(20),
        ..Bounds::default()
    };
    let rig = Rig::with(Box::new(good), bounds).await;
    let session = rig.asker("a").await;
    let mut asking = rig.asks(&session, 1).await;
    let question = asking.question().await;
    let answer = asking.event().await.unwrap();
    let told = &answer["result"]["structuredContent"]["capwarden"];
    assert_eq!(told["verdict"], "pending", "{answer}");
    assert_eq!(asking.event().await, None);
    assert_eq!(rig.says(&session, &question, YES).await.status, 202);
    assert_eq!(*rig.policy.said.lock().unwrap(), [Said::Yes]);
    assert_eq!(rig.post(&session, &call("ask")).await.status, 200);
    assert_eq!(rig.bodies(), [call("ask")]);
}

#[tokio::test]
async fn call_is_given_up_when_its_stream_is_or_it_is_cancelled() {
    let rig = Rig::new().await;
    let session = rig.asker("a").await;
    let mut asking = rig.asks(&session, 1).await;
    let question = asking.question().await;
    drop(asking);
    // Its id is free again once it was noticed.
    let free = async {
        while rig.post(&session, &call("ask-not")).await.code() == Some(-32600) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, free).await.expect("the call is given up");
    rig.got();
    assert_eq!(rig.says(&session, &question, YES).await.status, 202);
    assert!(rig.policy.said.lock().unwrap().is_empty());

    let mut asking = rig.asks(&session, 7).await;
    let question = asking.question().await;
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#;
    assert_eq!(rig.post(&session, cancel).await.status, 202);
    let notice = asking.event().await.unwrap();
    assert_eq!(notice["method"], "notifications/cancelled", "{notice}");
    assert_eq!(notice["params"]["requestId"], question.as_str());
    assert_eq!(asking.event().await, None);
    assert_eq!(rig.bodies(), [cancel]);
}

#[tokio::test]
async fn call_that_is_cancelled_while_it_is_decided_is_in_the_record() {
    let mut rig = Rig::new().await;
    let session = rig.session().await;
    let think = call("think").replace(r#""id":1"#, r#""id":7"#);
    let cancelling = async {
        rig.until("somebody thinks about it", || {
            rig.policy.thinking.load(Ordering::Acquire)
        })
        .await;
        let cancel =
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#;
        assert_eq!(rig.post(&session, cancel).await.status, 202);
        rig.policy.thought.notify_one();
    };
    tokio::join!(rig.post(&session, &think), cancelling);
    assert!(!rig.bodies().contains(&think));
    assert_eq!(rig.policy.settled(), [CallEnd::Cancelled]);
    let mut verdicts =
        std::iter::from_fn(|| rig.events.try_recv().ok()).filter_map(|event| match event {
            GateEvent::Call(call) if call.tool == "think" => Some(call.verdict),
            _ => None,
        });
    let why = "the call was cancelled".to_owned();
    assert_eq!(verdicts.next(), Some(CallVerdict::Refused { why }));
    assert_eq!(verdicts.next(), None);
}

#[tokio::test]
async fn call_whose_client_leaves_before_its_turn_is_not_made_and_not_counted() {
    let capacity = Capacity {
        calls: 1,
        ..Capacity::of(1_024)
    };
    let slow = |got: &Got| {
        let mut response = good(got);
        if got.body.contains("slow") {
            let open = "1".parse().unwrap();
            response.headers_mut().insert("x-open", open);
        }
        response
    };
    let rig = Rig::with_capacity(Box::new(slow), Bounds::default(), None, capacity).await;
    let session = rig.asker("a").await;
    let mut asking = rig.asks(&session, 1).await;
    let question = asking.question().await;
    let slow = call("slow");
    let leaving = async {
        rig.until("the only turn is taken", || {
            rig.got.lock().unwrap().len() == 1
        })
        .await;
        assert_eq!(rig.says(&session, &question, YES).await.status, 202);
        rig.until("the call is decided", || {
            rig.policy.said.lock().unwrap().is_empty()
        })
        .await;
        drop(asking);
        rig.until("it is given back", || {
            rig.policy.settled.lock().unwrap().len() == 2
        })
        .await;
        assert_eq!(
            rig.policy.settled(),
            [CallEnd::NotForwarded, CallEnd::NotForwarded]
        );
        rig.streams.lock().unwrap().clear();
    };
    tokio::join!(rig.post("", &slow), leaving);
    assert_eq!(rig.bodies(), [slow]);
}

#[tokio::test]
async fn client_that_cannot_be_asked_is_told_that_the_call_is_pending() {
    let rig = Rig::new().await;
    let session = rig.session().await;
    for session in [session.as_str(), ""] {
        let reply = rig.post(session, &call("ask")).await;
        let told = &reply.json()["result"]["structuredContent"]["capwarden"];
        assert_eq!(told["verdict"], "pending", "{reply:?}");
    }
}
