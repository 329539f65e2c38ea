"""What vLLM's application gets at most of a body."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.support.fake_engine import FACTS, TEXT_ONLY, FakeEngine
from tests.support.service_harness import Model


def answer(body: Any, facts: Any = TEXT_ONLY, **parameters: str) -> tuple[int, dict[str, Any]]:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        received = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"bytes": len(received["body"])}).encode()})

    engine = FakeEngine(facts)
    engine.application = application
    with Model(engine, **parameters) as model:
        request = json.dumps({"path": "/v1/chat/completions", "body": body})
        sender = model.submit(text=None, openai_request=request).wait()
        model.settle()
    outputs = {item.name(): item.as_numpy().reshape(-1)[0] for item in sender.sent[0][0].output_tensors()}
    return int(outputs["openai_status"]), json.loads(outputs["openai_response"])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"junk": "x" * 1000}, "OPENAI_MAX_BODY_BYTES"),
        ({"junk": [1] * 500}, "OPENAI_MAX_BODY_BYTES"),
        ("no JSON" * 200, "expected JSON"),
    ],
)
def test_a_body_that_is_too_long_does_not_reach_the_application(body: Any, told: str) -> None:
    """60 MB of a field that nobody reads held the event loop for 0.4 s while they were parsed."""
    status, document = answer(body, OPENAI_MAX_BODY_BYTES="1000")
    assert status == 400
    assert told in document["error"]["message"]
    assert document["error"]["param"] == "openai_request.body"
    assert answer(body)[0] == 200


def test_media_do_not_count() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5000}}
    body = {"messages": [{"role": "user", "content": [part]}]}
    status, document = answer(body, FACTS, OPENAI_MAX_BODY_BYTES="1000")
    assert status == 200
    assert document["bytes"] < 300


def test_what_only_looks_like_media_is_counted_before_it_is_written_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 MB of it took the event loop 0.2 s to write."""
    monkeypatch.setattr(msgspec.json, "encode", None)
    part = {"type": "image", "source": {"type": "unknown", "text": "x" * 1000}}
    body = {"messages": [{"role": "user", "content": [part]}]}
    status, document = answer(body, FACTS, OPENAI_MAX_BODY_BYTES="1000")
    assert status == 400
    assert "OPENAI_MAX_BODY_BYTES" in document["error"]["message"]
