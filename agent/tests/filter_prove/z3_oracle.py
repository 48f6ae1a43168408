#!/usr/bin/env python3
"""Containment of classic BPF programs by Z3: a second opinion on the prover.

Written from the kernel's rules (net/core/filter.c: bpf_check_classic, bpf_convert_filter,
bpf_internal_load_pointer_neg_helper, __skb_header_pointer), not from the prover.

Reads a line of JSON for each question and answers each with a line, in order:

    {"requested": [[code, jt, jf, k], ...], "policy": [[...], ...], "form": "ethernet"|"raw"|"cooked",
     "milliseconds": 10000, "only": "verdict"|null}
    {"verdict": "contained"|"well-formed"|"not"|"unknown", "packet": {...}|null, "seconds": [build, solve]}

`contained`: the policy accepts each packet that the request accepts. `well-formed`: each well-formed
one. `packet` is one that shows the difference. With "only": "verdict", it stops after the
first question, and answers `not` for `well-formed` too. A program that is not what the kernel would
take is an error: it ends this one.
"""

import json
import sys
import time

import z3

from well_formed import well_formed

# The packets that a proof is about: less than 640 KiB, headers within 64 KiB of the beginning.
MOST_BYTES = 0xA0000
HEADROOM_BITS = 16

NET_OFFSET = -0x100000  # SKF_NET_OFF
LINK_OFFSET = -0x200000  # SKF_LL_OFF
ANCILLARY = 0xFFFFF000  # SKF_AD_OFF


def word(value):
    return z3.BitVecVal(value, 32)


def wide(value):
    """A field of the kernel's as the 32-bit number that a filter loads."""
    return z3.ZeroExt(32 - value.size(), value)


