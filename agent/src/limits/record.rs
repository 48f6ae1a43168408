//! What one counter holds, and its arithmetic. Pure: the time comes in as a [`Reading`]. What changes here
//! changes in `redis/script.lua`, which does the same for counters in Redis.
//!
//! - **Calendar**: a count, and the start of the window that it belongs to.
//! - **Sliding**: the uses of the last while, each with its time: exact as long as there are no
//!   more than [`MOST_CELLS`] of them. Where there are more, the two neighbours that are closest in
//!   time become one, at the time of the later: nothing is forgotten early, so no more than `max`
//!   is ever admitted in any stretch of the window's length; a use may count up to 1/20 of the window
//!   longer than it should.
//! - **Bucket**: how much of the bucket is empty, in integers that never round.

use std::time::Duration;

use super::clock::{Hand, Reading, in_micros};
use crate::policy::{Unit, Window};

/// Uses that a sliding window tells apart.
pub(super) const MOST_CELLS: usize = 39;

/// One counter.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    hand: Hand,
    tally: Tally,
}

#[derive(Clone, Debug, PartialEq)]
enum Tally {
    Calendar {
        unit: Unit,
        start: u64,
        count: u64,
    },
    Sliding {
        length: u64,
        /// Oldest first.
        cells: Vec<Cell>,
    },
    Bucket {
        length: u64,
        /// How many tokens flow back in `length`: the least `max` of the uses since it was full.
        /// Rules of different `max` that share a bucket do not fill it for each other.
        flow: u64,
        /// Since when tokens flow back like that. What was charged before is not given back.
        since: u64,
        /// Tokens that are out, times `length`.
        out: u128,
    },
}

/// Uses of a sliding window that are told as one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cell {
    first: u64,
    last: u64,
    amount: u64,
}

/// Which part of a counter a use was charged to, for its refund.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(u64);

impl Stamp {
    /// For counters that are reckoned elsewhere.
    pub(super) const fn of(number: u64) -> Self {
        Self(number)
    }

    pub(super) const fn number(self) -> u64 {
        self.0
    }
}

/// Why a use does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    /// What counts now.
    pub(super) used: u64,
    /// How long it is until it would fit, if nobody else comes first; none if it never will.
    pub(super) wait: Option<Duration>,
}

impl Record {
    /// A counter that nobody has used.
    pub(super) fn new(window: Window, reading: Reading) -> Self {
        let hand = Hand::new(reading);
        let tally = match window {
            Window::Calendar(unit) => Tally::Calendar {
                unit,
                start: start(hand.at, unit),
                count: 0,
            },
            Window::Sliding(length) => Tally::Sliding {
                length: in_micros(length).max(1),
                cells: Vec::new(),
            },
            Window::Bucket(length) => Tally::Bucket {
                length: in_micros(length).max(1),
                flow: 0,
                since: hand.at,
                out: 0,
            },
        };
        Self { hand, tally }
    }

    /// Moves it to now: what no longer counts goes. True if that must be kept, whatever comes
    /// after.
    pub(super) fn advance(&mut self, reading: Reading) -> bool {
        let anchored = self.hand.must_be_anchored(reading);
        let hand = self.hand.moved(reading);
        let passed = hand.at.saturating_sub(self.hand.at);
        self.hand = hand;
        match &mut self.tally {
            Tally::Calendar {
                unit,
                start: at,
                count,
            } => {
                let now = start(hand.at, *unit);
                if now > *at {
                    (*at, *count) = (now, 0);
                }
            }
            Tally::Sliding { length, cells } => {
                cells.retain(|cell| cell.last.saturating_add(*length) > hand.at);
            }
            Tally::Bucket {
                flow, since, out, ..
            } => {
                *out = out.saturating_sub(product(passed, *flow));
                if *out == 0 {
                    (*flow, *since) = (0, hand.at);
                }
            }
        }
        anchored
    }

