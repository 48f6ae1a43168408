//! Why a call is not admitted, for the model and the operator.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::{clock::Reading, record::Full, redis::RemoteError};
use crate::{
    policy::{LimitUse, Scope, Unit, Window},
    store::StoreError,
    words,
};

/// Why nothing was reserved. The call must not be forwarded.
#[derive(Debug)]
pub enum Refused {
    /// A limit is reached.
    Reached(Box<LimitReached>),
    /// The counters cannot be asked.
    Unavailable(LimitsError),
}

/// The counters cannot be asked, or not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LimitsError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host does not tell the time well enough.
    #[error("cannot read /proc/sys/kernel/random/boot_id: {0}")]
    Clock(std::io::Error),
    /// There is no randomness for keys.
    #[error("cannot read /dev/urandom: {0}")]
    Random(std::io::Error),
    /// Shared counters cannot be asked.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Shared counters cannot be used on this host.
    #[error("cannot share counters: {0}")]
    Share(std::io::Error),
}

/// A limit that is reached.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitReached {
    /// The limit, and what the call would use of it.
    pub limit: LimitUse,
    /// How much of it is used.
    pub used: u64,
    /// When the same call would be admitted, if nobody else comes first; none if it never will.
    pub again: Option<Again>,
}

/// When a call would be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// By the wall clock.
    pub at: Timestamp,
    /// From now.
    pub after: Duration,
}

impl LimitReached {
    pub(super) fn new(one: &LimitUse, full: Full, reading: Reading) -> Self {
        let now = i64::try_from(reading.wall).ok();
        let now = now.and_then(|now| Timestamp::from_microsecond(now).ok());
        Self {
            limit: one.clone(),
            used: full.used,
            again: full.wait.and_then(|after| {
                let at = now?.checked_add(SignedDuration::try_from(after).ok()?);
                Some(Again {
                    at: at.ok()?,
                    after,
                })
            }),
        }
    }

    /// One sentence: what was refused, and why.
    #[must_use]
    pub fn reason(&self) -> String {
        if let Some(text) = &self.limit.on_deny {
            return text.clone();
        }
        let (max, window) = (self.limit.max, over(self.limit.window));
        let whose = whose(self.limit.scope);
        if self.limit.amount > max {
            let amount = self.limit.amount;
            return format!(
                "This call would use {amount}, and at most {max} {window} is allowed {whose}."
            );
        }
        let used = match (self.used, self.limit.amount) {
            (used, 1) => format!("{used} of {max} are used"),
            (used, amount) => format!("{used} of {max} are used, and this call would use {amount}"),
        };
        format!("The limit of {max} {window} {whose} is reached: {used}.")
    }

    /// One sentence: when it will be allowed.
    #[must_use]
    pub fn instead(&self) -> String {
        match self.again {
            Some(again) => format!("Try again at {}, in {}.", clock(again), left(again.after)),
            None if self.limit.amount > self.limit.max => {
                format!("Ask for at most {}.", self.limit.max)
            }
            None => "It will not be allowed in the time that can be told.".to_owned(),
        }
    }
}

/// `per minute`, `in any 60 s`.
fn over(window: Window) -> String {
    match window {
        Window::Calendar(Unit::Minute) => "per minute".to_owned(),
        Window::Calendar(Unit::Hour) => "per hour".to_owned(),
        Window::Calendar(Unit::Day) => "per day".to_owned(),
        Window::Sliding(length) => format!("in any {}", left(length)),
        Window::Bucket(length) => format!("at once, refilled in {},", left(length)),
    }
}

fn whose(scope: Scope) -> &'static str {
    match scope {
        Scope::Grant => "for this caller",
        Scope::Principal => "for this principal",
        Scope::Connection => "for this connection",
        Scope::Server => "for this server",
        Scope::Tool => "for this tool",
        Scope::Global => "for all calls",
    }
}

/// `14:03:00 UTC`, and the day if it is far. Rounded up to the second: earlier would be too early.
fn clock(again: Again) -> String {
    let fraction = again.at.subsec_nanosecond();
    let up = if fraction > 0 {
        1_000_000_000 - i64::from(fraction)
    } else {
        0
    };
    let at = again
        .at
        .checked_add(SignedDuration::from_nanos(up))
        .unwrap_or(again.at);
    let at = at.to_zoned(TimeZone::UTC).datetime();
    let (hour, minute, second) = (at.hour(), at.minute(), at.second());
    let time = format!("{hour:02}:{minute:02}:{second:02} UTC");
    if again.after < Duration::from_secs(12 * 3_600) {
        return time;
    }
    format!("{time} on {}", at.date())
}

/// `37 s`, `2 min 5 s`, `3 h 20 min`, `2 d 4 h`, rounded up.
fn left(time: Duration) -> String {
    let seconds = time
        .as_secs()
        .saturating_add(u64::from(time.subsec_nanos() > 0));
    let rounded = match seconds {
        0..3_600 => seconds,
        3_600..86_400 => seconds.next_multiple_of(60),
        _ => seconds.checked_next_multiple_of(3_600).unwrap_or(seconds),
    };
    words::time(Duration::from_secs(rounded))
}
