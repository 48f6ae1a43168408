//! What the screen shows: a function of what was heard and pressed.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::rates::Rates;
use crate::operate::{Agent, Event, EventKind, Line, Live};

/// Things that happened and are remembered.
const REMEMBERED: usize = 200;

/// A call that waits for an approval.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// As `capwarden approvals` shows it: `K7QM-2F9X`.
    pub id: String,
    /// The tool.
    pub tool: String,
    /// Who calls, at which server.
    pub caller: String,
    /// The arguments, as JSON.
    pub arguments: String,
    /// What it would come to, if that is known.
    pub effect: Option<String>,
    /// For how many seconds it waits yet.
    pub left: u64,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(in crate::operate) struct Row {
    pub(in crate::operate) live: Live,
    pub(super) rates: Rates,
}

/// Which list the arrows go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Focus {
    #[default]
    Sessions,
    Approvals,
}

/// What is in front of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Table,
    Detail,
    Help,
    /// The filter is being written.
    Filter,
    /// Whether to do that.
    Confirm(Act),
}

/// What is to be done besides drawing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Quit,
    /// End this session, by its id.
    Stop(String),
    Approve(String),
    Deny(String),
}

/// What came of the last thing that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) text: String,
    pub(super) good: bool,
}

#[derive(Clone, Debug, Default)]
pub(in crate::operate) struct Top {
    /// By the process: what is known of it as a whole, and what has come of the next moment.
    processes: BTreeMap<u32, Process>,
    rows: Vec<Row>,
    events: VecDeque<Event>,
    waiting: Vec<Waiting>,
    pub(super) focus: Focus,
    pub(super) mode: Mode,
    /// The session that the arrows are at.
    selected: Option<String>,
    /// The approval that they are at.
    chosen: Option<String>,
    pub(super) filter: String,
    pub(super) told: Option<Told>,
}

#[derive(Clone, Debug, Default)]
struct Process {
    agents: Vec<Agent>,
    coming: (Vec<Agent>, Vec<Live>),
}

impl Top {
    /// An agent process says something.
    pub(in crate::operate) fn hear(&mut self, pid: u32, line: Line) {
        let process = self.processes.entry(pid).or_default();
        match line {
            Line::Agent(agent) => process.coming.0.push(agent),
            Line::Session(live) => process.coming.1.push(*live),
            Line::Moment(_) => {
                let (agents, live) = std::mem::take(&mut process.coming);
                process.agents = agents;
                self.replace(pid, live);
            }
            Line::Event(event) => {
                self.events.push_back(event);
                if self.events.len() > REMEMBERED {
                    self.events.pop_front();
                }
            }
            Line::Missed(_)
            | Line::Stopping(_)
            | Line::Ended(_)
            | Line::Done {}
            | Line::Refused(_) => {}
        }
    }

    /// An agent process has gone, or cannot be heard any more.
    pub(in crate::operate) fn gone(&mut self, pid: u32) {
        self.processes.remove(&pid);
        self.replace(pid, Vec::new());
    }

    /// These calls wait.
    pub(super) fn wait(&mut self, waiting: Vec<Waiting>) {
        self.waiting = waiting;
        if self.waiting.is_empty() && self.focus == Focus::Approvals {
            self.focus = Focus::Sessions;
        }
    }

    fn replace(&mut self, pid: u32, live: Vec<Live>) {
        let (mut its, others): (Vec<Row>, Vec<Row>) = std::mem::take(&mut self.rows)
            .into_iter()
            .partition(|row| row.live.pid == pid);
        self.rows = others;
        for live in live {
            let known = its.iter().position(|row| row.live.id == live.id);
            let mut rates = known
                .map(|at| its.swap_remove(at).rates)
                .unwrap_or_default();
            rates.note(&live);
            self.rows.push(Row { live, rates });
        }
        self.rows.sort_by(|one, other| {
            let key = |row: &Row| (row.live.started.clone(), row.live.id.clone());
            key(one).cmp(&key(other))
        });
    }

