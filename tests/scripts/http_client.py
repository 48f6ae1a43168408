"""A client of the official SDK against an address: prints what it saw as one JSON text. An address
that ends in /sse is spoken to as in 2024-11-05. With a second argument, that is the token it shows."""

import asyncio
import contextlib
import json
import sys

from mcp import ClientSession, types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamablehttp_client


@contextlib.asynccontextmanager
async def connect(address, headers):
    if address.endswith("/sse"):
        async with sse_client(address, headers=headers) as (read, write):
            yield read, write, lambda: "one stream"
    else:
        async with streamablehttp_client(address, headers=headers) as streams:
            yield streams


async def main(address, *token):
    told = []

    async def roots(_):
        return types.ListRootsResult(roots=[])

    async def progress(done, total, message):
        told.append(done)

    async def message(message):
        if isinstance(message, types.ServerNotification) and isinstance(message.root, types.LoggingMessageNotification):
            notices.append(message.root.params.data)

    notices = []
    seen = {}
    headers = {"Authorization": f"Bearer {token[0]}"} if token else {}
    async with connect(address, headers) as (read, write, session_id):
        async with ClientSession(read, write, list_roots_callback=roots, message_handler=message) as session:
            seen["version"] = (await session.initialize()).protocolVersion
            seen["session"] = session_id() is not None
            seen["tools"] = [tool.name for tool in (await session.list_tools()).tools]

            async def call(name, arguments={}, **options):
                try:
                    result = await session.call_tool(name, arguments, **options)
                    return [result.isError, "\n".join(item.text for item in result.content)]
                except Exception as error:
                    return [None, str(error)]

            seen["echo"] = await call("echo", {"text": "h\u00e9llo \u2028 \u4e16"})
            seen["denied"] = await call("echo", {"text": "x" * 2000})
            seen["secret"] = await call("secret")
            seen["slow"] = await call("slow", progress_callback=progress)
            seen["progress"] = told
            if "ask" in seen["tools"] and seen["session"]:
                seen["ask"] = await call("ask")
            if "capture" in seen["tools"]:
                seen["capture"] = await call("capture", {"interface": "lo", "packets": 100000})
                await asyncio.sleep(1.5)
            many = await asyncio.gather(*(call("echo", {"text": str(n)}) for n in range(50)))
            seen["many"] = [text for _, text in many] == [str(n) for n in range(50)]
    seen["notices"] = notices
    print(json.dumps(seen))


asyncio.run(main(*sys.argv[1:]))
