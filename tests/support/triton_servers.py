"""Small gRPC servers that speak Triton's protocol and do what the real one cannot be made to do on demand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import grpc
import uvicorn
from tritonclient.grpc import service_pb2, service_pb2_grpc

from vllm_custom_frontend.app import make_app
from vllm_custom_frontend.options import Options
from vllm_custom_frontend.registry import Timing
from vllm_custom_frontend.serve import config_of

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream"}
# Looks come often, and an answer to them is late where a machine is busy.
QUICK = Timing(refresh_timeout=3, interval=0.05, idle_interval=0.05, min_interval=0.01, list_age=0.05, grace=0.1)
# What hangs is found out soon.
HASTY = replace(QUICK, refresh_timeout=0.4)


@dataclass(frozen=True)
class Reply:
    """Status, headers and the parts of a body; ``error`` in their place is Triton's own error."""

    status: int = 200
    parts: tuple[str, ...] = ("{}",)
    headers: dict[str, str] = field(default_factory=lambda: JSON)
    error: str = ""


Behaviour = Callable[[dict[str, Any]], Awaitable[Reply]]


async def hang(_: dict[str, Any]) -> Reply:
    await asyncio.Event().wait()
    raise AssertionError


def reply(status: int = 200, *parts: str, error: str = "", **headers: str) -> Behaviour:
    async def answer(_: dict[str, Any]) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Reply(status, parts or ("{}",), {**JSON, **named}, error)

    return answer


@dataclass
class Model:
    """What a model lists, and what it does with a request; ``probe`` replaces the list, ``other`` its input."""

    adapters: tuple[str, ...] = ()
    serve: Behaviour = field(default_factory=reply)
    probe: Behaviour | None = None
    other: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A Triton server with some models. ``index_hangs`` stops what is not a model's."""

    def __init__(self, **models: Model) -> None:
        self.models = models
        self.index_hangs = False
        # Of other models, which are not ready.
        self.states: dict[str, str] = {}
        self.probes: Counter[str] = Counter()
        self.address = ""
        self._server: Any = None

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    async def start(self, port: int = 0) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.index_hangs:
            await asyncio.Event().wait()
        index = service_pb2.RepositoryIndexResponse()
        for name in self.models:
            index.models.add(name=name, version="1", state="READY")
        for name, state in self.states.items() if not request.ready else ():
            index.models.add(name=name, version="1", state=state)
        return index

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        metadata = service_pb2.ModelMetadataResponse(name=request.name)
        named = "other" if self.models[request.name].other else "openai_request"
        metadata.inputs.add(name=named, datatype="BYTES").shape.extend([1])
        return metadata

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for request in requests:
            model = self.models[request.model_name]
            asked = json.loads(request.raw_input_contents[0][4:])
            if asked["path"] == "/v1/models":
                self.probes[request.model_name] += 1
                listed = {"data": [{"id": name} for name in (request.model_name, *model.adapters)]}
                answer = await (model.probe or reply(200, json.dumps(listed)))(asked)
            else:
                model.asked.append(asked)
                answer = await model.serve(asked)
            if answer.error:
                yield service_pb2.ModelStreamInferResponse(error_message=answer.error)
                continue
            for number, part in enumerate(answer.parts):
                yield _response(part.encode(), 0 if number else answer.status, answer.headers)


def _response(body: bytes, status: int, headers: dict[str, str]) -> Any:
    response = service_pb2.ModelStreamInferResponse()
    inner = response.infer_response
    head = json.dumps(headers).encode()
    outputs = [
        ("openai_response", "BYTES", struct.pack("<I", len(body)) + body),
        ("openai_status", "INT32", struct.pack("<i", status)),
        ("openai_headers", "BYTES", struct.pack("<I", len(head)) + head),
    ]
    for name, datatype, raw in outputs if status else outputs[:1]:
        inner.outputs.add(name=name, datatype=datatype).shape.extend([1])
        inner.raw_output_contents.append(raw)
    return response


class Wire:
    """A TCP connection to a server that can be cut, as by a process or a machine that ends."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.address = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def cut(self) -> None:
        """Reset all connections, and take no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, far_writer]
        with contextlib.suppress(OSError):
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@contextlib.asynccontextmanager
async def serving(*tritons: FakeTriton) -> AsyncIterator[None]:
    for triton in tritons:
        await triton.start()
    try:
        yield
    finally:
        for triton in tritons:
            await triton.stop()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json["error"]["message"])


class FrontendClient:
    def __init__(self, session: aiohttp.ClientSession, url: str, server: uvicorn.Server) -> None:
        self._session = session
        self._url = url
        self.server = server

    @property
    def port(self) -> int:
        return int(self._url.rpartition(":")[2])

    async def get(self, path: str, **headers: str) -> Answer:
        return await self._call("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def post(self, body: Any, path: str = CHAT, **headers: str) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self._call("POST", path, data=data, headers={**JSON, **named})

    async def _call(self, method: str, path: str, **options: Any) -> Answer:
        async with self._session.request(method, self._url + path, **options) as response:
            found = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, found, await response.read())


@contextlib.asynccontextmanager
async def frontend(*addresses: str, timing: Timing = QUICK, **options: Any) -> AsyncIterator[FrontendClient]:
    """The frontend, served by uvicorn in this event loop, and a client of it."""
    given = Options(**{"triton": addresses, "access_log": False, "port": 0, "drain_seconds": 1, **options})
    server = uvicorn.Server(config_of(make_app(given, timing), given))
    task = asyncio.ensure_future(server.serve())
    try:
        while not server.started:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            yield FrontendClient(session, f"http://127.0.0.1:{port}", server)
    finally:
        server.should_exit = True
        await task


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until it is so."""
    for _ in range(1000):
        if await condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never became so")
