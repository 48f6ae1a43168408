//! Packets that a filter refuses as they are, and accepts in disguise.

use std::collections::HashMap;

use super::{
    super::{LinkType, Packet, Program, SocketForm, interpret::interpret, program::Size},
    bits::Word,
    checksum,
    disguise::{TUNNEL_PORTS, other_addresses, whom},
    example::Example,
    graph::Lit,
    recognise::recognisable,
    solve::Solver,
    space::Space,
    symbolic,
    verdict::{Budget, Unknown, Work},
    well_formed::{self, ARP, ICMP, ICMP6, IPV4, IPV6, TCP, UDP, network_offset, well_formed},
};

pub use super::disguise::{Disguise, Hiding, Mark, disguises};

/// A packet that is refused, and the same packet as it gets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// As it is.
    pub refused: Example,
    /// In disguise.
    pub accepted: Example,
}

/// Looks for a well-formed packet that one program refuses while another accepts it in a disguise.
/// It must be refused for what it is: also if it said that it is as long as the disguised one. To ask how a filter can be fooled, both are that filter. None: there is no such packet; that is
/// a proof, over every packet and everything that the disguise leaves open.
///
/// # Errors
///
/// There is no answer within the budget.
pub fn hides(
    refusing: &Program,
    accepting: &Program,
    disguise: &Disguise,
    form: impl Into<SocketForm>,
    budget: Budget,
) -> Result<Option<Pair>, Unknown> {
    let form = form.into();
    let mut work = Work::new(form, budget);
    let refused = !work.side(refusing)?.accepts;
    let deadline = work.deadline;
    let mut view = disguise.view(&mut work.space, form);
    // What is refused only for being short is not refused for what it is.
    let longer = work.space.stating(view.length, |space| {
        let outcome = symbolic::run(refusing, space, deadline)?;
        Ok(outcome.accepts(space))
    });
    let longer = longer.map_err(|symbolic::Exhausted| work.why())?;
    let accepted = work.space.through(&mut view, |space| {
        let outcome = symbolic::run(accepting, space, deadline)?;
        Ok(outcome.accepts(space))
    });
    let accepted = accepted.map_err(|symbolic::Exhausted| work.why())?;
    let demanded = disguise.demanded(&mut work.space, &mut view);
    let usual = usual(&mut work.space, form);
    let whom = whom(&mut work.space, form, disguise.whom);
    let parts = [refused, !longer, accepted, demanded, usual, whom];
    let wanted = work.space.graph.all(parts);
    let Some(mut solver) = packets_with(&mut work, wanted, budget)? else {
        return Ok(None);
    };
    // The disguise first, so that one packet can be looked for behind it.
    let equals = |space: &mut Space, byte: &[Lit; 8], value: u8| {
        Word::from_bits(byte).equals(&mut space.graph, &Word::constant(value.into()))
    };
    let mut fixed = Vec::new();
    let mut free = HashMap::new();
    for (at, byte) in view.free() {
        let preferred = disguise.preferred(*at);
        fixed.push(equals(&mut work.space, byte, preferred));
        free.insert(*at, preferred);
    }
    if !work.satisfiable(&mut solver, &fixed)? {
        fixed.clear();
        // Those that are not preferred are left to the solver, one after the other.
        for (at, byte) in view.free() {
            let preferred = equals(&mut work.space, byte, disguise.preferred(*at));
            fixed.push(preferred);
            if work.satisfiable(&mut solver, &fixed)? {
                continue;
            }
            fixed.pop();
            work.satisfiable(&mut solver, &fixed)?;
            let value = Word::from_bits(byte).evaluate(|bit| solver.value(bit).unwrap_or(false));
            let value = value.to_le_bytes()[0];
            fixed.push(equals(&mut work.space, byte, value));
            free.insert(*at, value);
        }
        if !work.satisfiable(&mut solver, &fixed)? {
            return Err(Unknown::NotReproduced);
        }
    }
    let shows = |example: &Example| {
        let (packet, disguised) = (example.packet(), disguise.apply(example, &free, form));
        let disguised = disguised.packet();
        let longer = Packet {
            wire_len: disguised.wire_len,
            ..packet
        };
        well_formed(&packet, form)
            && !accepts(refusing, &packet)
            && !accepts(refusing, &longer)
            && accepts(accepting, &disguised)
    };
    let found = recognisable(&mut work.space, &mut solver, form, &fixed, shows);
    let refused = found.ok_or(Unknown::NotReproduced)?;
    let accepted = disguise.apply(&refused, &free, form);
    let mut intact = accepted.clone();
    checksum::fill_in(
        &mut intact.bytes,
        network_offset(form).unwrap_or(0).into(),
        false,
    );
    let accepted = if accepts(accepting, &intact.packet()) {
        intact
    } else {
        accepted
    };
    Ok(Some(Pair { refused, accepted }))
}

fn accepts(program: &Program, packet: &Packet<'_>) -> bool {
    interpret(program, packet) != 0
}

