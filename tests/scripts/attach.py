"""The error of setsockopt(SO_ATTACH_FILTER) and SO_DETACH_FILTER for arguments good and bad, one JSON
object: `attach.py packet` on a capture socket, `attach.py udp` on a socket that is none."""

import ctypes
import errno
import json
import mmap
import os
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
ATTACH, DETACH = 26, 27
PAGE = mmap.PAGESIZE

if sys.argv[1] == "packet":
    tested = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
else:
    tested = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

# Two pages, of which the second is given back: what is read across their border faults.
area = libc.mmap
area.restype = ctypes.c_void_p
area.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
start = area(None, 2 * PAGE, 3, 0x22, -1, 0)
libc.munmap(ctypes.c_void_p(start + PAGE), ctypes.c_size_t(PAGE))
border = start + PAGE

kept = []


def put(data, address=None):
    """Bytes in memory; their address."""
    if address is None:
        buffer = ctypes.create_string_buffer(data, len(data))
        kept.append(buffer)
        return ctypes.addressof(buffer)
    ctypes.memmove(address, data, len(data))
    return address


def code(*insns):
    return b"".join(struct.pack("=HBBI", *insn) for insn in insns)


def header(length, pointer):
    return put(struct.pack("=HxxxxxxQ", length, pointer))


def program(*insns):
    return header(len(insns), put(code(*insns)))


def call(option, value, length, descriptor=None, level=socket.SOL_SOCKET):
    ctypes.set_errno(0)
    descriptor = tested.fileno() if descriptor is None else descriptor
    result = libc.setsockopt(
        ctypes.c_int(descriptor),
        ctypes.c_int(level),
        ctypes.c_int(option),
        ctypes.c_void_p(value),
        ctypes.c_int(length),
    )
    return "ok" if result == 0 else errno.errorcode[ctypes.get_errno()]


RETURN = (0x06, 0, 0, 0xFFFF)
good = program(RETURN)
table = {}

table["detach without one"] = call(DETACH, good, 4)
for name, value in [
    ("good", good),
    ("no pointer", 0),
    ("pointer to nothing", 8),
    ("pointer to the kernel", 0xFFFF_8000_0000_0000),
    ("pointer out of all bounds", 0x7FFF_FFFF_FFFF_FFF8),
    ("half behind the border", put(struct.pack("=HxxxxxxQ", 1, put(code(RETURN)))[:8], border - 8)),
    ("a number before the border", put(b"\1\0\0\0", border - 4)),
    ("half a number", border - 2),
]:
    for length in [16, 15, 17, 24, 8, 4, 3, 1, 0, -1, -(2**31)]:
        table[f"{name}, {length} bytes"] = call(ATTACH, value, length)
        table[f"detach, {name}, {length} bytes"] = call(DETACH, value, length)
table["detach once"] = (call(ATTACH, good, 16), call(DETACH, good, 4))[1]
table["detach twice"] = call(DETACH, good, 4)

partly = put(code(RETURN), border - 8)
for name, value in [
    ("none", header(0, put(code(RETURN)))),
    ("null", header(1, 0)),
    ("none and null", header(0, 0)),
    ("too many and null", header(4097, 0)),
    ("too many", header(4097, put(code(RETURN) * 4097))),
    ("most that a number holds", header(65535, put(code(RETURN)))),
    ("as many as there may be", program(*[RETURN] * 4096)),
    ("behind the border", header(1, border)),
    ("partly behind the border", header(2, partly)),
    ("before the border", header(1, partly)),
    ("no return", program((0x00, 0, 0, 1))),
    ("return x", program((0x0E, 0, 0, 0))),
    ("unknown operation", program((0xFFFF, 0, 0, 0), RETURN)),
    ("mode of no load", program((0xE0, 0, 0, 0), RETURN)),
    ("jump", program((0x05, 0, 0, 0), RETURN)),
    ("jump too far", program((0x05, 0, 0, 1), RETURN)),
    ("jump far too far", program((0x05, 0, 0, 0xFFFF_FFFF), RETURN)),
    ("branch too far", program((0x15, 0, 1, 0), RETURN)),
    ("branch", program((0x15, 0, 1, 0), RETURN, RETURN)),
    ("divide by zero", program((0x34, 0, 0, 0), RETURN)),
    ("modulo zero", program((0x94, 0, 0, 0), RETURN)),
    ("divide by x", program((0x3C, 0, 0, 0), RETURN)),
    ("shift by 32", program((0x64, 0, 0, 32), RETURN)),
    ("shift by 31", program((0x64, 0, 0, 31), RETURN)),
    ("cell 16", program((0x02, 0, 0, 16), RETURN)),
    ("cell 15", program((0x02, 0, 0, 15), RETURN)),
    ("cell not written", program((0x60, 0, 0, 3), RETURN)),
    ("cell written", program((0x02, 0, 0, 3), (0x60, 0, 0, 3), RETURN)),
    ("cell written on one way", program((0x15, 1, 0, 0), (0x02, 0, 0, 3), (0x60, 0, 0, 3), RETURN)),
    ("unknown ancillary", program((0x20, 0, 0, 0xFFFF_F0C8), RETURN)),
    ("ancillary", program((0x20, 0, 0, 0xFFFF_F000), RETURN)),
    ("random and no return", program((0x20, 0, 0, 0xFFFF_F038))),
    ("random and garbage", program((0x20, 0, 0, 0xFFFF_F038), (0x05, 0, 0, 9), RETURN)),
]:
    table[f"program: {name}"] = call(ATTACH, value, 16)

(reader, writer) = os.pipe()
table["closed"] = call(ATTACH, good, 16, 999)
table["negative"] = call(DETACH, good, 4, -1)
table["pipe"] = call(ATTACH, good, 16, reader)
other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
table["datagram socket"] = call(ATTACH, good, 16, other.fileno())
table["datagram socket, detach"] = call(DETACH, good, 4, other.fileno())
table["datagram socket, garbage"] = call(ATTACH, header(1, 0), 16, other.fileno())
print(json.dumps(table))
