"""A stdio server of the official SDK: `definitions.py FILE`. Its tools are what the file says whenever they are
listed; a call of `reload` tells the client that they have changed."""

import asyncio
import json
import sys

import mcp.server.stdio
from mcp import types
from mcp.server.lowlevel import NotificationOptions, Server

server = Server("definitions")


@server.list_tools()
async def list_tools():
    with open(sys.argv[1]) as file:
        return [types.Tool.model_validate(tool) for tool in json.load(file)]


@server.call_tool(validate_input=False)
async def call_tool(name, arguments):
    if name == "reload":
        await server.request_context.session.send_tool_list_changed()
    return [types.TextContent(type="text", text=f"{name} {json.dumps(arguments)}")]


async def main():
    async with mcp.server.stdio.stdio_server() as (read, write):
        options = server.create_initialization_options(NotificationOptions(tools_changed=True))
        await server.run(read, write, options)


asyncio.run(main())
