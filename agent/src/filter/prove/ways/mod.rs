//! What a program accepts, as the ways in which a packet can be accepted.
//!
//! A packet that is accepted takes one path through the program. The conditions on that path are
//! reduced to those that suffice by themselves, whatever path they lead to; that is one way. Then
//! the next packet is one of no way known so far. Ways whose words differ in one place only are
//! told together: `source or destination port 80`.

mod path;
mod phrase;

use super::{
    super::{Program, SocketForm, interpret::interpret},
    deadline::Deadline,
    example::{Example, extract},
    graph::Lit,
    recognise::recognisable,
    solve::{Answer, Solver},
    verdict::{Budget, Unknown, Work},
    well_formed::{self, network_offset, well_formed},
};

use path::Condition;
use phrase::Phrase;

/// Ways that are looked for.
const MAX_WAYS: usize = 400;
/// Ways that are told, each with an example.
const MAX_TOLD: usize = 12;
/// Near misses that are looked for, for one way.
const MAX_NEAR: usize = 5;

/// What a program accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The ways in which a well-formed packet is accepted, together all of them if
    /// [`more`](Self::more) is zero and [`complete`](Self::complete) holds.
    pub ways: Vec<Way>,
    /// Ways that were found and are not told.
    pub more: usize,
    /// False if there may be ways that were not found within the budget.
    pub complete: bool,
}

/// A way in which packets are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// What a packet has to be: `IPv4, TCP, source or destination port 80`. Empty: anything.
    pub conditions: Vec<Wording>,
    /// Such a packet, if one was found that looks like one.
    pub example: Option<Example>,
    /// Packets that are none by one condition, and are not accepted in another way either.
    pub near_misses: Vec<NearMiss>,
}

/// What a packet has to be in one respect, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wording {
    /// With every value that there is: for programs.
    pub whole: String,
    /// With few values, and how many more there are: for people.
    pub short: String,
}

/// A packet that is nearly accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// What it is not.
    pub fails: Wording,
    /// The packet.
    pub example: Example,
}

/// A way while it is looked at: its conditions, and what of them is told.
struct Raw {
    conditions: Vec<Condition>,
    phrases: Vec<Phrase>,
}

/// Finds out in which ways well-formed packets are accepted.
///
/// # Errors
///
/// Nothing could be found out within the budget.
pub fn explain(
    program: &Program,
    form: impl Into<SocketForm>,
    budget: Budget,
) -> Result<Explanation, Unknown> {
    let form = form.into();
    let mut work = Work::new(form, budget);
    let accepts = work.side(program)?.accepts;
    let background = background(&mut work, form);
    if work.space.graph.exhausted() {
        return Err(Unknown::TooLarge);
    }
    let mut solver = Solver::new(work.deadline, budget.conflicts);
    solver.require(&work.space.graph, background);
    let mut raw: Vec<Raw> = Vec::new();
    let mut found = 0;
    let mut complete = false;
    // The other half of the time is for examples.
    let enough = Deadline::after(budget.time / 2);
    // What people think of first.
    let mut wishes = path::everyday(&mut work.space, form).into_iter().peekable();
    while found < MAX_WAYS && !enough.passed() {
        let wish = wishes.peek().copied().unwrap_or(Lit::TRUE);
        match work.satisfiable(&mut solver, &[accepts, wish]) {
            Ok(true) => {}
            Ok(false) if wishes.next().is_some() => continue,
            Ok(false) => {
                complete = true;
                break;
            }
            Err(why) if raw.is_empty() => return Err(why),
            Err(_) => break,
        }
        let packet = extract(&work.space, &solver, &[]);
        let Some(conditions) = path::conditions(program, &packet, &mut work.space) else {
            return Err(Unknown::NotReproduced);
        };
        let kept = |condition: &Condition| phrase::gives_kind(condition, form);
        let Some(conditions) = suffices(&mut work, &mut solver, accepts, conditions, kept) else {
            break;
        };
        let lits: Vec<_> = conditions.iter().map(|one| one.lit).collect();
        let way = work.space.graph.all(lits);
        solver.require(&work.space.graph, !way);
        found += 1;
        let phrases = phrase::phrases(&conditions, form);
        if !raw.iter().any(|known| known.phrases == phrases) {
            raw.push(Raw {
                conditions,
                phrases,
            });
        }
        if way == Lit::TRUE {
            complete = true;
            break;
        }
    }
    let merged = merged(raw);
    let more = merged.len().saturating_sub(MAX_TOLD);
    let mut ways = Vec::new();
    for raw in merged.into_iter().take(MAX_TOLD) {
        ways.push(told(&mut work, program, form, (accepts, background), &raw));
    }
    Ok(Explanation {
        ways,
        more,
        complete,
    })
}

