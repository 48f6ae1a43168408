//! What a command line asks for, where there is no call.

use std::{sync::Arc, time::Duration};

use super::{
    CaptureVerdict, Denial, InterfaceTerms, Outside, Payload, RuleRef, Terms,
    capture::{MAX_SNAP, interface, requested_filter},
};

/// What `capwarden exec` is asked to grant to its command. What is none is not asked: the
/// policy's own terms hold alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Interfaces by name, or `any`. None: what the policy lists.
    pub interfaces: Vec<String>,
    /// A capture filter in libpcap's language.
    pub filter: Option<String>,
    /// Packets in all; 0 for no limit.
    pub packets: Option<u64>,
    /// Bytes in all, as captured; 0 for no limit.
    pub bytes: Option<u64>,
    /// How long; zero for no limit.
    pub duration: Option<Duration>,
    /// What is kept after the transport header.
    pub payload: Option<Payload>,
}

/// The verdict on a command line where there is no policy: just what it asks, every interface if
/// it names none.
///
/// # Errors
///
/// The interface is no interface, or the filter cannot be one.
pub fn unpoliced(request: &Request) -> Result<CaptureVerdict, Box<Denial>> {
    let rule = RuleRef {
        file: Arc::from(""),
        line: 0,
        column: 0,
        path: "command line".to_owned(),
    };
    let deny = |reason: String| Box::new(Denial::new(reason, rule.clone()));
    let names = &request.interfaces;
    let interfaces = if names.is_empty() || names.iter().any(|name| name == "any") {
        InterfaceTerms::Any
    } else {
        let patterns = names.iter().map(|name| interface(name)).collect();
        InterfaceTerms::Matching(Result::map_err(patterns, deny)?)
    };
    let filter = requested_filter(request.filter.as_deref()).map_err(deny)?;
    Ok(CaptureVerdict {
        terms: Terms {
            interfaces,
            filters: filter.into_iter().collect(),
            outside: Outside::Narrow,
            packets: request.packets.filter(|n| *n != 0),
            bytes: request.bytes.filter(|n| *n != 0),
            duration: request.duration.filter(|time| !time.is_zero()),
            snap_length: MAX_SNAP,
            payload: request.payload.unwrap_or(Payload::Full),
        },
        changes: Vec::new(),
        rule,
    })
}
