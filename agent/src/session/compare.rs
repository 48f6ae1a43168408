//! Compares the filters that processes attach themselves with the one that was asked for.
//!
//! ```text
//!   own ∧ policy ──┐
//!                  ├─▶ same · narrower · wider · different, with packets that show it
//! asked ∧ policy ──┘
//! ```
//! The guard delivers what passes the grant and the own filter, so nothing hangs on the answer:
//! it is news for whoever reads the record. What the policy cuts off anyway is no difference.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::{Events, Grant, SessionEvent, SessionId, own_filter::Attached};
use crate::{
    filter::{
        Ancillary, Budget, Compiler, Containment, Insn, Op, Origin, Program, SocketForm, compose,
        difference,
    },
    kernel::SocketKind,
    policy::{FilterOrigin, FilterTerm},
};

/// Different programs of one session that are compared; of more, only the digest is recorded.
const MAX_COMPARED: usize = 16;
/// What is still compared when the session has ended holds up the news of its end.
const AFTER_THE_END: Duration = Duration::from_secs(1);
const BUDGET: Budget = Budget {
    time: Duration::from_millis(500),
    nodes: 200_000,
    conflicts: 50_000,
};

/// How a process's own filter compares with the filter that was asked for, among the packets that
/// the policy allows and that have no VLAN tag beside their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    /// It accepts the same packets.
    Same,
    /// It leaves packets out.
    Narrower {
        /// One that was asked for.
        leaves_out: String,
    },
    /// It accepts more, which the grant cuts off.
    Wider {
        /// One that was not asked for.
        adds: String,
    },
    /// Both.
    Different {
        /// One that was not asked for.
        adds: String,
        /// One that was.
        leaves_out: String,
    },
    /// It was not found out.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// Tells of each filter that is attached, with its relation, until the session is gone.
pub(super) async fn run(
    session: SessionId,
    mut attached: mpsc::UnboundedReceiver<Attached>,
    comparer: Comparer,
    events: Events,
) {
    let mut comparer = Some(comparer);
    let mut ended = None;
    while let Some(filter) = attached.recv().await {
        if attached.is_closed() {
            ended.get_or_insert_with(Instant::now);
        }
        let late = ended.is_some_and(|ended| ended.elapsed() > AFTER_THE_END);
        let Attached { caller, kind, .. } = filter.clone();
        let length = filter.program.insns().len();
        let Some(mut own) = comparer.take() else {
            return;
        };
        // Compiling and proving take milliseconds, and may take longer.
        let compared = tokio::task::spawn_blocking(move || {
            let digest = digest(filter.program.insns());
            let relation = own.relation(digest, &filter, late);
            (own, digest, relation)
        });
        let Ok((own, digest, relation)) = compared.await else {
            tracing::error!(%session, "comparing a process's own filter failed");
            return;
        };
        comparer = Some(own);
        events.send(SessionEvent::FilterAttached {
            session,
            caller,
            kind,
            length,
            digest,
            relation,
        });
    }
}

/// SHA-256 of a program as it lies in the memory of the process.
fn digest(insns: &[Insn]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for insn in insns {
        digest.update(insn.code.to_ne_bytes());
        digest.update([insn.jt, insn.jf]);
        digest.update(insn.k.to_ne_bytes());
    }
    digest.finalize().into()
}

/// Knows what was asked for.
pub(super) struct Comparer {
    grant: Arc<Grant>,
    compiler: Compiler,
    /// By kind of socket; none: it cannot be compiled for that.
    asked: HashMap<&'static str, Option<Asked>>,
    known: HashMap<([u8; 32], &'static str), Relation>,
}

/// The filters of a grant; none accepts every packet.
struct Asked {
    requested: Option<Program>,
    policy: Option<Program>,
}

impl Comparer {
    pub(super) fn new(grant: Arc<Grant>, compiler: Compiler) -> Self {
        Self {
            grant,
            compiler,
            asked: HashMap::new(),
            known: HashMap::new(),
        }
    }

    fn relation(&mut self, digest: [u8; 32], filter: &Attached, late: bool) -> Relation {
        let key = (digest, filter.kind.name());
        if let Some(relation) = self.known.get(&key) {
            return relation.clone();
        }
        let unknown = |why: &str| Relation::Unknown {
            why: why.to_owned(),
        };
        if late {
            return unknown("the session had ended");
        }
        if self.known.len() >= MAX_COMPARED {
            return unknown("the session has attached too many different filters");
        }
        let form = match filter.kind {
            SocketKind::Raw => SocketForm::Raw(self.grant.link),
            SocketKind::Cooked => SocketForm::Cooked,
        };
        let (grant, compiler) = (&self.grant, &self.compiler);
        let asked = self
            .asked
            .entry(filter.kind.name())
            .or_insert_with(|| Asked::compile(&grant.terms.filters, form, compiler));
        let relation = match asked {
            Some(asked) => asked.relation(&filter.program, form),
            None => unknown("the filter that was asked for cannot be compiled again"),
        };
        self.known.insert(key, relation.clone());
        relation
    }
}

impl Asked {
    fn compile(filters: &[FilterTerm], form: SocketForm, compiler: &Compiler) -> Option<Self> {
        let mut asked = Self {
            requested: None,
            policy: None,
        };
        for filter in filters {
            let (side, origin) = match filter.origin {
                FilterOrigin::Requested => (&mut asked.requested, Origin::Request),
                FilterOrigin::Policy => (&mut asked.policy, Origin::Policy),
            };
            let compiled = compiler.compile_for(&filter.expression, form, origin);
            let Some(program) = compiled.ok()? else {
                continue;
            };
            let program = untagged(&program)?;
            *side = Some(match side.take() {
                Some(other) => compose(&program, &other).ok()?,
                None => program,
            });
        }
        Some(asked)
    }

