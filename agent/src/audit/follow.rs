//! The log as it grows: read from its beginning, so that its chain is checked, and followed from there by
//! its name, as `tail -F` does.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    error::AuditError,
    line::{Entry, next_line},
    log::{Head, Lock},
    show::{Filter, Rendering, line_of},
};

/// Agents and sessions whose servers are remembered.
const AGENTS: usize = 4_096;

/// Something that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// A record that was asked for, in one line.
    Record(String),
    /// The chain does not hold here: what comes is shown, and nothing speaks for it.
    Broken {
        /// The line's number in the file, from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// There is another file under the name. Its chain begins anew.
    Replaced,
}

/// Follows one log.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    filter: Filter,
    /// Only records of agents of this server.
    server: Option<String>,
    rendering: Rendering,
    open: Opened,
    /// The server of each agent, as its first record says, and of each session, as its call does.
    servers: HashMap<String, String>,
}

/// A file that is being read.
#[derive(Debug)]
struct Opened {
    file: File,
    /// Behind the last whole line.
    at: u64,
    /// Lines until there.
    lines: u64,
    /// What the next line has to link to; none where the chain was broken just before.
    head: Option<Head>,
}

impl Opened {
    fn new(path: &Path) -> Result<Self, AuditError> {
        let failed = |source| AuditError::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(AuditError::NotAFile(path.to_owned()));
        }
        Ok(Self {
            file,
            at: 0,
            lines: 0,
            head: Some(Head::EMPTY),
        })
    }

    /// Whether another file has its name; while there is none, it is still this one.
    fn is_replaced(&self, path: &Path) -> bool {
        let own = self.file.metadata();
        let (Ok(own), Ok(there)) = (own, fs::metadata(path)) else {
            return false;
        };
        (own.dev(), own.ino()) != (there.dev(), there.ino())
    }
}

impl Follow {
    /// From the beginning of a log; the filter's `last` is not looked at.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is no file.
    pub fn open(
        path: &Path,
        filter: Filter,
        server: Option<String>,
        rendering: Rendering,
    ) -> Result<Self, AuditError> {
        Ok(Self {
            open: Opened::new(path)?,
            path: path.to_owned(),
            filter,
            server,
            rendering,
            servers: HashMap::new(),
        })
    }

    /// Tells what has come since the last time, or since the beginning. A line that is being written is told
    /// of when it is whole.
    ///
    /// # Errors
    ///
    /// The log cannot be read, or `tell` fails.
    pub fn read(
        &mut self,
        tell: &mut dyn FnMut(Followed) -> io::Result<()>,
    ) -> Result<(), AuditError> {
        loop {
            let replaced = self.open.is_replaced(&self.path);
            // What was written to it until then, too.
            self.read_open(tell)?;
            if !replaced {
                return Ok(());
            }
            self.open = Opened::new(&self.path)?;
            tell(Followed::Replaced).map_err(AuditError::Print)?;
        }
    }

    /// True if what is at the end is no whole line.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        let length = self.open.file.metadata().map(|meta| meta.len());
        length.is_ok_and(|length| length > self.open.at)
    }

    fn read_open(
        &mut self,
        tell: &mut dyn FnMut(Followed) -> io::Result<()>,
    ) -> Result<(), AuditError> {
        let failed = |source| AuditError::Read {
            path: self.path.clone(),
            source,
        };
        // Without the lock, the worst is a line that is not whole yet.
        let lock = Lock::share(&self.open.file).ok();
        let length = self.open.file.metadata().map_err(failed)?.len();
        drop(lock);
        let Opened {
            file,
            at,
            lines,
            head,
        } = &mut self.open;
        if length < *at {
            let (line, why) = (*lines, "lines were cut off its end".to_owned());
            (*at, *head) = (length, None);
            return tell(Followed::Broken { line, why }).map_err(AuditError::Print);
        }
        let mut reader = &*file;
        reader.seek(SeekFrom::Start(*at)).map_err(failed)?;
        let mut stream = BufReader::new(reader.take(length - *at));
        while let Some(line) = next_line(&mut stream).map_err(failed)? {
            if !line.ended {
                break;
            }
            *lines += 1;
            *at += u64::try_from(line.length)
                .unwrap_or(u64::MAX)
                .saturating_add(1);
            let entry = match Entry::parse(&line.bytes) {
                Ok(entry) if !line.is_overlong() => entry,
                parsed => {
                    let why = parsed.err().unwrap_or_else(|| "it is too long".to_owned());
                    let (line, why) = (*lines, format!("it is no record: {why}"));
                    *head = None;
                    tell(Followed::Broken { line, why }).map_err(AuditError::Print)?;
                    continue;
                }
            };
            if let Some(why) = head.and_then(|head| head.refuses(&entry)) {
                let line = *lines;
                tell(Followed::Broken { line, why }).map_err(AuditError::Print)?;
            }
            *head = Some(Head {
                seq: entry.seq,
                hash: line.hash,
            });
            note_server(&mut self.servers, &entry);
            let its = self
                .server
                .as_ref()
                .is_none_or(|wanted| server_of(&self.servers, &entry) == Some(wanted.as_str()));
            if entry.kind == "session-ended"
                && let Some(session) = session_of(&entry)
            {
                self.servers.remove(&session);
            }
            if its && self.filter.admits(&entry) {
                let text = line_of(&line, &entry, self.rendering);
                tell(Followed::Record(text)).map_err(AuditError::Print)?;
            }
        }
        Ok(())
    }
}

