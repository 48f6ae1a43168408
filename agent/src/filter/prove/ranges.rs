//! Sets of values of a word, as ranges.
//!
//! A search for an address among a thousand is thousands of tests of one word. As conditions, each
//! by itself, they would be too many to reason about; as ranges they are cut and joined at once,
//! and only what is left where the search ends becomes a condition: a tree over the word's bits,
//! the same one for the same set, however it was tested.

use super::{
    super::program::Test,
    bits::Word,
    graph::{Graph, Lit},
};

/// Values from one to another, both included; ascending, none next to another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    /// The least and the highest value that a word may have, as far as its constant bits say.
    pub(super) fn bounds(word: &Word) -> (u32, u32) {
        (
            word.evaluate(|bit| bit.as_constant().unwrap_or(false)),
            word.evaluate(|bit| bit.as_constant().unwrap_or(true)),
        )
    }

    /// All values between them.
    pub(super) fn of(word: &Word) -> Self {
        Self(vec![Self::bounds(word)])
    }

    /// From pairs that are as the type says.
    pub(super) fn from_pairs(pairs: Vec<(u32, u32)>) -> Self {
        Self(pairs)
    }

    pub(super) fn pairs(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// The values for which a test against a constant holds. None: it is no question of ranges.
    pub(super) fn passing(test: Test, k: u32) -> Option<Self> {
        Some(Self(match test {
            Test::Equal => vec![(k, k)],
            Test::Greater => k
                .checked_add(1)
                .map(|k| (k, u32::MAX))
                .into_iter()
                .collect(),
            Test::GreaterOrEqual => vec![(k, u32::MAX)],
            Test::AnyBit => return None,
        }))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the highest value of all is in it.
    fn reaches_the_end(&self) -> bool {
        self.0.last().is_some_and(|(_, high)| *high == u32::MAX)
    }

    pub(super) fn and(&self, other: &Self) -> Self {
        let mut both = Vec::new();
        let (mut mine, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(&&(low, high)), Some(&&(from, to))) = (mine.peek(), theirs.peek()) {
            if low.max(from) <= high.min(to) {
                both.push((low.max(from), high.min(to)));
            }
            if high < to {
                mine.next();
            } else {
                theirs.next();
            }
        }
        Self(both)
    }

    pub(super) fn not(&self) -> Self {
        let mut rest = Vec::with_capacity(self.0.len() + 1);
        let mut from = Some(0);
        for &(low, high) in &self.0 {
            if let Some(from) = from
                && from < low
            {
                rest.push((from, low - 1));
            }
            from = high.checked_add(1);
        }
        rest.extend(from.map(|from| (from, u32::MAX)));
        Self(rest)
    }

    /// The condition under which a word has one of these values.
    pub(super) fn contain(&self, graph: &mut Graph, word: &Word) -> Lit {
        // One tree for a set and its complement.
        if self.reaches_the_end() {
            return !Self::holds(&self.not().0, graph, word);
        }
        Self::holds(&self.0, graph, word)
    }

    fn holds(ranges: &[(u32, u32)], graph: &mut Graph, word: &Word) -> Lit {
        if let [(low, high)] = ranges
            && let size = high ^ low
            && size & size.wrapping_add(1) == 0
            && low & size == 0
        {
            // One value or a network, in the form that a test for it has elsewhere.
            let mask = Word::constant(!size);
            let masked = word.and(graph, &mask);
            return masked.equals(graph, &Word::constant(*low));
        }
        tree(graph, word, ranges, 0, 32)
    }
}

/// Whether a word is in one of the ranges, if it begins as `base` down to so many bits.
fn tree(graph: &mut Graph, word: &Word, ranges: &[(u32, u32)], base: u32, bits: u32) -> Lit {
    let top = base | u32::MAX.checked_shr(32 - bits).unwrap_or(0);
    let start = ranges.partition_point(|(_, high)| *high < base);
    let end = ranges.partition_point(|(low, _)| *low <= top);
    let Some(within @ [first, ..]) = ranges.get(start..end) else {
        return Lit::FALSE;
    };
    if first.0 <= base && first.1 >= top {
        return Lit::TRUE;
    }
    let Some(rest) = bits.checked_sub(1) else {
        return Lit::TRUE;
    };
    let bit = word.bit(usize::try_from(rest).unwrap_or(0));
    match bit.as_constant() {
        Some(true) => tree(graph, word, within, base | 1 << rest, rest),
        Some(false) => tree(graph, word, within, base, rest),
        None => {
            let above = tree(graph, word, within, base | 1 << rest, rest);
            let below = tree(graph, word, within, base, rest);
            graph.mux(bit, above, below)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u32, u32)]) -> Ranges {
        Ranges(ranges.to_vec())
    }

    #[test]
    fn sets_are_cut_and_joined() {
        let (a, b) = (set(&[(1, 4), (8, 9)]), set(&[(3, 8), (20, u32::MAX)]));
        assert_eq!(a.and(&b), set(&[(3, 4), (8, 8)]));
        assert_eq!(a.not(), set(&[(0, 0), (5, 7), (10, u32::MAX)]));
        assert_eq!(b.not(), set(&[(0, 2), (9, 19)]));
        assert_eq!(set(&[]).not().not(), set(&[]));
        assert!(a.and(&a.not()).is_empty());
        let passing = |test, k| Ranges::passing(test, k).unwrap();
        assert!(passing(Test::Greater, u32::MAX).is_empty());
        assert_eq!(passing(Test::GreaterOrEqual, 7), set(&[(7, u32::MAX)]));
    }

    #[test]
    fn conditions_hold_for_the_values() {
        let mut graph = Graph::new(1 << 20);
        let word = Word::free(&mut graph, 10);
        for ranges in [
            &[(3, 3)][..],
            &[(0, 0)],
            &[(8, 15)],
            &[(9, 15)],
            &[(5, u32::MAX)],
            &[(0, 6), (8, u32::MAX)],
            &[(1, 1), (3, 3), (5, 300), (700, 701), (1023, 1023)],
            &[(1, 2), (900, u32::MAX)],
            &[],
        ] {
            let set = set(ranges);
            let holds = set.contain(&mut graph, &word);
            let not = set.not().contain(&mut graph, &word);
            assert_eq!(holds, !not);
            let mut values = vec![false; graph.len()];
            for value in 0..1024_u32 {
                for (at, bit) in word.bits().iter().enumerate().take(10) {
                    values[bit.node()] = value >> at & 1 == 1;
                }
                for node in 0..graph.len() {
                    if let Some((a, b)) = graph.operands(node) {
                        let of = |lit: Lit| values[lit.node()] ^ lit.negated();
                        values[node] = of(a) && of(b);
                    }
                }
                let expected = ranges
                    .iter()
                    .any(|(low, high)| (low..=high).contains(&&value));
                assert_eq!(
                    values[holds.node()] ^ holds.negated(),
                    expected,
                    "{value} {ranges:?}"
                );
            }
        }
        // The same as the tests elsewhere make.
        let five = word.equals(&mut graph, &Word::constant(5));
        assert_eq!(set(&[(5, 5)]).contain(&mut graph, &word), five);
    }
}
