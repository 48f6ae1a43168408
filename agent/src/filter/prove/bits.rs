//! 32-bit words over the graph, lowest bit first, with the machine's arithmetic.

use std::array;

use super::graph::{Graph, Lit};

const BITS: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Word([Lit; BITS]);

impl Word {
    pub(super) const ZERO: Self = Self([Lit::FALSE; BITS]);

    pub(super) fn constant(value: u32) -> Self {
        Self(array::from_fn(|bit| Lit::constant(value >> bit & 1 == 1)))
    }

    pub(super) fn as_constant(&self) -> Option<u32> {
        let mut bits = self.0.iter().enumerate();
        bits.try_fold(0, |value, (at, bit)| {
            Some(value | u32::from(bit.as_constant()?) << at)
        })
    }

    /// The lowest bits; the rest is zero.
    pub(super) fn from_bits(bits: &[Lit]) -> Self {
        Self(array::from_fn(|at| {
            bits.get(at).copied().unwrap_or(Lit::FALSE)
        }))
    }

    /// So many free bits; the rest is zero.
    pub(super) fn free(graph: &mut Graph, bits: usize) -> Self {
        Self(array::from_fn(|at| {
            if at < bits { graph.free() } else { Lit::FALSE }
        }))
    }

    /// The same word with the highest of so many bits copied to the left.
    pub(super) fn sign_extended(&self, bits: usize) -> Self {
        Self(array::from_fn(|at| {
            self.bit(at.min(bits.saturating_sub(1)))
        }))
    }

    pub(super) const fn bits(&self) -> &[Lit; BITS] {
        &self.0
    }

    pub(super) fn bit(&self, at: usize) -> Lit {
        self.0.get(at).copied().unwrap_or(Lit::FALSE)
    }

    pub(super) fn sign(&self) -> Lit {
        self.bit(BITS - 1)
    }

    /// The value if it were a constant with this choice for each bit.
    pub(super) fn evaluate(&self, value: impl Fn(Lit) -> bool) -> u32 {
        let bits = self.0.iter().enumerate();
        bits.fold(0, |word, (at, bit)| word | u32::from(value(*bit)) << at)
    }

    fn map2(&self, other: &Self, mut f: impl FnMut(Lit, Lit) -> Lit) -> Self {
        Self(array::from_fn(|at| f(self.bit(at), other.bit(at))))
    }

    pub(super) fn and(&self, graph: &mut Graph, other: &Self) -> Self {
        self.map2(other, |a, b| graph.and(a, b))
    }

    pub(super) fn or(&self, graph: &mut Graph, other: &Self) -> Self {
        self.map2(other, |a, b| graph.or(a, b))
    }

    pub(super) fn xor(&self, graph: &mut Graph, other: &Self) -> Self {
        self.map2(other, |a, b| graph.xor(a, b))
    }

    pub(super) fn mux(graph: &mut Graph, condition: Lit, then: &Self, otherwise: &Self) -> Self {
        then.map2(otherwise, |then, otherwise| {
            graph.mux(condition, then, otherwise)
        })
    }

    /// Zero where the condition does not hold.
    pub(super) fn only_if(&self, graph: &mut Graph, condition: Lit) -> Self {
        Self(array::from_fn(|at| graph.and(condition, self.bit(at))))
    }

    fn inverted(&self) -> Self {
        Self(self.0.map(|bit| !bit))
    }

    fn add_carry(&self, graph: &mut Graph, other: &Self, mut carry: Lit) -> Self {
        self.map2(other, |a, b| {
            let different = graph.xor(a, b);
            let sum = graph.xor(different, carry);
            carry = graph.mux(different, carry, a);
            sum
        })
    }

    pub(super) fn add(&self, graph: &mut Graph, other: &Self) -> Self {
        self.add_carry(graph, other, Lit::FALSE)
    }

    pub(super) fn sub(&self, graph: &mut Graph, other: &Self) -> Self {
        self.add_carry(graph, &other.inverted(), Lit::TRUE)
    }

    pub(super) fn mul(&self, graph: &mut Graph, other: &Self) -> Self {
        // The one with more known bits says which partial sums there are.
        let known = |word: &Self| {
            word.0
                .iter()
                .filter(|bit| bit.as_constant().is_some())
                .count()
        };
        let (by, word) = if known(self) > known(other) {
            (self, other)
        } else {
            (other, self)
        };
        let mut sum = Self::ZERO;
        for (at, bit) in by.0.iter().enumerate() {
            if *bit != Lit::FALSE {
                let part = word.shifted_left(at).only_if(graph, *bit);
                sum = sum.add(graph, &part);
            }
        }
        sum
    }

    /// Quotient and remainder by schoolbook division; they mean nothing if the divisor is zero.
    pub(super) fn div_rem(&self, graph: &mut Graph, divisor: &Self) -> (Self, Self) {
        if let Some(constant) = divisor.as_constant()
            && constant.is_power_of_two()
        {
            let shift = constant.trailing_zeros();
            let mask = Self::constant(constant - 1);
            return (self.shifted_right(shift as usize), self.and(graph, &mask));
        }
        let mut quotient = [Lit::FALSE; BITS];
        let mut rest = Self::ZERO;
        for (at, bit) in quotient.iter_mut().enumerate().rev() {
            // What falls out at the top makes the rest larger than any divisor.
            let overflow = rest.sign();
            rest = rest.shifted_left(1);
            if let Some(lowest) = rest.0.first_mut() {
                *lowest = self.bit(at);
            }
            let fits = rest.at_least(graph, divisor);
            *bit = graph.or(overflow, fits);
            let less = rest.sub(graph, divisor);
            rest = Self::mux(graph, *bit, &less, &rest);
        }
        (Self(quotient), rest)
    }