    /// What counts, as of the last [`advance`](Self::advance).
    pub(super) fn used(&self) -> u64 {
        match &self.tally {
            Tally::Calendar { count, .. } => *count,
            Tally::Sliding { cells, .. } => sum(cells),
            Tally::Bucket { length, out, .. } => {
                u64::try_from(out.div_ceil(u128::from(*length))).unwrap_or(u64::MAX)
            }
        }
    }

    /// Whether a use fits, as of the last [`advance`](Self::advance), which was to `reading`.
    pub(super) fn check(&self, amount: u64, max: u64, reading: Reading) -> Result<(), Full> {
        let target = match &self.tally {
            Tally::Calendar { unit, start, count } => match count.checked_add(amount) {
                Some(sum) if sum <= max => return Ok(()),
                _ => start.saturating_add(in_micros(length_of(*unit))),
            },
            Tally::Sliding { length, cells } => {
                let mut left = sum(cells);
                let mut leaving = None;
                for cell in cells {
                    if left.checked_add(amount).is_some_and(|sum| sum <= max) {
                        break;
                    }
                    left = left.saturating_sub(cell.amount);
                    leaving = Some(cell.last.saturating_add(*length));
                }
                match leaving {
                    None if left.checked_add(amount).is_some_and(|sum| sum <= max) => return Ok(()),
                    None => self.hand.at,
                    Some(at) => at,
                }
            }
            Tally::Bucket {
                length, flow, out, ..
            } => {
                let wanted = out.saturating_add(product(amount, *length));
                match wanted.checked_sub(product(max, *length)) {
                    None | Some(0) => return Ok(()),
                    Some(over) => {
                        let flow = u128::from(*flow).max(1);
                        let passed = u64::try_from(over.div_ceil(flow)).unwrap_or(u64::MAX);
                        self.hand.at.saturating_add(passed)
                    }
                }
            }
        };
        Err(Full {
            used: self.used(),
            wait: (amount <= max).then(|| self.hand.until(target, reading)),
        })
    }

    /// Counts a use that was checked.
    pub(super) fn charge(&mut self, amount: u64, max: u64) -> Stamp {
        let now = self.hand.at;
        match &mut self.tally {
            Tally::Calendar { start, count, .. } => {
                *count = count.saturating_add(amount);
                Stamp(*start)
            }
            Tally::Sliding { cells, .. } => {
                if amount > 0 {
                    cells.push(Cell {
                        first: now,
                        last: now,
                        amount,
                    });
                    join_closest(cells);
                }
                Stamp(now)
            }
            Tally::Bucket {
                length,
                flow,
                since,
                out,
            } => {
                if *flow == 0 || max < *flow {
                    (*flow, *since) = (max, now);
                }
                *out = out.saturating_add(product(amount, *length));
                Stamp(now)
            }
        }
    }

    /// Gives a use back, as of the last [`advance`](Self::advance), to the window that it was
    /// charged to; if that has passed, there is nothing to give back.
    pub(super) fn refund(&mut self, stamp: Stamp, amount: u64) {
        match &mut self.tally {
            Tally::Calendar { start, count, .. } if *start == stamp.0 => {
                *count = count.saturating_sub(amount);
            }
            Tally::Calendar { .. } => {}
            Tally::Sliding { length, cells } => {
                if stamp.0.saturating_add(*length) <= self.hand.at {
                    return;
                }
                let holds = |cell: &&mut Cell| cell.first <= stamp.0 && stamp.0 <= cell.last;
                // Neighbours may share a moment: the amount is in one of them, or in both.
                let mut left = amount;
                for cell in cells.iter_mut().filter(holds) {
                    let given = left.min(cell.amount);
                    cell.amount -= given;
                    left -= given;
                }
                cells.retain(|cell| cell.amount > 0);
            }
            Tally::Bucket {
                length,
                flow,
                since,
                out,
            } => {
                if stamp.0 < *since {
                    return;
                }
                // What has flowed back since could be this use's own.
                let passed = self.hand.at.saturating_sub(stamp.0);
                let own = product(amount, *length).saturating_sub(product(passed, *flow));
                *out = out.saturating_sub(own);
            }
        }
    }

