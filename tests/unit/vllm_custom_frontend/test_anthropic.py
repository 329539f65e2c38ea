"""Errors of Anthropic's routes in Anthropic's form, and nothing else changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllm_custom_frontend import errors
from vllm_custom_frontend.anthropic import AnthropicErrors, anthropic_form

OPENAI = errors.unavailable("busy").document


async def through(path: str, status: int, *chunks: bytes, content_type: str = "application/json") -> tuple[Any, bytes]:
    """What comes out of the middleware for an answer of these chunks: its start, and its body."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", content_type.encode()), (b"content-length", b"1"), (b"retry-after", b"1")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for place, chunk in enumerate(chunks, 1):
            await send({"type": "http.response.body", "body": chunk, "more_body": place < len(chunks)})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await AnthropicErrors(app)({"type": "http", "path": path}, None, send)  # type: ignore[arg-type]
    assert sent[-1]["more_body"] is False
    return sent[0], b"".join(message["body"] for message in sent[1:])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (503, "overloaded_error"),
        (500, "api_error"),
        (504, "api_error"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_an_error_of_these_routes_has_anthropics_form(path: str, status: int, kind: str) -> None:
    start, body = await through(path, status, OPENAI[:5], OPENAI[5:])
    assert json.loads(body) == {"type": "error", "error": {"type": kind, "message": "busy"}}
    headers = dict(start["headers"])
    assert headers[b"content-length"] == str(len(body)).encode()
    assert headers[b"retry-after"] == b"1"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messagesx"])
async def test_other_routes_are_left_alone(path: str) -> None:
    assert (await through(path, 503, OPENAI))[1] == OPENAI


async def test_answers_are_left_alone() -> None:
    assert (await through("/v1/messages", 200, b'{"content"', b": []}"))[1] == b'{"content": []}'


async def test_an_error_that_ends_a_stream_is_an_event_of_anthropics() -> None:
    begun, failed = b"event: message_start\ndata: {}\n\n", b"data: " + OPENAI + b"\n\ndata: [DONE]\n\n"
    _, body = await through("/v1/messages", 200, begun, failed, content_type="text/event-stream")
    assert body.startswith(begun + b"event: error\ndata: {")
    event = json.loads(body.removeprefix(begun).split(b"data: ")[1])
    assert event == {"type": "error", "error": {"type": "api_error", "message": "busy"}}
    assert b"[DONE]" not in body


@pytest.mark.parametrize("document", [b"", b"no JSON", b"[]", b'{"detail": "Not Found"}', b'{"error": "text"}'])
def test_what_is_no_error_document_stays(document: bytes) -> None:
    assert anthropic_form(document, 400) == document
