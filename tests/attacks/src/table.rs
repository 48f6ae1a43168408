//! All rows.

use anyhow::{Result, bail};

use crate::{families::FAMILIES, row::Row};

/// In the order of the families.
pub(crate) fn rows() -> impl Iterator<Item = &'static Row> {
    FAMILIES.iter().copied().flatten()
}

/// By its id.
pub(crate) fn find(id: &str) -> Option<&'static Row> {
    rows().find(|row| row.id == id)
}

/// Those that are named, by their ids or all of a family by its letter; every row if nobody is.
///
/// # Errors
/// One of the names means no row.
pub(crate) fn wanted(names: &[String]) -> Result<Vec<&'static Row>> {
    let means =
        |name: &str, row: &Row| row.id == name || (name.len() == 1 && row.id.starts_with(name));
    if let Some(name) = names
        .iter()
        .find(|name| !rows().any(|row| means(name, row)))
    {
        bail!(
            "--only {name}: there is no such row; a row is named like B18b, all of a family like B"
        );
    }
    let wanted = |row: &&Row| names.is_empty() || names.iter().any(|name| means(name, row));
    Ok(rows().filter(wanted).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn rows_are_named_by_id_or_family_and_what_is_neither_is_refused() {
        let ids = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            wanted(&names).map(|rows| rows.iter().map(|row| row.id).collect::<Vec<_>>())
        };
        assert_eq!(ids(&["F1", "B18b"]).unwrap(), ["B18b", "F1"]);
        assert!(ids(&["G"]).unwrap().iter().all(|id| id.starts_with('G')));
        assert_eq!(ids(&[]).unwrap().len(), rows().count());
        for unknown in ["", "B999", "Z", "B18b "] {
            assert!(ids(&["F1", unknown]).is_err(), "{unknown}");
        }
    }

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
