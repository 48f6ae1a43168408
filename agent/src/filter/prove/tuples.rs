//! Sets of values of some words that lie next to each other, as trees of ranges.
//!
//! An IPv6 address is four words, and a search for one among a thousand tests them one by one: where
//! the first is this, the second is one of those, and so on. Each way through such a search is a
//! few ranges; together they are a set like any other, whichever way it was tested.

use std::rc::Rc;

use super::{
    bits::Word,
    graph::{Graph, Lit},
    ranges::Ranges,
};

/// Which values of a first word, a second, and so on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Tuples {
    /// All that there are from this word on.
    All,
    /// By the values of this word: ascending, none twice, and no two neighbours that go on alike.
    Of(Rc<Vec<Case>>),
}

/// Values of a word from one to another, and what the words behind it may be then.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Case {
    low: u32,
    high: u32,
    rest: Tuples,
}

/// A set, cut in two by what is said of its last word.
pub(super) struct Split {
    /// Where that is the lesser part of its values.
    pub(super) few: Tuples,
    /// All but the last word of the others.
    pub(super) begin: Tuples,
    /// What of `begin` is not among the others.
    pub(super) except: Tuples,
}

impl Tuples {
    fn of(cases: Vec<Case>) -> Self {
        Self::Of(Rc::new(cases))
    }

    fn nothing() -> Self {
        Self::of(Vec::new())
    }

    fn cases(&self) -> &[Case] {
        match self {
            Self::All => &[Case {
                low: 0,
                high: u32::MAX,
                rest: Self::All,
            }],
            Self::Of(cases) => cases,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Of(cases) if cases.is_empty())
    }

    /// Whether it is, plainly, all that the words can be.
    pub(super) fn is_all(&self, words: &[Word]) -> bool {
        match (self, words.first()) {
            (Self::All, _) => true,
            (Self::Of(cases), Some(word)) => {
                let (least, most) = Ranges::bounds(word);
                matches!(&***cases, [only] if only.low <= least && only.high >= most
                    && only.rest == Self::All)
            }
            (Self::Of(_), None) => false,
        }
    }

    /// Whether it is one value of each word.
    pub(super) fn is_single(&self) -> bool {
        match self {
            Self::All => true,
            Self::Of(cases) => {
                matches!(&***cases, [only] if only.low == only.high && only.rest.is_single())
            }
        }
    }

    /// So many words are looked at.
    pub(super) fn depth(&self) -> usize {
        match self {
            Self::All => 0,
            Self::Of(cases) => {
                let rests = cases.iter().map(|case| case.rest.depth());
                1 + rests.max().unwrap_or(0)
            }
        }
    }

    /// Whether it is made of at least so many ranges of last words.
    pub(super) fn is_large(&self, least: usize) -> bool {
        fn count(tuples: &Tuples, left: &mut usize) {
            match tuples {
                Tuples::All => *left = left.saturating_sub(1),
                Tuples::Of(cases) => {
                    for case in cases.iter() {
                        if *left == 0 {
                            return;
                        }
                        count(&case.rest, left);
                    }
                }
            }
        }
        let mut left = least;
        count(self, &mut left);
        left == 0
    }

    /// Those whose word of this number (from 0) is one of these.
    pub(super) fn restricted(&self, word: usize, to: &Ranges) -> Self {
        let mut kept = Vec::new();
        match word.checked_sub(1) {
            None => {
                // Both ascend.
                let (cases, mut mine) = (self.cases(), 0);
                for &(low, high) in to.pairs() {
                    while let Some(case) = cases.get(mine) {
                        let (from, end) = (low.max(case.low), high.min(case.high));
                        if from <= end {
                            append(&mut kept, from, end, case.rest.clone());
                        }
                        if case.high > high {
                            break;
                        }
                        mine += 1;
                    }
                }
            }
            Some(word) => {
                for case in self.cases() {
                    let rest = case.rest.restricted(word, to);
                    append(&mut kept, case.low, case.high, rest);
                }
            }
        }
        Self::of(kept)
    }

