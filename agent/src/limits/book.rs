//! Reserving and giving back, on whatever keeps the counters.

use std::collections::HashMap;

use super::{
    clock::Reading,
    record::{Full, Record, Stamp},
};
use crate::{
    policy::{LimitUse, Refund},
    store::{Found, Held, Key, StoreError},
};

/// One use that is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Charge {
    pub(super) key: Key,
    pub(super) stamp: Stamp,
    pub(super) amount: u64,
    pub(super) refund: Refund,
}

/// Why nothing was reserved.
#[derive(Debug)]
pub(super) enum Denied<'a> {
    /// This use does not fit; of several, the one that takes longest to.
    Full(&'a LimitUse, Full),
    Store(StoreError),
}

impl From<StoreError> for Denied<'_> {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Counters that nobody else reads or writes meanwhile.
pub(super) trait Book {
    /// Where a record belongs.
    type Place;

    fn read(&mut self, key: &Key) -> Result<(Self::Place, Option<Record>), StoreError>;

    fn write(
        &mut self,
        place: &Self::Place,
        record: &Record,
        reading: Reading,
    ) -> Result<(), StoreError>;
}

/// Uses that fit, and are not yet written down.
pub(super) struct Fitting<P> {
    entries: Vec<(Key, P, Record)>,
    pub(super) charges: Vec<Charge>,
}

/// Charges all uses to the counters as they are now, or none; those of `instead_of` are given back
/// first.
pub(super) fn fit<'a, B: Book>(
    book: &mut B,
    uses: &[(Key, &'a LimitUse)],
    instead_of: &[Charge],
    reading: Reading,
) -> Result<Fitting<B::Place>, Denied<'a>> {
    let mut entries: Vec<(Key, B::Place, Record)> = Vec::with_capacity(uses.len());
    for old in instead_of {
        let known = entries.iter_mut().find(|(key, ..)| *key == old.key);
        if let Some((.., record)) = known {
            record.refund(old.stamp, old.amount);
        } else if let (place, Some(mut record)) = book.read(&old.key)? {
            record.advance(reading);
            record.refund(old.stamp, old.amount);
            entries.push((old.key, place, record));
        }
    }
    let mut charges = Vec::with_capacity(uses.len());
    let mut worst: Option<(&LimitUse, Full)> = None;
    for (key, one) in uses {
        // Two uses of one counter see each other.
        let at = match entries.iter().position(|(other, ..)| other == key) {
            Some(at) => at,
            None => {
                let (place, record) = book.read(key)?;
                let mut record = record.unwrap_or_else(|| Record::new(one.window, reading));
                if record.advance(reading) {
                    book.write(&place, &record, reading)?;
                }
                entries.push((*key, place, record));
                entries.len() - 1
            }
        };
        let Some((.., record)) = entries.get_mut(at) else {
            continue;
        };
        match record.check(one.amount, one.max, reading) {
            Ok(()) => charges.push(Charge {
                key: *key,
                stamp: record.charge(one.amount, one.max),
                amount: one.amount,
                refund: one.refund,
            }),
            Err(full) if worst.is_none_or(|(_, other)| takes_longer(&full, &other)) => {
                worst = Some((one, full));
            }
            Err(_) => {}
        }
    }
    match worst {
        Some((one, full)) => Err(Denied::Full(one, full)),
        None => Ok(Fitting { entries, charges }),
    }
}

fn takes_longer(one: &Full, other: &Full) -> bool {
    match (one.wait, other.wait) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(one), Some(other)) => one > other,
    }
}

/// Writes down what [`fit`] charged. If that fails, or the process dies, some uses may be counted for a call that is
/// never made; none is made that is not counted.
pub(super) fn write_down<B: Book>(
    book: &mut B,
    fitting: &Fitting<B::Place>,
    reading: Reading,
) -> Result<(), StoreError> {
    for (_, place, record) in &fitting.entries {
        book.write(place, record, reading)?;
    }
    Ok(())
}

/// Charges uses that are known to fit, and gives nothing back: for as long as it is open whether the
/// call can be made, both count, what it was charged and what it is charged now.
pub(super) fn charge_all<B: Book>(
    book: &mut B,
    uses: &[(Key, &LimitUse)],
    reading: Reading,
) -> Result<Vec<Charge>, StoreError> {
    let mut charges = Vec::with_capacity(uses.len());
    for (key, one) in uses {
        let (place, record) = book.read(key)?;
        let mut record = record.unwrap_or_else(|| Record::new(one.window, reading));
        record.advance(reading);
        let stamp = record.charge(one.amount, one.max);
        book.write(&place, &record, reading)?;
        charges.push(Charge {
            key: *key,
            stamp,
            amount: one.amount,
            refund: one.refund,
        });
    }
    Ok(charges)
}

/// Gives a use back.
pub(super) fn give_back<B: Book>(
    book: &mut B,
    charge: &Charge,
    reading: Reading,
) -> Result<(), StoreError> {
    let (place, record) = book.read(&charge.key)?;
    // What was forgotten was spent: there is nothing to give back.
    let Some(mut record) = record else {
        return Ok(());
    };
    record.advance(reading);
    record.refund(charge.stamp, charge.amount);
    book.write(&place, &record, reading)
}

/// Counters in memory, for what ends with the process.
#[derive(Debug, Default)]
pub(super) struct Memory {
    records: HashMap<Key, Record>,
}

/// How many counters are kept in memory at most.
pub(super) const MOST_IN_MEMORY: usize = 16_384;

impl Memory {
    pub(super) fn get(&self, key: &Key) -> Option<&Record> {
        self.records.get(key)
    }
}

impl Book for Memory {
    type Place = Key;

    fn read(&mut self, key: &Key) -> Result<(Key, Option<Record>), StoreError> {
        Ok((*key, self.records.get(key).cloned()))
    }

    fn write(&mut self, key: &Key, record: &Record, reading: Reading) -> Result<(), StoreError> {
        if let Some(old) = self.records.get_mut(key) {
            old.clone_from(record);
            return Ok(());
        }
        if self.records.len() >= MOST_IN_MEMORY {
            self.records.retain(|_, record| !record.is_spent(reading));
        }
        if self.records.len() >= MOST_IN_MEMORY {
            return Err(StoreError::Full {
                path: "the memory for counters".into(),
                room: u64::try_from(MOST_IN_MEMORY).unwrap_or(u64::MAX),
            });
        }
        self.records.insert(*key, record.clone());
        Ok(())
    }
}

impl Book for Held<'_> {
    type Place = Found;

    fn read(&mut self, key: &Key) -> Result<(Found, Option<Record>), StoreError> {
        let mut found = self.get(key)?;
        let record = match found.record.take() {
            None => None,
            Some(bytes) => Some(Record::decode(&bytes).ok_or_else(|| self.no_record())?),
        };
        Ok((found, record))
    }

    fn write(
        &mut self,
        found: &Found,
        record: &Record,
        reading: Reading,
    ) -> Result<(), StoreError> {
        self.put(found, &record.encode(), |bytes| {
            Record::decode(bytes).is_some_and(|record| record.is_spent(reading))
        })
    }
}
