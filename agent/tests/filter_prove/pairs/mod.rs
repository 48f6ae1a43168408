//! Pairs of filters whose relation is known: by what their words mean, or by what is said above
//! them. The answer is given in both directions.

pub mod cooked;
pub mod everyday;
pub mod nasty;
pub mod raw;

/// What is to come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Known {
    Contained,
    WellFormed,
    Not,
}

/// A request, a policy, whether the first is within the second, and the other way round.
pub type Pair = (&'static str, &'static str, Known, Known);
