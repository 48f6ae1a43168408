//! The graph as clauses, and a solver that looks for an assignment, within bounds.

use std::cell::Cell;

use batsat::{Callbacks, ClauseKind, Solver as Batsat, SolverInterface, SolverOpts, Var, lbool};

use super::{
    deadline::Deadline,
    graph::{Graph, Lit},
    space::Space,
};

/// What the solver found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Satisfiable,
    Unsatisfiable,
    /// Time ran out, or there were too many conflicts.
    GaveUp,
}

/// Ends the search when its budget is used up.
struct Bounds {
    deadline: Deadline,
    conflicts: u64,
    /// The literals of learnt clauses.
    learnt: u64,
    allowed: u64,
    calls: Cell<u32>,
    late: Cell<bool>,
}

impl Bounds {
    /// Whether the deadline has passed. Looks at the clock now and then only: it
    /// takes as long as some ten decisions.
    fn late(&self) -> bool {
        let calls = self.calls.get().wrapping_add(1);
        self.calls.set(calls);
        if calls.is_multiple_of(256) && self.deadline.passed() {
            self.late.set(true);
        }
        self.late.get()
    }
}

impl Callbacks for Bounds {
    fn on_new_clause(&mut self, clause: &[batsat::Lit], kind: ClauseKind) {
        if kind == ClauseKind::Learnt {
            self.conflicts += 1;
            self.learnt += u64::try_from(clause.len()).unwrap_or(u64::MAX);
        }
    }

    fn stop(&self) -> bool {
        self.late() || self.conflicts > self.allowed
    }
}

pub(super) struct Solver {
    solver: Batsat<Bounds>,
    /// Each node's variable, once it is needed.
    variables: Vec<Option<Var>>,
    clauses: u64,
    /// All their literals.
    literals: u64,
    clause: Vec<batsat::Lit>,
    /// So many of the conditions that hold for every packet are required.
    settled: usize,
}

impl Solver {
    pub(super) fn new(deadline: Deadline, conflicts: u64) -> Self {
        let bounds = Bounds {
            deadline,
            conflicts: 0,
            learnt: 0,
            allowed: conflicts,
            calls: Cell::new(0),
            late: Cell::new(false),
        };
        Self {
            solver: Batsat::new(SolverOpts::default(), bounds),
            variables: Vec::new(),
            clauses: 0,
            literals: 0,
            clause: Vec::new(),
            settled: 0,
        }
    }

    pub(super) const fn clauses(&self) -> u64 {
        self.clauses
    }

    /// The memory that it takes, about: batsat keeps a header, two watches and the literals of each
    /// clause, learnt ones included, and some arrays by variable and by literal.
    pub(super) fn bytes(&self) -> u64 {
        const CLAUSE: u64 = 8 + 2 * 8;
        const VARIABLE: u64 = 96;
        let variables = u64::from(self.solver.num_vars());
        let literals = self.literals + self.solver.cb().learnt;
        let nodes = u64::try_from(self.variables.capacity()).unwrap_or(u64::MAX);
        (self.clauses + self.conflicts()) * CLAUSE
            + literals * 4
            + variables * VARIABLE
            + nodes.saturating_mul(8)
    }

    pub(super) fn conflicts(&self) -> u64 {
        self.solver.cb().conflicts
    }

    /// Allows no more than so many conflicts from here on.
    pub(super) fn allow(&mut self, conflicts: u64) {
        let bounds = self.solver.cb_mut();
        bounds.allowed = bounds.conflicts.saturating_add(conflicts);
    }

    /// Demands that a condition holds, from here on.
    pub(super) fn require(&mut self, graph: &Graph, condition: Lit) {
        let mut open = vec![condition];
        while let Some(condition) = open.pop() {
            match graph.operands(condition.node()) {
                Some((a, b)) if !condition.negated() => open.extend([a, b]),
                Some(_) => {
                    let leaves = self.leaves(graph, condition.node());
                    let clause: Vec<_> =
                        leaves.iter().map(|leaf| self.lit(graph, !*leaf)).collect();
                    self.add(&clause);
                }
                None => {
                    let lit = self.lit(graph, condition);
                    self.add(&[lit]);
                }
            }
        }
    }

