//! Searches in place of comparisons with stand-ins.
//!
//! The code of a list's other members is a region of its own, which the tests of the first member
//! lead into:
//!
//! ```text
//!   first member ─missed─▶ ┌─ place ─▶ place ─▶ … ─┐ ─missed─▶ M
//!        │                 │    │        │          │
//!        └──────found──────┴────┴────────┴──▶ H ────┘
//! ```
//!
//! Where a value is one word, the places do not search themselves. They store what they load, and
//! between the region and M all stored values are looked for. Places that no packet has both of
//! (source address in IPv4 and in ARP) share a memory cell, and so a search.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        assemble::{
            Assembler,
            code::{LD_CONSTANT, LD_MEMORY, LD_WORD, RET, ST},
        },
        program::{Insn, MEMORY_WORDS, Op, Operand, Program, Test},
        prove::{exclusive, live_registers},
    },
    List,
    member::{Kind, Range},
    search::{Label, Searcher},
};

/// Puts the members of lists into a program that was compiled with their stand-ins. None: the
/// program is not as expected.
pub(in super::super) fn patch(program: &Program, lists: &[List]) -> Option<Program> {
    let mut patch = Patch::default();
    let sites = lists.iter().map(|list| Site::find(program, list));
    let sites: Vec<_> = sites.collect::<Option<_>>()?;
    let used = |cell: &u8| {
        program
            .ops()
            .iter()
            .any(|op| matches!(op, Op::Store(_, other) | Op::LoadMemory(_, other) if other == cell))
    };
    let cells = 0..u8::try_from(MEMORY_WORDS).unwrap_or(0);
    let mut free: Vec<_> = cells.filter(|cell| !used(cell)).rev().collect();
    // Where all words of a value but the first are kept while it is looked for.
    let further = lists.iter().filter(|list| !list.rest.is_empty());
    let further = further.map(|list| list.kind.words().len() - 1).max();
    let kept = free.len().checked_sub(further.unwrap_or(0));
    let kept = kept.map(|from| free.split_off(from)).unwrap_or_default();
    for (number, (site, list)) in sites.iter().zip(lists).enumerate() {
        // One value is compared word by word, as libpcap does it.
        let network = list.first.0 != list.first.1;
        let end = site.end.filter(|_| network);
        for place in &site.first {
            patch.search(place, list.kind, &[list.first], end, &[]);
        }
        let Some(rest) = &site.rest else { continue };
        if let Some(together) = Together::new(program, rest, list, &mut free) {
            patch.collect(rest, number, together);
        } else {
            for place in &rest.places {
                patch.search(place, list.kind, &list.rest, site.end, &kept);
            }
        }
    }
    Program::new(patch.code(program, lists)).ok()
}

/// A value that is loaded and compared with a stand-in.
#[derive(Clone, Debug)]
struct Place {
    /// For each word, the load and the test.
    words: Vec<(usize, usize)>,
    found: usize,
    not: usize,
}

/// The places of all members but the first.
#[derive(Clone, Debug)]
struct Rest {
    places: Vec<Place>,
    region: BTreeSet<usize>,
    found: usize,
    not: usize,
}

#[derive(Clone, Debug)]
struct Site {
    first: Vec<Place>,
    /// Where in a packet the last word ends, of values of several.
    end: Option<u32>,
    rest: Option<Rest>,
}

impl Site {
    fn find(program: &Program, list: &List) -> Option<Self> {
        let first = places(program, &list.first_stand_in())?;
        let found = first.first()?.found;
        let nothing_kept = |at: usize| live_registers(program, at).is_empty();
        let alike = |place: &Place| {
            place.found == found && nothing_kept(place.found) && nothing_kept(place.not)
        };
        if !first.iter().all(alike) {
            return None;
        }
        let end = match list.kind.words() {
            [_] => None,
            _ => Some(last_end(program, &first)?),
        };
        if list.rest.is_empty() {
            let rest = None;
            return Some(Self { first, end, rest });
        }
        let places = places(program, &list.stand_in())?;
        if !places.iter().all(alike) || places.len() != first.len() {
            return None;
        }
        let entry = first.last()?.not;
        let not = places.last()?.not;
        let region = region(program, entry, found, not)?;
        let tests = places.iter().flat_map(|place| &place.words);
        let mut inside = tests.clone();
        if !inside.all(|(load, test)| region.contains(load) && region.contains(test)) {
            return None;
        }
        // Only the places lead to where the list holds.
        let tests: BTreeSet<_> = tests.map(|(_, test)| *test).collect();
        let leads_to_found = |at: &usize| leads(program, *at).contains(&found);
        if region
            .iter()
            .any(|at| leads_to_found(at) && !tests.contains(at))
        {
            return None;
        }
        let rest = Some(Rest {
            places,
            region,
            found,
            not,
        });
        Some(Self { first, end, rest })
    }
}

