"""Errors of Anthropic's Messages API in Anthropic's own form: the frontend's, those of Triton's model, and vLLM's."""

from __future__ import annotations

import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ROUTE = "/v1/messages"
_FIRST_ERROR = 400
_EVENT = b"data: "
# By status, as Anthropic documents them; others are an api_error.
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    431: "invalid_request_error",
    503: "overloaded_error",
}


def anthropic_form(document: bytes, status: int) -> bytes:
    """An error document of OpenAI's form in Anthropic's; what is none stays as it is."""
    try:
        content = json.loads(document)
    except ValueError:
        return document
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict):
        return document
    kind = _KINDS.get(status, "api_error")
    made: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": str(error.get("message", ""))}}
    return json.dumps(made, ensure_ascii=False).encode()


class AnthropicErrors:
    """Middleware for the routes of that API; all others pass through it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _is_messages(scope["path"]):
            await self._app(scope, receive, send)
            return
        await self._app(scope, receive, _Rewriting(send).send)


class _Rewriting:
    """Sends one answer: the body of an error is held until it is whole."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= _FIRST_ERROR:
            self._start = message
        elif message["type"] != "http.response.body":
            await self._send(message)
        elif self._start is None:
            await self._send({**message, "body": _in_events(message.get("body", b""))})
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._end(self._start)

    async def _end(self, start: Message) -> None:
        document = anthropic_form(bytes(self._body), start["status"])
        headers = [item for item in start.get("headers", ()) if item[0].lower() != b"content-length"]
        headers.append((b"content-length", str(len(document)).encode()))
        await self._send({**start, "headers": headers})
        await self._send({"type": "http.response.body", "body": document, "more_body": False})


def _in_events(body: bytes) -> bytes:
    """An error that ends a stream which has begun: OpenAI's event becomes Anthropic's."""
    if not body.startswith(_EVENT + b'{"error"'):
        return body
    document = body.removeprefix(_EVENT).partition(b"\n")[0]
    return b"event: error\ndata: " + anthropic_form(document, 500) + b"\n\n"


def _is_messages(path: str) -> bool:
    return path == _ROUTE or path.startswith(f"{_ROUTE}/")