    pub(super) fn shifted_left(&self, by: usize) -> Self {
        Self(array::from_fn(|at| {
            at.checked_sub(by).map_or(Lit::FALSE, |at| self.bit(at))
        }))
    }

    pub(super) fn shifted_right(&self, by: usize) -> Self {
        Self(array::from_fn(|at| self.bit(at + by)))
    }

    /// Shifts by the lowest five bits of another word.
    pub(super) fn shift(
        &self,
        graph: &mut Graph,
        by: &Self,
        how: fn(&Self, usize) -> Self,
    ) -> Self {
        (0..5).fold(*self, |word, stage| {
            let shifted = how(&word, 1 << stage);
            Self::mux(graph, by.bit(stage), &shifted, &word)
        })
    }

    /// From the highest bit down, so that prefixes of addresses are shared.
    pub(super) fn equals(&self, graph: &mut Graph, other: &Self) -> Lit {
        let mut equal = Lit::TRUE;
        for (a, b) in self.0.iter().zip(other.0).rev() {
            let differ = graph.xor(*a, b);
            equal = graph.and(equal, !differ);
        }
        equal
    }

    /// `self >= other`, unsigned.
    pub(super) fn at_least(&self, graph: &mut Graph, other: &Self) -> Lit {
        let mut at_least = Lit::TRUE;
        for (a, b) in self.0.iter().zip(other.0) {
            // Where the bits are the same, the lower ones decide.
            let differ = graph.xor(*a, b);
            at_least = graph.mux(differ, *a, at_least);
        }
        at_least
    }

    pub(super) fn not_zero(&self, graph: &mut Graph) -> Lit {
        graph.any(self.0.iter().rev().copied().collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of free bits, computed on as circuits and then evaluated, against numbers.
    #[test]
    fn circuits_compute_what_the_machine_computes() {
        let mut graph = Graph::new(1 << 20);
        let a = Word::free(&mut graph, 32);
        let b = Word::free(&mut graph, 32);
        let (quotient, remainder) = a.div_rem(&mut graph, &b);
        let results = [
            a.add(&mut graph, &b),
            a.sub(&mut graph, &b),
            a.mul(&mut graph, &b),
            quotient,
            remainder,
            a.shift(&mut graph, &b, Word::shifted_left),
            a.shift(&mut graph, &b, Word::shifted_right),
            a.xor(&mut graph, &b),
            a.or(&mut graph, &b),
        ];
        let tests = [
            a.equals(&mut graph, &b),
            a.at_least(&mut graph, &b),
            a.not_zero(&mut graph),
        ];
        assert!(!graph.exhausted());
        let interesting = [
            0,
            1,
            2,
            3,
            7,
            31,
            32,
            33,
            0x7fff_ffff,
            0x8000_0000,
            u32::MAX,
            0x0a00_0005,
        ];
        for x in interesting {
            for y in interesting {
                let value = evaluate(&graph, &[(&a, x), (&b, y)]);
                let words = results.map(|word| word.evaluate(&value));
                let (quotient, remainder) = match y {
                    0 => (words[3], words[4]),
                    y => (x / y, x % y),
                };
                let expected = [
                    x.wrapping_add(y),
                    x.wrapping_sub(y),
                    x.wrapping_mul(y),
                    quotient,
                    remainder,
                    x.wrapping_shl(y),
                    x.wrapping_shr(y),
                    x ^ y,
                    x | y,
                ];
                assert_eq!(words, expected, "{x:#x} {y:#x}");
                assert_eq!(tests.map(&value), [x == y, x >= y, x != 0], "{x:#x} {y:#x}");
            }
        }
    }

    #[test]
    fn constants_make_no_nodes() {
        let mut graph = Graph::new(1 << 10);
        let (a, b) = (Word::constant(77), Word::constant(10));
        assert_eq!(a.mul(&mut graph, &b).as_constant(), Some(770));
        let (quotient, remainder) = a.div_rem(&mut graph, &b);
        assert_eq!(
            (quotient.as_constant(), remainder.as_constant()),
            (Some(7), Some(7))
        );
        assert_eq!(a.at_least(&mut graph, &b), Lit::TRUE);
        assert_eq!(graph.len(), 1);
    }

    fn evaluate(graph: &Graph, words: &[(&Word, u32)]) -> impl Fn(Lit) -> bool + use<> {
        let mut values = vec![false; graph.len()];
        for (word, value) in words {
            for (at, bit) in word.bits().iter().enumerate() {
                values[bit.node()] = value >> at & 1 == 1;
            }
        }
        for node in 0..graph.len() {
            if let Some((a, b)) = graph.operands(node) {
                values[node] = (values[a.node()] ^ a.negated()) && (values[b.node()] ^ b.negated());
            }
        }
        move |lit| values[lit.node()] ^ lit.negated()
    }
}