/// Where jumps lead in the end.
fn settled(program: &Program, mut at: usize) -> usize {
    while let Some(Op::Jump(to)) = program.ops().get(at) {
        at = *to;
    }
    at
}

/// Where an instruction leads.
fn leads(program: &Program, at: usize) -> Vec<usize> {
    match program.ops().get(at) {
        Some(Op::Jump(to)) => vec![settled(program, *to)],
        Some(Op::Branch {
            then, otherwise, ..
        }) => vec![settled(program, *then), settled(program, *otherwise)],
        Some(Op::Return(_) | Op::ReturnA) | None => Vec::new(),
        Some(_) => vec![settled(program, at + 1)],
    }
}

/// Where a value of these words is compared, in the order of the code.
fn places(program: &Program, words: &[u32]) -> Option<Vec<Place>> {
    let ops = program.ops();
    let test = |at: usize| match ops.get(at) {
        Some(Op::Branch {
            test: Test::Equal,
            operand: Operand::Constant(k),
            then,
            otherwise,
        }) => Some((*k, settled(program, *then), settled(program, *otherwise))),
        _ => None,
    };
    let is_load = |at: usize| {
        matches!(
            ops.get(at),
            Some(Op::LoadAbsolute { .. } | Op::LoadIndirect { .. })
        )
    };
    let (first, others) = words.split_first()?;
    let mut places = Vec::new();
    let mut compared = 0;
    for at in 0..ops.len() {
        let Some((k, mut found, not)) = test(at) else {
            continue;
        };
        compared += usize::from(words.contains(&k));
        if k != *first {
            continue;
        }
        let load = at.checked_sub(1).filter(|load| is_load(*load))?;
        let mut tests = vec![(load, at)];
        for word in others {
            // A word's load comes first where the one before is found.
            let load = Some(found).filter(|load| is_load(*load))?;
            let (k, next, not_next) = test(load + 1)?;
            if k != *word || not_next != not {
                return None;
            }
            tests.push((load, load + 1));
            found = next;
        }
        places.push(Place {
            words: tests,
            found,
            not,
        });
    }
    // Each comparison is in one place.
    (!places.is_empty() && compared == places.len() * words.len()).then_some(places)
}

/// All that is reached from an instruction without going through one of the two ways out. None:
/// that is not closed in itself, or it has effects.
fn region(program: &Program, entry: usize, found: usize, not: usize) -> Option<BTreeSet<usize>> {
    let mut region = BTreeSet::new();
    let mut open = vec![settled(program, entry)];
    while let Some(at) = open.pop() {
        if at == found || at == not || !region.insert(at) {
            continue;
        }
        match program.ops().get(at)? {
            Op::Return(_) | Op::ReturnA | Op::Store(..) | Op::LoadAncillary(_) => return None,
            _ => open.extend(leads(program, at)),
        }
    }
    let last = *region.last()?;
    // The ways out are behind it all.
    (last < found.min(not)).then_some(region)
}

