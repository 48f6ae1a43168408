//! Questions about two programs: each answer agrees with what the interpreter says about packets,
//! and with the other answers.

use std::time::Duration;

use capwarden::filter::{
    Budget, ComposeError, Containment, Difference, Emptiness, Equivalence, Example, LinkType,
    Packet, Program, SocketForm, Unknown, compose, difference, equivalent, interpret,
    is_conjunction, is_empty, prove_measured, well_formed,
};
use rustix::time::{ClockId, clock_gettime};

use crate::{generate, source::Source};

const MOST_INSTRUCTIONS: usize = 12;
const MOST_PACKETS: usize = 4;

/// What a question may cost here.
const BUDGET: Budget = Budget {
    time: Duration::from_millis(100),
    nodes: 60_000,
    conflicts: 2000,
};
/// What a question may cost beyond its budget: a step that looks at no clock.
const GRACE: Duration = Duration::from_millis(400);

struct Case {
    requested: Program,
    policy: Program,
    form: SocketForm,
    packets: Vec<Example>,
}

/// Two programs, every question, and a few packets.
pub fn prover(input: &[u8]) {
    let mut source = Source::new(input);
    let kind = source.byte();
    let requested = generate::program(&mut source, MOST_INSTRUCTIONS);
    let policy = match kind & 3 {
        0 => generate::changed(&requested, &mut source),
        _ => generate::program(&mut source, MOST_INSTRUCTIONS),
    };
    let form = match kind >> 2 & 7 {
        0..4 => SocketForm::Raw(LinkType::EN10MB),
        4 | 5 => SocketForm::Cooked,
        6 => SocketForm::Raw(LinkType::RAW),
        _ => SocketForm::Raw(LinkType::LINUX_SLL2),
    };
    let mut packets = Vec::new();
    while !source.is_empty() && packets.len() < MOST_PACKETS {
        let bytes = generate::frame(&mut source);
        let meta = generate::meta(&mut source);
        let length = source.below(24);
        let headroom = source.bytes(length);
        packets.push(Example {
            bytes,
            headroom,
            meta,
        });
    }
    let case = Case {
        requested,
        policy,
        form,
        packets,
    };
    match kind >> 5 {
        0..3 => case.containment(),
        3 => case.emptiness(),
        4 => case.equivalence(),
        5 => case.itself(),
        _ => case.conjunction(),
    }
}

impl Case {
    fn containment(&self) {
        let ((answer, cost), took) = timed(|| {
            let (requested, policy) = (&self.requested, &self.policy);
            prove_measured(requested, policy, self.form, BUDGET)
        });
        assert!(cost.nodes <= BUDGET.nodes + 1, "{cost:?}");
        assert!(cost.conflicts <= BUDGET.conflicts + 1, "{cost:?}");
        assert!(took < BUDGET.time + GRACE, "{took:?}: {self:?}");
        self.check(&self.requested, &self.policy, &answer);
    }

