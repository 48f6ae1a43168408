//! The packets that a proof ranges over: free bits for every byte and all metadata.
//!
//! # Which packets
//! - Up to [`MAX_LENGTH`] bytes. The kernel's largest packets are those that it has joined or not
//!   yet cut (`GSO_MAX_SIZE`, 512 KiB with everything in front), so this is more than there is. It
//!   is also low enough that a small negative offset, which counts from 1 MiB behind the network
//!   header, is always out of bounds.
//! - All of the packet: `len` is the number of bytes, as it is in the kernel. A capture file's
//!   shortened packets are none that a kernel filters.
//! - Up to [`MAX_HEADROOM`] bytes in front of it, and headers no further away than that in either
//!   direction, as they lie in the kernel's buffer. They are reached through negative offsets only.
//! - Every metadata value that the kernel's fields can hold: the packet type has three bits there.
//!
//! # Bytes
//! A load from a known place reads that byte's eight free bits. One from an unknown place reads
//! fresh bits, and [`Space::settle`] later demands that two reads of one place agree.

use std::collections::HashMap;

use super::{
    super::program::{Ancillary, Size},
    bits::Word,
    graph::{Graph, Lit},
    ranges::Ranges,
    tuples::{Split, Tuples},
    view::{Place, View},
};

/// No packet is as long as this.
pub(super) const MAX_LENGTH: u32 = 0xa_0000;
const LENGTH_BITS: usize = 20;
/// No more lies in front of a packet.
pub(super) const MAX_HEADROOM: u32 = 1 << HEADROOM_BITS;
const HEADROOM_BITS: usize = 16;

/// The kernel's `SKF_NET_OFF` and `SKF_LL_OFF` (see [`interpret`](super::super::interpret())).
const NETWORK: i32 = -0x10_0000;
/// Offsets from here to zero lie behind the end of every packet.
const NEVER: i32 = -0x4_0000;

/// An index register with more possible values than this is not looked up in a table.
const TABLE_BITS: usize = 8;

/// A set of so many ranges is large.
const LARGE_SET: usize = 8;
/// A set is compared with no more than so many others.
const MOST_RELATED: usize = 16;

pub(super) type Byte = [Lit; 8];

/// A read of one byte at an unknown place.
#[derive(Debug)]
pub(super) struct Read {
    /// Counted from the first of the packet's bytes, signed.
    pub(super) place: Word,
    pub(super) value: Byte,
}

/// Some words, a set of values for them, and the condition under which they have one.
#[derive(Clone, Debug)]
struct Member {
    words: Vec<Word>,
    set: Tuples,
    large: bool,
    lit: Lit,
}

/// What the kernel knows beside the bytes.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) protocol: Word,
    pub(super) packet_type: Word,
    pub(super) interface_index: Word,
    pub(super) hardware_type: Word,
    pub(super) mark: Word,
    pub(super) queue: Word,
    pub(super) hash: Word,
    pub(super) vlan_present: Lit,
    pub(super) vlan_protocol: Word,
    pub(super) vlan_control: Word,
    pub(super) network_header: Word,
    pub(super) link_header_known: Lit,
    pub(super) link_header: Word,
}

#[derive(Debug)]
pub(super) struct Space {
    pub(super) graph: Graph,
    /// The number of bytes.
    pub(super) length: Word,
    /// The number of bytes in front of them.
    pub(super) headroom: Word,
    pub(super) meta: Metadata,
    places: HashMap<u32, Byte>,
    /// The same, in the order in which they were first read.
    bytes: Vec<(u32, Byte)>,
    reads: Vec<Read>,
    known_reads: HashMap<Word, Byte>,
    /// Where words that were read as they are begin, and where they end.
    extents: HashMap<Word, (u32, u32)>,
    /// Which sets of values words were looked for in, by the first of the words.
    members: HashMap<Word, Vec<Member>>,
    /// Sets that a bit of its own stands for, as long as nothing has said so.
    undefined: Vec<Member>,
    /// What holds between such sets, and has not become a condition yet.
    relations: Vec<Lit>,
    /// So many reads have been compared with so many bytes and with each other.
    settled: (usize, usize),
    /// What holds for every packet.
    conditions: Vec<Lit>,
    /// What a program is told when it asks for the length, if that is not the number of bytes.
    stated_length: Option<Word>,
    /// While it is looked through, every read is one of this packet, which is made of the other.
    view: Option<View>,
}