    /// Takes in another set.
    pub(super) fn join(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::All, _) => {}
            (_, Self::All) => *self = Self::All,
            (Self::Of(mine), Self::Of(theirs)) => {
                if Rc::ptr_eq(mine, theirs) {
                    return;
                }
                let mine = Rc::make_mut(mine);
                for case in theirs.iter() {
                    insert(mine, case);
                }
            }
        }
    }

    /// What is in this one and not in the other; none if that is more than so many ranges.
    pub(super) fn without(&self, other: &Self, most: &mut usize) -> Option<Self> {
        self.with(other, most, true)
    }

    /// What is in both; none if that is more than so many ranges.
    pub(super) fn and(&self, other: &Self, most: &mut usize) -> Option<Self> {
        self.with(other, most, false)
    }

    fn with(&self, other: &Self, most: &mut usize, without: bool) -> Option<Self> {
        let whole = match (self, other) {
            (_, Self::All) if without => return Some(Self::nothing()),
            (Self::All, Self::All) => Self::All,
            (_, Self::Of(cases)) if cases.is_empty() => {
                if !without {
                    return Some(Self::nothing());
                }
                self.clone()
            }
            _ => return self.with_cases(other, most, without),
        };
        *most = most.checked_sub(whole.leaves(*most)?)?;
        Some(whole)
    }

    /// The number of ranges of last words; none if there are more than so many.
    fn leaves(&self, most: usize) -> Option<usize> {
        match self {
            Self::All => Some(1),
            Self::Of(cases) => cases.iter().try_fold(0_usize, |sum, case| {
                let sum = sum + case.rest.leaves(most)?;
                (sum <= most).then_some(sum)
            }),
        }
    }

    fn with_cases(&self, other: &Self, most: &mut usize, without: bool) -> Option<Self> {
        let mut kept = Vec::new();
        let theirs = other.cases();
        for case in self.cases() {
            let mut from = Some(case.low);
            let start = theirs.partition_point(|other| other.high < case.low);
            for other in theirs.iter().skip(start) {
                let Some(low) = from.filter(|_| other.low <= case.high) else {
                    break;
                };
                if without && low < other.low {
                    let rest = case.rest.with(&Self::nothing(), most, true)?;
                    append(&mut kept, low, other.low - 1, rest);
                }
                let (low, high) = (low.max(other.low), case.high.min(other.high));
                let rest = case.rest.with(&other.rest, most, without)?;
                append(&mut kept, low, high, rest);
                from = high.checked_add(1);
            }
            if let Some(low) = from.filter(|low| without && *low <= case.high) {
                let rest = case.rest.with(&Self::nothing(), most, true)?;
                append(&mut kept, low, case.high, rest);
            }
        }
        Some(Self::of(kept))
    }

    /// The same set without tests that hold for every value that the words can have.
    pub(super) fn normal(&self, words: &[Word]) -> Self {
        let (Self::Of(cases), Some((word, words))) = (self, words.split_first()) else {
            return self.clone();
        };
        let mut kept = Vec::with_capacity(cases.len());
        for case in cases.iter() {
            append(&mut kept, case.low, case.high, case.rest.normal(words));
        }
        let kept = Self::of(kept);
        if kept.is_all(std::slice::from_ref(word)) {
            return Self::All;
        }
        kept
    }

    /// Cuts it by its word of this number, which is the last, and which can have values from `least`
    /// to `most` only.
    pub(super) fn split(&self, last: usize, (least, most): (u32, u32)) -> Split {
        let mut split = Split {
            few: Self::nothing(),
            begin: Self::nothing(),
            except: Self::nothing(),
        };
        let Self::Of(cases) = self else {
            split.few = Self::All;
            return split;
        };
        let Some(last) = last.checked_sub(1) else {
            let ends = cases.iter().all(|case| case.rest == Self::All);
            let sizes = cases.iter().map(|case| u64::from(case.high - case.low) + 1);
            if !ends || sizes.sum::<u64>() * 2 <= u64::from(most - least) + 1 {
                split.few = self.clone();
                return split;
            }
            let pairs = cases.iter().map(|case| (case.low, case.high));
            let except = Ranges::from_pairs(pairs.collect()).not();
            let except = except.and(&Ranges::from_pairs(vec![(least, most)]));
            split.begin = Self::All;
            split.except = Self::All.restricted(0, &except);
            return split;
        };
        let (mut few, mut begin, mut except) = (Vec::new(), Vec::new(), Vec::new());
        for case in cases.iter() {
            let rest = case.rest.split(last, (least, most));
            append(&mut few, case.low, case.high, rest.few);
            append(&mut begin, case.low, case.high, rest.begin);
            append(&mut except, case.low, case.high, rest.except);
        }
        Split {
            few: Self::of(few),
            begin: Self::of(begin),
            except: Self::of(except),
        }
    }

    /// The condition under which the words have values of this set.
    pub(super) fn contain(&self, graph: &mut Graph, words: &[Word]) -> Lit {
        let mut ways = Vec::new();
        self.ways(graph, Lit::TRUE, words, &mut ways);
        graph.any(ways)
    }

    /// Each way through the tree, from its root on, so that sets that begin alike share that.
    fn ways(&self, graph: &mut Graph, reached: Lit, words: &[Word], ways: &mut Vec<Lit>) {
        let (Self::Of(cases), Some((word, words))) = (self, words.split_first()) else {
            return ways.push(reached);
        };
        let ends = cases.iter().filter(|case| case.rest == Self::All);
        let ends: Vec<_> = ends.map(|case| (case.low, case.high)).collect();
        if !ends.is_empty() {
            let ends = Ranges::from_pairs(ends).contain(graph, word);
            ways.push(graph.and(reached, ends));
        }
        for case in cases.iter().filter(|case| case.rest != Self::All) {
            if graph.exhausted() {
                return;
            }
            let this = Ranges::from_pairs(vec![(case.low, case.high)]).contain(graph, word);
            let reached = graph.and(reached, this);
            if reached != Lit::FALSE {
                case.rest.ways(graph, reached, words, ways);
            }
        }
    }
}

