"""The access log entry of each request: its id, its log line, its metrics."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllm_custom_frontend.errors import shortened
from vllm_custom_frontend.metrics import Metrics
from vllm_custom_frontend.routes import label_of

_log = logging.getLogger("vllm_custom_frontend.access")
_KEY = "vllm_custom_frontend.access_log_entry"
_MAX_ID_CHARACTERS = 128
_MAX_PATH_CHARACTERS = 256
# Unknown paths share one label, so that clients cannot make any number of them.
_OTHER = "other"


@dataclass
class AccessLogEntry:
    """What is known of a request. ``status`` is 0 until an answer has begun."""

    request_id: str
    model: str = "-"
    status: int = 0
    sent_bytes: int = 0
    began: float = field(default_factory=time.monotonic)


def entry_of(scope: Scope) -> AccessLogEntry:
    """The entry that the middleware has begun for this request."""
    entry: AccessLogEntry = scope[_KEY]
    return entry


class AccessLog:
    """The outermost middleware: begins an entry, and notes how the request ended."""

    def __init__(self, app: ASGIApp, metrics: Metrics, access_log: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        entry = scope[_KEY] = AccessLogEntry(_request_id(Headers(scope=scope)))

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", entry.request_id.encode())]
            elif message["type"] == "http.response.body":
                entry.sent_bytes += len(message.get("body", b""))
            await send(message)

        self._metrics.open.inc()
        try:
            await self._app(scope, receive, note)
        finally:
            self._metrics.open.dec()
            self._end(entry, scope)

    def _end(self, entry: AccessLogEntry, scope: Scope) -> None:
        seconds = time.monotonic() - entry.began
        path = label_of(scope["path"]) or _OTHER
        self._metrics.requests.labels(path, str(entry.status)).inc()
        self._metrics.seconds.labels(path).observe(seconds)
        if self._access_log:
            client = (scope.get("client") or ("-",))[0]
            request = f'{client} "{scope["method"]} {shortened(scope["path"], _MAX_PATH_CHARACTERS)}" {entry.status}'
            line = f"{request} {entry.sent_bytes} bytes {seconds:.3f} s model={entry.model} id={entry.request_id}"
            _log.info("%s", _one_line(line))


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    usable = given.isascii() and given.isprintable() and len(given) <= _MAX_ID_CHARACTERS
    return given if given and usable else os.urandom(16).hex()


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
