//! Where each key of a configuration stands.

use std::collections::BTreeMap;

use crate::policy::{
    RuleRef,
    reading::{Field, Section},
};

/// Where keys stand, by their names: in the last file that says them.
///
/// Where something stands is not what it says: all of these are equal.
#[derive(Clone, Debug, Default)]
pub struct Places(BTreeMap<String, RuleRef>);

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Places {
    pub(super) fn of(section: &Section<'_>) -> Self {
        let fields = section.entries.iter();
        let fields = fields.map(|entry| Field::new(section.source, entry, &section.path));
        Self(
            fields
                .map(|field| (field.key.to_owned(), field.rule()))
                .collect(),
        )
    }

    pub(super) fn then(mut self, later: Self) -> Self {
        self.0.extend(later.0);
        self
    }

    /// Where this key stands; none if no file says it.
    #[must_use]
    pub fn of_key(&self, key: &str) -> Option<&RuleRef> {
        self.0.get(key)
    }
}
