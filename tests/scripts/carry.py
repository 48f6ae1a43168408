"""Carries lines between standard input and output and an MCP server over HTTP, byte for byte:
`carry.py URL [TOKEN]`. A URL that ends in /sse is spoken to as in 2024-11-05, others as in 2025-06-18, and with
the headers of 2026-07-28 where a line names that."""

import http.client
import os
import re
import ssl
import sys
import threading
from urllib.parse import urlsplit

url = urlsplit(sys.argv[1])
token = sys.argv[2:3]
session = None
writing = threading.Lock()
threads = []


def say(line):
    with writing:
        os.write(1, line.replace(b"\n", b" ") + b"\n")


def connect():
    if url.scheme == "https":
        return http.client.HTTPSConnection(url.netloc, context=ssl.create_default_context(cafile=os.environ["CA"]))
    return http.client.HTTPConnection(url.netloc)


def headers(more={}):
    head = {"Accept": "application/json, text/event-stream", **more}
    if token:
        head["Authorization"] = f"Bearer {token[0]}"
    if session:
        head["Mcp-Session-Id"] = session
    return head


def events(response):
    data = []
    kind = "message"
    for line in response:
        line = line.rstrip(b"\r\n")
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            kind = line[6:].strip().decode()
        elif not line and data:
            yield kind, b"\n".join(data)
            data, kind = [], "message"


def answers(response):
    if response.headers.get("Content-Type", "").startswith("text/event-stream"):
        for _, data in events(response):
            say(data)
    else:
        body = response.read()
        if body.strip() and response.status != 202:
            say(body)


def of_revision(line):
    if b'"2026-07-28"' not in line:
        return {}
    head = {"MCP-Protocol-Version": "2026-07-28"}
    for header, key in [("Mcp-Method", b"method"), ("Mcp-Name", b"name")]:
        if said := re.search(b'"%s":"([^"]*)"' % key, line):
            head[header] = said[1].decode()
    return head


def post(path, line):
    connection = connect()
    connection.request("POST", path, line, headers({"Content-Type": "application/json", **of_revision(line)}))
    return connection.getresponse()


def listen():
    connection = connect()
    connection.request("GET", url.path, headers=headers())
    response = connection.getresponse()
    if response.status == 200:
        answers(response)


def later(work, *arguments):
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    threads.append(thread)


def streamable():
    global session
    for line in sys.stdin.buffer:
        line = line.rstrip(b"\n")
        response = post(url.path, line)
        if b'"initialize"' in line:
            session = response.headers.get("Mcp-Session-Id")
        later(answers, response)
        if b'"notifications/initialized"' in line:
            later(listen)
    for thread in threads:
        thread.join(0.1)
    if session:
        connection = connect()
        connection.request("DELETE", url.path, headers=headers())
        connection.getresponse().read()


def legacy():
    connection = connect()
    connection.request("GET", url.path, headers=headers())
    stream = events(connection.getresponse())
    kind, path = next(stream)
    assert kind == "endpoint", kind
    later(lambda: [say(data) for _, data in stream])
    for line in sys.stdin.buffer:
        later(answers, post(path.decode(), line.rstrip(b"\n")))


legacy() if url.path == "/sse" else streamable()
os._exit(0)
