//! The lines of the log that tell of one session.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::BufReader,
    path::Path,
};

use super::{
    super::{
        capture::NoSession,
        error::AuditError,
        line::{Entry, RawLine, next_line},
        verify::{snapshot, verify},
    },
    Made, Part, ReportLine, SessionReport, describe,
};

/// Lines that a report has; there are sockets and refusals without number.
const MAX_LINES: usize = 2_000;
/// Lines of one approval, and approvals that are remembered until a call has used them.
const MAX_APPROVALS: usize = 256;
/// Sessions and agents that a message names.
const NAMED: usize = 16;

/// Reads what the log says of a session: `s1`, of the agent whose name begins so.
///
/// # Errors
///
/// There is no such session, more than one agent had one, or the log cannot be read.
pub fn session_report(
    path: &Path,
    session: &str,
    agent: Option<&str>,
) -> Result<SessionReport, NoSession> {
    let (agent, server) = whose(path, session, agent)?;
    let mut gathered = Gathered::new(session, &agent, server.as_deref());
    each_line(path, |number, line, entry| {
        gathered.take(&Place { number, line }, entry);
    })?;
    let log = verify(path, None)?;
    let (mut lines, omitted) = (gathered.lines, gathered.omitted + gathered.forgotten);
    // Approvals were put aside until a call used them.
    lines.sort_by_key(|line| line.line);
    Ok(SessionReport {
        path: path.to_owned(),
        session: session.to_owned(),
        agent,
        server,
        log,
        lines,
        omitted,
        traffic: None,
        made: Made::now(),
    })
}

/// Where a record stands.
struct Place<'a> {
    /// In the file, from 1.
    number: u64,
    line: &'a RawLine,
}

/// Tells of each line that is a record; how many lines there are.
fn each_line(path: &Path, mut tell: impl FnMut(u64, &RawLine, Entry)) -> Result<u64, AuditError> {
    let mut stream = BufReader::new(snapshot(path)?);
    let failed = |source| AuditError::Read {
        path: path.to_owned(),
        source,
    };
    let mut number = 0;
    while let Some(line) = next_line(&mut stream).map_err(failed)? {
        number += 1;
        // What is no record is named by the chain's verification.
        if let (true, Ok(entry)) = (line.ended, Entry::parse(&line.bytes)) {
            tell(number, &line, entry);
        }
    }
    Ok(number)
}

/// The agent that opened the session, and the server whose session it is, which old logs do not say.
fn whose(
    path: &Path,
    session: &str,
    agent: Option<&str>,
) -> Result<(String, Option<String>), NoSession> {
    let (mut agents, mut known) = (BTreeMap::new(), BTreeSet::new());
    let mut records = false;
    let lines = each_line(path, |_, _, entry| {
        records = true;
        let opened = entry.kind.ends_with("-opened");
        let meant = agent.is_none_or(|agent| entry.agent.starts_with(agent));
        if let (true, true, Some(name)) = (opened, meant, entry.text("session")) {
            if name == session && agents.len() < NAMED {
                let server = entry.text("server").map(str::to_owned);
                agents.insert(entry.agent.clone(), server);
            } else if known.len() < NAMED {
                known.insert(name.to_owned());
            }
        }
    })?;
    if lines > 0 && !records {
        return Err(NoSession::NotALog(path.to_owned()));
    }
    let session = session.to_owned();
    match agents.len() {
        0 => Err(NoSession::NotFound {
            session,
            known: known.into_iter().collect(),
        }),
        1 => Ok(agents.into_iter().next().unwrap_or_default()),
        _ => Err(NoSession::Ambiguous {
            session,
            agents: agents.into_keys().collect(),
        }),
    }
}

/// Who asks whom for what: what a call and an approval have in common.
type Asked = (String, String, String);

struct Gathered<'a> {
    session: &'a str,
    agent: &'a str,
    server: Option<&'a str>,
    lines: Vec<ReportLine>,
    omitted: u64,
    /// Lines about approvals that there was no room for; whose they were is not known.
    forgotten: u64,
    /// True between the session's opening and its end.
    open: bool,
    /// True from its opening on, until another is opened.
    is_alone: bool,
    /// Other sessions of the agent.
    others: usize,
    /// What was said of each approval, by its id.
    approvals: HashMap<String, Vec<ReportLine>>,
    /// The approvals that were used, and not yet by a call that was seen here.
    used: HashMap<Asked, String>,
}

