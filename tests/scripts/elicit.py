"""A client of the official SDK whose user is asked: calls a tool, and prints what it saw as one JSON
text. `elicit.py ANSWER TOOL ADDRESS`, or a command in place of the address. The answer is yes, no, or none for a client
that cannot ask."""

import asyncio
import contextlib
import json
import sys

from mcp import ClientSession, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client


@contextlib.asynccontextmanager
async def connect(where):
    if where[0].startswith("http"):
        async with streamablehttp_client(where[0]) as (read, write, _):
            yield read, write
    else:
        async with stdio_client(StdioServerParameters(command=where[0], args=where[1:])) as streams:
            yield streams


async def main(answer, tool, *where):
    asked = []

    async def ask(context, params):
        asked.append(params.message)
        if answer == "no":
            return types.ElicitResult(action="decline")
        return types.ElicitResult(action="accept", content={name: True for name in params.requestedSchema["properties"]})

    callbacks = {} if answer == "none" else {"elicitation_callback": ask}
    seen = {"calls": []}
    async with connect(where) as (read, write):
        async with ClientSession(read, write, **callbacks) as session:
            seen["version"] = (await session.initialize()).protocolVersion
            for _ in range(2):
                result = await session.call_tool(tool, {"probe": "eth0"})
                seen["calls"].append([result.isError, result.content[0].text])
    seen["asked"] = asked
    print(json.dumps(seen))


asyncio.run(main(*sys.argv[1:]))
