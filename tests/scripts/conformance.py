"""An MCP server that has all that the conformance suite asks for, in the eras that the SDK serves.

It listens on 127.0.0.1, on a port of the kernel's choice unless one is given, and prints the URL.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import socket
import sys
import warnings

import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, PromptsListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPError

import mcp_types as types

warnings.simplefilter("ignore")

INVALID_PARAMS = -32602
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SILENCE = base64.b64encode(
    b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data\0\0\0\0"
).decode()
SECRET = os.urandom(32)


def text(words):
    return {"type": "text", "text": words}


def image():
    return {"type": "image", "data": PIXEL, "mimeType": "image/png"}


def embedded(uri, kind, words):
    return {"type": "resource", "resource": {"uri": uri, "mimeType": kind, "text": words}}


def form(message, properties, required=None):
    schema = {"type": "object", "properties": properties, "required": required or list(properties)}
    return {"message": message, "requestedSchema": schema}


def ask(message, **properties):
    return {"method": "elicitation/create", "params": form(message, properties)}


def sample(words, most):
    message = {"role": "user", "content": text(words)}
    return {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": most}}


ROOTS = {"method": "roots/list", "params": {}}


# --- State that comes back from the client -----------------------------------------------------


def sealed(words):
    proof = hmac.new(SECRET, words.encode(), hashlib.sha256).hexdigest()
    return f"{words}.{proof}"


def unsealed(state):
    words = state.rpartition(".")[0]
    if not hmac.compare_digest(sealed(words).encode(), state.encode()):
        raise MCPError(code=INVALID_PARAMS, message="requestState is not what this server sent")
    return words


def more(requests, state=None):
    result = {"resultType": "input_required", "inputRequests": requests}
    return result | ({"requestState": sealed(state)} if state else {})


def answers(params):
    given = params.input_responses or {}

    def plain(answer):
        return answer if isinstance(answer, dict) else answer.model_dump(mode="json", by_alias=True)

    return {key: plain(answer) for key, answer in given.items()}


def filled(answer, key):
    """What a form's field was filled with; none if it was not."""
    content = (answer or {}).get("content")
    return content.get(key) if isinstance(content, dict) else None


# --- Tools -------------------------------------------------------------------------------------


async def log(context, level, words):
    await context.session.send_log_message(level, words, related_request_id=context.request_id)


async def logging(context, _):
    for words in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await log(context, "info", words)
        await asyncio.sleep(0.05)
    return [text("three messages were logged")]


async def progress(context, _):
    for done in (0, 50, 100):
        await context.session.report_progress(done, 100, f"Completed step {done} of 100")
        await asyncio.sleep(0.05)
    return [text("all steps are completed")]


async def sampling(context, params):
    prompt = types.SamplingMessage(role="user", content=types.TextContent(text=params.arguments["prompt"]))
    answer = await context.session.create_message([prompt], max_tokens=100, related_request_id=context.request_id)
    return [text(f"LLM response: {answer.content.text}")]


async def elicit(context, message, properties, required=None):
    schema = form(message, properties, required)["requestedSchema"]
    answer = await context.session.elicit_form(message, schema, context.request_id)
    words = f"action={answer.action}, content={json.dumps(answer.content)}"
    return [text(f"Elicitation completed: {words}")]


async def elicitation(context, params):
    fields = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    return await elicit(context, params.arguments["message"], fields)


async def defaults(context, _):
    fields = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return await elicit(context, "Who is it?", fields, [])


async def enums(context, _):
    def titled(*pairs):
        return [{"const": value, "title": title} for value, title in pairs]

    plain = ["option1", "option2", "option3"]
    names = titled(("value1", "First Option"), ("value2", "Second Option"), ("value3", "Third Option"))
    fields = {
        "untitledSingle": {"type": "string", "enum": plain},
        "titledSingle": {"type": "string", "oneOf": names},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
        "titledMulti": {"type": "array", "items": {"anyOf": names}},
    }
    return await elicit(context, "Which ones?", fields, [])