/// Where in a packet the words of some places end.
fn last_end(program: &Program, places: &[Place]) -> Option<u32> {
    let loads = places.iter().flat_map(|place| &place.words);
    let ends = loads.map(|(load, _)| match program.ops().get(*load)? {
        Op::LoadAbsolute { size, offset } => {
            let at = u32::try_from(*offset).ok()?;
            at.checked_add(u32::try_from(size.bytes()).ok()?)
        }
        _ => None,
    });
    ends.collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// How the values of a list are looked for together.
#[derive(Clone, Debug)]
struct Together {
    /// The memory cell of each place.
    cells: Vec<u8>,
    /// What a cell holds where no place has stored anything: no member.
    none: u32,
}

impl Together {
    /// None: there is no use in it, or no way.
    fn new(program: &Program, rest: &Rest, list: &List, free: &mut Vec<u8>) -> Option<Self> {
        let [_] = list.kind.words() else { return None };
        if rest.places.len() < 2 {
            return None;
        }
        let none = not_among(&list.rest, list.kind)?;
        let groups = groups(program, rest);
        let most = groups.iter().max()? + 1;
        let cells = free.split_off(free.len().checked_sub(most)?);
        let cells = groups.iter().filter_map(|group| cells.get(*group)).copied();
        Some(Self {
            cells: cells.collect(),
            none,
        })
    }
}

fn not_among(ranges: &[Range], kind: Kind) -> Option<u32> {
    let highest = u32::MAX >> 32_u32.saturating_sub(*kind.words().first()?);
    let value = match ranges.first() {
        Some((0, high)) => u32::try_from(high + 1).ok()?,
        _ => 0,
    };
    (value <= highest).then_some(value)
}

/// A number for each place; those that some packet has both of get different ones.
fn groups(program: &Program, rest: &Rest) -> Vec<usize> {
    let reaching = rest
        .places
        .iter()
        .map(|place| reaching(program, rest, place));
    let apart = reaching
        .collect::<Option<Vec<_>>>()
        .and_then(|programs| exclusive(&programs));
    let apart = |one: usize, other: usize| {
        let row = apart.as_ref().and_then(|apart| apart.get(one));
        row.and_then(|row| row.get(other)) == Some(&true)
    };
    let mut groups: Vec<usize> = Vec::new();
    for place in 0..rest.places.len() {
        let fits = |group: &usize| {
            let mut others = groups.iter().enumerate();
            others.all(|(other, its)| its != group || apart(place, other))
        };
        groups.push((0..place).find(fits).unwrap_or(place));
    }
    groups
}

/// A program that accepts what gets to a place if nothing is found before.
fn reaching(program: &Program, rest: &Rest, place: &Place) -> Option<Program> {
    let mut code = Assembler::default();
    let wanted = place.words.first()?.1;
    let tests: BTreeMap<_, _> = rest
        .places
        .iter()
        .flat_map(|place| place.words.iter().map(|(_, test)| (*test, place.not)))
        .collect();
    for (at, (op, insn)) in program.ops().iter().zip(program.insns()).enumerate() {
        code.place(at);
        match (op, tests.get(&at)) {
            _ if at == wanted => code.push(Insn::new(RET, 0, 0, 1)),
            (_, Some(not)) => code.jump(*not),
            (Op::Return(_) | Op::ReturnA, _) => code.push(Insn::new(RET, 0, 0, 0)),
            _ => code.copy(*op, *insn, |to| to),
        }
    }
    Program::new(code.finish()).ok()
}

/// What stands in place of a test.
#[derive(Clone, Debug)]
enum Instead {
    /// The value is looked for there and then.
    Search {
        place: Place,
        kind: Kind,
        ranges: Vec<Range>,
        end: Option<u32>,
        kept: Vec<u8>,
    },
    /// The value is stored; goes on where it would without being found.
    Store { cell: u8, not: usize },
    /// Nothing leads there any more.
    Nothing,
}

#[derive(Debug, Default)]
struct Patch {
    instead: BTreeMap<usize, Instead>,
    /// The cells, and what each holds at first.
    cells: BTreeMap<u8, u32>,
    /// Behind which instruction the stored values of a list are looked for, and how to get there:
    /// the list, the region, the way out, the cells.
    together: BTreeMap<usize, (usize, Rest, Vec<u8>)>,
}

impl Patch {
    fn search(
        &mut self,
        place: &Place,
        kind: Kind,
        ranges: &[Range],
        end: Option<u32>,
        kept: &[u8],
    ) {
        for (number, (load, test)) in place.words.iter().enumerate() {
            let instead = match number {
                0 => Instead::Search {
                    place: place.clone(),
                    kind,
                    ranges: ranges.to_vec(),
                    end,
                    kept: kept.to_vec(),
                },
                _ => {
                    self.instead.insert(*load, Instead::Nothing);
                    Instead::Nothing
                }
            };
            self.instead.insert(*test, instead);
        }
    }

    fn collect(&mut self, rest: &Rest, list: usize, together: Together) {
        for (place, cell) in rest.places.iter().zip(&together.cells) {
            if let Some((_, test)) = place.words.first() {
                let (cell, not) = (*cell, place.not);
                self.instead.insert(*test, Instead::Store { cell, not });
            }
            self.cells.insert(*cell, together.none);
        }
        if let Some(last) = rest.region.last() {
            let cells: BTreeSet<_> = together.cells.into_iter().collect();
            let cells = cells.into_iter().collect();
            self.together.insert(*last, (list, rest.clone(), cells));
        }
    }

    fn code(&self, program: &Program, lists: &[List]) -> Vec<Insn> {
        let mut code = Assembler::default();
        let mut searcher = Searcher::new(&mut code);
        let mut held = None;
        for (cell, none) in &self.cells {
            if held.replace(*none) != Some(*none) {
                searcher.code.push(Insn::new(LD_CONSTANT, 0, 0, *none));
            }
            searcher.code.push(Insn::new(ST, 0, 0, (*cell).into()));
        }
        if held.is_some_and(|none| none != 0) {
            searcher.code.push(Insn::new(LD_CONSTANT, 0, 0, 0));
        }
        for (at, (op, insn)) in program.ops().iter().zip(program.insns()).enumerate() {
            searcher.code.place(Label::At(at));
            // Out of a region, it goes through the search.
            let together = self.together.values();
            let around = |to: usize| {
                let target = settled(program, to);
                let mut lists = together.clone();
                let list =
                    lists.find(|(_, rest, _)| rest.region.contains(&at) && rest.not == target);
                list.map_or(Label::At(to), |(list, ..)| Label::Together(*list))
            };
            match self.instead.get(&at) {
                None => searcher.code.copy(*op, *insn, around),
                Some(Instead::Nothing) => {}
                Some(Instead::Store { cell, not }) => {
                    searcher.code.push(Insn::new(ST, 0, 0, (*cell).into()));
                    searcher.code.jump(around(*not));
                }
                Some(Instead::Search {
                    place,
                    kind,
                    ranges,
                    end,
                    kept,
                }) => {
                    let load = |load: &usize| program.insns().get(*load).copied();
                    let mut loads: Vec<_> =
                        place.words.iter().filter_map(|(at, _)| load(at)).collect();
                    let first = loads.first().copied();
                    if let Some(end) = end {
                        // Drops what ends within a value, whatever the members are.
                        let last = end.saturating_sub(4);
                        searcher.code.push(Insn::new(LD_WORD, 0, 0, last));
                    }
                    // A search loads a word in many places; the kernel is slow to take many loads
                    // from a packet.
                    for (load, cell) in loads.iter_mut().skip(1).zip(kept) {
                        searcher.code.push(*load);
                        searcher.code.push(Insn::new(ST, 0, 0, (*cell).into()));
                        *load = Insn::new(LD_MEMORY, 0, 0, (*cell).into());
                    }
                    if let Some(first) = first.filter(|_| end.is_some() || !kept.is_empty()) {
                        searcher.code.push(first);
                    }
                    let others = loads.get(1..).unwrap_or_default();
                    let (found, not) = (Label::At(place.found), around(place.not));
                    searcher.search(*kind, ranges, others, found, not);
                }
            }
            let Some((list, rest, cells)) = self.together.get(&at) else {
                continue;
            };
            searcher.code.place(Label::Together(*list));
            let Some(members) = lists.get(*list) else {
                continue;
            };
            for (number, cell) in cells.iter().enumerate() {
                searcher
                    .code
                    .push(Insn::new(LD_MEMORY, 0, 0, (*cell).into()));
                let last = number + 1 == cells.len();
                let not = if last {
                    Label::At(rest.not)
                } else {
                    searcher.label()
                };
                let found = Label::At(rest.found);
                searcher.search(members.kind, &members.rest, &[], found, not);
                if !last {
                    searcher.code.place(not);
                }
            }
        }
        code.finish()
    }
}
