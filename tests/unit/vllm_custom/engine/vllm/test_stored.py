"""Responses that vLLM keeps are bounded, and what runs in the background is known to its request."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_custom.engine.background import BEGUN
from vllm_custom.engine.vllm.stored import bound_stored_responses


def serving(*, enable_store: bool = False) -> Any:
    stores: dict[str, Any] = {"response_store": {}, "msg_store": {}, "event_store": {}, "background_tasks": {}}
    return SimpleNamespace(enable_store=enable_store, **stores)


def test_the_oldest_response_is_dropped_from_all_stores() -> None:
    made = serving()
    bound_stored_responses(made, 2)
    for name in ("a", "b", "c"):
        made.msg_store[name] = [name]
        made.event_store[name] = name
        made.response_store[name] = name
    assert [list(store) for store in (made.response_store, made.msg_store, made.event_store)] == [["b", "c"]] * 3


def test_a_response_is_not_kept_without_its_messages() -> None:
    """Requests that failed leave messages: they must not push out those of a response that is still there."""
    made = serving()
    bound_stored_responses(made, 2)
    made.msg_store["a"] = made.response_store["a"] = "a"
    for name in ("failed", "failed too"):
        made.msg_store[name] = name
    assert made.response_store == {}


@pytest.mark.parametrize(("most", "switched_on", "kept"), [(0, False, 0), (0, True, 1000), (3, False, 3), (3, True, 3)])
def test_how_many_are_kept(most: int, switched_on: bool, kept: int) -> None:
    made = serving(enable_store=switched_on)
    bound_stored_responses(made, most)
    assert made.enable_store is (kept > 0)
    for number in range(1100):
        made.response_store[str(number)] = number
    assert len(made.response_store) == kept


def test_models_without_the_responses_api_have_no_store() -> None:
    bound_stored_responses(None, 5)


async def test_whoever_asks_is_told_of_background_tasks() -> None:
    made = serving()
    bound_stored_responses(made, 1)
    begun: list[asyncio.Task[Any]] = []
    BEGUN.set(begun)
    task = made.background_tasks["a"] = asyncio.ensure_future(asyncio.sleep(0))
    assert begun == [task]
    assert made.background_tasks == {"a": task}
    await task