async def reconnection(context, _):
    if context.close_sse_stream:
        await context.close_sse_stream()
    await asyncio.sleep(0.2)
    return [text("the stream was closed, and this came after it")]


async def failing(context, _):
    return {"content": [text("This tool intentionally returns an error for testing")], "isError": True}


# --- Tools that ask in their results -----------------------------------------------------------


async def ask_name(context, params):
    name = filled(answers(params).get("user_name"), "name")
    if not isinstance(name, str):
        return more({"user_name": ask("What is your name?", name={"type": "string"})})
    return [text(f"Hello, {name}!")]


async def ask_capital(context, params):
    answer = answers(params).get("capital_question")
    if answer is None:
        return more({"capital_question": sample("What is the capital of France?", 100)})
    return [text(f"The model says: {json.dumps(answer.get('content'))}")]


async def ask_roots(context, params):
    answer = answers(params).get("client_roots")
    if answer is None:
        return more({"client_roots": ROOTS})
    return [text(f"The roots: {json.dumps(answer.get('roots'))}")]


async def ask_with_state(context, params):
    if params.request_state is None:
        return more({"confirm": ask("Please confirm", ok={"type": "boolean"})}, "confirm")
    unsealed(params.request_state)
    return [text("state-ok")]


async def ask_much(context, params):
    given = answers(params)
    requests = {
        "user_name": ask("What is your name?", name={"type": "string"}),
        "greeting": sample("Generate a greeting", 50),
        "client_roots": ROOTS,
    }
    if params.request_state is None or any(key not in given for key in requests):
        return more(requests, "all three")
    unsealed(params.request_state)
    return [text(f"All three: {json.dumps(given)}")]


async def ask_again(context, params):
    if params.request_state is None:
        return more({"step1": ask("Step 1: What is your name?", name={"type": "string"})}, "step 1")
    if unsealed(params.request_state) == "step 1":
        return more({"step2": ask("Step 2: What is your favorite color?", color={"type": "string"})}, "step 2")
    return [text(f"Both steps: {json.dumps(answers(params))}")]


async def ask_what_the_client_can(context, params):
    can = context.session.client_capabilities or types.ClientCapabilities()
    requests = {}
    if can.sampling is not None:
        requests["capital_question"] = sample("What is the capital of France?", 100)
    if can.elicitation is not None:
        requests["user_name"] = ask("What is your name?", name={"type": "string"})
    if answers(params) or not requests:
        return [text("nothing is asked any more")]
    return more(requests)


async def missing_capability(context, _):
    can = context.session.client_capabilities
    if can is None or can.sampling is None:
        needed = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(code=-32021, message="this tool needs a client that samples", data=needed)
    return [text("the client samples")]


async def streaming_elicitation(context, params):
    if answers(params):
        return [text("answered")]
    return more({"user_name": ask("What is your name?", name={"type": "string"})})


async def logging_tool(context, _):
    await log(context, "info", "the tool was called")
    return [text("logged, if it was asked for")]


CHANGES = InMemorySubscriptionBus()


async def tools_changed(context, _):
    await CHANGES.publish(ToolsListChanged())
    return [text("the list of tools changed")]


async def prompts_changed(context, _):
    await CHANGES.publish(PromptsListChanged())
    return [text("the list of prompts changed")]


def fixed(*content):
    async def tool(context, params):
        return list(content)

    return tool


NOTHING = {"type": "object", "properties": {}}


def needs(name, **more):
    return {"type": "object", "properties": {name: {"type": "string"} | more}, "required": [name]}