class Packet:
    """Any packet: what a socket filter can see, and nothing about it but what always holds."""

    def __init__(self):
        # One function for every byte, by its distance from the first; those in front are negative.
        self.function = z3.Function("byte", z3.BitVecSort(32), z3.BitVecSort(8))
        self.read_bytes = {}
        self.length = z3.BitVec("length", 32)
        self.headroom = z3.BitVec("headroom", 32)
        self.network = z3.BitVec("network", 32)
        self.link = z3.BitVec("link", 32)
        self.has_link = z3.Bool("has_link")
        self.protocol = z3.BitVec("protocol", 16)
        self.packet_type = z3.BitVec("packet_type", 3)
        self.interface = z3.BitVec("interface", 32)
        self.hardware = z3.BitVec("hardware", 16)
        self.mark = z3.BitVec("mark", 32)
        self.queue = z3.BitVec("queue", 16)
        self.hash = z3.BitVec("hash", 32)
        self.tagged = z3.Bool("tagged")
        self.tag_protocol = z3.BitVec("tag_protocol", 16)
        self.tag_control = z3.BitVec("tag_control", 16)

    def always(self):
        near = 1 << HEADROOM_BITS
        return [
            z3.ULT(self.length, MOST_BYTES),
            z3.ULT(self.headroom, near),
            self.network >= -near,
            self.network < near,
            self.link >= -near,
            self.link < near,
        ]

    def byte(self, place):
        place = z3.simplify(place)
        known = self.read_bytes.setdefault(place.get_id(), (place, self.function(place)))
        return known[1]

    def bytes(self, place, size):
        """Big-endian, whether they are there or not."""
        each = [self.byte(place + index) for index in range(size)]
        joined = each[0] if size == 1 else z3.Concat(*each)
        return wide(joined) if size < 4 else joined

    def load(self, offset, size):
        """What a load gives, and whether it succeeds."""
        offset = z3.simplify(offset)
        if z3.is_bv_value(offset) and offset.as_signed_long() >= 0:
            there = z3.ULE(word(offset.as_long() + size), self.length)
            return self.bytes(offset, size), there
        # Not negative: from the first byte, as many as the length allows. No sum of these wraps,
        # for the length is far from 2**31.
        inside = z3.And(z3.ULT(offset, MOST_BYTES), z3.ULE(offset + size, self.length))
        # Negative: from a header, within the buffer from its head to the packet's end.
        by_network = offset >= NET_OFFSET
        by_link = z3.And(offset >= LINK_OFFSET, self.has_link)
        place = z3.If(
            by_network,
            self.network + (offset - NET_OFFSET),
            self.link + (offset - LINK_OFFSET),
        )
        # Both sums stay far from 2**31 where they count.
        in_buffer = z3.And(
            z3.Or(by_network, by_link),
            place >= -self.headroom,
            place + size <= self.length,
        )
        there = z3.If(offset >= 0, inside, in_buffer)
        place = z3.If(offset >= 0, offset, place)
        return self.bytes(place, size), there

    def field(self, number):
        """An ancillary load: its value, and whether it needs a device. None: another operation."""
        zero = word(0)
        if number == 0:
            return wide(self.protocol), False
        if number == 4:
            return wide(self.packet_type), False
        if number == 8:
            return self.interface, True
        if number == 20:
            return self.mark, False
        if number == 24:
            return wide(self.queue), False
        if number == 28:
            return wide(self.hardware), True
        if number == 32:
            return self.hash, False
        if number == 44:
            return z3.If(self.tagged, wide(self.tag_control), zero), False
        if number == 48:
            return z3.If(self.tagged, word(1), zero), False
        if number == 60:
            return z3.If(self.tagged, wide(self.tag_protocol), zero), False
        return None

    def read(self, model):
        """The packet of a model, as far as it goes."""

        def number(value):
            return model.eval(value, model_completion=True).as_long()

        length, headroom = number(self.length), number(self.headroom)
        data, front = bytearray(length), bytearray(headroom)
        for place, value in self.read_bytes.values():
            place = (number(place) ^ 0x80000000) - 0x80000000
            if 0 <= place < length:
                data[place] = number(value)
            elif -headroom <= place < 0:
                front[headroom + place] = number(value)
        signed = lambda value: (number(value) ^ 0x80000000) - 0x80000000
        truth = lambda value: z3.is_true(model.eval(value, model_completion=True))
        return {
            "bytes": data.hex(),
            "headroom": front.hex(),
            "protocol": number(self.protocol),
            "packet_type": number(self.packet_type),
            "interface_index": number(self.interface),
            "hardware_type": number(self.hardware),
            "mark": number(self.mark),
            "queue": number(self.queue),
            "hash": number(self.hash),
            "vlan": [number(self.tag_protocol), number(self.tag_control)] if truth(self.tagged) else None,
            "network_header": signed(self.network),
            "link_header": signed(self.link) if truth(self.has_link) else None,
        }


class State:
    """The registers on the ways that lead to one instruction, and when one of them is taken."""

    def __init__(self, taken, a, x, memory):
        self.taken, self.a, self.x, self.memory = taken, a, x, memory

    def joined(self, other):
        def choose(mine, theirs):
            if mine is None or theirs is None:
                return None  # not written on all ways, so never read from here
            return mine if mine.eq(theirs) else z3.If(self.taken, mine, theirs)

        return State(
            z3.Or(self.taken, other.taken),
            choose(self.a, other.a),
            choose(self.x, other.x),
            [choose(*both) for both in zip(self.memory, other.memory)],
        )


