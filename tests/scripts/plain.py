"""An MCP server that answers with bytes that are legal and unusual, and keeps every byte that it got:
`plain.py` speaks on pipes, `plain.py PORT` over HTTP. It writes what came to the file `seen`."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

lock = threading.Lock()


def token(message):
    return json.dumps(message["params"].get("_meta", {}).get("progressToken", 0))


def handle(raw):
    with lock, open("seen", "ab") as seen:
        seen.write(raw.strip() + b"\n")
    message = json.loads(raw)
    if not isinstance(message, dict) or "id" not in message or "method" not in message:
        return []
    id, method = json.dumps(message["id"]), message["method"]
    if method == "initialize":
        return [
            '{ "id":%s,"result":{"serverInfo":{"version":"1e2","name":"pl\\u0061in"},"capabilities":{"tools":{},"x-new":[ ]},'
            '"protocolVersion":"2025-06-18","_meta":{"a":1.0}} ,"jsonrpc":"2.0"}' % id
        ]
    if method == "server/discover":
        return ['{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{}}}' % id]
    if method == "tools/list":
        return [
            '{"jsonrpc":"2.0","x-top":[1,  2],"id":%s,"result":{"ttlMs":60000,"cacheScope":"private","resultType":"complete",'
            '"_meta":{"io.example/x":18446744073709551616},"tools":[ {"name":"echo","inputSchema":{"type":"object"},"x":"\\u00e9"},'
            '{"name":"secret","inputSchema":{"type":"object"}} ,{"name":"chat","inputSchema":{"type":"object"}},'
            '{"name":"spend","inputSchema":{"type":"object"}},{"name":"restart","inputSchema":{"type":"object"}}],"nextCursor":"\\/n"}}' % id
        ]
    if method == "tools/call" and message["params"]["name"] == "chat":
        return [
            '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":1.50e0,"total":3,"x":[]}}' % token(message),
            '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":{"deep":[[[ ]]]},"_meta":{}}}',
            '{"jsonrpc":"2.0","id":"srv-1","method":"sampling/createMessage","params":{"maxTokens":100,"messages":[],"x-unknown":null}}',
            '{"jsonrpc":"2.0","id":-7,"method":"elicitation/create","params":{"message":"h\\u00e9 \u2028","requestedSchema":{"type":"object","properties":{}}}}',
            '{"jsonrpc":"2.0","method":"notifications/tasks/status","params":{"taskId":"t","status":"working","ttl":60000}}',
            '{"id":%s,"jsonrpc":"2.0","result":{"content":[{"type":"text","text":"\U0001f600 \\ud83d\\ude00"}],"structuredContent":{"n":1E300,"m":-0.0}}}' % id,
        ]
    return ['{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"done"}],"x":  true}}' % id]


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        messages = [message.encode() for message in handle(raw)]
        if not messages:
            return self.answer(202, "text/plain", b"")
        if len(messages) == 1:
            return self.answer(200, "application/json", messages[0])
        self.answer(200, "text/event-stream", b"".join(b"data: " + message + b"\n\n" for message in messages))

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.headers.get("MCP-Protocol-Version") != "2026-07-28":
            self.send_header("Mcp-Session-Id", "the-session")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(405, "text/plain", b"")

    def do_DELETE(self):
        self.answer(200, "text/plain", b"")

    def log_message(self, *_):
        pass


if sys.argv[1:]:
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Http).serve_forever()
for line in sys.stdin.buffer:
    for message in handle(line):
        sys.stdout.buffer.write(message.encode() + b"\n")
        sys.stdout.buffer.flush()
