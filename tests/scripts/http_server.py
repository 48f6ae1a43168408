"""An MCP server of the official SDK, over streamable HTTP or on pipes: `http_server.py PORT|pipes [json] [stateless]`."""

import asyncio
import subprocess
import sys

from mcp.server.fastmcp import Context, FastMCP
from mcp.server.transport_security import TransportSecuritySettings

pipes, options = sys.argv[1] == "pipes", sys.argv[2:]
port = 0 if pipes else int(sys.argv[1])
server = FastMCP(
    "http-server",
    host="127.0.0.1",
    port=port,
    log_level="ERROR",
    json_response="json" in options,
    stateless_http="stateless" in options,
    transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
)


@server.tool()
def echo(text: str) -> str:
    """Says it again."""
    return text


@server.tool()
def secret() -> str:
    """Nobody is to see this."""
    return "secret"


@server.tool()
async def slow(ctx: Context) -> str:
    """Tells of its progress."""
    for step in range(3):
        await ctx.report_progress(step, 3)
        await asyncio.sleep(0.01)
    return "slowly"


@server.tool()
async def ask(ctx: Context) -> str:
    """Asks the client."""
    answer = await ctx.session.list_roots()
    return f"{len(answer.roots)} roots"


@server.tool()
async def capture(interface: str, packets: int) -> str:
    """Captures."""
    command = ["tcpdump", "-i", interface, "-c", str(packets), "-w", "/dev/null"]
    done = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
    _, errors = await done.communicate()
    return errors.decode()


server.run(transport="stdio" if pipes else "streamable-http")
