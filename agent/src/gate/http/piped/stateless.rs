//! Requests of the stateless revision, which share a server.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hyper::{HeaderMap, Response, StatusCode};
use serde_json::Value;
use tokio::time::timeout;

use super::{
    Piped, Servers,
    exchange::{gone, respond, taken},
    renumber::Renumbered,
    streams::Kind,
    wire::Wire,
};
use crate::gate::{
    conversation::lock,
    envelope::{Envelope, Id},
    farewell,
    http::{
        headers::{self, STATELESS_VERSION},
        legacy, params,
        reception::Visitor,
        refusal::{Body, Refusal, json_response},
    },
    json::{self, Members},
    reply,
};

/// How long a server may take to say which revisions it speaks.
const DISCOVER: Duration = Duration::from_secs(10);
/// JSON-RPC: there is no such method.
const NO_METHOD: i64 = -32601;
/// MCP 2026-07-28: codes of errors for which the status is 400.
const BAD_REQUEST: std::ops::RangeInclusive<i64> = -32022..=-32020;

impl<S: Servers> Piped<S> {
    /// A message of the stateless protocol.
    pub(super) async fn stateless(
        &self,
        visitor: &Visitor,
        headers: &HeaderMap,
        message: &[u8],
        envelope: &Envelope<'_>,
    ) -> Result<Response<Body>, Refusal> {
        let id = headers::id_of(envelope);
        if envelope.id.is_none() {
            // Requests are taken back by closing their streams, and there is nothing else to tell.
            return Ok(legacy::accepted());
        }
        if envelope.method.as_deref() == Some("initialize") {
            // It would turn the server that others share into one of another revision.
            let line = reply::error(id, -32601, "there is no initialize in this revision");
            return Ok(json_response(StatusCode::NOT_FOUND, line));
        }
        headers::capabilities(envelope)?;
        if self.only_sessions.load(Ordering::Relaxed) {
            return Err(headers::only_sessions(envelope));
        }
        let Some(wire) = self.shared(visitor).await? else {
            return Err(headers::only_sessions(envelope));
        };
        params::agree(headers, envelope, &wire.marked(&called(envelope)))?;
        let text = str::from_utf8(message).unwrap_or_default();
        let renumbered = Renumbered::of(text, envelope, wire.next_number())
            .and_then(|(renumbered, text)| Some((renumbered.wire_id()?, renumbered, text)));
        let Some((wire_id, renumbered, text)) = renumbered else {
            return Err(Refusal::upstream("the request could not be numbered").of(id));
        };
        let asked = wire.ask(wire_id, text.as_bytes(), None, Some(renumbered));
        let reply = asked.await.map_err(|_| taken(id))?.map_err(|_| gone(id))?;
        let (mut response, answer) = respond(reply, &wire, id).await?;
        let code = answer
            .as_deref()
            .and_then(|answer| Members::parse(answer).ok()?.get("error").and_then(code_of));
        match code {
            Some(NO_METHOD) => *response.status_mut() = StatusCode::NOT_FOUND,
            Some(code) if BAD_REQUEST.contains(&code) => {
                *response.status_mut() = StatusCode::BAD_REQUEST;
            }
            _ => {}
        }
        Ok(response)
    }

    /// The server that requests of a caller share; none if it speaks revisions with sessions only.
    async fn shared(&self, visitor: &Visitor) -> Result<Option<Arc<Wire>>, Refusal> {
        let caller = visitor.shared_caller(&self.reception.server);
        let key = (caller.principal.clone(), caller.grant.clone());
        let place = Arc::clone(lock(&self.shared).entry(key).or_default());
        let mut place = place.lock().await;
        if let Some(session) = place.as_ref().filter(|session| !session.wire.is_gone()) {
            session.wire.heard();
            return Ok(Some(Arc::clone(&session.wire)));
        }
        *place = None;
        let session = self.start(visitor, Kind::Stateless, caller)?;
        match speaks_stateless(&session.wire).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::info!("the server speaks no revision of the protocol without sessions");
                self.only_sessions.store(true, Ordering::Relaxed);
                return Ok(None);
            }
            Err(Some(how)) => return Err(Refusal::upstream(how)),
            Err(None) => return Err(gone(None)),
        }
        if visitor
            .tether
            .as_ref()
            .is_some_and(|tether| tether.is_cut())
        {
            return Err(Refusal::unauthorized(Some("the grant has ended")));
        }
        let wire = Arc::clone(&session.wire);
        *place = Some(session);
        Ok(Some(wire))
    }
}

/// The tool that a call names; nothing of what is no call.
fn called<'a>(envelope: &Envelope<'a>) -> Cow<'a, str> {
    let params = envelope
        .params
        .filter(|_| envelope.method.as_deref() == Some("tools/call"));
    let name = params.and_then(|params| json::string(Members::parse(params).ok()?.get("name")?));
    name.unwrap_or_default()
}

fn code_of(error: &str) -> Option<i64> {
    let error = Members::parse(error).ok()?;
    serde_json::from_str(error.get("code")?).ok()
}

/// Whether a server speaks the stateless revision. If it does not say, how it has ended, as far as
/// that is known.
async fn speaks_stateless(wire: &Arc<Wire>) -> Result<bool, Option<String>> {
    let meta = serde_json::json!({
        "io.modelcontextprotocol/protocolVersion": STATELESS_VERSION,
        "io.modelcontextprotocol/clientInfo": {
            "name": "capwarden",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let ask = serde_json::json!({
        "jsonrpc": "2.0",
        "id": 0,
        "method": "server/discover",
        "params": { "_meta": meta },
    })
    .to_string();
    let asked = async {
        let id = Id::parse("0")?;
        let asked = wire.ask(id, ask.as_bytes(), None, None).await;
        asked.ok()?.ok()?.messages.recv().await
    };
    let answer = timeout(DISCOVER, asked).await.ok().flatten().ok_or(None)?;
    let answer: Value = serde_json::from_str(&answer.text).map_err(|_| None)?;
    if answer.pointer("/error/code") == Some(&farewell::GONE.into()) {
        let how = answer.pointer("/error/message").and_then(Value::as_str);
        return Err(how.map(str::to_owned));
    }
    let versions = answer.pointer("/result/supportedVersions");
    let mut versions = versions.and_then(Value::as_array).into_iter().flatten();
    Ok(versions.any(|version| version == STATELESS_VERSION))
}
