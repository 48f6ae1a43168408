//! A concrete packet out of an assignment.

use super::{
    super::{Meta, Packet, SocketForm, VlanTag},
    bits::Word,
    describe,
    graph::Lit,
    solve::Solver,
    space::{MAX_HEADROOM, Space},
};

/// A packet that shows something, with all that the kernel knows about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The bytes that a filter reads.
    pub bytes: Vec<u8>,
    /// What lies in front of them; empty unless a program reads it.
    pub headroom: Vec<u8>,
    /// What is known beside the bytes.
    pub meta: Meta,
}

impl Example {
    /// The packet as the interpreter takes it.
    pub fn packet(&self) -> Packet<'_> {
        Packet {
            headroom: &self.headroom,
            ..Packet::new(&self.bytes, self.meta)
        }
    }

    /// The packet in words: `TCP 10.0.0.5:51000 → 10.0.0.9:22 SYN`.
    pub fn in_words(&self, form: impl Into<SocketForm>) -> String {
        describe::in_words(&self.packet(), form.into())
    }
}

/// The value of every node, from those of the free bits: the solver does not name them all, and not
/// those on which nothing hangs. None is needed where nothing is read at a computed place.
fn values(space: &Space, solver: &Solver) -> Vec<bool> {
    let nodes = if space.reads().is_empty() {
        0
    } else {
        space.graph.len()
    };
    let mut values = Vec::with_capacity(nodes);
    // Operands come before what is made of them.
    for node in 0..nodes {
        let value = |lit: Lit| {
            values
                .get(lit.node())
                .is_some_and(|value| *value != lit.negated())
        };
        let value = match space.graph.operands(node) {
            Some((a, b)) => value(a) && value(b),
            None => solver.node(node).unwrap_or(false),
        };
        values.push(value);
    }
    values
}

/// What an assignment says about the packet; the template where it says nothing.
pub(super) fn extract(space: &Space, solver: &Solver, template: &[u8]) -> Example {
    let bit = |lit: Lit| solver.value(lit).unwrap_or(false);
    let word = |word: &Word| word.evaluate(bit);
    let byte = |byte: &[Lit]| Word::from_bits(byte).evaluate(bit).to_le_bytes()[0];
    let half = |value: &Word| u16::try_from(word(value) & 0xffff).unwrap_or(0);
    let known = |words: &Word| words.bits().iter().any(|lit| solver.value(*lit).is_some());
    let length = if known(&space.length) {
        word(&space.length) as usize
    } else {
        template.len()
    };
    let mut bytes = template.to_vec();
    bytes.resize(length, 0);
    let front = if known(&space.headroom) {
        word(&space.headroom).min(MAX_HEADROOM)
    } else {
        0
    };
    let mut headroom = vec![0; front as usize];
    let nodes = values(space, solver);
    let computed = |lit: Lit| {
        nodes
            .get(lit.node())
            .is_some_and(|value| *value != lit.negated())
    };
    for read in space.reads() {
        let place = i64::from(read.place.evaluate(computed).cast_signed());
        let target = match usize::try_from(place) {
            Ok(place) => bytes.get_mut(place),
            Err(_) => usize::try_from(place + i64::from(front))
                .ok()
                .and_then(|place| headroom.get_mut(place)),
        };
        if let Some(target) = target {
            *target = byte(&read.value);
        }
    }
    for (at, value) in space.bytes() {
        if let Some(target) = bytes.get_mut(*at as usize)
            && known(&Word::from_bits(value))
        {
            *target = byte(value);
        }
    }
    let meta = &space.meta;
    let or = |value: &Word, otherwise: u32| if known(value) { word(value) } else { otherwise };
    Example {
        bytes,
        headroom,
        meta: Meta {
            protocol: half(&meta.protocol),
            packet_type: word(&meta.packet_type).to_le_bytes()[0],
            interface_index: or(&meta.interface_index, 1),
            hardware_type: u16::try_from(or(&meta.hardware_type, 1)).unwrap_or(1),
            mark: word(&meta.mark),
            queue: half(&meta.queue),
            hash: word(&meta.hash),
            vlan: bit(meta.vlan_present).then(|| VlanTag {
                protocol: half(&meta.vlan_protocol),
                control: half(&meta.vlan_control),
            }),
            network_header: word(&meta.network_header).cast_signed(),
            link_header: bit(meta.link_header_known).then(|| word(&meta.link_header).cast_signed()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{
        Budget, Containment, Insn, LinkType, Program, interpret::interpret, prove,
    };

    #[test]
    fn what_is_read_behind_a_header_lies_where_it_was_read() {
        // Both read behind the network header, and no load's success depends on all the bits of
        // where that is.
        let program = |insns: &[(u16, u32)]| {
            let insns = insns.iter().map(|&(code, k)| Insn::new(code, 0, 0, k));
            Program::new(insns.collect()).unwrap()
        };
        let requested = program(&[
            (0x28, 0),
            (0x20, 0),
            (0x20, 0x50),
            (0x20, 0xfff0_00b1),
            (0x34, 0xfff0_00b1),
            (0x16, 0),
        ]);
        let policy = program(&[(0x28, 0xfff0_0003), (0x20, 0), (0x06, 65535)]);
        let answer = prove(&requested, &policy, LinkType::RAW, Budget::default());
        let Containment::ContainedWellFormed { counterexample } = &answer else {
            panic!("{answer:?}");
        };
        let packet = counterexample.packet();
        assert_ne!(interpret(&requested, &packet), 0);
        assert_eq!(interpret(&policy, &packet), 0);
    }
}