impl Space {
    pub(super) fn new(nodes: usize) -> Self {
        let mut graph = Graph::new(nodes);
        let g = &mut graph;
        let meta = Metadata {
            protocol: Word::free(g, 16),
            packet_type: Word::free(g, 3),
            interface_index: Word::free(g, 32),
            hardware_type: Word::free(g, 16),
            mark: Word::free(g, 32),
            queue: Word::free(g, 16),
            hash: Word::free(g, 32),
            vlan_present: g.free(),
            vlan_protocol: Word::free(g, 16),
            vlan_control: Word::free(g, 16),
            network_header: Word::free(g, HEADROOM_BITS + 1).sign_extended(HEADROOM_BITS + 1),
            link_header_known: g.free(),
            link_header: Word::free(g, HEADROOM_BITS + 1).sign_extended(HEADROOM_BITS + 1),
        };
        Self {
            length: Word::free(g, LENGTH_BITS),
            headroom: Word::free(g, HEADROOM_BITS),
            meta,
            graph,
            places: HashMap::new(),
            bytes: Vec::new(),
            reads: Vec::new(),
            known_reads: HashMap::new(),
            extents: HashMap::new(),
            members: HashMap::new(),
            undefined: Vec::new(),
            relations: Vec::new(),
            settled: (0, 0),
            conditions: Vec::new(),
            stated_length: None,
            view: None,
        }
    }

    /// Does something with the packet that a view makes of this one, in place of this one.
    pub(super) fn through<T>(&mut self, view: &mut View, look: impl FnOnce(&mut Self) -> T) -> T {
        let length = std::mem::replace(&mut self.length, view.length);
        let protocol = std::mem::replace(&mut self.meta.protocol, view.protocol);
        self.view = Some(std::mem::take(view));
        let result = look(self);
        *view = self.view.take().unwrap_or_default();
        self.length = length;
        self.meta.protocol = protocol;
        result
    }

    /// Does something as if the packet said that it has another length, with the bytes that it has.
    pub(super) fn stating<T>(&mut self, length: Word, look: impl FnOnce(&mut Self) -> T) -> T {
        self.stated_length = Some(length);
        let result = look(self);
        self.stated_length = None;
        result
    }

    /// What a program is told of the length.
    pub(super) fn stated_length(&self) -> Word {
        self.stated_length.unwrap_or(self.length)
    }

    pub(super) fn bytes(&self) -> &[(u32, Byte)] {
        &self.bytes
    }

    pub(super) fn reads(&self) -> &[Read] {
        &self.reads
    }

    /// Whether the packet has at least so many bytes.
    pub(super) fn has(&mut self, bytes: u32) -> Lit {
        self.length
            .at_least(&mut self.graph, &Word::constant(bytes))
    }

    /// One of the packet's bytes.
    pub(super) fn byte(&mut self, at: u32) -> Byte {
        let at = match self.view.as_ref().map(|view| view.place(at)) {
            Some(Place::Own(byte)) => return byte,
            Some(Place::New) => {
                let byte = [(); 8].map(|()| self.graph.free());
                if let Some(view) = &mut self.view {
                    view.own(at, byte);
                }
                return byte;
            }
            Some(Place::Shared(at)) => at,
            None => at,
        };
        if let Some(byte) = self.places.get(&at) {
            return *byte;
        }
        let byte = [(); 8].map(|()| self.graph.free());
        self.places.insert(at, byte);
        self.bytes.push((at, byte));
        byte
    }

    /// One of the packet's bytes, if something has read it before.
    pub(super) fn known_byte(&self, at: u32) -> Option<Byte> {
        self.places.get(&at).copied()
    }

    /// Some of the packet's bytes as a number; the caller asks whether they are there.
    pub(super) fn word(&mut self, at: u32, size: Size) -> Word {
        let mut bits = Vec::with_capacity(32);
        for index in (0..size_of(size)).rev() {
            bits.extend(self.byte(at.saturating_add(index)));
        }
        let word = Word::from_bits(&bits);
        let end = at.saturating_add(size_of(size));
        self.extents.insert(word, (at, end));
        word
    }

