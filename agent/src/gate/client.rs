//! From the client to the server. What is not a call is here; calls are in `call`.

use super::{
    book::Flight,
    call::Start,
    conversation::{Conversation, Rooms, Ticket, length},
    envelope::{Envelope, Fault, Id, Refused},
    events::Side,
    json::Members,
    question::Asking,
    reply,
};

/// What becomes of a client's message.
pub(super) enum FromClient<T> {
    /// It is forwarded as it is. A request is in flight from now on: if it cannot be forwarded,
    /// [`Conversation::undelivered`] is to be told.
    Forward(Option<Id>),
    /// This is the answer, and nothing is forwarded.
    Answer(Answer),
    /// This call is forwarded in place of it, as for [`Self::Forward`].
    Edited(Id, String),
    /// Nothing is forwarded, and there is nobody to answer.
    Drop(String),
    /// A session is to be opened first: [`Conversation::open`].
    Open(Box<Start<T>>),
    /// The client's user is to be asked first: the line is for the client, and then
    /// [`Conversation::hear`]. Only where [`Conversation::holding`] says so.
    Ask(Box<Asking>),
}

/// The gate's own answer to a request.
pub(super) struct Answer {
    /// A line.
    pub(super) line: String,
    /// The message is not one that MCP allows, so that it could not even be decided.
    pub(super) malformed: bool,
}

impl Answer {
    pub(super) fn to(line: String) -> Self {
        Self {
            line,
            malformed: false,
        }
    }

    pub(super) fn malformed(line: String) -> Self {
        Self {
            line,
            malformed: true,
        }
    }
}

impl<G: Rooms> Conversation<G> {
    /// What is to be done with a message of the client.
    pub(super) async fn client_message(&self, message: &[u8]) -> FromClient<Ticket<G>> {
        match Envelope::parse(message) {
            Ok(envelope) => self.decide(message, &envelope).await,
            Err(refused) => FromClient::Answer(self.unreadable(message, &refused)),
        }
    }

    /// A message of the client that cannot be read, or in more than one way.
    pub(super) fn unreadable(&self, message: &[u8], refused: &Refused<'_>) -> Answer {
        let why = refused.fault.to_string();
        self.dropped(Side::Client, length(message), &why, message);
        Answer::malformed(reply::error(refused.id, refused.fault.code(), &why))
    }

    /// A message of the client that is longer than is read.
    pub(super) fn too_long(&self, bytes: u64) -> Answer {
        let limit = self.gate.bounds().client_line;
        let why = format!("the line is too long: {bytes} bytes, at most {limit} are read");
        self.dropped(Side::Client, bytes, &why, b"");
        Answer::malformed(reply::error(None, -32600, &why))
    }

    /// The same as [`Self::client_message`], of a message that was read already.
    pub(super) async fn decide(
        &self,
        message: &[u8],
        envelope: &Envelope<'_>,
    ) -> FromClient<Ticket<G>> {
        match envelope.method.as_deref() {
            None => {
                let id = envelope.id.as_ref().map(|(id, _)| id);
                if self.takes(message, id).await {
                    return FromClient::Drop("it was for the gate".to_owned());
                }
                // An answer to a request of the server.
                FromClient::Forward(None)
            }
            Some("tools/call") => self.call(message, envelope).await,
            Some(method) => self.other(message, method, envelope),
        }
    }

    /// Anything but a call: forwarded as it is.
    fn other(
        &self,
        message: &[u8],
        method: &str,
        envelope: &Envelope<'_>,
    ) -> FromClient<Ticket<G>> {
        let flight = match method {
            "initialize" => Flight::Initialize,
            "tools/list" => Flight::ToolList,
            _ => Flight::Passing,
        };
        match &envelope.id {
            // Its answer could not be told from any other, and would be let through whole.
            Some((Id::Null, text)) if matches!(flight, Flight::ToolList) => {
                let why = Fault::BadId.to_string();
                self.dropped(Side::Client, length(message), &why, message);
                FromClient::Answer(Answer::malformed(reply::error(Some(text), -32600, &why)))
            }
            None | Some((Id::Null, _)) => {
                match method {
                    "notifications/cancelled" => self.cancelled(envelope.params),
                    "notifications/initialized" => self.handshake().confirmed(),
                    _ => {}
                }
                FromClient::Forward(None)
            }
            Some((id, text)) => {
                let speaks = !matches!(method, "initialize" | "ping");
                if let Err(full) = self.admit(id, flight) {
                    let why = full.to_string();
                    self.dropped(Side::Client, length(message), &why, message);
                    let line = reply::error(Some(text), full.code(), &why);
                    return FromClient::Answer(Answer::to(line));
                }
                if speaks {
                    self.speaks();
                }
                if method == "initialize" {
                    if self.holds {
                        // No other transport has a server that is replaced.
                        self.handshake().asked(envelope.params);
                    }
                    self.questions().declared(envelope.params);
                }
                FromClient::Forward(Some(id.clone()))
            }
        }
    }

    fn cancelled(&self, params: Option<&str>) {
        let Some(text) = params
            .and_then(|params| Members::parse(params).ok())
            .and_then(|members| members.get("requestId"))
        else {
            return;
        };
        if let Some(id) = Id::parse(text) {
            self.cancel(&id, text);
        }
    }
}
