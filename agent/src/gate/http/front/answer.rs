//! The server's response, as the client gets it.

use http_body_util::{BodyExt as _, Limited};
use hyper::{
    Response,
    body::{Body as _, Bytes, Incoming},
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use tokio::sync::mpsc;

use super::{Front, SHORT};
use crate::gate::{
    conversation::Rooms,
    events::CallEnd,
    http::{
        headers,
        reception::Held,
        refusal::{Body, Refusal, full},
        relay::{self, Relay, Waiting},
        tether::Tied,
    },
};

/// What is shown of an error page of the server.
const ERROR_PAGE: usize = 64 * 1024;

impl<G: Rooms> Front<G> {
    /// The server's response, as the client gets it.
    pub(super) async fn answer(
        &self,
        response: Response<Incoming>,
        mut waiting: Waiting<G>,
        notices: Option<mpsc::Receiver<String>>,
    ) -> Result<Response<Body>, Refusal> {
        let (head, body) = response.into_parts();
        let id = waiting.id().map(str::to_owned);
        let principal = waiting.client.conversation.caller.principal.clone();
        let refuse = |waiting: &mut Waiting<G>, why: &str| {
            // Whatever it says, it was carried out.
            waiting.over(CallEnd::Lost);
            Err(Refusal::upstream(why).of(id.as_deref()))
        };
        if head.status.is_redirection() || head.status.is_informational() {
            // It leads around the gate.
            return refuse(
                &mut waiting,
                "the server behind capwarden answers with a redirection: give its final address with --upstream",
            );
        }
        if head.headers.contains_key(CONTENT_ENCODING) {
            return refuse(
                &mut waiting,
                "the server behind capwarden compresses its answers, which it was not asked to",
            );
        }
        let kind = match headers::single(&head.headers, &CONTENT_TYPE) {
            Ok(kind) => kind.unwrap_or_default().to_ascii_lowercase(),
            Err(_) => {
                return refuse(
                    &mut waiting,
                    "the server behind capwarden sends two content types",
                );
            }
        };
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let body = match kind {
            "text/event-stream" if head.status.is_success() => {
                let held = self.answers.try_take(&principal, 0);
                Relay::new(body, waiting, notices, held, self.leave.of_others()).boxed_unsync()
            }
            "application/json" => {
                let limit = self.gate.bounds().server_line;
                let mut held = self.answers.try_take(&principal, 0);
                let text = match gather(body, limit, held.as_mut()).await {
                    Ok(text) => text,
                    Err(why) => return refuse(&mut waiting, why),
                };
                // What is accepted without an answer is often called JSON too.
                let answer = if text.is_empty() {
                    Some(String::new())
                } else {
                    relay::json(&text, &mut waiting)
                };
                waiting.over(if head.status.is_client_error() {
                    CallEnd::RpcError
                } else {
                    CallEnd::Lost
                });
                match answer {
                    Some(answer) if text.len() > SHORT => {
                        Tied::new(full(answer), None, held).boxed_unsync()
                    }
                    Some(answer) => full(answer),
                    None => {
                        return refuse(
                            &mut waiting,
                            "the server behind capwarden answered with something that is no message",
                        );
                    }
                }
            }
            _ if head.status.is_success() => {
                let empty = body.is_end_stream()
                    || Limited::new(body, 1)
                        .collect()
                        .await
                        .is_ok_and(|body| body.to_bytes().is_empty());
                if !empty {
                    return refuse(
                        &mut waiting,
                        "the server behind capwarden answered with something that is no message",
                    );
                }
                waiting.over(CallEnd::Lost);
                full(Bytes::new())
            }
            _ => {
                waiting.over(if head.status.is_client_error() {
                    CallEnd::RpcError
                } else {
                    CallEnd::Lost
                });
                let page = Limited::new(body, ERROR_PAGE).collect().await;
                full(
                    page.map(http_body_util::Collected::to_bytes)
                        .unwrap_or_default(),
                )
            }
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = head.status;
        *answer.headers_mut() = headers::end_to_end(&head.headers);
        Ok(answer)
    }
}

/// Reads an answer whole.
async fn gather(
    body: Incoming,
    limit: usize,
    mut held: Option<&mut Held>,
) -> Result<Bytes, &'static str> {
    const BROKEN: &str = "the answer of the server behind capwarden broke off, or is too long";
    let announced = body.size_hint().exact();
    if announced.is_some_and(|length| length <= SHORT as u64) {
        let whole = Limited::new(body, limit).collect().await;
        return whole
            .map(http_body_util::Collected::to_bytes)
            .map_err(|_| BROKEN);
    }
    let mut body = Limited::new(body, limit);
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BROKEN)?.into_data() else {
            continue;
        };
        let length = whole.len() + data.len();
        if length > SHORT && !held.as_mut().is_some_and(|held| held.grow(length)) {
            return Err("too many long answers wait to be taken: try again later");
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.into())
}
