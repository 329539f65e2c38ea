"""HTTP connections within limits of time and size, also before a request is whole and a key can be asked for.

uvicorn's protocol on httptools has no such limits; its protocol on h11 has one for the size, and costs several times as
much for each part of a stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from vllm_custom_frontend import errors
from vllm_custom_frontend.errors import FrontendError

_log = logging.getLogger("vllm_custom_frontend.access")
# Of connections on which no request is whole, so many are kept; then the oldest is closed.
_MOST_WAITING = 1000
# So long a client that is refused may still send: a connection that is closed before loses the answer.
_LINGER_SECONDS = 1.0


@dataclass(frozen=True)
class ConnectionLimits:
    """What a connection may take before its request is served. Sizes are in bytes, times in seconds.

    Attributes:
        header_bytes: request line and headers of a request.
        headers: how many of them.
        header_seconds: from the connection, or the request's first byte, to the end of the headers.
        body_seconds: for a body that is not read any more, since the answer is sent.
    """

    header_bytes: int
    headers: int
    header_seconds: float
    body_seconds: float


class _HeadersError(Exception):
    """Raised inside the parser, which then stops."""


class _UnframedCycle(RequestResponseCycle):
    """An answer to HTTP/1.0, which knows no chunks: what has no length ends with the connection."""

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            if all(name.lower() != b"content-length" for name, _ in message.get("headers", ())):
                self.chunked_encoding = False
        elif self.expected_content_length == 0:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    limits: ClassVar[ConnectionLimits]
    note_refusal: ClassVar[Callable[[int], None]]
    waiting: ClassVar[dict[LimitedProtocol, None]]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = self._in_message = False
        self._received = self._size = 0
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer(self.limits.header_seconds)
        self.waiting[self] = None
        if len(self.waiting) > _MOST_WAITING:
            oldest = next(iter(self.waiting))
            del self.waiting[oldest]
            oldest.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_ended():
            return
        self._received += len(data)
        super().data_received(data)
        if self._is_ended():
            return
        if self._in_head and self._received > self.limits.header_bytes:
            self._refuse(errors.headers_too_long(self.limits.header_bytes))
        elif self._is_idle() and self._timer is None and self.timeout_keep_alive_task is None:
            self._start_timer(self.limits.header_seconds)  # line ends between requests are no sign of one

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._in_message = True
        self._received = self._size = 0
        if self._timer is None:
            self._start_timer(self.limits.header_seconds)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        if len(self.headers) >= self.limits.headers or self._size > self.limits.header_bytes:
            raise _HeadersError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.url) + self._size > self.limits.header_bytes:
            raise _HeadersError
        self._in_head = False
        self._stop_waiting()
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before and self.cycle.scope["http_version"] == "1.0":
            self.cycle.__class__ = _UnframedCycle  # uvicorn has no place to name another class

    def on_message_complete(self) -> None:
        self._in_message = False
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_message and self._timer is None and not self.transport.is_closing():
            self._start_timer(self.limits.body_seconds)

    def handle_websocket_upgrade(self) -> None:
        self._stop_waiting()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Called where the parser has stopped."""
        if not self._in_head or (len(self.headers) < self.limits.headers and self._fits()):
            super().send_400_response(msg)
        elif self._fits():
            self._refuse(errors.too_many_headers(self.limits.headers))
        else:
            self._refuse(errors.headers_too_long(self.limits.header_bytes))

    def _fits(self) -> bool:
        return len(self.url) + self._size <= self.limits.header_bytes

    def _is_ended(self) -> bool:
        return self._refused or self.transport.is_closing()

    def _is_idle(self) -> bool:
        return not self._in_message and _is_answered(self.cycle)

    def _start_timer(self, seconds: float) -> None:
        if seconds:
            self._timer = self.loop.call_later(seconds, self._expired, seconds)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_waiting(self) -> None:
        self._stop_timer()
        self.waiting.pop(self, None)

    def _expired(self, seconds: float) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._in_head and not _is_answered(self.cycle):
            self._start_timer(seconds)  # the answer to an earlier request is under way
        elif self._in_head:
            self._refuse(errors.late_headers(seconds))
        else:
            self.transport.close()

    def _refuse(self, error: FrontendError) -> None:
        """Answer instead of the application, and close the connection."""
        self._refused = True
        self._stop_waiting()
        type(self).note_refusal(error.status)
        _log.info('%s "-" %d %s', (self.client or ("-",))[0], error.status, error)
        document = error.document
        head = [*self.server_state.default_headers, (b"content-type", b"application/json")]
        head += [(b"content-length", str(len(document)).encode()), (b"connection", b"close")]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in head)
        self.transport.write(STATUS_LINE[error.status] + lines + b"\r\n" + document)
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)


def _is_answered(cycle: RequestResponseCycle | None) -> bool:
    """Whether no answer is under way; uvicorn has None before the first request, and does not say so."""
    return cycle is None or cycle.response_complete


def limited(limits: ConnectionLimits, note_refusal: Callable[[int], None]) -> type[LimitedProtocol]:
    """What uvicorn takes as ``http``: connections of one server within these limits.

    Args:
        limits: of each of them.
        note_refusal: is told the status of each that is refused.
    """
    members = {"limits": limits, "note_refusal": staticmethod(note_refusal), "waiting": {}}
    return type("Connection", (LimitedProtocol,), members)
