"""A model that is full is not asked again and again: when the frontend refuses for it, and when it does not."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from tests.support.triton_servers import FakeTriton, Model, Reply, frontend, reply, serving
from vllm_custom_frontend import room as room_module
from vllm_custom_frontend.answer import Answer
from vllm_custom_frontend.room import Room
from vllm_custom_frontend.routes import needs_room

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
def room(clock: Clock) -> Room:
    return Room(clock)


def test_it_refuses_while_as_many_requests_are_there(room: Room, clock: Clock) -> None:
    with contextlib.ExitStack() as others:
        first = others.enter_context(contextlib.ExitStack())
        first.enter_context(room.asked())
        others.enter_context(room.asked())
        assert room.refusal is None, "nobody has said that there is no room"
        with room.asked():
            room.note(refusal())
        assert room.refusal == refusal()
        first.close()
        assert room.refusal is None, "one has ended"
        others.enter_context(room.asked())
        assert room.refusal == refusal()
        clock.now = MUCH_LATER
        assert room.refusal is None, "others may have left room meanwhile"


def test_places_that_others_hold_are_asked_for_again_soon(room: Room, clock: Clock) -> None:
    with room.asked():
        room.note(refusal())
    assert room.refusal is not None
    clock.now = MUCH_LATER
    assert room.refusal is None


@pytest.mark.parametrize(
    "answer",
    [
        refusal(NOT_FOR_ALL),
        refusal("the engine is being started again"),
        refusal(status=429),
        refusal("MAX_INFLIGHT_REQUESTS is 2", retry_after="1"),
    ],
)
def test_what_does_not_say_that_there_is_no_room_at_all_says_nothing_of_others(room: Room, answer: Answer) -> None:
    with room.asked():
        room.note(answer)
    assert room.refusal is None


@pytest.mark.parametrize(
    ("method", "path", "needs"),
    [
        ("POST", "/v1/chat/completions", True),
        ("POST", "/v1/responses", True),
        ("GET", "/v1/responses/resp_1?stream=true", False),
        ("POST", "/v1/responses/resp_1/cancel?x=y", False),
    ],
)
def test_what_needs_room(method: str, path: str, needs: bool) -> None:
    assert needs_room(method, path) is needs


async def test_a_full_model_is_asked_once_and_again_when_a_request_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "_SECONDS", MUCH_LATER)
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
