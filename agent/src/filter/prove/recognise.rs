//! The packet that shows something, as one that a person recognises.
//!
//! First the solver is asked for a packet that looks like an everyday one, in as many respects as
//! the question leaves open: a common kind of packet, and then each field of a template of that
//! kind. What it cannot have comes out of the unsatisfiable core, least important first; finding
//! that out takes no search. Then single bytes are tried on the concrete packet, which takes no
//! solving at all.

use super::{
    super::{LinkType, SocketForm, VlanTag, program::Size},
    bits::Word,
    checksum,
    example::{Example, extract},
    graph::Lit,
    solve::{Answer, Solver},
    space::Space,
    template::{Kind, Template},
    well_formed::{self, ARP, ICMP, ICMP6, IPV4, IPV6, SCTP, TCP, UDP},
};

/// Conflicts that one wish is worth.
const CONFLICTS: u64 = 500;
/// Bytes of a packet that are tried one by one.
const TRIED: usize = 256;

/// What is looked for, the most common first.
const KINDS: [Kind; 10] = [
    kind(IPV4, Some(TCP)),
    kind(IPV4, Some(UDP)),
    kind(IPV4, Some(ICMP)),
    kind(IPV4, Some(SCTP)),
    kind(IPV6, Some(TCP)),
    kind(IPV6, Some(UDP)),
    kind(IPV6, Some(ICMP6)),
    kind(ARP, None),
    kind(IPV4, None),
    kind(IPV6, None),
];

const fn kind(ether_type: u16, protocol: Option<u8>) -> Kind {
    Kind {
        ether_type,
        protocol,
        tagged: false,
    }
}

/// Finds a recognisable packet for which the fixed conditions hold, and `confirms` too. None:
/// `confirms` rejects what the solver found.
pub(super) fn recognisable(
    space: &mut Space,
    solver: &mut Solver,
    form: SocketForm,
    fixed: &[Lit],
    confirms: impl Fn(&Example) -> bool,
) -> Option<Example> {
    // The solver has just answered under the fixed conditions.
    let first = extract(space, solver, &[]);
    let (template, example) = wished(space, solver, form, fixed);
    let example = example
        .filter(&confirms)
        .or_else(|| Some(first).filter(&confirms))?;
    Some(polished(example, &template, form, confirms))
}

/// The template that fits best, and a packet that is as much like it as the solver allows.
fn wished(
    space: &mut Space,
    solver: &mut Solver,
    form: SocketForm,
    fixed: &[Lit],
) -> (Template, Option<Example>) {
    solver.allow(CONFLICTS);
    let mut wishes = vec![well_formed::metadata(space, form), !space.meta.vlan_present];
    let kind = find_kind(space, solver, form, fixed, false)
        .or_else(|| find_kind(space, solver, form, fixed, true));
    let template = match kind {
        Some((kind, is)) => {
            wishes.insert(0, is);
            Template::new(kind, form)
        }
        None => Template::new(kind_other(), form),
    };
    let same_length = u32::try_from(template.bytes.len()).unwrap_or(0);
    let same_length = Word::constant(same_length);
    wishes.push(space.length.equals(&mut space.graph, &same_length));
    for field in &template.fields {
        let at = usize::from(field.at);
        let bytes = template
            .bytes
            .iter()
            .enumerate()
            .skip(at)
            .take(field.length.into());
        let mut same = Lit::TRUE;
        for (at, byte) in bytes {
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            // What no program reads is copied from the template without asking.
            if let Some(bits) = space.known_byte(at) {
                let is = Word::from_bits(&bits);
                let is = is.equals(&mut space.graph, &Word::constant((*byte).into()));
                same = space.graph.and(same, is);
            }
        }
        wishes.push(same);
    }
    solver.settle(space);
    wishes.retain(|wish| *wish != Lit::TRUE && *wish != Lit::FALSE);
    if space.graph.exhausted() {
        return (template, None);
    }
    loop {
        solver.allow(CONFLICTS);
        let assumptions = [fixed, &wishes].concat();
        match solver.solve(&space.graph, &assumptions) {
            Answer::Satisfiable => {
                let example = extract(space, solver, &template.bytes);
                return (template, Some(example));
            }
            Answer::Unsatisfiable => {
                let Some(least) = wishes.iter().rposition(|wish| solver.blames(*wish)) else {
                    return (template, None);
                };
                wishes.remove(least);
            }
            Answer::GaveUp => return (template, None),
        }
    }
}

