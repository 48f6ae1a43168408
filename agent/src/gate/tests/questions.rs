//! Calls whose user is asked through the client.

use super::*;

const YES: &str = r#"{"action":"accept","content":{"approve":true}}"#;
const NO: &str = r#"{"action":"decline"}"#;

impl Rig {
    /// Shakes hands as a client with these capabilities, with a server that speaks this revision.
    async fn meets(&mut self, capabilities: &str, revision: &str) {
        self.client
            .say(&format!(
                r#"{{"id":"i","method":"initialize","params":{{"capabilities":{capabilities}}}}}"#
            ))
            .await;
        self.server.hear().await;
        self.server
            .say(&format!(
                r#"{{"id":"i","result":{{"protocolVersion":"{revision}"}}}}"#
            ))
            .await;
        self.client.hear().await;
    }

    /// The id of the question that the client gets.
    async fn question(&mut self) -> String {
        let question = self.client.hear_json().await;
        assert_eq!(question["method"], "elicitation/create", "{question}");
        assert_eq!(question["params"]["message"], "May it?");
        let form = &question["params"]["requestedSchema"];
        assert_eq!(form["properties"]["approve"]["type"], "boolean");
        assert!(!question.to_string().contains("ours:"), "{question}");
        question["id"].as_str().unwrap().to_owned()
    }

    async fn answers(&mut self, question: &str, result: &str) {
        let answer = format!(r#"{{"jsonrpc":"2.0","id":"{question}","result":{result}}}"#);
        self.client.say(&answer).await;
    }

    async fn is_pending(&mut self, id: u32) {
        let answer = self.client.hear_json().await;
        assert_eq!(answer["id"], id);
        let told = &answer["result"]["structuredContent"]["capwarden"];
        assert_eq!(told["verdict"], "pending", "{answer}");
    }
}

fn in_state(id: u32, tool: &str, more: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{{}},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{"elicitation":{{}}}}}}{more}}}}}"#
    )
}

