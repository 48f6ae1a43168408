//! All rows.

use crate::{families::FAMILIES, row::Row};

/// In the order of the families.
pub(crate) fn rows() -> impl Iterator<Item = &'static Row> {
    FAMILIES.iter().copied().flatten()
}

/// By its id.
pub(crate) fn find(id: &str) -> Option<&'static Row> {
    rows().find(|row| row.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_one_row_each() {
        let mut ids: Vec<&str> = rows().map(|row| row.id).collect();
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert!(count > FAMILIES.len());
    }
}