/// An EtherType for experiments.
const fn kind_other() -> Kind {
    kind(0x88b5, None)
}

/// The first kind that the packet can be of, and the condition under which it is.
fn find_kind(
    space: &mut Space,
    solver: &mut Solver,
    form: SocketForm,
    fixed: &[Lit],
    tagged: bool,
) -> Option<(Kind, Lit)> {
    if tagged && form != SocketForm::Raw(LinkType::EN10MB) {
        return None;
    }
    let kinds = KINDS.map(|kind| Kind { tagged, ..kind });
    let kinds = kinds.map(|kind| (kind, is_kind(space, form, kind)));
    solver.settle(space);
    kinds.into_iter().find(|(_, is)| {
        let assumptions = [fixed, &[*is]].concat();
        *is != Lit::FALSE && solver.solve(&space.graph, &assumptions) == Answer::Satisfiable
    })
}

/// The condition under which a packet is of a kind.
fn is_kind(space: &mut Space, form: SocketForm, kind: Kind) -> Lit {
    let Some(network) = well_formed::network_offset(form) else {
        return Lit::FALSE;
    };
    let network = u32::from(network) + if kind.tagged { 4 } else { 0 };
    // A byte that no program reads is as the template has it.
    let mut known = |at: u32, mask: u32, value: u32| {
        let Some(bits) = space.known_byte(network + at) else {
            return Lit::TRUE;
        };
        let graph = &mut space.graph;
        let masked = Word::from_bits(&bits).and(graph, &Word::constant(mask));
        masked.equals(graph, &Word::constant(value))
    };
    let mut conditions = match kind.ether_type {
        IPV4 => vec![known(0, 0xff, 0x45)],
        IPV6 => vec![known(0, 0xf0, 0x60)],
        _ => Vec::new(),
    };
    if let Some(protocol) = kind.protocol {
        if kind.ether_type == IPV4 {
            conditions.extend([
                known(6, 0x3f, 0),
                known(7, 0xff, 0),
                known(9, 0xff, protocol.into()),
            ]);
        } else {
            conditions.push(known(6, 0xff, protocol.into()));
        }
    }
    let outer = well_formed::ether_type(space, form).unwrap_or(space.meta.protocol);
    let inner = if kind.tagged {
        let tag = outer.equals(&mut space.graph, &Word::constant(0x8100));
        conditions.push(tag);
        space.word(16, Size::Half)
    } else {
        outer
    };
    let graph = &mut space.graph;
    conditions.push(inner.equals(graph, &Word::constant(kind.ether_type.into())));
    graph.all(conditions)
}

