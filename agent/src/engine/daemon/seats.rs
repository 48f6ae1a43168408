//! How many may be in at once: of all, and of each user, so that nobody takes what others need.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Places for a number of users' connections.
#[derive(Debug)]
pub(super) struct Seats {
    most: usize,
    each: usize,
    taken: Mutex<HashMap<u32, usize>>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    user: u32,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// All are taken.
    All(usize),
    /// The user has as many as each may have.
    User(usize),
}

impl Seats {
    /// So many for all, and for each user.
    pub(super) fn new(most: usize, each: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            each,
            taken: Mutex::default(),
        })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        // Whole after every statement.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are taken.
    pub(super) fn count(&self) -> usize {
        self.taken().values().sum()
    }

    /// Whether all are taken.
    pub(super) fn are_full(&self) -> bool {
        self.count() >= self.most
    }

    /// Takes one for a user.
    pub(super) fn take(self: &Arc<Self>, user: u32) -> Result<Seat, Full> {
        let mut taken = self.taken();
        if taken.values().sum::<usize>() >= self.most {
            return Err(Full::All(self.most));
        }
        let own = taken.entry(user).or_default();
        if *own >= self.each {
            return Err(Full::User(self.each));
        }
        *own += 1;
        Ok(Seat {
            seats: Arc::clone(self),
            user,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        if let Some(count) = taken.get_mut(&self.user) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_leaves_room_for_others() {
        let seats = Seats::new(4, 3);
        let mut own: Vec<Seat> = (0..3).map(|_| seats.take(1).unwrap()).collect();
        assert_eq!(seats.take(1).unwrap_err(), Full::User(3));
        let other = seats.take(2).unwrap();
        assert_eq!(seats.take(3).unwrap_err(), Full::All(4));
        assert!(seats.are_full());
        own.pop();
        drop(other);
        assert_eq!(seats.count(), 2);
        own.push(seats.take(1).unwrap());
        drop(own);
        assert_eq!(seats.count(), 0);
        assert!(seats.taken().is_empty());
    }
}
