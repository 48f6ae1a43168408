//! What labels say, in the audit log's words.

use crate::{
    gate::CallEnd,
    session::{EndReason, Relation},
};

/// Every end of a call, with its word.
pub(super) const CALL_ENDS: [(CallEnd, &str); 7] = [
    (CallEnd::Answered, "answered"),
    (CallEnd::ToolFailed, "tool-failed"),
    (CallEnd::RpcError, "rpc-error"),
    (CallEnd::InputRequired, "input-required"),
    (CallEnd::NotForwarded, "not-forwarded"),
    (CallEnd::Cancelled, "cancelled"),
    (CallEnd::Lost, "lost"),
];

/// Every end of a session, so that each is there from the start.
pub(super) const REASONS: [EndReason; 15] = [
    EndReason::PacketCap,
    EndReason::ByteCap,
    EndReason::ProcessCap,
    EndReason::MemoryCap,
    EndReason::Deadline,
    EndReason::StopCall,
    EndReason::Stopped,
    EndReason::Closed,
    EndReason::Unused,
    EndReason::CallFailed,
    EndReason::ClientClosed,
    EndReason::ServerExit,
    EndReason::ServerRestart,
    EndReason::Revoked,
    EndReason::Violation,
];

/// The reason in one word, as the audit log has it.
pub(in crate::telemetry) const fn reason_word(reason: EndReason) -> &'static str {
    match reason {
        EndReason::PacketCap => "packet-cap",
        EndReason::ByteCap => "byte-cap",
        EndReason::ProcessCap => "process-cap",
        EndReason::MemoryCap => "memory-cap",
        EndReason::Deadline => "deadline",
        EndReason::StopCall => "stop-call",
        EndReason::Stopped => "stopped",
        EndReason::Closed => "closed",
        EndReason::Unused => "unused",
        EndReason::CallFailed => "call-failed",
        EndReason::ClientClosed => "client-closed",
        EndReason::ServerExit => "server-exit",
        EndReason::ServerRestart => "server-restart",
        EndReason::Revoked => "revoked",
        EndReason::Violation => "violation",
    }
}

/// How a filter compares, in one word, as the audit log has it.
pub(super) const fn relation_word(relation: &Relation) -> &'static str {
    match relation {
        Relation::Same => "same",
        Relation::Narrower { .. } => "narrower",
        Relation::Wider { .. } => "wider",
        Relation::Different { .. } => "different",
        Relation::Unknown { .. } => "unknown",
    }
}
