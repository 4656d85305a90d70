"""The official Python SDK (PyPI `mcp` 2.x) as a client, in both eras. Run by tests/clients/run.

BERTH_TRANSPORT=sse: that of 2024-11-05, in place of Streamable HTTP.
BERTH_ERA: legacy, modern (2026-07-28, no falling back) or auto (the default: ask server/discover first).
The CA file in SSL_CERT_FILE is the only authority that an https address is checked against.
"""

import json
import logging
import os
import random
import socket
import ssl
import sys
import time
import warnings
from contextlib import asynccontextmanager

import anyio
import httpx2
import mcp_types as types
from mcp.client.client import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

MODERN = "2026-07-28"
ERAS = {"legacy": "legacy", "auto": "auto", "modern": MODERN}

# RFC 6761: every name under `localhost` is this machine. Not every resolver knows, so the client says so itself;
# the address that it connects to changes, the name in TLS and in the Host header does not.
_getaddrinfo = socket.getaddrinfo


def _loopback_getaddrinfo(host, *rest, **named):
    text = host.decode() if isinstance(host, bytes) else host
    if isinstance(text, str) and (text.rstrip(".").lower() + ".").endswith(".localhost."):
        host = "127.0.0.1"
    return _getaddrinfo(host, *rest, **named)


socket.getaddrinfo = _loopback_getaddrinfo


class Unmet(Exception):
    """What the scenario expected did not happen."""


def check(condition, words):
    if not condition:
        raise Unmet(words)


def text(result):
    return "\n".join(getattr(part, "text", "") for part in result.content)


class Connection:
    """A client, and what went over HTTP while it was there (secrets left out)."""

    def __init__(self):
        self.seen = []
        self.client = None

    async def note(self, response):
        request = response.request
        entry = {
            "method": request.method,
            "status": response.status_code,
            "request": {k.lower(): v for k, v in request.headers.items() if k.lower() != "authorization"},
            "response": {k.lower(): v for k, v in response.headers.items()},
        }
        try:
            entry["body"] = json.loads(request.content) if request.content else None
        except (httpx2.RequestNotRead, ValueError):
            entry["body"] = None
        self.seen.append(entry)

    def statuses(self, method):
        return [entry["status"] for entry in self.seen if entry["method"] == method]

    def posts(self, rpc):
        return [entry for entry in self.seen if (entry.get("body") or {}).get("method") == rpc]

    @property
    def session(self):
        return any("mcp-session-id" in entry["response"] for entry in self.seen)


@asynccontextmanager
async def connect(era=None, **callbacks):
    url = os.environ.get("BERTH_URL") or sys.exit("BERTH_URL is not set")
    era = era or os.environ.get("BERTH_ERA", "auto")
    check(era in ERAS, f"BERTH_ERA is '{era}'; it may be {', '.join(ERAS)}")
    connection = Connection()
    headers = {}
    if os.environ.get("BERTH_TOKEN"):
        headers["Authorization"] = f"Bearer {os.environ['BERTH_TOKEN']}"
    trust = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or None)

    def http(headers=headers, timeout=None, auth=None):
        return httpx2.AsyncClient(
            headers=headers,
            verify=trust,
            timeout=timeout or httpx2.Timeout(30, read=300),
            auth=auth,
            event_hooks={"response": [connection.note]},
        )

    if os.environ.get("BERTH_TRANSPORT") == "sse":
        transport = sse_client(url, headers=headers, httpx_client_factory=http)
        async with Client(transport, mode=ERAS[era], **callbacks) as client:
            connection.client = client
            yield connection
        return
    async with http() as shared:
        async with Client(streamable_http_client(url, http_client=shared), mode=ERAS[era], **callbacks) as client:
            connection.client = client
            yield connection


async def echo(client, message):
    answer = text(await client.call_tool("echo", {"message": message}))
    check(message in answer, f"echo of '{message}' answered '{answer}'")
    return answer


async def list_call():
    async with connect() as connection:
        client = connection.client
        tools = (await client.list_tools()).tools
        check(any(tool.name == "echo" for tool in tools), "no tool is called echo")
        answer = await echo(client, "hello from the outside")
        server = client.server_info.name if client.server_info else None
        protocol = client.protocol_version
    deleted = connection.statuses("DELETE")
    check(not connection.session or deleted in ([200], [202], [204]), f"DELETE answered {deleted}")
    return {
        "server": server,
        "protocol": protocol,
        "tools": len(tools),
        "answer": answer,
        "session": connection.session,
        "deleted": deleted[0] if deleted else None,
    }


async def many(count="200", width="16"):
    async with connect() as connection:
        left = iter(range(int(count)))

        async def lane():
            for number in left:
                await echo(connection.client, f"call {number} {random.random()}")

        started = time.monotonic()
        async with anyio.create_task_group() as lanes:
            for _ in range(int(width)):
                lanes.start_soon(lane)
        seconds = time.monotonic() - started
    return {"calls": int(count), "width": int(width), "per_second": round(int(count) / seconds)}


async def progress():
    seen = []

    async def heard(value, total, _message):
        seen.append((value, total))

    async with connect() as connection:
        result = await connection.client.call_tool(
            "trigger-long-running-operation", {"duration": 1, "steps": 5}, progress_callback=heard
        )
        before = len(seen)
        await anyio.sleep(0.2)
    # The last step's note and the result leave the server together; all but it must come before the result.
    check(before >= 4, f"only {before} progress notifications came before the result")
    check([value for value, _ in seen] == [1, 2, 3, 4, 5], f"progress came as {seen}")
    return {"progress": len(seen), "before_result": before, "answer": text(result)}