impl<'a> Gathered<'a> {
    fn new(session: &'a str, agent: &'a str, server: Option<&'a str>) -> Self {
        Self {
            session,
            agent,
            server,
            lines: Vec::new(),
            omitted: 0,
            forgotten: 0,
            open: false,
            is_alone: false,
            others: 0,
            approvals: HashMap::new(),
            used: HashMap::new(),
        }
    }

    fn take(&mut self, place: &Place<'_>, entry: Entry) {
        if entry.kind == "approval" {
            // An operator's verb has a name of its own as an agent.
            return self.put_aside(place, entry);
        }
        if entry.agent != self.agent {
            return;
        }
        let its_own = entry.text("session") == Some(self.session);
        if !its_own && self.is_of_another(&entry) {
            return;
        }
        let part = match entry.kind.as_str() {
            "agent-started" | "agent-stopped" | "network-bounded" => Part::Setting,
            "handed-over" if self.open => Part::Setting,
            "policy-reloaded" | "policy-refused" if self.open || self.lines.len() < 16 => {
                Part::Setting
            }
            "call" => {
                let used = self.used.remove(&asked(&entry));
                let said = used.and_then(|id| self.approvals.remove(&id));
                if !its_own {
                    return;
                }
                said.into_iter().flatten().for_each(|line| self.add(line));
                Part::Asked
            }
            "session-opened" | "proxy-opened" | "program-opened" if its_own => {
                self.open = true;
                self.is_alone = self.others == 0;
                Part::Allowed
            }
            "session-opened" | "proxy-opened" | "program-opened" => {
                self.others += 1;
                self.is_alone = false;
                return;
            }
            "operator" if its_own => Part::Seen,
            "session-ended" if its_own => {
                self.open = false;
                Part::Seen
            }
            // The agent of a command has one session, and what comes after that is about it.
            "socket-refused" if self.open || self.is_alone => Part::Refused,
            "network-refused" if its_own || (self.open && entry.text("session").is_none()) => {
                Part::Refused
            }
            "unanswered" if its_own => Part::Refused,
            _ if its_own => Part::Ran,
            _ => return,
        };
        self.add(report_line(place, part, entry));
    }

    /// Whether it tells of another server of the same agent.
    fn is_of_another(&self, entry: &Entry) -> bool {
        let told = matches!(
            entry.kind.as_str(),
            "network-bounded"
                | "policy-reloaded"
                | "policy-refused"
                | "socket-refused"
                | "network-refused"
        );
        let both = entry.text("server").zip(self.server);
        told && both.is_some_and(|(its, own)| its != own)
    }

    fn add(&mut self, line: ReportLine) {
        // However many there were, how it ended is told.
        let last = matches!(line.part, Part::Seen) || line.kind == "agent-stopped";
        if self.lines.len() < MAX_LINES || last {
            self.lines.push(line);
        } else {
            self.omitted += 1;
        }
    }

    fn put_aside(&mut self, place: &Place<'_>, entry: Entry) {
        let Some(id) = entry.text("id").map(str::to_owned) else {
            return;
        };
        match entry.text("became") {
            Some("used") if entry.agent == self.agent && self.used.len() < MAX_APPROVALS => {
                self.used.insert(asked(&entry), id.clone());
            }
            // Nothing comes of those.
            Some("denied" | "expired") => {
                self.approvals.remove(&id);
                return;
            }
            _ => {}
        }
        if self.approvals.len() < MAX_APPROVALS || self.approvals.contains_key(&id) {
            let said = self.approvals.entry(id).or_default();
            if said.len() < MAX_APPROVALS {
                said.push(report_line(place, Part::Asked, entry));
            }
        } else {
            self.forgotten += 1;
        }
    }
}

fn asked(entry: &Entry) -> Asked {
    let text = |field: &str| entry.text(field).unwrap_or_default().to_owned();
    (text("principal"), text("server"), text("tool"))
}

fn report_line(place: &Place<'_>, part: Part, entry: Entry) -> ReportLine {
    ReportLine {
        line: place.number,
        sha256: place.line.hash,
        part,
        time: super::super::visible(&entry.time),
        words: describe(&entry),
        kind: super::super::visible(&entry.kind),
        fields: entry.fields,
    }
}
