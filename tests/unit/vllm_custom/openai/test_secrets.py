"""What vLLM's application quotes in an error holds no secrets of URLs; other answers pass as they are."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from vllm_custom.openai.secrets import without_secrets


def sent(status: int, *pieces: bytes, kind: bytes = b"application/json") -> list[dict[str, Any]]:
    """What becomes of an answer."""
    found: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        length = str(sum(map(len, pieces))).encode()
        headers = [(b"content-type", kind), (b"content-length", length), (b"x-a", b"b")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for number, piece in enumerate(pieces, 1):
            await send({"type": "http.response.body", "body": piece, "more_body": number < len(pieces)})

    async def send(message: dict[str, Any]) -> None:
        found.append(message)

    asyncio.run(without_secrets(application)({}, None, send))  # type: ignore[arg-type]
    return found


def test_an_error_is_cleaned() -> None:
    told = json.dumps({"error": {"message": "got \"http://u:pw@h/x?sig=1\" and 'y'", "code": 400}}).encode()
    start, body = sent(400, told[:20], told[20:])
    document = json.loads(body["body"])
    assert document == {"error": {"message": "got \"http://...@h/x?...\" and 'y'", "code": 400}}
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
    assert dict(start["headers"])[b"x-a"] == b"b"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b'{"error": {"message": "http://h/?q"}}', b"application/json"),
        (400, b'{"error":   {"message": "nothing in it"}}', b"application/json"),
        (400, b'{"detail": "http://h/?q"}', b"application/json"),
        (500, b"not { JSON", b"application/json"),
        (500, b'["http://h/?q"]', b"application/json"),
        (500, b'{"error": {"message": "http://h/?q"}}', b"text/event-stream"),
    ],
)
def test_others_pass_as_they_are(status: int, body: bytes, kind: bytes) -> None:
    assert b"".join(message.get("body", b"") for message in sent(status, body, kind=kind)) == body
