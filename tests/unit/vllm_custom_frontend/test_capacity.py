"""A model that is full is not asked again and again: when the frontend refuses for it, and when it does not."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from tests.support.triton_servers import FakeTriton, Model, Reply, frontend, reply, serving
from vllm_custom_frontend import capacity as capacity_module
from vllm_custom_frontend.answer import Answer
from vllm_custom_frontend.capacity import Capacity
from vllm_custom_frontend.routes import needs_capacity

FULL = "too many requests: 2 are under way and MAX_INFLIGHT_REQUESTS is 2; try again later"
NOT_FOR_ALL = "too many requests: 1 are under way and MAX_INFLIGHT_REQUESTS is 2; try again later"
MUCH_LATER = 60.0


def refusal(text: str = FULL, status: int = 503, **headers: str) -> Answer:
    return Answer(status, headers, text.encode())


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def capacity(clock: Clock) -> Capacity:
    return Capacity(clock)


def test_it_refuses_while_as_many_requests_are_there(capacity: Capacity, clock: Clock) -> None:
    with contextlib.ExitStack() as others:
        first = others.enter_context(contextlib.ExitStack())
        first.enter_context(capacity.asked())
        others.enter_context(capacity.asked())
        assert capacity.refusal is None, "no endpoint has said that it is full"
        with capacity.asked():
            capacity.note(refusal())
        assert capacity.refusal == refusal()
        first.close()
        assert capacity.refusal is None, "one has ended"
        others.enter_context(capacity.asked())
        assert capacity.refusal == refusal()
        clock.now = MUCH_LATER
        assert capacity.refusal is None, "requests of others may have ended meanwhile"


def test_places_that_others_hold_are_asked_for_again_soon(capacity: Capacity, clock: Clock) -> None:
    with capacity.asked():
        capacity.note(refusal())
    assert capacity.refusal is not None
    clock.now = MUCH_LATER
    assert capacity.refusal is None


@pytest.mark.parametrize(
    "answer",
    [
        refusal(NOT_FOR_ALL),
        refusal("the engine is being started again"),
        refusal(status=429),
        refusal("MAX_INFLIGHT_REQUESTS is 2", retry_after="1"),
    ],
)
def test_what_does_not_say_that_there_is_no_room_at_all_says_nothing_of_others(
    capacity: Capacity, answer: Answer
) -> None:
    with capacity.asked():
        capacity.note(answer)
    assert capacity.refusal is None


@pytest.mark.parametrize(
    ("method", "path", "needs"),
    [
        ("POST", "/v1/chat/completions", True),
        ("POST", "/v1/responses", True),
        ("GET", "/v1/responses/resp_1?stream=true", False),
        ("POST", "/v1/responses/resp_1/cancel?x=y", False),
    ],
)
def test_what_needs_capacity(method: str, path: str, needs: bool) -> None:
    assert needs_capacity(method, path) is needs


async def test_a_full_model_is_asked_once_and_again_when_a_request_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity_module, "_SECONDS", MUCH_LATER)
    free, held = asyncio.Event(), asyncio.Event()

    async def serve(asked: dict[str, Any]) -> Reply:
        if asked["body"].get("hold"):
            held.set()
            await free.wait()
            return Reply(200, ("{}",))
        return await reply(200 if free.is_set() else 503, "{}" if free.is_set() else FULL, retry_after="3")(asked)

    triton = FakeTriton(m=Model(serve=serve))
    async with serving(triton), frontend(triton.address) as client:
        asked = triton.models["m"].asked
        holding = asyncio.ensure_future(client.post({"model": "m", "hold": True}))
        await held.wait()
        answers = [await client.post({"model": "m"}) for _ in range(10)]
        assert {(one.status, one.headers["retry-after"], one.body.decode()) for one in answers} == {(503, "3", FULL)}
        assert len(asked) == 2
        free.set()
        assert (await holding).status == 200
        assert (await client.post({"model": "m"})).status == 200