/// What holds for every packet that is looked at.
fn background(work: &mut Work, form: SocketForm) -> Lit {
    let space = &mut work.space;
    let metadata = well_formed::metadata(space, form);
    let no_tag = !space.meta.vlan_present;
    let headers = if network_offset(form).is_some() {
        let untagged = well_formed::untagged(space, form);
        let tagged = well_formed::tagged(space, form);
        space.graph.or(untagged, tagged)
    } else {
        Lit::TRUE
    };
    space.graph.all([metadata, no_tag, headers])
}

/// Those of the conditions that suffice for a packet to be accepted, and those that are kept to
/// say what kind of packet it is. None: out of budget.
fn suffices(
    work: &mut Work,
    solver: &mut Solver,
    accepts: Lit,
    mut conditions: Vec<Condition>,
    kept: impl Fn(&Condition) -> bool,
) -> Option<Vec<Condition>> {
    let refuted = |work: &mut Work, solver: &mut Solver, conditions: &[Condition]| {
        let mut lits: Vec<_> = conditions.iter().map(|one| one.lit).collect();
        lits.push(!accepts);
        solver.settle(&mut work.space);
        match solver.solve(&work.space.graph, &lits) {
            Answer::Unsatisfiable => Some(true),
            Answer::Satisfiable => Some(false),
            Answer::GaveUp => None,
        }
    };
    if accepts != Lit::TRUE && !refuted(work, solver, &conditions)? {
        return None;
    }
    conditions.retain(|one| one.lit != Lit::TRUE && (solver.blames(one.lit) || kept(one)));
    // What a packet is not says less than what it is.
    conditions.sort_by_key(|one| std::cmp::Reverse(one.rank()));
    let mut at = 0;
    while at < conditions.len() {
        if conditions.get(at).is_some_and(&kept) {
            at += 1;
            continue;
        }
        let mut fewer = conditions.clone();
        fewer.remove(at);
        if refuted(work, solver, &fewer)? {
            conditions = fewer;
        } else {
            at += 1;
        }
    }
    conditions.sort_by_key(|one| one.step);
    Some(conditions)
}

/// Ways that differ in one place are one: first in the direction, then in a list.
fn merged(mut raw: Vec<Raw>) -> Vec<Raw> {
    for join in [
        phrase::both_directions,
        phrase::either_value,
        phrase::both_directions,
    ] {
        let mut one = 0;
        while one < raw.len() {
            let mut other = one + 1;
            while other < raw.len() {
                let joined = match (raw.get(one), raw.get(other)) {
                    (Some(a), Some(b)) => join(&a.phrases, &b.phrases),
                    _ => None,
                };
                match (joined, raw.get_mut(one)) {
                    (Some(joined), Some(grown)) => {
                        grown.phrases = joined;
                        raw.remove(other);
                        // What has grown may fit what did not fit before.
                        other = one + 1;
                    }
                    _ => other += 1,
                }
            }
            one += 1;
        }
    }
    raw
}

fn told(
    work: &mut Work,
    program: &Program,
    form: SocketForm,
    (accepts, background): (Lit, Lit),
    raw: &Raw,
) -> Way {
    let mut solver = Solver::new(work.deadline, 10_000);
    solver.require(&work.space.graph, background);
    let conditions = &raw.conditions;
    let holds = |example: &Example, wanted: &dyn Fn(usize) -> bool| {
        let packet = example.packet();
        well_formed(&packet, form)
            && conditions
                .iter()
                .enumerate()
                .all(|(at, one)| one.holds_for(&packet) == wanted(at))
    };
    let lits: Vec<_> = conditions.iter().map(|one| one.lit).collect();
    let mut look = |fixed: &[Lit], confirms: &dyn Fn(&Example) -> bool| {
        solver.allow(10_000);
        match work.satisfiable(&mut solver, fixed) {
            Ok(true) => recognisable(&mut work.space, &mut solver, form, fixed, confirms),
            _ => None,
        }
    };
    let example = look(&lits, &|example| {
        holds(example, &|_| true) && interpret(program, &example.packet()) != 0
    });
    let mut near_misses: Vec<NearMiss> = Vec::new();
    for phrase in &raw.phrases {
        if near_misses.len() >= MAX_NEAR {
            break;
        }
        let Some(at) = phrase.condition else { continue };
        if phrase.is_version && raw.phrases.len() > 1 {
            continue; // another kind of packet altogether is no near miss
        }
        let mut fixed: Vec<_> = lits
            .iter()
            .enumerate()
            .map(|(number, lit)| if number == at { !*lit } else { *lit })
            .collect();
        fixed.push(!accepts);
        let near = look(&fixed, &|example| {
            holds(example, &|number| number != at) && interpret(program, &example.packet()) == 0
        });
        near_misses.extend(near.map(|example| NearMiss {
            fails: phrase.wording(),
            example,
        }));
    }
    Way {
        conditions: raw.phrases.iter().map(Phrase::wording).collect(),
        example,
        near_misses,
    }
}