#[tokio::test]
async fn call_waits_for_its_users_yes_and_goes_as_it_came() {
    let mut rig = Rig::new();
    rig.meets(r#"{"elicitation":{}}"#, "2025-06-18").await;
    let line = call(1, "ask", r#"{ "a": 1.50 }"#);
    rig.client.say(&line).await;
    let question = rig.question().await;
    // Others are not held up, and the server's own questions are none of this.
    rig.still_works("other").await;
    rig.server
        .say(r#"{"id":"1","method":"elicitation/create","params":{}}"#)
        .await;
    rig.client.hear().await;
    rig.client.say(r#"{"id":"1","result":{}}"#).await;
    assert_eq!(
        rig.server.hear().await.trim_end(),
        r#"{"id":"1","result":{}}"#
    );
    rig.answers(&question, YES).await;
    assert_eq!(rig.server.hear().await.trim_end(), line);
    // The first is the only answer, and none is for the server.
    rig.answers(&question, YES).await;
    rig.server.hears_nothing().await;
    assert!(rig.policy.said.lock().unwrap().is_empty());
    assert_eq!(
        rig.call_events(),
        [CallVerdict::Forwarded, CallVerdict::Forwarded]
    );
}

#[tokio::test]
async fn call_whose_user_says_no_is_denied() {
    let mut rig = Rig::new();
    rig.meets(r#"{"elicitation":{}}"#, "2025-11-25").await;
    rig.client.say(&call(1, "ask", "{}")).await;
    let question = rig.question().await;
    rig.answers(&question, NO).await;
    let answer = rig.client.hear_json().await;
    assert_eq!(answer["result"]["isError"], true);
    assert!(answer.to_string().contains("The user said no."), "{answer}");
    // Who answers with an error has asked nobody.
    rig.client.say(&call(2, "ask", "{}")).await;
    let question = rig.question().await;
    let error = format!(r#"{{"id":"{question}","error":{{"code":-1,"message":"x"}}}}"#);
    rig.client.say(&error).await;
    rig.is_pending(2).await;
    rig.server.hears_nothing().await;
}

#[tokio::test]
async fn call_is_not_held_for_long_and_a_late_yes_is_for_the_next() {
    let mut rig = Rig::with(Bounds {
        hold: Duration::ZERO,
        ..Bounds::default()
    });
    rig.meets(r#"{"elicitation":{}}"#, "2025-06-18").await;
    rig.client.say(&call(1, "ask", "{}")).await;
    let question = rig.question().await;
    rig.is_pending(1).await;
    // It is still before the user, and not asked again.
    rig.client.say(&call(2, "ask", "{}")).await;
    rig.is_pending(2).await;
    rig.answers(&question, YES).await;
    let line = call(3, "ask", "{}");
    rig.client.say(&line).await;
    assert_eq!(rig.server.hear().await.trim_end(), line);
}

#[tokio::test]
async fn cancelled_call_takes_its_question_back() {
    let mut rig = Rig::new();
    rig.meets(r#"{"elicitation":{}}"#, "2025-06-18").await;
    rig.client.say(&call(1, "ask", "{}")).await;
    let question = rig.question().await;
    // Another call that would ask the same does not wait.
    rig.client.say(&call(2, "ask", "{}")).await;
    rig.is_pending(2).await;
    rig.client
        .say(r#"{"method":"notifications/cancelled","params":{"requestId":1}}"#)
        .await;
    rig.server.hear().await;
    let notice = rig.client.hear_json().await;
    assert_eq!(notice["method"], "notifications/cancelled");
    assert_eq!(notice["params"]["requestId"], question.as_str());
    rig.answers(&question, YES).await;
    rig.server.hears_nothing().await;
    assert!(rig.policy.said.lock().unwrap().is_empty());
    let refused = |verdict: &CallVerdict| matches!(verdict, CallVerdict::Refused { .. });
    assert!(rig.call_events().iter().any(refused), "it is in the record");
    rig.still_works("1").await;
}

#[tokio::test]
async fn client_that_cannot_be_asked_is_told_that_the_call_is_pending() {
    for (capabilities, revision) in [
        ("{}", "2025-06-18"),
        (r#"{"elicitation":{"url":{}}}"#, "2025-11-25"),
        (r#"{"elicitation":{}}"#, "2025-03-26"),
    ] {
        let mut rig = Rig::new();
        rig.meets(capabilities, revision).await;
        rig.client.say(&call(1, "ask", "{}")).await;
        rig.is_pending(1).await;
    }
}

#[tokio::test]
async fn waiting_call_does_not_outlive_its_client() {
    let mut rig = Rig::new();
    rig.meets(r#"{"elicitation":{}}"#, "2025-06-18").await;
    rig.client.say(&call(1, "ask", "{}")).await;
    rig.question().await;
    rig.client.hang_up().await;
    assert_eq!(rig.server.hear().await, "", "its input is closed at once");
    rig.server.hang_up().await;
    timeout(SOON, rig.pump).await.unwrap().unwrap();
    assert!(
        rig.policy
            .settled()
            .iter()
            .all(|end| *end == CallEnd::NotForwarded)
    );
}

#[tokio::test]
async fn stateless_call_is_asked_by_its_result_and_comes_again() {
    let mut rig = Rig::new();
    rig.client.say(&in_state(1, "ask", "")).await;
    let answer = rig.client.hear_json().await;
    let result = &answer["result"];
    assert_eq!(result["resultType"], "input_required", "{answer}");
    let asked = &result["inputRequests"]["capwarden_approval"];
    assert_eq!(asked["method"], "elicitation/create");
    assert_eq!(asked["params"]["mode"], "form");
    assert_eq!(asked["params"]["message"], "May it?");
    assert_eq!(result["requestState"], "ours:1");
    rig.server.hears_nothing().await;

    // Neither the state nor the answer is for the server.
    let said = |id, state: &str, result: &str| {
        in_state(
            id,
            "ask",
            &format!(
                r#","requestState":"{state}","inputResponses":{{"capwarden_approval":{result}}}"#
            ),
        )
    };
    rig.client.say(&said(2, "ours:1", YES)).await;
    assert_eq!(rig.server.hear().await.trim_end(), in_state(2, "ask", ""));
    rig.client.say(&said(3, "ours:1", NO)).await;
    let answer = rig.client.hear_json().await;
    assert!(answer.to_string().contains("The user said no."), "{answer}");
    rig.client.say(&said(4, "ours:2", YES)).await;
    let answer = rig.client.hear_json().await;
    assert!(answer.to_string().contains("That is not it."), "{answer}");
    // Without an answer it is asked again.
    rig.client
        .say(&in_state(5, "ask", r#","requestState":"ours:1""#))
        .await;
    let answer = rig.client.hear_json().await;
    assert_eq!(answer["result"]["resultType"], "input_required");
    // What is the server's passes as it is.
    let theirs = in_state(
        6,
        "echo",
        r#","requestState":"theirs","inputResponses":{"capwarden_approval":{}}"#,
    );
    rig.client.say(&theirs).await;
    assert_eq!(rig.server.hear().await.trim_end(), theirs);
    // A state of the gate that a tool comes with for which nobody is asked does not get there.
    rig.client
        .say(&in_state(7, "echo", r#","requestState":"ours:1""#))
        .await;
    assert_eq!(rig.server.hear().await.trim_end(), in_state(7, "echo", ""));
}

#[tokio::test]
async fn stateless_client_without_forms_is_told_that_the_call_is_pending() {
    let mut rig = Rig::new();
    let line = in_state(1, "ask", "").replace(r#"{"elicitation":{}}"#, "{}");
    rig.client.say(&line).await;
    rig.is_pending(1).await;
}

#[tokio::test]
async fn questions_of_one_connection_are_bounded() {
    let mut questions = question::Questions::default();
    let asked = |n: usize| crate::policy::Question {
        message: String::new(),
        state: n.to_string(),
    };
    let call = crate::policy::Call {
        tool: "t".into(),
        arguments: serde_json::Map::new(),
    };
    let id = |n: usize| envelope::Id::Number(n.to_string());
    let mut waiting: Vec<_> = (0..16)
        .map(|n| questions.ask(&call, &id(n), &asked(n), b"{}").unwrap())
        .collect();
    assert!(questions.ask(&call, &id(16), &asked(16), b"{}").is_none());
    questions.withdraw(&id(3));
    drop(waiting.remove(3));
    assert!(questions.ask(&call, &id(16), &asked(16), b"{}").is_some());
    let long = vec![b' '; 1 << 20];
    questions.clear();
    assert!(questions.ask(&call, &id(17), &asked(17), &long).is_none());
}
