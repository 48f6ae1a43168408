//! An and-inverter graph: every condition as conjunctions and negations of free bits.
//!
//! Equal conjunctions are one node (structural hashing), and those that a look at the operands
//! decides are none, so two programs that test the same bytes share what they compute.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    ops::Not,
};

/// A node or its negation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Lit(u32);

impl Lit {
    pub(super) const FALSE: Self = Self(0);
    pub(super) const TRUE: Self = Self(1);

    pub(super) const fn constant(value: bool) -> Self {
        if value { Self::TRUE } else { Self::FALSE }
    }

    pub(super) const fn as_constant(self) -> Option<bool> {
        match self {
            Self::FALSE => Some(false),
            Self::TRUE => Some(true),
            _ => None,
        }
    }

    /// The node's number, which is small and dense.
    pub(super) const fn node(self) -> usize {
        (self.0 >> 1) as usize
    }

    pub(super) const fn negated(self) -> bool {
        self.0 & 1 == 1
    }

    const fn positive(node: u32) -> Self {
        Self(node << 1)
    }
}

impl Not for Lit {
    type Output = Self;

    fn not(self) -> Self {
        Self(self.0 ^ 1)
    }
}

/// A free bit is a node whose operands are both false, which no conjunction is.
const FREE: (Lit, Lit) = (Lit::FALSE, Lit::FALSE);

#[derive(Debug)]
pub(super) struct Graph {
    nodes: Vec<(Lit, Lit)>,
    /// How often each node is an operand; 2 stands for more.
    uses: Vec<u8>,
    known: HashMap<(Lit, Lit), Lit, BuildHasherDefault<PairHasher>>,
    limit: usize,
    exhausted: bool,
}