    /// An answer about whether one program is contained in another.
    fn check(&self, requested: &Program, policy: &Program, answer: &Containment) {
        let shows = |packet: &Packet<'_>| {
            interpret(requested, packet) != 0 && interpret(policy, packet) == 0
        };
        match answer {
            Containment::Contained => {
                let outside = self.find(|packet| shows(packet));
                assert_eq!(outside, None, "contained: {self:?}");
            }
            Containment::ContainedWellFormed { counterexample } => {
                assert!(shows(&counterexample.packet()), "{self:?}");
                let outside = self.find(|packet| well_formed(packet, self.form) && shows(packet));
                assert_eq!(outside, None, "contained if well-formed: {self:?}");
            }
            Containment::NotContained { counterexample } => {
                let packet = counterexample.packet();
                assert!(well_formed(&packet, self.form), "{packet:?}: {self:?}");
                assert!(shows(&packet), "{packet:?}: {self:?}");
            }
            Containment::Unknown { why } => assert_ne!(*why, Unknown::NotReproduced, "{self:?}"),
        }
        if let Some(example) = answer.counterexample() {
            assert!(!example.in_words(self.form).is_empty(), "{self:?}");
        }
    }

    fn emptiness(&self) {
        let program = &self.requested;
        let (answer, took) = timed(|| is_empty(program, self.form, BUDGET));
        assert!(took < BUDGET.time + GRACE, "{took:?}: {self:?}");
        let accepts = |packet: &Packet<'_>| interpret(program, packet) != 0;
        match answer {
            Emptiness::Empty => {
                let accepted = self.find(|packet| accepts(packet));
                assert_eq!(accepted, None, "empty: {self:?}");
            }
            Emptiness::EmptyWellFormed { example } => {
                assert!(accepts(&example.packet()), "{self:?}");
                let accepted =
                    self.find(|packet| well_formed(packet, self.form) && accepts(packet));
                assert_eq!(accepted, None, "empty if well-formed: {self:?}");
            }
            Emptiness::Matches { example } => {
                let packet = example.packet();
                assert!(accepts(&packet), "{packet:?}: {self:?}");
                assert!(well_formed(&packet, self.form), "{packet:?}: {self:?}");
            }
            Emptiness::Unknown { why } => assert_ne!(why, Unknown::NotReproduced, "{self:?}"),
        }
    }

    fn equivalence(&self) {
        let (one, other) = (&self.requested, &self.policy);
        let (answer, took) = timed(|| equivalent(one, other, self.form, BUDGET));
        assert!(took < BUDGET.time + GRACE, "{took:?}: {self:?}");
        let differ =
            |packet: &Packet<'_>| (interpret(one, packet) != 0) != (interpret(other, packet) != 0);
        let check = |found: &Difference| {
            self.check(one, other, &found.first_only);
            self.check(other, one, &found.second_only);
        };
        match &answer {
            Equivalence::Equal => {
                let found = self.find(|packet| differ(packet));
                assert_eq!(found, None, "equal: {self:?}");
            }
            Equivalence::EqualWellFormed(found) | Equivalence::Different(found) => check(found),
            Equivalence::Unknown { why } => {
                assert_ne!(*why, Unknown::NotReproduced, "{self:?}");
                check(&difference(one, other, self.form, BUDGET));
            }
        }
    }

    /// A program is contained in itself, and in a longer spelling of itself.
    fn itself(&self) {
        let program = &self.requested;
        let (answer, _) = prove_measured(program, program, self.form, BUDGET);
        let expected = matches!(
            answer,
            Containment::Contained
                | Containment::Unknown {
                    why: Unknown::TimedOut | Unknown::TooLarge
                }
        );
        assert!(expected, "{answer:?}: {self:?}");
        let answer = equivalent(program, program, self.form, BUDGET);
        let expected = matches!(answer, Equivalence::Equal | Equivalence::Unknown { .. });
        assert!(expected, "{answer:?}: {self:?}");
    }

    fn conjunction(&self) {
        let (requested, policy) = (&self.requested, &self.policy);
        let joined = match compose(requested, policy) {
            Ok(joined) => joined,
            Err(error) => return assert_eq!(error, ComposeError::NoFreeCell, "{self:?}"),
        };
        for example in &self.packets {
            let packet = example.packet();
            // A packet socket's packets have one.
            if packet.meta.interface_index == 0 {
                continue;
            }
            let lesser = interpret(requested, &packet).min(interpret(policy, &packet));
            let ours = interpret(&joined, &packet);
            assert_eq!(ours, lesser, "{packet:?} {joined:?}: {self:?}");
        }
        let (answer, took) = timed(|| is_conjunction(&joined, requested, policy, BUDGET));
        assert!(took < BUDGET.time + GRACE, "{took:?}: {self:?}");
        assert_ne!(answer, Ok(false), "{joined:?}: {self:?}");
        for outer in [requested, policy] {
            let (answer, _) = prove_measured(&joined, outer, self.form, BUDGET);
            let expected = matches!(
                answer,
                Containment::Contained
                    | Containment::Unknown {
                        why: Unknown::TimedOut | Unknown::TooLarge
                    }
            );
            assert!(expected, "{answer:?} {joined:?}: {self:?}");
        }
    }

    fn find(&self, shows: impl Fn(&Packet<'_>) -> bool) -> Option<&Example> {
        self.packets.iter().find(|example| shows(&example.packet()))
    }
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, program) in [("requested", &self.requested), ("policy", &self.policy)] {
            write!(f, "\n{name}:")?;
            for insn in program.insns() {
                write!(f, " {insn}")?;
            }
        }
        write!(f, "\n{:?} {:02x?}", self.form, self.packets)
    }
}

/// What something returns, and the processor's time that it took: others may have the processor
/// meanwhile.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
        Duration::new(seconds.unwrap(), nanos.unwrap())
    };
    let before = now();
    let result = work();
    (result, now().saturating_sub(before))
}