def whole_address():
    """A schema with every kind of keyword that a gateway might lose."""
    word = {"type": "string"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {
            "address": {"$anchor": "addressDef", "type": "object", "properties": {"street": word, "city": word}}
        },
        "type": "object",
        "properties": {
            "name": word,
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": word,
            "email": word,
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    }


TOOLS = {
    "test_simple_text": (fixed(text("This is a simple text response for testing.")), NOTHING),
    "test_image_content": (fixed(image()), NOTHING),
    "test_audio_content": (fixed({"type": "audio", "data": SILENCE, "mimeType": "audio/wav"}), NOTHING),
    "test_embedded_resource": (
        fixed(embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")),
        NOTHING,
    ),
    "test_multiple_content_types": (
        fixed(
            text("Multiple content types test:"),
            image(),
            embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
        ),
        NOTHING,
    ),
    "test_tool_with_logging": (logging, NOTHING),
    "test_tool_with_progress": (progress, NOTHING),
    "test_error_handling": (failing, NOTHING),
    "test_sampling": (sampling, needs("prompt")),
    "test_elicitation": (elicitation, needs("message")),
    "test_elicitation_sep1034_defaults": (defaults, NOTHING),
    "test_elicitation_sep1330_enums": (enums, NOTHING),
    "test_reconnection": (reconnection, NOTHING),
    "test_input_required_result_elicitation": (ask_name, NOTHING),
    "test_input_required_result_sampling": (ask_capital, NOTHING),
    "test_input_required_result_list_roots": (ask_roots, NOTHING),
    "test_input_required_result_request_state": (ask_with_state, NOTHING),
    "test_input_required_result_tampered_state": (ask_with_state, NOTHING),
    "test_input_required_result_multiple_inputs": (ask_much, NOTHING),
    "test_input_required_result_multi_round": (ask_again, NOTHING),
    "test_input_required_result_capabilities": (ask_what_the_client_can, NOTHING),
    "test_missing_capability": (missing_capability, NOTHING),
    "test_streaming_elicitation": (streaming_elicitation, NOTHING),
    "test_logging_tool": (logging_tool, NOTHING),
    "test_trigger_tool_change": (tools_changed, NOTHING),
    "test_trigger_prompt_change": (prompts_changed, NOTHING),
    "test_header": (fixed(text("the header and the argument agree")), needs("region", **{"x-mcp-header": "Region"})),
    "json_schema_2020_12_tool": (fixed(text("a schema, whole")), whole_address()),
    # No scenario calls this one: a policy hides it.
    "hidden": (failing, NOTHING),
}


async def list_tools(context, _):
    tools = [{"name": name, "description": name.replace("_", " "), "inputSchema": schema} for name, (_, schema) in TOOLS.items()]
    return {"tools": tools}


async def call_tool(context, params):
    if params.name not in TOOLS:
        raise MCPError(code=INVALID_PARAMS, message=f"Unknown tool: {params.name}")
    tool, _ = TOOLS[params.name]
    result = await tool(context, params)
    return result if isinstance(result, dict) else {"content": result}


# --- Resources ---------------------------------------------------------------------------------


async def list_resources(context, _):
    kinds = {"static-text": "text/plain", "static-binary": "image/png", "watched-resource": "text/plain"}
    return {
        "resources": [
            {"uri": f"test://{name}", "name": name, "description": f"The {name}", "mimeType": kind}
            for name, kind in kinds.items()
        ]
    }


async def list_templates(context, _):
    template = {"uriTemplate": "test://template/{id}/data", "name": "template", "description": "A template"}
    return {"resourceTemplates": [template | {"mimeType": "application/json"}]}


async def read_resource(context, params):
    uri = str(params.uri)
    match uri.removeprefix("test://").split("/"):
        case ["static-text"]:
            kind, words = "text/plain", "This is the content of the static text resource."
        case ["watched-resource"]:
            kind, words = "text/plain", "This can be subscribed to."
        case ["static-binary"]:
            return {"contents": [{"uri": uri, "mimeType": "image/png", "blob": PIXEL}]}
        case ["template", id, "data"]:
            kind, words = "application/json", json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})
        case _:
            raise MCPError(code=INVALID_PARAMS, message=f"Resource not found: {uri}", data={"uri": uri})
    return {"contents": [{"uri": uri, "mimeType": kind, "text": words}]}