impl Graph {
    /// A graph of at most so many nodes.
    pub(super) fn new(limit: usize) -> Self {
        // Two literals per node have to fit into 32 bits.
        let limit = limit.min(1 << 30);
        Self {
            nodes: vec![FREE],
            uses: vec![2],
            known: HashMap::default(),
            limit,
            exhausted: false,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        const KNOWN: usize = size_of::<((Lit, Lit), Lit)>() + 1;
        self.nodes.capacity() * size_of::<(Lit, Lit)>()
            + self.uses.capacity()
            + self.known.capacity() * KNOWN
    }

    /// Whether the limit was reached. What was built after that means nothing.
    pub(super) const fn exhausted(&self) -> bool {
        self.exhausted
    }

    /// The operands of a conjunction; None for a free bit and for the constant.
    pub(super) fn operands(&self, node: usize) -> Option<(Lit, Lit)> {
        self.nodes.get(node).copied().filter(|pair| *pair != FREE)
    }

    /// Whether a node is an operand in one place only.
    pub(super) fn used_once(&self, node: usize) -> bool {
        self.uses.get(node) == Some(&1)
    }

    /// A node that chooses between two: the condition, and what the node is in either case.
    pub(super) fn as_mux(&self, node: usize) -> Option<(Lit, Lit, Lit)> {
        let (p, q) = self.operands(node)?;
        if !p.negated() || !q.negated() {
            return None;
        }
        let ((a, b), (c, d)) = (self.operands(p.node())?, self.operands(q.node())?);
        [(a, b, c, d), (a, b, d, c), (b, a, c, d), (b, a, d, c)]
            .into_iter()
            .find(|(condition, _, other, _)| *condition == !*other)
            .map(|(condition, then, _, otherwise)| (condition, !then, !otherwise))
    }

    pub(super) fn free(&mut self) -> Lit {
        self.push(FREE)
    }

    fn push(&mut self, node: (Lit, Lit)) -> Lit {
        match u32::try_from(self.nodes.len()) {
            Ok(number) if self.nodes.len() < self.limit => {
                self.nodes.push(node);
                self.uses.push(0);
                for operand in [node.0, node.1] {
                    if let Some(uses) = self.uses.get_mut(operand.node()) {
                        *uses = (*uses + 1).min(2);
                    }
                }
                Lit::positive(number)
            }
            _ => {
                self.exhausted = true;
                Lit::FALSE
            }
        }
    }

    pub(super) fn and(&mut self, a: Lit, b: Lit) -> Lit {
        let (a, b) = if a <= b { (a, b) } else { (b, a) };
        match a {
            Lit::FALSE => return Lit::FALSE,
            Lit::TRUE => return b,
            _ if a == b => return a,
            _ if a == !b => return Lit::FALSE,
            _ => {}
        }
        if let Some(&known) = self.known.get(&(a, b)) {
            return known;
        }
        let result = match self.absorb(a, b).or_else(|| self.absorb(b, a)) {
            Some(Absorbed::Is(result)) => result,
            Some(Absorbed::And(a, b)) => self.and(a, b),
            None => self.push((a, b)),
        };
        self.known.insert((a, b), result);
        result
    }

    /// What `a & b` comes to when `b` is made of `a`.
    fn absorb(&self, a: Lit, b: Lit) -> Option<Absorbed> {
        let (left, right) = self.operands(b.node())?;
        if !b.negated() {
            return if a == left || a == right {
                Some(Absorbed::Is(b))
            } else if a == !left || a == !right {
                Some(Absorbed::Is(Lit::FALSE))
            } else {
                None
            };
        }
        if a == !left || a == !right {
            Some(Absorbed::Is(a))
        } else if a == left {
            Some(Absorbed::And(a, !right))
        } else if a == right {
            Some(Absorbed::And(a, !left))
        } else {
            None
        }
    }

    pub(super) fn or(&mut self, a: Lit, b: Lit) -> Lit {
        !self.and(!a, !b)
    }

    pub(super) fn implies(&mut self, a: Lit, b: Lit) -> Lit {
        !self.and(a, !b)
    }

    pub(super) fn xor(&mut self, a: Lit, b: Lit) -> Lit {
        // Negations go outside, so that there is one node for all four combinations.
        let (x, y) = (Lit::positive(a.0 >> 1), Lit::positive(b.0 >> 1));
        let differ = self.mux(x, !y, y);
        if a.negated() == b.negated() {
            differ
        } else {
            !differ
        }
    }

    /// `then` where the condition holds, `otherwise` where not.
    pub(super) fn mux(&mut self, condition: Lit, then: Lit, otherwise: Lit) -> Lit {
        match condition.as_constant() {
            Some(true) => return then,
            Some(false) => return otherwise,
            None if then == otherwise => return then,
            None => {}
        }
        let then = self.and(condition, then);
        let otherwise = self.and(!condition, otherwise);
        self.or(then, otherwise)
    }

    pub(super) fn all(&mut self, lits: impl IntoIterator<Item = Lit>) -> Lit {
        lits.into_iter()
            .fold(Lit::TRUE, |all, lit| self.and(all, lit))
    }

    pub(super) fn any(&mut self, lits: impl IntoIterator<Item = Lit>) -> Lit {
        !self.all(lits.into_iter().map(|lit| !lit).collect::<Vec<_>>())
    }
}

enum Absorbed {
    Is(Lit),
    And(Lit, Lit),
}

/// Two numbers that nobody chooses to collide: a multiplication does.
#[derive(Default)]
struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(byte.into());
        }
    }

    fn write_u32(&mut self, value: u32) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        self.0 = (self.0.rotate_left(23) ^ u64::from(value)).wrapping_mul(ODD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_makes_no_node() {
        let mut graph = Graph::new(100);
        let (a, b) = (graph.free(), graph.free());
        let both = graph.and(a, b);
        let nodes = graph.len();
        assert_eq!(graph.and(b, a), both);
        assert_eq!(graph.and(a, both), both);
        assert_eq!(graph.and(!a, both), Lit::FALSE);
        assert_eq!(graph.and(!a, !both), !a);
        assert_eq!(graph.and(a, Lit::TRUE), a);
        assert_eq!(graph.mux(a, b, b), b);
        assert_eq!(graph.len(), nodes);
        assert_eq!(graph.and(a, !both), graph.and(a, !b));
    }

    #[test]
    fn the_limit_holds() {
        let mut graph = Graph::new(3);
        let (a, b) = (graph.free(), graph.free());
        assert!(!graph.exhausted());
        graph.and(a, b);
        assert!(graph.exhausted());
        assert_eq!(graph.len(), 3);
    }
}
