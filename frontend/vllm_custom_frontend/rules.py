"""What HTTP asks of every answer, whichever application made it."""

from __future__ import annotations

import asyncio
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllm_custom_frontend import errors
from vllm_custom_frontend.access_log import entry_of

_log = logging.getLogger("vllm_custom_frontend")
_EVENTS = b"text/event-stream"
_LENGTH = b"content-length"
_VARY = b"vary"


class TrailingSlashes:
    """Middleware: a path means the same with and without a slash at its end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/"):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
            if "raw_path" in scope:
                scope["raw_path"] = scope["raw_path"].rstrip(b"/") or b"/"
        await self._app(scope, receive, send)


class VaryOnce:
    """Middleware: the header Vary has each name once, also where the model's application has its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_once(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": _once(message.get("headers", ()))}
            await send(message)

        await self._app(scope, receive, send_once)


class WholeAnswers:
    """Middleware: an answer that is there in one piece says how long it is; a stream is not held up.

    An answer that is cut off where the time of open requests is over ends with an error.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            await self._app(scope, receive, answer.send)
        except asyncio.CancelledError:
            # Only the end of the server cancels requests here.
            _log.warning("request %s: cut off, since the server ends (--drain-seconds)", entry_of(scope).request_id)
            await answer.cut()
        await answer.flush()


class _Answer:
    """Sends one answer."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: list[Message] = []
        self._streamed = self._begun = self._complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            headers = {name.lower(): value for name, value in message.get("headers", ())}
            self._streamed = headers.get(b"content-type", b"").startswith(_EVENTS)
            if _LENGTH not in headers and not self._streamed:
                self._held = [message]
                return
        if message["type"] != "http.response.body":
            await self.flush()
            await self._send(message)
            return
        self._complete = not message.get("more_body", False)
        if self._held and self._is_small(message):
            self._held.append(message)
            if not self._complete:
                return
            await self._send_whole()
            return
        await self.flush()
        await self._send(message)

    async def flush(self) -> None:
        """Send what is held."""
        held, self._held = self._held, []
        for message in held:
            await self._send(message)

    async def cut(self) -> None:
        """End the answer, as one that cannot go on."""
        error = errors.unavailable("the server ends")
        if not self._begun or (self._held and not self._complete):
            self._held = []
            headers = [(b"content-type", b"application/json"), (_LENGTH, str(len(error.document)).encode())]
            headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
            await self._send({"type": "http.response.start", "status": error.status, "headers": headers})
            await self._send({"type": "http.response.body", "body": error.document, "more_body": False})
        elif self._streamed and not self._complete:
            body = b"data: " + error.document + b"\n\ndata: [DONE]\n\n"
            await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def _is_small(self, message: Message) -> bool:
        """Whether the answer may still be one piece: its first part, and after that nothing but its end."""
        return len(self._held) == 1 or not message.get("body")

    async def _send_whole(self) -> None:
        start, *parts = self._held
        self._held = []
        body = b"".join(part.get("body", b"") for part in parts)
        headers = [*start.get("headers", ()), (_LENGTH, str(len(body)).encode())]
        await self._send({**start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


def _once(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    names = [part.strip() for name, value in headers if name.lower() == _VARY for part in value.split(b",")]
    if not names:
        return headers
    others = [(name, value) for name, value in headers if name.lower() != _VARY]
    return [*others, (_VARY, b", ".join({part.lower(): part for part in names}.values()))]