def accepts(program, packet):
    """When a program returns anything but 0."""
    states = {0: State(z3.BoolVal(True), word(0), word(0), [None] * 16)}
    accepted = []

    def go(to, state):
        if to >= len(program):
            raise ValueError("a jump leads out of the program")
        states[to] = states[to].joined(state) if to in states else state

    for at, (code, jt, jf, k) in enumerate(program):
        state = states.pop(at, None)
        if state is None:
            continue
        taken, a, x, memory = state.taken, state.a, state.x, list(state.memory)
        kind, on = code & 7, at + 1

        if kind == 6:  # ret
            value = {0x06: word(k), 0x16: a}[code]
            accepted.append(z3.And(taken, value != 0))
            continue
        if kind == 5:  # jumps
            if code == 0x05:
                go(on + k, state)
                continue
            right = x if code & 8 else word(k)
            test = {
                0x10: lambda: a == right,
                0x20: lambda: z3.UGT(a, right),
                0x30: lambda: z3.UGE(a, right),
                0x40: lambda: a & right != 0,
            }[code & 0xF0]()
            if jt == jf:
                go(on + jt, state)
                continue
            go(on + jt, State(z3.And(taken, test), a, x, memory))
            go(on + jf, State(z3.And(taken, z3.Not(test)), a, x, memory))
            continue

        if code in (0x20, 0x28, 0x30) and k >= ANCILLARY:
            number = k - ANCILLARY
            if number == 40:  # SKF_AD_ALU_XOR_X
                a = a ^ x
            else:
                value, needs_device = packet.field(number)
                if needs_device:
                    device = packet.interface != 0
                    accepted.append(z3.And(taken, z3.Not(device), a != 0))
                    taken = z3.And(taken, device)
                a = value
        elif code in (0x20, 0x28, 0x30, 0x40, 0x48, 0x50):
            size = {0x00: 4, 0x08: 2, 0x10: 1}[code & 0x18]
            offset = word(k) + x if code & 0x40 else word(k)
            a, there = packet.load(offset, size)
            taken = z3.And(taken, there)
        elif code == 0xB1:
            value, there = packet.load(word(k), 1)
            x = (value & 0xF) << 2
            taken = z3.And(taken, there)
        elif code == 0x00:
            a = word(k)
        elif code == 0x01:
            x = word(k)
        elif code == 0x80:
            a = packet.length
        elif code == 0x81:
            x = packet.length
        elif code == 0x60:
            a = memory[k]
        elif code == 0x61:
            x = memory[k]
        elif code == 0x02:
            memory[k] = a
        elif code == 0x03:
            memory[k] = x
        elif code == 0x07:
            x = a
        elif code == 0x87:
            a = x
        elif code == 0x84:
            a = -a
        elif kind == 4:
            right = x if code & 8 else word(k)
            operation = code & 0xF0
            if operation in (0x30, 0x90):
                taken = z3.And(taken, right != 0)
            a = {
                0x00: lambda: a + right,
                0x10: lambda: a - right,
                0x20: lambda: a * right,
                0x30: lambda: z3.UDiv(a, right),
                0x40: lambda: a | right,
                0x50: lambda: a & right,
                0x60: lambda: a << (right & 31),
                0x70: lambda: z3.LShR(a, right & 31),
                0x90: lambda: z3.URem(a, right),
                0xA0: lambda: a ^ right,
            }[operation]()
        else:
            raise ValueError(f"unknown operation 0x{code:x}")
        if a is None or x is None:
            raise ValueError("a memory cell is read before it is written")
        go(on, State(taken, a, x, memory))
    return z3.Or(accepted)


def answer(question):
    start = time.perf_counter()
    packet = Packet()
    requested = accepts(question["requested"], packet)
    policy = accepts(question["policy"], packet)
    solver = z3.SolverFor("QF_UFBV")
    solver.set("timeout", question.get("milliseconds", 10000))
    solver.add(packet.always())
    solver.add(requested, z3.Not(policy))
    built = time.perf_counter()
    found = solver.check()
    solved = time.perf_counter()
    seconds = [built - start, solved - built]
    if found == z3.unsat:
        return {"verdict": "contained", "packet": None, "seconds": seconds}
    if found == z3.unknown:
        return {"verdict": "unknown", "packet": None, "seconds": seconds}
    model = solver.model()
    if question.get("only") == "verdict":
        return {"verdict": "not", "packet": packet.read(model), "seconds": seconds}
    solver.add(well_formed(packet, question["form"]))
    whole = solver.check()
    if whole == z3.sat:
        model = solver.model()
    verdict = {"sat": "not", "unsat": "well-formed", "unknown": "unknown"}[str(whole)]
    return {"verdict": verdict, "packet": packet.read(model), "seconds": seconds}


def main():
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.stderr.close()  # whoever asked is gone, and has said why
