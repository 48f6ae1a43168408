//! How many may be connected at once: few of each user who has shown no token, and those for moments only;
//! whoever has shown one has a seat that no stranger can take.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections that have shown no token.
const GUESTS: usize = 32;
/// Of one user: a browser has up to six.
const GUESTS_OF_ONE: usize = 8;
/// How long such a connection lasts.
const MOMENT: Duration = Duration::from_secs(3);
/// Connections that have shown the token.
const MEMBERS: usize = 32;

/// All seats of a page.
pub(super) struct Seats {
    guests: Arc<Semaphore>,
    /// Guests of each user; of no user, where the kernel does not say whose they are.
    of_one: Mutex<HashMap<Option<u32>, usize>>,
    members: Arc<Semaphore>,
    moment: Duration,
}

/// One connection's seat.
pub(super) struct Seat(Mutex<Sits>);

enum Sits {
    Guest {
        user: Option<u32>,
        seats: Arc<Seats>,
        _permit: OwnedSemaphorePermit,
    },
    Member {
        _permit: OwnedSemaphorePermit,
    },
}

impl Seats {
    pub(super) fn new() -> Arc<Self> {
        Self::lasting(MOMENT)
    }

    /// With another time for guests.
    pub(super) fn lasting(moment: Duration) -> Arc<Self> {
        Arc::new(Self {
            guests: Arc::new(Semaphore::new(GUESTS)),
            of_one: Mutex::default(),
            members: Arc::new(Semaphore::new(MEMBERS)),
            moment,
        })
    }

    /// How long a guest may stay.
    pub(super) fn moment(&self) -> Duration {
        self.moment
    }

    /// A place among the guests, for somebody of whom nothing is known yet; none if there is no room.
    pub(super) fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.guests).try_acquire_owned().ok()
    }

    /// Has a guest of this user sit down there; none if the user has enough of them.
    pub(super) fn sit(
        self: &Arc<Self>,
        room: OwnedSemaphorePermit,
        user: Option<u32>,
    ) -> Option<Seat> {
        let mut of_one = self.of_one();
        let own = of_one.entry(user).or_default();
        if *own >= GUESTS_OF_ONE {
            return None;
        }
        *own += 1;
        drop(of_one);
        Some(Seat(Mutex::new(Sits::Guest {
            user,
            seats: Arc::clone(self),
            _permit: room,
        })))
    }

    fn leave(&self, user: Option<u32>) {
        let mut of_one = self.of_one();
        if let Some(own) = of_one.get_mut(&user) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                of_one.remove(&user);
            }
        }
    }

    fn of_one(&self) -> MutexGuard<'_, HashMap<Option<u32>, usize>> {
        // Whole after every statement.
        self.of_one.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The token was shown: from now on it is a member's, if there is one left. Whether it is.
    pub(super) fn is_members(&self) -> bool {
        let mut sits = self.sits();
        let Sits::Guest { seats, .. } = &*sits else {
            return true;
        };
        let Ok(permit) = Arc::clone(&seats.members).try_acquire_owned() else {
            return false;
        };
        *sits = Sits::Member { _permit: permit };
        true
    }

    /// Whether it is still a guest's.
    pub(super) fn is_guests(&self) -> bool {
        matches!(&*self.sits(), Sits::Guest { .. })
    }

    fn sits(&self) -> MutexGuard<'_, Sits> {
        // Replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sits {
    fn drop(&mut self) {
        if let Self::Guest { user, seats, .. } = self {
            seats.leave(*user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(seats: &Arc<Seats>, user: u32) -> Option<Seat> {
        seats.sit(seats.room()?, Some(user))
    }

    #[test]
    fn nobody_takes_the_seats_of_others() {
        let seats = Seats::new();
        let own: Vec<_> = (0..GUESTS_OF_ONE)
            .map(|_| guest(&seats, 1).unwrap())
            .collect();
        assert!(guest(&seats, 1).is_none(), "one user has enough");
        let member = guest(&seats, 2).unwrap();
        assert!(member.is_guests() && member.is_members() && !member.is_guests());
        // With all seats of guests taken, those of members stay.
        let mut crowd = Vec::new();
        for user in 3_u32.. {
            match guest(&seats, user) {
                Some(seat) => crowd.push(seat),
                None => break,
            }
        }
        assert_eq!(own.len() + crowd.len(), GUESTS);
        assert!(own[0].is_members());
        drop(own);
        let again = guest(&seats, 1);
        assert!(again.is_some_and(|seat| seat.is_guests()));
        drop((crowd, member));
        assert!(seats.of_one().is_empty());
    }

    #[test]
    fn members_are_bounded_too() {
        let seats = Seats::new();
        let all: Vec<_> = (0..MEMBERS)
            .map(|user| guest(&seats, u32::try_from(user).unwrap()).unwrap())
            .collect();
        assert!(all.iter().all(Seat::is_members));
        let late = guest(&seats, 0).unwrap();
        assert!(!late.is_members() && late.is_guests());
        drop(all);
        assert!(late.is_members());
    }
}