async def pick(client, *names):
    there = {tool.name for tool in (await client.list_tools()).tools}
    return next((name for name in names if name in there), names[0])


async def sampling():
    async def sample(_context, params):
        content = params.messages[0].content
        content = content[0] if isinstance(content, list) else content
        return types.CreateMessageResult(
            role="assistant",
            model="test-model",
            content=types.TextContent(type="text", text=f"sampled: {content.text}"),
        )

    async with connect(sampling_callback=sample) as connection:
        name = await pick(connection.client, "trigger-sampling-request", "test_sampling")
        answer = text(await connection.client.call_tool(name, {"prompt": "plums"}))
    check("sampled:" in answer, f"the answer does not hold what the client sampled: {answer}")
    return {"tool": name, "answer": answer}


async def elicitation():
    async def elicit(_context, _params):
        return types.ElicitResult(
            action="accept",
            content={"name": "Ada", "check": True, "integer": 7, "username": "ada", "email": "ada@example.org"},
        )

    async with connect(elicitation_callback=elicit) as connection:
        name = await pick(connection.client, "trigger-elicitation-request", "test_elicitation")
        answer = text(await connection.client.call_tool(name, {"message": "Who?"}))
    check("ada" in answer.lower(), f"the answer does not hold what the client gave: {answer}")
    return {"tool": name, "answer": answer[:200]}


async def roots():
    async def list_roots(_context):
        return types.ListRootsResult(roots=[types.Root(uri="file:///home/plum", name="plum")])

    async with connect(list_roots_callback=list_roots) as connection:
        answer = text(await connection.client.call_tool("get-roots-list", {}))
    check("file:///home/plum" in answer, f"the answer does not name the client's root: {answer}")
    return {"answer": answer[:200]}


async def logging_():
    messages = []
    there = anyio.Event()

    async def heard(params):
        messages.append({"level": params.level, "data": params.data})
        there.set()

    async with connect(logging_callback=heard) as connection:
        await connection.client.set_logging_level("debug")
        await connection.client.call_tool("toggle-simulated-logging", {})
        with anyio.fail_after(15):
            await there.wait()
        await connection.client.call_tool("toggle-simulated-logging", {})
    return {"messages": len(messages), "first": messages[0]}


async def cancel():
    began = anyio.Event()

    async def heard(*_):
        began.set()

    async with connect() as connection:
        client = connection.client
        started = time.monotonic()
        async with anyio.create_task_group() as tasks:

            async def call():
                await client.call_tool(
                    "trigger-long-running-operation", {"duration": 60, "steps": 120}, progress_callback=heard
                )
                raise Unmet("the cancelled call gave a result")

            tasks.start_soon(call)
            with anyio.fail_after(15):
                await began.wait()
            tasks.cancel_scope.cancel()
        ms = round((time.monotonic() - started) * 1000)
        if connection.session:
            with anyio.fail_after(5):
                while not connection.posts("notifications/cancelled"):
                    await anyio.sleep(0.02)
            status = connection.posts("notifications/cancelled")[0]["status"]
            check(status == 202, f"notifications/cancelled was answered {status}")
        await echo(client, "still here")
    return {"ms": ms}


async def call(name, arguments="{}"):
    async with connect() as connection:
        result = await connection.client.call_tool(name, json.loads(arguments))
    return {"result": result.model_dump(mode="json", by_alias=True, exclude_none=True)}


async def modern(tool="echo", arguments='{"message":"hello, stateless"}'):
    async with connect(era="modern") as connection:
        client = connection.client
        tools = (await client.list_tools()).tools
        answer = text(await client.call_tool(tool, json.loads(arguments)))
        protocol = client.protocol_version
    posts = [entry for entry in connection.seen if entry["method"] == "POST"]
    for entry in posts:
        check("mcp-session-id" not in entry["request"], "a session id was sent")
        check("mcp-session-id" not in entry["response"], "a session id was answered")
        version = entry["request"].get("mcp-protocol-version")
        check(version == MODERN, f"MCP-Protocol-Version is {version}")
        method = entry["request"].get("mcp-method")
        check(method == entry["body"]["method"], f"Mcp-Method is {method}")
    check(len(posts) == len(connection.seen), "the client sent GET or DELETE")
    methods = [entry["body"]["method"] for entry in posts]
    return {"protocol": protocol, "tools": len(tools), "answer": answer, "methods": methods}


SCENARIOS = {
    "list-call": list_call,
    "many": many,
    "progress": progress,
    "sampling": sampling,
    "elicitation": elicitation,
    "roots": roots,
    "logging": logging_,
    "cancel": cancel,
    "call": call,
    "modern": modern,
}


def reasons(error):
    """The words of an error, with those of the group it came in."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(reasons(each) for each in error.exceptions)
    return f"{type(error).__name__}: {error}"


def main():
    named, *rest = sys.argv[1:] or [""]
    names = named.split(",")
    if not all(name in SCENARIOS for name in names):
        print(
            "usage: SCENARIO[,SCENARIO…] [ARGUMENT…], with BERTH_URL and BERTH_TOKEN set; scenarios: "
            + " ".join(SCENARIOS),
            file=sys.stderr,
        )
        return 2
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    for name in names:
        try:
            result = anyio.run(SCENARIOS[name], *rest)
        except Exception as error:  # the process' one job is to say what went wrong
            print(f"{name}: {reasons(error)}", file=sys.stderr)
            return 1
        print(json.dumps({"scenario": name, "ok": True, **result}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
