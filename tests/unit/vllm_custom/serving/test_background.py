"""Work that goes on in the background keeps its place, its adapter's lease and its media until it ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.fake_engine import FakeEngine
from tests.support.service_harness import Model
from vllm_custom.engine.background import BEGUN
from vllm_custom.openai import looks_up

PATH = "/v1/responses"


class Application:
    """Answers at once; with ``background`` a task goes on until ``end`` is set."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.ended = False
        self.asked: list[tuple[str, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        self.asked.append((scope["path"], scope["query_string"]))
        begun = BEGUN.get()
        if b"background" in body:
            assert begun is not None
            begun.append(asyncio.ensure_future(self._work()))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def _work(self) -> None:
        await self.end.wait()
        self.ended = True


def ask(model: Model, path: str = PATH, method: str = "POST", body: Any = None) -> tuple[int, str]:
    request = json.dumps({"path": path, "method": method, "body": body})
    sender = model.submit(text=None, openai_request=request).wait()
    outputs = {item.name(): item.as_numpy().reshape(-1)[0] for item in sender.sent[0][0].output_tensors()}
    return int(outputs["openai_status"]), outputs["openai_response"].decode()


def test_a_background_job_has_a_place_until_it_ends() -> None:
    application = Application()
    engine = FakeEngine()
    engine.application = application
    with Model(engine, MAX_INFLIGHT_REQUESTS="1") as model:
        assert ask(model, body={"background": True})[0] == 200
        status, answer = ask(model, body={"input": "x"})
        assert status == 503
        assert "MAX_INFLIGHT_REQUESTS" in answer
        model.base.event_loop.call_soon_threadsafe(application.end.set)
        model.settle()
        assert application.ended
        assert ask(model, body={"input": "x"})[0] == 200


@pytest.mark.parametrize("word", ["true", "On", 1, 1.0])
def test_a_job_that_has_no_place_does_not_begin(word: Any) -> None:
    """However vLLM may be told that it is one."""
    application = Application()
    engine = FakeEngine()
    engine.application = application
    with Model(engine, MAX_INFLIGHT_REQUESTS="1") as model:
        for status in (200, 503):
            assert ask(model, body={"background": word})[0] == status
        model.base.event_loop.call_soon_threadsafe(application.end.set)
        model.settle()
    assert len(application.asked) == 1


def test_paths_have_parameters_and_queries() -> None:
    application = Application()
    engine = FakeEngine()
    engine.application = application
    with Model(engine) as model:
        assert ask(model, f"{PATH}/resp_1?stream=true&starting_after=2", "GET")[0] == 200
        assert ask(model, f"{PATH}/resp_1/cancel")[0] == 200
        assert ask(model, f"{PATH}/resp_1/input_items", "GET")[0] == 404
        status, answer = ask(model, f"{PATH}/resp_1?{'x' * 5000}", "GET")
        assert status == 400
        assert "openai_request.path: expected a query" in answer
    assert application.asked == [(f"{PATH}/resp_1", b"stream=true&starting_after=2"), (f"{PATH}/resp_1/cancel", b"")]


def test_responses_are_looked_up_and_cancelled_at_the_limit() -> None:
    """Where background work took all places, nobody could cancel it."""
    application = Application()
    engine = FakeEngine()
    engine.application = application
    with Model(engine, MAX_INFLIGHT_REQUESTS="1") as model:
        assert ask(model, body={"background": True})[0] == 200
        assert ask(model, f"{PATH}/resp_1", "GET")[0] == 200
        assert ask(model, f"{PATH}/resp_1/cancel?x=y")[0] == 200
        assert ask(model, PATH, "GET", {"input": "x"})[0] == 503
        assert ask(model, PATH)[0] == 503
        model.base.event_loop.call_soon_threadsafe(application.end.set)
        model.settle()


@pytest.mark.parametrize(
    ("envelope", "answer"),
    [
        (b'{"path": "/v1/models"}', True),
        (b'{"path": "/v1/responses/a/cancel", "method": "POST"}', True),
        (b'{"path": "/v1/completions", "method": "POST"}', False),
        (b'{"path": "/v1/models", "method": "GET", "body": {}}', False),
        (b'{"path": "/v1/models", "x": "' + b"x" * 9000 + b'"}', False),
        (b"[" * 5000, False),
        (b"[]", False),
        (b"\xff", False),
    ],
)
def test_what_only_looks_something_up(envelope: bytes, answer: bool) -> None:
    assert looks_up(envelope) is answer