/// Adds values behind all others.
fn append(cases: &mut Vec<Case>, low: u32, high: u32, rest: Tuples) {
    if rest.is_empty() {
        return;
    }
    match cases.last_mut() {
        Some(last) if last.high.checked_add(1) == Some(low) && last.rest == rest => {
            last.high = high;
        }
        _ => cases.push(Case { low, high, rest }),
    }
}

/// Adds values among others.
fn insert(cases: &mut Vec<Case>, new: &Case) {
    // With the neighbours, which may become one with what is added.
    let start = cases.partition_point(|case| case.high < new.low);
    let end = cases.partition_point(|case| case.low <= new.high);
    let (start, end) = (start.saturating_sub(1), (end + 1).min(cases.len()));
    let mut joined = Vec::with_capacity(end - start + 2);
    let mut from = Some(new.low);
    let gap = |joined: &mut Vec<Case>, from: u32, to: u32| {
        append(joined, from, to, new.rest.clone());
    };
    for case in cases.get(start..end).unwrap_or_default() {
        if case.high < new.low {
            append(&mut joined, case.low, case.high, case.rest.clone());
            continue;
        }
        if let Some(next) = from.filter(|next| *next <= new.high && *next < case.low) {
            let to = new.high.min(case.low - 1);
            gap(&mut joined, next, to);
            from = to.checked_add(1);
        }
        if case.low < new.low {
            append(&mut joined, case.low, new.low - 1, case.rest.clone());
        }
        let (low, high) = (case.low.max(new.low), case.high.min(new.high));
        if low <= high {
            let mut rest = case.rest.clone();
            rest.join(&new.rest);
            append(&mut joined, low, high, rest);
            from = high.checked_add(1);
        }
        if let Some(next) = new.high.checked_add(1).filter(|next| *next <= case.high) {
            let low = next.max(case.low);
            append(&mut joined, low, case.high, case.rest.clone());
        }
    }
    if let Some(next) = from.filter(|next| *next <= new.high) {
        gap(&mut joined, next, new.high);
    }
    cases.splice(start..end, joined);
}

#[cfg(test)]
mod tests;
