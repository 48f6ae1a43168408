//! Questions about programs, and their answers.

use std::time::{Duration, Instant};

use super::{
    super::{LinkType, Packet, Program, SocketForm, interpret::interpret},
    bits::Word,
    deadline::Deadline,
    example::{Example, extract},
    graph::Lit,
    recognise::recognisable,
    solve::{Answer, Solver},
    space::Space,
    symbolic::{self, Outcome},
    well_formed::{self, well_formed},
};

/// What a question may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Processor time; on the clock it may take four times as long.
    pub time: Duration,
    /// Nodes of the graph, which bounds the memory: a few hundred bytes for each, clauses included.
    /// Two realistic programs take some ten thousand.
    pub nodes: usize,
    /// Conflicts in the solver, so that the outcome does not hang on the clock alone.
    pub conflicts: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(2),
            nodes: 500_000,
            conflicts: 200_000,
        }
    }
}

/// What a question has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Time on the clock.
    pub time: Duration,
    /// The part of it until it was known whether there is a difference at all; the rest goes into a
    /// packet that shows it. All of it, if it was never known.
    pub decided: Duration,
    /// Nodes of the graph.
    pub nodes: usize,
    /// Clauses that the solver was given.
    pub clauses: u64,
    /// Conflicts in the solver.
    pub conflicts: u64,
    /// Memory at most, in bytes: the graph's as it is, the solver's by what it was given and has
    /// learnt. What is not counted is little beside that.
    pub bytes: u64,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// The time or the conflicts of the budget are used up.
    #[error("no proof within the time allowed")]
    TimedOut,
    /// The nodes of the budget are used up.
    #[error("no proof within the memory allowed")]
    TooLarge,
    /// What the solver found is not what the interpreter says: an error in the prover.
    #[error("the counterexample does not hold when it is run")]
    NotReproduced,
}

/// Whether each packet that the requested program accepts is accepted by the policy.
///
/// Anything but [`Contained`](Self::Contained) means that enforcing the policy may take packets
/// from the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Containment {
    /// Each one.
    Contained,
    /// Each [well-formed](well_formed()) one.
    ContainedWellFormed {
        /// A packet that is accepted by the request only; it is not well-formed.
        counterexample: Example,
    },
    /// No.
    NotContained {
        /// A well-formed packet that is accepted by the request only.
        counterexample: Example,
    },
    /// No answer, which is to be taken for a no.
    Unknown {
        /// Why not.
        why: Unknown,
    },
}

impl Containment {
    /// The packet that shows the difference.
    pub const fn counterexample(&self) -> Option<&Example> {
        match self {
            Self::ContainedWellFormed { counterexample }
            | Self::NotContained { counterexample } => Some(counterexample),
            Self::Contained | Self::Unknown { .. } => None,
        }
    }
}

/// Whether a program accepts anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Emptiness {
    /// It accepts no packet.
    Empty,
    /// It accepts no [well-formed](well_formed()) packet.
    EmptyWellFormed {
        /// A packet that it accepts; it is not well-formed.
        example: Example,
    },
    /// It accepts this one, which is well-formed.
    Matches {
        /// The packet.
        example: Example,
    },
    /// No answer.
    Unknown {
        /// Why not.
        why: Unknown,
    },
}

/// Which packets only one of two programs accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Whether the first is contained in the second, and what it accepts alone.
    pub first_only: Containment,
    /// The other way round.
    pub second_only: Containment,
}

/// Whether two programs accept the same packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Equivalence {
    /// The same.
    Equal,
    /// The same as far as packets are [well-formed](well_formed()).
    EqualWellFormed(Difference),
    /// Not the same.
    Different(Difference),
    /// No answer.
    Unknown {
        /// Why not.
        why: Unknown,
    },
}

impl From<LinkType> for SocketForm {
    fn from(link: LinkType) -> Self {
        Self::Raw(link)
    }
}

/// Proves that a requested program accepts no packet that the policy does not, or finds one.
///
/// The proof ranges over every packet of up to 640 KiB, which is more than a kernel handles, with
/// all metadata that it can have. It is about which packets are accepted, not about how much of
/// each is delivered; [`compose`](super::compose()) takes the lesser length.
///
/// Both programs must be for the same form of socket, which decides no more than what is
/// well-formed and how a counterexample is shown.
pub fn prove(
    requested: &Program,
    policy: &Program,
    form: impl Into<SocketForm>,
    budget: Budget,
) -> Containment {
    prove_measured(requested, policy, form, budget).0
}

/// The same, and what it has cost.
pub fn prove_measured(
    requested: &Program,
    policy: &Program,
    form: impl Into<SocketForm>,
    budget: Budget,
) -> (Containment, Cost) {
    let mut work = Work::new(form.into(), budget);
    let containment = match (work.side(requested), work.side(policy)) {
        (Ok(requested), Ok(policy)) => work.contained(&requested, Some(&policy)),
        (Err(why), _) | (_, Err(why)) => Err(why),
    };
    let containment = containment.unwrap_or_else(|why| Containment::Unknown { why });
    (containment, work.cost())
}