    /// Whether it may be forgotten: nothing in it counts, by its own hand or by the wall clock.
    pub(super) fn is_spent(&self, reading: Reading) -> bool {
        if reading.wall < self.hand.at {
            return false;
        }
        let mut now = self.clone();
        now.advance(reading);
        now.used() == 0
    }
}

fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

fn sum(cells: &[Cell]) -> u64 {
    cells
        .iter()
        .fold(0, |sum, cell| sum.saturating_add(cell.amount))
}

/// Makes room for one more: of `n + 1` cells in a window, the closest neighbours are at most
/// `2 / (n + 1)` of the window apart.
fn join_closest(cells: &mut Vec<Cell>) {
    if cells.len() <= MOST_CELLS {
        return;
    }
    let spans = cells.windows(2).map(|pair| match pair {
        [a, b] => b.last.saturating_sub(a.first),
        _ => u64::MAX,
    });
    let Some((at, _)) = spans.enumerate().min_by_key(|(_, span)| *span) else {
        return;
    };
    let earlier = cells.remove(at);
    if let Some(joined) = cells.get_mut(at) {
        joined.first = earlier.first;
        joined.amount = joined.amount.saturating_add(earlier.amount);
    }
}

/// The length of a calendar window.
pub(super) fn length_of(unit: Unit) -> Duration {
    Duration::from_secs(match unit {
        Unit::Minute => 60,
        Unit::Hour => 3_600,
        Unit::Day => 86_400,
    })
}

/// Since 1970 began at midnight and a day of UTC has 86,400 seconds of Unix time, windows start
/// at multiples of their length.
fn start(at: u64, unit: Unit) -> u64 {
    at - at % in_micros(length_of(unit))
}

impl Record {
    /// For the store: numbers of 64 bits, the least byte first.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        let mut put = |numbers: &[u64]| {
            for number in numbers {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        };
        put(&[self.hand.at, self.hand.since_boot, self.hand.boot]);
        match &self.tally {
            Tally::Calendar { unit, start, count } => {
                put(&[1, length_of(*unit).as_secs(), *start, *count]);
            }
            Tally::Sliding { length, cells } => {
                put(&[2, *length]);
                for cell in cells {
                    put(&[cell.first, cell.last, cell.amount]);
                }
            }
            Tally::Bucket {
                length,
                flow,
                since,
                out,
            } => {
                put(&[3, *length, *flow, *since]);
                bytes.extend_from_slice(&out.to_le_bytes());
            }
        }
        bytes
    }

    /// What [`encode`](Self::encode) wrote; none if these bytes are something else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let hand = Hand {
            at: take(&mut rest)?,
            since_boot: take(&mut rest)?,
            boot: take(&mut rest)?,
        };
        let kind = take(&mut rest)?;
        let length = take(&mut rest)?;
        let tally = match kind {
            1 => Tally::Calendar {
                unit: [Unit::Minute, Unit::Hour, Unit::Day]
                    .into_iter()
                    .find(|unit| length_of(*unit).as_secs() == length)?,
                start: take(&mut rest)?,
                count: take(&mut rest)?,
            },
            2 if length > 0 => {
                let mut cells = Vec::with_capacity(MOST_CELLS + 1);
                while !rest.is_empty() {
                    cells.push(Cell {
                        first: take(&mut rest)?,
                        last: take(&mut rest)?,
                        amount: take(&mut rest)?,
                    });
                }
                (cells.len() <= MOST_CELLS).then_some(Tally::Sliding { length, cells })?
            }
            3 if length > 0 => {
                let (flow, since) = (take(&mut rest)?, take(&mut rest)?);
                let (out, after) = rest.split_first_chunk()?;
                rest = after;
                Tally::Bucket {
                    length,
                    flow,
                    since,
                    out: u128::from_le_bytes(*out),
                }
            }
            _ => return None,
        };
        rest.is_empty().then_some(Self { hand, tally })
    }
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}