    /// What a load reads, and whether it succeeds.
    pub(super) fn load(&mut self, size: Size, offset: i32) -> (Word, Lit) {
        match u32::try_from(offset) {
            Ok(at) => {
                let end = at.saturating_add(size_of(size));
                if end >= MAX_LENGTH {
                    return (Word::ZERO, Lit::FALSE);
                }
                (self.word(at, size), self.has(end))
            }
            Err(_) if offset >= NEVER => (Word::ZERO, Lit::FALSE),
            Err(_) => self.load_anywhere(size, &Word::constant(offset.cast_unsigned())),
        }
    }

    /// The same with an offset counted from an index.
    pub(super) fn load_indexed(&mut self, size: Size, index: &Word, offset: i32) -> (Word, Lit) {
        if let Some(index) = index.as_constant() {
            return self.load(size, index.cast_signed().wrapping_add(offset));
        }
        let constant = Word::constant(offset.cast_unsigned());
        let address = index.add(&mut self.graph, &constant);
        let free: Vec<_> = (0..32)
            .filter(|bit| index.bit(*bit).as_constant().is_none())
            .collect();
        if free.len() <= TABLE_BITS {
            let least = index.evaluate(|bit| bit.as_constant().unwrap_or(false));
            let least = least.wrapping_add(offset.cast_unsigned());
            if let Some(value) = self.table(size, index, &free, least) {
                // An address below zero is beyond the end too when it is read without its sign.
                let inside = self.ends_inside(size, &address);
                return (value.unwrap_or(Word::ZERO), inside);
            }
        }
        self.load_anywhere(size, &address)
    }

    /// The value at each address that the free bits of an index can make. The outer None: one of
    /// them counts from a header; the inner: none of them lies inside a packet.
    fn table(
        &mut self,
        size: Size,
        index: &Word,
        free: &[usize],
        address: u32,
    ) -> Option<Option<Word>> {
        let Some((bit, free)) = free.split_last() else {
            return match address.cast_signed() {
                i32::MIN..NEVER => None,
                NEVER..0 => Some(None),
                _ if address.saturating_add(size_of(size)) >= MAX_LENGTH => Some(None),
                _ => Some(Some(self.word(address, size))),
            };
        };
        let without = self.table(size, index, free, address)?;
        let with = self.table(size, index, free, address.wrapping_add(1 << bit))?;
        Some(match (with, without) {
            (Some(with), Some(without)) => {
                let graph = &mut self.graph;
                Some(Word::mux(graph, index.bit(*bit), &with, &without))
            }
            (one, other) => one.or(other),
        })
    }

    /// `address + size <= length`, unsigned.
    fn ends_inside(&mut self, size: Size, address: &Word) -> Lit {
        let graph = &mut self.graph;
        let end = address.add(graph, &Word::constant(size_of(size)));
        let inside = self.length.at_least(graph, &end);
        // Near the top of the range the sum wraps to a small number.
        let wrapped = Word::constant(0u32.wrapping_sub(size_of(size)));
        let wraps = address.at_least(graph, &wrapped);
        graph.and(inside, !wraps)
    }

    /// A load from an address about which nothing is known.
    fn load_anywhere(&mut self, size: Size, address: &Word) -> (Word, Lit) {
        let graph = &mut self.graph;
        let negative = address.sign();
        // Bits 21 to 31 set: counted from a header; bit 20 tells from which.
        let special = graph.all(address.bits().iter().skip(21).copied().collect::<Vec<_>>());
        let network = address.bit(20);
        let distance = address.and(graph, &Word::constant(!NETWORK.cast_unsigned()));
        let header = Word::mux(
            graph,
            network,
            &self.meta.network_header,
            &self.meta.link_header,
        );
        let from_header = header.add(graph, &distance);
        let place = Word::mux(graph, negative, &from_header, address);
        let known = graph.or(network, self.meta.link_header_known);
        let reachable = graph.and(special, known);
        let reachable = graph.or(!negative, reachable);

        let end = place.add(graph, &Word::constant(size_of(size)));
        let fits = self.length.at_least(graph, &end);
        let end_in_front = end.sign();
        // Far behind the end, where adding the size reaches the sign bit.
        let far = graph.and(end_in_front, !place.sign());
        let before_end = graph.or(end_in_front, fits);
        let before_end = graph.and(before_end, !far);
        let from_front = place.add(graph, &self.headroom);
        let after_start = graph.or(!place.sign(), !from_front.sign());
        let inside = graph.all([reachable, before_end, after_start]);

        let mut bits = Vec::with_capacity(32);
        for index in (0..size_of(size)).rev() {
            let place = place.add(&mut self.graph, &Word::constant(index));
            bits.extend(self.read(&place));
        }
        (Word::from_bits(&bits), inside)
    }

