//! Which sessions a log tells of at its end, for whoever is about to name one: quickly, and without proof.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufReader, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use super::{
    error::AuditError,
    line::{Entry, next_line},
};
use crate::session::SessionId;

/// Bytes of the log's end that are read.
const END: u64 = 512 << 10;

/// The sessions of the last records, each with its agent's name. The chain is not looked at.
///
/// # Errors
///
/// The log cannot be read, or is no file.
pub fn last_sessions(path: &Path) -> Result<BTreeSet<(String, SessionId)>, AuditError> {
    let failed = |source| AuditError::Open {
        path: path.to_owned(),
        source,
    };
    // A device is not even opened.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(AuditError::NotAFile(path.to_owned()));
    }
    let failed = |source| AuditError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let start = length.saturating_sub(END);
    file.seek(SeekFrom::Start(start)).map_err(failed)?;
    let mut stream = BufReader::new(file.take(END));
    let mut found = BTreeSet::new();
    while let Some(line) = next_line(&mut stream).map_err(failed)? {
        // The first may be the rest of one, which is no record.
        let Ok(entry) = Entry::parse(&line.bytes) else {
            continue;
        };
        if let Some(Ok(session)) = entry.text("session").map(str::parse) {
            found.insert((entry.agent, session));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{AgentStopped, Log, OperatorRecord, Record};

    fn stop(number: u32, why: &str) -> Record {
        Record::Operator(OperatorRecord {
            did: "stop".into(),
            session: SessionId(number),
            by: "uid:0".into(),
            why: Some(why.into()),
        })
    }

    #[test]
    fn last_sessions_are_those_of_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let log = Log::open(&path).unwrap();
        log.append(&stop(1, "long ago")).unwrap();
        for _ in 0..700 {
            let record = AgentStopped {
                why: "x".repeat(800).into(),
                status: None,
            };
            log.append(&Record::AgentStopped(record)).unwrap();
        }
        for number in [3, 2, 3] {
            log.append(&stop(number, "today")).unwrap();
        }
        fs::write(dir.path().join("short"), "{\"agent\":\"a\"}\nnonsense").unwrap();
        let agent = log.agent().to_owned();
        let found = last_sessions(&path).unwrap();
        let expected = [2, 3].map(|number| (agent.clone(), SessionId(number)));
        assert_eq!(found, expected.into());
        assert_eq!(
            last_sessions(&dir.path().join("short")).unwrap(),
            BTreeSet::new()
        );
        for none in ["/dev/zero", "/nonexistent"] {
            assert!(last_sessions(Path::new(none)).is_err(), "{none}");
        }
    }
}
