"""The shape of a server's tools: names and arguments with their types, without a word of their descriptions.

    shape.py SERVER [ARGUMENT…] > tests/shapes/NAME.json    starts an MCP server on pipes, and asks it
    shape.py < ANSWER                                       reads an answer to `tools/list`, or its list

What it prints is a list that `capwarden policy test --tools` reads, with one tool in a line."""

import json
import subprocess
import sys

# What a schema says of values. Titles, descriptions and examples are not among it.
SAID = ("type", "enum", "const", "default", "minimum", "maximum", "required", "additionalProperties")


def schema(whole):
    if not isinstance(whole, dict):
        return whole
    kept = {key: whole[key] for key in SAID if key in whole}
    for key in ("properties", "$defs"):
        if key in whole:
            kept[key] = {name: schema(part) for name, part in whole[key].items()}
    for key in ("items", "additionalProperties"):
        if key in whole:
            kept[key] = schema(whole[key])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in whole:
            kept[key] = [schema(part) for part in whole[key]]
    if "$ref" in whole:
        kept["$ref"] = whole["$ref"]
    return {key: kept[key] for key in sorted(kept) if kept[key] != [] or key == "default"}


def listed(answer):
    """The list in an answer, in its result, or in what was recorded of one."""
    while isinstance(answer, dict):
        answer = answer["result"] if "result" in answer else answer["tools"]
    return answer


def asked(command):
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def send(message):
        server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        server.stdin.flush()

    def answer(id, method, params):
        send({"id": id, "method": method, "params": params})
        for line in server.stdout:
            # Some servers greet in colours before they speak the protocol.
            if line.startswith("{") and json.loads(line).get("id") == id:
                return json.loads(line)["result"]
        sys.exit(f"{command[0]} ended before it answered {method}")

    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "shape", "version": "1"}}
    answer(1, "initialize", about)
    send({"method": "notifications/initialized"})
    tools, id, cursor = [], 2, {}
    while cursor is not None:
        page = answer(id, "tools/list", cursor)
        tools += page["tools"]
        cursor = {"cursor": page["nextCursor"]} if page.get("nextCursor") else None
        id += 1
    server.stdin.close()
    server.wait()
    return tools


tools = asked(sys.argv[1:]) if sys.argv[1:] else listed(json.load(sys.stdin))
lines = [{"name": tool["name"], "inputSchema": schema(tool["inputSchema"])} for tool in tools]
lines.sort(key=lambda tool: tool["name"])
print("[\n" + ",\n".join(json.dumps(line, separators=(",", ":")) for line in lines) + "\n]")