    fn read(&mut self, place: &Word) -> Byte {
        if let Some(at) = place.as_constant()
            && at < MAX_LENGTH
        {
            return self.byte(at);
        }
        if self.view.is_some() {
            // Not tied to anything: more packets than there are, so that a proof still holds, and
            // an example that does not is found out when it is run.
            return [(); 8].map(|()| self.graph.free());
        }
        if let Some(byte) = self.known_reads.get(place) {
            return *byte;
        }
        let value = [(); 8].map(|()| self.graph.free());
        self.known_reads.insert(*place, value);
        let place = *place;
        self.reads.push(Read { place, value });
        value
    }

    /// Whether two words were read from places next to each other, in either order.
    pub(super) fn adjacent(&self, one: &Word, other: &Word) -> bool {
        match (self.extents.get(one), self.extents.get(other)) {
            (Some(one), Some(other)) => one.1 == other.0 || other.1 == one.0,
            _ => false,
        }
    }

    /// The condition under which some words have values of a set.
    ///
    /// For a large set it is a bit of its own at first. Most questions are settled by what is known
    /// of such bits: which set is part of which, and which have nothing in common. Where that is
    /// not enough, [`define`](Self::define) says what they stand for.
    pub(super) fn member(&mut self, words: &[Word], set: &Tuples) -> Lit {
        self.member_of(words, &set.normal(words))
    }

    /// Says it by sets that are the lesser part of the values of their last word: of a search's two
    /// ends, what is found and what is not, both are said by the same ones.
    fn member_of(&mut self, words: &[Word], set: &Tuples) -> Lit {
        let depth = set.depth();
        let words = words.get(..depth).unwrap_or(words);
        let Some((last, before)) = words.split_last() else {
            return Lit::TRUE;
        };
        let Split { few, begin, except } = set.split(before.len(), Ranges::bounds(last));
        let few = self.set(words, few);
        if begin.is_empty() {
            return few;
        }
        let begins = self.member_of(before, &begin.normal(before));
        let excepted = self.set(words, except);
        let most = self.graph.and(begins, !excepted);
        self.graph.or(few, most)
    }

    fn set(&mut self, words: &[Word], set: Tuples) -> Lit {
        let Some(first) = words.first().filter(|_| !set.is_empty()) else {
            return Lit::constant(!set.is_empty());
        };
        let members = self.members.entry(*first).or_default();
        let same = |known: &&Member| known.words == words && known.set == set;
        if let Some(known) = members.iter().find(same) {
            return known.lit;
        }
        let graph = &mut self.graph;
        let large = set.is_large(LARGE_SET);
        let lit = if large {
            graph.free()
        } else {
            set.contain(graph, words)
        };
        let new = Member {
            words: words.to_vec(),
            set,
            large,
            lit,
        };
        let related = members.iter().filter(|other| {
            (large || other.large)
                && (other.words.starts_with(words) || words.starts_with(&other.words))
        });
        for other in related.take(MOST_RELATED) {
            let longer = if other.words.len() > words.len() {
                &other.words
            } else {
                words
            };
            let (mine, theirs) = (&new.set, &other.set);
            let mut most = [LARGE_SET - 1; 3];
            let [a, b, c] = &mut most;
            for (both, in_one, in_two) in [
                (mine.without(theirs, a), lit, !other.lit),
                (theirs.without(mine, b), other.lit, !lit),
                (mine.and(theirs, c), lit, other.lit),
            ] {
                if let Some(both) = both {
                    let rest = both.contain(graph, longer);
                    let in_both = graph.and(in_one, in_two);
                    self.relations.push(graph.implies(in_both, rest));
                }
            }
        }
        if large {
            self.undefined.push(new.clone());
        }
        members.push(new);
        lit
    }

