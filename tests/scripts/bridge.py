"""Carries standard input and output to a Unix socket and back: `bridge.py PATH`."""

import os
import socket
import sys
import threading

there = socket.socket(socket.AF_UNIX)
there.connect(sys.argv[1])


def back():
    while data := there.recv(1 << 16):
        os.write(1, data)


reader = threading.Thread(target=back)
reader.start()
while data := os.read(0, 1 << 16):
    there.sendall(data)
there.shutdown(socket.SHUT_WR)
reader.join()
