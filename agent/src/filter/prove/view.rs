//! A packet that is made of another one: the same bytes at other places, with others around them.

use std::collections::HashMap;

use super::{bits::Word, graph::Lit, space::Byte};

/// Where a byte of the packet that is made comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is a byte of the other packet.
    Shared(u32),
    /// It is its own, and known.
    Own(Byte),
    /// It is its own, and has not been read before.
    New,
}

/// The packet that is made, as conditions over the other one.
#[derive(Debug)]
pub(super) struct View {
    /// Its length.
    pub(super) length: Word,
    /// Its protocol, as the kernel knows it beside the bytes.
    pub(super) protocol: Word,
    /// From which byte on it is how far behind the other one's; None: its own. In order.
    segments: Vec<(u32, Option<u32>)>,
    own: HashMap<u32, Byte>,
    /// Those of its own bytes that may be anything.
    free: Vec<(u32, Byte)>,
}

impl Default for View {
    fn default() -> Self {
        Self::new(Word::ZERO, Word::ZERO, Vec::new())
    }
}

impl View {
    pub(super) fn new(length: Word, protocol: Word, segments: Vec<(u32, Option<u32>)>) -> Self {
        Self {
            length,
            protocol,
            segments,
            own: HashMap::new(),
            free: Vec::new(),
        }
    }

    /// Says what a byte of its own is.
    pub(super) fn define(&mut self, at: u32, byte: Byte) {
        self.own.insert(at, byte);
    }

    /// A byte of its own that may be anything.
    pub(super) fn own(&mut self, at: u32, byte: Byte) {
        self.own.insert(at, byte);
        self.free.push((at, byte));
    }

    /// Its own bytes that may be anything.
    pub(super) fn free(&self) -> &[(u32, Byte)] {
        &self.free
    }

    pub(super) fn place(&self, at: u32) -> Place {
        if let Some(byte) = self.own.get(&at) {
            return Place::Own(*byte);
        }
        let segment = self.segments.iter().rev().find(|(from, _)| *from <= at);
        match segment.and_then(|(_, behind)| at.checked_sub((*behind)?)) {
            Some(at) => Place::Shared(at),
            None => Place::New,
        }
    }
}

/// A byte that is known.
pub(super) fn constant(byte: u8) -> Byte {
    std::array::from_fn(|bit| Lit::constant(byte >> bit & 1 == 1))
}