    /// Says what the bits that stand for sets mean. None, if there is nothing that was not said
    /// before.
    pub(super) fn define(&mut self) -> Option<()> {
        if self.undefined.is_empty() {
            return None;
        }
        for Member {
            words, set, lit, ..
        } in std::mem::take(&mut self.undefined)
        {
            let graph = &mut self.graph;
            let member = set.contain(graph, &words);
            let differ = graph.xor(lit, member);
            self.relations.push(!differ);
        }
        Some(())
    }

    /// What holds for every packet: the length is one, and reads of one place give one value.
    /// Grows with what is read.
    pub(super) fn settle(&mut self) -> &[Lit] {
        if self.conditions.is_empty() {
            let longest = Word::constant(MAX_LENGTH);
            let too_long = self.length.at_least(&mut self.graph, &longest);
            self.conditions.push(!too_long);
        }
        self.conditions.append(&mut self.relations);
        let (reads, bytes) = self.settled;
        for (number, read) in self.reads.iter().enumerate() {
            let new = number >= reads;
            let earlier = self.reads.iter().take(if new { number } else { 0 });
            let earlier = earlier.map(|one| (one.place, one.value));
            let known = self.bytes.iter().skip(if new { 0 } else { bytes });
            let known = known.map(|(at, value)| (Word::constant(*at), *value));
            for (place, value) in earlier.chain(known) {
                let graph = &mut self.graph;
                if graph.exhausted() {
                    break;
                }
                let same_place = read.place.equals(graph, &place);
                let same = same_byte(graph, &read.value, &value);
                let condition = graph.implies(same_place, same);
                self.conditions.push(condition);
            }
        }
        self.settled = (self.reads.len(), self.bytes.len());
        &self.conditions
    }

    /// What an ancillary load reads, and whether it succeeds: without a device some do not.
    pub(super) fn ancillary(&mut self, what: Ancillary) -> (Word, Lit) {
        let (graph, meta) = (&mut self.graph, &self.meta);
        match what {
            Ancillary::Protocol => (meta.protocol, Lit::TRUE),
            Ancillary::PacketType => (meta.packet_type, Lit::TRUE),
            Ancillary::Mark => (meta.mark, Lit::TRUE),
            Ancillary::Queue => (meta.queue, Lit::TRUE),
            Ancillary::Hash => (meta.hash, Lit::TRUE),
            Ancillary::VlanPresent => (Word::from_bits(&[meta.vlan_present]), Lit::TRUE),
            Ancillary::VlanTag => {
                let tag = meta.vlan_control.only_if(graph, meta.vlan_present);
                (tag, Lit::TRUE)
            }
            Ancillary::VlanProtocol => {
                let protocol = meta.vlan_protocol.only_if(graph, meta.vlan_present);
                (protocol, Lit::TRUE)
            }
            Ancillary::InterfaceIndex => {
                let device = meta.interface_index.not_zero(graph);
                (meta.interface_index, device)
            }
            Ancillary::HardwareType => {
                let device = meta.interface_index.not_zero(graph);
                (meta.hardware_type, device)
            }
        }
    }
}

const fn size_of(size: Size) -> u32 {
    match size {
        Size::Byte => 1,
        Size::Half => 2,
        Size::Word => 4,
    }
}

fn same_byte(graph: &mut Graph, a: &Byte, b: &Byte) -> Lit {
    let mut same = Lit::TRUE;
    for (a, b) in a.iter().zip(b) {
        let differ = graph.xor(*a, *b);
        same = graph.and(same, !differ);
    }
    same
}

#[cfg(test)]
pub(super) mod tests {
    use super::{
        super::super::{Meta, Packet, VlanTag},
        *,
    };