/// Whether a program can accept any packet at all.
pub fn is_empty(program: &Program, form: impl Into<SocketForm>, budget: Budget) -> Emptiness {
    let mut work = Work::new(form.into(), budget);
    let side = work.side(program);
    match side.and_then(|side| work.contained(&side, None)) {
        Ok(Containment::Contained) => Emptiness::Empty,
        Ok(Containment::ContainedWellFormed { counterexample }) => Emptiness::EmptyWellFormed {
            example: counterexample,
        },
        Ok(Containment::NotContained { counterexample }) => Emptiness::Matches {
            example: counterexample,
        },
        Ok(Containment::Unknown { why }) | Err(why) => Emptiness::Unknown { why },
    }
}

/// Which packets only one of two programs accepts. The budget is for both directions together.
pub fn difference(
    first: &Program,
    second: &Program,
    form: impl Into<SocketForm>,
    budget: Budget,
) -> Difference {
    let mut work = Work::new(form.into(), budget);
    let sides = work
        .side(first)
        .and_then(|first| Ok((first, work.side(second)?)));
    let mut only = |swapped: bool| {
        let containment = match &sides {
            Ok((first, second)) if !swapped => work.contained(first, Some(second)),
            Ok((first, second)) => work.contained(second, Some(first)),
            Err(why) => Err(*why),
        };
        containment.unwrap_or_else(|why| Containment::Unknown { why })
    };
    Difference {
        first_only: only(false),
        second_only: only(true),
    }
}

/// Whether two programs accept the same packets.
pub fn equivalent(
    first: &Program,
    second: &Program,
    form: impl Into<SocketForm>,
    budget: Budget,
) -> Equivalence {
    use Containment::{Contained, ContainedWellFormed, NotContained, Unknown};
    let difference = difference(first, second, form, budget);
    match (&difference.first_only, &difference.second_only) {
        (Contained, Contained) => Equivalence::Equal,
        (NotContained { .. }, _) | (_, NotContained { .. }) => Equivalence::Different(difference),
        (Unknown { why }, _) | (_, Unknown { why }) => Equivalence::Unknown { why: *why },
        (ContainedWellFormed { .. }, _) | (_, ContainedWellFormed { .. }) => {
            Equivalence::EqualWellFormed(difference)
        }
    }
}

/// Proves that a program delivers of each packet what two others both deliver: the lesser length,
/// and nothing that one of them drops. Packets without a device are left out: a packet socket has
/// none, and [`compose`](super::compose()) drops them.
pub fn is_conjunction(
    joined: &Program,
    first: &Program,
    second: &Program,
    budget: Budget,
) -> Result<bool, Unknown> {
    let mut work = Work::new(SocketForm::Cooked, budget);
    let mut value = |program| {
        let outcome = symbolic::run(program, &mut work.space, work.deadline);
        outcome.map(|outcome| outcome.value(&mut work.space))
    };
    let (Ok(joined), Ok(first), Ok(second)) = (value(joined), value(first), value(second)) else {
        return Err(work.why());
    };
    let graph = &mut work.space.graph;
    let first_is_more = first.at_least(graph, &second);
    let lesser = Word::mux(graph, first_is_more, &second, &first);
    let differ = !joined.equals(graph, &lesser);
    let device = work.space.meta.interface_index.not_zero(graph);
    let mut solver = Solver::new(work.deadline, budget.conflicts);
    Ok(!work.satisfiable(&mut solver, &[differ, device])?)
}

/// For each two of some programs, whether there is no packet that both accept. None: that could
/// not be told.
pub(in super::super) fn exclusive(programs: &[Program]) -> Option<Vec<Vec<bool>>> {
    let budget = Budget::default();
    let mut work = Work::new(SocketForm::Cooked, budget);
    let sides = programs.iter().map(|program| work.side(program));
    let sides: Vec<_> = sides.collect::<Result<_, _>>().ok()?;
    let mut solver = Solver::new(work.deadline, budget.conflicts);
    let mut exclusive = Vec::new();
    for (row, one) in sides.iter().enumerate() {
        let mut apart = Vec::new();
        for other in sides.iter().take(row) {
            let both = work.space.graph.and(one.accepts, other.accepts);
            apart.push(both == Lit::FALSE || !work.satisfiable(&mut solver, &[both]).ok()?);
        }
        exclusive.push(apart);
    }
    Some(exclusive)
}

/// A program and the condition under which it accepts.
pub(super) struct Side<'a> {
    program: &'a Program,
    pub(super) accepts: Lit,
}

/// One question, its packets and what it may still cost.
pub(super) struct Work {
    pub(super) space: Space,
    form: SocketForm,
    start: Instant,
    decided: Option<Duration>,
    pub(super) deadline: Deadline,
    conflicts_allowed: u64,
    clauses: u64,
    conflicts: u64,
    /// What a solver has taken at most.
    solver_bytes: u64,
}