async def empty(context, _):
    return {}


# --- Prompts -----------------------------------------------------------------------------------

PROMPTS = {
    "test_simple_prompt": [],
    "test_prompt_with_arguments": ["arg1", "arg2"],
    "test_prompt_with_embedded_resource": ["resourceUri"],
    "test_prompt_with_image": [],
    "test_input_required_result_prompt": [],
}


async def list_prompts(context, _):
    return {
        "prompts": [
            {
                "name": name,
                "description": name.replace("_", " "),
                "arguments": [{"name": a, "description": f"The {a}", "required": True} for a in arguments],
            }
            for name, arguments in PROMPTS.items()
        ]
    }


async def get_prompt(context, params):
    given = params.arguments or {}
    match params.name:
        case "test_simple_prompt":
            content = [text("This is a simple prompt for testing.")]
        case "test_prompt_with_arguments":
            content = [text(f"Prompt with arguments: arg1='{given.get('arg1')}', arg2='{given.get('arg2')}'")]
        case "test_prompt_with_embedded_resource":
            resource = embedded(given.get("resourceUri"), "text/plain", "Embedded resource content for testing.")
            content = [resource, text("Please process the embedded resource above.")]
        case "test_prompt_with_image":
            content = [image(), text("Please analyze the image above.")]
        case "test_input_required_result_prompt":
            context_words = filled(answers(params).get("user_context"), "context")
            if context_words is None:
                return more({"user_context": ask("What context should the prompt use?", context={"type": "string"})})
            content = [text(f"In this context: {context_words}")]
        case unknown:
            raise MCPError(code=INVALID_PARAMS, message=f"Unknown prompt: {unknown}")
    return {"messages": [{"role": "user", "content": piece} for piece in content]}


async def complete(context, _):
    return {"completion": {"values": ["paris", "park", "party"], "total": 3, "hasMore": False}}


# --- The server --------------------------------------------------------------------------------


class Events(EventStore):
    """What was sent, for clients that come back and ask for the rest of a stream."""

    def __init__(self):
        self.sent = []

    async def store_event(self, stream_id, message):
        self.sent.append((stream_id, message))
        return str(len(self.sent))

    async def replay_events_after(self, last_event_id, send_callback):
        last = int(last_event_id) if last_event_id.isdecimal() else 0
        if not 0 < last <= len(self.sent):
            return None
        stream = self.sent[last - 1][0]
        for number, (of, message) in enumerate(self.sent[last:], start=last + 1):
            if of == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


STATELESS = "2026-07-28"


def answered(handler, **more):
    """A handler whose results have what the client's era wants in them."""

    async def handle(context, params):
        result = await handler(context, params)
        if context.protocol_version >= STATELESS and "resultType" not in result:
            result = {"resultType": "complete"} | more | result
        return result

    return handle


def cacheable(handler):
    return answered(handler, ttlMs=1000, cacheScope="private")


def main():
    server = Server(
        "conformance",
        version="1",
        on_list_tools=cacheable(list_tools),
        on_call_tool=answered(call_tool),
        on_list_resources=cacheable(list_resources),
        on_list_resource_templates=cacheable(list_templates),
        on_read_resource=cacheable(read_resource),
        on_subscribe_resource=answered(empty),
        on_unsubscribe_resource=answered(empty),
        on_list_prompts=cacheable(list_prompts),
        on_get_prompt=answered(get_prompt),
        on_completion=answered(complete),
        on_subscriptions_listen=ListenHandler(CHANGES),
        on_set_logging_level=answered(empty),
    )
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    config = uvicorn.Config(server.streamable_http_app(event_store=Events(), retry_interval=100), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


main()
