"""Comparing answers of OpenAI's API: chance is left out, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.frontend_process import HttpAnswer
from tests.support.openai_answers import comparable


def stream(*events: Any) -> HttpAnswer:
    body = "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events)
    return HttpAnswer(200, {"content-type": "text/event-stream; charset=utf-8"}, body.encode())


def document(content: Any, status: int = 200) -> HttpAnswer:
    return HttpAnswer(status, {"content-type": "application/json"}, json.dumps(content).encode())


def piece(content: str, end: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    stop = {"stop_reason": None} if end else {}
    return {
        "id": "a",
        "choices": [{"index": index, "delta": {"content": content}, "finish_reason": end, **stop}],
        **more,
    }


def test_ids_times_and_the_split_of_a_stream_are_no_difference() -> None:
    first = stream(piece("a"), piece("b", index=1), piece("b"), piece("", "stop", usage=None), "[DONE]")
    second = stream(piece("ab", "stop", usage=None), piece("b", index=1), "[DONE]")
    assert comparable(first) == comparable(second)
    bare = {"id": "a", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": None}]}
    assert comparable(stream(piece("ab"), bare)) == comparable(stream(piece("ab", "stop")))
    assert comparable(document({"id": "x", "created": 1, "n": [{"tool_call_id": "y"}], "m": "[10:00:00] bad"})) == (
        comparable(document({"id": "z", "created": 2, "n": [{"tool_call_id": "w"}], "m": "[11:11:11] bad"}))
    )


@pytest.mark.parametrize(
    "other",
    [
        document({"id": "x", "text": "b"}),
        document({"id": "x", "text": "a", "more": None}),
        document({"text": "a"}),
        document({"id": None, "text": "a"}),
        document({"id": "x", "text": "a"}, 400),
        stream({"id": "x", "text": "a"}),
    ],
)
def test_everything_else_is(other: HttpAnswer) -> None:
    assert comparable(other) != comparable(document({"id": "x", "text": "a"}))


def test_streams_differ_in_text_end_order_and_usage() -> None:
    whole = comparable(stream(piece("a"), piece("b", "stop"), "[DONE]"))
    for events in (
        (piece("a"), piece("c", "stop"), "[DONE]"),
        (piece("a"), piece("b", "length"), "[DONE]"),
        (piece("b"), piece("a", "stop"), "[DONE]"),
        (piece("a"), piece("b", "stop"), {"choices": [], "usage": {}}, "[DONE]"),
        (piece("a"), piece("b", "stop")),
    ):
        assert comparable(stream(*events)) != whole
