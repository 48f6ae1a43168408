//! Which files a configuration is read from, and whether nobody else could have written them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{ConfigError, drop_ins};
use crate::store;

/// Drop-ins at most.
const MOST: usize = 256;

/// The file and its drop-ins, in the order in which they count.
pub(super) fn of(file: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let mut files = vec![file.to_owned()];
    let directory = drop_ins(file);
    match fs::read_dir(&directory) {
        Ok(entries) => {
            let mut beside = Vec::new();
            for entry in entries {
                let entry = entry.map_err(|source| system(&directory, source))?;
                let path = entry.path();
                let name = entry.file_name();
                let hidden = name.as_encoded_bytes().starts_with(b".");
                if !hidden && path.extension().is_some_and(|end| end == "yaml") {
                    beside.push(path);
                }
                if beside.len() > MOST {
                    let why = io::Error::other(format!("more than {MOST} drop-ins are in it"));
                    return Err(system(&directory, why));
                }
            }
            beside.sort();
            files.extend(beside);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(system(&directory, error)),
    }
    for file in &files {
        match store::exposed(file, None) {
            Ok(None) => {}
            Ok(Some(by)) => {
                let file = file.clone();
                return Err(ConfigError::Exposed { file, by });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ConfigError::Missing(file.clone()));
            }
            Err(error) => return Err(system(file, error)),
        }
    }
    Ok(files)
}

fn system(file: &Path, source: io::Error) -> ConfigError {
    ConfigError::System {
        file: file.to_owned(),
        source,
    }
}
