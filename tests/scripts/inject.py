"""Sends a frame in every way that a packet socket has, and prints what came of each."""

import ctypes
import errno
import json
import mmap
import socket
import struct

SOL_PACKET = 263
FRAME = bytes([255] * 6 + [2, 0, 0, 0, 0, 1]) + bytes([0x88, 0xB5]) + b"x" * 60
libc = ctypes.CDLL(None, use_errno=True)
answers = {}


def attempt(what, work):
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        work(packet)
        answers[what] = "ok"
    except OSError as error:
        answers[what] = errno.errorcode.get(error.errno, str(error.errno))
    packet.close()


def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")



def by_write(packet):
    packet.bind(("cw0", 0))
    check(libc.write(packet.fileno(), FRAME, len(FRAME)))


def by_sendmmsg(packet):
    packet.bind(("cw0", 0))
    data = ctypes.create_string_buffer(FRAME, len(FRAME))
    vector = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(data), len(FRAME)))
    header = struct.pack("=QI4xQQQQi4xI4x", 0, 0, ctypes.addressof(vector), 1, 0, 0, 0, 0)
    message = ctypes.create_string_buffer(header, len(header))
    check(libc.sendmmsg(packet.fileno(), message, 1, 0))


def by_cooked(_):
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    packet.sendto(b"x" * 60, ("cw1", 0x88B5, 0, 0, b"\xff" * 6))


def around_by_bypass(packet):
    packet.setsockopt(SOL_PACKET, 20, 1)
    packet.sendto(FRAME, ("cw0", 0))


def around_by_ring(packet):
    packet.setsockopt(SOL_PACKET, 13, struct.pack("=IIII", 4096, 1, 2048, 2))
    packet.bind(("cw0", 0))
    ring = mmap.mmap(packet.fileno(), 4096)
    # struct tpacket_hdr: status, len; the frame begins behind it.
    offset = 32
    ring[offset : offset + len(FRAME)] = FRAME
    struct.pack_into("=QI", ring, 0, 1, len(FRAME))
    packet.send(b"")
    ring.close()


attempt("sendto, one interface", lambda packet: packet.sendto(FRAME, ("cw0", 0)))
attempt("sendto, another", lambda packet: packet.sendto(FRAME, ("cw1", 0)))
attempt("sendto, loopback", lambda packet: packet.sendto(FRAME, ("lo", 0)))
attempt("write", by_write)
attempt("sendmmsg", by_sendmmsg)
attempt("a cooked socket", by_cooked)
attempt("around the queue", around_by_bypass)
attempt("around by a ring", around_by_ring)
print(json.dumps(answers))
