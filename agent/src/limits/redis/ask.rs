//! What the script is asked, and what it answers.

use super::{RemoteError, resp::Reply};
use crate::{
    limits::{
        book::Charge,
        clock::{Reading, in_micros},
        record::{Full, Stamp, length_of},
    },
    policy::{LimitUse, Window},
    store::Key,
};

/// What all keys begin with. The braces make a cluster keep them on one server, as a script needs.
const PREFIX: &str = "capwarden:{limits}:";

/// The largest amount and limit that the script reckons with; policies say at most 2^53. What is
/// beyond is taken for less allowed and more used.
const MOST: u64 = 1 << 51;

/// The keys and arguments of one run of the script.
#[derive(Debug, Default)]
pub(super) struct Question {
    pub(super) keys: Vec<String>,
    pub(super) arguments: Vec<String>,
}

impl Question {
    fn new(what: &str, wall: Option<u64>, reading: Reading) -> Self {
        Self {
            keys: Vec::new(),
            arguments: vec![
                what.to_owned(),
                wall.map(|wall| wall.to_string()).unwrap_or_default(),
                reading.since_boot.to_string(),
                format!("{:x}", reading.boot),
            ],
        }
    }

    /// To give some charges back and to reserve some uses, all or none. `wall` in place of the
    /// server's clock; of `reading`, only the boot clock counts.
    pub(super) fn reserve(
        uses: &[(Key, &LimitUse)],
        instead_of: &[Charge],
        wall: Option<u64>,
        reading: Reading,
    ) -> Self {
        let mut question = Self::new("reserve", wall, reading);
        question.arguments.push(instead_of.len().to_string());
        for charge in instead_of {
            question.keys.push(name(&charge.key));
            let amount = charge.amount.min(MOST);
            question
                .arguments
                .extend([charge.stamp.number().to_string(), amount.to_string()]);
        }
        for (key, one) in uses {
            question.keys.push(name(key));
            let (kind, length) = match one.window {
                Window::Calendar(unit) => ("c", length_of(unit)),
                Window::Sliding(length) => ("s", length),
                Window::Bucket(length) => ("b", length),
            };
            let length = in_micros(length).clamp(1, MOST);
            question.arguments.extend([
                kind.to_owned(),
                length.to_string(),
                one.max.min(MOST).to_string(),
                one.amount.min(MOST + 1).to_string(),
            ]);
        }
        question
    }

    /// To read one counter.
    pub(super) fn read(key: &Key, wall: Option<u64>, reading: Reading) -> Self {
        let mut question = Self::new("read", wall, reading);
        question.arguments.push("0".to_owned());
        question.keys.push(name(key));
        question
    }
}

/// A counter's name there. The digest says what it counts only to whom knows that already.
fn name(key: &Key) -> String {
    let digits = key.iter().map(|byte| format!("{byte:02x}"));
    PREFIX
        .chars()
        .chain(digits.collect::<String>().chars())
        .collect()
}

/// What became of a reservation.
#[derive(Debug)]
pub(in crate::limits) enum Reserved {
    /// The stamps of the uses, in their order.
    All(Vec<Stamp>),
    /// Nothing was reserved, because this use does not fit; when that was, by the server's clock in
    /// microseconds.
    Full { which: usize, full: Full, wall: u64 },
}

/// Reads what the script answered to [`Question::reserve`] with so many uses.
pub(in crate::limits) fn reserved(reply: &Reply, uses: usize) -> Result<Reserved, RemoteError> {
    let words = words(reply)?;
    match words.as_slice() {
        ["ok", wall, stamps @ ..] if stamps.len() == uses => {
            number(wall)?;
            let stamps = stamps.iter().map(|stamp| Ok(Stamp::of(number(stamp)?)));
            stamps.collect::<Result<_, _>>().map(Reserved::All)
        }
        ["full", wall, which, used, wait] => {
            let which = usize::try_from(number(which)?).unwrap_or(0);
            let which = which.checked_sub(1).filter(|which| *which < uses);
            // A wait that no number holds is longer than can be told.
            let wait = (!wait.is_empty())
                .then(|| std::time::Duration::from_micros(wait.parse().unwrap_or(u64::MAX)));
            Ok(Reserved::Full {
                which: which.ok_or_else(strange)?,
                full: Full {
                    used: number(used)?,
                    wait,
                },
                wall: number(wall)?,
            })
        }
        _ => Err(strange()),
    }
}

/// Reads what the script answered to [`Question::read`].
pub(in crate::limits) fn count(reply: &Reply) -> Result<u64, RemoteError> {
    match words(reply)?.as_slice() {
        ["ok", _, count] => number(count),
        _ => Err(strange()),
    }
}

fn words(reply: &Reply) -> Result<Vec<&str>, RemoteError> {
    let Reply::List(items) = reply else {
        return Err(strange());
    };
    let words = items.iter().map(|item| item.text().ok_or_else(strange));
    words.collect()
}

fn number(text: &str) -> Result<u64, RemoteError> {
    text.parse().map_err(|_| strange())
}

fn strange() -> RemoteError {
    RemoteError::Answer("its answer is not the script's".to_owned())
}
