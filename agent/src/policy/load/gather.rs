//! More than one thing may be wrong with a policy, and its writer should not need a run for each.

use super::Loaded;
use crate::policy::PolicyError;

/// What is wrong so far.
#[derive(Default)]
pub(crate) struct Gather(Option<PolicyError>);

impl Gather {
    /// The value, if nothing is wrong with it.
    pub(crate) fn keep<T>(&mut self, loaded: Loaded<T>) -> Option<T> {
        match loaded {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(error);
                None
            }
        }
    }

    pub(crate) fn add(&mut self, error: PolicyError) {
        match &mut self.0 {
            None => self.0 = Some(error),
            Some(first) => first.join(error),
        }
    }

    /// Whether nothing is wrong so far. What is missing is told of only then: it may be what
    /// something wrong was meant to be.
    pub(crate) fn is_clean(&self) -> bool {
        self.0.is_none()
    }

    /// All that is wrong, or what was made of the rest.
    pub(crate) fn done<T>(self, value: Option<T>) -> Loaded<T> {
        match (self.0, value) {
            (Some(error), _) => Err(error),
            (None, Some(value)) => Ok(value),
            (None, None) => Err(PolicyError::incomplete()),
        }
    }

    /// The values of all, or what is wrong with each.
    pub(crate) fn all<T>(each: impl Iterator<Item = Loaded<T>>) -> Loaded<Vec<T>> {
        let mut gather = Self::default();
        let values = each.filter_map(|one| gather.keep(one)).collect();
        gather.done(Some(values))
    }
}