/// Remembers what the agent's server is called; and whose a session is, as an agent may have several.
fn note_server(servers: &mut HashMap<String, String>, entry: &Entry) {
    let whose = match entry.kind.as_str() {
        "agent-started" => Some(entry.agent.clone()),
        "call" => session_of(entry),
        _ => None,
    };
    if let (Some(whose), Some(server)) = (whose, entry.text("server"))
        && servers.len() < AGENTS
    {
        servers.entry(whose).or_insert_with(|| server.to_owned());
    }
}

/// The server that a record is about: as it says itself, or as is known of its session, or of its agent.
fn server_of<'a>(servers: &'a HashMap<String, String>, entry: &'a Entry) -> Option<&'a str> {
    let of_session = || servers.get(&session_of(entry)?).map(String::as_str);
    let of_agent = || servers.get(&entry.agent).map(String::as_str);
    entry.text("server").or_else(of_session).or_else(of_agent)
}

/// A record's session, as it is called on the host.
fn session_of(entry: &Entry) -> Option<String> {
    let session = entry.text("session")?;
    Some(format!("{}/{session}", entry.agent))
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Write as _};

    use super::*;
    use crate::{
        audit::{AgentStarted, AgentStopped, Log, OperatorRecord, Record, TextList},
        session::SessionId,
    };

    fn stopped(why: &str) -> Record {
        Record::AgentStopped(AgentStopped {
            why: why.into(),
            status: None,
        })
    }

    fn read(follow: &mut Follow) -> Vec<Followed> {
        let mut all = Vec::new();
        follow
            .read(&mut |one| {
                all.push(one);
                Ok(())
            })
            .unwrap();
        all
    }

    fn whys(follow: &mut Follow) -> Vec<String> {
        let all = read(follow).into_iter();
        all.map(|one| match one {
            Followed::Record(text) => text.rsplit("  ").next().unwrap().to_owned(),
            Followed::Broken { line, .. } => format!("broken at {line}"),
            Followed::Replaced => "replaced".to_owned(),
        })
        .collect()
    }

    fn follow(path: &Path, filter: Filter) -> Follow {
        Follow::open(path, filter, None, Rendering::Plain).unwrap()
    }

    #[test]
    fn what_is_written_is_told_once_it_is_whole_and_in_whichever_file_has_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let log = Log::open(&path).unwrap();
        log.append(&stopped("one")).unwrap();
        let mut follow = follow(&path, Filter::default());
        assert_eq!(whys(&mut follow), ["one"]);
        assert!(whys(&mut follow).is_empty());
        log.append(&stopped("two")).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"seq\":3,\"ti").unwrap();
        assert_eq!(whys(&mut follow), ["two"]);
        assert!(follow.is_torn());
        // The next writer puts the fragment aside.
        log.append(&stopped("three")).unwrap();
        let told = whys(&mut follow);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].contains("bytes kept in") && told[1] == "three",
            "{told:?}"
        );
        assert!(!follow.is_torn());
        // While there is nothing, nothing is told.
        fs::rename(&path, dir.path().join("log.1")).unwrap();
        assert!(whys(&mut follow).is_empty());
        log.append(&stopped("four")).unwrap();
        let next = Log::open(&path).unwrap();
        next.append(&stopped("five")).unwrap();
        assert_eq!(whys(&mut follow), ["four", "replaced", "five"]);
    }

    #[test]
    fn chain_that_does_not_hold_is_not_shown_as_if_it_did() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let log = Log::open(&path).unwrap();
        for why in ["one", "two", "three"] {
            log.append(&stopped(why)).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("two", "TWO")).unwrap();
        let mut one = follow(&path, Filter::default());
        assert_eq!(whys(&mut one), ["one", "TWO", "broken at 3", "three"]);
        let lines: Vec<&str> = text.lines().collect();
        let without = format!("{}\nno record\n{}\n", lines[0], lines[2]);
        fs::write(&path, without).unwrap();
        let mut other = follow(&path, Filter::default());
        assert_eq!(whys(&mut other), ["one", "broken at 2", "three"]);
        // A line that is not shown is looked at as well.
        fs::write(&path, text.replace("two", "TWO")).unwrap();
        let session = Some("s1".to_owned());
        let filter = Filter {
            session,
            ..Filter::default()
        };
        assert_eq!(whys(&mut follow(&path, filter)), ["broken at 3"]);
        fs::write(&path, "").unwrap();
        assert_eq!(whys(&mut other), ["broken at 3"]);
    }

    #[test]
    fn records_of_one_session_or_one_server_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let act = |session| {
            Record::Operator(OperatorRecord {
                did: "stop".into(),
                session: SessionId(session),
                by: "uid:0".into(),
                why: None,
            })
        };
        let named = |server: &str| {
            Record::AgentStarted(AgentStarted {
                version: "0.1.0".into(),
                server: Some(server.into()),
                command: TextList::default(),
                policy: None,
                user: "0".into(),
                reach: None,
                degraded: TextList::default(),
            })
        };
        let (one, other) = (Log::open(&path).unwrap(), Log::open(&path).unwrap());
        one.append(&named("pcap")).unwrap();
        other.append(&named("fair")).unwrap();
        one.append(&act(1)).unwrap();
        other.append(&act(1)).unwrap();
        one.append(&act(2)).unwrap();
        let its = Filter {
            session: Some("s1".to_owned()),
            agent: Some(one.agent()[..6].to_owned()),
            ..Filter::default()
        };
        assert_eq!(read(&mut follow(&path, its)).len(), 1);
        let server = Some("fair".to_owned());
        let fair = Follow::open(&path, Filter::default(), server, Rendering::Json);
        let told = read(&mut fair.unwrap());
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told.iter()
                .all(|one| matches!(one, Followed::Record(line) if line.contains(other.agent())))
        );
    }
}
