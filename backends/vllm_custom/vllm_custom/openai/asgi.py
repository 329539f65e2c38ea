"""Call an ASGI application for one request, without a server, and see that leaving early ends its work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol
from urllib.parse import quote

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

# How long an application may take to notice that its client has gone, before its task is cancelled as well.
_DISCONNECT_GRACE_SECONDS = 5.0


class LateError(Exception):
    """An application did not end in time."""


class Sink(Protocol):
    """Where the response goes."""

    def start(self, status: int, headers: dict[str, str]) -> None: ...
    def body(self, chunk: bytes, *, more: bool) -> None: ...


class Kept:
    """A sink that keeps the response."""

    def __init__(self) -> None:
        self.status = 0
        self.data = b""

    def start(self, status: int, headers: dict[str, str]) -> None:
        self.status = status

    def body(self, chunk: bytes, *, more: bool) -> None:
        self.data += chunk


async def call_application(
    application: Application,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    sink: Sink,
    query: str = "",
) -> None:
    """Run the request to its end. If this coroutine is cancelled, the application is told that the client has gone.

    Being told is not the same as being cancelled: handlers that wait for tasks of their own leave those running when
    they are cancelled, and the engine would go on generating.
    """
    exchange = _Exchange(body, sink)
    running = asyncio.ensure_future(
        application(scope_of(method, path, headers, query), exchange.receive, exchange.send)
    )
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        exchange.gone.set()
        await _whatever_comes(_end(running))
        raise


async def pass_through(
    application: Application, scope: Message, body: bytes, receive: Receive, send: Send, seconds: float | None = None
) -> None:
    """Run a request that came by ASGI itself; the application hears from ``receive`` when its client has gone.

    Args:
        application: answers.
        scope: of the request.
        body: all of it.
        receive: of the server, behind the body.
        send: of the server.
        seconds: how long it may take; None for as long as it takes.

    Raises:
        LateError: it took longer. The application has been told that its client has gone, and has ended.
    """
    exchange = _PassedThrough(body, receive, send)
    if seconds is None:
        await application(scope, exchange.receive, send)
        return
    running = asyncio.ensure_future(application(scope, exchange.receive_or_end, exchange.send))
    try:
        done, _ = await asyncio.wait([running], timeout=seconds)
    except asyncio.CancelledError:
        exchange.gone.set()
        running.cancel()
        raise
    if done:
        running.result()
        return
    exchange.gone.set()
    await _end(running)
    raise LateError


class _PassedThrough:
    """The two ends of a request, with its body put back."""

    def __init__(self, body: bytes, receive: Receive, send: Send) -> None:
        self.gone = asyncio.Event()
        self._body: bytes | None = body
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await self._receive()

    async def receive_or_end(self) -> Message:
        if self._body is not None:
            return await self.receive()
        waits = [asyncio.ensure_future(self._receive()), asyncio.ensure_future(self.gone.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if not self.gone.is_set():  # what a handler makes of being interrupted is no answer
            await self._send(message)


async def _end(running: asyncio.Future[None]) -> None:
    """Let the application end by itself, then end it."""
    await asyncio.wait([running], timeout=_DISCONNECT_GRACE_SECONDS)
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=_DISCONNECT_GRACE_SECONDS)
    for ended in done:
        if not ended.cancelled():
            ended.exception()  # fetched, so that asyncio does not log it


async def _whatever_comes(work: Coroutine[Any, Any, None]) -> None:
    """Wait for ``work``, however often this is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)


class _Exchange:
    """The two ends that an application holds."""

    def __init__(self, body: bytes, sink: Sink) -> None:
        self.gone = asyncio.Event()
        self._body: bytes | None = body
        self._sink = sink

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.gone.is_set():  # what a handler makes of being interrupted is no answer
            return
        if message["type"] == "http.response.start":
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message["headers"]}
            headers.pop("content-length", None)  # of the whole body; pieces are what travels
            self._sink.start(message["status"], headers)
        elif message["type"] == "http.response.body":
            self._sink.body(bytes(message.get("body", b"")), more=message.get("more_body", False))


def _header_text(text: str) -> bytes:
    """Headers hold Latin-1; other text, such as the id of a request, is percent-encoded."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return quote(text, errors="replace").encode()


def scope_of(method: str, path: str, headers: Mapping[str, str], query: str = "") -> Message:
    """What an application is told of a request."""
    return {
        "type": "http",
        # Before 2.4 streaming responses listen for the disconnect instead of waiting for an error of send.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": quote(path, errors="replace").encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(_header_text(name), _header_text(value)) for name, value in headers.items()],
        "client": ("triton", 0),
        "server": ("triton", 0),
        "state": {},
    }
