"""Asks for receive rings of every kind, and prints what came of each as one JSON object."""

import ctypes
import errno
import json
import mmap
import os
import socket
import struct
import threading

SOL_PACKET = 263
PACKET_VERSION = 10
PACKET_RX_RING = 5
MIB = 1 << 20
FRAME = 4096

PROT_READ_WRITE = 3
PRIVATE_ANONYMOUS = 0x22

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
answers = {}


def set_option(number, value, length):
    if libc.setsockopt(number, SOL_PACKET, PACKET_RX_RING, value, length) == 0:
        return "ok"
    return errno.errorcode[ctypes.get_errno()]


def request(size, blocks, frame=FRAME, frames=None):
    if frames is None:
        frames = (size // frame if frame else 0) * blocks
    return struct.pack("=7I", size, blocks, frame, frames & 0xFFFFFFFF, 0, 0, 0)


def ring(packet, size, blocks, length=28, **more):
    value = ctypes.create_string_buffer(request(size, blocks, **more), 28)
    return set_option(packet.fileno(), value, length)


def open_packet(version):
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packet.setsockopt(SOL_PACKET, PACKET_VERSION, version)
    return packet


for version in range(3):
    packet = open_packet(version)

    def say(what, answer):
        answers[f"v{version + 1}: {what}"] = answer

    say("as a server may have", ring(packet, MIB, 64))
    say("a second one", ring(packet, MIB, 1))
    say("none", ring(packet, 0, 0, frame=0))
    say("one after none", ring(packet, MIB, 1))
    mapped = mmap.mmap(packet.fileno(), MIB)
    say("none while it is mapped", ring(packet, 0, 0, frame=0))
    mapped.close()
    say("none then", ring(packet, 0, 0, frame=0))
    for length in (-1, 0, 15, 16, 27, 28, 4096):
        say(f"{length} bytes", ring(packet, MIB, 1, length=length))
        ring(packet, 0, 0, frame=0)
    say("a page and a bit", ring(packet, 4097, 1))
    say("frames that do not fit", ring(packet, MIB, 1, frames=3))
    say("overflow", ring(packet, 0x80000000, 0x80000000))
    say("from nowhere", set_option(packet.fileno(), None, 28))
    # The end of a page behind which there is none.
    base = libc.mmap(None, 2 * mmap.PAGESIZE, PROT_READ_WRITE, PRIVATE_ANONYMOUS, -1, 0)
    libc.munmap(base + mmap.PAGESIZE, mmap.PAGESIZE)
    ctypes.memmove(base + mmap.PAGESIZE - 16, request(MIB, 1), 16)
    edge = ctypes.c_void_p(base + mmap.PAGESIZE - 16)
    say("from the end of a page", set_option(packet.fileno(), edge, 28))
    ring(packet, 0, 0, frame=0)
    later = []
    worker = threading.Thread(target=lambda: later.append(ring(packet, MIB, 1)))
    worker.start()
    worker.join()
    say("from a thread", later[0])
    ring(packet, 0, 0, frame=0)

    # What no server gets.
    say("over: a mebibyte too much", ring(packet, MIB, 65))
    ring(packet, 0, 0, frame=0)
    # The kernel takes 64 pages for blocks of 48.
    say("over: blocks that take more than they say", ring(packet, 48 * 4096, 300))
    packet.close()

value = ctypes.create_string_buffer(request(MIB, 1), 28)
tcp = socket.socket()
answers["a TCP socket"] = set_option(tcp.fileno(), value, 28)
answers["no socket"] = set_option(os.open("/dev/null", os.O_RDONLY), value, 28)
answers["nothing"] = set_option(999, value, 28)

# Closed while their rings are being set: nothing of them may go on counting.
for _ in range(20):
    packet = open_packet(2)
    number = packet.detach()
    value = ctypes.create_string_buffer(request(MIB, 32), 28)
    worker = threading.Thread(target=set_option, args=(number, value, 28))
    worker.start()
    os.close(number)
    worker.join()

packets = [open_packet(2) for _ in range(5)]
answers["four at once"] = " ".join(ring(packet, MIB, 64) for packet in packets[:4])
answers["over: a fifth"] = ring(packets[4], MIB, 64)
ring(packets[4], 0, 0, frame=0)
packets[0].close()
answers["a fifth when one is closed"] = ring(packets[4], MIB, 64)
kept = mmap.mmap(packets[1].fileno(), 64 * MIB)
packets[1].close()
answers["over: beside one that is only mapped"] = ring(open_packet(2), MIB, 1)
kept.close()
answers["when that is gone"] = ring(open_packet(2), MIB, 1)

print(json.dumps(answers))
