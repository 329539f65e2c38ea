"""Errors of vLLM's application, without what clients wrote into URLs."""

from __future__ import annotations

import json
from typing import Any

from vllm_custom.kernel.text import without_url_secrets
from vllm_custom.openai.asgi import Application, Message, Receive, Send

_FIRST_ERROR = 400
_JSON = b"application/json"


def without_secrets(application: Application) -> Application:
    """``application``, whose errors repeat no credentials, queries and fragments of URLs: it quotes wrong values."""

    async def clean(scope: Message, receive: Receive, send: Send) -> None:
        await application(scope, receive, _Cleaning(send).send)

    return clean


class _Cleaning:
    """Holds an error back until all of it is there."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        """What the application sends."""
        if message["type"] == "http.response.start" and _is_error(message):
            self._start = message
        elif message["type"] != "http.response.body" or self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                start, self._start = self._start, None
                await self._send_both(start, _cleaned(self._body))

    async def _send_both(self, start: Message, body: bytes) -> None:
        headers = [header for header in start["headers"] if header[0].lower() != b"content-length"]
        await self._send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await self._send({"type": "http.response.body", "body": body})


def _is_error(start: Message) -> bool:
    kinds = (value for name, value in start.get("headers", ()) if name.lower() == b"content-type")
    return start["status"] >= _FIRST_ERROR and any(value.startswith(_JSON) for value in kinds)


def _cleaned(body: bytes) -> bytes:
    try:
        document: Any = json.loads(body)
        error = document["error"]
        told = error["message"]
        clean = without_url_secrets(told)
    except (ValueError, LookupError, TypeError):  # in no form that is known
        return body
    if clean == told:
        return body
    error["message"] = clean
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
