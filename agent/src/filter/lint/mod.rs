//! A filter as a policy filter: which refused packets get through when they hide.
//!
//! `not port 22` says what its author does not want to see, and looks for it where it usually is.
//! A later fragment of the same packet, the packet behind an IPv6 header more, or inside a tunnel,
//! has no port where the filter looks. What is found here is found by proof: a packet that is
//! refused, and the same packet in a [`Disguise`] that is accepted. Every rewrite that is offered is
//! compiled and proved, too.

mod rewrite;
mod words;

use std::time::Duration;

use super::{
    Budget, CompileError, Compiler, Disguise, Emptiness, Hiding, Mark, Origin, Pair, Program,
    SocketForm, Unknown, disguises, dropped, hides, is_empty,
    prove::{Deadline, prove},
    reads_addresses,
};

pub use rewrite::{Keeps, Rewrite};
pub use words::{NOT_LOOKED_THROUGH, hiding_name, hiding_why};

/// What the lint of one filter may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LintBudget {
    /// Processor time for all questions together; on the clock, four times as much.
    pub time: Duration,
    /// What one question may cost.
    pub question: Budget,
    /// Whether a rewrite is wanted for each finding, beside the one for all.
    pub each: bool,
}

impl Default for LintBudget {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(20),
            question: Budget::default(),
            each: true,
        }
    }
}

/// What was found out about a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// What it matches at all.
    pub matches: Matches,
    /// Ways in which refused packets hide from it.
    pub findings: Vec<Finding>,
    /// Ways about which nothing could be said.
    pub unknown: Vec<(Hiding, Unknown)>,
    /// The filter, and what closes all findings; none without findings, or if none was proved.
    pub rewrite: Option<Rewrite>,
}

impl Lint {
    /// True if there is nothing to say.
    pub fn is_clean(&self) -> bool {
        self.matches == Matches::Some && self.findings.is_empty() && self.unknown.is_empty()
    }

    /// Whether ways to hide were looked for, or there are none because it matches nothing or
    /// everything.
    pub fn looked_through(&self) -> bool {
        !matches!(self.matches, Matches::NonePlain | Matches::Unknown)
    }
}

/// What a filter matches at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matches {
    /// Nothing, or nothing that a network carries.
    Nothing,
    /// Some packets.
    Some,
    /// Some, but none that are plain: they are tagged, tunnelled or of another kind. Ways to hide
    /// start from plain packets, so none was looked at.
    NonePlain,
    /// Every packet that a network carries.
    Everything,
    /// It could not be told.
    Unknown,
}

/// A way in which refused packets hide from a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub hiding: Hiding,
    /// The packet that shows it.
    pub pair: Pair,
    /// The filter, and what closes this finding; none if it was not wanted, or none was proved.
    pub rewrite: Option<Rewrite>,
}

/// Looks for the ways in which packets that a filter refuses get through it. `form` is what
/// packets begin with.
///
/// # Errors
///
/// The expression does not compile.
pub fn lint(
    expression: &str,
    form: SocketForm,
    compiler: &Compiler,
    budget: LintBudget,
) -> Result<Lint, CompileError> {
    let text = match expression.trim_ascii() {
        "" => EVERYTHING,
        text => text,
    };
    let Some(program) = compiler.compile_for(text, form, Origin::Policy)? else {
        return Ok(Lint {
            matches: Matches::Everything,
            findings: Vec::new(),
            unknown: Vec::new(),
            rewrite: None,
        });
    };
    let work = Work {
        form,
        compiler,
        deadline: Deadline::after(budget.time),
        question: budget.question,
        all: disguises(form),
    };
    Ok(work.lint(text, &program, budget.each))
}

/// What an empty expression stands for.
const EVERYTHING: &str = "len >= 0";

/// Each round states one more field at least.
const ROUNDS: usize = 8;

struct Work<'a> {
    form: SocketForm,
    compiler: &'a Compiler,
    deadline: Deadline,
    question: Budget,
    all: Vec<Disguise>,
}

/// A finding, and the fields by which its disguises can be told.
struct Found {
    finding: Finding,
    marks: Vec<Mark>,
}

