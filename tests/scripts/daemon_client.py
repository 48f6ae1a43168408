"""An MCP client of the official SDK, over streamable HTTP: which tools there are, and what `echo` says."""

import asyncio
import sys

from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client


async def main(address):
    async with streamablehttp_client(address) as (read, write, _):
        async with ClientSession(read, write) as session:
            await session.initialize()
            tools = [tool.name for tool in (await session.list_tools()).tools]
            said = ""
            if "echo" in tools:
                result = await session.call_tool("echo", {"text": "once more"})
                said = result.content[0].text
            print(",".join(tools) + ": " + said)


asyncio.run(main(sys.argv[1]))