    /// Demands what holds for every packet, as far as it is known by now, and makes sure that an
    /// assignment tells where every read ended up.
    pub(super) fn settle(&mut self, space: &mut Space) {
        let conditions: Vec<_> = space.settle().iter().skip(self.settled).copied().collect();
        self.settled += conditions.len();
        for condition in conditions {
            self.require(&space.graph, condition);
        }
        // An assignment is asked where each read ended up, even where no condition hangs on it.
        for read in space.reads() {
            for bit in read.place.bits() {
                if bit.as_constant().is_none() {
                    self.lit(&space.graph, *bit);
                }
            }
        }
    }

    /// Looks for an assignment that makes all assumptions hold.
    pub(super) fn solve(&mut self, graph: &Graph, assumptions: &[Lit]) -> Answer {
        let assumptions: Vec<_> = assumptions
            .iter()
            .map(|lit| self.lit(graph, *lit))
            .collect();
        if self.solver.cb().late.get() {
            return Answer::GaveUp;
        }
        let answer = self.solver.solve_limited(&assumptions);
        if answer == lbool::TRUE {
            Answer::Satisfiable
        } else if answer == lbool::FALSE {
            Answer::Unsatisfiable
        } else {
            Answer::GaveUp
        }
    }

    /// After [`Answer::Unsatisfiable`]: whether an assumption has a part in that.
    pub(super) fn blames(&self, assumption: Lit) -> bool {
        let Some(variable) = self.variable(assumption) else {
            return false;
        };
        self.solver.unsat_core_contains_var(variable)
    }

    /// After [`Answer::Satisfiable`]: the value of a bit; None where it does not matter.
    pub(super) fn value(&self, lit: Lit) -> Option<bool> {
        if let Some(constant) = lit.as_constant() {
            return Some(constant);
        }
        let value = self.solver.value_var(self.variable(lit)?);
        if value == lbool::TRUE {
            Some(!lit.negated())
        } else if value == lbool::FALSE {
            Some(lit.negated())
        } else {
            None
        }
    }

    /// The same for a node, as it stands.
    pub(super) fn node(&self, node: usize) -> Option<bool> {
        let value = self
            .solver
            .value_var(self.variables.get(node).copied().flatten()?);
        (value == lbool::TRUE || value == lbool::FALSE).then_some(value == lbool::TRUE)
    }

    fn variable(&self, lit: Lit) -> Option<Var> {
        self.variables.get(lit.node()).copied().flatten()
    }

    fn add(&mut self, lits: &[batsat::Lit]) {
        self.clauses += 1;
        self.literals += u64::try_from(lits.len()).unwrap_or(u64::MAX);
        self.clause.clear();
        self.clause.extend_from_slice(lits);
        self.solver.add_clause_reuse(&mut self.clause);
    }

    /// A literal's variable, and clauses that define it and all that it is made of.
    fn lit(&mut self, graph: &Graph, lit: Lit) -> batsat::Lit {
        if self.variables.len() < graph.len() {
            self.variables.resize(graph.len(), None);
        }
        let mut open = Vec::new();
        let result = self.named(lit, &mut open);
        while let Some(node) = open.pop() {
            if self.solver.cb().late() {
                // What is left undefined is harmless: nothing is solved any more.
                break;
            }
            self.define(graph, node, &mut open);
        }
        result
    }

    /// A literal's variable. A new one has yet to be defined.
    fn named(&mut self, lit: Lit, open: &mut Vec<usize>) -> batsat::Lit {
        let variable = self.variable(lit).unwrap_or_else(|| {
            let variable = self.solver.new_var_default();
            if let Some(slot) = self.variables.get_mut(lit.node()) {
                *slot = Some(variable);
            }
            open.push(lit.node());
            variable
        });
        batsat::Lit::new(variable, !lit.negated())
    }

