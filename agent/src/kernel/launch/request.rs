//! What a launcher is asked to start, as bytes: words that end with a null character each.

use std::{
    ffi::{CString, OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
};

use rustix::{io::Errno, process::chdir};

/// What a request begins with. A launcher of another version says no.
const MAGIC: &[u8] = b"capwarden launch 1";
/// The most bytes of a request: what a socket of the usual size holds.
pub(super) const LONGEST: usize = 128 * 1024;

/// A program to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// The program and its arguments.
    pub(super) command: Vec<OsString>,
    /// All of its environment.
    pub(super) environment: Vec<(OsString, OsString)>,
    /// Where it is started.
    pub(super) place: Place,
}

/// Where a process is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In this directory, or not at all: somebody has said so.
    In(CString),
    /// In this one, where the agent is; in `/` where that is not possible.
    Near(CString),
}

/// What a place begins with that need not be.
const NEAR: &[u8] = b"?";

impl Place {
    /// Enters it. A system call only: for the child between fork and exec.
    pub(super) fn enter(&self) -> Result<(), Errno> {
        match self {
            Self::In(directory) => chdir(&**directory),
            Self::Near(directory) => chdir(&**directory).or_else(|_| chdir(c"/")),
        }
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::In(directory) => directory.to_bytes().to_vec(),
            Self::Near(directory) => [NEAR, directory.to_bytes()].concat(),
        }
    }

    fn decode(word: &[u8]) -> Option<Self> {
        Some(match word.strip_prefix(NEAR) {
            Some(directory) => Self::Near(CString::new(directory).ok()?),
            None => Self::In(CString::new(word).ok()?),
        })
    }
}

impl Request {
    /// None if it is too long, or a word has a null character in it.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let variables = self
            .environment
            .iter()
            .flat_map(|(name, value)| [name, value]);
        let words: Vec<&[u8]> = self
            .command
            .iter()
            .chain(variables)
            .map(|word| word.as_bytes())
            .collect();
        if words.iter().any(|word| word.contains(&0)) {
            return None;
        }
        let count = self.command.len().to_string();
        let mut bytes = Vec::new();
        let place = self.place.encode();
        let head = [MAGIC, count.as_bytes(), &place];
        for word in head.into_iter().chain(words) {
            bytes.extend_from_slice(word);
            bytes.push(0);
        }
        (bytes.len() <= LONGEST).then_some(bytes)
    }

    /// None if it is not one of this version.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut words = bytes.strip_suffix(&[0])?.split(|byte| *byte == 0);
        let magic = words.next()?;
        let count: usize = str::from_utf8(words.next()?).ok()?.parse().ok()?;
        let place = Place::decode(words.next()?)?;
        if magic != MAGIC || count == 0 {
            return None;
        }
        let mut words = words.map(|word| OsStr::from_bytes(word).to_owned());
        let command: Vec<OsString> = words.by_ref().take(count).collect();
        let mut environment = Vec::new();
        while let Some(name) = words.next() {
            environment.push((name, words.next()?));
        }
        (command.len() == count).then_some(Self {
            command,
            environment,
            place,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn requests_are_read_as_they_were_written() {
        let odd = OsString::from_vec(vec![b'a', 0xff, b' ', b'\n']);
        let request = Request {
            command: vec!["/bin/server".into(), OsString::new(), odd.clone()],
            environment: vec![("PATH".into(), "/bin".into()), ("EMPTY".into(), odd)],
            place: Place::In(c"/var/lib/server".to_owned()),
        };
        let bytes = request.encode().unwrap();
        assert_eq!(Request::decode(&bytes).as_ref(), Some(&request));
        let bare = Request {
            environment: Vec::new(),
            place: Place::Near(c"/root".to_owned()),
            ..request.clone()
        };
        assert_eq!(Request::decode(&bare.encode().unwrap()), Some(bare));

        // Whatever is missing, it is no request, or one of fewer variables.
        for length in 0..bytes.len() {
            let read = Request::decode(bytes.get(..length).unwrap());
            assert!(read.is_none_or(|read| read.command == request.command));
        }
        assert_eq!(Request::decode(b"capwarden launch 2\x001\0/\0a\0"), None);
        assert_eq!(Request::decode(b"capwarden launch 1\x000\0/\0"), None);
        assert_eq!(Request::decode(b"capwarden launch 1\x009\0/\0a\0"), None);
        let with = |word: &str| Request {
            command: vec![word.into()],
            ..request.clone()
        };
        assert_eq!(with("a\0b").encode(), None);
        assert_eq!(with(&"a".repeat(LONGEST)).encode(), None);
    }
}