/// The same packet with whatever can be made plainer one by one.
fn polished(
    example: Example,
    template: &Template,
    form: SocketForm,
    confirms: impl Fn(&Example) -> bool,
) -> Example {
    let mut best = Best { example, confirms };
    best.attempt(|example| example.headroom.clear());
    best.shorten(form);
    for field in &template.fields {
        let at = usize::from(field.at);
        let field_is = |bytes: &[u8], wish: &[u8]| bytes.get(at..at + wish.len()) == Some(wish);
        let usual = template.bytes.get(at..at + usize::from(field.length));
        for wish in usual.into_iter().chain(field.alternatives.iter().copied()) {
            let done = field_is(&best.example.bytes, wish)
                || best.attempt(|example| {
                    if let Some(bytes) = example.bytes.get_mut(at..at + wish.len()) {
                        bytes.copy_from_slice(wish);
                    }
                });
            if done {
                break;
            }
        }
    }
    let settled: Vec<_> = template
        .fields
        .iter()
        .filter(|field| {
            let at = usize::from(field.at);
            let now = best.example.bytes.get(at..at + usize::from(field.length));
            field.alternatives.iter().any(|wish| now == Some(*wish))
        })
        .map(|field| usize::from(field.at)..usize::from(field.at) + usize::from(field.length))
        .collect();
    for at in 0..best.example.bytes.len().min(TRIED) {
        if settled.iter().any(|field| field.contains(&at)) {
            continue;
        }
        let now = best.example.bytes.get(at).copied();
        for wish in [template.bytes.get(at).copied(), Some(0)] {
            if now == wish {
                break;
            }
            let changed = best.attempt(|example| {
                if let (Some(byte), Some(wish)) = (example.bytes.get_mut(at), wish) {
                    *byte = wish;
                }
            });
            if changed {
                break;
            }
        }
    }
    let network = well_formed::network_offset(form).unwrap_or(0);
    best.attempt(|example| example.meta.vlan = None);
    best.attempt(|example| {
        if let Some(tag) = &mut example.meta.vlan {
            *tag = VlanTag {
                protocol: 0x8100,
                control: 100,
            };
        }
    });
    best.attempt(|example| example.meta.packet_type = 0);
    best.attempt(|example| example.meta.interface_index = 1);
    best.attempt(|example| example.meta.hardware_type = 1);
    best.attempt(|example| example.meta.mark = 0);
    best.attempt(|example| example.meta.queue = 0);
    best.attempt(|example| example.meta.hash = 0);
    best.attempt(|example| example.meta.network_header = network.into());
    let link = (form == SocketForm::Raw(LinkType::EN10MB)).then_some(0);
    best.attempt(|example| example.meta.link_header = link);
    if let Some(protocol) = stated_protocol(&best.example, form) {
        best.attempt(|example| example.meta.protocol = protocol);
    }
    let tag = matches!(stated_protocol(&best.example, form), Some(0x8100));
    let network = usize::from(network) + if tag { 4 } else { 0 };
    best.attempt(|example| checksum::fill_in(&mut example.bytes, network, false));
    best.attempt(|example| checksum::fill_in(&mut example.bytes, network, true));
    best.example
}

/// The EtherType, where the bytes have one.
fn stated_protocol(example: &Example, form: SocketForm) -> Option<u16> {
    let at = match form {
        SocketForm::Raw(LinkType::EN10MB) => 12,
        _ => return None,
    };
    let bytes = example.bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*bytes))
}

struct Best<F> {
    example: Example,
    confirms: F,
}

impl<F: Fn(&Example) -> bool> Best<F> {
    /// Keeps a change if the packet still shows what it is to show.
    fn attempt(&mut self, change: impl FnOnce(&mut Example)) -> bool {
        let mut changed = self.example.clone();
        change(&mut changed);
        let keep = changed != self.example && (self.confirms)(&changed);
        if keep {
            self.example = changed;
        }
        keep
    }

    /// Cuts off what is not needed, and says so in the IP header.
    fn shorten(&mut self, form: SocketForm) {
        let network = usize::from(well_formed::network_offset(form).unwrap_or(0));
        let mut step = self.example.bytes.len().next_power_of_two();
        while step > 0 {
            let length = self.example.bytes.len().saturating_sub(step);
            if self.example.bytes.len() >= step {
                let cut = |example: &mut Example| example.bytes.truncate(length);
                let shortened = self.attempt(cut)
                    || [network + 2, network + 4].into_iter().any(|field| {
                        self.attempt(|example| {
                            cut(example);
                            reduce(&mut example.bytes, field, step);
                        })
                    });
                if shortened {
                    continue;
                }
            }
            step /= 2;
        }
    }
}

fn reduce(bytes: &mut [u8], at: usize, by: usize) {
    let field = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<2>);
    if let Some(field) = field {
        let by = u16::try_from(by).unwrap_or(u16::MAX);
        *field = u16::from_be_bytes(*field).saturating_sub(by).to_be_bytes();
    }
}
