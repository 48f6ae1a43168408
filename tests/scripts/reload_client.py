"""A client of the official SDK that replaces the gate's policy, and waits to be told of it."""

import asyncio
import json
import os
import sys

from mcp import ClientSession, types
from mcp.client.streamable_http import streamablehttp_client


async def main(address, new, policy):
    told = asyncio.Event()

    async def message(message):
        if isinstance(message, types.ServerNotification) and isinstance(message.root, types.ToolListChangedNotification):
            told.set()

    async with streamablehttp_client(address) as (read, write, _):
        async with ClientSession(read, write, message_handler=message) as session:
            async def tools():
                return [tool.name for tool in (await session.list_tools()).tools]

            await session.initialize()
            seen = {"before": await tools()}
            # Its stream may still be on its way to the server: changed until it is told of.
            texts = [open(file).read() for file in (new, policy)]
            for turn in range(50):
                with open(policy + ".tmp", "w") as file:
                    file.write(texts[turn % 2])
                os.rename(policy + ".tmp", policy)
                try:
                    await asyncio.wait_for(told.wait(), 1)
                    break
                except asyncio.TimeoutError:
                    pass
            seen["told"] = told.is_set()
            seen["new"] = turn % 2 == 0
            seen["after"] = await tools()
    print(json.dumps(seen))


asyncio.run(main(*sys.argv[1:]))
