"""An MCP server that keeps every line it reads, as it is, and answers what it can."""

import json
import sys

with open(sys.argv[1], "wb") as record:
    for line in sys.stdin.buffer:
        record.write(line)
        record.flush()
        try:
            message = json.loads(line)
            if "method" not in message or message.get("id") is None:
                continue
            answer = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"content": []}})
        except Exception:
            continue
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