    /// The value of every node for one packet.
    pub(crate) fn values(space: &Space, packet: &Packet<'_>) -> impl Fn(Lit) -> bool + use<> {
        let mut values = vec![false; space.graph.len()];
        let mut set = |word: &Word, value: u32| {
            for (at, bit) in word.bits().iter().enumerate() {
                if bit.as_constant().is_none() {
                    values[bit.node()] = value >> at & 1 == 1;
                }
            }
        };
        let meta = &space.meta;
        set(&space.length, packet.wire_len);
        set(&space.headroom, packet.headroom.len().try_into().unwrap());
        set(&meta.protocol, packet.meta.protocol.into());
        set(&meta.packet_type, packet.meta.packet_type.into());
        set(&meta.interface_index, packet.meta.interface_index);
        set(&meta.hardware_type, packet.meta.hardware_type.into());
        set(&meta.mark, packet.meta.mark);
        set(&meta.queue, packet.meta.queue.into());
        set(&meta.hash, packet.meta.hash);
        let tag = packet.meta.vlan;
        set(&Word::from_bits(&[meta.vlan_present]), tag.is_some().into());
        set(
            &meta.vlan_protocol,
            tag.map_or(7, |tag| tag.protocol.into()),
        );
        set(&meta.vlan_control, tag.map_or(9, |tag| tag.control.into()));
        let network = packet.meta.network_header.cast_unsigned();
        set(&meta.network_header, network);
        let link = packet.meta.link_header;
        let known = Word::from_bits(&[meta.link_header_known]);
        set(&known, link.is_some().into());
        set(&meta.link_header, link.unwrap_or(3).cast_unsigned());
        for (at, byte) in &space.bytes {
            let value = packet.bytes.get(*at as usize).copied().unwrap_or(0);
            set(&Word::from_bits(byte), value.into());
        }
        let firsts: HashMap<_, _> = space
            .reads
            .iter()
            .map(|read| (read.value[0].node(), read))
            .collect();
        for node in 0..values.len() {
            if let Some(read) = firsts.get(&node) {
                // The place was computed before the bits that are read there were made.
                let place = read
                    .place
                    .evaluate(|bit| values[bit.node()] ^ bit.negated());
                let place = i64::from(place.cast_signed());
                let front = i64::try_from(packet.headroom.len()).unwrap();
                let byte = match usize::try_from(place) {
                    Ok(place) => packet.bytes.get(place),
                    Err(_) => usize::try_from(place + front)
                        .ok()
                        .and_then(|at| packet.headroom.get(at)),
                };
                for (at, bit) in read.value.iter().enumerate() {
                    values[bit.node()] = byte.copied().unwrap_or(0) >> at & 1 == 1;
                }
            }
            if let Some((a, b)) = space.graph.operands(node) {
                values[node] = (values[a.node()] ^ a.negated()) && (values[b.node()] ^ b.negated());
            }
        }
        move |lit| values[lit.node()] ^ lit.negated()
    }

    /// A small generator with a seed.
    pub(crate) struct Random(pub(crate) u64);

    impl Random {
        pub(crate) fn word(&mut self) -> u32 {
            self.0 = self
                .0
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            ((self.0 >> 32) as u32).rotate_left((self.0 >> 59) as u32)
        }

        pub(crate) fn below(&mut self, bound: u32) -> u32 {
            self.word() % bound
        }

        pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
            from[self.word() as usize % from.len()]
        }

        pub(crate) fn bytes(&mut self, length: u32) -> Vec<u8> {
            (0..length).map(|_| self.word().to_le_bytes()[0]).collect()
        }

        pub(crate) fn meta(&mut self) -> Meta {
            Meta {
                protocol: self.pick(&[0x800, 0x86dd, 0x806, 4]),
                packet_type: self.pick(&[0, 1, 2, 3, 4, 7]),
                interface_index: self.pick(&[0, 1, 1, 1, 2]),
                hardware_type: self.pick(&[1, 772]),
                mark: self.pick(&[0, 1, 0x8000_0000]),
                queue: self.pick(&[0, 1]),
                hash: self.pick(&[0, 0xdead_beef]),
                vlan: self.pick(&[
                    None,
                    Some(VlanTag {
                        protocol: 0x8100,
                        control: 100,
                    }),
                ]),
                network_header: self.pick(&[14, 14, 14, 0, -3, 18]),
                link_header: self.pick(&[Some(0), Some(0), None, Some(-5)]),
            }
        }
    }
}