/// Well-formed and without a tag, beside the bytes or among them.
fn usual(space: &mut Space, form: SocketForm) -> Lit {
    let metadata = well_formed::metadata(space, form);
    let untagged = well_formed::untagged(space, form);
    let no_tag = !space.meta.vlan_present;
    space.graph.all([metadata, untagged, no_tag])
}

/// Whether a program tells IPv4 packets apart by their addresses.
///
/// # Errors
///
/// There is no answer within the budget.
pub fn reads_addresses(
    program: &Program,
    form: impl Into<SocketForm>,
    budget: Budget,
) -> Result<bool, Unknown> {
    let form = form.into();
    match other_addresses(form) {
        Some(other) => Ok(hides(program, program, &other, form, budget)?.is_some()),
        None => Ok(false),
    }
}

/// Looks for a plain packet that one program accepts and another does not. Plain is what hides
/// nothing: TCP, UDP that goes to no tunnel, ICMP that is no error message, each in one piece, over
/// IPv4 or straight after an IPv6 header; and ARP, if that is wanted.
///
/// # Errors
///
/// There is no answer within the budget.
pub fn dropped(
    before: &Program,
    after: &Program,
    with_arp: bool,
    form: impl Into<SocketForm>,
    budget: Budget,
) -> Result<Option<Example>, Unknown> {
    let form = form.into();
    let mut work = Work::new(form, budget);
    let was = work.side(before)?.accepts;
    let is = work.side(after)?.accepts;
    let usual = usual(&mut work.space, form);
    let plain = plain(&mut work.space, form, with_arp);
    let wanted = work.space.graph.all([was, !is, usual, plain]);
    let Some(mut solver) = packets_with(&mut work, wanted, budget)? else {
        return Ok(None);
    };
    let shows = |example: &Example| {
        let packet = example.packet();
        well_formed(&packet, form) && accepts(before, &packet) && !accepts(after, &packet)
    };
    let found = recognisable(&mut work.space, &mut solver, form, &[], shows);
    found.map(Some).ok_or(Unknown::NotReproduced)
}

/// A solver that has found a packet for which `wanted` holds; none if there is none.
fn packets_with(work: &mut Work, wanted: Lit, budget: Budget) -> Result<Option<Solver>, Unknown> {
    if work.space.graph.exhausted() {
        return Err(Unknown::TooLarge);
    }
    if wanted == Lit::FALSE {
        return Ok(None);
    }
    let mut solver = Solver::new(work.deadline, budget.conflicts);
    solver.require(&work.space.graph, wanted);
    Ok(work.satisfiable(&mut solver, &[])?.then_some(solver))
}

fn plain(space: &mut Space, form: SocketForm, with_arp: bool) -> Lit {
    let network = u32::from(network_offset(form).unwrap_or(0));
    let ether_type = well_formed::ether_type(space, form).unwrap_or(space.meta.protocol);
    let fragment = space.word(network + 6, Size::Half);
    let protocol = Word::from_bits(&space.byte(network + 9));
    let next = Word::from_bits(&space.byte(network + 6));
    let first = space.byte(network);
    let (words, _) = first.split_at(4);
    let header = Word::from_bits(words).shifted_left(2);
    let at = network.cast_signed();
    let (port, _) = space.load_indexed(Size::Half, &header, at + 2);
    let (kind, _) = space.load_indexed(Size::Byte, &header, at);
    let port6 = space.word(network + 42, Size::Half);
    let kind6 = Word::from_bits(&space.byte(network + 40));
    let graph = &mut space.graph;
    let is = |graph: &mut _, word: &Word, value: u32| word.equals(graph, &Word::constant(value));

    let whole = !fragment.and(graph, &Word::constant(0x1fff)).not_zero(graph);
    let echo = [0, 8].map(|echo| is(graph, &kind, echo));
    let echo = graph.any(echo);
    let information = kind6.at_least(graph, &Word::constant(128));
    let mut version = |number: u16, protocol: &Word, port: &Word, icmp: u8, no_error: Lit| {
        let version = is(graph, &ether_type, number.into());
        let tunnels = TUNNEL_PORTS.map(|tunnel| is(graph, port, tunnel.into()));
        let tunnel = graph.any(tunnels);
        let tcp = is(graph, protocol, TCP.into());
        let udp = is(graph, protocol, UDP.into());
        let udp = graph.and(udp, !tunnel);
        let icmp = is(graph, protocol, icmp.into());
        let icmp = graph.and(icmp, no_error);
        let transport = graph.any([tcp, udp, icmp]);
        graph.and(version, transport)
    };
    let four = version(IPV4, &protocol, &port, ICMP, echo);
    let six = version(IPV6, &next, &port6, ICMP6, information);
    let four = space.graph.and(four, whole);
    let has_arp = with_arp && form != SocketForm::Raw(LinkType::RAW);
    let arp = is(&mut space.graph, &ether_type, ARP.into());
    let arp = space.graph.and(arp, Lit::constant(has_arp));
    space.graph.any([four, six, arp])
}
