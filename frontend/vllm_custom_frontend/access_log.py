"""The access log entry of each request: its id, its log line, its metrics."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllm_custom_frontend.errors import shortened
from vllm_custom_frontend.logs import FIELDS, JSON, TEXT
from vllm_custom_frontend.metrics import Metrics
from vllm_custom_frontend.routes import label_of

_log = logging.getLogger("vllm_custom_frontend.access")
_KEY = "vllm_custom_frontend.access_log_entry"
_MAX_ID_CHARACTERS = 128
_MAX_PATH_CHARACTERS = 256
_TIMING = re.compile(r"(\w+);dur=([0-9]+(?:\.[0-9]+)?)(?![\w.])")
# Unknown paths share one label, so that clients cannot make any number of them.
_OTHER = "other"


@dataclass
class AccessLogEntry:
    """What is known of a request.

    Attributes:
        model: what the request calls it.
        served_by: the model behind that name; its own, or that of a model with an adapter.
        key: the name of the key that it has shown.
        status: 0 until an answer has begun.
        engine: what the answer's headers say of its work in the engine.
    """

    request_id: str
    model: str = "-"
    served_by: str = ""
    key: str = ""
    trace_id: str = ""
    status: int = 0
    sent_bytes: int = 0
    began: float = field(default_factory=time.monotonic)
    engine: dict[str, float] = field(default_factory=dict)

    def fields(self, seconds: float) -> dict[str, Any]:
        """For a line of JSON; what is not known is left out."""
        model = self.served_by or (self.model if self.model != "-" else "")
        adapter = self.model if self.served_by and self.model != self.served_by else ""
        told = {"model": model, "adapter": adapter, "key": self.key, "trace_id": self.trace_id}
        known = {name: value for name, value in told.items() if value}
        return {"request_id": self.request_id, **known, **self.engine, "seconds": round(seconds, 6)}


def entry_of(scope: Scope) -> AccessLogEntry:
    """The entry that the middleware has begun for this request."""
    entry: AccessLogEntry = scope[_KEY]
    return entry


class AccessLog:
    """The outermost middleware: begins an entry, and notes how the request ended."""

    def __init__(self, app: ASGIApp, metrics: Metrics, access_log: bool, log_format: str = TEXT) -> None:
        self._app = app
        self._metrics = metrics
        self._access_log = access_log
        self._json = log_format == JSON

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        entry = scope[_KEY] = AccessLogEntry(_request_id(Headers(scope=scope)))

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.status = message["status"]
                if self._json:
                    entry.engine = _figures(message.get("headers", ()))
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
        if self._access_log and self._json:
            _log.info("request", extra={FIELDS: {**_seen(scope, entry), **entry.fields(seconds)}})
        elif self._access_log:
            client = (scope.get("client") or ("-",))[0]
            request = f'{client} "{scope["method"]} {shortened(scope["path"], _MAX_PATH_CHARACTERS)}" {entry.status}'
            line = f"{request} {entry.sent_bytes} bytes {seconds:.3f} s model={entry.model} id={entry.request_id}"
            _log.info("%s", _one_line(line))


def _seen(scope: Scope, entry: AccessLogEntry) -> dict[str, Any]:
    path = shortened(scope["path"], _MAX_PATH_CHARACTERS)
    client = (scope.get("client") or ("-",))[0]
    head = {"event": "request", "client": client, "method": scope["method"], "path": path}
    return {**head, "status": entry.status, "sent_bytes": entry.sent_bytes}


def _figures(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, float]:
    """Seconds in the engine, and cached tokens, of an answer that is not a stream."""
    found: dict[str, float] = {}
    for name, value in headers:
        if name == b"server-timing":
            found |= {f"{key}_seconds": float(ms) / 1000 for key, ms in _TIMING.findall(value.decode("latin-1"))}
        elif name == b"x-cached-tokens" and value.isdigit():
            found["cached_tokens"] = int(value)
    return found


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    usable = given.isascii() and given.isprintable() and len(given) <= _MAX_ID_CHARACTERS
    return given if given and usable else os.urandom(16).hex()


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