impl Work {
    pub(super) fn new(form: SocketForm, budget: Budget) -> Self {
        let start = Instant::now();
        Self {
            space: Space::new(budget.nodes),
            form,
            start,
            decided: None,
            deadline: Deadline::after(budget.time),
            conflicts_allowed: budget.conflicts,
            clauses: 0,
            conflicts: 0,
            solver_bytes: 0,
        }
    }

    fn cost(&self) -> Cost {
        let time = self.start.elapsed();
        Cost {
            time,
            decided: self.decided.unwrap_or(time),
            nodes: self.space.graph.len(),
            clauses: self.clauses,
            conflicts: self.conflicts,
            bytes: u64::try_from(self.space.graph.bytes())
                .unwrap_or(u64::MAX)
                .saturating_add(self.solver_bytes),
        }
    }

    pub(super) fn side<'a>(&mut self, program: &'a Program) -> Result<Side<'a>, Unknown> {
        let outcome: Result<Outcome, _> = symbolic::run(program, &mut self.space, self.deadline);
        let accepts = outcome.map(|outcome| outcome.accepts(&mut self.space));
        match accepts {
            Ok(accepts) if !self.space.graph.exhausted() => Ok(Side { program, accepts }),
            _ => Err(self.why()),
        }
    }

    pub(super) const fn why(&self) -> Unknown {
        if self.space.graph.exhausted() {
            Unknown::TooLarge
        } else {
            Unknown::TimedOut
        }
    }

    /// Whether all that one side accepts is accepted by the other; by nothing, without another.
    fn contained(
        &mut self,
        requested: &Side<'_>,
        policy: Option<&Side<'_>>,
    ) -> Result<Containment, Unknown> {
        let permitted = policy.map_or(Lit::FALSE, |policy| policy.accepts);
        let outside = self.space.graph.and(requested.accepts, !permitted);
        if outside == Lit::FALSE {
            return Ok(Containment::Contained);
        }
        let allowed = self.conflicts_allowed.saturating_sub(self.conflicts);
        let mut solver = Solver::new(self.deadline, allowed);
        let result = self.search(&mut solver, outside, |packet| {
            interpret(requested.program, packet) != 0
                && policy.is_none_or(|policy| interpret(policy.program, packet) == 0)
        });
        self.clauses += solver.clauses();
        self.conflicts += solver.conflicts();
        self.solver_bytes = self.solver_bytes.max(solver.bytes());
        result
    }

    fn search(
        &mut self,
        solver: &mut Solver,
        outside: Lit,
        shows: impl Fn(&Packet<'_>) -> bool,
    ) -> Result<Containment, Unknown> {
        solver.require(&self.space.graph, outside);
        let differ = self.satisfiable(solver, &[])?;
        self.decided = Some(self.start.elapsed());
        if !differ {
            return Ok(Containment::Contained);
        }
        let form = self.form;
        let any = extract(&self.space, solver, &[]);
        let confirms = |example: &Example| shows(&example.packet());
        let confirms_well_formed = |example: &Example| {
            let packet = example.packet();
            well_formed(&packet, form) && shows(&packet)
        };
        // Tags multiply the work, and are seldom what a counterexample needs.
        for headers in [well_formed::untagged, well_formed::tagged] {
            let metadata = well_formed::metadata(&mut self.space, form);
            let headers = headers(&mut self.space, form);
            let wanted = self.space.graph.and(metadata, headers);
            match self.satisfiable(solver, &[wanted]) {
                Ok(true) if wanted != Lit::FALSE => {}
                Ok(_) => continue,
                Err(_) if confirms_well_formed(&any) => {
                    return Ok(Containment::NotContained {
                        counterexample: any,
                    });
                }
                Err(why) => return Err(why),
            }
            let space = &mut self.space;
            let found = recognisable(space, solver, form, &[wanted], confirms_well_formed);
            return match found {
                Some(counterexample) => Ok(Containment::NotContained { counterexample }),
                None => Err(Unknown::NotReproduced),
            };
        }
        let counterexample = match self.satisfiable(solver, &[]) {
            Ok(true) => recognisable(&mut self.space, solver, form, &[], confirms),
            _ => Some(any).filter(confirms),
        };
        match counterexample {
            Some(counterexample) => Ok(Containment::ContainedWellFormed { counterexample }),
            None => Err(Unknown::NotReproduced),
        }
    }

    pub(super) fn satisfiable(
        &mut self,
        solver: &mut Solver,
        assumptions: &[Lit],
    ) -> Result<bool, Unknown> {
        loop {
            solver.settle(&mut self.space);
            if self.space.graph.exhausted() {
                return Err(Unknown::TooLarge);
            }
            if self.deadline.passed() {
                return Err(Unknown::TimedOut);
            }
            match solver.solve(&self.space.graph, assumptions) {
                // Perhaps only as long as nothing says what is in the sets.
                Answer::Satisfiable if self.space.define().is_some() => {}
                Answer::Satisfiable => return Ok(true),
                Answer::Unsatisfiable => return Ok(false),
                Answer::GaveUp => return Err(Unknown::TimedOut),
            }
        }
    }
}
