"""Responses that vLLM keeps are bounded, and what runs in the background is known to its request."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_custom.engine.background import BEGUN, Storage
from vllm_custom.engine.vllm.stored import bound_stored_responses, memory_of
from vllm_custom.errors import UnsupportedError


def serving(*, enable_store: bool = False) -> Any:
    stores: dict[str, Any] = {"response_store": {}, "msg_store": {}, "event_store": {}, "background_tasks": {}}

    async def unknown(response_id: str, starting_after: int | None = None) -> AsyncIterator[Any]:
        raise ValueError(f"unknown {response_id}")
        yield

    return SimpleNamespace(enable_store=enable_store, responses_background_stream_generator=unknown, **stores)


def test_the_oldest_response_is_dropped_from_all_stores() -> None:
    made = serving()
    bound_stored_responses(made, Storage(2))
    for name in ("a", "b", "c"):
        made.msg_store[name] = [name]
        made.event_store[name] = name
        made.response_store[name] = name
    assert [list(store) for store in (made.response_store, made.msg_store, made.event_store)] == [["b", "c"]] * 3


def test_a_response_is_not_kept_without_its_messages() -> None:
    """Requests that failed leave messages: they must not push out those of a response that is still there."""
    made = serving()
    bound_stored_responses(made, Storage(2))
    made.msg_store["a"] = made.response_store["a"] = "a"
    for name in ("failed", "failed too"):
        made.msg_store[name] = name
    assert made.response_store == {}
    made.response_store["a"] = "a, which is complete now"
    assert made.response_store == {}


def test_the_oldest_responses_go_where_their_memory_is_more_than_they_may_have() -> None:
    """A thousand responses of a long context each would have taken gigabytes of the model's process."""
    made = serving()
    bound_stored_responses(made, Storage(100, bytes=100_000))
    for number in range(10):
        made.msg_store[str(number)] = [{"role": "user", "content": "x" * 30_000}]
        made.response_store[str(number)] = SimpleNamespace(output=["short"])
    assert [list(store) for store in (made.msg_store, made.response_store)] == [["7", "8", "9"]] * 2
    made.msg_store["larger than all"] = ["x" * 200_000]
    assert (made.msg_store, made.response_store) == ({}, {})
    made.msg_store["again"] = made.response_store["again"] = ["x"]
    assert list(made.response_store) == ["again"], "what was dropped does not count any more"


def test_events_of_background_streams_count_as_well() -> None:
    made = serving()
    bound_stored_responses(made, Storage(100, bytes=100_000))
    made.msg_store["first"] = made.msg_store["second"] = []
    events: deque[str] = deque()
    made.event_store["first"] = (events, asyncio.Event())
    events.extend("e" for _ in range(100))
    made.event_store["second"] = (deque(), asyncio.Event())
    assert list(made.event_store) == ["second"]


def test_log_probabilities_are_counted_and_not_looked_at() -> None:
    entry = SimpleNamespace(token="a", top_logprobs=[None] * 20)
    part = SimpleNamespace(text="", logprobs=[entry] * 4000)
    assert 4000 * 21 * 100 < memory_of(SimpleNamespace(output=[SimpleNamespace(content=[part])])) < 4000 * 21 * 1000
    assert memory_of([7] * 1000) > 8000
    assert memory_of([{"a" * 5000: None}]) > 5000


@pytest.mark.parametrize(("most", "switched_on", "kept"), [(0, False, 0), (0, True, 1000), (3, False, 3), (3, True, 3)])
def test_how_many_are_kept(most: int, switched_on: bool, kept: int) -> None:
    made = serving(enable_store=switched_on)
    bound_stored_responses(made, Storage(most))
    assert made.enable_store is (kept > 0)
    for number in range(1100):
        made.msg_store[str(number)] = made.response_store[str(number)] = number
    assert len(made.response_store) == kept


@pytest.mark.parametrize("without", [None, SimpleNamespace(enable_store=True)])
def test_models_and_versions_without_a_store_refuse_one(without: Any) -> None:
    bound_stored_responses(without, Storage(0))
    with pytest.raises(UnsupportedError, match="OPENAI_STORED_RESPONSES"):
        bound_stored_responses(without, Storage(5))


async def test_whoever_asks_is_told_of_background_tasks() -> None:
    made = serving()
    bound_stored_responses(made, Storage(1))
    begun: list[asyncio.Task[Any]] = []
    BEGUN.set(begun)
    task = made.background_tasks["a"] = asyncio.ensure_future(asyncio.sleep(0))
    assert begun == [task]
    assert made.background_tasks == {"a": task}
    await task


async def test_events_end_with_their_task() -> None:
    """Of a response that was cancelled, vLLM waits for an event that never comes, and the model is never unloaded."""
    made = serving()
    bound_stored_responses(made, Storage(1))
    events, more, cancelled = deque(["a", "b"]), asyncio.Event(), asyncio.Event()
    made.event_store["r"] = (events, more)

    async def work() -> None:
        try:
            await cancelled.wait()
            events.append("c")
        finally:
            more.set()

    task = made.background_tasks["r"] = asyncio.ensure_future(work())
    reader = made.responses_background_stream_generator
    readers = [asyncio.ensure_future(_all(reader("r", after))) for after in (None, 0, 1, 7, -5)]
    await asyncio.sleep(0.01)
    cancelled.set()
    assert await asyncio.wait_for(asyncio.gather(*readers), 5) == [
        ["a", "b", "c"],
        ["b", "c"],
        ["c"],
        [],
        ["a", "b", "c"],
    ]
    await task
    del made.background_tasks["r"]
    assert await _all(reader("r")) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="unknown other"):
        await _all(reader("other"))


async def test_events_of_a_cancelled_task_end() -> None:
    made = serving()
    bound_stored_responses(made, Storage(1))
    more = asyncio.Event()
    made.event_store["r"] = (deque(["a"]), more)

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            more.set()

    task = made.background_tasks["r"] = asyncio.ensure_future(work())
    reading = asyncio.ensure_future(_all(made.responses_background_stream_generator("r")))
    await asyncio.sleep(0.01)
    task.cancel()
    assert await asyncio.wait_for(reading, 5) == ["a"]


@pytest.mark.parametrize(("before", "after"), [("queued", "failed"), ("cancelled", "cancelled")])
async def test_a_response_whose_task_has_failed_says_so(before: str, after: str) -> None:
    """Where the engine had died, vLLM said forever that it was queued."""
    made = serving()
    bound_stored_responses(made, Storage(1))
    made.msg_store["r"] = []
    response = made.response_store["r"] = SimpleNamespace(status=before)

    async def work() -> None:
        raise OSError("the engine has died")

    made.background_tasks["r"] = asyncio.ensure_future(work())
    await asyncio.sleep(0.01)
    assert response.status == after


async def _all(events: AsyncIterator[Any]) -> list[Any]:
    return [event async for event in events]
