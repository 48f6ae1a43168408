"""An MCP server that answers every line with wrong ones first, then with the right one."""

import json
import random
import sys

out = sys.stdout.buffer
dice = random.Random(int(sys.argv[1]))


def mutate(line):
    line = bytearray(line.rstrip(b"\n"))
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(line) + 1)
        kind = dice.randrange(6)
        if kind == 0 and line:
            line[at % len(line)] = dice.randrange(256)
        elif kind == 1:
            line[at:at] = bytes(dice.randrange(256) for _ in range(dice.randint(1, 9)))
        elif kind == 2:
            del line[at:at + dice.randint(1, 30)]
        elif kind == 3:
            line[at:at] = line[dice.randrange(len(line) + 1):][:40]
        elif kind == 4:
            line[at:at] = dice.choice([b"{", b"}", b"[", b"]", b'"', b",", b"\\", b"\r", b"\n", b"[[[[" * 60])
        else:
            for old, new in ((b'"method"', b'"result"'), (b'"params"', b'"error"'), (b'"id"', b'"id":1,"id"')):
                if dice.randrange(2):
                    line = bytearray(bytes(line).replace(old, new))
    return bytes(line) + b"\n"


def answer(message):
    id, method = message.get("id"), message.get("method")
    if id is None or not isinstance(method, str):
        return b""
    if method == "tools/list":
        result = {"tools": [{"name": name, "inputSchema": {}} for name in ("echo", "capture", "hidden")]}
    elif method == "tools/call":
        result = {"content": [{"type": "text", "text": json.dumps(message["params"].get("arguments"))}]}
    else:
        result = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "echo", "version": "0"}}
    return json.dumps({"jsonrpc": "2.0", "id": id, "result": result}).encode() + b"\n"


for line in sys.stdin.buffer:
    if not line.startswith(b'{"jsonrpc":"2.0","id":"calm'):
        out.write(mutate(line))
    try:
        message = json.loads(line)
        good = answer(message) if isinstance(message, dict) else b""
    except Exception:
        good = b""
    if good and b'"calm' not in good:
        out.write(mutate(good))
    out.write(good)
    out.flush()