    fn define(&mut self, graph: &Graph, node: usize, open: &mut Vec<usize>) {
        let Some(variable) = self.variables.get(node).copied().flatten() else {
            return;
        };
        let this = batsat::Lit::new(variable, true);
        if node == Lit::FALSE.node() {
            return self.add(&[!this]);
        }
        if let Some((condition, then, otherwise)) = graph.as_mux(node) {
            let condition = self.named(condition, open);
            let (t, e) = (self.named(then, open), self.named(otherwise, open));
            self.add(&[!condition, !t, this]);
            self.add(&[!condition, t, !this]);
            self.add(&[condition, !e, this]);
            self.add(&[condition, e, !this]);
            if then != !otherwise {
                // Implied, but only these let the result be known before the condition is.
                self.add(&[!t, !e, this]);
                self.add(&[t, e, !this]);
            }
            return;
        }
        let leaves = self.leaves(graph, node);
        let mut clause = vec![this];
        for leaf in leaves {
            let leaf = self.named(leaf, open);
            self.add(&[!this, leaf]);
            clause.push(!leaf);
        }
        if clause.len() > 1 {
            self.add(&clause);
        }
    }

    /// What a conjunction is made of, through conjunctions that are used nowhere else. Nothing
    /// for a free bit.
    fn leaves(&self, graph: &Graph, node: usize) -> Vec<Lit> {
        let mut leaves = Vec::new();
        let Some((a, b)) = graph.operands(node) else {
            return leaves;
        };
        let mut open = vec![b, a];
        while let Some(lit) = open.pop() {
            match graph.operands(lit.node()) {
                Some((a, b))
                    if !lit.negated()
                        && graph.used_once(lit.node())
                        && self.variable(lit).is_none()
                        && graph.as_mux(lit.node()).is_none() =>
                {
                    open.extend([b, a]);
                }
                _ => leaves.push(lit),
            }
        }
        leaves
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::bits::Word, *};

    fn deadline() -> Deadline {
        Deadline::after(Duration::from_secs(20))
    }

    #[test]
    fn equations_are_solved() {
        let mut graph = Graph::new(1 << 20);
        let (a, b) = (Word::free(&mut graph, 32), Word::free(&mut graph, 32));
        let sum = a.add(&mut graph, &b);
        let is_sum = sum.equals(&mut graph, &Word::constant(1000));
        let above = a.at_least(&mut graph, &Word::constant(990));
        let mut solver = Solver::new(deadline(), u64::MAX);
        solver.require(&graph, is_sum);
        let small = b.at_least(&mut graph, &Word::constant(11));
        let a_small = !a.at_least(&mut graph, &Word::constant(1001));
        assert_eq!(
            solver.solve(&graph, &[above, !small, a_small]),
            Answer::Satisfiable
        );
        let value = |word: &Word| word.evaluate(|bit| solver.value(bit).unwrap_or(false));
        assert_eq!(value(&a) + value(&b), 1000);
        assert!(value(&a) >= 990);
        assert_eq!(
            solver.solve(&graph, &[above, small, a_small]),
            Answer::Unsatisfiable
        );
        assert!(solver.blames(small) && solver.blames(above));
        assert_eq!(solver.solve(&graph, &[small]), Answer::Satisfiable);
    }

    #[test]
    fn hard_questions_are_given_up() {
        // Factors of a product of two primes, which no budget of this size finds.
        let mut graph = Graph::new(1 << 20);
        let (a, b) = (Word::free(&mut graph, 16), Word::free(&mut graph, 16));
        let product = a.mul(&mut graph, &b);
        let is_product = product.equals(&mut graph, &Word::constant(65_521 * 65_519));
        let less = !a.at_least(&mut graph, &b);
        let mut solver = Solver::new(deadline(), 50);
        solver.require(&graph, is_product);
        solver.require(&graph, less);
        assert_eq!(solver.solve(&graph, &[]), Answer::GaveUp);
        assert!(solver.conflicts() < 100);
        let mut late = Solver::new(Deadline::after(Duration::ZERO), u64::MAX);
        late.require(&graph, is_product);
        late.require(&graph, less);
        assert_eq!(late.solve(&graph, &[]), Answer::GaveUp);
    }
}
