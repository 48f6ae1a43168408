"""An MCP server whose tools start programs that do not want to be bounded. JSON-RPC by hand, nothing but the
library."""

import json
import os
import signal
import socket
import sys
import threading
import time


def send(message):
    os.write(1, json.dumps(message).encode() + b"\n")


def answer(id, text):
    send({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": text}]}})


def reach(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        return "reached"
    except OSError as error:
        return f"error {error.errno}"


def detached(work):
    """As daemons do it: neither parent, session, process group nor descriptors tell whose it is."""
    middle = os.fork()
    if middle:
        try:
            os.waitpid(middle, 0)
        except ChildProcessError:
            pass  # gone: its end is ignored, so there is nothing to be told
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    os.closerange(0, 3)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    work()
    os._exit(0)


def bomb():
    while True:
        try:
            os.fork()
        except OSError:
            pass


def hoard():
    kept = []
    while True:
        kept.append(b"x" * (1 << 20))


def sleep():
    os.execvp("sleep", ["sleep", "300"])


def brief():
    time.sleep(0.1)


WORK = {"bomb": bomb, "hoard": hoard, "sleep": sleep, "brief": brief}


def call(id, tool, arguments):
    if tool == "start":
        time.sleep(arguments.get("after", 0))
        detached(WORK[arguments["what"]])
        answer(id, "started")
    elif tool == "reach":
        read, write = os.pipe()
        if not os.fork():
            os.write(write, reach(arguments["port"]).encode())
            os._exit(0)
        answer(id, os.read(read, 100).decode())
    elif tool == "reach_itself":
        answer(id, reach(arguments["port"]))
    elif tool == "fail":
        send({"jsonrpc": "2.0", "id": id, "error": {"code": -32603, "message": "no"}})
    else:
        answer(id, f"alive in {os.getpid()}")


def main():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        message = json.loads(line)
        params = message.get("params", {})
        if message["method"] == "initialize":
            send({"jsonrpc": "2.0", "id": message["id"], "result": {
                "protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                "serverInfo": {"name": "programs", "version": "1"}}})
        elif message["method"] == "tools/call":
            words = (message["id"], params["name"], params.get("arguments", {}))
            threading.Thread(target=call, args=words).start()


main()
