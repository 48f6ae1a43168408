"""An MCP server with any number of captures at once: each call of `start` starts tcpdump, detached."""

import json
import os
import subprocess
import sys

TOOL = {
    "name": "start",
    "description": "Starts a capture.",
    "inputSchema": {
        "type": "object",
        "properties": {"interface": {"type": "string"}, "file": {"type": "string"}},
    },
}


def start(interface, file):
    command = ["tcpdump", "--immediate-mode", "-U", "-s", "96", "-i", interface, "-w", file]
    with open(file + ".err", "wb") as errors:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors, start_new_session=True)
    return f"started {child.pid}"


def answer(method, params):
    if method == "initialize":
        info = {"name": "many", "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "tools/list":
        return {"tools": [TOOL]}
    text = start(**params["arguments"])
    return {"content": [{"type": "text", "text": text}]}


for line in sys.stdin:
    message = json.loads(line)
    # Nobody else waits for what it started.
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass
    if "id" in message:
        result = answer(message["method"], message.get("params", {}))
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
