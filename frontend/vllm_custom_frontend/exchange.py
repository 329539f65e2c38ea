"""One HTTP request while it is under way: its body is read, its answer sent."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from vllm_custom_frontend import errors
from vllm_custom_frontend.body import ValueLimit, in_utf8
from vllm_custom_frontend.errors import FrontendError
from vllm_custom_frontend.forms import form_as_json, is_form
from vllm_custom_frontend.routes import FORM_PATHS

# What is longer is made JSON, or UTF-8, in a thread, off the event loop.
_SHORT_BYTES = 256 * 1024


class ClientGoneError(Exception):
    """The client closed its connection."""


@dataclass(frozen=True)
class BodyLimits:
    """What a request's body may have at most: bytes, JSON values, and seconds until it is there (0 for any)."""

    size: int
    values: int
    seconds: float = 0.0


@dataclass
class Exchange:
    """A request and the answer to it.

    Attributes:
        streamed: whether the answer, once it has begun, consists of server-sent events.
        begun: whether the client has status and headers.
    """

    scope: Scope
    receive: Receive
    send: Send
    streamed: bool = False
    begun: bool = False

    @property
    def headers(self) -> Headers:
        """Those of the request."""
        return Headers(scope=self.scope)

    @property
    def target(self) -> str:
        """The path, with the query string where there is one."""
        query = self.scope.get("query_string", b"").decode("latin-1")
        path: str = self.scope["path"]
        return f"{path}?{query}" if query else path

    @property
    def has_form(self) -> bool:
        """Whether the body is a form, on a route that takes one."""
        return self.scope["path"] in FORM_PATHS and is_form(self.headers.get("content-type", ""))

    async def read(self, limits: BodyLimits) -> bytes:
        """The request's body, in UTF-8; a form as JSON.

        Raises:
            FrontendError: it is larger than allowed, and read no further; it takes too long; it is not Unicode, or no
                form.
            ClientGoneError: as it says.
        """
        try:
            body = await asyncio.wait_for(self._read(limits), limits.seconds or None)
        except asyncio.TimeoutError:
            raise errors.late_body(limits.seconds) from None
        read = functools.partial(form_as_json, content_type=self.headers["content-type"]) if self.has_form else in_utf8
        return read(body) if len(body) <= _SHORT_BYTES else await asyncio.to_thread(read, body)

    async def _read(self, limits: BodyLimits) -> bytes:
        length = self.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limits.size:
            raise errors.too_large(limits.size)
        values = None if self.has_form else ValueLimit(limits.values)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limits.size:
                raise errors.too_large(limits.size)
            if values is not None:  # the bytes of a file are no values
                values.add(chunk)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def disconnected(self) -> None:
        """Return when the client closes its connection."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send status and headers."""
        self.begun = True
        self.streamed = headers.get("content-type", "").startswith("text/event-stream")
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})

    async def body(self, data: bytes, *, more: bool) -> None:
        """Send a part of the body."""
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def send_json(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send an answer of JSON in one piece."""
        own = {"content-type": "application/json", "content-length": str(len(data))}
        await self.start(status, {**(headers or {}), **own})
        await self.body(data, more=False)

    async def fail(self, error: FrontendError) -> None:
        """End with an error.

        An answer that has begun ends with an event that says why if it is a stream; a document stays unfinished.
        """
        if not self.begun:
            await self.send_json(error.status, error.document, error.headers)
        elif self.streamed:
            await self.body(b"data: " + error.document + b"\n\ndata: [DONE]\n\n", more=False)
