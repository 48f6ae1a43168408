"""A governed process that does as it is told: one JSON list per line in, one JSON value out."""

import ctypes
import errno
import json
import mmap
import select
import socket
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
sockets = []
rings = {}

SO_ATTACH_FILTER = 26
SO_DETACH_FILTER = 27
SOL_PACKET = 263
PACKET_RX_RING = 5
PACKET_STATISTICS = 6
FRAME = 2048
FRAMES = 2048


def open_(kind, protocol):
    """A capture socket; `kind` is 3 for raw, 2 for cooked."""
    sockets.append(socket.socket(socket.AF_PACKET, kind, socket.htons(protocol)))
    sockets[-1].setblocking(False)
    sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 212992)
    return len(sockets) - 1


def bind(number, index, length):
    """bind(2) to an interface, with an address of any length."""
    address = struct.pack("=HHiHBB8s", socket.AF_PACKET, socket.htons(3), index, 0, 0, 0, b"")
    address = address.ljust(length, b"\0")
    if libc.bind(sockets[number].fileno(), address, length) != 0:
        raise OSError(ctypes.get_errno(), "bind")


def setsockopt(number, level, option, value):
    sockets[number].setsockopt(level, option, value)


def attach(number, program):
    """Attaches a filter of its own: a list of [code, jt, jf, k]."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *insn) for insn in program))
    header = struct.pack("=HxxxxxxQ", len(program), ctypes.addressof(code))
    sockets[number].setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, header)


def detach(number):
    sockets[number].setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def attach_many(number, program, count):
    """The errors of so many attempts, each with how often it came, and milliseconds in all."""
    answers = {}
    start = time.monotonic()
    for _ in range(count):
        try:
            attach(number, program)
            answer = "ok"
        except OSError as error:
            answer = errno.errorcode[error.errno]
        answers[answer] = answers.get(answer, 0) + 1
    return [answers, (time.monotonic() - start) * 1000]


def drain(number, count, seconds):
    """Packets as [interface, hex]: waits for `count` of them, then takes what else is there."""
    packets = []
    until = time.monotonic() + seconds
    while True:
        try:
            data, address = sockets[number].recvfrom(65536)
            packets.append([address[0], data.hex()])
        except BlockingIOError:
            left = until - time.monotonic()
            if len(packets) >= count or left <= 0:
                return packets
            select.select([sockets[number]], [], [], left)
        except OSError as error:
            if error.errno != errno.ENETDOWN:
                raise


def lost(number):
    """Packets that the guard let through and the receiver had no room for."""
    statistics = sockets[number].getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
    return struct.unpack("=II", statistics)[1]


def ring(number):
    """A TPACKET_V1 ring: the version of whoever does not ask for one."""
    request = struct.pack("=IIII", FRAME * FRAMES // 64, 64, FRAME, FRAMES)
    sockets[number].setsockopt(SOL_PACKET, PACKET_RX_RING, request)
    rings[number] = mmap.mmap(sockets[number].fileno(), FRAME * FRAMES)


def filled(number, count, seconds):
    """How many frames of a ring are filled, and their captured lengths: waits for `count`."""
    frames = rings[number]
    until = time.monotonic() + seconds
    while True:
        lengths = []
        for frame in range(FRAMES):
            status, _, captured = struct.unpack_from("=QII", frames, frame * FRAME)
            if status & 1:
                lengths.append(captured)
        if len(lengths) >= count or time.monotonic() > until:
            return lengths
        select.select([sockets[number]], [], [], 0.01)



COMMANDS = {
    "open": open_,
    "bind": bind,
    "setsockopt": setsockopt,
    "attach": attach,
    "detach": detach,
    "attach_many": attach_many,
    "drain": drain,
    "lost": lost,
    "ring": ring,
    "filled": filled,
}

for line in sys.stdin:
    name, *arguments = json.loads(line)
    if name == "exit":
        sys.exit(arguments[0])
    try:
        answer = {"ok": COMMANDS[name](*arguments)}
    except OSError as error:
        answer = {"error": errno.errorcode.get(error.errno, str(error))}
    print(json.dumps(answer), flush=True)