impl Work<'_> {
    /// What one more question may cost.
    fn budget(&self) -> Result<Budget, Unknown> {
        let left = self.deadline.left();
        if left.is_zero() {
            return Err(Unknown::TimedOut);
        }
        Ok(Budget {
            time: self.question.time.min(left),
            ..self.question
        })
    }

    fn lint(&self, text: &str, program: &Program, each: bool) -> Lint {
        let mut matches = self.matches(program);
        if matches == Matches::Some && !self.accepts_plain(program) {
            matches = Matches::NonePlain;
        }
        let mut found: Vec<Found> = Vec::new();
        let mut unknown = Vec::new();
        if matches == Matches::Some {
            for disguise in &self.all {
                match self.gets_through(program, disguise) {
                    Ok(Some(pair)) => note(&mut found, disguise, pair),
                    Ok(None) => {}
                    Err(why) => unknown.push((disguise.hiding, why)),
                }
            }
        }
        unknown.dedup_by_key(|(hiding, _)| *hiding);
        if each {
            for found in &mut found {
                let hidings = [found.finding.hiding];
                let rewrite = self.rewrite(text, program, &found.marks, &hidings);
                found.finding.rewrite = rewrite.map(|(rewrite, _)| rewrite);
            }
        }
        let mut marks: Vec<Mark> = found
            .iter()
            .flat_map(|found| found.marks.iter().copied())
            .collect();
        marks.sort_unstable();
        marks.dedup();
        let hidings: Vec<Hiding> = found.iter().map(|found| found.finding.hiding).collect();
        let rewrite = self.rewrite_of_all(text, program, marks, &hidings);
        Lint {
            matches,
            findings: found.into_iter().map(|found| found.finding).collect(),
            unknown,
            rewrite,
        }
    }

    /// One rewrite for all findings. What it refuses anew (tunnels by their ports) can hide as well,
    /// so it is looked through in its turn.
    fn rewrite_of_all(
        &self,
        text: &str,
        program: &Program,
        mut marks: Vec<Mark>,
        hidings: &[Hiding],
    ) -> Option<Rewrite> {
        if marks.is_empty() {
            return None;
        }
        for _ in 0..ROUNDS {
            let (rewrite, closed) = self.rewrite(text, program, &marks, hidings)?;
            let known = marks.len();
            for disguise in &self.all {
                if !marks.contains(&disguise.mark)
                    && self.gets_through(&closed, disguise).ok()?.is_some()
                {
                    marks.push(disguise.mark);
                }
            }
            if marks.len() == known {
                return Some(rewrite);
            }
        }
        None
    }

    fn matches(&self, program: &Program) -> Matches {
        let Ok(budget) = self.budget() else {
            return Matches::Unknown;
        };
        match is_empty(program, self.form, budget) {
            Emptiness::Empty | Emptiness::EmptyWellFormed { .. } => return Matches::Nothing,
            Emptiness::Unknown { .. } => return Matches::Unknown,
            Emptiness::Matches { .. } => {}
        }
        match prove(&Program::everything(), program, self.form, budget) {
            super::Containment::Contained | super::Containment::ContainedWellFormed { .. } => {
                Matches::Everything
            }
            _ => Matches::Some,
        }
    }

    /// Whether a filter accepts anything that does not hide. One that does not, such as `vlan` or
    /// `ip proto 47`, is about what others hide in, and means that; what hides further inside is
    /// not told apart from it.
    fn accepts_plain(&self, program: &Program) -> bool {
        let nothing = Program::new(vec![super::Insn::new(0x06, 0, 0, 0)]);
        let (Ok(nothing), Ok(budget)) = (nothing, self.budget()) else {
            return true;
        };
        dropped(program, &nothing, true, self.form, budget) != Ok(None)
    }

    fn gets_through(
        &self,
        program: &Program,
        disguise: &Disguise,
    ) -> Result<Option<Pair>, Unknown> {
        let pair = hides(program, program, disguise, self.form, self.budget()?)?;
        // ARP is matched by address to no surprise where nothing else is.
        if disguise.hiding == Hiding::Arp
            && pair.is_some()
            && !reads_addresses(program, self.form, self.budget()?)?
        {
            return Ok(None);
        }
        Ok(pair)
    }
}

/// Adds what was found to what is known of the same way of hiding.
fn note(found: &mut Vec<Found>, disguise: &Disguise, pair: Pair) {
    match found
        .iter_mut()
        .find(|found| found.finding.hiding == disguise.hiding)
    {
        Some(found) if found.marks.contains(&disguise.mark) => {}
        Some(found) => found.marks.push(disguise.mark),
        None => found.push(Found {
            finding: Finding {
                hiding: disguise.hiding,
                pair,
                rewrite: None,
            },
            marks: vec![disguise.mark],
        }),
    }
}
