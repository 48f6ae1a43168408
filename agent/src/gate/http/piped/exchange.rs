//! A request that is carried to a server, and the response that its answer becomes.

use std::{sync::Arc, time::Duration};

use hyper::{Response, StatusCode};
use tokio::time::timeout;

use super::{
    events::{Events, Source},
    wire::{Reply, Wire},
};
use crate::gate::{
    envelope::{Envelope, Id},
    http::{
        headers, legacy,
        reception::Held,
        refusal::{Body, Refusal, json_response},
        sse,
        tether::Tied,
    },
    json::Members,
};

/// How long a request waits for its answer before a stream is begun.
const AT_ONCE: Duration = Duration::from_millis(500);
/// Sends a message of an MCP session to its server. The response, and whether it is an error that
/// came at once.
pub(super) async fn forward(
    wire: &Arc<Wire>,
    message: &[u8],
    envelope: &Envelope<'_>,
) -> Result<(Response<Body>, bool), Refusal> {
    let text = headers::id_of(envelope);
    let (Some((id, _)), Some(_)) = (&envelope.id, &envelope.method) else {
        wire.send(message).await.map_err(|_| gone(None))?;
        if let Some(id) = taken_back(envelope) {
            wire.forget(&id);
        }
        return Ok((legacy::accepted(), false));
    };
    let progress = envelope
        .params
        .and_then(|params| Members::parse(Members::parse(params).ok()?.get("_meta")?).ok())
        .and_then(|meta| meta.get("progressToken").and_then(Id::parse));
    let asked = wire.ask(id.clone(), message, progress, None).await;
    let reply = asked.map_err(|_| taken(text))?.map_err(|_| gone(text))?;
    let (response, answer) = respond(reply, wire, text).await?;
    let failed = answer.is_some_and(|answer| {
        Members::parse(&answer).is_ok_and(|members| members.get("error").is_some())
    });
    Ok((response, failed))
}

/// The request that a message takes back, if it takes one back.
pub(super) fn taken_back(envelope: &Envelope<'_>) -> Option<Id> {
    let cancels = envelope.method.as_deref() == Some("notifications/cancelled");
    let params = Members::parse(envelope.params.filter(|_| cancels)?).ok()?;
    params.get("requestId").and_then(Id::parse)
}

/// The response to a request: its answer, if that comes at once, which is returned besides; else a
/// stream.
pub(super) async fn respond(
    mut reply: Reply,
    wire: &Arc<Wire>,
    id: Option<&str>,
) -> Result<(Response<Body>, Option<String>), Refusal> {
    match timeout(AT_ONCE, reply.messages.recv()).await {
        Ok(Some(message)) if message.answers => {
            let response = json_response(StatusCode::OK, message.text.clone());
            let answer = message.text;
            let held = message.held;
            Ok((response.map(|body| hold(body, held)), Some(answer)))
        }
        Ok(Some(message)) => {
            let mut first = Vec::with_capacity(message.text.len() + 8);
            sse::event(&message.text, &mut first);
            let events = Events::new(Source::Reply(reply), Some(first));
            Ok((legacy::stream(events), None))
        }
        Ok(None) if wire.is_gone() => Err(gone(id)),
        // Taken back, or not answered yet.
        Ok(None) | Err(_) => Ok((
            legacy::stream(Events::new(Source::Reply(reply), None)),
            None,
        )),
    }
}

fn hold(body: Body, held: Option<Held>) -> Body {
    match held {
        None => body,
        held => http_body_util::BodyExt::boxed_unsync(Tied::new(body, None, held)),
    }
}

pub(super) fn taken(id: Option<&str>) -> Refusal {
    let why = "a request with this id is still waiting for its answer";
    Refusal::new(StatusCode::BAD_REQUEST, why).of(id)
}

pub(super) fn gone(id: Option<&str>) -> Refusal {
    Refusal::upstream("the server has gone, or could not be started").of(id)
}
