"""Which packets are well-formed, as a condition for Z3.

Written from the definition at the head of agent/src/filter/prove/well_formed.rs, not from its code:
what the metadata of a form of socket is, and that every header which a packet announces is there,
as far as the first transport header.
"""

import z3

TAGS = (0x8100, 0x88A8, 0x9100)
EXTENSIONS = (0, 43, 44, 51, 60, 135)
NETWORK = {"ethernet": 14, "raw": 0, "cooked": 0}


def one_of(value, those):
    return z3.Or([value == one for one in those])


def at_most(a, b):
    return z3.ULE(a, b)


def well_formed(packet, form):
    network = NETWORK[form]
    conditions = [
        packet.interface > 0,
        z3.ULT(packet.packet_type, 5),
        z3.Implies(packet.tagged, one_of(packet.tag_protocol, (0x8100, 0x88A8))),
        packet.network == network,
    ]
    if form != "cooked":
        conditions.append(packet.headroom == 0)
    if form == "ethernet":
        ether_type = half(packet, 12)
        conditions += [
            packet.has_link,
            packet.link == 0,
            z3.Implies(z3.UGE(ether_type, 0x600), wide(packet.protocol) == ether_type),
            has(packet, 14),
            ethernet_payload(packet, ether_type, 14, 2),
        ]
    elif form == "cooked":
        ether_type = wide(packet.protocol)
        conditions += [z3.Not(one_of(ether_type, TAGS)), payload(packet, ether_type, 0)]
    else:
        conditions.append(
            z3.Or(
                z3.And(packet.protocol == 0x0800, ipv4(packet, 0)),
                z3.And(packet.protocol == 0x86DD, ipv6(packet, 0)),
            )
        )
    return z3.And(conditions)


def wide(value):
    return z3.ZeroExt(32 - value.size(), value)


def byte(packet, at):
    return wide(packet.byte(at if z3.is_expr(at) else z3.BitVecVal(at, 32)))


def half(packet, at):
    return byte(packet, at) << 8 | byte(packet, at + 1)


def has(packet, count):
    return at_most(z3.BitVecVal(count, 32) if isinstance(count, int) else count, packet.length)


def ethernet_payload(packet, ether_type, at, tags):
    """Behind a type at `at`, and so many tags at most; what follows a third is not looked at."""
    is_tag = one_of(ether_type, TAGS)
    if tags == 0:
        return z3.Or(is_tag, payload(packet, ether_type, at))
    behind = z3.And(
        has(packet, at + 4), ethernet_payload(packet, half(packet, at + 2), at + 4, tags - 1)
    )
    return z3.If(is_tag, behind, payload(packet, ether_type, at))


def payload(packet, ether_type, at):
    is_length = z3.ULT(ether_type, 0x600)
    length = z3.And(z3.UGE(ether_type, 3), at_most(ether_type, 1500), has(packet, ether_type + at))
    session = z3.And(has(packet, at + 6), has(packet, half(packet, at + 4) + (at + 6)))
    return z3.And(
        z3.Implies(is_length, length),
        z3.Implies(ether_type == 0x0800, ipv4(packet, at)),
        z3.Implies(ether_type == 0x86DD, ipv6(packet, at)),
        z3.Implies(
            one_of(ether_type, (0x0806, 0x8035)),
            z3.And(has(packet, at + 28), half(packet, at + 4) == 0x0604),
        ),
        z3.Implies(one_of(ether_type, (0x8847, 0x8848)), has(packet, at + 4)),
        z3.Implies(one_of(ether_type, (0x8863, 0x8864)), session),
    )


def ipv4(packet, at):
    header = (byte(packet, at) & 0xF) * 4
    total = half(packet, at + 2)
    fragment = half(packet, at + 6)
    content = total - header
    return z3.And(
        has(packet, at + 20),
        byte(packet, at) >> 4 == 4,
        at_most(z3.BitVecVal(20, 32), header),
        at_most(header, total),
        has(packet, total + at),
        z3.If(
            fragment & 0x1FFF != 0,
            content != 0,
            transport(
                packet, byte(packet, at + 9), header + at, content, fragment & 0x2000 != 0, 1
            ),
        ),
    )


def ipv6(packet, at):
    content = half(packet, at + 4)
    following = byte(packet, at + 6)
    return z3.And(
        has(packet, at + 40),
        byte(packet, at) >> 4 == 6,
        has(packet, content + (at + 40)),
        z3.Implies(one_of(following, EXTENSIONS), z3.UGE(content, 8)),
        transport(
            packet, following, z3.BitVecVal(at + 40, 32), content, z3.BoolVal(False), 58
        ),
    )


def transport(packet, protocol, at, length, more, icmp):
    """A transport header at `at`, in `length` bytes."""
    tcp_header = (byte(packet, at + 12) >> 4) * 4
    udp_length = half(packet, at + 4)
    least = lambda count: z3.UGE(length, count)
    return z3.And(
        z3.Implies(
            protocol == 6,
            z3.And(least(20), z3.UGE(tcp_header, 20), at_most(tcp_header, length)),
        ),
        z3.Implies(
            protocol == 17,
            z3.And(least(8), z3.UGE(udp_length, 8), z3.Or(more, at_most(udp_length, length))),
        ),
        z3.Implies(one_of(protocol, (2, icmp)), least(8)),
        z3.Implies(protocol == 132, least(12)),
    )
