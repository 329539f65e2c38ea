"""Forward one HTTP request to a Triton server, and its answer back while it comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from vllm_custom.frontend import errors
from vllm_custom.frontend.directory import Directory, Place
from vllm_custom.frontend.errors import FrontendError
from vllm_custom.frontend.metrics import Metrics
from vllm_custom.frontend.triton import Call, Part, TritonError, UnreachableError
from vllm_custom.frontend.visits import visit_of

# What the application looks at; the rest, keys and cookies above all, ends here.
_FORWARDED = ("content-type", "traceparent", "tracestate", "x-session-id", "x-data-parallel-rank")
# A proxy's own note for a client that has gone.
_CLIENT_GONE = 499


class ClientGoneError(Exception):
    """The client closed its connection."""


@dataclass
class Exchange:
    """One HTTP request while it is under way."""

    scope: Scope
    receive: Receive
    send: Send
    streamed: bool = False
    begun: bool = False

    async def start(self, status: int, headers: dict[str, str]) -> None:
        """Send status and headers."""
        self.begun = True
        self.streamed = headers.get("content-type", "").startswith("text/event-stream")
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})

    async def body(self, data: bytes, *, more: bool) -> None:
        """Send a part of the body."""
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def whole(self, status: int, data: bytes) -> None:
        """Send an answer in one piece."""
        await self.start(status, {"content-type": "application/json", "content-length": str(len(data))})
        await self.body(data, more=False)


class Proxy:
    """Serves the routes of OpenAI's API from the servers of a directory."""

    def __init__(
        self, directory: Directory, metrics: Metrics, *, max_body_bytes: int, timeout_seconds: float = 0.0
    ) -> None:
        self._directory = directory
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._timeout_seconds = timeout_seconds

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point for every route that a model answers."""
        exchange = Exchange(scope, receive, send)
        try:
            await self._answer(exchange)
        except ClientGoneError:
            visit_of(scope).status = _CLIENT_GONE
            self._metrics.disconnects.inc()
        except FrontendError as error:
            await exchange.whole(error.status, error.document)

    async def models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /v1/models and /v1/models/{id}."""
        exchange = Exchange(scope, receive, send)
        wanted = scope.get("path_params", {}).get("model")
        try:
            cards = await self._directory.cards()
            document: object = {"object": "list", "data": cards}
            if wanted is not None:
                document = next((card for card in cards if card["id"] == wanted), None)
                if document is None:
                    raise errors.unknown_model(wanted, [str(card["id"]) for card in cards])
            await exchange.whole(200, json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode())
        except FrontendError as error:
            await exchange.whole(error.status, error.document)

    async def _answer(self, exchange: Exchange) -> None:
        name, body = _model_of(await self._read(exchange))
        places = await self._directory.places(name)
        visit_of(exchange.scope).model = name or places[0].model.name
        gone = asyncio.ensure_future(_disconnected(exchange.receive))
        sending = asyncio.ensure_future(self._forward(exchange, places, body))
        try:
            await asyncio.wait([gone, sending], return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise ClientGoneError
            sending.result()
        finally:
            for task in (gone, sending):
                task.cancel()
            await asyncio.gather(gone, sending, return_exceptions=True)

    async def _read(self, exchange: Exchange) -> bytes:
        """The request's body.

        Raises:
            FrontendError: it is larger than allowed; it is read no further.
        """
        length = Headers(scope=exchange.scope).get("content-length", "")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            raise errors.too_large(self._max_body_bytes)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await exchange.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._max_body_bytes:
                raise errors.too_large(self._max_body_bytes)
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def _forward(self, exchange: Exchange, places: list[Place], body: bytes | None) -> None:
        """Ask one place after the other until one answers."""
        failure = errors.unavailable("no Triton server that serves this model can be reached")
        for place in places:
            try:
                await self._forward_to(exchange, place, body)
                return
            except UnreachableError:
                why = "the connection to the Triton server broke"
            except TritonError as error:
                why = f"Triton: {error}"
                failure = errors.failed(why)
            self._metrics.failures.labels(place.triton.address).inc()
            self._directory.forget()
            if exchange.begun:
                await _break_off(exchange, why)
                return
        raise failure

    async def _forward_to(self, exchange: Exchange, place: Place, body: bytes | None) -> None:
        given = Headers(scope=exchange.scope)
        request_id = visit_of(exchange.scope).request_id
        headers = {name: given[name] for name in _FORWARDED if name in given}
        headers.setdefault("content-type", "")  # none at all is the application's to refuse
        call = Call(
            place.model,
            exchange.scope["path"],
            exchange.scope["method"],
            {**headers, "x-request-id": request_id},
            body,
            request_id,
            self._timeout_seconds,
        )
        async with contextlib.aclosing(place.triton.call(call)) as parts:
            await _relay(exchange, parts)


async def _relay(exchange: Exchange, parts: AsyncIterator[Part]) -> None:
    async for part in parts:
        if part.status and not exchange.begun:
            await exchange.start(part.status, dict(part.headers))
        if part.body:
            await exchange.body(part.body, more=True)
    if not exchange.begun:
        raise TritonError("the model gave no answer")
    await exchange.body(b"", more=False)


async def _break_off(exchange: Exchange, why: str) -> None:
    """End an answer that has begun: a stream with an event that says why, a document by leaving it unfinished."""
    if exchange.streamed:
        document = errors.failed(why).document
        await exchange.body(b"data: " + document + b"\n\ndata: [DONE]\n\n", more=False)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _model_of(body: bytes) -> tuple[str | None, bytes | None]:
    """The model that the body names, and the body as JSON; what is no JSON goes on as a JSON string."""
    if not body:
        return None, None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None, json.dumps(body.decode("utf-8", "replace")).encode()
    name = document.get("model") if isinstance(document, dict) else None
    return (name if isinstance(name, str) else None), body