    fn relation(&self, own: &Program, form: SocketForm) -> Relation {
        let Some((own, asked)) = self.pair(own) else {
            return Relation::Unknown {
                why: "the filter is too long to be compared".to_owned(),
            };
        };
        if own == asked {
            return Relation::Same;
        }
        let found = difference(&own, &asked, form, BUDGET);
        let example = |containment: Containment| match containment {
            Containment::NotContained { counterexample } => Ok(Some(counterexample.in_words(form))),
            Containment::Contained | Containment::ContainedWellFormed { .. } => Ok(None),
            Containment::Unknown { why } => Err(why.to_string()),
        };
        match (example(found.first_only), example(found.second_only)) {
            (Ok(None), Ok(None)) => Relation::Same,
            (Ok(None), Ok(Some(leaves_out))) => Relation::Narrower { leaves_out },
            (Ok(Some(adds)), Ok(None)) => Relation::Wider { adds },
            (Ok(Some(adds)), Ok(Some(leaves_out))) => Relation::Different { adds, leaves_out },
            (Err(why), _) | (_, Err(why)) => Relation::Unknown { why },
        }
    }

    /// Own and asked filter, each with the policy's; none if they cannot be joined.
    fn pair(&self, own: &Program) -> Option<(Program, Program)> {
        let own = untagged(own)?;
        let asked = self.requested.clone();
        let asked = asked.unwrap_or_else(Program::everything);
        match &self.policy {
            Some(policy) => Some((compose(&own, policy).ok()?, compose(&asked, policy).ok()?)),
            None => Some((own, asked)),
        }
    }
}

/// The program as it is for packets that have no VLAN tag beside their bytes. libpcap's filters for
/// live captures ask for one where those for files cannot.
fn untagged(program: &Program) -> Option<Program> {
    const LOAD_CONSTANT: u16 = 0;
    let insns = program.ops().iter().zip(program.insns());
    let insns = insns.map(|(op, insn)| match op {
        Op::LoadAncillary(
            Ancillary::VlanTag | Ancillary::VlanPresent | Ancillary::VlanProtocol,
        ) => Insn::new(LOAD_CONSTANT, 0, 0, 0),
        _ => *insn,
    });
    Program::new(insns.collect()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::LinkType;

    const FORM: SocketForm = SocketForm::Raw(LinkType::EN10MB);

    /// `ip proto` of each of these, as an optimiser would have it.
    fn protocols(numbers: &[u32]) -> Program {
        let mut insns = vec![
            Insn::new(0x28, 0, 0, 12),
            Insn::new(0x15, 1, 0, 0x800),
            Insn::new(0x06, 0, 0, 0),
            Insn::new(0x30, 0, 0, 23),
        ];
        for number in numbers {
            insns.push(Insn::new(0x15, 0, 1, *number));
            insns.push(Insn::new(0x06, 0, 0, 262_144));
        }
        insns.push(Insn::new(0x06, 0, 0, 0));
        Program::new(insns).unwrap()
    }

    fn relation(own: &[u32], requested: Option<&[u32]>, policy: Option<&[u32]>) -> Relation {
        let asked = Asked {
            requested: requested.map(protocols),
            policy: policy.map(protocols),
        };
        asked.relation(&protocols(own), FORM)
    }

    #[test]
    fn relation_has_packets_to_show_it() {
        const ICMP: u32 = 1;
        const TCP: u32 = 6;
        const UDP: u32 = 17;
        let same = relation(&[UDP, TCP], Some(&[TCP, UDP]), None);
        assert_eq!(same, Relation::Same);
        // What the policy cuts off anyway.
        let same = relation(&[UDP, TCP], Some(&[UDP]), Some(&[UDP, ICMP]));
        assert_eq!(same, Relation::Same);
        match relation(&[UDP], Some(&[TCP, UDP]), None) {
            Relation::Narrower { leaves_out } => {
                assert!(leaves_out.contains("TCP"), "{leaves_out}");
            }
            other => panic!("{other:?}"),
        }
        match relation(&[UDP, TCP], Some(&[UDP]), None) {
            Relation::Wider { adds } => assert!(adds.contains("TCP"), "{adds}"),
            other => panic!("{other:?}"),
        }
        match relation(&[TCP], Some(&[UDP]), None) {
            Relation::Different { adds, leaves_out } => {
                assert!(adds.contains("TCP"), "{adds}");
                assert!(leaves_out.contains("UDP"), "{leaves_out}");
            }
            other => panic!("{other:?}"),
        }
        match relation(&[TCP], None, None) {
            Relation::Narrower { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn vlan_metadata_makes_no_difference() {
        // if a tag is there: reject, else as above
        let mut insns = vec![
            Insn::new(0x30, 0, 0, Ancillary::VlanPresent.k()),
            Insn::new(0x15, 1, 0, 0),
            Insn::new(0x06, 0, 0, 0),
        ];
        insns.extend_from_slice(protocols(&[6]).insns());
        let live = Program::new(insns).unwrap();
        let asked = Asked {
            requested: Some(protocols(&[6])),
            policy: None,
        };
        assert_eq!(asked.relation(&live, FORM), Relation::Same);
    }
}