    /// The sessions that the filter lets through, oldest first.
    pub(in crate::operate) fn rows(&self) -> Vec<&Row> {
        let wanted = self.filter.to_lowercase();
        let rows = self.rows.iter();
        rows.filter(|row| wanted.is_empty() || row.words().contains(&wanted))
            .collect()
    }

    /// How many sessions, servers and agents there are: an agent is a process, which serves any number of servers.
    pub(in crate::operate) fn counts(&self) -> (usize, usize, usize) {
        let agents = self.processes.values().flat_map(|process| &process.agents);
        // The servers of one that is replaced are those of its successor.
        let serving = agents.filter(|agent| agent.replaced_by.is_none());
        let servers = serving.map(|agent| agent.serves.unwrap_or(1));
        (self.rows.len(), servers.sum(), self.processes.len())
    }

    /// What was denied or refused, or became of approvals; the latest first.
    pub(in crate::operate) fn denials(&self) -> impl Iterator<Item = &Event> {
        let events = self.events.iter().rev();
        events.filter(|event| !matches!(event.kind, EventKind::Opened | EventKind::Ended))
    }

    /// The last sessions that have ended; the latest first.
    pub(super) fn ends(&self) -> impl Iterator<Item = &Event> {
        let events = self.events.iter().rev();
        events.filter(|event| event.kind == EventKind::Ended)
    }

    pub(super) fn waiting(&self) -> &[Waiting] {
        &self.waiting
    }

    /// Which of the rows that are shown is selected: the first if the one that was has gone.
    pub(super) fn selected(&self) -> Option<usize> {
        let rows = self.rows();
        let wanted = self.selected.as_deref();
        let at = rows
            .iter()
            .position(|row| Some(row.live.id.as_str()) == wanted);
        at.or((!rows.is_empty()).then_some(0))
    }

    pub(super) fn selected_row(&self) -> Option<&Row> {
        self.rows().get(self.selected()?).copied()
    }

    /// A session by its id.
    pub(in crate::operate) fn row(&self, id: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.live.id == id)
    }

    /// Which of the approvals is selected.
    pub(super) fn chosen(&self) -> Option<usize> {
        let wanted = self.chosen.as_deref();
        let mut waiting = self.waiting.iter();
        let at = waiting.position(|one| Some(one.id.as_str()) == wanted);
        at.or((!self.waiting.is_empty()).then_some(0))
    }

    /// An approval by its id.
    pub(super) fn waiting_one(&self, id: &str) -> Option<&Waiting> {
        self.waiting.iter().find(|one| one.id == id)
    }

    pub(super) fn chosen_one(&self) -> Option<&Waiting> {
        self.waiting.get(self.chosen()?)
    }

    /// So many further down, or up, in the list that the arrows go through.
    pub(super) fn go(&mut self, by: isize) {
        let to = |at: Option<usize>, length: usize| {
            let last = length.checked_sub(1)?;
            Some(at.unwrap_or(0).saturating_add_signed(by).min(last))
        };
        match self.focus {
            Focus::Sessions => {
                let rows = self.rows();
                let at = to(self.selected(), rows.len());
                let id = at.and_then(|at| Some(rows.get(at)?.live.id.clone()));
                self.selected = id;
            }
            Focus::Approvals => {
                let at = to(self.chosen(), self.waiting.len());
                self.chosen = at.and_then(|at| Some(self.waiting.get(at)?.id.clone()));
            }
        }
    }
}

impl Row {
    /// All that a filter looks at.
    fn words(&self) -> String {
        let live = &self.live;
        let who = live.who.as_ref();
        let who = who.map(|who| format!("{} {}", who.principal, who.tool));
        format!(
            "{} {} {} {}",
            live.id,
            live.server,
            who.unwrap_or_default(),
            live.now.interfaces.join(" ")
        )
        .to_lowercase()
    }
}
